//! When an answer is a rounding of another one.

use num_bigint::BigInt;
use num_rational::BigRational;
use num_traits::{One, Signed, ToPrimitive, Zero};

use super::{
    budget::Budget,
    evaluate::Scalar,
    form::Form,
    key::{Shape, real},
    numeric::part::{KEPT_BITS, Part},
    region::Limit,
};

/// A rounded decimal with fewer significant digits, or fewer places behind its point, stands for nothing but itself: 3.14
/// is not pi.
const ROUNDED_DIGITS: u32 = 4;

/// Whether the decimals in an answer, which is given as a form and as a shape, are correct roundings of the numbers in another
/// shape, and all else is equal. `None` if that takes more steps than are left.
pub(super) fn rounds(form: &Form, own: &Shape, other: &Shape, budget: &Budget) -> Option<bool> {
    let all = |forms: &[Form], own: &[Shape], other: &[Shape]| {
        if forms.len() != own.len() || own.len() != other.len() {
            return Some(false);
        }
        every(forms.iter().zip(own.iter().zip(other)), |(form, (own, other))| rounds(form, own, other, budget))
    };
    budget.take(1)?;
    if let Some(decimal) = Decimal::of(form) {
        return number(own, other).map_or(Some(false), |part| decimal.rounds(part, budget));
    }
    match (form, own, other) {
        (Form::Tuple(forms), Shape::Tuple(own), Shape::Tuple(other))
        | (Form::List(forms), Shape::List(own), Shape::List(other)) => all(forms, own, other),
        (Form::Set(forms) | Form::Values(forms) | Form::Several(forms), Shape::Set(own), Shape::Set(other)) => {
            members_round(forms, own, other, budget)
        }
        (Form::Matrix(forms), Shape::Matrix(own), Shape::Matrix(other)) if own.len() == other.len() => {
            every(forms.iter().zip(own.iter().zip(other)), |(forms, (own, other))| all(forms, own, other))
        }
        (Form::Assignments(forms, _), Shape::Assignments(own), Shape::Assignments(other)) => {
            let mut forms: Vec<&(String, Form)> = forms.iter().collect();
            forms.sort_by_key(|(name, _)| name);
            let is_alike = own.iter().map(|(name, _)| name).eq(other.iter().map(|(name, _)| name));
            let values = forms.into_iter().zip(own.iter().zip(other));
            Some(is_alike && every(values, |((_, form), ((_, own), (_, other)))| rounds(form, own, other, budget))?)
        }
        (Form::Span { low, high, .. }, Shape::Tuple(own), Shape::Tuple(other)) => match (&own[..], &other[..]) {
            ([a, b], [c, d]) => Some(rounds(low, a, c, budget)? && rounds(high, b, d, budget)?),
            _ => Some(false),
        },
        (Form::Span { low, high, .. }, Shape::Region(own), Shape::Region(other)) => {
            let (own, other): (Vec<_>, Vec<_>) = (own.limits().collect(), other.limits().collect());
            if own.len() != 2 || other.len() != 2 {
                return Some(false);
            }
            let ends = [low, high].into_iter().zip(own.into_iter().zip(other));
            every(ends, |(form, ((own, own_closed), (other, closed)))| match (own, other) {
                _ if own_closed != closed => Some(false),
                (Limit::At(own), Limit::At(other)) => rounds(form, &real(own), &real(other), budget),
                _ => Some(own == other),
            })
        }
        (Form::Named(_, inner), Shape::Named(name, own), Shape::Named(other_name, other)) => {
            Some(name == other_name && rounds(inner, own, other, budget)?)
        }
        _ => Some(own == other),
    }
}

/// Whether something is so of every item; asks no more behind the first of which it is not.
fn every<T>(items: impl IntoIterator<Item = T>, is_so: impl Fn(T) -> Option<bool>) -> Option<bool> {
    for item in items {
        if !is_so(item)? {
            return Some(false);
        }
    }
    Some(true)
}

/// A number that is written as a decimal.
struct Decimal<'a> {
    value: &'a BigRational,
    places: u32,
    /// What one of its unit is in base units.
    factor: BigRational,
}

impl<'a> Decimal<'a> {
    fn of(form: &'a Form) -> Option<Self> {
        match form {
            Form::Decimal(value, places) => Some(Self { value, places: *places, factor: BigRational::one() }),
            Form::Percent(figure) => Some(Self { factor: BigRational::new(1.into(), 100.into()), ..Self::of(figure)? }),
            Form::Quantity { figure, measure } => Some(Self { factor: measure.factor.clone(), ..Self::of(figure)? }),
            _ => None,
        }
    }

