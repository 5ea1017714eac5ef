//! Answers in words: text, choices, times of day, numbers in other bases.

use num_rational::BigRational;

use super::{
    expression::Expression,
    form::{Form, Time},
    lex::{Kind, Token, is_setting},
    numerals::number_word,
    numeric::part::Part,
    region::Region,
    unit::is_unit_word,
    vocabulary::{Words, is_formula_word},
};

/// Whether the tokens are words rather than a formula: at least one word, and nothing that words do not have.
pub(super) fn is_wordy(tokens: &[Token]) -> bool {
    let is_word = |kind: &Kind| match kind {
        // `(-infinity, 2)` is no sentence.
        Kind::Word(word) => !is_formula_word(word) && !is_unit_word(word) && !is_junction(word) && word != "infinity",
        Kind::Text(text) => !is_junction(text) && text.trim().chars().any(char::is_alphabetic),
        _ => false,
    };
    let belongs = |kind: &Kind| match kind {
        Kind::Word(_) | Kind::Text(_) | Kind::Number(_) | Kind::Row => true,
        Kind::Sign(sign) => matches!(sign, ',' | '.' | '-' | '\'' | ';' | ':' | '?' | '!' | '&' | '"' | '/' | '%'),
        Kind::Open(bracket) | Kind::Close(bracket) => matches!(bracket, '(' | ')'),
        _ => false,
    };
    tokens.iter().any(|token| is_word(&token.kind)) && tokens.iter().all(|token| belongs(&token.kind))
}

/// Whether a word only joins the parts of a list.
pub(super) fn is_junction(word: &str) -> bool {
    matches!(word.trim().trim_matches(',').trim(), "and" | "or" | "")
}

/// Text without LaTeX's braces and the commands that only set it. Other commands are words: `\alpha` is alpha.
pub(super) fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        plain.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        let length = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
        let (name, after) = after.split_at(length);
        if name.is_empty() {
            plain.push(' ');
        } else if !is_setting(name) {
            plain.push_str(name);
        }
        // `\,` and its kin are spaces.
        rest = if name.is_empty() { after.trim_start_matches([',', ';', ':', '!', '>']) } else { after };
    }
    plain.push_str(rest);
    plain.replace(['{', '}', '\u{2009}', '\u{2}'], " ")
}

/// What a sentence begins with that says a `yes` or `no` before it again.
const ECHOES: Words = Words("it they he she we you i this that these those there");

/// Verbs of a sentence that says a `yes` or `no` again: `No, 9 is not prime`.
const COPULAS: Words = Words("is are was were isn aren wasn weren");

/// The `yes` or `no` that a text is, or begins with if it goes on with a sentence about it: `No, it is not`.
pub(super) fn yes_or_no(text: &str) -> Option<&str> {
    let is_either = |word: &str| word.eq_ignore_ascii_case("yes") || word.eq_ignore_ascii_case("no");
    let (word, rest) = text.split_once([',', '.', '!', ':', ';', '-', '\u{2013}', '\u{2014}']).unwrap_or((text, ""));
    let word = Some(word.trim_matches(['*', ' '])).filter(|word| is_either(word))?;
    let has_digit = |text: &str| text.contains(|c: char| c.is_ascii_digit());
    let words: Vec<&str> = rest.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).collect();
    let says_again = match words.first() {
        Some(first) if first.eq_ignore_ascii_case("because") || first.eq_ignore_ascii_case("since") => true,
        Some(first) if ECHOES.have(first) => !has_digit(rest),
        // `No, 5` and `No, the answer is 5` say more.
        Some(_) => {
            let verb = words.iter().position(|word| COPULAS.have(word));
            verb.is_some_and(|verb| {
                verb > 0 && words.len() > verb + 1 && !words[verb..].iter().any(|word| has_digit(word))
            }) && !words.iter().any(|word| word.eq_ignore_ascii_case("answer"))
        }
        None => true,
    };
    // `Yes, the series converges because its terms vanish`
    let has_reason = ["because", "since"].iter().any(|reason| words.contains(reason));
    let says_again = says_again || has_reason && !has_digit(rest) && !words.contains(&"answer");
    (says_again && !words.into_iter().any(is_either)).then_some(word)
}

