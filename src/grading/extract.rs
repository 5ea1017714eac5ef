//! Finding the final answer in a response. Where it is in doubt there is none: a wrong reading would vote.

use serde::{Deserialize, Serialize};

use super::number;

/// Where a response has its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Extraction {
    /// The box if there is one; else what the last `the answer is`, `final answer` or `####` announces; else the
    /// response itself if it is one short line (its first number if it starts with one); else nowhere.
    Auto,
    /// In the last `\boxed{...}` or `\fbox{...}`. If that one is empty or never closed, there is no answer.
    Boxed,
    /// It is the number that the response starts with, as in `47` or `47 + 3`, for few-shot completions. A number
    /// that runs into something else, as in `47th` or `4^7`, is none.
    FirstNumber,
    /// It is the whole response, if that is one line.
    Text,
}

/// The longest line, in characters, that counts as an answer without being marked as one by a box: longer ones are prose.
const SHORT_CHARS: usize = 80;

/// The answer of a finished response; `None` for an unfinished one. A response that was cut off never has an answer:
/// what looks like one may be the start of another, or an intermediate result.
pub fn answer_of(response: &str, finished: bool, how: Extraction) -> Option<String> {
    finished.then(|| extract(response, how)).flatten().map(str::to_owned)
}

/// The final answer of a complete response, as it is written there; never empty. See [`answer_of`] for responses that
/// may be cut off.
pub fn extract(response: &str, how: Extraction) -> Option<&str> {
    let answer = match how {
        Extraction::Auto => auto(response),
        Extraction::Boxed => last_box(response).flatten(),
        Extraction::FirstNumber => first_number(response),
        Extraction::Text => Some(response.trim()).filter(|text| !text.contains('\n')),
    };
    answer.map(str::trim).filter(|answer| !answer.is_empty())
}

fn auto(response: &str) -> Option<&str> {
    if let Some(boxed) = last_box(response) {
        return boxed;
    }
    if let Some(announced) = last_announced(response) {
        return short_line(announced);
    }
    let line = short_line(response)?;
    Some(first_number(line).unwrap_or(line))
}

fn short_line(text: &str) -> Option<&str> {
    let line = text.trim();
    (!line.contains('\n') && line.chars().count() <= SHORT_CHARS).then_some(line)
}

fn first_number(response: &str) -> Option<&str> {
    let text = response.trim_start();
    number::leading(text).map(|(_, bytes)| &text[..bytes])
}

/// The content of the last box. `None` if no box is opened, `Some(None)` if the last one is never closed.
fn last_box(response: &str) -> Option<Option<&str>> {
    ["\\boxed", "\\fbox"]
        .iter()
        .flat_map(|command| response.match_indices(command).map(|(at, command)| at + command.len()))
        .filter_map(|end| response[end..].trim_start().strip_prefix('{'))
        .min_by_key(|content| content.len())
        .map(until_closed)
}

/// What stands before the brace that closes the one just opened. A brace behind a backslash is a character like others.
fn until_closed(content: &str) -> Option<&str> {
    let mut depth = 1usize;
    let mut escaped = false;
    for (at, c) in content.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '{' => depth += 1,
            '}' if depth == 1 => return Some(&content[..at]),
            '}' => depth -= 1,
            _ => {}
        }
    }
    None
}

