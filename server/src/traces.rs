//! Traces: a span for each HTTP request, and for what it waited for, sent to a collector by OTLP over HTTP.
//!
//! Spans are made when a request has ended, from what its record holds: nothing is traced while it runs, and nothing of
//! what it says is in them. Sending has a thread of its own; where the collector does not keep up, spans are dropped.

use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::{Span, SpanKind, Status, TraceContextExt, Tracer, TracerProvider};
use opentelemetry::{Context, KeyValue};
use opentelemetry_http::{Bytes, HeaderExtractor, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};
use std::time::{Duration, SystemTime};

/// For one export, and for the last one at the end.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);

/// Why traces cannot be sent.
#[derive(Debug, thiserror::Error)]
pub enum TracesError {
    /// The address is of another kind.
    #[error(
        "{0:?} is no collector's address; write http://HOST:4318, or put a collector beside the server that speaks TLS"
    )]
    Address(String),
    /// The exporter refuses its settings.
    #[error("traces cannot be sent: {0}")]
    Setup(String),
}

/// Where spans go. Cloning shares it.
#[derive(Clone)]
pub struct Traces {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
    propagator: TraceContextPropagator,
}

/// A request that has ended.
pub(crate) struct EndedRequest<'a> {
    pub(crate) parent: Context,
    pub(crate) method: &'static str,
    /// The route's pattern, never what a client made up.
    pub(crate) route: &'a str,
    pub(crate) status: u16,
    pub(crate) duration: Duration,
    pub(crate) attributes: Vec<KeyValue>,
    /// What it waited for one after the other, with the times from its arrival.
    pub(crate) phases: Vec<(&'static str, Duration, Duration)>,
}

impl Traces {
    /// To a collector such as `http://127.0.0.1:4318`.
    pub fn to(collector: &str) -> Result<Self, TracesError> {
        let base = collector.trim().trim_end_matches('/');
        if base.strip_prefix("http://").is_none_or(str::is_empty) {
            return Err(TracesError::Address(collector.to_owned()));
        }
        let agent = ureq::Agent::config_builder()
            .timeout_global(Some(EXPORT_TIMEOUT))
            .http_status_as_error(false)
            .proxy(None)
            .build();
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(Sender(agent.into()))
            .with_endpoint(format!("{base}/v1/traces"))
            .with_timeout(EXPORT_TIMEOUT)
            .build()
            .map_err(|error| TracesError::Setup(error.to_string()))?;
        let resource = Resource::builder()
            .with_service_name("odmoe")
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .build();
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_resource(resource)
            .build();
        Ok(Self {
            tracer: provider.tracer("odmoe"),
            provider,
            propagator: TraceContextPropagator::new(),
        })
    }

    /// The trace that the client's `traceparent` says the request belongs to; a new one without.
    pub(crate) fn parent(&self, headers: &axum::http::HeaderMap) -> Context {
        self.propagator
            .extract_with_context(&Context::new(), &HeaderExtractor(headers))
    }

    pub(crate) fn record(&self, request: EndedRequest<'_>) {
        let end = SystemTime::now();
        let start = end.checked_sub(request.duration).unwrap_or(end);
        let mut attributes = request.attributes;
        attributes.extend([
            KeyValue::new("http.request.method", request.method),
            KeyValue::new("http.route", request.route.to_owned()),
            KeyValue::new("http.response.status_code", i64::from(request.status)),
        ]);
        let mut span = self
            .tracer
            .span_builder(format!("{} {}", request.method, request.route))
            .with_kind(SpanKind::Server)
            .with_start_time(start)
            .with_attributes(attributes)
            .start_with_context(&self.tracer, &request.parent);
        if request.status >= 500 {
            span.set_status(Status::error("server error"));
        }
        let inside = request
            .parent
            .with_remote_span_context(span.span_context().clone());
        for (name, from, to) in request.phases {
            let phase = self.tracer.span_builder(name).with_start_time(start + from);
            let mut phase = phase.start_with_context(&self.tracer, &inside);
            phase.end_with_timestamp(start + to);
        }
        span.end_with_timestamp(end);
    }

    /// Sends what is left. Blocks, for some seconds at most.
    pub fn shutdown(&self) {
        if let Err(error) = self.provider.shutdown_with_timeout(EXPORT_TIMEOUT) {
            tracing::warn!(%error, "the last traces were not sent");
        }
    }
}

/// Posts from the exporter's own thread, so it may block.
#[derive(Debug)]
struct Sender(ureq::Agent);

#[async_trait::async_trait]
impl HttpClient for Sender {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (parts, body) = request.into_parts();
        let reply = self.0.run(Request::from_parts(parts, body.to_vec()))?;
        let (parts, mut body) = reply.into_parts();
        Ok(Response::from_parts(parts, body.read_to_vec()?.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collector_is_an_http_address() {
        for wrong in ["", "127.0.0.1:4318", "https://collector", "http://"] {
            let error = Traces::to(wrong).err().unwrap().to_string();
            assert!(error.contains("4318"), "{error}");
        }
    }
}
