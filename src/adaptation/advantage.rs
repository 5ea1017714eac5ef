//! How much better a rollout was than its group.

use serde::{Deserialize, Serialize};

/// How a group's rewards become advantages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Advantage {
    /// `(r - mean) / (std + 1e-6)` (GRPO, arXiv 2402.03300): every group pushes as hard as every other.
    GroupNormalised,
    /// `r - mean` (Dr. GRPO, arXiv 2503.20783): a group pushes as hard as its rewards differ.
    MeanOnly,
    /// +1 for a reward above the mean, -1 for one below, 0 for the mean itself (after DDRL, arXiv 2604.21327): nothing
    /// is scaled by the group, so a rollout that is alone in its group pushes as hard as any other, not harder.
    Fixed,
}

impl Advantage {
    /// The advantages of a group's rollouts, from their rewards.
    pub fn of(self, rewards: &[f64]) -> Vec<f64> {
        match self {
            Self::GroupNormalised => group_normalised(rewards),
            Self::MeanOnly => mean_only(rewards),
            Self::Fixed => fixed(rewards),
        }
    }
}

/// Keeps the division finite where all rewards are equal (PRIME-RL/TTRL and verl use the same).
const EPSILON: f64 = 1e-6;

/// Group-normalised advantages (GRPO, arXiv 2402.03300): `(r - mean) / (std + 1e-6)` with the population's standard
/// deviation. All zeros for a degenerate group, whose rewards are all equal.
fn group_normalised(rewards: &[f64]) -> Vec<f64> {
    if is_degenerate(rewards) {
        return vec![0.0; rewards.len()];
    }
    let count = rewards.len() as f64;
    let mean = rewards.iter().sum::<f64>() / count;
    let variance = rewards.iter().map(|reward| (reward - mean).powi(2)).sum::<f64>() / count;
    rewards.iter().map(|reward| (reward - mean) / (variance.sqrt() + EPSILON)).collect()
}

/// `r - mean`. All zeros for a degenerate group.
fn mean_only(rewards: &[f64]) -> Vec<f64> {
    let mean = rewards.iter().sum::<f64>() / rewards.len() as f64;
    rewards.iter().map(|reward| reward - mean).collect()
}

/// The sign of `r - mean`. All zeros for a degenerate group.
fn fixed(rewards: &[f64]) -> Vec<f64> {
    if is_degenerate(rewards) {
        return vec![0.0; rewards.len()];
    }
    // A reward that is the mean may miss it by a rounding.
    let sign = |gap: f64| if gap.abs() < 1e-9 { 0.0 } else { gap.signum() };
    mean_only(rewards).into_iter().map(sign).collect()
}

/// Whether a group's rewards are all equal, so that nothing can be learnt from it.
pub fn is_degenerate(rewards: &[f64]) -> bool {
    rewards.windows(2).all(|pair| pair[0] == pair[1])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn half_right_gives_plus_and_minus_one() {
        let advantages = group_normalised(&[1.0, 0.0, 1.0, 0.0]);
        assert!((advantages[0] - 0.999998).abs() < 1e-9 && (advantages[1] + 0.999998).abs() < 1e-9);
    }

    #[test]
    fn without_the_division_a_group_that_differs_little_pushes_little() {
        assert_eq!(Advantage::MeanOnly.of(&[1.0, 0.0, 0.0, 0.0]), [0.75, -0.25, -0.25, -0.25]);
        assert_eq!(Advantage::MeanOnly.of(&[0.5, 0.25, 0.5, 0.75]), [0.0, -0.25, 0.0, 0.25]);
        assert_eq!(Advantage::MeanOnly.of(&[1.0, 1.0]), [0.0, 0.0]);
    }

    #[test]
    fn fixed_advantages_are_the_same_however_a_group_is_divided() {
        assert_eq!(Advantage::Fixed.of(&[1.0, 0.0, 0.0, 0.0]), [1.0, -1.0, -1.0, -1.0]);
        assert_eq!(Advantage::Fixed.of(&[0.5, 0.25, 0.5, 0.75]), [0.0, -1.0, 0.0, 1.0]);
        assert_eq!(Advantage::Fixed.of(&[0.1, 0.2, 0.3]), [-1.0, 0.0, 1.0], "0.1 + 0.2 + 0.3 is not 0.6");
    }

    #[test]
    fn a_degenerate_group_has_no_advantage() {
        // The mean of three times 0.1 is not 0.1 in floating point.
        assert_eq!(Advantage::Fixed.of(&[0.1; 3]), [0.0; 3]);
        assert_eq!(group_normalised(&[1.0, 1.0, 1.0]), [0.0; 3]);
        assert_eq!(group_normalised(&[]), [0.0; 0]);
    }

    proptest! {
        #[test]
        fn advantages_order_as_rewards_and_sum_to_zero_unless_fixed(rewards in prop::collection::vec(0u8..=1, 2..64)) {
            let rewards: Vec<f64> = rewards.into_iter().map(f64::from).collect();
            for advantage in [Advantage::GroupNormalised, Advantage::MeanOnly, Advantage::Fixed] {
                let advantages = advantage.of(&rewards);
                prop_assert!(advantage == Advantage::Fixed || advantages.iter().sum::<f64>().abs() < 1e-6);
                for (i, j) in (0..rewards.len()).zip(1..rewards.len()) {
                    prop_assert_eq!(rewards[i] > rewards[j], advantages[i] > advantages[j]);
                }
            }
        }
    }
}
