//! Fixtures of other implementations, and passes of a decoder to compare with them.

use std::collections::BTreeMap;

use candle_core::{Device, Var};
use serde_json::Value;
use ttrl::engine::model::{
    decoder::Decoder,
    lora::{Lora, LoraConfig, Projection},
    training::{Pass, Target, TokenForest},
    weights,
};

use super::fixture;

pub fn json(path: &str) -> Value {
    serde_json::from_slice(&std::fs::read(fixture(path)).unwrap()).unwrap()
}

pub fn decoder(path: &str) -> Decoder {
    let mut checkpoint = weights::load(&fixture(path), &Device::Cpu).unwrap();
    Decoder::new(checkpoint.config, &mut checkpoint.tensors, &Device::Cpu).unwrap()
}

pub fn floats(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect()
}

pub fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect()
}

/// A PEFT fixture's tensors as variables, in the order of their names.
pub fn adapter(folder: &str) -> (LoraConfig, BTreeMap<String, Var>) {
    let path = fixture(folder).join("adapter_model.safetensors");
    let tensors = candle_core::safetensors::load(path, &Device::Cpu).unwrap();
    let vars = tensors.into_iter().map(|(name, tensor)| (name, Var::from_tensor(&tensor).unwrap())).collect();
    (LoraConfig { r: 4, alpha: 8.0, targets: Projection::ALL.to_vec() }, vars)
}

pub fn lora(decoder: &Decoder, config: &LoraConfig, vars: &BTreeMap<String, Var>) -> Lora {
    let tensors = vars.iter().map(|(name, var)| (name.clone(), var.as_tensor().clone())).collect();
    Lora::new(config, &tensors, decoder.config().layers.len(), |projection| decoder.projection_shape(projection))
        .unwrap()
}

pub fn at_once(work: &mut (dyn FnMut() -> candle_core::Result<()> + Send)) -> candle_core::Result<()> {
    work()
}

/// Log-probabilities of the whole vocabulary at every position of a text.
pub fn log_probs(decoder: &Decoder, lora: Option<&Lora>, text: &[u32]) -> Vec<Vec<f32>> {
    let mut forest = TokenForest::default();
    let mut row = None;
    for &token in text {
        row = Some(forest.insert(row, token));
    }
    let vocab = decoder.config().vocab_size as u32;
    let targets: Vec<Target> =
        (0..text.len() as u32).flat_map(|row| (0..vocab).map(move |token| Target { row, token })).collect();
    let scores = Pass::new(decoder, lora, (&forest, &targets), 1.0, &at_once).unwrap().score().unwrap();
    scores.chunks(vocab as usize).map(|row| row.iter().map(|score| score.log_prob).collect()).collect()
}
