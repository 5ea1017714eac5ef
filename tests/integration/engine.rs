//! The local engine on a tiny model: sharing, repeating, leases, bounds.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use candle_core::{Device, Tensor};
use ttrl::engine::{
    handle::{Engine, EngineError, FinishReason, GenerateRequest, Group, Lease, ModelInfo, Priority, Report, Sampling},
    model::{
        decoder::Decoder,
        lora::{Adapter, Lora, LoraConfig, Projection},
        training::{Pass, Target, TokenForest},
        weights,
    },
    thread::{EngineOptions, LocalEngine},
    turnstile::Turnstile,
};

use crate::support::fixture;

pub(crate) struct Tiny {
    pub(crate) engine: Arc<LocalEngine>,
    pub(crate) decoder: Arc<Decoder>,
}

pub(crate) fn tiny_with(options: EngineOptions) -> Tiny {
    let mut checkpoint = weights::load(&fixture("tiny-llama/tiny.gguf"), &Device::Cpu).unwrap();
    let decoder = Arc::new(Decoder::new(checkpoint.config, &mut checkpoint.tensors, &Device::Cpu).unwrap());
    let info = ModelInfo {
        name: "tiny".into(),
        fingerprint: checkpoint.fingerprint,
        context_tokens: decoder.config().context_tokens,
        vocab_size: decoder.config().vocab_size,
        parameters: decoder.parameters(),
    };
    let turnstile = Arc::new(Turnstile::new(0.5));
    let tokenizer = Arc::new(checkpoint.tokenizer.unwrap());
    let engine = LocalEngine::start(info, decoder.clone(), tokenizer, turnstile, options).unwrap();
    Tiny { engine: Arc::new(engine), decoder }
}

pub(crate) fn tiny() -> Tiny {
    tiny_with(EngineOptions { cache_tokens: 2048, max_waiting: 64 })
}

pub(crate) fn adapter_of(version: char) -> Adapter {
    let tensors =
        candle_core::safetensors::load(fixture("tiny-llama-lora/adapter_model.safetensors"), &Device::Cpu).unwrap();
    Adapter {
        version: version.to_string().repeat(64).parse().unwrap(),
        config: LoraConfig { r: 4, alpha: 8.0, targets: Projection::ALL.to_vec() },
        tensors: tensors.into_iter().collect(),
    }
}

pub(crate) fn request(lease: Lease, prompt: &[u32], samples: usize, max_tokens: usize, seed: u64) -> GenerateRequest {
    GenerateRequest {
        lease,
        prompt: prompt.to_vec(),
        samples,
        sampling: Sampling { temperature: 0.9, max_tokens, ..Sampling::default() },
        seed,
        priority: Priority::Request,
        report: Report::default(),
        place: None,
    }
}

/// A request whose samples all have 120 tokens.
pub(crate) fn endless(tiny: &Tiny, samples: usize, seed: u64) -> GenerateRequest {
    let mut request = request(tiny.engine.base(), &PROMPT, samples, 120, seed);
    request.sampling.ignore_eos = true;
    request
}

pub(crate) async fn one(engine: &dyn Engine, request: GenerateRequest) -> Group {
    engine.generate(vec![request]).await.unwrap().remove(0)
}

fn tokens(group: &Group) -> Vec<Vec<u32>> {
    group.rollouts.iter().map(|rollout| rollout.tokens.clone()).collect()
}

pub(crate) const PROMPT: [u32; 5] = [51, 7, 20, 33, 9];

#[tokio::test]
async fn a_seed_repeats_and_another_differs() {
    let tiny = tiny();
    let ask = |seed| one(&*tiny.engine, request(tiny.engine.base(), &PROMPT, 4, 12, seed));
    let first = ask(1).await;
    assert_eq!(first.rollouts.len(), 4);
    assert_eq!(tokens(&first), tokens(&ask(1).await));
    assert_ne!(tokens(&first), tokens(&ask(2).await));
    assert_ne!(first.rollouts[0].tokens, first.rollouts[1].tokens, "samples of one request differ");
}

#[tokio::test]
async fn a_sample_does_not_depend_on_how_many_others_there_are() {
    let tiny = tiny();
    let few = one(&*tiny.engine, request(tiny.engine.base(), &PROMPT, 2, 10, 5)).await;
    let many = one(&*tiny.engine, request(tiny.engine.base(), &PROMPT, 30, 10, 5)).await;
    assert_eq!(tokens(&few), tokens(&many)[..2]);
    for (few, many) in few.rollouts.iter().zip(&many.rollouts) {
        for (a, b) in few.log_probs.iter().zip(&many.log_probs) {
            assert!((a - b).abs() < 1e-4, "{a} against {b}");
        }
    }
}

