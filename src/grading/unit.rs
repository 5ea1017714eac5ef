//! Units of measurement, as powers of base units with a factor.

mod known;

use std::fmt;

use num_rational::BigRational;
use num_traits::One;

use super::{
    lex::{Kind, Token},
    numerals::number_word,
    vocabulary::{Words, changes_number},
};
use known::{known, power_of};

/// What a quantity is counted in: powers of base units, which are sorted, and each there once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Unit(Vec<(String, i32)>);

impl Unit {
    fn multiply(&mut self, base: &str, power: i32) {
        match self.0.binary_search_by(|(own, _)| own.as_str().cmp(base)) {
            Ok(at) => self.0[at].1 += power,
            Err(at) => self.0.insert(at, (base.to_owned(), power)),
        }
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (base, exponent)) in self.0.iter().enumerate() {
            let times = if at == 0 { "" } else { "*" };
            if *exponent == 1 { write!(f, "{times}{base}")? } else { write!(f, "{times}{base}^{exponent}")? }
        }
        Ok(())
    }
}

/// Words for several units, where they stand alone.
const SHORT: [(&str, [&str; 3]); 4] = [
    ("mph", ["mile", "per", "hour"]),
    ("kph", ["km", "per", "hour"]),
    ("kmph", ["km", "per", "hour"]),
    ("rpm", ["revolution", "per", "minute"]),
];

/// The words that a short one stands for.
fn spelled_out(word: &str) -> Option<[String; 3]> {
    SHORT.iter().find(|(short, _)| word.eq_ignore_ascii_case(short)).map(|(_, long)| long.map(str::to_owned))
}

/// Whether a word or sign is a unit.
pub(super) fn is_known(word: &str) -> bool {
    known(word).is_some() || spelled_out(word).is_some()
}

/// Whether a word behind a number is a unit even without being set as text.
pub(super) fn is_unit_word(word: &str) -> bool {
    word.chars().count() > 1 && is_known(word)
}

/// Whether a sign is a currency's, or a code that may be in its place.
pub(super) fn is_currency(kind: &Kind) -> bool {
    match kind {
        Kind::Sign(sign) => matches!(sign, '$' | '\u{20ac}' | '\u{a3}' | '\u{a5}' | '\u{20b9}' | '\u{a2}'),
        Kind::Word(code) => matches!(code.as_str(), "USD" | "EUR" | "GBP" | "JPY" | "INR" | "CNY"),
        _ => false,
    }
}

/// Words that multiply a figure.
const SCALES: [(&str, u64); 8] = [
    ("dozen", 12),
    ("hundred", 100),
    ("thousand", 1000),
    ("lakh", 100_000),
    ("million", 1_000_000),
    ("crore", 10_000_000),
    ("billion", 1_000_000_000),
    ("trillion", 1_000_000_000_000),
];

/// By how much a word multiplies the figure before it.
pub(super) fn scale(word: &str) -> Option<u64> {
    let word = singular(word.trim()).to_lowercase();
    SCALES.iter().find(|(name, _)| word == *name).map(|(_, scale)| *scale)
}

/// By how much a word or a letter multiplies the amount of money before it: `$5M`.
pub(super) fn money_scale(word: &str) -> Option<u64> {
    match word {
        "k" | "K" => Some(1000),
        "M" => Some(1_000_000),
        "B" => Some(1_000_000_000),
        _ => scale(word),
    }
}

/// Words that join what they stand between, or deny it. What is counted has none of them.
const JOINTS: Words = Words(
    "to in on at by with without for as off down and if when but except not no non never none ago before after equal",
);

/// Words that end like plurals, and are none.
const NO_PLURALS: [&str; 8] = ["does", "goes", "always", "sideways", "sometimes", "perhaps", "besides", "thanks"];

/// Words behind a unit that say nothing new.
const FILLERS: [&str; 5] = ["each", "altogether", "in total", "in all", "total"];

/// Words behind a unit that is known that say nothing new. A number that is 5 digits long is not 5.
const DIMENSIONS: [&str; 6] = ["long", "wide", "tall", "high", "deep", "old"];

