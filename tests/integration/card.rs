//! The program on the card of `scripts/emulated-card`: the driver and the libraries are not NVIDIA's, everything else is.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use candle_core::{DType, Device, Tensor, safetensors};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    resume::Process,
    rounds::chat_model,
    support::{fixture, ttrl},
};

/// A folder that says what a card is like (`tests/kernels/card.cpp`).
struct Card(TempDir);

impl Card {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn set(&self, name: &str, value: u64) {
        fs::write(self.0.path().join(name), value.to_string()).unwrap();
    }

    fn variable(&self) -> (&'static str, &str) {
        ("EMULATED_CARD", self.0.path().to_str().unwrap())
    }
}

fn check(card: &Card, model: &Path, dtype: &str, more: &[&str]) -> Output {
    check_by(ttrl(), card, model, dtype, more)
}

fn check_by(mut command: Command, card: &Card, model: &Path, dtype: &str, more: &[&str]) -> Output {
    let (name, folder) = card.variable();
    let data = tempfile::tempdir().unwrap();
    command.args(["check", "--device", "cuda:0", "--dtype", dtype, "--model"]).arg(model);
    command.arg("--tokenizer").arg(fixture("tiny-llama/tiny.gguf")).arg("--data-dir").arg(data.path()).args(more);
    let settings = [("TTRL_ENGINE__CACHE_TOKENS", "8192"), ("TTRL_LOG__FILTER", "ttrl=debug")];
    command.envs(settings).env(name, folder).output().unwrap()
}

/// What was logged, if everything is as on the CPU, and nothing was warned of.
#[track_caller]
fn passed(output: &Output) -> String {
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && !told.contains("WARN"), "{told}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["device"], "cuda:0");
    told
}

/// A layer with heads as matrix units take them, of random weights.
fn with_heads_of(head_dim: usize, folder: &Path) -> PathBuf {
    let (hidden, inner, vocab, queries) = (64, 64, 96, 2 * head_dim);
    let config = json!({
        "model_type": "qwen3", "hidden_act": "silu", "max_position_embeddings": 700, "num_hidden_layers": 1,
        "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "hidden_size": hidden, "intermediate_size": inner,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": head_dim, "vocab_size": vocab,
        "tie_word_embeddings": true,
    });
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let mut rng = StdRng::seed_from_u64(head_dim as u64);
    let mut tensors = HashMap::new();
    for (name, outputs, inputs, size) in [
        ("model.embed_tokens", vocab, hidden, 0.2),
        ("model.layers.0.self_attn.q_proj", queries, hidden, 0.2),
        ("model.layers.0.self_attn.k_proj", head_dim, hidden, 0.2),
        ("model.layers.0.self_attn.v_proj", head_dim, hidden, 0.2),
        ("model.layers.0.self_attn.o_proj", hidden, queries, 0.2),
        ("model.layers.0.mlp.gate_proj", inner, hidden, 0.2),
        ("model.layers.0.mlp.up_proj", inner, hidden, 0.2),
        ("model.layers.0.mlp.down_proj", hidden, inner, 0.2),
    ] {
        let numbers: Vec<f32> = (0..outputs * inputs).map(|_| rng.random_range(-size..size)).collect();
        let matrix = Tensor::from_vec(numbers, (outputs, inputs), &Device::Cpu).unwrap();
        tensors.insert(format!("{name}.weight"), matrix);
    }
    for (name, width) in [
        ("model.norm", hidden),
        ("model.layers.0.input_layernorm", hidden),
        ("model.layers.0.post_attention_layernorm", hidden),
        ("model.layers.0.self_attn.q_norm", head_dim),
        ("model.layers.0.self_attn.k_norm", head_dim),
    ] {
        tensors.insert(format!("{name}.weight"), Tensor::ones(width, DType::F32, &Device::Cpu).unwrap());
    }
    safetensors::save(&tensors, folder.join("model.safetensors")).unwrap();
    folder.to_owned()
}

#[test]
fn tiny_models_of_all_families_are_computed_as_on_the_cpu() {
    let mut models = vec![fixture("tiny-llama"), fixture("tiny-llama/tiny.gguf"), fixture("tiny-llama-sharded")];
    for family in fs::read_dir(fixture("families")).unwrap() {
        models.push(family.unwrap().path());
    }
    assert!(models.len() > 10, "{models:?}");
    let card = Card::new();
    for model in models {
        for dtype in ["f32", "bf16"] {
            passed(&check(&card, &model, dtype, &["--no-operations"]));
        }
    }
}

#[test]
fn operations_and_their_gradients_are_those_of_the_cpu() {
    passed(&check(&Card::new(), &fixture("tiny-llama"), "f32", &[]));
}

#[test]
fn matrix_units_compute_as_the_cpu_does_whoever_makes_the_products() {
    let (card, folder) = (Card::new(), tempfile::tempdir().unwrap());
    for (head_dim, microseconds, is_ours) in [(64, 50_000, true), (128, 0, false)] {
        let model = with_heads_of(head_dim, folder.path());
        card.set("slow", microseconds);
        let told = passed(&check(&card, &model, "bf16", &["--no-operations"]));
        let taken = told.lines().filter(|line| line.contains("our kernels"));
        // All of some numbers of rows, or none.
        let (some, other) = if is_ours { ("Some(", "None") } else { ("None", "Some(") };
        let taken: Vec<_> = taken.map(|line| line.contains(some) && !line.contains(other)).collect();
        assert_eq!(taken, [true; 5], "{told}");
    }
}

