//! When an answer is a rounding of another one.

use num_bigint::BigInt;
use num_rational::BigRational;
use num_traits::{Signed, ToPrimitive};

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
    match (form, own, other) {
        (Form::Decimal(value, places), _, Shape::Number(Scalar::One(number))) => match number.real() {
            Some(part) => decimal_rounds(value, *places, part, budget),
            None => Some(false),
        },
        (Form::Tuple(forms), Shape::Tuple(own), Shape::Tuple(other))
        | (Form::List(forms), Shape::List(own), Shape::List(other)) => all(forms, own, other),
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

/// Whether a decimal of so many places is a number, or its rounding.
fn decimal_rounds(value: &BigRational, places: u32, part: &Part, budget: &Budget) -> Option<bool> {
    // Products of numbers of so many bits.
    let bits = |value: &BigRational| value.numer().bits() + value.denom().bits();
    let (own, other) = (bits(value), if let Part::Exact(exact) = part { bits(exact) } else { 2 * KEPT_BITS });
    budget.take(u32::try_from((own + other) * own / 4_000_000).ok()?)?;
    Some(*part == Part::Exact(value.clone()) || shows_enough(value, places) && part.rounds_to(value, places))
}

fn shows_enough(value: &BigRational, places: u32) -> bool {
    let scale = |digits: u32| BigInt::from(10).pow(digits);
    places >= ROUNDED_DIGITS && value.numer().abs() * scale(places) >= value.denom() * scale(ROUNDED_DIGITS - 1)
}

/// The first number in a shape, roughly. Where one answer rounds another one, these are near each other.
pub(super) fn leading(shape: &Shape) -> Option<f64> {
    let roughly = |part: &Part| match part {
        Part::Exact(value) => value.to_f64(),
        Part::Digits { .. } => part.scaled().to_f64().map(|scaled| scaled * 2f64.powi(-1000)),
    };
    match shape {
        Shape::Number(Scalar::One(number)) => roughly(&number.re),
        Shape::Tuple(parts) | Shape::List(parts) => parts.iter().find_map(leading),
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
