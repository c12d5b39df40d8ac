//! What one model does: its sequences, its engine.

use super::Registry;
use super::catalogue::{CATALOGUE, FINISHED_REASONS};
use super::paging::PagingMetrics;
use metrics::{Counter, Gauge, Histogram};
use odmoe_engine::{EngineEvent, EngineGauges, EngineObserver, RequestTimings};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Instant;

/// vLLM labels its series with the number of the engine; there is one.
pub(super) const ENGINE: (&str, &str) = ("engine", "0");

/// The metrics of one model, and the observer of its engine.
pub struct ModelMetrics {
    paging: Arc<PagingMetrics>,
    running: Gauge,
    waiting: Gauge,
    kv_usage: Gauge,
    prefix_queries: Counter,
    prefix_hits: Counter,
    prefix_blocks: Gauge,
    preemptions: Counter,
    prompt_tokens: Counter,
    generation_tokens: Counter,
    /// In the order of [`FINISHED_REASONS`].
    finished: Vec<Counter>,
    first_token: Histogram,
    next_token: Histogram,
    end_to_end: Histogram,
    queue: Histogram,
    inference: Histogram,
    prefill: Histogram,
    decode: Histogram,
    request_prompt_tokens: Histogram,
    request_generation_tokens: Histogram,
    request_longest: Histogram,
    request_max_tokens: Histogram,
    request_n: Histogram,
    iteration_tokens: Histogram,
}

impl ModelMetrics {
    pub(crate) fn new(name: &str, registry: &Registry, paging: &Arc<PagingMetrics>) -> Self {
        let common = [("model_name", name), ENGINE];
        for metric in CATALOGUE.iter().filter(|metric| metric.per_model) {
            registry.register(metric, &common);
        }
        let gauge = |name| registry.gauge(name, &common);
        let counter = |name| registry.counter(name, &common);
        let histogram = |name| registry.histogram(name, &common);
        let finished = |reason: &&str| {
            let labels = [common[0], common[1], ("finished_reason", *reason)];
            registry.counter("vllm:request_success_total", &labels)
        };
        Self {
            paging: Arc::clone(paging),
            running: gauge("vllm:num_requests_running"),
            waiting: gauge("vllm:num_requests_waiting"),
            kv_usage: gauge("vllm:kv_cache_usage_perc"),
            prefix_queries: counter("vllm:prefix_cache_queries_total"),
            prefix_hits: counter("vllm:prefix_cache_hits_total"),
            prefix_blocks: registry.gauge("odmoe_prefix_cache_blocks", &[]),
            preemptions: counter("vllm:num_preemptions_total"),
            prompt_tokens: counter("vllm:prompt_tokens_total"),
            generation_tokens: counter("vllm:generation_tokens_total"),
            finished: FINISHED_REASONS.iter().map(finished).collect(),
            first_token: histogram("vllm:time_to_first_token_seconds"),
            next_token: histogram("vllm:inter_token_latency_seconds"),
            end_to_end: histogram("vllm:e2e_request_latency_seconds"),
            queue: histogram("vllm:request_queue_time_seconds"),
            inference: histogram("vllm:request_inference_time_seconds"),
            prefill: histogram("vllm:request_prefill_time_seconds"),
            decode: histogram("vllm:request_decode_time_seconds"),
            request_prompt_tokens: histogram("vllm:request_prompt_tokens"),
            request_generation_tokens: histogram("vllm:request_generation_tokens"),
            request_longest: histogram("vllm:request_max_num_generation_tokens"),
            request_max_tokens: histogram("vllm:request_params_max_tokens"),
            request_n: histogram("vllm:request_params_n"),
            iteration_tokens: histogram("vllm:iteration_tokens_total"),
        }
    }

    /// Counts an accepted request.
    pub(crate) fn record_request(&self, prompt_tokens: usize, answers: u32, max_tokens: u32) {
        self.prompt_tokens.increment(prompt_tokens as u64);
        self.request_prompt_tokens.record(prompt_tokens as f64);
        self.request_n.record(f64::from(answers));
        self.request_max_tokens.record(f64::from(max_tokens));
    }

    /// A text to embed was accepted.
    pub(crate) fn record_text(&self, tokens: usize) {
        self.prompt_tokens.increment(tokens as u64);
        self.request_prompt_tokens.record(tokens as f64);
    }

