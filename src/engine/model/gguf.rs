//! GGUF files: names, layout and encodings of tensors in the container that [`header`] reads.

mod config;
mod header;

use std::{collections::HashMap, path::Path};

pub(super) use self::header::Metadata;
#[cfg(test)]
pub(super) use self::header::Value;
use self::{
    config::{Header, ROPE_DIVISORS},
    header::{Info, Reader},
};
use super::{
    error::ModelError,
    family::Family,
    packed::Encoding,
    tokenizer::Tokenizer,
    weights::{Opened, TensorEntry},
};

/// Reads everything but the tensors' values of a GGUF file.
pub(super) fn open(path: &Path) -> Result<Opened, ModelError> {
    let mut reader = Reader::open(path)?;
    let (metadata, infos, data_start) = reader.header()?;
    let header = Header::new(path, &metadata, &infos)?;
    let locate = |info: &Info| locate(path, info, data_start, reader.length);
    let divisors = infos.iter().find(|info| info.name == ROPE_DIVISORS);
    let divisors = divisors.map(|info| locate(info)?.read_vector(ROPE_DIVISORS)).transpose()?;
    let config = header.config(divisors)?;
    let mut tensors = HashMap::with_capacity(infos.len());
    for info in infos.iter().filter(|info| info.name != ROPE_DIVISORS) {
        let name = hf_name(&info.name, header.family());
        let interleaved_heads = match name.rsplit('.').nth(1) {
            // Of all families only this one has its rows in pairs (2i, 2i + 1).
            Some("q_proj") if header.family() == Family::Llama => Some(config.heads),
            Some("k_proj") if header.family() == Family::Llama => Some(config.kv_heads),
            _ => None,
        };
        let entry = TensorEntry { interleaved_heads, ..locate(info)? };
        if tensors.insert(name, entry).is_some() {
            return Err(ModelError::damaged(path, format!("tensor {} is in it twice", info.name)));
        }
    }
    let tokenizer = read_tokenizer(path, &metadata)?;
    let chat_template = metadata.text("tokenizer.chat_template").map(String::from);
    Ok(Opened { config, tensors, tokenizer, chat_template, files: vec![path.into()] })
}

/// Reads the tokenizer of a GGUF file, if it has one, and nothing else.
pub(super) fn open_tokenizer(path: &Path) -> Result<Option<Tokenizer>, ModelError> {
    let (metadata, ..) = Reader::open(path)?.header()?;
    read_tokenizer(path, &metadata)
}

fn read_tokenizer(path: &Path, metadata: &Metadata) -> Result<Option<Tokenizer>, ModelError> {
    let described = metadata.text("tokenizer.ggml.model").is_some();
    let tokenizer = described.then(|| Tokenizer::from_gguf(metadata)).transpose();
    tokenizer.map_err(|source| ModelError::Tokenizer { path: path.into(), source })
}

/// The Hugging Face name of a tensor; a name that no family here has stays as it is.
fn hf_name(name: &str, family: Family) -> String {
    match name {
        "token_embd.weight" => return "model.embed_tokens.weight".into(),
        "output_norm.weight" => return "model.norm.weight".into(),
        "output.weight" => return "lm_head.weight".into(),
        _ => (),
    }
    let in_layer = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.'));
    let Some((layer, (part, kind))) = in_layer.and_then(|(layer, rest)| Some((layer, rest.rsplit_once('.')?))) else {
        return name.into();
    };
    let part = match part {
        "attn_q" => "self_attn.q_proj",
        "attn_k" => "self_attn.k_proj",
        "attn_v" => "self_attn.v_proj",
        "attn_output" => "self_attn.o_proj",
        "attn_q_norm" => "self_attn.q_norm",
        "attn_k_norm" => "self_attn.k_norm",
        "ffn_gate" => "mlp.gate_proj",
        "ffn_up" => "mlp.up_proj",
        "ffn_down" => "mlp.down_proj",
        "attn_norm" => "input_layernorm",
        // The norm before the MLP is named for what it follows, unless that has a norm of its own.
        "ffn_norm" if family.is_gemma() => "pre_feedforward_layernorm",
        "ffn_norm" => "post_attention_layernorm",
        "post_attention_norm" => "post_attention_layernorm",
        "post_ffw_norm" => "post_feedforward_layernorm",
        _ => return name.into(),
    };
    format!("model.layers.{layer}.{part}.{kind}")
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
    Ok(TensorEntry {
        file: path.into(),
        offset,
        bytes,
        shape: info.shape.clone(),
        encoding,
        interleaved_heads: None,
        less_one: false,
    })
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
