//! `ttrl adapter`

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{
    client::{Client, OperatorFlags, text},
    print,
};
use crate::{
    config::{Flag, Settings},
    engine::handle::Version,
};

/// List adapter versions and choose the live one
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  ttrl adapter list
  ttrl adapter activate base")]
pub struct AdapterArgs {
    #[command(subcommand)]
    command: AdapterCommand,
    #[command(flatten)]
    operator: OperatorFlags,
}

#[derive(Debug, Subcommand)]
enum AdapterCommand {
    /// List adapter versions, newest first; the live one has a star
    #[command(after_help = "Examples:\n  ttrl adapter list\n  ttrl adapter list --json")]
    List,
    /// Make a version live, forward or back, without a pause
    #[command(after_help = "\
Examples:
  ttrl adapter activate base
  ttrl adapter activate 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08")]
    Activate {
        /// `base`, or the 64 digits of a version
        version: Version,
    },
}

impl AdapterArgs {
    pub(super) fn flags(&self) -> Vec<Flag> {
        self.operator.flags()
    }
}

pub(super) async fn run(args: AdapterArgs, settings: Settings) -> anyhow::Result<()> {
    let client = Client::operator(&args.operator, &settings)?;
    let (result, render): (Value, fn(&Value) -> String) = match args.command {
        AdapterCommand::List => (client.get("/v1/adapters").await?, list),
        AdapterCommand::Activate { version } => {
            (client.post(&format!("/v1/adapters/{version}/activate"), &json!({})).await?, swapped)
        }
    };
    print(&if args.operator.server.json { serde_json::to_string_pretty(&result)? } else { render(&result) })?;
    Ok(())
}

fn list(result: &Value) -> String {
    let star = |live: bool| if live { '*' } else { ' ' };
    let adapters = result.pointer("/adapters").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let mut lines: Vec<String> = adapters
        .iter()
        .map(|adapter| {
            let live = adapter.pointer("/live") == Some(&Value::Bool(true));
            let model = match text(adapter, "/model/name") {
                name if name.is_empty() => "of an unknown model".to_owned(),
                name => format!("of {name}"),
            };
            let removed = if adapter.pointer("/on_disk") == Some(&Value::Bool(false)) { ", files removed" } else { "" };
            let (version, created_at) = (text(adapter, "/version"), text(adapter, "/created_at"));
            format!("{} {version}  {created_at}  {model}{removed}", star(live))
        })
        .collect();
    lines.push(format!("{} base", star(text(result, "/live") == "base")));
    lines.join("\n")
}

fn swapped(result: &Value) -> String {
    format!("live: {}\nbefore: {}", text(result, "/live"), text(result, "/previous"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_live_version_has_a_star() {
        let adapters = [
            json!({"version": "abc", "created_at": "now", "live": true, "model": {"name": "m"}}),
            json!({"version": "def", "created_at": "before", "live": false, "model": null, "on_disk": false}),
        ];
        assert_eq!(
            list(&json!({"live": "abc", "adapters": adapters})),
            "* abc  now  of m\n  def  before  of an unknown model, files removed\n  base"
        );
        assert_eq!(list(&json!({"live": "base", "adapters": []})), "* base");
    }
}
