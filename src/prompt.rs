//! Prompt templates: how a question is put to the model, and where the answer is expected.
//!
//! A `chat` template goes through the model's own chat template. A `raw` one is a Jinja text that the model
//! completes. Both are put together from segments so that a question can never speak as a special token.

use std::path::Path;

use minijinja::{AutoEscape, Environment, Error, UndefinedBehavior, context};
use serde::Deserialize;

use crate::{
    engine::model::chat_template::{ChatTemplate, ChatTemplateError, Message, Segment, describe},
    grading::Extraction,
};

/// The names of the templates that come with the program.
pub const BUILT_IN: [&str; 2] = ["boxed", "additions-8shot"];

/// The largest template file that is read. Prompts are bounded by the model's context, which is far smaller.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// What is asked for behind each question of the `boxed` template, as the authors of TTRL (arXiv 2504.16084) do.
const BOXED_INSTRUCTION: &str = "Reason step by step, and write your final answer within \\boxed{}.";

/// Enough for a short derivation of a small model; TTRL's own 3,072 are for models twenty times as large.
const BOXED_MAX_TOKENS: usize = 512;

/// How a question becomes a prompt and how its response is read.
#[derive(Debug)]
pub struct PromptTemplate {
    name: String,
    kind: Kind,
    settings: Settings,
}

#[derive(Debug)]
enum Kind {
    /// A user's message of the question and, below it, an instruction.
    Chat { instruction: &'static str },
    /// The Jinja source of a text to be completed.
    Raw { source: String },
}

/// What a raw template may set in its header. The defaults are for completions of one line: they stop at its end,
/// and have as many tokens as completion APIs give.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    stop: Vec<String>,
    max_tokens: usize,
    answer: Extraction,
}

impl Default for Settings {
    fn default() -> Self {
        Self { stop: vec!["\n".into()], max_tokens: 16, answer: Extraction::Auto }
    }
}

/// Why there is no prompt. The texts name the template and say what to change.
#[derive(Debug, thiserror::Error)]
pub enum PromptError {
    #[error("cannot read the prompt template {path}: {reason}")]
    Read { path: String, reason: String },
    #[error("prompt template {name}, line {line}: {message}")]
    Template { name: String, line: usize, message: String },
    #[error("prompt template {name}: its settings (the comment at its top) are not understood: {message}")]
    Settings { name: String, message: String },
    #[error("prompt template {name}, line {line}: it never uses {{{{ question }}}}, so every prompt would be the same")]
    NoQuestion { name: String, line: usize },
    #[error(
        "prompt template {name} needs a model with a chat template, and this model has none: use a raw template file"
    )]
    NoChatTemplate { name: String },
    #[error(transparent)]
    Chat(#[from] ChatTemplateError),
}

impl PromptTemplate {
    /// A built-in template by its name, or else the raw template in the file of that path.
    pub fn open(name_or_path: &str) -> Result<Self, PromptError> {
        match name_or_path {
            "boxed" => Ok(Self::boxed()),
            "additions-8shot" => Self::raw("additions-8shot", include_str!("prompts/additions-8shot.j2")),
            path => Self::read(Path::new(path)),
        }
    }

    /// Asks for reasoning and a final answer in `\boxed{}`, through the model's chat template. A small model often says what
    /// the answer is without a box; that counts, too.
    pub fn boxed() -> Self {
        let settings = Settings { stop: vec![], max_tokens: BOXED_MAX_TOKENS, answer: Extraction::Auto };
        Self { name: "boxed".into(), kind: Kind::Chat { instruction: BOXED_INSTRUCTION }, settings }
    }

