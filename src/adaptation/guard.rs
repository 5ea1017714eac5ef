//! When a round is given up before its last step.
//!
//! Agreement always rises while a policy learns from its own majorities, and beyond some point it rises without its
//! answers being right more often (arXiv 2505.21444, 2603.08660). No label says when. What can be seen is a policy that
//! falls apart (numbers, gradients, divergence, entropy, length, answers), and one that agrees less on questions that
//! are held back while it agrees more on those that it is trained on. `docs/guards.md` has what each rule saw.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::adaptation::{learner::VoteMetrics, trainer::UpdateMetrics};

/// What the steps of a round must keep to. The defaults are between what good runs and runs that collapsed showed, see
/// `docs/guards.md`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GuardRules {
    /// Whether rounds are watched at all.
    pub enabled: bool,
    /// The largest gradient norm before it is scaled down.
    pub max_gradient_norm: f64,
    /// The largest k3 divergence from the base model over the tokens that a step trains on, in nats a token.
    pub max_kl: f64,
    /// The smallest entropy over the tokens that a step trains on, as a part of that of the first update: with nothing
    /// left to choose from, updates only make the policy surer of what it says.
    pub min_entropy: f64,
    /// The smallest mean length of a rollout, as a part of that of the first step.
    pub min_length: f64,
    /// The share of rollouts with an answer may fall by at most this much from the first step.
    pub max_answer_rate_drop: f64,
    /// The mean majority ratio of the held-back questions may fall by at most this much from its best of the round. Of
    /// fewer than 40, more: a mean of `n` questions varies as `1/sqrt(n)`.
    pub max_held_back_drop: f64,
    /// Where no question is held back: the mean majority ratio may rise by at most this much in one update. Of fewer
    /// than 20 questions, more.
    pub max_agreement_rise: f64,
}

/// How many held-back questions, and how many training questions, the limits on agreement were chosen with.
const HELD_BACK_QUESTIONS: usize = 40;
const TRAINING_QUESTIONS: usize = 20;

impl Default for GuardRules {
    fn default() -> Self {
        Self {
            enabled: true,
            max_gradient_norm: 10.0,
            max_kl: 4.0,
            min_entropy: 0.15,
            min_length: 0.5,
            max_answer_rate_drop: 0.1,
            max_held_back_drop: 0.06,
            max_agreement_rise: 0.17,
        }
    }
}

/// Which rule a step broke; the word is the label of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    NotFinite,
    GradientNorm,
    Divergence,
    Entropy,
    Length,
    AnswerRate,
    HeldBackAgreement,
    AgreementRise,
}

impl Rule {
    /// As in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::NotFinite => "not-finite",
            Self::GradientNorm => "gradient-norm",
            Self::Divergence => "divergence",
            Self::Entropy => "entropy",
            Self::Length => "length",
            Self::AnswerRate => "answer-rate",
            Self::HeldBackAgreement => "held-back-agreement",
            Self::AgreementRise => "agreement-rise",
        }
    }
}

/// What one step showed, without labels: the votes before its update, and the update.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Shown {
    pub votes: VoteMetrics,
    /// Of the held-back questions, where there are any.
    pub held_back: Option<VoteMetrics>,
    /// There is none where no question could teach anything.
    pub update: Option<UpdateMetrics>,
}

/// Why a round was given up.
#[derive(Clone, Debug, PartialEq)]
pub struct Alarm {
    pub rule: Rule,
    /// Counts from 1.
    pub step: usize,
    /// What was seen and what the limit is.
    what: String,
}

impl fmt::Display for Alarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "given up after step {}: {}", self.step, self.what)
    }
}

/// Looks at the last of a round's steps in the light of those before it.
pub fn alarm(rules: &GuardRules, steps: &[Shown]) -> Option<Alarm> {
    if !rules.enabled {
        return None;
    }
    let (rule, what) = broken_update(rules, steps)
        .or_else(|| broken_answers(rules, steps))
        .or_else(|| broken_agreement(rules, steps))?;
    Some(Alarm { rule, step: steps.len(), what })
}

