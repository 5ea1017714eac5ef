//! A prompt template at work on one model: questions to token ids, responses to votes. Requests and rounds share it,
//! so that what is learnt is what is asked.

use std::sync::Arc;

use crate::{
    engine::{
        handle::{Engine, FinishReason, Group, Sampling},
        model::{chat_template::ChatTemplate, chat_template::Segment, tokenizer::TokenizerError},
    },
    grading::{Tally, answer_of},
    prompt::{PromptError, PromptTemplate},
};

/// Why a question could not be put to the model.
#[derive(Debug, thiserror::Error)]
pub enum PrompterError {
    #[error(transparent)]
    Template(#[from] PromptError),
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
}

/// A template with the model's tokenizer and chat template.
pub struct Prompter {
    engine: Arc<dyn Engine>,
    template: PromptTemplate,
    chat: Option<ChatTemplate>,
}

impl Prompter {
    /// `chat` is the model's chat template, if it has one.
    ///
    /// # Errors
    /// If the template cannot be used with this model: it is tried on an example.
    pub fn new(
        engine: Arc<dyn Engine>,
        template: PromptTemplate,
        chat: Option<ChatTemplate>,
    ) -> Result<Self, PrompterError> {
        let prompter = Self { engine, template, chat };
        prompter.encode("1 + 1 =")?;
        Ok(prompter)
    }

    /// The token ids of the prompt for a question.
    pub fn encode(&self, question: &str) -> Result<Vec<u32>, PrompterError> {
        let tokenizer = self.engine.tokenizer();
        let mut ids = Vec::new();
        for segment in self.template.render(question, self.chat.as_ref(), tokenizer.special_tokens())? {
            let encoded = match segment {
                Segment::Special(text) => tokenizer.encode(&text, true)?,
                Segment::Plain(text) => tokenizer.encode(&text, false)?,
            };
            // A tokenizer that puts a begin token before a text puts it before each segment: only the first counts.
            let repeated = !ids.is_empty() && encoded.first().copied() == tokenizer.bos() && encoded.len() > 1;
            ids.extend(&encoded[usize::from(repeated)..]);
        }
        Ok(ids)
    }

    /// How to draw a response: the template's stop texts and, if not given, its number of tokens; nothing else
    /// changes the model's distribution.
    pub fn sampling(&self, temperature: f32, max_tokens: Option<usize>) -> Sampling {
        Sampling {
            temperature,
            max_tokens: max_tokens.unwrap_or(self.template.max_tokens()),
            stop: self.template.stop().to_vec(),
            ..Sampling::default()
        }
    }

    /// The votes of a group's responses. One that was cut off, or has no answer, votes for nothing.
    pub fn tally(&self, group: &Group) -> Tally {
        Tally::count(
            group.rollouts.iter().map(|rollout| {
                answer_of(&rollout.text, rollout.finish == FinishReason::Stop, self.template.extraction())
            }),
        )
    }

    /// The template.
    pub fn template(&self) -> &PromptTemplate {
        &self.template
    }
}
