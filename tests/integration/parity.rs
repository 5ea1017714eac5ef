//! The decoder, its gradients and the optimizer against PyTorch, transformers and PEFT (`tests/parity`).

use candle_core::{Device, Tensor, Var};
use serde_json::Value;
use ttrl::{
    adaptation::{
        advantage::Advantage,
        batch::{Graded, lay_out},
        loss::{LossConfig, grpo},
        optimizer::AdamW,
    },
    engine::{
        handle::{FinishReason, Group, Rollout, Timings, Version},
        model::{
            decoder::Decoder,
            training::{Pass, Target, TokenForest},
            weights,
        },
    },
};

use crate::support::decoding::{adapter, at_once, decoder, floats, ids, json, log_probs, lora};

fn check_log_probs(model: &str, with_adapter: bool, expected: &str) {
    let decoder = decoder(model);
    let (config, vars) = adapter("tiny-llama-lora");
    let lora = with_adapter.then(|| lora(&decoder, &config, &vars));
    for prompt in json(expected)["prompts"].as_array().unwrap() {
        let found = log_probs(&decoder, lora.as_ref(), &ids(&prompt["ids"]));
        let expected = ["lora", "base", "log_probs"].map(|name| prompt[name].as_array());
        let expected = (if with_adapter { expected[0] } else { expected[1].or(expected[2]) }).unwrap();
        assert_eq!(found.len(), expected.len());
        for (position, (found, expected)) in found.iter().zip(expected).enumerate() {
            for (found, expected) in found.iter().zip(floats(expected)) {
                assert!((found - expected).abs() < 1e-4, "{model}, position {position}: {found} against {expected}");
            }
        }
    }
}

#[test]
fn log_probabilities_equal_those_of_transformers() {
    check_log_probs("tiny-llama", false, "tiny-llama/expected.json");
    check_log_probs("tiny-llama/tiny.gguf", false, "tiny-llama/expected.json");
    check_log_probs("tiny-llama-sharded", false, "tiny-llama-sharded/expected.json");
}

#[test]
fn log_probabilities_with_an_adapter_equal_those_of_peft() {
    check_log_probs("tiny-llama", true, "tiny-llama/expected.json");
}

/// The GRPO fixture's questions as graded groups, and for each distinct (prompt and tokens so far, token) the reference.
fn graded(problem: &Value) -> Vec<Graded> {
    let group = |question: &Value| {
        let rollouts = question["rollouts"].as_array().unwrap();
        let rollout = |rollout: &Value| Rollout {
            tokens: ids(&rollout["tokens"]),
            log_probs: floats(&rollout["old_logprobs"]),
            scores: vec![],
            text: String::new(),
            finish: FinishReason::Stop,
        };
        Graded {
            group: Group {
                version: Version::base(),
                prompt: ids(&question["prompt"]),
                prompt_scores: vec![],
                rollouts: rollouts.iter().map(rollout).collect(),
                timings: Timings::default(),
            },
            rewards: rollouts.iter().map(|rollout| rollout["reward"].as_f64().unwrap()).collect(),
        }
    };
    problem["questions"].as_array().unwrap().iter().map(group).collect()
}

fn check_gradients(case: usize, max_rows: usize) {
    let problem = json("tiny-llama/grpo.json");
    let expected = &problem["cases"][case];
    let temperature = problem["temperature"].as_f64().unwrap() as f32;
    let config = LossConfig {
        clip_low: problem["clip_low"].as_f64().unwrap(),
        clip_high: problem["clip_high"].as_f64().unwrap(),
        kl_coefficient: expected["beta"].as_f64().unwrap(),
    };
    let decoder = decoder("tiny-llama");
    let (lora_config, vars) = adapter("tiny-llama-lora");
    let lora = lora(&decoder, &lora_config, &vars);
    let variables: Vec<Var> = vars.values().cloned().collect();
    let (mut loss, mut kl, mut outside, mut entropy) = (0.0, 0.0, 0.0, 0.0);
    let mut sums: Vec<Tensor> = variables.iter().map(|var| var.zeros_like().unwrap()).collect();
    let graded = graded(&problem);
    let tokens = expected["token_count"].as_u64().unwrap() as usize;
    for mut batch in lay_out(&graded.iter().collect::<Vec<_>>(), Advantage::GroupNormalised, tokens, max_rows) {
        let view = (&batch.forest, batch.targets.as_slice());
        let references = Pass::new(&decoder, None, view, temperature, &at_once).unwrap().score().unwrap();
        for (term, reference) in batch.terms.iter_mut().zip(references) {
            term.reference = reference.log_prob;
        }
        let pass = Pass::new(&decoder, Some(&lora), view, temperature, &at_once).unwrap();
        let gradients = pass.backward(&variables, |first, scores| {
            let terms = batch.terms[first..].iter().zip(scores);
            terms
                .map(|(term, score)| {
                    let token = grpo(term, score.log_prob, &config);
                    loss += token.loss;
                    kl += token.kl;
                    outside += token.outside;
                    entropy += term.weight * f64::from(score.entropy);
                    token.derivative as f32
                })
                .collect()
        });
        sums = sums.iter().zip(gradients.unwrap()).map(|(sum, more)| (sum + more).unwrap()).collect();
    }
    let close = |name: &str, found: f64| {
        let expected = expected[name].as_f64().unwrap();
        assert!((found - expected).abs() < 1e-4 * expected.abs().max(0.1), "{name}: {found} against {expected}");
    };
    close("loss", loss);
    close("mean_kl", kl);
    close("outside_fraction", outside);
    close("mean_entropy", entropy);
    for (name, found) in vars.keys().zip(&sums) {
        let rows = expected["gradients"][name].as_array().unwrap();
        let expected = Tensor::new(rows.iter().map(floats).collect::<Vec<_>>(), &Device::Cpu).unwrap();
        let norm = |tensor: &Tensor| tensor.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap().sqrt();
        let error = norm(&(found - &expected).unwrap());
        assert!(error < 1e-4 * norm(&expected), "{name}: off by {error} of {}", norm(&expected));
    }
}

