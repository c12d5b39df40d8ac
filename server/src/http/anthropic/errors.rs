//! Errors as Anthropic's clients read them, whoever refused the request.

use super::super::record::Record;
use axum::Json;
use axum::extract::Request;
use axum::http::{HeaderName, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use odmoe_openapi::{ErrorBody, MessageErrorResponse, MessageFailure};
use std::sync::Arc;

/// Where Anthropic's clients look for a request's id.
const REQUEST_ID: HeaderName = HeaderName::from_static("request-id");
const PATHS: [&str; 2] = ["/messages", "/messages/count_tokens"];

/// Words the errors of Anthropic's paths as its API does, and gives their answers its id header.
pub(crate) async fn shape(request: Request, next: Next) -> Response {
    let path = request.uri().path();
    if !PATHS.contains(&path.strip_prefix("/v1").unwrap_or(path)) {
        return next.run(request).await;
    }
    let record = request.extensions().get::<Arc<Record>>().cloned();
    let mut response = next.run(request).await;
    let id = record.map(|record| record.id().clone());
    if let Some(error) = response.extensions_mut().remove::<ErrorBody>() {
        let text = id.as_ref().and_then(|id| id.to_str().ok()).unwrap_or("");
        let body = MessageErrorResponse {
            kind: "error".into(),
            error: failure(response.status(), &error),
            request_id: text.to_owned(),
        };
        response = with_body(response, &body);
    }
    if let Some(id) = id {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}

fn with_body(response: Response, body: &MessageErrorResponse) -> Response {
    let (mut parts, _) = response.into_parts();
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.headers.remove(header::CONTENT_TYPE);
    let (json, body) = Json(body).into_response().into_parts();
    parts.headers.extend(json.headers);
    Response::from_parts(parts, body)
}

/// The same error in Anthropic's words.
pub(super) fn failure(status: StatusCode, error: &ErrorBody) -> MessageFailure {
    let kind = match status.as_u16() {
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        408 => "timeout_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        503 => "overloaded_error",
        500.. => "api_error",
        _ => "invalid_request_error",
    };
    let message = match &error.param {
        Some(param) => format!("{param}: {}", error.message),
        None => error.message.clone(),
    };
    MessageFailure {
        kind: kind.into(),
        message,
    }
}
