//! Rollouts with their rewards, laid out for training: each distinct token position once.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::{
    adaptation::{
        advantage::{self, Advantage},
        loss::Term,
    },
    engine::{
        handle::{Group, Rollout},
        model::training::{Target, TokenForest},
    },
};

/// The rollouts of one question with their rewards, in the same order.
#[derive(Clone, Debug)]
pub struct Graded {
    pub group: Group,
    pub rewards: Vec<f64>,
}

impl Graded {
    /// Whether something can be learnt from it: its rewards differ.
    pub fn is_informative(&self) -> bool {
        !advantage::is_degenerate(&self.rewards)
    }

    /// Tokens that were generated for it.
    pub fn tokens(&self) -> usize {
        self.group.rollouts.iter().map(|rollout| rollout.tokens.len()).sum()
    }
}

/// What a token weighs in the loss of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LossAverage {
    /// Each token the same: the mean over all rollout tokens of the step (DAPO, arXiv 2503.14476, and TTRL's own runs).
    /// Long rollouts count more.
    TokenMean,
    /// Each rollout the same: the mean over rollouts of their means over tokens (GRPO, arXiv 2402.03300). Tokens of a
    /// long rollout count less, so a long wrong one is hardly unlearnt.
    SequenceMean,
    /// Each token the same, whatever was drawn: the sum over `rollouts * max_tokens` (Dr. GRPO, arXiv 2503.20783). A
    /// step whose rollouts are short makes a small loss.
    Constant,
}

impl LossAverage {
    /// The weight of each token of a rollout of `length` tokens.
    pub fn token_weight(self, drawn: &Drawn, length: usize) -> f64 {
        let over = match self {
            Self::TokenMean => drawn.tokens,
            Self::SequenceMean => drawn.rollouts * length,
            Self::Constant => drawn.rollouts * drawn.max_tokens,
        };
        1.0 / over as f64
    }
}

/// The rollouts of a step that could be trained on, groups that teach nothing included: a step in which most questions
/// are settled makes a small update, and the few that are left do not get all the weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drawn {
    pub rollouts: usize,
    pub tokens: usize,
    /// The most tokens that one of them might have had.
    pub max_tokens: usize,
}

/// One pass of training: rows, and for each distinct token of the rollouts a target with its loss term. The
/// reference log-probabilities are still to be filled in.
#[derive(Clone, Debug, Default)]
pub struct MicroBatch {
    pub forest: TokenForest,
    /// Sorted by row.
    pub targets: Vec<Target>,
    /// One for each target.
    pub terms: Vec<Term>,
}

/// Lays out groups in passes of at most `max_rows` rows. A group that has more is divided between passes, each with its
/// prompt; only a single rollout that is longer by itself makes a pass larger.
///
/// `token_weight` says what each token of a rollout of so many tokens weighs in the loss.
pub fn lay_out(
    groups: &[&Graded],
    advantage: Advantage,
    token_weight: impl Fn(usize) -> f64,
    max_rows: usize,
) -> Vec<MicroBatch> {
    let mut batches = Vec::new();
    let mut builder = Builder::default();
    for graded in groups {
        let advantages = advantage.of(&graded.rewards);
        let mut prompt_end = None;
        for (rollout, advantage) in graded.group.rollouts.iter().zip(advantages) {
            // What it may add, if it shares nothing.
            let prompt = if prompt_end.is_none() { graded.group.prompt.len() } else { 0 };
            if !builder.forest.is_empty() && builder.forest.len() + prompt + rollout.tokens.len() > max_rows {
                batches.push(std::mem::take(&mut builder).finish());
                prompt_end = None;
            }
            let start = prompt_end.or_else(|| builder.add_prompt(&graded.group.prompt));
            prompt_end = start;
            builder.add_rollout(start, rollout, advantage, token_weight(rollout.tokens.len()));
        }
    }
    if !builder.forest.is_empty() {
        batches.push(builder.finish());
    }
    batches
}

#[derive(Default)]
struct Builder {
    forest: TokenForest,
    /// Terms by target and the bits of the behaviour log-probability, which may differ between rollouts.
    terms: HashMap<(Target, u32), Term>,
}

impl Builder {
    /// The row of the prompt's last token.
    fn add_prompt(&mut self, prompt: &[u32]) -> Option<u32> {
        prompt.iter().fold(None, |parent, &token| Some(self.forest.insert(parent, token)))
    }

