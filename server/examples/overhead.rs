//! What the server costs beside the engine: requests a second, latency and time to the first byte, against an engine that
//! answers at once. Clients run in the same process and share its processors, so the figures are an upper bound.
//!
//! `cargo run --release -p odmoe --example overhead -- FOLDER [SECONDS]`, where FOLDER holds `tokenizer.json` and
//! `chat_template.jinja`. Prints a Markdown table.
#![forbid(unsafe_code)]

use odmoe_engine::{
    ClientId, EmbeddingRequest, EmbeddingSink, EngineEvent, EngineGauges, EngineObserver,
    FinishReason, ReportSink, Request, RequestId, RequestTimings, SubmitError, TokenEvent,
    TokenSink,
};
use odmoe_expert_store::{StoreGauges, StoreHealth};
use odmoe_server::grammars::Grammars;
use odmoe_server::http::{Generator, HttpConfig, Timeouts, serve_until};
use odmoe_server::metrics::MetricsHandle;
use odmoe_server::model::recorder::Recorder;
use odmoe_server::state::{ModelSlot, SamplingDefaults, ServedModel};
use odmoe_text::{ChatTemplate, Tokenizer};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

const NEW_TOKENS: u32 = 32;
const VOCABULARY: usize = 4096;
const CLIENTS: [usize; 3] = [1, 16, 64];
/// Threads of the server's runtime, as `odmoe serve` has.
const RUNTIME_THREADS: usize = 2;

/// Says the same token until it may not say more, before `submit` returns.
struct Instantly(AtomicU64);

impl Generator for Instantly {
    fn submit(
        &self,
        request: Request,
        mut sink: Box<dyn TokenSink>,
    ) -> Result<RequestId, SubmitError> {
        for token in 0..request.max_new_tokens {
            let token = 300 + token % 64;
            sink.emit(TokenEvent::Token {
                token,
                logprobs: None,
            });
        }
        sink.emit(TokenEvent::Finished {
            reason: FinishReason::Length,
            timings: RequestTimings::default(),
        });
        Ok(RequestId(self.0.fetch_add(1, Ordering::Relaxed)))
    }

    fn score(
        &self,
        _: ClientId,
        _: Vec<u32>,
        _: Vec<u32>,
        _: u32,
        _: Box<dyn TokenSink>,
    ) -> Result<RequestId, SubmitError> {
        Err(SubmitError::ShuttingDown)
    }

    fn embed(
        &self,
        _: EmbeddingRequest,
        _: Box<dyn EmbeddingSink>,
    ) -> Result<RequestId, SubmitError> {
        Err(SubmitError::ShuttingDown)
    }

    fn cancel(&self, _: RequestId) {}

    fn gauges(&self) -> EngineGauges {
        EngineGauges {
            running: 0,
            waiting: 0,
            kv_blocks_used: 0,
            kv_blocks_remembered: 0,
            kv_blocks: 1,
            store: StoreGauges::default(),
            health: StoreHealth::Healthy,
        }
    }

    fn report_experts(&self, _: ReportSink) {}

    fn is_alive(&self) -> bool {
        true
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().ok_or("usage: overhead FOLDER [SECONDS]")?;
    let seconds: f64 = arguments.next().map_or(Ok(3.0), |text| text.parse())?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(RUNTIME_THREADS)
        .enable_all()
        .build()?;
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))?;
    let address = listener.local_addr()?;
    let slot = ModelSlot::new();
    slot.set_ready(Arc::new(model(Path::new(&folder))?));
    let (_stop, stops) = mpsc::channel(1);
    let config = HttpConfig {
        timeouts: Timeouts::default(),
        ..HttpConfig::default()
    };
    runtime.spawn(serve_until(
        listener,
        config,
        slot,
        MetricsHandle::new(),
        stops,
    ));
    println!("| request | clients | requests/s | first byte, p50 / p99 | whole, p50 / p99 |");
    println!("|---|---|---|---|---|");
    for (name, request) in [
        ("`GET /health`", get("/health")),
        ("chat, whole", chat(false)),
        ("chat, streamed", chat(true)),
    ] {
        for clients in CLIENTS {
            let measured = measure(address, &request, clients, Duration::from_secs_f64(seconds))?;
            println!("| {name} | {clients} | {measured} |");
        }
    }
    Ok(())
}

