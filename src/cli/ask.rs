//! `ttrl ask`

use std::fmt::Write;

use clap::Args;
use serde_json::{Map, Value, json};

use super::{
    client::{Client, ServerFlags, text},
    print,
};
use crate::config::Settings;

/// The longest bar of the histogram, in characters.
const BAR_CHARS: f64 = 30.0;

/// Put a question to a running server
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  ttrl ask \"What is 38 + 9?\"
  ttrl ask \"What is 38 + 9?\" --votes 16 --seed 7
  ttrl ask \"38 + 9 =\" --server http://gpu-box:8080 --json")]
pub struct AskArgs {
    /// The question, in one argument
    #[arg(allow_hyphen_values = true)]
    question: String,
    /// How many samples vote
    #[arg(long)]
    votes: Option<u32>,
    /// The most tokens of a sample
    #[arg(long)]
    max_tokens: Option<u32>,
    /// How much samples differ, from 0 to 2
    #[arg(long)]
    temperature: Option<f32>,
    /// Draw from the likeliest tokens that together have this probability
    #[arg(long)]
    top_p: Option<f32>,
    /// Draw from so many of the likeliest tokens
    #[arg(long)]
    top_k: Option<u32>,
    /// Draw from tokens that are at least this many times as likely as the likeliest, from 0 to 1
    #[arg(long)]
    min_p: Option<f32>,
    /// Repeats an answer exactly, with the same adapter version
    #[arg(long)]
    seed: Option<u64>,
    /// Keep the question out of rounds
    #[arg(long)]
    no_learn: bool,
    /// JSON that is kept with the question
    #[arg(long, value_name = "JSON", value_parser = |text: &str| serde_json::from_str::<Value>(text))]
    metadata: Option<Value>,
    #[command(flatten)]
    server: ServerFlags,
}

#[cfg(test)]
impl AskArgs {
    pub(super) fn question(&self) -> &str {
        &self.question
    }

    pub(super) fn json(&self) -> bool {
        self.server.json
    }
}

pub(super) async fn run(args: AskArgs, settings: Settings) -> anyhow::Result<()> {
    let client = Client::new(&args.server, &settings)?;
    let result = client.post("/v1/answer", &body(&args)).await?;
    let shown = if args.server.json { serde_json::to_string_pretty(&result)? } else { render(&result) };
    print(&shown)?;
    Ok(())
}

/// Says only what was said; the rest is the server's to choose.
fn body(args: &AskArgs) -> Value {
    let fields = [
        ("question", Some(json!(args.question))),
        ("votes", args.votes.map(|n| json!(n))),
        ("max_tokens", args.max_tokens.map(|n| json!(n))),
        ("temperature", args.temperature.map(|n| json!(n))),
        ("top_p", args.top_p.map(|n| json!(n))),
        ("top_k", args.top_k.map(|n| json!(n))),
        ("min_p", args.min_p.map(|n| json!(n))),
        ("seed", args.seed.map(|n| json!(n))),
        ("learn", args.no_learn.then_some(json!(false))),
        ("metadata", args.metadata.clone()),
    ];
    Value::Object(fields.into_iter().filter_map(|(name, value)| Some((name.into(), value?))).collect::<Map<_, _>>())
}

/// The answer on the first line, then who voted for what.
fn render(result: &Value) -> String {
    let answer = match text(result, "/answer") {
        none if none.is_empty() => "(no answer had the most votes)".into(),
        answer => answer,
    };
    let mut shown = format!("{answer}\n\n");
    let votes = result.pointer("/votes").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    for vote in votes {
        let share = vote.pointer("/share").and_then(Value::as_f64).unwrap_or(0.0);
        let bar = "#".repeat((share * BAR_CHARS).round() as usize);
        // Writing to a String cannot fail.
        let _ = writeln!(shown, "{:>5.0} %  {bar}  {}", 100.0 * share, text(vote, "/answer"));
    }
    let seconds = result.pointer("/timings/total_seconds").and_then(Value::as_f64).unwrap_or(0.0);
    let version: String = text(result, "/adapter_version").chars().take(12).collect();
    let (samples, id) = (text(result, "/samples"), text(result, "/id"));
    let _ = write!(shown, "\n{samples} samples in {seconds:.1} s with adapter version {version}; answer {id}");
    shown
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        ask: AskArgs,
    }

    #[test]
    fn only_what_was_said_is_sent() {
        let sent = |line: &[&str]| body(&Line::parse_from([&["ask"], line].concat()).ask);
        assert_eq!(sent(&["q"]), json!({"question": "q"}));
        let metadata = "{\"a\": [1]}";
        let line = ["q", "--top-p", "0.5", "--top-k", "7", "--min-p", "0.25", "--no-learn", "--metadata", metadata];
        let expected = json!({"question": "q", "top_p": 0.5, "top_k": 7, "min_p": 0.25, "learn": false,
                              "metadata": {"a": [1]}});
        assert_eq!(sent(&line), expected);
        assert!(Line::try_parse_from(["ask", "q", "--metadata", "{"]).is_err());
    }

    #[test]
    fn the_answer_comes_first_and_the_histogram_below() {
        let result = json!({
            "id": "x", "answer": "47", "samples": 4, "adapter_version": "a".repeat(64),
            "votes": [{"answer": "47", "count": 2, "share": 0.5}, {"answer": "46", "count": 1, "share": 0.25}],
            "timings": {"total_seconds": 1.25},
        });
        let shown = render(&result);
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(lines[0], "47");
        assert_eq!(lines[2], "   50 %  ###############  47");
        assert_eq!(lines[5], "4 samples in 1.2 s with adapter version aaaaaaaaaaaa; answer x");
        assert!(render(&json!({"answer": null})).starts_with("(no answer had the most votes)"));
    }
}
