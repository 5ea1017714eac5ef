//! Attention of rows over the rows of their paths.
//!
//! The keys and values of a long path are more than a processor's cache holds, so queries that see the same rows visit
//! them together ([`columns`]). What a query sees alone it visits alone ([`blocks`]), with the same result to the last
//! bit.

mod backward;
mod blocks;
mod columns;

use std::ops::Range;

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

pub use self::backward::attention_backward;
use self::{
    blocks::{BLOCK, KeyHead, QueryHeads, Softmax},
    columns::Columns,
};
use super::tanh;
use crate::engine::model::ops::Paths;

/// Products of a query and a key that are worth waking another thread for: some 20 µs.
const MIN_PRODUCTS: usize = 4096;

/// Query heads that visit rows together, at most: as many as three registers of AVX-512 have lanes.
const MAX_TOGETHER: usize = 48;

/// And at least: fewer are faster one by one than in a register that they do not fill.
const MIN_TOGETHER: usize = 8;

/// Rows that are worth bringing query heads together for.
const MIN_ROWS: usize = 2 * BLOCK;

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
        &path[self.seen(path)]
    }

    /// The places of a path that are inside the window.
    fn seen(self, path: &[u32]) -> Range<usize> {
        path.len() - self.window.map_or(path.len(), |window| window.min(path.len()))..path.len()
    }

    /// Turns products of queries and keys into scores.
    #[inline(always)]
    fn score(self, products: &mut [f32]) {
        for product in &mut *products {
            *product *= self.scale;
        }
        if let Some(cap) = self.softcap {
            for product in products {
                *product = cap * tanh(*product / cap);
            }
        }
    }

    /// The derivative of a score with respect to the product of query and key.
    #[inline(always)]
    fn slope(self, score: f32) -> f32 {
        self.scale * self.softcap.map_or(1.0, |cap| 1.0 - (score / cap) * (score / cap))
    }
}

/// Rows of keys or values: `width` numbers from `offset` on in every `stride`.
#[derive(Clone, Copy)]
pub struct KvRows<'a> {
    pub values: &'a [f32],
    pub stride: usize,
    pub offset: usize,
}

impl<'a> KvRows<'a> {
    /// The same rows from their number `column` on.
    fn column(self, column: usize) -> Self {
        Self { offset: self.offset + column, ..self }
    }

    #[inline(always)]
    fn row(self, row: u32, width: usize) -> &'a [f32] {
        &self.values[row as usize * self.stride + self.offset..][..width]
    }
}

/// Attention of each query row over the key and value rows of its path. `q` has rows of `heads * head_dim`, keys and
/// values have rows of `kv_heads * head_dim`.
///
/// A row of the result depends on its own query and path alone, to the last bit.
pub fn attention(q: &[f32], kv: [KvRows; 2], paths: &Paths, attention: Attention) -> Vec<f32> {
    forward(q, kv, paths, attention).0
}

/// [`attention`], and the softmax of each head of each query.
fn forward(q: &[f32], kv: [KvRows; 2], paths: &Paths, attention: Attention) -> (Vec<f32>, Vec<Softmax>) {
    let heads = attention.heads;
    let (shared, width) = (heads.shared_by(), heads.shared_by() * heads.head_dim);
    let mut out = vec![0f32; q.len()];
    let mut softmax = vec![Softmax::EMPTY; paths.len() * heads.heads];
    let parts = q.chunks_exact(width).zip(out.chunks_exact_mut(width)).zip(softmax.chunks_exact_mut(shared));
    let query_heads = |(index, ((q, out), softmax))| {
        let (query, kv_head) = (index / heads.kv_heads, index % heads.kv_heads);
        QueryHeads { query, kv_head, path: paths.path(query), q, out, softmax }
    };
    let mut queries: Vec<QueryHeads> = parts.enumerate().map(query_heads).collect();
    let products: usize = queries.iter().map(|query| attention.seen(query.path).len() * shared).sum();
    let tasks = tasks(&mut queries, paths, heads);
    let together = tasks.len() * MIN_PRODUCTS / products.max(1);
    tasks.into_par_iter().with_min_len(together.max(1)).for_each_init(Columns::default, |columns, queries| {
        pulp::Arch::new().dispatch(Task { kv, paths, attention, queries, columns });
    });
    (out, softmax)
}

/// Sorts the key heads of queries into tasks: one key head of consecutive queries, each of which has most of its path
/// in common with the one before.
fn tasks<'a, 'b>(mut queries: &'a mut [QueryHeads<'b>], paths: &Paths, heads: Heads) -> Vec<&'a mut [QueryHeads<'b>]> {
    // Enough tasks that threads which are done early take one of another.
    let runs = (2 * rayon::current_num_threads()).div_ceil(heads.kv_heads);
    let most = paths.len().div_ceil(runs).min(MAX_TOGETHER / heads.shared_by()).max(1);
    let alike = |query: &usize| 2 * paths.shared(*query) >= paths.path(*query).len();
    let mut tasks = Vec::with_capacity(queries.len());
    let mut start = 0;
    while start < paths.len() {
        let count = 1 + (start + 1..paths.len()).take(most - 1).take_while(alike).count();
        let (run, rest) = queries.split_at_mut(count * heads.kv_heads);
        run.sort_by_key(|query| query.kv_head);
        tasks.extend(run.chunks_exact_mut(count));
        (queries, start) = (rest, start + count);
    }
    tasks
}

/// The work on one key head of consecutive queries.
struct Task<'a, 'b> {
    kv: [KvRows<'a>; 2],
    paths: &'a Paths,
    attention: Attention,
    queries: &'a mut [QueryHeads<'b>],
    columns: &'a mut Columns,
}

impl Task<'_, '_> {
    /// The places of whole blocks that all queries see, if it is faster to visit them together.
    fn seen_by_all(&self) -> Option<Range<usize>> {
        if self.queries.len() * self.attention.heads.shared_by() < MIN_TOGETHER {
            return None;
        }
        let (first, others) = self.queries.split_first().filter(|(_, others)| !others.is_empty())?;
        let mut places = self.attention.seen(first.path);
        for query in others {
            let start = self.attention.seen(query.path).start;
            places = places.start.max(start)..places.end.min(self.paths.shared(query.query));
        }
        let blocks = places.start.next_multiple_of(BLOCK)..places.end / BLOCK * BLOCK;
        (blocks.len() >= MIN_ROWS).then_some(blocks)
    }
}

impl WithSimd for Task<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let together = self.seen_by_all();
        let Self { kv, attention, queries, columns, .. } = self;
        let [keys, values] = kv.map(|rows| rows.column(queries[0].kv_head * attention.heads.head_dim));
        let key_head = KeyHead { keys, values, attention };
        if let Some(places) = &together {
            for query in &mut *queries {
                key_head.visit(simd, query, attention.seen(query.path).start..places.start);
            }
            columns.visit(simd, key_head, queries, places.clone());
        }
        for query in queries {
            let seen = attention.seen(query.path);
            key_head.visit(simd, query, together.as_ref().map_or(seen.start, |places| places.end)..seen.end);
            query.finish();
        }
    }
}
