//! Before the model is there, and when the server is told to stop.

use super::client::soon;
use super::fake::{self, Act, FakeEngine};
use super::log::Lines;
use super::*;
use crate::state::{LoadingProgress, Stage};
use odmoe_engine::FinishReason;
use odmoe_formats::ByteCount;
use std::time::Duration;

fn waits_then_says(text: &str) -> FakeEngine {
    let acts = vec![
        Act::Text("a".into()),
        Act::Gate,
        Act::Text(text.into()),
        Act::Finish(FinishReason::Stop),
    ];
    FakeEngine::new(move |_| acts.clone())
}

#[tokio::test]
async fn until_the_model_is_loaded_completions_are_503() {
    let server = Server::loading(HttpConfig::default(), FakeEngine::new(|_| fake::says("x"))).await;
    for path in [CHAT, COMPLETIONS] {
        let reply = server.post(path, json!({})).await;
        assert_eq!(reply.error(), (503, "model_loading".into(), None));
        assert_eq!(reply.json()["error"]["type"], "server_error");
        assert_eq!(reply.header("retry-after"), Some("1"));
    }
    assert_eq!(server.get("/v1/models").await.error().0, 503);
    assert_eq!(server.get("/health").await.status, 200);
    let ready = server.get("/ready").await;
    assert_eq!(
        (ready.status, ready.json()["status"].as_str()),
        (503, Some("loading"))
    );
    server.set_ready();
    assert_eq!(server.get("/ready").await.status, 200);
    assert_eq!(server.post(CHAT, chat(json!({}))).await.status, 200);
}

#[tokio::test]
async fn a_failed_load_says_why_and_is_not_worth_a_retry() {
    let server = Server::loading(HttpConfig::default(), FakeEngine::new(|_| fake::says("x"))).await;
    server.slot.set_failed("no such file");
    let reply = server.post(CHAT, chat(json!({}))).await;
    assert_eq!(reply.error(), (503, "model_load_failed".into(), None));
    assert_eq!(reply.header("x-should-retry"), Some("false"));
    let ready = server.get("/ready").await;
    assert_eq!(
        ready.json(),
        json!({"status": "load_failed", "reason": "no such file"})
    );
}

#[tokio::test]
async fn progress_rises_and_ends_when_ready() {
    let server = Server::loading(HttpConfig::default(), FakeEngine::new(|_| fake::says("x"))).await;
    let mut follower = Call::new("GET", "/v1/loading/progress")
        .open(server.address)
        .await;
    for (seen, fraction) in [0.25, 0.5, 0.75].into_iter().enumerate() {
        follower.until("data: ", seen + 1).await;
        assert_eq!(server.get("/ready").await.status, 503);
        let now = LoadingProgress {
            bytes_done: ByteCount((fraction * 4096.0) as u64),
            bytes_total: ByteCount(4096),
            ..LoadingProgress::stage(Stage::LoadingBase, fraction, "reading weights")
        };
        server.slot.set_progress(now);
    }
    follower.until("data: ", 4).await;
    server.set_ready();
    let reply = follower.finish().await;
    assert_eq!(reply.header("content-type"), Some("text/event-stream"));
    let events: Vec<Value> = reply
        .body
        .split("\n\n")
        .filter_map(|event| serde_json::from_str(event.strip_prefix("data: ")?).ok())
        .collect();
    let fractions: Vec<f64> = events
        .iter()
        .map(|e| e["fraction"].as_f64().unwrap())
        .collect();
    assert_eq!(fractions, [0.0, 0.25, 0.5, 0.75, 1.0]);
    let ready: Vec<bool> = events
        .iter()
        .map(|e| e["ready"].as_bool().unwrap())
        .collect();
    assert_eq!(ready, [false, false, false, false, true]);
    assert_eq!(events[1]["stage"], "loading_base");
    let bytes = |event: &Value| (event["bytes_done"].clone(), event["bytes_total"].clone());
    assert_eq!(bytes(&events[1]), (json!(1024), json!(4096)));
    assert_eq!(bytes(&events[3]), (json!(3072), json!(4096)));
    assert_eq!(
        server
            .get("/v1/loading/progress")
            .await
            .body
            .matches("data: ")
            .count(),
        1
    );
}

