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

/// The letter of a choice.
pub(super) fn choice(text: &str) -> Option<char> {
    let text = super::words::plain(text);
    let text = text.trim().trim_matches(['*', '$', '"', '\'']).trim();
    let lower = text.to_ascii_lowercase();
    let named =
        ["option ", "choice ", "answer ", "letter "].iter().find_map(|word| lower.strip_prefix(word).map(str::len));
    let rest = named.map_or(text, |length| text[text.len() - length..].trim());
    let (letter, behind) = match rest.strip_prefix('(') {
        Some(inner) => {
            let letter = inner.trim_start().chars().next()?;
            let behind = inner.trim_start()[letter.len_utf8()..].trim_start();
            (letter, Some(behind.strip_prefix(')')?))
        }
        None => {
            let letter = rest.chars().next()?;
            let behind = &rest[letter.len_utf8()..];
            let is_alone = behind.trim().is_empty();
            // `B. 42` and `B) 42` name a choice; `A dog` does not.
            let is_marked =
                behind.starts_with([')', '.', ':']) && !behind[1..].starts_with(|c: char| c.is_alphanumeric());
            if !(is_alone || is_marked) {
                return None;
            }
            (letter, None)
        }
    };
    if behind.is_some_and(|behind| behind.starts_with(|c: char| c.is_alphanumeric())) {
        return None;
    }
    letter.is_ascii_alphabetic().then(|| letter.to_ascii_uppercase()).filter(|letter| *letter <= 'Z')
}
