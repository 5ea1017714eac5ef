//! GGUF files: the Llama family's names, layout and encodings in the container that [`header`] reads.

mod header;

use std::{collections::HashMap, path::Path};

pub(super) use self::header::Metadata;
#[cfg(test)]
pub(super) use self::header::Value;
use self::header::{Info, Reader};
use super::{
    config::DecoderConfig,
    error::ModelError,
    packed::Encoding,
    tokenizer::Tokenizer,
    weights::{Opened, TensorEntry, check_config},
};

/// Reads everything but the tensors' values of a Llama-family GGUF file.
pub(super) fn open(path: &Path) -> Result<Opened, ModelError> {
    let mut reader = Reader::open(path)?;
    let (metadata, infos, data_start) = reader.header()?;
    check_family(path, &metadata)?;
    let config = read_config(path, &metadata, &infos)?;
    check_config(&config, path)?;
    let mut tensors = HashMap::with_capacity(infos.len());
    for info in infos {
        let entry = locate(path, &info, data_start, reader.length)?;
        let (name, heads) = match info.name.as_str() {
            name if name.ends_with(".attn_q.weight") => (hf_name(name), Some(config.heads)),
            name if name.ends_with(".attn_k.weight") => (hf_name(name), Some(config.kv_heads)),
            name => (hf_name(name), None),
        };
        let entry = TensorEntry { interleaved_heads: heads, ..entry };
        if tensors.insert(name, entry).is_some() {
            return Err(ModelError::damaged(path, format!("tensor {} is in it twice", info.name)));
        }
    }
    let tokenizer = metadata
        .text("tokenizer.ggml.model")
        .is_some()
        .then(|| Tokenizer::from_gguf(&metadata))
        .transpose()
        .map_err(|source| ModelError::Tokenizer { path: path.into(), source })?;
    let chat_template = metadata.text("tokenizer.chat_template").map(String::from);
    Ok(Opened { config, tensors, tokenizer, chat_template, files: vec![path.into()] })
}

/// The Hugging Face name of a tensor; a name that is not the Llama family's stays as it is.
fn hf_name(name: &str) -> String {
    match name {
        "token_embd.weight" => return "model.embed_tokens.weight".into(),
        "output_norm.weight" => return "model.norm.weight".into(),
        "output.weight" => return "lm_head.weight".into(),
        _ => (),
    }
    let split = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.'));
    let Some((layer, part)) = split else { return name.into() };
    let part = match part {
        "attn_q.weight" => "self_attn.q_proj",
        "attn_k.weight" => "self_attn.k_proj",
        "attn_v.weight" => "self_attn.v_proj",
        "attn_output.weight" => "self_attn.o_proj",
        "ffn_gate.weight" => "mlp.gate_proj",
        "ffn_up.weight" => "mlp.up_proj",
        "ffn_down.weight" => "mlp.down_proj",
        "attn_norm.weight" => "input_layernorm",
        "ffn_norm.weight" => "post_attention_layernorm",
        _ => return name.into(),
    };
    format!("model.layers.{layer}.{part}.weight")
}

fn check_family(path: &Path, metadata: &Metadata) -> Result<(), ModelError> {
    let architecture = metadata.text("general.architecture").unwrap_or("(none)");
    if architecture != "llama" {
        let problem = format!("its architecture is {architecture:?}; only Llama-family models (\"llama\") run here");
        return Err(ModelError::unsupported(path, problem));
    }
    let scaling = metadata.text("llama.rope.scaling.type").unwrap_or("none");
    if scaling != "none" {
        let problem = format!("it scales its rotary positions ({scaling:?}); use a model without rope scaling");
        return Err(ModelError::unsupported(path, problem));
    }
    match metadata.size("llama.expert_count") {
        None | Some(0) => Ok(()),
        Some(experts) => {
            let problem = format!("it is a mixture of {experts} experts; use a model without experts");
            Err(ModelError::unsupported(path, problem))
        }
    }
}

