//! Boxes that are listed: `x = \boxed{1}` and `y = \boxed{2}`.

use super::{
    boxes::Box,
    measure::measured,
    statement::is_counted,
    wording::{changes, is_filler, is_verb, words},
};
use crate::grading::{budget::Budget, form::Form, read::form, words::is_junction};

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

/// Whether what stands between two boxes makes a list of them: marks alone, names of what is in the next one, or a few
/// words that say what the first one counts or is for, or end in `and` or `or`.
pub(super) fn is_listed(between: &str) -> bool {
    (between.is_empty() || !is_blank(between)) && joint(between).is_some()
}

/// Whether two boxes, each behind its lead, have different names and nothing but space between them: `\boxed{x = 3}` and
/// `\boxed{y = 4}` on the next line.
pub(super) fn are_named_apart((before, left): (&str, &Box<'_>), (between, right): (&str, &Box<'_>)) -> bool {
    let own = |lead, part: &Box<'_>| {
        let name = name(lead).to_owned();
        if name.is_empty() {
            part.content.split_once('=').map_or(name, |(name, _)| name.trim().to_owned())
        } else {
            name
        }
    };
    let is_name = |name: &str| {
        let is_named = form(&format!("{name} = 0"), &Budget::new());
        matches!(is_named, Some(Form::Named(..)))
    };
    let (left, right) = (own(before, left), own(between, right));
    is_blank(between) && left != right && is_name(&left) && is_name(&right)
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
pub(super) fn listed_answer(response: &str, from: usize, listed: &[Box<'_>]) -> Option<String> {
    let (first, last) = (listed.first()?, listed.last()?);
    let (lead, tail) = (&response[from..first.begin], &response[last.end..]);
    if listed.len() == 1 {
        return measured(lead, first.content, tail);
    }
    let joints: Vec<Joint<'_>> =
        listed.windows(2).map(|pair| joint(&response[pair[0].end..pair[1].begin])).collect::<Option<_>>()?;
    let mut labels: Vec<String> = joints.iter().map(|joint| joint.label.clone()).collect::<Option<_>>()?;
    if labels.iter().any(|label| !label.is_empty()) {
        let clause = tail.split(['.', ',', ';', ':', '!', '?', '\n']).next().unwrap_or_default();
        let label = label(&spoken(clause).collect::<Vec<_>>()).filter(|label| !label.is_empty());
        labels.push(label.unwrap_or_else(|| "other".into()));
    }
    let names = std::iter::once(name(lead)).chain(joints.iter().map(|joint| joint.name)).enumerate();
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
    bracketed(lead, &list.join(", "), tail)
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

    #[test]
    fn boxes_with_names_of_their_own_are_a_list_without_a_mark() {
        let apart = |before, left, between, right| {
            let boxed = |content| Box { begin: 0, content, end: 0 };
            are_named_apart((before, &boxed(left)), (between, &boxed(right)))
        };
        assert!(apart("", "x=3", "$ \\quad $", "y=4"));
        assert!(apart("$x = ", "3", "$\n$y = ", "4"));
        assert!(!apart("", "x=3", "\n", "x=3"));
        assert!(!apart("", "3", "\n", "4"));
        assert!(!apart("", "2x=6", "\n", "x=3"));
        assert!(!apart("", "x=3", " so ", "y=4"));
    }

    #[test]
    fn boxes_are_listed_by_marks_names_and_junctions() {
        for between in
            ["", ", ", "$, $", "; ", " and ", "$ or $x=", "\\text{ and }", " papers and ", "\n\nand\n\n", ", y = "]
        {
            assert!(is_listed(between), "{between:?}");
        }
        for between in
            [" ", "\n", " = ", " so ", " and so ", " is wrong and ", ", wait, ", ". And ", " but ", " or maybe ", " + "]
        {
            assert!(!is_listed(between), "{between:?}");
        }
    }

    #[test]
    fn words_behind_a_box_say_what_it_counts_or_is_for() {
        let label = |text: &str| label(&spoken(text).collect::<Vec<_>>());
        for (text, expected) in [
            ("", Some("")),
            (" as the solutions", Some("")),
            (" for part (a)", Some("part a")),
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
