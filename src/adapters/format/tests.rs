use proptest::prelude::*;

use super::*;
use crate::engine::model::lora::peft_name;

fn config() -> LoraConfig {
    LoraConfig { r: 2, alpha: 4.0, targets: vec![Projection::QProj, Projection::DownProj] }
}

/// Two layers, 3 inputs, 5 outputs, values 0, 0.125, 0.25, ...
fn tensors() -> BTreeMap<String, Tensor> {
    let mut tensors = BTreeMap::new();
    for (layer, projection) in [0, 1].into_iter().flat_map(|i| config().targets.into_iter().map(move |p| (i, p))) {
        for (half, shape) in [('A', (2, 3)), ('B', (5, 2))] {
            let start = tensors.len() as f32;
            let values: Vec<f32> = (0..shape.0 * shape.1).map(|i| start + i as f32 / 8.0).collect();
            let tensor = Tensor::from_vec(values, shape, &Device::Cpu).unwrap();
            tensors.insert(peft_name(layer, projection, half), tensor);
        }
    }
    tensors
}

fn files() -> Files {
    encode(&config(), &tensors(), "some-model").unwrap()
}

/// A folder with these two files.
fn folder(config_json: &[u8], safetensors: &[u8]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(CONFIG_FILE), config_json).unwrap();
    fs::write(dir.path().join(TENSORS_FILE), safetensors).unwrap();
    dir
}

/// What is said about a folder whose configuration has one option more, or another value for it.
fn with_option(option: &str, value: Value) -> Result<Adapter, FormatError> {
    let mut options: Map<String, Value> = serde_json::from_slice(&files().config_json).unwrap();
    options.insert(option.into(), value);
    read(folder(&serde_json::to_vec(&options).unwrap(), &files().safetensors).path())
}

/// Whatever its content is, as long as it is an adapter.
fn read(dir: &Path) -> Result<Adapter, FormatError> {
    parse(&read_files(dir)?)
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn names(dir: &Path) -> Vec<String> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn what_is_written_is_read_back() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join("adapters"), &files()).unwrap();
    let home = dir.path().join("adapters").join(files().version.as_str());
    let adapter = read_verified(&home, &files().version).unwrap();
    assert_eq!((&adapter.version, &adapter.config), (&files().version, &config()));
    assert_eq!(adapter.tensors.keys().collect::<Vec<_>>(), tensors().keys().collect::<Vec<_>>());
    for (name, tensor) in tensors() {
        assert_eq!(values(&adapter.tensors[&name]), values(&tensor), "{name}");
        assert_eq!(adapter.tensors[&name].dims(), tensor.dims(), "{name}");
    }
}

/// The figure is hashlib's, over the bytes that the description at the top of this file names.
#[test]
fn a_version_depends_on_nothing_but_content() {
    assert_eq!(files(), files());
    assert_eq!(files().version.as_str(), "2c505e474281726521628c74bc94d5841b7b59f2c307c215963f21f0c1b312e5");
}

#[test]
fn other_content_is_another_version() {
    let mut versions = BTreeSet::from([files().version]);
    versions.insert(encode(&config(), &tensors(), "another-model").unwrap().version);
    versions.insert(encode(&LoraConfig { alpha: 4.5, ..config() }, &tensors(), "some-model").unwrap().version);
    let mut changed = tensors();
    let name = peft_name(1, Projection::QProj, 'A');
    let tensor = (&changed[&name] + 1e-6).unwrap();
    changed.insert(name, tensor);
    versions.insert(encode(&config(), &changed, "some-model").unwrap().version);
    assert_eq!(versions.len(), 4);
}

#[test]
fn an_adapter_that_peft_wrote_is_read() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny-llama-lora");
    let adapter = read(&dir).unwrap();
    assert_eq!((adapter.config.r, adapter.config.alpha), (4, 8.0));
    assert_eq!(adapter.config.targets, Projection::ALL);
    assert_eq!(adapter.tensors[&peft_name(0, Projection::DownProj, 'A')].dims(), [4, 56]);
    let rewritten = encode(&adapter.config, &adapter.tensors, "tiny-llama").unwrap();
    let again = parse(&rewritten).unwrap();
    assert!(adapter.tensors.iter().all(|(name, tensor)| values(tensor) == values(&again.tensors[name])));
}

