//! The GRPO loss of one token (arXiv 2402.03300, with the clip range of PPO, arXiv 1707.06347), with its derivative.
//!
//! The loss of a step is the mean over all its rollout tokens of
//! `-min(ratio * A, clip(ratio, 1 - low, 1 + high) * A) + beta * k3`, where `ratio = exp(log_prob - behaviour)` and
//! `k3 = exp(reference - log_prob) - (reference - log_prob) - 1`. Rollouts that agree up to a token share its row and so
//! its term: the advantages of all of them are summed, those above and those below zero apart because clipping treats
//! them differently. What was left out of GRPO: nothing is divided by a response's own length, since the mean is
//! over tokens (as in DAPO and in TTRL's own runs).

/// What the loss of a distinct token depends on, apart from the policy.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Term {
    /// Sum of the positive advantages of the rollouts through this token, over the tokens of the step.
    pub positive: f64,
    /// The same of the negative ones.
    pub negative: f64,
    /// How many rollouts go through it, over the tokens of the step.
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
    /// `beta`.
    pub kl_coefficient: f64,
}

/// The loss of a term, its derivative and its part in the step's metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct TermLoss {
    pub loss: f64,
    /// d loss / d log_prob.
    pub derivative: f64,
    /// `weight * k3`.
    pub kl: f64,
    /// The part of `weight` whose ratio is outside the clip range.
    pub outside: f64,
}

/// The loss of one term at the policy's log-probability.
pub fn grpo(term: &Term, log_prob: f32, config: &LossConfig) -> TermLoss {
    let ratio = f64::from(log_prob - term.behaviour).exp();
    let (low, high) = (1.0 - config.clip_low, 1.0 + config.clip_high);
    // min(ratio * A, clip(ratio) * A): for A > 0 the ratio counts up to `high`, for A < 0 down to `low`.
    let surrogate = ratio.min(high) * term.positive + ratio.max(low) * term.negative;
    let rising = if ratio < high { ratio * term.positive } else { 0.0 };
    let falling = if ratio > low { ratio * term.negative } else { 0.0 };
    let gap = f64::from(term.reference - log_prob);
    let k3 = gap.exp() - gap - 1.0;
    let beta = config.kl_coefficient * term.weight;
    TermLoss {
        loss: -surrogate + beta * k3,
        derivative: -(rising + falling) + beta * (1.0 - gap.exp()),
        kl: term.weight * k3,
        outside: if ratio < low || ratio > high { term.weight } else { 0.0 },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CONFIG: LossConfig = LossConfig { clip_low: 0.2, clip_high: 0.28, kl_coefficient: 0.05 };

    #[test]
    fn on_policy_without_divergence_the_derivative_is_minus_the_advantage() {
        let term = Term { positive: 0.5, negative: -0.2, weight: 0.1, behaviour: -1.0, reference: -1.0 };
        let loss = grpo(&term, -1.0, &CONFIG);
        assert!((loss.derivative + 0.3).abs() < 1e-12);
        assert_eq!((loss.kl, loss.outside), (0.0, 0.0));
    }

    #[test]
    fn a_ratio_beyond_the_clip_range_gets_no_push_further_out() {
        let term = Term { positive: 1.0, negative: 0.0, weight: 0.0, behaviour: -2.0, reference: -1.0 };
        assert_eq!(grpo(&term, -1.0, &CONFIG).derivative, 0.0);
        let term = Term { positive: 0.0, negative: -1.0, weight: 0.0, behaviour: -1.0, reference: -1.0 };
        assert_eq!(grpo(&term, -2.0, &CONFIG).derivative, 0.0);
    }

    proptest! {
        #[test]
        fn the_derivative_is_that_of_finite_differences(
            positive in 0.0..2.0f64, negative in -2.0..0.0f64, weight in 0.0..1.0f64,
            behaviour in -5.0..0.0f32, reference in -5.0..0.0f32, log_prob in -5.0..0.0f32,
        ) {
            let term = Term { positive, negative, weight, behaviour, reference };
            let ratio = f64::from(log_prob - behaviour).exp();
            // At the corners of the clip range the loss has no derivative.
            prop_assume!((ratio - 0.8).abs() > 0.02 && (ratio - 1.28).abs() > 0.02);
            let step = 1.0f32 / 512.0;
            let at = |log_prob| grpo(&term, log_prob, &CONFIG);
            let slope = (at(log_prob + step).loss - at(log_prob - step).loss)
                / f64::from((log_prob + step) - (log_prob - step));
            let found = at(log_prob).derivative;
            prop_assert!((slope - found).abs() < 1e-3 * (1.0 + ratio + f64::from(reference - log_prob).exp()), "{} {}", slope, found);
        }
    }
}
