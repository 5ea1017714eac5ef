//! `POST /v1/completions`: texts that go on.

use std::sync::Arc;

use axum::{Extension, extract::State, response::Response};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    super::{AppState, envelope::Envelope, error::ApiError, extract::Body},
    fields::{Fields, refused, top_tokens},
    log_probs::{self, Place, Scored},
    reply::{self, Asked, View},
};
use crate::{
    completing::Call,
    engine::{
        handle::{Engine, Group, Piece, Rollout},
        sampling::ensure,
    },
    prompter::Prompt,
};

/// Tokens of a completion if nobody says, as OpenAI has it.
const DEFAULT_TOKENS: usize = 16;

#[derive(Deserialize)]
#[serde(untagged)]
enum PromptField {
    Text(String),
    Texts(Vec<String>),
    Tokens(Vec<u32>),
    ManyTokens(Vec<Vec<u32>>),
}

fn read(mut fields: Fields, engine: Arc<dyn Engine>) -> Result<Asked<Texts>, ApiError> {
    let prompts = match serde_json::from_value(fields.require::<Value>("prompt")?) {
        Ok(PromptField::Text(text)) => vec![Prompt::Text(text)],
        Ok(PromptField::Texts(texts)) => texts.into_iter().map(Prompt::Text).collect(),
        Ok(PromptField::Tokens(tokens)) => vec![Prompt::Tokens(tokens)],
        Ok(PromptField::ManyTokens(prompts)) => prompts.into_iter().map(Prompt::Tokens).collect(),
        Err(_) => {
            return Err(refused(
                "`prompt` must be a text, a list of texts, a list of token ids, or a list of such lists",
            ));
        }
    };
    let choices = fields.take("n")?.unwrap_or(1);
    if fields.take("best_of")?.is_some_and(|best_of: usize| best_of != choices) {
        return Err(refused("`best_of` is not served: all `n` completions are sent; leave it out"));
    }
    let max_tokens = fields.take("max_tokens")?.unwrap_or(DEFAULT_TOKENS);
    let log_probs = fields.take("logprobs")?.map(|top| top_tokens("logprobs", top)).transpose()?;
    let echo = fields.take("echo")?.unwrap_or(false);
    let stream = fields.stream()?;
    let least = usize::from(!echo || stream.is_some());
    ensure(max_tokens >= least, "max_tokens", max_tokens, "at least 1, unless `echo` is asked for without `stream`")?;
    if echo && stream.is_some() && log_probs.is_some() {
        return Err(refused(
            "`logprobs` of an `echo` cannot be streamed; leave one of `stream`, `echo` and `logprobs` out",
        ));
    }
    if echo && log_probs.is_some() && choices > 1 {
        // The scores of a prompt are large, and the same for each.
        return Err(refused(
            "`logprobs` of an `echo` are told once: ask for them with `n` 1, or leave one of them out",
        ));
    }
    // A prompt that is only scored has to be asked for, even if nobody wants to see the scores.
    let prompt_scores = if max_tokens == 0 { Some(log_probs.unwrap_or(0)) } else { log_probs.filter(|_| echo) };
    let view = Texts { engine, scored: log_probs.is_some(), echoes: echo.then(|| prompts.clone()) };
    let call = Call {
        model: fields.take("model")?,
        prompts,
        choices,
        sampling: fields.sampling()?,
        max_tokens: Some(max_tokens),
        seed: fields.take("seed")?,
        token_scores: log_probs,
        prompt_scores,
    };
    fields.finish()?;
    Ok(Asked { call, view, stream })
}

/// `POST /v1/completions`
pub async fn create(
    State(state): State<AppState>,
    Extension(envelope): Extension<Envelope>,
    Body(fields): Body<Fields>,
) -> Result<Response, ApiError> {
    let asked = read(fields, state.engine.clone())?;
    reply::respond(state, envelope, asked).await
}

/// How responses become texts.
struct Texts {
    engine: Arc<dyn Engine>,
    scored: bool,
    /// The prompts as they were given, if each text is to begin with its own.
    echoes: Option<Vec<Prompt>>,
}

impl Texts {
    /// A prompt as it is shown.
    fn echo(&self, prompt: usize) -> Option<String> {
        match self.echoes.as_ref()?.get(prompt)? {
            Prompt::Text(text) => Some(text.clone()),
            Prompt::Tokens(tokens) => Some(self.engine.tokenizer().decode(tokens)),
            Prompt::Question(_) | Prompt::Chat(_) => None,
        }
    }
}

impl View for Texts {
    const ID: &str = "cmpl";
    const OBJECT: &str = "text_completion";
    const EVENT: &str = Self::OBJECT;

    fn choice(&self, index: usize, prompt: usize, group: &Group, rollout: &Rollout) -> Value {
        let generated = rollout.tokens.iter().copied().zip(rollout.scores.iter().map(Some));
        let tokenizer = self.engine.tokenizer();
        let lists = || match self.echoes {
            None => {
                let mut place = Place::behind(tokenizer, &group.prompt);
                log_probs::lists(tokenizer, &mut place, &generated.collect::<Vec<Scored<'_>>>())
            }
            Some(_) => {
                // Nothing comes before the first token, so it has no score.
                let scores = [None].into_iter().chain(group.prompt_scores.iter().map(Some));
                let prompt = group.prompt.iter().copied().zip(scores);
                log_probs::lists(tokenizer, &mut Place::default(), &prompt.chain(generated).collect::<Vec<_>>())
            }
        };
        json!({
            "index": index,
            "text": format!("{}{}", self.echo(prompt).unwrap_or_default(), rollout.text),
            "logprobs": self.scored.then(lists),
            "finish_reason": rollout.finish,
        })
    }

    fn opening(&self, index: usize, prompt: usize) -> Option<Value> {
        let text = self.echo(prompt)?;
        Some(json!({"index": index, "text": text, "logprobs": null, "finish_reason": null}))
    }

    fn piece(&self, piece: &Piece, place: &mut Place) -> Option<Value> {
        let tokens = [(piece.token, piece.score.as_ref())];
        let lists = || log_probs::lists(self.engine.tokenizer(), place, &tokens);
        (self.scored || piece.shows()).then(|| {
            json!({
                "index": piece.choice,
                "text": piece.text,
                "logprobs": self.scored.then(lists),
                "finish_reason": piece.finish,
            })
        })
    }
}
