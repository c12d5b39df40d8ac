//! The table of experts, for operators: too fine for Prometheus.

use super::app::App;
use super::error::ApiError;
use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use odmoe_engine::ExpertReport;
use odmoe_expert_store::{ExpertUse, MissCounts};
use odmoe_openapi::{ErrorResponse, ExpertEntry, ExpertsReport, LayerExperts, MissesByCause};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::oneshot;

/// Experts in one answer, unless it is said: about 1 MB.
const LIMIT_DEFAULT: usize = 4096;
/// And at most.
const LIMIT_MAX: usize = 16_384;

/// Which part of the table.
#[derive(Clone, Copy, Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct Part {
    /// Only the experts of this layer; the sums are of all layers in any case.
    layer: Option<u32>,
    /// Experts to leave out before the first.
    #[serde(default)]
    offset: usize,
    /// Experts at most, from 0 to 16384.
    #[serde(default = "default_limit")]
    limit: usize,
}

fn default_limit() -> usize {
    LIMIT_DEFAULT
}

/// What became of every expert since the start: uses, hits, misses by cause, and where it is.
#[utoipa::path(
    get,
    path = "/admin/experts",
    tag = "service",
    security(("admin" = [])),
    params(Part),
    responses(
        (status = 200, description = "Sums by layer, and a part of the table", body = ExpertsReport),
        (status = 400, description = "A parameter is no number or too large", body = ErrorResponse),
        (status = 401, description = "Another key than the admin key", body = ErrorResponse),
        (status = 404, description = "No admin key is set", body = ErrorResponse),
        (status = 503, description = "Not loaded yet", body = ErrorResponse),
    )
)]
pub(crate) async fn experts(
    State(app): State<Arc<App>>,
    part: Result<Query<Part>, QueryRejection>,
) -> Result<Json<ExpertsReport>, ApiError> {
    let Query(part) = part.map_err(|error| ApiError::invalid("query", error.body_text()))?;
    if part.limit > LIMIT_MAX {
        let message = format!("at most {LIMIT_MAX} experts; go on at next_offset");
        return Err(ApiError::invalid("limit", message));
    }
    let model = app.model()?;
    // One at a time: a report is as large as the model has experts.
    let _turn = app.expert_reports.lock().await;
    let (sender, report) = oneshot::channel();
    model
        .engine
        .report_experts(Box::new(move |report| drop(sender.send(report))));
    let report = report
        .await
        .map_err(|_| ApiError::engine_stopped(app.config.retry_after))?;
    Ok(Json(select(model.name.clone(), &report, part)))
}

fn select(model: String, report: &ExpertReport, part: Part) -> ExpertsReport {
    let wanted = |expert: &&ExpertUse| part.layer.is_none_or(|layer| expert.key.layer.0 == layer);
    let total = report.experts.iter().filter(wanted).count();
    let chosen = report.experts.iter().filter(wanted);
    let experts: Vec<_> = chosen
        .skip(part.offset)
        .take(part.limit)
        .map(entry)
        .collect();
    let next = part.offset.saturating_add(experts.len());
    ExpertsReport {
        model,
        layers: layers(report),
        experts_total: total as u64,
        offset: part.offset as u64,
        experts,
        next_offset: (next < total).then_some(next as u64),
    }
}

fn entry(expert: &ExpertUse) -> ExpertEntry {
    ExpertEntry {
        layer: expert.key.layer.0,
        expert: expert.key.index.0,
        bytes: expert.bytes,
        resident: expert.resident,
        pinned: expert.kept,
        uses: expert.uses,
        hits: expert.hits,
        misses: misses(&expert.misses),
        heat: expert.heat,
    }
}

fn misses(counts: &MissCounts) -> MissesByCause {
    MissesByCause {
        cold: counts.cold,
        capacity: counts.capacity,
        evicted_early: counts.evicted_early,
        arrived_late: counts.arrived_late,
    }
}

fn layers(report: &ExpertReport) -> Vec<LayerExperts> {
    let mut layers: BTreeMap<u32, LayerExperts> = BTreeMap::new();
    for expert in &report.experts {
        let layer = expert.key.layer.0;
        let sums = layers.entry(layer).or_insert(LayerExperts {
            layer,
            ..LayerExperts::default()
        });
        sums.experts += 1;
        sums.resident += u64::from(expert.resident);
        sums.uses += expert.uses;
        sums.hits += expert.hits;
        sums.misses.cold += expert.misses.cold;
        sums.misses.capacity += expert.misses.capacity;
        sums.misses.evicted_early += expert.misses.evicted_early;
        sums.misses.arrived_late += expert.misses.arrived_late;
    }
    for stall in &report.layers {
        if let Some(sums) = layers.get_mut(&stall.layer.0) {
            sums.stall_s = stall.stall.as_secs_f64();
            sums.stalls = stall.count;
        }
    }
    layers.into_values().collect()
}
