//! The families of models that run here: what all models of a family have in common and no file says.

use super::ops::Activation;

/// A family that the decoder can compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    /// Llama 2 and 3, SmolLM2, and what else was built alike.
    Llama,
    Mistral,
    /// Qwen 2 and 2.5.
    Qwen2,
    Qwen3,
    Gemma2,
    /// The text model of Gemma 3.
    Gemma3,
}

/// What the families are called in `config.json`.
const MODEL_TYPES: [(&str, Family); 6] = [
    ("llama", Family::Llama),
    ("mistral", Family::Mistral),
    ("qwen2", Family::Qwen2),
    ("qwen3", Family::Qwen3),
    ("gemma2", Family::Gemma2),
    ("gemma3_text", Family::Gemma3),
];

/// What they are called in GGUF files, which have no name for Mistral of its own.
const ARCHITECTURES: [(&str, Family); 5] = [
    ("llama", Family::Llama),
    ("qwen2", Family::Qwen2),
    ("qwen3", Family::Qwen3),
    ("gemma2", Family::Gemma2),
    ("gemma3", Family::Gemma3),
];

impl Family {
    /// By the `model_type` of `config.json`.
    ///
    /// # Errors
    /// In words, with what would work.
    pub fn of_model_type(name: &str) -> Result<Self, String> {
        find(&MODEL_TYPES, name, "model_type")
    }

    /// By the `general.architecture` of a GGUF file.
    ///
    /// # Errors
    /// In words, with what would work.
    pub fn of_architecture(name: &str) -> Result<Self, String> {
        find(&ARCHITECTURES, name, "architecture")
    }

    pub fn is_gemma(self) -> bool {
        matches!(self, Self::Gemma2 | Self::Gemma3)
    }

    pub fn has_qk_norm(self) -> bool {
        matches!(self, Self::Qwen3 | Self::Gemma3)
    }

    pub fn activation(self) -> Activation {
        if self.is_gemma() { Activation::GeluTanh } else { Activation::Silu }
    }

    /// Gemma multiplies embeddings by the root of their width. `transformers` rounds it to the precision that it
    /// computes in; this is the value for f32.
    pub fn embedding_scale(self, hidden_size: usize) -> Option<f32> {
        self.is_gemma().then(|| (hidden_size as f32).sqrt())
    }

    /// In Gemma every so many layers one sees everything, and the others have a window.
    pub fn window_period(self) -> Option<usize> {
        match self {
            Self::Gemma2 => Some(2),
            Self::Gemma3 => Some(6),
            _ => None,
        }
    }
}

fn find(names: &[(&str, Family)], name: &str, what: &str) -> Result<Family, String> {
    let found = names.iter().find(|(known, _)| *known == name).map(|(_, family)| *family);
    found.ok_or_else(|| {
        let known: Vec<&str> = names.iter().map(|(known, _)| *known).collect();
        format!("its {what} is {name:?}; use a model of one of the families {}", known.join(", "))
    })
}