/// What the numbers of the last update say.
fn broken_update(rules: &GuardRules, steps: &[Shown]) -> Option<(Rule, String)> {
    let UpdateMetrics { loss, kl, entropy, gradient_norm, .. } = steps.last()?.update?;
    if ![loss, kl, entropy, gradient_norm].iter().all(|value| value.is_finite()) {
        let what =
            format!("loss {loss}, divergence {kl}, entropy {entropy}, gradient norm {gradient_norm}: not finite");
        return Some((Rule::NotFinite, what));
    }
    if gradient_norm > rules.max_gradient_norm {
        let limit = rules.max_gradient_norm;
        return Some((Rule::GradientNorm, format!("the gradient's norm is {gradient_norm:.1}, the limit is {limit}")));
    }
    if kl > rules.max_kl {
        let limit = rules.max_kl;
        let what = format!("the divergence from the base model is {kl:.3} nats a token, the limit is {limit}");
        return Some((Rule::Divergence, what));
    }
    let begun = steps.iter().find_map(|shown| shown.update)?.entropy;
    (entropy < rules.min_entropy * begun).then(|| {
        let part = rules.min_entropy;
        (Rule::Entropy, format!("the entropy fell from {begun:.3} to {entropy:.3} nats a token, below {part} of it"))
    })
}

/// Whether answers vanish or become mere stubs.
fn broken_answers(rules: &GuardRules, steps: &[Shown]) -> Option<(Rule, String)> {
    let (first, last) = (steps.first()?.votes, steps.last()?.votes);
    let (from, to, limit) = (first.answer_rate, last.answer_rate, rules.max_answer_rate_drop);
    if from - to > limit {
        let what = format!("responses with an answer fell from {from:.3} to {to:.3}, by more than {limit}");
        return Some((Rule::AnswerRate, what));
    }
    let (from, to, part) = (first.mean_tokens, last.mean_tokens, rules.min_length);
    (to < part * from)
        .then(|| (Rule::Length, format!("responses fell from {from:.1} to {to:.1} tokens, below {part} of it")))
}

/// Whether agreement shrinks where it is not trained and grows where it is; if there is nothing but the latter, whether
/// it grows too fast.
fn broken_agreement(rules: &GuardRules, steps: &[Shown]) -> Option<(Rule, String)> {
    let last = steps.last()?;
    let Some(held) = last.held_back else {
        let before = steps.get(steps.len().checked_sub(2)?)?;
        let (from, to) = (before.votes.majority_ratio, last.votes.majority_ratio);
        let limit = widened(rules.max_agreement_rise, last.votes.questions, TRAINING_QUESTIONS);
        return (to - from > limit).then(|| {
            let what = format!("agreement rose from {from:.3} to {to:.3} in one update, by more than {limit:.3}");
            (Rule::AgreementRise, what)
        });
    };
    let (from, to) = (steps.first()?.votes.majority_ratio, last.votes.majority_ratio);
    let best = steps.iter().filter_map(|shown| shown.held_back).map(|votes| votes.majority_ratio).fold(0.0, f64::max);
    let limit = widened(rules.max_held_back_drop, held.questions, HELD_BACK_QUESTIONS);
    let held = held.majority_ratio;
    (best - held > limit && to > from).then(|| {
        let what = format!(
            "agreement fell from {best:.3} to {held:.3} on held-back questions, by more than {limit:.3}, and rose from \
             {from:.3} to {to:.3} on those that are trained on"
        );
        (Rule::HeldBackAgreement, what)
    })
}

