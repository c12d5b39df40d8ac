//! What operators scrape.
//!
//! A [`MetricsHandle`] is one registry: nothing global is installed, so a process may have several. Every series that
//! can be known exists at zero from the start, which keeps `rate()` right from the first event on.

mod catalogue;
mod model;
mod paging;
#[cfg(test)]
mod tests;

use catalogue::{CATALOGUE, Kind, LABELLED_LATER, Metric, combinations};
use metrics::{Counter, Gauge, Histogram, Key, Label, Level, Metadata, Recorder};
use metrics_exporter_prometheus::{
    Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};
pub use model::ModelMetrics;
pub(crate) use model::{SequenceEnd, SequenceMeter, Siblings};
use odmoe_engine::EngineConfig;
use paging::PagingMetrics;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How often [`MetricsHandle::upkeep`] should be called.
pub const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

static METADATA: Metadata<'static> =
    Metadata::new(module_path!(), Level::INFO, Some(module_path!()));

/// All metrics of one server. Cloning shares it.
#[derive(Clone)]
pub struct MetricsHandle {
    inner: Arc<Inner>,
}

struct Inner {
    registry: Registry,
    exporter: PrometheusHandle,
    paging: Arc<PagingMetrics>,
    load_progress: Gauge,
    models: Mutex<BTreeMap<String, Arc<ModelMetrics>>>,
}

impl Default for MetricsHandle {
    fn default() -> Self {
        Self::new()
    }
}

impl MetricsHandle {
    /// A registry with every metric that needs no model's name.
    pub fn new() -> Self {
        let registry = Registry::new();
        let exporter = registry.recorder.handle();
        for metric in CATALOGUE.iter().filter(|metric| !metric.per_model) {
            registry.register(metric, &[]);
        }
        let paging = Arc::new(PagingMetrics::new(&registry));
        let load_progress = registry.gauge("odmoe_model_load_progress_ratio", &[]);
        let models = Mutex::default();
        Self {
            inner: Arc::new(Inner {
                registry,
                exporter,
                paging,
                load_progress,
                models,
            }),
        }
    }

    /// The metrics of a model, made at the first call. They are also the observer of its engine.
    pub fn model(&self, name: &str) -> Arc<ModelMetrics> {
        let mut models = self
            .inner
            .models
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = models.get(name) {
            return Arc::clone(known);
        }
        let made = Arc::new(ModelMetrics::new(
            name,
            &self.inner.registry,
            &self.inner.paging,
        ));
        models.insert(name.to_owned(), Arc::clone(&made));
        made
    }

    /// The shape of a model's KV cache.
    pub fn set_cache_config(&self, name: &str, config: &EngineConfig) {
        let block_size = config.kv_block_tokens.to_string();
        let blocks = config.kv_blocks.to_string();
        let labels = [
            ("model_name", name),
            model::ENGINE,
            ("block_size", block_size.as_str()),
            ("num_gpu_blocks", blocks.as_str()),
        ];
        self.inner
            .registry
            .gauge("vllm:cache_config_info", &labels)
            .set(1.0);
    }

    /// How much of loading is done, 0 to 1.
    pub fn set_load_progress(&self, ratio: f64) {
        self.inner.load_progress.set(ratio);
    }

    /// Makes the series of a route, so that they exist before its first request.
    pub(crate) fn declare_route(&self, handler: &str, method: &str, statuses: &[u16]) {
        for status in statuses {
            let (counter, _) = self.http_series(handler, method, *status);
            counter.increment(0);
        }
    }

    /// Counts an ended HTTP request.
    pub(crate) fn count_http(&self, handler: &str, method: &str, status: u16, duration: Duration) {
        let (requests, seconds) = self.http_series(handler, method, status);
        requests.increment(1);
        seconds.record(duration.as_secs_f64());
    }

