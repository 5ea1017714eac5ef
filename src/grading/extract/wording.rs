//! The words around an answer: those that leave it as it is, and those that change it, deny it or put it in doubt.

use super::char_boundary;
use crate::grading::{
    vocabulary::{Words, changes_number},
    words::plain,
};

/// Words that neither add to an answer nor take from it where they stand before it, or before its announcement.
const FILLERS: Words = Words(
    "the a an this that it its here i we our my is are be would will should must get have find see conclude think \
     believe so then thus hence therefore consequently finally now and also final correct right required desired \
     exact actual numerical it's that's best answer answers solution solutions result value number fraction interval set of equal \
     equals to for given by as follows exactly simply just only indeed total true certainly definitely clearly",
);

/// Words that begin another statement about something in their sentence.
const RELATIVES: Words = Words("which who whose while whereas when where");

/// Words with which a conclusion begins, perhaps behind `in` or `as a`.
const CONCLUSIONS: Words = Words("so thus hence therefore consequently conclusion altogether overall");

/// Verbs behind which a sentence gives its number. Behind a noun a number may be its name: `step 5`.
const VERBS: Words = Words(
    "is are was were be it's that's there's equals equal has have had get gets got give gives gave make makes \
     made take takes took need needs needed cost costs pay pays paid spend spends spent earn earns earned save \
     saves saved sell sells sold buy buys bought eat eats ate use uses used read reads scored collected received \
     planted picked baked caught walks walked runs ran drives drove travels traveled travelled works worked \
     writes charges drinks contain contains hold holds weigh weighs leaves remain remains increases increased \
     find obtain yields",
);

/// Words that deny what stands beside them. So do words that end in `n't`.
const DENIALS: Words = Words(
    "not no never cannot neither nor none nobody nothing without except wrong incorrect false untrue invalid \
     impossible rather instead hardly fails contradicts violates \\ne \\neq",
);

/// Words before a number that make another one of it: `the square of 5`.
const OPERATIONS: Words = Words(
    "square cube sum product difference reciprocal opposite inverse multiple power logarithm sine negative minimum \
     maximum",
);

/// Words that make a condition of their sentence.
const CONDITIONS: Words = Words("if unless suppose supposing assume assuming");

/// Words that make a guess or a question of their sentence.
const DOUBTS: Words = Words("whether might let maybe perhaps possibly probably unlikely guess unsure either");

/// Words that begin a clause of what does not keep the rest of their sentence from being so.
const CONCESSIONS: Words = Words("although though");

/// Words at the beginning of sentences that take back what was said before them.
const RETRACTIONS: Words = Words(
    "wait actually oops hmm sorry correction confusion misunderstanding oversight forgot meant edit scratch re \
     reconsider recheck recalculate recompute disregard ignore strike misread \
     miscounted miscalculated update updated revised rechecking recalculating recounting retract reevaluate reexamine redo rethink \
     revisit thought thoughts",
);

/// Several words, anywhere in a sentence, that do so too.
const TAKINGS_BACK: [&str; 8] =
    ["not sure", "not certain", "not confident", "Hold on", "hold on", "ever mind", "try again", "correct myself"];

/// Words of a sentence that finds a mistake in what was said before it.
const FAULTS: Words = Words("mistake mistakes mistaken wrong incorrect incorrectly error errors invalid flawed flaw");

/// Words before a fault that is not there: `no mistakes were found`.
const ABSENCES: Words = Words("no not any without avoid avoids never");

/// Words of a sentence about what others say, or what would be wrong.
const ELSEWHERE: Words = Words("other others another common if would");

/// Words that judge an answer, and do not give it.
const JUDGEMENTS: Words = Words("correct reasonable right valid consistent plausible verified confirmed sensible");

/// Words that tell how or where an answer is, and not what it is.
const PREPOSITIONS: Words = Words("in as on at of with below above given written expressed measured rounded found");

/// First words of sentences that give reasons for what was said before them.
const EXPLANATIONS: Words =
    Words("because since as explanation reason reasoning justification note proof verification check steps details to");

/// Words for the answer itself, at the beginning of a sentence behind it.
const POINTERS: Words = Words("it it's this that that's which answer");

