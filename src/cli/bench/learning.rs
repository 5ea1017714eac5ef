//! `ttrl bench round` and `ttrl bench train`: what learning costs.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use async_trait::async_trait;
use clap::Args;
use serde::Serialize;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{MeasuredModel, Numbers, Report, median};
use crate::{
    adaptation::{
        batch::{Drawn, Graded},
        guard::GuardRules,
        learner::{self, LearnError, Voted},
        memory::Footprint,
        recipe::Recipe,
        round::{self, Observer, Plan, Workbench},
        trainer::{Trainer, UpdateMetrics},
    },
    cli::ModelFlags,
    config::Flag,
    engine::{
        handle::{FinishReason, Group, Rollout, Timings, Version},
        model::device,
    },
    machine,
};

/// The template that the sums of `bench round` are made for.
const SUMS_TEMPLATE: &str = "additions-8shot";

/// How long a round of learning takes, and how much memory
#[derive(Args, Debug)]
#[command(after_help = "\
The questions are sums after eight that are solved. Everything else is as in the settings (`learning.*`).

Examples:
  ttrl bench round
  ttrl bench round --steps 2 --questions 20")]
pub struct RoundArgs {
    /// Updates
    #[arg(long, default_value_t = 6)]
    steps: u32,
    /// Questions, all of them in each step
    #[arg(long, default_value_t = 40)]
    questions: usize,
    /// Everything random follows from it
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    pub model: ModelFlags,
}

impl RoundArgs {
    pub fn flags(&self) -> Vec<Flag> {
        let template = Flag { name: "--prompt-template", key: "prompt_template", value: SUMS_TEMPLATE.into() };
        let steps = Flag { name: "--steps", key: "learning.steps", value: self.steps.to_string() };
        let mut flags = vec![template, steps];
        flags.extend(self.model.flags());
        flags
    }
}

/// How fast an adapter is trained on texts that share nothing but their prompt, and how much memory that takes
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  ttrl bench train
  ttrl bench train --sequences 8 --tokens 512
  ttrl bench train --sequences 64 --group 16 --prompt-tokens 128 --tokens 256")]
pub struct TrainArgs {
    /// Texts in an update
    #[arg(long, default_value_t = 32)]
    sequences: usize,
    /// Tokens of each after its prompt
    #[arg(long, default_value_t = 48)]
    tokens: usize,
    /// Texts that have a prompt in common
    #[arg(long, default_value_t = 2)]
    group: usize,
    /// Tokens of each prompt
    #[arg(long, default_value_t = 1)]
    prompt_tokens: usize,
    /// How often it is measured
    #[arg(long, default_value_t = 3)]
    runs: usize,
    #[command(flatten)]
    pub measured: MeasuredModel,
}

/// A step of a round, in seconds.
#[derive(Serialize)]
struct Step {
    sample_seconds: f64,
    train_seconds: f64,
    sampled_tokens: usize,
    trained_rows: usize,
}

/// Takes the time of a round's steps.
struct Stopwatch {
    last: Instant,
    sampled: (Duration, usize),
    steps: Vec<Step>,
}

impl Stopwatch {
    /// The time since the last call.
    fn lap(&mut self) -> Duration {
        let now = Instant::now();
        now - std::mem::replace(&mut self.last, now)
    }
}

#[async_trait]
impl Observer for Stopwatch {
    async fn sampled(&mut self, _updates: u32, voted: &[Voted], _held_back: &[Voted]) -> Result<(), LearnError> {
        let rollouts = voted.iter().flat_map(|voted| &voted.group.rollouts);
        self.sampled = (self.lap(), rollouts.map(|rollout| rollout.tokens.len()).sum());
        Ok(())
    }

    async fn updated(&mut self, _updates: u32, metrics: Option<&UpdateMetrics>) -> Result<(), LearnError> {
        let ((sampling, sampled_tokens), training) = (self.sampled, self.lap());
        self.steps.push(Step {
            sample_seconds: sampling.as_secs_f64(),
            train_seconds: training.as_secs_f64(),
            sampled_tokens,
            trained_rows: metrics.map_or(0, |metrics| metrics.trained_rows),
        });
        Ok(())
    }
}

/// The steps of a round over sums, without a gate.
pub async fn round(bench: &Workbench, recipe: &Recipe, args: &RoundArgs) -> anyhow::Result<Report> {
    ensure!(args.questions > 0, "--questions is 0; at least one is needed");
    let questions = sums(args.questions);
    for question in &questions {
        learner::check(&*bench.engine, &bench.prompter, question, recipe)?;
    }
    // What is measured is the time of all steps, wherever they lead.
    let mut recipe = Recipe { guard: GuardRules { enabled: false, ..recipe.guard.clone() }, ..recipe.clone() };
    recipe.micro_batch_tokens = Some(round::rows_that_fit(bench, &recipe, questions.iter().map(String::as_str))?);
    let plan = Plan {
        questions,
        held_back: Vec::new(),
        lease: bench.engine.base(),
        start: None,
        recipe: recipe.clone(),
        control: None,
        seed: args.seed,
        checkpoint: None,
    };
    let started = Instant::now();
    let mut stopwatch = Stopwatch { last: started, sampled: (Duration::ZERO, 0), steps: vec![] };
    round::learn(bench, plan, &mut stopwatch, &CancellationToken::new()).await?;
    let seconds = started.elapsed().as_secs_f64();
    let inputs = json!({ "steps": args.steps, "questions": args.questions, "votes": recipe.votes, "seed": args.seed });
    Ok(Report { name: "round", inputs, measured: json!({ "seconds": seconds, "steps": stopwatch.steps }) })
}

