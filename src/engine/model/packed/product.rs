//! Products with packed weights: `x W^T`, and `y W` for the backward pass.
//!
//! A task is one panel: 32 columns of the result. It decodes its weights a few blocks at a time into a buffer that fits
//! the first-level cache, and multiplies all rows with them, as many rows at a time as accumulators fit the registers.
//! For few rows the decoded weights stay in registers. Either way each element of the result is one chain of fused
//! multiply-adds along the inputs, so it depends neither on the other rows nor on the number of threads.

use pulp::{Simd, WithSimd};

use super::{
    format::{BLOCK, Format, PANEL, block_words},
    rows::{DEPTH, RowGroup, Rows, Run},
    words::{LINE, prefetch},
};

/// Weights of a panel while they are multiplied with: `[PANEL / width][DEPTH][width]`, two registers to a `width`.
type Weights = [f32; DEPTH * PANEL];

/// One panel of `x W^T`: `words` are the panel's blocks, `out` is `[slots, PANEL]`. Memory that is read next is brought
/// nearer meanwhile.
pub fn panel_product<F: Format>(format: F, words: &[u32], x: &Rows, next: &[u32], out: &mut [f32]) {
    match x.groups[..] {
        [RowGroup { size: 1, .. }] => dispatch(Few::<F, 1> { format, words, x: x.only_group(), next, out }),
        [RowGroup { size: 2, .. }] => dispatch(Few::<F, 2> { format, words, x: x.only_group(), next, out }),
        [RowGroup { size: 4, .. }] => dispatch(Few::<F, 4> { format, words, x: x.only_group(), next, out }),
        [RowGroup { size: 8, .. }] => dispatch(Few::<F, 8> { format, words, x: x.only_group(), next, out }),
        [RowGroup { size: 12, .. }] => dispatch(Few::<F, 12> { format, words, x: x.only_group(), next, out }),
        _ => {
            let mut weights = [0f32; DEPTH * PANEL];
            for (chunk, words) in words.chunks(DEPTH / BLOCK * block_words::<F>()).enumerate() {
                dispatch(Decode { format, words, weights: &mut weights });
                let inputs = words.len() / block_words::<F>() * BLOCK;
                dispatch(Multiply { x, chunk, inputs, weights: &weights, words, out });
            }
        }
    }
}

/// One panel of `y W`: the inputs of the block column `column` of a matrix of `blocks` block columns. `words` are those
/// of the whole matrix, `out` is `[slots, PANEL]`.
pub fn backward_panel<F: Format>(
    format: F,
    (words, blocks): (&[u32], usize),
    column: usize,
    y: &Rows,
    out: &mut [f32],
) {
    let lanes = lanes();
    let (mut decoded, mut weights) = ([0f32; DEPTH * PANEL], [0f32; DEPTH * PANEL]);
    let panels = words.len() / (blocks * block_words::<F>());
    for (chunk, start) in (0..panels).step_by(DEPTH / PANEL).enumerate() {
        let end = panels.min(start + DEPTH / PANEL);
        for panel in start..end {
            let block = (panel * blocks + column) * block_words::<F>();
            dispatch(Decode { format, words: &words[block..][..block_words::<F>()], weights: &mut decoded });
            let depth = (panel - start) * PANEL;
            match lanes {
                16 => transpose::<32>(&decoded, &mut weights, depth),
                8 => transpose::<16>(&decoded, &mut weights, depth),
                4 => transpose::<8>(&decoded, &mut weights, depth),
                _ => transpose::<2>(&decoded, &mut weights, depth),
            }
        }
        let inputs = (end - start) * PANEL;
        dispatch(Multiply { x: y, chunk, inputs, weights: &weights, words: &[], out });
    }
}

/// Brings the first block of inputs of decoded weights to where a block of outputs would be, from `depth` on. `W` is the
/// width that this machine decodes to.
fn transpose<const W: usize>(decoded: &Weights, weights: &mut Weights, depth: usize) {
    for outputs in 0..PANEL / W {
        for inputs in 0..PANEL / W {
            let from = &decoded[(outputs * DEPTH + inputs * W) * W..][..W * W];
            let to = &mut weights[(inputs * DEPTH + depth + outputs * W) * W..][..W * W];
            let (from, to) = (from.as_chunks::<W>().0, to.as_chunks_mut::<W>().0);
            for (input, from) in from.iter().enumerate() {
                for (value, to) in from.iter().zip(&mut *to) {
                    to[input] = *value;
                }
            }
        }
    }
}

/// f32 lanes of this machine's vector registers.
fn lanes() -> usize {
    struct Lanes;
    impl WithSimd for Lanes {
        type Output = usize;
        #[inline(always)]
        fn with_simd<S: Simd>(self, _: S) -> usize {
            S::F32_LANES
        }
    }
    dispatch(Lanes)
}

/// Runs code that was compiled for the best instruction set of this machine.
pub fn dispatch<Op: WithSimd>(op: Op) -> Op::Output {
    pulp::Arch::new().dispatch(op)
}