/// What something may be moved or turned by, in base units and the singular.
const MOVES: [&str; 15] = [
    "m", "unit", "degree", "radian", "bit", "step", "place", "space", "square", "block", "position", "row", "column",
    "turn", "digit",
];

/// The most words and signs of a unit, and the most words for one thing that is counted.
const MAX_PARTS: usize = 24;
const MAX_WORDS: usize = 4;

/// A unit with the factor to its base units.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Measure {
    pub unit: Unit,
    pub factor: BigRational,
    /// Whether the figure is an answer without it: it is known, or what is counted.
    pub optional: bool,
}

/// The unit that tokens behind a number are; `None` if they are none.
pub(super) fn unit(tokens: &[Token]) -> Option<Measure> {
    let words = words(tokens).filter(|words| words.len() <= MAX_PARTS)?;
    let ends = |filler: &&&str| words.ends_with(&filler.split(' ').map(str::to_owned).collect::<Vec<_>>());
    let filled = FILLERS.iter().find(ends).map_or(0, |filler| filler.split(' ').count());
    let words = without_dimension(without_left(without_more(&words[..words.len() - filled])));
    let long = if let [short] = words { spelled_out(short) } else { None };
    let words = long.as_ref().map_or(words, |long| long.as_slice());
    if words.iter().filter(|word| *word == "\u{b0}").count() > 1 {
        return None;
    }
    let mut measure = Measure { unit: Unit::default(), factor: BigRational::one(), optional: true };
    let mut sign = 1;
    let mut rest = words;
    loop {
        let end = (1..rest.len()).find(|at| joins(rest, *at)).unwrap_or(rest.len());
        measure.multiply(&rest[..end], sign)?;
        let Some((joint, after)) = rest[end..].split_first() else { break };
        // What is behind `a/b` and a product sign may be below the line or not.
        if joint == "*" && sign < 0 {
            return None;
        }
        sign = if joint == "*" { 1 } else { -1 };
        rest = after;
    }
    measure.unit.0.retain(|(_, exponent)| *exponent != 0);
    (!measure.unit.0.is_empty()).then_some(measure)
}

/// `more dollars` without its first word: how many more is what was asked for. `5 more` counts nothing.
fn without_more(words: &[String]) -> &[String] {
    match words {
        [more, thing @ ..] if more == "more" && !thing.is_empty() => thing,
        _ => words,
    }
}

/// `eggs left` and `eggs remaining` without their last words. `5 left` counts nothing, and `5 m left` may be a direction.
fn without_left(words: &[String]) -> &[String] {
    let [before @ .., unit, last] = words else { return words };
    let base = known(unit).map(|(base, _)| base);
    let is_left = match last.as_str() {
        "remaining" => true,
        "left" => !MOVES.contains(&base.unwrap_or(&singular(unit))),
        _ => false,
    };
    if is_left && (is_plural(unit) || base.is_some()) { &words[..=before.len()] } else { words }
}

/// `meters long` without its last word.
fn without_dimension(words: &[String]) -> &[String] {
    match words {
        [before @ .., last] if DIMENSIONS.contains(&last.as_str()) => match before.last() {
            Some(unit) if known(unit).is_none() => words,
            _ => before,
        },
        _ => words,
    }
}

/// Whether the word at a place joins a unit with the next: `km per hour`, `dollars an hour`.
fn joins(words: &[String], at: usize) -> bool {
    let is_known = |word: Option<&String>| word.is_some_and(|word| known(word).is_some());
    match words[at].as_str() {
        "/" | "per" | "*" => true,
        "a" | "an" => is_known(words.get(at - 1)) && is_known(words.get(at + 1)),
        _ => false,
    }
}

