//! `config.json` of a Hugging Face folder as a decoder's configuration.

use std::{collections::BTreeMap, path::Path};

use serde::Deserialize;
use serde_json::{Value, json};

use super::read_json;
use crate::engine::model::{
    config::{self, DecoderConfig, LayerConfig},
    error::ModelError,
    family::Family,
    lora::Projection,
    ops::Activation,
    rope::{Rope, RopeScaling},
};

/// The part of `config.json` that decides what is computed, with [`defaults`] where the file says nothing.
#[derive(Deserialize)]
struct Config {
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    rms_norm_eps: f64,
    max_position_embeddings: usize,
    tie_word_embeddings: bool,
    attention_bias: bool,
    mlp_bias: bool,
    hidden_act: String,
    /// Gemma's name for `hidden_act`, which it ignores.
    hidden_activation: Option<String>,
    rope_theta: f32,
    rope_local_base_freq: Option<f32>,
    rope_scaling: Option<RopeConfig>,
    /// Newer files keep the base and the scaling together.
    rope_parameters: Option<RopeParameters>,
    partial_rotary_factor: Option<f32>,
    sliding_window: Option<usize>,
    use_sliding_window: bool,
    max_window_layers: Option<usize>,
    sliding_window_pattern: Option<usize>,
    layer_types: Option<Vec<String>>,
    query_pre_attn_scalar: Option<f32>,
    attn_logit_softcapping: Option<f32>,
    final_logit_softcapping: Option<f32>,
    use_bidirectional_attention: Option<bool>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum RopeParameters {
    ByLayerType(BTreeMap<String, Option<RopeConfig>>),
    One(RopeConfig),
}

#[derive(Clone, Default, Deserialize)]
struct RopeConfig {
    rope_type: Option<String>,
    /// The older name of `rope_type`; some files have both.
    #[serde(rename = "type")]
    kind: Option<String>,
    rope_theta: Option<f32>,
    factor: Option<f32>,
    low_freq_factor: Option<f32>,
    high_freq_factor: Option<f32>,
    original_max_position_embeddings: Option<usize>,
    partial_rotary_factor: Option<f32>,
}

/// What absent fields mean in `transformers`. A field that is there and null stays null.
fn defaults(family: Family) -> Value {
    let mut all = json!({
        "rms_norm_eps": 1e-6, "rope_theta": 10_000.0, "tie_word_embeddings": family.is_gemma(), "hidden_act": "silu",
        "attention_bias": false, "mlp_bias": false, "use_sliding_window": false,
    });
    let own = match family {
        Family::Llama => json!({"max_position_embeddings": 2048}),
        Family::Mistral => {
            json!({"max_position_embeddings": 131_072, "num_key_value_heads": 8, "sliding_window": 4096})
        }
        Family::Qwen2 => json!({
            "max_position_embeddings": 32_768, "num_key_value_heads": 32, "sliding_window": 4096,
            "max_window_layers": 28,
        }),
        Family::Qwen3 => json!({
            "max_position_embeddings": 32_768, "num_key_value_heads": 32, "head_dim": 128, "sliding_window": 4096,
            "max_window_layers": 28,
        }),
        Family::Gemma2 => json!({
            "max_position_embeddings": 8192, "num_key_value_heads": 4, "head_dim": 256, "sliding_window": 4096,
            "query_pre_attn_scalar": 256, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0,
            "hidden_activation": "gelu_pytorch_tanh",
        }),
        Family::Gemma3 => json!({
            "max_position_embeddings": 131_072, "num_key_value_heads": 4, "head_dim": 256, "sliding_window": 4096,
            "query_pre_attn_scalar": 256, "rope_theta": 1_000_000.0, "rope_local_base_freq": 10_000.0,
            "hidden_activation": "gelu_pytorch_tanh",
        }),
    };
    lay_over(&mut all, own);
    all
}

/// Fields of `upper` replace those of `lower`.
fn lay_over(lower: &mut Value, upper: Value) {
    if let (Value::Object(lower), Value::Object(upper)) = (lower, upper) {
        lower.extend(upper);
    }
}

/// Reads `config.json`.
///
/// # Errors
/// If the model is of no family that runs here, wants something that the decoder does not compute, or has sizes that
/// cannot be a model's.
pub(super) fn read(path: &Path) -> Result<(Family, DecoderConfig), ModelError> {
    // The family first: the fields of another one may well be missing.
    let file: Value = read_json(path)?;
    let model_type = file.get("model_type").and_then(Value::as_str).unwrap_or("(none)");
    let family = Family::of_model_type(model_type).map_err(|problem| ModelError::unsupported(path, problem))?;
    let mut merged = defaults(family);
    lay_over(&mut merged, file);
    let config: Config = serde_json::from_value(merged)
        .map_err(|error| ModelError::damaged(path, format!("it is not a configuration of its family: {error}")))?;
    let unsupported = |problem| ModelError::unsupported(path, problem);
    let damaged = |problem| ModelError::damaged(path, problem);
    config.refuse_what_is_not_computed(family).map_err(unsupported)?;
    let (full, local) = config.ropes(family).map_err(unsupported)?;
    let sliding = config.sliding_layers(family).map_err(damaged)?;
    let layer = |index: usize| {
        let (window, rope) = if sliding(index) { (config.sliding_window, &local) } else { (None, &full) };
        LayerConfig { window, rope: rope.clone() }
    };
    let layers = config::layers(config.num_hidden_layers, layer).map_err(damaged)?;
    let decoder = config.decoder(family, layers).map_err(unsupported)?;
    decoder.validate().map_err(damaged)?;
    Ok((family, decoder))
}

impl Config {
    fn refuse_what_is_not_computed(&self, family: Family) -> Result<(), String> {
        if self.use_bidirectional_attention == Some(true) {
            return Err("its use_bidirectional_attention is true; use a model that generates text".into());
        }
        // No published model sets it, and transformers reads it but does not apply it.
        if family == Family::Gemma3 && self.attn_logit_softcapping.is_some() {
            return Err("it sets attn_logit_softcapping, which Gemma 3 models do not have; use another model".into());
        }
        let with_ropes = match &self.rope_parameters {
            Some(RopeParameters::ByLayerType(ropes)) => ropes.keys().collect(),
            _ => vec![],
        };
        let mut layer_types = self.layer_types.iter().flatten().chain(with_ropes);
        match layer_types.find(|kind| !matches!(kind.as_str(), FULL | SLIDING)) {
            Some(kind) => {
                Err(format!("it has layers of the type {kind:?}; use a model with {FULL} and {SLIDING} only"))
            }
            None => Ok(()),
        }
    }

