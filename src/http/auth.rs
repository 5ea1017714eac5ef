//! Who may do what.

use axum::{
    extract::{Request, State},
    http::{
        HeaderMap, Method, StatusCode,
        header::{AUTHORIZATION, HOST, ORIGIN},
    },
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
    if reads || !is_of_another_site(request.headers()) {
        return Ok(next.run(request).await);
    }
    Err(ApiError::new(StatusCode::FORBIDDEN, "cross_site", "pages of other sites may not use this server"))
}

/// Browsers send `Sec-Fetch-Site` to https and to this machine, and `Origin` with every request that is not a mere read;
/// pages can change neither, and other clients send none. The first is asked first, because a proxy may have changed the
/// `Host` that the second is compared with.
fn is_of_another_site(headers: &HeaderMap) -> bool {
    if let Some(site) = headers.get("sec-fetch-site") {
        return !matches!(site.as_bytes(), b"same-origin" | b"none");
    }
    let Some(origin) = headers.get(ORIGIN) else { return false };
    let authority = origin.to_str().ok().and_then(|origin| origin.split_once("://")).map(|(_, authority)| authority);
    authority.is_none() || authority != headers.get(HOST).and_then(|host| host.to_str().ok())
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, HeaderValue};

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

    #[test]
    fn another_site_is_known_by_either_header() {
        let other = |headers: &[(&str, &str)]| {
            let header = |(name, value): &(&str, &str)| {
                (HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap())
            };
            is_of_another_site(&headers.iter().map(header).collect())
        };
        let host = ("host", "10.0.0.7:8080");
        assert!(!other(&[host]));
        assert!(!other(&[host, ("origin", "http://10.0.0.7:8080")]));
        assert!(other(&[host, ("origin", "http://example.org")]));
        assert!(other(&[host, ("origin", "null")]));
        // A proxy has put its own name for this server into `Host`.
        assert!(!other(&[host, ("origin", "https://ttrl.example.org"), ("sec-fetch-site", "same-origin")]));
        assert!(other(&[host, ("sec-fetch-site", "cross-site")]));
    }
}
