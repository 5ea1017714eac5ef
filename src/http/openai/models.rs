//! `GET /v1/models`: what may stand in `model`.

use axum::{
    Json,
    extract::{Path, State},
};
use serde_json::{Value, json};

use super::super::{AppState, error::ApiError, extract::MAX_LISTED};
use crate::{
    engine::handle::Version,
    store::{AdapterStore, LIVE},
};

/// `GET /v1/models`: the model's own name and the aliases, then the adapters that can be loaded, newest first.
pub async fn list(State(state): State<AppState>) -> Result<Json<Value>, ApiError> {
    let registry = &state.registry;
    let (live, base) = (registry.live().version().clone(), Version::base());
    let name = state.engine.info().name.as_str();
    let mut models: Vec<Value> =
        [(name, &live), (LIVE, &live), (base.as_str(), &base)].map(|(id, version)| view(&state, id, version, 0)).into();
    for record in registry.list(MAX_LISTED, None).await? {
        let is_ours = record.model.as_ref().is_none_or(|model| model.fingerprint == registry.model().fingerprint);
        if is_ours && registry.is_on_disk(&record.version) {
            models.push(view(&state, record.version.as_str(), &record.version, record.created_at.timestamp()));
        }
    }
    Ok(Json(json!({"object": "list", "data": models})))
}

/// `GET /v1/models/{id}`
pub async fn read(State(state): State<AppState>, Path(id): Path<String>) -> Result<Json<Value>, ApiError> {
    let version = state.registry.resolve(&id).await?;
    // What a name stands for is as old as the name is: of no age.
    let record = if id == version.as_str() { state.store.adapter(&version).await? } else { None };
    Ok(Json(view(&state, &id, &version, record.map_or(0, |record| record.created_at.timestamp()))))
}

/// `created` is 0 for names: what they stand for changes.
fn view(state: &AppState, id: &str, version: &Version, created: i64) -> Value {
    let info = state.engine.info();
    json!({
        "id": id,
        "object": "model",
        "created": created,
        "owned_by": "ttrl",
        "root": info.name,
        "adapter_version": version,
        "max_model_len": info.context_tokens,
    })
}
