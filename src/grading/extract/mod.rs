//! Finding the final answer in a response. Where it is in doubt there is none: a wrong reading would vote.

mod announcement;
mod boxes;
mod choice;
mod listing;
mod measure;
mod operand;
mod statement;
mod turn;
mod wording;

use serde::{Deserialize, Serialize};

use super::{
    budget::search,
    clean::FENCE,
    kind::{AnswerKind, Reading},
    number,
    words::yes_or_no,
};
use announcement::Announced;
use boxes::last_boxes;
pub(super) use choice::{choice, lettered_choice, named_choice};
use choice::{is_about_others, lone_choice};
use statement::{is_formula, last_value, value, verbal};
use turn::own_turn;
use wording::{
    changes, concludes, denies, gives_reasons, is_given, is_in_doubt, is_placeholder, retracts, sentences, upholds,
    without_reasons, words,
};

/// Where a response has its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Extraction {
    /// What `the answer is`, `####`, `答案是` and the like announce behind the last box; else the last box, with those it
    /// is listed with; else what is announced last; else the response itself if it is a formula or one short line; else
    /// what is in bold in the last line, or what the last `Therefore` concludes; else a first line that is a formula, if
    /// the rest explains it; else nowhere.
    Auto,
    /// In the last `\boxed{...}` or `\fbox{...}`. If that one is empty, never closed, denied or taken back, there is no
    /// answer.
    Boxed,
    /// It is the number that the response starts with, as in `47` or `47 + 3`, for few-shot completions. A number
    /// that runs into something else, as in `47th` or `4^7`, is none.
    FirstNumber,
    /// It is the whole response, if that is one line.
    Text,
}

/// The longest line, in characters, that counts as an answer without being marked as one: longer ones are prose.
const SHORT_CHARS: usize = 80;

/// The longest end of a response, in bytes, in which an answer is looked for. Announcements stand at the end.
const MAX_RESPONSE_BYTES: usize = 200_000;

/// How many blocks of code are looked at, from the last one on.
const MAX_BLOCKS: usize = 20;

/// The answer of a finished response; `None` for an unfinished one. A response that was cut off never has an answer:
/// what looks like one may be the start of another, or an intermediate result.
pub fn answer_of(response: &str, finished: bool, how: Extraction, reading: Reading) -> Option<String> {
    finished.then(|| extract(response, how, reading)).flatten()
}

/// The final answer of a complete response, as it is written there; never empty. See [`answer_of`] for responses that
/// may be cut off.
pub fn extract(response: &str, how: Extraction, reading: Reading) -> Option<String> {
    let response = tail(response);
    let answer = search(|| match how {
        Extraction::Auto => auto(own_turn(response), reading),
        Extraction::Boxed => boxed(own_turn(response)),
        Extraction::FirstNumber => first_number(response).map(str::to_owned),
        Extraction::Text => Some(response.trim().to_owned()).filter(|text| !text.contains('\n')),
    });
    let shown = |answer: String| match how {
        Extraction::Auto => without_full_stop(answer.trim()).to_owned(),
        _ => answer.trim().to_owned(),
    };
    answer.map(shown).filter(|answer| !answer.is_empty() && !is_placeholder(answer))
}

/// An answer that a sentence ends with, without the sentence's mark. `p.m.` keeps its own.
fn without_full_stop(answer: &str) -> &str {
    let is_short_form = |word: &str| word.contains('.') && word.contains(char::is_alphabetic);
    match answer.strip_suffix(['.', '。']) {
        Some(rest)
            if !rest.ends_with('.')
                && !rest.ends_with("\\right")
                && !rest.split_whitespace().next_back().is_some_and(is_short_form) =>
        {
            rest.trim_end()
        }
        _ => answer,
    }
}

fn tail(response: &str) -> &str {
    let start = response.len().saturating_sub(MAX_RESPONSE_BYTES);
    &response[char_boundary(response, start)..]
}

/// The first place from there on where a text can be cut.
fn char_boundary(text: &str, from: usize) -> usize {
    (from..text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len())
}

fn boxed(response: &str) -> Option<String> {
    last_boxes(response)?.answer
}

fn first_number(response: &str) -> Option<&str> {
    let text = response.trim_start();
    number::leading(text).map(|(_, bytes)| &text[..bytes])
}

