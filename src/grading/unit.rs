//! Units of measurement, as powers of base units with a factor.

use std::{collections::BTreeMap, fmt};

use num_bigint::BigInt;
use num_rational::BigRational;
use num_traits::One;

use super::lex::{Kind, Token};

/// What a quantity is counted in: powers of base units.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Unit(BTreeMap<String, i32>);

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (base, exponent)) in self.0.iter().enumerate() {
            let times = if at == 0 { "" } else { "*" };
            if *exponent == 1 { write!(f, "{times}{base}")? } else { write!(f, "{times}{base}^{exponent}")? }
        }
        Ok(())
    }
}

/// Names, base unit, and the factor to it as a fraction. Names of one letter are units only where they are set as text.
const UNITS: [(&[&str], &str, i64, i64); 49] = [
    (&["m", "meter", "metre"], "m", 1, 1),
    (&["cm", "centimeter", "centimetre"], "m", 1, 100),
    (&["mm", "millimeter", "millimetre"], "m", 1, 1000),
    (&["km", "kilometer", "kilometre"], "m", 1000, 1),
    (&["dm", "decimeter", "decimetre"], "m", 1, 10),
    (&["in", "inch", "inche"], "m", 254, 10_000),
    (&["ft", "foot", "feet"], "m", 3048, 10_000),
    (&["yd", "yard"], "m", 9144, 10_000),
    (&["mi", "mile"], "m", 1_609_344, 1000),
    (&["g", "gram"], "g", 1, 1),
    (&["kg", "kilogram", "kilo"], "g", 1000, 1),
    (&["mg", "milligram"], "g", 1, 1000),
    (&["lb", "pound"], "lb", 1, 1),
    (&["oz", "ounce"], "oz", 1, 1),
    (&["ton", "tonne"], "ton", 1, 1),
    (&["s", "sec", "second"], "s", 1, 1),
    (&["min", "minute"], "s", 60, 1),
    (&["h", "hr", "hour"], "s", 3600, 1),
    (&["day"], "s", 86_400, 1),
    (&["week"], "s", 604_800, 1),
    (&["month"], "month", 1, 1),
    (&["yr", "year"], "month", 12, 1),
    (&["l", "L", "liter", "litre"], "L", 1, 1),
    (&["ml", "mL", "milliliter", "millilitre"], "L", 1, 1000),
    (&["gal", "gallon"], "gallon", 1, 1),
    (&["degree", "deg", "\u{b0}"], "degree", 1, 1),
    (&["rad", "radian"], "radian", 1, 1),
    (&["dollar", "usd", "USD", "$", "buck"], "dollar", 1, 1),
    (&["cent", "\u{a2}"], "dollar", 1, 100),
    (&["euro", "eur", "EUR", "\u{20ac}"], "euro", 1, 1),
    (&["GBP", "gbp", "\u{a3}"], "pound sterling", 1, 1),
    (&["yen", "JPY", "\u{a5}"], "yen", 1, 1),
    (&["yuan", "RMB", "rmb", "CNY"], "yuan", 1, 1),
    (&["rupee", "INR", "\u{20b9}"], "rupee", 1, 1),
    (&["N", "newton"], "N", 1, 1),
    (&["J", "joule"], "J", 1, 1),
    (&["kJ", "kilojoule"], "J", 1000, 1),
    (&["W", "watt"], "W", 1, 1),
    (&["kW", "kilowatt"], "W", 1000, 1),
    (&["V", "volt"], "V", 1, 1),
    (&["A", "amp", "ampere"], "A", 1, 1),
    (&["Hz", "hertz"], "Hz", 1, 1),
    (&["Pa", "pascal"], "Pa", 1, 1),
    (&["K", "kelvin"], "K", 1, 1),
    (&["mol", "mole"], "mol", 1, 1),
    (&["mph"], "mph", 1, 1),
    (&["unit"], "unit", 1, 1),
    (&["people", "person"], "person", 1, 1),
    (&["acre"], "acre", 1, 1),
];

/// The base unit of a name and its factor. Plurals are the singular. `None` if the name is not known.
fn known(name: &str) -> Option<(&'static str, BigRational)> {
    let find = |name: &str| UNITS.iter().find(|(names, ..)| names.contains(&name));
    let lower = name.to_lowercase();
    let singular = lower.strip_suffix('s').filter(|rest| rest.len() > 1);
    let (_, base, over, under) =
        find(name).or_else(|| (lower.len() > 2).then(|| find(&lower)).flatten()).or_else(|| find(singular?))?;
    Some((base, BigRational::new(BigInt::from(*over), BigInt::from(*under))))
}

/// Whether a word behind a number is a unit even without being set as text.
pub(super) fn is_unit_word(word: &str) -> bool {
    word.chars().count() > 1 && known(word).is_some()
}

