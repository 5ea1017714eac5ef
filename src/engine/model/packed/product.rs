//! Products with packed weights: `x W^T`, and `y W` for the backward pass.
//!
//! A task is one panel: 32 columns of the result. It decodes its weights a few blocks at a time into a buffer that fits
//! the first-level cache, and multiplies all rows with them, as many rows at a time as accumulators fit the registers.
//! For few rows the decoded weights stay in registers. Either way each element of the result is one chain of fused
//! multiply-adds along the inputs, so it depends neither on the other rows nor on the number of threads.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::format::{BLOCK, Format, PANEL, block_words};

/// Inputs whose weights are decoded at a time: 8 kB of them.
const DEPTH: usize = 2 * BLOCK;

/// Rows of the left factor, in groups whose numbers at one input are side by side.
pub struct Rows {
    groups: Vec<RowGroup>,
    values: Vec<f32>,
    /// Inputs, a multiple of [`BLOCK`]; those beyond the matrix are 0.
    depth: usize,
    /// Of all groups, those that fill up a group included.
    slots: usize,
}

#[derive(Clone, Copy)]
struct RowGroup {
    /// The first of its rows in the left factor, and in the result of a panel.
    first: usize,
    slot: usize,
    rows: usize,
    /// Rows that are computed: those beyond `rows` are 0.
    size: usize,
}

/// Group sizes for which there is code, by the number of vector registers: two accumulators a row, and some to spare.
fn group_sizes() -> &'static [usize] {
    struct Registers;
    impl WithSimd for Registers {
        type Output = usize;
        #[inline(always)]
        fn with_simd<S: Simd>(self, _: S) -> usize {
            S::REGISTER_COUNT
        }
    }
    if pulp::Arch::new().dispatch(Registers) >= 32 { &[12, 8, 4, 2, 1] } else { &[6, 4, 2, 1] }
}

impl Rows {
    /// Lays out `x`, rows of `width`.
    pub fn pack(x: &[f32], width: usize) -> Self {
        let (count, depth) = (x.len() / width, width.next_multiple_of(BLOCK));
        let sizes = group_sizes();
        let (mut groups, mut first, mut slots) = (Vec::new(), 0, 0);
        while first < count {
            let left = count - first;
            let smallest = sizes.iter().rev().find(|&&size| size >= left);
            let size = *smallest.unwrap_or(&sizes[0]);
            groups.push(RowGroup { first, slot: slots, rows: left.min(size), size });
            first += left.min(size);
            slots += size;
        }
        let mut values = vec![0f32; slots * depth];
        let mut rest = values.as_mut_slice();
        let mut parts = Vec::with_capacity(groups.len());
        for group in &groups {
            let (part, others) = rest.split_at_mut(group.size * depth);
            parts.push((part, group));
            rest = others;
        }
        parts.into_par_iter().with_min_len(4).for_each(|(part, group)| {
            for row in 0..group.rows {
                let source = &x[(group.first + row) * width..][..width];
                part[row..].iter_mut().step_by(group.size).zip(source).for_each(|(to, from)| *to = *from);
            }
        });
        Self { groups, values, depth, slots }
    }

    /// The values of a group, `[depth, size]`.
    fn group(&self, group: RowGroup) -> &[f32] {
        &self.values[group.slot * self.depth..][..group.size * self.depth]
    }

    /// Brings the results of panels, `[slots, PANEL]` each, into rows of `width`.
    pub fn unpack(&self, panels: &[f32], width: usize) -> Vec<f32> {
        let count: usize = self.groups.iter().map(|group| group.rows).sum();
        let mut out = vec![0f32; count * width];
        let per_group = out.par_chunks_mut(self.groups.first().map_or(1, |group| group.rows) * width);
        per_group.zip(&self.groups).for_each(|(out, group)| {
            for (row, out) in out.chunks_exact_mut(width).enumerate() {
                for (out, panel) in out.chunks_mut(PANEL).zip(panels.chunks_exact(self.slots * PANEL)) {
                    out.copy_from_slice(&panel[(group.slot + row) * PANEL..][..out.len()]);
                }
            }
        });
        out
    }

    /// Room for the results of a number of panels.
    pub fn room(&self, panels: usize) -> Vec<f32> {
        vec![0f32; panels * self.slots * PANEL]
    }

