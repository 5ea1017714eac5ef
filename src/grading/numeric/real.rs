//! Real numbers to some four hundred digits, each with a bound on its own error.

use std::{
    ops::{Add, Mul, Neg, Sub},
    sync::OnceLock,
};

use num_bigint::BigInt;
use num_rational::BigRational;
use num_traits::{FromPrimitive, Signed, ToPrimitive, Zero};

/// Binary digits behind the point. [`super::part`] says how many of them are kept, and why so many are needed.
pub(in crate::grading) const FRACTION_BITS: u64 = 1408;
/// Additional digits inside elementary functions, so that what they round away is less than the last digit.
const GUARD_BITS: u64 = 64;
/// Larger values are refused; the values of honest answers are far smaller.
const MAX_BITS: u64 = FRACTION_BITS + 420;

/// `mantissa / 2^FRACTION_BITS`, at most `error` units in the last place from the true value.
#[derive(Clone, Debug)]
pub(in crate::grading) struct Real {
    pub mantissa: BigInt,
    pub error: f64,
}

/// How an error bound grows when it is computed in floating point itself.
const SLACK: f64 = 1.000_001;
/// Larger errors are refused: of a value that is as small as is allowed, hardly a digit would be left.
const MAX_ERROR: f64 = 1e126;

impl Real {
    pub fn zero() -> Self {
        Self { mantissa: BigInt::zero(), error: 0.0 }
    }

    pub fn integer(value: i64) -> Self {
        Self { mantissa: BigInt::from(value) << FRACTION_BITS, error: 0.0 }
    }

    pub fn rational(value: &BigRational) -> Self {
        let mantissa = (value.numer() << FRACTION_BITS) / value.denom();
        Self { mantissa, error: if value.denom() == &BigInt::from(1) { 0.0 } else { 1.0 } }
    }

    /// Whether this is zero without any error.
    pub fn is_exactly_zero(&self) -> bool {
        self.mantissa.is_zero() && self.error == 0.0
    }

    pub fn is_negative(&self) -> bool {
        self.mantissa.is_negative()
    }

    /// Whether zero is among the values that this may be.
    pub fn may_be_zero(&self) -> bool {
        // An error in range has at most 419 bits.
        self.mantissa.bits() < 420 && self.mantissa.to_f64().is_none_or(|mantissa| mantissa.abs() <= self.error * SLACK)
    }

    /// The value, roughly.
    pub fn approximate(&self) -> f64 {
        let shift = self.mantissa.bits().saturating_sub(64);
        let top = (&self.mantissa >> shift).to_f64().unwrap_or(0.0);
        top * 2f64.powi(i32::try_from(shift).unwrap_or(i32::MAX) - FRACTION_BITS as i32)
    }

    /// The error, rounded up.
    pub fn error_units(&self) -> BigInt {
        BigInt::from_f64(self.error.ceil()).unwrap_or_default() + 1
    }

    /// The least and the greatest mantissa that the true value may have.
    pub fn bounds(&self) -> (BigInt, BigInt) {
        let error = self.error_units();
        (&self.mantissa - &error, &self.mantissa + &error)
    }

    pub fn is_in_range(&self) -> bool {
        self.mantissa.bits() <= MAX_BITS && self.error <= MAX_ERROR
    }

    /// `self / other`; `None` where `other` may be zero.
    pub fn divide(&self, other: &Self) -> Option<Self> {
        if other.may_be_zero() {
            return None;
        }
        let mantissa = (&self.mantissa << FRACTION_BITS) / &other.mantissa;
        let quotient = Self { mantissa, error: 0.0 };
        let below = other.approximate().abs();
        let error = (self.error + quotient.approximate().abs() * other.error) / below;
        Some(Self { error: (error + 1.0) * SLACK, ..quotient })
    }

    /// The square root of a number that is not negative; `None` where it may be, unless it is exactly zero.
    pub fn sqrt(&self) -> Option<Self> {
        if self.is_exactly_zero() {
            return Some(Self::zero());
        }
        if self.is_negative() || self.may_be_zero() {
            return None;
        }
        let root = Self { mantissa: (&self.mantissa << FRACTION_BITS).sqrt(), error: 0.0 };
        // The derivative of the root is 1 / (2 root).
        let error = self.error / root.approximate();
        Some(Self { error: (error + 1.0) * SLACK, ..root })
    }

