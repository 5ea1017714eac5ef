//! What the local engine tells besides responses: scores of tokens, and responses as they come.

use std::{sync::Arc, time::Duration};

use tokio::task::JoinHandle;
use ttrl::engine::{
    handle::{
        Engine, EngineError, GenerateRequest, Group, Lease, Listener, Piece, Pieces, Report, Sampling, TokenScore,
    },
    model::{
        decoder::Decoder,
        lora::Lora,
        training::{Pass, Target, TokenForest},
    },
    report::MAX_UNREAD_PIECES,
    thread::EngineOptions,
};

use crate::engine::{PROMPT, Tiny, adapter_of, endless, one, request, tiny, tiny_with};

/// What the training pass says of every token after the first, at temperature 1.
pub(crate) fn trained_log_probs(decoder: &Decoder, lora: Option<&Lora>, text: &[u32]) -> Vec<f32> {
    let mut forest = TokenForest::default();
    let mut targets = Vec::new();
    let mut row = None;
    for &token in text {
        targets.extend(row.map(|row| Target { row, token }));
        row = Some(forest.insert(row, token));
    }
    let at_once = |work: &mut (dyn FnMut() -> candle_core::Result<()> + Send)| work();
    let pass = Pass::new(decoder, lora, (&forest, &targets), 1.0, &at_once).unwrap();
    pass.score().unwrap().into_iter().map(|score| score.log_prob).collect()
}

fn scoring(lease: Lease, prompt: &[u32], max_tokens: usize, top: usize) -> GenerateRequest {
    let report = Report { prompt: Some(top), ..Report::default() };
    GenerateRequest { report, ..request(lease, prompt, 1, max_tokens, 7) }
}

fn assert_close(scores: &[TokenScore], expected: &[f32]) {
    assert_eq!(scores.len(), expected.len());
    for (score, expected) in scores.iter().zip(expected) {
        assert!((score.log_prob - expected).abs() < 1e-4, "{} against {expected}", score.log_prob);
    }
}

/// A prompt that is longer than what is scored in one step.
fn long_prompt(tiny: &Tiny, length: u32) -> Vec<u32> {
    let vocab = tiny.decoder.config().vocab_size as u32;
    (0..length).map(|i| (i * i + 7 * i) % (vocab - 3) + 3).collect()
}

#[tokio::test]
async fn a_prompt_is_scored_as_the_training_pass_scores_it_cached_or_not() {
    let tiny = tiny();
    let adapter = adapter_of('a');
    let shape = |projection| tiny.decoder.projection_shape(projection);
    let lora = Lora::new(&adapter.config, &adapter.tensors, tiny.decoder.config().layers.len(), shape).unwrap();
    let lease = tiny.engine.load_adapter(Arc::new(adapter)).await.unwrap();
    let prompt = long_prompt(&tiny, 127);
    for (lease, lora) in [(tiny.engine.base(), None), (lease, Some(&lora))] {
        let expected = trained_log_probs(&tiny.decoder, lora, &prompt);
        for max_tokens in [0, 1, 0] {
            let group = one(&*tiny.engine, scoring(lease.clone(), &prompt, max_tokens, 0)).await;
            assert_close(&group.prompt_scores, &expected);
            assert_eq!(group.rollouts[0].tokens.len(), max_tokens);
        }
    }
    assert_eq!(tiny.engine.stats().cached_prompt_tokens_total, 0, "what is computed again is not counted as found");
}

#[tokio::test]
async fn many_prompts_are_scored_together_in_steps_as_alone() {
    let tiny = tiny();
    let prompts: Vec<Vec<u32>> = (0..8).map(|n| long_prompt(&tiny, 60 + 7 * n)).collect();
    let requests = prompts.iter().map(|prompt| scoring(tiny.engine.base(), prompt, 2, 0)).collect();
    let groups = tiny.engine.generate(requests).await.unwrap();
    for (prompt, group) in prompts.iter().zip(&groups) {
        assert_close(&group.prompt_scores, &trained_log_probs(&tiny.decoder, None, prompt));
    }
}

#[tokio::test]
async fn a_prompt_of_one_token_has_nothing_to_score() {
    let tiny = tiny();
    // The second time its only token is cached, and there is nothing to compute at all.
    for _ in 0..2 {
        let asked = one(&*tiny.engine, scoring(tiny.engine.base(), &PROMPT[..1], 0, 5));
        let group = tokio::time::timeout(Duration::from_secs(60), asked).await.expect("an answer");
        assert!(group.prompt_scores.is_empty() && group.rollouts[0].tokens.is_empty());
    }
}