    /// Elements of one panel's results.
    pub fn panel_len(&self) -> usize {
        self.slots * PANEL
    }
}

/// One panel of `x W^T`: `words` are the panel's blocks, `out` is `[slots, PANEL]`.
pub struct PanelProduct<'a, F> {
    pub format: F,
    pub words: &'a [u32],
    pub x: &'a Rows,
    pub out: &'a mut [f32],
}

impl<F: Format> WithSimd for PanelProduct<'_, F> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { format, words, x, out } = self;
        if let [group] = x.groups[..] {
            match group.size {
                1 => return multiply_few::<S, F, 1>(simd, format, words, x.group(group), out),
                2 => return multiply_few::<S, F, 2>(simd, format, words, x.group(group), out),
                4 => return multiply_few::<S, F, 4>(simd, format, words, x.group(group), out),
                _ => {}
            }
        }
        let mut weights = [0f32; DEPTH * PANEL];
        let chunks = words.chunks(DEPTH / BLOCK * block_words::<F>());
        for (chunk, words) in chunks.enumerate() {
            let blocks = words.chunks_exact(block_words::<F>());
            let depth = blocks.len() * BLOCK;
            for (index, block) in blocks.enumerate() {
                decode(simd, format, block, &mut weights, index * BLOCK);
            }
            multiply(simd, x, chunk * DEPTH..chunk * DEPTH + depth, &weights, out);
        }
    }
}

/// One panel of `y W`: the inputs of the block column `column` of a matrix of `blocks` block columns.
pub struct BackwardPanel<'a, F> {
    pub format: F,
    /// Of the whole matrix.
    pub words: &'a [u32],
    pub blocks: usize,
    pub column: usize,
    pub y: &'a Rows,
    pub out: &'a mut [f32],
}

impl<F: Format> WithSimd for BackwardPanel<'_, F> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let width = 2 * S::F32_LANES;
        let (mut decoded, mut weights) = ([0f32; DEPTH * PANEL], [0f32; DEPTH * PANEL]);
        let panels = self.y.depth / PANEL;
        for start in (0..panels).step_by(DEPTH / PANEL) {
            let end = panels.min(start + DEPTH / PANEL);
            for panel in start..end {
                let block = (panel * self.blocks + self.column) * block_words::<F>();
                decode(simd, self.format, &self.words[block..][..block_words::<F>()], &mut decoded, 0);
                for input in 0..BLOCK {
                    let (part, lane) = (input / width, input % width);
                    let to = part * DEPTH * width + (panel - start) * PANEL * width + lane;
                    for output in 0..PANEL {
                        let from = output / width * DEPTH * width + input * width + output % width;
                        weights[to + output * width] = decoded[from];
                    }
                }
            }
            multiply(simd, self.y, start * PANEL..end * PANEL, &weights, self.out);
        }
    }
}

