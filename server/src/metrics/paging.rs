//! What happens in the expert store.

use super::Registry;
use super::catalogue::{
    EVICTION_REASONS, FORESEEN, LOAD_FAILURES, LOAD_SOURCES, LOOKUP_RESULTS, MISS_CAUSES, PHASES,
    PREDICTIONS, PREFETCHES,
};
use metrics::{Counter, Gauge, Histogram};
use odmoe_expert_store::{
    EvictionReason, LoadFailureKind, LookupResult, MissCause, Phase, StoreEvent, StoreGauges,
};

/// Handles of every `odmoe_expert_*` series; recording takes no lock.
pub(crate) struct PagingMetrics {
    /// By phase, then result.
    lookups: Vec<Vec<Counter>>,
    /// By phase, then cause.
    misses: Vec<Vec<Counter>>,
    evictions: Vec<Counter>,
    failures: Vec<Counter>,
    load_seconds: Histogram,
    /// In the order of [`LOAD_SOURCES`].
    load_bytes: Vec<Counter>,
    warm_up_reads: Counter,
    prefetch_issued: Counter,
    prefetch_used: Counter,
    prefetch_wasted: Counter,
    /// In the order of [`PREFETCHES`].
    prefetch_bytes: Vec<Counter>,
    /// In the order of [`FORESEEN`].
    foreseen: Vec<Counter>,
    predicted: Counter,
    unpredicted: Counter,
    stall_seconds: Histogram,
    request_stall_seconds: Histogram,
    resident: Gauge,
    capacity: Gauge,
    budget: Gauge,
    pinned: Gauge,
    kept: Gauge,
    in_flight: Gauge,
    queued: Gauge,
    stuck: Gauge,
}

impl PagingMetrics {
    pub(crate) fn new(registry: &Registry) -> Self {
        let by_phase = |name, label, values: &[&str]| -> Vec<Vec<Counter>> {
            let of = |phase: &&str| {
                let labels = values
                    .iter()
                    .map(|value| [("phase", *phase), (label, *value)]);
                labels
                    .map(|labels| registry.counter(name, &labels))
                    .collect()
            };
            PHASES.iter().map(of).collect()
        };
        let by = |name, label, values: &[&str]| -> Vec<Counter> {
            values
                .iter()
                .map(|value| registry.counter(name, &[(label, value)]))
                .collect()
        };
        let predictions = by("odmoe_predictor_experts_total", "outcome", PREDICTIONS);
        Self {
            lookups: by_phase("odmoe_expert_cache_lookups_total", "result", LOOKUP_RESULTS),
            misses: by_phase("odmoe_expert_misses_total", "cause", MISS_CAUSES),
            evictions: by(
                "odmoe_expert_cache_evictions_total",
                "reason",
                EVICTION_REASONS,
            ),
            failures: by("odmoe_expert_load_failures_total", "kind", LOAD_FAILURES),
            load_seconds: registry.histogram("odmoe_expert_load_seconds", &[]),
            load_bytes: by("odmoe_expert_load_bytes_total", "source", LOAD_SOURCES),
            warm_up_reads: registry.counter("odmoe_expert_warm_up_reads_total", &[]),
            prefetch_issued: registry.counter("odmoe_expert_prefetch_issued_total", &[]),
            prefetch_used: registry.counter("odmoe_expert_prefetch_used_total", &[]),
            prefetch_wasted: registry.counter("odmoe_expert_prefetch_wasted_total", &[]),
            prefetch_bytes: by("odmoe_expert_prefetch_bytes_total", "outcome", PREFETCHES),
            foreseen: by("odmoe_expert_foreseen_misses_total", "outcome", FORESEEN),
            predicted: predictions[0].clone(),
            unpredicted: predictions[1].clone(),
            stall_seconds: registry.histogram("odmoe_expert_stall_seconds", &[]),
            request_stall_seconds: registry.histogram("odmoe_request_expert_stall_seconds", &[]),
            resident: registry.gauge("odmoe_expert_cache_resident_bytes", &[]),
            capacity: registry.gauge("odmoe_expert_cache_capacity_bytes", &[]),
            budget: registry.gauge("odmoe_expert_cache_budget_bytes", &[]),
            pinned: registry.gauge("odmoe_expert_cache_pinned_bytes", &[]),
            kept: registry.gauge("odmoe_expert_cache_kept_bytes", &[]),
            in_flight: registry.gauge("odmoe_expert_loads_in_flight", &[]),
            queued: registry.gauge("odmoe_expert_load_queue_depth", &[]),
            stuck: registry.gauge("odmoe_expert_readers_stuck", &[]),
        }
    }

