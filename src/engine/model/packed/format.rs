//! How weights lie in words, and how a vector register of them becomes numbers.
//!
//! The unit is a block: [`BLOCK`] weights along the inputs of each of [`PANEL`] outputs. A block has a header (the scales
//! of its outputs) and then words; a word holds the codes of some consecutive inputs of one output, the first input in
//! the lowest bits, and the words of the panel's outputs lie side by side. So a vector register always holds the same
//! input of neighbouring outputs, a shift brings up the next input, and no instruction set needs a widening of bytes.

use pulp::Simd;

/// Outputs side by side in a block.
pub const PANEL: usize = 32;

/// Weights along the inputs of each output in a block: what most quantised formats give one scale.
pub const BLOCK: usize = 32;

/// A way to store the weights of a block.
pub trait Format: Copy + Send + Sync {
    /// Inputs in one word.
    const PER_WORD: usize;
    /// Words before the codes.
    const HEADER: usize;
    /// Runs of inputs in a block that have scales of their own.
    const GROUPS: usize;
    /// What the codes of a run are scaled by, for a register of outputs.
    type Scale<S: Simd>: Copy;

    /// The scales of a run, for the outputs of the `vector`-th register.
    fn scale<S: Simd>(self, simd: S, header: &[S::u32s], group: usize, vector: usize) -> Self::Scale<S>;

    /// The weights at a `place` in their words.
    fn weight<S: Simd>(self, simd: S, words: S::u32s, place: usize, scale: Self::Scale<S>) -> S::f32s;
}

/// Words of a whole block.
pub const fn block_words<F: Format>() -> usize {
    F::HEADER + BLOCK / F::PER_WORD * PANEL
}

/// IEEE single precision, as it is.
#[derive(Clone, Copy)]
pub struct F32;

impl Format for F32 {
    const PER_WORD: usize = 1;
    const HEADER: usize = 0;
    const GROUPS: usize = 1;
    type Scale<S: Simd> = ();

    #[inline(always)]
    fn scale<S: Simd>(self, _: S, _: &[S::u32s], _: usize, _: usize) {}

    #[inline(always)]
    fn weight<S: Simd>(self, simd: S, words: S::u32s, _: usize, (): ()) -> S::f32s {
        simd.transmute_f32s_u32s(words)
    }
}

/// The upper half of single precision.
#[derive(Clone, Copy)]
pub struct Bf16;

impl Format for Bf16 {
    const PER_WORD: usize = 2;
    const HEADER: usize = 0;
    const GROUPS: usize = 1;
    type Scale<S: Simd> = ();

    #[inline(always)]
    fn scale<S: Simd>(self, _: S, _: &[S::u32s], _: usize, _: usize) {}

    #[inline(always)]
    fn weight<S: Simd>(self, simd: S, words: S::u32s, place: usize, (): ()) -> S::f32s {
        let bits = match place {
            0 => simd.wrapping_dyn_shl_u32s(words, simd.splat_u32s(16)),
            _ => simd.and_u32s(words, simd.splat_u32s(0xffff_0000)),
        };
        simd.transmute_f32s_u32s(bits)
    }
}

/// IEEE half precision; finite numbers only.
#[derive(Clone, Copy)]
pub struct F16;

impl Format for F16 {
    const PER_WORD: usize = 2;
    const HEADER: usize = 0;
    const GROUPS: usize = 1;
    type Scale<S: Simd> = ();

    #[inline(always)]
    fn scale<S: Simd>(self, _: S, _: &[S::u32s], _: usize, _: usize) {}

    #[inline(always)]
    fn weight<S: Simd>(self, simd: S, words: S::u32s, place: usize, (): ()) -> S::f32s {
        let half = simd.wrapping_dyn_shr_u32s(words, simd.splat_u32s(16 * place as u32));
        half_to_single(simd, half)
    }
}

/// Half precision in the lower 16 bits to single precision: the exponent is moved to its place and corrected by a
/// multiplication with 2^112 (the difference of the biases), which is exact and right for subnormal numbers too.
#[inline(always)]
fn half_to_single<S: Simd>(simd: S, half: S::u32s) -> S::f32s {
    let shifted =
        |mask, places| simd.wrapping_dyn_shl_u32s(simd.and_u32s(half, simd.splat_u32s(mask)), simd.splat_u32s(places));
    let magnitude = simd.transmute_f32s_u32s(shifted(0x7fff, 13));
    let magnitude = simd.mul_f32s(magnitude, simd.splat_f32s(f32::from_bits((127 + 112) << 23)));
    simd.transmute_f32s_u32s(simd.or_u32s(simd.transmute_u32s_f32s(magnitude), shifted(0x8000, 16)))
}

/// `BITS` a weight: `(code - zero) * scale + minimum`, with scales as `H` keeps them.
#[derive(Clone, Copy)]
pub struct Quantised<const BITS: usize, H> {
    zero: f32,
    header: H,
}