/// Words that are written where an answer should be.
const PLACEHOLDERS: Words = Words("your the final answer here");

/// How many words a denial reaches: `is not the right answer`.
const REACH: usize = 5;

/// The longest sentence, in bytes, whose beginning is looked for before an answer.
const MAX_CLAUSE_BYTES: usize = 200;

/// The longest text behind an answer, in bytes.
const MAX_BEHIND_BYTES: usize = 16_000;

/// The words of a text, commands with their backslash.
pub(super) fn words(text: &str) -> impl DoubleEndedIterator<Item = &str> + Clone {
    text.split(|c: char| !(c.is_alphanumeric() || "'\u{2019}\\".contains(c))).filter(|word| !word.is_empty())
}

pub(super) fn is_filler(word: &str) -> bool {
    FILLERS.have(word)
}

pub(super) fn is_conclusion(word: &str) -> bool {
    CONCLUSIONS.have(word)
}

/// Whether a sentence begins as a conclusion does: `Therefore`, `In total`, `As a result`.
pub(super) fn concludes(sentence: &str) -> bool {
    let first = words(sentence).find(|word| !["in", "as", "a"].iter().any(|lead| word.eq_ignore_ascii_case(lead)));
    first.is_some_and(|word| {
        is_conclusion(word) || ["total", "result"].iter().any(|noun| word.eq_ignore_ascii_case(noun))
    })
}

/// Whether a word says that what follows is what a question says: `Given:`.
pub(super) fn is_given(word: &str) -> bool {
    ["given", "known", "equation", "equations", "problem", "question"].iter().any(|own| word.eq_ignore_ascii_case(own))
}

pub(super) fn is_verb(word: &str) -> bool {
    VERBS.have(word)
}

fn is_doubt(word: &str) -> bool {
    DOUBTS.have(word) || CONDITIONS.have(word)
}

fn is_denial(word: &str) -> bool {
    DENIALS.have(word) || word.ends_with("n't") || word.ends_with("n\u{2019}t")
}

/// Whether a text has a word that makes something else of a number beside it.
pub(super) fn changes(text: &str) -> bool {
    let changes = |word: &str| changes_number(word) || OPERATIONS.have(word) || is_denial(word) || is_doubt(word);
    text.contains(['?', '\u{2260}']) || words(text).any(changes)
}

/// Signs that say that what they stand beside is wrong.
const CROSSES: [char; 6] = ['\u{2715}', '\u{2716}', '\u{2717}', '\u{2718}', '\u{274c}', '\u{274e}'];

/// Whether a text denies anything.
pub(super) fn denies(text: &str) -> bool {
    text.contains('\u{2260}') || text.contains(CROSSES) || words(text).any(is_denial)
}

/// What stands behind `must` or `should`. Only a formula there gives an answer, and not `be 2 digits`.
pub(super) fn demanded(text: &str) -> Option<&str> {
    let word = words(text).rfind(|word| matches!(*word, "must" | "should"))?;
    text.rsplit_once(word).map(|(_, behind)| behind)
}

/// Whether a verb behind this word says what may be, and not what is.
pub(super) fn is_modal(word: &str) -> bool {
    matches!(word, "may" | "might" | "could" | "can")
}

/// Whether a sentence is a guess, or depends on a condition.
pub(super) fn is_in_doubt(sentence: &str) -> bool {
    let sentence = sentence.rsplit("if and only if").next().unwrap_or_default();
    // `Although it might seem so, it is 5`: what is doubted there is not what is said then.
    let said = match sentence.split_once(", ") {
        Some((clause, rest)) if words(clause).next().is_some_and(|word| CONCESSIONS.have(word)) => rest,
        _ => sentence,
    };
    words(said).any(is_doubt)
}

/// The end of a text, which is long enough for its last clauses.
pub(super) fn near_end(text: &str) -> &str {
    &text[char_boundary(text, text.len().saturating_sub(MAX_CLAUSE_BYTES))..]
}

