//! Complex numbers of [`Real`]s, and the elementary functions that answers use.

use num_bigint::BigInt;
use num_rational::BigRational;
use num_traits::Signed;

use super::real::{FRACTION_BITS, Real};

/// A size below `2^-ZERO_BELOW` is that of zero, and one above `2^-SMALLEST` is not.
pub(super) const ZERO_BELOW: u64 = 1000;
pub(super) const SMALLEST: u64 = 410;

/// What may be said of a number from its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::grading) enum SizeClass {
    Zero,
    Doubtful,
    Ordinary,
}

/// `re + im i`.
#[derive(Clone, Debug)]
pub(in crate::grading) struct Complex {
    pub(super) re: Real,
    pub(super) im: Real,
}

impl Complex {
    pub fn new(re: Real, im: Real) -> Self {
        Self { re, im }
    }

    pub fn real(re: Real) -> Self {
        Self { re, im: Real::zero() }
    }

    pub fn one() -> Self {
        Self::real(Real::integer(1))
    }

    pub fn pi() -> Self {
        Self::real(Real::pi())
    }

    pub fn is_in_range(&self) -> bool {
        self.re.is_in_range() && self.im.is_in_range()
    }

    /// Whether the imaginary part is zero, as far as can be told.
    pub fn is_real(&self) -> bool {
        self.im.may_be_zero()
    }

    pub fn is_negative_real(&self) -> bool {
        self.is_real() && self.re.is_negative() && !self.re.may_be_zero()
    }

    pub fn may_be_zero(&self) -> bool {
        self.re.may_be_zero() && self.im.may_be_zero()
    }

    pub fn plus(&self, other: &Self) -> Self {
        Self { re: &self.re + &other.re, im: &self.im + &other.im }
    }

    pub fn minus(&self, other: &Self) -> Self {
        Self { re: &self.re - &other.re, im: &self.im - &other.im }
    }

    pub fn negated(&self) -> Self {
        Self { re: -self.re.clone(), im: -self.im.clone() }
    }

    pub fn times(&self, other: &Self) -> Self {
        Self {
            re: &(&self.re * &other.re) - &(&self.im * &other.im),
            im: &(&self.re * &other.im) + &(&self.im * &other.re),
        }
    }

    pub fn times_i(&self) -> Self {
        Self { re: -self.im.clone(), im: self.re.clone() }
    }

    /// `None` where `other` may be zero.
    pub fn divided_by(&self, other: &Self) -> Option<Self> {
        if other.im.is_exactly_zero() {
            return Some(Self { re: self.re.divide(&other.re)?, im: self.im.divide(&other.re)? });
        }
        let conjugate = Self { re: other.re.clone(), im: -other.im.clone() };
        let (above, below) = (self.times(&conjugate), other.square_of_modulus());
        Some(Self { re: above.re.divide(&below)?, im: above.im.divide(&below)? })
    }

    fn square_of_modulus(&self) -> Real {
        &(&self.re * &self.re) + &(&self.im * &self.im)
    }

    pub fn modulus(&self) -> Option<Real> {
        if self.im.is_exactly_zero() {
            let re = self.re.clone();
            return Some(if re.is_negative() { -re } else { re });
        }
        self.square_of_modulus().sqrt()
    }

    /// `self^n` by repeated squaring.
    pub fn power(&self, n: u64) -> Option<Self> {
        let (mut result, mut square, mut rest) = (Self::one(), self.clone(), n);
        while rest > 0 {
            if rest % 2 == 1 {
                result = result.times(&square);
            }
            rest /= 2;
            if rest > 0 {
                square = square.times(&square);
            }
            if !square.is_in_range() || !result.is_in_range() {
                return None;
            }
        }
        Some(result)
    }

    pub fn exp(&self) -> Option<Self> {
        let scale = self.re.exp()?;
        if self.im.is_exactly_zero() {
            return Some(Self::real(scale));
        }
        let (cos, sin) = self.im.cos_sin()?;
        Some(Self { re: &scale * &cos, im: &scale * &sin })
    }

    /// The principal logarithm.
    pub fn ln(&self) -> Option<Self> {
        Some(Self { re: self.modulus()?.ln()?, im: self.argument()? })
    }

    /// The angle in (-pi, pi]; `None` where it cannot be told on which side of the cut this is.
    fn argument(&self) -> Option<Real> {
        if self.im.may_be_zero() {
            let positive = !self.re.is_negative() && !self.re.may_be_zero();
            return if positive {
                Some(Real { error: self.im.divide(&self.re)?.error, ..Real::zero() })
            } else if self.im.is_exactly_zero() && !self.re.may_be_zero() {
                Some(Real::pi())
            } else {
                None
            };
        }
        if self.re.approximate().abs() >= self.im.approximate().abs() {
            let angle = self.im.divide(&self.re)?.atan()?;
            return Some(match (self.re.is_negative(), self.im.is_negative()) {
                (false, _) => angle,
                (true, false) => &angle + &Real::pi(),
                (true, true) => &angle - &Real::pi(),
            });
        }
        let quarter = Real::pi().scaled(if self.im.is_negative() { -1 } else { 1 }, 2);
        Some(&quarter - &self.re.divide(&self.im)?.atan()?)
    }

