//! What an evaluation set may be.

use std::collections::HashMap;

use super::Evaluator;
use crate::store::EvaluationItem;

/// The most sets: a gate asks them all, and a person reads what came of each.
pub const MAX_SETS: usize = 20;

/// The most items of a set. They tell a fall of three points in a hundred where versions differ on a fifth of them
/// (`docs/gate.md`); more would make a gate take longer than the round before it.
pub const MAX_ITEMS: usize = 2000;

/// The longest name, in characters; it is a part of addresses.
const MAX_NAME_CHARS: usize = 64;

/// The longest question, in characters: as long as one that clients may ask by default.
const MAX_QUESTION_CHARS: usize = 8000;

/// The longest right answer, in bytes: grading reads no more.
const MAX_ANSWER_BYTES: usize = 2000;

/// What is wrong with a set.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SetError {
    #[error(
        "{0:?} is no name for a set: use up to {MAX_NAME_CHARS} small letters, digits, dots, dashes and underscores, a \
         letter or digit first"
    )]
    Name(String),
    #[error("a set has from 1 to {MAX_ITEMS} items, and this one has {0}")]
    Size(usize),
    /// Counts from 1.
    #[error("item {number}: {problem}")]
    Item { number: usize, problem: String },
    #[error("there are {MAX_SETS} evaluation sets already; remove one first")]
    Full,
}

/// Checks what can be said of a set without a model.
pub(super) fn check(name: &str, items: &[EvaluationItem]) -> Result<(), SetError> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let usable = name.len() <= MAX_NAME_CHARS
        && name.starts_with(plain)
        && name.chars().all(|c| plain(c) || ['.', '-', '_'].contains(&c));
    if !usable {
        return Err(SetError::Name(name.chars().take(MAX_NAME_CHARS).collect()));
    }
    if !(1..=MAX_ITEMS).contains(&items.len()) {
        return Err(SetError::Size(items.len()));
    }
    let mut seen = HashMap::new();
    for (number, item) in (1..).zip(items) {
        let refused = |problem: String| Err(SetError::Item { number, problem });
        let (chars, bytes) = (item.question.chars().count(), item.answer.len());
        if item.question.trim().is_empty() {
            return refused("the question is empty".into());
        }
        if chars > MAX_QUESTION_CHARS {
            return refused(format!("the question has {chars} characters, more than {MAX_QUESTION_CHARS}"));
        }
        if bytes > MAX_ANSWER_BYTES {
            return refused(format!("the answer has {bytes} bytes, more than {MAX_ANSWER_BYTES}"));
        }
        // Counted twice it would look like two witnesses.
        let words: Vec<&str> = item.question.split_whitespace().collect();
        if let Some(other) = seen.insert(words, number) {
            return refused(format!("it has the question of item {other}"));
        }
    }
    Ok(())
}

impl Evaluator {
    /// Checks that every item can be asked and marked under the settings of now. Takes a millisecond an item.
    pub(super) fn check(&self, items: &[EvaluationItem]) -> Result<(), SetError> {
        for (number, item) in (1..).zip(items) {
            self.prepare(item, &self.engine.base(), 0).map_err(|problem| SetError::Item { number, problem })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(name: &str, items: &[(&str, &str)]) -> String {
        let item = |(question, answer): &(&str, &str)| EvaluationItem {
            question: (*question).into(),
            answer: (*answer).into(),
        };
        match check(name, &items.iter().map(item).collect::<Vec<_>>()) {
            Ok(()) => String::new(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn a_set_is_refused_with_the_item_that_is_wrong() {
        let one = ("1 + 1 =", "2");
        assert_eq!(refusal("sums-2.v1_a", &[one, ("1 + 2 =", "3")]), "");
        for name in ["", "Sums", ".sums", "a/b", "ä", &"a".repeat(65)] {
            assert!(refusal(name, &[one]).contains("is no name for a set"), "{name}");
        }
        assert_eq!(refusal("sums", &[]), "a set has from 1 to 2000 items, and this one has 0");
        assert!(refusal("sums", &[one; 2001]).contains("this one has 2001"));
        assert_eq!(refusal("sums", &[one, (" \n", "3")]), "item 2: the question is empty");
        assert_eq!(refusal("sums", &[one, (" 1 +\n1  =", "3")]), "item 2: it has the question of item 1");
        assert!(refusal("sums", &[(&"1".repeat(8001), "2")]).starts_with("item 1: the question has 8001 characters"));
        assert!(refusal("sums", &[("1", &"2".repeat(2001))]).starts_with("item 1: the answer has 2001 bytes"));
    }
}
