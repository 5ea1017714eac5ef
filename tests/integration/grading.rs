//! When answers are the same: decisions of people, tables of other graders, and input that means harm.

use std::collections::HashMap;

use serde::Deserialize;
use ttrl::grading::{Answer, AnswerKind, Extraction, Reading, Verdict, extract};

#[derive(Deserialize)]
struct Row {
    gold: String,
    pred: String,
    expected: Option<bool>,
    #[serde(default)]
    why: String,
}

fn rows(text: &str) -> Vec<Row> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn read(text: &str) -> Option<Answer> {
    let reading = Reading { kind: AnswerKind::Auto, last_number: true };
    Answer::read(&extract(text, Extraction::Auto, reading)?, reading.kind)
}

fn verdict(row: &Row) -> Option<bool> {
    let (gold, pred) = (read(&row.gold), read(&row.pred));
    let verdict = Verdict::of(gold.as_ref(), pred.as_ref());
    assert_eq!(verdict, Verdict::of(pred.as_ref(), gold.as_ref()), "{} and {}", row.gold, row.pred);
    match verdict {
        Verdict::Equal => Some(true),
        Verdict::Different => Some(false),
        Verdict::Unknown => None,
    }
}

/// The places of the rows that are not as expected.
fn misses(rows: &[Row]) -> Vec<usize> {
    (0..rows.len()).filter(|place| verdict(&rows[*place]) != rows[*place].expected).collect()
}

#[test]
fn every_decision_is_kept() {
    let rows = rows(include_str!("../fixtures/grading/decisions.jsonl"));
    assert!(rows.len() > 1000);
    for row in &rows {
        assert_eq!(verdict(row), row.expected, "{}: {} and {}", row.why, row.gold, row.pred);
    }
}

#[test]
fn the_pairs_of_math_verify_are_as_its_tests_expect_but_for_those_that_are_explained() {
    // `docs/grading.md` says why.
    let rows = rows(include_str!("../fixtures/grading/math_verify_pairs.jsonl"));
    assert_eq!(misses(&rows), [28, 29, 32, 126, 155, 180, 208, 243]);
}

#[test]
fn the_pairs_of_hendrycks_are_as_its_tests_expect_but_for_the_order_of_lists() {
    let rows = rows(include_str!("../fixtures/grading/hendrycks_is_equiv.jsonl"));
    assert_eq!(misses(&rows), [1, 8]);
}

#[test]
fn every_answer_of_math_500_has_a_key_and_equals_itself() {
    #[derive(Deserialize)]
    struct Gold {
        gold: String,
    }
    let golds = include_str!("../fixtures/grading/math500_golds.jsonl").lines();
    let golds: Vec<String> = golds.map(|line| serde_json::from_str::<Gold>(line).unwrap().gold).collect();
    assert_eq!(golds.len(), 500);
    for gold in golds {
        let (first, second) = (read(&gold), read(&gold));
        assert_eq!(Verdict::of(first.as_ref(), second.as_ref()), Verdict::Equal, "{gold}");
    }
}

#[test]
fn keys_are_equal_exactly_if_their_texts_are() {
    let rows = rows(include_str!("../fixtures/grading/decisions.jsonl"));
    let answers: Vec<Answer> =
        rows.iter().flat_map(|row| [&row.gold, &row.pred]).filter_map(|text| read(text)).collect();
    let mut keys = HashMap::new();
    for answer in &answers {
        assert_eq!(keys.entry(answer.key.to_string()).or_insert(&answer.key), &&answer.key);
    }
    let distinct: std::collections::HashSet<_> = answers.iter().map(|answer| &answer.key).collect();
    assert_eq!(distinct.len(), keys.len());
}

#[test]
fn no_input_panics_or_has_two_keys() {
    // Inputs that were slow or broke something once, from the fuzzer and by hand.
    for line in include_str!("../fixtures/grading/hostile.txt").lines() {
        let text: String = serde_json::from_str(line).unwrap();
        for how in [Extraction::Auto, Extraction::Boxed, Extraction::FirstNumber, Extraction::Text] {
            for kind in [AnswerKind::Auto, AnswerKind::Math, AnswerKind::Choice, AnswerKind::Number, AnswerKind::Text] {
                let key = || {
                    let found = extract(&text, how, Reading { kind, last_number: true })?;
                    Answer::read(&found, kind).map(|answer| answer.key)
                };
                assert_eq!(key(), key(), "{text}");
            }
        }
    }
}

#[test]
fn work_is_bounded_by_steps() {
    // Each would take from seconds to for ever.
    for text in ["2^{2^{5000}}+1", "9^{9^{9^9}}", "((10^{1000})!)!", "\\binom{10^9}{5\\cdot10^8}", "e^{e^{e^{e^{9}}}}"]
    {
        assert!(read(text).is_none(), "{text}");
    }
    let nested = |open: &str, close: &str| format!("{}1{}", open.repeat(900), close.repeat(900));
    for text in [nested("(", ")"), nested("\\sqrt{", "}"), nested("|", "|"), nested("-", ""), nested("1+(", ")")] {
        assert!(read(&text).is_none(), "{text:.40}");
    }
    let roots = (1..200).map(|n| format!("\\sqrt{{x+{n}}}")).collect::<Vec<_>>().join("+");
    assert!(read(&roots).is_none());
}
