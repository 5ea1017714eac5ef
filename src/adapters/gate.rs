//! Whether a candidate may go live: it meets the live version on questions that it was not trained on.
//!
//! Without labels, what can be seen is whether answers agree with each other, whether there are answers at all, how long
//! they are, and how far the candidate has moved from the base model. Agreement that rises is no proof of being right;
//! agreement that falls, or answers that vanish, is proof of damage. Where an operator keeps evaluation sets, the two
//! are compared on what they get right, too. `docs/gate.md` explains the rules.

use serde::{Deserialize, Serialize};

use crate::{
    grading::Accuracy,
    statistics::{Interval, Paired},
};

/// What a candidate must fulfil to go live.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GateRules {
    /// Part of a round's questions that is kept out of training, for the gate.
    pub held_back: f64,
    /// The mean majority ratio may fall by at most this much.
    pub max_agreement_drop: f64,
    /// The share of responses with an answer may fall by at most this much.
    pub max_answer_rate_drop: f64,
    /// Responses may become at most this many times as long, or as short, as the live version's.
    pub max_length_ratio: f64,
    /// The largest mean divergence from the base model, in nats a token.
    pub max_kl: f64,
    /// Samples of each question of an evaluation set; their majority is right or wrong.
    pub evaluation_samples: u32,
    /// By how much the share of right answers may have fallen on an evaluation set, and still be no reason to doubt.
    pub max_accuracy_drop: f64,
    /// How sure one has to be of either: at each end of the interval of the difference.
    pub confidence: f64,
    /// What becomes of a candidate that keeps to all rules.
    pub when_passed: Decision,
    /// What becomes of one that keeps to all rules but those of an evaluation set, which leaves it open.
    pub when_unsure: Decision,
}

impl Default for GateRules {
    fn default() -> Self {
        Self {
            held_back: 0.2,
            max_agreement_drop: 0.05,
            max_answer_rate_drop: 0.05,
            max_length_ratio: 2.0,
            max_kl: 2.0,
            evaluation_samples: 8,
            max_accuracy_drop: 0.05,
            confidence: 0.95,
            when_passed: Decision::Promote,
            when_unsure: Decision::Hold,
        }
    }
}

/// What becomes of a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Decision {
    Promote,
    /// A person decides.
    Hold,
    Reject,
}

/// What examining a candidate came to; the worst is the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    Passed,
    /// Too few labels to tell.
    Unsure,
    Failed,
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

/// What both versions showed without labels.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Shown {
    /// How many questions were asked, and whether they were kept out of training.
    pub questions: usize,
    pub held_back: bool,
    pub live: Figures,
    pub candidate: Figures,
    /// Divergence of the candidate from the base model, k1 estimate in nats a token.
    pub kl: f64,
}

/// What both versions get right of an evaluation set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Compared {
    pub set: String,
    pub counts: Paired,
    /// Items that could not be asked or marked under the settings of now.
    pub skipped: usize,
    /// More of what each shows of the items, to look at: only `counts` decide.
    pub live: Accuracy,
    pub candidate: Accuracy,
}

/// What that says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tested {
    #[serde(flatten)]
    pub compared: Compared,
    /// The candidate's share of right answers less the live version's, and its interval.
    pub difference: f64,
    pub interval: Interval,
    pub outcome: Outcome,
}

/// The gate's decision with what it rests on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    pub decision: Decision,
    pub outcome: Outcome,
    /// What speaks against the candidate, or leaves it open.
    pub reasons: Vec<String>,
    #[serde(flatten)]
    pub shown: Shown,
    /// One for each evaluation set.
    pub evaluations: Vec<Tested>,
}

/// Judges a candidate.
pub fn judge(rules: &GateRules, shown: Shown, compared: Vec<Compared>) -> Verdict {
    let mut reasons = damage(rules, &shown);
    let mut outcome = if reasons.is_empty() { Outcome::Passed } else { Outcome::Failed };
    let evaluations: Vec<Tested> = compared.into_iter().map(|compared| test(rules, compared)).collect();
    for tested in &evaluations {
        outcome = outcome.max(tested.outcome);
        reasons.extend(reason(rules, tested));
    }
    let decision = match outcome {
        Outcome::Passed => rules.when_passed,
        Outcome::Unsure => rules.when_unsure,
        Outcome::Failed => Decision::Reject,
    };
    if outcome == Outcome::Passed && decision != Decision::Promote {
        reasons.push("it keeps to all rules, and `learning.gate.when_passed` says to promote none".into());
    }
    Verdict { decision, outcome, reasons, shown, evaluations }
}

