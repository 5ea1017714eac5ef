//! The key-value cache: one row a node of the prefix tree, on the model's device.

use std::sync::Arc;

use candle_core::{DType, Result, Tensor};

use crate::engine::{
    model::{
        decoder::{Attend, Decoder},
        ops::{self, KvRows, Paths},
        packed::Memory,
    },
    prefix_tree::{NodeId, PrefixTree},
};

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

    /// Prepares a pass over these nodes: each is written to its row and attends to its ancestors and itself.
    pub fn pass<'a>(&'a mut self, tree: &PrefixTree, nodes: &'a [NodeId]) -> CachedPass<'a> {
        let mut paths = Paths::default();
        nodes.iter().for_each(|&node| paths.push(tree.path(node)));
        CachedPass { cache: self, nodes, paths: Arc::new(paths) }
    }
}

/// One pass of rows over the cache.
pub struct CachedPass<'a> {
    cache: &'a mut KvCache,
    /// The cache row of each new key and value.
    nodes: &'a [NodeId],
    paths: Arc<Paths>,
}

impl Attend for CachedPass<'_> {
    fn attend(&mut self, layer: usize, attention: ops::Attention, [q, k, v]: [Tensor; 3]) -> Result<Tensor> {
        let width = self.cache.width;
        match &mut self.cache.layers[layer] {
            Layer::Cpu(memory) => {
                let rows = memory.floats_mut();
                for (tensor, offset) in [(k, 0), (v, width)] {
                    ops::on_cpu(&tensor.contiguous()?, |values| {
                        for (values, &node) in values.chunks_exact(width).zip(self.nodes) {
                            rows[node as usize * 2 * width + offset..][..width].copy_from_slice(values);
                        }
                    })?;
                }
                let of = |offset| KvRows { values: memory.floats(), stride: 2 * width, offset };
                ops::attention_over(&q, [of(0), of(width)], &self.paths, attention)
            }
            Layer::Device(keys, values) => {
                let rows: Vec<u32> = self.nodes.iter().flat_map(|&node| std::iter::repeat_n(node, width)).collect();
                let rows = Tensor::from_vec(rows, (self.nodes.len(), width), q.device())?;
                keys.scatter_set(&rows, &k, 0)?;
                values.scatter_set(&rows, &v, 0)?;
                ops::attention([&q, keys, values], &self.paths, attention)
            }
        }
    }
}