/// Plain text in lower case, with single spaces and without marks at its end. An answer that begins with yes or no, and
/// goes on with a sentence about it, is that.
pub(super) fn fold(text: &str) -> String {
    let words: Vec<String> = plain(text).split_whitespace().map(str::to_lowercase).collect();
    let folded = words.join(" ").trim_matches([' ', '.', ',', ';', ':', '!', '?', '"', '\'', '*', '$']).to_owned();
    yes_or_no(&folded).map(str::to_owned).unwrap_or(folded)
}

/// What some words mean besides themselves.
pub(super) fn meaning(folded: &str) -> Option<Form> {
    match folded {
        "no solution" | "no solutions" | "empty set" | "the empty set" | "no real solution" | "no real solutions" => {
            Some(Form::Set(vec![]))
        }
        "infinity" | "positive infinity" => Some(Form::Infinity { negative: false }),
        "dne" => Some(Form::Text("does not exist".into())),
        "noon" => Some(twelve(true)),
        "midnight" => Some(twelve(false)),
        "negative infinity" => Some(Form::Infinity { negative: true }),
        words => named_set(words).or_else(|| real_set(words)).or_else(|| said_in_base(words)),
    }
}

fn twelve(after_noon: bool) -> Form {
    Form::Clock(Time { hour: 12, minute: 0, second: None, after_noon: Some(after_noon), is_marked: true })
}

const MONTHS: [&str; 12] = [
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
];

/// The number of a month by its name, or by the three letters that are short for it.
fn month_number(word: &str) -> Option<u32> {
    let word = if word == "sept" { "sep" } else { word };
    let place = MONTHS.iter().position(|name| word == *name || word == &name[..3])?;
    u32::try_from(place + 1).ok()
}

/// `January 5, 2020`, `5th of January`, `2020-01-05`. Dates in figures alone are ambiguous but for the last.
pub(super) fn date(text: &str) -> Option<Form> {
    let number =
        |digits: &str| digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse::<u32>().ok()).flatten();
    if let [year, month, day] = text.split('-').collect::<Vec<_>>()[..]
        && (year.len(), month.len(), day.len()) == (4, 2, 2)
    {
        return valid_date(Some(number(year)?), number(month)?, number(day)?);
    }
    let lower = plain(text).to_lowercase();
    let words: Vec<&str> = lower.split([' ', ',', '.']).filter(|word| !word.is_empty() && *word != "of").collect();
    if !(2..=3).contains(&words.len()) {
        return None;
    }
    let (mut year, mut month, mut day) = (None, None, None);
    for word in words {
        let ordinal = ["st", "nd", "rd", "th"].into_iter().find_map(|end| word.strip_suffix(end)).unwrap_or(word);
        match (number(ordinal), month_number(word)) {
            (Some(n), _) if n <= 31 && day.is_none() => day = Some(n),
            (Some(n), _) if word.len() == 4 && year.is_none() => year = Some(n),
            (None, Some(n)) if month.is_none() => month = Some(n),
            _ => return None,
        }
    }
    valid_date(year, month?, day?)
}

fn valid_date(year: Option<u32>, month: u32, day: u32) -> Option<Form> {
    ((1..=12).contains(&month) && (1..=31).contains(&day)).then_some(Form::Date(year, month, day))
}

const SETS: [(char, &str); 6] = [
    ('R', "real numbers"),
    ('N', "natural numbers"),
    ('Z', "integers"),
    ('Q', "rational numbers"),
    ('C', "complex numbers"),
    ('P', "primes"),
];

/// `\mathbb{Z}` and its kin; the real numbers are a region.
pub(super) fn number_set(letter: char) -> Option<Form> {
    let (_, words) = SETS.iter().find(|(name, _)| *name == letter)?;
    Some(if letter == 'R' { Form::Region(Region::everything()) } else { Form::Text((*words).into()) })
}