impl<const BITS: usize, H: Header> Quantised<BITS, H> {
    /// Codes that stand for 0 at `zero`.
    pub fn new(zero: u8, header: H) -> Self {
        Self { zero: f32::from(zero), header }
    }
}

/// What turns `1 + code / step` into a weight: a factor and an offset.
type Line<S> = (<S as Simd>::f32s, <S as Simd>::f32s);

/// A code in the upper bits of the mantissa of 1.0 is the number `1 + code / step`; a multiply-add makes the weight of
/// it, `number * (step * scale) + (minimum - (step + zero) * scale)`. Every second code of 4 bits lies four bits further
/// down, where codes of 8 bits end, so that one shift serves two: their step is 256, that of the others 16.
///
/// Product and offset are exact unless the minimum is far smaller than the scale, or they have more than the 11 digits of
/// half precision; then the weight is off by `2^-15` of the scale at most.
impl<const BITS: usize, H: Header> Format for Quantised<BITS, H> {
    const PER_WORD: usize = 32 / BITS;
    const HEADER: usize = H::WORDS;
    const GROUPS: usize = H::GROUPS;
    /// For the steps 256 and 16.
    type Scale<S: Simd> = [Line<S>; 2];

    #[inline(always)]
    fn scale<S: Simd>(self, simd: S, header: &[S::u32s], group: usize, vector: usize) -> [Line<S>; 2] {
        let (scale, minimum) = self.header.read(simd, header, group, vector);
        [256.0, 16.0].map(
            #[inline(always)]
            |step| {
                let offset = simd.mul_add_e_f32s(scale, simd.splat_f32s(-(step + self.zero)), minimum);
                (simd.mul_f32s(scale, simd.splat_f32s(step)), offset)
            },
        )
    }

    #[inline(always)]
    fn weight<S: Simd>(self, simd: S, words: S::u32s, place: usize, scale: [Line<S>; 2]) -> S::f32s {
        /// Where a code begins in the mantissa if its step is 256.
        const START: usize = 15;
        let (byte, within) = (BITS * place / 8 * 8, BITS * place % 8);
        let moved = if byte <= START {
            simd.wrapping_dyn_shl_u32s(words, simd.splat_u32s((START - byte) as u32))
        } else {
            simd.wrapping_dyn_shr_u32s(words, simd.splat_u32s((byte - START) as u32))
        };
        let code = simd.and_u32s(moved, simd.splat_u32s(((1 << BITS) - 1) << (START + within)));
        let number = simd.or_u32s(code, simd.splat_u32s(1f32.to_bits()));
        let (factor, offset) = scale[within / 4];
        simd.mul_add_e_f32s(simd.transmute_f32s_u32s(number), factor, offset)
    }
}

/// Where the scales and minima of a block are.
pub trait Header: Copy + Send + Sync {
    const GROUPS: usize;
    const WORDS: usize;

    /// Scale and minimum of a run of inputs, for the outputs of the `vector`-th register.
    fn read<S: Simd>(self, simd: S, header: &[S::u32s], group: usize, vector: usize) -> (S::f32s, S::f32s);

    /// Puts down those of one output.
    fn write(header: &mut [u32], group: usize, output: usize, scale: f32, minimum: f32);
}

/// Both in half precision, in one word: what the formats with one scale for 32 weights have in their files.
#[derive(Clone, Copy)]
pub struct Halves;

impl Header for Halves {
    const GROUPS: usize = 1;
    const WORDS: usize = PANEL;

    #[inline(always)]
    fn read<S: Simd>(self, simd: S, header: &[S::u32s], _: usize, vector: usize) -> (S::f32s, S::f32s) {
        let words = header[vector];
        let minimum = simd.wrapping_dyn_shr_u32s(words, simd.splat_u32s(16));
        (half_to_single(simd, words), half_to_single(simd, minimum))
    }

    fn write(header: &mut [u32], _: usize, output: usize, scale: f32, minimum: f32) {
        let bits = |value: f32| u32::from(half::f16::from_f32(value).to_bits());
        header[output] = bits(scale) | bits(minimum) << 16;
    }
}

/// Each in single precision: the products of two scales that K-quants have are not half-precision numbers.
#[derive(Clone, Copy)]
pub struct Singles<const GROUPS: usize>;

impl<const GROUPS: usize> Header for Singles<GROUPS> {
    const GROUPS: usize = GROUPS;
    const WORDS: usize = 2 * GROUPS * PANEL;

    #[inline(always)]
    fn read<S: Simd>(self, simd: S, header: &[S::u32s], group: usize, vector: usize) -> (S::f32s, S::f32s) {
        let registers = PANEL / S::F32_LANES;
        let scale = header[2 * group * registers + vector];
        let minimum = header[(2 * group + 1) * registers + vector];
        (simd.transmute_f32s_u32s(scale), simd.transmute_f32s_u32s(minimum))
    }

    fn write(header: &mut [u32], group: usize, output: usize, scale: f32, minimum: f32) {
        header[2 * group * PANEL + output] = scale.to_bits();
        header[(2 * group + 1) * PANEL + output] = minimum.to_bits();
    }
}