/// Whether a sign is a currency's.
pub(super) fn is_currency(kind: &Kind) -> bool {
    matches!(kind, Kind::Sign('$' | '\u{20ac}' | '\u{a3}' | '\u{a5}' | '\u{20b9}' | '\u{a2}'))
}

/// Words that multiply a figure.
const SCALES: [(&str, u64); 6] = [
    ("hundred", 100),
    ("thousand", 1000),
    ("million", 1_000_000),
    ("billion", 1_000_000_000),
    ("trillion", 1_000_000_000_000),
    ("dozen", 12),
];

/// By how much a word multiplies the figure before it.
pub(super) fn scale(word: &str) -> Option<u64> {
    let word = word.trim().to_lowercase();
    SCALES.iter().find(|(name, _)| word == *name).map(|(_, scale)| *scale)
}

/// Words that make another number of the one before them, or compare it: those are no units.
const NO_UNITS: [&str; 52] = [
    "squared",
    "cubed",
    "factorial",
    "half",
    "halves",
    "third",
    "thirds",
    "fourth",
    "fourths",
    "quarter",
    "quarters",
    "fifth",
    "fifths",
    "sixth",
    "sixths",
    "seventh",
    "sevenths",
    "eighth",
    "eighths",
    "ninth",
    "ninths",
    "tenth",
    "tenths",
    "hundredth",
    "hundredths",
    "thousandth",
    "thousandths",
    "hundred",
    "thousand",
    "million",
    "billion",
    "trillion",
    "dozen",
    "minus",
    "plus",
    "times",
    "over",
    "divided",
    "mod",
    "modulo",
    "less",
    "fewer",
    "more",
    "greater",
    "root",
    "choose",
    "to",
    "if",
    "when",
    "not",
    "point",
    "score",
];

/// The most words of a unit that is not known.
const MAX_WORDS: usize = 4;

/// The unit that tokens behind a number are, and the factor to its base units; `None` if they are none.
pub(super) fn unit(tokens: &[Token]) -> Option<(Unit, BigRational)> {
    let words = words(tokens)?;
    let degrees = words.iter().filter(|word| *word == "\u{b0}").count();
    if degrees > 1 || words.iter().any(|word| NO_UNITS.contains(&word.to_lowercase().as_str())) {
        return None;
    }
    let mut unit = Unit::default();
    let mut factor = BigRational::one();
    let (mut sign, mut next_exponent, mut unknown) = (1, 1, 0);
    let mut words = words.iter().map(String::as_str).peekable();
    while let Some(word) = words.next() {
        match word.to_lowercase().as_str() {
            "per" | "/" | "a" | "an" if !unit.0.is_empty() => {
                sign = -1;
                continue;
            }
            "square" | "sq" => next_exponent = 2,
            "cubic" | "cu" => next_exponent = 3,
            "*" | "of" | "." => {}
            _ => {
                let mut exponent = next_exponent;
                if words.next_if(|next| *next == "^").is_some() {
                    exponent = words.next()?.parse().ok().filter(|exponent: &i32| (-9..=9).contains(exponent))?;
                }
                next_exponent = 1;
                let (base, scale) = known(word)
                    .map_or_else(|| (singular(word), BigRational::one()), |(base, scale)| (base.to_owned(), scale));
                unknown += usize::from(known(word).is_none());
                factor *= num_traits::pow::Pow::pow(scale, exponent * sign);
                *unit.0.entry(base).or_insert(0) += exponent * sign;
                sign = 1;
            }
        }
    }
    unit.0.retain(|_, exponent| *exponent != 0);
    (!unit.0.is_empty() && unknown <= MAX_WORDS).then_some((unit, factor))
}

fn singular(word: &str) -> String {
    let lower = word.to_lowercase();
    match lower.strip_suffix('s') {
        Some(rest) if rest.len() > 2 && !rest.ends_with('s') => rest.to_owned(),
        _ => lower,
    }
}

/// The words and signs of a unit; `None` if something else is among the tokens.
fn words(tokens: &[Token]) -> Option<Vec<String>> {
    let mut words = vec![];
    for token in tokens {
        match &token.kind {
            Kind::Word(word) => words.push(word.clone()),
            Kind::Text(text) => words.extend(text_words(text)?),
            Kind::Number(literal) if words.last().is_some_and(|last| last == "^" || last == "-") => {
                words.push(literal.digits.clone());
            }
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
        && degree == "\u{b0}"
        && matches!(scale.as_str(), "C" | "F" | "c" | "f")
    {
        return Some(vec![format!("degree {}", scale.to_uppercase())]);
    }
    Some(words)
}

fn text_words(text: &str) -> Option<Vec<String>> {
    let mut words = vec![];
    let spaced = text.replace('/', " / ").replace('^', " ^ ").replace(['{', '}', '.', '-'], " ").replace("\\", " ");
    for word in spaced.split_whitespace() {
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
