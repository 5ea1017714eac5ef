//! What computes steps: the decoder, and the cache of its keys and values on the decoder's device.

use std::{ops::Range, sync::Arc};

use candle_core::{Result, Tensor, bail};

#[cfg(feature = "cuda")]
use crate::engine::model::cuda::answering::{AnsweringPass, Rows};
use crate::engine::{
    cache::KvCache,
    handle::Lease,
    model::{
        decoder::{Adapted, Decoder},
        lora::Lora,
        outputs::{Output, Wanted},
    },
    prefix_tree::PrefixTree,
    scheduler::Plan,
};

/// The weights behind a lease of an engine of this process; `None` for the base model.
pub struct Weights(pub Option<Lora>);

/// Computes the rows of plans.
pub enum Runner {
    /// Through the decoder's own layers.
    Layers(Arc<Decoder>, KvCache),
    /// By the pass that is written out for CUDA devices.
    #[cfg(feature = "cuda")]
    Cuda(Box<AnsweringPass>),
    /// Fails as a function of a step's rows says, and computes where it says nothing.
    #[cfg(test)]
    Faulty(Box<dyn FnMut(usize) -> Option<candle_core::Error> + Send>, Box<Runner>),
}

impl Runner {
    /// A runner with a cache of `rows` token positions.
    ///
    /// # Errors
    /// If the cache cannot be allocated.
    pub fn new(decoder: Arc<Decoder>, rows: usize) -> Result<Self> {
        #[cfg(feature = "cuda")]
        if decoder.device().is_cuda() {
            return Ok(Self::Cuda(Box::new(AnsweringPass::new(decoder, rows)?)));
        }
        let cache = KvCache::new(&decoder, rows)?;
        Ok(Self::Layers(decoder, cache))
    }

    /// What came of a plan's outputs; `wanted` says of each what is asked of it, in their order.
    ///
    /// # Errors
    /// If the device fails, or a lease is another engine's.
    #[cfg_attr(
        all(test, not(feature = "cuda")),
        expect(clippy::only_used_in_recursion, reason = "the decoder's layers leave drawing to the caller")
    )]
    #[cfg_attr(
        not(any(feature = "cuda", test)),
        expect(unused_variables, reason = "the decoder's layers leave drawing to the caller")
    )]
    pub fn compute(&mut self, tree: &PrefixTree, plan: &Plan, wanted: &[Wanted]) -> Result<Vec<Output>> {
        let tokens: Vec<u32> = plan.rows.iter().map(|&node| tree.token(node)).collect();
        let positions: Vec<u32> = plan.rows.iter().map(|&node| tree.position(node)).collect();
        let adapters = adapters(&plan.leases)?;
        match self {
            Self::Layers(decoder, cache) => {
                let mut pass = cache.pass(&plan.rows, plan.paths.clone());
                let angles = decoder.angles(&positions)?;
                let mut x = decoder.embed(&tokens)?;
                for layer in 0..decoder.config().layers.len() {
                    x = decoder.layer(layer, &x, &angles, &adapters, &mut pass)?;
                }
                if plan.outputs.is_empty() {
                    return Ok(vec![]);
                }
                let outputs: Vec<u32> = plan.outputs.iter().map(|&row| row as u32).collect();
                let logits = decoder.logit_rows(&x.index_select(&Tensor::new(outputs, decoder.device())?, 0)?)?;
                Ok(logits.into_iter().map(Output::Logits).collect())
            }
            #[cfg(feature = "cuda")]
            Self::Cuda(answering) => {
                let rows = Rows {
                    tokens: &tokens,
                    positions: &positions,
                    nodes: &plan.rows,
                    paths: &plan.paths,
                    adapters: &adapters,
                };
                let outputs: Vec<u32> = plan.outputs.iter().map(|&row| row as u32).collect();
                answering.step(rows, &outputs, wanted)
            }
            #[cfg(test)]
            Self::Faulty(fault, runner) => match fault(plan.rows.len()) {
                Some(error) => Err(error),
                None => runner.compute(tree, plan, wanted),
            },
        }
    }
}

/// The adapters of a plan, each with its rows.
fn adapters(leases: &[(Lease, Range<usize>)]) -> Result<Vec<Adapted<'_>>> {
    let mut adapters = Vec::new();
    for (lease, rows) in leases {
        let Some(Weights(lora)) = lease.weights() else {
            bail!("version {} was not made by this engine", lease.version())
        };
        adapters.extend(lora.as_ref().map(|lora| Adapted { rows: rows.clone(), lora }));
    }
    Ok(adapters)
}
