//! Loading checkpoints: what the two formats must agree on, and what a bad file must say.

use std::{
    fs,
    path::{Path, PathBuf},
};

use candle_core::Device;
use tempfile::TempDir;
use ttrl::engine::model::{
    config::DecoderConfig,
    rope::RopeScaling,
    weights::{self, Checkpoint, expected_tensors},
};

use crate::support::fixture;

fn load(path: &Path) -> Checkpoint {
    weights::load(path, &Device::Cpu).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn values(checkpoint: &Checkpoint, name: &str) -> Vec<f32> {
    checkpoint.tensors[name].to_tensor().unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn error_of(path: &Path) -> String {
    match weights::load(path, &Device::Cpu) {
        Ok(_) => panic!("{} was loaded", path.display()),
        Err(error) => error.to_string(),
    }
}

#[track_caller]
fn assert_says(error: &str, parts: &[&str]) {
    for part in parts {
        assert!(error.contains(part), "{part:?} is not in {error:?}");
    }
}

/// A copy of a fixture folder, to be damaged.
fn copy_of(folder: &str) -> (TempDir, PathBuf) {
    let temp = TempDir::new().unwrap();
    for file in fs::read_dir(fixture(folder)).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), temp.path().join(file.file_name())).unwrap();
    }
    let path = temp.path().to_owned();
    (temp, path)
}

