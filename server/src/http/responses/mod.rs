//! `/v1/responses`: answers as lists of items, which can be kept and gone on from.

mod input;
mod items;
mod log;
mod making;
mod output;
mod request;
mod store;
mod turn;

use super::access::given_key;
use super::app::App;
use super::body;
use super::error::ApiError;
use super::generation::Generation;
use super::job::Delivery;
use super::keys::SecretDigest;
use super::record::Record;
use super::respond::{event_stream_response, respond};
use axum::body::Body;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, Request, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use log::EventLog;
use odmoe_openapi::{
    DeletedResponse, ErrorResponse, InputItems, ResponseEvent, ResponseObject, ResponsesRequest,
};
use request::Asked;
use serde::Deserialize;
use std::sync::Arc;
use std::time::Duration;
use store::{CancelError, Owner};

pub(crate) use store::ResponseStore;

/// Makes a response.
#[utoipa::path(
    post,
    path = "/v1/responses",
    tag = "responses",
    request_body = ResponsesRequest,
    responses(
        (status = 200, description = "The response; with `stream`, server-sent events",
            content((ResponseObject = "application/json"), (ResponseEvent = "text/event-stream"))),
        (status = 400, description = "A field is not allowed, or the conversation is too long", body = ErrorResponse),
        (status = 404, description = "Another model is served", body = ErrorResponse),
        (status = 413, description = "The body is too large", body = ErrorResponse),
        (status = 415, description = "The body is not JSON", body = ErrorResponse),
        (status = 429, description = "The queue is full; see `Retry-After`", body = ErrorResponse),
        (status = 500, description = "A part of the model could not be read, or a bug", body = ErrorResponse),
        (status = 503, description = "Loading or shutting down; see `Retry-After`", body = ErrorResponse),
    )
)]
pub(crate) async fn create(
    State(app): State<Arc<App>>,
    Extension(record): Extension<Arc<Record>>,
    request: Request,
) -> Result<Response, ApiError> {
    let admitted = app.admit()?;
    let owner = owner(request.headers());
    let body = body::receive(&app, request).await?;
    let (model, shared) = (Arc::clone(&admitted.model), Arc::clone(&app));
    let asked = app
        .blocking(move || request::read(&shared, &model, &body, owner))
        .await?;
    let Asked {
        job,
        mut turn,
        in_background,
    } = asked;
    let generation = Generation::start(&app, admitted, &job, record)?;
    let keep_alive = app.config.keep_alive;
    if !in_background {
        return respond(generation, turn, job.delivery, keep_alive).await;
    }
    let is_streamed = job.delivery != Delivery::Whole;
    let log = is_streamed.then(|| EventLog::new(generation.share()));
    turn.keeper.log.clone_from(&log);
    let cancel = app.responses.keep_running(owner, turn.kept());
    let response = match log {
        Some(log) => followed(log, 0, keep_alive),
        None => Json(&turn.object).into_response(),
    };
    tokio::spawn(making::make(generation, turn, cancel));
    Ok(response)
}

/// The events of a response from one on.
fn followed(log: Arc<EventLog>, first: usize, keep_alive: Duration) -> Response {
    event_stream_response(Body::from_stream(log.follow(first, keep_alive)))
}

/// How a stored response is shown.
#[derive(Debug, Deserialize)]
pub(crate) struct Shown {
    stream: Option<bool>,
    starting_after: Option<u64>,
}

/// Shows a response that was stored, or the events of one that was asked for in the background and as a stream.
#[utoipa::path(
    get,
    path = "/v1/responses/{id}",
    tag = "responses",
    params(
        ("id" = String, Path, description = "The response's id"),
        ("stream" = Option<bool>, Query, description = "Send its events, those that were and those that come"),
        ("starting_after" = Option<u64>, Query, description = "With `stream`: the number of the last event that is known"),
    ),
    responses(
        (status = 200, description = "The response; with `stream`, server-sent events",
            content((ResponseObject = "application/json"), (ResponseEvent = "text/event-stream"))),
        (status = 400, description = "It has no events: it was not asked for with `background` and `stream`", body = ErrorResponse),
        (status = 404, description = "None of this id is stored for this key", body = ErrorResponse),
    )
)]
pub(crate) async fn retrieve(
    State(app): State<Arc<App>>,
    id: Result<Path<String>, PathRejection>,
    shown: Result<Query<Shown>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let (id, shown) = (id_of(id)?, items::query(shown)?);
    let kept = app.responses.get(owner(&headers), &id);
    let kept = kept.ok_or_else(|| ApiError::unknown_response(&id))?;
    if shown.stream != Some(true) {
        return Ok(Json(ResponseObject::clone(&kept.object)).into_response());
    }
    let Some(log) = kept.log else {
        let message = "only a response that was asked for with background and stream can be followed; retrieve it without \
                       stream";
        return Err(ApiError::invalid("stream", message));
    };
    let first = shown
        .starting_after
        .map_or(0, |last| last.saturating_add(1));
    let first = usize::try_from(first).unwrap_or(usize::MAX);
    Ok(followed(log, first, app.config.keep_alive))
}

