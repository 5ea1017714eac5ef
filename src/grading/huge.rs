//! Integers and fractions that are too long to be computed, by their residues.
//!
//! What is written with [`MAX_BITS`] bits is one of so many numbers; that two of them agree in 480 bits of residues is
//! not to be expected. Only what is clearly too long to be computed exactly has such a key, so that no number has two.

use num_bigint::BigInt;
use num_rational::BigRational;
use num_traits::{ToPrimitive, Zero};

use super::{
    budget::{Budget, MAX_EXACT_BITS},
    evaluate::{self, Scalar},
    expression::{Expression, Function},
};

/// Primes that were drawn at random, each of them twice a prime and one, so that no powers of a base come back early.
const PRIMES: [u64; 8] = [
    0x1faf085e4f132767,
    0x1f24351452908fff,
    0x164440b5a14a7b47,
    0x1c0e70aa73158353,
    0x13168dbd09bee4bf,
    0x199dd6e81d4c26bf,
    0x11daab969f2311c3,
    0x13f1379e83a94ecf,
];
/// The most bits of all numbers that are written in an expression.
const MAX_BITS: u64 = 200;
/// The largest number whose factorial is multiplied out, modulo each prime.
const MAX_FACTORIAL: u64 = 3000;
const POWER_STEPS: u32 = 40;

/// What is known of a number that is not zero.
#[derive(Clone, Copy)]
struct Huge {
    residues: [u64; PRIMES.len()],
    /// The binary logarithm of its size, to about one.
    size: f64,
}

/// The residues of a number that is too long; `None` if it may be short.
pub(super) fn residues(expression: &Expression, budget: &Budget) -> Option<Vec<u64>> {
    if expression.literal_bits() > MAX_BITS {
        return None;
    }
    let huge = huge(expression, budget)?;
    (huge.size.abs() > MAX_EXACT_BITS as f64 + 2.0).then(|| huge.residues.to_vec())
}

fn huge(expression: &Expression, budget: &Budget) -> Option<Huge> {
    if let Some(value) = rational(expression, budget) {
        return Huge::of(&value);
    }
    let all = |parts: &[Expression]| parts.iter().map(|part| huge(part, budget)).collect::<Option<Vec<_>>>();
    match expression {
        Expression::Sum(terms) => sum(&all(terms)?),
        Expression::Product(factors) => all(factors)?.into_iter().reduce(Huge::times),
        Expression::Negative(inner) => {
            let minus_one = Huge::of(&BigRational::from_integer((-1).into()))?;
            Some(huge(inner, budget)?.times(minus_one))
        }
        Expression::Quotient(above, below) => {
            let inverse = huge(below, budget)?.power(&BigInt::from(-1), budget)?;
            Some(huge(above, budget)?.times(inverse))
        }
        Expression::Power(base, exponent) => {
            let exponent = rational(exponent, budget).filter(BigRational::is_integer)?;
            huge(base, budget)?.power(exponent.numer(), budget)
        }
        Expression::Call(Function::Factorial, arguments) => factorial(arguments.first()?, budget),
        _ => None,
    }
}

/// The value of what is short.
fn rational(expression: &Expression, budget: &Budget) -> Option<BigRational> {
    match evaluate::scalar(expression, budget)? {
        Scalar::One(number) => number.rational().cloned(),
        Scalar::Branches(_) => None,
    }
}

/// A sum in which one term is larger than twice all others together: others may cancel.
fn sum(terms: &[Huge]) -> Option<Huge> {
    let largest = terms.iter().copied().reduce(|a, b| if b.size > a.size { b } else { a })?;
    let share: f64 = terms.iter().map(|term| (term.size - largest.size).exp2()).sum();
    let mut residues = [0; PRIMES.len()];
    for (at, prime) in PRIMES.iter().enumerate() {
        residues[at] = terms.iter().fold(0, |total, term| (total + term.residues[at]) % prime);
    }
    (share <= 1.5).then_some(Huge { residues, size: largest.size })
}

fn factorial(argument: &Expression, budget: &Budget) -> Option<Huge> {
    let n = rational(argument, budget).filter(BigRational::is_integer)?.to_u64().filter(|n| *n <= MAX_FACTORIAL)?;
    budget.take(n as u32 / 4)?;
    let of = |prime: &u64| (2..=n).fold(1, |product, factor| times(product, factor, *prime));
    let size = (2..=n).map(|factor| (factor as f64).log2()).sum();
    Some(Huge { residues: PRIMES.each_ref().map(of), size })
}

impl Huge {
    fn of(value: &BigRational) -> Option<Self> {
        let mut residues = [0; PRIMES.len()];
        for (residue, prime) in residues.iter_mut().zip(PRIMES) {
            let (above, below) = (modulo(value.numer(), prime)?, modulo(value.denom(), prime)?);
            *residue = times(above, power(below, prime - 2, prime), prime);
        }
        // A zero is one term less, but nothing that is divided by.
        let size =
            if value.is_zero() { f64::NEG_INFINITY } else { logarithm(value.numer())? - logarithm(value.denom())? };
        Some(Self { residues, size })
    }

    fn times(self, other: Self) -> Self {
        let mut residues = self.residues;
        for (at, prime) in PRIMES.iter().enumerate() {
            residues[at] = times(residues[at], other.residues[at], *prime);
        }
        Self { residues, size: self.size + other.size }
    }

    /// `None` for what is a multiple of a prime: it has no inverse there.
    fn power(self, exponent: &BigInt, budget: &Budget) -> Option<Self> {
        budget.take(POWER_STEPS)?;
        let mut residues = self.residues;
        for (residue, prime) in residues.iter_mut().zip(PRIMES) {
            *residue = Some(*residue).filter(|residue| *residue > 0)?;
            *residue = power(*residue, modulo(exponent, prime - 1)?, prime);
        }
        Some(Self { residues, size: self.size * exponent.to_f64()? })
    }
}

/// The binary logarithm of an integer's size.
fn logarithm(value: &BigInt) -> Option<f64> {
    let drop = value.bits().saturating_sub(64);
    Some((value.magnitude() >> drop).to_f64()?.log2() + drop as f64)
}

fn modulo(value: &BigInt, modulus: u64) -> Option<u64> {
    let modulus = BigInt::from(modulus);
    (((value % &modulus) + &modulus) % &modulus).to_u64()
}

fn times(a: u64, b: u64, modulus: u64) -> u64 {
    (u128::from(a) * u128::from(b) % u128::from(modulus)) as u64
}

fn power(base: u64, mut exponent: u64, modulus: u64) -> u64 {
    let (mut result, mut square) = (1, base);
    while exponent > 0 {
        if exponent % 2 == 1 {
            result = times(result, square, modulus);
        }
        square = times(square, square, modulus);
        exponent /= 2;
    }
    result
}
