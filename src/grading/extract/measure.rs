//! The unit that stands around a box: `\boxed{5} cm`, `\$\boxed{5}`.

use super::char_boundary;
use crate::grading::{
    budget::Budget,
    form::Form,
    lex::tokens,
    read::form,
    unit::{is_known, unit},
    words::plain,
};

/// The most bytes behind a box that may be its unit, and the most words.
const MAX_BYTES: usize = 80;
const MAX_WORDS: usize = 7;

/// What is read as spaces or words between a box and the end of its unit. The order matters.
const SPELLINGS: [(&str, &str); 25] = [
    ("\\,", " "),
    ("\\;", " "),
    ("\\:", " "),
    ("\\!", " "),
    ("\\(", ""),
    ("\\)", ""),
    ("\\]", " "),
    ("~", " "),
    ("*", " "),
    ("\\$", " dollars "),
    ("$", ""),
    ("\u{b2}", "^2"),
    ("\u{b3}", "^3"),
    ("^\\circ", "\u{b0}"),
    ("^{\\circ}", "\u{b0}"),
    ("\\degree", "\u{b0}"),
    ("\\%", "%"),
    (" squared", "^2"),
    (" cubed", "^3"),
    ("%", " percent "),
    ("\u{b0}", " \u{b0} "),
    ("\u{20ac}", " \u{20ac} "),
    ("^", " ^ "),
    ("{-", "-"),
    ("/", " / "),
];

/// What a box says together with the currency before it and the unit that is known directly behind it. It is the box
/// alone if that is no figure, or has a unit; and `None` if the amount goes on, as in `\boxed{2} hours 30 minutes`.
pub(super) fn measured(before: &str, content: &str, behind: &str) -> Option<String> {
    let content = content.trim();
    let (sign, spoken) = (currency(before, behind), spoken(behind));
    let said: Vec<&str> = match spoken.split_whitespace().collect::<Vec<_>>().as_slice() {
        // `5 in meters`; and `5 in` is five inches only at the end.
        ["in", of @ ..] if !of.is_empty() => of.to_vec(),
        all => all.to_vec(),
    };
    let length = unit_length(&said);
    // `kilowatt-hours` are no kilowatts, nor are they left out as what is counted is.
    if said.get(length).is_some_and(|word| word.contains('-') && word.split('-').any(is_known)) {
        return None;
    }
    if (sign.is_empty() && length == 0) || !is_figure(content) {
        return Some(content.to_owned());
    }
    let rest = &said[length..];
    let rest = rest.strip_prefix(&["and"]).unwrap_or(rest);
    if matches!(rest, [more, of, ..] if more.starts_with(|c: char| c.is_ascii_digit()) && is_known(of)) {
        return None;
    }
    let whole = match &said[..length] {
        [] => format!("{sign}{content}"),
        ["percent"] => format!("{sign}{content}\\%"),
        words => format!("{sign}{content}\\text{{ {}}}", words.join(" ")),
    };
    let is_read = form(&whole, &Budget::for_extraction()).is_some_and(|form| !matches!(form, Form::Text(_)));
    Some(if is_read { whole } else { content.to_owned() })
}

/// The sign of a currency before a box. A dollar that is not closed behind the box is no delimiter of a formula.
fn currency<'a>(before: &'a str, behind: &str) -> &'a str {
    let near = before.trim_end_matches([' ', '{']);
    let is_open =
        near.ends_with('$') && !near.ends_with("$$") && !behind.lines().next().unwrap_or_default().contains('$');
    let near = if is_open || near.ends_with("\\$") { near } else { near.trim_end_matches(['$', ' ']) };
    let is_sign = |c: char| matches!(c, '$' | '\u{20ac}' | '\u{a3}' | '\u{a5}' | '\u{20b9}');
    match near.char_indices().next_back() {
        Some((at, sign)) if is_sign(sign) => &near[at - usize::from(near[..at].ends_with('\\'))..],
        _ => "",
    }
}