/// `all real numbers`, `all integers`, `all real values of x`.
fn named_set(words: &str) -> Option<Form> {
    let (quantifier, set) = ["the set of all ", "set of all ", "the set of ", "all ", "any ", "the "]
        .into_iter()
        .find_map(|start| words.strip_prefix(start).map(|set| (start, set)))
        .unwrap_or(("", words));
    // The values of what, is a letter.
    let is_letter = |end: &&str| end.chars().count() == 1;
    let set = match set.rsplit_once(' ') {
        Some((set, letter)) if !quantifier.is_empty() && is_letter(&letter) => set.strip_suffix(" of").unwrap_or(set),
        _ => set,
    };
    let set = match (quantifier, set) {
        // Of one only its kind is known: `a real number`.
        ("any ", "real number") => "real numbers",
        ("any " | "", "reals" | "real" | "real values") => set,
        (_, "reals" | "real" | "real values") => "real numbers",
        (_, set) => set,
    };
    SETS.iter().find(|(_, name)| *name == set).and_then(|(letter, _)| number_set(*letter))
}

/// Some of the real numbers: `all positive real numbers`, `all real numbers except 0 and 1`.
fn real_set(words: &str) -> Option<Form> {
    let is_real = |words: &str| named_set(words) == Some(Form::Region(Region::everything()));
    if let Some((all, excluded)) = [" except ", " other than "].iter().find_map(|but| words.split_once(but)) {
        let figures = excluded.split([',', ' ']).filter(|word| !matches!(*word, "" | "and" | "x" | "=" | "for"));
        let point = |figure: &str| Some(Region::point(Part::Exact(BigRational::from_integer(figure.parse().ok()?))));
        let points: Vec<Region> = figures.map(point).collect::<Option<_>>()?;
        return (is_real(all) && !points.is_empty()).then(|| Form::Region(Region::union(points).complement()));
    }
    let (kind, numbers) = words.strip_prefix("all ").unwrap_or(words).split_once(' ')?;
    let positive = Region::positive();
    let region = match kind {
        "positive" => positive,
        "negative" => positive.mirrored(),
        "nonnegative" | "non-negative" => positive.mirrored().complement(),
        "nonpositive" | "non-positive" => positive.complement(),
        "nonzero" | "non-zero" => Region::union([positive.mirrored(), positive]),
        _ => return None,
    };
    is_real(&format!("all {numbers}")).then_some(Form::Region(region))
}

/// `12:05`, `3:30 pm`, `3 p.m.`, with the marks of the half of the day if there are any.
pub(super) fn clock(tokens: &[Token]) -> Option<Form> {
    let (digits, marks) = match tokens.iter().position(|token| matches!(token.kind, Kind::Word(_) | Kind::Text(_))) {
        Some(at) => tokens.split_at(at),
        None => (tokens, &[][..]),
    };
    let mut letters = String::new();
    for token in marks {
        match &token.kind {
            Kind::Word(word) | Kind::Text(word) => letters.push_str(&word.to_lowercase()),
            Kind::Sign('.') => {}
            _ => return None,
        }
    }
    let letters: String = letters.chars().filter(|c| c.is_alphabetic()).collect();
    let after_noon = match letters.as_str() {
        "" => None,
        "am" | "midnight" => Some(false),
        "pm" | "noon" => Some(true),
        _ => return None,
    };
    let mut parts = vec![];
    for (at, token) in digits.iter().enumerate() {
        match &token.kind {
            Kind::Number(literal) if at % 2 == 0 && (1..=2).contains(&literal.digits.len()) => {
                parts.push(literal.digits.as_str());
            }
            Kind::Sign(':') if at % 2 == 1 => {}
            _ => return None,
        }
    }
    let value = |text: &&str| text.parse::<u32>().ok();
    let (hour, minute) = (value(parts.first()?)?, parts.get(1).map_or(Some(0), value)?);
    let second = parts.get(2).and_then(value);
    let two_digits = parts[1..].iter().all(|part| part.len() == 2);
    let is_time = minute < 60 && second.is_none_or(|s| s < 60) && two_digits && parts.len() <= 3;
    let is_twelve = hour == 12 && minute == 0 && second.is_none_or(|s| s == 0);
    if !is_time
        || (parts.len() == 1 && after_noon.is_none())
        || matches!(letters.as_str(), "noon" | "midnight") && !is_twelve
    {
        return None;
    }
    // Before 1 and from 13 on, the hour says which half of the day it is.
    let is_end = hour == 24 && minute == 0 && second.is_none_or(|s| s == 0);
    let (hour, after_noon, is_marked) = match (hour, after_noon) {
        (0, None | Some(false)) => (12, Some(false), false),
        (24, None) if is_end => (12, Some(false), false),
        (13..24, None) => (hour - 12, Some(true), false),
        (1..=12, _) => (hour, after_noon, after_noon.is_some()),
        _ => return None,
    };
    Some(Form::Clock(Time { hour, minute, second, after_noon, is_marked }))
}

