//! Boxes that are listed: `x = \boxed{1}` and `y = \boxed{2}`.

use super::{
    boxes::Box,
    measure::measured,
    statement::{is_counted, name_of},
    wording::{changes, is_filler, is_verb, words},
};
use crate::grading::{names, words::is_junction};

/// The most bytes between two boxes that are listed.
const MAX_BETWEEN_BYTES: usize = 60;

/// The most words that are said of a box.
const MAX_WORDS: usize = 4;

/// What stands between two boxes that are listed.
struct Joint<'a> {
    /// What the box before it is called there; `None` if that is not clear.
    label: Option<String>,
    /// The left side of the equation that ends in the box behind it.
    name: &'a str,
}

/// Whether the second of two boxes is listed with the first: marks alone between them, names of what is in it, or a few
/// words that say what the first one counts or is for, or end in `and` or `or`; or only space, if their names differ, as
/// in `\boxed{x = 3}` and `\boxed{y = 4}` on the next line; or both are parts with labels, on lines of their own.
pub(super) fn are_listed(left: &Box<'_>, right: &Box<'_>) -> bool {
    let between = right.lead;
    let differ = |left: Option<String>, right: Option<String>| left.is_some() && right.is_some() && left != right;
    if is_blank(between) && !between.is_empty() {
        differ(named(left), named(right))
    } else {
        joint(between).is_some() || starts_part(between) && differ(part(left.lead), part(between))
    }
}

/// The name of what is in a box, in it or before it.
fn named(part: &Box<'_>) -> Option<String> {
    match name(part.lead) {
        "" => name_of(part.content),
        name => name_of(&format!("{name} = 0")),
    }
}

/// Whether only marks stand between a box and the line of the next one.
fn starts_part(between: &str) -> bool {
    between.rsplit_once('\n').is_some_and(|(before, _)| !before.contains(char::is_alphanumeric))
}

/// What a part of the answer is called, if the line before a box has only that: `Part (a):`, `(a)`, `1.`
fn part(lead: &str) -> Option<String> {
    let line = lead.rsplit('\n').next().unwrap_or_default().trim_end_matches(['$', '\\', '(', '[', ' ', '*']);
    let text = line.trim_end_matches([':', ')', '.', '*']);
    let is_marked = text.len() < line.len();
    let mut said = words(text);
    let label = said.next_back()?;
    let is_noun =
        |word: &str| ["part", "question", "problem", "answer"].iter().any(|noun| word.eq_ignore_ascii_case(noun));
    let is_alone = said.next().is_none_or(is_noun) && said.next().is_none();
    part_name(label).filter(|_| is_marked && is_alone)
}

/// One name for `a`, `A`, `i` and `1`.
fn part_name(label: &str) -> Option<String> {
    const LETTERS: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];
    const ROMAN: [&str; 8] = ["i", "ii", "iii", "iv", "v", "vi", "vii", "viii"];
    let place = |labels: &[&str]| labels.iter().position(|own| label.eq_ignore_ascii_case(own)).map(|at| at + 1);
    let number = place(&LETTERS).or_else(|| place(&ROMAN)).or_else(|| label.parse::<u8>().ok().map(usize::from))?;
    Some(names::part_name(number))
}

/// Whether there is only space between two boxes, but for the name of the second one.
fn is_blank(between: &str) -> bool {
    let space = between.trim_end_matches([' ', '$', '\\', '=']);
    let space = space.strip_suffix(name(between)).unwrap_or(space);
    spoken(space).next().is_none() && space.chars().all(|c| c.is_alphabetic() || " \n\r\t$\\()[]*".contains(c))
}

