//! Errors as clients see them: the only place that turns a failure into a status.
//!
//! SDKs retry 408, 409, 429 and every 5xx, so nothing that fails again when repeated may be one of those, or it says
//! `x-should-retry: false`.

use super::account::Reached;
use axum::Json;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use odmoe_engine::{RequestError, SubmitError};
use odmoe_openapi::{ErrorBody, ErrorResponse, ErrorType};
use std::time::Duration;

/// Tells SDKs not to repeat a request.
const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// A refused or failed request.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ApiError {
    pub(crate) status: StatusCode,
    body: Box<ErrorBody>,
    retry: Retry,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Retry {
    AsTheStatusSays,
    After(Duration),
    Never,
}

impl ApiError {
    fn new(
        status: StatusCode,
        kind: ErrorType,
        code: impl Into<Option<&'static str>>,
        message: impl Into<String>,
    ) -> Self {
        let code = code.into().map(str::to_owned);
        let body = Box::new(ErrorBody {
            message: message.into(),
            kind,
            param: None,
            code,
        });
        Self {
            status,
            body,
            retry: Retry::AsTheStatusSays,
        }
    }

    fn refused(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self::new(status, ErrorType::InvalidRequestError, code, message)
    }

    fn unavailable(code: &'static str, message: impl Into<String>, after: Duration) -> Self {
        let error = Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            ErrorType::ServerError,
            code,
            message,
        );
        error.retry_after(after)
    }

    fn param(mut self, param: impl Into<String>) -> Self {
        self.body.param = Some(param.into());
        self
    }

    fn retry_after(mut self, after: Duration) -> Self {
        self.retry = Retry::After(after);
        self
    }

    fn never_retry(mut self) -> Self {
        self.retry = Retry::Never;
        self
    }

    /// A field whose value is not allowed.
    pub(crate) fn invalid(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self::refused(StatusCode::BAD_REQUEST, "invalid_value", message).param(param)
    }

    /// What takes work is being done for others.
    pub(crate) fn busy(message: impl Into<String>, after: Duration) -> Self {
        Self::unavailable("busy", message, after)
    }

    /// A field whose value is allowed elsewhere but not here.
    pub(crate) fn unsupported(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self::refused(StatusCode::BAD_REQUEST, "unsupported_value", message).param(param)
    }

    /// A body that is not JSON.
    pub(crate) fn malformed(message: impl Into<String>) -> Self {
        Self::refused(StatusCode::BAD_REQUEST, "malformed_json", message)
    }

    /// JSON of another shape.
    pub(crate) fn wrong_shape(param: Option<String>, message: impl Into<String>) -> Self {
        let error = Self::refused(StatusCode::BAD_REQUEST, "invalid_request_body", message);
        match param {
            Some(param) => error.param(param),
            None => error,
        }
    }

    pub(crate) fn body_too_large(limit_bytes: usize) -> Self {
        let message = format!("the request body is larger than {limit_bytes} bytes");
        Self::refused(StatusCode::PAYLOAD_TOO_LARGE, "request_too_large", message)
    }

    pub(crate) fn body_too_slow(limit: Duration) -> Self {
        let message = format!("the request body did not arrive within {limit:?}");
        Self::refused(StatusCode::REQUEST_TIMEOUT, "request_timeout", message)
    }

    pub(crate) fn bodies_exhausted(after: Duration) -> Self {
        let message = "too many request bodies are being received; try again later";
        Self::unavailable("overloaded", message, after)
    }

    pub(crate) fn vectors_exhausted(after: Duration) -> Self {
        let message =
            "too many embeddings are being made; try again later, or send fewer texts at once";
        Self::unavailable("overloaded", message, after)
    }

    pub(crate) fn not_json() -> Self {
        let message = "the body must be JSON: send the header `Content-Type: application/json`";
        Self::refused(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported_media_type",
            message,
        )
    }

    pub(crate) fn unknown_route(method: &str, path: &str) -> Self {
        let path: String = path.chars().take(128).collect();
        let message = format!("there is no {method} {path}; GET /docs lists what there is");
        Self::refused(StatusCode::NOT_FOUND, "not_found", message)
    }

    pub(crate) fn wrong_method(method: &str) -> Self {
        let message = format!("this route does not take {method}; GET /docs says what it takes");
        Self::refused(
            StatusCode::METHOD_NOT_ALLOWED,
            "method_not_allowed",
            message,
        )
    }

    pub(crate) fn unknown_model(asked: &str, served: &str) -> Self {
        let asked: String = asked.chars().take(128).collect();
        let message = format!("the model {asked:?} is not served here; {served:?} is");
        Self::refused(StatusCode::NOT_FOUND, "model_not_found", message).param("model")
    }

    pub(crate) fn unknown_response(id: &str) -> Self {
        let id: String = id.chars().take(128).collect();
        let message = format!(
            "no response {id:?} is stored for this key: it was deleted, not stored, or made way for newer ones"
        );
        Self::refused(StatusCode::NOT_FOUND, "response_not_found", message)
    }

    pub(crate) fn unknown_previous_response(id: &str) -> Self {
        let mut error = Self::unknown_response(id);
        error.status = StatusCode::BAD_REQUEST;
        error.body.code = Some("previous_response_not_found".into());
        error
            .body
            .message
            .push_str("; send the conversation itself");
        error.param("previous_response_id")
    }

    pub(crate) fn bad_key() -> Self {
        let message = "a valid API key is needed: send it as `Authorization: Bearer KEY`";
        Self::refused(StatusCode::UNAUTHORIZED, "invalid_api_key", message)
    }

    pub(crate) fn bad_admin_key() -> Self {
        let message = "the admin key is needed: send it as `Authorization: Bearer KEY`";
        Self::refused(StatusCode::UNAUTHORIZED, "invalid_admin_key", message)
    }

    pub(crate) fn bad_host() -> Self {
        let message = "this server needs no key and so answers only to names that no web page can take: addresses, \
                       localhost, and those of --allowed-hosts";
        Self::refused(StatusCode::FORBIDDEN, "host_not_allowed", message)
    }

    pub(crate) fn bad_origin() -> Self {
        let message =
            "pages of this origin may not call this server; allow them with --cors-origin";
        Self::refused(StatusCode::FORBIDDEN, "origin_not_allowed", message)
    }

    pub(crate) fn loading(stage: &str, fraction: f64, after: Duration) -> Self {
        let percent = (fraction * 100.0).floor();
        let message = format!("the model is not ready: {stage}, {percent}% done");
        Self::unavailable("model_loading", message, after)
    }

    pub(crate) fn load_failed(reason: &str) -> Self {
        let message = format!("the model could not be loaded: {reason}");
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            ErrorType::ServerError,
            "model_load_failed",
            message,
        )
        .never_retry()
    }

    pub(crate) fn draining(after: Duration) -> Self {
        Self::unavailable("shutting_down", "the server is shutting down", after)
    }

    pub(crate) fn engine_stopped(after: Duration) -> Self {
        let message = "the engine has stopped after a failure; the server must be restarted";
        Self::unavailable("engine_stopped", message, after)
    }

    /// A failure that is the server's own.
    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            ErrorType::ServerError,
            "internal_error",
            message,
        )
    }

    /// A caller that has reached a limit of its own.
    pub(crate) fn limited(reached: Reached, after: Duration) -> Self {
        let (what, code) = match reached {
            Reached::Requests(limit) => (
                format!("{limit} requests a minute"),
                "requests_per_minute_exceeded",
            ),
            Reached::Tokens(limit) => (
                format!("{limit} tokens a minute"),
                "tokens_per_minute_exceeded",
            ),
            Reached::Concurrent(limit) => (
                format!("{limit} requests at once"),
                "concurrent_requests_exceeded",
            ),
        };
        let message = format!("this key may make {what} and has; try again later");
        Self::too_many(code, message, after)
    }

    /// A caller that would leave no room in the queue for others.
    pub(crate) fn share_full(held: usize, capacity: usize, after: Duration) -> Self {
        let message = format!(
            "this key already has {held} answers of the {capacity} that the server holds at once, and leaves the rest to \
             others; try again later"
        );
        Self::too_many("queue_share_full", message, after)
    }

    fn too_many(code: &'static str, message: String, after: Duration) -> Self {
        let kind = ErrorType::RateLimitError;
        Self::new(StatusCode::TOO_MANY_REQUESTS, kind, code, message).retry_after(after)
    }

    /// A request that the engine did not take. `prompt` names the field that holds the prompt.
    pub(crate) fn submit(error: SubmitError, prompt: &'static str, after: Duration) -> Self {
        let message = error.to_string();
        match error {
            SubmitError::QueueFull { .. } => {
                Self::too_many("queue_full", format!("{message}; try again later"), after)
            }
            SubmitError::TooLong {
                prompt: tokens,
                new,
                limit,
            } => Self::too_long(tokens, new, limit, prompt),
            SubmitError::BadPrompt(_) => Self::invalid(prompt, message),
            SubmitError::ShuttingDown => Self::draining(after),
        }
    }

    pub(crate) fn too_long(
        prompt_tokens: usize,
        new_tokens: usize,
        limit_tokens: usize,
        param: &'static str,
    ) -> Self {
        // Proxies and agents know the case by the first words.
        let message = format!(
            "this model's maximum context length is {limit_tokens} tokens, but the request needs {}: {prompt_tokens} of \
             the prompt and {new_tokens} of the answer; shorten the prompt or lower max_tokens",
            prompt_tokens + new_tokens
        );
        Self::refused(StatusCode::BAD_REQUEST, "context_length_exceeded", message).param(param)
    }

    /// A text to embed that does not fit: one token less than `limit_tokens` does.
    pub(crate) fn text_too_long(tokens: usize, limit_tokens: usize) -> Self {
        let most = limit_tokens - 1;
        let message = format!(
            "a text of the input has {tokens} tokens or more, but at most {most} fit; cut it into shorter ones"
        );
        Self::refused(StatusCode::BAD_REQUEST, "context_length_exceeded", message).param("input")
    }

    /// A request that failed after it was accepted.
    pub(crate) fn failed(error: &RequestError, after: Duration) -> Self {
        match error {
            RequestError::ExpertUnavailable(cause) => Self::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                ErrorType::ServerError,
                "expert_unavailable",
                format!("a part of the model that this answer needs could not be read: {cause}"),
            )
            .never_retry(),
            RequestError::Constraint(_) => Self::refused(
                StatusCode::BAD_REQUEST,
                "grammar_failed",
                format!("{error}; simplify the schema or grammar"),
            ),
            RequestError::Backend(_) => Self::internal(error.to_string()),
            RequestError::ShuttingDown => Self::draining(after),
        }
    }

    /// An accepted request whose time is up. It would be up again, so it is not worth a retry.
    pub(crate) fn timed_out(what: &'static str, code: &'static str, limit: Duration) -> Self {
        let message = format!("{what} within {limit:?}; ask for less, or raise the server's limit");
        let kind = ErrorType::ServerError;
        Self::new(StatusCode::GATEWAY_TIMEOUT, kind, code, message).never_retry()
    }

    /// A whole answer that took too long.
    pub(crate) fn request_timed_out(limit: Duration) -> Self {
        Self::timed_out("there was no answer", "request_timeout", limit)
    }

    /// An answer that its client does not take, while others do the same.
    pub(crate) fn slow_reader() -> Self {
        let message = "the answer was not read as fast as it was made, and the server has no room for more of it";
        let kind = ErrorType::ServerError;
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            kind,
            "slow_reader",
            message,
        )
        .never_retry()
    }

    /// Whole answers that take more memory than is left.
    pub(crate) fn answers_exhausted(after: Duration) -> Self {
        let message = "too many answers are being sent; try again later, ask for fewer logprobs, or stream the answer";
        Self::unavailable("overloaded", message, after)
    }

    /// The same for an endpoint that calls some fields otherwise: (here, there).
    pub(crate) fn renamed(mut self, fields: &[(&str, &str)]) -> Self {
        let Some(param) = &mut self.body.param else {
            return self;
        };
        for (here, there) in fields {
            let rest = param.strip_prefix(here);
            // Whatever is inside of a field has other places there.
            if rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['[', '.'])) {
                *param = (*there).to_owned();
                break;
            }
        }
        self
    }

    /// The case, for logs.
    pub(crate) fn code(&self) -> &str {
        self.body.code.as_deref().unwrap_or("")
    }

    /// The body, also the payload of an error inside a stream.
    pub(crate) fn to_body(&self) -> ErrorResponse {
        ErrorResponse {
            error: (*self.body).clone(),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.to_body())).into_response();
        // For who words errors otherwise.
        response.extensions_mut().insert(*self.body);
        let headers = response.headers_mut();
        match self.retry {
            Retry::AsTheStatusSays => {}
            Retry::After(after) => {
                let seconds = after.as_secs_f64().ceil().max(1.0) as u64;
                headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
            }
            Retry::Never => {
                headers.insert(SHOULD_RETRY, HeaderValue::from_static("false"));
            }
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
