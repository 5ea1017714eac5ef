//! Finding the final answer in a response. Where it is in doubt there is none: a wrong reading would vote.

use serde::{Deserialize, Serialize};

use super::{
    boxes::{Boxes, last_boxes},
    budget::Budget,
    form::Form,
    kind::{AnswerKind, Reading, choice},
    number,
    read::form,
};

/// Where a response has its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Extraction {
    /// What a `final answer` behind the last box announces; else the last box, with those it is listed with; else
    /// what `the answer is`, `####`, `答案是` and the like announce last, or a last line in bold; else the response
    /// itself if it is one short line, or the one formula in it; else nowhere.
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

/// The longest end of a response, in bytes, in which an answer is looked for. Announcements stand at the end.
const MAX_RESPONSE_BYTES: usize = 200_000;

/// The answer of a finished response; `None` for an unfinished one. A response that was cut off never has an answer:
/// what looks like one may be the start of another, or an intermediate result.
pub fn answer_of(response: &str, finished: bool, how: Extraction, reading: Reading) -> Option<String> {
    finished.then(|| extract(response, how, reading)).flatten()
}

/// The final answer of a complete response, as it is written there; never empty. See [`answer_of`] for responses that
/// may be cut off.
pub fn extract(response: &str, how: Extraction, reading: Reading) -> Option<String> {
    let response = tail(response);
    let answer = match how {
        Extraction::Auto if reading.last_number => auto_or_last_number(response, reading.kind),
        Extraction::Auto => auto(response, reading.kind),
        Extraction::Boxed => last_boxes(response).flatten().map(|boxes| listed(&boxes)),
        Extraction::FirstNumber => first_number(response).map(str::to_owned),
        Extraction::Text => Some(response.trim().to_owned()).filter(|text| !text.contains('\n')),
    };
    answer.map(|answer| answer.trim().to_owned()).filter(|answer| !answer.is_empty())
}

/// As [`auto`], and where that finds nothing but words: the last formula, or the last number, of the response. A box that
/// is never closed stays no answer.
fn auto_or_last_number(response: &str, kind: AnswerKind) -> Option<String> {
    let found = auto(response, kind);
    if matches!(kind, AnswerKind::Choice | AnswerKind::Text)
        || last_boxes(response).is_some_and(|boxes| boxes.is_none())
    {
        return found;
    }
    if found.as_ref().is_some_and(|answer| is_single_word(answer) || is_formula(answer)) {
        return found;
    }
    // What is no prose is a formula that is not understood: no part of it is an answer.
    let last_line = response.trim_end().lines().next_back().unwrap_or_default();
    if !is_prose(response)
        || (response.len() <= SHORT_CHARS || last_line.len() <= SHORT_CHARS) && is_modified(last_line)
    {
        return found;
    }
    let last_formula = formulas(response).last().map(|formula| (formula.end, formula.content.to_owned()));
    let last_number = last_number(response);
    match (last_formula, last_number) {
        (Some((end, formula)), Some((at, _))) if end > at => Some(formula),
        (_, Some((end, number))) => {
            let before = response[..end - number.len()].to_lowercase();
            let is_denied = ["not ", "n't "].iter().any(|word| before.ends_with(word));
            if is_denied { found } else { Some(number.to_owned()) }
        }
        (Some((_, formula)), None) => Some(formula),
        (None, None) => found,
    }
}

fn tail(response: &str) -> &str {
    let start = response.len().saturating_sub(MAX_RESPONSE_BYTES);
    let start = (start..=response.len()).find(|at| response.is_char_boundary(*at)).unwrap_or(0);
    &response[start..]
}

fn listed(boxes: &Boxes) -> String {
    boxes.contents.join(", ")
}

fn auto(response: &str, kind: AnswerKind) -> Option<String> {
    let of_sentence = |sentence: &str| match kind {
        AnswerKind::Choice => choice(sentence).map(|letter| letter.to_string()),
        AnswerKind::Text => short_line(sentence).map(str::to_owned),
        _ => of_sentence(sentence),
    };
    if let Some(boxed) = last_boxes(response) {
        let boxed = boxed?;
        let final_answer = last_announced(&response[boxed.end..], &FINAL).and_then(of_sentence);
        return final_answer.filter(|answer| is_formula(answer)).or_else(|| Some(listed(&boxed)));
    }
    if let Some(announced) = last_announced(response, &ANNOUNCEMENTS) {
        return of_sentence(announced);
    }
    if let Some(bold) = last_bold(response) {
        return Some(bold.to_owned());
    }
    if matches!(kind, AnswerKind::Choice | AnswerKind::Text) {
        return short_line(response).and_then(of_sentence);
    }
    if is_formula(response) {
        return Some(response.to_owned());
    }
    if !response.trim().contains('\n')
        && let Some(formula) = only_formula(response)
    {
        return Some(formula.to_owned());
    }
    match short_line(response) {
        Some(line) => Some(behind_verb(line).filter(|_| !is_modified(line)).unwrap_or(line).to_owned()),
        None => conclusion(response),
    }
}

