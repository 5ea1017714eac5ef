//! The table of routes.

pub mod adapters;
pub mod answers;
pub mod evals;
pub mod rounds;
pub mod system;

use axum::{
    handler::Handler,
    http::Method,
    routing::{MethodFilter, MethodRouter, on},
};

use super::{
    AppState,
    openai::{chat, completions, models},
};

/// Who may use a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Whoever can reach the server.
    Anyone,
    /// Whoever has the operator's key.
    Operator,
}

pub struct Route {
    pub method: Method,
    pub path: &'static str,
    pub scope: Scope,
    pub handler: MethodRouter<AppState>,
}

/// All routes there are.
pub fn table() -> Vec<Route> {
    use Scope::{Anyone, Operator};
    vec![
        post(Anyone, "/v1/answer", answers::ask),
        get(Anyone, "/v1/answers/{id}", answers::read),
        post(Anyone, "/v1/answers/{id}/feedback", answers::give_feedback),
        post(Anyone, "/v1/completions", completions::create),
        post(Anyone, "/v1/chat/completions", chat::create),
        get(Anyone, "/v1/models", models::list),
        get(Anyone, "/v1/models/{id}", models::read),
        post(Operator, "/v1/rounds", rounds::start),
        get(Operator, "/v1/rounds", rounds::list),
        get(Operator, "/v1/rounds/{id}", rounds::read),
        post(Operator, "/v1/rounds/{id}/cancel", rounds::cancel),
        post(Operator, "/v1/rounds/{id}/promote", rounds::promote),
        post(Operator, "/v1/rounds/{id}/reject", rounds::reject),
        post(Operator, "/v1/evals", evals::put),
        get(Operator, "/v1/evals", evals::list),
        get(Operator, "/v1/evals/{name}", evals::read),
        delete(Operator, "/v1/evals/{name}", evals::remove),
        post(Operator, "/v1/evals/{name}/runs", evals::start),
        get(Operator, "/v1/evals/{name}/runs", evals::runs),
        get(Operator, "/v1/evals/{name}/runs/{id}", evals::run),
        get(Operator, "/v1/adapters", adapters::list),
        get(Operator, "/v1/adapters/{version}", adapters::read),
        post(Operator, "/v1/adapters/{version}/activate", adapters::activate),
        get(Anyone, "/healthz", system::healthz),
        get(Anyone, "/readyz", system::readyz),
        get(Anyone, "/metrics", system::metrics),
        get(Anyone, "/", system::page),
        get(Anyone, "/app.js", system::script),
        get(Anyone, "/style.css", system::style),
    ]
}

/// The method, path and scope of every route.
pub fn scopes() -> Vec<(Method, &'static str, Scope)> {
    table().into_iter().map(|route| (route.method, route.path, route.scope)).collect()
}

fn get<H: Handler<T, AppState>, T: 'static>(scope: Scope, path: &'static str, handler: H) -> Route {
    Route { method: Method::GET, path, scope, handler: on(MethodFilter::GET, handler) }
}

fn post<H: Handler<T, AppState>, T: 'static>(scope: Scope, path: &'static str, handler: H) -> Route {
    Route { method: Method::POST, path, scope, handler: on(MethodFilter::POST, handler) }
}

fn delete<H: Handler<T, AppState>, T: 'static>(scope: Scope, path: &'static str, handler: H) -> Route {
    Route { method: Method::DELETE, path, scope, handler: on(MethodFilter::DELETE, handler) }
}