fn read_config(path: &Path, metadata: &Metadata, infos: &[Info]) -> Result<DecoderConfig, ModelError> {
    let size = |key: &str| {
        let key = format!("llama.{key}");
        metadata.size(&key).ok_or_else(|| ModelError::damaged(path, format!("its metadata lacks a usable {key}")))
    };
    let embedding = infos.iter().find(|info| info.name == "token_embd.weight");
    let vocab_size = match (metadata.size("llama.vocab_size"), embedding.and_then(|info| info.shape.first())) {
        (Some(size), _) | (None, Some(&size)) => size,
        (None, None) => return Err(ModelError::damaged(path, "it has no token_embd.weight")),
    };
    let (hidden_size, heads) = (size("embedding_length")?, size("attention.head_count")?);
    let head_dim =
        metadata.size("llama.attention.key_length").unwrap_or_else(|| hidden_size.checked_div(heads).unwrap_or(0));
    for key in ["llama.rope.dimension_count", "llama.attention.value_length"] {
        if let Some(other) = metadata.size(key).filter(|other| *other != head_dim) {
            let problem = format!("{key} is {other} while a head has {head_dim} dimensions; use a plain Llama model");
            return Err(ModelError::unsupported(path, problem));
        }
    }
    if infos.iter().any(|info| info.name == "rope_freqs.weight") {
        let problem = "it scales its rotary positions (rope_freqs.weight); use a model without rope scaling";
        return Err(ModelError::unsupported(path, problem));
    }
    let epsilon = "llama.attention.layer_norm_rms_epsilon";
    Ok(DecoderConfig {
        vocab_size,
        hidden_size,
        intermediate_size: size("feed_forward_length")?,
        layers: size("block_count")?,
        heads,
        kv_heads: size("attention.head_count_kv").unwrap_or(heads),
        head_dim,
        rms_norm_eps: metadata
            .float(epsilon)
            .ok_or_else(|| ModelError::damaged(path, format!("its metadata lacks {epsilon}")))?,
        rope_theta: metadata.float("llama.rope.freq_base").unwrap_or(10_000.0) as f32,
        context_tokens: size("context_length")?,
        tied_embeddings: !infos.iter().any(|info| info.name == "output.weight"),
    })
}

/// Finds a tensor's bytes in the file and checks that they are there.
fn locate(path: &Path, info: &Info, data_start: u64, file_length: u64) -> Result<TensorEntry, ModelError> {
    let name = &info.name;
    let Some(encoding) = Encoding::of_gguf(info.type_id) else {
        let problem = format!(
            "tensor {name} is stored as {}; use a file in F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0 or a K-quant",
            type_name(info.type_id)
        );
        return Err(ModelError::unsupported(path, problem));
    };
    let (block, block_bytes) = encoding.block();
    let absurd = || ModelError::damaged(path, format!("tensor {name} cannot have shape {:?}", info.shape));
    let row = info.shape.last().copied().ok_or_else(absurd)?;
    let elements = info.shape.iter().try_fold(1usize, |product, &size| product.checked_mul(size)).ok_or_else(absurd)?;
    if elements == 0 || row % block != 0 {
        return Err(absurd());
    }
    let bytes = (elements / block).checked_mul(block_bytes).ok_or_else(absurd)?;
    let offset = data_start.checked_add(info.offset).ok_or_else(absurd)?;
    let end = offset.checked_add(bytes as u64).ok_or_else(absurd)?;
    if end > file_length {
        let problem = format!("tensor {name} should end at byte {end}, but the file ends at byte {file_length}");
        return Err(ModelError::damaged(path, problem));
    }
    Ok(TensorEntry { file: path.into(), offset, bytes, shape: info.shape.clone(), encoding, interleaved_heads: None })
}

fn type_name(type_id: u32) -> String {
    let name = match type_id {
        9 => "Q8_1",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        20 => "IQ4_NL",
        21 => "IQ3_S",
        22 => "IQ2_S",
        23 => "IQ4_XS",
        28 => "F64",
        29 => "IQ1_M",
        34 => "TQ1_0",
        35 => "TQ2_0",
        39 => "MXFP4",
        other => return format!("type number {other}"),
    };
    name.into()
}
