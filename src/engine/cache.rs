//! The key-value cache: one row a node of the prefix tree, on the model's device.

use std::sync::Arc;

use candle_core::{DType, Result, Tensor};

use crate::engine::{
    model::{
        decoder::{Attend, Decoder},
        ops::{self, Paths},
    },
    prefix_tree::{NodeId, PrefixTree},
};

/// Keys and values of every layer, each `[rows, kv_heads * head_dim]`. The memory is reserved at once and touched as
/// rows come into use.
pub struct KvCache {
    keys: Vec<Tensor>,
    values: Vec<Tensor>,
    /// Of a row: `kv_heads * head_dim`.
    width: usize,
}

impl KvCache {
    /// A cache of `rows` token positions.
    pub fn new(decoder: &Decoder, rows: usize) -> Result<Self> {
        let config = decoder.config();
        let zeros = || {
            let layer = |_| Tensor::zeros((rows, config.kv_width()), DType::F32, decoder.device());
            config.layers.iter().map(layer).collect::<Result<Vec<_>>>()
        };
        Ok(Self { keys: zeros()?, values: zeros()?, width: config.kv_width() })
    }

    /// Prepares a pass over these nodes: each is written to its row and attends to its ancestors and itself.
    pub fn pass(&self, tree: &PrefixTree, nodes: &[NodeId]) -> Result<CachedPass<'_>> {
        let mut paths = Paths::default();
        nodes.iter().for_each(|&node| paths.push(tree.path(node)));
        let rows: Vec<u32> = nodes.iter().flat_map(|&node| std::iter::repeat_n(node, self.width)).collect();
        let device = self.keys[0].device();
        let rows = Tensor::from_vec(rows, (nodes.len(), self.width), device)?;
        Ok(CachedPass { cache: self, rows, paths: Arc::new(paths) })
    }
}

/// One pass of rows over the cache.
pub struct CachedPass<'a> {
    cache: &'a KvCache,
    /// For each element of the new keys, the cache row it goes to.
    rows: Tensor,
    paths: Arc<Paths>,
}

impl Attend for CachedPass<'_> {
    fn attend(&mut self, layer: usize, attention: ops::Attention, [q, k, v]: [Tensor; 3]) -> Result<Tensor> {
        let (keys, values) = (&self.cache.keys[layer], &self.cache.values[layer]);
        keys.scatter_set(&self.rows, &k, 0)?;
        values.scatter_set(&self.rows, &v, 0)?;
        ops::attention([&q, keys, values], &self.paths, attention)
    }
}
