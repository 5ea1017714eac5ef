//! Every family that runs here: a tiny model of it against transformers, PEFT, PyTorch and itself (`tests/parity`).

use std::{collections::BTreeMap, fs, path::Path, sync::Arc};

use candle_core::{Device, Tensor, Var};
use serde_json::{Value, json};
use tempfile::TempDir;
use ttrl::engine::{
    handle::{Engine, GenerateRequest, Group, ModelInfo, Priority, Sampling},
    model::{
        decoder::Decoder,
        lora::{Adapter, Lora, LoraConfig},
        tokenizer::Tokenizer,
        training::{Pass, ScoreGradient, Target, TokenForest},
        weights,
    },
    thread::{EngineOptions, LocalEngine},
    turnstile::Turnstile,
};

use crate::support::{
    decoding::{adapter, at_once, decoder, floats, ids, json, log_probs, lora},
    fixture,
};

const FAMILIES: [&str; 8] =
    ["llama3", "mistral", "qwen2", "qwen2-window", "qwen3", "gemma2", "gemma3", "gemma3-scaled"];
const WITH_GGUF: [&str; 5] = ["llama3", "qwen2", "qwen3", "gemma2", "gemma3"];
const WITH_GRADIENTS: [&str; 3] = ["qwen3", "gemma2", "gemma3"];
/// Of the fixtures that have one.
const WINDOW: usize = 8;

fn folder(family: &str) -> String {
    format!("families/{family}")
}

fn adapter_of(family: &str) -> (LoraConfig, BTreeMap<String, Var>) {
    adapter(&format!("families/{family}/lora"))
}

/// The prompts of a family's fixture with the log-probabilities that belong to them.
fn expected(family: &str, which: &str) -> Vec<(Vec<u32>, Vec<Vec<f32>>)> {
    let prompts = json(&format!("families/{family}/expected.json"))["prompts"].take();
    let rows = |prompt: &Value| prompt[which].as_array().unwrap().iter().map(floats).collect();
    prompts.as_array().unwrap().iter().map(|prompt| (ids(&prompt["ids"]), rows(prompt))).collect()
}

fn largest_difference(a: &[Vec<f32>], b: &[Vec<f32>]) -> f32 {
    assert_eq!(a.len(), b.len());
    let rows = a.iter().zip(b).flat_map(|(a, b)| {
        assert_eq!(a.len(), b.len());
        a.iter().zip(b)
    });
    rows.map(|(a, b)| (a - b).abs()).fold(0.0, |largest, off| if off <= largest { largest } else { off })
}

#[track_caller]
fn assert_parity(model: &str, family: &str, decoder: &Decoder, (which, lora): (&str, Option<&Lora>)) {
    for (prompt, expected) in expected(family, which) {
        let off = largest_difference(&log_probs(decoder, lora, &prompt), &expected);
        assert!(off < 1e-4, "{model}, {which}, prompt of {}: off by {off}", prompt.len());
    }
}

#[test]
fn log_probabilities_of_every_family_equal_those_of_transformers() {
    for family in FAMILIES {
        assert_parity(family, family, &decoder(&folder(family)), ("base", None));
    }
}

#[test]
fn log_probabilities_from_gguf_files_equal_those_of_transformers() {
    for family in WITH_GGUF {
        let file = format!("families/{family}/model.gguf");
        assert_parity(&file, family, &decoder(&file), ("base", None));
    }
}

#[test]
fn log_probabilities_with_an_adapter_equal_those_of_peft_in_every_family() {
    for family in FAMILIES {
        let decoder = decoder(&folder(family));
        let (config, vars) = adapter_of(family);
        assert_parity(family, family, &decoder, ("lora", Some(&lora(&decoder, &config, &vars))));
    }
}

