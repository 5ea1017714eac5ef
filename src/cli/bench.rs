//! `ttrl bench`

pub(super) mod adapters;
mod learning;
mod serve;

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::ensure;
use candle_core::{Device, DeviceLocation};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{
    ModelFlags,
    model::{progress_bar, show},
    print,
};
use crate::{
    adaptation::round::Workbench,
    app::{StandIns, open_workbench_with},
    config::{Flag, Settings},
    engine::{
        bookkeeping,
        handle::{GenerateRequest, Group, Lease, Priority, Sampling},
    },
    machine,
};

/// Measure how fast this machine runs the model
#[derive(Args, Debug)]
#[command(after_help = "\
Each prints one JSON object; `tokens_per_second` is the median over the runs. `docs/bench.md` says how others were
measured beside it.

Examples:
  ttrl bench decode --streams 8
  ttrl bench prefill --tokens 64
  ttrl bench host --streams 64
  ttrl bench serve --clients 16
  ttrl bench round
  ttrl bench train --tokens 48")]
pub struct BenchArgs {
    #[command(subcommand)]
    what: Bench,
}

#[derive(Debug, Subcommand)]
enum Bench {
    Decode(DecodeArgs),
    Prefill(PrefillArgs),
    Host(HostArgs),
    Serve(serve::ServeArgs),
    Round(learning::RoundArgs),
    Train(learning::TrainArgs),
}

/// Tokens drawn each second, when a number of sequences are generated at a time
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  ttrl bench decode --streams 1
  ttrl bench decode --streams 64 --tokens 64 --model ./my-model.gguf
  ttrl bench decode --streams 8 --adapter-rank 16
  ttrl bench decode --streams 64 --prompt-tokens 512 --random-weights scripts/shapes/qwen2.5-7b.json")]
struct DecodeArgs {
    /// Sequences at a time
    #[arg(long, default_value_t = 1)]
    streams: usize,
    /// Tokens to draw for each
    #[arg(long, default_value_t = 32)]
    tokens: usize,
    /// Tokens of each prompt
    #[arg(long, default_value_t = 8)]
    prompt_tokens: usize,
    #[command(flatten)]
    common: CommonArgs,
}

/// Prompt tokens computed each second
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  ttrl bench prefill --tokens 64
  ttrl bench prefill --tokens 1024 --prompts 1")]
struct PrefillArgs {
    /// Tokens of each prompt
    #[arg(long, default_value_t = 64)]
    tokens: usize,
    /// Prompts at a time
    #[arg(long, default_value_t = 8)]
    prompts: usize,
    #[command(flatten)]
    common: CommonArgs,
}

/// What the scheduler takes for a step of decoding, without the model: a GPU waits for it
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  ttrl bench host --streams 64
  ttrl bench host --streams 256 --prompt-tokens 512")]
struct HostArgs {
    /// Sequences at a time
    #[arg(long, default_value_t = 64)]
    streams: usize,
    /// Tokens to draw for each
    #[arg(long, default_value_t = 128)]
    tokens: usize,
    /// Tokens of each prompt
    #[arg(long, default_value_t = 128)]
    prompt_tokens: usize,
    /// How often it is measured
    #[arg(long, default_value_t = 5)]
    runs: usize,
    #[command(flatten)]
    model: ModelFlags,
}

/// What is measured.
#[derive(Args, Debug)]
pub struct MeasuredModel {
    /// Random weights of the shape that this file describes (config.json of a Hugging Face folder), made on the device; of
    /// the model only its tokenizer is used
    #[arg(long, value_name = "CONFIG.json")]
    random_weights: Option<PathBuf>,
    #[command(flatten)]
    model: ModelFlags,
}

#[derive(Args, Debug)]
struct CommonArgs {
    /// How often it is measured
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Compute with an adapter of this rank on all projections, made of random numbers; without, with none
    #[arg(long, value_name = "RANK")]
    adapter_rank: Option<usize>,
    /// Adapter versions, which the sequences use in turn
    #[arg(long, value_name = "N", default_value_t = 1, requires = "adapter_rank")]
    adapters: usize,
    #[command(flatten)]
    measured: MeasuredModel,
}

impl CommonArgs {
    /// What the sequences are computed with, in turn.
    async fn leases(&self, bench: &Workbench) -> anyhow::Result<Vec<Lease>> {
        match self.adapter_rank {
            None => Ok(vec![bench.engine.base()]),
            Some(rank) => adapters::load(bench, rank, self.adapters).await,
        }
    }
}

impl BenchArgs {
    pub(super) fn flags(&self) -> Vec<Flag> {
        match &self.what {
            Bench::Decode(DecodeArgs { common, .. }) | Bench::Prefill(PrefillArgs { common, .. }) => {
                common.measured.model.flags()
            }
            Bench::Host(args) => args.model.flags(),
            Bench::Serve(_) => vec![],
            Bench::Round(args) => args.flags(),
            Bench::Train(args) => args.measured.model.flags(),
        }
    }