#[tokio::test]
async fn draining_refuses_new_requests_and_lets_accepted_ones_end() {
    let server = Server::with(HttpConfig::default(), waits_then_says("b")).await;
    let mut stream = server.open(CHAT, chat(json!({"stream": true}))).await;
    stream.until(r#"{"content":"a"}"#, 1).await;
    server.stop.send(()).await.unwrap();
    // The signal is taken in some time after it is sent.
    while server.get("/ready").await.status == 200 {
        tokio::task::yield_now().await;
    }
    let reply = server.post(CHAT, chat(json!({}))).await;
    assert_eq!(reply.error(), (503, "shutting_down".into(), None));
    assert_eq!(reply.header("retry-after"), Some("1"));
    assert_eq!(server.get("/ready").await.json()["status"], "draining");
    assert_eq!(server.get("/health").await.status, 200);
    server.engine.open_gate(1);
    let reply = stream.finish().await;
    assert!(reply.body.contains(r#"{"content":"b"}"#) && reply.body.ends_with("data: [DONE]\n\n"));
    soon(server.serving).await.unwrap().unwrap();
    assert!(
        tokio::net::TcpStream::connect(server.address)
            .await
            .is_err()
    );
}

#[tokio::test]
async fn what_outlasts_the_drain_ends_with_an_error() {
    let config = HttpConfig {
        drain_timeout: Duration::from_millis(50),
        ..HttpConfig::default()
    };
    let server = Server::with(config, waits_then_says("b")).await;
    let mut stream = server.open(CHAT, chat(json!({"stream": true}))).await;
    stream.until(r#"{"content":"a"}"#, 1).await;
    let whole = server.open(CHAT, chat(json!({}))).await;
    server.engine.until_running(2).await;
    server.stop.send(()).await.unwrap();
    let streamed = stream.finish().await.body;
    assert!(
        streamed.contains("shutting_down") && streamed.ends_with("data: [DONE]\n\n"),
        "{streamed}"
    );
    assert_eq!(
        whole.finish().await.error(),
        (503, "shutting_down".into(), None)
    );
    soon(server.serving).await.unwrap().unwrap();
    server.engine.until_running(0).await;
}

#[tokio::test]
async fn draining_waits_until_a_whole_answer_has_been_sent() {
    let lines = Lines::collect();
    let text = "a".repeat(2000);
    let server = Server::saying(&text).await;
    // Some 30 MB, more than the sockets' buffers hold.
    let body = chat(json!({"n": 16, "logprobs": true, "top_logprobs": 20}));
    let call = Call::new("POST", CHAT).header("x-request-id", "unread");
    let mut client = call.json(body).open(server.address).await;
    client.until("\r\n\r\n", 1).await;
    assert!(
        !lines.text().contains("unread"),
        "its line comes at its end"
    );
    server.stop.send(()).await.unwrap();
    while server.get("/ready").await.status == 200 {
        tokio::task::yield_now().await;
    }
    // Were the server past draining, nobody would be accepted any more.
    for _ in 0..3 {
        assert_eq!(server.get("/health").await.status, 200);
    }
    let choices = client.finish().await.json()["choices"].clone();
    assert_eq!(choices.as_array().unwrap().len(), 16);
    assert_eq!(lines.request("unread").await["outcome"], "stop");
    soon(server.serving).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_second_signal_does_not_wait() {
    let server = Server::with(HttpConfig::default(), waits_then_says("b")).await;
    let mut stream = server.open(CHAT, chat(json!({"stream": true}))).await;
    stream.until(r#"{"content":"a"}"#, 1).await;
    server.stop.send(()).await.unwrap();
    server.stop.send(()).await.unwrap();
    soon(server.serving).await.unwrap().unwrap();
}

#[tokio::test]
async fn an_idle_connection_does_not_hold_up_the_end() {
    let server = Server::saying("x").await;
    let _idle = tokio::net::TcpStream::connect(server.address)
        .await
        .unwrap();
    server.get("/health").await;
    server.stop.send(()).await.unwrap();
    soon(server.serving).await.unwrap().unwrap();
}

#[tokio::test]
async fn sigterm_drains() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (slot, metrics) = (ModelSlot::new(), MetricsHandle::new());
    let serving = tokio::spawn(crate::http::serve(
        listener,
        HttpConfig::default(),
        slot,
        metrics,
    ));
    // Once it answers, it has its signal handlers; without them the signal would end the test.
    assert_eq!(Call::new("GET", "/health").send(address).await.status, 200);
    let this = rustix::process::getpid();
    rustix::process::kill_process(this, rustix::process::Signal::TERM).unwrap();
    soon(serving).await.unwrap().unwrap();
}
