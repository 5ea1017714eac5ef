//! `ttrl bench serve`

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use clap::Args;
use futures::{StreamExt as _, TryStreamExt as _};
use serde_json::{Value, json};

use super::{
    super::{
        client::{Client, ServerFlags},
        print,
    },
    median,
};
use crate::config::Settings;

/// How often the server is asked for its memory.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// What a running server gives to clients that never pause
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  ttrl bench serve --clients 16
  ttrl bench serve --clients 64 --requests 256 --server http://gpu-box:8080")]
pub struct ServeArgs {
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

/// Completions from a running server: each client asks again as soon as it has its answer.
pub async fn run(args: &ServeArgs, settings: &Settings) -> anyhow::Result<()> {
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
    let measure = async {
        for run in 0..args.runs {
            let started = Instant::now();
            let requests = futures::stream::iter((0..args.requests).map(|index| ask(run, index)));
            let done: Vec<(f64, f64)> = requests.buffer_unordered(args.clients).try_collect().await?;
            speeds.push(done.iter().map(|(tokens, _)| tokens).sum::<f64>() / started.elapsed().as_secs_f64());
            latencies.extend(done.into_iter().map(|(_, seconds)| seconds));
        }
        anyhow::Ok(())
    };
    let memory = Cell::new(0.0);
    tokio::select! {
        measured = measure => measured?,
        stopped = watch(&client, &memory) => stopped?,
    }
    let metrics = client.get_text("/metrics").await?;
    memory.set(resident(&metrics)?.max(memory.get()));
    latencies.sort_by(f64::total_cmp);
    let percentile = |part: usize| latencies[(latencies.len() - 1) * part / 100];
    let report = json!({
        "benchmark": "serve",
        "tokens_per_second": median(&speeds),
        "all_tokens_per_second": speeds,
        "latency_seconds": {"p50": percentile(50), "p95": percentile(95), "max": percentile(100)},
        "server": {
            "start_seconds": reading(&metrics, "ttrl_start_seconds")?,
            "resident_memory_bytes": memory.get() as u64,
        },
        "inputs": {
            "clients": args.clients, "requests": args.requests, "tokens": args.tokens, "runs": args.runs,
        },
        "version": env!("CARGO_PKG_VERSION"),
    });
    print(&report.to_string())?;
    Ok(())
}

/// Keeps the most memory that the server has been resident in, until dropped.
async fn watch(client: &Client, memory: &Cell<f64>) -> anyhow::Result<()> {
    loop {
        memory.set(resident(&client.get_text("/metrics").await?)?.max(memory.get()));
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

fn resident(metrics: &str) -> anyhow::Result<f64> {
    reading(metrics, "process_resident_memory_bytes")
}

/// The value of a metric without labels, in Prometheus' text form.
fn reading(metrics: &str, name: &str) -> anyhow::Result<f64> {
    let value = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let value = value.with_context(|| format!("the server's /metrics has no {name}; start a newer one, on Linux"))?;
    Ok(value.trim().parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Metrics;

    #[test]
    fn a_reading_is_found_by_its_whole_name() {
        let text = "# HELP a_b help\na_b_total 7\na_b{c=\"d\"} 8\na_b 9.5\n";
        assert_eq!(reading(text, "a_b").unwrap(), 9.5);
        assert!(reading(text, "a").unwrap_err().to_string().contains("has no a;"));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_server_tells_how_fast_it_started_and_what_it_is_resident_in() {
        let metrics = Metrics::new().unwrap();
        metrics.start_seconds.set(1.25);
        let text = metrics.render().unwrap();
        assert_eq!(reading(&text, "ttrl_start_seconds").unwrap(), 1.25);
        assert!(resident(&text).unwrap() > 1e6);
    }
}