#[test]
fn no_two_threads_of_a_kernel_race_in_whatever_a_check_launches() {
    let folder = tempfile::tempdir().unwrap();
    for (model, dtype) in [(fixture("tiny-llama"), "f32"), (with_heads_of(64, folder.path()), "bf16")] {
        let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/emulated-card"));
        command.arg("--races").arg(ttrl().get_program());
        // Those of the other card, on which this test runs itself.
        command.env_remove("LD_PRELOAD").env_remove("LD_LIBRARY_PATH");
        let told = passed(&check_by(command, &Card::new(), &model, dtype, &["--no-operations"]));
        let counts = told.lines().find(|line| line.ends_with("were looked at")).expect(&told).split(' ');
        let counts = counts.filter_map(|word| word.parse().ok());
        let [of_memory, of_shared]: [u64; 2] = counts.collect::<Vec<_>>().try_into().expect(&told);
        assert!(of_memory > 1_000_000 && of_shared > 1_000_000, "{of_memory} and {of_shared} accesses were looked at");
    }
}

#[test]
fn a_card_that_records_nothing_computes_launch_by_launch() {
    let (card, folder) = (Card::new(), tempfile::tempdir().unwrap());
    card.set("breaks", 1);
    let output = check(&card, &with_heads_of(64, folder.path()), "bf16", &["--no-operations"]);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    for expected in ["cuBLAS makes all of them", "steps are queued launch by launch from now on"] {
        assert_eq!(told.matches(expected).count(), 1, "{told}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_whose_device_is_lost_ends_and_the_next_one_goes_on_with_its_round() {
    let (card, folder) = (Card::new(), tempfile::tempdir().unwrap());
    let (model, data) = (folder.path().join("tiny"), folder.path().join("data"));
    chat_model(&model);
    let mut server = Process::start(&model, &data, &[card.variable()]);
    server.ask_all().await;
    let id = server.begin(7).await;
    // Either is most likely the first that sees it: the engine, or training.
    for state in ["sampling", "training"] {
        let shown = server.wait(&id, |round| round["state"] == state && round["step"].as_u64() >= Some(2)).await;
        assert_eq!(shown["round"]["finished_at"], Value::Null, "{shown}");
        card.set("lost", 1);
        let (code, log) = server.ended();
        assert_eq!(code, Some(1), "{log}");
        assert!(log.contains("the device is lost to this process"), "{log}");
        card.set("lost", 0);
        server = Process::start(&model, &data, &[card.variable()]);
    }
    let shown = server.end(&id).await;
    assert_eq!((&shown["round"]["state"], &shown["round"]["attempts"]), (&json!("promoted"), &json!(3)), "{shown}");
    server.ask("1 + 1 =").await;
    server.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_that_others_take_refuses_a_round_in_words_and_the_next_one_works_when_it_is_back() {
    let (card, folder) = (Card::new(), tempfile::tempdir().unwrap());
    card.set("mib", 4096);
    let (model, data) = (folder.path().join("tiny"), folder.path().join("data"));
    chat_model(&model);
    let server = Process::start(&model, &data, &[card.variable()]);
    server.ask_all().await;
    card.set("taken", 4096);
    let (status, told) = server.call(Method::POST, "/v1/rounds", json!({ "seed": 1 })).await;
    assert_eq!((status, &told["error"]["code"]), (503, &json!("insufficient_memory")), "{told}");

    card.set("taken", 0);
    let shown = server.end(&server.begin(2).await).await;
    assert_eq!(shown["round"]["state"], "promoted", "{shown}");
    server.ask("1 + 1 =").await;
    server.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn allocations_that_fail_now_and_then_fail_a_round_and_no_request() {
    let (card, folder) = (Card::new(), tempfile::tempdir().unwrap());
    let (model, data) = (folder.path().join("tiny"), folder.path().join("data"));
    chat_model(&model);
    let server = Process::start(&model, &data, &[card.variable()]);
    server.ask_all().await;
    let likeliest = json!({ "question": "1 + 2 =", "votes": 1, "temperature": 0, "learn": false });
    let (status, before) = server.call(Method::POST, "/v1/answer", likeliest.clone()).await;
    assert_eq!(status, 200, "{before}");

    card.set("refuses", 2);
    // A step that lacks memory is tried again, and finds it where graphs are recorded.
    for index in 0..40 {
        let question = format!("{} + 2 =", index % 7);
        let asked = json!({ "question": question, "votes": 4, "seed": index, "learn": false });
        let (status, told) = server.call(Method::POST, "/v1/answer", asked).await;
        assert_eq!(status, 200, "{told}");
    }
    let shown = server.end(&server.begin(1).await).await;
    assert_eq!(shown["round"]["state"], "failed", "{shown}");
    assert!(shown["round"]["reason"].as_str().unwrap().contains("memory"), "{shown}");

    card.set("refuses", 0);
    let (status, after) = server.call(Method::POST, "/v1/answer", likeliest).await;
    assert_eq!((status, &after["votes"]), (200, &before["votes"]), "what was computed for others is not harmed");
    let shown = server.end(&server.begin(2).await).await;
    assert_eq!(shown["round"]["state"], "promoted", "{shown}");
    server.stop();
}

#[test]
fn a_server_without_work_notices_that_its_device_is_lost() {
    let (card, folder) = (Card::new(), tempfile::tempdir().unwrap());
    let model = folder.path().join("tiny");
    chat_model(&model);
    let mut server = Process::start(&model, &folder.path().join("data"), &[card.variable()]);
    card.set("lost", 1);
    let (code, log) = server.ended();
    assert_eq!(code, Some(1), "{log}");
}
