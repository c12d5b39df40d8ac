//! Which `Host` names are answered, against pages that are led astray.
//!
//! A page of a foreign site that has its own name resolved to this server's address (DNS rebinding) reaches it as if it
//! were the site's own. Its `Host` gives it away, for that is the site's name. Where a key is needed such a page gets
//! nowhere; where none is, only names that cannot be a foreign site's are answered.

use super::error::ApiError;
use axum::extract::{Request, State};
use axum::http::header;
use axum::http::uri::Authority;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::net::IpAddr;
use std::sync::Arc;

/// Stands for every name in the list of allowed ones.
const EVERY_NAME: &str = "*";

/// Which names one listener answers to.
pub(crate) struct HostRule {
    reach: Reach,
    /// Further names, with or without a port.
    names: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Reach {
    /// Every name: a key protects the listener.
    Any,
    /// This machine's names: nobody else can reach the listener.
    Loopback,
    /// This machine's names and every address: a name alone can be resolved anew.
    Addresses,
}

impl HostRule {
    /// For a listener that asks for a key, or does not; on a loopback address, or beyond.
    pub(crate) fn new(needs_key: bool, on_loopback: bool, names: &[String]) -> Self {
        let reach = match (needs_key, on_loopback) {
            (true, _) => Reach::Any,
            (false, true) => Reach::Loopback,
            (false, false) => Reach::Addresses,
        };
        Self {
            reach,
            names: names.to_vec(),
        }
    }

    fn allows(&self, host: &str) -> bool {
        let Ok(authority) = host.parse::<Authority>() else {
            return false;
        };
        if authority.as_str().contains('@') {
            return false;
        }
        let name = authority.host();
        let name = name.trim_start_matches('[').trim_end_matches(']');
        let is_ours = match (name.parse::<IpAddr>(), self.reach) {
            (_, Reach::Any) | (Ok(_), Reach::Addresses) => true,
            (Ok(ip), Reach::Loopback) => ip.to_canonical().is_loopback(),
            (Err(_), _) => name.eq_ignore_ascii_case("localhost"),
        };
        is_ours
            || self.names.iter().any(|allowed| {
                allowed == EVERY_NAME
                    || allowed.eq_ignore_ascii_case(name)
                    || allowed.eq_ignore_ascii_case(authority.as_str())
            })
    }
}

/// Refuses names that the listener does not answer to. A request without any `Host` is no browser's.
pub(crate) async fn check_host(
    State(rule): State<Arc<HostRule>>,
    request: Request,
    next: Next,
) -> Response {
    if rule.reach == Reach::Any || hosts(&request).all(|host| rule.allows(host)) {
        next.run(request).await
    } else {
        ApiError::bad_host().into_response()
    }
}

fn hosts(request: &Request) -> impl Iterator<Item = &str> {
    let in_uri = request.uri().authority().map(Authority::as_str);
    let in_headers = request
        .headers()
        .get_all(header::HOST)
        .iter()
        .map(|value| value.to_str().unwrap_or(""));
    in_uri.into_iter().chain(in_headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beyond_loopback_addresses_are_answered_and_foreign_names_are_not() {
        let rule = HostRule::new(false, false, &["odmoe.lan".to_owned()]);
        for host in [
            "10.0.0.7:8000",
            "[fd00::7]",
            "localhost:1",
            "ODMOE.lan:8000",
        ] {
            assert!(rule.allows(host), "{host}");
        }
        for host in ["evil.example", "10.0.0.7.evil.example", "x@10.0.0.7", ""] {
            assert!(!rule.allows(host), "{host}");
        }
        assert!(HostRule::new(false, false, &["*".to_owned()]).allows("any.name"));
        assert_eq!(HostRule::new(true, true, &[]).reach, Reach::Any);
    }
}
