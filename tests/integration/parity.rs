//! The decoder, its gradients and the optimizer against PyTorch, transformers and PEFT (`tests/parity`).

use std::{collections::BTreeMap, sync::Arc};

use candle_core::{Device, Tensor, Var};
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use ttrl::{
    adaptation::{
        advantage::Advantage,
        batch::{Drawn, Graded, LossAverage, lay_out},
        learning_rate::Decay,
        loss::{Kl, LossConfig, grpo},
        optimizer::{self, AdamW},
        recipe::Recipe,
        trainer::Trainer,
    },
    engine::{
        handle::{FinishReason, Group, Rollout, Timings, Version},
        model::{
            decoder::Decoder,
            lora::Adapter,
            training::{Pass, Target, TokenForest},
            weights,
        },
        turnstile::Turnstile,
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

/// A way to learn, with the questions of the GRPO fixture.
struct Problem {
    groups: Vec<Graded>,
    advantage: Advantage,
    average: LossAverage,
    drawn: Drawn,
    config: LossConfig,
    temperature: f32,
}

/// The sums that a pass over all terms gives.
#[derive(Default)]
struct Sums {
    loss: f64,
    kl: f64,
    outside: f64,
    entropy: f64,
    gradients: BTreeMap<String, Tensor>,
}

impl Problem {
    /// GRPO's loss; tests change what they are about.
    fn new() -> Self {
        let fixture = json("tiny-llama/grpo.json");
        let number = |name: &str| fixture[name].as_f64().unwrap();
        let groups = graded(&fixture);
        let drawn = Drawn {
            rollouts: groups.iter().map(|graded| graded.group.rollouts.len()).sum(),
            tokens: groups.iter().map(Graded::tokens).sum(),
            max_tokens: json("tiny-llama/losses.json")["max_tokens"].as_u64().unwrap() as usize,
        };
        let config = LossConfig {
            clip_low: number("clip_low"),
            clip_high: number("clip_high"),
            kl: Kl::K3,
            kl_coefficient: 0.0,
            entropy_coefficient: 0.0,
        };
        let (advantage, average) = (Advantage::GroupNormalised, LossAverage::TokenMean);
        Self { groups, advantage, average, drawn, config, temperature: number("temperature") as f32 }
    }

    /// The loss and its gradients, in passes of at most `max_rows` rows.
    fn solve(&self, max_rows: usize) -> Sums {
        let decoder = decoder("tiny-llama");
        let (lora_config, vars) = adapter("tiny-llama-lora");
        let lora = lora(&decoder, &lora_config, &vars);
        let variables: Vec<Var> = vars.values().cloned().collect();
        let mut sums = Sums::default();
        let weight = |length| self.average.token_weight(&self.drawn, length);
        for mut batch in lay_out(&self.groups.iter().collect::<Vec<_>>(), self.advantage, weight, max_rows) {
            let view = (&batch.forest, batch.targets.as_slice());
            let references = Pass::new(&decoder, None, view, self.temperature, &at_once).unwrap().score().unwrap();
            for (term, reference) in batch.terms.iter_mut().zip(references) {
                term.reference = reference.log_prob;
            }
            let pass = Pass::new(&decoder, Some(&lora), view, self.temperature, &at_once).unwrap();
            let gradients = pass.backward(&variables, |first, scores| {
                let terms = batch.terms[first..].iter().zip(scores);
                terms
                    .map(|(term, score)| {
                        let token = grpo(term, *score, &self.config);
                        sums.loss += token.loss;
                        sums.kl += token.kl;
                        sums.outside += token.outside;
                        sums.entropy += term.weight * f64::from(score.entropy);
                        token.gradient
                    })
                    .collect()
            });
            for (name, gradient) in vars.keys().zip(gradients.unwrap()) {
                let sum = sums.gradients.remove(name).map_or(Ok(gradient.clone()), |sum| sum + gradient);
                sums.gradients.insert(name.clone(), sum.unwrap());
            }
        }
        sums
    }
}

fn assert_close(name: &str, found: f64, expected: &Value) {
    let expected = expected.as_f64().unwrap();
    assert!((found - expected).abs() < 1e-4 * expected.abs().max(0.1), "{name}: {found} against {expected}");
}

fn matrix(rows: &Value) -> Tensor {
    Tensor::new(rows.as_array().unwrap().iter().map(floats).collect::<Vec<_>>(), &Device::Cpu).unwrap()
}

fn norm(tensor: &Tensor) -> f32 {
    tensor.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap().sqrt()
}

/// Each of the expected tensors, to 1e-4 of its norm.
fn assert_gradients(found: &BTreeMap<String, Tensor>, expected: &Value, what: &str) {
    for (name, expected) in expected.as_object().unwrap() {
        let expected = matrix(expected);
        let error = norm(&(&found[name] - &expected).unwrap());
        assert!(error < 1e-4 * norm(&expected), "{what}, {name}: off by {error} of {}", norm(&expected));
    }
}

fn check_gradients(case: usize, max_rows: usize) {
    let expected = &json("tiny-llama/grpo.json")["cases"][case];
    let mut problem = Problem::new();
    problem.config.kl_coefficient = expected["beta"].as_f64().unwrap();
    let found = problem.solve(max_rows);
    assert_eq!(found.gradients.len(), expected["gradients"].as_object().unwrap().len());
    assert_close("loss", found.loss, &expected["loss"]);
    assert_close("kl", found.kl, &expected["mean_kl"]);
    assert_close("outside", found.outside, &expected["outside_fraction"]);
    assert_close("entropy", found.entropy, &expected["mean_entropy"]);
    assert_gradients(&found.gradients, &expected["gradients"], "GRPO");
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

/// A setting by its name in the fixture.
fn setting<T: serde::de::DeserializeOwned>(case: &Value, name: &str) -> T {
    serde_json::from_value(case[name].clone()).unwrap()
}

#[test]
fn every_way_to_learn_has_the_loss_and_the_gradients_of_pytorch() {
    for case in json("tiny-llama/losses.json")["cases"].as_array().unwrap() {
        let mut problem = Problem::new();
        problem.advantage = setting(case, "advantage");
        problem.average = setting(case, "loss_average");
        problem.config.kl = setting(case, "kl");
        problem.config.kl_coefficient = setting(case, "kl_coefficient");
        problem.config.entropy_coefficient = setting(case, "entropy_coefficient");
        let found = problem.solve(10_000);
        let what = format!("{:?}, {:?}, {:?}", problem.advantage, problem.average, problem.config);
        assert_close(&what, found.loss, &case["loss"]);
        assert_gradients(&found.gradients, &case["gradients"], &what);
    }
}

#[test]
fn an_update_of_two_epochs_in_two_minibatches_ends_where_pytorchs_does() {
    let fixture = json("tiny-llama/update.json");
    let (config, vars) = adapter("tiny-llama-lora");
    let tensors: BTreeMap<String, Tensor> =
        vars.iter().map(|(name, var)| (name.clone(), var.as_tensor().copy().unwrap())).collect();
    let start = Adapter { version: Version::base(), config, tensors };
    let Problem { groups, drawn, config, temperature, .. } = Problem::new();
    let recipe = Recipe {
        temperature: f64::from(temperature),
        clip_low: config.clip_low,
        clip_high: config.clip_high,
        advantage: setting(&fixture, "advantage"),
        loss_average: setting(&fixture, "loss_average"),
        kl: setting(&fixture, "kl"),
        kl_coefficient: setting(&fixture, "kl_coefficient"),
        kl_reference: setting(&fixture, "kl_reference"),
        entropy_coefficient: setting(&fixture, "entropy_coefficient"),
        epochs: setting(&fixture, "epochs"),
        minibatches: setting(&fixture, "minibatches"),
        weight_decay: setting(&fixture, "weight_decay"),
        max_gradient_norm: setting(&fixture, "max_gradient_norm"),
        ..Recipe::default()
    };
    let (decoder, turnstile) = (Arc::new(decoder("tiny-llama")), Arc::new(Turnstile::new(1.0)));
    let mut trainer = Trainer::new(decoder, turnstile, Some(&start), &recipe, 0).unwrap();
    let rate = setting(&fixture, "learning_rate");
    let metrics = trainer.update(&groups, drawn, rate, &recipe, &CancellationToken::new()).unwrap().unwrap();
    let norms: Vec<f64> = setting(&fixture, "gradient_norms");
    assert_eq!(metrics.updates, norms.len());
    let largest = norms.iter().copied().fold(0.0, f64::max);
    assert!((metrics.gradient_norm - largest).abs() < 1e-3 * largest, "{} against {norms:?}", metrics.gradient_norm);
    let (_, ended) = trainer.snapshot().unwrap();
    for (name, expected) in fixture["values"].as_object().unwrap() {
        let expected = matrix(expected);
        let way = norm(&(&expected - &start.tensors[name]).unwrap());
        let error = norm(&(&ended[name] - &expected).unwrap());
        // AdamW divides a small gradient by itself: what rounding is to the gradient shows in full in the way.
        assert!(error < 1e-3 * way, "{name}: off by {error} after a way of {way}");
    }
}

#[test]
fn learning_rates_are_those_of_pytorchs_schedulers() {
    for case in json("tiny-llama/schedules.json")["cases"].as_array().unwrap() {
        let (decay, steps, warmup): (Decay, u32, f64) =
            (setting(case, "decay"), setting(case, "steps"), setting(case, "warmup"));
        for (step, expected) in (0..steps).zip(case["factors"].as_array().unwrap()) {
            let (found, expected) = (decay.factor(step, steps, warmup), expected.as_f64().unwrap());
            assert!((found - expected).abs() < 1e-6, "{decay:?}, step {step} of {steps}: {found} against {expected}");
        }
    }
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
fn adamw_follows_the_path_of_pytorchs_with_clipped_gradients_and_falling_rates_too() {
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
        let gradients = fixture["gradients"].as_array().unwrap();
        for (step, expected) in case["values_after_step"].as_array().unwrap().iter().enumerate() {
            let mut gradients = ["a", "b"].map(|name| tensor(name, &gradients[step][name])).to_vec();
            if let Some(max_norm) = case["max_norm"].as_f64() {
                let norm = gradients.iter().map(|gradient| f64::from(norm(gradient)).powi(2)).sum::<f64>().sqrt();
                gradients = optimizer::clip(&gradients, norm, max_norm).unwrap();
            }
            optimizer.step(&gradients, case["learning_rates"][step].as_f64().unwrap()).unwrap();
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
