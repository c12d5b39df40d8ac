//! One record a request: its id, its log line, its counts. Never what it says.

use super::account::{Account, Entry};
use super::app::App;
use super::connections::{InUse, Usage};
use super::error::ApiError;
use super::held;
use crate::traces::EndedRequest;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use odmoe_engine::{ClientId, RequestTimings};
use opentelemetry::{Context, KeyValue};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const REQUEST_ID_LENGTH: usize = 128;
/// What logs and metrics show when the client went away before there was a status.
const CLIENT_CLOSED: u16 = 499;

/// What is known of a request. Whoever works for it holds a clone; the log line is written when the last one is
/// dropped, which is when the response's body has been sent or given up.
pub(crate) struct Record {
    app: Arc<App>,
    id: HeaderValue,
    method: Method,
    path: String,
    handler: String,
    pub(crate) arrived: Instant,
    facts: Mutex<Facts>,
    /// The trace that it belongs to, where traces are sent.
    trace: Option<Context>,
    _in_use: Option<InUse>,
}

#[derive(Default)]
struct Facts {
    status: Option<StatusCode>,
    head_after: Option<Duration>,
    prompt_tokens: u64,
    completion_tokens: u64,
    /// A finish reason or an error's code.
    outcome: Option<String>,
    /// Who called, once that is known.
    account: Option<Arc<Account>>,
    /// Its place among its caller's requests at once.
    entry: Option<Entry>,
    /// What its first answer waited for, and how long after its arrival that began.
    timings: Option<(Duration, RequestTimings)>,
}

