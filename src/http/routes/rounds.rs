//! Rounds of learning.

use async_trait::async_trait;
use axum::{
    Json,
    extract::{Path, State},
    http::{HeaderName, StatusCode, header},
};
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::super::{
    AppState,
    error::ApiError,
    extract::{Body, Page, Parameters, parse_id},
};
use crate::{
    adaptation::rounds::{RoundError, Rounds},
    store::{Round, RoundTrigger, Store},
};

/// What the routes want from whoever runs rounds.
#[async_trait]
pub trait RoundControl: Send + Sync {
    /// Starts a round, with a seed of its own if none is given.
    async fn start(&self, seed: Option<u64>) -> Result<Round, RoundError>;

    async fn cancel(&self, id: Uuid) -> Result<(), RoundError>;
}

#[async_trait]
impl RoundControl for Rounds {
    async fn start(&self, seed: Option<u64>) -> Result<Round, RoundError> {
        Rounds::start(self, RoundTrigger::Operator, seed).await
    }

    async fn cancel(&self, id: Uuid) -> Result<(), RoundError> {
        Rounds::cancel(self, id).await
    }
}

impl From<RoundError> for ApiError {
    fn from(error: RoundError) -> Self {
        match error {
            RoundError::Conflict(what) => Self::conflict(what),
            RoundError::NothingToLearn => Self::new(StatusCode::CONFLICT, "nothing_to_learn", error.to_string()),
            RoundError::Missing(id) => Self::not_found(format!("round {id}")),
            RoundError::Store(error) => error.into(),
            RoundError::Stopping => Self::unavailable("stopping", error.to_string()),
        }
    }
}

/// What may be asked of a round.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Start {
    /// Everything random follows from it.
    seed: Option<u64>,
}

/// A body that says nothing.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

/// `POST /v1/rounds`: 202, since the round has only begun.
pub async fn start(
    State(state): State<AppState>,
    Body(Start { seed }): Body<Start>,
) -> Result<(StatusCode, [(HeaderName, String); 1], Json<Round>), ApiError> {
    let round = state.rounds.start(seed).await?;
    let place = format!("/v1/rounds/{}", round.id);
    Ok((StatusCode::ACCEPTED, [(header::LOCATION, place)], Json(round)))
}

/// `GET /v1/rounds?limit=N&before=ID`
pub async fn list(
    State(state): State<AppState>,
    Parameters(page): Parameters<Page<Uuid>>,
) -> Result<Json<Value>, ApiError> {
    Ok(Json(json!({"rounds": state.store.rounds(page.limit(20)?, page.before).await?})))
}

/// `GET /v1/rounds/{id}`
pub async fn read(State(state): State<AppState>, Path(id): Path<String>) -> Result<Json<Value>, ApiError> {
    let id = parse_id("round", &id)?;
    let round = state.store.round(id).await?.ok_or_else(|| ApiError::not_found(format!("round {id}")))?;
    let (steps, results) = tokio::try_join!(state.store.steps(id), state.store.round_questions(id))?;
    let steps: Vec<Value> = steps.into_iter().map(|step| json!({"step": step.step, "metrics": step.metrics})).collect();
    Ok(Json(json!({"round": round, "steps": steps, "questions": results})))
}

/// `POST /v1/rounds/{id}/cancel`: 202, since the round ends at its next step.
pub async fn cancel(
    State(state): State<AppState>,
    Path(id): Path<String>,
    Body(Nothing {}): Body<Nothing>,
) -> Result<(StatusCode, Json<Round>), ApiError> {
    let id = parse_id("round", &id)?;
    state.rounds.cancel(id).await?;
    let round = state.store.round(id).await?.ok_or_else(|| ApiError::not_found(format!("round {id}")))?;
    Ok((StatusCode::ACCEPTED, Json(round)))
}
