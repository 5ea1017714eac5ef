//! When are two answers the same answer: extraction, canonical keys, votes. No I/O, no async, no tensors.

pub mod extract;
pub mod key;
mod number;
pub mod vote;

pub use extract::{Extraction, answer_of, extract};
pub use key::{Key, key};
pub use vote::{Class, Tally};
