//! The canonical form of a real number, and of a complex one.

use std::{
    cmp::Ordering,
    fmt,
    hash::{Hash, Hasher},
};

use num_bigint::BigInt;
use num_rational::BigRational;
use num_traits::{One, Signed, Zero};

use super::{
    complex::{Complex, SizeClass, ZERO_BELOW},
    real::{FRACTION_BITS, Real},
};

/// How many binary digits of an irrational number are kept: more than twice [`super::MAX_HEIGHT`].
pub(in crate::grading) const KEPT_BITS: u64 = 900;
/// The longest denominator, in bits, of a fraction that a computed value is recognised as.
const DENOMINATOR_BITS: u64 = 64;

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

/// The fraction with a short denominator that `mantissa / 2^FRACTION_BITS` is a rounding of: a convergent of its first digits,
/// tried on all.
fn near_fraction(mantissa: &BigInt) -> Option<BigRational> {
    const FIRST_BITS: u64 = 192;
    let whole: BigInt = mantissa >> FRACTION_BITS;
    let fraction = mantissa - (&whole << FRACTION_BITS);
    let (mut a, mut b) = (BigInt::one() << FIRST_BITS, &fraction >> (FRACTION_BITS - FIRST_BITS));
    let (mut p, mut q) = ((BigInt::one(), BigInt::zero()), (BigInt::zero(), BigInt::one()));
    loop {
        // The denominator is known where the rest is as small as what the first digits leave out.
        if b.bits() <= DENOMINATOR_BITS + 8 {
            break;
        }
        let quotient = &a / &b;
        let rest = a - &quotient * &b;
        p = (p.1.clone(), &quotient * &p.1 + p.0);
        q = (q.1.clone(), &quotient * &q.1 + q.0);
        if q.1.bits() > DENOMINATOR_BITS {
            return None;
        }
        (a, b) = (b, rest);
    }
    // A fraction right below an integer has a long last quotient, which the loop above takes.
    let over = |p: &BigInt, q: &BigInt| (&fraction * q - (p << FRACTION_BITS)).bits();
    let limit = FRACTION_BITS - ZERO_BELOW;
    (over(&p.1, &q.1) <= limit).then(|| BigRational::new(p.1, q.1) + BigRational::from_integer(whole))
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
