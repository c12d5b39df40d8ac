//! Sixty-four clients that stream, vanish, stall and send rubbish, for a minute or as long as `ODMOE_SOAK_SECONDS` says:
//! every request ends once, memory stays where it was half-way, and no descriptor and no task is left behind.

use odmoe_tests::fuzzing::mutate::Random;
use odmoe_tests::process::{eventually, open_descriptors, resident_bytes};
use odmoe_tests::requests::{Wanted, mutated, send, valid};
use odmoe_tests::{Client, Server, ServerOptions, metrics};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Mutex;
use std::time::{Duration, Instant};

const CLIENTS: u64 = 64;
const SECONDS: u64 = 60;
/// What memory may have grown by from the middle to the end.
const GROWTH: f64 = 1.05;
/// Longer than any answer takes: reaching it is a hang.
const HANG: Duration = Duration::from_secs(120);

/// How often clients did what, and how it ended.
type Counts = Mutex<BTreeMap<&'static str, u64>>;

#[test]
fn clients_that_behave_badly_leave_nothing_behind() {
    let seconds = std::env::var("ODMOE_SOAK_SECONDS");
    let seconds: u64 = seconds.map_or(SECONDS, |text| text.parse().expect("a number of seconds"));
    let server = Server::start(&ServerOptions::with([
        "--expert-cache",
        "25%",
        "--kv-cache",
        "2048",
    ]));
    let pid = server.child.id();
    // Whatever is made once is made now.
    for _ in 0..4 {
        streamed(server.port, 8);
    }
    let before = at_rest(&server.client);
    let descriptors_before = open_descriptors(pid).expect("the server runs");
    let (counts, begin) = (Counts::default(), Instant::now());
    let end = begin + Duration::from_secs(seconds);
    let memory = std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (counts, port) = (&counts, server.port);
            scope.spawn(move || behave(port, client, end, counts));
        }
        watch_memory(pid, end)
    });
    let after = at_rest(&server.client);
    let counts = counts.into_inner().expect("no client panicked");
    let (middle, last) = (around(&memory, 0.5), around(&memory, 1.0));
    println!("{seconds} s: {counts:?}");
    println!(
        "answers {} begun, {} ended; memory {middle:.1} MiB half-way, {last:.1} MiB at the end; {} tasks",
        after.begun, after.ended, after.tasks
    );
    assert_eq!(
        after.begun - before.begun,
        after.ended - before.ended,
        "every answer ends once"
    );
    assert!(
        after.begun > before.begun + seconds as f64,
        "hardly anything was answered"
    );
    assert!(last <= middle * GROWTH, "memory grew: {memory:?}");
    eventually("tasks and descriptors as before", || {
        let descriptors = open_descriptors(pid).expect("the server runs");
        let tasks = at_rest(&server.client).tasks;
        (descriptors <= descriptors_before && tasks <= before.tasks).then_some(())
    });
}

/// What an idle server says of itself.
struct Rest {
    begun: f64,
    ended: f64,
    tasks: f64,
}

#[track_caller]
fn at_rest(client: &Client) -> Rest {
    eventually("gauges at rest", || {
        let text = client.get("/metrics").expect(200).body;
        let sum = |name: &str| metrics::sum(&text, name, &[]);
        let busy = [
            "vllm:num_requests_running",
            "vllm:num_requests_waiting",
            "vllm:kv_cache_usage_perc",
            "odmoe_requests_in_flight",
            "odmoe_unsent_answer_bytes",
            "odmoe_expert_cache_pinned_bytes",
        ];
        busy.iter().all(|name| sum(name) == 0.0).then(|| Rest {
            begun: sum("vllm:request_params_n_sum"),
            ended: sum("vllm:request_success_total"),
            tasks: sum("odmoe_runtime_tasks"),
        })
    })
}

/// Resident MiB, several times a second until `end`.
fn watch_memory(pid: u32, end: Instant) -> Vec<f64> {
    let mut memory = Vec::new();
    while Instant::now() < end {
        let bytes = resident_bytes(pid).expect("the server runs");
        memory.push(bytes as f64 / f64::from(1 << 20));
        std::thread::sleep(Duration::from_millis(200));
    }
    memory
}

/// The median of a tenth of the samples, around the middle or at the end.
fn around(memory: &[f64], place: f64) -> f64 {
    let width = (memory.len() / 10).max(1);
    let first = ((memory.len() - width) as f64 * place) as usize;
    let mut window = memory[first..first + width].to_vec();
    window.sort_by(f64::total_cmp);
    window[width / 2]
}

