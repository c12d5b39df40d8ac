//! Clients that vanish, and a server that is told to stop.

use odmoe_tests::client::{Client, answer};
use odmoe_tests::process::{eventually, terminate};
use odmoe_tests::sse::SseItem;
use odmoe_tests::{Server, ServerOptions, metrics};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpStream;

fn long_request(prompt_tokens: usize, max_tokens: u32) -> Value {
    let prompt: Vec<u32> = (0..prompt_tokens as u32)
        .map(|place| 300 + place % 3000)
        .collect();
    json!({"prompt": prompt, "max_tokens": max_tokens, "temperature": 1.0, "seed": 5, "stream": true, "ignore_eos": true})
}

/// A request on a bare connection, so that a test decides when the client is gone.
fn send_raw(port: u16, body: &Value) -> TcpStream {
    let mut connection = TcpStream::connect(("127.0.0.1", port)).expect("the server listens");
    let body = body.to_string();
    write!(
        connection,
        "POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .expect("the server reads");
    connection
}

/// Reads to the first piece of the answer: headers come before any token.
fn read_first_chunk(connection: &mut TcpStream) {
    let (mut seen, mut some) = (Vec::new(), [0; 64]);
    while !String::from_utf8_lossy(&seen).contains("data: {") {
        let bytes = connection.read(&mut some).expect("an answer begins");
        assert!(bytes > 0, "the answer ends before its first token");
        seen.extend_from_slice(&some[..bytes]);
    }
}

fn busy(client: &Client) -> (f64, f64) {
    let text = client.get("/metrics").expect(200).body;
    let sum = |name| metrics::sum(&text, name, &[]);
    (
        sum("vllm:num_requests_running"),
        sum("vllm:num_requests_waiting"),
    )
}

fn generation_tokens(client: &Client) -> f64 {
    let text = client.get("/metrics").expect(200).body;
    metrics::sum(&text, "vllm:generation_tokens_total", &[])
}

#[track_caller]
fn assert_at_rest(client: &Client) {
    eventually("gauges at rest", || {
        (busy(client) == (0.0, 0.0)).then_some(())
    });
    let text = client.get("/metrics").expect(200).body;
    assert_eq!(metrics::sum(&text, "vllm:kv_cache_usage_perc", &[]), 0.0);
    assert_eq!(
        metrics::sum(&text, "odmoe_expert_cache_pinned_bytes", &[]),
        0.0
    );
}

#[test]
fn clients_that_vanish_free_what_they_held() {
    let server = Server::start(&ServerOptions::with(["--expert-cache", "12.5%"]));
    let right = answer(&server.client.complete_tokens(&[954, 671, 261], 8));

    // In decode, after some of the answer.
    let generated = generation_tokens(&server.client);
    let mut connection = send_raw(server.port, &long_request(8, 1500));
    read_first_chunk(&mut connection);
    drop(connection);
    assert_at_rest(&server.client);
    assert!(
        generation_tokens(&server.client) > generated,
        "the client saw a token"
    );

    // In prefill, or in an expert wait: gone as soon as the request runs, and before its first token.
    let generated = generation_tokens(&server.client);
    let connection = send_raw(server.port, &long_request(1500, 400));
    eventually("a running request", || {
        (busy(&server.client).0 > 0.0).then_some(())
    });
    drop(connection);
    assert_at_rest(&server.client);
    assert_eq!(
        generation_tokens(&server.client),
        generated,
        "the client left before the first token"
    );

    // Queued behind others: the later ones first, then those that run.
    let mut connections: Vec<TcpStream> = (0..40)
        .map(|_| send_raw(server.port, &long_request(200, 1500)))
        .collect();
    eventually("waiting requests", || {
        let (running, waiting) = busy(&server.client);
        (running > 0.0 && waiting > 0.0).then_some(())
    });
    while let Some(connection) = connections.pop() {
        drop(connection);
    }
    assert_at_rest(&server.client);

    assert_eq!(
        answer(&server.client.complete_tokens(&[954, 671, 261], 8)),
        right
    );
}

/// One client's leaving is not another's.
#[test]
fn others_go_on_when_a_client_vanishes() {
    let server = Server::start(&ServerOptions::default());
    let alone = answer(&server.client.complete_tokens(&[954, 671, 261], 64));
    let client = server.client.clone();
    let other = std::thread::spawn(move || answer(&client.complete_tokens(&[954, 671, 261], 64)));
    for _ in 0..8 {
        let mut connection = send_raw(server.port, &long_request(64, 800));
        read_first_chunk(&mut connection);
    }
    assert_eq!(other.join().expect("the other client"), alone);
    assert_at_rest(&server.client);
}

#[test]
fn sigterm_lets_accepted_requests_finish() {
    let mut server = Server::start(&ServerOptions::default());
    let mut stream = server
        .client
        .stream("/v1/completions", &long_request(8, 300));
    assert!(matches!(stream.next(), Some(SseItem::Json(_))));
    terminate(&server.child);
    eventually("refusal of new work", || {
        match server.client.try_get("/ready") {
            None => Some(()),
            Some(reply) => (reply.status == 503).then_some(()),
        }
    });
    let items: Vec<SseItem> = stream.collect();
    assert_eq!(items.last(), Some(&SseItem::Done), "the stream's own end");
    let finishes = items.iter().filter(
        |item| matches!(item, SseItem::Json(chunk) if chunk["choices"][0]["finish_reason"].is_string()),
    );
    assert_eq!(finishes.count(), 1);
    assert_eq!(server.wait().code(), Some(0), "{}", server.log());
}

#[test]
fn a_second_sigterm_does_not_wait() {
    let mut server = Server::start(&ServerOptions::default());
    let mut stream = server
        .client
        .stream("/v1/completions", &long_request(8, 1900));
    assert!(matches!(stream.next(), Some(SseItem::Json(_))));
    terminate(&server.child);
    eventually("the drain to begin", || {
        server
            .client
            .try_get("/ready")
            .is_none_or(|reply| reply.status == 503)
            .then_some(())
    });
    terminate(&server.child);
    server.wait();
}