fn joint(between: &str) -> Option<Joint<'_>> {
    if between.len() > MAX_BETWEEN_BYTES || between.contains(". ") {
        return None;
    }
    if is_blank(between) && !between.is_empty() {
        return Some(Joint { label: Some(String::new()), name: name(between) });
    }
    // The backslash before a box may be doubled.
    let text = between.trim_end_matches('\\');
    // `\boxed{1}` alone on the next line is rather said again, and one `+` makes a sum.
    let mark = || text.find([',', ';', '&']).or_else(|| text.find("++")).or_else(|| text.is_empty().then_some(0));
    let junction = spoken(text).rfind(|word| is_junction(&word.to_lowercase()));
    let (at, length) = match junction {
        Some(word) => (text.rfind(word)?, word.len()),
        None => (mark()?, 0),
    };
    let words: Vec<&str> = spoken(&text[..at]).collect();
    let label = label(&words);
    // `part (a)` is not `or` there.
    let speaks = words.iter().any(|word| is_verb(word) || !is_junction(&word.to_lowercase()) && changes(word));
    let belongs = if junction.is_some() || label.as_ref().is_some_and(|label| !label.is_empty()) {
        words.len() <= MAX_WORDS && !speaks
    } else {
        words.iter().all(|word| is_letter(word))
    };
    let before = &text[at + length..];
    let name = name(before);
    let is_clear = is_balanced(text) && !spoken(&before.replacen(name, "", 1)).any(is_letter);
    let label = label.filter(|_| is_clear);
    (belongs && spoken(before).all(is_letter)).then_some(Joint { label, name })
}

/// What words behind a box call it: what it is for, or what it counts. It is empty if they say nothing, and `None` if
/// they say something else.
fn label(words: &[&str]) -> Option<String> {
    match words {
        ["for", "part", label] => part_name(label),
        ["for", of @ ..] if !of.is_empty() => Some(of.join(" ")),
        // In January, and no inches.
        ["in", ..] => None,
        _ if words.iter().all(|word| is_filler(word) && !is_letter(word)) => Some(String::new()),
        _ => {
            let longest = words.len().min(MAX_WORDS);
            (1..=longest).rev().map(|length| words[..length].join(" ")).find(|words| is_counted(words))
        }
    }
}

/// Whether no bracket is opened or closed between two boxes.
fn is_balanced(between: &str) -> bool {
    let count = |bracket: char| between.matches(bracket).count();
    let closes = between.trim_start_matches([' ', '$']).starts_with([')', ']']);
    !closes && count('(') == count(')') && count('[') == count(']')
}

