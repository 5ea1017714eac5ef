//! The answer that a sentence gives.

use std::ops::Range;

use super::wording::{
    changes, demanded, denies, digresses, gives_reasons, is_filler, is_in_doubt, is_modal, is_verb, sentences,
    without_reasons, words,
};
use crate::grading::{
    Answer, AnswerKind, Verdict,
    budget::Budget,
    clean::FENCE,
    form::Form,
    lex::tokens,
    read::form,
    unit::{is_unit_word, unit},
    vocabulary::Words,
    words::{is_junction, yes_or_no},
};

/// Delimiters of formulas.
pub(super) const DELIMITERS: [(&str, &str); 5] = [DISPLAYS[0], DISPLAYS[1], DISPLAYS[2], ("\\(", "\\)"), ("$", "$")];

/// Delimiters of formulas that may stand on lines of their own.
pub(super) const DISPLAYS: [(&str, &str); 3] = [("$$", "$$"), ("\\[", "\\]"), (FENCE, FENCE)];

/// The longest sentence that is looked into, in bytes.
pub(super) const MAX_SENTENCE_BYTES: usize = 1000;

/// How many sentences behind an answer are looked into that may say another one.
const MAX_OTHERS: usize = 8;

/// Whether a text reads as mathematics rather than words.
pub(super) fn is_formula(text: &str) -> bool {
    form(text, &Budget::for_extraction()).is_some_and(|form| !matches!(form, Form::Text(_)))
}

/// The name of the value that a formula gives: `x` for `x = 5`.
pub(super) fn name_of(text: &str) -> Option<String> {
    match form(text, &Budget::for_extraction())? {
        Form::Named(name, _) => Some(name),
        _ => None,
    }
}

/// The formula or number that a sentence gives: the sentence itself, but for its reasons and for words that add
/// nothing; or what stands behind its verb; or the only one in it, if no word makes something else of it.
pub(super) fn value(sentence: &str) -> Option<&str> {
    let text = sentence.trim();
    if text.len() > MAX_SENTENCE_BYTES {
        return None;
    }
    if let Some(figure) = said_again(text) {
        return Some(figure);
    }
    if !is_prose(text) {
        return is_formula(text).then_some(text);
    }
    let reasoned = without_reasons(text);
    // `There are 5!` is no factorial, or it is one.
    if is_demand(reasoned) || exclaims(text) {
        return None;
    }
    if let Some(found) = [bare(reasoned), text].into_iter().find(|part| is_value(part)) {
        return Some(found);
    }
    if text.ends_with('!') || is_in_doubt(reasoned) || digresses(reasoned) {
        return None;
    }
    behind_verb(reasoned).or_else(|| time(reasoned)).or_else(|| match figures(reasoned).as_slice() {
        [] => None,
        all => (calculation(reasoned, all) == 0).then(|| last_figure(reasoned)).flatten(),
    })
}

/// A number that is said again in the brackets behind it: `5 (five)`, `72 (48 + 24)`.
fn said_again(text: &str) -> Option<&str> {
    let (figure, again) = text.trim_end_matches('.').strip_suffix(')')?.split_once(" (")?;
    let is_one = |text: &str| !text.contains([' ', '(', ')']);
    let is_other = again.contains(|c: char| !(c.is_ascii_digit() || "., ".contains(c)));
    let budget = Budget::for_extraction();
    let number = |text: &str| Answer::read_within(text, AnswerKind::Number, &budget);
    let is_same = || Verdict::of(number(figure).as_ref(), number(again).as_ref()) == Verdict::Equal;
    (is_one(figure) && is_other && is_same()).then_some(figure)
}

/// Whether a number beside an answer takes its place: that of an alternative, `6 or`, or of a sentence behind it, and before
/// its reasons, that says that it is another one, `The true value is 6`, or that goes on from it, `Adding 1 gives 6`.
pub(super) fn is_contradicted(answer: &str, before: &str, behind: &str) -> bool {
    let budget = Budget::for_extraction();
    let number = |text: &str| Answer::read_within(text, AnswerKind::Number, &budget);
    let mut others = sentences(behind)
        .take_while(|sentence| !gives_reasons(sentence))
        .filter(|sentence| is_about_answer(sentence) || goes_further(sentence, answer))
        .take(MAX_OTHERS)
        .filter_map(|sentence| other_value(sentence, answer))
        .chain(alternatives(before, behind))
        .peekable();
    let answer = others.peek().and_then(|_| number(answer));
    others.any(|other| Verdict::of(number(other).as_ref(), answer.as_ref()) == Verdict::Different)
}

