//! Attention of rows over the rows of their paths.

use rayon::prelude::*;

use super::{add_scaled, dot, exp_sums, max, vectorised};
use crate::engine::model::ops::Paths;

/// How the heads of an attention lie in a row.
#[derive(Clone, Copy, Debug)]
pub struct Heads {
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
}

impl Heads {
    /// Query heads that share one key head.
    fn shared_by(self) -> usize {
        self.heads / self.kv_heads
    }

    fn kv_width(self) -> usize {
        self.kv_heads * self.head_dim
    }

    fn width(self) -> usize {
        self.heads * self.head_dim
    }
}

/// How a layer attends.
#[derive(Clone, Copy, Debug)]
pub struct Attention {
    pub heads: Heads,
    /// What products of queries and keys are multiplied by.
    pub scale: f32,
    /// How many rows a query sees, itself included: the last ones of its path. All without.
    pub window: Option<usize>,
    /// A score `s` becomes `c * tanh(s / c)`.
    pub softcap: Option<f32>,
}

impl Attention {
    /// The part of a path that is inside the window.
    pub fn visible(self, path: &[u32]) -> &[u32] {
        &path[path.len() - self.window.map_or(path.len(), |window| window.min(path.len()))..]
    }

    #[inline(always)]
    fn capped(self, score: f32) -> f32 {
        self.softcap.map_or(score, |cap| cap * (score / cap).tanh())
    }

    /// The derivative of a score that is capped already with respect to the product of query and key.
    #[inline(always)]
    fn slope(self, capped: f32) -> f32 {
        self.scale * self.softcap.map_or(1.0, |cap| 1.0 - (capped / cap) * (capped / cap))
    }
}

/// The scores of one query head over the rows of its path, into `scores` (as long as the path).
#[inline(always)]
fn attention_scores(
    scores: &mut [f32],
    query: &[f32],
    (keys, column): (&[f32], usize),
    path: &[u32],
    attention: Attention,
) {
    let (width, dim) = (attention.heads.kv_width(), attention.heads.head_dim);
    for (score, &row) in scores.iter_mut().zip(path) {
        let start = row as usize * width + column;
        *score = attention.capped(dot(query, &keys[start..start + dim]) * attention.scale);
    }
}

/// Turns scores into weights: softmax.
#[inline(always)]
fn normalise(weights: &mut [f32]) {
    let top = max(weights);
    let inverse = 1.0 / exp_sums(weights, top).0;
    weights.iter_mut().for_each(|weight| *weight *= inverse);
}

/// Rows of keys or values: `width` numbers from `offset` on in every `stride`.
#[derive(Clone, Copy)]
pub struct KvRows<'a> {
    pub values: &'a [f32],
    pub stride: usize,
    pub offset: usize,
}

impl<'a> KvRows<'a> {
    #[inline(always)]
    fn row(self, row: u32, width: usize) -> &'a [f32] {
        &self.values[row as usize * self.stride + self.offset..][..width]
    }
}

/// Attention of each query row over the key and value rows of its path. `q` has rows of `heads * head_dim`, keys and
/// values have rows of `kv_heads * head_dim`.
///
/// The rows of a path lie anywhere in a cache that is larger than the processor's, so each is visited once for all heads.
pub fn attention(q: &[f32], [k, v]: [KvRows; 2], paths: &Paths, attention: Attention) -> Vec<f32> {
    let Attention { heads, scale, .. } = attention;
    let (width, kv_width, dim) = (heads.width(), heads.kv_width(), heads.head_dim);
    let mut out = vec![0f32; q.len()];
    out.par_chunks_mut(width).enumerate().for_each_init(Vec::new, |weights, (query, out)| {
        let path = attention.visible(paths.path(query));
        let q = &q[query * width..][..width];
        // One after another for each head.
        weights.clear();
        weights.resize(path.len() * heads.heads, 0f32);
        vectorised(
            #[inline(always)]
            || {
                for (place, &row) in path.iter().enumerate() {
                    let k = k.row(row, kv_width);
                    for head in 0..heads.heads {
                        let k = &k[head / heads.shared_by() * dim..][..dim];
                        let product = dot(&q[head * dim..][..dim], k);
                        weights[head * path.len() + place] = attention.capped(product * scale);
                    }
                }
                for weights in weights.chunks_exact_mut(path.len()) {
                    normalise(weights);
                }
                for (place, &row) in path.iter().enumerate() {
                    let v = v.row(row, kv_width);
                    for head in 0..heads.heads {
                        let v = &v[head / heads.shared_by() * dim..][..dim];
                        add_scaled(&mut out[head * dim..][..dim], weights[head * path.len() + place], v);
                    }
                }
            },
        )
    });
    out
}

