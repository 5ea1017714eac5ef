//! Products with packed weights: `x W^T`, and `y W` for the backward pass.
//!
//! A task is one panel: 32 columns of the result. It decodes its weights a few blocks at a time into a buffer that fits
//! the first-level cache, and multiplies all rows with them, as many rows at a time as accumulators fit the registers.
//! For few rows the decoded weights stay in registers. Either way each element of the result is one chain of fused
//! multiply-adds along the inputs, so it depends neither on the other rows nor on the number of threads.

use std::{borrow::Cow, cell::Cell, ops::Range};

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::{
    format::{BLOCK, F32, Format, PANEL, block_words},
    words::{LINE, prefetch},
};

/// Inputs whose weights are decoded at a time: 8 kB of them.
const DEPTH: usize = 2 * BLOCK;

/// Runs of numbers given to a thread at a time where they are only moved.
const MIN_RUNS: usize = 128;

/// Numbers of room that a thread keeps, 32 MB: the logits of 64 rows and 128,000 tokens.
const MAX_KEPT: usize = 8 << 20;

/// Consecutive inputs of one row of the left factor.
type Run = [f32; DEPTH];

/// Rows of the left factor, in groups that are multiplied together: the runs of a group's rows lie one behind the other,
/// so that one address and fixed distances reach the same input of all of them.
pub struct Rows<'a> {
    groups: Vec<RowGroup>,
    /// Of each group, `[chunks, size]`; inputs beyond the matrix are 0.
    values: Cow<'a, [Run]>,
    /// How many runs the inputs of a row take.
    chunks: usize,
    /// Of all groups, those that fill up a group included.
    slots: usize,
}

#[derive(Clone, Copy)]
pub struct RowGroup {
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
    if dispatch(Registers) >= 32 { &[12, 8, 4, 2, 1] } else { &[6, 4, 2, 1] }
}

/// The groups of a number of rows: the largest size as often as it is filled, then the smallest that holds the rest.
fn group_rows(parts: &[usize]) -> (Vec<RowGroup>, usize) {
    let sizes = group_sizes();
    let (mut groups, mut first, mut slot) = (Vec::new(), 0, 0);
    for &part in parts {
        let end = first + part;
        while first < end {
            let left = end - first;
            let smallest = sizes.iter().rev().find(|&&size| size >= left);
            let size = *smallest.unwrap_or(&sizes[0]);
            groups.push(RowGroup { first, slot, rows: left.min(size), size });
            first += left.min(size);
            slot += size;
        }
    }
    (groups, slot)
}