/// Lists what a stored response answers: the items of the conversation before it.
#[utoipa::path(
    get,
    path = "/v1/responses/{id}/input_items",
    tag = "responses",
    params(
        ("id" = String, Path, description = "The response's id"),
        ("limit" = Option<u32>, Query, description = "So many items at most, 1 to 100; 20 when absent", minimum = 1, maximum = 100),
        ("order" = Option<String>, Query, description = "`asc` or `desc`; `desc` when absent", pattern = "^(asc|desc)$"),
        ("after" = Option<String>, Query, description = "The id of the last item of the page before"),
    ),
    responses(
        (status = 200, description = "A page of items", body = InputItems),
        (status = 400, description = "A part of the query is not allowed", body = ErrorResponse),
        (status = 404, description = "None of this id is stored for this key", body = ErrorResponse),
    )
)]
pub(crate) async fn input_items(
    State(app): State<Arc<App>>,
    id: Result<Path<String>, PathRejection>,
    page: Result<Query<items::Page>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Json<InputItems>, ApiError> {
    let (id, page) = (id_of(id)?, items::query(page)?);
    let kept = app.responses.get(owner(&headers), &id);
    let kept = kept.ok_or_else(|| ApiError::unknown_response(&id))?;
    items::page(&kept, &page).map(Json)
}

/// Forgets a response, and ends it if it is being made.
#[utoipa::path(
    delete,
    path = "/v1/responses/{id}",
    tag = "responses",
    params(("id" = String, Path, description = "The response's id")),
    responses(
        (status = 200, description = "It is gone", body = DeletedResponse),
        (status = 404, description = "None of this id is stored for this key", body = ErrorResponse),
    )
)]
pub(crate) async fn delete(
    State(app): State<Arc<App>>,
    id: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Result<Json<DeletedResponse>, ApiError> {
    let id = id_of(id)?;
    if !app.responses.delete(owner(&headers), &id) {
        return Err(ApiError::unknown_response(&id));
    }
    Ok(Json(DeletedResponse {
        id,
        object: "response".into(),
        deleted: true,
    }))
}

/// Ends a response that is made in the background. One that is whole stays as it is.
#[utoipa::path(
    post,
    path = "/v1/responses/{id}/cancel",
    tag = "responses",
    params(("id" = String, Path, description = "The response's id")),
    responses(
        (status = 200, description = "The response", body = ResponseObject),
        (status = 400, description = "It was not made in the background", body = ErrorResponse),
        (status = 404, description = "None of this id is stored for this key", body = ErrorResponse),
    )
)]
pub(crate) async fn cancel(
    State(app): State<Arc<App>>,
    id: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Result<Json<ResponseObject>, ApiError> {
    let id = id_of(id)?;
    match app.responses.cancel(owner(&headers), &id) {
        Ok(kept) => Ok(Json(ResponseObject::clone(&kept.object))),
        Err(CancelError::Unknown) => Err(ApiError::unknown_response(&id)),
        Err(CancelError::Foreground) => {
            let message = "only a response in the background can be cancelled; others end with their connection";
            Err(ApiError::invalid("id", message))
        }
    }
}

fn id_of(path: Result<Path<String>, PathRejection>) -> Result<String, ApiError> {
    match path {
        Ok(Path(id)) => Ok(id),
        Err(_) => Err(ApiError::invalid("id", "the response's id is not UTF-8")),
    }
}

/// Whose a response is, by the key that came with the request; where the server asks for none, too.
fn owner(headers: &HeaderMap) -> Owner {
    given_key(headers).map(SecretDigest::of)
}
