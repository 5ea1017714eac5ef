//! The HTTP interface: the only room that knows axum.
//!
//! Architecture invariant: the router is built from one table of routes that says who may use each; a route that is not
//! in it does not exist, and an operator's route is behind the key before its handler is.

mod auth;
mod connections;
mod envelope;
mod error;
mod extract;
mod openai;
mod routes;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::DefaultBodyLimit,
    middleware::{from_fn, from_fn_with_state},
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use routes::{Scope, rounds::RoundControl, scopes};

use crate::{
    adapters::registry::Registry,
    answering::Answering,
    completing::Completing,
    config::{ClientKey, OperatorKey, ServerSettings},
    engine::handle::Engine,
    evaluation::Evaluations,
    store::spool::Spooled,
    telemetry::Metrics,
};

/// What the routes work with.
#[derive(Clone)]
pub struct AppState {
    pub answering: Arc<Answering>,
    pub completing: Arc<Completing>,
    pub engine: Arc<dyn Engine>,
    pub registry: Arc<Registry>,
    pub rounds: Arc<dyn RoundControl>,
    pub evaluations: Arc<Evaluations>,
    pub store: Arc<Spooled>,
    pub metrics: Arc<Metrics>,
    pub operator_key: OperatorKey,
    pub client_key: ClientKey,
    pub settings: Arc<ServerSettings>,
}

/// Serves until `shutdown` is cancelled, then takes no more connections and finishes what is being answered, for at
/// most `deadline`.
pub async fn serve(listener: TcpListener, state: AppState, shutdown: CancellationToken, deadline: Duration) {
    let stopping = shutdown.clone();
    let settings = state.settings.clone();
    let server = connections::serve(listener, router(state), &settings, shutdown);
    let overdue = async {
        stopping.cancelled().await;
        tokio::time::sleep(deadline).await;
    };
    tokio::select! {
        () = server => {}
        () = overdue => {
            tracing::warn!(deadline_seconds = deadline.as_secs(), "some requests were not finished in time");
        }
    }
}

fn router(state: AppState) -> Router {
    let mut router = Router::new();
    for route in routes::table() {
        let handler = match route.scope {
            Scope::Anyone => route.handler,
            Scope::Operator => route.handler.route_layer(from_fn_with_state(state.clone(), auth::require_operator)),
        };
        router = router.route(route.path, handler);
    }
    router
        .layer(DefaultBodyLimit::max(state.settings.max_body_bytes))
        .layer(from_fn(auth::refuse_other_sites))
        .layer(from_fn_with_state(state.clone(), envelope::seal))
        .with_state(state)
}