fn short_line(text: &str) -> Option<&str> {
    let line = text.trim();
    (!line.contains('\n') && line.chars().count() <= SHORT_CHARS).then_some(line)
}

/// Whether a text reads as mathematics rather than words.
fn is_formula(text: &str) -> bool {
    form(text, &Budget::new()).is_some_and(|form| !matches!(form, Form::Text(_)))
}

fn is_single_word(text: &str) -> bool {
    !text.contains(char::is_whitespace) && !text.contains(['$', '\\']) && text.contains(char::is_alphabetic)
}

/// Whether a text has words, outside of commands, and says something about something.
fn is_prose(text: &str) -> bool {
    let is_word = |word: &str| word.len() > 1 && word.bytes().all(|b| b.is_ascii_alphabetic());
    let words =
        text.split_whitespace().filter(|word| is_word(word.trim_end_matches([',', '.', ':', ';', '?', '!']))).count();
    let tells = [" is ", " are ", "'s ", " : ", " = "].iter().any(|verb| text.contains(verb));
    words > 0 && (tells || words > 8)
}

fn first_number(response: &str) -> Option<&str> {
    let text = response.trim_start();
    number::leading(text).map(|(_, bytes)| &text[..bytes])
}

const FINAL: [&str; 3] = ["final answer is", "final answer:", "final answer**"];
const ANNOUNCEMENTS: [&str; 14] = [
    "answer is",
    "answers are",
    "answer:",
    "answer**",
    "answer $",
    "answer \\(",
    "answer \\[",
    "final answer:",
    "final answer is",
    "final answer**",
    "####",
    "\u{7b54}\u{6848}\u{662f}",
    "\u{7b54}\u{6848}\u{4e3a}",
    "\u{7b54}\u{6848}\u{ff1a}",
];

/// What follows the last announcement, up to the end of its sentence or formula.
fn last_announced<'a>(response: &'a str, announcements: &[&str]) -> Option<&'a str> {
    // Lower case in ASCII only keeps every byte where it is.
    let lower = response.to_ascii_lowercase();
    let end_of = |phrase: &&str| {
        let end = lower.rfind(phrase)? + phrase.len();
        // The delimiter belongs to what is announced.
        let delimiter =
            ["$", "\\(", "\\["].iter().find(|delimiter| phrase.ends_with(**delimiter)).map_or(0, |d| d.len());
        Some(end - delimiter)
    };
    let start = announcements.iter().filter_map(end_of).max()?;
    let text = response[start..].trim_start_matches([' ', ':', '*', '\n', '\u{ff1a}']);
    for (open, close) in [("\\[", "\\]"), ("$$", "$$")] {
        if let Some(content) = text.strip_prefix(open) {
            return content.split(close).next();
        }
    }
    let line = text.lines().next().unwrap_or_default();
    let line = line.split("<|").next().unwrap_or_default();
    Some(sentence(line).trim_matches([' ', '*']))
}

/// Up to the first full stop that ends a sentence.
fn sentence(line: &str) -> &str {
    let ends = [". ", "\u{3002}", ".\u{201d} "];
    let end = ends.iter().filter_map(|mark| line.find(mark)).min().unwrap_or(line.len());
    &line[..end]
}

/// The answer that a sentence gives: itself, what stands behind its last `is`, its only formula, its only number.
fn of_sentence(sentence: &str) -> Option<String> {
    let text = sentence.trim();
    if is_formula(text) {
        return Some(text.to_owned());
    }
    if let Some(found) = behind_verb(text).or_else(|| only_formula(text)) {
        return Some(found.to_owned());
    }
    match numbers(text).as_slice() {
        [(_, number)] if !is_modified(text) => Some((*number).to_owned()),
        _ => short_line(text).map(str::to_owned),
    }
}

/// The formula that stands behind the last verb of a sentence.
fn behind_verb(sentence: &str) -> Option<&str> {
    let behind = |verb: &str| sentence.rsplit_once(verb).map(|(_, behind)| behind).filter(|text| is_formula(text));
    [" is ", " are ", " = "].into_iter().find_map(behind)
}

/// The only formula of a sentence of few words, unless they make something else of it.
fn only_formula(sentence: &str) -> Option<&str> {
    let formulas = formulas(sentence);
    let [formula] = formulas.as_slice() else { return None };
    let words = sentence.len() - formula.content.len();
    (words <= SHORT_CHARS && !is_modified(sentence)).then_some(formula.content)
}

/// Words that make another answer of a number beside them.
const MODIFIERS: [&str; 37] = [
    "know",
    "unsure",
    "not sure",
    "at least",
    "at most",
    "more",
    "less",
    "greater",
    "fewer",
    "up to",
    "between",
    "from",
    "million",
    "billion",
    "thousand",
    "hundred",
    "dozen",
    "squared",
    "cubed",
    "factorial",
    "divided",
    "times",
    "minus",
    "plus",
    "negative",
    "root",
    "half",
    "halves",
    "third",
    "exceed",
    "above",
    "below",
    "over",
    "under",
    "maybe",
    "perhaps",
    "approximately",
];

fn is_modified(sentence: &str) -> bool {
    let lower = sentence.to_lowercase();
    MODIFIERS.iter().any(|word| lower.contains(word))
}

