//! Canonical keys: two answers are the same answer exactly if their keys are equal.
//!
//! A key is a value, so equality is an equivalence relation by construction, which a pairwise comparison with
//! tolerances is not. Numbers are exact rationals and never pass through floats. Whatever is not read as a plain
//! number is compared as folded text: that may split the votes of one answer, and never joins those of two.

use std::fmt;

use num_rational::BigRational;

use super::number;

/// The canonical form of an answer. Its order has no meaning beyond being total.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(Form);

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Form {
    Number(BigRational),
    Text(String),
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Form::Number(value) => value.fmt(f),
            Form::Text(text) => f.write_str(text),
        }
    }
}

/// The key of an answer, `None` if nothing is left of it: such an answer never votes.
///
/// `1/2`, `\frac{2}{4}`, `0.5` and `.50` are one number, `1,234` and `1234.0` another. A percentage is text, not a
/// number: whether `50%` means 50 (`What percentage ...?`) or 1/2 is decided by the question, which is not seen here.
/// Division by zero is text too.
pub fn key(answer: &str) -> Option<Key> {
    // `{,}` and `\!` only set the spacing of digit groups; `\%` and `%` print the same.
    let plain = answer.replace("{,}", ",").replace("\\!", "").replace("\\%", "%");
    let bare = strip(&plain);
    if bare.is_empty() {
        return None;
    }
    Some(Key(match number::whole(bare) {
        Some(value) => Form::Number(value),
        None => Form::Text(fold(bare)),
    }))
}

/// Delimiters that say how an answer is set, not what it is. The longer of two that start alike comes first.
const WRAPPERS: [(&str, &str); 12] = [
    ("\\(", "\\)"),
    ("\\[", "\\]"),
    ("$$", "$$"),
    ("$", "$"),
    ("**", "**"),
    ("`", "`"),
    ("\"", "\""),
    ("'", "'"),
    ("\u{201c}", "\u{201d}"),
    ("\u{2018}", "\u{2019}"),
    ("\\text{", "}"),
    ("\\mathrm{", "}"),
];

/// Takes off surrounding whitespace, wrappers and one trailing mark of punctuation until nothing changes.
fn strip(text: &str) -> &str {
    let mut text = text.trim();
    // Every turn shortens the text.
    while let Some(inner) = strip_mark(text).or_else(|| strip_wrapper(text)) {
        text = inner.trim();
    }
    text
}

/// Without a trailing `.`, `,`, `;` or `:`. An ellipsis stays: `0.333...` is not 0.333.
fn strip_mark(text: &str) -> Option<&str> {
    text.strip_suffix(['.', ',', ';', ':']).filter(|inner| !inner.ends_with('.'))
}

/// Without the wrapper around the whole text; `$1$ or $2$` has none.
fn strip_wrapper(text: &str) -> Option<&str> {
    WRAPPERS.iter().find_map(|(open, close)| {
        let inner = text.strip_prefix(open)?.strip_suffix(close)?;
        (!inner.contains(open) && !inner.contains(close)).then_some(inner)
    })
}