    /// `e^self`; `None` where that is out of range.
    pub fn exp(&self) -> Option<Self> {
        if self.approximate().abs() > 290.0 {
            return None;
        }
        let x = &self.mantissa << GUARD_BITS;
        let ln2 = &constants().ln2;
        let halvings = (&x / ln2).to_i64()?;
        // 2^-16 of the rest, so that few terms of the series are needed, and squared as often again.
        const SQUARINGS: usize = 16;
        let rest = (x - ln2 * halvings) >> SQUARINGS;
        let one = BigInt::from(1) << (FRACTION_BITS + GUARD_BITS);
        let (mut sum, mut term, mut n) = (one.clone() + &rest, rest.clone(), 1i64);
        while !term.is_zero() {
            n += 1;
            term = ((term * &rest) >> (FRACTION_BITS + GUARD_BITS)) / n;
            sum += &term;
            if n > 400 {
                return None;
            }
        }
        for _ in 0..SQUARINGS {
            sum = (&sum * &sum) >> (FRACTION_BITS + GUARD_BITS);
        }
        let mantissa = shift(sum, halvings - GUARD_BITS as i64);
        let power = Self { mantissa, error: 0.0 };
        let scale = power.approximate().abs();
        Some(Self { error: (self.error * scale * 2.0 + scale.max(1.0) * 4.0) * SLACK, ..power })
    }

    /// The natural logarithm of a positive number; `None` where it may not be one.
    pub fn ln(&self) -> Option<Self> {
        if self.is_negative() || self.may_be_zero() {
            return None;
        }
        let width = FRACTION_BITS + GUARD_BITS;
        let one = BigInt::from(1) << width;
        let exponent = i64::try_from(self.mantissa.bits()).ok()? - FRACTION_BITS as i64 - 1;
        let mut reduced = shift(self.mantissa.clone(), GUARD_BITS as i64 - exponent);
        const ROOTS: usize = 10;
        for _ in 0..ROOTS {
            reduced = (reduced << width).sqrt();
        }
        // ln m = 2 artanh((m - 1) / (m + 1))
        let ratio = ((&reduced - &one) << width) / (&reduced + &one);
        let series = odd_series(&ratio, width, false) << (1 + ROOTS);
        let mantissa = (series + &constants().ln2 * exponent) >> GUARD_BITS;
        Some(Self { mantissa, error: (self.error / self.approximate() * 2.0 + 4.0) * SLACK })
    }

    /// The angle whose tangent this is, between -pi/2 and pi/2.
    pub fn atan(&self) -> Option<Self> {
        let one = Self::integer(1);
        if self.approximate().abs() > 1.5 {
            let rest = one.divide(self)?.atan()?;
            let quarter = Self::pi().scaled(1, 2);
            return Some(if self.is_negative() { &(-quarter) - &rest } else { &quarter - &rest });
        }
        let width = FRACTION_BITS + GUARD_BITS;
        let one = BigInt::from(1) << width;
        let mut reduced = &self.mantissa << GUARD_BITS;
        const HALVINGS: usize = 8;
        for _ in 0..HALVINGS {
            let root: BigInt = ((((&reduced * &reduced) >> width) + &one) << width).sqrt();
            reduced = (reduced << width) / (root + &one);
        }
        let mantissa = odd_series(&reduced, width, true) >> (GUARD_BITS - HALVINGS as u64);
        Some(Self { mantissa, error: (self.error + 4.0) * SLACK })
    }

