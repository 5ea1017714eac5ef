//! An answer that has been read, with what may be left out of it.

use super::{
    budget::Budget,
    extract::{choice, lettered_choice, named_choice},
    form::Form,
    key::{Detail, Key, Names, Shape, Units, shape},
    kind::AnswerKind,
    names::{part_name, part_number},
    read,
    words::fold,
};

/// An answer that was understood.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its canonical form. Answers with equal keys are the same.
    pub key: Key,
    /// What it would be if it said less: without names, units or the word `percent`.
    pub(super) shorter: Vec<Shorter>,
    /// The keys of other readings, which count only where somebody has written them clearly: `1,5` for 1.5, `5 m` for
    /// five metres.
    pub(super) other_readings: Vec<Key>,
    pub(super) form: Form,
}

/// A way of saying less.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Shorter {
    pub key: Key,
    /// Whether units are left out: then what has one is something else. 25% is not short for 0.25%.
    pub bare: bool,
    /// Whether only what may be left out is. `1` does not mean `1 apple`, but if somebody says that, it may not mean `1 hour`.
    pub sure: bool,
}

impl Answer {
    /// Reads an answer as it is written at the end of a response; `None` if it is not understood within the bounds, or
    /// is not of the kind.
    pub fn read(text: &str, kind: AnswerKind) -> Option<Self> {
        Self::read_within(text, kind, &Budget::new())
    }

    /// As [`Answer::read`], with what is left of a budget.
    pub(super) fn read_within(text: &str, kind: AnswerKind, budget: &Budget) -> Option<Self> {
        let letter = if kind == AnswerKind::Auto { lettered_choice(text) } else { None };
        let form = match kind {
            AnswerKind::Choice => Form::Text(choice(text)?.to_string()),
            AnswerKind::Text => Some(fold(text)).filter(|text| !text.is_empty()).map(Form::Text)?,
            AnswerKind::Auto => form_of(text, budget).or_else(|| letter.map(|_| Form::Text(fold(text))))?,
            AnswerKind::Math => form_of(text, budget).filter(|form| !matches!(form, Form::Text(_)))?,
            AnswerKind::Number => form_of(text, budget).filter(is_number)?,
        };
        let key = Key(shape(&form, Detail::FULL, budget)?);
        let mut shorter = shorter(&form, &key, budget);
        // The letter of a choice stands for all of it.
        if let (Some(letter), Form::Text(_)) = (letter, &form) {
            let alone = letter_form(letter, budget).and_then(|form| shape(&form, Detail::FULL, budget));
            shorter.extend(alone.map(|shape| Shorter { key: Key(shape), bare: false, sure: true }));
        }
        let other_readings = match kind {
            AnswerKind::Choice | AnswerKind::Text => vec![],
            _ => other_readings(text, &form, budget),
        };
        Some(Self { key, shorter, other_readings, form })
    }
}

/// The key of an answer of no particular kind; `None` if it is not understood.
pub fn key(text: &str) -> Option<Key> {
    Answer::read(text, AnswerKind::Auto).map(|answer| answer.key)
}

/// Whether a form is one known number, with or without a name and a unit.
fn is_number(form: &Form) -> bool {
    match form {
        Form::Scalar(expression) => !expression.is_open(),
        Form::Named(_, inner) | Form::Percent(inner) | Form::Quantity { figure: inner, .. } => is_number(inner),
        Form::Decimal(..) | Form::Based(..) => true,
        _ => false,
    }
}

/// What a text says, before all other readings.
fn form_of(text: &str, budget: &Budget) -> Option<Form> {
    if let Some(letter) = named_choice(text) {
        return letter_form(letter, budget);
    }
    match pointed(text, budget) {
        // `1,50 cm` is no list of a number and a length.
        Some(quantity @ (Form::Quantity { .. } | Form::Percent(_))) => Some(quantity),
        // `5 g/cm^3` is no formula.
        _ => read::form(text, budget).or_else(|| measured(text, budget)),
    }
}