#[tokio::test]
async fn requests_in_one_batch_get_what_they_get_alone() {
    let tiny = tiny();
    let prompts: Vec<Vec<u32>> = (1..12).map(|n| (0..n * 3).map(|i| (i * 7 + n) % 90 + 3).collect()).collect();
    let ask = |prompt: &Vec<u32>| request(tiny.engine.base(), prompt, 3, 8, 4);
    let together = tiny.engine.generate(prompts.iter().map(ask).collect()).await.unwrap();
    for (prompt, together) in prompts.iter().zip(&together) {
        assert_eq!(tokens(&one(&*tiny.engine, ask(prompt)).await), tokens(together), "prompt of {}", prompt.len());
    }
}

#[tokio::test]
async fn several_versions_in_one_batch_get_what_they_get_alone() {
    let tiny = tiny();
    let mut leases = vec![tiny.engine.base()];
    for (version, strength) in [('a', 8.0), ('b', 40.0)] {
        let mut adapter = adapter_of(version);
        adapter.config.alpha = strength;
        leases.push(tiny.engine.load_adapter(Arc::new(adapter)).await.unwrap());
    }
    // More prompt rows than one step has for all of them, and versions in turn.
    let prompt = |n: u32| -> Vec<u32> { (0..40).map(|i| (i * 5 + n) % 90 + 3).collect() };
    let ask = |n: u32| request(leases[n as usize % 3].clone(), &prompt(n / 3), 3, 10, 6);
    let together = tiny.engine.generate((0..12).map(ask).collect()).await.unwrap();
    assert_ne!(tokens(&together[0]), tokens(&together[1]), "an adapter changes what is drawn");
    assert_ne!(tokens(&together[1]), tokens(&together[2]));
    for (n, together) in (0..12).zip(&together) {
        let alone = one(&*self::tiny().engine, ask(n)).await;
        assert_eq!((tokens(&alone), &alone.version), (tokens(together), &together.version), "request {n}");
        for (alone, together) in alone.rollouts.iter().zip(&together.rollouts) {
            assert_eq!(alone.log_probs, together.log_probs, "request {n}, to the last bit");
        }
    }
}

#[tokio::test]
async fn samples_share_their_prompt_and_their_common_beginnings() {
    let tiny = tiny();
    let prompt: Vec<u32> = (0..60).map(|i| i % 90 + 3).collect();
    let group = one(&*tiny.engine, request(tiny.engine.base(), &prompt, 16, 1, 3)).await;
    assert_eq!(group.rollouts.len(), 16);
    assert_eq!(tiny.engine.stats().computed_tokens_total, 60, "one prefill for all sixteen");
    let mut longer = prompt.clone();
    longer.extend([4, 5]);
    one(&*tiny.engine, request(tiny.engine.base(), &longer, 1, 1, 3)).await;
    assert_eq!(tiny.engine.stats().computed_tokens_total, 62, "the next prompt computes what is new in it");
    assert_eq!(tiny.engine.stats().cached_prompt_tokens_total, 60);
}

#[tokio::test]
async fn log_probabilities_are_those_of_the_training_pass() {
    let tiny = tiny();
    let adapter = adapter_of('a');
    let shape = |projection| tiny.decoder.projection_shape(projection);
    let lora = Lora::new(&adapter.config, &adapter.tensors, tiny.decoder.config().layers.len(), shape).unwrap();
    let lease = tiny.engine.load_adapter(Arc::new(adapter)).await.unwrap();
    for (lease, lora) in [(tiny.engine.base(), None), (lease, Some(&lora))] {
        let group = one(&*tiny.engine, request(lease, &PROMPT, 8, 10, 11)).await;
        let mut forest = TokenForest::default();
        let mut prompt_end = None;
        for token in PROMPT {
            prompt_end = Some(forest.insert(prompt_end, token));
        }
        let mut expected = BTreeMap::new();
        for rollout in &group.rollouts {
            let mut row = prompt_end;
            for (&token, &log_prob) in rollout.tokens.iter().zip(&rollout.log_probs) {
                expected.insert(Target { row: row.unwrap(), token }, log_prob);
                row = Some(forest.insert(row, token));
            }
        }
        let targets: Vec<Target> = expected.keys().copied().collect();
        let at_once = |work: &mut (dyn FnMut() -> candle_core::Result<()> + Send)| work();
        let pass = Pass::new(&tiny.decoder, lora, (&forest, &targets), 0.9, &at_once).unwrap();
        for (found, expected) in pass.score().unwrap().iter().zip(expected.values()) {
            assert!((found.log_prob - expected).abs() < 1e-4, "{} against {expected}", found.log_prob);
        }
    }
}

