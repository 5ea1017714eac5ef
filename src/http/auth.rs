//! Who may do what.

use axum::{
    extract::{Request, State},
    http::{HeaderMap, Method, StatusCode, header::AUTHORIZATION},
    middleware::Next,
    response::Response,
};

use super::{AppState, error::ApiError};

/// Lets a request through if it carries the operator's key.
pub async fn require_operator(
    State(state): State<AppState>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    if presented_key(request.headers()).is_some_and(|key| state.operator_key.matches(key)) {
        return Ok(next.run(request).await);
    }
    Err(ApiError::new(
        StatusCode::UNAUTHORIZED,
        "unauthorized",
        "this needs the operator's key: send the header `Authorization: Bearer KEY`; the server says at its start where \
         the key is",
    ))
}

fn presented_key(headers: &HeaderMap) -> Option<&str> {
    let (scheme, key) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
}

/// Refuses what another site's page makes a visitor's browser send. Bodies are read whatever their media type, so
/// without this any page could put questions to a server on its visitor's machine, and rounds would learn from them.
pub async fn refuse_other_sites(request: Request, next: Next) -> Result<Response, ApiError> {
    let reads = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    // Browsers send this header and pages cannot change it; other clients do not send it.
    let site = request.headers().get("sec-fetch-site").map(|site| site.as_bytes());
    if reads || matches!(site, None | Some(b"same-origin" | b"none")) {
        return Ok(next.run(request).await);
    }
    Err(ApiError::new(StatusCode::FORBIDDEN, "cross_site", "pages of other sites may not use this server"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_from_a_bearer_header_only() {
        let presented = |value: &str| {
            let headers = HeaderMap::from_iter([(AUTHORIZATION, value.parse().unwrap())]);
            presented_key(&headers).map(str::to_owned)
        };
        assert_eq!(presented("Bearer abc").as_deref(), Some("abc"));
        assert_eq!(presented("bearer  abc").as_deref(), Some("abc"));
        for value in ["abc", "Basic abc", "Bearer", ""] {
            assert_eq!(presented(value), None, "{value:?}");
        }
    }
}
