//! Whether a candidate may go live: it meets the live version on questions that it was not trained on.
//!
//! Without labels, what can be seen is whether answers agree with each other, whether there are answers at all, and how
//! far the candidate has moved from the base model. Agreement that rises is no proof of being right; agreement that
//! falls, or answers that vanish, is proof of damage.

use serde::{Deserialize, Serialize};

/// What a candidate must fulfil on the held-back questions to go live.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GateRules {
    /// Part of a round's questions that is kept out of training, for the gate.
    pub held_back: f64,
    /// The mean majority ratio may fall by at most this much.
    pub max_agreement_drop: f64,
    /// The share of responses with an answer may fall by at most this much.
    pub max_answer_rate_drop: f64,
    /// The largest mean divergence from the base model, in nats a token.
    pub max_kl: f64,
    /// Samples of each question of an evaluation set; their majority is right or wrong.
    pub evaluation_samples: u32,
}

impl Default for GateRules {
    fn default() -> Self {
        Self {
            held_back: 0.2,
            max_agreement_drop: 0.05,
            max_answer_rate_drop: 0.05,
            max_kl: 2.0,
            evaluation_samples: 8,
        }
    }
}

/// What one version showed on the gate's questions.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// Mean share of the majority over all rollouts of a question.
    pub majority_ratio: f64,
    /// Share of rollouts with an answer.
    pub answer_rate: f64,
    /// Generated tokens of a rollout.
    pub mean_tokens: f64,
}

/// The gate's decision with what it rests on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    pub promote: bool,
    /// What speaks against the candidate; empty if it is promoted.
    pub reasons: Vec<String>,
    /// How many questions were asked, and whether they were kept out of training.
    pub questions: usize,
    pub held_back: bool,
    pub live: Figures,
    pub candidate: Figures,
    /// Divergence of the candidate from the base model, k1 estimate in nats a token.
    pub kl: f64,
}

/// Judges a candidate.
pub fn judge(
    rules: &GateRules,
    (questions, held_back): (usize, bool),
    live: Figures,
    candidate: Figures,
    kl: f64,
) -> Verdict {
    let mut reasons = Vec::new();
    if candidate.majority_ratio < live.majority_ratio - rules.max_agreement_drop {
        reasons.push(format!(
            "agreement fell from {:.3} to {:.3}, by more than {:.3}",
            live.majority_ratio, candidate.majority_ratio, rules.max_agreement_drop
        ));
    }
    if candidate.answer_rate < live.answer_rate - rules.max_answer_rate_drop {
        reasons.push(format!(
            "responses with an answer fell from {:.3} to {:.3}, by more than {:.3}",
            live.answer_rate, candidate.answer_rate, rules.max_answer_rate_drop
        ));
    }
    if kl.is_nan() || kl > rules.max_kl {
        reasons
            .push(format!("the divergence from the base model is {kl:.3} nats a token, the limit is {}", rules.max_kl));
    }
    Verdict { promote: reasons.is_empty(), reasons, questions, held_back, live, candidate, kl }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIVE: Figures = Figures { majority_ratio: 0.6, answer_rate: 0.9, mean_tokens: 4.0 };

    fn verdict(candidate: Figures, kl: f64) -> Verdict {
        judge(&GateRules::default(), (8, true), LIVE, candidate, kl)
    }

    #[test]
    fn a_candidate_that_is_no_worse_is_promoted() {
        assert!(verdict(LIVE, 0.1).promote);
        assert!(verdict(Figures { majority_ratio: 0.9, ..LIVE }, 0.1).promote);
    }

    #[test]
    fn each_kind_of_damage_is_refused_with_its_reason() {
        let reason = |candidate, kl| verdict(candidate, kl).reasons.join("; ");
        assert!(reason(Figures { majority_ratio: 0.5, ..LIVE }, 0.1).contains("agreement fell from 0.600 to 0.500"));
        assert!(reason(Figures { answer_rate: 0.5, ..LIVE }, 0.1).contains("responses with an answer fell"));
        assert!(reason(LIVE, 5.0).contains("divergence"));
        assert!(reason(LIVE, f64::NAN).contains("divergence"));
    }
}
