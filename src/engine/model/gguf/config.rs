//! The metadata of a GGUF file as a decoder's configuration.
//!
//! Which key means what, and which constants llama.cpp has in its code because no key carries them, is described by its
//! converter and loader: <https://github.com/ggml-org/llama.cpp>.

use std::path::Path;

use super::{
    header::{Info, Metadata, Value},
    hf_name,
};
use crate::engine::model::{
    config::{self, DecoderConfig, LayerConfig},
    error::ModelError,
    family::Family,
    lora::Projection,
    rope::{Rope, RopeScaling},
};

/// What a header says, with the keys of its architecture.
pub(super) struct Header<'a> {
    path: &'a Path,
    metadata: &'a Metadata,
    infos: &'a [Info],
    architecture: &'a str,
    family: Family,
}

/// The tensor of what each rotary frequency is divided by, in files of models that scale them.
pub(super) const ROPE_DIVISORS: &str = "rope_freqs.weight";

impl<'a> Header<'a> {
    /// # Errors
    /// If the model is of no family that runs here.
    pub fn new(path: &'a Path, metadata: &'a Metadata, infos: &'a [Info]) -> Result<Self, ModelError> {
        let architecture = metadata.text("general.architecture").unwrap_or("(none)");
        let family = Family::of_architecture(architecture).map_err(|problem| ModelError::unsupported(path, problem))?;
        Ok(Self { path, metadata, infos, architecture, family })
    }