    /// Counts a request that one of its caller's limits stood against.
    pub(crate) fn count_limited(&self, limit: &str) {
        let labels = [("limit", limit)];
        let counter = self
            .inner
            .registry
            .counter("odmoe_requests_limited_total", &labels);
        counter.increment(1);
    }

    /// What the HTTP surface holds, at a scrape.
    pub(crate) fn set_service_gauges(&self, in_flight: usize, unsent_bytes: usize, tasks: usize) {
        for (name, value) in [
            ("odmoe_requests_in_flight", in_flight),
            ("odmoe_unsent_answer_bytes", unsent_bytes),
            ("odmoe_runtime_tasks", tasks),
        ] {
            self.inner.registry.gauge(name, &[]).set(value as f64);
        }
    }

    fn http_series(&self, handler: &str, method: &str, status: u16) -> (Counter, Histogram) {
        let status = status.to_string();
        let labels = [
            ("handler", handler),
            ("method", method),
            ("status", status.as_str()),
        ];
        let registry = &self.inner.registry;
        (
            registry.counter("http_requests_total", &labels),
            registry.histogram("http_request_duration_seconds", &labels),
        )
    }

    /// The text that Prometheus scrapes.
    pub fn render(&self) -> String {
        self.inner.exporter.render()
    }

    /// Moves recorded samples into their buckets; without it they pile up between scrapes.
    pub fn upkeep(&self) {
        self.inner.exporter.run_upkeep();
    }
}

/// Makes series.
pub(crate) struct Registry {
    recorder: PrometheusRecorder,
}

impl Registry {
    fn new() -> Self {
        let mut builder = PrometheusBuilder::new();
        for metric in CATALOGUE.iter().chain(LABELLED_LATER) {
            if let Kind::Histogram(buckets) = metric.kind {
                let name = Matcher::Full(metric.name.to_owned());
                builder = builder
                    .set_buckets_for_metric(name, buckets)
                    .expect("not empty");
            }
        }
        let recorder = builder.build_recorder();
        for metric in CATALOGUE.iter().chain(LABELLED_LATER) {
            let (name, help) = (metric.name.into(), metric.help.into());
            match metric.kind {
                Kind::Counter => recorder.describe_counter(name, None, help),
                Kind::Gauge => recorder.describe_gauge(name, None, help),
                Kind::Histogram(_) => recorder.describe_histogram(name, None, help),
            }
        }
        Self { recorder }
    }

    /// Makes all series of a metric, at zero.
    fn register(&self, metric: &Metric, common: &[(&str, &str)]) {
        for values in combinations(metric.labels) {
            let labels: Vec<_> = common.iter().copied().chain(values).collect();
            match metric.kind {
                Kind::Counter => self.counter(metric.name, &labels).increment(0),
                Kind::Gauge => self.gauge(metric.name, &labels).set(0.0),
                Kind::Histogram(_) => drop(self.histogram(metric.name, &labels)),
            }
        }
    }

    fn counter(&self, name: &'static str, labels: &[(&str, &str)]) -> Counter {
        self.recorder
            .register_counter(&key(name, labels), &METADATA)
    }

    fn gauge(&self, name: &'static str, labels: &[(&str, &str)]) -> Gauge {
        self.recorder.register_gauge(&key(name, labels), &METADATA)
    }

    fn histogram(&self, name: &'static str, labels: &[(&str, &str)]) -> Histogram {
        self.recorder
            .register_histogram(&key(name, labels), &METADATA)
    }
}

fn key(name: &'static str, labels: &[(&str, &str)]) -> Key {
    let known = CATALOGUE
        .iter()
        .chain(LABELLED_LATER)
        .any(|metric| metric.name == name);
    debug_assert!(known, "{name} is not in the catalogue");
    let labels: Vec<Label> = labels
        .iter()
        .map(|(k, v)| Label::new((*k).to_owned(), (*v).to_owned()))
        .collect();
    Key::from_parts(name, labels)
}