    fn add_rollout(&mut self, prompt_end: Option<u32>, rollout: &Rollout, advantage: f64, weight: f64) {
        let mut parent = prompt_end;
        for (position, (&token, &behaviour)) in rollout.tokens.iter().zip(&rollout.log_probs).enumerate() {
            let Some(row) = parent else { break };
            let key = (Target { row, token }, behaviour.to_bits());
            let term = self.terms.entry(key).or_insert(Term { behaviour, ..Term::default() });
            term.positive += advantage.max(0.0) * weight;
            term.negative += advantage.min(0.0) * weight;
            term.weight += weight;
            // The last token is a target but no row: nothing follows it.
            if position + 1 < rollout.tokens.len() {
                parent = Some(self.forest.insert(parent, token));
            }
        }
    }

    fn finish(self) -> MicroBatch {
        let mut terms: Vec<((Target, u32), Term)> = self.terms.into_iter().collect();
        terms.sort_unstable_by_key(|(key, _)| *key);
        let (targets, terms) = terms.into_iter().map(|((target, _), term)| (target, term)).unzip();
        MicroBatch { forest: self.forest, targets, terms }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::handle::{FinishReason, Timings, Version};

    fn graded(prompt: &[u32], rollouts: &[&[u32]], rewards: &[f64]) -> Graded {
        let rollout = |tokens: &&[u32]| Rollout {
            tokens: tokens.to_vec(),
            log_probs: vec![-1.0; tokens.len()],
            scores: vec![],
            text: String::new(),
            finish: FinishReason::Stop,
        };
        let group = Group {
            version: Version::base(),
            prompt: prompt.to_vec(),
            prompt_scores: vec![],
            rollouts: rollouts.iter().map(rollout).collect(),
            timings: Timings::default(),
        };
        Graded { group, rewards: rewards.to_vec() }
    }

    #[test]
    fn rollouts_that_begin_alike_share_their_rows_and_terms() {
        let group = graded(&[1, 2], &[&[3, 4], &[3, 5], &[3, 4]], &[1.0, 0.0, 1.0]);
        let batches = lay_out(&[&group], Advantage::MeanOnly, |_| 1.0 / 6.0, 100);
        let [batch] = &batches[..] else { panic!("{batches:?}") };
        assert_eq!((batch.forest.len(), batch.targets.len()), (3, 3));
        let weights: f64 = batch.terms.iter().map(|term| term.weight).sum();
        assert!((weights - 1.0).abs() < 1e-12);
    }

    #[test]
    fn each_average_gives_tokens_the_weights_of_its_definition() {
        // Two rollouts, of one token and of three, which might have had four.
        let drawn = Drawn { rollouts: 2, tokens: 4, max_tokens: 4 };
        let weights = |average: LossAverage| [1, 3].map(|length| average.token_weight(&drawn, length));
        assert_eq!(weights(LossAverage::TokenMean), [0.25, 0.25]);
        assert_eq!(weights(LossAverage::SequenceMean), [0.5, 1.0 / 6.0]);
        assert_eq!(weights(LossAverage::Constant), [0.125, 0.125]);
    }

    #[test]
    fn a_group_that_is_too_large_is_divided_and_weighs_the_same() {
        let rollouts: Vec<Vec<u32>> = (0..8).map(|i| (0..10).map(|j| 10 * i + j).collect()).collect();
        let rollouts: Vec<&[u32]> = rollouts.iter().map(Vec::as_slice).collect();
        let group = graded(&[90, 91, 92], &rollouts, &[1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0]);
        let sums = |max_rows| {
            let batches = lay_out(&[&group], Advantage::GroupNormalised, |_| 1.0 / 80.0, max_rows);
            assert!(batches.iter().all(|batch| batch.forest.len() <= max_rows), "{max_rows} rows");
            let of = |part: fn(&Term) -> f64| batches.iter().flat_map(|batch| &batch.terms).map(part).sum::<f64>();
            (batches.len(), of(|term| term.weight), of(|term| term.positive), of(|term| term.negative))
        };
        let (whole, divided) = (sums(1000), sums(30));
        assert_eq!((whole.0, divided.0), (1, 4));
        for (a, b) in [(whole.1, divided.1), (whole.2, divided.2), (whole.3, divided.3)] {
            assert!((a - b).abs() < 1e-12, "{whole:?} {divided:?}");
        }
    }
}
