//! Who may call: `Origin` against pages of other sites, keys against everybody else.
//!
//! Every route is closed unless named here as open, unknown ones too.

use super::account::Account;
use super::app::App;
use super::error::ApiError;
use super::keys::SecretDigest;
use super::record::Record;
use super::router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::sync::Arc;
use std::time::Instant;

/// Routes that need no key: probes have none.
const OPEN_PATHS: [&str; 2] = ["/health", "/ready"];
const ADMIN_PATH: &str = "/admin";
const ALLOWED_METHODS: HeaderValue = HeaderValue::from_static("GET, POST, DELETE, OPTIONS");
const EXPOSED_HEADERS: HeaderValue = HeaderValue::from_static(
    "x-request-id, retry-after, x-ratelimit-limit-requests, x-ratelimit-remaining-requests, \
     x-ratelimit-reset-requests, x-ratelimit-limit-tokens, x-ratelimit-remaining-tokens, x-ratelimit-reset-tokens",
);
const PREFLIGHT_AGE_S: HeaderValue = HeaderValue::from_static("600");

/// Lets browsers call from the server's own pages and from listed origins; pages of others get nothing.
pub(crate) async fn check_origin(
    State(app): State<Arc<App>>,
    request: Request,
    next: Next,
) -> Response {
    let Some(origin) = request.headers().get(header::ORIGIN).cloned() else {
        return next.run(request).await;
    };
    let mut listed = app.config.allowed_origins.iter();
    if listed.any(|listed| listed.as_bytes() == origin.as_bytes()) {
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
    if is_own_origin(&request, &origin) {
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

/// Asks for a key on every path but the open ones, if there are keys, and notes whose it was.
pub(crate) async fn check_key(
    State(app): State<Arc<App>>,
    request: Request,
    next: Next,
) -> Response {
    let path = request.uri().path();
    if OPEN_PATHS.contains(&path) {
        return next.run(request).await;
    }
    if is_admin(path) {
        return match check_admin(&app, &request) {
            Ok(()) => next.run(request).await,
            Err(error) => error.into_response(),
        };
    }
    let given = given_key(request.headers()).map(SecretDigest::of);
    let opens_metrics =
        path == router::METRICS && given.as_ref().is_some_and(|key| app.is_admin_key(key));
    match caller(&app, given.as_ref()) {
        _ if opens_metrics => next.run(request).await,
        None => ApiError::bad_key().into_response(),
        Some(account) => {
            let is_limited = request.method() == Method::POST;
            let mut response = match enter(&app, Arc::clone(&account), &request) {
                Ok(()) => next.run(request).await,
                Err(error) => error.into_response(),
            };
            if is_limited {
                tell_allowances(&account, response.headers_mut());
            }
            response
        }
    }
}

/// What is left of the caller's limits, by OpenAI's names: of tokens, when the answer begins.
fn tell_allowances(account: &Account, headers: &mut HeaderMap) {
    for allowance in account.allowances(Instant::now()) {
        let told = [
            ("limit", allowance.limit.to_string()),
            ("remaining", allowance.left.to_string()),
            (
                "reset",
                format!("{:.3}s", allowance.full_after.as_secs_f64()),
            ),
        ];
        for (what, value) in told {
            let name = format!("x-ratelimit-{what}-{}", allowance.of);
            let name = HeaderName::try_from(name).expect("made of letters and dashes");
            let value = HeaderValue::try_from(value).expect("made of digits");
            headers.insert(name, value);
        }
    }
}

/// Notes who calls, and counts the request against the caller's limits. Whatever makes the model work is a POST; the
/// rest is not limited.
fn enter(app: &App, account: Arc<Account>, request: &Request) -> Result<(), ApiError> {
    let Some(record) = request.extensions().get::<Arc<Record>>() else {
        return Err(ApiError::internal("the request has no record"));
    };
    record.set_account(Arc::clone(&account));
    if request.method() != Method::POST {
        return Ok(());
    }
    let entry = account.enter(Instant::now()).map_err(|(reached, after)| {
        app.metrics.count_limited(reached.label());
        ApiError::limited(reached, after.unwrap_or(app.config.retry_after))
    })?;
    record.set_entry(entry);
    Ok(())
}

/// Without keys, whoever calls.
fn caller(app: &App, given: Option<&SecretDigest>) -> Option<Arc<Account>> {
    if app.accounts.needs_key() {
        app.accounts.find(given?)
    } else {
        Some(app.accounts.anybody())
    }
}

fn is_admin(path: &str) -> bool {
    path.strip_prefix(ADMIN_PATH)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Where no admin key is set, its routes do not exist.
fn check_admin(app: &App, request: &Request) -> Result<(), ApiError> {
    if !app.has_admin_key() {
        let (method, path) = (request.method().as_str(), request.uri().path());
        return Err(ApiError::unknown_route(method, path));
    }
    let given = given_key(request.headers()).map(SecretDigest::of);
    match given.is_some_and(|key| app.is_admin_key(&key)) {
        true => Ok(()),
        false => Err(ApiError::bad_admin_key()),
    }
}

/// The key that came with a request, in whichever header.
pub(super) fn given_key(headers: &HeaderMap) -> Option<&[u8]> {
    if let Some(value) = headers.get(header::AUTHORIZATION) {
        let (scheme, key) = value.as_bytes().split_at_checked(b"bearer ".len())?;
        return scheme
            .eq_ignore_ascii_case(b"bearer ")
            .then(|| key.trim_ascii());
    }
    headers.get("x-api-key").map(|value| value.as_bytes())
}
