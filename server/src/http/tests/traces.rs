//! Spans as a collector receives them.

use super::fake::{self, FakeEngine};
use super::*;
use crate::traces::Traces;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener as Listener;
use std::thread::JoinHandle;

/// Takes one export; gives its head and body.
fn collector() -> (String, JoinHandle<(String, Vec<u8>)>) {
    let listener = Listener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let received = std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut reader = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(reader.read_line(&mut head).unwrap() > 0, "{head}");
        }
        let length = head.to_ascii_lowercase();
        let (_, length) = length.split_once("content-length: ").unwrap();
        let mut body = vec![0; length.lines().next().unwrap().parse().unwrap()];
        reader.read_exact(&mut body).unwrap();
        let reply = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        reader.get_mut().write_all(reply).unwrap();
        (head, body)
    });
    (address, received)
}

fn holds(body: &[u8], part: &[u8]) -> bool {
    body.windows(part.len()).any(|window| window == part)
}

#[tokio::test]
async fn a_request_is_a_span_of_its_clients_trace_with_what_it_waited_for() {
    let (address, received) = collector();
    let traces = Traces::to(&address).unwrap();
    let config = HttpConfig {
        traces: Some(traces.clone()),
        ..HttpConfig::default()
    };
    let server = Server::with(config, FakeEngine::new(|_| fake::says("REPLIED"))).await;
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let body = chat(json!({"messages": [{"role": "user", "content": "ASKED"}]}));
    let call = Call::new("POST", CHAT)
        .header("traceparent", &format!("00-{trace}-b7ad6b7169203331-01"))
        .header("x-request-id", "traced")
        .json(body);
    assert_eq!(call.send(server.address).await.status, 200);
    // The record is dropped, and the span made, a moment after the last byte.
    let series =
        r#"http_requests_total{handler="/v1/chat/completions",method="POST",status="200"}"#;
    while server.metric(series) == 0.0 {
        tokio::task::yield_now().await;
    }
    tokio::task::spawn_blocking(move || traces.shutdown())
        .await
        .unwrap();
    let (head, body) = received.join().unwrap();
    assert!(head.starts_with("POST /v1/traces HTTP/1.1\r\n"), "{head}");
    let trace_id: Vec<u8> = (0..16)
        .map(|i| u8::from_str_radix(&trace[2 * i..2 * i + 2], 16).unwrap())
        .collect();
    assert!(holds(&body, &trace_id), "another trace");
    for part in [
        "POST /v1/chat/completions",
        "queue",
        "prefill",
        "decode",
        "traced",
        "stop",
        "anybody",
    ] {
        assert!(holds(&body, part.as_bytes()), "{part} is not in the export");
    }
    for said in ["ASKED", "REPLIED"] {
        assert!(!holds(&body, said.as_bytes()), "{said} is in the export");
    }
}