/// Listens to nothing.
struct Nobody;

impl EngineObserver for Nobody {
    fn record(&self, _: &EngineEvent) {}
}

fn model(folder: &Path) -> Result<ServedModel, Box<dyn std::error::Error>> {
    let tokenizer = Tokenizer::from_json(&std::fs::read(folder.join("tokenizer.json"))?)?;
    let template = std::fs::read_to_string(folder.join("chat_template.jinja"))?;
    Ok(ServedModel {
        budget: None,
        grammars: Grammars::new(tokenizer.clone(), VOCABULARY, Vec::new()),
        name: "instant".into(),
        engine: Arc::new(Instantly(AtomicU64::new(0))),
        tokenizer,
        template: Some(ChatTemplate::compile(&template, &BTreeMap::new())?),
        sampling_defaults: SamplingDefaults::default(),
        end_ids: Vec::new(),
        context_tokens: 4096,
        capacity_answers: 1024,
        vocabulary: VOCABULARY,
        embedding_width: 1,
        recorder: Recorder::new(&[], Arc::new(Nobody)),
        created_unix_s: 0,
    })
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n")
}

fn chat(stream: bool) -> String {
    let body = format!(
        "{{\"messages\":[{{\"role\":\"user\",\"content\":\"What color is the sky?\"}}],\"max_tokens\":{NEW_TOKENS},\
         \"stream\":{stream}}}"
    );
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Seconds of each request.
#[derive(Default)]
struct Measured {
    first_byte: Vec<f64>,
    whole: Vec<f64>,
    seconds: f64,
}

impl std::fmt::Display for Measured {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let of = |times: &[f64]| {
            let mut times = times.to_vec();
            times.sort_by(f64::total_cmp);
            let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize] * 1e3;
            format!("{:.2} / {:.2} ms", at(0.5), at(0.99))
        };
        let rate = self.whole.len() as f64 / self.seconds;
        write!(
            f,
            "{rate:.0} | {} | {}",
            of(&self.first_byte),
            of(&self.whole)
        )
    }
}

/// Each client sends its next request when it has its answer.
fn measure(
    address: SocketAddr,
    request: &str,
    clients: usize,
    time: Duration,
) -> std::io::Result<Measured> {
    let begin = Instant::now();
    let one = || -> std::io::Result<Measured> {
        let mut connection = TcpStream::connect(address)?;
        connection.set_nodelay(true)?;
        let mut times = Measured::default();
        while begin.elapsed() < time {
            let start = Instant::now();
            connection.write_all(request.as_bytes())?;
            times.first_byte.push(answer(&mut connection, start)?);
            times.whole.push(start.elapsed().as_secs_f64());
        }
        Ok(times)
    };
    let all: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..clients).map(|_| scope.spawn(one)).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("no client panics"))
            .collect()
    });
    let mut sum = Measured {
        seconds: begin.elapsed().as_secs_f64(),
        ..Measured::default()
    };
    for times in all {
        let times = times?;
        sum.first_byte.extend(times.first_byte);
        sum.whole.extend(times.whole);
    }
    Ok(sum)
}

/// Reads one answer; returns the seconds until the body's first byte.
fn answer(connection: &mut TcpStream, start: Instant) -> std::io::Result<f64> {
    let (mut received, mut buffer) = (Vec::new(), [0; 16 << 10]);
    let mut first_byte = None;
    loop {
        let count = connection.read(&mut buffer)?;
        if count == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        received.extend_from_slice(&buffer[..count]);
        let Some(head) = received.windows(4).position(|window| window == b"\r\n\r\n") else {
            continue;
        };
        let body = head + 4;
        if received.len() > body {
            first_byte.get_or_insert_with(|| start.elapsed().as_secs_f64());
        }
        let head = String::from_utf8_lossy(&received[..head]).to_ascii_lowercase();
        assert!(head.starts_with("http/1.1 200"), "{head}");
        let length = head
            .split_once("content-length: ")
            .and_then(|(_, rest)| rest.lines().next());
        let is_whole = match length.and_then(|length| length.trim().parse::<usize>().ok()) {
            Some(length) => received.len() == body + length,
            None => received.ends_with(b"0\r\n\r\n"),
        };
        if is_whole {
            return Ok(first_byte.unwrap_or_else(|| start.elapsed().as_secs_f64()));
        }
    }
}
