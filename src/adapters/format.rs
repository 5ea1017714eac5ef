//! LoRA adapters as files, in the format of PEFT: a folder of `adapter_config.json` and `adapter_model.safetensors`.
//!
//! A version is its content. It is the SHA-256 over, in this order, the bytes `ttrl adapter 1\0`, the length of
//! `adapter_config.json` (64 bits, little endian), that file, the length of `adapter_model.safetensors`, that file.
//! The lengths keep two different pairs of files from running together into the same bytes.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use candle_core::{DType, Device, Tensor, safetensors::Load};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::engine::{
    handle::{InvalidVersion, Version},
    model::lora::{Adapter, LoraConfig, Projection},
};

const CONFIG_FILE: &str = "adapter_config.json";
const TENSORS_FILE: &str = "adapter_model.safetensors";
/// What folders are called while they are written: this, then something random.
pub(super) const WRITING: &str = ".writing-";

const HASH_DOMAIN: &[u8] = b"ttrl adapter 1\0";

/// PEFT writes about 1 kB; regular expressions and patterns may take more.
const MAX_CONFIG_BYTES: u64 = 1 << 20;

/// Rank 64 on all projections of an 8-billion-parameter model is 0.7 GB in f32: this is far beyond any adapter that
/// the models served here can carry, and still fits in memory.
const MAX_TENSORS_BYTES: u64 = 4 << 30;

/// An adapter's two files and what they are together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    pub config_json: Vec<u8>,
    pub safetensors: Vec<u8>,
    pub version: Version,
}

impl Files {
    fn new(config_json: Vec<u8>, safetensors: Vec<u8>) -> Result<Self, FormatError> {
        let mut hash = Sha256::new_with_prefix(HASH_DOMAIN);
        for file in [&config_json, &safetensors] {
            hash.update((file.len() as u64).to_le_bytes());
            hash.update(file);
        }
        let version: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { config_json, safetensors, version: version.parse()? })
    }

    /// The size of both files together.
    pub fn bytes(&self) -> u64 {
        (self.config_json.len() + self.safetensors.len()) as u64
    }
}

/// Why an adapter's files could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("{path} has {bytes} bytes, more than the {limit} that an adapter's file may have")]
    TooLarge { path: PathBuf, bytes: u64, limit: u64 },
    /// The file is truncated, not what its name says, or contradicts the other one.
    #[error("{file} is not an adapter's: {reason}")]
    Invalid { file: &'static str, reason: String },
    /// The adapter uses a variant of LoRA that is not computed here.
    #[error("{CONFIG_FILE}: `{option}` is {value}, which is not supported: only plain LoRA is")]
    Unsupported { option: String, value: String },
    #[error("the adapter in {path} is damaged: its content is {found}")]
    Damaged { path: PathBuf, found: Version },
    #[error("the adapter's tensors: {0}")]
    Tensor(#[from] candle_core::Error),
    #[error(transparent)]
    Version(#[from] InvalidVersion),
}

fn bad_config(reason: impl Into<String>) -> FormatError {
    FormatError::Invalid { file: CONFIG_FILE, reason: reason.into() }
}

fn bad_tensors(reason: impl Into<String>) -> FormatError {
    FormatError::Invalid { file: TENSORS_FILE, reason: reason.into() }
}

fn io_at(path: &Path) -> impl FnOnce(io::Error) -> FormatError {
    let path = path.to_owned();
    |source| FormatError::Io { path, source }
}

/// The files of an adapter for the model called `base_model`. The same input gives the same bytes, and so the same
/// version. Tensors are named and shaped as in [`Adapter`] and written in f32; a value that is not finite is refused.
pub fn encode(config: &LoraConfig, tensors: &BTreeMap<String, Tensor>, base_model: &str) -> Result<Files, FormatError> {
    let mut contents = BTreeMap::new();
    for (name, tensor) in tensors {
        let tensor = tensor.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.contiguous()?;
        check_finite(name, &tensor)?;
        contents.insert(name.as_str(), tensor);
    }
    check_fit(config, contents.iter().map(|(name, tensor)| (*name, tensor.dims())))?;
    let metadata = [("format".to_owned(), "pt".to_owned())].into();
    let safetensors =
        safetensors::serialize(contents, Some(metadata)).map_err(|error| bad_tensors(error.to_string()))?;
    let config_json = config_json(config, base_model);
    // What could not be read back, such as an alpha that is no number, is not written.
    parse_config(&config_json)?;
    Files::new(config_json, safetensors)
}

/// Keys are in alphabetical order: whether a JSON object keeps another order depends on how its library was built.
fn config_json(config: &LoraConfig, base_model: &str) -> Vec<u8> {
    // PEFT's type is an integer; it computes with fractions all the same.
    let whole = config.alpha.fract() == 0.0 && config.alpha.abs() < 1e9;
    let alpha = if whole { json!(config.alpha as i64) } else { json!(config.alpha) };
    let targets: BTreeSet<&str> = config.targets.iter().map(|target| target.name()).collect();
    let value = json!({
        "base_model_name_or_path": base_model,
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "modules_to_save": null,
        "peft_type": "LORA",
        "r": config.r,
        "target_modules": targets,
        "task_type": "CAUSAL_LM",
        "use_dora": false,
        "use_rslora": false,
    });
    format!("{value:#}\n").into_bytes()
}

/// Writes the files into `dir/<version>/`, so that this folder is there whole or not at all, whenever the machine
/// stops. Writing a version again, even at the same time, changes nothing.
///
/// A write that was killed may leave a folder `.writing-*` behind, which nobody reads and which is removed a day later.
pub fn write(dir: &Path, files: &Files) -> Result<(), FormatError> {
    let home = dir.join(files.version.as_str());
    if home.is_dir() {
        return Ok(());
    }
    let staged = stage(dir, files)?;
    match fs::rename(staged.path(), &home) {
        // Its folder has moved: there is nothing left for it to remove.
        Ok(()) => drop(staged.keep()),
        // Another writer of the same content was first.
        Err(_) if home.is_dir() => {}
        Err(error) => return Err(io_at(&home)(error)),
    }
    sync_folder(dir)
}

/// A temporary folder beside its future place, with both files in it and all of it on disk.
fn stage(dir: &Path, files: &Files) -> Result<TempDir, FormatError> {
    fs::create_dir_all(dir).map_err(io_at(dir))?;
    let staged = tempfile::Builder::new().prefix(WRITING).tempdir_in(dir).map_err(io_at(dir))?;
    for (name, bytes) in [(CONFIG_FILE, &files.config_json), (TENSORS_FILE, &files.safetensors)] {
        let path = staged.path().join(name);
        let written = File::create_new(&path).and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        });
        written.map_err(io_at(&path))?;
    }
    sync_folder(staged.path())?;
    Ok(staged)
}

