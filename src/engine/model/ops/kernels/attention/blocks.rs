//! Attention of one query over rows of its path, and in which order everything is summed.
//!
//! Rows are visited in blocks with a softmax that goes along (arXiv 2205.14135): the scores of a block, weights relative
//! to the largest score so far, and sums of weights and of weighted values, which what was there before is scaled to.
//!
//! A product of a query and a key is summed in the lanes of a register, lane `l` over the dimensions `l`, `l + lanes` and
//! so on, and then the lanes in a tree, those furthest apart first. All else is summed along the path, row after row.

use std::ops::Range;

use pulp::Simd;

use super::{
    super::{exp, max},
    Attention, KvRows,
};

/// Rows of a path that are visited at a time. Blocks begin at multiples of it, counted from the start of the path, so
/// that what else is in a pass moves no borders.
pub const BLOCK: usize = 32;

/// Registers, or query heads, whose sums are computed at a time.
pub const GROUP: usize = 3;

/// Keys or parts of values to which a [`GROUP`] is applied at a time: twelve sums hide how long a multiply-add takes and
/// leave some of the 16 registers of AVX2 for what is summed.
pub const AT_ONCE: usize = 4;

/// The softmax of one query head over the rows that it has visited.
#[derive(Clone, Copy)]
pub struct Softmax {
    /// The largest score.
    pub top: f32,
    /// Of `e^(score - top)`.
    pub sum: f32,
}

impl Softmax {
    pub const EMPTY: Self = Self { top: f32::MIN, sum: 0.0 };
}

/// The heads of one query that share a key head.
pub struct QueryHeads<'a> {
    pub query: usize,
    pub kv_head: usize,
    pub path: &'a [u32],
    /// `[heads, head_dim]`.
    pub q: &'a [f32],
    /// Sums of weighted values, `[heads, head_dim]`.
    pub out: &'a mut [f32],
    /// Of each head.
    pub softmax: &'a mut [Softmax],
}

impl QueryHeads<'_> {
    /// Turns sums of weighted values into means.
    #[inline(always)]
    pub fn finish(&mut self) {
        let dim = self.out.len() / self.softmax.len();
        for (out, softmax) in self.out.chunks_exact_mut(dim).zip(&*self.softmax) {
            let inverse = 1.0 / softmax.sum;
            for out in out {
                *out *= inverse;
            }
        }
    }
}

/// The rows of one key head.
#[derive(Clone, Copy)]
pub struct KeyHead<'a> {
    pub keys: KvRows<'a>,
    pub values: KvRows<'a>,
    pub attention: Attention,
}

impl KeyHead<'_> {
    /// Lets a query visit these places of its path.
    #[inline(always)]
    pub fn visit<S: Simd>(self, simd: S, query: &mut QueryHeads<'_>, places: Range<usize>) {
        let width = GROUP * self.attention.heads.head_dim;
        let mut start = places.start;
        while start < places.end {
            let end = places.end.min((start + 1).next_multiple_of(BLOCK));
            let path = &query.path[start..end];
            let groups = query.q.chunks(width).zip(query.out.chunks_mut(width)).zip(query.softmax.chunks_mut(GROUP));
            for ((q, out), softmax) in groups {
                let group = QueryHeads { path, q, out, softmax, ..*query };
                match group.softmax.len() {
                    1 => self.visit_block::<S, 1>(simd, group),
                    2 => self.visit_block::<S, 2>(simd, group),
                    _ => self.visit_block::<S, GROUP>(simd, group),
                }
            }
            start = end;
        }
    }

    /// Lets `N` heads visit a path that is one block, or a part of it.
    #[inline(always)]
    fn visit_block<S: Simd, const N: usize>(self, simd: S, heads: QueryHeads<'_>) {
        let QueryHeads { path, q, out, softmax, .. } = heads;
        let dim = self.attention.heads.head_dim;
        // Where there is no row the score is never the largest, and the weight is not used.
        let mut weights = [[f32::MIN; BLOCK]; N];
        for (place, &row) in path.iter().enumerate() {
            let products = products::<S, N>(simd, q, self.keys.row(row, dim));
            for (weights, product) in weights.iter_mut().zip(products) {
                weights[place] = product;
            }
        }
        let mut factors = [0f32; N];
        for ((weights, softmax), factor) in weights.iter_mut().zip(softmax).zip(&mut factors) {
            self.attention.score(&mut weights[..path.len()]);
            *factor = weigh(softmax, weights, path.len());
        }
        add_rows(simd, (self.values, path), (&factors, &weights), out);
    }
}

