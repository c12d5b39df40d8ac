//! The scraped text.

use super::catalogue::{CATALOGUE, Kind, LABELLED_LATER, combinations};
use super::*;
use odmoe_engine::scheduler::PrefixLookups;
use odmoe_engine::{EngineEvent, EngineGauges, EngineObserver};
use odmoe_expert_store::{
    EvictionReason, LoadFailureKind, LookupResult, MissCause, Phase, StoreEvent, StoreGauges,
    StoreHealth,
};
use odmoe_formats::{ByteCount, ExpertKey};
use std::time::Instant;

/// A handle on which every metric has at least one series.
fn complete() -> MetricsHandle {
    let metrics = MetricsHandle::new();
    metrics.model("m");
    metrics.declare_route("/x", "GET", &[200]);
    let config = odmoe_engine::EngineConfig {
        max_running: 1,
        max_waiting: 1,
        prefill_chunk_tokens: 1,
        kv_block_tokens: 16,
        kv_blocks: 40,
        kv_blocks_max: 40,
        kv_format: odmoe_backend::KvFormat::F32,
        max_context_tokens: 1,
        predict_top: 0,
        prefix_cache: odmoe_engine::PrefixCache::PerClient,
        compute_threads: 1,
    };
    metrics.set_cache_config("m", &config);
    metrics
}

fn value(metrics: &MetricsHandle, series: &str) -> f64 {
    let text = metrics.render();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {series} in\n{text}"))
        .parse()
        .unwrap()
}

#[test]
fn every_metric_has_its_type_and_help() {
    let text = complete().render();
    for metric in CATALOGUE.iter().chain(LABELLED_LATER) {
        let kind = match metric.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram(_) => "histogram",
        };
        let line = format!("# TYPE {} {kind}", metric.name);
        assert_eq!(
            text.lines().filter(|l| *l == line).count(),
            1,
            "{line} in\n{text}"
        );
        assert!(text.contains(&format!("# HELP {} ", metric.name)));
    }
    let types = text
        .lines()
        .filter(|line| line.starts_with("# TYPE"))
        .count();
    assert_eq!(
        types,
        CATALOGUE.len() + LABELLED_LATER.len(),
        "nothing else is exported"
    );
    assert!(!text.contains("summary"));
}

#[test]
fn durations_and_only_counters_are_named_for_what_they_are() {
    for metric in CATALOGUE.iter().chain(LABELLED_LATER) {
        if metric.name.ends_with("_seconds") {
            assert!(matches!(metric.kind, Kind::Histogram(_)), "{}", metric.name);
        }
        if metric.kind == Kind::Counter {
            assert!(metric.name.ends_with("_total"), "{}", metric.name);
        }
        if let Kind::Histogram(buckets) = metric.kind {
            assert!(
                buckets.windows(2).all(|pair| pair[0] < pair[1]),
                "{}",
                metric.name
            );
        }
    }
}

#[test]
fn every_combination_of_labels_exists_at_zero() {
    let metrics = complete();
    for metric in CATALOGUE {
        for combination in combinations(metric.labels) {
            let common = [("model_name", "m"), ("engine", "0")];
            let common = common.into_iter().filter(|_| metric.per_model);
            let labels: Vec<String> = common
                .chain(combination)
                .map(|(k, v)| format!("{k}=\"{v}\""))
                .collect();
            let labels = if labels.is_empty() {
                String::new()
            } else {
                format!("{{{}}}", labels.join(","))
            };
            let suffix = if matches!(metric.kind, Kind::Histogram(_)) {
                "_count"
            } else {
                ""
            };
            assert_eq!(
                value(&metrics, &format!("{}{suffix}{labels}", metric.name)),
                0.0
            );
        }
    }
    assert_eq!(
        combinations(&[("a", &["1", "2"]), ("b", &["3", "4", "5"])]).len(),
        6
    );
}