fn auto(response: &str, reading: Reading) -> Option<String> {
    let nouns: &[&str] = if reading.kind == AnswerKind::Choice { &["answer", "option", "choice"] } else { &["answer"] };
    if let Some(boxes) = last_boxes(response) {
        let behind = announcement::last(&response[boxes.end..], nouns).and_then(|told| read(&told, reading.kind));
        return behind.filter(|answer| is_formula(answer)).or(boxes.answer);
    }
    if let Some(told) = announcement::last(response, nouns) {
        return read(&told, reading.kind);
    }
    unmarked(response, reading)
}

/// The answer that is announced, unless what is said behind it takes it back.
fn read(told: &Announced<'_>, kind: AnswerKind) -> Option<String> {
    match kind {
        AnswerKind::Choice => {
            let taken_back = |letter: char| {
                let mut said = sentences(told.line).chain(sentences(told.behind));
                said.any(|sentence| retracts(sentence) && !is_about_others(sentence, letter))
            };
            choice(told.line).filter(|letter| !taken_back(*letter)).map(String::from)
        }
        AnswerKind::Text => short_line(told.statement).filter(|_| !retracts(told.behind)).map(str::to_owned),
        _ => {
            let answer = value(told.statement).or_else(|| verbal(told.statement).and_then(short_line))?;
            // `The answer is 5!` is 5, or 120.
            (!told.statement.ends_with('!') && upholds(told.behind, answer)).then(|| answer.to_owned())
        }
    }
}

/// The answer of a response that marks none.
fn unmarked(response: &str, reading: Reading) -> Option<String> {
    let last_line = response.trim_end().lines().next_back()?;
    match (reading.kind, short_line(response)) {
        (AnswerKind::Text, line) => line.or_else(|| last_bold(last_line)).map(str::to_owned),
        (AnswerKind::Choice, Some(line)) => choice(line).map(String::from),
        (AnswerKind::Choice, None) => {
            let explained = || explained(response).and_then(choice);
            let last = last_bold(last_line).and_then(choice).or_else(|| lone_choice(last_sentence(last_line)));
            last.or_else(explained).map(String::from)
        }
        (_, Some(line)) => {
            let found = value(line).map(str::to_owned);
            let guess = || last_value(line).filter(|_| reading.last_number && !is_single_word(line)).map(str::to_owned);
            let plain = || yes_or_no(without_reasons(line)).unwrap_or(line).to_owned();
            named_choice(line).map(String::from).or(found).or_else(guess).or_else(|| Some(plain()))
        }
        (_, None) if is_formula(response) => Some(response.to_owned()),
        (_, None) => last_bold(last_line)
            .or_else(|| only_block(response))
            .or_else(|| last_lines(response))
            .or_else(|| announcement::conclusion(response).and_then(|told| concluded(&told)))
            .or_else(|| {
                explained(response)
                    .filter(|first| is_formula(first) || yes_or_no(first).is_some() || choice(first).is_some())
            })
            .or_else(|| last_value(last_sentence(last_line)).filter(|_| reading.last_number))
            .map(str::to_owned),
    }
}

fn short_line(text: &str) -> Option<&str> {
    let line = text.trim();
    (!line.contains('\n') && line.chars().count() <= SHORT_CHARS).then_some(line)
}

fn is_single_word(text: &str) -> bool {
    !text.contains(char::is_whitespace) && !text.contains(['$', '\\']) && text.contains(char::is_alphabetic)
}

/// What a line has in bold, if it says nothing else, or gives that as its value.
fn last_bold(line: &str) -> Option<&str> {
    let (before, rest) = line.split_once("**")?;
    let (bold, after) = rest.split_once("**")?;
    let bold = bold.trim();
    let is_alone = before.trim_matches([' ', '>']).is_empty() && after.trim_matches(['.', ' ']).is_empty();
    if is_alone && !bold.ends_with(':') {
        return value(bold).or_else(|| verbal(bold));
    }
    let is_said = || value(line).is_some_and(|value| value.contains(bold));
    let has_digit = |text: &str| text.contains(|c: char| c.is_ascii_digit());
    // `Therefore, they made a profit of **$70**.`
    let is_concluded = || {
        concludes(line)
            && is_formula(bold)
            && !changes(before)
            && !changes(after)
            && !has_digit(before)
            && !has_digit(after)
    };
    (!after.contains("**") && (is_said() || is_concluded())).then_some(bold)
}