/// The last line, if it has something in bold and nothing else that could be an answer.
fn last_bold(response: &str) -> Option<&str> {
    let line = response.trim_end().lines().next_back()?;
    let (before, rest) = line.split_once("**")?;
    let (bold, after) = rest.split_once("**")?;
    let says_more = |text: &str| text.contains(|c: char| c.is_ascii_digit()) || text.contains("**");
    (!bold.trim().is_empty() && !says_more(before) && !says_more(after) && !bold.ends_with(':')).then_some(bold)
}

/// What the last sentence concludes: `Therefore, the probability is 2/3.`
fn conclusion(response: &str) -> Option<String> {
    const STARTS: [&str; 7] = ["Therefore", "Thus", "Hence", "So, ", "In conclusion", "Consequently", "As a result"];
    let line = response.split("<|").next()?.trim_end().lines().next_back()?;
    let start = STARTS.iter().filter_map(|start| line.rfind(start)).max()?;
    let sentence = sentence(&line[start..]).trim_end_matches(['.', ' ']);
    of_sentence(sentence).filter(|answer| is_formula(answer))
}

/// A formula between delimiters, and where it ends in its text, in bytes.
struct Formula<'a> {
    content: &'a str,
    end: usize,
}

/// The formulas between `$`, `$$`, `\(` or `\[`. In dollars and `\(` they are on one line.
fn formulas(text: &str) -> Vec<Formula<'_>> {
    let mut found = vec![];
    let mut at = 0;
    while let Some(offset) = text[at..].find(['$', '\\']) {
        let start = at + offset;
        let rest = &text[start..];
        let delimiters = [("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]")];
        let Some((open, close)) = delimiters.into_iter().find(|(open, _)| rest.starts_with(open)) else {
            // A command, or an escaped dollar.
            at = start + 1 + rest[1..].chars().next().map_or(0, char::len_utf8);
            continue;
        };
        let content = start + open.len();
        let Some(length) = text[content..].find(close) else { break };
        let inner = &text[content..content + length];
        at = content + length + close.len();
        if matches!(open, "$" | "\\(") && inner.contains('\n') {
            continue;
        }
        found.push(Formula { content: inner, end: at });
    }
    found
}

/// The numbers of a text outside of words, with the places where they end.
fn numbers(text: &str) -> Vec<(usize, &str)> {
    let mut found = vec![];
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        // A digit is a character of its own, so that the text can be cut before it.
        let starts = bytes[at].is_ascii_digit()
            && text[..at]
                .chars()
                .next_back()
                .is_none_or(|c| c.is_whitespace() || "($-+*=:\u{20ac}\u{a3}\u{ff1a}".contains(c) || !c.is_ascii());
        if !starts {
            at += 1;
            continue;
        }
        let end = text[at..].find(|c: char| !(c.is_ascii_digit() || ".,/".contains(c))).map_or(text.len(), |n| at + n);
        let number = text[at..end].trim_end_matches(['.', ',', '/']);
        let signed = at > 0 && bytes[at - 1] == b'-' && (at == 1 || !bytes[at - 2].is_ascii_alphanumeric());
        let start = at - usize::from(signed);
        let end_of_number = at + number.len();
        let joined = text[end_of_number..].starts_with(['_', '^', '}', '{']);
        if !joined {
            found.push((end_of_number, &text[start..end_of_number]));
        }
        at = end.max(at + 1);
    }
    found
}

/// The last number, with a percent sign if it has one.
fn last_number(text: &str) -> Option<(usize, &str)> {
    let (end, number) = numbers(text).pop()?;
    let percent = text[end..].trim_start_matches('\\').starts_with('%');
    let start = end - number.len();
    let end = if percent { end + text[end..].find('%').map_or(0, |at| at + 1) } else { end };
    Some((end, &text[start..end]))
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
                ("5\nThe answer is: 6.", Some("6.")),
                ("steps\n#### 1,234", Some("1,234")),
                ("**Final answer:** 12", Some("12")),
                ("**Final Answer: 12**\n\nDone.", Some("12")),
                ("the answer is 1, no, the final answer is 2", Some("2")),
                ("The answer is 2 + 3i.", Some("2 + 3i.")),
                ("The answer is \\boxed{4}. The answer is 5", Some("4")),
                ("\\boxed{4}\nFinal answer: The final answer is $5$.", Some("$5$.")),
                ("Therefore $x > 5$ is the solution.", Some("x > 5")),
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
        assert_eq!(text("The answer is 5 red balls.").as_deref(), Some("5 red balls."));
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
        fn a_boxed_number_is_found_in_any_surroundings(before in "[^\\\\]{0,40}", value: i64, after in "[^\\\\]{0,40}") {
            prop_assume!(!after.to_lowercase().contains("final answer"));
            let response = format!("{before}\\boxed{{{value}}}{after}");
            let found = extract(&response, Extraction::Auto, PLAIN);
            prop_assert_eq!(found.and_then(|answer| crate::grading::key(&answer)), crate::grading::key(&value.to_string()));
        }
    }
}
