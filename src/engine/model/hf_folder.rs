//! Hugging Face folders: `config.json`, the safetensors header, shards and their index, the tokenizer's files.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use safetensors::{Dtype, tensor::Metadata};
use serde::{Deserialize, de::DeserializeOwned};

use super::{
    config::DecoderConfig,
    error::ModelError,
    packed::Encoding,
    tokenizer::Tokenizer,
    weights::{Opened, TensorEntry, check_config},
};

const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Reads everything but the tensors' values of a Llama-family folder.
pub(super) fn open(folder: &Path) -> Result<Opened, ModelError> {
    let config_path = folder.join("config.json");
    if !config_path.is_file() {
        let problem = "the folder has no config.json; give a Hugging Face model folder or a GGUF file";
        return Err(ModelError::unsupported(folder, problem));
    }
    let config = read_config(&config_path)?;
    let (tensors, files) = if folder.join(WEIGHTS).is_file() {
        let file = folder.join(WEIGHTS);
        (read_header(&file)?, vec![file])
    } else if folder.join(INDEX).is_file() {
        read_shards(folder)?
    } else {
        let problem = format!("the folder has neither {WEIGHTS} nor {INDEX}; convert the weights to safetensors");
        return Err(ModelError::unsupported(folder, problem));
    };
    let tokenizer_path = folder.join("tokenizer.json");
    let tokenizer = tokenizer_path
        .is_file()
        .then(|| Tokenizer::from_file(&tokenizer_path))
        .transpose()
        .map_err(|source| ModelError::Tokenizer { path: tokenizer_path, source })?;
    Ok(Opened { config, tensors, tokenizer, chat_template: chat_template(folder)?, files })
}

/// The part of `config.json` that decides what is computed. Absent fields mean what they mean in `transformers`.
#[derive(Deserialize)]
struct Config {
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    rms_norm_eps: Option<f64>,
    rope_theta: Option<f32>,
    rope_scaling: Option<Rope>,
    /// Newer files keep the base and the scaling together.
    rope_parameters: Option<Rope>,
    max_position_embeddings: Option<usize>,
    tie_word_embeddings: Option<bool>,
    hidden_act: Option<String>,
}

#[derive(Deserialize)]
struct Rope {
    #[serde(alias = "type")]
    rope_type: Option<String>,
    rope_theta: Option<f32>,
}

fn read_config(path: &Path) -> Result<DecoderConfig, ModelError> {
    // The family first: the fields of another one may well be missing.
    let family: serde_json::Value = read_json(path)?;
    let model_type = family.get("model_type").and_then(|kind| kind.as_str()).unwrap_or("(none)");
    if model_type != "llama" {
        let problem = format!("its model_type is {model_type:?}; only Llama-family models (\"llama\") run here");
        return Err(ModelError::unsupported(path, problem));
    }
    let config: Config = serde_json::from_value(family)
        .map_err(|error| ModelError::damaged(path, format!("it is not a Llama configuration: {error}")))?;
    for rope in [&config.rope_scaling, &config.rope_parameters].into_iter().flatten() {
        let kind = rope.rope_type.as_deref().unwrap_or("default");
        if !matches!(kind, "default" | "none") {
            let problem = format!("it scales its rotary positions ({kind:?}); use a model without rope scaling");
            return Err(ModelError::unsupported(path, problem));
        }
    }
    let activation = config.hidden_act.as_deref().unwrap_or("silu");
    if activation != "silu" {
        let problem = format!("its hidden_act is {activation:?}; use a plain Llama-family model (\"silu\")");
        return Err(ModelError::unsupported(path, problem));
    }
    let heads = config.num_attention_heads;
    let decoder = DecoderConfig {
        vocab_size: config.vocab_size,
        hidden_size: config.hidden_size,
        intermediate_size: config.intermediate_size,
        layers: config.num_hidden_layers,
        heads,
        kv_heads: config.num_key_value_heads.unwrap_or(heads),
        head_dim: config.head_dim.unwrap_or_else(|| config.hidden_size.checked_div(heads).unwrap_or(0)),
        rms_norm_eps: config.rms_norm_eps.unwrap_or(1e-6),
        rope_theta: config.rope_theta.or(config.rope_parameters.and_then(|rope| rope.rope_theta)).unwrap_or(10_000.0),
        context_tokens: config.max_position_embeddings.unwrap_or(2048),
        tied_embeddings: config.tie_word_embeddings.unwrap_or(false),
    };
    check_config(&decoder, path)?;
    Ok(decoder)
}

#[derive(Deserialize)]
struct Index {
    /// The shard of each tensor.
    weight_map: BTreeMap<String, String>,
}

