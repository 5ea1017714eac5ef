//! `ttrl bench` on the default model: that it measures, not how fast.

use serde_json::{Value, json};

use crate::support::{model::default_model, ttrl};

fn bench(arguments: &[&str]) -> Value {
    measured(arguments, "tokens_per_second")
}

/// Runs a benchmark once, looks at its figure, and returns what it says was asked for.
fn measured(arguments: &[&str], figure: &str) -> Value {
    let run = ttrl().arg("bench").args(arguments).arg("--model").arg(default_model()).output().unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let report: Value = serde_json::from_slice(&run.stdout).unwrap();
    assert_eq!(report["benchmark"], arguments[0]);
    let figures: Vec<f64> = serde_json::from_value(report[format!("all_{figure}")].clone()).unwrap();
    assert!(figures.len() == 1 && figures[0].is_finite() && figures[0] > 0.0, "{report}");
    assert_eq!(report[figure], json!(figures[0]));
    assert!(report["start_seconds"].as_f64().unwrap() > 0.0);
    report["inputs"].clone()
}

#[test]
fn decoding_is_measured_without_and_with_adapters() {
    let inputs = bench(&["decode", "--streams", "3", "--tokens", "4", "--runs", "1"]);
    assert_eq!((&inputs["streams"], &inputs["adapter_rank"]), (&json!(3), &Value::Null));
    let two = ["--adapter-rank", "4", "--adapters", "2"];
    let inputs = bench(&[&["decode", "--streams", "3", "--tokens", "4", "--runs", "1"], &two[..]].concat());
    assert_eq!((&inputs["adapter_rank"], &inputs["adapters"]), (&json!(4), &json!(2)));
}

#[test]
fn prompts_are_measured() {
    let inputs = bench(&["prefill", "--prompts", "2", "--tokens", "16", "--runs", "1"]);
    assert_eq!((&inputs["prompts"], &inputs["tokens"]), (&json!(2), &json!(16)));
}

#[test]
fn what_the_scheduler_takes_for_a_step_is_measured() {
    let arguments = ["host", "--streams", "3", "--tokens", "4", "--prompt-tokens", "5", "--runs", "1"];
    let inputs = measured(&arguments, "microseconds_per_step");
    assert_eq!((&inputs["streams"], &inputs["tokens"], &inputs["prompt_tokens"]), (&json!(3), &json!(4), &json!(5)));
}

#[test]
fn training_is_measured() {
    let inputs = bench(&["train", "--sequences", "4", "--tokens", "8", "--runs", "1"]);
    assert_eq!((&inputs["sequences"], &inputs["tokens"]), (&json!(4), &json!(8)));
}

#[test]
fn random_weights_of_a_shape_are_measured() {
    let folder = tempfile::tempdir().unwrap();
    let shape = folder.path().join("config.json");
    let config = json!({
        "model_type": "qwen2", "hidden_act": "silu", "max_position_embeddings": 256, "num_hidden_layers": 2,
        "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2,
        "vocab_size": 49280, "tie_word_embeddings": true,
    });
    std::fs::write(&shape, config.to_string()).unwrap();
    let random = ["--random-weights", shape.to_str().unwrap()];
    bench(&[&["decode", "--streams", "3", "--tokens", "4", "--runs", "1"], &random[..]].concat());
    let of_group = ["--group", "4", "--prompt-tokens", "5", "--sequences", "8", "--tokens", "6", "--runs", "1"];
    let inputs = bench(&[&["train"], &of_group[..], &random[..]].concat());
    assert_eq!((&inputs["group"], &inputs["prompt_tokens"]), (&json!(4), &json!(5)));
}

#[test]
fn a_round_is_measured_step_by_step() {
    let run = ttrl()
        .args(["bench", "round", "--steps", "2", "--questions", "3", "--model"])
        .arg(default_model())
        .output()
        .unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let report: Value = serde_json::from_slice(&run.stdout).unwrap();
    assert_eq!((&report["benchmark"], &report["inputs"]["questions"]), (&json!("round"), &json!(3)));
    let steps = report["steps"].as_array().unwrap();
    assert_eq!(steps.len(), 2);
    let seconds: f64 = steps.iter().map(|step| step["sample_seconds"].as_f64().unwrap()).sum();
    assert!(seconds > 0.0 && seconds < report["seconds"].as_f64().unwrap(), "{report}");
    assert!(report["peak_memory_bytes"].as_u64().unwrap() > 100_000_000, "{report}");
}

#[test]
fn what_cannot_be_measured_is_refused_in_words() {
    let run = ttrl().args(["bench", "decode", "--streams", "100000", "--model"]).arg(default_model()).output().unwrap();
    let text = String::from_utf8(run.stderr).unwrap();
    assert!(!run.status.success() && text.contains("ask for fewer streams"), "{text}");
}