#[test]
fn half_precision_becomes_f32() {
    for dtype in [DType::F16, DType::BF16] {
        let half: BTreeMap<_, _> = tensors().into_iter().map(|(n, t)| (n, t.to_dtype(dtype).unwrap())).collect();
        let adapter = read(folder(&files().config_json, &safetensors::serialize(&half, None).unwrap()).path()).unwrap();
        // The values of the test are exact in both types.
        for (name, tensor) in tensors() {
            assert_eq!(values(&adapter.tensors[&name]), values(&tensor), "{name}");
        }
    }
    let double: BTreeMap<_, _> = tensors().into_iter().map(|(n, t)| (n, t.to_dtype(DType::F64).unwrap())).collect();
    let error = read(folder(&files().config_json, &safetensors::serialize(&double, None).unwrap()).path());
    assert!(error.unwrap_err().to_string().contains("F64"));
}

#[test]
fn a_variant_of_lora_is_refused_by_name() {
    for (option, value) in [
        ("use_rslora", json!(true)),
        ("use_dora", json!(true)),
        ("bias", json!("all")),
        ("modules_to_save", json!(["lm_head"])),
        ("rank_pattern", json!({"q_proj": 8})),
        ("alpha_pattern", json!({"q_proj": 8})),
        ("fan_in_fan_out", json!(true)),
        ("layer_replication", json!([[0, 2]])),
        ("init_lora_weights", json!("pissa")),
        ("peft_type", json!("IA3")),
        ("an_option_of_tomorrow", json!(3)),
        ("target_modules", json!(".*_proj")),
        ("target_modules", json!(["q_proj", "lm_head"])),
        ("target_modules", json!([])),
        ("r", json!(0)),
        ("r", json!(-1)),
        ("lora_alpha", json!("x")),
    ] {
        let error = with_option(option, value.clone()).unwrap_err().to_string();
        assert!(error.contains(CONFIG_FILE) && error.contains(&format!("`{option}`")), "{option}: {error}");
    }
}

#[test]
fn options_that_change_nothing_are_accepted() {
    let options = [("use_rslora", json!(false)), ("loftq_config", json!({})), ("lora_dropout", json!(0.1))];
    for (option, value) in options.into_iter().chain([("an_option_of_tomorrow", Value::Null)]) {
        assert_eq!(with_option(option, value).unwrap().config, config(), "{option}");
    }
    let paths = with_option("target_modules", json!(["mlp.down_proj", "q_proj", "self_attn.q_proj"]));
    assert_eq!(paths.unwrap().config, config());
}

#[test]
fn tensors_that_contradict_the_configuration_are_refused() {
    let encode_with = |change: fn(&mut LoraConfig, &mut BTreeMap<String, Tensor>)| {
        let (mut config, mut tensors) = (config(), tensors());
        change(&mut config, &mut tensors);
        encode(&config, &tensors, "some-model").unwrap_err().to_string()
    };
    let name = |half| peft_name(0, Projection::QProj, half);
    assert_eq!(name('A'), "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight");
    assert!(encode_with(|config, _| config.r = 3).contains("does not go with rank 3"));
    assert!(encode_with(|config, _| config.targets = vec![Projection::QProj]).contains("does not name down_proj"));
    assert!(
        encode_with(|config, _| config.targets.push(Projection::UpProj)).contains("no layer has weights for up_proj")
    );
    assert!(encode_with(|config, _| config.alpha = f64::NAN).contains("`lora_alpha` is not a number"));
    let one_half = encode_with(|_, tensors| drop(tensors.remove(&peft_name(0, Projection::QProj, 'A'))));
    assert!(one_half.contains("layer 0 has only one half of self_attn.q_proj"), "{one_half}");
    for odd in ["model.embed_tokens.lora_A.weight", "base_model.model.model.layers.00.self_attn.q_proj.lora_A.weight"] {
        assert_eq!(parse_name(odd), None);
    }
    let infinite = encode_with(|_, tensors| {
        let name = peft_name(0, Projection::QProj, 'A');
        let tensor = (tensors[&name].clone() / 0.0).unwrap();
        tensors.insert(name, tensor);
    });
    assert!(infinite.contains("not finite"), "{infinite}");
}