/// A limit on the mean of some questions, where `enough` are known to do with it as it is.
fn widened(limit: f64, questions: usize, enough: usize) -> f64 {
    limit * (enough as f64 / questions.max(1) as f64).sqrt().max(1.0)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    /// Runs of `ttrl learn`, with the commands that made them; those with a steep learning rate collapse.
    fn runs(collapses: bool) -> Vec<(String, Vec<Shown>)> {
        let runs: Vec<Value> = serde_json::from_str(include_str!("../../tests/fixtures/guard-curves.json")).unwrap();
        let runs = runs.iter().filter(|run| run["collapses"] == collapses);
        runs.map(|run| (run["run"].to_string(), run["steps"].as_array().unwrap().iter().map(shown).collect())).collect()
    }

    fn shown(step: &Value) -> Shown {
        let number = |value: &Value| value.as_f64().unwrap();
        let votes = |value: &Value| VoteMetrics {
            questions: value["questions"].as_u64().unwrap() as usize,
            majority_ratio: number(&value["majority_ratio"]),
            answer_rate: number(&value["answer_rate"]),
            mean_tokens: number(&value["mean_tokens"]),
            ..VoteMetrics::default()
        };
        let update = |value: &Value| UpdateMetrics {
            loss: number(&value["loss"]),
            kl: number(&value["kl"]),
            entropy: number(&value["entropy"]),
            gradient_norm: number(&value["gradient_norm"]),
            ..UpdateMetrics::default()
        };
        Shown {
            votes: votes(&step["votes"]),
            held_back: Some(votes(&step["held_back"])),
            update: (!step["update"].is_null()).then(|| update(&step["update"])),
        }
    }

    fn first_alarm(steps: &[Shown]) -> Option<Alarm> {
        (1..=steps.len()).find_map(|end| alarm(&GuardRules::default(), &steps[..end]))
    }

    fn without_held_back(steps: &[Shown]) -> Vec<Shown> {
        steps.iter().map(|shown| Shown { held_back: None, ..*shown }).collect()
    }

    #[test]
    fn runs_that_collapse_are_given_up_with_held_back_questions_and_without() {
        for (run, steps) in runs(true) {
            assert!(first_alarm(&steps).is_some(), "{run}");
            assert!(first_alarm(&without_held_back(&steps)).is_some(), "{run}");
        }
    }

    #[test]
    fn runs_that_go_well_go_on() {
        for (run, steps) in runs(false) {
            assert_eq!(first_alarm(&steps), None, "{run}");
            assert_eq!(first_alarm(&without_held_back(&steps)), None, "{run}");
        }
    }

    /// The rule that a second step breaks which is as the first one but for `change`.
    fn broken(change: impl Fn(&mut Shown)) -> Option<Rule> {
        let votes = VoteMetrics {
            questions: 40,
            majority_ratio: 0.5,
            answer_rate: 0.9,
            mean_tokens: 100.0,
            ..VoteMetrics::default()
        };
        let update = UpdateMetrics { kl: 0.1, entropy: 0.4, gradient_norm: 0.3, ..UpdateMetrics::default() };
        let first = Shown { votes, held_back: Some(votes), update: Some(update) };
        let mut second = first;
        change(&mut second);
        alarm(&GuardRules::default(), &[first, second]).map(|alarm| alarm.rule)
    }

    #[test]
    fn each_kind_of_damage_breaks_its_own_rule() {
        let update = |change: fn(&mut UpdateMetrics)| broken(move |shown| change(shown.update.as_mut().unwrap()));
        assert_eq!(update(|_| ()), None);
        assert_eq!(update(|update| update.loss = f64::NAN), Some(Rule::NotFinite));
        assert_eq!(update(|update| update.gradient_norm = f64::INFINITY), Some(Rule::NotFinite));
        assert_eq!(update(|update| update.gradient_norm = 11.0), Some(Rule::GradientNorm));
        assert_eq!(update(|update| update.kl = 4.1), Some(Rule::Divergence));
        assert_eq!(update(|update| update.entropy = 0.05), Some(Rule::Entropy));
        assert_eq!(broken(|shown| shown.votes.answer_rate = 0.75), Some(Rule::AnswerRate));
        assert_eq!(broken(|shown| shown.votes.mean_tokens = 40.0), Some(Rule::Length));
        assert_eq!(
            broken(|shown| (shown.held_back, shown.votes.majority_ratio) = (None, 0.7)),
            Some(Rule::AgreementRise)
        );
    }

    #[test]
    fn held_back_agreement_may_fall_together_with_that_of_training_and_further_if_it_is_that_of_few() {
        let fall = |to: f64, questions: usize, training: f64| {
            broken(move |shown| {
                let held = shown.held_back.as_mut().unwrap();
                (held.majority_ratio, held.questions, shown.votes.majority_ratio) = (to, questions, training);
            })
        };
        assert_eq!(fall(0.43, 40, 0.6), Some(Rule::HeldBackAgreement));
        assert_eq!(fall(0.43, 40, 0.5), None);
        assert_eq!(fall(0.43, 10, 0.6), None);
        assert_eq!(fall(0.37, 10, 0.6), Some(Rule::HeldBackAgreement));
    }

    #[test]
    fn a_guard_that_is_off_lets_everything_pass() {
        let rules = GuardRules { enabled: false, ..GuardRules::default() };
        for (run, steps) in runs(true) {
            assert_eq!(alarm(&rules, &steps), None, "{run}");
        }
    }

    #[test]
    fn an_alarm_says_what_was_seen_when_and_what_the_limit_is() {
        let (_, steps) = runs(true).swap_remove(0);
        let text = first_alarm(&steps).unwrap().to_string();
        let (start, end) = ("given up after step 5: the entropy fell from ", " nats a token, below 0.15 of it");
        assert!(text.starts_with(start) && text.ends_with(end), "{text}");
    }
}
