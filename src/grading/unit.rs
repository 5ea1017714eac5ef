//! Units of measurement, as powers of base units with a factor.

use std::fmt;

use num_bigint::BigInt;
use num_rational::BigRational;
use num_traits::One;

use super::{
    lex::{Kind, Token},
    numerals::number_word,
    vocabulary::{Words, changes_number},
};

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

/// A unit that is known, as so many times a base unit.
struct Known {
    /// Its signs; those of one letter only where they are set as text.
    symbols: &'static [&'static str],
    /// Its names in the singular, in lower case.
    names: &'static [&'static str],
    base: &'static str,
    factor: (i64, i64),
    /// Whether it may have a prefix such as kilo.
    metric: bool,
}

type Spellings = &'static [&'static str];

const fn metric(symbols: Spellings, names: Spellings, base: &'static str) -> Known {
    Known { symbols, names, base, factor: (1, 1), metric: true }
}

const fn plain(symbols: Spellings, names: Spellings, base: &'static str, over: i64, under: i64) -> Known {
    Known { symbols, names, base, factor: (over, under), metric: false }
}

const UNITS: [Known; 59] = [
    metric(&["m"], &["meter", "metre"], "m"),
    metric(&["g"], &["gram"], "g"),
    metric(&["s"], &["second", "sec"], "s"),
    metric(&["L", "l"], &["liter", "litre"], "L"),
    metric(&["N"], &["newton"], "N"),
    metric(&["J"], &["joule"], "J"),
    metric(&["W"], &["watt"], "W"),
    Known { factor: (3600, 1), ..metric(&["Wh"], &["watthour"], "J") },
    metric(&["V"], &["volt"], "V"),
    metric(&["A"], &["ampere", "amp"], "A"),
    metric(&["Hz"], &["hertz"], "Hz"),
    metric(&["Pa"], &["pascal"], "Pa"),
    metric(&["K"], &["kelvin"], "K"),
    metric(&["mol"], &["mole"], "mol"),
    metric(&["eV"], &["electronvolt"], "eV"),
    metric(&["Omega"], &["ohm"], "ohm"),
    metric(&["cal"], &["calorie"], "cal"),
    metric(&["B"], &["byte"], "byte"),
    metric(&["b"], &["bit"], "bit"),
    plain(&[], &["coulomb"], "coulomb", 1, 1),
    plain(&[], &["tonne"], "g", 1_000_000, 1),
    plain(&[], &["kilo"], "g", 1000, 1),
    plain(&["ha"], &["hectare"], "hectare", 1, 1),
    plain(&[], &["in", "inch"], "m", 254, 10_000),
    plain(&[], &["ft", "foot", "feet"], "m", 3048, 10_000),
    plain(&[], &["yd", "yard"], "m", 9144, 10_000),
    plain(&[], &["mi", "mile"], "m", 1_609_344, 1000),
    plain(&[], &["lb", "pound"], "lb", 1, 1),
    plain(&[], &["oz", "ounce"], "oz", 1, 1),
    // Of two thousand pounds, or of more.
    plain(&[], &["ton"], "ton", 1, 1),
    plain(&[], &["min", "minute"], "s", 60, 1),
    plain(&["h"], &["hr", "hour"], "s", 3600, 1),
    plain(&[], &["day"], "s", 86_400, 1),
    plain(&[], &["week"], "s", 604_800, 1),
    plain(&[], &["month"], "month", 1, 1),
    plain(&[], &["yr", "year"], "month", 12, 1),
    plain(&[], &["gal", "gallon"], "gallon", 1, 1),
    plain(&[], &["quart"], "quart", 1, 1),
    plain(&[], &["pint"], "pint", 1, 1),
    plain(&[], &["cup"], "cup", 1, 1),
    plain(&[], &["tablespoon"], "tablespoon", 1, 1),
    plain(&[], &["teaspoon"], "teaspoon", 1, 1),
    plain(&["\u{b0}"], &["degree", "deg"], "degree", 1, 1),
    plain(&["degree C"], &["celsius"], "degree C", 1, 1),
    plain(&["degree F"], &["fahrenheit"], "degree F", 1, 1),
    plain(&[], &["rad", "radian"], "radian", 1, 1),
    plain(&["$", "US"], &["dollar", "usd", "buck"], "dollar", 1, 1),
    plain(&["\u{a2}"], &["cent"], "dollar", 1, 100),
    plain(&["\u{20ac}"], &["euro", "eur"], "euro", 1, 1),
    plain(&["\u{a3}"], &["gbp"], "pound sterling", 1, 1),
    plain(&["\u{a5}"], &["yen", "jpy"], "yen", 1, 1),
    plain(&[], &["yuan", "rmb", "cny"], "yuan", 1, 1),
    plain(&["\u{20b9}"], &["rupee", "inr"], "rupee", 1, 1),
    plain(&[], &["acre"], "acre", 1, 1),
    plain(&[], &["unit"], "unit", 1, 1),
    plain(&[], &["person", "people"], "person", 1, 1),
    plain(&[], &["child", "children"], "child", 1, 1),
    plain(&[], &["man", "men"], "man", 1, 1),
    plain(&[], &["woman", "women"], "woman", 1, 1),
];

/// Symbols of prefixes, their names, and the power of ten that they are.
const PREFIXES: [(&[&str], &str, i32); 7] = [
    (&["k", "K"], "kilo", 3),
    (&["M"], "mega", 6),
    (&["G"], "giga", 9),
    (&["d"], "deci", -1),
    (&["c"], "centi", -2),
    (&["m"], "milli", -3),
    (&["\u{b5}", "u"], "micro", -6),
];

impl Known {
    fn is(&self, symbol: &str, name: &str) -> bool {
        self.symbols.contains(&symbol) || self.names.contains(&name)
    }

    /// Whether it may have the prefix for a power of ten: `dV` is no tenth of a volt.
    fn takes(&self, power: i32) -> bool {
        self.metric && (!matches!(power, -1 | -2) || matches!(self.base, "m" | "g" | "L"))
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

/// The base unit of a word and its factor. Symbols have their case, names have none; plurals are the singular.
fn known(word: &str) -> Option<(&'static str, BigRational)> {
    let symbol = singular(word);
    let name = symbol.to_lowercase();
    let prefixed = || {
        PREFIXES.iter().find_map(|(symbols, prefix, power)| {
            let symbol = symbols.iter().find_map(|prefix| symbol.strip_prefix(prefix));
            let name = name.strip_prefix(prefix);
            let (symbol, name) = (symbol.or(name)?, name.unwrap_or_default());
            Some((UNITS.iter().find(|unit| unit.takes(*power) && unit.is(symbol, name))?, *power))
        })
    };
    let (unit, power) = UNITS.iter().find(|unit| unit.is(&symbol, &name)).map(|unit| (unit, 0)).or_else(prefixed)?;
    let factor = BigRational::new(BigInt::from(unit.factor.0), BigInt::from(unit.factor.1));
    Some((unit.base, factor * num_traits::pow::Pow::pow(BigRational::from_integer(BigInt::from(10)), power)))
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

/// The most words for one thing that is counted.
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
    let words = words(tokens)?;
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
            self.factor *= num_traits::pow::Pow::pow(scale, exponent * sign);
            self.unit.multiply(base, exponent * sign);
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
