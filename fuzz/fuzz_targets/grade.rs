//! Any text, as a response and as an answer of each kind: no panic, and one key.

#![no_main]
#![allow(dead_code, unused_imports, reason = "the target uses a part of the room")]

#[path = "../../src/grading/mod.rs"]
mod grading;

use grading::{Answer, AnswerKind, Extraction, Reading, Verdict, extract};
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
});
