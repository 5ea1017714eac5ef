//! From votes to rewards: without labels, what can be rewarded is agreement.

use serde::{Deserialize, Serialize};

use crate::grading::{Class, Tally};

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

/// Whose votes are the label of a question.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Teacher {
    /// The policy's, anew in each step.
    #[default]
    Policy,
    /// Those of the version that the round started from, which is the last one that was promoted: labels stay what they
    /// were, and no error feeds itself within a round.
    Start,
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

/// The rewards of a question's rollouts, in their order, by the votes of `labels`, which may be their own; those without
/// an answer earn nothing. `None` if the question abstains: no majority, or one that the rule does not accept.
pub fn rewards(tally: &Tally, labels: &Tally, rule: RewardRule) -> Option<Vec<f64>> {
    let majority = labels.majority()?;
    if labels.majority_ratio() < rule.min_ratio || labels.margin() < rule.min_margin {
        return None;
    }
    let mut rewards = vec![0.0; tally.total];
    for class in &tally.classes {
        let reward = match rule.reward {
            Reward::Majority => f64::from(class.key == majority.key),
            Reward::Share => {
                let same = labels.classes.iter().find(|label| label.key == class.key);
                same.map_or(0, Class::votes) as f64 / labels.total as f64
            }
        };
        class.members.iter().for_each(|&member| rewards[member] = reward);
    }
    Some(rewards)
}

/// Rewards that say nothing about a rollout: every other one earns 1. Which rollout has which place is chance.
pub fn random_rewards(rollouts: usize) -> Vec<f64> {
    (0..rollouts).map(|place| (place % 2) as f64).collect()
}

/// Whether the leader of a vote would surely be the leader of more votes: how probable it is that its share is larger
/// than the second answer's, after a uniform prior over the two (Adaptive-Consistency, arXiv 2305.11860). For `a` and `b`
/// votes that is the chance of at least `b + 1` heads in `a + b + 1` fair throws.
pub fn is_sure(tally: &Tally, confidence: f64) -> bool {
    let votes = |place: usize| tally.classes.get(place).map_or(0, Class::votes) as i32;
    let (first, second) = (votes(0), votes(1));
    let throws = first + second + 1;
    let mut chance = 0.5f64.powi(throws);
    let mut at_most = 0.0;
    for heads in 0..=second {
        at_most += chance;
        chance *= f64::from(throws - heads) / f64::from(heads + 1);
    }
    first > 0 && 1.0 - at_most >= confidence
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(answers: &[&str]) -> Tally {
        Tally::count(answers.iter().map(|answer| (!answer.is_empty()).then(|| (*answer).to_owned())))
    }

    fn own_rewards(tally: &Tally, rule: RewardRule) -> Option<Vec<f64>> {
        rewards(tally, tally, rule)
    }

    const MAJORITY: RewardRule = RewardRule::TTRL;
    const SHARE: RewardRule = RewardRule { reward: Reward::Share, ..RewardRule::TTRL };

    #[test]
    fn agreement_with_the_majority_earns_one_and_everything_else_nothing() {
        assert_eq!(own_rewards(&tally(&["47", "46", "47.0", ""]), MAJORITY), Some(vec![1.0, 0.0, 1.0, 0.0]));
    }

    #[test]
    fn each_answer_earns_its_share_of_all_rollouts_and_no_answer_nothing() {
        assert_eq!(own_rewards(&tally(&["47", "46", "47.0", ""]), SHARE), Some(vec![0.5, 0.25, 0.5, 0.0]));
    }

    #[test]
    fn ties_and_weak_majorities_and_silence_abstain() {
        for rule in [MAJORITY, SHARE] {
            assert_eq!(own_rewards(&tally(&["47", "46"]), rule), None);
            let weak = tally(&["47", "47", "46", "", "", ""]);
            assert_eq!(own_rewards(&weak, RewardRule { min_ratio: 0.5, ..rule }), None);
            assert_eq!(own_rewards(&tally(&["", "", ""]), rule), None);
        }
    }

    #[test]
    fn a_lead_that_is_too_small_abstains() {
        let close = tally(&["47", "47", "47", "46", "46", "45"]);
        assert!(own_rewards(&close, RewardRule { min_margin: 0.16, ..MAJORITY }).is_some());
        assert_eq!(own_rewards(&close, RewardRule { min_margin: 0.17, ..MAJORITY }), None);
    }

    #[test]
    fn a_teachers_votes_decide_what_the_policys_answers_earn() {
        let teacher = tally(&["47", "47.0", "46", ""]);
        let policy = tally(&["46", "46", "47", "45", ""]);
        assert_eq!(rewards(&policy, &teacher, MAJORITY), Some(vec![0.0, 0.0, 1.0, 0.0, 0.0]));
        assert_eq!(rewards(&policy, &teacher, SHARE), Some(vec![0.25, 0.25, 0.5, 0.0, 0.0]));
        assert_eq!(rewards(&policy, &tally(&["46", "47"]), MAJORITY), None);
    }

    #[test]
    fn a_leader_is_sure_when_its_lead_is_no_chance() {
        let votes = |first: usize, second: usize| tally(&[vec!["1"; first], vec!["2"; second]].concat());
        // 1 - 1/32; then (1 + 7 + 21) / 128 of the throws are against it.
        assert!(is_sure(&votes(4, 0), 0.968) && !is_sure(&votes(4, 0), 0.969));
        assert!(is_sure(&votes(4, 2), 0.773) && !is_sure(&votes(4, 2), 0.774));
        assert!(is_sure(&votes(3, 3), 0.5) && !is_sure(&votes(3, 3), 0.501));
        assert!(!is_sure(&tally(&["", ""]), 0.0));
    }
}
