//! Adapters to measure with.

use std::{collections::BTreeMap, sync::Arc};

use anyhow::ensure;
use candle_core::{Device, Tensor};

use super::Numbers;
use crate::{
    adaptation::round::Workbench,
    adapters::format,
    engine::{
        handle::Lease,
        model::{
            decoder::Decoder,
            lora::{Adapter, LoraConfig, Projection, peft_name},
        },
    },
};

/// The largest entry of a random adapter's matrices: what it adds at rank 16 stays small beside a projection's output.
const LARGEST: f32 = 0.01;

/// Makes `count` adapters of a rank on all projections resident, each of other random numbers.
pub async fn load(bench: &Workbench, rank: usize, count: usize) -> anyhow::Result<Vec<Lease>> {
    ensure!(rank > 0 && count > 0, "--adapter-rank and --adapters must be at least 1");
    let mut leases = Vec::with_capacity(count);
    for seed in 0..count as u64 {
        let adapter = random(&bench.decoder, (rank, LARGEST), Numbers(seed))?;
        leases.push(bench.engine.load_adapter(Arc::new(adapter)).await?);
    }
    Ok(leases)
}

/// An adapter of a rank on all projections, whose entries are random numbers up to the largest.
pub fn random(decoder: &Decoder, (rank, largest): (usize, f32), numbers: Numbers) -> anyhow::Result<Adapter> {
    let config = LoraConfig { r: rank, alpha: rank as f64, targets: Projection::ALL.to_vec() };
    let tensors = tensors(decoder, (rank, largest), numbers)?;
    // The model's name is a note in the files, which are not kept.
    let version = format::encode(&config, &tensors, "")?.version;
    Ok(Adapter { version, config, tensors })
}

/// Both halves of every projection, by their PEFT names.
fn tensors(
    decoder: &Decoder,
    (rank, largest): (usize, f32),
    mut numbers: Numbers,
) -> anyhow::Result<BTreeMap<String, Tensor>> {
    let mut tensors = BTreeMap::new();
    for layer in 0..decoder.config().layers.len() {
        for projection in Projection::ALL {
            let (outputs, inputs) = decoder.projection_shape(projection);
            for (half, shape) in [('A', (rank, inputs)), ('B', (outputs, rank))] {
                let value = |_| (numbers.next() as f32 / (1u64 << 30) as f32 - 1.0) * largest;
                let values: Vec<f32> = (0..shape.0 * shape.1).map(value).collect();
                let tensor = Tensor::from_vec(values, shape, &Device::Cpu)?;
                tensors.insert(peft_name(layer, projection, half), tensor);
            }
        }
    }
    Ok(tensors)
}
