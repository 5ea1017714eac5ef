//! For those who run the server, and the page for everybody else.

use std::time::Duration;

use axum::{
    Json,
    extract::State,
    http::{HeaderName, header},
};
use serde_json::{Value, json};

use super::super::{AppState, error::ApiError};
use crate::{engine::handle::EngineError, store::Store, telemetry};

/// How long readiness may take. A database that needs longer is of no use to a request either.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// The page loads its own two files and talks to its own server, nothing else.
const PAGE_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                           frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

/// `GET /healthz`: the process runs.
pub async fn healthz() -> Json<Value> {
    Json(json!({"status": "ok"}))
}

/// `GET /readyz`: questions can be answered. While the database is away they are, with answers kept on the local disk:
/// other servers are no better off, so taking this one out of service would help nobody.
pub async fn readyz(State(state): State<AppState>) -> Result<Json<Value>, ApiError> {
    let database = async { matches!(tokio::time::timeout(PROBE_TIMEOUT, state.store.ping()).await, Ok(Ok(()))) };
    // Nothing to generate: the only thing an engine can say is that it has stopped. One that is busy does not answer
    // at once, which is no failure.
    let engine = async {
        let said = tokio::time::timeout(PROBE_TIMEOUT, state.engine.generate(vec![])).await;
        !matches!(said, Ok(Err(EngineError::Stopped)))
    };
    let (database, engine) = tokio::join!(database, engine);
    let durable = database || state.store.has_room();
    let reasons: Vec<&str> = [(engine, "engine_stopped"), (durable, "database_away_and_spool_full")]
        .into_iter()
        .filter_map(|(ready, code)| (!ready).then_some(code))
        .collect();
    if !reasons.is_empty() {
        return Err(ApiError::unavailable("not_ready", format!("not ready: {}", reasons.join(", "))));
    }
    let (status, database) = if database { ("ready", "ok") } else { ("degraded", "away") };
    Ok(Json(json!({"status": status, "database": database, "model": state.engine.info().name})))
}

/// `GET /metrics`
pub async fn metrics(State(state): State<AppState>) -> Result<([(HeaderName, &'static str); 1], String), ApiError> {
    state.metrics.observe_engine(&state.engine.stats());
    state.metrics.observe_live(state.registry.live().version());
    let text = state.metrics.render().map_err(ApiError::internal)?;
    Ok(([(header::CONTENT_TYPE, telemetry::CONTENT_TYPE)], text))
}

/// `GET /`
pub async fn page() -> ([(HeaderName, &'static str); 2], &'static str) {
    let headers = [(header::CONTENT_TYPE, "text/html; charset=utf-8"), (header::CONTENT_SECURITY_POLICY, PAGE_POLICY)];
    (headers, include_str!("../../../static/index.html"))
}

/// `GET /app.js`
pub async fn script() -> ([(HeaderName, &'static str); 1], &'static str) {
    ([(header::CONTENT_TYPE, "text/javascript; charset=utf-8")], include_str!("../../../static/app.js"))
}

/// `GET /style.css`
pub async fn style() -> ([(HeaderName, &'static str); 1], &'static str) {
    ([(header::CONTENT_TYPE, "text/css; charset=utf-8")], include_str!("../../../static/style.css"))
}
