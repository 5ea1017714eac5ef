//! Plans and what comes of them.

use std::path::Path;

use super::*;
use crate::engine::{
    handle::Version,
    model::{outputs::Draws, weights},
    sampling::Sampling,
};

fn scheduler() -> Scheduler {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny-llama/tiny.gguf");
    Scheduler::new(Arc::new(weights::load_tokenizer(&file).unwrap().unwrap()), 1024)
}

fn request(version: &Version, first: u32, length: u32, samples: usize) -> GenerateRequest {
    GenerateRequest {
        lease: Lease::new(version.clone(), ()),
        prompt: (first..first + length).collect(),
        samples,
        sampling: Sampling { max_tokens: 4, ..Sampling::default() },
        report: Default::default(),
        place: None,
        seed: 0,
        priority: Priority::Request,
    }
}

/// Computes a plan with logits that make every token as likely as another.
fn step(scheduler: &mut Scheduler, rows: usize) -> Plan {
    let plan = scheduler.plan(Priority::Request, rows).unwrap();
    let outputs = plan.outputs.iter().map(|_| Output::Logits(vec![0.0; 96])).collect();
    scheduler.accept(&plan, outputs, Instant::now());
    plan
}

fn start(scheduler: &mut Scheduler, requests: Vec<GenerateRequest>) {
    scheduler.enqueue(0, requests, Instant::now());
    assert!(scheduler.admit(Instant::now()).is_empty());
}

#[test]
fn a_device_that_draws_is_asked_for_what_would_be_drawn_from_the_logits() {
    let logits: Vec<f32> = (0..96).map(|token| (token as f32 * 0.7).sin() * 3.0).collect();
    for temperature in [0.0, 0.8] {
        let drawn = |by_device: bool| {
            let mut scheduler = scheduler();
            let mut request = request(&Version::base(), 1, 3, 4);
            request.sampling = Sampling { temperature, max_tokens: 4, ..request.sampling };
            start(&mut scheduler, vec![request]);
            let mut finished = vec![];
            while finished.is_empty() {
                let plan = scheduler.plan(Priority::Request, 16).unwrap();
                let wanted = scheduler.wanted(&plan).into_iter();
                let outputs = wanted.map(|wanted| match wanted {
                    Wanted::Draws(draws) if by_device => Output::Drawn(draw_like_a_device(&logits, &draws)),
                    Wanted::Draws(_) => Output::Logits(logits.clone()),
                    Wanted::Logits => panic!("nothing but draws is wanted"),
                });
                let outputs = outputs.collect();
                finished = scheduler.accept(&plan, outputs, Instant::now());
            }
            finished.remove(0).2.rollouts
        };
        for (here, there) in drawn(false).iter().zip(drawn(true)) {
            assert_eq!(here.tokens, there.tokens);
            for (here, there) in here.log_probs.iter().zip(there.log_probs) {
                assert!((here - there).abs() < 1e-5, "{here} {there}");
            }
        }
    }
}

/// As [`Draws`] says it.
fn draw_like_a_device(logits: &[f32], draws: &Draws) -> Vec<(u32, f32)> {
    let divisor = if draws.temperature == 0.0 { 1.0 } else { f64::from(draws.temperature) };
    let weights: Vec<f64> = logits.iter().map(|&logit| (f64::from(logit) / divisor).exp()).collect();
    let total: f64 = weights.iter().sum();
    let likeliest = (0..weights.len()).rev().max_by(|&a, &b| weights[a].total_cmp(&weights[b])).unwrap();
    let draw = |&uniform: &f64| {
        let mut sum = 0.0;
        let reaches = |weight: &f64| {
            sum += weight / total;
            sum > uniform
        };
        let token = match draws.temperature {
            0.0 => likeliest,
            _ => weights.iter().position(reaches).unwrap(),
        };
        (token as u32, (weights[token] / total).ln() as f32)
    };
    draws.uniforms.iter().map(draw).collect()
}

#[test]
fn whoever_narrows_changes_or_scores_gets_the_logits() {
    let plain = || request(&Version::base(), 1, 3, 2);
    let narrowed = Sampling { top_p: 0.9, temperature: 1.0, ..plain().sampling };
    let changed = Sampling { presence_penalty: 0.5, ..plain().sampling };
    let scored = crate::engine::handle::Report { tokens: Some(2), ..Default::default() };
    let requests = [
        GenerateRequest { sampling: narrowed, ..plain() },
        GenerateRequest { sampling: changed, ..plain() },
        GenerateRequest { report: scored, ..plain() },
    ];
    for request in requests {
        let mut scheduler = scheduler();
        start(&mut scheduler, vec![request]);
        let plan = scheduler.plan(Priority::Request, 16).unwrap();
        assert_eq!(scheduler.wanted(&plan), [Wanted::Logits]);
    }
}

