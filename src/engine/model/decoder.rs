//! The decoder: one file of maths for every family, with the cache outside.

use std::{collections::HashMap, sync::Arc};

use candle_core::{Device, Result, Tensor, bail};

use super::{
    config::DecoderConfig,
    frozen::Frozen,
    lora::{LayerLora, Lora, Projection},
    ops::{self, Activation, Angles, Attention, Heads},
};

/// Frozen weights of one layer; matrices are `[out, in]`.
struct Layer {
    input_norm: Tensor,
    post_attention_norm: Tensor,
    projections: [Frozen; 7],
}

impl Layer {
    /// The one place where an adapter meets the model: `y = x W^T + scale * (x A^T) B^T`.
    fn project<const N: usize>(
        &self,
        x: &Tensor,
        projections: [Projection; N],
        lora: Option<&LayerLora>,
    ) -> Result<[Tensor; N]> {
        let mut outputs = ops::frozen_linears(x, projections.map(|p| &self.projections[p as usize]))?;
        for (output, projection) in outputs.iter_mut().zip(projections) {
            if let Some(pair) = lora.and_then(|lora| lora.get(projection)) {
                *output = (&*output + pair.apply(x)?)?;
            }
        }
        Ok(outputs)
    }
}

/// A decoder-only transformer with frozen weights.
///
/// It computes rows, whatever they belong to: each row is one token at one position, and what it attends to is decided
/// by the caller through [`Attend`]. Answering gives rows of many sequences over a cache, training gives the rows of
/// a tree; the arithmetic is the same.
pub struct Decoder {
    config: DecoderConfig,
    embedding: Frozen,
    layers: Vec<Layer>,
    norm: Tensor,
    head: Frozen,
    frequencies: Vec<f32>,
    device: Device,
}

/// What the rows of a layer attend to.
pub trait Attend {
    /// Takes the layer's rotated queries `[n, heads * head_dim]`, rotated keys and values `[n, kv_heads * head_dim]`,
    /// and returns the attention's output in the shape of the queries.
    fn attend(&mut self, layer: usize, attention: Attention, qkv: [Tensor; 3]) -> Result<Tensor>;
}

impl Decoder {
    /// Takes the weights out of a checkpoint's tensors (Hugging Face names, `[out, in]`, half-split rope).
    ///
    /// # Errors
    /// If a tensor is missing.
    pub fn new(config: DecoderConfig, tensors: &mut HashMap<String, Frozen>, device: &Device) -> Result<Self> {
        let mut take = |name: String| match tensors.remove(&name) {
            Some(tensor) => Ok(tensor),
            None => bail!("the checkpoint has no tensor {name}"),
        };
        let embedding = take("model.embed_tokens.weight".into())?;
        let mut layers = Vec::with_capacity(config.layers);
        for index in 0..config.layers {
            let mut part = |name: &str| take(format!("model.layers.{index}.{name}.weight"));
            let mut projections = Vec::with_capacity(7);
            for projection in Projection::ALL {
                projections.push(part(projection.path())?);
            }
            layers.push(Layer {
                input_norm: part("input_layernorm")?.to_tensor()?,
                post_attention_norm: part("post_attention_layernorm")?.to_tensor()?,
                projections: projections.try_into().map_err(|_| candle_core::Error::msg("seven projections"))?,
            });
        }
        let norm = take("model.norm.weight".into())?.to_tensor()?;
        let head = if config.tied_embeddings { embedding.clone() } else { take("lm_head.weight".into())? };
        let dim = config.head_dim as f32;
        let frequencies =
            (0..config.head_dim / 2).map(|i| config.rope_theta.powf(-2.0 * i as f32 / dim)).collect::<Vec<_>>();
        Ok(Self { config, embedding, layers, norm, head, frequencies, device: device.clone() })
    }

    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    pub fn device(&self) -> &Device {
        &self.device
    }

