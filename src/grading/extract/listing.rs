//! Boxes that are listed: `x = \boxed{1}` and `y = \boxed{2}`.

use super::{
    boxes::Box,
    wording::{changes, is_verb, words},
};
use crate::grading::words::is_junction;

/// The most bytes between two boxes that are listed.
const MAX_BETWEEN_BYTES: usize = 60;

/// Whether what stands between two boxes makes a list of them: marks alone, names of what is in the next one, or a few
/// words that end in `and` or `or`.
pub(super) fn is_listed(between: &str) -> bool {
    if between.len() > MAX_BETWEEN_BYTES {
        return false;
    }
    // The backslash before a box may be doubled.
    let between = between.trim_end_matches('\\');
    let words: Vec<&str> = spoken(between).collect();
    let Some(junction) = words.iter().rposition(|word| is_junction(&word.to_lowercase())) else {
        // `\boxed{1}` alone on the next line is rather said again, and one `+` makes a sum.
        let is_marked = between.is_empty() || between.contains([',', ';', '&']) || between.contains("++");
        return is_marked && words.into_iter().all(is_letter) && !between.contains(". ");
    };
    let (before, behind) = (&words[..junction], &words[junction + 1..]);
    // `part (a)` is not `or` there.
    let speaks = before.iter().any(|word| is_verb(word) || !is_junction(&word.to_lowercase()) && changes(word));
    before.len() <= 4 && !speaks && behind.iter().all(|word| is_letter(word)) && !between.contains(". ")
}

/// What listed boxes say together, with the names and the brackets around them, as the order would be lost without
/// those. `None` if it is not clear what they are called.
pub(super) fn listed_answer(response: &str, from: usize, listed: &[Box<'_>]) -> Option<String> {
    let (first, last) = (listed.first()?, listed.last()?);
    if listed.len() == 1 {
        return Some(first.content.trim().to_owned());
    }
    let lead = &response[from..first.begin];
    let betweens: Vec<&str> = listed.windows(2).map(|pair| &response[pair[0].end..pair[1].begin]).collect();
    let names: Vec<&str> = std::iter::once(lead).chain(betweens.iter().copied()).map(name).collect();
    if !betweens.iter().zip(&names[1..]).all(|(between, name)| is_clear(between, name)) {
        return None;
    }
    let mut different: Vec<&str> = names.iter().copied().filter(|name| !name.is_empty()).collect();
    different.sort_unstable();
    different.dedup();
    let contents = listed.iter().map(|part| part.content.trim());
    let list: Vec<String> = if different.len() <= 1 {
        contents.map(String::from).collect()
    } else if names.contains(&"") {
        return None;
    } else {
        names.iter().zip(contents).map(|(name, content)| format!("{name} = {content}")).collect()
    };
    bracketed(lead, &list.join(", "), &response[last.end..])
}

/// Whether nothing but a name and marks that belong together are between two boxes: `\boxed{2}x` is a factor.
fn is_clear(between: &str, name: &str) -> bool {
    let unnamed = between.replacen(name, "", usize::from(!name.is_empty()));
    let count = |bracket: char| between.matches(bracket).count();
    let closes = between.trim_start_matches([' ', '$']).starts_with([')', ']']);
    !closes && count('(') == count(')') && count('[') == count(']') && !spoken(&unnamed).any(is_letter)
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
