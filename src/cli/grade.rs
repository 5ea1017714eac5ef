//! `ttrl grade`

use std::{fs, path::PathBuf, time::Instant};

use anyhow::{Context as _, ensure};
use clap::Args;
use serde::{Deserialize, Serialize};

use super::print;
use crate::grading::{Answer, AnswerKind, Extraction, Reading, Verdict, extract};

/// Say which pairs of answers are the same
#[derive(Args, Debug)]
#[command(after_help = "\
A file of pairs has one JSON object a line: {\"gold\": \"1/2\", \"pred\": \"so \\\\boxed{0.5}\"}. Both may be answers or whole
responses. For each pair a line is printed: {\"equal\": true, \"gold_key\": \"1/2\", \"pred_key\": \"1/2\", \"micros\": 20}. `equal` is
null, and a key too, where an answer is not understood. Equal keys are the same answer; answers with different keys are equal
if one says less than the other, as 5 does beside 5 cm, or is its rounding. With --summary, `right` counts the pairs
that are as their field `expected` says.

Examples:
  ttrl grade --pairs pairs.jsonl
  ttrl grade --pairs pairs.jsonl --summary
  ttrl grade --pairs quiz.jsonl --kind choice --no-guess")]
pub struct GradeArgs {
    /// The pairs to compare (JSON lines)
    #[arg(long, value_name = "FILE")]
    pairs: PathBuf,
    /// What answers to expect: auto, math, choice, number or text
    #[arg(long, default_value = "auto", value_parser = kind)]
    kind: AnswerKind,
    /// Do not take the last number of a response that marks no answer for it
    #[arg(long)]
    no_guess: bool,
    /// Print one object with counts and times instead
    #[arg(long)]
    summary: bool,
}

fn kind(text: &str) -> Result<AnswerKind, String> {
    serde_json::from_value(text.into()).map_err(|_| "choose auto, math, choice, number or text".into())
}

/// The longest file of pairs that is read, in bytes: a million pairs.
const MAX_FILE_BYTES: u64 = 1 << 30;

/// One line of a file of pairs; other fields are not looked at.
#[derive(Deserialize)]
struct Pair {
    gold: String,
    pred: String,
    expected: Option<bool>,
}

/// What is printed for a pair.
#[derive(Serialize)]
struct Graded {
    equal: Option<bool>,
    gold_key: Option<String>,
    pred_key: Option<String>,
    micros: u64,
}

#[derive(Serialize)]
struct Summary {
    pairs: usize,
    equal: usize,
    different: usize,
    unknown: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    right: Option<usize>,
    median_micros: u64,
    max_micros: u64,
}

pub(super) fn run(args: &GradeArgs) -> anyhow::Result<()> {
    let name = args.pairs.display();
    let bytes = fs::metadata(&args.pairs).with_context(|| format!("cannot read the pairs in {name}"))?.len();
    ensure!(bytes <= MAX_FILE_BYTES, "{name} has {bytes} bytes, more than the {MAX_FILE_BYTES} that are read");
    let text = fs::read_to_string(&args.pairs).with_context(|| format!("cannot read the pairs in {name}"))?;
    let reading = Reading { kind: args.kind, last_number: !args.no_guess };
    let mut graded = vec![];
    let mut right = None;
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let pair: Pair = serde_json::from_str(line).with_context(|| {
            format!("{name}, line {}: expected {{\"gold\": \"...\", \"pred\": \"...\"}}", number + 1)
        })?;
        let row = grade(&pair, reading);
        if let Some(expected) = pair.expected {
            *right.get_or_insert(0) += usize::from(row.equal == Some(expected));
        }
        if !args.summary {
            print(&serde_json::to_string(&row)?)?;
        }
        graded.push(row);
    }
    ensure!(!graded.is_empty(), "{name} has no pairs");
    if args.summary {
        print(&serde_json::to_string(&summary(&graded, right))?)?;
    }
    Ok(())
}

fn grade(pair: &Pair, reading: Reading) -> Graded {
    let started = Instant::now();
    let read = |text: &str| Answer::read(&extract(text, Extraction::Auto, reading)?, reading.kind);
    let (gold, pred) = (read(&pair.gold), read(&pair.pred));
    let verdict = Verdict::of(gold.as_ref(), pred.as_ref());
    let micros = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
    let text = |answer: Option<Answer>| answer.map(|answer| answer.key.to_string());
    let equal = match verdict {
        Verdict::Equal => Some(true),
        Verdict::Different => Some(false),
        Verdict::Unknown => None,
    };
    Graded { equal, gold_key: text(gold), pred_key: text(pred), micros }
}

fn summary(graded: &[Graded], right: Option<usize>) -> Summary {
    let count = |equal: Option<bool>| graded.iter().filter(|row| row.equal == equal).count();
    let mut micros: Vec<u64> = graded.iter().map(|row| row.micros).collect();
    micros.sort_unstable();
    Summary {
        pairs: graded.len(),
        equal: count(Some(true)),
        different: count(Some(false)),
        unknown: count(None),
        right,
        median_micros: micros.get(micros.len() / 2).copied().unwrap_or(0),
        max_micros: micros.last().copied().unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graded(gold: &str, pred: &str) -> Graded {
        let pair = Pair { gold: gold.into(), pred: pred.into(), expected: None };
        grade(&pair, Reading { kind: AnswerKind::Auto, last_number: true })
    }

    #[test]
    fn a_pair_is_equal_different_or_unknown() {
        let same = graded("1/2", "so it is $\\boxed{0.5}$");
        assert_eq!((same.equal, same.gold_key.as_deref()), (Some(true), Some("1/2")));
        assert_eq!(same.gold_key, same.pred_key);
        assert_eq!(graded("1/2", "1/3").equal, Some(false));
        let unknown = graded("1/2", "so it is \\boxed{0.5");
        assert_eq!((unknown.equal, unknown.pred_key), (None, None));
    }

    #[test]
    fn a_summary_counts_each_outcome() {
        let rows = [graded("1", "1"), graded("1", "2"), graded("1", "\\frac{")];
        let summary = summary(&rows, Some(2));
        assert_eq!((summary.pairs, summary.equal, summary.different, summary.unknown), (3, 1, 1, 1));
    }

    #[test]
    fn kinds_have_names() {
        assert_eq!(kind("choice"), Ok(AnswerKind::Choice));
        assert!(kind("Choice?").unwrap_err().contains("choose auto"));
    }
}