impl Measure {
    /// Takes in the words between two joints: units in a row, or one thing that is counted.
    fn multiply(&mut self, words: &[String], sign: i32) -> Option<()> {
        let mut factors: Vec<(&str, i32)> = vec![];
        let mut next_exponent = 1;
        let mut rest = words.iter().map(String::as_str);
        while let Some(word) = rest.next() {
            match word {
                "square" | "sq" => next_exponent = 2,
                "cubic" | "cu" => next_exponent = 3,
                "^" => {
                    let exponent = rest.next()?.parse().ok().filter(|exponent: &i32| (-9..=9).contains(exponent))?;
                    factors.last_mut()?.1 = exponent;
                }
                _ => factors.push((word, std::mem::replace(&mut next_exponent, 1))),
            }
        }
        if factors.iter().any(|(word, _)| known(word).is_none()) {
            self.count(words, sign)?;
            return Some(());
        }
        // In `J/kg K` only a bracket would tell what is below the line.
        if factors.is_empty() || sign < 0 && factors.len() > 1 {
            return None;
        }
        for (at, (word, exponent)) in factors.iter().copied().enumerate() {
            let (base, scale) = known(word)?;
            // `$5 dollars`, `5 cm centimeters`: a unit in a sign and a word is meant once. `m m` may be a square.
            if let Some((before, power)) = at.checked_sub(1).map(|before| factors[before])
                && let Some((_, before_scale)) = known(before).filter(|(same, _)| *same == base)
            {
                if (before_scale, power) != (scale, exponent) || before == word {
                    return None;
                }
                continue;
            }
            let (base, power, of_base) = power_of(base);
            self.factor *= num_traits::pow::Pow::pow(scale * of_base, exponent * sign);
            self.unit.multiply(base, power * exponent * sign);
        }
        Some(())
    }

    /// Takes in something that is counted. What is no plural may say something else of its figure: `5 left`.
    fn count(&mut self, words: &[String], sign: i32) -> Option<()> {
        let changes = |word: &String| {
            JOINTS.have(word)
                || changes_number(word)
                || number_word(&singular(word).to_lowercase()).is_some()
                || word == "^"
        };
        if words.len() > MAX_WORDS || words.iter().any(changes) {
            return None;
        }
        let end = words.iter().position(|word| word == "of").unwrap_or(words.len());
        let is_head =
            words[..end].last().is_some_and(|head| is_plural(head) || end < words.len() && known(head).is_some());
        let name: Vec<String> = words.iter().map(|word| named(&singular(word))).collect();
        // How exact a number is given is not the number.
        let is_precision = name.ends_with(&["decimal".into(), "place".into()]);
        self.optional &= (is_head || sign < 0) && !is_precision;
        self.unit.multiply(&name.join(" "), sign);
        Some(())
    }
}

fn is_plural(word: &str) -> bool {
    word.len() > 3 && singular(word) != word && !word.ends_with("wards") && !NO_PLURALS.contains(&word)
}

/// A word in lower case, unless it may be a symbol: of those, the case counts.
fn named(word: &str) -> String {
    let is_word = word.chars().count() > 3 && word.chars().skip(1).all(char::is_lowercase);
    if is_word { word.to_lowercase() } else { word.to_owned() }
}

fn singular(word: &str) -> String {
    let ending = |end: &str, minimum: usize| word.strip_suffix(end).filter(|rest| rest.len() >= minimum);
    if let Some(stem) = ending("ies", 2) {
        return format!("{stem}y");
    }
    let hissing = |stem: &&str| ["x", "ch", "sh", "ss", "zz"].iter().any(|end| stem.ends_with(end));
    let plain = |stem: &&str| !stem.ends_with(['s', 'u', 'i']);
    let stem = ending("es", 2).filter(hissing).or_else(|| ending("s", 2).filter(plain));
    stem.unwrap_or(word).to_owned()
}

