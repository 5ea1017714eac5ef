//! Published files against llama.cpp with the same weights (`tests/parity/real_files.py`).

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use candle_core::Device;
use serde::Deserialize;
use ttrl::engine::{
    handle::{Engine, GenerateRequest, ModelInfo, Priority, Report, Sampling},
    model::{
        decoder::Decoder,
        training::{Pass, Target, TokenForest},
        weights,
    },
    thread::{EngineOptions, LocalEngine},
    turnstile::Turnstile,
};

use crate::support::{fixture, model::default_model, packages::QWEN};

/// What llama.cpp says of a file.
#[derive(Deserialize)]
struct Reference {
    page: Page,
    prompts: Vec<Prompt>,
}

/// A page of prose, and the mean log-probability of its tokens after the first.
#[derive(Deserialize)]
struct Page {
    ids: Vec<u32>,
    /// With the weights widened to f32.
    mean_log_prob: f64,
    /// With activations rounded to 8 bits, as llama.cpp runs the file.
    mean_log_prob_as_run: f64,
}

/// A prompt and the most probable continuation, with the weights widened to f32.
#[derive(Deserialize)]
struct Prompt {
    name: String,
    prompt_ids: Vec<u32>,
    ids: Vec<u32>,
    /// How far each token's log-probability was ahead of the second best.
    margins: Vec<f64>,
}

/// Where the two best tokens are nearer than this, the order of additions may decide between them.
const ROUNDING: f64 = 0.02;

struct Model {
    engine: LocalEngine,
    decoder: Arc<Decoder>,
}

impl Model {
    fn load(path: &Path) -> Self {
        let mut checkpoint = weights::load(path, &Device::Cpu).unwrap();
        let decoder = Arc::new(Decoder::new(checkpoint.config, &mut checkpoint.tensors, &Device::Cpu).unwrap());
        let info = ModelInfo {
            name: "published".into(),
            fingerprint: checkpoint.fingerprint,
            context_tokens: decoder.config().context_tokens,
            vocab_size: decoder.config().vocab_size,
            parameters: decoder.parameters(),
        };
        let tokenizer = Arc::new(checkpoint.tokenizer.unwrap());
        let options = EngineOptions { cache_tokens: 4096, max_waiting: 64 };
        let engine =
            LocalEngine::start(info, decoder.clone(), tokenizer, Arc::new(Turnstile::new(0.5)), options).unwrap();
        Self { engine, decoder }
    }

    /// The most probable tokens after a prompt, until an end token or as many as the reference has.
    fn greedy(&self, prompt: &Prompt) -> GenerateRequest {
        let max_tokens = prompt.ids.len();
        GenerateRequest {
            lease: self.engine.base(),
            prompt: prompt.prompt_ids.clone(),
            samples: 1,
            sampling: Sampling { temperature: 0.0, max_tokens, ..Sampling::default() },
            seed: 0,
            priority: Priority::Request,
            report: Report::default(),
            place: None,
        }
    }

    fn mean_log_prob(&self, ids: &[u32]) -> f64 {
        let mut forest = TokenForest::default();
        let mut row = forest.insert(None, ids[0]);
        let mut targets = Vec::new();
        for &token in &ids[1..] {
            targets.push(Target { row, token });
            row = forest.insert(Some(row), token);
        }
        let at_once = |work: &mut (dyn FnMut() -> candle_core::Result<()> + Send)| work();
        let scores = Pass::new(&self.decoder, None, (&forest, &targets), 1.0, &at_once).unwrap().score().unwrap();
        scores.iter().map(|score| f64::from(score.log_prob)).sum::<f64>() / scores.len() as f64
    }
}

async fn check(name: &str, path: PathBuf) {
    let reference = fs::read(fixture(&format!("real-files/{name}.json"))).unwrap();
    let Reference { page, prompts } = serde_json::from_slice(&reference).unwrap();
    assert!(prompts.len() >= 20);
    let model = Model::load(&path);

    let requests = prompts.iter().map(|prompt| model.greedy(prompt)).collect();
    let (mut same, mut all) = (0, 0);
    for (prompt, group) in prompts.iter().zip(model.engine.generate(requests).await.unwrap()) {
        let found = &group.rollouts[0].tokens;
        // A continuation may end before the reference, at an end token, which is its last.
        let equal = found.iter().zip(&prompt.ids).take_while(|(found, expected)| found == expected).count();
        let near = equal == found.len() || prompt.margins[equal] < ROUNDING;
        assert!(near, "{name}, {}: token {equal} of {found:?} is not that of {:?}", prompt.name, prompt.ids);
        (same, all) = (same + equal, all + found.len());
    }
    assert!(same * 10 >= all * 9, "{name}: only {same} of {all} tokens were compared");

    let found = model.mean_log_prob(&page.ids);
    let off = |expected: f64| ((found - expected) / expected).abs();
    assert!(off(page.mean_log_prob) < 2e-4, "{name}: {found} against {}", page.mean_log_prob);
    assert!(off(page.mean_log_prob_as_run) < 5e-3, "{name}: {found} against {}", page.mean_log_prob_as_run);
}

#[tokio::test]
async fn smollm2_says_what_llama_cpp_says() {
    check("smollm2", default_model()).await;
}

#[tokio::test]
async fn qwen_says_what_llama_cpp_says() {
    check("qwen2.5-coder", QWEN.path()).await;
}