/// Runs `$body` for each place in a word, with `$place` a constant: shifts and masks are then part of the instructions,
/// and scales stay in registers.
macro_rules! each_place {
    ($format:ty, $place:ident => $body:block) => { each_place!(@ $format, $place, $body, 0 1 2 3 4 5 6 7) };
    (@ $format:ty, $place:ident, $body:block, $($number:literal)*) => { $(
        if $number < <$format>::PER_WORD {
            const $place: usize = $number;
            $body
        }
    )* };
}

/// Decodes at most [`DEPTH`] inputs of a panel.
struct Decode<'a, F> {
    format: F,
    words: &'a [u32],
    weights: &'a mut Weights,
}

impl<F: Format> WithSimd for Decode<'_, F> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        for (index, block) in self.words.chunks_exact(block_words::<F>()).enumerate() {
            decode(simd, self.format, block, self.weights, index * BLOCK);
        }
    }
}

/// Decodes a block to `weights`, from input `depth` on.
#[inline(always)]
fn decode<S: Simd, F: Format>(simd: S, format: F, block: &[u32], weights: &mut Weights, depth: usize) {
    let registers = PANEL / S::F32_LANES;
    let (header, codes) = block.split_at(F::HEADER);
    let (header, codes) = (S::as_simd_u32s(header).0, S::as_simd_u32s(codes).0);
    let (weights, _) = S::as_mut_simd_f32s(weights);
    for part in 0..registers / 2 {
        let weights = &mut weights[(part * DEPTH + depth) * 2..][..2 * BLOCK];
        let runs = weights.chunks_exact_mut(2 * BLOCK / F::GROUPS);
        let codes = codes.chunks_exact(BLOCK / F::GROUPS / F::PER_WORD * registers);
        for (group, (weights, codes)) in runs.zip(codes).enumerate() {
            let scale = [format.scale(simd, header, group, 2 * part), format.scale(simd, header, group, 2 * part + 1)];
            for (weights, words) in weights.chunks_exact_mut(2 * F::PER_WORD).zip(codes.chunks_exact(registers)) {
                for place in 0..F::PER_WORD {
                    for half in 0..2 {
                        weights[2 * place + half] = format.weight(simd, words[2 * part + half], place, scale[half]);
                    }
                }
            }
        }
    }
}

/// The product over the first `inputs` of a chunk, for all rows; that of the first chunk is written to `out`, the others
/// are added.
struct Multiply<'a> {
    x: &'a Rows,
    chunk: usize,
    inputs: usize,
    weights: &'a Weights,
    /// What the weights were decoded from; what lies behind it is fetched meanwhile, some of it with each group: more
    /// than a dozen lines at a time would have to wait for each other.
    words: &'a [u32],
    out: &'a mut [f32],
}

impl WithSimd for Multiply<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { x, chunk, inputs, weights, words, out } = self;
        let width = 2 * S::F32_LANES;
        let lines = words.len().div_ceil(LINE).div_ceil(x.groups.len().max(1));
        for (index, &group) in x.groups.iter().enumerate() {
            for line in index * lines..(index + 1) * lines {
                prefetch(words, words.len() + line * LINE);
            }
            let values = x.group(group, chunk);
            for part in 0..PANEL / width {
                let weights = &weights[part * DEPTH * width..][..inputs * width];
                let out = &mut out[group.first * PANEL + part * width..];
                match group.size {
                    1 => tile::<S, 1>(simd, values, weights, (chunk == 0, out)),
                    2 => tile::<S, 2>(simd, values, weights, (chunk == 0, out)),
                    4 => tile::<S, 4>(simd, values, weights, (chunk == 0, out)),
                    6 if S::REGISTER_COUNT < 32 => tile::<S, 6>(simd, values, weights, (chunk == 0, out)),
                    8 if S::REGISTER_COUNT >= 32 => tile::<S, 8>(simd, values, weights, (chunk == 0, out)),
                    12 if S::REGISTER_COUNT >= 32 => tile::<S, 12>(simd, values, weights, (chunk == 0, out)),
                    _ => {}
                }
            }
        }
    }
}

/// `M` rows times two registers of columns: `x` is `[M]` runs, `weights` `[depth, 2 * lanes]`, rows of `out` are
/// [`PANEL`] apart, and what is in them counts unless they are `new`.
#[inline(always)]
fn tile<S: Simd, const M: usize>(simd: S, x: &[Run], weights: &[f32], (new, out): (bool, &mut [f32])) {
    let Some(x) = x.first_chunk::<M>() else { return };
    let (weights, _) = S::as_simd_f32s(weights);
    let mut sums = if new { [[simd.splat_f32s(0.0); 2]; M] } else { load::<S, M>(simd, out) };
    for (input, weights) in weights.as_chunks::<2>().0.iter().enumerate().take(DEPTH) {
        // The rows that are multiplied next, which lie behind these.
        prefetch(x.as_flattened(), x.as_flattened().len() + input * LINE);
        accumulate(simd, &mut sums, x, input, *weights);
    }
    store::<S, M>(&sums, out);
}

/// Lines of what is read next that are fetched with each block.
const NEXT_LINES: usize = 2;

