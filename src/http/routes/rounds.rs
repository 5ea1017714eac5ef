//! Rounds of learning.

use async_trait::async_trait;
use axum::{
    Json,
    extract::{Path, State},
    http::{HeaderName, StatusCode, header},
};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::super::{
    AppState,
    error::ApiError,
    extract::{Body, Page, Parameters, parse_id},
};
use crate::{
    adaptation::{
        recipe::Recipe,
        rounds::{RoundError, Rounds},
    },
    engine::handle::Version,
    store::{AdapterStore, LIVE, Round, RoundState, RoundTrigger, Store},
};

/// What the routes want from whoever runs rounds.
#[async_trait]
pub trait RoundControl: Send + Sync {
    /// Starts a round, with a seed of its own if none is given.
    async fn start(&self, seed: Option<u64>) -> Result<Round, RoundError>;

    async fn cancel(&self, id: Uuid) -> Result<(), RoundError>;

    async fn promote(&self, id: Uuid) -> Result<(), RoundError>;

    async fn reject(&self, id: Uuid) -> Result<(), RoundError>;
}

#[async_trait]
impl RoundControl for Rounds {
    async fn start(&self, seed: Option<u64>) -> Result<Round, RoundError> {
        Rounds::start(self, RoundTrigger::Operator, seed).await
    }

    async fn cancel(&self, id: Uuid) -> Result<(), RoundError> {
        Rounds::cancel(self, id).await
    }

    async fn promote(&self, id: Uuid) -> Result<(), RoundError> {
        Rounds::promote(self, id).await
    }

    async fn reject(&self, id: Uuid) -> Result<(), RoundError> {
        Rounds::reject(self, id).await
    }
}

impl From<RoundError> for ApiError {
    fn from(error: RoundError) -> Self {
        match error {
            RoundError::Conflict(what) => Self::conflict(what),
            RoundError::NothingToLearn => Self::new(StatusCode::CONFLICT, "nothing_to_learn", error.to_string()),
            RoundError::Missing(id) => Self::not_found(format!("round {id}")),
            RoundError::Stale { .. } => Self::new(StatusCode::CONFLICT, "stale", error.to_string()),
            RoundError::Registry(error) => error.into(),
            RoundError::Store(error) => error.into(),
            RoundError::Waiting(_) => Self::conflict(error.to_string()),
            RoundError::TooLarge(_) => Self::unavailable("insufficient_memory", error.to_string()),
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
    let rounds = state.store.rounds(page.limit(20)?, page.before).await?;
    let mut views = Vec::with_capacity(rounds.len());
    for round in &rounds {
        views.push(view(round, &state).await?);
    }
    Ok(Json(json!({ "rounds": views })))
}

/// `GET /v1/rounds/{id}`
pub async fn read(State(state): State<AppState>, Path(id): Path<String>) -> Result<Json<Value>, ApiError> {
    let id = parse_id("round", &id)?;
    let round = find(&state, id).await?;
    let (steps, results) = tokio::try_join!(state.store.steps(id), state.store.round_questions(id))?;
    let steps: Vec<Value> = steps.into_iter().map(|step| json!({"step": step.step, "metrics": step.metrics})).collect();
    let changed = changed(&round.recipe, &json!(Recipe::default()));
    Ok(Json(json!({"round": view(&round, &state).await?, "settings": changed, "steps": steps, "questions": results})))
}

/// `POST /v1/rounds/{id}/cancel`: 202, since the round ends at its next step.
pub async fn cancel(
    State(state): State<AppState>,
    Path(id): Path<String>,
    Body(Nothing {}): Body<Nothing>,
) -> Result<(StatusCode, Json<Round>), ApiError> {
    let id = parse_id("round", &id)?;
    state.rounds.cancel(id).await?;
    Ok((StatusCode::ACCEPTED, Json(find(&state, id).await?)))
}

/// `POST /v1/rounds/{id}/promote`: the candidate of a held round is live.
pub async fn promote(
    State(state): State<AppState>,
    Path(id): Path<String>,
    Body(Nothing {}): Body<Nothing>,
) -> Result<Json<Round>, ApiError> {
    let id = parse_id("round", &id)?;
    state.rounds.promote(id).await?;
    Ok(Json(find(&state, id).await?))
}

/// `POST /v1/rounds/{id}/reject`: the candidate of a held round is dismissed.
pub async fn reject(
    State(state): State<AppState>,
    Path(id): Path<String>,
    Body(Nothing {}): Body<Nothing>,
) -> Result<Json<Round>, ApiError> {
    let id = parse_id("round", &id)?;
    state.rounds.reject(id).await?;
    Ok(Json(find(&state, id).await?))
}

/// The settings of a recipe that differ from those of another, each under its name with dots.
fn changed(recipe: &Value, other: &Value) -> Map<String, Value> {
    let mut found = Map::new();
    for (name, value) in recipe.as_object().into_iter().flatten() {
        match &other[name] {
            same if same == value => {}
            table @ Value::Object(_) => {
                let below = changed(value, table).into_iter();
                found.extend(below.map(|(inner, value)| (format!("{name}.{inner}"), value)));
            }
            _ => drop(found.insert(name.clone(), value.clone())),
        }
    }
    found
}

async fn find(state: &AppState, id: Uuid) -> Result<Round, ApiError> {
    state.store.round(id).await?.ok_or_else(|| ApiError::not_found(format!("round {id}")))
}

/// A round; of one that is held, also whether it is `stale`: it cannot be promoted, since another version than the one
/// that it was compared with is live for its model.
async fn view(round: &Round, state: &AppState) -> Result<Value, ApiError> {
    let mut view = json!(round);
    if round.state == RoundState::Held {
        let served = state.registry.model();
        let live = match round.model.as_ref().filter(|model| model.fingerprint != served.fingerprint) {
            Some(other) => state.store.alias(&other.fingerprint, LIVE).await?.unwrap_or_else(Version::base),
            None => state.registry.live().version().clone(),
        };
        view["stale"] = json!(round.parent_version != live && round.candidate_version.as_ref() != Some(&live));
    }
    Ok(view)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_differ_are_named_with_dots() {
        let mut recipe = Recipe { steps: 2, max_tokens: Some(9), ..Recipe::default() };
        recipe.gate.held_back = 0.5;
        let changed = changed(&json!(recipe), &json!(Recipe::default()));
        assert_eq!(Value::Object(changed), json!({"gate.held_back": 0.5, "max_tokens": 9, "steps": 2}));
    }
}