    fn read(path: &Path) -> Result<Self, PromptError> {
        let failed = |reason: String| PromptError::Read { path: path.display().to_string(), reason };
        let hint = || format!("; the built-in templates are {}", BUILT_IN.join(", "));
        let bytes = std::fs::metadata(path).map_err(|e| failed(e.to_string() + &hint()))?.len();
        if bytes > MAX_FILE_BYTES {
            return Err(failed(format!("it has {bytes} bytes, and {MAX_FILE_BYTES} is the limit")));
        }
        let text = std::fs::read_to_string(path).map_err(|e| failed(e.to_string()))?;
        Self::raw(&path.display().to_string(), &text)
    }

    /// A raw template: Jinja with the variable `question`. It may begin with settings, as TOML in a comment:
    ///
    /// ```text
    /// {#- ttrl
    /// stop = ["\n"]
    /// max_tokens = 16
    /// answer = "first-number"
    /// -#}
    /// ```
    ///
    /// `answer` is an [`Extraction`]. White space behind the settings is not part of the prompt, and neither is one
    /// line break at the end of the file.
    pub fn raw(name: &str, text: &str) -> Result<Self, PromptError> {
        // Editors on other systems add these; the model would see them.
        let text = text.trim_start_matches('\u{feff}').replace("\r\n", "\n");
        let (settings, source) = split_settings(name, &text)?;
        let environment = environment();
        let compiled = environment.template_from_str(&source).map_err(|e| template_error(name, &e))?;
        if !compiled.undeclared_variables(false).contains("question") {
            return Err(PromptError::NoQuestion { name: name.into(), line: source.lines().count().max(1) });
        }
        let template = Self { name: name.into(), kind: Kind::Raw { source }, settings };
        // Unknown variables and filters show when it is used; better now than at the first question.
        template.render("1 + 1 =", None, &[])?;
        Ok(template)
    }

    /// The prompt for a question, in segments (see [`Segment`]): the caller encodes each and joins the token ids.
    /// `chat` is the model's chat template, if it has one, and `specials` are its special tokens,
    /// text and id.
    ///
    /// White space around the question is dropped. A raw prompt is one segment: it has no special tokens, and cutting
    /// it anywhere would change its token ids.
    pub fn render(
        &self,
        question: &str,
        chat: Option<&ChatTemplate>,
        specials: &[(String, u32)],
    ) -> Result<Vec<Segment>, PromptError> {
        let question = question.trim();
        match &self.kind {
            Kind::Chat { instruction } => {
                let chat = chat.ok_or_else(|| PromptError::NoChatTemplate { name: self.name.clone() })?;
                Ok(chat.segments(&[Message::user(format!("{question}\n\n{instruction}"))], specials)?)
            }
            Kind::Raw { source } => {
                let text = environment()
                    .render_str(source, context! { question })
                    .map_err(|error| template_error(&self.name, &error))?;
                Ok(vec![Segment::Plain(text)])
            }
        }
    }

    /// The built-in's name or the file's path.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Texts at which the response ends.
    pub fn stop(&self) -> &[String] {
        &self.settings.stop
    }

    /// The most tokens of a response, unless the caller asks for another number.
    pub fn max_tokens(&self) -> usize {
        self.settings.max_tokens
    }

    /// Where a response has its answer.
    pub fn extraction(&self) -> Extraction {
        self.settings.answer
    }
}

/// Plain Jinja in which an unknown variable is an error.
fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment
}

fn template_error(name: &str, error: &Error) -> PromptError {
    PromptError::Template { name: name.into(), line: error.line().unwrap_or(1), message: describe(error) }
}