/// The gradients of one key head and of the query heads that share it, each contiguous.
struct HeadGradient {
    /// `[queries, shared_by * head_dim]`.
    q: Vec<f32>,
    /// `[rows, head_dim]`.
    k: Vec<f32>,
    v: Vec<f32>,
}

/// The gradients of [`attention`] with respect to `q`, `k` and `v`.
pub fn attention_backward(
    [q, k, v]: [&[f32]; 3],
    grad: &[f32],
    paths: &Paths,
    attention: Attention,
) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let heads = attention.heads;
    let parts: Vec<HeadGradient> = (0..heads.kv_heads)
        .into_par_iter()
        .map(|kv_head| {
            vectorised(
                #[inline(always)]
                || head_gradient([q, k, v], grad, paths, attention, kv_head),
            )
        })
        .collect();
    let group = heads.shared_by() * heads.head_dim;
    let join = |len: usize, part_width: usize, part: fn(&HeadGradient) -> &[f32]| {
        let mut joined = vec![0f32; len];
        for (row, out) in joined.chunks_exact_mut(part_width * heads.kv_heads).enumerate() {
            for (out, gradient) in out.chunks_exact_mut(part_width).zip(&parts) {
                out.copy_from_slice(&part(gradient)[row * part_width..][..part_width]);
            }
        }
        joined
    };
    (
        join(q.len(), group, |part| &part.q),
        join(k.len(), heads.head_dim, |part| &part.k),
        join(v.len(), heads.head_dim, |part| &part.v),
    )
}

#[inline(always)]
fn head_gradient(
    [q, k, v]: [&[f32]; 3],
    grad: &[f32],
    paths: &Paths,
    attention: Attention,
    kv_head: usize,
) -> HeadGradient {
    let heads = attention.heads;
    let (dim, shared) = (heads.head_dim, heads.shared_by());
    let (width, kv_width, column) = (heads.width(), heads.kv_width(), kv_head * heads.head_dim);
    let (queries, rows) = (q.len() / width, k.len() / kv_width);
    let mut out =
        HeadGradient { q: vec![0.0; queries * shared * dim], k: vec![0.0; rows * dim], v: vec![0.0; rows * dim] };
    let (mut weights, mut slopes, mut d_weights) = (Vec::new(), Vec::new(), Vec::new());
    for query in 0..queries {
        let path = attention.visible(paths.path(query));
        weights.resize(path.len(), 0f32);
        d_weights.resize(path.len(), 0f32);
        for member in 0..shared {
            let start = query * width + (kv_head * shared + member) * dim;
            let (q_head, grad_head) = (&q[start..start + dim], &grad[start..start + dim]);
            attention_scores(&mut weights, q_head, (k, column), path, attention);
            slopes.clear();
            slopes.extend(weights.iter().map(|&score| attention.slope(score)));
            normalise(&mut weights);
            for (d_weight, &row) in d_weights.iter_mut().zip(path) {
                let start = row as usize * kv_width + column;
                *d_weight = dot(grad_head, &v[start..start + dim]);
            }
            let mean = dot(&weights, &d_weights);
            let d_q = &mut out.q[(query * shared + member) * dim..][..dim];
            let weighted = weights.iter().zip(&d_weights).zip(&slopes);
            for (((&weight, &d_weight), &slope), &row) in weighted.zip(path) {
                let row = row as usize;
                let d_score = weight * (d_weight - mean) * slope;
                let start = row * kv_width + column;
                add_scaled(d_q, d_score, &k[start..start + dim]);
                add_scaled(&mut out.k[row * dim..][..dim], d_score, q_head);
                add_scaled(&mut out.v[row * dim..][..dim], weight, grad_head);
            }
        }
    }
    out
}
