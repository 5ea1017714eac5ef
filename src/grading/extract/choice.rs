//! The letter of a choice.

use super::{
    statement::MAX_SENTENCE_BYTES,
    wording::{changes, is_filler, retracts, without_reasons, words},
};
use crate::grading::words::plain;

/// Whether a word beside a letter adds nothing. The article `a` may be that letter.
fn adds_nothing(word: &str) -> bool {
    word.len() > 1 && (is_filler(word) || is_option_noun(word))
}

fn is_option_noun(word: &str) -> bool {
    ["option", "choice", "letter"].iter().any(|noun| word.eq_ignore_ascii_case(noun))
}

/// The letter of a choice: alone, before its text, or before words that only say that it is right.
pub(in crate::grading) fn choice(text: &str) -> Option<char> {
    let text = readable(without_reasons(text))?;
    let (letter, behind) = lettered(&text)?;
    (is_option(behind) || is_explained(behind) || says_nothing(behind)).then_some(letter)
}

/// The letter of a choice that is called one: `Option B`, `the correct choice is (B)`.
pub(in crate::grading) fn named_choice(text: &str) -> Option<char> {
    words(text).any(is_option_noun).then(|| choice(text)).flatten()
}

/// The letter, a capital one, before the text of a choice: `(B) Paris`, `B) 5`. In lower case it may be that of a part.
pub(in crate::grading) fn lettered_choice(text: &str) -> Option<char> {
    let text = readable(text.trim())?;
    let (letter, behind) = lettered(&text).filter(|(_, behind)| words(behind).next().is_some())?;
    let is_capital = text.trim_start_matches(['(', ' ', '*']).starts_with(letter);
    (is_capital && is_option(behind) && !names_letter(behind) && !retracts(&behind[1..])).then_some(letter)
}

/// As [`choice`], but without the text of the choice: what ends in `C) 5` may list the choices.
pub(super) fn lone_choice(text: &str) -> Option<char> {
    let text = readable(text)?;
    lettered(&text).filter(|(_, behind)| says_nothing(behind)).map(|(letter, _)| letter)
}

/// A text that is not too long, without commands.
fn readable(text: &str) -> Option<String> {
    (text.len() <= MAX_SENTENCE_BYTES).then(|| plain(text).replace("**", ""))
}

/// The letter that a text names first, as `B`, `(b)` or `Option B`, and what stands behind it.
fn lettered(text: &str) -> Option<(char, &str)> {
    const MARKS: [char; 8] = [' ', ',', ':', '*', '$', '"', '\'', '`'];
    let mut text = text.trim_start_matches(MARKS);
    while let Some((word, rest)) = text.split_once([' ', ',', ':'])
        && adds_nothing(word)
    {
        text = rest.trim_start_matches(MARKS);
    }
    let inner = text.strip_prefix('(').map(str::trim_start);
    let letter = inner.unwrap_or(text).chars().next().filter(char::is_ascii_alphabetic)?;
    let behind = &inner.unwrap_or(text)[1..];
    let behind = if inner.is_some() { behind.trim_start() } else { behind };
    let ends =
        if inner.is_some() { behind.starts_with(')') } else { !behind.starts_with(|c: char| c.is_alphanumeric()) };
    ends.then(|| (letter.to_ascii_uppercase(), behind))
}

/// Whether a sentence is about other choices than the one with this letter: `Option A is wrong`.
pub(super) fn is_about_others(sentence: &str, letter: char) -> bool {
    let first: Vec<&str> = words(sentence).take(3).collect();
    let other = |word: &str| word.len() == 1 && word != "I" && !word.starts_with(letter);
    first.iter().any(|word| matches!(*word, "other" | "others" | "Other"))
        || first.windows(2).any(|pair| is_option_noun(pair[0]) && other(pair[1]))
}