#[test]
fn an_adapter_of_zeros_changes_nothing() {
    for family in FAMILIES {
        let decoder = decoder(&folder(family));
        let (config, mut vars) = adapter_of(family);
        for (_, b) in vars.iter_mut().filter(|(name, _)| name.contains("lora_B")) {
            *b = Var::from_tensor(&b.zeros_like().unwrap()).unwrap();
        }
        let lora = lora(&decoder, &config, &vars);
        for (prompt, _) in expected(family, "base") {
            assert_eq!(log_probs(&decoder, None, &prompt), log_probs(&decoder, Some(&lora), &prompt), "{family}");
        }
    }
}

#[test]
fn a_window_hides_what_is_further_back_and_nothing_else() {
    for family in ["mistral", "qwen2-window"] {
        let (_temp, without) =
            changed(family, &[("sliding_window", Value::Null), ("use_sliding_window", false.into())]);
        set(&without, &[("layer_types", Value::Null)]);
        let mut checkpoint = weights::load(&without, &Device::Cpu).unwrap();
        let without = Decoder::new(checkpoint.config, &mut checkpoint.tensors, &Device::Cpu).unwrap();
        let (prompt, expected) = expected(family, "base").pop().unwrap();
        let found = log_probs(&without, None, &prompt);
        assert!(largest_difference(&found[..WINDOW], &expected[..WINDOW]) < 1e-4, "{family}");
        assert!(largest_difference(&found[WINDOW..WINDOW + 1], &expected[WINDOW..WINDOW + 1]) > 1e-2, "{family}");
    }
}

/// The gradient of minus the mean log-probability of each token of a text after those before it.
fn gradients(decoder: &Decoder, lora: &Lora, vars: &BTreeMap<String, Var>, text: &[u32]) -> Vec<Tensor> {
    let mut forest = TokenForest::default();
    let mut row = None;
    for &token in text {
        row = Some(forest.insert(row, token));
    }
    let targets: Vec<Target> =
        text[1..].iter().enumerate().map(|(row, &token)| Target { row: row as u32, token }).collect();
    let pass = Pass::new(decoder, Some(lora), (&forest, &targets), 1.0, &at_once).unwrap();
    let vars: Vec<Var> = vars.values().cloned().collect();
    pass.backward(&vars, |_, scores| {
        vec![ScoreGradient { log_prob: -1.0 / targets.len() as f32, entropy: 0.0 }; scores.len()]
    })
    .unwrap()
}

fn norm(tensor: &Tensor) -> f32 {
    tensor.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap().sqrt()
}

#[test]
fn every_adapted_projection_of_every_family_gets_a_gradient() {
    for family in FAMILIES {
        let decoder = decoder(&folder(family));
        let (config, vars) = adapter_of(family);
        let lora = lora(&decoder, &config, &vars);
        let (prompt, _) = expected(family, "base").pop().unwrap();
        for (name, gradient) in vars.keys().zip(gradients(&decoder, &lora, &vars, &prompt)) {
            let norm = norm(&gradient);
            assert!(norm.is_finite() && norm > 0.0, "{family}, {name}: the norm is {norm}");
        }
    }
}

#[test]
fn gradients_equal_those_of_pytorch() {
    for family in WITH_GRADIENTS {
        let decoder = decoder(&folder(family));
        let (config, vars) = adapter_of(family);
        let lora = lora(&decoder, &config, &vars);
        let (prompt, _) = expected(family, "base").pop().unwrap();
        let file = fixture(&folder(family)).join("gradients.safetensors");
        let expected = candle_core::safetensors::load(file, &Device::Cpu).unwrap();
        assert_eq!(expected.len(), vars.len());
        for (name, found) in vars.keys().zip(gradients(&decoder, &lora, &vars, &prompt)) {
            let error = norm(&(found - &expected[name]).unwrap());
            assert!(error < 1e-4 * norm(&expected[name]), "{family}, {name}: off by {error}");
        }
    }
}

