//! Models, health, readiness, loading progress, metrics.

use super::app::App;
use super::error::ApiError;
use super::lifecycle::LifePhase;
use super::record::Record;
use super::respond::{event, event_stream_response};
use crate::state::{LoadingProgress as Progress, ServedModel, Stage};
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use futures_util::stream;
use odmoe_expert_store::StoreHealth;
use odmoe_openapi::{ErrorResponse, Health, LoadingProgress, Model, ModelList, Readiness};
use std::convert::Infallible;
use std::sync::Arc;

/// Lists what is served.
#[utoipa::path(
    get,
    path = "/v1/models",
    tag = "models",
    responses(
        (status = 200, description = "The model, and its aliases", body = ModelList),
        (status = 503, description = "Not loaded yet", body = ErrorResponse),
    )
)]
pub(crate) async fn list_models(State(app): State<Arc<App>>) -> Result<Json<ModelList>, ApiError> {
    let model = app.model()?;
    let ids = std::iter::once(&model.name).chain(&app.config.model_aliases);
    let status = status(&app);
    let data = ids.map(|id| describe(id, &model, status)).collect();
    Ok(Json(ModelList {
        object: "list".into(),
        data,
    }))
}

/// Describes one model.
#[utoipa::path(
    get,
    path = "/v1/models/{id}",
    tag = "models",
    params(("id" = String, Path, description = "The model's name, which may have slashes")),
    responses(
        (status = 200, description = "The model", body = Model),
        (status = 404, description = "Not served here", body = ErrorResponse),
        (status = 503, description = "Not loaded yet", body = ErrorResponse),
    )
)]
pub(crate) async fn get_model(
    State(app): State<Arc<App>>,
    id: Result<Path<String>, axum::extract::rejection::PathRejection>,
) -> Result<Json<Model>, ApiError> {
    let Path(id) = id.map_err(|_| ApiError::invalid("id", "the model's name is not UTF-8"))?;
    let model = app.model()?;
    super::job::check_model(Some(&id), &model, &app.config.model_aliases)?;
    Ok(Json(describe(&id, &model, status(&app))))
}

fn status(app: &App) -> &'static str {
    why_not_ready(app).map_or("ready", |(status, _)| status)
}

fn describe(id: &str, model: &ServedModel, status: &str) -> Model {
    Model {
        id: id.to_owned(),
        object: "model".into(),
        created: model.created_unix_s,
        owned_by: "odmoe".into(),
        max_model_len: model.context_tokens as u64,
        context_length: model.context_tokens as u64,
        status: status.into(),
    }
}

/// Whether the process answers. Never waits for the engine.
#[utoipa::path(
    get,
    path = "/health",
    tag = "service",
    responses((status = 200, description = "Alive", body = Health))
)]
pub(crate) async fn health() -> Json<Health> {
    Json(Health {
        status: "ok".into(),
    })
}

/// Whether completions would be served now.
#[utoipa::path(
    get,
    path = "/ready",
    tag = "service",
    responses(
        (status = 200, description = "Ready", body = Readiness),
        (status = 503, description = "Not ready, with the reason", body = Readiness),
    )
)]
pub(crate) async fn ready(State(app): State<Arc<App>>) -> Response {
    match why_not_ready(&app) {
        None => Json(Readiness {
            status: "ready".into(),
            reason: None,
        })
        .into_response(),
        Some((status, reason)) => {
            let body = Readiness {
                status: status.into(),
                reason: Some(reason),
            };
            (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response()
        }
    }
}

fn why_not_ready(app: &App) -> Option<(&'static str, String)> {
    if app.is_draining() {
        return Some(("draining", "the server is shutting down".into()));
    }
    let Some(model) = app.slot.get() else {
        let progress = app.slot.progress();
        return Some(match progress.stage {
            Stage::Failed(reason) => ("load_failed", reason),
            stage => ("loading", format!("{}: {}", stage.name(), progress.detail)),
        });
    };
    if !model.engine.is_alive() {
        return Some((
            "engine_stopped",
            "the engine has stopped after a failure".into(),
        ));
    }
    match model.engine.gauges().health {
        StoreHealth::Healthy => None,
        StoreHealth::Failing { last_error } => Some(("storage_failing", last_error)),
    }
}

/// Follows loading, as server-sent events, until the model is served or loading has failed.
#[utoipa::path(
    get,
    path = "/v1/loading/progress",
    tag = "service",
    responses((status = 200, description = "One event now and one at each change",
        content((LoadingProgress = "text/event-stream"))))
)]
pub(crate) async fn loading_progress(
    State(app): State<Arc<App>>,
    Extension(record): Extension<Arc<Record>>,
) -> Response {
    let watch = app.slot.subscribe();
    let body = stream::unfold(
        (app, record, watch),
        |(app, record, mut watch)| async move {
            let bytes: Bytes = tokio::select! {
                progress = watch.next() => event(&wire(progress?)).into(),
                () = app.lifecycle.reached(LifePhase::Draining) => return None,
                () = tokio::time::sleep(app.config.keep_alive) => Bytes::from_static(b":\n\n"),
            };
            Some((Ok::<_, Infallible>(bytes), (app, record, watch)))
        },
    );
    event_stream_response(Body::from_stream(body))
}

fn wire(progress: Progress) -> LoadingProgress {
    LoadingProgress {
        stage: progress.stage.name().into(),
        detail: progress.detail,
        fraction: progress.fraction,
        bytes_done: progress.bytes_done.0,
        bytes_total: progress.bytes_total.0,
        ready: progress.stage == Stage::Ready,
        error: match progress.stage {
            Stage::Failed(reason) => Some(reason),
            _ => None,
        },
    }
}

/// What Prometheus scrapes.
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "service",
    responses((status = 200, description = "Prometheus text", content_type = "text/plain", body = String))
)]
pub(crate) async fn metrics(State(app): State<Arc<App>>) -> Response {
    let tasks = tokio::runtime::Handle::current()
        .metrics()
        .num_alive_tasks();
    let (in_flight, unsent_bytes) = (app.lifecycle.in_flight(), app.output.used_bytes());
    app.metrics
        .set_service_gauges(in_flight, unsent_bytes, tasks);
    app.metrics.set_load_progress(app.slot.progress().fraction);
    if let Some(model) = app.slot.get() {
        app.metrics
            .model(&model.name)
            .set_gauges(&model.engine.gauges());
    }
    let content_type = [(
        header::CONTENT_TYPE,
        "text/plain; version=0.0.4; charset=utf-8",
    )];
    (content_type, app.metrics.render()).into_response()
}