#[tokio::test]
async fn versions_in_flight_together_do_not_mix() {
    let tiny = tiny();
    let lease = tiny.engine.load_adapter(Arc::new(adapter_of('a'))).await.unwrap();
    let ask = |lease: &Lease, seed| request(lease.clone(), &PROMPT, 2, 20, seed);
    let alone = [one(&*tiny.engine, ask(&tiny.engine.base(), 1)).await, one(&*tiny.engine, ask(&lease, 1)).await];
    assert_ne!(tokens(&alone[0]), tokens(&alone[1]), "the adapter changes what is said");
    let (base, tuned) =
        tokio::join!(one(&*tiny.engine, ask(&tiny.engine.base(), 1)), one(&*tiny.engine, ask(&lease, 1)));
    assert_eq!([tokens(&base), tokens(&tuned)], [tokens(&alone[0]), tokens(&alone[1])]);
    assert_eq!((base.version.is_base(), &tuned.version), (true, lease.version()));
}

#[tokio::test]
async fn a_version_leaves_memory_with_its_last_lease() {
    let tiny = tiny();
    let lease = tiny.engine.load_adapter(Arc::new(adapter_of('b'))).await.unwrap();
    let weak = lease.downgrade();
    one(&*tiny.engine, request(lease.clone(), &PROMPT, 1, 3, 1)).await;
    assert!(weak.upgrade().is_some());
    drop(lease);
    // The thread lets go of a finished request a moment after it has answered.
    for _ in 0..100 {
        if weak.upgrade().is_none() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the version is still resident");
}

#[tokio::test]
async fn a_request_that_is_dropped_frees_its_place() {
    let tiny = tiny_with(EngineOptions { cache_tokens: 3610, max_waiting: 64 });
    let (engine, first) = (tiny.engine.clone(), endless(&tiny, 30, 1));
    let first = tokio::spawn(async move { engine.generate(vec![first]).await });
    while tiny.engine.stats().generated_tokens_total == 0 {
        tokio::task::yield_now().await;
    }
    first.abort();
    let next = tiny.engine.generate(vec![endless(&tiny, 30, 2)]);
    let groups = tokio::time::timeout(Duration::from_secs(60), next).await.unwrap().unwrap();
    assert_eq!(tokens(&groups[0]).concat().len(), 30 * 120);
    assert!(tiny.engine.stats().generated_tokens_total < 2 * 30 * 120, "the first went on to its end");
}

#[tokio::test]
async fn a_full_cache_makes_room_and_answers_stay_the_same() {
    let tiny = tiny_with(EngineOptions { cache_tokens: 64, max_waiting: 64 });
    let prompt = |n: u32| -> Vec<u32> { (0..30).map(|i| (i * 3 + n) % 90 + 3).collect() };
    let ask = |n| one(&*tiny.engine, request(tiny.engine.base(), &prompt(n), 1, 10, 1));
    let mut first = Vec::new();
    for n in 0..6 {
        first.push(tokens(&ask(n).await));
    }
    for n in 0..6 {
        assert_eq!(tokens(&ask(n).await), first[n as usize]);
    }
    assert!(tiny.engine.stats().cache_tokens_used <= 64);
}

#[tokio::test]
async fn generation_ends_at_a_stop_text_or_says_that_it_was_cut_off() {
    let tiny = tiny();
    let free = one(&*tiny.engine, request(tiny.engine.base(), &PROMPT, 6, 30, 9)).await;
    let cut_off = free.rollouts.iter().find(|rollout| rollout.finish == FinishReason::Length).unwrap();
    assert_eq!(cut_off.tokens.len(), 30);
    let stop: String = cut_off.text.chars().skip(4).take(2).collect();
    let mut again = request(tiny.engine.base(), &PROMPT, 6, 30, 9);
    again.sampling.stop = vec![stop.clone()];
    for (rollout, free) in one(&*tiny.engine, again).await.rollouts.iter().zip(&free.rollouts) {
        assert!(!rollout.text.contains(&stop));
        if free.text.contains(&stop) {
            assert_eq!(rollout.finish, FinishReason::Stop);
            assert_eq!(rollout.text, free.text.split(&stop).next().unwrap());
        }
    }
}

#[tokio::test]
async fn what_can_never_be_served_is_refused_with_the_numbers() {
    let tiny = tiny();
    let refusal = |request| async {
        match tiny.engine.generate(vec![request]).await {
            Err(EngineError::Unservable(text)) => text,
            other => panic!("expected a refusal, got {other:?}"),
        }
    };
    let base = tiny.engine.base();
    assert!(refusal(request(base.clone(), &[], 1, 1, 0)).await.contains("no tokens"));
    assert!(refusal(request(base.clone(), &PROMPT, 0, 1, 0)).await.contains("at least one sample"));
    assert!(refusal(request(base.clone(), &PROMPT, 1, 500, 0)).await.contains("the model's context has 128"));
    assert!(refusal(request(base.clone(), &PROMPT, 60, 100, 0)).await.contains("need 6005 cached tokens"));
    assert!(refusal(request(base, &[96], 1, 1, 0)).await.contains("token 96"));
}

#[tokio::test]
async fn a_call_keeps_its_place_until_the_engine_has_let_go_of_it() {
    let tiny = tiny_with(EngineOptions { cache_tokens: 130, max_waiting: 1 });
    let place = Some(tiny.engine.line().enter().unwrap());
    let (engine, request) = (tiny.engine.clone(), GenerateRequest { place, ..endless(&tiny, 1, 0) });
    let generation = tokio::spawn(async move { engine.generate(vec![request]).await });
    while tiny.engine.stats().requests_running == 0 {
        assert!(!generation.is_finished(), "it was too fast to be seen");
        tokio::task::yield_now().await;
    }
    assert!(matches!(tiny.engine.line().enter(), Err(EngineError::Busy { waiting: 1 })));
    generation.await.unwrap().unwrap();
    assert!(tiny.engine.line().enter().is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_waits_for_the_places_of_rollouts_does_not_hold_them_up() {
    let tiny = tiny_with(EngineOptions { cache_tokens: 128, max_waiting: 64 });
    let rollout = |seed| {
        let request = request(tiny.engine.base(), &PROMPT, 2, 25, seed);
        GenerateRequest { priority: Priority::Rollout, ..request }
    };
    let engine = tiny.engine.clone();
    let rollouts = (0..200).map(rollout).collect();
    let rollouts = tokio::spawn(async move { engine.generate(rollouts).await });
    for seed in 0..5 {
        while tiny.engine.stats().rollouts_running == 0 {
            assert!(!rollouts.is_finished(), "the requests came too late");
            tokio::task::yield_now().await;
        }
        // It needs the whole cache, so it waits until a rollout that has begun leaves.
        let whole = tiny.engine.generate(vec![request(tiny.engine.base(), &PROMPT, 3, 41, seed)]);
        let groups = tokio::time::timeout(Duration::from_secs(20), whole).await.expect("both wait for each other");
        assert_eq!(groups.unwrap()[0].rollouts.len(), 3);
    }
    let groups = tokio::time::timeout(Duration::from_secs(60), rollouts).await.expect("the rollouts wait for ever");
    assert_eq!(groups.unwrap().unwrap().len(), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rollouts_get_their_turn_beside_clients_that_never_stop() {
    let tiny = tiny_with(EngineOptions { cache_tokens: 128, max_waiting: 64 });
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..2 {
        let engine = tiny.engine.clone();
        clients.spawn(async move {
            for seed in 0.. {
                engine.generate(vec![request(engine.base(), &PROMPT, 1, 20, seed + 1000 * client)]).await.unwrap();
            }
        });
    }
    // With what even one client has reserved, these would not fit into half of the cache together.
    let rollout = |seed| {
        let request = request(tiny.engine.base(), &PROMPT, 2, 25, seed);
        GenerateRequest { priority: Priority::Rollout, ..request }
    };
    let rollouts = tiny.engine.generate((0..20).map(rollout).collect());
    let groups = tokio::time::timeout(Duration::from_secs(60), rollouts).await.expect("the rollouts wait for ever");
    assert_eq!(groups.unwrap().len(), 20);
}

#[tokio::test]
async fn an_adapter_of_another_shape_is_refused() {
    let tiny = tiny();
    let mut adapter = adapter_of('c');
    let (name, _) = adapter.tensors.iter().next().unwrap();
    adapter.tensors.insert(name.clone(), Tensor::zeros((4, 7), candle_core::DType::F32, &Device::Cpu).unwrap());
    let error = tiny.engine.load_adapter(Arc::new(adapter)).await.unwrap_err().to_string();
    assert!(error.contains("does not fit the model") && error.contains("[4, 7]"), "{error}");
    let mut adapter = adapter_of('d');
    adapter.tensors.pop_first();
    assert!(tiny.engine.load_adapter(Arc::new(adapter)).await.unwrap_err().to_string().contains("no tensor"));
}
