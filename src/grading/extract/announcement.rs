//! Where a response says that its answer follows: `the answer is`, `####`, or a conclusion.

use std::ops::Range;

use super::{
    char_boundary,
    statement::{DELIMITERS, DISPLAYS, MAX_SENTENCE_BYTES, is_formula, is_prose, name_of, value},
    wording::{
        concludes, demanded, denies, is_aside, is_conclusion, is_conditional, is_filler, near_end, sentences,
        without_reasons, words,
    },
};
use crate::grading::clean::{FENCE, without_language};

/// What is announced, and what is said behind it.
pub(super) struct Announced<'a> {
    /// A sentence, or what there is of one behind the words that announce it.
    pub statement: &'a str,
    /// The line that the statement begins.
    pub line: &'a str,
    pub behind: &'a str,
}

/// The most bytes of a clause before an answer is named in it, and the most words between the name and `is`.
const MAX_LEAD_BYTES: usize = 80;
const MAX_WORDS: usize = 8;

/// The longest statement of what an answer must be that may give it, in bytes.
const MAX_DEMAND_BYTES: usize = 60;

/// How many mentions of an answer are looked at, from the last one on.
const MAX_MENTIONS: usize = 200;

/// How many lines behind `####` are read as a value.
const MAX_HEADINGS: usize = 4;

/// How many values that stand below each other are read.
const MAX_NAMES: usize = 10;

/// Marks that end a clause.
const CLAUSE_ENDS: [char; 16] =
    ['.', ',', ';', ':', '!', '?', '\n', '*', '#', '(', '"', '>', '|', '\u{ff0c}', '\u{3002}', '\u{201c}'];

/// The last announcement: words that add nothing, one of the nouns, and `is`, `are` or a colon; or one of the marks.
/// Other sentences about an answer, such as `I doubt that the answer is 5`, are none.
pub(super) fn last<'a>(response: &'a str, nouns: &[&str]) -> Option<Announced<'a>> {
    // Lower case in ASCII only keeps every byte where it is.
    let lower = response.to_ascii_lowercase();
    let programs = programs(response);
    let of_noun = |noun: &&str| {
        lower.rmatch_indices(noun).take(MAX_MENTIONS).find_map(|(at, noun)| {
            let behind = at + noun.len();
            let is_lead = leads(&lower[..at]) && !is_in(&programs, at);
            let start = is_lead.then(|| verb(&lower[behind..])).flatten()? + behind;
            // `Option A is wrong`
            let is_denied = noun != "answer" && words(&lower[start..]).next().is_some_and(denies);
            (!is_denied && is_told(&lower[behind..start], announced(&lower, start, |_, line| line).statement))
                .then_some(start)
        })
    };
    let of_mark = |mark: &&str| {
        let ends = lower.rmatch_indices(mark).take(MAX_MENTIONS).map(|(at, _)| at + mark.len());
        ends.filter(|end| **mark != *"####" || !is_heading(&lower[*end..])).take(MAX_HEADINGS).find(|end| match *mark {
            "####" => is_formula(announced(response, *end, |_, line| line).line),
            "<answer>" => lower[*end..].split_once("</answer>").is_some_and(|(answer, _)| !answer.trim().is_empty()),
            _ => true,
        })
    };
    let marks =
        ["####", "<answer>", "\u{7b54}\u{6848}\u{662f}", "\u{7b54}\u{6848}\u{4e3a}", "\u{7b54}\u{6848}\u{ff1a}"];
    let start = nouns.iter().filter_map(of_noun).chain(marks.iter().filter_map(of_mark)).max()?;
    Some(announced(response, start, names_end))
}

/// Whether a statement about an answer gives it, behind the words that lead to it. What it `must be` is given by a formula
/// alone, and not by `2 digits`.
fn is_told(lead: &str, statement: &str) -> bool {
    let given = without_reasons(statement);
    if demanded(lead).is_some() {
        given.len() <= MAX_DEMAND_BYTES && !is_prose(given) && is_formula(given)
    } else {
        !is_aside(statement)
    }
}

/// Whether words or an item stand behind the marks of a heading, and no answer.
fn is_heading(behind: &str) -> bool {
    let text = behind.trim_start_matches([' ', '*', '_', '#']);
    let mut letters = text.chars();
    let is_word = letters.next().is_none_or(char::is_alphabetic) && letters.next().is_some_and(char::is_alphabetic);
    let item = text.trim_start_matches(|c: char| c.is_ascii_digit());
    let is_item = item.len() < text.len() && (item.starts_with(". ") || item.starts_with(") "));
    text.is_empty() || text.starts_with('\n') || is_word || is_item
}