/// An engine on a tiny model, with the tokenizer of another: they have equally many tokens.
fn engine(decoder: &Arc<Decoder>) -> LocalEngine {
    let info = ModelInfo {
        name: "tiny".into(),
        fingerprint: "tiny".into(),
        context_tokens: decoder.config().context_tokens,
        vocab_size: decoder.config().vocab_size,
        parameters: decoder.parameters(),
    };
    let options = EngineOptions { cache_tokens: 4096, max_waiting: 64 };
    LocalEngine::start(info, decoder.clone(), tokenizer(), Arc::new(Turnstile::new(0.5)), options).unwrap()
}

fn tokenizer() -> Arc<Tokenizer> {
    Arc::new(weights::load(&fixture("tiny-llama/tiny.gguf"), &Device::Cpu).unwrap().tokenizer.unwrap())
}

/// Compares what the engine drew with what the training pass says of it.
fn assert_training_agrees(family: &str, decoder: &Decoder, lora: Option<&Lora>, groups: &[Group]) {
    let mut forest = TokenForest::default();
    let mut drawn = BTreeMap::new();
    for group in groups {
        let mut end = None;
        for &token in &group.prompt {
            end = Some(forest.insert(end, token));
        }
        for rollout in &group.rollouts {
            let mut row = end;
            for (&token, &log_prob) in rollout.tokens.iter().zip(&rollout.log_probs) {
                drawn.insert(Target { row: row.unwrap(), token }, log_prob);
                row = Some(forest.insert(row, token));
            }
        }
    }
    let targets: Vec<Target> = drawn.keys().copied().collect();
    let scores = Pass::new(decoder, lora, (&forest, &targets), 1.0, &at_once).unwrap().score().unwrap();
    for (score, drawn) in scores.iter().zip(drawn.values()) {
        assert!((score.log_prob - drawn).abs() < 1e-4, "{family}: {drawn} against {}", score.log_prob);
    }
}

#[tokio::test]
async fn serving_equals_the_training_pass_in_every_family() {
    for family in FAMILIES {
        let decoder = Arc::new(decoder(&folder(family)));
        let (config, vars) = adapter_of(family);
        let lora = lora(&decoder, &config, &vars);
        let tensors = vars.into_iter().map(|(name, var)| (name, var.as_tensor().clone())).collect();
        let adapter = Adapter { version: "a".repeat(64).parse().unwrap(), config, tensors };
        let engine = engine(&decoder);
        let adapted = engine.load_adapter(Arc::new(adapter)).await.unwrap();
        for (lease, lora) in [(engine.base(), None), (adapted, Some(&lora))] {
            let ask = |prompt: Vec<u32>| GenerateRequest {
                lease: lease.clone(),
                prompt,
                samples: 3,
                sampling: Sampling { max_tokens: 12, ..Sampling::default() },
                report: Default::default(),
                place: None,
                seed: 5,
                priority: Priority::Request,
            };
            // More prompt rows than one step takes; then prompts that go on where cached ones end.
            let prompt = |n: u32, length: u32| (0..length).map(|i| (i * 7 + n * 11) % 90 + 3).collect();
            let mut groups = engine.generate((0..20).map(|n| ask(prompt(n, 20))).collect()).await.unwrap();
            groups.extend(engine.generate((0..3).map(|n| ask(prompt(n, 33))).collect()).await.unwrap());
            assert!(engine.stats().cached_prompt_tokens_total >= 60);
            assert_training_agrees(family, &decoder, lora, &groups);
        }
    }
}

/// A copy of a family's folder with other values in its configuration.
fn changed(family: &str, values: &[(&str, Value)]) -> (TempDir, std::path::PathBuf) {
    let temp = TempDir::new().unwrap();
    for file in ["config.json", "model.safetensors"] {
        fs::copy(fixture(&folder(family)).join(file), temp.path().join(file)).unwrap();
    }
    set(temp.path(), values);
    let path = temp.path().to_owned();
    (temp, path)
}