/// Adds the weighted rows of a block to what `N` heads have, `[N, dim]`, times `factors`.
#[inline(always)]
pub fn add_rows<S: Simd, const N: usize>(
    simd: S,
    of: (KvRows<'_>, &[u32]),
    by: (&[f32; N], &[[f32; BLOCK]; N]),
    out: &mut [f32],
) {
    let (dim, lanes) = (out.len() / N, S::F32_LANES);
    let (groups, registers) = (dim / (AT_ONCE * lanes), dim / lanes);
    for start in (0..groups).map(|group| group * AT_ONCE * lanes) {
        add_registers::<S, AT_ONCE, N>(simd, of, by, (start, out));
    }
    for start in (groups * AT_ONCE..registers).map(|register| register * lanes) {
        add_registers::<S, 1, N>(simd, of, by, (start, out));
    }
    let rest = registers * lanes..dim;
    if rest.is_empty() {
        return;
    }
    let ((rows, path), (factors, weights)) = (of, by);
    for ((out, factor), weights) in out.chunks_exact_mut(dim).zip(factors).zip(weights) {
        let out = &mut out[rest.clone()];
        let mut sum = simd.mul_f32s(simd.partial_load_f32s(out), simd.splat_f32s(*factor));
        for (&row, &weight) in path.iter().zip(weights) {
            let value = simd.partial_load_f32s(&rows.row(row, dim)[rest.clone()]);
            sum = simd.mul_add_e_f32s(simd.splat_f32s(weight), value, sum);
        }
        simd.partial_store_f32s(out, sum);
    }
}

/// [`add_rows`] for `R` registers of each row, from the number `start` on.
#[inline(always)]
fn add_registers<S: Simd, const R: usize, const N: usize>(
    simd: S,
    (rows, path): (KvRows<'_>, &[u32]),
    (factors, weights): (&[f32; N], &[[f32; BLOCK]; N]),
    (start, out): (usize, &mut [f32]),
) {
    let (dim, width) = (out.len() / N, R * S::F32_LANES);
    let mut sums = [[simd.splat_f32s(0.0); R]; N];
    for head in 0..N {
        let before = S::as_simd_f32s(&out[head * dim + start..][..width]).0;
        for (sum, before) in sums[head].iter_mut().zip(before) {
            *sum = simd.mul_f32s(*before, simd.splat_f32s(factors[head]));
        }
    }
    for (place, &row) in path.iter().enumerate().take(BLOCK) {
        let values = S::as_simd_f32s(&rows.row(row, dim)[start..][..width]).0;
        for head in 0..N {
            let weight = simd.splat_f32s(weights[head][place]);
            for (sum, value) in sums[head].iter_mut().zip(values) {
                *sum = simd.mul_add_e_f32s(weight, *value, *sum);
            }
        }
    }
    for head in 0..N {
        S::as_mut_simd_f32s(&mut out[head * dim + start..][..width]).0.copy_from_slice(&sums[head]);
    }
}

/// The products of `N` queries, `[N, dim]`, with a key.
#[inline(always)]
pub fn products<S: Simd, const N: usize>(simd: S, q: &[f32], key: &[f32]) -> [f32; N] {
    let dim = key.len();
    let mut sums = [simd.splat_f32s(0.0); N];
    let (registers, rest) = S::as_simd_f32s(key);
    for (register, &key) in registers.iter().enumerate() {
        for (head, sum) in sums.iter_mut().enumerate() {
            *sum = simd.mul_add_e_f32s(S::as_simd_f32s(&q[head * dim..][..dim]).0[register], key, *sum);
        }
    }
    if !rest.is_empty() {
        let key = simd.partial_load_f32s(rest);
        for (head, sum) in sums.iter_mut().enumerate() {
            let q = simd.partial_load_f32s(&q[(head + 1) * dim - rest.len()..][..rest.len()]);
            *sum = simd.mul_add_e_f32s(q, key, *sum);
        }
    }
    let mut products = [0f32; N];
    for (product, sum) in products.iter_mut().zip(sums) {
        *product = sum_lanes(simd, sum);
    }
    products
}

/// The upper half is added to the lower half, and so on.
#[inline(always)]
fn sum_lanes<S: Simd>(simd: S, mut sum: S::f32s) -> f32 {
    let mut width = S::F32_LANES / 2;
    while width > 0 {
        sum = simd.add_f32s(sum, simd.rotate_left_f32s(sum, width));
        width /= 2;
    }
    bytemuck::cast_slice(&[sum])[0]
}

/// Turns scores into weights, of which the first `count` are summed. Returns what earlier sums are to be multiplied by.
#[inline(always)]
fn weigh(softmax: &mut Softmax, weights: &mut [f32; BLOCK], count: usize) -> f32 {
    let top = max(weights);
    let top = if softmax.top > top { softmax.top } else { top };
    for weight in weights.iter_mut() {
        *weight = exp(*weight - top);
    }
    let factor = exp(softmax.top - top);
    let mut sum = softmax.sum * factor;
    for weight in &weights[..count] {
        sum += weight;
    }
    *softmax = Softmax { top, sum };
    factor
}