fn behave(port: u16, client: u64, end: Instant, counts: &Counts) {
    let mut random = Random(client << 32 | 6);
    let requests: Vec<Wanted> = valid()
        .into_iter()
        .filter(|w| w.target.ends_with("/chat/completions"))
        .collect();
    while Instant::now() < end {
        let what = match random.below(8) {
            0 | 1 => streamed(port, 1 + random.below(40)),
            2 => whole(port, 1 + random.below(40)),
            3 => vanish(port, random.below(2000)),
            4 => stall(port, Duration::from_millis(random.below(3000) as u64)),
            5 => half_sent(port, random.below(200)),
            6 => rubbish(port, &requests, &mut random),
            _ => probe(port),
        };
        *counts
            .lock()
            .expect("no client panicked")
            .entry(what)
            .or_default() += 1;
        if what == "refused" {
            std::thread::sleep(Duration::from_millis(random.below(500) as u64));
        }
    }
}

fn request(max_tokens: usize, stream: bool) -> Vec<u8> {
    let body = format!(
        "{{\"messages\":[{{\"role\":\"user\",\"content\":\"Tell me a story.\"}}],\"max_tokens\":{max_tokens},\
         \"temperature\":1,\"ignore_eos\":true,\"stream\":{stream}}}"
    );
    let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n";
    format!(
        "{head}content-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

fn open(port: u16, bytes: &[u8]) -> TcpStream {
    let mut connection = TcpStream::connect(("127.0.0.1", port)).expect("the server listens");
    connection
        .set_read_timeout(Some(HANG))
        .expect("a time-out can be set");
    connection.write_all(bytes).expect("the server reads");
    connection
}

fn finish(mut connection: TcpStream, mut received: Vec<u8>) -> String {
    connection
        .read_to_end(&mut received)
        .expect("the answer ends");
    String::from_utf8_lossy(&received).into_owned()
}

/// What a whole stream is, or that it was refused because the server is busy.
fn judge_stream(reply: &str) -> &'static str {
    if reply.starts_with("HTTP/1.1 429") {
        return "refused";
    }
    assert!(reply.starts_with("HTTP/1.1 200"), "{reply}");
    assert_eq!(reply.matches("data: [DONE]").count(), 1, "{reply}");
    assert_eq!(
        reply.matches("\"finish_reason\":\"length\"").count(),
        1,
        "{reply}"
    );
    "streamed"
}

fn streamed(port: u16, max_tokens: usize) -> &'static str {
    judge_stream(&finish(open(port, &request(max_tokens, true)), Vec::new()))
}

fn whole(port: u16, max_tokens: usize) -> &'static str {
    let reply = finish(open(port, &request(max_tokens, false)), Vec::new());
    if reply.starts_with("HTTP/1.1 429") {
        return "refused";
    }
    assert!(
        reply.starts_with("HTTP/1.1 200") && reply.ends_with('}'),
        "{reply}"
    );
    "whole"
}

/// Reads so many bytes of a long stream and is gone.
fn vanish(port: u16, bytes: usize) -> &'static str {
    let mut connection = open(port, &request(400, true));
    let mut some = vec![0; bytes];
    // It may have been refused, and then there is less to read.
    let _ = connection.read_exact(&mut some);
    "vanished"
}

/// Reads a little, then nothing for a while, then the rest.
fn stall(port: u16, pause: Duration) -> &'static str {
    let mut connection = open(port, &request(60, true));
    let mut some = vec![0; 64];
    let count = connection.read(&mut some).expect("an answer begins");
    some.truncate(count);
    std::thread::sleep(pause);
    match judge_stream(&finish(connection, some)) {
        "streamed" => "stalled",
        other => other,
    }
}

/// Sends the beginning of a request and is gone.
fn half_sent(port: u16, bytes: usize) -> &'static str {
    let request = request(8, true);
    drop(open(port, &request[..bytes.min(request.len() - 1)]));
    "half sent"
}

fn rubbish(port: u16, requests: &[Wanted], random: &mut Random) -> &'static str {
    let (bytes, is_http) = mutated(requests, random);
    let answer = send(port, &bytes, is_http);
    assert!(
        answer.status.is_none_or(|status| status < 500),
        "{}",
        String::from_utf8_lossy(&bytes)
    );
    "rubbish"
}

fn probe(port: u16) -> &'static str {
    let head = "GET /ready HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    let reply = finish(open(port, head.as_bytes()), Vec::new());
    assert!(reply.starts_with("HTTP/1.1 200"), "{reply}");
    "probe"
}
