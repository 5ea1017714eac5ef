//! `ttrl round`

mod show;

use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    client::{Client, OperatorFlags, text},
    print,
};
use crate::config::{Flag, Settings};

/// How often a round is looked at while it is watched.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Start, watch, cancel and decide about rounds of learning
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  ttrl round start --watch
  ttrl round list
  ttrl round promote 0198c0de-0000-7000-8000-000000000000")]
pub struct RoundArgs {
    #[command(subcommand)]
    command: RoundCommand,
    #[command(flatten)]
    operator: OperatorFlags,
}

#[derive(Debug, Subcommand)]
enum RoundCommand {
    /// Start a round
    #[command(after_help = "Examples:\n  ttrl round start\n  ttrl round start --watch --seed 1")]
    Start {
        /// Everything random follows from it; unset, the round has one of its own
        #[arg(long)]
        seed: Option<u64>,
        /// Stay until it has ended
        #[arg(long)]
        watch: bool,
    },
    /// List rounds, newest first
    #[command(after_help = "Examples:\n  ttrl round list\n  ttrl round list --limit 100 --json")]
    List {
        /// How many, up to 200
        #[arg(long, default_value_t = 20)]
        limit: u32,
    },
    /// Show a round with its settings, steps, questions and the gate's verdict
    #[command(after_help = "Example:\n  ttrl round show 0198c0de-0000-7000-8000-000000000000")]
    Show { id: Uuid },
    /// Cancel a running round
    #[command(after_help = "Example:\n  ttrl round cancel 0198c0de-0000-7000-8000-000000000000")]
    Cancel { id: Uuid },
    /// Make the candidate of a held round live
    #[command(after_help = "Example:\n  ttrl round promote 0198c0de-0000-7000-8000-000000000000")]
    Promote { id: Uuid },
    /// Dismiss the candidate of a held round
    #[command(after_help = "Example:\n  ttrl round reject 0198c0de-0000-7000-8000-000000000000")]
    Reject { id: Uuid },
    /// Follow a round until it has ended, or waits for a person
    #[command(after_help = "Examples:\n  ttrl round watch\n  ttrl round watch 0198c0de-0000-7000-8000-000000000000")]
    Watch {
        /// The round [default: the newest]
        id: Option<Uuid>,
    },
}

impl RoundArgs {
    pub(super) fn flags(&self) -> Vec<Flag> {
        self.operator.flags()
    }
}

pub(super) async fn run(args: RoundArgs, settings: Settings) -> anyhow::Result<()> {
    let client = Client::operator(&args.operator, &settings)?;
    let json = args.operator.server.json;
    match args.command {
        RoundCommand::Start { seed, watch } => {
            let round = client.post("/v1/rounds", &json!({ "seed": seed })).await?;
            show(&round, json, line)?;
            if watch { follow(&client, id_of(&round)?, json).await } else { Ok(()) }
        }
        RoundCommand::List { limit } => {
            let rounds = client.get(&format!("/v1/rounds?limit={limit}")).await?;
            show(&rounds, json, list)
        }
        RoundCommand::Show { id } => show(&client.get(&format!("/v1/rounds/{id}")).await?, json, show::page),
        RoundCommand::Cancel { id } => {
            show(&client.post(&format!("/v1/rounds/{id}/cancel"), &json!({})).await?, json, line)
        }
        RoundCommand::Promote { id } => {
            show(&client.post(&format!("/v1/rounds/{id}/promote"), &json!({})).await?, json, line)
        }
        RoundCommand::Reject { id } => {
            show(&client.post(&format!("/v1/rounds/{id}/reject"), &json!({})).await?, json, line)
        }
        RoundCommand::Watch { id: Some(id) } => follow(&client, id, json).await,
        RoundCommand::Watch { id: None } => {
            let newest = client.get("/v1/rounds?limit=1").await?;
            let newest =
                newest.pointer("/rounds/0").context("there is no round yet; start one with `ttrl round start`")?;
            follow(&client, id_of(newest)?, json).await
        }
    }
}

/// Prints a round whenever it has moved on, until it has ended. A failed round is an error.
async fn follow(client: &Client, id: Uuid, json: bool) -> anyhow::Result<()> {
    let mut last = String::new();
    loop {
        let detail = client.get(&format!("/v1/rounds/{id}")).await?;
        let round = detail.get("round").context("the server sent no round")?;
        let shown = if json { round.to_string() } else { line(round) };
        if shown != last {
            print(&shown)?;
            last = shown;
        }
        match text(round, "/state").as_str() {
            "failed" => bail!("the round has failed: {}", text(round, "/reason")),
            "queued" | "sampling" | "training" | "evaluating" => tokio::time::sleep(LOOK_EVERY).await,
            _ => return Ok(()),
        }
    }
}

fn id_of(round: &Value) -> anyhow::Result<Uuid> {
    text(round, "/id").parse().context("the server sent no round")
}

fn show(value: &Value, json: bool, render: impl FnOnce(&Value) -> String) -> anyhow::Result<()> {
    print(&if json { serde_json::to_string_pretty(value)? } else { render(value) })?;
    Ok(())
}

fn list(rounds: &Value) -> String {
    match rounds["rounds"].as_array().map(Vec::as_slice).unwrap_or_default() {
        [] => "no round yet; start one with `ttrl round start`".into(),
        rounds => rounds.iter().map(line).collect::<Vec<_>>().join("\n"),
    }
}

/// A round on one line.
fn line(round: &Value) -> String {
    let field = |name: &str| text(round, &format!("/{name}"));
    let mut line = format!(
        "{}  {:<10}  step {} of {}, {} questions",
        field("id"),
        if round["stale"] == true { "stale".into() } else { field("state") },
        field("step"),
        field("steps"),
        field("questions")
    );
    for (name, words) in [("candidate_version", "adapter"), ("reason", "because")] {
        if !field(name).is_empty() {
            line.push_str(&format!(", {words} {}", field(name)));
        }
    }
    match field("watch/state").as_str() {
        "watching" => line.push_str(", watched"),
        "rolled_back" => line.push_str(&format!(", rolled back because {}", field("watch/reason"))),
        _ => {}
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_is_one_line() {
        let round = json!({"id": "x", "state": "rejected", "step": 3, "steps": 10, "questions": 40, "reason": "worse"});
        assert_eq!(line(&round), "x  rejected    step 3 of 10, 40 questions, because worse");
        let watch = json!({"state": "rolled_back", "reason": "agreement fell"});
        let round = json!({"id": "x", "state": "promoted", "step": 9, "steps": 9, "questions": 40, "watch": watch});
        assert_eq!(line(&round), "x  promoted    step 9 of 9, 40 questions, rolled back because agreement fell");
        assert!(list(&json!({"rounds": []})).starts_with("no round yet"));
    }
}
