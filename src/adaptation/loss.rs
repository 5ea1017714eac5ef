//! The loss of one token: GRPO's (arXiv 2402.03300, with the clip range of PPO, arXiv 1707.06347), with its
//! derivatives.
//!
//! The loss of a step is a weighted sum over all its rollout tokens (see [`super::batch::LossAverage`]) of
//! `-min(ratio * A, clip(ratio, 1 - low, 1 + high) * A) + beta * kl - gamma * entropy`, where
//! `ratio = exp(log_prob - behaviour)`. Rollouts that agree up to a token share its row and so its term: the advantages
//! of all of them are summed, those above and those below zero apart because clipping treats them differently.

use serde::{Deserialize, Serialize};

use crate::engine::model::training::{Score, ScoreGradient};

/// How the divergence from the reference counts in the loss, by its estimate from a drawn token (J. Schulman,
/// "Approximating KL divergence", 2020). With `gap = log_prob - reference`:
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kl {
    /// Not at all. It is measured all the same.
    Off,
    /// `gap`. As a loss it holds nothing back: its gradient is zero on average over what the policy draws.
    K1,
    /// `gap^2 / 2`, whose gradient is on average that of the divergence.
    K2,
    /// `exp(-gap) + gap - 1` (GRPO, arXiv 2402.03300): its gradient is bounded where the policy has made a token
    /// likelier and grows with `exp` where it has made one less likely.
    K3,
}

impl Kl {
    /// The estimate at a gap, and its derivative with respect to the policy's log-probability.
    fn at(self, gap: f64) -> (f64, f64) {
        match self {
            Self::Off => (0.0, 0.0),
            Self::K1 => (gap, 1.0),
            Self::K2 => (0.5 * gap * gap, gap),
            Self::K3 => ((-gap).exp() + gap - 1.0, 1.0 - (-gap).exp()),
        }
    }
}

/// Which version the divergence is measured from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KlReference {
    /// The base model: whatever rounds do, they do not lead far from it.
    Base,
    /// The version that the round started from, which is the last one that was promoted: each round may go as far
    /// again.
    Start,
}

/// What the loss of a distinct token depends on, apart from the policy.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Term {
    /// Sum of the positive advantages of the rollouts through this token, each times the weight that it has in the
    /// loss.
    pub positive: f64,
    /// The same of the negative ones.
    pub negative: f64,
    /// Sum of the weights of the rollouts through it.
    pub weight: f64,
    /// Log-probability under the policy that drew it.
    pub behaviour: f32,
    /// Log-probability under the reference policy.
    pub reference: f32,
}

/// The constants of the loss.
#[derive(Clone, Copy, Debug)]
pub struct LossConfig {
    pub clip_low: f64,
    pub clip_high: f64,
    pub kl: Kl,
    /// `beta`.
    pub kl_coefficient: f64,
    /// `gamma`.
    pub entropy_coefficient: f64,
}

/// The loss of a term, its derivatives and its part in the step's metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct TermLoss {
    pub loss: f64,
    pub gradient: ScoreGradient,
    /// `weight * k3`, whatever estimate is in the loss: it is the one that is never negative and averages to the
    /// divergence.
    pub kl: f64,
    /// The part of `weight` whose ratio is outside the clip range.
    pub outside: f64,
}

