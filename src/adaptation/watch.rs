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
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    /// What questions of one kind show: each is agreed on as far as chance has it.
    #[derive(Clone, Copy)]
    struct Traffic {
        agreement: f64,
        answer_rate: f64,
        good: f64,
    }

    const USUAL: Traffic = Traffic { agreement: 0.6, answer_rate: 0.8, good: 0.7 };

    const VOTES: u32 = 8;

    impl Traffic {
        fn answers(self, number: usize, rng: &mut ChaCha8Rng) -> Vec<SeenAnswer> {
            let answer = |number: usize| {
                let agreed = self.agreement + 0.3 * (2.0 * rng.random::<f64>() - 1.0);
                let votes = (0..VOTES).filter(|_| rng.random::<f64>() < agreed).count();
                SeenAnswer {
                    text_hash: number.to_le_bytes().into(),
                    client: None,
                    manner: "8 votes".into(),
                    samples: VOTES,
                    majority_ratio: votes as f64 / f64::from(VOTES),
                    answered: rng.random::<f64>() < self.answer_rate,
                    good: Some(rng.random::<f64>() < self.good),
                }
            };
            (0..number).map(answer).collect()
        }
    }

    /// Watches a version to its end; returns after how many answers it was rolled back.
    fn watch(rules: &WatchRules, before: &[SeenAnswer], after: &[SeenAnswer]) -> Option<(usize, Rule)> {
        let mut judged = [0; 3];
        for number in (1..=rules.answers).filter(|number| number % LOOK_EVERY == 0) {
            let look = look(rules, judged, (before, &after[..number as usize]), true);
            judged = look.judged;
            match look.verdict {
                Verdict::RollBack { rule, .. } => return Some((number as usize, rule)),
                Verdict::GoesOn => assert!(number < rules.answers),
                Verdict::Passed => assert_eq!(number, rules.answers),
                Verdict::Unknown => panic!("there was enough to compare"),
            }
        }
        None
    }

    /// How often of `runs` a version that shows `after` is rolled back, and after how many answers, in the middle.
    fn rolled_back(rules: &WatchRules, after: Traffic, runs: u64) -> (f64, Option<usize>) {
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        let number = rules.answers as usize;
        let run = |_| watch(rules, &USUAL.answers(number, &mut rng), &after.answers(number, &mut rng));
        let mut ends: Vec<usize> = (0..runs).filter_map(run).map(|(answers, _)| answers).collect();
        ends.sort_unstable();
        (ends.len() as f64 / runs as f64, ends.get(ends.len() / 2).copied())
    }

    /// Rules that allow no fall at all, so that nothing but chance is between a version and its roll-back.
    fn without_margins() -> WatchRules {
        WatchRules { max_agreement_drop: 0.0, max_answer_rate_drop: 0.0, max_good_drop: 0.0, ..WatchRules::default() }
    }

    #[test]
    fn a_version_as_good_as_the_one_before_is_rolled_back_less_often_than_the_confidence_says() {
        for confidence in [0.95, 0.8] {
            let strict = WatchRules { confidence, ..without_margins() };
            let (share, _) = rolled_back(&strict, USUAL, 1000);
            println!("without a margin, {confidence}: {share}");
            assert!(share > 0.0 && share <= 1.0 - confidence, "{confidence}: {share}");
        }
        let (share, _) = rolled_back(&WatchRules::default(), USUAL, 1000);
        assert_eq!(share, 0.0);
        // At the margin itself, by all three rules.
        let rules = WatchRules::default();
        let after = Traffic { agreement: 0.5, answer_rate: 0.7, good: 0.6 };
        let (share, _) = rolled_back(&rules, after, 1000);
        println!("at the margin: {share}");
        assert!(share > 0.0 && share <= 0.05, "{share}");
    }

    fn falls(fall: f64) -> [Traffic; 3] {
        [
            Traffic { agreement: USUAL.agreement - fall, ..USUAL },
            Traffic { answer_rate: USUAL.answer_rate - fall, ..USUAL },
            Traffic { good: USUAL.good - fall, ..USUAL },
        ]
    }

    #[test]
    fn the_documentation_says_which_falls_are_seen_and_when() {
        let page = include_str!("../../docs/watch.md");
        let rules = WatchRules::default();
        let row = |fall: &f64| {
            let cells = falls(*fall).map(|after| match rolled_back(&rules, after, 300) {
                (share, Some(answers)) => format!("{:.0}%, after {answers}", 100.0 * share),
                (_, None) => "never".into(),
            });
            format!("| {fall} | {} |", cells.join(" | "))
        };
        let rows = [0.0, 0.1, 0.15, 0.2, 0.3, 0.5].iter().map(row).collect::<Vec<_>>().join("\n");
        assert!(page.contains(&rows), "{rows}");
    }

    #[test]
    fn a_fall_by_a_fifth_is_seen_within_the_watch() {
        for after in falls(0.2) {
            let (share, _) = rolled_back(&WatchRules::default(), after, 300);
            assert!(share > 0.7, "{share}");
        }
    }

    fn seen(manner: &str, samples: u32, majority_ratio: f64, good: Option<bool>) -> SeenAnswer {
        let answered = majority_ratio > 0.0;
        SeenAnswer { text_hash: vec![], client: None, manner: manner.into(), samples, majority_ratio, answered, good }
    }

    /// The first look at versions that clients have said all of.
    fn first_look(before: &[SeenAnswer], after: &[SeenAnswer]) -> (Vec<Compared>, Verdict) {
        let Look { compared, verdict, .. } = look(&WatchRules::default(), [0; 3], (before, after), true);
        (compared, verdict)
    }

    /// Such answers to different questions.
    fn many(number: usize, answer: &SeenAnswer) -> Vec<SeenAnswer> {
        (0..number).map(|number| SeenAnswer { text_hash: number.to_le_bytes().into(), ..answer.clone() }).collect()
    }

    /// Answers to different questions of the same kind, of one client.
    fn of(client: &str, number: usize, answer: &SeenAnswer) -> Vec<SeenAnswer> {
        let name = |answer: SeenAnswer| SeenAnswer {
            client: Some(client.into()),
            text_hash: [client.as_bytes(), &answer.text_hash].concat(),
            ..answer
        };
        many(number, answer).into_iter().map(name).collect()
    }

    #[test]
    fn a_text_counts_once_however_often_it_is_asked() {
        let (good, bad) = (seen("8", 8, 0.75, None), seen("8", 8, 0.0, None));
        let before = many(64, &good);
        let after = [many(40, &good), vec![bad; 400]].concat();
        let (compared, verdict) = first_look(&before, &after);
        assert_eq!(verdict, Verdict::GoesOn);
        assert_eq!(compared[0].after.answers, 41);
        // What was said first of a text counts, of the answers that anything was said of.
        let said = |good| vec![SeenAnswer { good, ..seen("8", 8, 0.75, None) }];
        let after =
            [said(None), said(Some(true)), said(Some(false)), many(31, &seen("8", 8, 0.75, Some(true)))].concat();
        let compared = first_look(&many(32, &seen("8", 8, 0.75, Some(true))), &after).0;
        assert_eq!(compared[2].after, Shown { answers: 32, mean: 1.0 });
    }

    #[test]
    fn no_client_brings_a_version_down_alone_unless_the_version_before_was_its_own() {
        let (good, bad) = (seen("8", 8, 0.75, Some(true)), seen("8", 1, 0.0, Some(false)));
        let is_back = |before: &[Vec<SeenAnswer>], after: &[Vec<SeenAnswer>]| {
            matches!(first_look(&before.concat(), &after.concat()).1, Verdict::RollBack { .. })
        };
        let usual = [of("a", 40, &good), of("b", 40, &good), of("c", 40, &good)];
        assert!(!is_back(&usual, &[of("a", 40, &good), of("b", 40, &good), of("mallory", 400, &bad)]));
        assert!(!is_back(&usual, &[of("mallory", 400, &bad)]), "nobody else has asked anything");
        assert!(!is_back(&usual, &[of("a", 400, &bad), of("b", 40, &good)]), "nor one that was there before");
        assert!(is_back(&usual, &[of("a", 40, &bad), of("b", 40, &bad)]));
        // The one that the server is there for is heard, whoever else drops in.
        let main = [of("a", 100, &good), of("b", 4, &good)];
        assert!(is_back(&main, &[of("a", 60, &bad), of("b", 4, &bad)]));
        assert!(is_back(&main[..1], &[of("a", 60, &bad)]));
        assert!(!is_back(&main, &[of("a", 60, &good), of("b", 60, &bad)]));
    }

    #[test]
    fn each_rule_rolls_back_with_its_reason() {
        let before = many(64, &seen("8", 8, 0.75, Some(true)));
        for (after, rule, reason) in [
            (seen("8", 8, 0.25, Some(true)), Rule::Agreement, "agreement fell from 0.750 (64 answers) to 0.250 (32"),
            (seen("8", 1, 0.0, Some(true)), Rule::AnswerRate, "the share of questions with an answer fell from 1.000"),
            (seen("8", 8, 0.75, Some(false)), Rule::Feedback, "the share of answers that clients found good fell"),
        ] {
            let (compared, verdict) = first_look(&before, &many(32, &after));
            let Verdict::RollBack { rule: broken, reason: said } = verdict else { panic!("{rule:?}: {verdict:?}") };
            assert!(broken == rule && said.starts_with(reason), "{said}");
            assert!(compared.iter().any(|compared| compared.rule == rule && compared.is_worse()));
            assert_eq!(json_word(rule), rule.name());
        }
    }

    fn json_word(rule: Rule) -> String {
        serde_json::to_value(rule).unwrap().as_str().unwrap().to_owned()
    }

    #[test]
    fn a_version_that_is_better_passes_when_the_answers_are_there_and_the_hours_over() {
        let rules = WatchRules { answers: 64, ..WatchRules::default() };
        let (before, after) = (many(64, &seen("8", 8, 0.5, None)), many(64, &seen("8", 8, 0.75, Some(false))));
        let verdict = |number, is_late| look(&rules, [32, 32, 0], (&before, &after[..number]), is_late).verdict;
        assert_eq!((verdict(63, true), verdict(64, false)), (Verdict::GoesOn, Verdict::GoesOn));
        let Look { compared, judged, verdict } = look(&rules, [32, 32, 0], (&before, &after), true);
        assert_eq!((verdict, compared.len()), (Verdict::Passed, 2), "of the version before nobody said anything");
        assert_eq!((compared[0].difference, judged), (0.25, [64, 64, 0]));
    }

    #[test]
    fn a_rule_judges_again_only_when_what_it_sees_has_grown() {
        let rules = WatchRules { answers: 96, ..WatchRules::default() };
        let said = |number: usize, good: Option<bool>| many(number, &seen("8", 8, 0.75, good));
        // Of the first answers nobody has said anything, of those after them clients have.
        let after = |said_of: usize| {
            let mut after = said(200, None);
            after[120..120 + said_of].iter_mut().for_each(|answer| answer.good = Some(false));
            after
        };
        let before = said(96, Some(true));
        let judged = |judged, said_of| look(&rules, judged, (&before, &after(said_of)), false);
        assert_eq!(judged([0; 3], 31).judged, [96, 96, 0]);
        let Look { judged: after_a_look, verdict, .. } = judged([96, 96, 0], 32);
        assert!(after_a_look == [96, 96, 32] && matches!(verdict, Verdict::RollBack { rule: Rule::Feedback, .. }));
        // It would be worse now, but it has judged already.
        for (last, said_of, verdict) in [(32, 63, Verdict::GoesOn), (96, 80, Verdict::GoesOn)] {
            let look = judged([96, 96, last], said_of);
            assert_eq!((look.judged, look.verdict), ([96, 96, last], verdict));
        }
    }

    #[test]
    fn only_answers_that_were_asked_for_as_most_of_the_version_before_are_compared_and_counted() {
        // One sample always agrees with itself, and 64 samples hardly ever do.
        let (one, eight, many_votes) = (seen("1", 1, 1.0, None), seen("8", 8, 0.75, None), seen("64", 64, 0.25, None));
        let before = [many(30, &one), many(40, &eight)].concat();
        let rules = WatchRules { answers: 64, ..WatchRules::default() };
        let look_at = |after: &[SeenAnswer]| look(&rules, [0; 3], (&before, after), true);
        let after = [many(200, &many_votes), many(40, &eight), many(200, &one)].concat();
        let Look { compared, verdict, .. } = look_at(&after);
        assert_eq!(verdict, Verdict::GoesOn);
        for Compared { before, after, difference, .. } in compared {
            assert_eq!((before.answers, after.answers, difference), (40, 40, 0.0));
        }
        // When as many are read as may be, it ends with what there is.
        let all = |answers: Vec<SeenAnswer>| [answers, many(472, &one)].concat();
        assert_eq!(look_at(&all(many(39, &eight))).verdict, Verdict::GoesOn);
        assert_eq!(look_at(&all(many(40, &eight))).verdict, Verdict::Passed);
        assert_eq!(look_at(&many(512, &one)).verdict, Verdict::Unknown);
        // Of single samples only the answer rate can be compared.
        let alone = first_look(&many(40, &one), &many(40, &one)).0;
        assert_eq!(alone.iter().map(|compared| compared.rule).collect::<Vec<_>>(), [Rule::AnswerRate]);
    }

    #[test]
    fn with_too_few_answers_of_the_version_before_nothing_can_be_said() {
        let after = many(32, &seen("8", 8, 0.0, Some(false)));
        assert_eq!(first_look(&many(31, &seen("8", 8, 1.0, Some(true))), &after), (vec![], Verdict::Unknown));
        assert_eq!(first_look(&[], &after), (vec![], Verdict::Unknown));
    }

    #[test]
    fn a_look_is_due_after_more_answers_or_ratings_and_when_the_watch_may_end() {
        let rules = WatchRules { answers: 100, ..WatchRules::default() };
        let due = |last: (u32, u32), now: (u32, u32), late| {
            let given = |(answers, rated)| Given { answers, rated };
            is_due(&rules, given(last), given(now), late)
        };
        for (last, now, is) in [
            ((0, 0), (31, 31), false),
            ((0, 0), (32, 0), true),
            ((40, 0), (71, 31), false),
            ((40, 0), (72, 0), true),
            ((40, 0), (41, 32), true),
            ((96, 0), (100, 0), true),
            ((100, 0), (101, 0), false),
            ((799, 0), (800, 0), true),
            ((800, 0), (800, 31), false),
        ] {
            assert_eq!(due(last, now, (false, false)), is, "{last:?} {now:?}");
        }
        let at_the_hour = |answers, was_late| due((answers, 0), (answers, 0), (was_late, true));
        assert!(at_the_hour(100, false) && !at_the_hour(100, true) && !at_the_hour(99, false));
    }
}