    /// Cosine and sine.
    pub fn cos_sin(&self) -> Option<(Self, Self)> {
        let width = FRACTION_BITS + GUARD_BITS;
        let turn = &constants().pi << 1;
        let x = &self.mantissa << GUARD_BITS;
        let turns: BigInt = &x / &turn;
        if turns.bits() > 40 {
            return None;
        }
        const DOUBLINGS: usize = 10;
        let small = (x - turns * turn) >> DOUBLINGS;
        let (mut cos, mut sin) = (BigInt::from(1) << width, BigInt::zero());
        let (mut term, mut n) = (cos.clone(), 0i64);
        while !term.is_zero() && n < 400 {
            n += 1;
            term = ((term * &small) >> width) / n;
            match n % 4 {
                0 => cos += &term,
                1 => sin += &term,
                2 => cos -= &term,
                _ => sin -= &term,
            }
        }
        for _ in 0..DOUBLINGS {
            let double = (&cos * &sin) >> (width - 1);
            cos = (&cos * &cos - &sin * &sin) >> width;
            sin = double;
        }
        // The rest of a division by a constant that is exact to 2^-64 units, at most 2^40 times, is below a unit.
        let finish = |value: BigInt| Self { mantissa: value >> GUARD_BITS, error: (self.error + 4.0) * SLACK };
        Some((finish(cos), finish(sin)))
    }

    pub fn pi() -> Self {
        Self { mantissa: &constants().pi >> GUARD_BITS, error: 1.0 }
    }

    /// `self * over / under` of small integers.
    pub fn scaled(&self, over: i64, under: i64) -> Self {
        let factor = over.unsigned_abs() as f64 / under.unsigned_abs() as f64;
        Self { mantissa: &self.mantissa * over / under, error: (self.error * factor + 1.0) * SLACK }
    }
}

/// `value * 2^places`, rounded down.
fn shift(value: BigInt, places: i64) -> BigInt {
    if places < 0 { value >> places.unsigned_abs() } else { value << places.unsigned_abs() }
}

/// `x + x^3/3 + x^5/5 + ...`, or with alternating signs: the series of artanh and arctan, for small `x`.
fn odd_series(x: &BigInt, width: u64, alternating: bool) -> BigInt {
    let square = (x * x) >> width;
    let (mut power, mut sum, mut n) = (x.clone(), x.clone(), 1i64);
    while !power.is_zero() && power != BigInt::from(-1) && n < 2000 {
        n += 2;
        power = (power * &square) >> width;
        let term = &power / n;
        if alternating && n % 4 == 3 { sum -= term } else { sum += term }
    }
    sum
}

struct Constants {
    pi: BigInt,
    ln2: BigInt,
}

/// Pi and ln 2 with guard digits, computed once.
fn constants() -> &'static Constants {
    static CONSTANTS: OnceLock<Constants> = OnceLock::new();
    CONSTANTS.get_or_init(|| {
        let width = FRACTION_BITS + GUARD_BITS + 32;
        let inverse = |n: i64, alternating| odd_series(&((BigInt::from(1) << width) / n), width, alternating);
        // Machin: pi = 16 arctan(1/5) - 4 arctan(1/239); ln 2 = 2 artanh(1/3).
        let pi = inverse(5, true) * 16 - inverse(239, true) * 4;
        Constants { pi: pi >> 32u32, ln2: (inverse(3, false) * 2) >> 32u32 }
    })
}

impl Add for &Real {
    type Output = Real;

    fn add(self, other: Self) -> Real {
        Real { mantissa: &self.mantissa + &other.mantissa, error: (self.error + other.error) * SLACK }
    }
}

impl Sub for &Real {
    type Output = Real;

    fn sub(self, other: Self) -> Real {
        Real { mantissa: &self.mantissa - &other.mantissa, error: (self.error + other.error) * SLACK }
    }
}

impl Mul for &Real {
    type Output = Real;

    fn mul(self, other: Self) -> Real {
        let mantissa = (&self.mantissa * &other.mantissa) >> FRACTION_BITS;
        let (a, b) = (self.approximate().abs(), other.approximate().abs());
        // The product of two errors in range is less than a unit.
        Real { mantissa, error: (a * other.error + b * self.error + 2.0) * SLACK }
    }
}

impl Neg for Real {
    type Output = Real;

    fn neg(self) -> Real {
        Real { mantissa: -self.mantissa, error: self.error }
    }
}
