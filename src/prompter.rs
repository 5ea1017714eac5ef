//! A prompt template at work on one model: questions to token ids, responses to votes. Requests and rounds share it,
//! so that what is learnt is what is asked.

use std::sync::Arc;

use tokio::task::JoinError;

use crate::{
    engine::{
        handle::{Engine, FinishReason, Group, Sampling},
        line::Place,
        model::{
            chat_template::{ChatTemplate, ChatTemplateError, Message, Segment},
            tokenizer::TokenizerError,
        },
    },
    grading::{Reading, Tally, answer_of},
    prompt::{PromptError, PromptTemplate},
};

/// Why a question, a text or a conversation could not be put to the model.
#[derive(Debug, thiserror::Error)]
pub enum PrompterError {
    #[error(transparent)]
    Template(#[from] PromptError),
    #[error("this model has no chat template, so it takes no conversations; send a text to be continued instead")]
    NoChatTemplate,
    /// The template refuses a conversation, for example because of the order of its roles.
    #[error(transparent)]
    Conversation(#[from] ChatTemplateError),
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// Encoding panicked, or the program is stopping.
    #[error("interrupted: {0}")]
    Interrupted(#[from] JoinError),
}

/// What is to be continued.
#[derive(Clone, Debug)]
pub enum Prompt {
    /// A question, which the prompt template puts to the model.
    Question(String),
    /// A text as it is, in which the texts of special tokens are those tokens.
    Text(String),
    /// Token ids, special tokens included.
    Tokens(Vec<u32>),
    /// A conversation up to where the model's next turn begins, in the words of the model's chat template; messages
    /// cannot speak as special tokens.
    Chat(Vec<Message>),
}

/// A template with the model's tokenizer and chat template.
pub struct Prompter {
    engine: Arc<dyn Engine>,
    template: PromptTemplate,
    chat: Option<ChatTemplate>,
    reading: Reading,
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
        let prompter = Self { engine, template, chat, reading: Reading::default() };
        prompter.encode("1 + 1 =")?;
        Ok(prompter)
    }

    /// With answers read in another way than by default.
    #[must_use]
    pub fn with_reading(self, reading: Reading) -> Self {
        Self { reading, ..self }
    }

    /// The token ids of the prompt for a question.
    pub fn encode(&self, question: &str) -> Result<Vec<u32>, PrompterError> {
        let specials = self.engine.tokenizer().special_tokens();
        self.encode_segments(self.template.render(question, self.chat.as_ref(), specials)?)
    }

    /// The token ids of the prompts of a call, made where work may take long: a body that is as large as may be takes
    /// longer than others should wait. The call's place is kept until that is done, even if nobody waits for it any more.
    ///
    /// # Errors
    /// Of the first prompt that has one, such as a conversation for a model without a chat template.
    pub async fn encode_all(
        self: &Arc<Self>,
        prompts: Vec<Prompt>,
        place: Place,
    ) -> Result<Vec<Vec<u32>>, PrompterError> {
        let prompter = self.clone();
        let encode = move || {
            let _place = place;
            prompts.into_iter().map(|prompt| prompter.encode_prompt(prompt)).collect()
        };
        tokio::task::spawn_blocking(encode).await?
    }

    fn encode_prompt(&self, prompt: Prompt) -> Result<Vec<u32>, PrompterError> {
        let tokenizer = self.engine.tokenizer();
        match prompt {
            Prompt::Question(question) => self.encode(&question),
            Prompt::Text(text) => Ok(tokenizer.encode(&text, true)?),
            Prompt::Tokens(tokens) => Ok(tokens),
            Prompt::Chat(messages) => {
                let chat = self.chat.as_ref().ok_or(PrompterError::NoChatTemplate)?;
                self.encode_segments(chat.segments(&messages, tokenizer.special_tokens())?)
            }
        }
    }

    fn encode_segments(&self, segments: Vec<Segment>) -> Result<Vec<u32>, PrompterError> {
        let tokenizer = self.engine.tokenizer();
        let mut ids = Vec::new();
        for segment in segments {
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
        let how = self.template.extraction();
        let answers = group
            .rollouts
            .iter()
            .map(|rollout| answer_of(&rollout.text, rollout.finish == FinishReason::Stop, how, self.reading));
        Tally::count_as(self.reading.kind, answers)
    }

    /// How answers are read.
    pub fn reading(&self) -> Reading {
        self.reading
    }

    /// The template.
    pub fn template(&self) -> &PromptTemplate {
        &self.template
    }
}