fn set_config(folder: &Path, key: &str, value: serde_json::Value) {
    let path = folder.join("config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config[key] = value;
    fs::write(&path, config.to_string()).unwrap();
}

fn replace(path: &Path, from: &[u8], to: &[u8]) {
    assert_eq!(from.len(), to.len());
    let mut bytes = fs::read(path).unwrap();
    let at = bytes.windows(from.len()).position(|window| window == from).unwrap();
    bytes[at..at + to.len()].copy_from_slice(to);
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_gguf_file_and_a_folder_of_the_same_model_load_to_equal_tensors() {
    let families = ["llama3", "qwen2", "qwen3", "gemma2", "gemma3"].map(|family| {
        let folder = format!("families/{family}");
        (fixture(&folder), fixture(&folder).join("model.gguf"))
    });
    let plain = (fixture("tiny-llama"), fixture("tiny-llama/tiny.gguf"));
    for (folder, file) in families.into_iter().chain([plain]) {
        let (folder, file) = (load(&folder), load(&file));
        assert_eq!(as_gguf_has_it(&folder.config), as_gguf_has_it(&file.config));
        assert_eq!(folder.tensors.len(), expected_tensors(&folder.config).len());
        for (name, shape) in expected_tensors(&folder.config) {
            assert_eq!(folder.tensors[&name].dims(), shape, "{name}");
            assert_eq!(values(&folder, &name), values(&file, &name), "{name}");
        }
        assert_ne!(folder.fingerprint, file.fingerprint);
    }
}

/// GGUF keeps the epsilon in f32, and of Llama 3's scaling what comes of it.
fn as_gguf_has_it(config: &DecoderConfig) -> DecoderConfig {
    let mut config = DecoderConfig { rms_norm_eps: (config.rms_norm_eps as f32).into(), ..config.clone() };
    for layer in &mut config.layers {
        if matches!(layer.rope.scaling, RopeScaling::Llama3 { .. } | RopeScaling::Divisors(_)) {
            let rounded = |frequency: f32| (frequency * 1e6).round();
            let frequencies = layer.rope.frequencies(config.head_dim).into_iter().map(rounded).collect();
            layer.rope.scaling = RopeScaling::Divisors(frequencies);
        }
    }
    config
}

#[test]
fn shards_in_bf16_with_tied_embeddings_load_without_a_head() {
    let checkpoint = load(&fixture("tiny-llama-sharded"));
    assert!(checkpoint.config.tied_embeddings);
    assert!(!checkpoint.tensors.contains_key("lm_head.weight"));
    assert_eq!(checkpoint.tensors.len(), expected_tensors(&checkpoint.config).len());
    let embedding = values(&checkpoint, "model.embed_tokens.weight");
    assert!(embedding.iter().any(|value| *value != 0.0));
    // Every bf16 number is an f32 whose lower half is 0.
    assert!(embedding.iter().all(|value| value.to_bits() & 0xffff == 0));
}

#[test]
fn the_fingerprint_is_the_hash_of_the_weight_file() {
    use sha2::{Digest, Sha256};
    let bytes = fs::read(fixture("tiny-llama/model.safetensors")).unwrap();
    let expected: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(load(&fixture("tiny-llama")).fingerprint, expected);
}

#[test]
fn a_folder_without_tokenizer_files_has_no_tokenizer_and_no_template() {
    let checkpoint = load(&fixture("tiny-llama"));
    assert!(checkpoint.tokenizer.is_none() && checkpoint.chat_template.is_none());
}

#[test]
fn the_chat_template_comes_from_its_own_file_before_the_tokenizer_configuration() {
    let (_temp, folder) = copy_of("tiny-llama");
    fs::write(folder.join("tokenizer_config.json"), r#"{"chat_template": "from the configuration"}"#).unwrap();
    assert_eq!(load(&folder).chat_template.as_deref(), Some("from the configuration"));
    let named = r#"{"chat_template": [{"name": "tool_use", "template": "b"}, {"name": "default", "template": "a"}]}"#;
    fs::write(folder.join("tokenizer_config.json"), named).unwrap();
    assert_eq!(load(&folder).chat_template.as_deref(), Some("a"));
    fs::write(folder.join("chat_template.jinja"), "from the file").unwrap();
    assert_eq!(load(&folder).chat_template.as_deref(), Some("from the file"));
}

#[test]
fn a_path_that_is_not_there_is_named() {
    assert_says(&error_of(Path::new("/nowhere/model.gguf")), &["/nowhere/model.gguf", "check that it exists"]);
}

#[test]
fn a_folder_without_config_or_weights_says_what_is_missing() {
    let temp = TempDir::new().unwrap();
    assert_says(&error_of(temp.path()), &["no config.json"]);
    fs::copy(fixture("tiny-llama/config.json"), temp.path().join("config.json")).unwrap();
    assert_says(&error_of(temp.path()), &["neither model.safetensors nor", "convert"]);
}

#[test]
fn a_configuration_that_does_not_fit_the_weights_names_tensor_and_shapes() {
    let (_temp, folder) = copy_of("tiny-llama");
    let config = load(&folder).config;
    set_config(&folder, "intermediate_size", (config.intermediate_size + 2).into());
    let expected = format!("{:?}", [config.intermediate_size + 2, config.hidden_size]);
    let found = format!("{:?}", [config.intermediate_size, config.hidden_size]);
    assert_says(&error_of(&folder), &["mlp.gate_proj", &expected, &found]);
}

#[test]
fn absurd_sizes_in_a_configuration_are_refused_before_anything_is_allocated() {
    for (key, value) in [
        ("num_hidden_layers", 1u64 << 60),
        ("hidden_size", 1 << 62),
        ("vocab_size", 1 << 40),
        ("num_attention_heads", 0),
        ("num_key_value_heads", 0),
    ] {
        let (_temp, folder) = copy_of("tiny-llama");
        set_config(&folder, key, value.into());
        assert_says(&error_of(&folder), &["config.json is damaged"]);
    }
    let (_temp, folder) = copy_of("tiny-llama");
    set_config(&folder, "num_hidden_layers", (load(&folder).config.layers.len() + 1).into());
    assert_says(&error_of(&folder), &["is missing"]);
}

#[test]
fn a_tensor_that_the_decoder_would_ignore_is_refused() {
    let (_temp, folder) = copy_of("tiny-llama");
    set_config(&folder, "num_hidden_layers", (load(&folder).config.layers.len() - 1).into());
    assert_says(&error_of(&folder), &["has a tensor model.layers.", "its family does not"]);
}

#[test]
fn every_cut_of_a_safetensors_file_is_one_clear_error() {
    let (_temp, folder) = copy_of("tiny-llama");
    let path = folder.join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    for length in [0, 5, 8, 100, bytes.len() / 2, bytes.len() - 1] {
        fs::write(&path, &bytes[..length]).unwrap();
        assert_says(&error_of(&folder), &["model.safetensors is damaged", "download"]);
    }
}

#[test]
fn a_safetensors_header_larger_than_the_file_is_refused() {
    let (_temp, folder) = copy_of("tiny-llama");
    let path = folder.join("model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    bytes[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    fs::write(&path, bytes).unwrap();
    assert_says(&error_of(&folder), &["model.safetensors is damaged", "announces a header"]);
}

#[test]
fn a_missing_shard_and_a_shard_outside_the_folder_are_named() {
    let (_temp, folder) = copy_of("tiny-llama-sharded");
    fs::remove_file(folder.join("model-00002-of-00002.safetensors")).unwrap();
    assert_says(&error_of(&folder), &["model-00002-of-00002.safetensors", "not there"]);
    let index = fs::read_to_string(folder.join("model.safetensors.index.json")).unwrap();
    let outside = index.replace("model-00002-of-00002.safetensors", "../elsewhere.safetensors");
    fs::write(folder.join("model.safetensors.index.json"), outside).unwrap();
    assert_says(&error_of(&folder), &["../elsewhere.safetensors", "not a file name"]);
}

#[test]
fn every_cut_of_a_gguf_file_is_one_clear_error() {
    let bytes = fs::read(fixture("tiny-llama/tiny.gguf")).unwrap();
    let temp = TempDir::new().unwrap();
    let path = temp.path().join("cut.gguf");
    // Places all over the header, and some in the data.
    let lengths = (24..2000).step_by(5).chain([bytes.len() / 2, bytes.len() - 1]);
    for length in lengths {
        fs::write(&path, &bytes[..length]).unwrap();
        assert_says(&error_of(&path), &["cut.gguf", "damaged", "download"]);
    }
    fs::write(&path, b"").unwrap();
    assert_says(&error_of(&path), &["cut.gguf", "empty"]);
}

#[test]
fn a_file_of_another_kind_says_what_would_work() {
    let temp = TempDir::new().unwrap();
    let path = temp.path().join("model.bin");
    fs::write(&path, [0x50; 4096]).unwrap();
    assert_says(&error_of(&path), &["model.bin", "not a GGUF file", "folder with config.json"]);
}

#[test]
fn a_number_that_is_not_finite_is_named_with_its_tensor() {
    let temp = TempDir::new().unwrap();
    let path = temp.path().join("infinite.gguf");
    let mut bytes = fs::read(fixture("tiny-llama/tiny.gguf")).unwrap();
    // The end of the file is the end of its last tensor, which is in f32.
    let at = bytes.len() - 4;
    bytes[at..].copy_from_slice(&f32::NEG_INFINITY.to_le_bytes());
    fs::write(&path, bytes).unwrap();
    assert_says(&error_of(&path), &["infinite.gguf is damaged", "lm_head.weight", "not finite", "download"]);
}

#[test]
fn flipped_header_bytes_never_panic() {
    let bytes = fs::read(fixture("tiny-llama/tiny.gguf")).unwrap();
    let temp = TempDir::new().unwrap();
    let path = temp.path().join("flipped.gguf");
    let mut refused = 0;
    for at in (0..3000).step_by(3) {
        let mut flipped = bytes.clone();
        flipped[at] ^= 0xff;
        fs::write(&path, flipped).unwrap();
        refused += usize::from(weights::load(&path, &Device::Cpu).is_err());
    }
    assert!(refused > 300, "only {refused} of the damaged headers were refused");
}

#[test]
fn other_architectures_in_gguf_are_refused_by_name() {
    let temp = TempDir::new().unwrap();
    let path = temp.path().join("other.gguf");
    fs::copy(fixture("tiny-llama/tiny.gguf"), &path).unwrap();
    replace(&path, b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0mamba");
    assert_says(&error_of(&path), &["other.gguf cannot be used", "mamba", "llama, qwen2, qwen3, gemma2, gemma3"]);
}

#[test]
fn a_quantisation_that_cannot_be_read_is_named_with_its_tensor() {
    let temp = TempDir::new().unwrap();
    let path = temp.path().join("exotic.gguf");
    let mut bytes = fs::read(fixture("tiny-llama/tiny.gguf")).unwrap();
    let name = b"token_embd.weight";
    let at = bytes.windows(name.len()).position(|window| window == name).unwrap();
    // After the name: the number of dimensions, two dimensions, the type.
    let kind = at + name.len() + 4 + 16;
    bytes[kind..kind + 4].copy_from_slice(&23u32.to_le_bytes());
    fs::write(&path, bytes).unwrap();
    assert_says(&error_of(&path), &["exotic.gguf cannot be used", "token_embd.weight", "IQ4_XS", "Q4_1"]);
}
