//! When are two answers the same answer: extraction, canonical keys, votes. No I/O, no async, no tensors.

mod answer;
mod beside;
mod budget;
mod clean;
mod congruence;
mod evaluate;
mod exact;
mod expression;
pub mod extract;
mod form;
mod huge;
mod join;
pub mod key;
mod kind;
#[cfg(test)]
mod laws;
mod lex;
mod mark;
mod matrix;
mod names;
mod number;
mod numerals;
mod numeric;
mod order;
mod parse;
mod read;
mod region;
mod relation;
mod rounding;
mod unit;
mod vocabulary;
pub mod vote;
mod words;

pub use answer::{Answer, key};
pub use extract::{Extraction, answer_of, extract};
pub use key::Key;
pub use kind::{AnswerKind, Reading};
pub use mark::{Accuracy, Mark};
pub use vote::{Class, Tally, Verdict};