/// Sums of a number of two digits and one of one digit, as the template's own examples are.
fn sums(count: usize) -> Vec<String> {
    let mut numbers = Numbers(0);
    (0..count).map(|_| format!("{} + {} =", 10 + numbers.next() % 90, 1 + numbers.next() % 9)).collect()
}

/// Updates of a new adapter from random tokens: texts with the same prompt are a group, and every other one is rewarded.
pub async fn train(bench: &Workbench, recipe: &Recipe, args: &TrainArgs) -> anyhow::Result<Report> {
    ensure!(
        args.group > 1 && args.sequences >= args.group && args.tokens > 1 && args.prompt_tokens > 0 && args.runs > 0,
        "--group and --tokens must be at least 2, --sequences at least a group, --prompt-tokens and --runs at least 1"
    );
    let vocabulary = bench.engine.info().vocab_size as u64;
    let mut numbers = Numbers(0);
    let mut token = || (numbers.next() % vocabulary) as u32;
    let groups: Vec<Graded> = (0..args.sequences / args.group).map(|_| group(&mut token, args)).collect();
    let tokens = groups.iter().map(Graded::tokens).sum();
    let drawn = Drawn { rollouts: args.group * groups.len(), tokens, max_tokens: args.tokens };
    // The whole update in one pass, if the recipe allows. The last token of each text is only predicted.
    let pass_rows = recipe.micro_batch_tokens.unwrap_or(round::place(bench).pass_rows());
    let recipe = &Recipe { micro_batch_tokens: Some(pass_rows), ..recipe.clone() };
    let (of_group, longest) =
        (args.prompt_tokens + args.group * (args.tokens - 1), args.prompt_tokens + args.tokens - 1);
    let rows = pass_rows.min(groups.len() * of_group).max(longest);
    let lora = (recipe.lora_rank, recipe.lora_targets.projections());
    let estimated = Footprint::of(bench.decoder.config(), round::place(bench), lora, longest).bytes(rows);
    let device = bench.decoder.device().clone();
    let (before, on_device) = (machine::peak_memory(), device::used(&device)?);
    let mut trainer = Trainer::new(bench.decoder.clone(), bench.turnstile.clone(), None, recipe, 0)?;
    let (recipe, runs) = (recipe.clone(), args.runs);
    let measure = move || -> anyhow::Result<(Vec<f64>, Vec<f64>)> {
        let (mut speeds, mut steps) = (Vec::with_capacity(runs), Vec::with_capacity(runs));
        // The first finds nothing warm.
        for run in 0..=runs {
            let started = Instant::now();
            let metrics = trainer.update(&groups, drawn, recipe.learning_rate, &recipe, &CancellationToken::new())?;
            let rows = metrics.context("no group could teach anything")?.trained_rows;
            if run > 0 {
                let seconds = started.elapsed().as_secs_f64();
                speeds.push(rows as f64 / seconds);
                steps.push(seconds);
            }
        }
        Ok((speeds, steps))
    };
    let (speeds, steps) = tokio::task::spawn_blocking(measure).await??;
    let inputs = json!({
        "sequences": args.sequences, "tokens": args.tokens, "group": args.group, "prompt_tokens": args.prompt_tokens,
        "runs": args.runs,
    });
    let mut report = Report::of_speeds("train", inputs, &speeds);
    let taken = match on_device {
        Some(before) => device::most_used(&device)?.map(|now| now.saturating_sub(before)),
        None => machine::peak_memory().zip(before).map(|(now, before)| now - before),
    };
    report.measured["seconds"] = json!(median(&steps));
    report.measured["response_tokens"] = json!(tokens);
    report.measured["training_memory_bytes"] = json!(taken);
    report.measured["estimated_memory_bytes"] = json!(estimated);
    Ok(report)
}

/// Rollouts of random tokens after one prompt.
fn group(token: &mut impl FnMut() -> u32, args: &TrainArgs) -> Graded {
    let mut rollout = |_| Rollout {
        tokens: (0..args.tokens).map(|_| token()).collect(),
        log_probs: vec![-10.0; args.tokens],
        scores: vec![],
        text: String::new(),
        finish: FinishReason::Length,
    };
    let rollouts = (0..args.group).map(&mut rollout).collect();
    let group = Group {
        version: Version::base(),
        prompt: (0..args.prompt_tokens).map(|_| token()).collect(),
        prompt_scores: vec![],
        rollouts,
        timings: Timings::default(),
    };
    Graded { group, rewards: (0..args.group).map(|index| ((index + 1) % 2) as f64).collect() }
}