/// Names that dashboards, autoscalers and the documentation rely on, written out: a change here breaks somebody.
#[rustfmt::skip]
const PROMISED: &[(&str, &str)] = &[
    ("vllm:num_requests_running", "gauge"),
    ("vllm:num_requests_waiting", "gauge"),
    ("vllm:kv_cache_usage_perc", "gauge"),
    ("vllm:prefix_cache_queries_total", "counter"),
    ("vllm:prefix_cache_hits_total", "counter"),
    ("odmoe_prefix_cache_blocks", "gauge"),
    ("vllm:num_preemptions_total", "counter"),
    ("vllm:prompt_tokens_total", "counter"),
    ("vllm:generation_tokens_total", "counter"),
    ("vllm:request_success_total", "counter"),
    ("vllm:time_to_first_token_seconds", "histogram"),
    ("vllm:inter_token_latency_seconds", "histogram"),
    ("vllm:e2e_request_latency_seconds", "histogram"),
    ("vllm:request_queue_time_seconds", "histogram"),
    ("vllm:request_inference_time_seconds", "histogram"),
    ("vllm:request_prefill_time_seconds", "histogram"),
    ("vllm:request_decode_time_seconds", "histogram"),
    ("vllm:request_prompt_tokens", "histogram"),
    ("vllm:request_generation_tokens", "histogram"),
    ("vllm:request_max_num_generation_tokens", "histogram"),
    ("vllm:request_params_max_tokens", "histogram"),
    ("vllm:request_params_n", "histogram"),
    ("vllm:iteration_tokens_total", "histogram"),
    ("vllm:cache_config_info", "gauge"),
    ("http_requests_total", "counter"),
    ("http_request_duration_seconds", "histogram"),
    ("odmoe_expert_cache_lookups_total", "counter"),
    ("odmoe_expert_misses_total", "counter"),
    ("odmoe_expert_cache_evictions_total", "counter"),
    ("odmoe_expert_load_seconds", "histogram"),
    ("odmoe_expert_load_bytes_total", "counter"),
    ("odmoe_expert_load_failures_total", "counter"),
    ("odmoe_expert_stall_seconds", "histogram"),
    ("odmoe_request_expert_stall_seconds", "histogram"),
    ("odmoe_requests_limited_total", "counter"),
    ("odmoe_requests_in_flight", "gauge"),
    ("odmoe_unsent_answer_bytes", "gauge"),
    ("odmoe_runtime_tasks", "gauge"),
    ("odmoe_expert_warm_up_reads_total", "counter"),
    ("odmoe_expert_prefetch_issued_total", "counter"),
    ("odmoe_expert_prefetch_used_total", "counter"),
    ("odmoe_expert_prefetch_wasted_total", "counter"),
    ("odmoe_expert_prefetch_bytes_total", "counter"),
    ("odmoe_expert_foreseen_misses_total", "counter"),
    ("odmoe_expert_cache_resident_bytes", "gauge"),
    ("odmoe_expert_cache_capacity_bytes", "gauge"),
    ("odmoe_expert_cache_budget_bytes", "gauge"),
    ("odmoe_expert_cache_pinned_bytes", "gauge"),
    ("odmoe_expert_cache_kept_bytes", "gauge"),
    ("odmoe_expert_loads_in_flight", "gauge"),
    ("odmoe_expert_load_queue_depth", "gauge"),
    ("odmoe_expert_readers_stuck", "gauge"),
    ("odmoe_predictor_experts_total", "counter"),
    ("odmoe_model_load_progress_ratio", "gauge"),
];

#[test]
fn the_promised_names_and_types_are_exported_and_no_others() {
    let text = complete().render();
    let mut exported: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .collect();
    exported.sort_unstable();
    let mut promised: Vec<String> = PROMISED
        .iter()
        .map(|(name, kind)| format!("{name} {kind}"))
        .collect();
    promised.sort_unstable();
    assert_eq!(exported, promised);
}

#[test]
fn vllm_s_latencies_have_vllm_s_buckets() {
    let text = complete().render();
    for (name, expected) in [
        (
            "vllm:time_to_first_token_seconds",
            "0.001 0.005 0.01 0.02 0.04 0.06 0.08 0.1 0.25 0.5 0.75 1 2.5 5 7.5 10 20 40 80 160 640 2560 +Inf",
        ),
        (
            "vllm:inter_token_latency_seconds",
            "0.01 0.025 0.05 0.075 0.1 0.15 0.2 0.3 0.4 0.5 0.75 1 2.5 5 7.5 10 20 40 80 +Inf",
        ),
        (
            "vllm:e2e_request_latency_seconds",
            "0.3 0.5 0.8 1 1.5 2 2.5 5 10 15 20 30 40 50 60 120 240 480 960 1920 7680 +Inf",
        ),
    ] {
        let prefix = format!("{name}_bucket{{model_name=\"m\",engine=\"0\",le=\"");
        let bounds: Vec<&str> = text
            .lines()
            .filter_map(|line| line.strip_prefix(&prefix)?.split('"').next())
            .collect();
        assert_eq!(bounds.join(" "), expected, "{name}");
    }
}

