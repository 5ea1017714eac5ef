//! The canonical form of a real number, and of a complex one.

use std::{
    cmp::Ordering,
    fmt,
    hash::{Hash, Hasher},
};

use num_bigint::BigInt;
use num_rational::BigRational;
use num_traits::{One, Signed, ToPrimitive, Zero};

use super::{
    complex::{Complex, SizeClass, ZERO_BELOW},
    real::{FRACTION_BITS, Real},
};

/// How many binary digits of an irrational number are kept: more than twice [`super::MAX_HEIGHT`].
pub(in crate::grading) const KEPT_BITS: u64 = 900;
/// The longest denominator, in bits, of a fraction that a computed value is recognised as.
const DENOMINATOR_BITS: u64 = 62;
/// The binary digits in which it is looked for: more than twice as many.
const FIRST_BITS: u64 = 127;

/// A real number: a fraction, or the first digits of a number that is none (or of one with a longer denominator than is
/// recognised).
///
/// What is the same, and what comes first, is said here: a `BigRational` says it by a continued fraction, which for long numbers
/// takes thousands of calls inside one another.
#[derive(Clone, Debug)]
pub enum Part {
    Exact(BigRational),
    /// `mantissa * 2^exponent` to the nearest, with [`KEPT_BITS`] bits.
    Digits {
        mantissa: BigInt,
        exponent: i64,
    },
}

impl PartialEq for Part {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exact(a), Self::Exact(b)) => (a.numer(), a.denom()) == (b.numer(), b.denom()),
            (Self::Digits { mantissa: a, exponent: m }, Self::Digits { mantissa: b, exponent: n }) => (a, m) == (b, n),
            _ => false,
        }
    }
}

impl Eq for Part {}

impl Hash for Part {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self {
            Self::Exact(value) if value.is_integer() => value.numer().hash(state),
            Self::Exact(value) => (value.numer(), value.denom()).hash(state),
            Self::Digits { mantissa, exponent } => (mantissa, exponent).hash(state),
        }
    }
}

impl PartialOrd for Part {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Fractions by their size, and before all that is none.
impl Ord for Part {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Exact(a), Self::Exact(b)) => compared(a, b),
            (Self::Digits { mantissa: a, exponent: m }, Self::Digits { mantissa: b, exponent: n }) => {
                (a, m).cmp(&(b, n))
            }
            (Self::Exact(_), _) => Ordering::Less,
            _ => Ordering::Greater,
        }
    }
}

/// Which of two fractions is less.
fn compared(a: &BigRational, b: &BigRational) -> Ordering {
    (a.numer() * b.denom()).cmp(&(b.numer() * a.denom()))
}

impl Part {
    /// `None` where the error leaves open what the canonical form is.
    pub(super) fn of(real: &Real) -> Option<Self> {
        if !real.is_in_range() {
            return None;
        }
        match Complex::real(real.clone()).size_class() {
            SizeClass::Zero => return Some(Self::Exact(BigRational::zero())),
            SizeClass::Doubtful => return None,
            SizeClass::Ordinary => {}
        }
        if let Some(fraction) = near_fraction(&real.mantissa) {
            return Some(Self::Exact(fraction));
        }
        let drop = real.mantissa.bits().checked_sub(KEPT_BITS)?;
        let error = real.error_units();
        let half = BigInt::one() << drop.checked_sub(1)?;
        let rounded = |value: BigInt| (value + &half) >> drop;
        let (low, high) = (rounded(&real.mantissa - &error), rounded(&real.mantissa + &error));
        let exponent = drop as i64 - FRACTION_BITS as i64;
        (low == high).then_some(Self::Digits { mantissa: low, exponent })
    }

    /// The number times `2^1000`, rounded down.
    pub(in crate::grading) fn scaled(&self) -> BigInt {
        match self {
            Self::Exact(value) => (value.numer() << 1000u32) / value.denom(),
            Self::Digits { mantissa, exponent } => {
                let places = exponent + 1000;
                if places < 0 { mantissa >> places.unsigned_abs() } else { mantissa << places.unsigned_abs() }
            }
        }
    }

    /// Which of two numbers is less.
    pub fn compare(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Exact(a), Self::Exact(b)) => compared(a, b),
            _ => self.scaled().cmp(&other.scaled()),
        }
    }

    /// Whether this number is so near to another one, which need not be reduced.
    pub fn is_within(&self, distance: &BigRational, other: &BigRational) -> bool {
        match self {
            Self::Exact(value) => {
                let difference = value.numer() * other.denom() - other.numer() * value.denom();
                difference.abs() * distance.denom() <= value.denom() * other.denom() * distance.numer()
            }
            Self::Digits { .. } => {
                let difference = self.scaled() - Self::Exact(other.clone()).scaled();
                difference.abs() <= Self::Exact(distance.clone()).scaled()
            }
        }
    }

    pub(in crate::grading) fn negated(&self) -> Self {
        match self {
            Self::Exact(value) => Self::Exact(-value),
            Self::Digits { mantissa, exponent } => Self::Digits { mantissa: -mantissa, exponent: *exponent },
        }
    }

    pub fn is_zero(&self) -> bool {
        matches!(self, Self::Exact(value) if value.is_zero())
    }
}