    /// Whether it is a number of base units, or its rounding; halves may go either way.
    fn rounds(&self, part: &Part, budget: &Budget) -> Option<bool> {
        // Products of numbers of so many bits.
        let bits = |value: &BigRational| value.numer().bits() + value.denom().bits();
        let (own, other) = (bits(self.value), if let Part::Exact(exact) = part { bits(exact) } else { 2 * KEPT_BITS });
        budget.take(u32::try_from((own + other) * own / 4_000_000).ok()?)?;
        let halves = if self.shows_enough() { self.factor.numer().clone() } else { BigInt::zero() };
        let distance = BigRational::new_raw(halves, self.factor.denom() * BigInt::from(10).pow(self.places) * 2);
        Some(part.is_within(&distance, &self.size()))
    }

    fn shows_enough(&self) -> bool {
        let scale = |digits: u32| BigInt::from(10).pow(digits);
        self.places >= ROUNDED_DIGITS
            && self.value.numer().abs() * scale(self.places) >= self.value.denom() * scale(ROUNDED_DIGITS - 1)
    }

    /// How many base units it is; not reduced, which would take long.
    fn size(&self) -> BigRational {
        let (value, factor) = (self.value, &self.factor);
        BigRational::new_raw(value.numer() * factor.numer(), value.denom() * factor.denom())
    }
}

/// The number that another shape is if it is one of the same units.
fn number<'a>(own: &Shape, other: &'a Shape) -> Option<&'a Part> {
    match (own, other) {
        (Shape::Number(_), Shape::Number(Scalar::One(number))) => number.real(),
        (Shape::Quantity(own, unit), Shape::Quantity(other, other_unit)) if unit == other_unit => number(own, other),
        _ => None,
    }
}

/// Whether the decimals in a set round what is in another one in their place, each one member and no two the same.
fn members_round(forms: &[Form], own: &[Shape], other: &[Shape], budget: &Budget) -> Option<bool> {
    // Four members are looked up, and compared, in a step or two.
    budget.take(own.len() as u32 / 4)?;
    let has_repetitions = |shapes: &[Shape]| shapes.windows(2).any(|pair| pair[0] == pair[1]);
    if own.len() != other.len() || has_repetitions(own) || has_repetitions(other) {
        return Some(own == other);
    }
    let missing = |shapes: &'_ [Shape], from: &[Shape]| -> Vec<Shape> {
        shapes.iter().filter(|shape| from.binary_search(shape).is_err()).cloned().collect()
    };
    let (own, other) = (missing(own, other), missing(other, own));
    let is_of = |form: &Form, shape: &Shape| {
        let pair = Decimal::of(form).zip(number(shape, shape));
        pair.is_some_and(|(decimal, part)| part.is_within(&BigRational::zero(), &decimal.size()))
    };
    let mut rounded = vec![];
    for shape in &own {
        let Some(form) = forms.iter().find(|form| is_of(form, shape)) else { return Some(false) };
        for (at, candidate) in other.iter().enumerate() {
            if rounds(form, shape, candidate, budget)? {
                rounded.push(at);
            }
        }
    }
    rounded.sort_unstable();
    Some(rounded.into_iter().eq(0..other.len()))
}

/// The first number in a shape, the least in a set, roughly. Where one answer rounds another one, these are near each
/// other.
pub(super) fn leading(shape: &Shape) -> Option<f64> {
    let roughly = |part: &Part| match part {
        Part::Exact(value) => value.to_f64(),
        Part::Digits { .. } => part.scaled().to_f64().map(|scaled| scaled * 2f64.powi(-1000)),
    };
    match shape {
        Shape::Number(Scalar::One(number)) => roughly(&number.re),
        Shape::Quantity(figure, _) => leading(figure),
        Shape::Tuple(parts) | Shape::List(parts) => parts.iter().find_map(leading),
        Shape::Set(members) => members.iter().filter_map(leading).min_by(f64::total_cmp),
        Shape::Matrix(rows) => rows.iter().flatten().find_map(leading),
        Shape::Assignments(pairs) => pairs.iter().find_map(|(_, value)| leading(value)),
        Shape::Region(region) => region.limits().find_map(|(limit, _)| match limit {
            Limit::At(part) => roughly(part),
            _ => None,
        }),
        Shape::Named(_, inner) => leading(inner),
        _ => None,
    }
}

/// Whether two numbers are as near as a decimal of [`ROUNDED_DIGITS`] and what it rounds.
pub(super) fn is_near(a: f64, b: f64) -> bool {
    a == b || (a - b).abs() <= 1e-3 * a.abs().max(b.abs())
}
