//! Who may call: `Host` and `Origin` against browsers that are led astray, keys against everybody else.
//!
//! Every route is closed unless named here as open, unknown ones too.

use super::app::App;
use super::error::ApiError;
use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::net::IpAddr;
use std::sync::Arc;

/// Routes that need no key: probes have none.
const OPEN_PATHS: [&str; 2] = ["/health", "/ready"];
const ALLOWED_METHODS: HeaderValue = HeaderValue::from_static("GET, POST, OPTIONS");
const EXPOSED_HEADERS: HeaderValue = HeaderValue::from_static("x-request-id, retry-after");
const PREFLIGHT_AGE_S: HeaderValue = HeaderValue::from_static("600");

/// A page of a foreign site that resolves its own name to 127.0.0.1 would reach a server on a loopback address; its
/// `Host` gives it away.
pub(crate) async fn check_host(
    State(app): State<Arc<App>>,
    request: Request,
    next: Next,
) -> Response {
    if !app.on_loopback || hosts_are_ours(&app, &request) {
        next.run(request).await
    } else {
        ApiError::bad_host().into_response()
    }
}

/// A request without any `Host` is no browser's.
fn hosts_are_ours(app: &App, request: &Request) -> bool {
    let in_uri = request.uri().authority().map(Authority::as_str);
    let in_headers = request
        .headers()
        .get_all(header::HOST)
        .iter()
        .map(|value| value.to_str().unwrap_or(""));
    in_uri
        .into_iter()
        .chain(in_headers)
        .all(|host| is_our_host(app, host))
}

fn is_our_host(app: &App, host: &str) -> bool {
    let Ok(authority) = host.parse::<Authority>() else {
        return false;
    };
    let name = authority
        .host()
        .trim_start_matches('[')
        .trim_end_matches(']');
    if authority.as_str().contains('@') {
        return false;
    }
    let is_loopback = name
        .parse::<IpAddr>()
        .is_ok_and(|ip| ip.to_canonical().is_loopback());
    let is_named = app.config.allowed_hosts.iter().any(|allowed| {
        allowed.eq_ignore_ascii_case(name) || allowed.eq_ignore_ascii_case(authority.as_str())
    });
    is_loopback || is_named || name.eq_ignore_ascii_case("localhost")
}

/// Lets browsers call from the server's own pages and from listed origins; from others, nothing that changes anything
/// is done, and no answer can be read.
pub(crate) async fn check_origin(
    State(app): State<Arc<App>>,
    request: Request,
    next: Next,
) -> Response {
    let Some(origin) = request.headers().get(header::ORIGIN).cloned() else {
        return next.run(request).await;
    };
    let is_listed = app
        .config
        .allowed_origins
        .iter()
        .any(|o| o.as_bytes() == origin.as_bytes());
    if is_listed {
        let mut response = if is_preflight(&request) {
            preflight(request.headers())
        } else {
            next.run(request).await
        };
        let headers = response.headers_mut();
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED_HEADERS);
        headers.append(header::VARY, HeaderValue::from_static("origin"));
        return response;
    }
    let is_safe = matches!(*request.method(), Method::GET | Method::HEAD);
    if is_safe || is_own_origin(&request, &origin) {
        next.run(request).await
    } else {
        ApiError::bad_origin().into_response()
    }
}

fn is_preflight(request: &Request) -> bool {
    request.method() == Method::OPTIONS
        && request
            .headers()
            .contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

fn preflight(asked: &HeaderMap) -> Response {
    let mut response = StatusCode::NO_CONTENT.into_response();
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, ALLOWED_METHODS);
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, PREFLIGHT_AGE_S);
    if let Some(wanted) = asked.get(header::ACCESS_CONTROL_REQUEST_HEADERS) {
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, wanted.clone());
    }
    response
}

/// Whether a page that this server served itself is calling.
fn is_own_origin(request: &Request, origin: &HeaderValue) -> bool {
    let host = request
        .headers()
        .get(header::HOST)
        .and_then(|value| value.to_str().ok());
    let origin = origin.to_str().unwrap_or("");
    let of = |scheme| origin.strip_prefix(scheme);
    host.is_some_and(|host| of("http://").or(of("https://")) == Some(host))
}

/// Asks for a key on every path but the open ones, if there are keys.
pub(crate) async fn check_key(
    State(app): State<Arc<App>>,
    request: Request,
    next: Next,
) -> Response {
    let is_open = app.key_digests.is_empty() || OPEN_PATHS.contains(&request.uri().path());
    if is_open || given_key(request.headers()).is_some_and(|key| app.is_key(key)) {
        next.run(request).await
    } else {
        ApiError::bad_key().into_response()
    }
}

fn given_key(headers: &HeaderMap) -> Option<&[u8]> {
    if let Some(value) = headers.get(header::AUTHORIZATION) {
        let (scheme, key) = value.as_bytes().split_at_checked(b"bearer ".len())?;
        return scheme
            .eq_ignore_ascii_case(b"bearer ")
            .then(|| key.trim_ascii());
    }
    headers.get("x-api-key").map(|value| value.as_bytes())
}