/// The words beside an answer that `or` joins with it, `6 or \boxed{5}`, `x = 6 or x = \boxed{5}`, or `as well as` behind it.
fn alternatives<'a>(before: &'a str, behind: &'a str) -> impl Iterator<Item = &'a str> {
    let last = |(other, own): (&'a str, &str)| {
        let name = own.trim_end_matches([' ', '$', '=']).trim_start_matches([' ', '$']);
        let is_name = name.is_empty() || own.contains('=') && !name.contains(' ');
        other.split_whitespace().next_back().filter(|_| is_name)
    };
    let before = before.rsplit_once(" or ").and_then(last);
    let first = |other: &'a str| match other.split_once('=') {
        Some((name, value)) if !name.trim().contains(' ') => value.split_whitespace().next(),
        _ => other.split_whitespace().next(),
    };
    let behind = behind.trim_start_matches([' ', '$', ',', '(']);
    let behind = ["or ", "as well as "].iter().find_map(|joint| behind.strip_prefix(joint)).and_then(first);
    [before, behind].into_iter().flatten().map(|word| word.trim_matches(['$', '.', ',', ')']))
}

/// Words for an answer that is not the only one.
const OTHERS: Words = Words("another other also second");
const ANSWERS: Words = Words("answer answers solution solutions root roots works");

/// Whether a sentence tells of another answer, `Another solution is 6`, `x = 6 is also a root`, or computes something from
/// what was said before it, `Adding 1 gives 6`. A step that names the answer as what it begins with tries it: `Adding 5 and
/// 7 gives 12`.
fn goes_further(sentence: &str, answer: &str) -> bool {
    const STEPS: Words = Words("adding subtracting multiplying dividing doubling tripling halving squaring rounding");
    let has = |of: Words| words(sentence).any(|word| of.have(word));
    let plain = |text: &str| text.trim_matches(['$', '.', ',', ' ', '*']).to_owned();
    let tries = || sentence.split_whitespace().any(|word| plain(word) == plain(answer));
    let goes_on = words(sentence).next().is_some_and(|word| STEPS.have(word)) && !tries();
    goes_on || has(OTHERS) && has(ANSWERS) && !digresses(sentence)
}

/// Whether only words that add nothing lead to the number of a sentence. A total may be that of something else, and what
/// is behind a colon is announced, or a list of steps.
fn is_about_answer(sentence: &str) -> bool {
    let Some(digit) = sentence.find(|c: char| c.is_ascii_digit()) else { return false };
    let is_any = |word: &str, of: &[&str]| of.iter().any(|other| word.eq_ignore_ascii_case(other));
    let lead = &sentence[..digit];
    let mut said = words(lead).skip_while(|word| is_any(word, &["but", "however"])).peekable();
    !lead.contains(':') && said.peek().is_some() && said.all(|word| is_filler(word) && !is_any(word, &["total"]))
}

/// The number that a sentence gives beside an answer, if it says nothing else of it.
fn other_value<'a>(sentence: &'a str, answer: &str) -> Option<&'a str> {
    let sentence = sentence.trim().trim_end_matches('.');
    let sentence = ["However, ", "But "].iter().find_map(|lead| sentence.strip_prefix(lead)).unwrap_or(sentence);
    let bare = || value(sentence).filter(|found| !is_prose(found) && !found.contains('='));
    let further = || value(sentence).or_else(|| last_value(sentence));
    let found = if goes_further(sentence, answer) { further() } else { bare() }?;
    let (_, behind) = sentence.rsplit_once(found)?;
    words(behind).all(|word| is_filler(word) || OTHERS.have(word) || ANSWERS.have(word)).then_some(found)
}

