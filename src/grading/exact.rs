//! Exact arithmetic: the rationals with `i`.

use num_bigint::BigInt;
use num_rational::BigRational;
use num_traits::{One, Signed, ToPrimitive, Zero};

use super::{
    budget::MAX_EXACT_BITS,
    numeric::part::{Number, Part},
};

/// `re + im i` with rational parts.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Gaussian {
    pub re: BigRational,
    pub im: BigRational,
}

/// Steps of an operation on numbers of so many bits: reducing a fraction takes time that grows with their square.
fn steps(bits: u64) -> u32 {
    1 + (bits * bits / 100_000).min(1 << 20) as u32
}

impl Gaussian {
    pub fn real(re: BigRational) -> Self {
        Self { re, im: BigRational::zero() }
    }

    pub fn i() -> Self {
        Self { re: BigRational::zero(), im: BigRational::one() }
    }

    pub fn number(self) -> Number {
        Number { re: Part::Exact(self.re), im: Part::Exact(self.im) }
    }

    /// The bits of its numerators and denominators.
    pub fn bits(&self) -> u64 {
        let of = |part: &BigRational| part.numer().bits() + part.denom().bits() - 1;
        of(&self.re) + of(&self.im)
    }

    /// Steps of an operation with another number.
    pub fn cost(&self, other: &Self) -> u32 {
        steps(self.bits() + other.bits())
    }

    /// `None` if its parts are too long.
    fn bounded(self) -> Option<Self> {
        let fits = |part: &BigRational| part.numer().bits() <= MAX_EXACT_BITS && part.denom().bits() <= MAX_EXACT_BITS;
        (fits(&self.re) && fits(&self.im)).then_some(self)
    }

    pub fn plus(&self, other: &Self) -> Option<Self> {
        Self { re: &self.re + &other.re, im: &self.im + &other.im }.bounded()
    }

    pub fn times(&self, other: &Self) -> Option<Self> {
        if self.im.is_zero() && other.im.is_zero() {
            return Self::real(&self.re * &other.re).bounded();
        }
        let re = &self.re * &other.re - &self.im * &other.im;
        Self { re, im: &self.re * &other.im + &self.im * &other.re }.bounded()
    }

    /// `None` if `other` is zero.
    pub fn over(&self, other: &Self) -> Option<Self> {
        if other.im.is_zero() {
            if other.re.is_zero() {
                return None;
            }
            return Self { re: &self.re / &other.re, im: &self.im / &other.re }.bounded();
        }
        let below = &other.re * &other.re + &other.im * &other.im;
        let above = self.times(&Self { re: other.re.clone(), im: -other.im.clone() })?;
        Self { re: above.re / &below, im: above.im / below }.bounded()
    }

    /// Steps of `self^n`; `None` if that is too long.
    pub fn power_cost(&self, n: i64) -> Option<u32> {
        let trivial = self.im.is_zero() && self.re.is_integer() && self.re.numer().bits() <= 1;
        let bits = if trivial { 1 } else { self.bits().checked_mul(n.unsigned_abs())? };
        (bits <= 2 * MAX_EXACT_BITS).then(|| steps(bits))
    }

    /// `self^n`; `None` for zero to the power of zero, or less. Whoever calls this has asked for its cost.
    pub fn power(&self, n: i64) -> Option<Self> {
        if self.re.is_zero() && self.im.is_zero() && n <= 0 {
            return None;
        }
        let mut result = Self::real(BigRational::one());
        let (mut square, mut rest) = (self.clone(), n.unsigned_abs());
        while rest > 0 {
            if rest % 2 == 1 {
                result = result.times(&square)?;
            }
            rest /= 2;
            if rest > 0 {
                square = square.times(&square)?;
            }
        }
        if n < 0 { Self::real(BigRational::one()).over(&result) } else { Some(result) }
    }
}

/// The root of a rational number if it is rational, or `i` times a rational: of a negative number the real root if the
/// degree is odd.
pub(super) fn root(value: &Gaussian, degree: u32) -> Option<Gaussian> {
    if !value.im.is_zero() || degree == 0 {
        return None;
    }
    let whole = |n: &BigInt| {
        let root = n.abs().nth_root(degree);
        (num_traits::pow(root.clone(), degree as usize) == n.abs()).then_some(root)
    };
    // A root of a longer number would take more steps than a root may.
    if value.bits() > 1024 || u64::from(degree) > value.bits() && !value.re.is_zero() && !value.re.abs().is_one() {
        return None;
    }
    let size = BigRational::new(whole(value.re.numer())?, whole(value.re.denom())?);
    match (value.re.is_negative(), degree) {
        (false, _) => Some(Gaussian::real(size)),
        (true, odd) if odd % 2 == 1 => Some(Gaussian::real(-size)),
        (true, 2) => Some(Gaussian { re: BigRational::zero(), im: size }),
        _ => None,
    }
}

/// The greatest common divisor of positive integers.
pub(super) fn gcd(a: &BigInt, b: &BigInt) -> BigInt {
    // Reducing a/b divides both by it.
    a / BigRational::new(a.clone(), b.clone()).numer()
}

/// The least common multiple of positive integers.
pub(super) fn lcm(a: &BigInt, b: &BigInt) -> BigInt {
    a / gcd(a, b) * b
}

/// `n!`
pub(super) fn factorial(n: u64) -> BigInt {
    (2..=n).fold(BigInt::one(), |product, factor| product * factor)
}

/// `n` over `k`, for `0 <= k <= n <= 1000`.
pub(super) fn binomial(n: &BigRational, k: &BigRational) -> Option<BigInt> {
    let small = |value: &BigRational| value.is_integer().then(|| value.to_u64()).flatten().filter(|n| *n <= 1000);
    let (n, k) = (small(n)?, small(k)?);
    let k = k.min(n.checked_sub(k)?);
    Some((0..k).fold(BigInt::one(), |product, i| product * (n - i) / (i + 1)))
}