/// What speaks against a candidate without labels.
fn damage(rules: &GateRules, shown: &Shown) -> Vec<String> {
    let Shown { live, candidate, kl, .. } = shown;
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
    let (long, short) = (candidate.mean_tokens.max(live.mean_tokens), candidate.mean_tokens.min(live.mean_tokens));
    if long > short * rules.max_length_ratio {
        reasons.push(format!(
            "the mean length of responses went from {:.1} to {:.1} tokens, by more than a factor of {}",
            live.mean_tokens, candidate.mean_tokens, rules.max_length_ratio
        ));
    }
    if kl.is_nan() || *kl > rules.max_kl {
        reasons
            .push(format!("the divergence from the base model is {kl:.3} nats a token, the limit is {}", rules.max_kl));
    }
    reasons
}

/// A candidate that is proven worse fails, by however little: falls that are allowed one by one would add up from round
/// to round. One that is proven no worse than allowed passes.
fn test(rules: &GateRules, compared: Compared) -> Tested {
    let interval = compared.counts.interval(rules.confidence);
    let outcome = if interval.high < 0.0 {
        Outcome::Failed
    } else if interval.low >= -rules.max_accuracy_drop {
        Outcome::Passed
    } else {
        Outcome::Unsure
    };
    Tested { difference: compared.counts.difference(), interval, outcome, compared }
}

