//! `ttrl eval`

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{
    client::{Client, OperatorFlags, text},
    print,
    questions::QuestionSet,
};
use crate::config::{Flag, Settings};

/// How often a run is looked at until it has ended.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Keep labelled questions that no round learns from, and examine versions with them
#[derive(Args, Debug)]
#[command(after_help = "\
A file has one JSON object a line: {\"question\": \"38 + 9 =\", \"answer\": \"47\"}. `docs/gate.md` says how many are needed.

Examples:
  ttrl eval add sums sums.jsonl
  ttrl eval run sums --version base")]
pub struct EvalArgs {
    #[command(subcommand)]
    command: EvalCommand,
    #[command(flatten)]
    operator: OperatorFlags,
}

#[derive(Debug, Subcommand)]
enum EvalCommand {
    /// Add a set, or replace the one of that name
    #[command(after_help = "Example:\n  ttrl eval add sums sums.jsonl")]
    Add {
        name: String,
        /// Labelled questions (JSON lines)
        file: PathBuf,
    },
    /// List sets
    #[command(after_help = "Example:\n  ttrl eval list")]
    List,
    /// Show a set with its items
    #[command(after_help = "Example:\n  ttrl eval show sums")]
    Show { name: String },
    /// Remove a set
    #[command(after_help = "Example:\n  ttrl eval remove sums")]
    Remove { name: String },
    /// Put a set to a version, and wait for what it gets right
    #[command(after_help = "Examples:\n  ttrl eval run sums\n  ttrl eval run sums --version base --json")]
    Run {
        name: String,
        /// `base`, or the 64 digits of a version [default: the live one]
        #[arg(long)]
        version: Option<String>,
    },
}

impl EvalArgs {
    pub(super) fn flags(&self) -> Vec<Flag> {
        self.operator.flags()
    }
}

pub(super) async fn run(args: EvalArgs, settings: Settings) -> anyhow::Result<()> {
    let client = Client::operator(&args.operator, &settings)?;
    let (result, render): (Value, fn(&Value) -> String) = match args.command {
        EvalCommand::Add { name, file } => {
            let set = QuestionSet::read(&file, true, settings.grading.kind)?;
            let items = set.questions.iter().zip(set.gold.unwrap_or_default().texts);
            let items: Vec<Value> =
                items.map(|(question, answer)| json!({"question": question, "answer": answer})).collect();
            (client.post("/v1/evals", &json!({"name": name, "items": items})).await?, summary)
        }
        EvalCommand::List => (client.get("/v1/evals").await?, list),
        EvalCommand::Show { name } => (client.get(&format!("/v1/evals/{name}")).await?, items),
        EvalCommand::Remove { name } => (client.delete(&format!("/v1/evals/{name}")).await?, |result| {
            format!("removed {}", text(result, "/removed"))
        }),
        EvalCommand::Run { name, version } => (examine(&client, &name, version).await?, report),
    };
    print(&if args.operator.server.json { serde_json::to_string_pretty(&result)? } else { render(&result) })?;
    Ok(())
}

/// Starts a run and waits for its end. A failed run is an error.
async fn examine(client: &Client, name: &str, version: Option<String>) -> anyhow::Result<Value> {
    let path = format!("/v1/evals/{name}/runs");
    let mut run = client.post(&path, &json!({ "version": version })).await?;
    let id = text(&run, "/id");
    loop {
        match text(&run, "/state").as_str() {
            "running" => tokio::time::sleep(LOOK_EVERY).await,
            "failed" => bail!("the run has failed: {}", text(&run, "/reason")),
            _ => return Ok(run),
        }
        run = client.get(&format!("{path}/{id}")).await.context("the run is no longer known")?;
    }
}

fn summary(set: &Value) -> String {
    format!("{}  {} items  {}", text(set, "/name"), text(set, "/items"), text(set, "/created_at"))
}

fn entries<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn list(result: &Value) -> String {
    match entries(result, "/sets") {
        [] => "no set yet; add one with `ttrl eval add NAME FILE`".into(),
        sets => sets.iter().map(summary).collect::<Vec<_>>().join("\n"),
    }
}

/// Items as they stand in a file.
fn items(set: &Value) -> String {
    entries(set, "/items").iter().map(Value::to_string).collect::<Vec<_>>().join("\n")
}

fn report(run: &Value) -> String {
    let number = |name: &str| run.pointer(&format!("/score/{name}")).and_then(Value::as_f64).unwrap_or_default();
    let mut line = format!(
        "{} on version {}: {} of {} right, {:.3} (95% from {:.3} to {:.3}), pass@1 {:.3}, pass@N {:.3}, rewards right {:.3}",
        text(run, "/set"),
        text(run, "/version"),
        number("right"),
        number("items"),
        number("maj_at_n"),
        number("interval/low"),
        number("interval/high"),
        number("pass_at_1"),
        number("pass_at_n"),
        number("reward_accuracy")
    );
    if number("skipped") > 0.0 {
        line.push_str(&format!("; {} could not be asked", number("skipped")));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_one_line() {
        let score = json!({"items": 50, "skipped": 2, "right": 40, "maj_at_n": 0.8, "pass_at_1": 0.75,
                           "pass_at_n": 0.9, "reward_accuracy": 0.95,
                           "interval": {"low": 0.67, "high": 0.8888}});
        let run = json!({"set": "sums", "version": "base", "state": "done", "score": score});
        assert_eq!(
            report(&run),
            "sums on version base: 40 of 50 right, 0.800 (95% from 0.670 to 0.889), pass@1 0.750, pass@N 0.900, \
             rewards right 0.950; 2 could not be asked"
        );
        assert!(list(&json!({"sets": []})).starts_with("no set yet"));
    }
}
