//! `ttrl bench`

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use clap::{Args, Subcommand};
use futures::{StreamExt as _, TryStreamExt as _};
use serde_json::{Value, json};

use super::{
    ModelFlags,
    client::{Client, ServerFlags},
    model::{progress_bar, show},
    print,
};
use crate::{
    adaptation::round::Workbench,
    app::open_workbench,
    config::{Flag, Settings},
    engine::handle::{GenerateRequest, Group, Priority, Sampling},
};

/// Measure how fast this machine runs the model
#[derive(Args, Debug)]
#[command(after_help = "\
Each prints one JSON object; `tokens_per_second` is the median over the runs. `docs/bench.md` says how other engines
were measured beside it.

Examples:
  ttrl bench decode --streams 8
  ttrl bench prefill --tokens 64
  ttrl bench serve --clients 16")]
pub struct BenchArgs {
    #[command(subcommand)]
    what: Bench,
}

#[derive(Debug, Subcommand)]
enum Bench {
    Decode(DecodeArgs),
    Prefill(PrefillArgs),
    Serve(ServeArgs),
}

/// Tokens drawn each second, when a number of sequences are generated at a time
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  ttrl bench decode --streams 1
  ttrl bench decode --streams 64 --tokens 64 --model ./my-model.gguf")]
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

/// What a running server gives to clients that never pause
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  ttrl bench serve --clients 16
  ttrl bench serve --clients 64 --requests 256 --server http://gpu-box:8080")]
struct ServeArgs {
    /// Requests under way at a time
    #[arg(long, default_value_t = 8)]
    clients: usize,
    /// Requests of each run
    #[arg(long, default_value_t = 64)]
    requests: usize,
    /// Tokens to draw for each
    #[arg(long, default_value_t = 32)]
    tokens: usize,
    /// How often it is measured
    #[arg(long, default_value_t = 3)]
    runs: usize,
    #[command(flatten)]
    server: ServerFlags,
}

#[derive(Args, Debug)]
struct CommonArgs {
    /// How often it is measured
    #[arg(long, default_value_t = 5)]
    runs: usize,
    #[command(flatten)]
    model: ModelFlags,
}

impl BenchArgs {
    pub(super) fn flags(&self) -> Vec<Flag> {
        match &self.what {
            Bench::Decode(DecodeArgs { common, .. }) | Bench::Prefill(PrefillArgs { common, .. }) => {
                common.model.flags()
            }
            Bench::Serve(_) => vec![],
        }
    }
}

pub(super) async fn run(args: BenchArgs, settings: Settings) -> anyhow::Result<()> {
    let started = Instant::now();
    match args.what {
        Bench::Decode(args) => {
            let bench = open(settings).await?;
            let start = started.elapsed();
            report(&bench, start, decode(&bench, &args).await?)
        }
        Bench::Prefill(args) => {
            let bench = open(settings).await?;
            let start = started.elapsed();
            report(&bench, start, prefill(&bench, &args).await?)
        }
        Bench::Serve(args) => serve(&args, &settings).await,
    }
}

async fn open(settings: Settings) -> anyhow::Result<Workbench> {
    let bar = progress_bar();
    let shown = bar.clone();
    let open = move || open_workbench(&settings, &move |stage, done, total| show(&shown, stage, done, total));
    let bench = tokio::task::spawn_blocking(open).await??;
    bar.finish_and_clear();
    Ok(bench)
}

/// Prints what was measured in this process.
fn report(bench: &Workbench, start: Duration, (name, inputs, speeds): Report) -> anyhow::Result<()> {
    let info = bench.engine.info();
    let report = json!({
        "benchmark": name,
        "tokens_per_second": median(&speeds),
        "all_tokens_per_second": speeds,
        "inputs": inputs,
        "threads": rayon::current_num_threads(),
        "start_seconds": start.as_secs_f64(),
        "model": info.name,
        "fingerprint": info.fingerprint,
        "version": env!("CARGO_PKG_VERSION"),
    });
    print(&report.to_string())?;
    Ok(())
}