/// The fraction with a short denominator that `mantissa / 2^FRACTION_BITS` is a rounding of.
///
/// It is a convergent of the first digits, for it differs from them by less than half the square of the inverse of its
/// denominator; and it is the last one with a short denominator, for the next one would have a difference of its own size.
fn near_fraction(mantissa: &BigInt) -> Option<BigRational> {
    let whole: BigInt = mantissa >> FRACTION_BITS;
    let fraction = mantissa - (&whole << FRACTION_BITS);
    let first_digits = (&fraction >> (FRACTION_BITS - FIRST_BITS)).to_u128()?;
    let (p, q) = last_convergent(first_digits);
    let difference = &fraction * q - (BigInt::from(p) << FRACTION_BITS);
    (difference.bits() <= FRACTION_BITS - ZERO_BELOW)
        .then(|| BigRational::new(p.into(), q.into()) + BigRational::from_integer(whole))
}

/// The last convergent of `digits / 2^FIRST_BITS` with a denominator of [`DENOMINATOR_BITS`].
fn last_convergent(digits: u128) -> (u128, u128) {
    let (mut above, mut below) = (1 << FIRST_BITS, digits);
    let (mut before, mut last) = ((1, 0), (0, 1));
    while below > 0 {
        let quotient: u128 = above / below;
        let next = |last: u128, before: u128| quotient.checked_mul(last)?.checked_add(before);
        match (next(last.0, before.0), next(last.1, before.1)) {
            (Some(p), Some(q)) if q >> DENOMINATOR_BITS == 0 => (before, last) = (last, (p, q)),
            _ => break,
        }
        (above, below) = (below, above % below);
    }
    last
}

impl fmt::Display for Part {
    /// A fraction, or thirty digits with a fingerprint of all.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(value) => value.fmt(f),
            Self::Digits { mantissa, .. } => {
                let scaled = (self.scaled() * BigInt::from(10).pow(30)) >> 1000u32;
                let (sign, digits) = (if mantissa.is_negative() { "-" } else { "" }, scaled.abs().to_string());
                let digits = format!("{digits:0>31}");
                let (whole, decimals) = digits.split_at(digits.len() - 30);
                let fingerprint = mantissa % BigInt::from(0xffff_ffff_ffff_ffc5u64);
                write!(f, "{sign}{whole}.{decimals}~{:016x}", fingerprint.abs())
            }
        }
    }
}

/// A complex number in canonical form.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Number {
    pub re: Part,
    pub im: Part,
}

impl Number {
    pub fn exact(value: BigRational) -> Self {
        Self { re: Part::Exact(value), im: Part::Exact(BigRational::zero()) }
    }

    pub(in crate::grading) fn of(value: &Complex) -> Option<Self> {
        Some(Self { re: Part::of(&value.re)?, im: Part::of(&value.im)? })
    }

    /// The real number that this is, if it is one.
    pub fn real(&self) -> Option<&Part> {
        self.im.is_zero().then_some(&self.re)
    }

    /// The fraction that this is, if it is one.
    pub fn rational(&self) -> Option<&BigRational> {
        match self.real()? {
            Part::Exact(value) => Some(value),
            Part::Digits { .. } => None,
        }
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.re.fmt(f)?;
        if self.im.is_zero() { Ok(()) } else { write!(f, "+({})i", self.im) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fraction_with_a_short_denominator_is_recognised_by_its_digits() {
        let longest = (1i64 << DENOMINATOR_BITS) - 1;
        for (above, below) in
            [(1, 3), (-1, 3), (7, 1), (-7, 1), (longest - 1, longest), (1 - longest, longest), (5, longest)]
        {
            let fraction = BigRational::new(above.into(), below.into());
            let real = Real { error: 1.0, ..Real::rational(&fraction) };
            let away = |units: BigInt| Part::of(&Real { mantissa: &real.mantissa + units, error: 1.0 });
            for units in [-1, 0, 1] {
                assert_eq!(away(units.into()), Some(Part::Exact(fraction.clone())), "{fraction} and {units}");
            }
            let far = BigInt::one() << 600u32;
            for other in [away(far.clone()), away(-far)] {
                assert!(matches!(other, Some(Part::Digits { .. })), "{fraction}");
            }
        }
    }
}
