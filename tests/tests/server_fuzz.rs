//! Ten thousand mutated requests: no 5xx, no hang, every error in its shape, and the server at rest afterwards.
//!
//! `ODMOE_FUZZ_SEED=n` begins elsewhere, `ODMOE_FUZZ_REQUESTS=n` sends another number.

use odmoe_tests::client::answer;
use odmoe_tests::fuzzing::mutate::Random;
use odmoe_tests::process::eventually;
use odmoe_tests::requests::{mutated, send, valid};
use odmoe_tests::{Server, ServerOptions, metrics};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Mutex;

const REQUESTS: u64 = 10_000;
const THREADS: u64 = 4;

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().expect("a number"))
}

#[test]
fn mutated_requests_hurt_nobody() {
    // Answers are short where little fits, whatever a mutation asks for.
    let server = Server::start(&ServerOptions::with([
        "--kv-cache",
        "256",
        "--expert-cache",
        "50%",
    ]));
    let right = answer(&server.client.complete_tokens(&[954, 671, 261], 8));
    let (seed, requests) = (
        number("ODMOE_FUZZ_SEED", 6),
        number("ODMOE_FUZZ_REQUESTS", REQUESTS),
    );
    let statuses: Mutex<BTreeMap<u16, u64>> = Mutex::default();
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let statuses = &statuses;
            let port = server.port;
            scope.spawn(move || {
                for nth in (thread..requests).step_by(THREADS as usize) {
                    let status = one(port, seed, nth);
                    *statuses
                        .lock()
                        .expect("no thread panicked")
                        .entry(status)
                        .or_default() += 1;
                }
            });
        }
    });
    let statuses = statuses.into_inner().expect("no thread panicked");
    println!("{statuses:?}");
    let share = |status: u16| statuses.get(&status).copied().unwrap_or(0) * 100 / requests.max(1);
    assert!(
        (15..90).contains(&share(200)) && share(400) >= 5,
        "the mutations miss their aim: {statuses:?}"
    );
    eventually("gauges at rest", || {
        let text = server.client.get("/metrics").expect(200).body;
        let busy = [
            "vllm:num_requests_running",
            "vllm:num_requests_waiting",
            "vllm:kv_cache_usage_perc",
            "odmoe_expert_cache_pinned_bytes",
            "odmoe_requests_in_flight",
            "odmoe_unsent_answer_bytes",
        ];
        busy.iter()
            .all(|gauge| metrics::sum(&text, gauge, &[]) == 0.0)
            .then_some(())
    });
    assert_eq!(
        answer(&server.client.complete_tokens(&[954, 671, 261], 8)),
        right
    );
}

/// Sends the `nth` mutation; returns the status, 0 where a request that was no HTTP got none.
fn one(port: u16, seed: u64, nth: u64) -> u16 {
    let mut random = Random(seed.rotate_left(32) ^ nth);
    let (bytes, is_http) = mutated(&valid(), &mut random);
    let answer = send(port, &bytes, is_http);
    let shown = || {
        format!(
            "seed {seed}, request {nth}: {}",
            String::from_utf8_lossy(&bytes)
        )
    };
    let received = String::from_utf8_lossy(&answer.bytes);
    let Some(status) = answer.status else {
        assert!(!is_http, "no answer to {}", shown());
        return 0;
    };
    assert!(status < 500, "{} got {received}", shown());
    if is_http && status >= 400 && !bytes.starts_with(b"HEAD") {
        let body = received.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        let body: Value = serde_json::from_str(body)
            .unwrap_or_else(|e| panic!("{e}: {} got {received}", shown()));
        let message = body["error"]["message"].as_str().unwrap_or_default();
        assert!(!message.is_empty(), "{} got {received}", shown());
    }
    status
}
