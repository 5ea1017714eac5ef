//! Any text, as a response and as an answer of each kind: no panic, and one key. Its lines as votes: the same classes in any order.

#![no_main]
#![allow(dead_code, unused_imports, reason = "the target uses a part of the room")]

#[path = "../../src/grading/mod.rs"]
mod grading;

use grading::{Answer, AnswerKind, Extraction, Key, Reading, Tally, Verdict, extract};
use libfuzzer_sys::fuzz_target;

const KINDS: [AnswerKind; 5] =
    [AnswerKind::Auto, AnswerKind::Math, AnswerKind::Choice, AnswerKind::Number, AnswerKind::Text];

fuzz_target!(|text: &str| {
    for kind in KINDS {
        let reading = Reading { kind, last_number: true };
        let read = || extract(text, Extraction::Auto, reading).and_then(|found| Answer::read(&found, kind));
        let (first, second) = (read(), read());
        assert_eq!(first.is_some(), second.is_some());
        if let (Some(first), Some(second)) = (&first, &second) {
            assert_eq!(first.key, second.key);
            assert_eq!(first.key.to_string(), second.key.to_string());
            assert_eq!(Verdict::of(Some(first), Some(second)), Verdict::Equal);
        }
    }
    assert_eq!(classes(text.lines()), classes(text.lines().rev()));
});

/// The classes of some votes by their keys, with how many voted for each.
fn classes<'a>(votes: impl Iterator<Item = &'a str>) -> Vec<(Key, usize)> {
    let tally = Tally::count(votes.map(|vote| Some(vote.to_owned())));
    let mut classes: Vec<_> = tally.classes.iter().map(|class| (class.key.clone(), class.votes())).collect();
    classes.sort();
    classes
}