    /// The gauges after a step, or at a scrape.
    pub fn set_gauges(&self, gauges: &EngineGauges) {
        self.running.set(gauges.running as f64);
        self.waiting.set(gauges.waiting as f64);
        self.kv_usage
            .set(gauges.kv_blocks_used as f64 / gauges.kv_blocks.max(1) as f64);
        self.prefix_blocks.set(gauges.kv_blocks_remembered as f64);
        self.paging.set_gauges(&gauges.store);
    }
}

impl EngineObserver for ModelMetrics {
    fn record(&self, event: &EngineEvent) {
        match event {
            EngineEvent::Store(event) => self.paging.record(event),
            EngineEvent::ExpertStall { seconds } => self.paging.record_stall(*seconds),
            EngineEvent::Step { tokens, .. } => self.iteration_tokens.record(*tokens as f64),
            EngineEvent::Preempted => self.preemptions.increment(1),
            EngineEvent::PrefixLookups(lookups) => {
                self.prefix_queries.increment(lookups.queried as u64);
                self.prefix_hits.increment(lookups.found as u64);
            }
            EngineEvent::Prediction { chosen, predicted } => {
                self.paging.record_prediction(*chosen, *predicted);
            }
            EngineEvent::Gauges(gauges) => self.set_gauges(gauges),
            _ => {}
        }
    }
}

/// How a sequence ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SequenceEnd {
    Stop,
    Length,
    Abort,
    Error,
}

impl SequenceEnd {
    /// Into [`FINISHED_REASONS`].
    fn index(self) -> usize {
        match self {
            Self::Stop => 0,
            Self::Length => 1,
            Self::Abort => 2,
            Self::Error => 3,
        }
    }
}

/// The sequences that answer one prompt.
pub(crate) struct Siblings {
    running: AtomicU32,
    longest_tokens: AtomicU64,
}

impl Siblings {
    /// `count` of them, at least one.
    pub(crate) fn new(count: u32) -> Arc<Self> {
        Arc::new(Self {
            running: AtomicU32::new(count),
            longest_tokens: AtomicU64::new(0),
        })
    }

    /// One ended. The length of the longest, if it was the last.
    fn end(&self, tokens: u64) -> Option<u64> {
        self.longest_tokens.fetch_max(tokens, Ordering::AcqRel);
        let was_last = self.running.fetch_sub(1, Ordering::AcqRel) == 1;
        was_last.then(|| self.longest_tokens.load(Ordering::Acquire))
    }
}

/// Times one sequence, on the engine's thread, so that a slow client does not count as a slow engine.
pub(crate) struct SequenceMeter {
    metrics: Arc<ModelMetrics>,
    siblings: Arc<Siblings>,
    arrived: Instant,
    last_token: Option<Instant>,
    tokens: u64,
    is_over: bool,
}

impl SequenceMeter {
    /// `arrived`: when the HTTP request did.
    pub(crate) fn new(
        metrics: Arc<ModelMetrics>,
        siblings: &Arc<Siblings>,
        arrived: Instant,
    ) -> Self {
        Self {
            metrics,
            siblings: Arc::clone(siblings),
            arrived,
            last_token: None,
            tokens: 0,
            is_over: false,
        }
    }

    pub(crate) fn token(&mut self, now: Instant) {
        match self.last_token.replace(now) {
            None => self.metrics.first_token.record(now - self.arrived),
            Some(last) => self.metrics.next_token.record(now - last),
        }
        self.tokens += 1;
        self.metrics.generation_tokens.increment(1);
    }

    pub(crate) fn end(&mut self, how: SequenceEnd, timings: Option<&RequestTimings>, now: Instant) {
        if std::mem::replace(&mut self.is_over, true) {
            return;
        }
        let metrics = &self.metrics;
        metrics.finished[how.index()].increment(1);
        metrics.end_to_end.record(now - self.arrived);
        metrics.request_generation_tokens.record(self.tokens as f64);
        if let Some(longest) = self.siblings.end(self.tokens) {
            metrics.request_longest.record(longest as f64);
        }
        if let Some(timings) = timings {
            metrics.queue.record(timings.queue);
            metrics.prefill.record(timings.prefill);
            metrics.decode.record(timings.decode);
            metrics.inference.record(timings.prefill + timings.decode);
            metrics
                .paging
                .record_request_stall(timings.expert_stall.as_secs_f64());
        }
    }
}