/// Lower case, with runs of whitespace as one space.
fn fold(text: &str) -> String {
    text.split_whitespace().map(str::to_lowercase).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn same(answers: &[&str]) {
        for answer in answers {
            assert_eq!(key(answers[0]), key(answer), "{:?} and {answer:?}", answers[0]);
            assert!(key(answer).is_some(), "{answer:?} has no key");
        }
    }

    #[track_caller]
    fn different(answers: &[&str]) {
        for (i, a) in answers.iter().enumerate() {
            for b in &answers[i + 1..] {
                assert_ne!(key(a), key(b), "{a:?} and {b:?}");
            }
        }
    }

    #[test]
    fn a_number_is_one_number_however_it_is_written() {
        same(&[
            "1/2",
            "0.5",
            ".50",
            "2/4",
            " 1 / 2 ",
            "\\frac{1}{2}",
            "\\dfrac{2}{4}",
            "\\tfrac12",
            "$\\frac{-1}{-2}$",
        ]);
        same(&["-3", "\u{2212}3", "-3.0", "-6/2", "3/-1", "-\\frac{6}{2}", "\\frac{6}{-2}", "\\(-3\\)", "$-3$."]);
        same(&[
            "1234567",
            "1,234,567",
            "1{,}234{,}567",
            "1,\\!234,\\!567",
            "+1234567",
            "$1,234,567.00$",
            "**1,234,567**",
        ]);
        same(&["47", "47.", "\\text{47}", "\"47\"", "047", "$$47$$", "47,"]);
        same(&["0", "-0", "0.0", "0/5"]);
    }

    #[test]
    fn different_numbers_are_different() {
        different(&["1", "-1", "1/2", "1/3", "0.333", "0.3333333333333333", "10", "100"]);
        different(&["1/633825300114114700748351602688", "1/316912650057057350374175801344"]);
        different(&["9007199254740993", "9007199254740992"]);
    }

    #[test]
    fn a_percentage_is_neither_its_figure_nor_its_fraction() {
        different(&["50%", "50", "1/2"]);
        same(&["50%", "50\\%"]);
    }

    #[test]
    fn what_is_not_a_plain_number_is_text() {
        different(&["1,23", "123", "1.23", "23"]);
        different(&["0.333...", "0.333"]);
        different(&["5!", "5", "1/0", "2/0", "0/0", "204_5", "204", "2^3", "23", "1.5/2", "3/4", "1/2/3", "1/6"]);
        different(&["(1,234)", "1234", "[1,234]", "1, 234"]);
    }

    #[test]
    fn text_is_folded_in_case_space_and_wrapping_only() {
        same(&["Evelyn", "\\text{Evelyn}", " evelyn.", "\"EVELYN\"", "**Evelyn**", "\u{201c}Evelyn\u{201d}"]);
        same(&["New  York", "new york"]);
        different(&["x", "-x", "x'", "x!"]);
        different(&["x + 1", "x - 1"]);
    }

    #[test]
    fn an_answer_of_which_nothing_is_left_has_no_key() {
        for empty in ["", " \n", ".", "$$", "$ $", "\\text{}", "\"\"", "****", "\\(\\)"] {
            assert_eq!(key(empty), None, "{empty:?}");
        }
    }

    #[test]
    fn a_number_of_too_many_digits_is_compared_as_text() {
        let long = "7".repeat(5000);
        assert_eq!(key(&long), key(&format!(" {long}.")));
        assert_ne!(key(&long), key(&long.replacen('7', "8", 1)));
        assert_ne!(key(&long), key(&format!("{long}.0")));
    }

    #[test]
    fn a_key_shows_its_canonical_form() {
        assert_eq!(key("\\frac{2}{4}").unwrap().to_string(), "1/2");
        assert_eq!(key("1,000.0").unwrap().to_string(), "1000");
        assert_eq!(key("Evelyn.").unwrap().to_string(), "evelyn");
    }

    proptest! {
        #[test]
        fn writings_of_one_rational_have_one_key(upper: i64, lower in 1i64..=i64::MAX, factor in 1i64..1000) {
            let expected = key(&format!("{upper}/{lower}"));
            let (wide_upper, wide_lower) = (i128::from(upper) * i128::from(factor), i128::from(lower) * i128::from(factor));
            for other in [
                format!("{wide_upper}/{wide_lower}"),
                format!("${wide_upper} / {wide_lower}$"),
                format!("\\frac{{{wide_upper}}}{{{wide_lower}}}"),
                format!("\\dfrac{{{}}}{{-{wide_lower}}}", -wide_upper),
            ] {
                prop_assert_eq!(&key(&other), &expected, "{}", other);
            }
        }

        #[test]
        fn a_decimal_is_its_fraction(thousandths in -1_000_000_000i64..1_000_000_000) {
            let sign = if thousandths < 0 { "-" } else { "" };
            let (whole, rest) = (thousandths.abs() / 1000, thousandths.abs() % 1000);
            prop_assert_eq!(key(&format!("{sign}{whole}.{rest:03}")), key(&format!("{thousandths}/1000")));
        }

        #[test]
        fn grouping_changes_nothing(value in 0u64..) {
            let digits = value.to_string();
            let groups: Vec<&str> = digits.as_bytes().rchunks(3).rev().map(|g| std::str::from_utf8(g).unwrap()).collect();
            prop_assert_eq!(key(&groups.join(",")), key(&digits));
        }

        #[test]
        fn a_changed_digit_changes_the_key(text in "-?[0-9]{1,40}(\\.[0-9]{1,20})?", place: prop::sample::Index, by in 1u8..10) {
            let places: Vec<usize> = (0..text.len()).filter(|i| text.as_bytes()[*i].is_ascii_digit()).collect();
            let at = *place.get(&places);
            let mut changed = text.clone().into_bytes();
            changed[at] = b'0' + (changed[at] - b'0' + by) % 10;
            let changed = String::from_utf8(changed).unwrap();
            prop_assert_ne!(key(&text), key(&changed));
        }

        #[test]
        fn surrounding_whitespace_changes_nothing(text in any::<String>(), before in "[ \t\n]{0,3}", after in "[ \t\n]{0,3}") {
            prop_assert_eq!(key(&format!("{before}{text}{after}")), key(&text));
        }

        #[test]
        fn latex_shaped_text_never_panics(text in "([0-9,./+ $-]|\\\\frac|\\\\text|\\\\boxed|\\{|\\}|\u{2212}|\\\\){0,40}") {
            key(&text);
        }
    }
}
