//! The quantised blocks of GGUF files, taken apart.
//!
//! Layouts: `ggml-common.h` and `ggml-quants.c` of <https://github.com/ggml-org/ggml>. Every weight of every format is
//! `(code - zero) * scale + minimum` with a scale and a minimum for 16 or 32 consecutive weights.

use candle_core::quantized::GgmlDType;

use super::format::BLOCK;

/// [`BLOCK`] consecutive weights of a row.
#[derive(Clone, Debug, PartialEq)]
pub struct Weights {
    pub codes: [u8; BLOCK],
    /// Of the first and the second half of the weights.
    pub scales: [f32; 2],
    pub minima: [f32; 2],
}

impl Weights {
    fn new(scale: f32, minimum: f32, code: impl FnMut(usize) -> u8) -> Self {
        Self { codes: std::array::from_fn(code), scales: [scale; 2], minima: [minimum; 2] }
    }
}

/// Takes a whole row apart; its length is one of whole blocks of the type.
pub fn unpack(kind: GgmlDType, row: &[u8], mut each: impl FnMut(Weights)) {
    for block in row.chunks_exact(kind.type_size()) {
        match kind {
            GgmlDType::Q4_0 => each(Weights::new(half(block, 0), 0.0, |i| nibble(&block[2..], i))),
            GgmlDType::Q4_1 => each(Weights::new(half(block, 0), half(block, 2), |i| nibble(&block[4..], i))),
            GgmlDType::Q5_0 => {
                each(Weights::new(half(block, 0), 0.0, |i| nibble(&block[6..], i) | bit(&block[2..], i) << 4))
            }
            GgmlDType::Q5_1 => each(Weights::new(half(block, 0), half(block, 2), |i| {
                nibble(&block[8..], i) | bit(&block[4..], i) << 4
            })),
            GgmlDType::Q8_0 => each(Weights::new(half(block, 0), 0.0, |i| block[2 + i] ^ 0x80)),
            GgmlDType::Q2K => (0..8).for_each(|part| each(q2k(block, part))),
            GgmlDType::Q3K => (0..8).for_each(|part| each(q3k(block, part))),
            GgmlDType::Q4K => (0..8).for_each(|part| each(q4k(block, part))),
            GgmlDType::Q5K => (0..8).for_each(|part| each(q5k(block, part))),
            GgmlDType::Q6K => (0..8).for_each(|part| each(q6k(block, part))),
            // The loader names a type that is not here before it gets this far.
            _ => return,
        }
    }
}

/// A half-precision number at a byte offset.
fn half(block: &[u8], at: usize) -> f32 {
    half::f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// Weight `i` of 32 in 16 bytes: the first half in the lower nibbles.
fn nibble(codes: &[u8], i: usize) -> u8 {
    codes[i % 16] >> (4 * (i / 16)) & 15
}

fn bit(bits: &[u8], i: usize) -> u8 {
    bits[i / 8] >> (i % 8) & 1
}

/// 16 bytes of scales and minima in nibbles, 64 bytes of two-bit codes, two half-precision factors.
fn q2k(block: &[u8], part: usize) -> Weights {
    let (codes, factor, minimum) = (&block[16 + 32 * (part / 4)..], half(block, 80), half(block, 82));
    let scale = |i: usize| block[2 * part + i];
    Weights {
        codes: std::array::from_fn(|i| codes[i] >> (2 * (part % 4)) & 3),
        scales: std::array::from_fn(|i| factor * f32::from(scale(i) & 15)),
        minima: std::array::from_fn(|i| -minimum * f32::from(scale(i) >> 4)),
    }
}

/// 32 bytes of high bits, 64 bytes of two-bit codes, sixteen 6-bit scales in 12 bytes, a half-precision factor.
fn q3k(block: &[u8], part: usize) -> Weights {
    let (codes, packed, factor) = (&block[32 + 32 * (part / 4)..], &block[96..108], half(block, 108));
    let scale = |i: usize| {
        let low = if i < 8 { packed[i] & 15 } else { packed[i - 8] >> 4 };
        let high = packed[8 + i % 4] >> (2 * (i / 4)) & 3;
        f32::from(low | high << 4) - 32.0
    };
    Weights {
        codes: std::array::from_fn(|i| codes[i] >> (2 * (part % 4)) & 3 | (block[i] >> part & 1) << 2),
        scales: std::array::from_fn(|i| factor * scale(2 * part + i)),
        minima: [0.0; 2],
    }
}

/// Scale and minimum `part` of eight, 6 bits each, in 12 bytes.
fn scale_and_minimum(packed: &[u8], part: usize) -> (f32, f32) {
    let (scale, minimum) = match part {
        0..4 => (packed[part] & 63, packed[part + 4] & 63),
        _ => {
            let high = |at: usize| (packed[at] >> 6) << 4;
            (packed[part + 4] & 15 | high(part - 4), packed[part + 4] >> 4 | high(part))
        }
    };
    (f32::from(scale), f32::from(minimum))
}

/// Two half-precision factors, 12 bytes of scales and minima, 128 bytes of nibbles.
fn q4k(block: &[u8], part: usize) -> Weights {
    let (scale, minimum) = scale_and_minimum(&block[4..16], part);
    let codes = &block[16 + 32 * (part / 2)..];
    Weights::new(half(block, 0) * scale, -half(block, 2) * minimum, |i| codes[i] >> (4 * (part % 2)) & 15)
}

/// As [`q4k`], with 32 bytes of high bits before the nibbles.
fn q5k(block: &[u8], part: usize) -> Weights {
    let (scale, minimum) = scale_and_minimum(&block[4..16], part);
    let (high, codes) = (&block[16..48], &block[48 + 32 * (part / 2)..]);
    Weights::new(half(block, 0) * scale, -half(block, 2) * minimum, |i| {
        codes[i] >> (4 * (part % 2)) & 15 | (high[i] >> part & 1) << 4
    })
}

/// 128 bytes of nibbles, 64 bytes of two high bits each, 16 signed scales, a half-precision factor.
fn q6k(block: &[u8], part: usize) -> Weights {
    let (of_128, part_of_128) = (part / 4, part % 4);
    let low = &block[64 * of_128 + 32 * (part_of_128 % 2)..];
    let high = &block[128 + 32 * of_128..];
    let scale = |i: usize| f32::from(block[192 + 2 * part + i].cast_signed());
    Weights {
        codes: std::array::from_fn(|i| {
            low[i] >> (4 * (part_of_128 / 2)) & 15 | (high[i] >> (2 * part_of_128) & 3) << 4
        }),
        scales: std::array::from_fn(|i| half(block, 208) * scale(i)),
        minima: [0.0; 2],
    }
}
