//! What operators see and nobody else.

use super::app::App;
use super::error::ApiError;
use axum::Json;
use axum::extract::State;
use odmoe_expert_store::StoreHealth;
use odmoe_openapi::{CacheReport, ErrorResponse, KvCacheReport};
use std::sync::Arc;

/// What the caches may hold and what they hold.
#[utoipa::path(
    get,
    path = "/admin/cache",
    tag = "service",
    security(("admin" = [])),
    responses(
        (status = 200, description = "Budget and residency", body = CacheReport),
        (status = 401, description = "Another key than the admin key", body = ErrorResponse),
        (status = 404, description = "No admin key is set", body = ErrorResponse),
        (status = 503, description = "Not loaded yet", body = ErrorResponse),
    )
)]
pub(crate) async fn cache(State(app): State<Arc<App>>) -> Result<Json<CacheReport>, ApiError> {
    let model = app.model()?;
    let gauges = model.engine.gauges();
    let store = gauges.store;
    Ok(Json(CacheReport {
        model: model.name.clone(),
        capacity_bytes: store.capacity.0,
        resident_bytes: store.resident.0,
        pinned_bytes: store.pinned.0,
        reads_in_flight: store.reads_in_flight as u64,
        reads_queued: store.reads_queued as u64,
        readers_stuck: store.readers_stuck as u64,
        storage_error: match gauges.health {
            StoreHealth::Healthy => None,
            StoreHealth::Failing { last_error } => Some(last_error),
        },
        kv: KvCacheReport {
            blocks: gauges.kv_blocks as u64,
            blocks_used: gauges.kv_blocks_used as u64,
        },
    }))
}