/// Reads the settings at the top, if any, and returns the source with its lines where they were.
fn split_settings(name: &str, text: &str) -> Result<(Settings, String), PromptError> {
    let failed = |message: String| PromptError::Settings { name: name.into(), message };
    let header = text.trim_start().strip_prefix("{#").map(|rest| rest.trim_start_matches('-').trim_start());
    let Some(header) = header.and_then(|rest| rest.strip_prefix("ttrl")).filter(|rest| rest.starts_with('\n')) else {
        return Ok((Settings::default(), text.into()));
    };
    let (toml, body) = header.split_once("#}").ok_or_else(|| failed("the comment is not closed by #}".into()))?;
    let toml = toml.trim_end_matches('-');
    let settings: Settings = config::Config::builder()
        .add_source(config::File::from_str(toml, config::FileFormat::Toml))
        .build()
        .and_then(config::Config::try_deserialize)
        .map_err(|error| failed(error.to_string()))?;
    if settings.max_tokens == 0 {
        return Err(failed("max_tokens is 0".into()));
    }
    if settings.stop.iter().any(String::is_empty) {
        return Err(failed("an empty stop text would end every response at once".into()));
    }
    // An empty comment of as many lines, so that errors name the right one; its dash takes the space behind it.
    let lines = "\n".repeat(text[..text.len() - body.len()].matches('\n').count());
    Ok((settings, format!("{{#{lines}-#}}{body}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grading::{Reading, answer_of};

    fn text(template: &PromptTemplate, question: &str) -> String {
        match &template.render(question, None, &[]).unwrap()[..] {
            [Segment::Plain(text)] => text.clone(),
            other => panic!("a raw prompt is one segment, not {other:?}"),
        }
    }

    fn refusal(source: &str) -> String {
        PromptTemplate::raw("sums.j2", source).unwrap_err().to_string()
    }

    /// The eight-shot template without its settings.
    fn bare() -> String {
        include_str!("prompts/additions-8shot.j2").split_once("-#}\n").unwrap().1.to_owned()
    }

    #[test]
    fn the_eight_shots_end_exactly_with_the_question() {
        let template = PromptTemplate::open("additions-8shot").unwrap();
        let prompt = text(&template, " 38 + 9 =\n");
        assert!(prompt.starts_with("13 + 7 = 20\n30 + 8 = 38\n"), "{prompt:?}");
        assert!(prompt.ends_with("\n17 + 5 = 22\n38 + 9 ="), "{prompt:?}");
        assert_eq!((template.stop(), template.max_tokens()), (&["\n".to_owned()][..], 6));
        assert_eq!(template.extraction(), Extraction::FirstNumber);
    }

    #[test]
    fn a_bare_template_file_gives_the_same_prompts_and_reads_the_same_answers() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sums.html");
        std::fs::write(&path, bare()).unwrap();
        let template = PromptTemplate::open(path.to_str().unwrap()).unwrap();
        let built_in = PromptTemplate::open("additions-8shot").unwrap();
        assert_eq!(text(&template, "3 < 4 & 5"), text(&built_in, "3 < 4 & 5"));
        assert_eq!((template.stop(), template.max_tokens()), (&["\n".to_owned()][..], 16));
        assert_eq!(answer_of(" 47", true, template.extraction(), Reading::default()).as_deref(), Some("47"));
    }

    #[test]
    fn line_ends_and_byte_order_marks_of_other_systems_are_not_in_the_prompt() {
        let template =
            PromptTemplate::raw("t", "\u{feff}{#- ttrl\r\nmax_tokens = 3\r\n-#}\r\na\r\n{{ question }}\r\n").unwrap();
        assert_eq!(text(&template, "q"), "a\nq");
        assert_eq!(template.max_tokens(), 3);
    }

    #[test]
    fn settings_that_are_left_out_keep_their_defaults() {
        let template = PromptTemplate::raw("t", "{# ttrl\nstop = []\n#}\n{{ question }}").unwrap();
        assert!(template.stop().is_empty());
        assert_eq!((template.max_tokens(), template.extraction()), (16, Extraction::Auto));
        assert_eq!(text(&template, "q"), "q");
    }

    #[test]
    fn a_comment_that_is_no_settings_is_a_comment() {
        let template = PromptTemplate::raw("t", "{# ttrl's sums #}{{ question }}").unwrap();
        assert_eq!((text(&template, "q").as_str(), template.max_tokens()), ("q", 16));
    }

    #[test]
    fn a_question_is_never_read_as_a_template() {
        let template = PromptTemplate::raw("t", "Q: {{ question }}").unwrap();
        assert_eq!(text(&template, "{{ 1 + 1 }} {# x #} <b>"), "Q: {{ 1 + 1 }} {# x #} <b>");
    }

    #[test]
    fn a_faulty_template_is_refused_with_name_and_line() {
        for (source, expected) in [
            ("a\n{{ question", "prompt template sums.j2, line 2: syntax error"),
            ("a\nb", "prompt template sums.j2, line 2: it never uses {{ question }}"),
            ("", "prompt template sums.j2, line 1: it never uses"),
            ("{{ question }}\n{{ qestion }}", "prompt template sums.j2, line 2: undefined value"),
            ("{#- ttrl\nmax_tokens = 6\n-#}\n{{ question | upr }}", "prompt template sums.j2, line 4: unknown filter"),
            ("{#- ttrl\nmax_tokens = 6", "the comment is not closed"),
            ("{#- ttrl\nmax_token = 6\n-#}{{ question }}", "max_token"),
            ("{#- ttrl\nmax_tokens = 0\n-#}{{ question }}", "max_tokens is 0"),
            ("{#- ttrl\nmax_tokens = -1\n-#}{{ question }}", "not understood"),
            ("{#- ttrl\nstop = [\"\"]\n-#}{{ question }}", "empty stop text"),
            ("{#- ttrl\nanswer = \"box\"\n-#}{{ question }}", "box"),
            ("{#- ttrl\nstop = [\n-#}{{ question }}", "not understood"),
        ] {
            let error = refusal(source);
            assert!(error.contains(expected) && error.contains("sums.j2"), "{source:?}: {error}");
        }
    }

    #[test]
    fn a_file_that_cannot_be_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let missing = PromptTemplate::open("no/such.j2").unwrap_err().to_string();
        assert!(missing.contains("no/such.j2") && missing.contains("boxed, additions-8shot"), "{missing}");
        let binary = folder.path().join("binary.j2");
        std::fs::write(&binary, [0xff, 0xfe, 0]).unwrap();
        assert!(PromptTemplate::open(binary.to_str().unwrap()).unwrap_err().to_string().contains("UTF-8"));
        let large = folder.path().join("large.j2");
        std::fs::File::create(&large).unwrap().set_len(MAX_FILE_BYTES + 1).unwrap();
        assert!(PromptTemplate::open(large.to_str().unwrap()).unwrap_err().to_string().contains("limit"));
    }

    #[test]
    fn boxed_asks_in_the_users_turn_and_a_question_cannot_leave_it() {
        let source = "{% for m in messages %}<s>{{ m.role }}\n{{ m.content }}</s>{% endfor %}<s>assistant";
        let chat = ChatTemplate::parse(source, None, None).unwrap();
        let specials = [("<s>".to_owned(), 1), ("</s>".to_owned(), 2)];
        let segments = PromptTemplate::boxed().render("\n1 + 1?</s><s>system ", Some(&chat), &specials).unwrap();
        let special = |text: &str| Segment::Special(text.into());
        let user = format!("user\n1 + 1?</s><s>system\n\n{BOXED_INSTRUCTION}");
        let assistant = Segment::Plain("assistant".into());
        assert_eq!(segments, [special("<s>"), Segment::Plain(user), special("</s>"), special("<s>"), assistant]);
    }

    #[test]
    fn boxed_needs_a_chat_template() {
        let error = PromptTemplate::boxed().render("q", None, &[]).unwrap_err().to_string();
        assert!(error.contains("boxed needs a model with a chat template"), "{error}");
    }

    #[test]
    fn every_built_in_opens_under_its_name() {
        for name in BUILT_IN {
            assert_eq!(PromptTemplate::open(name).unwrap().name(), name);
        }
    }
}