    /// The rope of layers that see everything, and of those with a window.
    fn ropes(&self, family: Family) -> Result<(Rope, Rope), String> {
        let (full, local) = match &self.rope_parameters {
            Some(RopeParameters::ByLayerType(ropes)) => {
                let of = |kind| ropes.get(kind).cloned().flatten();
                (of(FULL).unwrap_or_default(), of(SLIDING))
            }
            Some(RopeParameters::One(rope)) => (rope.clone(), None),
            None => (RopeConfig::default(), None),
        };
        let full = match &self.rope_scaling {
            Some(scaling) => RopeConfig { rope_theta: scaling.rope_theta.or(full.rope_theta), ..scaling.clone() },
            None => full,
        };
        let full = self.rope(&full, self.rope_theta)?;
        let local = match (local, self.rope_local_base_freq) {
            (Some(local), theta) => self.rope(&local, theta.unwrap_or(self.rope_theta))?,
            (None, Some(theta)) if family == Family::Gemma3 => Rope::plain(theta),
            (None, _) => full.clone(),
        };
        Ok((full, local))
    }

    fn rope(&self, rope: &RopeConfig, theta: f32) -> Result<Rope, String> {
        let partial = rope.partial_rotary_factor.or(self.partial_rotary_factor).unwrap_or(1.0);
        if partial != 1.0 {
            return Err(format!("it turns only {partial} of each head (partial_rotary_factor); use another model"));
        }
        let kind = rope.rope_type.as_deref().or(rope.kind.as_deref()).unwrap_or("default");
        let need = |value: Option<f32>, name: &str| {
            value.ok_or_else(|| format!("its rotary positions are of the kind {kind:?} but have no {name}"))
        };
        let scaling = match kind {
            "default" | "none" => RopeScaling::None,
            "linear" => RopeScaling::Linear { factor: need(rope.factor, "factor")? },
            "llama3" => RopeScaling::Llama3 {
                factor: need(rope.factor, "factor")?,
                low_freq_factor: need(rope.low_freq_factor, "low_freq_factor")?,
                high_freq_factor: need(rope.high_freq_factor, "high_freq_factor")?,
                original_context: rope.original_max_position_embeddings.unwrap_or(self.max_position_embeddings),
            },
            _ => {
                let problem = format!("it scales its rotary positions by {kind:?}; use a model without it, ");
                return Err(problem + "or with the kind \"linear\" or \"llama3\"");
            }
        };
        Ok(Rope { theta: rope.rope_theta.unwrap_or(theta), scaling })
    }

