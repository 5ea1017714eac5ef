//! `\boxed{...}` in responses.

use super::wording::{changes, denies_last, denies_next, is_in_doubt, is_verb, retracts, words};
use crate::grading::words::is_junction;

/// The boxes at the end of a response that belong together, as parts of it.
pub(super) struct Boxes<'a> {
    /// What is in them; nothing if they are no answer.
    pub contents: Vec<&'a str>,
    /// Where the last box ends, in bytes.
    pub end: usize,
}

/// More boxes than that are no list of answers.
const MOST: usize = 60;

/// The most bytes between two boxes that are listed.
const MAX_BETWEEN_BYTES: usize = 60;

struct Box<'a> {
    begin: usize,
    content: &'a str,
    end: usize,
}

/// The last box, with those before it that it is listed with: `\boxed{1} and \boxed{2}`. They are no answer if one of
/// them is empty or never closed, is a part of a formula, is denied, or is taken back. `None` if no box is opened.
pub(super) fn last_boxes(response: &str) -> Option<Boxes<'_>> {
    let no_answer = |end| Some(Boxes { contents: vec![], end });
    let mut boxes: Vec<Box<'_>> = vec![];
    let openings = openings(response);
    let skipped = openings.len().checked_sub(MOST + 1);
    for begin in openings.into_iter().skip(skipped.unwrap_or(0)) {
        // A box in a box is a part of its content.
        if boxes.last().is_some_and(|before| begin < before.end) {
            continue;
        }
        match content(response, begin) {
            Some((content, end)) => boxes.push(Box { begin, content, end }),
            None => return no_answer(response.len()),
        }
    }
    let end = boxes.last()?.end;
    let joined = |pair: &[Box<'_>]| lists(&response[pair[0].end..pair[1].begin]);
    let first = boxes.windows(2).rposition(|pair| !joined(pair)).map_or(0, |at| at + 1);
    let listed = &boxes[first..];
    let begin = listed.first()?.begin;
    let from = if first == 0 { 0 } else { boxes[first - 1].end };
    let stands = stands(&response[from..begin], &response[end..]);
    if listed.len() > MOST || listed.iter().any(|part| part.content.trim().is_empty()) || !stands {
        return no_answer(end);
    }
    Some(Boxes { contents: listed.iter().map(|part| part.content.trim()).collect(), end })
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

/// Whether what stands between two boxes makes a list of them: marks alone, names of what is in the next one, or a few
/// words that end in `and` or `or`.
fn lists(between: &str) -> bool {
    if between.len() > MAX_BETWEEN_BYTES {
        return false;
    }
    let is_set = |word: &&str| !word.starts_with('\\') || matches!(*word, "\\ne" | "\\neq");
    let is_name = |word: &&str| word.chars().count() == 1 && !matches!(*word, "a" | "I");
    // The backslash before a box may be doubled.
    let between = between.trim_end_matches('\\');
    let words: Vec<&str> = words(between).filter(is_set).collect();
    let Some(junction) = words.iter().rposition(|word| is_junction(&word.to_lowercase())) else {
        // `\boxed{1}` alone on the next line is rather said again.
        let is_marked = between.is_empty() || between.contains([',', '+', ';', '&']);
        return is_marked && words.iter().all(is_name) && !between.contains(". ");
    };
    let (before, behind) = (&words[..junction], &words[junction + 1..]);
    // `part (a)` is not `or` there.
    let speaks = before.iter().any(|word| is_verb(word) || !is_junction(&word.to_lowercase()) && changes(word));
    before.len() <= 4 && !speaks && behind.iter().all(is_name) && !between.contains(". ")
}

/// Whether boxes are an answer, by what is said before and behind them.
fn stands(before: &str, behind: &str) -> bool {
    const CLAUSE_ENDS: [char; 7] = [',', ';', ':', '\n', '.', '!', '('];
    let clause_before = before.rfind(CLAUSE_ENDS).map_or(before, |at| &before[at + 1..]);
    let end = behind.find(CLAUSE_ENDS).unwrap_or(behind.len());
    let (clause, rest) = behind.split_at(end);
    !is_operand(before, behind)
        && !denies_next(clause_before)
        && !is_in_doubt(clause_before)
        && !denies_last(clause)
        && !retracts(rest)
}

/// Whether an operator makes boxes a part of a formula: `-\boxed{5}`, `\boxed{5}^2`.
fn is_operand(before: &str, behind: &str) -> bool {
    const COMMANDS: [&str; 8] = ["\\cdot", "\\times", "\\div", "\\pm", "\\mp", "\\sqrt", "\\frac", "\\dfrac"];
    const OPERATORS: [char; 9] = ['-', '+', '/', '^', '_', '\u{2212}', '\u{d7}', '\u{b1}', '\u{221a}'];
    // `2\boxed{5}`, `\boxed{5}x`, and a part of a fraction; a unit has more letters.
    let is_letter = |c: char| c.is_ascii_alphabetic();
    let is_adjacent = before.ends_with(|c: char| c.is_ascii_digit())
        || before.ends_with("}{")
        || behind.starts_with("}{")
        || behind.starts_with(is_letter) && !behind[1..].starts_with(is_letter);
    // A dash at the beginning of a line is the mark of an item, and one before words is a dash.
    let line = before.rfind('\n').map_or(before, |at| &before[at + 1..]);
    let is_item = matches!(line.trim_end_matches(['$', '{']).trim_start(), "- " | "+ " | "* ");
    // Stars without spaces are marks of bold.
    let is_times = before.ends_with(" * ");
    let before = before.trim_end_matches([' ', '$', '{']);
    let is_after = !is_item && (is_times || before.ends_with(OPERATORS))
        || COMMANDS.iter().any(|command| before.ends_with(command));
    let behind = behind.trim_start_matches([' ', '$', '}']);
    let is_dash = behind.strip_prefix("- ").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_alphabetic()));
    let is_command = behind.starts_with('\\') && words(behind).next().is_some_and(|word| COMMANDS.contains(&word));
    let is_before = !is_dash && behind.starts_with(OPERATORS) || is_command;
    is_after || is_before || is_adjacent
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boxes_are_listed_by_marks_names_and_junctions() {
        for between in
            ["", ", ", "$, $", "; ", " and ", "$ or $x=", "\\text{ and }", " papers and ", "\n\nand\n\n", ", y = "]
        {
            assert!(lists(between), "{between:?}");
        }
        for between in
            [" ", "\n", " = ", " so ", " and so ", " is wrong and ", ", wait, ", ". And ", " but ", " or maybe "]
        {
            assert!(!lists(between), "{between:?}");
        }
    }

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
            assert!(stands(before, behind), "{before:?} {behind:?}");
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
            assert!(!stands(before, behind), "{before:?} {behind:?}");
        }
    }

    #[test]
    fn more_boxes_than_are_read_are_no_list() {
        let boxes = |count: usize| vec!["\\boxed{1}"; count].join(", ");
        assert_eq!(last_boxes(&boxes(MOST)).map(|boxes| boxes.contents.len()), Some(MOST));
        assert_eq!(last_boxes(&boxes(MOST + 1)).map(|boxes| boxes.contents.len()), Some(0));
    }
}