/// Decodes a block to `weights`, `[PANEL / width][DEPTH][width]` with two registers to a `width`, from input `depth` on.
#[inline(always)]
fn decode<S: Simd, F: Format>(simd: S, format: F, block: &[u32], weights: &mut [f32; DEPTH * PANEL], depth: usize) {
    let registers = PANEL / S::F32_LANES;
    let (header, codes) = block.split_at(F::HEADER);
    let (header, codes) = (S::as_simd_u32s(header).0, S::as_simd_u32s(codes).0);
    let (weights, _) = S::as_mut_simd_f32s(weights);
    for part in 0..registers / 2 {
        let weights = &mut weights[(part * DEPTH + depth) * 2..][..2 * BLOCK];
        let runs = weights.chunks_exact_mut(2 * BLOCK / F::GROUPS);
        let codes = codes.chunks_exact(BLOCK / F::GROUPS / F::PER_WORD * registers);
        for (group, (weights, codes)) in runs.zip(codes).enumerate() {
            let scale = [0, 1].map(|half| format.scale(simd, header, group, 2 * part + half));
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

/// Adds the product over a range of inputs to all rows of `out`; the first range sets them.
#[inline(always)]
fn multiply<S: Simd>(
    simd: S,
    x: &Rows,
    inputs: std::ops::Range<usize>,
    weights: &[f32; DEPTH * PANEL],
    out: &mut [f32],
) {
    let width = 2 * S::F32_LANES;
    for &group in &x.groups {
        let values = &x.group(group)[inputs.start * group.size..inputs.end * group.size];
        for part in 0..PANEL / width {
            let weights = &weights[part * DEPTH * width..][..inputs.len() * width];
            let out = &mut out[group.slot * PANEL + part * width..];
            let first = inputs.start == 0;
            match group.size {
                1 => tile::<S, 1>(simd, values, weights, out, first),
                2 => tile::<S, 2>(simd, values, weights, out, first),
                4 => tile::<S, 4>(simd, values, weights, out, first),
                6 if S::REGISTER_COUNT < 32 => tile::<S, 6>(simd, values, weights, out, first),
                8 if S::REGISTER_COUNT >= 32 => tile::<S, 8>(simd, values, weights, out, first),
                12 if S::REGISTER_COUNT >= 32 => tile::<S, 12>(simd, values, weights, out, first),
                _ => {}
            }
        }
    }
}

/// `M` rows times two registers of columns: `x` is `[depth, M]`, `weights` `[depth, 2 * lanes]`, rows of `out` are
/// [`PANEL`] apart.
#[inline(always)]
fn tile<S: Simd, const M: usize>(simd: S, x: &[f32], weights: &[f32], out: &mut [f32], first: bool) {
    let (weights, _) = S::as_simd_f32s(weights);
    let mut sums = [[simd.splat_f32s(0.0); 2]; M];
    if !first {
        for (row, sums) in sums.iter_mut().enumerate() {
            let (out, _) = S::as_simd_f32s(&out[row * PANEL..][..2 * S::F32_LANES]);
            *sums = [out[0], out[1]];
        }
    }
    for (x, weights) in x.as_chunks::<M>().0.iter().zip(weights.as_chunks::<2>().0) {
        accumulate(simd, &mut sums, x, *weights);
    }
    store::<S, M>(&sums, out);
}

/// The whole product of at most four rows with a panel, each weight used as soon as it is decoded.
#[inline(always)]
fn multiply_few<S: Simd, F: Format, const M: usize>(simd: S, format: F, words: &[u32], x: &[f32], out: &mut [f32]) {
    let registers = PANEL / S::F32_LANES;
    let x = x.as_chunks::<M>().0;
    for part in 0..registers / 2 {
        let mut sums = [[simd.splat_f32s(0.0); 2]; M];
        for (block, x) in words.chunks_exact(block_words::<F>()).zip(x.chunks_exact(BLOCK)) {
            let (header, codes) = block.split_at(F::HEADER);
            let (header, codes) = (S::as_simd_u32s(header).0, S::as_simd_u32s(codes).0);
            let codes = codes.chunks_exact(BLOCK / F::GROUPS / F::PER_WORD * registers);
            for (group, (codes, x)) in codes.zip(x.chunks_exact(BLOCK / F::GROUPS)).enumerate() {
                let scale = [0, 1].map(|half| format.scale(simd, header, group, 2 * part + half));
                for (words, x) in codes.chunks_exact(registers).zip(x.chunks_exact(F::PER_WORD)) {
                    let words = [words[2 * part], words[2 * part + 1]];
                    for place in 0..F::PER_WORD {
                        let weights = [0, 1].map(|half| format.weight(simd, words[half], place, scale[half]));
                        accumulate(simd, &mut sums, &x[place], weights);
                    }
                }
            }
        }
        store::<S, M>(&sums, &mut out[part * 2 * S::F32_LANES..]);
    }
}

#[inline(always)]
fn accumulate<S: Simd, const M: usize>(simd: S, sums: &mut [[S::f32s; 2]; M], x: &[f32; M], weights: [S::f32s; 2]) {
    for (sums, x) in sums.iter_mut().zip(x) {
        let x = simd.splat_f32s(*x);
        sums[0] = simd.mul_add_e_f32s(x, weights[0], sums[0]);
        sums[1] = simd.mul_add_e_f32s(x, weights[1], sums[1]);
    }
}

#[inline(always)]
fn store<S: Simd, const M: usize>(sums: &[[S::f32s; 2]; M], out: &mut [f32]) {
    for (row, sums) in sums.iter().enumerate() {
        let (out, _) = S::as_mut_simd_f32s(&mut out[row * PANEL..][..2 * S::F32_LANES]);
        out[0] = sums[0];
        out[1] = sums[1];
    }
}
