//! The gradients of attention: scores and weights are computed again, block by block.

use std::ops::Range;

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::{
    super::exp,
    Attention, KvRows,
    blocks::{BLOCK, GROUP, KeyHead, Softmax, add_rows, products},
    forward,
};
use crate::engine::model::ops::Paths;

/// How many parts queries are cut into: what they add to keys and values is summed apart, and always in these parts, so
/// that sums do not depend on the number of threads.
const PARTS: usize = 2;

/// The gradients that come from some queries and the heads of them that share a key head.
struct Part {
    queries: Range<usize>,
    kv_head: usize,
    /// `[queries, shared_by * head_dim]`.
    q: Vec<f32>,
    /// `[rows, head_dim]`.
    k: Vec<f32>,
    v: Vec<f32>,
}

/// The gradients of [`attention`](super::attention) with respect to `q`, `k` and `v`.
pub fn attention_backward(
    [q, k, v]: [&[f32]; 3],
    grad: &[f32],
    paths: &Paths,
    attention: Attention,
) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let heads = attention.heads;
    let kv = [k, v].map(|values| KvRows { values, stride: heads.kv_width(), offset: 0 });
    let (out, softmax) = forward(q, kv, paths, attention);
    let part = |index: usize| {
        let (kv_head, queries) = (index / PARTS, part(paths, index % PARTS));
        let [keys, values] = kv.map(|rows| rows.column(kv_head * heads.head_dim));
        let key_head = KeyHead { keys, values, attention };
        let task = Backward { q, grad, out: &out, softmax: &softmax, paths, queries, key_head, kv_head };
        pulp::Arch::new().dispatch(task)
    };
    let parts: Vec<Part> = (0..heads.kv_heads * PARTS).into_par_iter().map(part).collect();
    let (mut d_q, mut d_k, mut d_v) = (vec![0f32; q.len()], vec![0f32; k.len()], vec![0f32; v.len()]);
    let (group, dim) = (heads.shared_by() * heads.head_dim, heads.head_dim);
    for part in &parts {
        add_columns(&mut d_q[part.queries.start * heads.width()..], &part.q, (heads.width(), group), part.kv_head);
        add_columns(&mut d_k, &part.k, (heads.kv_width(), dim), part.kv_head);
        add_columns(&mut d_v, &part.v, (heads.kv_width(), dim), part.kv_head);
    }
    (d_q, d_k, d_v)
}

/// The queries of a part: each part has about as many rows to see.
fn part(paths: &Paths, part: usize) -> Range<usize> {
    let mut ends: Vec<usize> = (0..paths.len()).map(|query| paths.path(query).len()).collect();
    let mut seen = 0;
    for end in &mut ends {
        seen += *end;
        *end = seen;
    }
    let before = |part: usize| ends.partition_point(|&end| end * PARTS <= seen * part);
    before(part)..before(part + 1)
}

/// Adds rows of `group` numbers to the `column`th such group of rows of `width`.
fn add_columns(to: &mut [f32], from: &[f32], (width, group): (usize, usize), column: usize) {
    for (to, from) in to.chunks_exact_mut(width).zip(from.chunks_exact(group)) {
        to[column * group..][..group].iter_mut().zip(from).for_each(|(to, from)| *to += from);
    }
}

/// The work on a part. `q`, `grad` and `out` are `[queries, heads * head_dim]`, `softmax` is `[queries, heads]`.
struct Backward<'a> {
    q: &'a [f32],
    grad: &'a [f32],
    out: &'a [f32],
    softmax: &'a [Softmax],
    paths: &'a Paths,
    queries: Range<usize>,
    key_head: KeyHead<'a>,
    kv_head: usize,
}

/// `N` heads of a query.
struct Group<'a> {
    /// `[N, head_dim]`.
    q: &'a [f32],
    grad: &'a [f32],
    out: &'a [f32],
    softmax: &'a [Softmax],
    /// The gradient of `q`.
    d_q: &'a mut [f32],
}