/// Where blocks of code are of a language of programs, each from its beginning to its end.
fn programs(response: &str) -> Vec<Range<usize>> {
    let fences: Vec<usize> = response.match_indices(FENCE).map(|(at, _)| at).chain([response.len()]).collect();
    let is_program = |block: &Range<usize>| {
        let code = &response[(block.start + FENCE.len()).min(block.end)..block.end];
        !code.starts_with('\n') && without_language(code) == code
    };
    fences.chunks_exact(2).map(|pair| pair[0]..pair[1]).filter(is_program).collect()
}

fn is_in(programs: &[Range<usize>], at: usize) -> bool {
    let begun = programs.partition_point(|program| program.start <= at);
    programs[..begun].last().is_some_and(|program| program.contains(&at))
}

/// The last sentence that begins as a conclusion does.
pub(super) fn conclusion(response: &str) -> Option<Announced<'_>> {
    let from = char_boundary(response, response.len().saturating_sub(MAX_SENTENCE_BYTES));
    let end = &response[from..];
    let mut starts: Vec<usize> = [". ", "! ", "? ", ": ", "\n"]
        .iter()
        .flat_map(|mark| end.match_indices(mark).map(|(at, mark)| at + mark.len()))
        .chain([0])
        .collect();
    starts.sort_unstable();
    let begins = |start: &usize| concludes(end[*start..].lines().next().unwrap_or_default());
    let programs = programs(response);
    let start = starts.into_iter().rev().find(|start| begins(start) && !is_in(&programs, from + start))?;
    Some(announced(response, from + start, names_end))
}

/// What is announced there. A statement that fills its line goes on to where `until` says, of the text and that line's end.
fn announced(response: &str, start: usize, until: fn(&str, usize) -> usize) -> Announced<'_> {
    let rest = &response[start..];
    let text = rest.trim_start_matches([' ', ':', '*', '_', '\n', '\r', '\u{ff1a}']);
    let marks = &rest[..rest.len() - text.len()];
    let item = text.strip_prefix("- ").filter(|_| marks.contains('\n'));
    let text = item.unwrap_or(text);
    // `- 5` on a line of its own may be an item or negative.
    let is_clear = !item.is_some_and(|item| item.starts_with(|c: char| c.is_ascii_digit()));
    // A formula on lines of its own is in the sentence.
    let formula = DISPLAYS.iter().find_map(|(open, close)| {
        let content = text.strip_prefix(open)?;
        content.find(close).map(|length| open.len() + length + close.len())
    });
    let formula = formula.unwrap_or(0);
    let line = formula + text[formula..].find('\n').unwrap_or(text.len() - formula);
    let ends = [". ", "\u{3002}", ".\u{201d} ", "! ", "? "];
    let end_of =
        |mark: &&str| Some(formula + text[formula..line].find(mark)? + usize::from(mark.starts_with(['!', '?'])));
    // `1. ` on a line of its own, or behind a colon, begins a list of steps.
    let is_item = marks.contains('\n') && text.trim_start_matches(|c: char| c.is_ascii_digit()).starts_with(". ")
        || marks.contains(':') && text.starts_with("1. ");
    let end = ends.iter().filter_map(end_of).min().filter(|_| !is_item).unwrap_or_else(|| until(text, line));
    let line = &rest[marks.len()..rest.len() - text.len() + line];
    let statement = if is_clear { unmarked(&text[..end]) } else { "" };
    Announced { statement, line: unmarked(line), behind: &text[end..] }
}

/// Where the values end that stand below each other, each of another name: `x = 3` and, on the next line, `y = 4`.
fn names_end(text: &str, first_line: usize) -> usize {
    let (first, rest) = text.split_at(first_line);
    let is_named = first.contains('=') && rest.trim_start().lines().next().is_some_and(|line| line.contains('='));
    let Some(name) = value(first).filter(|_| is_named).and_then(name_of) else { return first_line };
    let (mut names, mut end, mut at) = (vec![name], first_line, first_line);
    while names.len() < MAX_NAMES
        && let Some(rest) = text[at..].strip_prefix('\n')
    {
        let line = rest.split('\n').next().unwrap_or_default();
        at += 1 + line.len();
        match name_of(line.strip_prefix("- ").unwrap_or(line)) {
            Some(name) if !names.contains(&name) => {
                names.push(name);
                end = at;
            }
            _ if line.trim().is_empty() => {}
            _ => break,
        }
    }
    end
}

/// A text without the ends of what is in bold.
fn unmarked(text: &str) -> &str {
    let text = text.trim_matches([' ', '*']);
    let text = text.strip_suffix("</answer>").unwrap_or(text).trim_end_matches([' ', '*']);
    text.strip_suffix("*.").map_or(text, |text| text.trim_end_matches('*'))
}