#[test]
fn loss_and_gradients_equal_those_of_pytorch() {
    check_gradients(0, 10_000);
    check_gradients(1, 10_000);
}

#[test]
fn gradients_of_small_passes_add_up_to_those_of_one() {
    check_gradients(1, 1);
}

#[test]
fn advantages_equal_those_of_the_fixture() {
    let problem = json("tiny-llama/grpo.json");
    for (graded, question) in graded(&problem).iter().zip(problem["questions"].as_array().unwrap()) {
        let found = Advantage::GroupNormalised.of(&graded.rewards);
        for (found, rollout) in found.iter().zip(question["rollouts"].as_array().unwrap()) {
            assert!((found - rollout["advantage"].as_f64().unwrap()).abs() < 1e-5);
        }
    }
}

#[test]
fn adamw_follows_the_path_of_pytorchs() {
    let fixture = json("tiny-llama/adamw.json");
    let tensor = |name: &str, value: &Value| {
        let flat: Vec<f32> = match value.as_array().unwrap()[0] {
            Value::Array(_) => value.as_array().unwrap().iter().flat_map(floats).collect(),
            _ => floats(value),
        };
        let shape: Vec<usize> = ids(&fixture["shapes"][name]).iter().map(|&size| size as usize).collect();
        Tensor::from_vec(flat, shape, &Device::Cpu).unwrap()
    };
    for case in fixture["cases"].as_array().unwrap() {
        let vars = ["a", "b"].map(|name| Var::from_tensor(&tensor(name, &fixture["start"][name])).unwrap());
        let mut optimizer = AdamW::new(vars.to_vec(), case["weight_decay"].as_f64().unwrap()).unwrap();
        for (gradients, expected) in
            fixture["gradients"].as_array().unwrap().iter().zip(case["values_after_step"].as_array().unwrap())
        {
            let gradients = ["a", "b"].map(|name| tensor(name, &gradients[name]));
            optimizer.step(&gradients, case["lr"].as_f64().unwrap()).unwrap();
            for (name, var) in ["a", "b"].iter().zip(&vars) {
                let off = (var.as_tensor() - tensor(name, &expected[name])).unwrap().abs().unwrap();
                let off: Vec<f32> = off.flatten_all().unwrap().to_vec1().unwrap();
                assert!(off.iter().all(|off| *off < 1e-6), "{name}: off by {off:?}");
            }
        }
    }
}

/// What the default model says of a text: the log-probability of each continuation token, and the best ones.
#[test]
fn the_default_model_agrees_with_llama_weights_in_f32() {
    let mut checkpoint = weights::load(&crate::support::model::default_model(), &Device::Cpu).unwrap();
    let decoder = Decoder::new(checkpoint.config, &mut checkpoint.tensors, &Device::Cpu).unwrap();
    for text in json("smollm2-f32.json").as_array().unwrap() {
        let (prompt, continuation) = (ids(&text["prompt_ids"]), ids(&text["ids"]));
        let mut forest = TokenForest::default();
        let mut row = None;
        for &token in &prompt {
            row = Some(forest.insert(row, token));
        }
        let mut targets = Vec::new();
        for &token in &continuation {
            targets.push(Target { row: row.unwrap(), token });
            row = Some(forest.insert(row, token));
        }
        let scores = Pass::new(&decoder, None, (&forest, &targets), 1.0, &at_once).unwrap().score().unwrap();
        for (score, expected) in scores.iter().zip(floats(&text["log_probs"])) {
            assert!(
                (score.log_prob - expected).abs() < 2e-3,
                "{}: {} against {expected}",
                text["name"],
                score.log_prob
            );
        }
    }
}
