//! Adapter versions.

use axum::{
    Json,
    extract::{Path, State},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::super::{
    AppState,
    error::ApiError,
    extract::{Body, MAX_LISTED, Page, Parameters, parse_id},
};
use crate::{
    adapters::registry::Registry,
    engine::handle::Version,
    store::{AdapterRecord, AdapterStore},
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Activation {
    /// Swap only if this version is live now.
    expected: Option<Version>,
}

/// `GET /v1/adapters?limit=N&before=VERSION`: newest first, those of other models too.
pub async fn list(
    State(state): State<AppState>,
    Parameters(page): Parameters<Page<Version>>,
) -> Result<Json<Value>, ApiError> {
    let registry = &state.registry;
    let live = registry.live().version().clone();
    let records = registry.list(page.limit(MAX_LISTED)?, page.before.as_ref()).await?;
    let adapters: Vec<Value> = records.iter().map(|record| view(registry, record, &live)).collect();
    Ok(Json(json!({"model": registry.model(), "live": live, "adapters": adapters})))
}

/// `GET /v1/adapters/{version}`
pub async fn read(State(state): State<AppState>, Path(version): Path<String>) -> Result<Json<Value>, ApiError> {
    let version: Version = parse_id("adapter", &version)?;
    let live = state.registry.live().version().clone();
    if version.is_base() {
        return Ok(Json(json!({"version": version, "live": version == live})));
    }
    let record = state.store.adapter(&version).await?;
    let record = record.ok_or_else(|| ApiError::not_found(format!("adapter {version}")))?;
    Ok(Json(view(&state.registry, &record, &live)))
}

/// `POST /v1/adapters/{version}/activate`
pub async fn activate(
    State(state): State<AppState>,
    Path(version): Path<String>,
    Body(activation): Body<Activation>,
) -> Result<Json<Value>, ApiError> {
    let version: Version = parse_id("adapter", &version)?;
    let previous = state.registry.activate(activation.expected.as_ref(), &version).await?;
    tracing::info!(%previous, %version, "an operator activated an adapter");
    Ok(Json(json!({"live": version, "previous": previous})))
}

fn view(registry: &Registry, record: &AdapterRecord, live: &Version) -> Value {
    json!({
        "version": record.version,
        "model": record.model,
        "parent_version": record.parent_version,
        "round_id": record.round_id,
        "bytes": record.bytes,
        "on_disk": registry.is_on_disk(&record.version),
        "created_at": record.created_at,
        "live": record.version == *live,
    })
}
