//! From votes to rewards: without labels, what can be rewarded is agreement.

use serde::{Deserialize, Serialize};

use crate::grading::Tally;

/// What a rollout earns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reward {
    /// 1 for the majority's answer and 0 for every other (TTRL, arXiv 2504.16084).
    Majority,
    /// The share of all rollouts that gave the same answer (EMPO, arXiv 2504.05812). Where the majority is clear it is the
    /// same; where two answers are close, neither is pushed far ahead of the other by a vote more or less.
    Share,
}

/// Which questions are learnt from, and what their rollouts earn. Shares are of all rollouts, those without an answer
/// included.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RewardRule {
    pub reward: Reward,
    /// A question whose majority has a smaller share abstains.
    pub min_ratio: f64,
    /// So does one whose majority leads the second answer by less.
    pub min_margin: f64,
}

impl RewardRule {
    /// TTRL's own: whichever answer has more votes than every other.
    pub const TTRL: Self = Self { reward: Reward::Majority, min_ratio: 0.0, min_margin: 0.0 };
}

/// The rewards of a question's rollouts, in their order; those without an answer earn nothing. `None` if the question
/// abstains: no majority, or one that the rule does not accept.
pub fn rewards(tally: &Tally, rule: RewardRule) -> Option<Vec<f64>> {
    let majority = tally.majority()?;
    if tally.majority_ratio() < rule.min_ratio || tally.margin() < rule.min_margin {
        return None;
    }
    let mut rewards = vec![0.0; tally.total];
    match rule.reward {
        Reward::Majority => majority.members.iter().for_each(|&member| rewards[member] = 1.0),
        Reward::Share => {
            for class in &tally.classes {
                let share = class.votes() as f64 / tally.total as f64;
                class.members.iter().for_each(|&member| rewards[member] = share);
            }
        }
    }
    Some(rewards)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(answers: &[&str]) -> Tally {
        Tally::count(answers.iter().map(|answer| (!answer.is_empty()).then(|| (*answer).to_owned())))
    }

    const MAJORITY: RewardRule = RewardRule::TTRL;
    const SHARE: RewardRule = RewardRule { reward: Reward::Share, ..RewardRule::TTRL };

    #[test]
    fn agreement_with_the_majority_earns_one_and_everything_else_nothing() {
        assert_eq!(rewards(&tally(&["47", "46", "47.0", ""]), MAJORITY), Some(vec![1.0, 0.0, 1.0, 0.0]));
    }

    #[test]
    fn each_answer_earns_its_share_of_all_rollouts_and_no_answer_nothing() {
        assert_eq!(rewards(&tally(&["47", "46", "47.0", ""]), SHARE), Some(vec![0.5, 0.25, 0.5, 0.0]));
    }

    #[test]
    fn ties_and_weak_majorities_and_silence_abstain() {
        for rule in [MAJORITY, SHARE] {
            assert_eq!(rewards(&tally(&["47", "46"]), rule), None);
            let weak = tally(&["47", "47", "46", "", "", ""]);
            assert_eq!(rewards(&weak, RewardRule { min_ratio: 0.5, ..rule }), None);
            assert_eq!(rewards(&tally(&["", "", ""]), rule), None);
        }
    }

    #[test]
    fn a_lead_that_is_too_small_abstains() {
        let close = tally(&["47", "47", "47", "46", "46", "45"]);
        assert!(rewards(&close, RewardRule { min_margin: 0.16, ..MAJORITY }).is_some());
        assert_eq!(rewards(&close, RewardRule { min_margin: 0.17, ..MAJORITY }), None);
    }
}