impl Record {
    fn facts(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What names the request in logs and headers.
    pub(crate) fn id(&self) -> &HeaderValue {
        &self.id
    }

    /// Tokens so far, which never become fewer; the caller's limit counts what is new.
    pub(crate) fn set_tokens(&self, prompt: u64, completion: u64) {
        let mut facts = self.facts();
        let before = facts.prompt_tokens + facts.completion_tokens;
        facts.prompt_tokens = prompt;
        facts.completion_tokens = completion;
        let new = (prompt + completion).saturating_sub(before);
        if let Some(account) = &facts.account {
            account.take_tokens(new);
        }
    }

    /// Who called, once that is known.
    pub(crate) fn account(&self) -> Option<Arc<Account>> {
        self.facts().account.clone()
    }

    /// What the engine calls the caller.
    pub(crate) fn client(&self) -> ClientId {
        self.account().map(|a| a.client).unwrap_or_default()
    }

    pub(crate) fn set_entry(&self, entry: Entry) {
        self.facts().entry = Some(entry);
    }

    /// How long what took, of the request's first answer to end, which was submitted at `submitted`.
    pub(crate) fn set_timings(&self, submitted: Instant, timings: RequestTimings) {
        let after = submitted.saturating_duration_since(self.arrived);
        self.facts().timings.get_or_insert((after, timings));
    }

    /// The same, as text.
    pub(crate) fn id_text(&self) -> &str {
        self.id.to_str().unwrap_or("")
    }

    pub(crate) fn set_account(&self, account: Arc<Account>) {
        self.facts().account = Some(account);
    }

    pub(crate) fn set_outcome(&self, outcome: &str) {
        self.facts().outcome = Some(outcome.to_owned());
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let facts = std::mem::take(self.facts.get_mut().unwrap_or_else(PoisonError::into_inner));
        let status = facts.status.map_or(CLIENT_CLOSED, |status| status.as_u16());
        let duration = self.arrived.elapsed();
        self.app
            .metrics
            .count_http(&self.handler, method_label(&self.method), status, duration);
        self.trace(&facts, status, duration);
        tracing::info!(
            request_id = self.id_text(),
            method = method_label(&self.method),
            path = ?self.path,
            status,
            duration_s = duration.as_secs_f64(),
            head_s = facts.head_after.map(|after| after.as_secs_f64()),
            prompt_tokens = facts.prompt_tokens,
            completion_tokens = facts.completion_tokens,
            outcome = facts.outcome.as_deref(),
            key = facts.account.as_ref().map(|account| account.name.as_str()),
            "request"
        );
    }
}

impl Record {
    fn trace(&self, facts: &Facts, status: u16, duration: Duration) {
        let (Some(traces), Some(parent)) = (&self.app.config.traces, &self.trace) else {
            return;
        };
        let count = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        let mut attributes = vec![
            KeyValue::new("odmoe.request_id", self.id_text().to_owned()),
            KeyValue::new("gen_ai.usage.input_tokens", count(facts.prompt_tokens)),
            KeyValue::new("gen_ai.usage.output_tokens", count(facts.completion_tokens)),
        ];
        let account = facts.account.as_ref().map(|account| account.name.clone());
        let named = [
            ("odmoe.key", account),
            ("odmoe.outcome", facts.outcome.clone()),
        ];
        let named = named
            .into_iter()
            .filter_map(|(name, value)| Some(KeyValue::new(name, value?)));
        attributes.extend(named);
        let mut phases = Vec::new();
        if let Some((submitted, timings)) = &facts.timings {
            let mut from = *submitted;
            for (name, took) in [
                ("queue", timings.queue),
                ("prefill", timings.prefill),
                ("decode", timings.decode),
            ] {
                phases.push((name, from, from + took));
                from += took;
            }
            let stall = timings.expert_stall.as_secs_f64();
            attributes.push(KeyValue::new("odmoe.expert_stall_s", stall));
        }
        traces.record(EndedRequest {
            parent: parent.clone(),
            method: method_label(&self.method),
            route: &self.handler,
            status,
            duration,
            attributes,
            phases,
        });
    }
}

/// The outermost layer: gives the request its record, and turns a panic into a 500.
pub(crate) async fn keep_record(
    State(app): State<Arc<App>>,
    mut request: Request,
    next: Next,
) -> Response {
    let id = given_id(&request).unwrap_or_else(new_id);
    let matched = request.extensions().get::<MatchedPath>();
    let traces = app.config.traces.as_ref();
    let record = Arc::new(Record {
        trace: traces.map(|traces| traces.parent(request.headers())),
        app,
        id: id.clone(),
        method: request.method().clone(),
        path: request.uri().path().chars().take(128).collect(),
        handler: matched.map_or("unknown", MatchedPath::as_str).to_owned(),
        arrived: Instant::now(),
        facts: Mutex::default(),
        _in_use: request
            .extensions()
            .get::<Arc<Usage>>()
            .map(Usage::begin_request),
    });
    request.extensions_mut().insert(Arc::clone(&record));
    let outcome = AssertUnwindSafe(next.run(request)).catch_unwind().await;
    let mut response = outcome.unwrap_or_else(|_| {
        tracing::error!(request_id = id.to_str().unwrap_or(""), "a handler panicked");
        ApiError::internal("the server has a bug; its log says more").into_response()
    });
    response.headers_mut().insert(REQUEST_ID, id);
    let mut facts = record.facts();
    facts.status = Some(response.status());
    facts.head_after = Some(record.arrived.elapsed());
    drop(facts);
    held::until_sent(response, record)
}

/// The client's own id, if it is short and safe to log.
fn given_id(request: &Request) -> Option<HeaderValue> {
    let value = request.headers().get(REQUEST_ID)?;
    let safe = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:/+=".contains(byte);
    let bytes = value.as_bytes();
    let fits = (1..=REQUEST_ID_LENGTH).contains(&bytes.len()) && bytes.iter().all(safe);
    fits.then(|| value.clone())
}

fn new_id() -> HeaderValue {
    HeaderValue::from_str(&uuid::Uuid::new_v4().to_string()).expect("a uuid is ASCII")
}

/// Clients can make up methods; a metric's label must not be theirs to choose.
fn method_label(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "DELETE" => "DELETE",
        "PATCH" => "PATCH",
        "OPTIONS" => "OPTIONS",
        _ => "OTHER",
    }
}
