//! Tensors only: the decoder, its configuration and weights, LoRA, the tokenizer and where models come from.

pub mod chat_template;
pub mod config;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod decoder;
pub mod device;
pub mod error;
mod family;
pub mod frozen;
mod gguf;
mod hf_folder;
pub mod lora;
pub mod ops;
pub mod outputs;
pub mod packed;
pub mod rope;
pub mod source;
pub mod tokenizer;
pub mod training;
pub mod weights;