/// The block of code that a response ends in, if it is the only one that is a formula on one line.
fn only_block(response: &str) -> Option<&str> {
    let fences: Vec<usize> = response.match_indices(FENCE).map(|(at, _)| at).collect();
    let blocks = fences.chunks_exact(2).map(|pair| &response[pair[0]..pair[1] + FENCE.len()]);
    let mut formulas = blocks.rev().take(MAX_BLOCKS).filter(|block| block.lines().count() <= 3 && is_formula(block));
    let block = formulas.next().filter(|_| formulas.next().is_none())?;
    let lead = response.trim_end().strip_suffix(block)?.trim_end().lines().next_back().unwrap_or_default();
    (!denies(lead) && !is_in_doubt(lead)).then_some(block)
}

/// What the lines are behind the last one that ends in a colon, if they are one formula: `We get:` and, below it, values.
fn last_lines(response: &str) -> Option<&str> {
    let (before, lines) = response.trim_end().rsplit_once(":\n")?;
    let (lead, lines) = (before.lines().next_back()?, lines.trim_start());
    let leads = !denies(lead) && !is_in_doubt(lead) && !gives_reasons(lead) && !words(lead).any(is_given);
    // `- 5` may be an item or negative; of blocks of code only one may be an answer.
    (leads && !lines.starts_with('-') && !lines.contains(FENCE) && is_formula(lines)).then_some(lines)
}

fn concluded<'a>(told: &Announced<'a>) -> Option<&'a str> {
    value(told.statement).filter(|answer| upholds(told.behind, answer))
}

/// What the first line of a response says, if all that follows gives its reasons.
fn explained(response: &str) -> Option<&str> {
    let (first, rest) = response.trim().split_once('\n')?;
    (gives_reasons(rest) && upholds(rest, first)).then_some(first)
}