/// Two answers to one prompt are one observation: of the longer.
#[test]
fn the_longest_of_a_request_s_answers_is_recorded_once() {
    let metrics = complete();
    let siblings = Siblings::new(2);
    let now = Instant::now();
    let count = |series: &str| {
        let name = format!("vllm:request_max_num_generation_tokens_{series}");
        value(
            &metrics,
            &format!("{name}{{model_name=\"m\",engine=\"0\"}}"),
        )
    };
    for tokens in [3, 1] {
        assert_eq!(count("count"), 0.0);
        let mut meter = SequenceMeter::new(metrics.model("m"), &siblings, now);
        for _ in 0..tokens {
            meter.token(now);
        }
        meter.end(SequenceEnd::Length, None, now);
    }
    assert_eq!((count("count"), count("sum")), (1.0, 3.0));
}

#[test]
fn the_cache_s_shape_is_in_labels() {
    let series = "vllm:cache_config_info{model_name=\"m\",engine=\"0\",block_size=\"16\",num_gpu_blocks=\"40\"}";
    assert_eq!(value(&complete(), series), 1.0);
}

#[track_caller]
fn check(metrics: &MetricsHandle, expected: &[(&str, f64)]) {
    for (series, expected) in expected {
        assert_eq!(value(metrics, series), *expected, "{series}");
    }
}

#[test]
fn store_events_are_counted() {
    let metrics = complete();
    let model = metrics.model("m");
    let key = ExpertKey::routed(1, 2);
    let (phase, result) = (Phase::Decode, LookupResult::PrefetchHit);
    let reason = EvictionReason::Prefetch;
    let events = [
        StoreEvent::Lookup { phase, result, key },
        StoreEvent::Missed {
            phase,
            cause: MissCause::EvictedEarly,
            key,
        },
        StoreEvent::Evicted { reason, key },
        StoreEvent::Loaded {
            key,
            bytes: 4096,
            seconds: 0.003,
            prefetch: false,
            source: "direct",
        },
        StoreEvent::LoadFailed {
            key,
            kind: LoadFailureKind::Checksum,
        },
        StoreEvent::WarmUpIssued,
        StoreEvent::PrefetchIssued,
        StoreEvent::PrefetchUsed { bytes: 40 },
        StoreEvent::PrefetchWasted { bytes: 50 },
        StoreEvent::Foreseen {
            phase: Phase::Decode,
            missed: 5,
            foreseen: 3,
        },
    ];
    for event in events {
        model.record(&EngineEvent::Store(event));
    }
    let expected = [
        (
            "odmoe_expert_cache_lookups_total{phase=\"decode\",result=\"prefetch_hit\"}",
            1.0,
        ),
        (
            "odmoe_expert_cache_lookups_total{phase=\"prefill\",result=\"prefetch_hit\"}",
            0.0,
        ),
        (
            "odmoe_expert_misses_total{phase=\"decode\",cause=\"evicted_early\"}",
            1.0,
        ),
        (
            "odmoe_expert_misses_total{phase=\"decode\",cause=\"cold\"}",
            0.0,
        ),
        (
            "odmoe_expert_cache_evictions_total{reason=\"prefetch\"}",
            1.0,
        ),
        ("odmoe_expert_load_bytes_total{source=\"direct\"}", 4096.0),
        ("odmoe_expert_load_bytes_total{source=\"buffered\"}", 0.0),
        ("odmoe_expert_load_seconds_bucket{le=\"0.0025\"}", 0.0),
        ("odmoe_expert_load_seconds_bucket{le=\"0.005\"}", 1.0),
        ("odmoe_expert_load_failures_total{kind=\"checksum\"}", 1.0),
        ("odmoe_expert_warm_up_reads_total", 1.0),
        ("odmoe_expert_prefetch_issued_total", 1.0),
        ("odmoe_expert_prefetch_used_total", 1.0),
        ("odmoe_expert_prefetch_wasted_total", 1.0),
        ("odmoe_expert_prefetch_bytes_total{outcome=\"used\"}", 40.0),
        (
            "odmoe_expert_prefetch_bytes_total{outcome=\"wasted\"}",
            50.0,
        ),
        (
            "odmoe_expert_foreseen_misses_total{outcome=\"foreseen\"}",
            3.0,
        ),
        (
            "odmoe_expert_foreseen_misses_total{outcome=\"unforeseen\"}",
            2.0,
        ),
    ];
    check(&metrics, &expected);
}