/// The letter of a choice alone.
fn letter_form(letter: char, budget: &Budget) -> Option<Form> {
    read::form(&letter.to_string(), budget)
}

/// The keys of a text in its other readings.
fn other_readings(text: &str, form: &Form, budget: &Budget) -> Vec<Key> {
    let is_formula = matches!(form, Form::Scalar(expression) if expression.is_open());
    let respelled = [with_decimal_point, with_sterling, with_rows].into_iter().filter_map(|with| with(text));
    let forms = respelled
        .filter_map(|text| read::form(&text, budget))
        .chain(is_formula.then(|| measured(text, budget)).flatten())
        .chain(as_ratio(text, budget))
        .chain(as_parts(form));
    forms.filter_map(|form| shape(&form, Detail::FULL, budget).map(Key)).collect()
}

/// A list as the parts of an answer in their order, which a list does not have.
fn as_parts(form: &Form) -> Option<Form> {
    const MOST: usize = 20;
    let values = match form {
        Form::Several(values) => values,
        Form::Values(points) if points.iter().all(|point| matches!(point, Form::Tuple(_))) => points,
        _ => return None,
    };
    let parts = || values.iter().enumerate().map(|(at, value)| (part_name(at + 1), value.clone())).collect();
    (values.len() <= MOST && !form.has_names()).then(|| Form::Assignments(parts(), false))
}

/// `10 pounds` as money.
fn with_sterling(text: &str) -> Option<String> {
    text.contains("pound").then(|| text.replace("pounds", "GBP").replace("pound", "GBP"))
}

/// `3 to 4` as a ratio.
fn as_ratio(text: &str, budget: &Budget) -> Option<Form> {
    let is_integer = |part: &&str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let parts: Vec<&str> = text.trim().split(" to ").collect();
    let is_ratio = parts.len() > 1 && parts.iter().all(is_integer);
    is_ratio
        .then(|| parts.into_iter().map(|part| read::form(part, budget)).collect::<Option<_>>())
        .flatten()
        .map(Form::Ratio)
}

/// `[[1, 2], [3, 4]]` as a matrix.
fn with_rows(text: &str) -> Option<String> {
    let inside =
        |text: &'_ str| text.trim().strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).map(str::to_owned);
    let rows = inside(text.trim().trim_matches('$'))?;
    let row = |row: &str| Some(between_commas(&inside(row)?)?.join("&"));
    let rows: Vec<String> = between_commas(&rows)?.into_iter().map(row).collect::<Option<_>>()?;
    let is_plain = |row: &String| !row.contains([';', '$']) && !row.contains("\\\\");
    rows.iter().all(is_plain).then(|| format!("\\begin{{matrix}}{}\\end{{matrix}}", rows.join("\\\\")))
}

