//! The key-value cache: one row a node of the prefix tree, on the model's device.

use std::sync::Arc;

use candle_core::{DType, Result, Tensor};
use rayon::prelude::*;

use crate::engine::{
    model::{
        decoder::{Attend, Decoder},
        ops::{self, KvRows, Paths},
        packed::Memory,
    },
    prefix_tree::NodeId,
};

/// Rows that one thread writes at a time, at least: they are far from each other and from everything that is in use.
const MIN_ROWS: usize = 32;

/// Keys and values of every layer. The memory is reserved at once and touched as rows come into use.
pub struct KvCache {
    layers: Vec<Layer>,
    /// `kv_heads * head_dim`.
    width: usize,
}

enum Layer {
    /// In each row the key and then the value, in large pages: the rows of a sequence lie far from each other.
    Cpu(Memory),
    /// Keys and values, each `[rows, width]`.
    Device(Tensor, Tensor),
}

impl KvCache {
    /// A cache of `rows` token positions.
    pub fn new(decoder: &Decoder, rows: usize) -> Result<Self> {
        let (width, device) = (decoder.config().kv_width(), decoder.device());
        let zeros = || Tensor::zeros((rows, width), DType::F32, device);
        let layer = || match device.is_cpu() {
            true => Ok(Layer::Cpu(Memory::zeros(2 * rows * width))),
            false => Ok(Layer::Device(zeros()?, zeros()?)),
        };
        let layers = decoder.config().layers.iter().map(|_| layer()).collect::<Result<_>>()?;
        Ok(Self { layers, width })
    }

    /// Prepares a pass over these nodes: each is written to its row and attends to its path.
    pub fn pass<'a>(&'a mut self, nodes: &'a [NodeId], paths: Arc<Paths>) -> CachedPass<'a> {
        let mut places: Vec<(NodeId, usize)> = nodes.iter().copied().zip(0..).collect();
        places.sort_unstable();
        CachedPass { cache: self, nodes, places, paths }
    }
}

/// The rows at some places of a memory of rows; places ascend.
fn rows_at(mut memory: &mut [f32], width: usize, places: impl Iterator<Item = usize>) -> Vec<&mut [f32]> {
    let mut next = 0;
    let rows = places.map(|place| {
        let (row, rest) = std::mem::take(&mut memory)[(place - next) * width..].split_at_mut(width);
        (memory, next) = (rest, place + 1);
        row
    });
    rows.collect()
}

/// One pass of rows over the cache.
pub struct CachedPass<'a> {
    cache: &'a mut KvCache,
    /// The cache row of each new key and value.
    nodes: &'a [NodeId],
    /// The same in the order of the cache, with the row of the pass.
    places: Vec<(NodeId, usize)>,
    paths: Arc<Paths>,
}

impl Attend for CachedPass<'_> {
    fn attend(&mut self, layer: usize, attention: ops::Attention, [q, k, v]: [Tensor; 3]) -> Result<Tensor> {
        let width = self.cache.width;
        match &mut self.cache.layers[layer] {
            Layer::Cpu(memory) => {
                let places = self.places.iter().map(|(node, _)| *node as usize);
                let rows = rows_at(memory.floats_mut(), 2 * width, places).into_par_iter().zip(&self.places);
                ops::on_cpu([&k, &v], |[k, v]| {
                    rows.with_min_len(MIN_ROWS).for_each(|(to, (_, row))| {
                        let of_row = *row * width..(*row + 1) * width;
                        to[..width].copy_from_slice(&k[of_row.clone()]);
                        to[width..].copy_from_slice(&v[of_row]);
                    });
                })?;
                let of = |offset| KvRows { values: memory.floats(), stride: 2 * width, offset };
                ops::attention_over(&q, [of(0), of(width)], &self.paths, attention)
            }
            Layer::Device(keys, values) => {
                let rows: Vec<u32> = self.nodes.iter().flat_map(|&node| std::iter::repeat_n(node, width)).collect();
                let rows = Tensor::from_vec(rows, (self.nodes.len(), width), q.device())?;
                keys.scatter_set(&rows, &k, 0)?;
                values.scatter_set(&rows, &v, 0)?;
                ops::attention([&q, keys, values], &self.paths, attention, DType::F32)
            }
        }
    }
}
