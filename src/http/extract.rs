//! What is read from a request, refused in our own words.

use std::{convert::Infallible, net::IpAddr};

use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Query, Request, rejection::BytesRejection},
    http::{HeaderMap, StatusCode, request::Parts},
    response::IntoResponse,
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::error::Category;

use super::{AppState, connections::Peer, error::ApiError};
use crate::engine::sampling::ensure;

/// A JSON object from the body, whatever its media type is said to be: `curl -d` says it is a form. No body counts
/// as an empty object.
pub struct Body<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let bytes = Bytes::from_request(request, state).await.map_err(unread)?;
        parse(&bytes).map(Self)
    }
}

fn unread(rejection: BytesRejection) -> ApiError {
    let rejection = rejection.into_response();
    match rejection.status() {
        status @ StatusCode::PAYLOAD_TOO_LARGE => {
            ApiError::new(status, "body_too_large", "the body is larger than this server's `server.max_body_bytes`")
        }
        _ => {
            ApiError::new(StatusCode::BAD_REQUEST, "incomplete_body", "the body did not arrive in full; send it again")
        }
    }
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    let text = bytes.trim_ascii();
    if text.starts_with(b"[") {
        return Err(ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_body", "the body must be a JSON object"));
    }
    serde_json::from_slice(if text.is_empty() { b"{}" } else { text }).map_err(|error| match error.classify() {
        Category::Data => ApiError::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "invalid_body",
            format!("the body is not as expected: {error}"),
        ),
        Category::Io | Category::Syntax | Category::Eof => {
            ApiError::new(StatusCode::BAD_REQUEST, "malformed_json", format!("the body is not valid JSON: {error}"))
        }
    })
}

/// Who asks, as a fingerprint: of the header that `server.client_header` names, else of the peer's address. What is
/// stored tells clients apart and does not say who they are.
pub struct Client(pub Option<String>);

impl FromRequestParts<AppState> for Client {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Infallible> {
        let peer = parts.extensions.get().map(|Peer(address)| *address);
        let who = identity(&parts.headers, state.settings.client_header.as_deref(), peer);
        Ok(Self(who.map(|who| state.client_key.fingerprint(&who))))
    }
}

/// What tells one client from another. The holder of an IPv6 address has all of its network (RFC 6177), 64 bits.
fn identity(headers: &HeaderMap, header: Option<&str>, peer: Option<IpAddr>) -> Option<String> {
    let named = header.and_then(|name| headers.get(name)).map(|value| String::from_utf8_lossy(value.as_bytes()));
    named.map(|value| format!("header {value}")).or_else(|| {
        Some(match peer?.to_canonical() {
            IpAddr::V4(address) => format!("address {address}"),
            IpAddr::V6(address) => format!("network {:x?}", &address.segments()[..4]),
        })
    })
}

/// The parameters behind the `?`.
pub struct Parameters<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Parameters<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let refused = |error: &dyn std::fmt::Display| {
            ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_query", format!("{error}"))
        };
        let Query(value) =
            Query::from_request_parts(parts, state).await.map_err(|error| refused(&error.body_text()))?;
        Ok(Self(value))
    }
}

/// The most things in one list.
pub const MAX_LISTED: u32 = 200;

/// A part of a list that is sorted from the newest to the oldest.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Page<T> {
    limit: Option<u32>,
    /// The last one of the part before.
    pub before: Option<T>,
}

impl<T> Page<T> {
    /// How many there may be in the part.
    ///
    /// # Errors
    /// If it is none or more than [`MAX_LISTED`].
    pub fn limit(&self, default: u32) -> Result<u32, ApiError> {
        let limit = self.limit.unwrap_or(default);
        ensure((1..=MAX_LISTED).contains(&limit), "limit", limit, format!("from 1 to {MAX_LISTED}"))?;
        Ok(limit)
    }
}

/// A part of the path as what it must be; a text that cannot be one names nothing that exists.
pub fn parse_id<T: std::str::FromStr>(what: &str, text: &str) -> Result<T, ApiError> {
    // It goes into a message, so a bit of it must do.
    let shown: String = text.chars().take(80).collect();
    text.parse().map_err(|_| ApiError::not_found(format!("{what} {shown}")))
}

#[cfg(test)]
mod tests {
    use axum::http::header::AUTHORIZATION;

    use super::*;
    use crate::answering::Ask;

    #[test]
    fn clients_are_told_apart_by_the_header_that_the_operator_names_or_by_address() {
        let headers = HeaderMap::from_iter([(AUTHORIZATION, "Bearer a".parse().unwrap())]);
        let of = |header, peer: &str| identity(&headers, header, peer.parse().ok());
        assert_eq!(of(Some("authorization"), "10.0.0.1").as_deref(), Some("header Bearer a"));
        assert_eq!(of(Some("x-real-ip"), "10.0.0.1").as_deref(), Some("address 10.0.0.1"));
        assert_eq!(of(None, "10.0.0.1"), of(None, "::ffff:10.0.0.1"));
        assert_ne!(of(None, "10.0.0.1"), of(None, "10.0.0.2"));
        assert_eq!(of(None, "2001:db8:1:2::1"), of(None, "2001:db8:1:2:3:4:5:6"));
        assert_ne!(of(None, "2001:db8:1:2::1"), of(None, "2001:db8:1:3::1"));
        assert_eq!(of(None, "unknown"), None);
    }

    fn refusal(body: &[u8]) -> (u16, &'static str, String) {
        let error = parse::<Ask>(body).unwrap_err();
        (error.status.as_u16(), error.code, error.message)
    }

    #[test]
    fn a_body_that_is_no_json_is_told_from_one_that_is_not_as_expected() {
        for (body, status, code, expected) in [
            (&b"question=1"[..], 400, "malformed_json", "expected value"),
            (b"{\"question\":", 400, "malformed_json", "EOF"),
            (b"\xff", 400, "malformed_json", "JSON"),
            (b"", 422, "invalid_body", "missing field `question`"),
            (b" ", 422, "invalid_body", "missing field `question`"),
            (b"[\"1 + 1\"]", 422, "invalid_body", "must be a JSON object"),
            (b"\"1 + 1\"", 422, "invalid_body", "invalid type: string"),
            (b"{\"question\":1}", 422, "invalid_body", "expected a string"),
            (b"{\"question\":\"\",\"vote\":1}", 422, "invalid_body", "unknown field `vote`"),
            (b"{\"question\":\"\",\"votes\":-1}", 422, "invalid_body", "expected u32"),
            (b"{\"question\":\"\",\"question\":\"\"}", 422, "invalid_body", "duplicate field `question`"),
        ] {
            let (actual_status, actual_code, message) = refusal(body);
            assert_eq!((actual_status, actual_code), (status, code), "{message}");
            assert!(message.contains(expected), "{message}");
        }
    }

    #[test]
    fn a_body_that_nests_without_end_is_refused() {
        let body = format!("{{\"question\":\"q\",\"metadata\":{}", "[".repeat(100_000));
        assert_eq!(refusal(body.as_bytes()).1, "malformed_json");
    }
}
