//! Whether a version that a round promoted does worse on live traffic than the version before it.
//!
//! What is compared are answers that were asked for in the same manner. A rule speaks against a version only if it is
//! proven to be worse by more than a margin, and all looks of all rules together are wrong as seldom as the settings
//! say. `docs/watch.md` explains it.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use serde::{Deserialize, Serialize};

use crate::{
    statistics::{Interval, Moments, newcombe, welch},
    store::{Given, SeenAnswer},
};

/// How a version is watched after its promotion.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WatchRules {
    pub enabled: bool,
    /// Each rule compares at most so many answers of either version; the watch ends when the version has given as many...
    pub answers: u32,
    /// ... and so many hours have passed since the promotion, so that clients have time to say something.
    pub hours: u32,
    /// How sure one has to be of all looks together.
    pub confidence: f64,
    /// The mean majority ratio may fall by at most this much.
    pub max_agreement_drop: f64,
    /// The share of questions with an answer may fall by at most this much.
    pub max_answer_rate_drop: f64,
    /// The share of answers that clients found good, of those that they said anything of, may fall by at most this
    /// much.
    pub max_good_drop: f64,
}

impl Default for WatchRules {
    fn default() -> Self {
        Self {
            enabled: true,
            answers: 512,
            hours: 24,
            confidence: 0.95,
            max_agreement_drop: 0.1,
            max_answer_rate_drop: 0.1,
            max_good_drop: 0.1,
        }
    }
}

impl WatchRules {
    /// How many answers of either version are read: others than those that are compared may lie between them.
    pub fn most_read(&self) -> u32 {
        8 * self.answers
    }
}

/// After how many more answers, or ratings, the next look is taken. A version that answers nothing any more is seen at the first.
const LOOK_EVERY: u32 = 32;

/// Fewer answers than this, of either version, are not compared: intervals of means hold for some dozens of values.
const MIN_ANSWERS: usize = 32;

/// What the versions are compared by; the word is the label of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    Agreement,
    AnswerRate,
    Feedback,
}

impl Rule {
    const ALL: [Self; 3] = [Self::Agreement, Self::AnswerRate, Self::Feedback];

    /// As in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Agreement => "agreement",
            Self::AnswerRate => "answer-rate",
            Self::Feedback => "feedback",
        }
    }

    fn noun(self) -> &'static str {
        match self {
            Self::Agreement => "agreement",
            Self::AnswerRate => "the share of questions with an answer",
            Self::Feedback => "the share of answers that clients found good",
        }
    }

    /// `None` if the answer says nothing of it.
    fn value(self, answer: &SeenAnswer) -> Option<Value<'_>> {
        let share = |yes: bool| f64::from(u8::from(yes));
        let value = match self {
            // A single sample always agrees with itself.
            Self::Agreement => (answer.samples > 1).then_some(answer.majority_ratio),
            Self::AnswerRate => Some(share(answer.answered)),
            Self::Feedback => answer.good.map(share),
        };
        value.map(|value| Value { client: answer.client.as_deref(), value })
    }

    fn max_drop(self, rules: &WatchRules) -> f64 {
        match self {
            Self::Agreement => rules.max_agreement_drop,
            Self::AnswerRate => rules.max_answer_rate_drop,
            Self::Feedback => rules.max_good_drop,
        }
    }

    /// Where the difference of the true means is, the second less the first.
    fn interval(self, before: &[f64], after: &[f64], confidence: f64) -> Interval {
        let count = |values: &[f64]| (values.iter().filter(|value| **value > 0.0).count(), values.len());
        match self {
            Self::Agreement => welch(Moments::of(after), Moments::of(before), confidence),
            Self::AnswerRate | Self::Feedback => newcombe(count(after), count(before), confidence),
        }
    }
}

/// What a version showed in the answers that were compared.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Shown {
    pub answers: usize,
    pub mean: f64,
}

impl Shown {
    fn of(values: &[f64]) -> Self {
        Self { answers: values.len(), mean: Moments::of(values).mean }
    }
}