/// The words and signs of a unit; `None` if something else is among the tokens.
fn words(tokens: &[Token]) -> Option<Vec<String>> {
    let mut words = vec![];
    for token in tokens {
        match &token.kind {
            Kind::Word(word) => words.push(word.clone()),
            Kind::Text(text) => words.extend(text_words(text)?),
            Kind::Number(literal) if words.last().is_some_and(|last| last == "^") => words.push(literal.digits.clone()),
            Kind::Number(literal) if words.ends_with(&["^".into(), "-".into()]) => {
                words.pop();
                words.push(format!("-{}", literal.digits));
            }
            Kind::Sign('-') if words.last().is_some_and(|last| last == "^") => words.push("-".into()),
            Kind::Sign(sign @ ('/' | '^' | '*')) => words.push(sign.to_string()),
            Kind::Sign('\u{b0}') => words.push("\u{b0}".into()),
            Kind::Sign('.') | Kind::Group | Kind::EndGroup => {}
            kind if is_currency(kind) => {
                if let Kind::Sign(sign) = kind {
                    words.push(sign.to_string());
                }
            }
            _ => return None,
        }
    }
    // `\u{b0}C` and `\u{b0}F` are no angles.
    if let [degree, scale] = words.as_slice()
        && known(degree).is_some_and(|(base, _)| base == "degree")
        && let scale @ ("C" | "F") = scale.get(..1).map(str::to_uppercase).unwrap_or_default().as_str()
        && (scale == words[1] || known(&words[1]).is_some_and(|(base, _)| base.ends_with(scale)))
    {
        return Some(vec![format!("degree {scale}")]);
    }
    Some(words)
}

fn text_words(text: &str) -> Option<Vec<String>> {
    let mut words = vec![];
    // The sign of an exponent stays.
    let signed = text.replace("^{-", "^\u{2212}").replace("^-", "^\u{2212}");
    let spaced = signed.replace('/', " / ").replace('^', " ^ ").replace(['{', '}', '.', '-', '\\'], " ");
    for word in spaced.replace('\u{2212}', "-").split_whitespace() {
        let is_word = word.chars().all(char::is_alphabetic);
        let is_sign = matches!(word, "/" | "^");
        let is_exponent = words.last().is_some_and(|last| last == "^") && word.parse::<i32>().is_ok();
        if !(is_word || is_sign || is_exponent || word.chars().count() == 1 && !word.is_ascii()) {
            return None;
        }
        words.push(word.to_owned());
    }
    Some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<(String, BigRational, bool)> {
        let measure = unit(&crate::grading::lex::tokens(text).unwrap())?;
        Some((measure.unit.to_string(), measure.factor, measure.optional))
    }

    #[test]
    fn a_plural_is_its_singular() {
        for (plural, one) in [
            ("boxes", "box"),
            ("inches", "inch"),
            ("pennies", "penny"),
            ("glasses", "glass"),
            ("bus", "bus"),
            ("is", "is"),
        ] {
            assert_eq!(singular(plural), one);
        }
    }

    #[test]
    fn symbols_have_their_case_and_prefixes() {
        let factor = |over: i64, under: i64| BigRational::new(over.into(), under.into());
        for (symbol, base, over, under) in [
            ("MW", "W", 1_000_000, 1),
            ("mW", "W", 1, 1000),
            ("kHz", "Hz", 1000, 1),
            ("cm", "m", 1, 100),
            ("kgs", "g", 1000, 1),
        ] {
            assert_eq!(known(symbol), Some((base, factor(over, under))), "{symbol}");
        }
        for unknown in ["mw", "dV", "kft", "kilomile", "w"] {
            assert_eq!(known(unknown), None, "{unknown}");
        }
    }

    #[test]
    fn what_is_left_out_is_known_or_counted() {
        let optional = |text: &str| read(text).map(|(.., optional)| optional);
        for text in ["\\text{ m/s}", "red apples", "cups of flour", "dollars an hour", "students per class"] {
            assert_eq!(optional(text), Some(true), "{text}");
        }
        for text in ["left", "apple", "wrong", "forwards"] {
            assert_eq!(optional(text), Some(false), "{text}");
        }
        for text in
            ["lakh rupees", "hexadecimal", "cm meters", "dollars cents", "below zero", "twelfths", "in a row", "times"]
        {
            assert_eq!(optional(text), None, "{text}");
        }
    }
}