fn last_sentence(line: &str) -> &str {
    let line = line.trim_end();
    [". ", "! ", "? "].iter().filter_map(|mark| line.rfind(mark)).max().map_or(line, |at| &line[at + 2..])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PLAIN: Reading = Reading { kind: AnswerKind::Auto, last_number: false };
    const ALL: [Extraction; 4] = [Extraction::Auto, Extraction::Boxed, Extraction::FirstNumber, Extraction::Text];

    #[track_caller]
    fn check(how: Extraction, cases: &[(&str, Option<&str>)]) {
        for (response, expected) in cases {
            assert_eq!(extract(response, how, PLAIN).as_deref(), *expected, "{response:?}");
        }
    }

    #[test]
    fn the_last_box_is_the_answer_with_those_that_it_is_listed_with() {
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
                ("\\boxed{\\boxed{5}}", Some("\\boxed{5}")),
                ("$\\boxed{1}$ and $\\boxed{2}$", Some("1, 2")),
                ("\\boxed{1}, \\boxed{2}", Some("1, 2")),
                ("\\boxed{1} and so \\boxed{2}", Some("2")),
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
        let guess = Reading { last_number: true, ..PLAIN };
        assert_eq!(extract("It is 5, so the answer is \\boxed{6", Extraction::Auto, guess), None);
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
    fn without_a_mark_only_a_short_line_or_one_formula_is_an_answer() {
        let prose = "word ".repeat(40);
        check(
            Extraction::Auto,
            &[
                (" 47", Some("47")),
                ("2 + 3i", Some("2 + 3i")),
                ("Paris", Some("Paris")),
                ("We add. The answer is 47. Good", Some("47")),
                ("5\nThe answer is: 6.", Some("6")),
                ("steps\n#### 1,234", Some("1,234")),
                ("**Final answer:** 12", Some("12")),
                ("**Final Answer: 12**\n\nDone.", Some("12")),
                ("the answer is 1, no, the final answer is 2", Some("2")),
                ("The answer is 2 + 3i.", Some("2 + 3i")),
                ("The answer is \\boxed{4}. The answer is 5", Some("5")),
                ("\\boxed{4}\nFinal answer: The final answer is $5$.", Some("$5$")),
                ("Therefore $x > 5$ is the solution.", Some("$x > 5$")),
                ("所以答案是 47。", Some("47")),
                ("A lot of words.\nThe result is\n\n**12**", Some("12")),
                ("one line\nanother line", None),
                ("The answer is", None),
                (&prose, None),
                ("", None),
            ],
        );
    }

    #[test]
    fn a_block_of_code_is_an_answer_if_it_is_a_formula_and_the_only_one() {
        let block = "```\n5\n```";
        let guess = Reading { last_number: true, ..PLAIN };
        let found = |response: &str| extract(response, Extraction::Auto, guess);
        assert_eq!(found(&format!("We count.\n{block}")).as_deref(), Some(block));
        assert_eq!(found(&format!("The answer is:\n{block}\nGood")).as_deref(), Some(block));
        for response in [format!("{block}\nor\n{block}"), format!("Not:\n{block}"), "```python\nx = 5\n```".into()] {
            assert_eq!(found(&response), None, "{response}");
        }
    }

    #[test]
    fn the_mark_of_a_sentence_is_no_part_of_the_answer() {
        check(
            Extraction::Auto,
            &[
                ("The answer is 3.5.", Some("3.5")),
                ("The answer is Paris.", Some("Paris")),
                ("The answer is 3 p.m.", Some("3 p.m.")),
                ("所以答案为 12。", Some("12")),
            ],
        );
        check(Extraction::Text, &[("It rains.", Some("It rains."))]);
    }

    #[test]
    fn the_last_number_is_taken_only_where_that_is_allowed_and_nothing_changes_it() {
        let guess = Reading { last_number: true, ..PLAIN };
        let long = format!("{} so it was 40 and now it is 42", "word ".repeat(30));
        assert_eq!(extract(&long, Extraction::Auto, PLAIN), None);
        assert_eq!(extract(&long, Extraction::Auto, guess).as_deref(), Some("42"));
        for response in ["at least 5", "5 or more", "5 squared", "\\foo{1}{72}"] {
            assert_eq!(extract(response, Extraction::Auto, guess).as_deref(), Some(response));
        }
    }

    #[test]
    fn a_choice_is_found_by_its_letter_and_a_text_as_it_is() {
        let of = |kind| Reading { kind, ..PLAIN };
        let choice = |response: &str| extract(response, Extraction::Auto, of(AnswerKind::Choice));
        assert_eq!(choice("I think so. The answer is B) 42.").as_deref(), Some("B"));
        assert_eq!(choice("The answer is a dog"), None);
        assert_eq!(choice("(c)").as_deref(), Some("C"));
        let text = |response: &str| extract(response, Extraction::Auto, of(AnswerKind::Text));
        assert_eq!(text("The answer is 5 red balls.").as_deref(), Some("5 red balls"));
    }

    #[test]
    fn a_response_that_was_cut_off_has_no_answer() {
        for how in ALL {
            assert_eq!(answer_of("\\boxed{47}", false, how, PLAIN), None);
        }
        assert_eq!(answer_of("\\boxed{47}", true, Extraction::Boxed, PLAIN).as_deref(), Some("47"));
    }

    proptest! {
        #[test]
        fn an_answer_without_boxes_is_a_part_of_its_response(response in "([0-9a-z.,/+ $\n-]|#### |\\{|\\}|\u{2212}|é|\\\\){0,60}") {
            for how in ALL {
                if let Some(answer) = extract(&response, how, PLAIN) {
                    prop_assert!(response.contains(&answer) && !answer.is_empty() && answer.trim() == answer);
                }
            }
        }

        #[test]
        fn any_text_is_handled(response in any::<String>()) {
            for how in ALL {
                for last_number in [false, true] {
                    let reading = Reading { last_number, ..PLAIN };
                    extract(&response, how, reading).and_then(|answer| crate::grading::key(&answer));
                }
            }
        }

        #[test]
        fn a_boxed_number_is_found_among_other_words(before in "[b-gj-m .\n]{0,40}", value: i64, after in "[c-fjk .\n]{0,40}") {
            let response = format!("{before} \\boxed{{{value}}} {after}");
            // No unit is made of the letters behind the box.
            let found = extract(&response, Extraction::Auto, PLAIN);
            prop_assert_eq!(found.and_then(|answer| crate::grading::key(&answer)), crate::grading::key(&value.to_string()));
        }
    }
}