/// Whether a sentence ends with an exclamation that may be a factorial: with no word before it, and no formula around it.
fn exclaims(sentence: &str) -> bool {
    let is_mark = |c: char| !c.is_alphanumeric() && !"!$`|)]}".contains(c);
    let text = sentence.trim_end_matches(is_mark);
    let before = text.trim_end_matches(['!', ' ']);
    let is_word = before.chars().rev().take_while(|c| c.is_alphabetic()).count() > 1;
    text.ends_with('!') && !is_word
}

/// Whether a sentence says what an answer must be, and not by a formula alone: `The answer must be 5 digits long`.
fn is_demand(sentence: &str) -> bool {
    demanded(sentence).is_some_and(|formula| is_prose(bare(formula)))
}

/// The last formula or number of a sentence that may have several.
pub(super) fn last_value(sentence: &str) -> Option<&str> {
    let text = sentence.trim();
    let is_read = text.len() <= MAX_SENTENCE_BYTES && is_prose(text) && !is_in_doubt(text) && !is_demand(text);
    is_read.then(|| last_figure(text).or_else(|| time(text))).flatten()
}

/// Whether a text is a formula, or a quantity, and no sentence: `72 clips were sold`.
fn is_value(text: &str) -> bool {
    !words(text).any(is_verb) && is_formula(text)
}

/// Whether a text has words: what has none is a formula, and no part of one that is not understood is an answer.
pub(super) fn is_prose(text: &str) -> bool {
    words(text).any(|word| word.len() > 1 && word.chars().all(|c| c.is_alphabetic() || "'\u{2019}".contains(c)))
}

/// The words of a sentence that has no formula or number, or its yes or no.
pub(super) fn verbal(sentence: &str) -> Option<&str> {
    let text = without_reasons(sentence.trim());
    let is_verbal = !text.contains(|c: char| c.is_ascii_digit() || c == '$') && !text.contains("\\(");
    yes_or_no(text).or_else(|| is_verbal.then_some(text))
}

/// A sentence without words that add nothing, before and behind what it says: `simply 5`, `5 is our answer`.
fn bare(sentence: &str) -> &str {
    const TAILS: [&str; 5] = ["in total", "in all", "altogether", "overall", "as expected"];
    const MARKS: [char; 5] = [' ', ',', ':', '*', '_'];
    let mut text = sentence.trim_start_matches(MARKS);
    while let Some((word, rest)) = text.split_once([' ', ',', ':']) {
        let rest = rest.trim_start_matches(MARKS);
        // A single letter is rather a name: `a + b`.
        if word.len() == 1 || !is_filler(word) {
            break;
        }
        text = rest;
    }
    let ends = [" is ", " are ", " as "].iter().filter_map(|verb| text.find(verb).map(|at| (at, at + verb.len())));
    if let Some((end, _)) = ends.min().filter(|(_, behind)| words(&text[*behind..]).all(is_filler)) {
        text = &text[..end];
    }
    // An ellipsis is a part of its number.
    let text = text.trim_end();
    let text = text.strip_suffix('.').filter(|text| !text.ends_with('.')).unwrap_or(text);
    TAILS.iter().find_map(|tail| text.strip_suffix(tail)).unwrap_or(text).trim_end_matches(MARKS)
}

/// Whether words behind a figure are what is counted, or a unit, that may be left out.
pub(super) fn is_counted(words: &str) -> bool {
    tokens(words.trim_matches([' ', '.'])).and_then(|words| unit(&words)).is_some_and(|measure| measure.optional)
}

/// The formula that stands behind the last verb of a sentence.
fn behind_verb(sentence: &str) -> Option<&str> {
    [" is ", " are ", " equals ", " = "].into_iter().find_map(|verb| {
        let (subject, behind) = sentence.rsplit_once(verb)?;
        // `x is 5, y is 6`, and `5 when x = 6`, say more than one thing.
        let says_more =
            subject.contains(|c: char| c.is_ascii_digit()) && (verb == " = " || words(subject).any(is_verb));
        let behind = bare(behind);
        (!says_more && !denies(subject) && is_value(behind)).then_some(behind)
    })
}