#[tokio::test]
async fn the_likeliest_tokens_are_told_beside_each_score() {
    let tiny = tiny();
    let group = one(&*tiny.engine, scoring(tiny.engine.base(), &PROMPT, 0, 96 / 5)).await;
    for (place, score) in group.prompt_scores.iter().enumerate() {
        assert_eq!(score.top.len(), 19);
        for &(token, log_prob) in &score.top[..3] {
            let mut text = PROMPT[..=place].to_vec();
            text.push(token);
            let expected = trained_log_probs(&tiny.decoder, None, &text)[place];
            assert!((log_prob - expected).abs() < 1e-4, "{log_prob} against {expected}");
        }
    }
}

#[tokio::test]
async fn drawn_tokens_are_scored_by_the_model_whatever_the_sampling() {
    let tiny = tiny();
    let mut ask = request(tiny.engine.base(), &PROMPT, 4, 12, 3);
    ask.report.tokens = Some(2);
    ask.sampling = Sampling { temperature: 1.7, presence_penalty: 1.0, top_k: 30, ..ask.sampling };
    for rollout in one(&*tiny.engine, ask).await.rollouts {
        let text = [&PROMPT[..], &rollout.tokens].concat();
        assert_close(&rollout.scores, &trained_log_probs(&tiny.decoder, None, &text)[PROMPT.len() - 1..]);
        assert_ne!(rollout.scores[0].log_prob, rollout.log_probs[0], "the policy's is another");
    }
}

#[tokio::test]
async fn without_being_asked_nothing_is_scored() {
    let tiny = tiny();
    let group = one(&*tiny.engine, request(tiny.engine.base(), &PROMPT, 2, 4, 3)).await;
    assert!(group.prompt_scores.is_empty() && group.rollouts.iter().all(|rollout| rollout.scores.is_empty()));
    assert!(group.rollouts.iter().all(|rollout| rollout.log_probs.len() == rollout.tokens.len()));
}

#[tokio::test]
async fn penalties_look_at_the_history_of_each_sample() {
    let tiny = tiny();
    let mut ask = request(tiny.engine.base(), &PROMPT, 8, 40, 5);
    // Nothing repeats while every token that was drawn costs more than logits differ by.
    ask.sampling.logit_bias = (3..60).map(|token| (token, 60.0)).collect();
    ask.sampling.presence_penalty = 2.0;
    ask.sampling.frequency_penalty = 2.0;
    ask.sampling.temperature = 0.01;
    let rollouts = one(&*tiny.engine, ask.clone()).await.rollouts;
    let repeats = |tokens: &[u32]| tokens.iter().enumerate().filter(|(i, token)| tokens[..*i].contains(token)).count();
    let penalised: usize = rollouts.iter().map(|rollout| repeats(&rollout.tokens)).sum();
    ask.sampling = Sampling { presence_penalty: 0.0, frequency_penalty: 0.0, ..ask.sampling };
    let free: usize = one(&*tiny.engine, ask).await.rollouts.iter().map(|rollout| repeats(&rollout.tokens)).sum();
    assert!(penalised < free, "{penalised} repeats with penalties, {free} without");
    assert!(rollouts.iter().all(|rollout| rollout.tokens.iter().all(|token| (3..60).contains(token))), "the bias");
}

/// Generates with a listener; returns the pieces of each choice beside the groups.
async fn listened(tiny: &Tiny, requests: Vec<GenerateRequest>) -> (Vec<Vec<Piece>>, Vec<Group>) {
    let samples = requests[0].samples;
    let (listeners, mut receiver) = Listener::for_requests(requests.len(), samples);
    let mut pieces = vec![Vec::new(); requests.len() * samples];
    let with = |(mut request, listener): (GenerateRequest, Listener)| {
        request.report.listener = Some(listener);
        request
    };
    let groups = tiny.engine.generate(requests.into_iter().zip(listeners).map(with).collect()).await.unwrap();
    while let Some(piece) = receiver.next().await {
        pieces[piece.choice].push(piece);
    }
    (pieces, groups)
}

