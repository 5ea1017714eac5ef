//! Hugging Face folders: the safetensors header, shards and their index, the tokenizer's files, and `config.json`,
//! which [`config`] reads.

mod config;

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
    weights::{Opened, TensorEntry},
};

/// The shape that a `config.json` describes.
pub(super) fn read_config(path: &Path) -> Result<DecoderConfig, ModelError> {
    Ok(config::read(path)?.1)
}

const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Reads everything but the tensors' values of a folder.
pub(super) fn open(folder: &Path) -> Result<Opened, ModelError> {
    let config_path = folder.join("config.json");
    if !config_path.is_file() {
        let problem = "the folder has no config.json; give a Hugging Face model folder or a GGUF file";
        return Err(ModelError::unsupported(folder, problem));
    }
    let (family, config) = config::read(&config_path)?;
    let (mut tensors, files) = if folder.join(WEIGHTS).is_file() {
        let file = folder.join(WEIGHTS);
        (read_header(&file)?, vec![file])
    } else if folder.join(INDEX).is_file() {
        read_shards(folder)?
    } else {
        let problem = format!("the folder has neither {WEIGHTS} nor {INDEX}; convert the weights to safetensors");
        return Err(ModelError::unsupported(folder, problem));
    };
    if family.is_gemma() {
        tensors.iter_mut().for_each(|(name, entry)| entry.less_one = name.ends_with("norm.weight"));
    }
    let tokenizer_path = folder.join("tokenizer.json");
    let tokenizer = tokenizer_path
        .is_file()
        .then(|| Tokenizer::from_file(&tokenizer_path))
        .transpose()
        .map_err(|source| ModelError::Tokenizer { path: tokenizer_path, source })?;
    Ok(Opened { config, tensors, tokenizer, chat_template: chat_template(folder)?, files })
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
            less_one: false,
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
