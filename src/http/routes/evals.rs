//! Labelled evaluation sets.

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
    extract::{Body, parse_id},
};
use crate::{
    evaluation::{EvaluationError, Run},
    store::{EvaluationItem, EvaluationSet, EvaluationStore},
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewSet {
    name: String,
    items: Vec<EvaluationItem>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewRun {
    /// As a completion names it: `live`, `base` or a version in full.
    version: Option<String>,
}

impl From<EvaluationError> for ApiError {
    fn from(error: EvaluationError) -> Self {
        match error {
            EvaluationError::Set(_) => Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_set", error.to_string()),
            EvaluationError::Missing(name) => unknown(&name),
            EvaluationError::Running(_) => Self::conflict(error),
            EvaluationError::Stopping => Self::unavailable("stopping", error.to_string()),
            EvaluationError::Registry(error) => error.into(),
            EvaluationError::Engine(error) => error.into(),
            EvaluationError::Store(error) => error.into(),
        }
    }
}

/// The name goes into a message, so a bit of it must do.
fn unknown(name: &str) -> ApiError {
    ApiError::not_found(format!("evaluation set {}", name.chars().take(80).collect::<String>()))
}

/// `POST /v1/evals`: adds a set, or replaces the one of that name.
pub async fn put(State(state): State<AppState>, Body(set): Body<NewSet>) -> Result<Json<Value>, ApiError> {
    let EvaluationSet { name, created_at, items } = state.evaluations.put(set.name, set.items).await?;
    tracing::info!(name, items = items.len(), "an operator put an evaluation set");
    Ok(Json(json!({"name": name, "created_at": created_at, "items": items.len()})))
}

/// `GET /v1/evals`: sets by name, without their items.
pub async fn list(State(state): State<AppState>) -> Result<Json<Value>, ApiError> {
    Ok(Json(json!({"sets": state.store.evaluation_sets().await?})))
}

/// `GET /v1/evals/{name}`: with its items.
pub async fn read(State(state): State<AppState>, Path(name): Path<String>) -> Result<Json<EvaluationSet>, ApiError> {
    state.store.evaluation_set(&name).await?.map(Json).ok_or_else(|| unknown(&name))
}

/// `DELETE /v1/evals/{name}`
pub async fn remove(State(state): State<AppState>, Path(name): Path<String>) -> Result<Json<Value>, ApiError> {
    if !state.store.remove_evaluation_set(&name).await? {
        return Err(unknown(&name));
    }
    tracing::info!(name, "an operator removed an evaluation set");
    Ok(Json(json!({"removed": name})))
}

/// `POST /v1/evals/{name}/runs`: 202, since the run has only begun.
pub async fn start(
    State(state): State<AppState>,
    Path(name): Path<String>,
    Body(run): Body<NewRun>,
) -> Result<(StatusCode, [(HeaderName, String); 1], Json<Run>), ApiError> {
    let run = state.evaluations.start(&name, run.version.as_deref()).await?;
    let place = format!("/v1/evals/{name}/runs/{}", run.id);
    Ok((StatusCode::ACCEPTED, [(header::LOCATION, place)], Json(run)))
}

/// `GET /v1/evals/{name}/runs`: those of this server since its start, newest first.
pub async fn runs(State(state): State<AppState>, Path(name): Path<String>) -> Json<Value> {
    Json(json!({"runs": state.evaluations.of(&name)}))
}

/// `GET /v1/evals/{name}/runs/{id}`
pub async fn run(
    State(state): State<AppState>,
    Path((name, id)): Path<(String, String)>,
) -> Result<Json<Run>, ApiError> {
    let id: Uuid = parse_id("run", &id)?;
    let found = state.evaluations.of(&name).into_iter().find(|run| run.id == id);
    found.map(Json).ok_or_else(|| ApiError::not_found(format!("run {id} of this server since its start")))
}