impl Rows<'_> {
    /// Lays out `x`, rows of `width`. No group has rows of two of the parts, which are given by their numbers of rows.
    pub fn pack(x: &[f32], width: usize, parts: &[usize]) -> Self {
        let chunks = width.div_ceil(DEPTH);
        let (groups, slots) = group_rows(parts);
        // The run that is to be at a place.
        let run = |place: usize| {
            let group = groups[groups.partition_point(|group| group.slot * chunks <= place) - 1];
            let within = place - group.slot * chunks;
            let (chunk, row) = (within / group.size, within % group.size);
            let mut run = [0f32; DEPTH];
            if row < group.rows {
                let rest = &x[(group.first + row) * width..][chunk * DEPTH..width];
                match rest.first_chunk() {
                    Some(whole) => run = *whole,
                    None => run[..rest.len()].copy_from_slice(rest),
                }
            }
            run
        };
        let values: Vec<Run> = (0..slots * chunks).into_par_iter().with_min_len(MIN_RUNS).map(run).collect();
        Self { groups, values: values.into(), chunks, slots }
    }

    /// The values of a group, `[chunks, size, DEPTH]`.
    fn group(&self, group: RowGroup) -> &[Run] {
        &self.values[group.slot * self.chunks..][..group.size * self.chunks]
    }

    /// The rows of a range, which begins and ends with parts.
    pub fn part(&self, rows: &Range<usize>) -> Part<'_> {
        let before = |row: usize| self.groups.partition_point(|group| group.first < row);
        let groups = &self.groups[before(rows.start)..before(rows.end)];
        let slot = groups.first().map_or(0, |group| group.slot);
        let slots = groups.iter().map(|group| group.size).sum();
        let values = &self.values[slot * self.chunks..][..slots * self.chunks];
        let moved = |group: &RowGroup| RowGroup { first: group.first - rows.start, slot: group.slot - slot, ..*group };
        let groups = groups.iter().map(moved).collect();
        Part { rows: Rows { groups, values: values.into(), chunks: self.chunks, slots }, slot }
    }

    /// The results of panels, `[slots, PANEL]` each, as left factor of another product; of their columns, those of a range.
    pub fn of_product(&self, panels: &[f32], columns: &Range<usize>) -> Rows<'static> {
        let chunks = columns.len().div_ceil(DEPTH);
        let mut values = vec![[0f32; DEPTH]; self.slots * chunks];
        for group in &self.groups {
            for row in 0..group.rows {
                let mut column = columns.start;
                while column < columns.end {
                    let place = column - columns.start;
                    let to = group.slot * chunks + place / DEPTH * group.size + row;
                    let from = column / PANEL * self.panel_len() + (group.slot + row) * PANEL + column % PANEL;
                    let count = (PANEL - column % PANEL).min(DEPTH - place % DEPTH).min(columns.end - column);
                    values[to][place % DEPTH..][..count].copy_from_slice(&panels[from..][..count]);
                    column += count;
                }
            }
        }
        Rows { groups: self.groups.clone(), values: values.into(), chunks, slots: self.slots }
    }

    /// Brings the results of panels, `[slots, PANEL]` each, into rows of `width`.
    pub fn unpack(&self, panels: &[f32], width: usize) -> Vec<f32> {
        let slots = self.row_slots();
        if !width.is_multiple_of(PANEL) {
            return slots.iter().flat_map(|&slot| self.gather(panels, slot, width)).collect();
        }
        let (parts, count) = (panels.as_chunks::<PANEL>().0, width / PANEL);
        let part = |place: usize| parts[place % count * self.slots + slots[place / count]];
        let places = (0..slots.len() * count).into_par_iter().with_min_len(DEPTH / PANEL * MIN_RUNS);
        places.map(part).collect::<Vec<[f32; PANEL]>>().into_flattened()
    }

    /// The same, each row on its own.
    pub fn unpack_apart(&self, panels: &[f32], width: usize) -> Vec<Vec<f32>> {
        self.row_slots().par_iter().map(|&slot| self.gather(panels, slot, width)).collect()
    }

    /// The slot of each row.
    fn row_slots(&self) -> Vec<usize> {
        self.groups.iter().flat_map(|group| group.slot..group.slot + group.rows).collect()
    }

    /// Brings the parts of one row together.
    fn gather(&self, panels: &[f32], slot: usize, width: usize) -> Vec<f32> {
        let mut out = Vec::with_capacity(width.next_multiple_of(PANEL));
        for panel in panels.chunks_exact(self.slots * PANEL).take(width.div_ceil(PANEL)) {
            out.extend_from_slice(&panel[slot * PANEL..][..PANEL]);
        }
        out.truncate(width);
        out
    }

    /// Lends room for the results of a number of panels to `f`. What is in it is left from before: the room stays with
    /// the thread, because the system takes longer to find memory for the logits of many rows than to move them.
    /// Exceptionally large room does not, because in time every thread has had its turn.
    pub fn with_room<R>(&self, panels: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
        thread_local! {
            static ROOM: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
        }
        let mut room = ROOM.take();
        let len = panels * self.panel_len();
        if room.len() < len {
            room.resize(len, 0.0);
        }
        let result = f(&mut room[..len]);
        if len <= MAX_KEPT {
            ROOM.set(room);
        }
        result
    }

    /// Elements of one panel's results.
    pub fn panel_len(&self) -> usize {
        self.slots * PANEL
    }
}

/// Some of the rows, with slots of their own.
pub struct Part<'a> {
    pub rows: Rows<'a>,
    /// The first of their slots among those of all rows.
    pub slot: usize,
}

/// What an adapter adds to some rows: `t B^T`, with `t = x A^T`.
pub struct Added<'a> {
    /// The first of their slots.
    pub slot: usize,
    pub t: Rows<'static>,
    /// `[outputs, rank]`, in f32.
    pub b: &'a super::PackedMatrix,
}

/// Weights of a panel while they are multiplied with: `[PANEL / width][DEPTH][width]`, two registers to a `width`.
type Weights = [f32; DEPTH * PANEL];

/// One panel of `x W^T`: `words` are the panel's blocks, `out` is `[slots, PANEL]`.
pub fn panel_product<F: Format>(format: F, words: &[u32], x: &Rows, out: &mut [f32]) {
    match x.groups[..] {
        [group @ RowGroup { size: 1, .. }] => dispatch(Few::<F, 1> { format, words, x: x.group(group), out }),
        [group @ RowGroup { size: 2, .. }] => dispatch(Few::<F, 2> { format, words, x: x.group(group), out }),
        [group @ RowGroup { size: 4, .. }] => dispatch(Few::<F, 4> { format, words, x: x.group(group), out }),
        [group @ RowGroup { size: 8, .. }] => dispatch(Few::<F, 8> { format, words, x: x.group(group), out }),
        [group @ RowGroup { size: 12, .. }] => dispatch(Few::<F, 12> { format, words, x: x.group(group), out }),
        _ => {
            out.fill(0.0);
            let mut weights = [0f32; DEPTH * PANEL];
            for (chunk, words) in words.chunks(DEPTH / BLOCK * block_words::<F>()).enumerate() {
                let start = chunk * DEPTH;
                let inputs = start..start + words.len() / block_words::<F>() * BLOCK;
                dispatch(Decode { format, words, weights: &mut weights });
                dispatch(Multiply { x, inputs, weights: &weights, out });
            }
        }
    }
}

