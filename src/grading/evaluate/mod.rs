//! The value of an expression: exact over the rationals and `i`, else to several hundred digits.
//!
//! A variable stands for one fixed complex number that looks random, another one at each *point*. Two expressions with
//! variables are the same function if they agree there: what differs somewhere differs almost everywhere, and no short
//! expression happens to vanish at a random number. The points are complex, because on them `|x|` is neither `x` nor
//! `-x`. The root of an expression with variables has no sign of its own: `sqrt(x^2)` is `x` here and `-x` there. So the
//! branch of a root or a logarithm is drawn from a *seed*, and depends on the direction of its argument alone: then
//! `sqrt(4x) = 2 sqrt(x)` and `sqrt(x)^2 = x` hold for every seed, and `sqrt(x^2) = x` fails for some.

mod digest;
mod functions;

use std::borrow::Cow;

use num_rational::BigRational;
use num_traits::{One, ToPrimitive, Zero};

use super::{
    budget::Budget,
    exact::{self, Gaussian},
    expression::Expression,
    numeric::{
        MAX_HEIGHT,
        complex::{Complex, SizeClass},
        elementary::Elementary,
        part::Number,
        real::Real,
    },
};

pub(super) use digest::{Digest, fingerprint};

/// How many seeds are tried where a value depends on branches: two functions that differ in a sign agree on all of
/// them once in 2^19.
const SEEDS: u64 = 20;
/// Steps of a division, and of finding the canonical form of a value.
const DIVISION_STEPS: u32 = 8;
const FORM_STEPS: u32 = 8;

/// The canonical form of a scalar. If it depends on the branches of roots of variables: one number for each seed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Scalar {
    One(Number),
    Branches(Vec<Number>),
}

/// What may be asked of an expression.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    Value,
    /// Only positive factors count if `signed`.
    UpToFactor {
        signed: bool,
    },
}

/// The scalar that an expression is; `None` if it has no value, or one that cannot be told within the bounds.
pub(super) fn scalar(expression: &Expression, budget: &Budget) -> Option<Scalar> {
    let compute = || {
        over_seeds(|seed, branched| {
            let mut evaluator = Evaluator { point: 0, seed, branched: false, budget };
            let number = evaluator.number(expression)?;
            *branched |= evaluator.branched;
            Some(vec![number])
        })
    };
    let mut values = budget.remember(Asked::Value, expression, compute)?;
    Some(if values.len() == 1 { Scalar::One(values.remove(0)) } else { Scalar::Branches(values) })
}

/// The canonical form of an expression up to a factor: its values at two points, divided by the one at the first, or by
/// its modulus if only positive factors count, `signed`. What has another ratio to it at each point differs in the second.
/// `None` for a constant: what it is up to a factor says nothing.
pub(super) fn up_to_factor(expression: &Expression, signed: bool, budget: &Budget) -> Option<Vec<Number>> {
    let compute = || {
        over_seeds(|seed, branched| {
            let mut values = vec![];
            for point in 0..2 {
                let mut evaluator = Evaluator { point, seed, branched: false, budget };
                let value = evaluator.value(expression)?;
                *branched |= evaluator.branched;
                if value.origin.height > MAX_HEIGHT {
                    return None;
                }
                values.push(value.approximated().into_owned());
            }
            let unit = if signed { Complex::real(values[0].modulus()?) } else { values[0].clone() };
            // What is divided by itself is one.
            let ratios = if signed { &values[..] } else { &values[1..] };
            budget.take(ratios.len() as u32 * (DIVISION_STEPS + FORM_STEPS))?;
            let numbers: Vec<Number> =
                ratios.iter().map(|value| Number::of(&value.divided_by(&unit)?)).collect::<Option<_>>()?;
            let first = if signed { numbers[0].clone() } else { Number::exact(BigRational::one()) };
            (numbers.last() != Some(&first)).then_some(numbers)
        })
    };
    budget.remember(Asked::UpToFactor { signed }, expression, compute)
}