/// `204_5`, `2A_{16}`, `1011_{\text{two}}`: digits in a base. In base ten it is the number.
pub(super) fn based(tokens: &[Token]) -> Option<Form> {
    let at = tokens.iter().position(|token| token.kind == Kind::Sign('_'))?;
    let (digits, base) = (&tokens[..at], &tokens[at + 1..]);
    let base = match base {
        [Token { kind: Kind::Number(base), .. }] => base.digits.parse().ok(),
        [Token { kind: Kind::Group, .. }, inner, Token { kind: Kind::EndGroup, .. }] => match &inner.kind {
            Kind::Number(base) => base.digits.parse().ok(),
            Kind::Text(word) | Kind::Word(word) => base_word(word),
            _ => None,
        },
        [Token { kind: Kind::Text(word), .. }] => base_word(word),
        _ => None,
    };
    let base = u32::try_from(base.filter(|base| (2..=36).contains(base))?).ok()?;
    let mut text = String::new();
    // A single letter, or small ones, rather have an index.
    let is_letters = |word: &str| word.len() > 1 && word.chars().all(char::is_uppercase);
    for (at, token) in digits.iter().enumerate() {
        match &token.kind {
            Kind::Number(literal) if !literal.digits.is_empty() => text.push_str(&literal.digits),
            Kind::Word(word) if at > 0 || digits.len() > 1 || is_letters(word) => text.push_str(&word.to_uppercase()),
            Kind::Text(word) if word.chars().all(|c| c.is_ascii_digit() || c.is_ascii_uppercase()) => {
                text.push_str(word)
            }
            Kind::Open('(') if at == 0 && digits.len() == 3 => {}
            Kind::Close('(' | ')') if at == 2 => {}
            _ => return None,
        }
    }
    let is_number = text.starts_with(|c: char| c.is_ascii_digit()) || digits.len() == 1;
    if is_number { in_base(&text, base) } else { None }
}

/// The base that a word is: `five`, `5`.
fn base_word(word: &str) -> Option<i64> {
    let word = word.trim().to_lowercase();
    word.parse().ok().or_else(|| number_word(&word))
}

/// `204 base 5`, `1a (base sixteen)`.
fn said_in_base(folded: &str) -> Option<Form> {
    let (digits, base) = folded.trim_end_matches(')').split_once("base ")?;
    let digits = digits.trim_end_matches([' ', '(']);
    let base = u32::try_from(base_word(base)?).ok().filter(|base| (2..=36).contains(base))?;
    digits.starts_with(|c: char| c.is_ascii_digit()).then(|| in_base(&digits.to_uppercase(), base)).flatten()
}

/// These digits in a base.
fn in_base(text: &str, base: u32) -> Option<Form> {
    if text.is_empty() || !text.chars().all(|c| c.is_digit(base)) {
        return None;
    }
    if base == 10 {
        let value = num_bigint::BigInt::parse_bytes(text.as_bytes(), 10)?;
        return Some(Form::Scalar(Expression::Number(value.into())));
    }
    let digits = text.trim_start_matches('0');
    Some(Form::Based(if digits.is_empty() { "0".into() } else { digits.into() }, base))
}