    /// How many weights there are, tied ones once.
    pub fn parameters(&self) -> usize {
        let layers = self.layers.iter().map(|layer| {
            let projections: usize = layer.projections.iter().map(Frozen::elem_count).sum();
            projections + layer.input_norm.elem_count() + layer.post_attention_norm.elem_count()
        });
        let head = if self.config.tied_embeddings { 0 } else { self.head.elem_count() };
        self.embedding.elem_count() + self.norm.elem_count() + head + layers.sum::<usize>()
    }

    /// How every layer attends.
    fn attention(&self) -> Attention {
        let DecoderConfig { heads, kv_heads, head_dim, .. } = self.config;
        let scale = (head_dim as f32).sqrt().recip();
        Attention { heads: Heads { heads, kv_heads, head_dim }, scale, window: None, softcap: None }
    }

    /// `(out, in)` of a projection.
    pub fn projection_shape(&self, projection: Projection) -> (usize, usize) {
        let config = &self.config;
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        match projection {
            Projection::QProj => (config.query_width(), hidden),
            Projection::KProj | Projection::VProj => (config.kv_width(), hidden),
            Projection::OProj => (hidden, config.query_width()),
            Projection::GateProj | Projection::UpProj => (inner, hidden),
            Projection::DownProj => (hidden, inner),
        }
    }

    /// Token embeddings `[n, hidden]`.
    pub fn embed(&self, tokens: &[u32]) -> Result<Tensor> {
        self.embedding.rows(tokens, &self.device)
    }

    /// The rotation angles of rows at these positions.
    pub fn angles(&self, positions: &[u32]) -> Result<Angles> {
        let angles: Vec<f32> =
            positions.iter().flat_map(|&position| self.frequencies.iter().map(move |f| position as f32 * f)).collect();
        let shape = (positions.len(), self.frequencies.len());
        let on_device = |values: Vec<f32>| Tensor::from_vec(values, shape, &self.device);
        Ok(Angles {
            cos: on_device(angles.iter().map(|a| a.cos()).collect())?,
            sin: on_device(angles.iter().map(|a| a.sin()).collect())?,
        })
    }

    /// One layer: `[n, hidden] -> [n, hidden]`.
    pub fn layer(
        &self,
        index: usize,
        x: &Tensor,
        angles: &Angles,
        lora: Option<&Lora>,
        attend: &mut dyn Attend,
    ) -> Result<Tensor> {
        let layer = &self.layers[index];
        let lora = lora.map(|lora| lora.layer(index));
        let normed = ops::rms_norm(x, &layer.input_norm, self.config.rms_norm_eps)?;
        let [q, k, v] = layer.project(&normed, [Projection::QProj, Projection::KProj, Projection::VProj], lora)?;
        let (q, k) = (ops::rope(&q, angles)?, ops::rope(&k, angles)?);
        let attended = attend.attend(index, self.attention(), [q, k, v])?;
        let [output] = layer.project(&attended, [Projection::OProj], lora)?;
        let x = (x + output)?;

        let normed = ops::rms_norm(&x, &layer.post_attention_norm, self.config.rms_norm_eps)?;
        let [gate, up] = layer.project(&normed, [Projection::GateProj, Projection::UpProj], lora)?;
        let [down] = layer.project(&ops::gated(&gate, &up, Activation::Silu)?, [Projection::DownProj], lora)?;
        x + down
    }

    /// The final norm and the output head: hidden states `[n, hidden]` to logits `[n, vocab]`.
    pub fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        ops::frozen_linear(&ops::rms_norm(hidden, &self.norm, self.config.rms_norm_eps)?, &self.head)
    }
}

/// Attention among the rows of one pass, without a cache: each row sees the rows of its path.
pub struct WithinPass {
    pub paths: Arc<ops::Paths>,
}

impl Attend for WithinPass {
    fn attend(&mut self, _layer: usize, attention: Attention, [q, k, v]: [Tensor; 3]) -> Result<Tensor> {
        ops::attention([&q, &k, &v], &self.paths, attention)
    }
}