fn read_shards(folder: &Path) -> Result<(HashMap<String, TensorEntry>, Vec<PathBuf>), ModelError> {
    let index_path = folder.join(INDEX);
    let index: Index = read_json(&index_path)?;
    let mut shards = HashMap::new();
    for shard in index.weight_map.values().collect::<BTreeSet<_>>() {
        // A name with a folder in it would read outside the model.
        if Path::new(shard).file_name() != Some(shard.as_ref()) {
            return Err(ModelError::damaged(&index_path, format!("{shard:?} is not a file name")));
        }
        let path = folder.join(shard);
        if !path.is_file() {
            return Err(ModelError::damaged(folder, format!("{INDEX} names the shard {shard}, which is not there")));
        }
        shards.insert(shard.clone(), read_header(&path)?);
    }
    let files = shards.keys().collect::<BTreeSet<_>>().into_iter().map(|shard| folder.join(shard)).collect();
    let mut tensors = HashMap::new();
    for (name, shard) in index.weight_map {
        let entry = shards.get_mut(&shard).and_then(|entries| entries.remove(&name));
        let entry = entry
            .ok_or_else(|| ModelError::damaged(folder.join(&shard), format!("{INDEX} says that {name} is in it")))?;
        tensors.insert(name, entry);
    }
    Ok((tensors, files))
}

/// The safetensors format's own limit on the header, in bytes.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// Where the tensors of one safetensors file are.
fn read_header(path: &Path) -> Result<HashMap<String, TensorEntry>, ModelError> {
    let io = |source| ModelError::io(path, source);
    let mut file = File::open(path).map_err(io)?;
    let length = file.metadata().map_err(io)?.len();
    if length < 8 {
        return Err(ModelError::damaged(path, format!("it has only {length} bytes")));
    }
    let mut size = [0; 8];
    file.read_exact(&mut size).map_err(io)?;
    let header_bytes = u64::from_le_bytes(size);
    if header_bytes > (length - 8).min(MAX_HEADER_BYTES) {
        let problem = format!("it announces a header of {header_bytes} bytes, but is {length} bytes long");
        return Err(ModelError::damaged(path, problem));
    }
    let mut header = vec![0; header_bytes as usize];
    file.read_exact(&mut header).map_err(io)?;
    let metadata: Metadata = serde_json::from_slice(&header)
        .map_err(|error| ModelError::damaged(path, format!("its header is not a safetensors header: {error}")))?;
    let data_start = 8 + header_bytes;
    let expected = data_start.saturating_add(metadata.data_len() as u64);
    if expected != length {
        let problem = format!("its header describes {expected} bytes, but it has {length}");
        return Err(ModelError::damaged(path, problem));
    }
    let tensors = metadata.tensors().into_iter().map(|(name, info)| {
        let encoding = match info.dtype {
            Dtype::F32 => Encoding::F32,
            Dtype::F16 => Encoding::F16,
            Dtype::BF16 => Encoding::Bf16,
            other => {
                let problem = format!("tensor {name} is stored as {other}; use a model in F32, F16 or BF16");
                return Err(ModelError::unsupported(path, problem));
            }
        };
        let (start, end) = info.data_offsets;
        let entry = TensorEntry {
            file: path.into(),
            offset: data_start + start as u64,
            bytes: end - start,
            shape: info.shape.clone(),
            encoding,
            interleaved_heads: None,
        };
        Ok((name, entry))
    });
    tensors.collect()
}

#[derive(Deserialize)]
struct TokenizerConfig {
    chat_template: Option<Templates>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Templates {
    One(String),
    Named(Vec<NamedTemplate>),
}

#[derive(Deserialize)]
struct NamedTemplate {
    name: String,
    template: String,
}

/// The chat template: its own file, or the one in the tokenizer's configuration.
fn chat_template(folder: &Path) -> Result<Option<String>, ModelError> {
    let path = folder.join("chat_template.jinja");
    if path.is_file() {
        return std::fs::read_to_string(&path).map(Some).map_err(|source| ModelError::io(path, source));
    }
    let path = folder.join("tokenizer_config.json");
    if !path.is_file() {
        return Ok(None);
    }
    Ok(match read_json::<TokenizerConfig>(&path)?.chat_template {
        None => None,
        Some(Templates::One(template)) => Some(template),
        Some(Templates::Named(named)) => {
            named.into_iter().find(|template| template.name == "default").map(|default| default.template)
        }
    })
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, ModelError> {
    let text = std::fs::read(path).map_err(|source| ModelError::io(path, source))?;
    serde_json::from_slice(&text)
        .map_err(|error| ModelError::damaged(path, format!("it is not the expected JSON: {error}")))
}