#[test]
fn rows_attend_to_what_is_before_them_in_their_sequence() {
    let mut scheduler = scheduler();
    let base = Version::base();
    // Two prompts that begin alike, of which the longer has two samples.
    let mut other = request(&base, 0, 9, 2);
    other.prompt[6..].fill(50);
    start(&mut scheduler, vec![request(&base, 0, 7, 1), other]);
    let mut rows = 0;
    while let Some(plan) = scheduler.plan(Priority::Request, 5) {
        let paths = (0..plan.rows.len()).map(|row| plan.paths.path(row).to_vec());
        let expected = plan.rows.iter().map(|&node| scheduler.tree.path(node));
        assert_eq!(paths.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
        rows += step(&mut scheduler, 5).rows.len();
    }
    assert!((10..=10 + 3 * 3).contains(&rows), "{rows} rows");
}

#[test]
fn prompts_that_are_the_same_are_scored_in_the_same_rows() {
    let rows = |prompts: usize| {
        let mut scheduler = scheduler();
        let mut request = request(&Version::base(), 0, 90, 1);
        request.prompt = (0..200).map(|place| place % 90).collect();
        request.report.prompt = Some(0);
        start(&mut scheduler, vec![request; prompts]);
        let mut rows = 0;
        while let Some(plan) = scheduler.plan(Priority::Request, 256) {
            let outputs = plan.outputs.iter().map(|_| Output::Logits(vec![0.0; 96])).collect();
            let finished = scheduler.accept(&plan, outputs, Instant::now());
            assert!(finished.iter().all(|(_, _, group)| group.prompt_scores.len() == 199));
            rows += plan.rows.len();
        }
        rows
    };
    // Besides the four tokens that each draws.
    let (one, three) = (rows(1), rows(3));
    assert!((200..=204).contains(&one) && three <= one + 2 * 4, "{one} and {three} rows");
}

#[test]
fn samples_with_the_same_history_draw_from_one_row_where_no_other_is_left() {
    let mut scheduler = scheduler();
    let greedy = |first, samples| {
        let request = request(&Version::base(), first, 3, samples);
        let sampling = Sampling { temperature: 0.0, ignore_eos: true, ..request.sampling };
        GenerateRequest { sampling, ..request }
    };
    start(&mut scheduler, vec![greedy(0, 2), greedy(50, 1), greedy(0, 1)]);
    step(&mut scheduler, 16);
    let plan = scheduler.plan(Priority::Request, 1).unwrap();
    let drawn: usize = scheduler.wanted(&plan).iter().map(Wanted::draws).sum();
    assert_eq!((plan.rows.len(), drawn), (1, 3));
}

#[test]
fn a_short_prompt_passes_a_long_one() {
    let mut scheduler = scheduler();
    let base = Version::base();
    start(&mut scheduler, vec![request(&base, 0, 90, 1), request(&base, 200, 3, 1)]);
    let plan = step(&mut scheduler, 16);
    assert_eq!((plan.rows.len(), plan.outputs.len()), (8 + 3, 1), "half for the long one, and all of the short one");
}

#[test]
fn samples_go_on_beside_a_long_prompt() {
    let mut scheduler = scheduler();
    let base = Version::base();
    start(&mut scheduler, vec![request(&base, 0, 90, 1), request(&base, 200, 3, 2)]);
    step(&mut scheduler, 16);
    for _ in 0..2 {
        let plan = step(&mut scheduler, 16);
        assert_eq!(plan.rows.len(), 16, "what the samples leave is the long prompt's");
        assert!((1..=2).contains(&plan.outputs.len()));
    }
}

#[test]
fn every_version_has_its_share_of_a_step() {
    let mut scheduler = scheduler();
    let versions = [Version::base(), "a".repeat(64).parse().unwrap()];
    start(&mut scheduler, versions.iter().map(|version| request(version, 0, 90, 1)).collect());
    let plan = step(&mut scheduler, 16);
    let shares: Vec<_> = plan.leases.iter().map(|(lease, rows)| (lease.version(), rows.clone())).collect();
    assert_eq!(shares, [(&versions[0], 0..8), (&versions[1], 8..16)]);
}