#[tokio::test]
async fn the_pieces_of_a_response_are_the_response() {
    let tiny = tiny();
    let free = one(&*tiny.engine, request(tiny.engine.base(), &PROMPT, 6, 30, 9)).await;
    let cut_off = free.rollouts.iter().max_by_key(|rollout| rollout.text.len()).unwrap();
    let stop: String = cut_off.text.chars().skip(4).take(3).collect();
    let ask = |prompt: &[u32]| {
        let mut request = request(tiny.engine.base(), prompt, 6, 30, 9);
        request.sampling.stop = vec![stop.clone(), "zzzz".into()];
        request.report.tokens = Some(1);
        request
    };
    let (pieces, groups) = listened(&tiny, vec![ask(&PROMPT), ask(&PROMPT[1..])]).await;
    let rollouts: Vec<_> = groups.iter().flat_map(|group| &group.rollouts).collect();
    for (pieces, rollout) in pieces.iter().zip(&rollouts) {
        assert_eq!(pieces.iter().map(|piece| piece.text.as_str()).collect::<String>(), rollout.text);
        assert_eq!(pieces.iter().map(|piece| piece.token).collect::<Vec<_>>(), rollout.tokens);
        let scores: Vec<_> = pieces.iter().filter_map(|piece| piece.score.clone()).collect();
        assert_eq!(scores, rollout.scores);
        let (last, before) = pieces.split_last().unwrap();
        assert!(last.finish == Some(rollout.finish) && before.iter().all(|piece| piece.finish.is_none()));
    }
    assert!(rollouts.iter().any(|rollout| free.rollouts.iter().all(|free| free.text != rollout.text)), "none stopped");
}

/// Starts a long generation with a listener.
fn start_listening(tiny: &Tiny) -> (JoinHandle<Result<Vec<Group>, EngineError>>, Pieces) {
    let (listeners, receiver) = Listener::for_requests(1, 30);
    let mut ask = endless(tiny, 30, 1);
    ask.report.listener = listeners.into_iter().next();
    let engine = tiny.engine.clone();
    (tokio::spawn(async move { engine.generate(vec![ask]).await }), receiver)
}

#[tokio::test]
async fn a_listener_hears_a_token_before_the_last_one_is_drawn() {
    let tiny = tiny_with(EngineOptions { cache_tokens: 3610, max_waiting: 64 });
    let (generation, mut receiver) = start_listening(&tiny);
    receiver.next().await.unwrap();
    assert!(tiny.engine.stats().generated_tokens_total < 30 * 120, "it heard nothing until the end");
    generation.await.unwrap().unwrap();
    for _ in 1..30 * 120 {
        receiver.next().await.expect("every token is heard");
    }
    assert!(receiver.next().await.is_none() && !receiver.overrun().is_cancelled());
}

#[tokio::test]
async fn a_listener_that_nobody_reads_keeps_no_more_than_its_bound_and_does_not_hold_the_engine_up() {
    let tiny = tiny_with(EngineOptions { cache_tokens: 4810, max_waiting: 64 });
    let (listeners, mut pieces) = Listener::for_requests(1, 40);
    let mut ask = endless(&tiny, 40, 1);
    ask.report.listener = listeners.into_iter().next();
    assert_eq!(one(&*tiny.engine, ask).await.rollouts.len(), 40);
    assert!(pieces.overrun().is_cancelled());
    let mut kept = 0;
    while pieces.next().await.is_some() {
        kept += 1;
    }
    assert_eq!(kept, MAX_UNREAD_PIECES);
}

#[tokio::test]
async fn a_listener_that_goes_away_with_its_call_frees_its_place() {
    let tiny = tiny_with(EngineOptions { cache_tokens: 3610, max_waiting: 64 });
    let (generation, mut receiver) = start_listening(&tiny);
    receiver.next().await.unwrap();
    generation.abort();
    let next = tiny.engine.generate(vec![endless(&tiny, 30, 2)]);
    let groups = tokio::time::timeout(Duration::from_secs(60), next).await.unwrap().unwrap();
    assert_eq!(groups[0].rollouts.len(), 30);
    while let Some(piece) = receiver.next().await {
        assert!(piece.finish.is_none(), "it went on to its end");
    }
}

#[tokio::test]
async fn reports_that_cannot_be_made_are_refused() {
    let tiny = tiny();
    let refusal = |change: fn(&mut GenerateRequest)| {
        let mut ask = request(tiny.engine.base(), &PROMPT, 1, 4, 0);
        change(&mut ask);
        match tiny.engine.check(&ask) {
            Err(EngineError::Unservable(text)) => text,
            other => panic!("expected a refusal, got {other:?}"),
        }
    };
    assert!(refusal(|ask| ask.report.tokens = Some(21)).contains("20 is the limit"));
    assert!(refusal(|ask| ask.report.prompt = Some(21)).contains("20 is the limit"));
    assert!(refusal(|ask| ask.sampling.logit_bias = [(96, 1.0)].into()).contains("token 96, the model has 96"));
    assert!(refusal(|ask| ask.sampling.max_tokens = 0).contains("at least one token"));
}
