//! The sequences that both devices compute.

use std::collections::BTreeSet;

use anyhow::Context as _;

use super::Numbers;
use crate::engine::{
    handle::Group,
    model::training::{Target, TokenForest},
};

/// Samples after one prompt.
pub struct Case {
    pub prompt: Vec<u32>,
    pub samples: usize,
    pub tokens: usize,
}

/// Tokens of a prompt, samples after it and tokens of each. The shortest are at the edges of blocks; the long ones fill
/// several.
const SHAPES: [(usize, usize, usize); 7] =
    [(1, 2, 6), (5, 4, 12), (33, 8, 24), (64, 3, 33), (95, 2, 33), (150, 4, 40), (600, 2, 40)];

/// Prompts of random tokens, as far as they fit into the context.
pub fn cases(vocabulary: usize, context: usize) -> Vec<Case> {
    let mut numbers = Numbers(7);
    let shapes = SHAPES.into_iter().filter(|(prompt, _, tokens)| prompt + tokens <= context);
    let case = |(length, samples, tokens)| {
        let prompt = (0..length).map(|_| (numbers.next() % vocabulary as u64) as u32).collect();
        Case { prompt, samples, tokens }
    };
    shapes.map(case).collect()
}

/// Prompts and what was drawn after them, as a pass of training has them.
pub struct Laid {
    /// Each prompt with one of its samples.
    pub sequences: Vec<Vec<u32>>,
    pub forest: TokenForest,
    /// Every token that is not the first of a sequence; sorted.
    pub targets: Vec<Target>,
    /// For each sequence, the index of the target of each token after the first.
    pub walks: Vec<Vec<usize>>,
}

impl Laid {
    pub fn new(groups: &[Group]) -> anyhow::Result<Self> {
        let of_group = |group: &Group| -> Vec<Vec<u32>> {
            group.rollouts.iter().map(|rollout| [&group.prompt[..], &rollout.tokens].concat()).collect()
        };
        let sequences: Vec<Vec<u32>> = groups.iter().flat_map(of_group).collect();
        let mut forest = TokenForest::default();
        let mut walk = |sequence: &Vec<u32>| -> Vec<Target> {
            let (mut row, mut targets) = (None, vec![]);
            for &token in sequence {
                targets.extend(row.map(|row| Target { row, token }));
                row = Some(forest.insert(row, token));
            }
            targets
        };
        let walked: Vec<Vec<Target>> = sequences.iter().map(&mut walk).collect();
        let targets: Vec<Target> = walked.iter().flatten().copied().collect::<BTreeSet<_>>().into_iter().collect();
        let index = |target: &Target| targets.binary_search(target).ok().context("a target is missing");
        let walks = walked.iter().map(|walk| walk.iter().map(index).collect()).collect::<anyhow::Result<_>>()?;
        Ok(Self { sequences, forest, targets, walks })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_fit_the_context_and_the_vocabulary() {
        let cases = cases(96, 64);
        assert_eq!(cases.len(), 3);
        assert!(cases.iter().flat_map(|case| &case.prompt).all(|&token| token < 96));
    }
}