    /// Cosine and sine.
    pub fn cos_sin(&self) -> Option<(Self, Self)> {
        if self.im.is_exactly_zero() {
            let (cos, sin) = self.re.cos_sin()?;
            return Some((Self::real(cos), Self::real(sin)));
        }
        let forward = self.times_i().exp()?;
        let backward = Self::one().divided_by(&forward)?;
        let half = |value: Self| Self { re: value.re.scaled(1, 2), im: value.im.scaled(1, 2) };
        let sin = half(forward.minus(&backward)).times_i().negated();
        Some((half(forward.plus(&backward)), sin))
    }

    /// The point at `turns / whole` of a turn on the unit circle.
    pub fn on_circle(turns: &Self, whole: i64) -> Option<Self> {
        let (cos, sin) = (&turns.re * &Real::pi().scaled(2, whole)).cos_sin()?;
        Some(Self { re: cos, im: sin })
    }

    pub fn integer(value: i64) -> Self {
        Self::real(Real::integer(value))
    }

    /// Whether two were computed to the very same digits.
    pub fn is_identical(&self, other: &Self) -> bool {
        self.re.mantissa == other.re.mantissa && self.im.mantissa == other.im.mantissa
    }

    /// The first forty digits of a direction, the same for conjugates; and whether the imaginary part is negative.
    pub fn direction_bits(&self) -> (Vec<u8>, bool) {
        let mut bytes = (&self.re.mantissa >> (FRACTION_BITS - 128)).to_signed_bytes_le();
        bytes.extend((self.im.mantissa.abs() >> (FRACTION_BITS - 128)).to_signed_bytes_le());
        (bytes, self.im.is_negative())
    }

    /// How its size compares with what may be told from zero.
    pub fn size_class(&self) -> SizeClass {
        match self.re.mantissa.bits().max(self.im.mantissa.bits()) {
            bits if bits < FRACTION_BITS - ZERO_BELOW => SizeClass::Zero,
            bits if bits < FRACTION_BITS - SMALLEST => SizeClass::Doubtful,
            _ => SizeClass::Ordinary,
        }
    }

    /// The modulus, roughly.
    pub fn size(&self) -> f64 {
        self.re.approximate().hypot(self.im.approximate())
    }

    pub fn real_part(&self) -> Self {
        Self::real(self.re.clone())
    }

    /// The next integer below a real number, or above; `None` where it cannot be told.
    pub fn whole(&self, above: bool) -> Option<BigRational> {
        let (low, high) = self.im.may_be_zero().then(|| self.re.bounds())?;
        let round = |mantissa: BigInt| if above { -(-mantissa >> FRACTION_BITS) } else { mantissa >> FRACTION_BITS };
        let (low, high) = (round(low), round(high));
        (low == high).then(|| BigRational::from_integer(low))
    }

    /// The `n`th root of a number; of a real number, the real root if there is one, and else the principal one.
    pub fn root(&self, n: u32) -> Option<Self> {
        if self.im.may_be_zero() {
            let negative = self.re.is_negative();
            let size = if negative { -self.re.clone() } else { self.re.clone() };
            let root = match n {
                2 => size.sqrt()?,
                _ => size.ln()?.scaled(1, i64::from(n)).exp()?,
            };
            return match (negative, n % 2) {
                (false, _) => Some(Self::real(root)),
                (true, 1) => Some(Self::real(-root)),
                (true, _) if n == 2 => Some(Self::new(Real::zero(), root)),
                _ => None,
            };
        }
        if n == 2 {
            // sqrt((r + x) / 2) + sgn(y) sqrt((r - x) / 2) i, with the smaller part from the larger one: their product is
            // y / 2.
            let r = self.modulus()?;
            let x = if self.re.is_negative() { -self.re.clone() } else { self.re.clone() };
            let large = (&r + &x).scaled(1, 2).sqrt()?;
            let y = if self.im.is_negative() { -self.im.clone() } else { self.im.clone() };
            let small = y.divide(&large.scaled(2, 1))?;
            let (re, im) = if self.re.is_negative() { (small, large) } else { (large, small) };
            return Some(Self::new(re, if self.im.is_negative() { -im } else { im }));
        }
        let logarithm = self.ln()?;
        Self::new(logarithm.re.scaled(1, i64::from(n)), logarithm.im.scaled(1, i64::from(n))).exp()
    }

    /// `atan` of a real number.
    pub fn atan(&self) -> Option<Self> {
        if self.is_real() { Some(Self::real(self.re.atan()?)) } else { None }
    }
}