impl WithSimd for Backward<'_> {
    type Output = Part;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Part {
        let attention = self.key_head.attention;
        let (dim, shared) = (attention.heads.head_dim, attention.heads.shared_by());
        let rows = self.key_head.keys.values.len() / self.key_head.keys.stride;
        let mut part = Part {
            queries: self.queries.clone(),
            kv_head: self.kv_head,
            q: vec![0.0; self.queries.len() * shared * dim],
            k: vec![0.0; rows * dim],
            v: vec![0.0; rows * dim],
        };
        for (query, d_q) in self.queries.clone().zip(part.q.chunks_exact_mut(shared * dim)) {
            let path = attention.visible(self.paths.path(query));
            for member in (0..shared).step_by(GROUP) {
                let count = GROUP.min(shared - member);
                let first = (query * attention.heads.kv_heads + self.kv_head) * shared + member;
                let numbers = first * dim..(first + count) * dim;
                let d_q = &mut d_q[member * dim..][..count * dim];
                let group = Group {
                    q: &self.q[numbers.clone()],
                    grad: &self.grad[numbers.clone()],
                    out: &self.out[numbers.clone()],
                    softmax: &self.softmax[first..first + count],
                    d_q,
                };
                let d_kv = (part.k.as_mut_slice(), part.v.as_mut_slice());
                match count {
                    1 => group_gradient::<S, 1>(simd, self.key_head, group, path, d_kv),
                    2 => group_gradient::<S, 2>(simd, self.key_head, group, path, d_kv),
                    _ => group_gradient::<S, GROUP>(simd, self.key_head, group, path, d_kv),
                }
            }
        }
        part
    }
}

/// Adds the gradients of `N` heads of a query over its path. With weights `p = softmax(s)`, `d p = grad v` and
/// `d s = p (d p - sum p d p)`, where the sum is that of the gradient and the result, element by element.
#[inline(always)]
fn group_gradient<S: Simd, const N: usize>(
    simd: S,
    of: KeyHead<'_>,
    group: Group<'_>,
    path: &[u32],
    (d_k, d_v): (&mut [f32], &mut [f32]),
) {
    let Group { q, grad, out, softmax, d_q } = group;
    let (attention, dim) = (of.attention, of.attention.heads.head_dim);
    let mut means = [0f32; N];
    for (mean, (grad, out)) in means.iter_mut().zip(grad.chunks_exact(dim).zip(out.chunks_exact(dim))) {
        [*mean] = products::<S, 1>(simd, grad, out);
    }
    for path in path.chunks(BLOCK) {
        let (mut weights, mut d_scores) = ([[f32::MIN; BLOCK]; N], [[0f32; BLOCK]; N]);
        for (place, &row) in path.iter().enumerate() {
            let scores = products::<S, N>(simd, q, of.keys.row(row, dim));
            let d_weights = products::<S, N>(simd, grad, of.values.row(row, dim));
            for head in 0..N {
                weights[head][place] = scores[head];
                d_scores[head][place] = d_weights[head];
            }
        }
        for head in 0..N {
            let Softmax { top, sum } = softmax[head];
            let (inverse, mean) = (1.0 / sum, means[head]);
            attention.score(&mut weights[head][..path.len()]);
            for (weight, d_score) in weights[head].iter_mut().zip(&mut d_scores[head]) {
                let slope = attention.slope(*weight);
                *weight = exp(*weight - top) * inverse;
                *d_score = *weight * (*d_score - mean) * slope;
            }
        }
        add_rows(simd, (of.keys, path), (&[1.0; N], &d_scores), d_q);
        for (place, &row) in path.iter().enumerate().take(BLOCK) {
            let range = row as usize * dim..(row as usize + 1) * dim;
            let (mut by_k, mut by_v) = ([0f32; N], [0f32; N]);
            for head in 0..N {
                (by_k[head], by_v[head]) = (d_scores[head][place], weights[head][place]);
            }
            add_heads(simd, &by_k, q, &mut d_k[range.clone()]);
            add_heads(simd, &by_v, grad, &mut d_v[range]);
        }
    }
}

/// Adds `N` heads, `[N, dim]`, by their weights.
#[inline(always)]
fn add_heads<S: Simd, const N: usize>(simd: S, weights: &[f32; N], heads: &[f32], out: &mut [f32]) {
    let dim = out.len();
    let (registers, rest) = S::as_mut_simd_f32s(out);
    for (register, sum) in registers.iter_mut().enumerate() {
        for (head, &weight) in weights.iter().enumerate() {
            let value = S::as_simd_f32s(&heads[head * dim..][..dim]).0[register];
            *sum = simd.mul_add_e_f32s(simd.splat_f32s(weight), value, *sum);
        }
    }
    if !rest.is_empty() {
        let mut sum = simd.partial_load_f32s(rest);
        for (head, &weight) in weights.iter().enumerate() {
            let value = simd.partial_load_f32s(&heads[(head + 1) * dim - rest.len()..][..rest.len()]);
            sum = simd.mul_add_e_f32s(simd.splat_f32s(weight), value, sum);
        }
        simd.partial_store_f32s(rest, sum);
    }
}
