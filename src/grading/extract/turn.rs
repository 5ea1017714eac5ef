//! Where a response goes on with the next turn, or the next question, of a conversation.

use super::{announcement, boxes::last_boxes, statement::value};

/// Marks that end every turn.
const ENDS: [&str; 4] = ["<|im_", "<|end", "<|eot", "</s>"];

/// Words that begin a line with the next question, before a colon or in a heading.
const HEADS: [&str; 8] = ["question", "problem", "exercise", "task", "instruction", "user", "human", "q"];

/// How many lines are looked at that may begin the next question.
const MAX_LINES: usize = 20;

/// A response up to its end, or to where it goes on with another question. A question that is said again before there
/// is any answer is a part of the response.
pub(super) fn own_turn(response: &str) -> &str {
    let text = response.trim_start();
    let end = ENDS.iter().filter_map(|mark| text.find(mark)).min().unwrap_or(text.len());
    let text = &text[..end];
    let mut starts = text.match_indices('\n').map(|(at, _)| at).filter(|at| begins_turn(&text[at + 1..]));
    let end = starts.by_ref().take(MAX_LINES).find(|at| !only_leads(&text[..*at])).unwrap_or(text.len());
    &text[..end]
}

/// Whether a line is the first of another question.
fn begins_turn(text: &str) -> bool {
    let line = text.split('\n').next().unwrap_or_default().trim();
    let title = line.trim_start_matches(['#', '*', ' ']);
    let word = title.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(title.len());
    let (word, rest) = (title[..word].to_ascii_lowercase(), &title[word..]);
    let number = rest.trim_start_matches(|c: char| c == ' ' || c.is_ascii_digit());
    let is_head = HEADS.contains(&word.as_str()) || word == "example" && number.len() < rest.len();
    let is_bare =
        matches!(line, "user" | "human") || line.starts_with(['#', '*']) && number.trim_matches('*').is_empty();
    is_head && (is_bare || number.starts_with(':') || number.starts_with("**:"))
}

/// Whether a text is one line that has no answer.
fn only_leads(text: &str) -> bool {
    let text = text.trim();
    let is_line = !text.contains('\n') && text.split_whitespace().count() > 2;
    text.is_empty()
        || is_line
            && value(text).is_none()
            && last_boxes(text).is_none()
            && announcement::last(text, &["answer", "option", "choice"]).is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_ends_where_another_question_begins() {
        for next in [
            "<|im_end|>\n",
            "\nQuestion: how",
            "\n\nQ: how",
            "\nUser: how",
            "\nHuman: how",
            "\nuser\nhow",
            "\n### Instruction:\nhow",
            "\n### Instruction\nhow",
            "\n## Problem\nhow",
            "\n# Exercise 2\nhow",
            "\nProblem 2: how",
            "\n**Question:** how",
            "\nExample 2: how",
        ] {
            assert_eq!(own_turn(&format!("It is 5.{next}")).trim(), "It is 5.", "{next}");
        }
    }

    #[test]
    fn a_question_that_is_said_before_the_answer_is_no_end() {
        for response in [
            "Let me restate it.\nQuestion: how many?\nAnswer: 5",
            "Question: how many?\nAnswer: 5",
            "It is 5.\nThe problem: there are more.",
            "It is 5.\nUser friendly",
            "It is 5.\nExample: 5",
        ] {
            assert_eq!(own_turn(response), response);
        }
    }
}
