//! Routing as it happens, for operators: a trace file as long as the client listens.

use super::app::App;
use super::error::ApiError;
use super::lifecycle::LifePhase;
use crate::model::recorder::Live;
use axum::body::{Body, Bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt, stream};
use odmoe_openapi::ErrorResponse;
use serde::Deserialize;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// A day.
const SECONDS_MAX: u64 = 86_400;

/// How long to record.
#[derive(Clone, Copy, Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct Span {
    /// Seconds, at most a day; without it until the client hangs up.
    #[param(maximum = 86400)]
    seconds: Option<u64>,
}

/// Which experts are asked for from now on: a trace for `odmoe trace`, without tokens, text or times.
#[utoipa::path(
    get,
    path = "/admin/trace",
    tag = "service",
    security(("admin" = [])),
    params(Span),
    responses(
        (status = 200, description = "The trace, a pass at a time", body = [u8],
            content_type = "application/octet-stream"),
        (status = 400, description = "The time is no number or too long", body = ErrorResponse),
        (status = 401, description = "Another key than the admin key", body = ErrorResponse),
        (status = 404, description = "No admin key is set", body = ErrorResponse),
        (status = 503, description = "Not loaded yet, or four traces are being recorded", body = ErrorResponse),
    )
)]
pub(crate) async fn trace(
    State(app): State<Arc<App>>,
    span: Result<Query<Span>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(span) = span.map_err(|error| ApiError::invalid("query", error.body_text()))?;
    let seconds = span.seconds.unwrap_or(SECONDS_MAX);
    if seconds > SECONDS_MAX {
        let message = format!("at most {SECONDS_MAX} seconds");
        return Err(ApiError::invalid("seconds", message));
    }
    let Some(live) = app.model()?.recorder.begin() else {
        let message = "as many traces as may be are being recorded; end one of them";
        return Err(ApiError::busy(message, app.config.retry_after));
    };
    let until = Instant::now() + Duration::from_secs(seconds);
    let headers = [
        (CONTENT_TYPE, "application/octet-stream"),
        (
            CONTENT_DISPOSITION,
            "attachment; filename=\"routing.trace\"",
        ),
    ];
    Ok((headers, body(app, live, until)).into_response())
}

/// Ends with its time, the server, or whoever reads it.
fn body(app: Arc<App>, live: Live, until: Instant) -> Body {
    let header = stream::iter([Ok::<_, Infallible>(Bytes::from(live.header))]);
    let passes = stream::unfold((app, live.passes), move |(app, mut passes)| async move {
        let pass = tokio::select! {
            pass = passes.recv() => pass?,
            () = tokio::time::sleep_until(until) => return None,
            () = app.lifecycle.reached(LifePhase::Draining) => return None,
        };
        Some((Ok(Bytes::from_owner(pass)), (app, passes)))
    });
    Body::from_stream(header.chain(passes))
}
