//! What is around every request: its id, its time limit, what is counted and logged, and the one shape of failures.

use std::{
    panic::AssertUnwindSafe,
    time::{Duration, Instant},
};

use axum::{
    Json,
    extract::{MatchedPath, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use futures::FutureExt;
use serde_json::json;
use tracing::Instrument;
use uuid::Uuid;

use super::{AppState, error::ApiError};

/// What those need to know who say something after the response has begun.
#[derive(Clone, Debug)]
pub struct Envelope {
    /// The request's id.
    pub id: String,
    /// How long it may take in all, and until when that is.
    pub limit: Duration,
    pub deadline: tokio::time::Instant,
}

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Longer ids are not taken over: they go into every log line.
const MAX_REQUEST_ID_CHARS: usize = 64;

/// What browsers are told. Routes that send a page replace the policy.
const HEADERS: [(HeaderName, &str); 5] = [
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-store"),
    (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
];

/// Runs a request and finishes its response.
pub async fn seal(State(state): State<AppState>, mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let id = request_id(request.headers());
    let limit = Duration::from_secs(state.settings.request_timeout_seconds);
    let deadline = tokio::time::Instant::now() + limit;
    request.extensions_mut().insert(Envelope { id: id.clone(), limit, deadline });
    let method = method_label(request.method());
    // The pattern, not the path: there are few of them.
    let route = request.extensions().get::<MatchedPath>().map_or("unmatched", MatchedPath::as_str).to_owned();
    let span = tracing::info_span!("request", id, method, route);

    let work = AssertUnwindSafe(next.run(request)).catch_unwind().instrument(span.clone());
    let response = match tokio::time::timeout_at(deadline, work).await {
        Ok(Ok(response)) => response,
        Ok(Err(panic)) => ApiError::internal(panic_text(&*panic)).into_response(),
        Err(_) => ApiError::timeout(limit).into_response(),
    };
    let mut response = finish(response, &id, &span);

    let elapsed = started.elapsed().as_secs_f64();
    let status = response.status().as_u16();
    state.metrics.http_requests_total.with_label_values(&[&route, method, &status.to_string()]).inc();
    state.metrics.http_request_duration_seconds.with_label_values(&[&route, method]).observe(elapsed);
    span.in_scope(|| tracing::debug!(status, seconds = elapsed, "answered"));
    for (name, value) in HEADERS {
        response.headers_mut().entry(name).or_insert(HeaderValue::from_static(value));
    }
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}

/// Gives a failure its body, and its cause to the log.
fn finish(mut response: Response, id: &str, span: &tracing::Span) -> Response {
    let status = response.status();
    if !status.is_client_error() && !status.is_server_error() {
        return response;
    }
    let error = response.extensions_mut().remove::<ApiError>().unwrap_or_else(|| ApiError::of_status(status));
    if let Some(cause) = &error.cause {
        span.in_scope(|| tracing::error!(code = error.code, cause, "a request failed"));
    }
    let mut sealed = (status, Json(json!({"error": error.body(id)}))).into_response();
    for (name, value) in response.headers() {
        if ![header::CONTENT_TYPE, header::CONTENT_LENGTH].contains(name) {
            sealed.headers_mut().append(name, value.clone());
        }
    }
    sealed
}

/// The client's own id if it is short and plain, else a new one.
fn request_id(headers: &HeaderMap) -> String {
    let plain = |id: &&str| {
        (1..=MAX_REQUEST_ID_CHARS).contains(&id.len())
            && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte))
    };
    let given = headers.get(REQUEST_ID).and_then(|id| id.to_str().ok()).filter(plain);
    given.map_or_else(|| Uuid::now_v7().to_string(), str::to_owned)
}

/// A client may invent methods; each would be a new time series.
fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("panicked: {}", text.unwrap_or("without a text"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_of_the_client_is_kept_if_it_is_short_and_plain() {
        let id = |value: &str| request_id(&HeaderMap::from_iter([(REQUEST_ID, value.parse().unwrap())]));
        assert_eq!(id("abc-1_2.3:4"), "abc-1_2.3:4");
        for odd in ["", "a b", "<script>", &"a".repeat(65)] {
            assert_ne!(id(odd), odd);
            assert!(id(odd).parse::<Uuid>().is_ok());
        }
    }

    #[tokio::test]
    async fn the_cause_of_a_fault_is_not_in_its_body() {
        let response = ApiError::internal("postgres://user:secret@db").into_response();
        let sealed = finish(response, "id-1", &tracing::Span::none());
        let body = axum::body::to_bytes(sealed.into_body(), 10_000).await.unwrap();
        let body = String::from_utf8(body.to_vec()).unwrap();
        assert!(body.contains("\"code\":\"internal\"") && body.contains("id-1") && !body.contains("secret"), "{body}");
    }
}