fn set(folder: &Path, values: &[(&str, Value)]) {
    let path = folder.join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    values.iter().for_each(|(key, value)| config[key] = value.clone());
    fs::write(&path, config.to_string()).unwrap();
}

#[test]
fn what_is_not_computed_is_refused_by_name() {
    let yarn = json!({"rope_type": "yarn", "factor": 4.0});
    let cases = [
        (
            "llama3",
            "model_type",
            json!("qwen3_moe"),
            "\"qwen3_moe\"; use a model of one of the families llama, mistral",
        ),
        ("llama3", "model_type", json!("gemma3"), "\"gemma3\""),
        ("llama3", "model_type", json!("deepseek_v3"), "\"deepseek_v3\""),
        ("llama3", "rope_scaling", yarn.clone(), "\"yarn\"; use a model without it"),
        ("llama3", "rope_scaling", json!({"type": "dynamic", "factor": 2.0}), "\"dynamic\""),
        ("llama3", "rope_scaling", json!({"rope_type": "llama3", "factor": 2.0}), "no low_freq_factor"),
        ("llama3", "partial_rotary_factor", json!(0.5), "0.5 of each head"),
        ("llama3", "hidden_act", json!("relu"), "\"relu\""),
        ("mistral", "rope_parameters", json!({"rope_type": "longrope", "factor": 2.0}), "\"longrope\""),
        ("qwen3", "layer_types", json!(["full_attention", "chunked_attention"]), "\"chunked_attention\""),
        ("gemma3", "hidden_activation", json!("gelu"), "\"gelu\""),
        ("gemma3", "attn_logit_softcapping", json!(50.0), "attn_logit_softcapping"),
        ("gemma3", "use_bidirectional_attention", json!(true), "use_bidirectional_attention"),
        ("gemma3-scaled", "rope_parameters", json!({"full_attention": yarn}), "\"yarn\""),
        ("gemma3-scaled", "rope_parameters", json!({"linear_attention": {}}), "\"linear_attention\""),
    ];
    for (family, key, value, named) in cases {
        let (_temp, folder) = changed(family, &[(key, value)]);
        let error =
            weights::load(&folder, &Device::Cpu).err().unwrap_or_else(|| panic!("{key} was ignored")).to_string();
        assert!(error.contains("config.json cannot be used: ") && error.contains(named), "{named:?} in {error:?}");
    }
}

#[test]
fn a_configuration_that_contradicts_itself_is_damaged() {
    let cases = [
        ("gemma3-scaled", "layer_types", json!(["full_attention"]), "1 layer_types for 3 layers"),
        ("gemma3-scaled", "sliding_window", Value::Null, "no sliding_window"),
        ("mistral", "sliding_window", json!(0), "window is 0"),
        ("gemma3", "query_pre_attn_scalar", json!(0), "attention_scale"),
        ("llama3", "rope_theta", json!(-1.0), "rotary positions"),
        ("qwen2", "attention_bias", json!("yes"), "not a configuration of its family"),
    ];
    for (family, key, value, named) in cases {
        let (_temp, folder) = changed(family, &[(key, value)]);
        let error = weights::load(&folder, &Device::Cpu).unwrap_err().to_string();
        assert!(error.contains("config.json is damaged: ") && error.contains(named), "{named:?} in {error:?}");
    }
}

#[test]
fn tensors_of_another_family_are_refused() {
    // Qwen 3 without its norms of queries and keys is Llama.
    let (_temp, folder) = changed("qwen3", &[("model_type", "llama".into())]);
    let error = weights::load(&folder, &Device::Cpu).unwrap_err().to_string();
    assert!(error.contains("has a tensor model.layers.0.self_attn.k_norm.weight"), "{error}");
    let (_temp, folder) = changed("qwen3", &[("model_type", "qwen2".into())]);
    let error = weights::load(&folder, &Device::Cpu).unwrap_err().to_string();
    assert!(error.contains("tensor model.layers.0.self_attn.q_proj.bias is missing"), "{error}");
}