/// Why a set does not speak for the candidate.
fn reason(rules: &GateRules, tested: &Tested) -> Option<String> {
    let Tested { compared: Compared { set, counts, .. }, difference, interval, outcome } = tested;
    let what = match outcome {
        Outcome::Passed => return None,
        Outcome::Unsure => format!("does not prove that accuracy fell by at most {}", rules.max_accuracy_drop),
        Outcome::Failed => "proves that accuracy fell".into(),
    };
    Some(format!(
        "the set {set} {what}: of {} items only the live version has {} right and only the candidate {}; the difference \
         is {difference:+.3}, from {:+.3} to {:+.3}",
        counts.total(),
        counts.only_live,
        counts.only_candidate,
        interval.low,
        interval.high
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statistics::normal_quantile;

    const LIVE: Figures = Figures { majority_ratio: 0.6, answer_rate: 0.9, mean_tokens: 4.0 };

    fn shown(candidate: Figures, kl: f64) -> Shown {
        Shown { questions: 8, held_back: true, live: LIVE, candidate, kl }
    }

    fn verdict(candidate: Figures, kl: f64) -> Verdict {
        judge(&GateRules::default(), shown(candidate, kl), vec![])
    }

    /// The verdict on a candidate that differs from the live version on so many items of 200.
    fn labelled(rules: &GateRules, only_live: usize, only_candidate: usize) -> Verdict {
        let counts = Paired { both: 100, only_live, only_candidate, neither: 100 - only_live - only_candidate };
        judge(rules, shown(LIVE, 0.1), vec![Compared { set: "sums".into(), counts, ..Compared::default() }])
    }

    #[test]
    fn a_candidate_that_is_no_worse_is_promoted() {
        for candidate in [LIVE, Figures { majority_ratio: 0.9, ..LIVE }] {
            let verdict = verdict(candidate, 0.1);
            assert_eq!((verdict.decision, verdict.outcome), (Decision::Promote, Outcome::Passed));
            assert!(verdict.reasons.is_empty());
        }
    }

    #[test]
    fn each_kind_of_damage_is_refused_with_its_reason() {
        let reason = |candidate, kl| {
            let verdict = verdict(candidate, kl);
            assert_eq!((verdict.decision, verdict.outcome), (Decision::Reject, Outcome::Failed));
            verdict.reasons.join("; ")
        };
        assert!(reason(Figures { majority_ratio: 0.5, ..LIVE }, 0.1).contains("agreement fell from 0.600 to 0.500"));
        assert!(reason(Figures { answer_rate: 0.5, ..LIVE }, 0.1).contains("responses with an answer fell"));
        assert!(reason(Figures { mean_tokens: 8.1, ..LIVE }, 0.1).contains("went from 4.0 to 8.1 tokens"));
        assert!(reason(Figures { mean_tokens: 1.9, ..LIVE }, 0.1).contains("went from 4.0 to 1.9 tokens"));
        assert!(reason(LIVE, 5.0).contains("divergence"));
        assert!(reason(LIVE, f64::NAN).contains("divergence"));
    }

    #[test]
    fn labels_speak_for_a_candidate_or_against_it_or_leave_it_open() {
        let rules = GateRules::default();
        for ((only_live, only_candidate), outcome, decision) in [
            ((0, 0), Outcome::Passed, Decision::Promote),
            ((10, 30), Outcome::Passed, Decision::Promote),
            ((20, 16), Outcome::Unsure, Decision::Hold),
            ((24, 9), Outcome::Failed, Decision::Reject),
        ] {
            let verdict = labelled(&rules, only_live, only_candidate);
            assert_eq!((verdict.outcome, verdict.decision), (outcome, decision), "{verdict:?}");
            assert_eq!(verdict.reasons.is_empty(), outcome == Outcome::Passed);
        }
        let reason = labelled(&rules, 20, 16).reasons.remove(0);
        assert!(
            reason.starts_with("the set sums does not prove that accuracy fell by at most 0.05: of 200"),
            "{reason}"
        );
        // Allowed falls would add up from round to round.
        let many = Paired { both: 9000, only_live: 120, only_candidate: 60, neither: 820 };
        let tested = test(&rules, Compared { set: "sums".into(), counts: many, ..Compared::default() });
        assert!(tested.interval.low > -rules.max_accuracy_drop && tested.outcome == Outcome::Failed, "{tested:?}");
    }

    #[test]
    fn the_settings_say_what_becomes_of_a_candidate_that_passed_and_of_one_that_nothing_is_proven_of() {
        use Decision::*;
        for when in [Promote, Hold, Reject] {
            let rules = GateRules { when_passed: when, when_unsure: Promote, ..GateRules::default() };
            assert_eq!(labelled(&rules, 0, 0).decision, when);
            assert_eq!(labelled(&rules, 0, 0).reasons.is_empty(), when == Promote);
            assert_eq!(labelled(&rules, 20, 16).decision, Promote);
            let rules = GateRules { when_unsure: when, ..GateRules::default() };
            assert_eq!(labelled(&rules, 20, 16).decision, when);
            assert_eq!(labelled(&rules, 24, 9).decision, Reject);
        }
    }

    /// How many labels are enough, four times of five, where both versions are right equally often.
    fn labels(margin: f64, differing: f64) -> usize {
        let rules = GateRules { max_accuracy_drop: margin, ..GateRules::default() };
        let passes = |n: &usize| {
            let n = *n as f64;
            // Of so many items on which they differ, the luck of one in five makes the candidate lose so many more.
            let unlucky = normal_quantile(0.8) * (n * differing).sqrt();
            let count = |more: f64| ((n * differing + more) / 2.0).round().max(0.0) as usize;
            let (only_live, only_candidate) = (count(unlucky), count(-unlucky));
            let both = n as usize - only_live - only_candidate;
            let counts = Paired { both, only_live, only_candidate, neither: 0 };
            let compared = Compared { counts, ..Compared::default() };
            test(&rules, compared).outcome == Outcome::Passed
        };
        (10..).step_by(10).find(passes).unwrap()
    }

    #[test]
    fn the_documentation_says_how_many_labels_are_needed() {
        let page = include_str!("../../docs/gate.md");
        for margin in [0.02, 0.03, 0.05, 0.1] {
            let row = [0.05, 0.1, 0.2, 0.3].map(|differing| labels(margin, differing).to_string());
            let row = format!("| {margin} | {} |", row.join(" | "));
            assert!(page.contains(&row), "{row}");
        }
    }

    #[test]
    fn a_set_of_which_nothing_could_be_asked_proves_nothing() {
        let compared = Compared { set: "sums".into(), skipped: 9, ..Compared::default() };
        assert_eq!(judge(&GateRules::default(), shown(LIVE, 0.1), vec![compared]).outcome, Outcome::Unsure);
    }
}
