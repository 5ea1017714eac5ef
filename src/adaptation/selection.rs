//! Which questions a round takes: not those that it has nothing to learn from, and not too many of one client.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{
    grading::{Answer, AnswerKind, Verdict},
    store::{Candidate, Question, RoundQuestion, SetAside},
};

/// How many candidates are looked at for each question that a round may have: some are set aside, and one client's are
/// capped.
pub const CANDIDATES_FOR_EACH: u32 = 4;

/// How a round chooses among the questions that were asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SelectionRules {
    /// The largest share of a round's places that one client's questions may take, or an equal share, if that is more.
    pub max_client_share: f64,
    /// A question is settled if its majority was the same, with at least this share of the votes, in the last
    /// `settled_rounds` rounds that sampled it; 0 rounds: never. Votes of one mind teach nothing by themselves, but rounds
    /// without them have made a model worse (docs/curves.md).
    pub settled_ratio: f64,
    pub settled_rounds: usize,
    /// A question flips if its majority changed from one round to the next more often than in this share of the last
    /// rounds that sampled it, if they were [`FLIPPING_ROUNDS`]: what it would be taught is chance. 1: never.
    pub max_flip_rate: f64,
    /// How often such a question is passed over when its turn comes, before it is sampled again.
    pub rest: usize,
}

/// How many of the last rounds that sampled a question are looked at for flips.
pub const FLIPPING_ROUNDS: usize = 4;

impl Default for SelectionRules {
    fn default() -> Self {
        Self { max_client_share: 0.5, settled_ratio: 0.9, settled_rounds: 0, max_flip_rate: 0.5, rest: 3 }
    }
}

/// What a round takes, and what it passes over although it was its turn.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Selection {
    pub chosen: Vec<Question>,
    pub set_aside: Vec<(Question, SetAside)>,
}

/// Takes up to `limit` candidates in their order. `fits` says whether a question can be sampled at all; answers of
/// earlier rounds are compared as those of `kind`.
pub fn select(
    rules: &SelectionRules,
    candidates: Vec<Candidate>,
    limit: usize,
    kind: AnswerKind,
    fits: impl Fn(&Question) -> bool,
) -> Selection {
    let clients: BTreeSet<_> = candidates.iter().map(|candidate| &candidate.question.client).collect();
    let equal_share = limit.div_ceil(clients.len().max(1));
    let cap = equal_share.max((rules.max_client_share * limit as f64).floor() as usize);
    let mut taken: BTreeMap<Option<String>, usize> = BTreeMap::new();
    let mut selection = Selection::default();
    for Candidate { question, seen } in candidates {
        if selection.chosen.len() == limit {
            break;
        }
        let taken = taken.entry(question.client.clone()).or_default();
        // Left as it is: it may come into the next round.
        if *taken == cap {
            continue;
        }
        let reason = if fits(&question) { rested(rules, &seen, kind) } else { Some(SetAside::TooLong) };
        match reason {
            Some(reason) => selection.set_aside.push((question, reason)),
            None => {
                *taken += 1;
                selection.chosen.push(question);
            }
        }
    }
    selection
}

/// Why a question that earlier rounds have seen, newest first, is to be passed over.
fn rested(rules: &SelectionRules, seen: &[RoundQuestion], kind: AnswerKind) -> Option<SetAside> {
    let resting = |row: &&RoundQuestion| matches!(row.set_aside, Some(SetAside::Settled | SetAside::Flips));
    if seen.iter().take_while(resting).count() >= rules.rest {
        return None;
    }
    let sampled: Vec<&RoundQuestion> = seen.iter().filter(|row| row.before_ratio.is_some()).collect();
    if is_settled(rules, &sampled, kind) {
        return Some(SetAside::Settled);
    }
    flips(rules, &sampled, kind).then_some(SetAside::Flips)
}

fn is_settled(rules: &SelectionRules, sampled: &[&RoundQuestion], kind: AnswerKind) -> bool {
    let Some(last) = sampled.get(..rules.settled_rounds).filter(|last| !last.is_empty()) else { return false };
    let sure = last.iter().all(|row| row.before_ratio.is_some_and(|ratio| ratio >= rules.settled_ratio));
    sure && last.windows(2).all(|pair| same(pair[0], pair[1], kind))
}

fn flips(rules: &SelectionRules, sampled: &[&RoundQuestion], kind: AnswerKind) -> bool {
    let Some(last) = sampled.get(..FLIPPING_ROUNDS) else { return false };
    let changes = last.windows(2).filter(|pair| !same(pair[0], pair[1], kind)).count();
    changes as f64 > rules.max_flip_rate * (last.len() - 1) as f64
}

/// Whether two rounds saw the same majority. None, or one that is not understood, is the same as no other.
fn same(a: &RoundQuestion, b: &RoundQuestion, kind: AnswerKind) -> bool {
    let read = |row: &RoundQuestion| row.before_answer.as_deref().and_then(|answer| Answer::read(answer, kind));
    Verdict::of(read(a).as_ref(), read(b).as_ref()) == Verdict::Equal
}

#[cfg(test)]
mod tests {
    use chrono::Utc;
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    fn candidate(text: &str, client: &str, seen: Vec<RoundQuestion>) -> Candidate {
        let id = Uuid::now_v7();
        let client = (!client.is_empty()).then(|| client.to_owned());
        let asked = Utc::now();
        let question = Question { id, text: text.into(), learn: true, client, metadata: None, created_at: asked };
        Candidate { question, seen }
    }