    fn stand_ins(&self) -> StandIns {
        let measured = match &self.what {
            Bench::Decode(DecodeArgs { common, .. }) | Bench::Prefill(PrefillArgs { common, .. }) => &common.measured,
            Bench::Train(args) => &args.measured,
            Bench::Host(_) | Bench::Serve(_) | Bench::Round(_) => return StandIns::default(),
        };
        StandIns { random_weights: measured.random_weights.clone(), ..StandIns::default() }
    }
}

pub(super) async fn run(args: BenchArgs, settings: Settings) -> anyhow::Result<()> {
    if let Bench::Serve(args) = &args.what {
        return serve::run(args, &settings).await;
    }
    let started = Instant::now();
    let recipe = settings.learning.clone();
    let bench = open(settings, args.stand_ins()).await?;
    let start = started.elapsed();
    let report = match &args.what {
        Bench::Decode(args) => decode(&bench, args).await?,
        Bench::Prefill(args) => prefill(&bench, args).await?,
        Bench::Host(args) => host(&bench, args)?,
        Bench::Round(args) => learning::round(&bench, &recipe, args).await?,
        Bench::Train(args) => learning::train(&bench, &recipe, args).await?,
        Bench::Serve(_) => return Ok(()),
    };
    report.print(&bench, start)
}

async fn open(settings: Settings, stand_ins: StandIns) -> anyhow::Result<Workbench> {
    let bar = progress_bar();
    let shown = bar.clone();
    let progress = move |stage, done, total| show(&shown, stage, done, total);
    let open = move || open_workbench_with(&settings, &stand_ins, &progress);
    let bench = tokio::task::spawn_blocking(open).await??;
    bar.finish_and_clear();
    Ok(bench)
}

/// What was measured in this process.
struct Report {
    name: &'static str,
    /// What was asked for.
    inputs: Value,
    /// An object of figures.
    measured: Value,
}

impl Report {
    /// The tokens per second of each run.
    fn of_speeds(name: &'static str, inputs: Value, speeds: &[f64]) -> Self {
        let measured = json!({ "tokens_per_second": median(speeds), "all_tokens_per_second": speeds });
        Self { name, inputs, measured }
    }

    /// Prints one object: the figures, and what they were measured with.
    fn print(self, bench: &Workbench, start: Duration) -> anyhow::Result<()> {
        let info = bench.engine.info();
        let mut report = json!({
            "benchmark": self.name,
            "inputs": self.inputs,
            "threads": rayon::current_num_threads(),
            "start_seconds": start.as_secs_f64(),
            "peak_memory_bytes": machine::peak_memory(),
            "model": info.name,
            "parameters": info.parameters,
            "device": name_of(bench.decoder.device()),
            "fingerprint": info.fingerprint,
            "version": env!("CARGO_PKG_VERSION"),
        });
        if let (Value::Object(report), Value::Object(measured)) = (&mut report, self.measured) {
            report.extend(measured);
        }
        print(&report.to_string())?;
        Ok(())
    }
}

/// A device as the settings name it.
pub(super) fn name_of(device: &Device) -> String {
    match device.location() {
        DeviceLocation::Cpu => "cpu".into(),
        DeviceLocation::Cuda { gpu_id } => format!("cuda:{gpu_id}"),
        DeviceLocation::Metal { gpu_id } => format!("metal:{gpu_id}"),
    }
}

/// From the first token of all sequences to the last one, when their prompts are cached. The most likely token is always taken, so that every run
/// draws the same ones.
async fn decode(bench: &Workbench, args: &DecodeArgs) -> anyhow::Result<Report> {
    ensure!(args.common.runs > 0, "--runs is 0; at least one is needed");
    ensure!(args.tokens > 1, "--tokens is {}; the time between tokens needs at least 2", args.tokens);
    ensure!(args.streams > 0, "--streams is 0; at least one is needed");
    let (rows, capacity) =
        (args.streams * (args.prompt_tokens + args.tokens), bench.engine.stats().cache_tokens_capacity);
    ensure!(
        rows <= capacity,
        "{rows} tokens at a time do not fit the cache of {capacity}: ask for fewer streams, or set engine.cache_tokens"
    );
    let leases = args.common.leases(bench).await?;
    let mut speeds = Vec::with_capacity(args.common.runs);
    for run in 0..=args.common.runs {
        let of_stream = |stream, tokens| {
            let lease = &leases[stream % leases.len()];
            request(lease, prompt(bench, run, stream, args.prompt_tokens), tokens)
        };
        // Prompts first, so that no stream draws while those of others are computed.
        bench.engine.generate((0..args.streams).map(|stream| of_stream(stream, 1)).collect()).await?;
        let requests = (0..args.streams).map(|stream| of_stream(stream, args.tokens)).collect();
        let groups = bench.engine.generate(requests).await?;
        let tokens: usize = groups.iter().map(|group| drawn(group).saturating_sub(1)).sum();
        let seconds = groups.iter().map(|group| group.timings.decode).max().unwrap_or_default().as_secs_f64();
        // The first run finds nothing warm.
        if run > 0 {
            speeds.push(tokens as f64 / seconds);
        }
    }
    let inputs = json!({
        "streams": args.streams, "prompt_tokens": args.prompt_tokens, "tokens": args.tokens, "runs": args.common.runs,
        "adapter_rank": args.common.adapter_rank, "adapters": args.common.adapter_rank.map(|_| args.common.adapters),
    });
    let mut report = Report::of_speeds("decode", inputs, &speeds);
    report.measured["step_reads"] = step_reads(bench, args);
    Ok(report)
}

