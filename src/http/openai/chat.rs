//! `POST /v1/chat/completions`: the next turn of a conversation.

use std::time::Duration;

use axum::{
    Extension, Json,
    extract::State,
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    super::{AppState, envelope::RequestId, error::ApiError, extract::Body},
    fields::{Fields, StreamOptions, refused, top_tokens},
    log_probs::{self, Place, Scored},
    reply::{self, Head},
    stream::{self, Shape},
};
use crate::{
    completing::{Call, Prompt, Usage},
    engine::{
        handle::{Group, Piece, Rollout},
        model::{chat_template::Message, tokenizer::Tokenizer},
    },
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

struct Request {
    call: Call,
    stream: Option<StreamOptions>,
}

fn read(mut fields: Fields) -> Result<Request, ApiError> {
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
    Ok(Request { call, stream })
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
    Extension(request_id): Extension<RequestId>,
    Body(fields): Body<Fields>,
) -> Result<Response, ApiError> {
    let Request { call, stream } = read(fields)?;
    let model = call.model.clone().unwrap_or_else(|| state.engine.info().name.clone());
    let (choices, scored) = (call.choices, call.token_scores.is_some());
    let prepared = state.completing.prepare(call).await?;
    let head = Head::new("chatcmpl", model, &prepared);
    let Some(options) = stream else {
        let groups = state.completing.complete(prepared).await?;
        let choices = groups.iter().flat_map(|group| {
            let rollouts = group.rollouts.iter().enumerate();
            rollouts.map(|(index, rollout)| choice(state.engine.tokenizer(), index, group, rollout, scored))
        });
        let mut reply = head.json("chat.completion", choices.collect());
        reply["usage"] = reply::usage(Usage::of(&groups));
        return Ok(Json(reply).into_response());
    };
    let opening = (0..choices).map(opening).collect();
    let place = |previous| vec![Place { previous, offset: 0 }; choices];
    let mut places: Vec<Place> = prepared.last_tokens().flat_map(place).collect();
    let engine = state.engine.clone();
    let choice = move |piece: Piece| {
        let told = !piece.text.is_empty() || piece.finish.is_some() || scored;
        let tokens = [(piece.token, piece.score.as_ref())];
        told.then(|| {
            let objects = || log_probs::objects(engine.tokenizer(), &mut places[piece.choice], &tokens);
            json!({
                "index": piece.choice,
                "delta": {"content": piece.text},
                "logprobs": scored.then(objects),
                "finish_reason": piece.finish,
            })
        })
    };
    let limit = Duration::from_secs(state.settings.request_timeout_seconds);
    let shape = Shape { head, object: "chat.completion.chunk", options, limit, request_id };
    Ok(stream::respond(state.completing.stream(prepared).await?, shape, opening, choice))
}

/// The first event of each choice.
fn opening(index: usize) -> Value {
    let delta = json!({"role": "assistant", "content": ""});
    json!({"index": index, "delta": delta, "logprobs": null, "finish_reason": null})
}

fn choice(tokenizer: &Tokenizer, index: usize, group: &Group, rollout: &Rollout, scored: bool) -> Value {
    let objects = || {
        let mut place = Place { previous: group.prompt.last().copied(), offset: 0 };
        let tokens = rollout.tokens.iter().copied().zip(rollout.scores.iter().map(Some));
        log_probs::objects(tokenizer, &mut place, &tokens.collect::<Vec<Scored<'_>>>())
    };
    json!({
        "index": index,
        "message": {"role": "assistant", "content": rollout.text, "refusal": null},
        "logprobs": scored.then(objects),
        "finish_reason": rollout.finish,
    })
}