    fn row(answer: Option<&str>, ratio: Option<f64>, set_aside: Option<SetAside>) -> RoundQuestion {
        RoundQuestion {
            round_id: Uuid::nil(),
            question_id: Uuid::nil(),
            text: String::new(),
            held_back: false,
            before_answer: answer.map(str::to_owned),
            before_ratio: ratio,
            after_answer: None,
            after_ratio: None,
            set_aside,
        }
    }

    fn voted(answer: &str, ratio: f64) -> RoundQuestion {
        row(Some(answer), Some(ratio), None)
    }

    /// What becomes of a question that rounds have seen, newest first.
    fn reason(seen: &[RoundQuestion]) -> Option<SetAside> {
        let rules = SelectionRules { settled_rounds: 2, ..SelectionRules::default() };
        rested(&rules, seen, AnswerKind::Auto)
    }

    fn chosen(candidates: Vec<Candidate>, limit: usize) -> Vec<String> {
        let selection = select(&SelectionRules::default(), candidates, limit, AnswerKind::Auto, |_| true);
        selection.chosen.into_iter().map(|question| question.text).collect()
    }

    #[test]
    fn what_is_new_or_undecided_is_taken() {
        assert_eq!(reason(&[]), None);
        assert_eq!(reason(&[voted("4", 1.0)]), None);
        assert_eq!(reason(&[voted("4", 0.6), voted("4", 1.0)]), None);
        assert_eq!(reason(&[voted("5", 1.0), voted("4", 1.0)]), None);
    }

    #[test]
    fn a_question_whose_answer_is_surely_the_same_is_settled_however_it_is_written() {
        assert_eq!(reason(&[voted("1/2", 1.0), voted("0.5", 0.95), voted("3", 0.4)]), Some(SetAside::Settled));
    }

    #[test]
    fn a_question_whose_majority_changes_from_round_to_round_flips() {
        let rounds = |answers: [&str; 4]| answers.map(|answer| voted(answer, 0.5));
        assert_eq!(reason(&rounds(["4", "5", "4", "5"])), Some(SetAside::Flips));
        assert_eq!(reason(&rounds(["4", "4", "4", "5"])), None);
        assert_eq!(reason(&rounds(["4", "5", "4", "5"])[..3]), None);
        let silent = [None, Some("4"), None, Some("4")].map(|answer| row(answer, Some(0.3), None));
        assert_eq!(reason(&silent), Some(SetAside::Flips));
    }

    #[test]
    fn what_was_passed_over_often_enough_is_sampled_again_and_judged_by_that() {
        let aside = || row(None, None, Some(SetAside::Settled));
        let settled = [voted("4", 1.0), voted("4", 1.0)];
        let passed_over = |times: usize| [vec![aside(); times], settled.to_vec()].concat();
        assert_eq!(reason(&passed_over(2)), Some(SetAside::Settled));
        assert_eq!(reason(&passed_over(3)), None);
        assert_eq!(reason(&[vec![voted("4", 1.0)], passed_over(3)].concat()), Some(SetAside::Settled));
        assert_eq!(reason(&[vec![voted("5", 0.6)], passed_over(3)].concat()), None);
    }

    #[test]
    fn no_client_takes_more_than_its_share_but_a_single_one_takes_all() {
        let of = |client: &str, count: usize| {
            (0..count).map(|number| candidate(&format!("{client}{number}"), client, vec![])).collect::<Vec<_>>()
        };
        assert_eq!(chosen(of("a", 9), 4).len(), 4);
        assert_eq!(chosen([of("a", 9), of("b", 1)].concat(), 4), ["a0", "a1", "b0"]);
        assert_eq!(chosen([of("a", 9), of("", 9)].concat(), 4), ["a0", "a1", "0", "1"]);
    }

    #[test]
    fn what_cannot_be_sampled_is_set_aside_and_what_is_not_reached_is_left() {
        let candidates = ["long", "b", "c", "long too"].map(|text| candidate(text, "", vec![])).to_vec();
        let fits = |question: &Question| !question.text.starts_with("long");
        let selection = select(&SelectionRules::default(), candidates, 2, AnswerKind::Auto, fits);
        assert_eq!(selection.chosen.iter().map(|question| &question.text).collect::<Vec<_>>(), ["b", "c"]);
        assert_eq!(selection.set_aside.len(), 1);
        assert_eq!((&*selection.set_aside[0].0.text, selection.set_aside[0].1), ("long", SetAside::TooLong));
    }

    proptest! {
        #[test]
        fn a_round_is_within_its_limit_and_each_client_within_its_cap(
            clients in proptest::collection::vec(0..5u8, 0..60), limit in 1..20usize, share in 0.0..1.0f64,
        ) {
            let candidates = clients.iter().map(|client| candidate("q", &client.to_string(), vec![])).collect();
            let rules = SelectionRules { max_client_share: share, ..SelectionRules::default() };
            let chosen = select(&rules, candidates, limit, AnswerKind::Auto, |_| true).chosen;
            prop_assert!(chosen.len() <= limit);
            let distinct = clients.iter().collect::<BTreeSet<_>>().len().max(1);
            for client in 0..5u8 {
                let of_client = chosen.iter().filter(|question| question.client == Some(client.to_string())).count();
                prop_assert!(of_client <= limit.div_ceil(distinct).max((share * limit as f64) as usize));
            }
        }
    }
}