/// What follows the last announcement, up to the end of its sentence or line. Markdown's asterisks are left out.
fn last_announced(response: &str) -> Option<&str> {
    const ANNOUNCEMENTS: [&str; 4] = ["the answer is", "final answer is", "final answer:", "####"];
    // Lower case in ASCII only keeps every byte where it is.
    let lower = response.to_ascii_lowercase();
    let start = ANNOUNCEMENTS.iter().filter_map(|phrase| Some(lower.rfind(phrase)? + phrase.len())).max()?;
    let line = response[start..].trim_start_matches([' ', ':', '*']).lines().next().unwrap_or_default();
    let sentence = line.split_once(". ").map_or(line, |(sentence, _)| sentence);
    Some(sentence.trim_matches([' ', '*']))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::grading::key;

    #[track_caller]
    fn check(how: Extraction, cases: &[(&str, Option<&str>)]) {
        for (response, expected) in cases {
            assert_eq!(extract(response, how), *expected, "{response:?}");
        }
    }

    #[test]
    fn the_last_box_is_the_answer() {
        check(
            Extraction::Boxed,
            &[
                ("so \\boxed{47}.", Some("47")),
                ("\\boxed{1}, no: \\boxed{2}", Some("2")),
                ("\\boxed{\\frac{1}{2}}", Some("\\frac{1}{2}")),
                ("\\fbox{ x }", Some("x")),
                ("\\fbox{1} \\boxed{2} \\fbox{3} end", Some("3")),
                ("\\boxed {7}", Some("7")),
                ("\\boxed{\\{1,2\\}}", Some("\\{1,2\\}")),
                ("\\boxed{\\boxed{5}}", Some("5")),
                ("the answer is 5", None),
                ("", None),
            ],
        );
    }

    #[test]
    fn a_last_box_that_is_open_or_empty_is_no_answer() {
        let cases =
            [("\\boxed{47", None), ("\\boxed{1} or \\boxed{2", None), ("\\boxed{}", None), ("\\boxed{\\}", None)];
        check(Extraction::Boxed, &cases);
        check(Extraction::Auto, &cases);
        check(Extraction::Auto, &[("The answer is 5, or \\boxed{", None)]);
    }

    #[test]
    fn the_first_number_of_a_completion_is_complete_or_none() {
        check(
            Extraction::FirstNumber,
            &[
                (" 47", Some("47")),
                ("47 + 3", Some("47")),
                ("47+3", Some("47")),
                ("\n -5 apples", Some("-5")),
                ("\u{2212}5", Some("\u{2212}5")),
                ("1,234.50.", Some("1,234.50")),
                ("3/4 of it", Some("3/4")),
                ("47, 48", Some("47")),
                ("47.\n13 + 4", Some("47")),
                (".5", Some(".5")),
                ("47**", Some("47")),
                ("47th", None),
                ("4^7", None),
                ("1,23", None),
                ("1.2.3", None),
                ("1/0", None),
                ("0.333...", None),
                ("50%", None),
                ("2*3", None),
                ("12:30", None),
                ("x = 5", None),
                ("", None),
            ],
        );
    }

    #[test]
    fn text_is_one_line() {
        check(Extraction::Text, &[("  Paris \n", Some("Paris")), ("Paris\nLondon", None), (" \n ", None)]);
    }

    #[test]
    fn without_a_mark_only_a_short_line_is_an_answer() {
        let prose = "word ".repeat(40);
        check(
            Extraction::Auto,
            &[
                (" 47", Some("47")),
                ("47 + 3", Some("47")),
                ("Paris", Some("Paris")),
                ("We add. The answer is 47. Good", Some("47")),
                ("5\nThe answer is: 6.", Some("6.")),
                ("steps\n#### 1,234", Some("1,234")),
                ("**Final answer:** 12", Some("12")),
                ("**Final Answer: 12**\n\nDone.", Some("12")),
                ("the answer is 1, no, the final answer is 2", Some("2")),
                ("The answer is 2 + 3i.", Some("2 + 3i.")),
                ("The answer is \\boxed{4}. The answer is 5", Some("4")),
                ("one line\nanother line", None),
                ("The answer is", None),
                (&prose, None),
                ("", None),
            ],
        );
    }

    #[test]
    fn a_response_that_was_cut_off_has_no_answer() {
        for how in [Extraction::Auto, Extraction::Boxed, Extraction::FirstNumber, Extraction::Text] {
            assert_eq!(answer_of("\\boxed{47}", false, how), None);
        }
        assert_eq!(answer_of("\\boxed{47}", true, Extraction::Boxed).as_deref(), Some("47"));
    }

    proptest! {
        #[test]
        fn an_answer_is_a_part_of_its_response(response in "([0-9a-z.,/+ $\n-]|\\\\boxed\\{|#### |\\{|\\}|\u{2212}|é|\\\\){0,60}") {
            for how in [Extraction::Auto, Extraction::Boxed, Extraction::FirstNumber, Extraction::Text] {
                if let Some(answer) = extract(&response, how) {
                    prop_assert!(response.contains(answer) && !answer.is_empty() && answer.trim() == answer);
                }
            }
        }

        #[test]
        fn any_text_is_handled(response in any::<String>()) {
            for how in [Extraction::Auto, Extraction::Boxed, Extraction::FirstNumber, Extraction::Text] {
                extract(&response, how).and_then(key);
            }
        }

        #[test]
        fn a_boxed_number_is_found_in_any_surroundings(before in "[^\\\\]{0,40}", value: i64, after in "[^\\\\]{0,40}") {
            let response = format!("{before}\\boxed{{{value}}}{after}");
            prop_assert_eq!(extract(&response, Extraction::Auto).and_then(key), key(&value.to_string()));
        }
    }
}
