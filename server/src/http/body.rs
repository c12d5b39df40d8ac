//! Request bodies: bounded one by one and in sum, and JSON.

mod values;

use super::Limits;
use super::app::App;
use super::error::ApiError;
use axum::body::Bytes;
use axum::extract::Request;
use axum::http::{HeaderMap, header};
use futures_util::StreamExt;
use serde::de::{DeserializeOwned, IgnoredAny};
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What all bodies may hold at once.
pub(crate) struct BodyBudget {
    kibibytes: Arc<Semaphore>,
}

impl BodyBudget {
    /// At least one whole body fits, or nobody could ever send one.
    pub(crate) fn new(limits: &Limits) -> Self {
        let total_bytes = limits.bodies_total_bytes.max(limits.body_bytes);
        let kibibytes = total_bytes.div_ceil(1024).clamp(1, Semaphore::MAX_PERMITS);
        Self {
            kibibytes: Arc::new(Semaphore::new(kibibytes)),
        }
    }
}

/// A received body. Its share of the budget goes back when it is dropped.
pub(crate) struct Body {
    bytes: Vec<u8>,
    share: Option<OwnedSemaphorePermit>,
}

/// Receives the body of a request that should hold JSON.
pub(crate) async fn receive(app: &App, request: Request) -> Result<Body, ApiError> {
    let limits = &app.config.limits;
    if !is_json(request.headers()) {
        return Err(ApiError::not_json());
    }
    let announced = request.headers().get(header::CONTENT_LENGTH);
    let announced = announced.and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|bytes| bytes > limits.body_bytes) {
        return Err(ApiError::body_too_large(limits.body_bytes));
    }
    let receiving = collect(app, request);
    match tokio::time::timeout(limits.receive_timeout, receiving).await {
        Ok(result) => result,
        Err(_) => Err(ApiError::body_too_slow(limits.receive_timeout)),
    }
}

async fn collect(app: &App, request: Request) -> Result<Body, ApiError> {
    let limit = app.config.limits.body_bytes;
    let mut body = Body {
        bytes: Vec::new(),
        share: None,
    };
    let mut pieces = request.into_body().into_data_stream();
    while let Some(piece) = pieces.next().await {
        let piece: Bytes = piece.map_err(|_| ApiError::malformed("the body broke off"))?;
        if body.bytes.len() + piece.len() > limit {
            return Err(ApiError::body_too_large(limit));
        }
        body.reserve(app, piece.len())?;
        body.bytes.extend_from_slice(&piece);
    }
    Ok(body)
}

impl Body {
    /// Takes a share of the budget for `more` bytes. It never waits: two half-received bodies could wait for each
    /// other for ever.
    fn reserve(&mut self, app: &App, more: usize) -> Result<(), ApiError> {
        let held = self
            .share
            .as_ref()
            .map_or(0, OwnedSemaphorePermit::num_permits);
        let wanted = (self.bytes.len() + more).div_ceil(1024);
        let Some(missing) = wanted.checked_sub(held).filter(|missing| *missing > 0) else {
            return Ok(());
        };
        let missing = u32::try_from(missing).unwrap_or(u32::MAX);
        let share = Arc::clone(&app.bodies.kibibytes)
            .try_acquire_many_owned(missing)
            .map_err(|_| ApiError::bodies_exhausted(app.config.retry_after))?;
        match &mut self.share {
            Some(held) => held.merge(share),
            None => self.share = Some(share),
        }
        Ok(())
    }

    /// Refuses a body that would take far more memory than its bytes once it is read. The member `beside` is not
    /// counted: what it is read into is compact.
    pub(crate) fn check_values(&self, limits: &Limits, beside: &str) -> Result<(), ApiError> {
        let (count, most) = (values::count(&self.bytes, beside), limits.json_values);
        // What is no object is refused without keeping any of it.
        if count <= most || !is_object(&self.bytes) {
            return Ok(());
        }
        let message = format!("the body has {count} JSON values; at most {most} fit");
        Err(ApiError::wrong_shape(None, message))
    }

    /// Reads the body as JSON; what does not fit names the field.
    pub(crate) fn parse<T: DeserializeOwned>(&self) -> Result<T, ApiError> {
        parse(&self.bytes)
    }
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    // Derived types would take a list for an object, its items for their fields.
    if !is_object(bytes) {
        return Err(match serde_json::from_slice::<IgnoredAny>(bytes) {
            Ok(_) => ApiError::wrong_shape(None, "the body must be a JSON object"),
            Err(cause) => ApiError::malformed(format!("the body is not JSON: {cause}")),
        });
    }
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().to_string();
        let param = (path != "." && path != "?").then_some(path);
        let cause = error.into_inner();
        if cause.is_data() {
            ApiError::wrong_shape(param, format!("the body does not fit: {cause}"))
        } else {
            ApiError::malformed(format!("the body is not JSON: {cause}"))
        }
    })?;
    reader
        .end()
        .map_err(|cause| ApiError::malformed(format!("the body is not JSON: {cause}")))?;
    Ok(value)
}

fn is_object(bytes: &[u8]) -> bool {
    bytes.trim_ascii_start().first() == Some(&b'{')
}

/// `application/json` or `application/…+json`, with any parameters.
fn is_json(headers: &HeaderMap) -> bool {
    let value = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    let essence = value
        .unwrap_or("")
        .split(';')
        .next()
        .unwrap_or("")
        .trim()
        .to_ascii_lowercase();
    match essence.strip_prefix("application/") {
        Some(subtype) => subtype == "json" || subtype.ends_with("+json"),
        None => false,
    }
}
