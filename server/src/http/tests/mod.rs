//! The routes over real sockets, against a scripted engine.

mod access;
mod advisories;
mod anthropic;
mod background;
mod cancellation;
mod client;
mod echo;
mod embeddings;
mod errors;
pub(super) mod fake;
mod hostile;
mod lifecycle;
mod limits;
mod log;
mod responses;
mod service;
mod stored_responses;
mod streaming;
mod structured;
mod time;
mod tls;
mod tokens;
mod tools;
mod traces;
mod usage;
mod whole;

use super::{HttpConfig, serve_until};
use crate::grammars::Grammars;
use crate::metrics::MetricsHandle;
use crate::model::recorder::Recorder;
use crate::state::{ModelSlot, SamplingDefaults, ServedModel};
use client::{Call, Connection, Reply};
use fake::{Act, FakeEngine};
use odmoe_engine::Request;
use serde_json::{Value, json};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";

/// A server on a port of its own.
struct Server {
    address: SocketAddr,
    engine: Arc<FakeEngine>,
    slot: ModelSlot,
    metrics: MetricsHandle,
    stop: mpsc::Sender<()>,
    serving: JoinHandle<io::Result<()>>,
}

impl Server {
    /// With a model whose answers follow the script.
    async fn start(script: impl Fn(&Request) -> Vec<Act> + Send + Sync + 'static) -> Self {
        Self::with(HttpConfig::default(), FakeEngine::new(script)).await
    }

    /// With a model that always says the same.
    async fn saying(text: &str) -> Self {
        let acts = fake::says(text);
        Self::start(move |_| acts.clone()).await
    }

    async fn with(config: HttpConfig, engine: FakeEngine) -> Self {
        let server = Self::loading(config, engine).await;
        server.set_ready();
        server
    }

    /// Without a model yet.
    async fn loading(config: HttpConfig, engine: FakeEngine) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (slot, metrics) = (ModelSlot::new(), MetricsHandle::new());
        let (stop, stops) = mpsc::channel(2);
        let serving = tokio::spawn(serve_until(
            listener,
            config,
            slot.clone(),
            metrics.clone(),
            stops,
        ));
        Self {
            address,
            engine: Arc::new(engine),
            slot,
            metrics,
            stop,
            serving,
        }
    }

    fn set_ready(&self) {
        self.slot.set_ready(Arc::new(ServedModel {
            name: "tiny/moe".into(),
            engine: Arc::new(Arc::clone(&self.engine)),
            tokenizer: fake::tokenizer(),
            template: Some(fake::template()),
            sampling_defaults: SamplingDefaults {
                top_k: Some(20),
                ..Default::default()
            },
            end_ids: vec![fake::END],
            context_tokens: fake::CONTEXT,
            capacity_answers: self.engine.queue_limit(),
            vocabulary: fake::VOCABULARY,
            grammars: Grammars::new(fake::tokenizer(), fake::VOCABULARY, vec![fake::END]),
            budget: Some(Arc::new(self.engine.live_budget())),
            embedding_width: fake::WIDTH,
            recorder: Recorder::new(&[2, 2], Arc::new(fake::Nobody)),
            created_unix_s: 1_700_000_000,
        }));
    }

    async fn get(&self, path: &str) -> Reply {
        Call::new("GET", path).send(self.address).await
    }

    async fn post(&self, path: &str, body: Value) -> Reply {
        Call::new("POST", path).json(body).send(self.address).await
    }

    async fn open(&self, path: &str, body: Value) -> Connection {
        Call::new("POST", path).json(body).open(self.address).await
    }

    /// The value of one series.
    fn metric(&self, series: &str) -> f64 {
        let text = self.metrics.render();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {series} in\n{text}"))
            .parse()
            .unwrap()
    }
}

/// A chat request that says hello, with more fields.
fn chat(more: Value) -> Value {
    with(
        json!({"model": "tiny/moe", "messages": [{"role": "user", "content": "hi"}]}),
        more,
    )
}

fn completion(more: Value) -> Value {
    with(json!({"model": "tiny/moe", "prompt": "hi"}), more)
}

fn with(mut body: Value, more: Value) -> Value {
    let more = more.as_object().unwrap().clone();
    body.as_object_mut().unwrap().extend(more);
    body
}

/// A body with what differs from run to run replaced.
fn settled(body: &str) -> String {
    let mut text = body.to_owned();
    for (start, end, name) in [("\"id\":\"", "\"", "ID"), ("\"created\":", ",", "TIME")] {
        let pieces: Vec<&str> = text.split(start).collect();
        let rest = pieces[1..].iter().map(|piece| {
            let (_, after) = piece.split_once(end).unwrap();
            format!("{start}{name}{end}{after}")
        });
        text = std::iter::once(pieces[0].to_owned()).chain(rest).collect();
    }
    text.replace(concat!("odmoe-", env!("CARGO_PKG_VERSION")), "BUILD")
}