/// The whole product of `M` rows with a panel, each weight used as soon as it is decoded.
struct Few<'a, F, const M: usize> {
    format: F,
    words: &'a [u32],
    /// `[chunks, M]`.
    x: &'a [Run],
    next: &'a [u32],
    out: &'a mut [f32],
}

impl<F: Format, const M: usize> WithSimd for Few<'_, F, M> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { format, words, x, next, out } = self;
        if M > 4 && S::REGISTER_COUNT < 32 {
            return;
        }
        let registers = PANEL / S::F32_LANES;
        let run = BLOCK / F::GROUPS;
        let x = x.as_chunks::<M>().0;
        for part in 0..registers / 2 {
            let mut sums = [[simd.splat_f32s(0.0); 2]; M];
            for (chunk, (words, x)) in words.chunks(DEPTH / BLOCK * block_words::<F>()).zip(x).enumerate() {
                for (index, block) in words.chunks_exact(block_words::<F>()).enumerate() {
                    fetch_ahead::<F>(block);
                    for line in 0..NEXT_LINES {
                        prefetch(next, ((chunk * DEPTH / BLOCK + index) * NEXT_LINES + line) * LINE);
                    }
                    let (header, codes) = block.split_at(F::HEADER);
                    let (header, codes) = (S::as_simd_u32s(header).0, S::as_simd_u32s(codes).0);
                    for (group, codes) in codes.chunks_exact(run / F::PER_WORD * registers).enumerate() {
                        let scale = [
                            format.scale(simd, header, group, 2 * part),
                            format.scale(simd, header, group, 2 * part + 1),
                        ];
                        for (word, words) in codes.chunks_exact(registers).enumerate() {
                            let [first, second] = [words[2 * part], words[2 * part + 1]];
                            let start = index * BLOCK + group * run + word * F::PER_WORD;
                            // Never; said once, it is not checked again for each number.
                            if start + F::PER_WORD > DEPTH {
                                continue;
                            }
                            each_place!(F, PLACE => {
                                let weights = [
                                    format.weight(simd, first, PLACE, scale[0]),
                                    format.weight(simd, second, PLACE, scale[1]),
                                ];
                                accumulate(simd, &mut sums, x, start + PLACE, weights);
                            });
                        }
                    }
                }
            }
            store::<S, M>(&sums, &mut out[part * 2 * S::F32_LANES..]);
        }
    }
}

/// Runs `$body` for each of `$m` rows, twelve at most, with `$row` a constant. A loop would do if it were always unrolled:
/// where it is not, the sums are in memory instead of registers, which takes twice as long.
macro_rules! each_row {
    ($m:expr, $row:ident => $body:block) => { each_row!(@ $m, $row, $body, 0 1 2 3 4 5 6 7 8 9 10 11) };
    (@ $m:expr, $row:ident, $body:block, $($number:literal)*) => { $(
        if $number < $m {
            const $row: usize = $number;
            $body
        }
    )* };
}

pub(super) use each_row;

/// Adds one number of each row times two registers of weights.
#[inline(always)]
pub fn accumulate<S: Simd, const M: usize, const D: usize>(
    simd: S,
    sums: &mut [[S::f32s; 2]; M],
    x: &[[f32; D]; M],
    input: usize,
    weights: [S::f32s; 2],
) {
    each_row!(M, ROW => {
        let x = simd.splat_f32s(x[ROW][input]);
        sums[ROW][0] = simd.mul_add_e_f32s(x, weights[0], sums[ROW][0]);
        sums[ROW][1] = simd.mul_add_e_f32s(x, weights[1], sums[ROW][1]);
    });
}

/// Two registers of each row of `out`; rows are [`PANEL`] apart.
#[inline(always)]
pub fn load<S: Simd, const M: usize>(simd: S, out: &[f32]) -> [[S::f32s; 2]; M] {
    let mut sums = [[simd.splat_f32s(0.0); 2]; M];
    each_row!(M, ROW => {
        let (out, _) = S::as_simd_f32s(&out[ROW * PANEL..][..2 * S::F32_LANES]);
        sums[ROW] = [out[0], out[1]];
    });
    sums
}

/// Writes what [`load`] reads.
#[inline(always)]
pub fn store<S: Simd, const M: usize>(sums: &[[S::f32s; 2]; M], out: &mut [f32]) {
    each_row!(M, ROW => {
        let (out, _) = S::as_mut_simd_f32s(&mut out[ROW * PANEL..][..2 * S::F32_LANES]);
        out[0] = sums[ROW][0];
        out[1] = sums[ROW][1];
    });
}

/// Blocks between the one that is computed with and the one that is fetched meanwhile. The processor does not look far
/// enough ahead by itself: between two loads lie a hundred instructions that wait for the first.
const BLOCKS_AHEAD: usize = 3;

/// Has the memory a few blocks behind this one brought nearer.
#[inline(always)]
fn fetch_ahead<F: Format>(block: &[u32]) {
    for line in 0..block_words::<F>().div_ceil(LINE) {
        prefetch(block, BLOCKS_AHEAD * block_words::<F>() + line * LINE);
    }
}