fn sync_folder(dir: &Path) -> Result<(), FormatError> {
    File::open(dir).and_then(|folder| folder.sync_all()).map_err(io_at(dir))
}

/// Reads an adapter from a folder in PEFT's format and refuses it unless its content is `expected`. Weights in f16 and
/// bf16 become f32.
pub fn read_verified(dir: &Path, expected: &Version) -> Result<Adapter, FormatError> {
    let files = read_files(dir)?;
    if files.version != *expected {
        return Err(FormatError::Damaged { path: dir.into(), found: files.version });
    }
    parse(&files)
}

fn read_files(dir: &Path) -> Result<Files, FormatError> {
    let config_json = read_bounded(&dir.join(CONFIG_FILE), MAX_CONFIG_BYTES)?;
    let safetensors = read_bounded(&dir.join(TENSORS_FILE), MAX_TENSORS_BYTES)?;
    Files::new(config_json, safetensors)
}

/// Asks for the size before any memory is taken for the content.
fn read_bounded(path: &Path, limit: u64) -> Result<Vec<u8>, FormatError> {
    let file = File::open(path).map_err(io_at(path))?;
    let bytes = file.metadata().map_err(io_at(path))?.len();
    if bytes > limit {
        return Err(FormatError::TooLarge { path: path.into(), bytes, limit });
    }
    let mut content = Vec::new();
    file.take(limit).read_to_end(&mut content).map_err(io_at(path))?;
    Ok(content)
}

fn parse(files: &Files) -> Result<Adapter, FormatError> {
    let config = parse_config(&files.config_json)?;
    // Checks that the shapes account for every byte of the file, so that no shape can ask for more memory than that.
    let views = SafeTensors::deserialize(&files.safetensors).map_err(|error| bad_tensors(error.to_string()))?;
    let views: BTreeMap<String, TensorView<'_>> = views.tensors().into_iter().collect();
    check_fit(&config, views.iter().map(|(name, view)| (name.as_str(), view.shape())))?;
    let mut tensors = BTreeMap::new();
    for (name, view) in views {
        if !matches!(view.dtype(), Dtype::F32 | Dtype::F16 | Dtype::BF16) {
            return Err(bad_tensors(format!("{name} is of type {:?}; F32, F16 and BF16 are read", view.dtype())));
        }
        let tensor = view.load(&Device::Cpu)?.to_dtype(DType::F32)?;
        check_finite(&name, &tensor)?;
        tensors.insert(name, tensor);
    }
    Ok(Adapter { version: files.version.clone(), config, tensors })
}

/// Options that leave the computation as it is, whatever their value.
const HARMLESS: [&str; 20] = [
    "auto_mapping",
    "base_model_name_or_path",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "exclude_modules",
    "inference_mode",
    "layers_pattern",
    "layers_to_transform",
    "loftq_config",
    "lora_alpha",
    "lora_dropout",
    "lora_ga_config",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "r",
    "revision",
    "runtime_config",
    "task_type",
];