/// The loss of one term where the policy scores its token so.
pub fn grpo(term: &Term, score: Score, config: &LossConfig) -> TermLoss {
    let ratio = f64::from(score.log_prob - term.behaviour).exp();
    let (low, high) = (1.0 - config.clip_low, 1.0 + config.clip_high);
    // min(ratio * A, clip(ratio) * A): for A > 0 the ratio counts up to `high`, for A < 0 down to `low`.
    let surrogate = ratio.min(high) * term.positive + ratio.max(low) * term.negative;
    let rising = if ratio < high { ratio * term.positive } else { 0.0 };
    let falling = if ratio > low { ratio * term.negative } else { 0.0 };
    let gap = f64::from(score.log_prob - term.reference);
    let (kl, kl_slope) = config.kl.at(gap);
    let (beta, gamma) = (config.kl_coefficient * term.weight, config.entropy_coefficient * term.weight);
    TermLoss {
        loss: -surrogate + beta * kl - gamma * f64::from(score.entropy),
        gradient: ScoreGradient { log_prob: (-(rising + falling) + beta * kl_slope) as f32, entropy: -gamma as f32 },
        kl: term.weight * Kl::K3.at(gap).0,
        outside: if ratio < low || ratio > high { term.weight } else { 0.0 },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CONFIG: LossConfig =
        LossConfig { clip_low: 0.2, clip_high: 0.28, kl: Kl::K3, kl_coefficient: 0.05, entropy_coefficient: 0.0 };

    fn at(term: &Term, log_prob: f32, config: &LossConfig) -> TermLoss {
        grpo(term, Score { log_prob, entropy: 1.5 }, config)
    }

    #[test]
    fn on_policy_without_divergence_the_derivative_is_minus_the_advantage() {
        let term = Term { positive: 0.5, negative: -0.2, weight: 0.1, behaviour: -1.0, reference: -1.0 };
        let loss = at(&term, -1.0, &CONFIG);
        assert!((loss.gradient.log_prob + 0.3).abs() < 1e-6);
        assert_eq!((loss.kl, loss.outside), (0.0, 0.0));
    }

    #[test]
    fn a_ratio_beyond_the_clip_range_gets_no_push_further_out() {
        let term = Term { positive: 1.0, negative: 0.0, weight: 0.0, behaviour: -2.0, reference: -1.0 };
        assert_eq!(at(&term, -1.0, &CONFIG).gradient.log_prob, 0.0);
        let term = Term { positive: 0.0, negative: -1.0, weight: 0.0, behaviour: -1.0, reference: -1.0 };
        assert_eq!(at(&term, -2.0, &CONFIG).gradient.log_prob, 0.0);
    }

    #[test]
    fn the_entropy_bonus_lowers_the_loss_by_the_weighted_entropy() {
        let term = Term { weight: 0.5, behaviour: -1.0, reference: -1.0, ..Term::default() };
        let loss = at(&term, -1.0, &LossConfig { entropy_coefficient: 0.1, ..CONFIG });
        assert!((loss.loss + 0.1 * 0.5 * 1.5).abs() < 1e-9 && (loss.gradient.entropy + 0.05).abs() < 1e-9);
    }

    #[test]
    fn a_divergence_that_is_off_is_still_measured() {
        let term = Term { weight: 1.0, behaviour: -1.0, reference: -2.0, ..Term::default() };
        let loss = at(&term, -1.0, &LossConfig { kl: Kl::Off, ..CONFIG });
        assert_eq!((loss.loss, loss.gradient.log_prob), (0.0, 0.0));
        assert!((loss.kl - (-1.0f64).exp()).abs() < 1e-12);
    }

    proptest! {
        #[test]
        fn the_derivative_is_that_of_finite_differences(
            positive in 0.0..2.0f64, negative in -2.0..0.0f64, weight in 0.0..1.0f64,
            behaviour in -5.0..0.0f32, reference in -5.0..0.0f32, log_prob in -5.0..0.0f32,
            kl in prop::sample::select(vec![Kl::Off, Kl::K1, Kl::K2, Kl::K3]),
        ) {
            let term = Term { positive, negative, weight, behaviour, reference };
            let ratio = f64::from(log_prob - behaviour).exp();
            // At the corners of the clip range the loss has no derivative.
            prop_assume!((ratio - 0.8).abs() > 0.02 && (ratio - 1.28).abs() > 0.02);
            let step = 1.0f32 / 512.0;
            let config = LossConfig { kl, kl_coefficient: 0.5, ..CONFIG };
            let at = |log_prob| at(&term, log_prob, &config);
            let slope = (at(log_prob + step).loss - at(log_prob - step).loss)
                / f64::from((log_prob + step) - (log_prob - step));
            let found = f64::from(at(log_prob).gradient.log_prob);
            let scale = 1.0 + ratio + f64::from(reference - log_prob).exp();
            prop_assert!((slope - found).abs() < 1e-3 * scale, "{} {}", slope, found);
        }
    }
}