/// How two versions compare by one rule.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Compared {
    pub rule: Rule,
    pub before: Shown,
    pub after: Shown,
    /// The mean after less that before, and where the true difference is.
    pub difference: f64,
    pub interval: Interval,
    pub max_drop: f64,
}

impl Compared {
    fn is_worse(&self) -> bool {
        self.interval.high < -self.max_drop
    }

    fn reason(&self) -> String {
        let Self { rule, before, after, interval, max_drop, .. } = self;
        format!(
            "{} fell from {:.3} ({} answers) to {:.3} ({} answers); the difference is below {:+.3}, and -{max_drop} is \
             allowed",
            rule.noun(),
            before.mean,
            before.answers,
            after.mean,
            after.answers,
            interval.high
        )
    }
}

/// What a look comes to.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    GoesOn,
    /// Enough was seen, and the version is not proven to be worse.
    Passed,
    /// Enough was seen, and there was nothing to compare it with.
    Unknown,
    RollBack {
        rule: Rule,
        reason: String,
    },
}

/// Whether it is time to look again: what the last look saw has grown, or the watch may end now. `is_late` says whether
/// the hours of the watch are over, and `was_late` whether they were at the last look.
pub fn is_due(rules: &WatchRules, last: Given, now: Given, (was_late, is_late): (bool, bool)) -> bool {
    let has_grown = |last: u32, now: u32| now >= last.saturating_add(LOOK_EVERY);
    let has_come_to = |number: u32| last.answers < number && now.answers >= number;
    has_grown(last.answers, now.answers)
        || has_grown(last.rated, now.rated)
        || has_come_to(rules.answers)
        || has_come_to(rules.most_read())
        || (is_late && !was_late && now.answers >= rules.answers)
}

/// What a look finds.
#[derive(Clone, Debug, PartialEq)]
pub struct Look {
    pub compared: Vec<Compared>,
    /// How many values of the version each rule has seen when it judged last, in this look or before.
    pub judged: [u32; 3],
    pub verdict: Verdict,
}

/// Compares what a version has shown so far with what the one before it had. Of either come at most
/// [`WatchRules::most_read`] answers, with the ones next to the promotion first. `judged` is that of the last look.
pub fn look(
    rules: &WatchRules,
    mut judged: [u32; 3],
    (before, after): (&[SeenAnswer], &[SeenAnswer]),
    is_late: bool,
) -> Look {
    let manner = usual_manner(before);
    let asked_so = |answers| in_manner(answers, manner).count();
    let are_all_there = asked_so(after) >= rules.answers as usize || after.len() >= rules.most_read() as usize;
    // What the version before has answered grows no more.
    let ends = (is_late && are_all_there) || asked_so(before) < MIN_ANSWERS;
    let (mut compared, mut worse) = (Vec::new(), None);
    for (rule, judged) in Rule::ALL.into_iter().zip(&mut judged) {
        let values = Alike::of(rule, in_manner(before, manner), in_manner(after, manner), rules.answers);
        if !values.is_enough() {
            continue;
        }
        let number = values.after.len() as u32;
        let is_last = ends || number >= rules.answers;
        let may_judge = *judged < rules.answers && (is_last || number >= judged.saturating_add(LOOK_EVERY));
        let confidence = confidence_of_a_test(rules, is_last);
        let whole = values.compare(rule, rules, confidence);
        if may_judge {
            *judged = number;
            let is_worse = |rest: Alike| rest.is_enough() && rest.compare(rule, rules, confidence).is_worse();
            if worse.is_none() && whole.is_worse() && values.without_any_one_client().all(is_worse) {
                worse = Some(Verdict::RollBack { rule, reason: whole.reason() });
            }
        }
        compared.push(whole);
    }
    let verdict = match worse {
        Some(roll_back) => roll_back,
        None if !ends => Verdict::GoesOn,
        None if compared.is_empty() => Verdict::Unknown,
        None => Verdict::Passed,
    };
    Look { compared, judged, verdict }
}