#[test]
fn engine_events_are_counted() {
    let metrics = complete();
    let model = metrics.model("m");
    model.record(&EngineEvent::ExpertStall { seconds: 0.02 });
    model.record(&EngineEvent::Step {
        tokens: 64,
        prefill: true,
    });
    model.record(&EngineEvent::Preempted);
    model.record(&EngineEvent::PrefixLookups(PrefixLookups {
        queried: 40,
        found: 32,
    }));
    model.record(&EngineEvent::Prediction {
        chosen: 8,
        predicted: 5,
    });
    let expected = [
        ("odmoe_expert_stall_seconds_count", 1.0),
        ("odmoe_predictor_experts_total{outcome=\"predicted\"}", 5.0),
        ("odmoe_predictor_experts_total{outcome=\"missed\"}", 3.0),
        (
            "vllm:iteration_tokens_total_sum{model_name=\"m\",engine=\"0\"}",
            64.0,
        ),
        (
            "vllm:num_preemptions_total{model_name=\"m\",engine=\"0\"}",
            1.0,
        ),
        (
            "vllm:prefix_cache_queries_total{model_name=\"m\",engine=\"0\"}",
            40.0,
        ),
        (
            "vllm:prefix_cache_hits_total{model_name=\"m\",engine=\"0\"}",
            32.0,
        ),
    ];
    check(&metrics, &expected);
}

#[test]
fn gauges_show_the_last_step() {
    let metrics = complete();
    let store = StoreGauges {
        resident: ByteCount(5),
        capacity: ByteCount(7),
        budget: ByteCount(9),
        pinned: ByteCount(1),
        kept: ByteCount(3),
        reads_in_flight: 4,
        reads_queued: 6,
        readers_stuck: 8,
    };
    metrics
        .model("m")
        .record(&EngineEvent::Gauges(EngineGauges {
            running: 2,
            waiting: 3,
            kv_blocks_used: 10,
            kv_blocks_remembered: 9,
            kv_blocks: 40,
            store,
            health: StoreHealth::Healthy,
        }));
    let expected = [
        ("odmoe_expert_cache_resident_bytes", 5.0),
        ("odmoe_expert_cache_capacity_bytes", 7.0),
        ("odmoe_expert_cache_budget_bytes", 9.0),
        ("odmoe_expert_cache_pinned_bytes", 1.0),
        ("odmoe_expert_cache_kept_bytes", 3.0),
        ("odmoe_expert_loads_in_flight", 4.0),
        ("odmoe_expert_load_queue_depth", 6.0),
        ("odmoe_expert_readers_stuck", 8.0),
        ("odmoe_prefix_cache_blocks", 9.0),
        (
            "vllm:num_requests_running{model_name=\"m\",engine=\"0\"}",
            2.0,
        ),
        (
            "vllm:num_requests_waiting{model_name=\"m\",engine=\"0\"}",
            3.0,
        ),
        (
            "vllm:kv_cache_usage_perc{model_name=\"m\",engine=\"0\"}",
            0.25,
        ),
    ];
    check(&metrics, &expected);
}

#[test]
fn two_handles_do_not_mix() {
    let (one, other) = (complete(), complete());
    one.model("m").record(&EngineEvent::Preempted);
    let series = "vllm:num_preemptions_total{model_name=\"m\",engine=\"0\"}";
    assert_eq!((value(&one, series), value(&other, series)), (1.0, 0.0));
}
