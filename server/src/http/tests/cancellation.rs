//! A client that goes away frees the engine, wherever its request is, and nobody else's.

use super::fake::{Act, FakeEngine};
use super::*;
use crate::http::Limits;
use odmoe_engine::{FinishReason, RequestId};
use std::time::Duration;

/// Text, then a wait that only a gate or a cancellation ends.
fn hangs_after(text: &str) -> Vec<Act> {
    vec![
        Act::Text(text.into()),
        Act::Gate,
        Act::Text("z".into()),
        Act::Finish(FinishReason::Stop),
    ]
}

#[tokio::test]
async fn a_client_that_vanishes_in_a_stream_cancels_every_answer() {
    let server = Server::start(|_| hangs_after("a")).await;
    let mut stream = server
        .open(CHAT, chat(json!({"stream": true, "n": 3})))
        .await;
    stream.until(r#"{"content":"a"}"#, 3).await;
    drop(stream);
    server.engine.until_cancelled(3).await;
    server.engine.until_running(0).await;
    let aborted =
        r#"vllm:request_success_total{model_name="tiny/moe",engine="0",finished_reason="abort"}"#;
    assert_eq!(server.metric(aborted), 3.0);
}

#[tokio::test]
async fn a_client_that_vanishes_before_the_first_token_is_noticed() {
    for body in [chat(json!({"stream": true})), chat(json!({}))] {
        let server = Server::start(|_| hangs_after("")).await;
        let waiting = server.open(CHAT, body).await;
        server.engine.until_running(1).await;
        drop(waiting);
        server.engine.until_cancelled(1).await;
        server.engine.until_running(0).await;
    }
}

#[tokio::test]
async fn a_whole_answer_is_cancelled_too() {
    let server = Server::start(|_| hangs_after("many tokens")).await;
    let waiting = server
        .open(COMPLETIONS, completion(json!({"prompt": ["a", "b"]})))
        .await;
    server.engine.until_running(2).await;
    drop(waiting);
    server.engine.until_cancelled(2).await;
    server.engine.until_running(0).await;
}

#[tokio::test]
async fn cancelling_one_client_leaves_the_other() {
    let server = Server::start(|_| hangs_after("a")).await;
    let mut first = server.open(CHAT, chat(json!({"stream": true}))).await;
    first.until(r#"{"content":"a"}"#, 1).await;
    let mut second = server.open(CHAT, chat(json!({"stream": true}))).await;
    second.until(r#"{"content":"a"}"#, 1).await;
    drop(first);
    server.engine.until_cancelled(1).await;
    server.engine.open_gate(1);
    let reply = second.finish().await;
    assert!(reply.body.contains(r#"{"content":"z"}"#), "{}", reply.body);
    assert!(reply.body.ends_with("data: [DONE]\n\n"));
    assert_eq!(server.engine.cancelled(), [RequestId(0)]);
}

#[tokio::test]
async fn an_answer_that_has_ended_is_not_cancelled() {
    let server = Server::saying("abc").await;
    for stream in [true, false] {
        assert_eq!(
            server
                .post(CHAT, chat(json!({"stream": stream, "n": 2})))
                .await
                .status,
            200
        );
    }
    server.engine.until_running(0).await;
    assert!(server.engine.cancelled().is_empty());
}

#[tokio::test]
async fn after_a_vanished_client_the_next_is_served() {
    let engine = FakeEngine::new(|_| hangs_after("a")).with_queue_limit(1);
    let server = Server::with(HttpConfig::default(), engine).await;
    for _ in 0..5 {
        let mut stream = server.open(CHAT, chat(json!({"stream": true}))).await;
        stream.until(r#"{"content":"a"}"#, 1).await;
        drop(stream);
        server.engine.until_running(0).await;
    }
    server.engine.open_gate(1);
    assert_eq!(server.post(CHAT, chat(json!({}))).await.status, 200);
}

/// More than the buffers of a loopback connection hold.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_client_that_stops_reading_is_given_up() {
    let limits = Limits {
        peer_timeout: Duration::from_millis(500),
        ..Limits::default()
    };
    let config = HttpConfig {
        limits,
        ..HttpConfig::default()
    };
    let acts = hangs_after(&"x".repeat(60_000));
    let server = Server::with(config, FakeEngine::new(move |_| acts.clone())).await;
    let stuck = server.open(CHAT, chat(json!({"stream": true}))).await;
    server.engine.until_cancelled(1).await;
    server.engine.until_running(0).await;
    drop(stuck);
}

#[tokio::test]
async fn an_idle_connection_is_closed() {
    let limits = Limits {
        receive_timeout: Duration::from_millis(50),
        ..Limits::default()
    };
    let config = HttpConfig {
        limits,
        ..HttpConfig::default()
    };
    let server = Server::with(config, FakeEngine::new(|_| hangs_after("a"))).await;
    let mut kept = Connection::keep_alive(server.address).await;
    kept.write(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .await;
    kept.until("{\"status\":\"ok\"}", 1).await;
    // Ends by the server's doing: this side says nothing more.
    assert_eq!(kept.finish().await.status, 200);
    let mut slow = Connection::keep_alive(server.address).await;
    slow.write(b"GET /health HTTP/1.1\r\nhost: ").await;
    slow.until_closed().await;
}

#[tokio::test]
async fn idle_connections_make_room_and_busy_ones_stay() {
    let limits = Limits {
        connections: 3,
        receive_timeout: Duration::from_secs(600),
        ..Limits::default()
    };
    let config = HttpConfig {
        limits,
        ..HttpConfig::default()
    };
    let server = Server::with(config, FakeEngine::new(|_| hangs_after("a"))).await;
    let mut busy = server.open(CHAT, chat(json!({"stream": true}))).await;
    busy.until(r#"{"content":"a"}"#, 1).await;
    let mut idle = Vec::new();
    for _ in 0..4 {
        idle.push(Connection::keep_alive(server.address).await);
    }
    // Well before the idle ones' own time-out.
    assert_eq!(server.get("/health").await.status, 200);
    idle[0].until_closed().await;
    server.engine.open_gate(1);
    assert!(busy.finish().await.body.ends_with("data: [DONE]\n\n"));
    assert!(server.engine.cancelled().is_empty());
}
