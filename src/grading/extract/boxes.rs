//! `\boxed{...}` in responses.

use super::{
    listing::{are_listed, listed_answer},
    operand::is_operand,
    statement::is_contradicted,
    wording::{denies_last, denies_next, is_hypothetical, is_in_doubt, near_end, retracts, without_reasons, words},
};
use crate::grading::{
    unit::scale,
    vocabulary::{Words, changes_number},
};

/// The boxes at the end of a response that belong together.
pub(super) struct Boxes {
    /// What they say; nothing if they are no answer.
    pub answer: Option<String>,
    /// Where the last box ends, in bytes.
    pub end: usize,
}

/// More boxes than that are no list of answers.
const MOST: usize = 60;

pub(super) struct Box<'a> {
    /// What stands before it, from the end of the box before on.
    pub lead: &'a str,
    pub content: &'a str,
    /// Where it ends, in bytes.
    pub end: usize,
}

/// The last box, with those before it that it is listed with: `\boxed{1} and \boxed{2}`. They are no answer if one of
/// them is empty or never closed, is a part of a formula, is denied, or is taken back. `None` if no box is opened.
pub(super) fn last_boxes(response: &str) -> Option<Boxes> {
    let no_answer = |end| Some(Boxes { answer: None, end });
    let mut boxes: Vec<Box<'_>> = vec![];
    let openings = openings(response);
    let skipped = openings.len().checked_sub(MOST + 1);
    for begin in openings.into_iter().skip(skipped.unwrap_or(0)) {
        let before = boxes.last().map_or(0, |before| before.end);
        // A box in a box is a part of its content.
        if begin < before {
            continue;
        }
        match content(response, begin) {
            Some((content, end)) => boxes.push(Box { lead: &response[before..begin], content, end }),
            None => return no_answer(response.len()),
        }
    }
    let end = boxes.last()?.end;
    let first = boxes.windows(2).rposition(|pair| !are_listed(&pair[0], &pair[1])).map_or(0, |at| at + 1);
    let listed = &boxes[first..];
    let (lead, tail) = (listed.first()?.lead, &response[end..]);
    let begin = first.checked_sub(1).map_or(0, |before| boxes[before].end) + lead.len();
    let stands = !is_operand(near_end(&response[..begin]), tail) && stands(lead, tail);
    let is_side = first > 0 && matches!(lead.trim_matches([' ', '$']), "to" | ":" | "out of");
    let is_part = is_side || is_scaled(near_end(lead), tail);
    if listed.len() > MOST || listed.iter().any(|part| part.content.trim().is_empty()) || !stands || is_part {
        return no_answer(end);
    }
    let answer = listed_answer(listed, tail).filter(|answer| listed.len() > 1 || !is_contradicted(answer, lead, tail));
    Some(Boxes { answer, end })
}

/// Where boxes begin.
fn openings(response: &str) -> Vec<usize> {
    let mut openings: Vec<usize> = ["\\boxed", "\\fbox"]
        .iter()
        .flat_map(|command| response.match_indices(command).map(|(at, _)| at))
        .filter(|at| {
            !response[at + 1..]
                .trim_start_matches(|c: char| c.is_ascii_lowercase())
                .starts_with(|c: char| c.is_ascii_alphabetic())
        })
        .collect();
    openings.sort_unstable();
    openings
}