/// Bytes that a step must read at least, in the mean over the steps: the matrices, and what every stream sees of the
/// cache. With them the speed is a share of the memory's.
fn step_reads(bench: &Workbench, args: &DecodeArgs) -> Value {
    let of_token = bench.decoder.config().cache_bytes_per_token(bench.decoder.dtype());
    let seen = args.prompt_tokens as f64 + args.tokens as f64 / 2.0;
    json!({
        "weight_bytes": bench.decoder.bytes_per_pass(),
        "cache_bytes": (args.streams as f64 * seen * of_token as f64) as u64,
    })
}

/// From the arrival of some prompts to the first token after each. No two prompts begin alike, so nothing is cached.
async fn prefill(bench: &Workbench, args: &PrefillArgs) -> anyhow::Result<Report> {
    ensure!(
        args.prompts > 0 && args.tokens > 0 && args.common.runs > 0,
        "--prompts, --tokens and --runs are at least 1"
    );
    let leases = args.common.leases(bench).await?;
    let mut speeds = Vec::with_capacity(args.common.runs);
    for run in 0..=args.common.runs {
        let of_prompt = |index| request(&leases[index % leases.len()], prompt(bench, run, index, args.tokens), 1);
        let requests = (0..args.prompts).map(of_prompt).collect();
        let started = Instant::now();
        bench.engine.generate(requests).await?;
        if run > 0 {
            speeds.push((args.prompts * args.tokens) as f64 / started.elapsed().as_secs_f64());
        }
    }
    let inputs = json!({
        "prompts": args.prompts, "tokens": args.tokens, "runs": args.common.runs,
        "adapter_rank": args.common.adapter_rank, "adapters": args.common.adapter_rank.map(|_| args.common.adapters),
    });
    Ok(Report::of_speeds("prefill", inputs, &speeds))
}

/// What the scheduler takes for a step in which every sequence gets a token.
fn host(bench: &Workbench, args: &HostArgs) -> anyhow::Result<Report> {
    ensure!(
        args.streams > 0 && args.runs > 0 && args.tokens > 1,
        "--streams and --runs are at least 1, --tokens is at least 2"
    );
    let per_run = |run| {
        let prompts = (0..args.streams).map(|stream| prompt(bench, run, stream, args.prompt_tokens)).collect();
        let (mut numbers, ordinary) = (Numbers(run as u64), bench.engine.info().vocab_size as u64);
        let draw = || (numbers.next() % ordinary) as u32;
        let spent = bookkeeping::per_step(bench.engine.tokenizer().clone(), prompts, args.tokens, draw);
        spent.as_secs_f64() * 1e6
    };
    let micros: Vec<f64> = (0..args.runs).map(per_run).collect();
    let inputs = json!({
        "streams": args.streams, "prompt_tokens": args.prompt_tokens, "tokens": args.tokens, "runs": args.runs,
    });
    let measured = json!({ "microseconds_per_step": median(&micros), "all_microseconds_per_step": micros });
    Ok(Report { name: "host", inputs, measured })
}

/// Random tokens: a prompt that begins like no other.
fn prompt(bench: &Workbench, run: usize, stream: usize, tokens: usize) -> Vec<u32> {
    let ordinary = bench.engine.info().vocab_size as u64;
    let mut numbers = Numbers((run as u64) << 32 | stream as u64);
    (0..tokens.max(1)).map(|_| (numbers.next() % ordinary) as u32).collect()
}

/// A greedy request, which goes on behind the model's own end.
fn request(lease: &Lease, prompt: Vec<u32>, max_tokens: usize) -> GenerateRequest {
    GenerateRequest {
        lease: lease.clone(),
        prompt,
        samples: 1,
        sampling: Sampling { temperature: 0.0, max_tokens, ignore_eos: true, ..Sampling::default() },
        seed: 0,
        priority: Priority::Request,
        report: Default::default(),
        place: None,
    }
}

/// Random numbers below 2^31, those of an LCG (Knuth, MMIX), so that a peer can be given the same prompts.
pub(super) struct Numbers(pub(super) u64);

impl Numbers {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }
}

fn drawn(group: &Group) -> usize {
    group.rollouts.iter().map(|rollout| rollout.tokens.len()).sum()
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len().is_multiple_of(2) { (sorted[middle - 1] + sorted[middle]) / 2.0 } else { sorted[middle] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_or_the_mean_of_the_two_middles() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
    }
}
