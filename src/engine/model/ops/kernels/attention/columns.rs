//! Attention of many query heads over rows that all of them see: each lane of a register is a query head of its own.
//!
//! Everything is summed in the order that [`blocks`](super::blocks) says.

use std::ops::Range;

use pulp::Simd;

use super::{
    super::exp,
    Attention,
    blocks::{AT_ONCE, BLOCK, GROUP, KeyHead, QueryHeads, Softmax},
};

/// Levels of the tree in which 16 lanes are summed two by two.
const LEVELS: usize = 4;

/// Room for what a thread computes. Heads are `N` registers of lanes side by side.
#[derive(Default)]
pub struct Columns {
    /// `[head_dim, N]`.
    q: Vec<f32>,
    /// Sums of weighted values, `[head_dim, N]`.
    sums: Vec<f32>,
    /// Scores and then weights, `[BLOCK, N]`.
    weights: Vec<f32>,
    /// `[N]` each: see [`Softmax`].
    tops: Vec<f32>,
    totals: Vec<f32>,
    /// A block of keys and one of values, `[BLOCK, head_dim]` each.
    keys: Vec<f32>,
    values: Vec<f32>,
}

impl Columns {
    /// Lets queries visit these places of their paths, which are whole blocks and the same in all.
    #[inline(always)]
    pub fn visit<S: Simd>(&mut self, simd: S, of: KeyHead<'_>, queries: &mut [QueryHeads<'_>], places: Range<usize>) {
        let (shared, width) = (of.attention.heads.shared_by(), GROUP * S::F32_LANES);
        let count = queries.len() * shared;
        let rows = &queries[0].path[places];
        for start in (0..count).step_by(width) {
            let heads = start..count.min(start + width);
            match heads.len().div_ceil(S::F32_LANES) {
                1 => self.visit_group::<S, 1>(simd, (of, rows), queries, heads),
                2 => self.visit_group::<S, 2>(simd, (of, rows), queries, heads),
                _ => self.visit_group::<S, GROUP>(simd, (of, rows), queries, heads),
            }
        }
    }

    /// Lets some of all heads of the queries, at most `N` registers of them, visit rows.
    #[inline(always)]
    fn visit_group<S: Simd, const N: usize>(
        &mut self,
        simd: S,
        (of, rows): (KeyHead<'_>, &[u32]),
        queries: &mut [QueryHeads<'_>],
        heads: Range<usize>,
    ) {
        let (dim, shared) = (of.attention.heads.head_dim, of.attention.heads.shared_by());
        let lanes = N * S::F32_LANES;
        let (q, sums) = (aligned(&mut self.q, dim * lanes), aligned(&mut self.sums, dim * lanes));
        let (tops, totals) = (aligned(&mut self.tops, lanes), aligned(&mut self.totals, lanes));
        let (keys, values) = (aligned(&mut self.keys, BLOCK * dim), aligned(&mut self.values, BLOCK * dim));
        let weights = aligned(&mut self.weights, BLOCK * lanes);
        // Lanes without a head compute something that is not used.
        for (lane, head) in heads.clone().enumerate() {
            let (query, head) = (&queries[head / shared], head % shared);
            for dimension in 0..dim {
                q[dimension * lanes + lane] = query.q[head * dim + dimension];
                sums[dimension * lanes + lane] = query.out[head * dim + dimension];
            }
            Softmax { top: tops[lane], sum: totals[lane] } = query.softmax[head];
        }
        for rows in rows.as_chunks::<BLOCK>().0 {
            // They lie anywhere: brought together, the processor waits for many of them at once.
            for ((&row, key), value) in rows.iter().zip(keys.chunks_exact_mut(dim)).zip(values.chunks_exact_mut(dim)) {
                key.copy_from_slice(of.keys.row(row, dim));
                value.copy_from_slice(of.values.row(row, dim));
            }
            products::<S, N>(simd, q, keys, weights);
            let factors = weigh::<S, N>(simd, of.attention, weights, [tops, totals]);
            add_values::<S, N>(simd, values, (&factors, weights), sums);
        }
        for (lane, head) in heads.enumerate() {
            let (query, head) = (&mut queries[head / shared], head % shared);
            for dimension in 0..dim {
                query.out[head * dim + dimension] = sums[dimension * lanes + lane];
            }
            query.softmax[head] = Softmax { top: tops[lane], sum: totals[lane] };
        }
    }
}

/// A part of `room` that begins with a line of the processor's cache: registers that lie across two are slow to load.
fn aligned(room: &mut Vec<f32>, len: usize) -> &mut [f32] {
    const LINE: usize = 64;
    room.resize(room.len().max(len + LINE / size_of::<f32>()), 0.0);
    let start = room.as_ptr().align_offset(LINE);
    &mut room[start..][..len]
}

/// The products of `q` with a block of keys.
#[inline(always)]
fn products<S: Simd, const N: usize>(simd: S, q: &[f32], keys: &[f32], products: &mut [f32]) {
    let dim = keys.len() / BLOCK;
    let q = S::as_simd_f32s(q).0.as_chunks::<N>().0;
    let products = S::as_mut_simd_f32s(products).0.as_chunks_mut::<N>().0.as_chunks_mut::<AT_ONCE>().0;
    let half = S::F32_LANES / 2;
    let levels = half.max(1).trailing_zeros();
    // At each level a sum of twice as many lanes as below.
    let mut tree = [[[simd.splat_f32s(0.0); N]; AT_ONCE]; LEVELS];
    for (four, products) in keys.chunks_exact(AT_ONCE * dim).zip(products) {
        let mut keys: [&[f32]; AT_ONCE] = [&[]; AT_ONCE];
        keys.iter_mut().zip(four.chunks_exact(dim)).for_each(|(key, row)| *key = row);
        for leaf in 0..half.max(1) {
            // Lanes that are far apart meet at the lowest levels.
            let lane = if levels == 0 { 0 } else { leaf.reverse_bits() >> (usize::BITS - levels) };
            let mut sums = lane_products(simd, q, &keys, lane);
            if half > 0 {
                add(simd, &mut sums, &lane_products(simd, q, &keys, lane + half));
            }
            let level = leaf.trailing_ones() as usize;
            for before in &tree[..level] {
                add(simd, &mut sums, before);
            }
            tree[level] = sums;
        }
        *products = tree[levels as usize];
    }
}

/// The products over the dimensions of one lane. `q` is `[head_dim, N]`.
#[inline(always)]
fn lane_products<S: Simd, const N: usize>(
    simd: S,
    q: &[[S::f32s; N]],
    keys: &[&[f32]; AT_ONCE],
    lane: usize,
) -> [[S::f32s; N]; AT_ONCE] {
    let mut sums = [[simd.splat_f32s(0.0); N]; AT_ONCE];
    for dimension in (lane..q.len()).step_by(S::F32_LANES) {
        for (key, sums) in keys.iter().zip(&mut sums) {
            let key = simd.splat_f32s(key[dimension]);
            for (sum, q) in sums.iter_mut().zip(&q[dimension]) {
                *sum = simd.mul_add_e_f32s(*q, key, *sum);
            }
        }
    }
    sums
}

#[inline(always)]
fn add<S: Simd, const N: usize>(simd: S, sums: &mut [[S::f32s; N]; AT_ONCE], others: &[[S::f32s; N]; AT_ONCE]) {
    for (sums, others) in sums.iter_mut().zip(others) {
        for (sum, other) in sums.iter_mut().zip(others) {
            *sum = simd.add_f32s(*sum, *other);
        }
    }
}

/// Turns products into weights. Returns what earlier sums are to be multiplied by.
#[inline(always)]
fn weigh<S: Simd, const N: usize>(
    simd: S,
    attention: Attention,
    weights: &mut [f32],
    [tops, totals]: [&mut [f32]; 2],
) -> [S::f32s; N] {
    attention.score(weights);
    let weights = S::as_mut_simd_f32s(weights).0.as_chunks_mut::<N>().0;
    let (tops, totals) = (S::as_mut_simd_f32s(tops).0, S::as_mut_simd_f32s(totals).0);
    let mut factors = [simd.splat_f32s(0.0); N];
    for (register, factor) in factors.iter_mut().enumerate() {
        let mut top = tops[register];
        for weights in &*weights {
            top = simd.max_f32s(top, weights[register]);
        }
        *factor = exps(simd, simd.sub_f32s(tops[register], top));
        tops[register] = top;
        totals[register] = simd.mul_f32s(totals[register], *factor);
    }
    let mut sums = [simd.splat_f32s(0.0); N];
    sums.copy_from_slice(totals);
    for weights in weights {
        for ((weight, top), sum) in weights.iter_mut().zip(&*tops).zip(&mut sums) {
            *weight = exps(simd, simd.sub_f32s(*weight, *top));
            *sum = simd.add_f32s(*sum, *weight);
        }
    }
    totals.copy_from_slice(&sums);
    factors
}

/// [`exp`] of each lane.
#[inline(always)]
fn exps<S: Simd>(_: S, mut x: S::f32s) -> S::f32s {
    for x in bytemuck::cast_slice_mut(std::slice::from_mut(&mut x)) {
        *x = exp(*x);
    }
    x
}

/// Adds a block of weighted values to sums, which are multiplied by `factors` before.
#[inline(always)]
fn add_values<S: Simd, const N: usize>(
    simd: S,
    values: &[f32],
    (factors, weights): (&[S::f32s; N], &[f32]),
    sums: &mut [f32],
) {
    let weights = S::as_simd_f32s(weights).0.as_chunks::<N>().0;
    let sums = S::as_mut_simd_f32s(sums).0.as_chunks_mut::<N>().0;
    let (groups, rest) = sums.as_chunks_mut::<AT_ONCE>();
    let start = groups.len() * AT_ONCE;
    for (group, sums) in groups.iter_mut().enumerate() {
        add_dimensions(simd, (values, group * AT_ONCE), (factors, weights), sums);
    }
    for (dimension, sums) in rest.as_chunks_mut::<1>().0.iter_mut().enumerate() {
        add_dimensions(simd, (values, start + dimension), (factors, weights), sums);
    }
}

/// Adds `D` dimensions of the values, from `start` on.
#[inline(always)]
fn add_dimensions<S: Simd, const D: usize, const N: usize>(
    simd: S,
    (values, start): (&[f32], usize),
    (factors, weights): (&[S::f32s; N], &[[S::f32s; N]]),
    out: &mut [[S::f32s; N]; D],
) {
    let mut sums = *out;
    for sums in &mut sums {
        for (sum, factor) in sums.iter_mut().zip(factors) {
            *sum = simd.mul_f32s(*sum, *factor);
        }
    }
    for (value, weights) in values.chunks_exact(values.len() / BLOCK).zip(weights) {
        for (value, sums) in value[start..start + D].iter().zip(&mut sums) {
            let value = simd.splat_f32s(*value);
            for (sum, weight) in sums.iter_mut().zip(weights) {
                *sum = simd.mul_add_e_f32s(*weight, value, *sum);
            }
        }
    }
    *out = sums;
}