impl Added<'_> {
    /// Adds to a panel of the product with all rows.
    pub fn add(&self, panel: usize, out: &mut [f32]) {
        let out = &mut out[self.slot * PANEL..];
        let mut weights = [0f32; DEPTH * PANEL];
        for (chunk, words) in self.b.panel(panel).chunks(DEPTH / BLOCK * block_words::<F32>()).enumerate() {
            let start = chunk * DEPTH;
            // What fills up the last block is not worth multiplying.
            let inputs = start..self.b.inputs().min(start + DEPTH);
            dispatch(Decode { format: F32, words, weights: &mut weights });
            dispatch(Multiply { x: &self.t, inputs, weights: &weights, out });
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
    out.fill(0.0);
    let lanes = lanes();
    let (mut decoded, mut weights) = ([0f32; DEPTH * PANEL], [0f32; DEPTH * PANEL]);
    let panels = words.len() / (blocks * block_words::<F>());
    for start in (0..panels).step_by(DEPTH / PANEL) {
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
        dispatch(Multiply { x: y, inputs: start * PANEL..end * PANEL, weights: &weights, out });
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
fn dispatch<Op: WithSimd>(op: Op) -> Op::Output {
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
            fetch_ahead::<F>(block);
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

/// Adds the product over a range of inputs to all rows of `out`.
struct Multiply<'a> {
    x: &'a Rows<'a>,
    inputs: Range<usize>,
    weights: &'a Weights,
    out: &'a mut [f32],
}

impl WithSimd for Multiply<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { x, inputs, weights, out } = self;
        let width = 2 * S::F32_LANES;
        for &group in &x.groups {
            let values = &x.group(group)[inputs.start / DEPTH * group.size..][..group.size];
            for part in 0..PANEL / width {
                let weights = &weights[part * DEPTH * width..][..inputs.len() * width];
                let out = &mut out[group.slot * PANEL + part * width..];
                match group.size {
                    1 => tile::<S, 1>(simd, values, weights, out),
                    2 => tile::<S, 2>(simd, values, weights, out),
                    4 => tile::<S, 4>(simd, values, weights, out),
                    6 if S::REGISTER_COUNT < 32 => tile::<S, 6>(simd, values, weights, out),
                    8 if S::REGISTER_COUNT >= 32 => tile::<S, 8>(simd, values, weights, out),
                    12 if S::REGISTER_COUNT >= 32 => tile::<S, 12>(simd, values, weights, out),
                    _ => {}
                }
            }
        }
    }
}

/// `M` rows times two registers of columns: `x` is `[M]` runs, `weights` `[depth, 2 * lanes]`, rows of `out` are
/// [`PANEL`] apart.
#[inline(always)]
fn tile<S: Simd, const M: usize>(simd: S, x: &[Run], weights: &[f32], out: &mut [f32]) {
    let Some(x) = x.first_chunk::<M>() else { return };
    let (weights, _) = S::as_simd_f32s(weights);
    let mut sums = [[simd.splat_f32s(0.0); 2]; M];
    for (row, sums) in sums.iter_mut().enumerate() {
        let (out, _) = S::as_simd_f32s(&out[row * PANEL..][..2 * S::F32_LANES]);
        *sums = [out[0], out[1]];
    }
    for (input, weights) in weights.as_chunks::<2>().0.iter().enumerate().take(DEPTH) {
        accumulate(simd, &mut sums, x, input, *weights);
    }
    store::<S, M>(&sums, out);
}

/// The whole product of `M` rows with a panel, each weight used as soon as it is decoded.
struct Few<'a, F, const M: usize> {
    format: F,
    words: &'a [u32],
    /// `[chunks, M]`.
    x: &'a [Run],
    out: &'a mut [f32],
}

impl<F: Format, const M: usize> WithSimd for Few<'_, F, M> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { format, words, x, out } = self;
        if M > 4 && S::REGISTER_COUNT < 32 {
            return;
        }
        let registers = PANEL / S::F32_LANES;
        let run = BLOCK / F::GROUPS;
        let x = x.as_chunks::<M>().0;
        for part in 0..registers / 2 {
            let mut sums = [[simd.splat_f32s(0.0); 2]; M];
            for (words, x) in words.chunks(DEPTH / BLOCK * block_words::<F>()).zip(x) {
                for (index, block) in words.chunks_exact(block_words::<F>()).enumerate() {
                    fetch_ahead::<F>(block);
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

#[inline(always)]
fn accumulate<S: Simd, const M: usize>(
    simd: S,
    sums: &mut [[S::f32s; 2]; M],
    x: &[Run; M],
    input: usize,
    weights: [S::f32s; 2],
) {
    for (sums, x) in sums.iter_mut().zip(x) {
        let x = simd.splat_f32s(x[input]);
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