/// The numbers of the first seed, if they depend on none, and else those of all.
fn over_seeds(mut numbers: impl FnMut(u64, &mut bool) -> Option<Vec<Number>>) -> Option<Vec<Number>> {
    let mut branched = false;
    let first = numbers(0, &mut branched)?;
    if !branched {
        return Some(first);
    }
    let mut all = first.clone();
    for seed in 1..SEEDS {
        all.extend(numbers(seed, &mut branched)?);
    }
    let constant = all.chunks(first.len()).all(|chunk| chunk == first);
    Some(if constant { first } else { all })
}

/// A value and what is known of how it came about.
#[derive(Clone)]
struct Value {
    kind: Kind,
    origin: Origin,
}

/// What a value was made from.
#[derive(Clone, Copy, Default)]
struct Origin {
    /// Bits of the rationals in it.
    bits: u64,
    /// As [`crate::grading::numeric`] defines it: the same, but what functions are applied to counts more.
    height: u64,
    /// Whether it depends on variables.
    open: bool,
}

impl Origin {
    fn with(self, other: Self) -> Self {
        Self { bits: self.bits + other.bits, height: self.height + other.height, open: self.open || other.open }
    }

    /// Of a function's value.
    fn applied(self) -> Self {
        self.higher(2 * self.bits)
    }

    fn higher(self, by: u64) -> Self {
        Self { height: self.height + by, ..self }
    }

    fn power(self, n: u64) -> Option<Self> {
        let length = u64::from(64 - n.leading_zeros());
        let times = |bits: u64| bits.checked_mul(n)?.checked_add(length);
        Some(Self { bits: times(self.bits)?, height: times(self.height)?, open: self.open })
    }
}

#[derive(Clone)]
enum Kind {
    Exact(Gaussian),
    Computed(Complex),
}

impl Value {
    fn exact(value: Gaussian) -> Self {
        let bits = value.bits();
        Self { kind: Kind::Exact(value), origin: Origin { bits, height: bits, open: false } }
    }

    fn rational(value: BigRational) -> Self {
        Self::exact(Gaussian::real(value))
    }

    /// `None` out of range, or if it is so small that it may be zero or not.
    fn computed(value: Complex, origin: Origin) -> Option<Self> {
        if !value.is_in_range() || origin.height > 2 * MAX_HEIGHT {
            return None;
        }
        match value.size_class() {
            SizeClass::Zero if origin.height <= MAX_HEIGHT => {
                Some(Self { kind: Kind::Exact(Gaussian::real(BigRational::zero())), origin })
            }
            SizeClass::Ordinary => Some(Self { kind: Kind::Computed(value), origin }),
            _ => None,
        }
    }

    /// A value that is not zero, whatever its size.
    fn computed_not_zero(value: Complex, origin: Origin) -> Option<Self> {
        if value.size_class() == SizeClass::Ordinary { Self::computed(value, origin) } else { None }
    }

    fn approximated(&self) -> Cow<'_, Complex> {
        match &self.kind {
            Kind::Exact(value) => Cow::Owned(Complex::new(Real::rational(&value.re), Real::rational(&value.im))),
            Kind::Computed(value) => Cow::Borrowed(value),
        }
    }

    /// Where a root or a logarithm of this comes from. What is near a short rational without being one has twice its bits,
    /// so that the digits of a rational count enough; only of other numbers do they count more.
    fn root_origin(&self) -> Origin {
        if matches!(self.kind, Kind::Exact(_)) { self.origin } else { self.origin.applied() }
    }

    fn as_rational(&self) -> Option<&BigRational> {
        match &self.kind {
            Kind::Exact(value) if value.im.is_zero() => Some(&value.re),
            _ => None,
        }
    }

    fn is_exact_zero(&self) -> bool {
        self.as_rational().is_some_and(Zero::is_zero)
    }
}