/// The words and signs behind a box, up to the end of their clause.
fn spoken(behind: &str) -> String {
    let end = char_boundary(behind, behind.len().min(MAX_BYTES));
    let line = behind[..end].lines().next().unwrap_or_default();
    let line = SPELLINGS.iter().fold(line.to_owned(), |line, (from, to)| line.replace(from, to));
    let end = line.find([',', ';', ':', '!', '?', '(']).into_iter().chain(line.find(". ")).min();
    plain(line[..end.unwrap_or(line.len())].trim_end_matches([' ', '.']))
}

/// How many words at the beginning are one unit. What is counted is none: `\boxed{5} apples` is 5.
fn unit_length(said: &[&str]) -> usize {
    if said.first() == Some(&"percent") {
        return 1;
    }
    let belongs = |at: usize| {
        let before = if at > 0 { said[at - 1] } else { "" };
        match said[at] {
            "square" | "cubic" | "sq" | "cu" => true,
            "per" | "/" | "^" | "a" | "an" => at > 0,
            "C" | "F" => matches!(before, "\u{b0}" | "degrees"),
            word => is_known(word) || before == "^" && word.parse::<i32>().is_ok(),
        }
    };
    let most = (0..said.len().min(MAX_WORDS)).take_while(|at| belongs(*at)).count();
    let is_unit = |length: &usize| {
        !matches!(said[*length - 1], "a" | "an")
            && tokens(&format!("\\text{{{}}}", said[..*length].join(" "))).and_then(|words| unit(&words)).is_some()
    };
    (1..=most).rev().find(is_unit).unwrap_or(0)
}

/// Whether a text is a number, perhaps with a name, and no letter of a choice.
fn is_figure(content: &str) -> bool {
    let is_number = |form: &Form| matches!(form, Form::Scalar(_) | Form::Decimal(..));
    let has_number = content.contains(|c: char| c.is_ascii_digit() || c == '\u{3c0}') || content.contains("\\pi");
    has_number
        && form(content, &Budget::for_extraction()).is_some_and(|form| match &form {
            Form::Named(_, value) => is_number(value),
            value => is_number(value),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_unit_directly_behind_a_box_is_its_unit() {
        for (behind, expected) in [
            (" m", "5\\text{ m}"),
            ("$ kg", "5\\text{ kg}"),
            (" meters.", "5\\text{ meters}"),
            ("\\text{ m}$", "5\\text{ m}"),
            ("\\,\\mathrm{m/s^2}", "5\\text{ m / s ^ 2}"),
            ("$ cm$^3$", "5\\text{ cm ^ 3}"),
            ("$ cm\u{b2}", "5\\text{ cm ^ 2}"),
            (" meters per second squared", "5\\text{ meters per second ^ 2}"),
            ("^\\circ C", "5\\text{ \u{b0} C}"),
            ("\\%$ of them", "5\\%"),
            (" minutes a day", "5\\text{ minutes}"),
            (" in meters", "5\\text{ meters}"),
            (" in", "5\\text{ in}"),
            ("\\$", "5\\text{ dollars}"),
            ("", "5"),
            (" in total", "5"),
            (" apples", "5"),
            (" more meters", "5"),
            (" (in meters)", "5"),
            (". Meters", "5"),
            ("\nm", "5"),
        ] {
            assert_eq!(measured("", "5", behind).as_deref(), Some(expected), "{behind}");
        }
    }

    #[test]
    fn what_is_no_figure_or_has_a_unit_stays_and_an_amount_that_goes_on_is_none() {
        for content in ["B", "(3, 4)", "3, 4", "5 kg", "x > 5"] {
            assert_eq!(measured("", content, " m").as_deref(), Some(content));
        }
        assert_eq!(measured("", "2", " hours and 30 minutes"), None);
        assert_eq!(measured("", "x = 5", " m").as_deref(), Some("x = 5\\text{ m}"));
    }

    #[test]
    fn a_sign_of_a_currency_before_a_box_is_its_unit() {
        for (before, behind, expected) in [
            ("\\$", "", "\\$5"),
            ("$\\$", "$", "\\$5"),
            ("it costs $", ".", "$5"),
            ("\u{20ac}", "", "\u{20ac}5"),
            ("\\$", " dollars", "\\$5\\text{ dollars}"),
            ("$", "$", "5"),
            ("$$", "$$", "5"),
        ] {
            assert_eq!(measured(before, "5", behind).as_deref(), Some(expected), "{before}");
        }
    }
}