    pub fn family(&self) -> Family {
        self.family
    }

    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture)
    }

    fn size(&self, name: &str) -> Option<usize> {
        self.metadata.size(&self.key(name))
    }

    fn float(&self, name: &str) -> Option<f32> {
        self.metadata.float(&self.key(name)).map(|value| value as f32)
    }

    fn required(&self, name: &str) -> Result<usize, ModelError> {
        self.size(name).ok_or_else(|| self.damaged(format!("its metadata lacks a usable {}", self.key(name))))
    }

    fn has(&self, tensor: &str) -> bool {
        self.infos.iter().any(|info| info.name == tensor)
    }

    fn damaged(&self, problem: impl Into<String>) -> ModelError {
        ModelError::damaged(self.path, problem)
    }

    fn unsupported(&self, problem: impl Into<String>) -> ModelError {
        ModelError::unsupported(self.path, problem)
    }

    /// The configuration. `divisors` are the values of [`ROPE_DIVISORS`].
    ///
    /// # Errors
    /// If something is missing, wants what the decoder does not compute, or cannot be a model's.
    pub fn config(&self, divisors: Option<Vec<f32>>) -> Result<DecoderConfig, ModelError> {
        if let Some(experts) = self.size("expert_count").filter(|experts| *experts > 0) {
            return Err(self.unsupported(format!("it is a mixture of {experts} experts; use a model without experts")));
        }
        let (hidden_size, heads) = (self.required("embedding_length")?, self.required("attention.head_count")?);
        let head_dim = self.head_dim(hidden_size, heads)?;
        let epsilon = "attention.layer_norm_rms_epsilon";
        let layers = self.layers(self.rope(divisors)?)?;
        let config = DecoderConfig {
            vocab_size: self.vocab_size()?,
            hidden_size,
            intermediate_size: self.required("feed_forward_length")?,
            attention_scale: self.attention_scale(layers.len(), (hidden_size, heads, head_dim)),
            layers,
            heads,
            kv_heads: self.size("attention.head_count_kv").unwrap_or(heads),
            head_dim,
            rms_norm_eps: self
                .metadata
                .float(&self.key(epsilon))
                .ok_or_else(|| self.damaged(format!("its metadata lacks {}", self.key(epsilon))))?,
            activation: self.family.activation(),
            biases: self.biases(),
            qk_norm: self.family.has_qk_norm(),
            sandwich_norms: self.family.is_gemma(),
            embedding_scale: self.family.embedding_scale(hidden_size),
            attention_softcap: self.softcap("attn_logit_softcapping", 50.0),
            logit_softcap: self.softcap("final_logit_softcapping", 30.0),
            context_tokens: self.required("context_length")?,
            tied_embeddings: !self.has("output.weight"),
        };
        config.validate().map_err(|problem| self.damaged(problem))?;
        Ok(config)
    }

    fn vocab_size(&self) -> Result<usize, ModelError> {
        let embedding = self.infos.iter().find(|info| info.name == "token_embd.weight");
        match (self.size("vocab_size"), embedding.and_then(|info| info.shape.first())) {
            (Some(size), _) | (None, Some(&size)) => Ok(size),
            (None, None) => Err(self.damaged("it has no token_embd.weight")),
        }
    }

    fn head_dim(&self, hidden_size: usize, heads: usize) -> Result<usize, ModelError> {
        let head_dim = self.size("attention.key_length").unwrap_or_else(|| hidden_size.checked_div(heads).unwrap_or(0));
        for name in ["rope.dimension_count", "attention.value_length"] {
            if let Some(other) = self.size(name).filter(|other| *other != head_dim) {
                let problem = format!("{} is {other} while a head has {head_dim} dimensions", self.key(name));
                return Err(self.unsupported(problem + "; use a model whose heads are turned as a whole"));
            }
        }
        Ok(head_dim)
    }

    /// The rope of layers that see everything.
    fn rope(&self, divisors: Option<Vec<f32>>) -> Result<Rope, ModelError> {
        let theta = self.float("rope.freq_base").unwrap_or(10_000.0);
        // llama.cpp takes a factor without a kind for linear scaling.
        let has_factor = self.float("rope.scaling.factor").is_some_and(|factor| factor != 1.0 && factor != 0.0);
        let default = if has_factor { "linear" } else { "none" };
        let kind = self.metadata.text(&self.key("rope.scaling.type")).unwrap_or(default);
        let scaling = match (kind, divisors) {
            ("none", None) => RopeScaling::None,
            ("none", Some(divisors)) => RopeScaling::Divisors(divisors),
            ("linear", None) => {
                let factor = self.float("rope.scaling.factor");
                let lacks = || self.damaged(format!("its metadata lacks {}", self.key("rope.scaling.factor")));
                RopeScaling::Linear { factor: factor.ok_or_else(lacks)? }
            }
            ("linear", Some(_)) => {
                let problem = format!("it scales its rotary positions twice, by \"linear\" and by {ROPE_DIVISORS}");
                return Err(self.unsupported(problem + "; use another model"));
            }
            _ => {
                let problem = format!("it scales its rotary positions by {kind:?}; use a model without it, ");
                return Err(self.unsupported(problem + "or with the kind \"linear\""));
            }
        };
        Ok(Rope { theta, scaling })
    }

    fn layers(&self, full: Rope) -> Result<Vec<LayerConfig>, ModelError> {
        // Gemma 2's window was always this, and older files do not say so.
        let default = (self.family == Family::Gemma2).then_some(4096);
        let window = self.size("attention.sliding_window").or(default).filter(|window| *window > 0);
        let period = self.period()?;
        let sliding = |index: usize| match self.family {
            Family::Llama | Family::Mistral => true,
            Family::Gemma2 | Family::Gemma3 => period.is_none_or(|period| !(index + 1).is_multiple_of(period)),
            // No key says which layers a window is for, and published models of these families do not use theirs.
            Family::Qwen2 | Family::Qwen3 => false,
        };
        let local = match self.family {
            Family::Gemma3 => Rope::plain(self.float("rope.freq_base_swa").unwrap_or(10_000.0)),
            _ => full.clone(),
        };
        let layer = |index: usize| match window {
            Some(window) if sliding(index) => LayerConfig { window: Some(window), rope: local.clone() },
            _ => LayerConfig { window: None, rope: full.clone() },
        };
        config::layers(self.required("block_count")?, layer).map_err(|problem| self.damaged(problem))
    }

    /// Every so many layers one sees everything.
    fn period(&self) -> Result<Option<usize>, ModelError> {
        let key = self.key("attention.sliding_window_pattern");
        match self.metadata.0.get(&key) {
            None => Ok(self.family.window_period()),
            Some(Value::Integer(period)) => {
                usize::try_from(*period).map(Some).map_err(|_| self.damaged(format!("{key} is {period}")))
            }
            Some(_) => Err(self.unsupported(format!("{key} is not a number; use a model with evenly spread layers"))),
        }
    }

    /// Products are divided by the root of a head's width. In the largest models of Gemma 2 and 3, which are known by
    /// their depth, it is the width that heads would have if the hidden state were split among them.
    fn attention_scale(&self, layers: usize, (hidden_size, heads, head_dim): (usize, usize, usize)) -> f32 {
        let by_hidden = matches!((self.family, layers), (Family::Gemma2, 46) | (Family::Gemma3, 62));
        let width = if by_hidden { hidden_size as f32 / heads as f32 } else { head_dim as f32 };
        width.sqrt().recip()
    }

    /// Gemma 2 has both caps where its file says nothing; the other families have what their file says.
    fn softcap(&self, name: &str, of_gemma2: f32) -> Option<f32> {
        self.float(name).or((self.family == Family::Gemma2).then_some(of_gemma2))
    }

    /// The projections with a bias: what the first layer has, the others must have.
    fn biases(&self) -> Vec<Projection> {
        let names: Vec<String> = self.infos.iter().map(|info| hf_name(&info.name, self.family)).collect();
        let has_bias = |projection: &Projection| names.contains(&format!("model.layers.0.{}.bias", projection.path()));
        Projection::ALL.into_iter().filter(has_bias).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn read(architecture: &str, changes: &[(&str, Value)]) -> Result<DecoderConfig, String> {
        let sizes = [
            ("context_length", 64),
            ("embedding_length", 32),
            ("feed_forward_length", 48),
            ("block_count", 3),
            ("attention.head_count", 4),
            ("attention.head_count_kv", 2),
            ("attention.key_length", 12),
        ];
        let mut keys: HashMap<String, Value> =
            sizes.map(|(name, size)| (format!("{architecture}.{name}"), Value::Integer(size))).into();
        keys.insert("general.architecture".into(), Value::Text(architecture.into()));
        keys.insert(format!("{architecture}.attention.layer_norm_rms_epsilon"), Value::Float(1e-6));
        keys.extend(changes.iter().map(|(name, value)| (format!("{architecture}.{name}"), value.clone())));
        let infos = [Info { name: "token_embd.weight".into(), shape: vec![96, 32], type_id: 0, offset: 0 }];
        let metadata = Metadata(keys);
        let header = Header::new(Path::new("tiny.gguf"), &metadata, &infos);
        header.and_then(|header| header.config(None)).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_not_computed_is_refused_by_name() {
        let yarn = [("rope.scaling.type", Value::Text("yarn".into()))];
        let experts = [("expert_count", Value::Integer(8))];
        let partly_turned = [("rope.dimension_count", Value::Integer(6))];
        let uneven = [("attention.sliding_window_pattern", Value::Skipped)];
        let cases = [
            (read("qwen3moe", &[]), "\"qwen3moe\""),
            (read("qwen3", &yarn), "\"yarn\""),
            (read("llama", &experts), "8 experts"),
            (read("qwen2", &partly_turned), "qwen2.rope.dimension_count is 6"),
            (read("gemma3", &uneven), "gemma3.attention.sliding_window_pattern"),
        ];
        for (found, named) in cases {
            let error = found.unwrap_err();
            assert!(error.contains("tiny.gguf cannot be used: ") && error.contains(named), "{named:?} in {error:?}");
        }
    }

    #[test]
    fn a_window_is_for_every_layer_of_llama_and_for_all_but_every_sixth_or_second_of_gemma() {
        let windows = |architecture, pattern: &[(&str, Value)]| -> Vec<Option<usize>> {
            let keys = [&[("attention.sliding_window", Value::Integer(8))], pattern].concat();
            read(architecture, &keys).unwrap().layers.iter().map(|layer| layer.window).collect()
        };
        assert_eq!(windows("llama", &[]), [Some(8); 3]);
        assert_eq!(windows("qwen2", &[]), [None; 3]);
        assert_eq!(windows("gemma2", &[]), [Some(8), None, Some(8)]);
        assert_eq!(windows("gemma3", &[]), [Some(8); 3]);
        let every_third = [("attention.sliding_window_pattern", Value::Integer(3))];
        assert_eq!(windows("gemma3", &every_third), [Some(8), Some(8), None]);
        assert!(read("llama", &[]).unwrap().layers.iter().all(|layer| layer.window.is_none()));
    }

    #[test]
    fn linear_scaling_of_gemma3_is_for_layers_that_see_everything() {
        let config = read(
            "gemma3",
            &[
                ("attention.sliding_window", Value::Integer(8)),
                ("attention.sliding_window_pattern", Value::Integer(3)),
                ("rope.freq_base", Value::Float(1e6)),
                ("rope.scaling.type", Value::Text("linear".into())),
                ("rope.scaling.factor", Value::Float(8.0)),
            ],
        );
        let layers = config.unwrap().layers;
        assert_eq!(layers[0].rope, Rope::plain(10_000.0));
        assert_eq!(layers[2].rope, Rope { theta: 1e6, scaling: RopeScaling::Linear { factor: 8.0 } });
    }

    #[test]
    fn the_largest_gemma_scales_by_the_hidden_width() {
        let scale = |layers| read("gemma3", &[("block_count", Value::Integer(layers))]).unwrap().attention_scale;
        assert_eq!((scale(61), scale(62)), (12f32.sqrt().recip(), 8f32.sqrt().recip()));
    }

    #[test]
    fn gemma2_has_its_caps_without_a_key() {
        let config = read("gemma2", &[]).unwrap();
        assert_eq!((config.attention_softcap, config.logit_softcap), (Some(50.0), Some(30.0)));
        assert_eq!(read("gemma3", &[]).unwrap().logit_softcap, None);
    }
}
