//! What kind of answer is expected.

use serde::{Deserialize, Serialize};

/// What an operator knows of the answers to expect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AnswerKind {
    /// Mathematics where it reads as such, and else text.
    #[default]
    Auto,
    /// Mathematics; words are not understood.
    Math,
    /// One of several choices, by its letter: `B`, `(b)`, `B) 42`, `Option B`. The article `a` is none.
    Choice,
    /// One number, which may have a unit.
    Number,
    /// Text, also where it reads as mathematics.
    Text,
}

/// How an operator wants answers to be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Reading {
    /// What kind of answers to expect; others are not understood, and never vote.
    pub kind: AnswerKind,
    /// Whether the last number of a response that marks no answer may be taken for it. That is a guess.
    pub last_number: bool,
}