/// What listed boxes say together, with what they are called and the brackets around them, as the order would be lost
/// without those. `None` if it is not clear what they are called.
pub(super) fn listed_answer(listed: &[Box<'_>], tail: &str) -> Option<String> {
    let (first, others) = listed.split_first()?;
    if others.is_empty() {
        return measured(first.lead, first.content, tail);
    }
    if let Some(parts) = listed.iter().map(|each| part(each.lead)).collect::<Option<Vec<_>>>() {
        let named = parts.iter().zip(listed).map(|(part, each)| format!("\\text{{{part}}} = {}", each.content.trim()));
        return Some(named.collect::<Vec<_>>().join(", "));
    }
    let joints: Vec<Joint<'_>> = others.iter().map(|each| joint(each.lead)).collect::<Option<_>>()?;
    let mut labels: Vec<String> = joints.iter().map(|joint| joint.label.clone()).collect::<Option<_>>()?;
    if labels.iter().any(|label| !label.is_empty()) {
        let clause = tail.split(['.', ',', ';', ':', '!', '?', '\n']).next().unwrap_or_default();
        let label = label(&spoken(clause).collect::<Vec<_>>()).filter(|label| !label.is_empty());
        let next = || labels.last().and_then(|label| names::part_number(label)).map(|part| names::part_name(part + 1));
        labels.push(label.or_else(next).unwrap_or_else(|| "other".into()));
    }
    let names = std::iter::once(name(first.lead)).chain(joints.iter().map(|joint| joint.name)).enumerate();
    let names: Vec<String> = names
        .map(|(at, name)| match labels.get(at) {
            Some(label) if name.is_empty() && !label.is_empty() => format!("\\text{{{label}}}"),
            _ => name.to_owned(),
        })
        .collect();
    let mut different: Vec<&str> = names.iter().map(String::as_str).filter(|name| !name.is_empty()).collect();
    different.sort_unstable();
    different.dedup();
    let contents = listed.iter().map(|part| part.content.trim());
    let list: Vec<String> = if different.len() <= 1 {
        contents.map(String::from).collect()
    } else if names.iter().any(String::is_empty) {
        return None;
    } else {
        names.iter().zip(contents).map(|(name, content)| format!("{name} = {content}")).collect()
    };
    bracketed(first.lead, &list.join(", "), tail)
}

/// A list in the brackets that are open before it; `None` if they are not closed behind it.
fn bracketed(lead: &str, list: &str, tail: &str) -> Option<String> {
    let lead = lead.trim_end_matches([' ', '$', '\\']);
    let is_delimiter = lead.ends_with("\\(") || lead.ends_with("\\[");
    let Some(open) = lead.chars().next_back().filter(|c| "([".contains(*c) && !is_delimiter) else {
        return Some(list.to_owned());
    };
    let tail = tail.trim_start_matches([' ', '$']);
    let close = tail.strip_prefix("\\right").unwrap_or(tail).chars().next().filter(|c| ")]".contains(*c))?;
    Some(format!("{open}{list}{close}"))
}

/// The left side of the equation that a text ends in; empty if it ends in none.
fn name(text: &str) -> &str {
    const STARTS: [&str; 10] = ["$", ",", ";", "\n", ":", "\\(", "\\[", "} ", "&", "\u{ff0c}"];
    let Some(side) = text.trim_end_matches([' ', '$', '\\']).strip_suffix('=') else { return "" };
    let start = STARTS.iter().filter_map(|mark| side.rfind(mark).map(|at| at + mark.len())).max().unwrap_or(0);
    let mut name = side[start..].trim();
    while let Some((word, rest)) = name.split_once(' ')
        && word.len() > 1
        && word.chars().all(|c| c.is_ascii_alphabetic())
    {
        name = rest.trim_start();
    }
    name
}

/// The words of a text that are no commands.
fn spoken(text: &str) -> impl DoubleEndedIterator<Item = &str> {
    words(text).filter(|word| !word.starts_with('\\') || matches!(*word, "\\ne" | "\\neq"))
}

/// Whether a word is one letter or digit, as a name is.
fn is_letter(word: &str) -> bool {
    word.chars().count() == 1 && !matches!(word, "a" | "I")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed((before, left): (&str, &str), (between, right): (&str, &str)) -> bool {
        let boxed = |lead, content| Box { lead, content, end: 0 };
        are_listed(&boxed(before, left), &boxed(between, right))
    }

    #[test]
    fn boxes_with_names_of_their_own_are_a_list_without_a_mark() {
        assert!(listed(("", "x=3"), ("$ \\quad $", "y=4")));
        assert!(listed(("$x = ", "3"), ("$\n$y = ", "4")));
        assert!(!listed(("", "x=3"), ("\n", "x=3")));
        assert!(!listed(("", "3"), ("\n", "4")));
        assert!(!listed(("", "2x=6"), ("\n", "x=3")));
        assert!(!listed(("", "x=3"), (" so ", "y=4")));
    }

    #[test]
    fn parts_on_lines_of_their_own_are_a_list() {
        assert!(listed(("We add.\n**Part (a):** $", "3"), ("$.\n\n**Part (b):** $", "5")));
        assert!(listed(("1. ", "3"), ("\n2. ", "5")));
        assert!(!listed(("(a) ", "3"), ("\n(a) ", "5")));
        assert!(!listed(("(a) ", "3"), (" (b) ", "5")));
        assert!(!listed(("(a) ", "3"), (" is wrong\n(b) ", "5")));
        assert!(!listed(("Step 1: ", "3"), ("\nStep 2: ", "5")));
    }

    #[test]
    fn boxes_are_listed_by_marks_names_and_junctions() {
        for between in
            ["", ", ", "$, $", "; ", " and ", "$ or $x=", "\\text{ and }", " papers and ", "\n\nand\n\n", ", y = "]
        {
            assert!(listed(("", "1"), (between, "2")), "{between:?}");
        }
        for between in
            [" ", "\n", " = ", " so ", " and so ", " is wrong and ", ", wait, ", ". And ", " but ", " or maybe ", " + "]
        {
            assert!(!listed(("", "1"), (between, "2")), "{between:?}");
        }
    }

    #[test]
    fn words_behind_a_box_say_what_it_counts_or_is_for() {
        let label = |text: &str| label(&spoken(text).collect::<Vec<_>>());
        for (text, expected) in [
            ("", Some("")),
            (" as the solutions", Some("")),
            (" for part (a)", Some("part 1")),
            (" red apples in the basket", Some("red apples")),
            (" in January", None),
            (" x", None),
        ] {
            assert_eq!(label(text).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn a_name_is_the_left_side_of_an_equation() {
        for (text, expected) in [
            ("so $x=", "x"),
            ("\\) and \\(y_2 = ", "y_2"),
            (" and so f(2) = $", "f(2)"),
            ("\\text{ and } x + y = ", "x + y"),
            ("x is ", ""),
        ] {
            assert_eq!(name(text), expected, "{text}");
        }
    }
}