/// What is in the box that begins there, and where it ends.
fn content(response: &str, begin: usize) -> Option<(&str, usize)> {
    let name = 1 + response[begin + 1..].find(|c: char| !c.is_ascii_alphabetic())?;
    let content = response[begin + name..].trim_start().strip_prefix('{')?;
    let start = response.len() - content.len();
    until_closed(content).map(|content| (content, start + content.len() + 1))
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

/// Words before a box, and behind one, that make another number of it: `negative \boxed{5}`, `\boxed{5} squared`.
const MAKERS_BEFORE: Words = Words("negative minus plus times twice thrice double triple");
const MAKERS_BEHIND: Words = Words("squared cubed factorial plus minus multiplied divided remainder base choose");

/// Words for what is made of a number, before `of`. A sum of \boxed{5} is 5.
const OPERANDS: Words = Words("square cube reciprocal opposite negative inverse multiple");

/// Whether words beside a box make it a part of another number: `minus \boxed{5}`, `half of \boxed{5}`,
/// `\boxed{5} thousand`, `\boxed{2} and a half`, `\boxed{11} in base 5`.
fn is_scaled(before: &str, behind: &str) -> bool {
    let mut last = words(before.lines().next_back().unwrap_or_default()).rev();
    let is_made = match last.next() {
        Some("of") => last.next().is_some_and(|word| changes_number(word) || OPERANDS.have(word)),
        word => word.is_some_and(|word| MAKERS_BEFORE.have(word)),
    };
    let first: Vec<&str> = words(behind.lines().next().unwrap_or_default()).take(3).collect();
    is_made
        || match first[..] {
            ["and", "a", part] => changes_number(part),
            [word, next, ..] => {
                // `\boxed{5} R 2`
                let has_remainder = matches!(word, "R" | "r") && next.starts_with(|c: char| c.is_ascii_digit());
                scale(word).is_some() || MAKERS_BEHIND.have(word) || word == "in" && next == "base" || has_remainder
            }
            [word] => scale(word).is_some() || MAKERS_BEHIND.have(word),
            [] => false,
        }
}

/// Whether boxes are an answer, by what is said before and behind them.
fn stands(before: &str, behind: &str) -> bool {
    const CLAUSE_ENDS: [char; 7] = [',', ';', ':', '\n', '.', '!', '('];
    let near = near_end(before);
    let clause_before = near.rfind(CLAUSE_ENDS).map_or(near, |at| &near[at + 1..]);
    let end = behind.find(CLAUSE_ENDS).unwrap_or(behind.len());
    let (clause, rest) = behind.split_at(end);
    !denies_next(clause_before)
        && !is_in_doubt(clause_before)
        && !is_hypothetical(near)
        && !denies_last(without_reasons(clause))
        && !retracts(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_around_a_box_may_deny_it_or_make_it_a_part_of_a_formula() {
        for (before, behind) in [
            ("x = ", ""),
            ("- ", "."),
            ("\n * ", ""),
            ("**", "**"),
            ("no, ", ""),
            ("the number that is not even is ", ", not 6"),
            ("\\equiv ", " \\pmod{11}"),
            ("", " (not 6)"),
            ("", " - as it was to be shown"),
        ] {
            assert!(!is_operand(before, behind) && stands(before, behind), "{before:?} {behind:?}");
        }
        for (before, behind) in [
            ("is not ", ""),
            ("cannot be ", ""),
            ("isn\u{2019}t ", ""),
            ("x \\ne ", ""),
            ("x \u{2260} ", ""),
            ("", "?"),
            ("", " is not it"),
            ("", ". No."),
            ("", " (wrong)"),
            ("-", ""),
            ("2 \\cdot ", ""),
            ("2 * ", ""),
            ("", "^2"),
            ("", "$ - 2"),
            ("", "\\times 2"),
            ("2", ""),
            ("", "x"),
            ("", "_8"),
            ("\\frac{1}{", "}"),
            ("\\frac{", "}{2}"),
            ("or maybe ", ""),
        ] {
            assert!(is_operand(before, behind) || !stands(before, behind), "{before:?} {behind:?}");
        }
    }

    #[test]
    fn more_boxes_than_are_read_are_no_list() {
        let boxes = |count: usize| vec!["\\boxed{1}"; count].join(", ");
        assert_eq!(last_boxes(&boxes(MOST)).map(|boxes| boxes.answer.is_some()), Some(true));
        assert_eq!(last_boxes(&boxes(MOST + 1)).map(|boxes| boxes.answer.is_some()), Some(false));
    }
}
