//! What a step costs besides its computation, measured.

use std::{
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::engine::{
    handle::{GenerateRequest, Lease, Priority, Sampling, Version},
    model::{
        outputs::{Output, Wanted},
        tokenizer::Tokenizer,
    },
    scheduler::{Scheduler, worst_case_rows},
};

/// The time that the scheduler takes for a step in which each of `prompts` is followed by one token more, in the mean over
/// the steps after the first of `tokens`: to plan it, to ask for draws and to take them. A device waits for all of it. `draw`
/// gives the tokens, in place of a model. Zero if there is no such step.
pub fn per_step(
    tokenizer: Arc<Tokenizer>,
    prompts: Vec<Vec<u32>>,
    tokens: usize,
    mut draw: impl FnMut() -> u32,
) -> Duration {
    let lease = Lease::new(Version::base(), ());
    let request = |prompt| GenerateRequest {
        lease: lease.clone(),
        prompt,
        samples: 1,
        sampling: Sampling { max_tokens: tokens, ignore_eos: true, ..Sampling::default() },
        seed: 0,
        priority: Priority::Request,
        report: Default::default(),
        place: None,
    };
    let rows = prompts.iter().map(Vec::len).sum::<usize>();
    let requests: Vec<_> = prompts.into_iter().map(request).collect();
    let mut scheduler = Scheduler::new(tokenizer, requests.iter().map(worst_case_rows).sum());
    scheduler.enqueue(0, requests, Instant::now());
    scheduler.admit(Instant::now());
    let (mut spent, mut steps) = (Duration::ZERO, 0);
    loop {
        let started = Instant::now();
        let Some(plan) = scheduler.plan(Priority::Request, rows) else { break };
        let wanted = scheduler.wanted(&plan);
        let nodes = plan.rows.iter().map(|&node| (scheduler.tree.token(node), scheduler.tree.position(node)));
        black_box(nodes.collect::<Vec<_>>());
        let asked = started.elapsed();
        let mut output = |wanted: &Wanted| Output::Drawn((0..wanted.draws()).map(|_| (draw(), -1.0)).collect());
        let outputs = wanted.iter().map(&mut output).collect();
        let drawn = Instant::now();
        scheduler.accept(&plan, outputs, drawn);
        // The first step is that of the prompts.
        if steps > 0 {
            spent += asked + drawn.elapsed();
        }
        steps += 1;
    }
    spent / (steps.max(2) - 1)
}