fn parse_config(bytes: &[u8]) -> Result<LoraConfig, FormatError> {
    let options: Map<String, Value> = serde_json::from_slice(bytes).map_err(|error| bad_config(error.to_string()))?;
    for (option, value) in &options {
        let known = HARMLESS.contains(&option.as_str()) || option == "target_modules" || is_plain(option, value);
        if !known {
            return Err(FormatError::Unsupported { option: option.clone(), value: value.to_string() });
        }
    }
    if !options.contains_key("peft_type") {
        return Err(bad_config("it has no `peft_type`"));
    }
    let rank = options.get("r").and_then(Value::as_u64).and_then(|r| usize::try_from(r).ok()).filter(|r| *r > 0);
    let r = rank.ok_or_else(|| bad_config("`r` is not a positive whole number"))?;
    let alpha = options.get("lora_alpha").and_then(Value::as_f64).filter(|alpha| alpha.is_finite());
    let alpha = alpha.ok_or_else(|| bad_config("`lora_alpha` is not a number"))?;
    Ok(LoraConfig { r, alpha, targets: parse_targets(options.get("target_modules"))? })
}

/// Whether an option has the value that plain LoRA has. An option that is not known here may change the computation
/// unless it is off: better refused than ignored.
fn is_plain(option: &str, value: &Value) -> bool {
    match (option, value) {
        ("peft_type", value) => value == "LORA",
        // How training began; of the other ways, some change the base model's own weights.
        ("init_lora_weights", value) => value.is_boolean() || value == "gaussian" || value == "orthogonal",
        ("bias", value) => value == "none",
        (_, Value::Null | Value::Bool(false)) => true,
        (_, Value::Array(items)) => items.is_empty(),
        (_, Value::Object(entries)) => entries.is_empty(),
        _ => false,
    }
}

fn parse_targets(value: Option<&Value>) -> Result<Vec<Projection>, FormatError> {
    let Some(Value::Array(names)) = value else {
        let value = value.map_or("missing".into(), Value::to_string);
        let reason =
            format!("`target_modules` is {value}; a list of module names is needed, a pattern is not supported");
        return Err(bad_config(reason));
    };
    let targets: Result<BTreeSet<Projection>, _> = names.iter().map(parse_target).collect();
    let targets: Vec<_> = targets?.into_iter().collect();
    if targets.is_empty() { Err(bad_config("`target_modules` is empty")) } else { Ok(targets) }
}

fn parse_target(name: &Value) -> Result<Projection, FormatError> {
    let known = Projection::ALL.into_iter().find(|p| name == p.name() || name == p.path());
    known.ok_or_else(|| {
        let all = Projection::ALL.map(Projection::name).join(", ");
        bad_config(format!("`target_modules` names {name}; an adapter may be on {all}"))
    })
}

/// Checks that names, targets and shapes agree: for every layer and target that has one, `A` of `[r, in]` and `B` of
/// `[out, r]`. Whether these fit the model is for the engine to say.
fn check_fit<'a>(
    config: &LoraConfig,
    tensors: impl Iterator<Item = (&'a str, &'a [usize])>,
) -> Result<(), FormatError> {
    let mut halves: BTreeMap<(usize, Projection), Vec<char>> = BTreeMap::new();
    for (name, shape) in tensors {
        let (layer, projection, half) = parse_name(name)
            .ok_or_else(|| bad_tensors(format!("{name} is no LoRA weight of a projection in a decoder layer")))?;
        let rank_at = if half == 'A' { 0 } else { 1 };
        if shape.len() != 2 || shape[rank_at] != config.r || shape.contains(&0) {
            return Err(bad_tensors(format!(
                "{name} has the shape {shape:?}, which does not go with rank {}",
                config.r
            )));
        }
        if !config.targets.contains(&projection) {
            return Err(bad_tensors(format!(
                "{name} is there, but `target_modules` does not name {}",
                projection.name()
            )));
        }
        halves.entry((layer, projection)).or_default().push(half);
    }
    if let Some(((layer, projection), _)) = halves.iter().find(|(_, halves)| halves.len() != 2) {
        return Err(bad_tensors(format!("layer {layer} has only one half of {}", projection.path())));
    }
    match config.targets.iter().find(|target| !halves.keys().any(|(_, projection)| projection == *target)) {
        Some(target) => Err(bad_tensors(format!("no layer has weights for {}", target.name()))),
        None => Ok(()),
    }
}

/// The inverse of [`crate::engine::model::lora::peft_name`].
fn parse_name(name: &str) -> Option<(usize, Projection, char)> {
    let (layer, rest) = name.strip_prefix("base_model.model.model.layers.")?.split_once('.')?;
    let (path, half) = rest.strip_suffix(".weight")?.rsplit_once(".lora_")?;
    let half = ['A', 'B'].into_iter().find(|letter| half == letter.to_string())?;
    let projection = Projection::ALL.into_iter().find(|projection| projection.path() == path)?;
    let number: usize = layer.parse().ok()?;
    // `01` would be a second name of layer 1.
    (number.to_string() == layer).then_some((number, projection, half))
}

fn check_finite(name: &str, tensor: &Tensor) -> Result<(), FormatError> {
    let values: Vec<f32> = tensor.flatten_all()?.to_vec1()?;
    if values.iter().all(|value| value.is_finite()) {
        Ok(())
    } else {
        Err(bad_tensors(format!("{name} contains values that are not finite")))
    }
}

#[cfg(test)]
mod tests;
