//! The values of functions.

use num_bigint::BigInt;
use num_rational::BigRational;
use num_traits::{Signed, ToPrimitive, Zero};

use super::{DIVISION_STEPS, Evaluator, Origin, Value, digest::Digest, magnitude};
use crate::grading::{
    budget::MAX_EXACT_BITS,
    exact,
    expression::{Expression, Function},
    numeric::{complex::Complex, elementary::Elementary, part::Number, real::Real},
};

impl Evaluator<'_> {
    pub(super) fn opaque(&mut self, name: &str, arguments: &[Expression]) -> Option<Value> {
        let numbers: Vec<Number> = arguments.iter().map(|argument| self.number(argument)).collect::<Option<_>>()?;
        self.at_random(name, &numbers)
    }

    /// What something unknown is at these numbers.
    fn at_random(&self, name: &str, numbers: &[Number]) -> Option<Value> {
        let mut digest = Digest::new((self.point << 32) + 1);
        digest.bytes(name.as_bytes());
        for number in numbers {
            digest.bytes(number.to_string().as_bytes());
        }
        Value::computed(self.budget.at_random(digest), Origin { open: true, ..Origin::default() })
    }

    /// The factorial: of a number that is open, a function of which no more is known than `(z + 1)! = (z + 1) z!`. It is
    /// at random where the real part is between 0 and 1, and that many steps away elsewhere.
    fn factorial(&mut self, argument: Value) -> Option<Value> {
        if let Some(known) = self.canonical(&argument)?.rational() {
            return self.of_one(Function::Factorial, &Value::rational(known.clone()))?;
        }
        if !argument.origin.open {
            return None;
        }
        const MAX_STEPS: i64 = 20;
        let steps =
            argument.approximated().real_part().whole(false)?.to_i64().filter(|steps| steps.abs() <= MAX_STEPS)?;
        let integer = |n: i64| Value::rational(BigRational::from_integer(n.into()));
        let base = self.sum(argument, integer(-steps))?;
        let mut value = self.at_random("factorial", &[self.canonical(&base)?])?;
        for step in steps.min(0) + 1..=steps.max(0) {
            let factor = self.sum(base.clone(), integer(step))?;
            value = if steps > 0 { self.product(value, factor)? } else { self.quotient(value, factor)? };
        }
        Some(value)
    }

    /// `n! / (k! (n - k)!)`
    fn binomial(&mut self, n: Value, k: Value) -> Option<Value> {
        let minus_one = Value::rational(BigRational::from_integer((-1).into()));
        let negated = self.product(minus_one, k.clone())?;
        let rest = self.sum(n.clone(), negated)?;
        let (above, below, rest) = (self.factorial(n)?, self.factorial(k)?, self.factorial(rest)?);
        let below = self.product(below, rest)?;
        self.quotient(above, below)
    }

    pub(super) fn call(&mut self, function: Function, arguments: &[Expression]) -> Option<Value> {
        use Function::{Binomial, Factorial, Gcd, Lcm, Ln, Log, Max, Min};
        match (function, arguments) {
            (Min | Max | Gcd | Lcm | Binomial, _) => self.of_integers(function, arguments),
            (Ln, [x]) => {
                let x = self.value(x)?;
                self.ln(x)
            }
            (Log, [x, base]) => {
                let (x, base) = (self.value(x)?, self.value(base)?);
                let (above, below) = (self.ln(x)?, self.ln(base)?);
                self.quotient(above, below)
            }
            (Factorial, [x]) => {
                let value = self.value(x)?;
                self.factorial(value)
            }
            (_, [x]) => {
                let value = self.value(x)?;
                match self.of_one(function, &value)? {
                    Some(result) => Some(result),
                    // Nothing is known of the function but that it is one.
                    None if value.origin.open => self.opaque(&format!("{function:?}"), arguments),
                    None => None,
                }
            }
            _ => None,
        }
    }

    /// A function of one argument. `Some(None)` if it is only defined for real numbers, and this is none.
    fn of_one(&mut self, function: Function, argument: &Value) -> Option<Option<Value>> {
        use Function::{Abs, Arccos, Arcsin, Arctan, Ceiling, Factorial, Floor};
        if let Some(exact) = argument.as_rational() {
            let result = match function {
                Abs => Some(exact.abs()),
                Floor => Some(exact.floor()),
                Ceiling => Some(exact.ceil()),
                Factorial => {
                    let n = exact.is_integer().then(|| exact.to_u64()).flatten().filter(|n| *n <= 600)?;
                    self.budget.take(n as u32 / 4)?;
                    Some(BigRational::from_integer(exact::factorial(n)))
                }
                _ => None,
            };
            if let Some(result) = result {
                return (result.numer().bits() <= MAX_EXACT_BITS).then(|| Some(Value::rational(result)));
            }
        }
        let x = argument.approximated();
        self.budget.take(4 * DIVISION_STEPS)?;
        let value = match function {
            Abs => Complex::real(x.modulus()?),
            Floor | Ceiling if !argument.origin.open => {
                return Some(Some(Value::rational(x.whole(function == Ceiling)?)));
            }
            Arctan | Arcsin | Arccos if !argument.origin.open => self.inverse(function, &x)?,
            Factorial => return None,
            Floor | Ceiling | Arctan | Arcsin | Arccos => return Some(None),
            _ => self.trigonometric(function, &x)?,
        };
        let hyperbolic = matches!(function, Function::Sinh | Function::Cosh | Function::Tanh);
        let origin = argument.origin.applied().higher(1 + if hyperbolic { magnitude(&x) } else { 0 });
        Value::computed(value, origin).map(Some)
    }

    fn trigonometric(&self, function: Function, x: &Complex) -> Option<Complex> {
        use Function::{Cos, Cosh, Cot, Csc, Sec, Sin, Sinh, Tan, Tanh};
        let hyperbolic = matches!(function, Sinh | Cosh | Tanh);
        let x = if hyperbolic { x.times_i() } else { x.clone() };
        let cos = || self.budget.value_of(Elementary::Cos, &x);
        let sin = || self.budget.value_of(Elementary::Sin, &x);
        match function {
            Sin => sin(),
            Cos | Cosh => cos(),
            Tan => sin()?.divided_by(&cos()?),
            Cot => cos()?.divided_by(&sin()?),
            Sec => Complex::one().divided_by(&cos()?),
            Csc => Complex::one().divided_by(&sin()?),
            // sinh x = -i sin(ix)
            Sinh => Some(sin()?.times_i().negated()),
            Tanh => sin()?.times_i().negated().divided_by(&cos()?),
            _ => None,
        }
    }

    /// Of real numbers, and where the value is real.
    fn inverse(&self, function: Function, x: &Complex) -> Option<Complex> {
        let arctan = |x: &Complex| self.budget.value_of(Elementary::Arctan, x);
        if function == Function::Arctan {
            return arctan(x);
        }
        let square = Complex::one().minus(&x.times(x));
        if !x.is_real() || square.is_negative_real() {
            return None;
        }
        let half_turn = Complex::real(Real::pi().scaled(1, 2));
        let arcsin = if square.may_be_zero() {
            if x.is_negative_real() { half_turn.negated() } else { half_turn.clone() }
        } else {
            arctan(&x.divided_by(&self.budget.value_of(Elementary::Root(2), &square)?)?)?
        };
        Some(if function == Function::Arcsin { arcsin } else { half_turn.minus(&arcsin) })
    }

    fn of_integers(&mut self, function: Function, arguments: &[Expression]) -> Option<Value> {
        let mut numbers = vec![];
        for argument in arguments {
            let value = self.value(argument)?;
            match value.as_rational() {
                Some(rational) => numbers.push(rational.clone()),
                None if value.origin.open
                    && let (Function::Binomial, [n, k]) = (function, arguments) =>
                {
                    let (n, k) = (self.value(n)?, self.value(k)?);
                    return self.binomial(n, k);
                }
                None if value.origin.open => return self.opaque(&format!("{function:?}"), arguments),
                None => return None,
            }
        }
        let integers = || numbers.iter().map(|n| n.is_integer().then(|| n.numer().abs())).collect::<Option<Vec<_>>>();
        Some(Value::rational(match function {
            Function::Min => numbers.into_iter().min()?,
            Function::Max => numbers.into_iter().max()?,
            Function::Gcd | Function::Lcm => {
                let integers = integers()?;
                if integers.iter().any(Zero::is_zero) || integers.iter().map(BigInt::bits).sum::<u64>() > MAX_EXACT_BITS
                {
                    return None;
                }
                self.budget.take(arguments.len() as u32 * 40)?;
                let join = if function == Function::Gcd { exact::gcd } else { exact::lcm };
                BigRational::from_integer(integers.into_iter().reduce(|a, b| join(&a, &b))?)
            }
            _ => {
                let [n, k] = numbers.as_slice() else { return None };
                self.budget.take(100)?;
                BigRational::from_integer(exact::binomial(n, k)?)
            }
        }))
    }
}