    /// Says of a layer whether it has a window.
    fn sliding_layers(&self, family: Family) -> Result<impl Fn(usize) -> bool, String> {
        let window = self.sliding_window.is_some();
        if let Some(types) = &self.layer_types {
            if types.len() != self.num_hidden_layers {
                return Err(format!("it has {} layer_types for {} layers", types.len(), self.num_hidden_layers));
            }
            if !window && types.iter().any(|kind| kind == SLIDING) {
                return Err("its layer_types have sliding windows, but there is no sliding_window".into());
            }
        }
        let period = self.sliding_window_pattern.filter(|_| family == Family::Gemma3).or(family.window_period());
        let from = match family {
            Family::Mistral if window => 0,
            Family::Qwen2 | Family::Qwen3 if window && self.use_sliding_window => {
                self.max_window_layers.unwrap_or(usize::MAX)
            }
            _ => usize::MAX,
        };
        let types = self.layer_types.clone();
        Ok(move |index: usize| match (&types, period) {
            (Some(types), _) => types[index] == SLIDING,
            (None, Some(period)) => window && !(index + 1).is_multiple_of(period),
            (None, None) => index >= from,
        })
    }

    /// The projections with a bias.
    fn biases(&self, family: Family) -> Vec<Projection> {
        use Projection::{DownProj, GateProj, KProj, OProj, QProj, UpProj, VProj};
        let mut biases = match (family, self.attention_bias) {
            (Family::Qwen2, _) => vec![QProj, KProj, VProj],
            (_, true) => vec![QProj, KProj, VProj, OProj],
            (_, false) => vec![],
        };
        if family == Family::Llama && self.mlp_bias {
            biases.extend([GateProj, UpProj, DownProj]);
        }
        biases
    }

    fn decoder(&self, family: Family, layers: Vec<LayerConfig>) -> Result<DecoderConfig, String> {
        let heads = self.num_attention_heads;
        let head_dim = self.head_dim.unwrap_or_else(|| self.hidden_size.checked_div(heads).unwrap_or(0));
        let scaled_by = self.query_pre_attn_scalar.filter(|_| family.is_gemma()).unwrap_or(head_dim as f32);
        Ok(DecoderConfig {
            vocab_size: self.vocab_size,
            hidden_size: self.hidden_size,
            intermediate_size: self.intermediate_size,
            layers,
            heads,
            kv_heads: self.num_key_value_heads.unwrap_or(heads),
            head_dim,
            rms_norm_eps: self.rms_norm_eps,
            activation: activation(
                self.hidden_activation.as_deref().filter(|_| family.is_gemma()).unwrap_or(&self.hidden_act),
            )?,
            biases: self.biases(family),
            qk_norm: family.has_qk_norm(),
            sandwich_norms: family.is_gemma(),
            embedding_scale: family.embedding_scale(self.hidden_size),
            attention_scale: scaled_by.sqrt().recip(),
            attention_softcap: self.attn_logit_softcapping.filter(|_| family.is_gemma()),
            logit_softcap: self.final_logit_softcapping.filter(|_| family.is_gemma()),
            context_tokens: self.max_position_embeddings,
            tied_embeddings: self.tie_word_embeddings,
        })
    }
}

/// The layer types that run here.
const FULL: &str = "full_attention";
const SLIDING: &str = "sliding_attention";

fn activation(name: &str) -> Result<Activation, String> {
    match name {
        "silu" | "swish" => Ok(Activation::Silu),
        "gelu_pytorch_tanh" => Ok(Activation::GeluTanh),
        _ => Err(format!("its activation is {name:?}; use a model with \"silu\" or \"gelu_pytorch_tanh\"")),
    }
}
