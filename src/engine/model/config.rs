//! The shape of a decoder as data, whatever family it is of. A checkpoint's own metadata fills it in.

use candle_core::DType;

use super::{
    lora::Projection,
    ops::{Activation, Attention, Heads},
    rope::Rope,
};

/// A decoder-only transformer with rotary positions, grouped-query attention and a gated MLP.
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderConfig {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub layers: Vec<LayerConfig>,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub rms_norm_eps: f64,
    /// What the gate of the MLP goes through.
    pub activation: Activation,
    /// The projections that add a bias, in every layer.
    pub biases: Vec<Projection>,
    /// Whether each head's queries and keys are normalised before they are turned.
    pub qk_norm: bool,
    /// Whether the outputs of attention and MLP are normalised too, not only their inputs.
    pub sandwich_norms: bool,
    /// What token embeddings are multiplied by.
    pub embedding_scale: Option<f32>,
    /// What products of queries and keys are multiplied by.
    pub attention_scale: f32,
    /// An attention score `s` becomes `c * tanh(s / c)`.
    pub attention_softcap: Option<f32>,
    /// A logit `l` becomes `c * tanh(l / c)`.
    pub logit_softcap: Option<f32>,
    /// The longest sequence the model was made for, in tokens.
    pub context_tokens: usize,
    /// Whether the output head is the token embedding.
    pub tied_embeddings: bool,
}

/// What may differ from layer to layer.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerConfig {
    /// How many tokens a token sees, itself included; all before it without.
    pub window: Option<usize>,
    pub rope: Rope,
}

/// A normalisation inside a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Norm {
    BeforeAttention,
    Queries,
    Keys,
    AfterAttention,
    BeforeMlp,
    AfterMlp,
}

impl Norm {
    pub const COUNT: usize = 6;
}

/// No dimension of a real model comes near; products of two stay far inside a `usize`.
const MAX_DIMENSION: usize = 1 << 24;
/// Ten times the deepest published decoder; bounds what is listed for each layer.
const MAX_LAYERS: usize = 2048;

/// Lists `count` layers.
///
/// # Errors
/// If that is more than a model has.
pub(super) fn layers(count: usize, layer: impl Fn(usize) -> LayerConfig) -> Result<Vec<LayerConfig>, String> {
    if count > MAX_LAYERS {
        return Err(format!("its {count} layers cannot be a model's"));
    }
    Ok((0..count).map(layer).collect())
}

impl DecoderConfig {
    /// Width of all query heads together.
    pub fn query_width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Width of all key (or value) heads together.
    pub fn kv_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// What the keys and values of a token take in all layers, kept as numbers of `dtype`.
    pub fn cache_bytes_per_token(&self, dtype: DType) -> u64 {
        (2 * self.kv_width() * self.layers.len() * dtype.size_in_bytes()) as u64
    }

    /// `(out, in)` of a projection.
    pub fn projection_shape(&self, projection: Projection) -> (usize, usize) {
        let (hidden, inner) = (self.hidden_size, self.intermediate_size);
        match projection {
            Projection::QProj => (self.query_width(), hidden),
            Projection::KProj | Projection::VProj => (self.kv_width(), hidden),
            Projection::OProj => (hidden, self.query_width()),
            Projection::GateProj | Projection::UpProj => (inner, hidden),
            Projection::DownProj => (hidden, inner),
        }
    }

    /// How a layer attends.
    pub fn attention(&self, layer: usize) -> Attention {
        Attention {
            heads: Heads { heads: self.heads, kv_heads: self.kv_heads, head_dim: self.head_dim },
            scale: self.attention_scale,
            window: self.layers[layer].window,
            softcap: self.attention_softcap,
        }
    }

    /// The norms of a layer, each with its Hugging Face name inside the layer and its width.
    pub fn norms(&self) -> Vec<(Norm, &'static str, usize)> {
        let hidden = self.hidden_size;
        let mut norms = vec![(Norm::BeforeAttention, "input_layernorm", hidden)];
        if self.qk_norm {
            norms.push((Norm::Queries, "self_attn.q_norm", self.head_dim));
            norms.push((Norm::Keys, "self_attn.k_norm", self.head_dim));
        }
        if self.sandwich_norms {
            norms.push((Norm::AfterAttention, "post_attention_layernorm", hidden));
            norms.push((Norm::BeforeMlp, "pre_feedforward_layernorm", hidden));
            norms.push((Norm::AfterMlp, "post_feedforward_layernorm", hidden));
        } else {
            norms.push((Norm::BeforeMlp, "post_attention_layernorm", hidden));
        }
        norms
    }

    /// Checks that the sizes and constants can be a model's, and are small enough to calculate with.
    ///
    /// # Errors
    /// In words.
    pub fn validate(&self) -> Result<(), String> {
        let sizes = [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("the number of layers", self.layers.len()),
            ("heads", self.heads),
            ("kv_heads", self.kv_heads),
            ("head_dim", self.head_dim),
            ("context_tokens", self.context_tokens),
        ];
        if let Some((name, size)) = sizes.iter().find(|(_, size)| *size == 0 || *size > MAX_DIMENSION) {
            return Err(format!("{name} is {size}"));
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            return Err(format!("{} heads cannot share {} key heads evenly", self.heads, self.kv_heads));
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(format!("head_dim {} is odd, rotary embeddings need pairs", self.head_dim));
        }
        let constants = [
            ("attention_scale", Some(self.attention_scale)),
            ("embedding_scale", self.embedding_scale),
            ("attention_softcap", self.attention_softcap),
            ("logit_softcap", self.logit_softcap),
        ];
        let insane = |constant: f32| !(constant.is_finite() && constant > 0.0);
        if let Some((name, constant)) = constants.iter().find(|(_, constant)| constant.is_some_and(insane)) {
            return Err(format!("{name} is {constant:?}"));
        }
        if !(self.rms_norm_eps > 0.0 && self.rms_norm_eps < 1.0) {
            return Err(format!("rms_norm_eps is {}", self.rms_norm_eps));
        }
        if self.layers.iter().any(|layer| layer.window == Some(0)) {
            return Err("its sliding window is 0".into());
        }
        self.layers.iter().try_for_each(|layer| layer.rope.validate(self.head_dim))
    }
}