/// The parts of a text between the commas that are in no brackets; `None` if those are not closed.
fn between_commas(text: &str) -> Option<Vec<&str>> {
    let (mut depth, mut start, mut parts) = (0usize, 0, vec![]);
    for (at, c) in text.char_indices() {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.checked_sub(1)?,
            ',' if depth == 0 => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    (depth == 0).then_some(parts)
}

/// What a text is with its letters as those of a unit.
fn measured(text: &str, budget: &Budget) -> Option<Form> {
    let quantity = read::form(&with_unit(text)?, budget)?;
    let is_known = matches!(&quantity, Form::Quantity { measure, .. } if measure.optional);
    is_known.then_some(quantity)
}

/// `5 m/s^2`, which is a product of letters, with words in their place.
fn with_unit(text: &str) -> Option<String> {
    const LONGEST: usize = 12;
    let text = text.trim();
    // A single dollar is the currency.
    let text = text.strip_prefix('$').and_then(|text| text.strip_suffix('$')).unwrap_or(text).trim();
    let at = text.find(|c: char| c.is_ascii_alphabetic())?;
    let (figure, unit) = text.split_at(at);
    let figure = figure.trim();
    let is_figure = !figure.is_empty() && figure.chars().all(|c| c.is_ascii_digit() || matches!(c, '-' | '.' | ','));
    let is_unit = unit.len() <= LONGEST && unit.chars().all(|c| c.is_ascii_alphanumeric() || "/^-{} ".contains(c));
    (is_figure && is_unit).then(|| format!("{figure}\\text{{ {unit}}}"))
}

/// What a form is with less detail than its own key has.
fn shorter(form: &Form, key: &Key, budget: &Budget) -> Vec<Shorter> {
    let mut ways: Vec<Shorter> = vec![];
    let mut details = vec![];
    // The order of names counts where they are in a tuple; in a list, their own order gives one.
    let names = match form {
        Form::Assignments(_, true) => vec![Names::Written],
        // So does the order of the parts of an answer.
        Form::Assignments(pairs, _) if pairs.iter().all(|(name, _)| part_number(name).is_some()) => vec![Names::Sorted],
        _ => vec![Names::Sorted, Names::Loose],
    };
    if form.has_names() {
        details.extend(names.iter().map(|names| Detail { names: *names, units: Units::Kept }));
    }
    let fewer = [(form.has_units(), Units::Optional), (form.has_fixed_units(), Units::Dropped)];
    for (_, units) in fewer.into_iter().filter(|(has_some, _)| *has_some) {
        details.push(Detail { names: Names::Kept, units });
        if form.has_names() {
            details.extend(names.iter().map(|names| Detail { names: *names, units }));
        }
    }
    for detail in details {
        let (bare, sure) = (detail.units != Units::Kept, detail.units != Units::Dropped);
        let way = shape(form, detail, budget).map(|shape| Shorter { key: Key(shape), bare, sure });
        ways.extend(way.filter(|way| way.key != *key && !ways.contains(way)));
    }
    // A column of numbers may be written as a tuple.
    if let Shape::Matrix(rows) = &key.0
        && rows.len() > 1
        && rows.iter().all(|row| row.len() == 1)
    {
        ways.push(Shorter {
            key: Key(Shape::Tuple(rows.iter().flatten().cloned().collect())),
            bare: false,
            sure: true,
        });
    }
    ways
}

/// What a text is with a point in the place of its comma.
fn pointed(text: &str, budget: &Budget) -> Option<Form> {
    read::form(&with_decimal_point(text)?, budget)
}

/// `1,5` and `1000,99 EUR` with a point in the place of their only comma, which is between digits.
fn with_decimal_point(text: &str) -> Option<String> {
    let (before, after) = text.trim().split_once(',')?;
    let whole = before.trim_start_matches(['-', '$', '\u{20ac}', '\u{a3}']);
    let decimals = after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len());
    let is_decimal = !whole.is_empty()
        && whole.bytes().all(|b| b.is_ascii_digit())
        // `1,2` is rather a list.
        && decimals > 1
        && !after.contains(',')
        // `1,234` is a number with grouped digits.
        && (decimals != 3 || whole.starts_with('0') || whole.len() > 3);
    is_decimal.then(|| format!("{before}.{after}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::grading::Verdict;

    fn read(text: &str) -> Option<Answer> {
        Answer::read(text, AnswerKind::Auto)
    }

    #[track_caller]
    fn of_kind(kind: AnswerKind, cases: &[(&str, Option<&str>)]) {
        for (text, expected) in cases {
            let key = Answer::read(text, kind).map(|answer| answer.key.to_string());
            assert_eq!(key.as_deref(), *expected, "{text:?}");
        }
    }

    #[test]
    fn a_choice_is_a_letter_and_never_an_article() {
        of_kind(
            AnswerKind::Choice,
            &[
                ("B", Some("\"B\"")),
                ("(b)", Some("\"B\"")),
                ("\\text{(B)}", Some("\"B\"")),
                ("B) 42", Some("\"B\"")),
                ("B. Paris", Some("\"B\"")),
                ("Option B", Some("\"B\"")),
                ("**B**", Some("\"B\"")),
                ("a dog", None),
                ("A dog", None),
                ("A.5", None),
                ("42", None),
                ("", None),
            ],
        );
    }

    #[test]
    fn a_kind_refuses_what_is_of_another() {
        of_kind(
            AnswerKind::Number,
            &[("42", Some("42")), ("x=42", Some("x : 42")), ("x", None), ("1, 2", None), ("no", None)],
        );
        of_kind(AnswerKind::Math, &[("42", Some("42")), ("Paris", None)]);
        of_kind(AnswerKind::Text, &[("1/2", Some("\"1/2\"")), ("0.5", Some("\"0.5\"")), ("", None)]);
    }

    #[test]
    fn what_is_left_out_is_equal_to_each_and_makes_none_of_them_equal() {
        let verdict = |a: &str, b: &str| Verdict::of(read(a).as_ref(), read(b).as_ref());
        for (less, one, other) in [("5", "5 cm", "5 kg"), ("5", "x=5", "y=5"), ("1, 2", "x=1, y=2", "x=2, y=1")] {
            assert_eq!(verdict(less, one), Verdict::Equal, "{less} {one}");
            assert_eq!(verdict(other, less), Verdict::Equal, "{less} {other}");
            assert_eq!(verdict(one, other), Verdict::Different, "{one} {other}");
        }
    }

    #[test]
    fn an_answer_that_is_not_understood_equals_nothing_and_not_itself() {
        let unknown = read("\\foo{1}");
        assert!(unknown.is_none());
        assert_eq!(Verdict::of(unknown.as_ref(), unknown.as_ref()), Verdict::Unknown);
    }

    proptest! {
        #[test]
        fn a_fraction_is_one_number_however_it_is_written(upper in any::<i64>(), lower in 1..i64::MAX, factor in 1i64..1000) {
            let expected = key(&format!("{upper}/{lower}"));
            prop_assert!(expected.is_some());
            let (wide_upper, wide_lower) = (i128::from(upper) * i128::from(factor), i128::from(lower) * i128::from(factor));
            for other in [
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
        fn a_changed_digit_changes_the_key(text in "-?[1-9][0-9]{0,40}(\\.[0-9]{1,20})?", place: prop::sample::Index, by in 1u8..10) {
            let places: Vec<usize> = (0..text.len()).filter(|i| text.as_bytes()[*i].is_ascii_digit()).collect();
            let at = *place.get(&places);
            let mut changed = text.clone().into_bytes();
            changed[at] = b'0' + (changed[at] - b'0' + by) % 10;
            let changed = String::from_utf8(changed).unwrap();
            prop_assert_ne!(key(&text), key(&changed));
        }

        #[test]
        fn sums_of_roots_are_in_normal_form(a in 1i64..40, b in 1i64..40, c in 1i64..12) {
            // sqrt(a c^2) = c sqrt(a), in sums and behind fractions.
            let one = format!("\\sqrt{{{}}}+\\frac{{\\sqrt{{{b}}}}}{{{c}}}", a * c * c);
            let other = format!("\\frac{{{b}}}{{{c}\\sqrt{{{b}}}}}+{c}\\sqrt{{{a}}}");
            prop_assert_eq!(key(&one), key(&other));
            let changed = format!("\\sqrt{{{}}}+\\frac{{\\sqrt{{{b}}}}}{{{c}}}", a * c * c + 1);
            prop_assert_ne!(key(&one), key(&changed));
        }

        #[test]
        fn surrounding_whitespace_changes_nothing(text in any::<String>(), before in "[ \t\n]{0,3}", after in "[ \t\n]{0,3}") {
            prop_assert_eq!(key(&format!("{before}{text}{after}")), key(&text));
        }

        #[test]
        fn latex_shaped_text_never_panics(
            text in "([0-9,./+ $^_!=<x-]|\\\\frac|\\\\text|\\\\sqrt|\\\\boxed|\\\\pm|\\\\cup|\\\\sin|\\{|\\}|\\(|\\)|\u{2212}|\\\\){0,40}"
        ) {
            key(&text);
        }
    }
}
