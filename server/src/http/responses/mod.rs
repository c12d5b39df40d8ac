//! `/v1/responses`: answers as lists of items, which can be kept and gone on from.

mod input;
mod request;
mod store;
mod turn;

use super::access::given_key;
use super::app::App;
use super::body;
use super::error::ApiError;
use super::generation::{Generation, Update};
use super::keys::SecretDigest;
use super::record::Record;
use super::respond::respond;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use odmoe_openapi::{
    DeletedResponse, ErrorResponse, ResponseEvent, ResponseObject, ResponseStatus, ResponsesRequest,
};
use request::Asked;
use std::sync::Arc;
use store::{CancelError, Owner};
use tokio::sync::Notify;
use turn::Turn;

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
        turn,
        in_background,
    } = asked;
    let generation = Generation::start(&app, admitted, &job, record)?;
    if !in_background {
        return respond(generation, turn, job.delivery, app.config.keep_alive).await;
    }
    let cancel = app.responses.keep_running(owner, turn.kept());
    let response = Json(&turn.object).into_response();
    tokio::spawn(make(generation, turn, cancel));
    Ok(response)
}

/// Makes a response for which nobody waits.
async fn make(mut generation: Generation, mut turn: Turn, cancel: Arc<Notify>) {
    loop {
        let update = tokio::select! {
            update = generation.next() => update,
            () = cancel.notified() => {
                turn.break_off(ResponseStatus::Cancelled, None);
                return;
            }
        };
        match update {
            Some(Update::Piece { piece, .. }) => {
                turn.take(piece);
            }
            Some(Update::Ended { piece, reason, .. }) => {
                turn.take(piece);
                turn.end(reason);
            }
            Some(Update::Failed(error)) => {
                turn.break_off(ResponseStatus::Failed, Some(turn::failure(&error)));
                return;
            }
            None => {
                turn.finish(generation.usage());
                return;
            }
        }
    }
}

/// Shows a response that was stored.
#[utoipa::path(
    get,
    path = "/v1/responses/{id}",
    tag = "responses",
    params(("id" = String, Path, description = "The response's id")),
    responses(
        (status = 200, description = "The response", body = ResponseObject),
        (status = 404, description = "None of this id is stored for this key", body = ErrorResponse),
    )
)]
pub(crate) async fn retrieve(
    State(app): State<Arc<App>>,
    id: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Result<Json<ResponseObject>, ApiError> {
    let id = id_of(id)?;
    let kept = app.responses.get(owner(&headers), &id);
    let kept = kept.ok_or_else(|| ApiError::unknown_response(&id))?;
    Ok(Json(ResponseObject::clone(&kept.object)))
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