/// The time of day that a sentence ends in: `It starts at 12:30 pm`.
fn time(sentence: &str) -> Option<&str> {
    let (subject, behind) = sentence.rsplit_once(" at ")?;
    let is_time =
        matches!(form(behind, &Budget::for_extraction()), Some(Form::Clock(time)) if time.after_noon.is_some());
    (is_time && !denies(subject)).then_some(behind)
}

/// The last formula or number of a sentence, with its unit, if a verb gives it and nothing around it changes it.
fn last_figure(sentence: &str) -> Option<&str> {
    let figures = figures(sentence);
    let (last, before) = figures.split_last()?;
    let lead = &sentence[before.last().map_or(0, |figure| figure.end)..last.start];
    let end = with_unit(sentence, last.end);
    // How many more is what was asked for.
    let tail = sentence[end..].strip_prefix(" more ").unwrap_or(&sentence[end..]);
    // `72 clips were sold`; and what has a known unit is no name, such as `step 5`.
    let is_told = words(tail).next().is_some_and(|word| !is_verb(word)) && words(tail).any(is_verb);
    let opens = before.is_empty() && words(lead).all(is_filler) && is_told;
    // `\(5\) apples`
    let counts = last.start == 0 && !sentence.starts_with(|c: char| c.is_ascii_digit()) && is_counted(tail);
    // `5 years ago` alone is a moment.
    let is_moment = lead.trim().is_empty() && words(tail).next() == Some("ago");
    let measures = (end > last.end || counts) && before.is_empty() && !changes(lead) && !is_moment;
    // `5 k` and `5 M` are more than 5.
    let is_scaled = words(tail).next().is_some_and(|word| word.len() == 1 && word != "a");
    // What is said before a calculation is said of its result.
    let first = calculation(sentence, &figures);
    let told = &sentence[first.checked_sub(1).map_or(0, |before| figures[before].end)..figures[first].start];
    // `x^2 = 25` does not say what x is.
    let is_told_otherwise = if first < before.len() { changes(told) } else { !before.is_empty() && lead.trim() == "=" };
    let stands = (introduces(lead) || opens || measures) && !denies(lead) && !digresses(lead) && !is_told_otherwise;
    let stands = stands && !changes(tail) && !is_scaled && !goes_on(tail) && (before.is_empty() || !joins(lead));
    (stands && is_whole(&sentence[last.clone()])).then(|| &sentence[last.start..end])
}

/// Whether a calculation goes on behind a figure, `48 +`, where the rest was never written; or a unit with a hyphen, which
/// is another one: `5 newton-meters`.
fn goes_on(tail: &str) -> bool {
    let is_hyphenated = tail.strip_prefix('-').is_some_and(|rest| rest.starts_with(char::is_alphabetic));
    is_hyphenated || tail.trim_start_matches(['*', ' ']).starts_with(['+', '/', '=', '^', '\u{d7}', '\u{f7}'])
}

/// Whether what stands between two figures makes them one answer: `x = 2 and x = 3`.
fn joins(between: &str) -> bool {
    let mut said = words(between);
    said.next().is_some_and(is_junction) && said.all(|word| word.len() == 1)
}

/// Which figure begins the calculation that the last one ends: `5 + 7 = 12`.
fn calculation(sentence: &str, figures: &[Range<usize>]) -> usize {
    let is_arithmetic = |c: char| c.is_ascii_digit() || " +-*/x=()$.,%\u{d7}\u{f7}\u{2212}".contains(c);
    let is_apart = |pair: &[Range<usize>]| !sentence[pair[0].start..pair[1].end].chars().all(is_arithmetic);
    figures.windows(2).rposition(is_apart).map_or(0, |at| at + 1)
}

/// Whether a number is given behind these words: they end in a verb, a colon or an equals sign.
fn introduces(lead: &str) -> bool {
    let mut words = words(lead).rev().skip_while(|word| !is_verb(word) && is_filler(word));
    words.next().is_some_and(is_verb) && !words.next().is_some_and(is_modal)
        || lead.trim_end_matches([' ', '*', '(']).ends_with([':', '=', '\u{ff1a}'])
}