/// Whether the sentence that a text ends in tells what would be under a condition, or what may be.
pub(super) fn is_hypothetical(text: &str) -> bool {
    let sentence = sentences(text).last().unwrap_or_default();
    let may_be =
        words(sentence).rev().find(|word| !is_filler(word)).is_some_and(|word| is_modal(word) && word != "can");
    may_be || is_conditional(sentence) && words(sentence).any(|word| word == "would")
}

/// Whether a sentence has a condition.
pub(super) fn is_conditional(sentence: &str) -> bool {
    words(sentence).any(|word| CONDITIONS.have(word))
}

/// Whether a statement about an answer does not give it: `is correct`, `is in dollars`.
pub(super) fn is_aside(statement: &str) -> bool {
    let begins = words(statement).next().is_some_and(|word| PREPOSITIONS.have(word));
    let mut said = words(statement).filter(|word| !is_filler(word) || JUDGEMENTS.have(word)).peekable();
    begins && figures(statement).next().is_none() || said.peek().is_some() && said.all(|word| JUDGEMENTS.have(word))
}

/// Whether a sentence goes on to something else.
pub(super) fn digresses(sentence: &str) -> bool {
    words(sentence).skip(1).any(|word| RELATIVES.have(word))
}

/// Whether a clause denies what follows it.
pub(super) fn denies_next(clause: &str) -> bool {
    clause.trim_end_matches([' ', '$', '(']).ends_with('\u{2260}')
        || words(clause).rev().find(|word| !is_filler(word)).is_some_and(|word| is_denial(word) && word != "no")
}

/// Whether a clause denies or questions what it follows.
pub(super) fn denies_last(clause: &str) -> bool {
    // `ways with no two adjacent`
    let clause = clause.split(" with no ").next().unwrap_or_default();
    let mut spoken = words(clause).filter(|word| !word.starts_with('\\'));
    let is_one_choice = spoken.next().is_some_and(|word| word == "or")
        && spoken.next().is_some_and(|word| word.len() == 1 && word.starts_with(|c: char| c.is_ascii_uppercase()));
    is_one_choice
        || clause.contains(CROSSES)
        || clause.trim_start_matches(['$', ' ', '*', '\\', ')', '.']).starts_with('?')
        || words(clause).take(REACH).any(|word| is_denial(word) || is_doubt(word))
}

/// Whether what is said behind an answer leaves it as it is: nothing takes it back and, if the answer has numbers, none
/// but those are said, unless as reasons for it.
pub(super) fn upholds(behind: &str, answer: &str) -> bool {
    let said: Vec<&str> = figures(answer).collect();
    let mut explains = said.is_empty();
    let leaves = |sentence: &str| {
        explains |= gives_reasons(sentence);
        // `6 * 7 = 42` is a reason of 42.
        let result = sentence.rsplit_once('=').map(|(_, result)| result);
        let result = result.filter(|result| figures(result).next().is_some()).unwrap_or(sentence);
        explains || figures(result).all(|figure| said.contains(&figure))
    };
    !retracts(behind) && sentences(behind).all(leaves)
}

/// Whether a sentence begins to give the reasons of what was said before it.
pub(super) fn gives_reasons(sentence: &str) -> bool {
    words(sentence).next().is_some_and(|word| EXPLANATIONS.have(word))
        || words(sentence).take(REACH).any(|word| word.eq_ignore_ascii_case("because"))
}

/// Whether what is said behind an answer takes it back, or goes on for so long that it is no end.
pub(super) fn retracts(behind: &str) -> bool {
    behind.len() > MAX_BEHIND_BYTES || sentences(behind).any(takes_back)
}

fn takes_back(sentence: &str) -> bool {
    // `Note that 0 is not a solution`
    let noted = if sentence.starts_with("Note that ") { "Note that ".len() } else { 0 };
    let first = || words(&sentence[noted..]);
    let begins = |word: &str| first().next().is_some_and(|first| first.eq_ignore_ascii_case(word));
    let second = first().nth(1);
    // `No other solutions exist` and `no mistakes were found` take nothing back.
    let behind_first =
        sentence.trim_start_matches(|c: char| !c.is_alphanumeric()).trim_start_matches(char::is_alphanumeric);
    // `This assumes that no apple is lost`
    let mut denied = first().take(2).chain(first().take(REACH).skip(2).take_while(|word| *word != "that"));
    let is_reply = second.is_none_or(|word| POINTERS.have(word))
        || behind_first.trim_start_matches('*').starts_with([',', '.', '!', ':', ';', '-', '?']);
    begins("no") && is_reply
        || TAKINGS_BACK.iter().any(|words| sentence.contains(words))
        || (begins("however") || begins("but")) && gives_other(sentence)
        // `I am sorry for the confusion`
        || first().take(REACH).any(|word| RETRACTIONS.have(word))
        || finds_fault(sentence)
        || first().take(2).any(|word| POINTERS.have(word)) && denied.any(is_denial)
}

