//! From votes to rewards: the majority is the pseudo-label, agreement with it is the reward.

use crate::grading::Tally;

/// The rewards of a question's rollouts, in their order: 1 for those that gave the majority's answer, 0 for the
/// others and for those without an answer. `None` if the question abstains: no majority, or one whose share of all
/// rollouts is below `min_majority_ratio`.
pub fn rewards(tally: &Tally, min_majority_ratio: f64) -> Option<Vec<f64>> {
    let majority = tally.majority()?;
    if tally.majority_ratio() < min_majority_ratio {
        return None;
    }
    let mut rewards = vec![0.0; tally.total];
    majority.members.iter().for_each(|&member| rewards[member] = 1.0);
    Some(rewards)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(answers: &[&str]) -> Tally {
        Tally::count(answers.iter().map(|answer| (!answer.is_empty()).then(|| (*answer).to_owned())))
    }

    #[test]
    fn agreement_with_the_majority_earns_one_and_everything_else_nothing() {
        assert_eq!(rewards(&tally(&["47", "46", "47.0", ""]), 0.2), Some(vec![1.0, 0.0, 1.0, 0.0]));
    }

    #[test]
    fn ties_and_weak_majorities_and_silence_abstain() {
        assert_eq!(rewards(&tally(&["47", "46"]), 0.0), None);
        assert_eq!(rewards(&tally(&["47", "47", "46", "", "", ""]), 0.5), None);
        assert_eq!(rewards(&tally(&["", "", ""]), 0.0), None);
    }
}
