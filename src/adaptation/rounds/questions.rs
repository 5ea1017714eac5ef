//! The rows of a round's questions.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::{
    adaptation::learner::{self, Voted},
    store::{Question, RoundQuestion, SetAside},
};

/// Fewer held-back questions than this say too little; the gate then asks the training questions.
const MIN_HELD_BACK: usize = 4;

/// How many of `questions` are kept out of training.
pub(super) fn held_back(questions: usize, share: f64) -> usize {
    let held = (questions as f64 * share).floor() as usize;
    if held < MIN_HELD_BACK { 0 } else { held }
}

/// Why questions were passed over, and how many of them, for the operator.
pub(super) fn told(set_aside: &BTreeMap<SetAside, usize>) -> String {
    let each = set_aside.iter().map(|(reason, count)| match reason {
        SetAside::TooLong => format!("{count} too long to be sampled with so many votes"),
        SetAside::Settled => format!("{count} settled, with one sure answer in the last rounds"),
        SetAside::Flips => format!("{count} with another majority from round to round"),
    });
    each.collect::<Vec<_>>().join(", ")
}

/// The questions that take part in a round, in an order that is the seed's and their texts': which of them are held back
/// must not depend on when, where or by whom they were asked. And how many are passed over.
pub(super) fn taking_part(rows: Vec<RoundQuestion>, seed: u64) -> (Vec<RoundQuestion>, BTreeMap<SetAside, usize>) {
    let mut counts = BTreeMap::new();
    for reason in rows.iter().filter_map(|row| row.set_aside) {
        *counts.entry(reason).or_default() += 1;
    }
    let mut questions: Vec<_> = rows.into_iter().filter(|row| row.set_aside.is_none()).collect();
    questions.sort_by_cached_key(|question| {
        let [a, b, c, d, e, f, g, h, ..]: [u8; 32] = Sha256::digest(&question.text).into();
        learner::mix(seed, u64::from_be_bytes([a, b, c, d, e, f, g, h]))
    });
    (questions, counts)
}

/// The row of a question that nothing is known of yet.
pub(super) fn unseen(round_id: Uuid, question: &Question) -> RoundQuestion {
    RoundQuestion {
        round_id,
        question_id: question.id,
        text: question.text.clone(),
        held_back: false,
        before_answer: None,
        before_ratio: None,
        after_answer: None,
        after_ratio: None,
        set_aside: None,
    }
}

/// The answer of a question's majority, if there is one.
pub(super) fn majority(voted: &Voted) -> Option<String> {
    voted.tally.majority().map(|class| class.answer.clone())
}