/// How most of some answers were asked for; none if there are none.
fn usual_manner(answers: &[SeenAnswer]) -> &str {
    let mut numbers: BTreeMap<&str, usize> = BTreeMap::new();
    for answer in answers {
        *numbers.entry(&answer.manner).or_default() += 1;
    }
    numbers.into_iter().max_by_key(|(_, number)| *number).map_or("", |(manner, _)| manner)
}

fn in_manner<'a>(answers: &'a [SeenAnswer], manner: &'a str) -> impl Iterator<Item = &'a SeenAnswer> {
    answers.iter().filter(move |answer| answer.manner == manner)
}

/// How sure one rule has to be in one look, so that all of them together are as sure as the settings say (Bonferroni's
/// inequality). Half of what may go wrong is left to the last look, which sees the most and is the last chance.
fn confidence_of_a_test(rules: &WatchRules, is_last: bool) -> f64 {
    let earlier = f64::from(rules.answers.div_ceil(LOOK_EVERY) - 1);
    let share = match (is_last, earlier > 0.0) {
        (true, true) => 0.5,
        (true, false) => 1.0,
        (false, _) => 0.5 / earlier,
    };
    1.0 - (1.0 - rules.confidence) * share / Rule::ALL.len() as f64
}

/// What one answer shows, from 0 to 1, and whose question it was.
#[derive(Clone, Copy)]
struct Value<'a> {
    client: Option<&'a str>,
    value: f64,
}

/// What two versions show a rule in answers that were asked for in one manner.
struct Alike<'a> {
    before: Vec<Value<'a>>,
    after: Vec<Value<'a>>,
}

impl<'a> Alike<'a> {
    fn of(
        rule: Rule,
        before: impl Iterator<Item = &'a SeenAnswer>,
        after: impl Iterator<Item = &'a SeenAnswer>,
        limit: u32,
    ) -> Self {
        Self { before: values(rule, before, limit), after: values(rule, after, limit) }
    }

    fn is_enough(&self) -> bool {
        self.before.len().min(self.after.len()) >= MIN_ANSWERS
    }

    fn compare(&self, rule: Rule, rules: &WatchRules, confidence: f64) -> Compared {
        let of = |values: &[Value]| values.iter().map(|value| value.value).collect::<Vec<_>>();
        let (before, after) = (of(&self.before), of(&self.after));
        let interval = rule.interval(&before, &after, confidence);
        let (before, after) = (Shown::of(&before), Shown::of(&after));
        let max_drop = rule.max_drop(rules);
        Compared { rule, before, after, difference: after.mean - before.mean, interval, max_drop }
    }

    /// What is left without one client, for each that no version may be judged by alone: all but the one that most
    /// answers of the version before were given to. None if there is but one client.
    fn without_any_one_client(&self) -> impl Iterator<Item = Alike<'a>> {
        let of = |values: &[Value<'a>]| values.iter().map(|value| value.client).collect::<Vec<_>>();
        let (before, mut clients) = (of(&self.before), BTreeSet::from_iter(of(&self.after)));
        let is_only_one = clients.len() == 1 && before.iter().all(|client| clients.contains(client));
        let is_main = |client: Option<&str>| 2 * before.iter().filter(|other| **other == client).count() > before.len();
        clients.retain(|client| !is_only_one && !is_main(*client));
        clients.into_iter().map(move |client| {
            let others = |values: &[Value<'a>]| values.iter().filter(|value| value.client != client).copied().collect();
            Alike { before: others(&self.before), after: others(&self.after) }
        })
    }
}

/// What a rule sees in some answers, up to `limit` of them. A text counts once, so that nobody is heard for saying the
/// same again.
fn values<'a>(rule: Rule, answers: impl Iterator<Item = &'a SeenAnswer>, limit: u32) -> Vec<Value<'a>> {
    let mut texts = HashSet::new();
    let said = answers.filter_map(|answer| rule.value(answer).map(|value| (&answer.text_hash, value)));
    said.filter(|(text, _)| texts.insert(*text)).map(|(_, value)| value).take(limit as usize).collect()
}

#[cfg(test)]
mod tests;