#[test]
fn a_truncated_file_is_an_error_wherever_it_ends() {
    let files = files();
    for step in 0..50 {
        let cut = |bytes: &[u8]| bytes[..bytes.len() * step / 50].to_vec();
        let short_tensors = folder(&files.config_json, &cut(&files.safetensors));
        assert!(read(short_tensors.path()).is_err(), "{step}");
        assert!(read_verified(short_tensors.path(), &files.version).is_err(), "{step}");
        let short_config = folder(&cut(&files.config_json), &files.safetensors);
        assert!(read(short_config.path()).is_err(), "{step}");
        assert!(read_verified(short_config.path(), &files.version).is_err(), "{step}");
    }
}

#[test]
fn sizes_that_cannot_be_true_are_refused() {
    let files = files();
    let huge_header = folder(&files.config_json, &u64::MAX.to_le_bytes());
    assert!(read(huge_header.path()).unwrap_err().to_string().contains("header too large"));
    let name = peft_name(0, Projection::QProj, 'A');
    let header =
        format!("{{\"{name}\":{{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,8]}}}}");
    let huge_shape = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[0; 8]].concat();
    assert!(read(folder(&files.config_json, &huge_shape).path()).is_err());
    for (file, limit) in [(CONFIG_FILE, MAX_CONFIG_BYTES), (TENSORS_FILE, MAX_TENSORS_BYTES)] {
        let dir = folder(&files.config_json, &files.safetensors);
        // No disk is taken: the file is a hole.
        File::create(dir.path().join(file)).unwrap().set_len(limit + 1).unwrap();
        assert!(matches!(read(dir.path()), Err(FormatError::TooLarge { .. })), "{file}");
    }
}

#[test]
fn a_write_that_was_killed_leaves_no_version() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join(files().version.as_str());
    let _left_behind = stage(dir.path(), &files()).unwrap().keep();
    assert!(!home.exists());
    assert!(names(dir.path()).iter().all(|name| name.parse::<Version>().is_err()));
    write(dir.path(), &files()).unwrap();
    read_verified(&home, &files().version).unwrap();
}

#[test]
fn a_write_that_fails_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join(files().version.as_str());
    fs::write(&home, "in the way").unwrap();
    assert!(matches!(write(dir.path(), &files()), Err(FormatError::Io { .. })));
    assert_eq!(names(dir.path()), [files().version.as_str()]);
}

#[test]
fn many_writers_of_one_version_agree() {
    let dir = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..8).map(|_| scope.spawn(|| write(dir.path(), &files()))).collect();
        writers.into_iter().for_each(|writer| writer.join().unwrap().unwrap());
    });
    assert_eq!(names(dir.path()), [files().version.as_str()]);
    read_verified(&dir.path().join(files().version.as_str()), &files().version).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_changed_byte_is_noticed(place: prop::sample::Index, flip in 1u8.., in_config: bool) {
        let mut damaged = files();
        let bytes = if in_config { &mut damaged.config_json } else { &mut damaged.safetensors };
        let at = place.index(bytes.len());
        bytes[at] ^= flip;
        let dir = folder(&damaged.config_json, &damaged.safetensors);
        let error = read_verified(dir.path(), &files().version).unwrap_err();
        prop_assert!(matches!(error, FormatError::Damaged { .. }), "{}", error);
        // Unverified it may be another valid adapter; it must not panic.
        let _other = read(dir.path());
    }
}