    pub(crate) fn record(&self, event: &StoreEvent) {
        match event {
            StoreEvent::Lookup { phase, result, .. } => {
                self.lookups[phase_index(*phase)][result_index(*result)].increment(1);
            }
            StoreEvent::Missed { phase, cause, .. } => {
                self.misses[phase_index(*phase)][cause_index(*cause)].increment(1);
            }
            StoreEvent::Evicted { reason, .. } => {
                let index = match reason {
                    EvictionReason::Demand => 0,
                    EvictionReason::Prefetch => 1,
                    EvictionReason::Budget => 2,
                };
                self.evictions[index].increment(1);
            }
            StoreEvent::Loaded {
                bytes,
                seconds,
                source,
                ..
            } => {
                self.load_seconds.record(*seconds);
                match LOAD_SOURCES.iter().position(|known| known == source) {
                    Some(index) => self.load_bytes[index].increment(*bytes),
                    None => debug_assert!(false, "{source} is not in the catalogue"),
                }
            }
            StoreEvent::LoadFailed { kind, .. } => self.failures[failure_index(*kind)].increment(1),
            StoreEvent::WarmUpIssued => self.warm_up_reads.increment(1),
            StoreEvent::PrefetchIssued => self.prefetch_issued.increment(1),
            StoreEvent::PrefetchUsed { bytes } => {
                self.prefetch_used.increment(1);
                self.prefetch_bytes[0].increment(*bytes);
            }
            StoreEvent::PrefetchWasted { bytes } => {
                self.prefetch_wasted.increment(1);
                self.prefetch_bytes[1].increment(*bytes);
            }
            StoreEvent::Foreseen {
                missed, foreseen, ..
            } => {
                self.foreseen[0].increment(*foreseen as u64);
                self.foreseen[1].increment(missed.saturating_sub(*foreseen) as u64);
            }
            _ => {}
        }
    }

    pub(crate) fn record_stall(&self, seconds: f64) {
        self.stall_seconds.record(seconds);
    }

    pub(crate) fn record_request_stall(&self, seconds: f64) {
        self.request_stall_seconds.record(seconds);
    }

    pub(crate) fn record_prediction(&self, chosen: usize, predicted: usize) {
        self.predicted.increment(predicted as u64);
        self.unpredicted
            .increment(chosen.saturating_sub(predicted) as u64);
    }

    pub(crate) fn set_gauges(&self, gauges: &StoreGauges) {
        self.resident.set(gauges.resident.0 as f64);
        self.capacity.set(gauges.capacity.0 as f64);
        self.budget.set(gauges.budget.0 as f64);
        self.pinned.set(gauges.pinned.0 as f64);
        self.kept.set(gauges.kept.0 as f64);
        self.in_flight.set(gauges.reads_in_flight as f64);
        self.queued.set(gauges.reads_queued as f64);
        self.stuck.set(gauges.readers_stuck as f64);
    }
}

/// Into [`PHASES`].
fn phase_index(phase: Phase) -> usize {
    match phase {
        Phase::Prefill => 0,
        Phase::Decode => 1,
    }
}

/// Into [`LOOKUP_RESULTS`].
fn result_index(result: LookupResult) -> usize {
    match result {
        LookupResult::Hit => 0,
        LookupResult::PrefetchHit => 1,
        LookupResult::Coalesced => 2,
        LookupResult::Miss => 3,
    }
}

/// Into [`MISS_CAUSES`].
fn cause_index(cause: MissCause) -> usize {
    match cause {
        MissCause::Cold => 0,
        MissCause::Capacity => 1,
        MissCause::EvictedEarly => 2,
        MissCause::ArrivedLate => 3,
    }
}

/// Into [`LOAD_FAILURES`].
fn failure_index(kind: LoadFailureKind) -> usize {
    match kind {
        LoadFailureKind::Checksum => 0,
        LoadFailureKind::Io => 1,
        LoadFailureKind::ShortRead => 2,
        LoadFailureKind::Timeout => 3,
    }
}