/// Where a figure ends together with the known unit behind it: `5 miles an hour`.
fn with_unit(sentence: &str, end: usize) -> usize {
    let mut whole = end;
    let mut at = end;
    while let Some(rest) = sentence[at..].strip_prefix(' ') {
        let length = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
        let word = &rest[..length];
        at += 1 + length;
        // `in` is rather no inch here.
        if (is_unit_word(word) && word != "in") || matches!(word, "percent" | "pct") {
            whole = at;
        } else if !matches!(word, "per" | "a" | "an" | "each" | "every" | "square" | "cubic") {
            break;
        }
    }
    whole
}

/// Where formulas between delimiters, and runs of characters with a digit outside of them, are in a sentence.
fn figures(sentence: &str) -> Vec<Range<usize>> {
    let mut found: Vec<Range<usize>> = vec![];
    let mut at = 0;
    while let Some(offset) = sentence[at..].find(|c: char| "$\\`".contains(c) || c.is_ascii_digit()) {
        let start = at + offset;
        if let Some(length) = delimited(&sentence[start..]) {
            at = start + length;
            found.push(start..at);
            continue;
        }
        if !sentence[start..].starts_with(|c: char| c.is_ascii_digit()) {
            at = start + 1;
            continue;
        }
        let run = run(sentence, found.last().map_or(0, |figure| figure.end), start);
        at = run.end.max(start + 1);
        found.push(run);
    }
    found
}

/// How long the formula is that begins a text, with its delimiters. What two amounts of money are around is none.
fn delimited(text: &str) -> Option<usize> {
    let (open, close) = DELIMITERS.iter().find(|(open, _)| text.starts_with(open))?;
    let length = text[open.len()..].find(close)?;
    let content = &text[open.len()..open.len() + length];
    let is_money = *open == "$" && content.starts_with(|c: char| c.is_ascii_digit()) && content.contains(' ');
    (!content.trim().is_empty() && (!is_money || is_formula(content))).then_some(open.len() + length + close.len())
}

/// The characters around a digit up to spaces, without marks at their ends.
fn run(sentence: &str, from: usize, digit: usize) -> Range<usize> {
    const OPENING: [char; 6] = ['(', '*', '"', '\'', '\u{201c}', '~'];
    const CLOSING: [char; 9] = ['.', ',', ';', ':', '*', ')', '"', '\'', '\u{201d}'];
    let ends = |c: char| c.is_whitespace() || c == '=';
    let before = &sentence[from..digit];
    let start = from + before.rfind(ends).map_or(0, |at| at + before[at..].chars().next().map_or(1, char::len_utf8));
    let end = digit + sentence[digit..].find(ends).unwrap_or(sentence.len() - digit);
    let opened = sentence[start..end].trim_start_matches(OPENING);
    let start = end - opened.len();
    start..start + opened.trim_end_matches(CLOSING).len()
}