/// Whether a sentence finds a mistake, or that something is not correct.
fn finds_fault(sentence: &str) -> bool {
    // Reasons may tell of a mistake that is not made here.
    let reach = if gives_reasons(sentence) { REACH } else { usize::MAX };
    let said: Vec<&str> = words(sentence).take(reach).collect();
    let is_fault = |at: usize| {
        let before = &said[at.saturating_sub(2)..at];
        FAULTS.have(said[at]) && !before.iter().any(|word| ABSENCES.have(word))
            || JUDGEMENTS.have(said[at])
                && before.iter().rfind(|word| **word != "the").is_some_and(|word| is_denial(word))
    };
    (0..said.len()).any(is_fault) && !said.iter().any(|word| ELSEWHERE.have(word))
}

/// Whether a sentence with a number says that it is the answer, or that another one is none: `However, since x must be
/// even, we choose 6`. `However, 13 is prime` says neither.
fn gives_other(sentence: &str) -> bool {
    let behind = words(sentence).skip(1);
    let is_given = |(verb, word): (&str, &str)| is_verb(verb) && word.starts_with(|c: char| c.is_ascii_digit());
    let decides = |word: &str| is_denial(word) || matches!(word, "must" | "so");
    figures(sentence).next().is_some() && (words(sentence).any(decides) || words(sentence).zip(behind).any(is_given))
}

pub(super) fn sentences(text: &str) -> impl Iterator<Item = &str> {
    let ends = ['\n', '\u{3002}'];
    text.split(ends)
        .flat_map(|line| line.split(". "))
        .flat_map(|part| part.split("? "))
        .flat_map(|part| part.split("! "))
}

/// The runs of digits of a text, with the points and slashes in them.
fn figures(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !(c.is_ascii_digit() || ".,/".contains(c)))
        .map(|run| run.trim_matches(['.', ',', '/']))
        .filter(|run| !run.is_empty())
}

/// The sentence up to where it begins to give reasons.
pub(super) fn without_reasons(sentence: &str) -> &str {
    const OPENINGS: [&str; 6] = [" because ", " since ", ", as ", " (because ", " (since ", ", because"];
    let end = OPENINGS.iter().filter_map(|opening| sentence.find(opening)).min().unwrap_or(sentence.len());
    sentence[..end].trim_end_matches([',', ' '])
}

/// Whether a text only holds the place of an answer, or says that there is none.
pub(super) fn is_placeholder(answer: &str) -> bool {
    let text = plain(answer).to_lowercase().replace('\u{2019}', "'");
    let says_none =
        ["i don't know", "i do not know", "n/a"].contains(&text.trim_matches([' ', '.', '$', '*', '[', ']']));
    let mut words = words(&text);
    says_none || words.clone().any(|word| word == "answer") && words.all(|word| PLACEHOLDERS.have(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_upheld_by_reasons_and_by_its_own_numbers() {
        for behind in
            ["", ".", " I hope it is correct.", " So Tom has 5.", " Because 2 + 3 = 5.", "\nExplanation:\n2 and 3."]
        {
            assert!(upholds(behind, "5"), "{behind}");
        }
        for behind in [
            " Wait.",
            " No.",
            " That is not right.",
            " I made a mistake.",
            " So it is 15.",
            "\nBecause 2.\nActually, no",
        ] {
            assert!(!upholds(behind, "5"), "{behind}");
        }
        assert!(upholds(" Its population is 2000000.", "Paris"));
        assert!(!upholds(&" and so on".repeat(MAX_BEHIND_BYTES / 10 + 1), "5"));
    }
}