/// Whether the clause that a text ends in only leads to an answer.
fn leads(before: &str) -> bool {
    let near = &before[char_boundary(before, before.len().saturating_sub(MAX_LEAD_BYTES))..];
    let Some(clause) = near.rsplit(CLAUSE_ENDS).next().filter(|clause| clause.len() < MAX_LEAD_BYTES) else {
        return false;
    };
    if sentences(near_end(before)).last().is_some_and(is_conditional) {
        return false;
    }
    // What concludes begins a clause, and so does `but`.
    let begins = |word: &str| is_conclusion(word) || word == "but";
    words(clause).rev().find(|word| begins(word) || !is_filler(word)).is_none_or(begins)
}

/// How far the words go that lead from the noun to what it is.
fn verb(behind: &str) -> Option<usize> {
    let mut rest = behind.strip_prefix('s').unwrap_or(behind);
    for _ in 0..MAX_WORDS {
        let marks = rest.trim_start_matches([' ', '*', '_']);
        let at = behind.len() - marks.len();
        if marks.starts_with([':', '\u{ff1a}', '=', '\n']) || DELIMITERS.iter().any(|(open, _)| marks.starts_with(open))
        {
            return Some(at);
        }
        let length = marks.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(marks.len());
        let (word, behind_word) = marks.split_at(length);
        if matches!(word, "is" | "are" | "be") && !behind_word.starts_with(['\'', '\u{2019}']) {
            let follows = behind_word.strip_prefix(" as follows").map_or(0, |_| " as follows".len());
            return Some(at + length + follows);
        }
        if !(is_filler(word) || matches!(word, "question" | "problem")) || behind_word.starts_with(['\'', '\u{2019}']) {
            return None;
        }
        rest = behind_word.trim_start_matches(',');
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statement(response: &str) -> Option<&str> {
        last(response, &["answer"]).map(|told| told.statement)
    }

    #[test]
    fn an_announcement_is_a_clause_of_words_that_add_nothing() {
        for response in [
            "the answer is 5",
            "It is 6, so the answer is 5",
            "I think that the answer would be 5",
            "Answer: 5",
            "It must be odd, and the answer must be 5",
        ] {
            assert_eq!(statement(response), Some("5"), "{response}");
        }
        for response in [
            "I doubt that the answer is 5",
            "the wrong answer is 5",
            "the answer isn't 5",
            "the answer depends: 5",
            "the answer must be 2 digits",
            "if x = 3, the answer is 6",
            "the answer is correct",
            "the answer is in dollars",
        ] {
            assert_eq!(statement(response), None, "{response}");
        }
    }

    #[test]
    fn a_statement_ends_with_its_sentence_and_holds_formulas_of_several_lines() {
        assert_eq!(statement("The answer is 1.5. Good"), Some("1.5"));
        assert_eq!(statement("Answer:\n\n**5**\nGood"), Some("5"));
        assert_eq!(statement("The answer is \\[\n5. 5\n\\] here. Good"), Some("\\[\n5. 5\n\\] here"));
        assert_eq!(statement("Answer:\n1. We add"), Some("1. We add"));
        assert_eq!(statement("The answer is 5? No"), Some("5?"));
        assert_eq!(statement("Answer:\n- $5$"), Some("$5$"));
        assert_eq!(statement("Answer:\n- 5"), Some(""));
    }

    #[test]
    fn a_statement_goes_on_with_values_of_other_names_on_the_next_lines() {
        assert_eq!(statement("The answer is x = 3\n\n- y = 4\nGood"), Some("x = 3\n\n- y = 4"));
        for next in ["x = 4", "4", "Check: y = 4", "2y = 8"] {
            assert_eq!(statement(&format!("The answer is x = 3\n{next}")), Some("x = 3"), "{next}");
        }
    }

    #[test]
    fn four_hashes_before_words_are_a_heading() {
        assert_eq!(statement("The answer is 5.\n#### Explanation"), Some("5."));
        assert_eq!(statement("5\n#### x"), Some("x"));
        assert_eq!(statement("5\n####6"), Some("6"));
        assert_eq!(statement("#### 5\n#### 2. Another way"), Some("5"));
        assert_eq!(statement("The answer is 5.\n#### **Proof**\n#### (b) Check"), Some("5."));
    }

    #[test]
    fn the_last_conclusion_begins_a_sentence() {
        let concluded = |response| conclusion(response).map(|told| told.statement);
        assert_eq!(concluded("Thus 5. Therefore, it is 6. Good"), Some("Therefore, it is 6"));
        assert_eq!(concluded("It is Therefore 5"), None);
    }
}
