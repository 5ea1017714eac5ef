//! When are two answers the same answer: extraction, canonical keys, votes. No I/O, no async, no tensors.

mod answer;
mod budget;
mod clean;
mod evaluate;
mod exact;
mod expression;
pub mod extract;
mod form;
pub mod key;
mod kind;
mod lex;
mod matrix;
mod names;
mod number;
mod numeric;
mod parse;
mod read;
mod region;
mod relation;
mod unit;
mod vocabulary;
pub mod vote;
mod words;

pub use answer::{Answer, Verdict, key};
pub use extract::{Extraction, answer_of, extract};
pub use key::Key;
pub use kind::{AnswerKind, Reading};
pub use vote::{Class, Tally};
