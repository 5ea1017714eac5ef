//! Numbers in words.

use num_bigint::BigInt;
use num_rational::BigRational;

use super::unit::scale;

const SMALL: [&str; 20] = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
];
const TENS: [&str; 8] = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"];
/// The parts of a whole that have names of their own, and those that end as others do not.
const PARTS: [(&str, i64); 8] = [
    ("half", 2),
    ("halve", 2),
    ("third", 3),
    ("quarter", 4),
    ("fifth", 5),
    ("eighth", 8),
    ("ninth", 9),
    ("twelfth", 12),
];

/// The number that a word is: `seven`, `seventy`.
pub(super) fn number_word(word: &str) -> Option<i64> {
    let place = |words: &[&str]| words.iter().position(|own| *own == word).and_then(|at| i64::try_from(at).ok());
    place(&SMALL).or_else(|| place(&TENS).map(|at| 10 * (at + 2)))
}

/// How many of such parts are a whole: `thirds`, `tenths`.
fn part_word(word: &str) -> Option<i64> {
    let word = word.strip_suffix('s').unwrap_or(word);
    let named = PARTS.iter().find(|(name, _)| *name == word).map(|(_, parts)| *parts);
    named.or_else(|| word.strip_suffix("th").and_then(number_word).filter(|parts| *parts > 3))
}

/// Words that are a number and nothing else; `Some(None)` if such words make none: `two three`.
pub(super) fn numeral(text: &str) -> Option<Option<BigRational>> {
    const MAX_WORDS: usize = 12;
    let words: Vec<&str> = text.split([' ', '-']).filter(|word| !word.is_empty()).collect();
    let (is_negative, words) = match words.as_slice() {
        ["negative" | "minus", rest @ ..] => (true, rest),
        all => (false, all),
    };
    let is_number = |word: &&str| number_word(word).is_some() || multiple(word).is_some() || part_word(word).is_some();
    let belongs = |word: &&str| is_number(word) || matches!(*word, "and" | "a" | "an");
    let is_numeral = words.len() <= MAX_WORDS && words.iter().all(belongs) && words.first().is_some_and(belongs);
    // An ordinal is a place: `third`.
    if !is_numeral || !words.iter().any(is_number) || words.len() == 1 && part_word(words[0]).is_some() {
        return None;
    }
    Some(value(words).map(|value| if is_negative { -value } else { value }))
}

/// The integer that the first words of a text are, and the words behind it. `A third day` is no part of a day.
pub(super) fn leading_integer(text: &str) -> Option<(BigRational, &str)> {
    let spaces = text.match_indices(' ').map(|(at, _)| text.split_at(at));
    let (integer, rest) = spaces.rev().find_map(|(words, rest)| Some((numeral(words)??, rest.trim_start())))?;
    let is_counted = integer.is_integer() && !["a ", "an "].iter().any(|article| text.starts_with(article));
    is_counted.then_some((integer, rest))
}

/// By how much a word multiplies what is before it.
fn multiple(word: &str) -> Option<u64> {
    matches!(word, "hundred" | "thousand" | "million" | "billion" | "trillion").then(|| scale(word)).flatten()
}

/// `two hundred and five`, `one half`, `two and three quarters`.
fn value(words: &[&str]) -> Option<BigRational> {
    let [before @ .., last] = words else { return None };
    let Some(parts) = part_word(last) else { return Some(BigRational::from_integer(integer(words)?.into())) };
    let (whole, count) = match before.iter().rposition(|word| *word == "and") {
        Some(and) => (integer(&before[..and])?, &before[and + 1..]),
        None => (0, before),
    };
    let count = match count {
        ["a"] => 1,
        // `twenty one hundredths` may be 20 1/100.
        [one] => number_word(one).filter(|count| *count < parts || whole == 0)?,
        _ => return None,
    };
    Some(BigRational::new(BigInt::from(count), BigInt::from(parts)) + BigRational::from_integer(whole.into()))
}

/// An integer in words, below 10^15.
fn integer(words: &[&str]) -> Option<i64> {
    // What the words so far are, below the last thousand, million, ... that was named; and that.
    let (mut total, mut group, mut least) = (0i64, None::<i64>, i64::MAX);
    let mut before = "";
    for word in words {
        let value = if *word == "a" && before.is_empty() { Some(1) } else { number_word(word) };
        if let Some(value) = value {
            let fits = match group {
                None => true,
                // `twenty one`, `two hundred five`, but no `two five`.
                Some(so_far) => {
                    value > 0
                        && (so_far % 100 == 0 && so_far > 0 || value < 10 && so_far % 10 == 0 && so_far % 100 > 10)
                }
            };
            group = fits.then(|| Some(group.unwrap_or(0) + value))?;
        } else if *word == "and" {
            // Behind a hundred or a thousand: `two and three` are two numbers.
            multiple(before)?;
        } else {
            let factor = i64::try_from(multiple(word)?).ok()?;
            let so_far = group.filter(|so_far| (1..1000).contains(so_far))?;
            if factor == 100 {
                group = Some(so_far * 100).filter(|_| so_far < 100);
                group?;
            } else {
                total += (factor < least).then(|| so_far.checked_mul(factor))??;
                (least, group) = (factor, None);
            }
        }
        before = word;
    }
    (before != "and").then_some(total + group.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_the_number_that_they_say() {
        for (text, above, below) in [
            ("five", 5, 1),
            ("twenty-one", 21, 1),
            ("one hundred", 100, 1),
            ("a hundred", 100, 1),
            ("two hundred and five", 205, 1),
            ("ten thousand", 10_000, 1),
            ("three thousand two hundred and forty-five", 3245, 1),
            ("one million", 1_000_000, 1),
            ("twelve hundred", 1200, 1),
            ("one half", 1, 2),
            ("a third", 1, 3),
            ("three-fourths", 3, 4),
            ("two and three quarters", 11, 4),
            ("negative seven", -7, 1),
        ] {
            assert_eq!(numeral(text), Some(Some(BigRational::new(above.into(), below.into()))), "{text}");
        }
    }

    #[test]
    fn only_an_integer_leads_to_what_it_counts() {
        let leading = |text| leading_integer(text).map(|(integer, rest)| (integer.to_string(), rest));
        assert_eq!(leading("twenty-one red apples"), Some(("21".into(), "red apples")));
        assert_eq!(leading("five"), None);
        assert_eq!(leading("a third day"), None);
        assert_eq!(leading("apples"), None);
    }

    #[test]
    fn words_that_are_several_numbers_are_none() {
        for text in ["two three", "two and three", "twenty ten", "hundred and", "one thousand million", "five twenty"] {
            assert_eq!(numeral(text), Some(None), "{text}");
        }
        for text in ["third", "no", "a", "five apples", "seventh heaven", "and"] {
            assert_eq!(numeral(text), None, "{text}");
        }
    }
}
