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
    let page = include_str!("../../../docs/watch.md");
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
    let after = [said(None), said(Some(true)), said(Some(false)), many(31, &seen("8", 8, 0.75, Some(true)))].concat();
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
