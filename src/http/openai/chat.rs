//! `POST /v1/chat/completions`: the next turn of a conversation.

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
        model::chat_template::Message,
    },
    prompter::Prompt,
};

#[derive(Deserialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Deserialize)]
struct Part {
    r#type: String,
    text: Option<String>,
}

fn read(mut fields: Fields, engine: Arc<dyn Engine>) -> Result<Asked<Turns>, ApiError> {
    let messages = fields.require::<Vec<Fields>>("messages")?;
    if messages.is_empty() {
        return Err(refused("`messages` is empty; write at least one"));
    }
    let messages = messages.into_iter().enumerate().map(|(index, message)| read_message(index, message));
    let messages = messages.collect::<Result<Vec<_>, _>>()?;
    let told = fields.take("logprobs")?.unwrap_or(false);
    let top = fields.take("top_logprobs")?.map(|top| top_tokens("top_logprobs", top)).transpose()?;
    if top.is_some() && !told {
        return Err(refused("`top_logprobs` wants `logprobs` to be true"));
    }
    // The older name of the same, which clients of other servers still use.
    let max_tokens = fields.take("max_tokens")?;
    let max_tokens = fields.take("max_completion_tokens")?.or(max_tokens);
    let stream = fields.stream()?;
    let call = Call {
        model: fields.take("model")?,
        prompts: vec![Prompt::Chat(messages)],
        choices: fields.take("n")?.unwrap_or(1),
        sampling: fields.sampling()?,
        max_tokens,
        seed: fields.take("seed")?,
        token_scores: told.then(|| top.unwrap_or(0)),
        prompt_scores: None,
    };
    fields.finish()?;
    Ok(Asked { call, view: Turns { engine, scored: told }, stream })
}

/// One message; what assistants of other servers send along empty is let through.
fn read_message(index: usize, mut fields: Fields) -> Result<Message, ApiError> {
    let place = |error: ApiError| refused(format!("`messages[{index}]`: {}", error.message));
    let role: String = fields.require("role").map_err(place)?;
    let role = match role.as_str() {
        "system" | "user" | "assistant" => role,
        // What OpenAI calls the system's messages since 2024.
        "developer" => "system".into(),
        _ => {
            let role: String = role.chars().take(80).collect();
            let message = format!("its role is {role:?}; it must be system, developer, user or assistant");
            return Err(refused(format!("`messages[{index}]`: {message}")));
        }
    };
    let content = match fields.require("content").map_err(place)? {
        Content::Text(text) => text,
        Content::Parts(parts) => {
            let texts = parts.into_iter().map(|part| match part {
                Part { r#type, text: Some(text) } if r#type == "text" => Ok(text),
                Part { r#type, .. } => {
                    let kind: String = r#type.chars().take(80).collect();
                    let message = format!("it has a part of type {kind:?}; the model reads `text` only");
                    Err(refused(format!("`messages[{index}]`: {message}")))
                }
            });
            texts.collect::<Result<Vec<_>, _>>()?.join("\n")
        }
    };
    fields.finish_message().map_err(place)?;
    Ok(Message { role, content })
}

/// `POST /v1/chat/completions`
pub async fn create(
    State(state): State<AppState>,
    Extension(envelope): Extension<Envelope>,
    Body(fields): Body<Fields>,
) -> Result<Response, ApiError> {
    let asked = read(fields, state.engine.clone())?;
    reply::respond(state, envelope, asked).await
}

/// How responses become turns of an assistant.
struct Turns {
    engine: Arc<dyn Engine>,
    scored: bool,
}

impl View for Turns {
    const ID: &str = "chatcmpl";
    const OBJECT: &str = "chat.completion";
    const EVENT: &str = "chat.completion.chunk";

    fn choice(&self, index: usize, _prompt: usize, group: &Group, rollout: &Rollout) -> Value {
        let objects = || {
            let mut place = Place::behind(self.engine.tokenizer(), &group.prompt);
            let tokens = rollout.tokens.iter().copied().zip(rollout.scores.iter().map(Some));
            log_probs::objects(self.engine.tokenizer(), &mut place, &tokens.collect::<Vec<Scored<'_>>>())
        };
        json!({
            "index": index,
            "message": {"role": "assistant", "content": rollout.text, "refusal": null},
            "logprobs": self.scored.then(objects),
            "finish_reason": rollout.finish,
        })
    }

    fn opening(&self, index: usize, _prompt: usize) -> Option<Value> {
        let delta = json!({"role": "assistant", "content": ""});
        Some(json!({"index": index, "delta": delta, "logprobs": null, "finish_reason": null}))
    }

    fn piece(&self, piece: &Piece, place: &mut Place) -> Option<Value> {
        let tokens = [(piece.token, piece.score.as_ref())];
        let objects = || log_probs::objects(self.engine.tokenizer(), place, &tokens);
        (self.scored || piece.shows()).then(|| {
            json!({
                "index": piece.choice,
                "delta": {"content": piece.text},
                "logprobs": self.scored.then(objects),
                "finish_reason": piece.finish,
            })
        })
    }
}