/// Completions from a running server: each client asks again as soon as it has its answer.
async fn serve(args: &ServeArgs, settings: &Settings) -> anyhow::Result<()> {
    ensure!(
        args.clients > 0 && args.requests > 0 && args.runs > 0,
        "--clients, --requests and --runs must be at least 1"
    );
    let client = Client::new(&args.server, settings)?;
    let ask = async |run: usize, index: usize| -> anyhow::Result<(f64, f64)> {
        let started = Instant::now();
        let body = json!({
            "model": "live", "prompt": format!("{index} of {run}: once upon a time"), "max_tokens": args.tokens,
            "temperature": 0, "ignore_eos": true,
        });
        let reply = client.post("/v1/completions", &body).await?;
        let tokens = reply.pointer("/usage/completion_tokens").and_then(Value::as_u64);
        Ok((tokens.context("the server did not say how many tokens it drew")? as f64, started.elapsed().as_secs_f64()))
    };
    let (mut speeds, mut latencies) = (Vec::with_capacity(args.runs), Vec::new());
    for run in 0..args.runs {
        let started = Instant::now();
        let requests = futures::stream::iter((0..args.requests).map(|index| ask(run, index)));
        let done: Vec<(f64, f64)> = requests.buffer_unordered(args.clients).try_collect().await?;
        speeds.push(done.iter().map(|(tokens, _)| tokens).sum::<f64>() / started.elapsed().as_secs_f64());
        latencies.extend(done.into_iter().map(|(_, seconds)| seconds));
    }
    latencies.sort_by(f64::total_cmp);
    let percentile = |part: usize| latencies[(latencies.len() - 1) * part / 100];
    let report = json!({
        "benchmark": "serve",
        "tokens_per_second": median(&speeds),
        "all_tokens_per_second": speeds,
        "latency_seconds": {"p50": percentile(50), "p95": percentile(95), "max": percentile(100)},
        "inputs": {
            "clients": args.clients, "requests": args.requests, "tokens": args.tokens, "runs": args.runs,
        },
        "version": env!("CARGO_PKG_VERSION"),
    });
    print(&report.to_string())?;
    Ok(())
}

/// A name, what was asked for, and the tokens per second of each run.
type Report = (&'static str, Value, Vec<f64>);

/// From the first token of all sequences to the last one. The most likely token is always taken, so that every run
/// draws the same ones.
async fn decode(bench: &Workbench, args: &DecodeArgs) -> anyhow::Result<Report> {
    ensure!(args.common.runs > 0, "--runs is 0; at least one is needed");
    ensure!(args.tokens > 1, "--tokens is {}; the time between tokens needs at least 2", args.tokens);
    ensure!(args.streams > 0, "--streams is 0; at least one is needed");
    let mut speeds = Vec::with_capacity(args.common.runs);
    for run in 0..=args.common.runs {
        let requests = (0..args.streams).map(|stream| request(bench, run, stream, args.prompt_tokens, args.tokens));
        let groups = bench.engine.generate(requests.collect()).await?;
        let tokens: usize = groups.iter().map(|group| drawn(group).saturating_sub(1)).sum();
        let seconds = groups.iter().map(|group| group.timings.decode).max().unwrap_or_default().as_secs_f64();
        // The first run finds nothing warm.
        if run > 0 {
            speeds.push(tokens as f64 / seconds);
        }
    }
    let inputs = json!({
        "streams": args.streams, "prompt_tokens": args.prompt_tokens, "tokens": args.tokens, "runs": args.common.runs,
    });
    Ok(("decode", inputs, speeds))
}

/// From the arrival of some prompts to the first token after each. No two prompts begin alike, so nothing is cached.
async fn prefill(bench: &Workbench, args: &PrefillArgs) -> anyhow::Result<Report> {
    ensure!(
        args.prompts > 0 && args.tokens > 0 && args.common.runs > 0,
        "--prompts, --tokens and --runs are at least 1"
    );
    let mut speeds = Vec::with_capacity(args.common.runs);
    for run in 0..=args.common.runs {
        let requests: Vec<_> = (0..args.prompts).map(|prompt| request(bench, run, prompt, args.tokens, 1)).collect();
        let started = Instant::now();
        bench.engine.generate(requests).await?;
        if run > 0 {
            speeds.push((args.prompts * args.tokens) as f64 / started.elapsed().as_secs_f64());
        }
    }
    let inputs = json!({"prompts": args.prompts, "tokens": args.tokens, "runs": args.common.runs});
    Ok(("prefill", inputs, speeds))
}

/// A greedy request whose prompt begins like no other's.
fn request(bench: &Workbench, run: usize, stream: usize, prompt_tokens: usize, max_tokens: usize) -> GenerateRequest {
    let ordinary = bench.engine.info().vocab_size as u64;
    let mut state = (run as u64) << 32 | stream as u64;
    // The numbers of an LCG (Knuth, MMIX), so that a peer can be given the same prompts.
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) % ordinary) as u32
    };
    GenerateRequest {
        lease: bench.engine.base(),
        prompt: (0..prompt_tokens.max(1)).map(|_| next()).collect(),
        samples: 1,
        sampling: Sampling { temperature: 0.0, max_tokens, ..Sampling::default() },
        seed: 0,
        priority: Priority::Request,
        report: Default::default(),
        place: None,
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
