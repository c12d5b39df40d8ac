//! What operators see and nobody else.

use super::app::App;
use super::body;
use super::error::ApiError;
use crate::config::{ExpertCacheSize, KvCacheSize};
use crate::model::budget::BudgetError;
use crate::model::live_budget::{LiveBudget, LiveSum};
use crate::state::ServedModel;
use axum::Json;
use axum::extract::{Request, State};
use odmoe_expert_store::StoreHealth;
use odmoe_openapi::{CacheChange, CacheReport, ErrorResponse, KvCacheReport, MemoryReport};
use std::fmt::Display;
use std::str::FromStr;
use std::sync::Arc;

const EXPERTS: &str = "expert_cache";
const KV: &str = "kv_cache";

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
    let sum = budget(&model)?.now();
    Ok(Json(report(&model, sum)))
}

/// Changes what the expert cache and the KV cache may take, one or both. No request fails by it, and no token changes; the memory follows within
/// moments, as `capacity_bytes` says.
#[utoipa::path(
    patch,
    path = "/admin/cache",
    tag = "service",
    security(("admin" = [])),
    request_body = CacheChange,
    responses(
        (status = 200, description = "Taken on", body = CacheReport),
        (status = 400, description = "No such size, less than the least or more than fits", body = ErrorResponse),
        (status = 401, description = "Another key than the admin key", body = ErrorResponse),
        (status = 404, description = "No admin key is set", body = ErrorResponse),
        (status = 503, description = "Not loaded yet", body = ErrorResponse),
    )
)]
pub(crate) async fn change_cache(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Json<CacheReport>, ApiError> {
    let change: CacheChange = body::receive(&app, request).await?.parse()?;
    let model = app.model()?;
    let experts: Option<ExpertCacheSize> = size(EXPERTS, change.expert_cache)?;
    let kv: Option<KvCacheSize> = size(KV, change.kv_cache)?;
    if experts.is_none() && kv.is_none() {
        let message = "nothing is to change; say expert_cache, such as \"25%\", or kv_cache";
        return Err(ApiError::invalid(EXPERTS, message));
    }
    let sum = budget(&model)?.ask(experts, kv).map_err(|error| {
        let field = match error {
            BudgetError::KvCache { .. } => KV,
            _ => EXPERTS,
        };
        ApiError::invalid(field, error.to_string())
    })?;
    tracing::info!(experts = %sum.plan.experts, kv = %sum.plan.kv, "the caches were changed");
    Ok(Json(report(&model, sum)))
}

/// A size as the flag of that name takes it.
fn size<T: FromStr<Err: Display>>(
    field: &'static str,
    text: Option<String>,
) -> Result<Option<T>, ApiError> {
    let parsed = text.map(|text| text.parse::<T>()).transpose();
    parsed.map_err(|error| ApiError::invalid(field, error.to_string()))
}

fn budget(model: &ServedModel) -> Result<&LiveBudget, ApiError> {
    model
        .budget
        .as_deref()
        .ok_or_else(|| ApiError::internal("the served model has no budget"))
}

fn report(model: &ServedModel, sum: LiveSum) -> CacheReport {
    let gauges = model.engine.gauges();
    let store = gauges.store;
    let plan = sum.plan;
    CacheReport {
        model: model.name.clone(),
        capacity_bytes: store.capacity.0,
        budget_bytes: plan.experts.0,
        asked_bytes: sum.asked.0,
        least_bytes: sum.least.0,
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
        memory: MemoryReport {
            base_bytes: plan.base.0,
            kv_bytes: plan.kv.0,
            experts_bytes: plan.experts.0,
            scratch_bytes: plan.scratch.0,
            overhead_bytes: plan.overhead.0,
            total_bytes: plan.total().0,
            limit_bytes: sum.limit.as_ref().map(|limit| limit.bytes.0),
            limit_source: sum.limit.map(|limit| limit.source.to_string()),
        },
    }
}