/// Whether a mark and the text of one choice stand behind a letter.
fn is_option(behind: &str) -> bool {
    let Some(text) = behind.strip_prefix([')', '.', ':']) else { return false };
    let joins = |word: &str| matches!(word, "or" | "and" | "nor" | "not" | "is" | "isn't" | "are" | "but" | "only");
    let is_joined = words(text).next().is_some_and(|word| joins(&word.to_lowercase()))
        || text.trim_start().starts_with([',', '/', '&']);
    let letters: Vec<char> = text.chars().collect();
    let names_another =
        letters.windows(3).any(|near| !near[0].is_alphanumeric() && near[1].is_ascii_uppercase() && near[2] == ')');
    !text.starts_with(|c: char| c.is_alphanumeric()) && !is_joined && !names_another
}

/// Whether a text has a single capital letter, which may be another choice.
fn names_letter(text: &str) -> bool {
    words(text).any(|word| word.len() == 1 && word.starts_with(|c: char| c.is_ascii_uppercase()))
}

/// Whether the text of one choice stands in brackets or behind a dash: `D (5 apples)`, `C - Paris`.
fn is_explained(behind: &str) -> bool {
    let text = behind.strip_prefix(" (").and_then(|text| text.trim_end_matches('.').strip_suffix(')'));
    let text = text.or_else(|| behind.strip_prefix(" - "));
    !names_letter(behind) && text.is_some_and(|text| !text.contains(['(', ')']) && !changes(text))
}

/// Whether nothing but marks, and words that say that a choice is right, stand behind its letter.
fn says_nothing(behind: &str) -> bool {
    let has_other_marks = behind.contains(|c: char| !(c.is_ascii_alphabetic() || ").:* ,$\"'`\u{3002}".contains(c)));
    let mut words = words(behind);
    let is_right = words.next().is_none_or(|word| word == "is") && words.all(adds_nothing);
    !has_other_marks && is_right
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_is_a_choice_alone_before_its_text_or_where_it_is_said_to_be_right() {
        for text in ["B", "b", "(B)", "( b )", "B.", "B)", "B) 42", "(B) 42", "B. Paris", "B: Paris", "**B**", "$B$"] {
            assert_eq!(choice(text), Some('B'), "{text}");
        }
        for text in ["(B), because A is wrong.", "B (5 apples).", "B - Paris", "`B`"] {
            assert_eq!(choice(text), Some('B'), "{text}");
        }
        for text in
            ["Option B", "the letter B", "so the correct option is (B)", "B is correct", "B is the right choice."]
        {
            assert_eq!(choice(text), Some('B'), "{text}");
        }
    }

    #[test]
    fn articles_denials_and_several_letters_are_no_choice() {
        for text in
            ["a dog", "A dog is right", "A5", "AB", "not B", "not (B)", "neither A nor B", "I think so", "I'm B"]
        {
            assert_eq!(choice(text), None, "{text}");
        }
        for text in [
            "A or B",
            "A and B",
            "A, B",
            "A/B",
            "(A) and (B)",
            "A) or B)",
            "(A) only",
            "(A) 4 (B) 5",
            "B is wrong",
            "B?",
            "B - C",
            "B (not 5)",
        ] {
            assert_eq!(choice(text), None, "{text}");
        }
    }

    #[test]
    fn a_letter_that_is_called_a_choice_or_stands_before_its_text_is_one_also_among_formulas() {
        for text in ["Option B", "Option (B) is correct", "The correct choice is option B: Paris"] {
            assert_eq!(named_choice(text), Some('B'), "{text}");
        }
        for text in ["B", "Options A and B", "option 5", "Option A is wrong"] {
            assert_eq!(named_choice(text), None, "{text}");
        }
        for text in ["(B) Paris", "B) 5", "B. 12 m/s"] {
            assert_eq!(lettered_choice(text), Some('B'), "{text}");
        }
        for text in ["(b) 5", "B", "(A) only", "A. However, B is correct", "(A) 4 (B) 5", "A. Wait, no"] {
            assert_eq!(lettered_choice(text), None, "{text}");
        }
    }

    #[test]
    fn the_last_of_listed_choices_is_none() {
        assert_eq!(lone_choice("C) 5"), None);
        assert_eq!(lone_choice("So (C) is correct."), Some('C'));
    }
}
