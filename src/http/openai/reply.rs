//! Replies, whole or in pieces: what the routes have in common.

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use chrono::Utc;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    super::{AppState, envelope::Envelope, error::ApiError},
    fields::StreamOptions,
    log_probs::Place,
    stream::{self, Shape},
};
use crate::{
    completing::{Call, Prepared, Usage},
    engine::handle::{Group, Piece, Rollout, Version},
};

/// What a route is asked for.
pub struct Asked<V> {
    pub call: Call,
    pub view: V,
    /// How to stream, if the reply is to come in pieces.
    pub stream: Option<StreamOptions>,
}

/// What is special about the replies of a route.
pub trait View: Send + Sync + 'static {
    /// What ids begin with.
    const ID: &str;
    /// `object` of a whole reply, and of an event of a streamed one.
    const OBJECT: &str;
    const EVENT: &str;

    /// A choice of a whole reply.
    fn choice(&self, index: usize, prompt: usize, group: &Group, rollout: &Rollout) -> Value;

    /// A choice of the events before anything is drawn, if there is something to say.
    fn opening(&self, index: usize, prompt: usize) -> Option<Value>;

    /// A choice of an event; `place` is where the piece stands. Nothing if the piece has nothing to show.
    fn piece(&self, piece: &Piece, place: &mut Place) -> Option<Value>;
}

/// Answers a call in the shape of a route.
pub async fn respond<V: View>(state: AppState, envelope: Envelope, asked: Asked<V>) -> Result<Response, ApiError> {
    let Asked { call, view, stream } = asked;
    let model = call.model.clone().unwrap_or_else(|| state.engine.info().name.clone());
    let (prompts, choices) = (call.prompts.len(), call.choices);
    let prepared = state.completing.prepare(call).await?;
    let head = Head::new(V::ID, model, &prepared);
    let Some(options) = stream else {
        let groups = state.completing.complete(prepared).await?;
        let choice = |(prompt, group): (usize, &Group)| {
            let rollouts = (prompt * choices..).zip(&group.rollouts);
            rollouts.map(|(index, rollout)| view.choice(index, prompt, group, rollout)).collect::<Vec<_>>()
        };
        let mut reply = head.json(V::OBJECT, groups.iter().enumerate().flat_map(choice).collect());
        reply["usage"] = usage(Usage::of(&groups));
        return Ok(Json(reply).into_response());
    };
    let opening = (0..prompts * choices).filter_map(|index| view.opening(index, index / choices)).collect();
    let place = |prompt: &[u32]| vec![Place::behind(state.engine.tokenizer(), prompt); choices];
    let mut places: Vec<Place> = prepared.prompts().flat_map(place).collect();
    let choice = move |piece: Piece| view.piece(&piece, &mut places[piece.choice]);
    let shape = Shape { head, object: V::EVENT, options, envelope };
    Ok(stream::respond(state.completing.stream(prepared).await?, shape, opening, choice))
}

/// The part of a reply that is the same in each of its events.
#[derive(Clone, Debug)]
pub struct Head {
    id: String,
    created: i64,
    model: String,
    version: Option<Version>,
}

impl Head {
    /// Made once a request; `prefix` says what the id is of, `model` is what was asked for.
    fn new(prefix: &str, model: String, prepared: &Prepared) -> Self {
        let id = format!("{prefix}-{}", Uuid::now_v7().simple());
        Self { id, created: Utc::now().timestamp(), model, version: prepared.version().cloned() }
    }

    /// A reply, or an event of one.
    pub fn json(&self, object: &str, choices: Vec<Value>) -> Value {
        json!({
            "id": self.id,
            "object": object,
            "created": self.created,
            "model": self.model,
            "adapter_version": self.version,
            "system_fingerprint": self.version,
            "choices": choices,
        })
    }
}

/// `usage` in a reply.
pub fn usage(usage: Usage) -> Value {
    let Usage { prompt_tokens, completion_tokens } = usage;
    json!({
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    })
}
