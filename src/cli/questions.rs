//! Files of questions, one JSON object a line.

use std::{fs, path::Path};

use anyhow::{Context as _, ensure};
use serde::Deserialize;

use crate::grading::{Answer, AnswerKind};

/// The longest file of questions that is read, in bytes: more would not be learnt from in a day.
const MAX_FILE_BYTES: u64 = 64 << 20;

/// One line of a file of questions.
#[derive(Deserialize)]
struct Line {
    question: String,
    answer: Option<String>,
}

/// Questions, and their answers if those are to be compared.
pub struct QuestionSet {
    pub questions: Vec<String>,
    pub gold: Option<Gold>,
}

/// The answers of a set's questions: as they are written, and as they are read.
#[derive(Default)]
pub struct Gold {
    pub texts: Vec<String>,
    pub answers: Vec<Answer>,
}

impl QuestionSet {
    pub fn answers(&self) -> Option<&[Answer]> {
        self.gold.as_ref().map(|gold| &gold.answers[..])
    }

    /// Reads a file, with its answers if `labels` holds.
    ///
    /// # Errors
    /// Names the line that cannot be used.
    pub fn read(path: &Path, labels: bool, kind: AnswerKind) -> anyhow::Result<Self> {
        let name = path.display();
        let bytes = fs::metadata(path).with_context(|| format!("cannot read the questions in {name}"))?.len();
        ensure!(bytes <= MAX_FILE_BYTES, "{name} has {bytes} bytes, more than the {MAX_FILE_BYTES} that are read");
        let text = fs::read_to_string(path).with_context(|| format!("cannot read the questions in {name}"))?;
        let (mut questions, mut gold) = (Vec::new(), Gold::default());
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let place = || format!("{name}, line {}", number + 1);
            let line: Line = serde_json::from_str(line)
                .with_context(|| format!("{}: expected {{\"question\": \"...\", \"answer\": \"...\"}}", place()))?;
            ensure!(!line.question.trim().is_empty(), "{}: the question is empty", place());
            if labels {
                let text = line.answer.with_context(|| format!("{}: there is no answer", place()))?;
                let answer = Answer::read(&text, kind);
                let answer = answer.with_context(|| format!("{}: the answer {text:?} is not understood", place()))?;
                gold.answers.push(answer);
                gold.texts.push(text);
            }
            questions.push(line.question);
        }
        ensure!(!questions.is_empty(), "{name} has no questions");
        Ok(Self { questions, gold: labels.then_some(gold) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), text).unwrap();
        file
    }

    fn refusal(text: &str, labels: bool) -> String {
        format!("{:#}", QuestionSet::read(file(text).path(), labels, AnswerKind::Auto).err().unwrap())
    }

    #[test]
    fn answers_are_read_only_when_they_are_to_be_compared() {
        let text = "{\"question\": \"1 + 1 =\", \"answer\": \"2\"}\n\n{\"question\": \"2 + 2 =\"}\n";
        let set = QuestionSet::read(file(text).path(), false, AnswerKind::Auto).unwrap();
        assert_eq!((set.questions.len(), set.gold.is_none()), (2, true));
        assert!(refusal(text, true).contains("line 3: there is no answer"));
    }

    #[test]
    fn a_file_that_is_not_understood_is_refused_with_the_line() {
        assert!(refusal("{\"question\": \"a\"}\nnot json\n", false).contains("line 2: expected {\"question\""));
        assert!(refusal("{\"question\": \" \"}", false).contains("line 1: the question is empty"));
        assert!(refusal("\n{\"question\": \"a\", \"answer\": \"\\\\foo{\"}", true).contains("line 2: the answer"));
        assert!(refusal("\n", false).contains("has no questions"));
        let missing = QuestionSet::read(Path::new("/no/such/file"), false, AnswerKind::Auto).err().unwrap();
        assert!(missing.to_string().contains("cannot read the questions in /no/such/file"));
    }
}