/// What is far from one in size needs as many bits as a rational of that size: those of `e^x`.
fn magnitude(x: &Complex) -> u64 {
    (x.size() * 3.0).min(1e6) as u64
}

struct Evaluator<'a> {
    point: u64,
    seed: u64,
    /// Whether a branch was drawn.
    branched: bool,
    budget: &'a Budget,
}

impl Evaluator<'_> {
    fn number(&mut self, expression: &Expression) -> Option<Number> {
        let value = self.value(expression)?;
        self.canonical(&value)
    }

    fn canonical(&self, value: &Value) -> Option<Number> {
        match &value.kind {
            Kind::Exact(value) => Some(value.clone().number()),
            Kind::Computed(computed) => {
                self.budget.take(FORM_STEPS)?;
                if value.origin.height <= MAX_HEIGHT { Number::of(computed) } else { None }
            }
        }
    }

    fn value(&mut self, expression: &Expression) -> Option<Value> {
        self.budget.take(1)?;
        match expression {
            Expression::Number(value) => Some(Value::rational(value.clone())),
            Expression::I => Some(Value::exact(Gaussian::i())),
            Expression::Pi => Value::computed(Complex::pi(), Origin { bits: 1, height: 1, open: false }),
            Expression::E => self.exp(&Value::rational(BigRational::one())),
            Expression::Variable(name) => self.variable(name),
            Expression::Sum(terms) => self.fold(terms, BigRational::zero(), Self::sum),
            Expression::Product(factors) => self.fold(factors, BigRational::one(), Self::product),
            Expression::Negative(inner) => {
                let minus_one = Value::rational(-BigRational::one());
                let inner = self.value(inner)?;
                self.product(minus_one, inner)
            }
            Expression::Quotient(above, below) => {
                let (above, below) = (self.value(above)?, self.value(below)?);
                self.quotient(above, below)
            }
            Expression::Power(base, exponent) => {
                let exponent = self.value(exponent)?;
                if **base == Expression::E && exponent.as_rational().is_none_or(|n| !n.is_integer()) {
                    return self.exp(&exponent);
                }
                let base = self.value(base)?;
                self.power(base, exponent)
            }
            Expression::Root(inner, degree) => {
                let inner = self.value(inner)?;
                self.root(inner, *degree)
            }
            Expression::Call(function, arguments) => self.call(*function, arguments),
            Expression::Opaque(name, arguments) => self.opaque(name, arguments),
            Expression::Matrix(_) => None,
        }
    }

    fn fold(
        &mut self,
        parts: &[Expression],
        unit: BigRational,
        join: fn(&mut Self, Value, Value) -> Option<Value>,
    ) -> Option<Value> {
        let mut total = Value::rational(unit);
        for part in parts {
            let part = self.value(part)?;
            total = join(self, total, part)?;
        }
        Some(total)
    }

    fn sum(&mut self, a: Value, b: Value) -> Option<Value> {
        if let (Kind::Exact(a), Kind::Exact(b)) = (&a.kind, &b.kind) {
            self.budget.take(a.cost(b))?;
            return a.plus(b).map(Value::exact);
        }
        self.budget.take(1)?;
        Value::computed(a.approximated().plus(&b.approximated()), a.origin.with(b.origin))
    }

    fn product(&mut self, a: Value, b: Value) -> Option<Value> {
        if let (Kind::Exact(a), Kind::Exact(b)) = (&a.kind, &b.kind) {
            self.budget.take(a.cost(b))?;
            return a.times(b).map(Value::exact);
        }
        if a.is_exact_zero() || b.is_exact_zero() {
            return Some(Value::rational(BigRational::zero()));
        }
        self.budget.take(4)?;
        Value::computed_not_zero(a.approximated().times(&b.approximated()), a.origin.with(b.origin))
    }

    fn quotient(&mut self, a: Value, b: Value) -> Option<Value> {
        if let (Kind::Exact(a), Kind::Exact(b)) = (&a.kind, &b.kind) {
            self.budget.take(a.cost(b))?;
            return a.over(b).map(Value::exact);
        }
        if a.is_exact_zero() && !b.is_exact_zero() {
            return Some(a);
        }
        self.budget.take(DIVISION_STEPS)?;
        Value::computed_not_zero(a.approximated().divided_by(&b.approximated())?, a.origin.with(b.origin))
    }

    fn exp(&mut self, exponent: &Value) -> Option<Value> {
        if exponent.is_exact_zero() {
            return Some(Value::rational(BigRational::one()));
        }
        let x = exponent.approximated();
        let origin = exponent.origin.applied().higher(magnitude(&x));
        Value::computed_not_zero(self.budget.value_of(Elementary::Exp, &x)?, origin)
    }

    fn power(&mut self, base: Value, exponent: Value) -> Option<Value> {
        let Some(rational) = exponent.as_rational() else {
            if base.is_exact_zero() {
                return None;
            }
            let logarithm = self.ln(base)?;
            let product = self.product(logarithm, exponent)?;
            return self.exp(&product);
        };
        let degree = rational.denom().to_u32().filter(|degree| *degree <= 1000)?;
        let times = rational.numer().to_i64()?;
        let base = if degree == 1 { base } else { self.root(base, degree)? };
        if let Kind::Exact(value) = &base.kind {
            self.budget.take(value.power_cost(times)?)?;
            return value.power(times).map(Value::exact);
        }
        let n = times.unsigned_abs();
        let origin = base.origin.power(n)?;
        self.budget.take(8 * (64 - n.leading_zeros()))?;
        let power = Value::computed_not_zero(base.approximated().power(n)?, origin)?;
        if times < 0 { self.quotient(Value::rational(BigRational::one()), power) } else { Some(power) }
    }

    fn root(&mut self, radicand: Value, degree: u32) -> Option<Value> {
        if let Kind::Exact(value) = &radicand.kind
            && let Some(root) = exact::root(value, degree)
        {
            return Some(Value::exact(root));
        }
        let value = radicand.approximated();
        let mut root = self.budget.value_of(Elementary::Root(degree), &value)?;
        if radicand.origin.open && !value.is_real() {
            // The principal root, turned by a root of unity that is drawn.
            let turns = self.branch(&value, i64::from(degree))?;
            let turn = if degree == 2 && turns != 0 {
                Complex::one().negated()
            } else {
                self.budget.value_of(Elementary::Turn(i64::from(degree)), &Complex::integer(turns))?
            };
            root = root.times(&turn);
        }
        Value::computed_not_zero(root, radicand.root_origin())
    }

    fn ln(&mut self, argument: Value) -> Option<Value> {
        if argument.as_rational().is_some_and(One::is_one) {
            return Some(Value::rational(BigRational::zero()));
        }
        let value = argument.approximated();
        let mut logarithm = self.budget.value_of(Elementary::Ln, &value)?;
        if argument.origin.open && !value.is_real() {
            let turns = self.branch(&value, 7)?;
            let turn = Complex::new(Real::zero(), Real::pi().scaled(2 * turns, 1));
            logarithm = logarithm.plus(&turn);
        }
        Value::computed(logarithm, argument.root_origin())
    }

    /// Which of so many branches to take: drawn from the seed and the direction of the argument, and for conjugate
    /// directions the opposite one.
    fn branch(&mut self, value: &Complex, branches: i64) -> Option<i64> {
        self.branched = true;
        let (direction, below) = self.budget.value_of(Elementary::Direction, value)?.direction_bits();
        let mut digest = Digest::new(self.seed + 1);
        digest.bytes(&direction);
        let drawn = (digest.next() % branches.unsigned_abs()) as i64;
        Some(if below { -drawn } else { drawn })
    }

    fn variable(&mut self, name: &str) -> Option<Value> {
        let mut digest = Digest::new(self.point << 32);
        digest.bytes(name.as_bytes());
        Value::computed(self.budget.at_random(digest), Origin { open: true, ..Origin::default() })
    }
}
