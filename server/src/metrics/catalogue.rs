//! Every metric: name, kind, buckets, labels. The tests and the zero values at start are made from this table.
//!
//! What vLLM measures too has vLLM's name, labels and buckets, because dashboards and autoscalers exist for them.
//! A histogram without explicit buckets would be exported as a summary, so the type has no such case.

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kind {
    Counter,
    Gauge,
    /// With its buckets' upper bounds, ascending.
    Histogram(&'static [f64]),
}

/// A label with every value that it takes.
pub(crate) type Label = (&'static str, &'static [&'static str]);

/// One metric.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Metric {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) help: &'static str,
    /// Whether `model_name` and `engine` are among its labels.
    pub(crate) per_model: bool,
    /// All further labels; all their combinations exist from the start.
    pub(crate) labels: &'static [Label],
}

const REQUEST_SECONDS: &[f64] = &[
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0,
    480.0, 960.0, 1920.0, 7680.0,
];
const FIRST_TOKEN_SECONDS: &[f64] = &[
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
];
const NEXT_TOKEN_SECONDS: &[f64] = &[
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0,
    40.0, 80.0,
];
const TOKENS: &[f64] = &[
    1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 2e5,
    5e5, 1e6,
];
const ITERATION_TOKENS: &[f64] = &[
    1.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0,
];
const CHOICES: &[f64] = &[1.0, 2.0, 5.0, 10.0, 20.0];
/// From a page-cache hit to a disk that hardly answers.
const LOAD_SECONDS: &[f64] = &[
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0,
];
const HTTP_SECONDS: &[f64] = &[
    0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0,
    600.0,
];

pub(crate) const FINISHED_REASONS: &[&str] = &["stop", "length", "abort", "error"];
pub(crate) const PHASES: &[&str] = &["prefill", "decode"];
pub(crate) const LOOKUP_RESULTS: &[&str] = &["hit", "prefetch_hit", "coalesced", "miss"];
pub(crate) const MISS_CAUSES: &[&str] = &["cold", "capacity", "evicted_early", "arrived_late"];
pub(crate) const EVICTION_REASONS: &[&str] = &["demand", "prefetch", "budget"];
pub(crate) const LOAD_FAILURES: &[&str] = &["checksum", "io", "short_read", "timeout"];
pub(crate) const LOAD_SOURCES: &[&str] = &["direct", "buffered", "memory"];
pub(crate) const CALLER_LIMITS: &[&str] = &["requests", "tokens", "concurrent", "share"];
pub(crate) const PREFETCHES: &[&str] = &["used", "wasted"];
pub(crate) const FORESEEN: &[&str] = &["foreseen", "unforeseen"];
pub(crate) const PREDICTIONS: &[&str] = &["predicted", "missed"];

const fn model(name: &'static str, kind: Kind, help: &'static str) -> Metric {
    Metric {
        name,
        kind,
        help,
        per_model: true,
        labels: &[],
    }
}

const fn paging(
    name: &'static str,
    kind: Kind,
    labels: &'static [Label],
    help: &'static str,
) -> Metric {
    Metric {
        name,
        kind,
        help,
        per_model: false,
        labels,
    }
}

use Kind::{Counter, Gauge, Histogram};

/// All of them, but those whose labels are known only later ([`LABELLED_LATER`]).
#[rustfmt::skip]
pub(crate) const CATALOGUE: &[Metric] = &[
    model("vllm:num_requests_running", Gauge, "Sequences that are being generated."),
    model("vllm:num_requests_waiting", Gauge, "Sequences that wait to be generated."),
    model("vllm:kv_cache_usage_perc", Gauge, "Share of the KV cache's blocks in use, 0 to 1."),
    model("vllm:prefix_cache_queries_total", Counter, "Prompt tokens that were looked up in the prefix cache."),
    model("vllm:prefix_cache_hits_total", Counter, "Of them, those that were found and not computed again."),
    model("vllm:num_preemptions_total", Counter, "Sequences put back to make room."),
    model("vllm:prompt_tokens_total", Counter, "Prompt tokens of accepted requests."),
    model("vllm:generation_tokens_total", Counter, "Tokens generated."),
    Metric {
        name: "vllm:request_success_total", kind: Counter, help: "Sequences that ended, by reason.",
        per_model: true, labels: &[("finished_reason", FINISHED_REASONS)],
    },
    model("vllm:time_to_first_token_seconds", Histogram(FIRST_TOKEN_SECONDS), "From arrival to the first token."),
    model("vllm:inter_token_latency_seconds", Histogram(NEXT_TOKEN_SECONDS), "From one token to the next."),
    model("vllm:e2e_request_latency_seconds", Histogram(REQUEST_SECONDS), "From arrival to the end."),
    model("vllm:request_queue_time_seconds", Histogram(REQUEST_SECONDS), "From submission to first being planned."),
    model("vllm:request_inference_time_seconds", Histogram(REQUEST_SECONDS), "From first being planned to the end."),
    model("vllm:request_prefill_time_seconds", Histogram(REQUEST_SECONDS), "From first being planned to the first token."),
    model("vllm:request_decode_time_seconds", Histogram(REQUEST_SECONDS), "From the first token to the end."),
    model("vllm:request_prompt_tokens", Histogram(TOKENS), "Prompt tokens of a sequence."),
    model("vllm:request_generation_tokens", Histogram(TOKENS), "Tokens generated for a sequence."),
    model("vllm:request_max_num_generation_tokens", Histogram(TOKENS), "The longest of a request's answers, in tokens."),
    model("vllm:request_params_max_tokens", Histogram(TOKENS), "The most tokens that a sequence was allowed."),
    model("vllm:request_params_n", Histogram(CHOICES), "Answers asked for."),
    model("vllm:iteration_tokens_total", Histogram(ITERATION_TOKENS), "Tokens of a pass through the model."),
    paging("odmoe_prefix_cache_blocks", Gauge, &[], "KV blocks that are free and remember the prefix of a prompt."),
    paging("odmoe_expert_cache_lookups_total", Counter, &[("phase", PHASES), ("result", LOOKUP_RESULTS)],
        "Experts asked for, by what was found; hit rate = (hit + prefetch_hit) / all."),
    paging("odmoe_expert_misses_total", Counter, &[("phase", PHASES), ("cause", MISS_CAUSES)],
        "Experts asked for that were not in memory (lookups with the results miss and coalesced), by why not."),
    paging("odmoe_expert_cache_evictions_total", Counter, &[("reason", EVICTION_REASONS)],
        "Experts that left the cache, by what took the slot; budget: the slot is no more."),
    paging("odmoe_expert_cache_resident_bytes", Gauge, &[], "Verified experts in the cache."),
    paging("odmoe_expert_cache_capacity_bytes", Gauge, &[], "All slots of the cache."),
    paging("odmoe_expert_cache_budget_bytes", Gauge, &[],
        "What all slots are to take: the capacity follows it after a change."),
    paging("odmoe_expert_cache_pinned_bytes", Gauge, &[], "Experts held in place by running work."),
    paging("odmoe_expert_cache_kept_bytes", Gauge, &[], "Experts in the cache that --pin-experts keeps there."),
    paging("odmoe_expert_load_seconds", Histogram(LOAD_SECONDS), &[], "From the start of a read to verified."),
    paging("odmoe_expert_load_bytes_total", Counter, &[("source", LOAD_SOURCES)], "Bytes of experts read."),
    paging("odmoe_expert_load_failures_total", Counter, &[("kind", LOAD_FAILURES)], "Reads that ended badly."),
    paging("odmoe_expert_loads_in_flight", Gauge, &[], "Reads under way."),
    paging("odmoe_expert_readers_stuck", Gauge, &[], "Readers inside a read that timed out and has not returned."),
    paging("odmoe_expert_load_queue_depth", Gauge, &[], "Reads that wait for a reader or a slot."),
    paging("odmoe_expert_stall_seconds", Histogram(LOAD_SECONDS), &[], "Waits for experts with nothing else to run."),
    paging("odmoe_request_expert_stall_seconds", Histogram(REQUEST_SECONDS), &[], "What a sequence waited for experts in all."),
    paging("odmoe_expert_warm_up_reads_total", Counter, &[], "Reads begun, after the start, of what an earlier run used most."),
    paging("odmoe_expert_prefetch_issued_total", Counter, &[], "Reads begun ahead of demand."),
    paging("odmoe_expert_prefetch_used_total", Counter, &[], "Experts read ahead of demand and then used."),
    paging("odmoe_expert_prefetch_wasted_total", Counter, &[], "Experts read ahead of demand and not used."),
    paging("odmoe_expert_prefetch_bytes_total", Counter, &[("outcome", PREFETCHES)],
        "Bytes read ahead of demand, by what came of them."),
    paging("odmoe_expert_foreseen_misses_total", Counter, &[("outcome", FORESEEN)],
        "Experts asked for that only a prefetch could have had in memory; recall on misses = foreseen / all."),
    paging("odmoe_predictor_experts_total", Counter, &[("outcome", PREDICTIONS)],
        "Experts that a router chose, by whether they had been predicted; recall = predicted / all."),
    paging("odmoe_requests_limited_total", Counter, &[("limit", CALLER_LIMITS)],
        "Requests refused because their key had reached a limit, by which."),
    paging("odmoe_requests_in_flight", Gauge, &[], "HTTP requests that use the model, from acceptance to the last byte."),
    paging("odmoe_unsent_answer_bytes", Gauge, &[], "Answers that slow readers have not taken, beside a little for each."),
    paging("odmoe_runtime_tasks", Gauge, &[], "Asynchronous tasks: one a connection, and a few."),
    paging("odmoe_model_load_progress_ratio", Gauge, &[], "How much of loading is done, 0 to 1."),
];

/// Metrics with labels that are known only later.
#[rustfmt::skip]
pub(crate) const LABELLED_LATER: &[Metric] = &[
    paging("http_requests_total", Counter, &[], "HTTP requests by handler, method and status."),
    paging("http_request_duration_seconds", Histogram(HTTP_SECONDS), &[], "From a request's head to its body's end."),
    paging("vllm:cache_config_info", Gauge, &[], "The KV cache's shape, in labels; always 1."),
];

/// One combination of label values.
pub(crate) type LabelValues = Vec<(&'static str, &'static str)>;

/// All combinations of label values; one empty combination when there are no labels.
pub(crate) fn combinations(labels: &[Label]) -> Vec<LabelValues> {
    let mut all = vec![Vec::new()];
    for (name, values) in labels {
        let longer = all.iter().flat_map(|prefix| {
            values.iter().map(move |value| {
                let mut next = prefix.clone();
                next.push((*name, *value));
                next
            })
        });
        all = longer.collect();
    }
    all
}
