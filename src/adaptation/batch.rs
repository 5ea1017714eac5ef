//! Rollouts with their rewards, laid out for training: each distinct token position once.

use std::collections::HashMap;

use crate::{
    adaptation::{
        advantage::{self, Advantage},
        loss::Term,
    },
    engine::{
        handle::Group,
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

/// Lays out groups in passes of at most `max_rows` rows (a group that is larger by itself is a pass by itself).
///
/// Loss weights are over `tokens`, the rollout tokens of the whole step, groups that are not laid out included: a step in
/// which most questions are settled makes a small update, and the few that are left do not get all the weight.
pub fn lay_out(groups: &[&Graded], advantage: Advantage, tokens: usize, max_rows: usize) -> Vec<MicroBatch> {
    let mut batches = Vec::new();
    let mut builder = Builder::default();
    for graded in groups {
        let mut extended = builder.clone();
        extended.add(graded, advantage, tokens as f64);
        if extended.forest.len() > max_rows && !builder.forest.is_empty() {
            batches.push(builder.finish());
            extended = Builder::default();
            extended.add(graded, advantage, tokens as f64);
        }
        builder = extended;
    }
    if !builder.forest.is_empty() {
        batches.push(builder.finish());
    }
    batches
}

#[derive(Clone, Default)]
struct Builder {
    forest: TokenForest,
    /// Terms by target and the bits of the behaviour log-probability, which may differ between rollouts.
    terms: HashMap<(Target, u32), Term>,
}

impl Builder {
    fn add(&mut self, graded: &Graded, advantage: Advantage, tokens: f64) {
        let advantages = advantage.of(&graded.rewards);
        let mut prompt_end = None;
        for &token in &graded.group.prompt {
            prompt_end = Some(self.forest.insert(prompt_end, token));
        }
        for (rollout, advantage) in graded.group.rollouts.iter().zip(advantages) {
            let mut parent = prompt_end;
            for (position, (&token, &behaviour)) in rollout.tokens.iter().zip(&rollout.log_probs).enumerate() {
                let Some(row) = parent else { break };
                let key = (Target { row, token }, behaviour.to_bits());
                let term = self.terms.entry(key).or_insert(Term { behaviour, ..Term::default() });
                term.positive += advantage.max(0.0) / tokens;
                term.negative += advantage.min(0.0) / tokens;
                term.weight += 1.0 / tokens;
                // The last token is a target but no row: nothing follows it.
                if position + 1 < rollout.tokens.len() {
                    parent = Some(self.forest.insert(parent, token));
                }
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
