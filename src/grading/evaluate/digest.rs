//! Numbers that look random and are functions of what was put in.

use num_bigint::{BigInt, BigUint};

use crate::grading::numeric::{
    complex::Complex,
    real::{FRACTION_BITS, Real},
};

/// A short text for a long one.
pub fn fingerprint(text: &str) -> u64 {
    let mut digest = Digest::new(0);
    digest.bytes(text.as_bytes());
    digest.next()
}

/// A stream of bits that is a function of what was put in (FNV-1a, then splitmix64).
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::grading) struct Digest(u64);

impl Digest {
    pub fn new(seed: u64) -> Self {
        Self(seed ^ 0xcbf2_9ce4_8422_2325)
    }

    pub fn bytes(&mut self, bytes: &[u8]) {
        for byte in bytes.iter().chain(&[0xff]) {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number with parts between 0.7 and 0.72, so that its powers neither grow nor vanish.
    pub fn complex(mut self) -> Complex {
        let mut part = || {
            let words: Vec<u32> = (0..FRACTION_BITS / 32).map(|_| self.next() as u32).collect();
            let fraction = BigInt::from(BigUint::new(words));
            Real { mantissa: (fraction + (BigInt::from(35) << FRACTION_BITS)) / 50, error: 0.0 }
        };
        Complex::new(part(), part())
    }
}