/// Whether a run of characters is one number, perhaps with a sign, a currency or percent, and no part of one.
fn is_whole(run: &str) -> bool {
    if DELIMITERS.iter().any(|(open, close)| run.len() > open.len() && run.starts_with(open) && run.ends_with(close)) {
        return true;
    }
    let signs = ['$', '\\', '-', '+', '\u{2212}', '\u{20ac}', '\u{a3}', '\u{a5}'];
    let figure = run.trim_start_matches(signs);
    let end = figure.find(|c: char| !(c.is_ascii_digit() || ".,/".contains(c))).unwrap_or(figure.len());
    let unit = &figure[end..];
    let figure = &figure[..end];
    // `5,5` may be two numbers.
    let is_grouped = figure.split(',').skip(1).all(|group| group.len() > 1);
    let is_number =
        is_grouped && figure.matches('/').count() <= 1 && figure.starts_with(|c: char| c.is_ascii_digit() || c == '.');
    is_number && matches!(unit, "" | "%" | "\\%" | "\u{b0}" | "\u{20ac}" | "\u{a3}" | "$" | "\\$" | "m\u{b2}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_gives_a_formula_or_the_number_that_its_verb_gives() {
        for (sentence, expected) in [
            ("simply $5$", "$5$"),
            ("5 (five)", "5"),
            ("72 (48 + 24).", "72"),
            ("5 is our final answer", "5"),
            ("5 apples in total", "5 apples"),
            ("that x = 5", "x = 5"),
            ("a + b", "a + b"),
            ("just i + 2 apples, because x is 6", "i + 2 apples"),
            ("5 eggs left", "5 eggs left"),
            ("\\(5\\) eggs.", "\\(5\\)"),
            ("the largest $n$ is 34.", "34"),
            ("Tom sold a total of 72 clips in April", "72"),
            ("Therefore, 72 clips were sold", "72"),
            ("it costs $5.50 now", "$5.50"),
            ("it takes 5 square meters of wood", "5 square meters"),
            ("she grew 3 hours ago", "3 hours"),
            ("Soucis : 2,74", "2,74"),
            ("the train will leave the station at 12:30 pm", "12:30 pm"),
            ("School is over at 3 P.M.", "3 P.M."),
        ] {
            assert_eq!(value(sentence).unwrap_or(""), expected, "{sentence}");
        }
    }

    #[test]
    fn a_number_that_words_change_or_name_is_not_given() {
        for sentence in [
            "not 5",
            "about 5",
            "at least 5",
            "twice 5",
            "5 less than x",
            "either 5 or 6",
            "step 5",
            "it is not 5",
            "there are 5 more than before",
            "if x is 5",
            "it could be 5",
            "one might think that it is 5",
            "5 years ago",
            "nobody is 5",
            "Paris, whose population is 6",
            "x is 5, y is 6",
            "there are 5!",
            "it is 5 1/2 of them",
            "it is 5:30 now",
            "it is x^5 or so",
            "2 + 2 = 5",
            "0.5(3)...",
            "there are 5,5 of them",
        ] {
            assert_eq!(value(sentence).filter(|found| *found != sentence), None, "{sentence}");
        }
    }

    #[test]
    fn another_number_behind_an_answer_contradicts_it_unless_it_is_a_reason() {
        for behind in [
            ". The true value is 6.",
            ", but it should be $6$",
            "\n\nThe actual value is 6",
            ". However, it is 6.",
            ". Another solution is 6.",
            ". Adding 1 gives 6.",
            ". $x = 6$ is also a solution.",
            " or 6",
            "$ or $x = 6$",
        ] {
            assert!(is_contradicted("5", "", behind), "{behind}");
        }
        for behind in [
            ". The value is 5.0.",
            ". The total is 20.",
            ". Check: it is 6.",
            ". We have 6 apples.",
            ". It is 1 more than 4.",
            ". It is 3 hours.",
            ". Here we have $x = 6$.",
            ". The other solution, 6, is not positive.",
            ". The other solution x = 6 is extraneous.",
            ". It also has a second root, which is 6.",
            ". Another way is 2 + 3 = 5.",
            ". Adding 2 and 3 gives 5.",
        ] {
            assert!(!is_contradicted("5", "", behind), "{behind}");
        }
        assert!(is_contradicted("5", "It is $6$ or $", "$"));
        assert!(is_contradicted("5", "x = 6 or x = ", ""));
        assert!(!is_contradicted("5", "It is x or ", ""));
        assert!(!is_contradicted("B", "", ". The value is 6."));
    }

    #[test]
    fn the_last_of_several_numbers_is_taken_only_as_a_guess() {
        let sentence = "not 10 apples, and now there are 12";
        assert_eq!((value(sentence), last_value(sentence)), (None, Some("12")));
        assert_eq!(last_value("10 apples, and not 12"), None);
        assert_eq!(last_value("it is 5 to 6"), None);
        assert_eq!(last_value("the solutions are x = 2 and x = 3"), None);
        assert_eq!(last_value("so the total is 48 +"), None);
    }

    #[test]
    fn words_are_an_answer_without_numbers_and_reasons() {
        assert_eq!(verbal("Paris, because it is large"), Some("Paris"));
        assert_eq!(verbal("No, it is not"), Some("No"));
        assert_eq!(verbal("No, Paris"), Some("No, Paris"));
        assert_eq!(verbal("about 5"), None);
    }
}
