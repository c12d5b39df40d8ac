//! Limits of each key.

use super::fake::{Act, FakeEngine};
use super::*;
use crate::http::{ApiKey, KeyLimits};
use odmoe_engine::{ClientId, FinishReason};

/// Two keys, `a` with these limits and `b` without, and an engine that says one letter at a gate.
async fn server(limits: KeyLimits) -> Server {
    let a = ApiKey {
        limits,
        ..ApiKey::new("alice", "a")
    };
    let config = HttpConfig {
        api_keys: vec![a, ApiKey::new("bob", "b")],
        ..HttpConfig::default()
    };
    let acts = [
        Act::Gate,
        Act::Text("x".into()),
        Act::Finish(FinishReason::Stop),
    ];
    Server::with(
        config,
        FakeEngine::new(move |_| acts.to_vec()).with_queue_limit(8),
    )
    .await
}

fn call(key: &str, more: Value) -> Call {
    let call = Call::new("POST", CHAT).header("authorization", &format!("Bearer {key}"));
    call.json(chat(more))
}

async fn status(server: &Server, key: &str) -> u16 {
    call(key, json!({})).send(server.address).await.status
}

#[tokio::test]
async fn requests_a_minute() {
    let server = server(KeyLimits {
        requests_per_minute: Some(2),
        ..KeyLimits::default()
    })
    .await;
    server.engine.open_gate(9);
    assert_eq!(
        (status(&server, "a").await, status(&server, "a").await),
        (200, 200)
    );
    let reply = call("a", json!({})).send(server.address).await;
    assert_eq!(
        reply.error(),
        (429, "requests_per_minute_exceeded".into(), None)
    );
    assert_eq!(reply.json()["error"]["type"], "rate_limit_error");
    let after: u64 = reply.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=30).contains(&after), "{after}");
    assert_eq!(status(&server, "b").await, 200);
    let models = Call::new("GET", "/v1/models").header("authorization", "Bearer a");
    assert_eq!(models.send(server.address).await.status, 200);
    assert_eq!(
        server.metric("odmoe_requests_limited_total{limit=\"requests\"}"),
        1.0
    );
}

#[tokio::test]
async fn what_is_left_of_a_limit_is_told_with_every_answer() {
    let server = server(KeyLimits {
        requests_per_minute: Some(2),
        tokens_per_minute: Some(40),
        ..KeyLimits::default()
    })
    .await;
    server.engine.open_gate(9);
    let told = |reply: &Reply, name: &str| {
        let value = reply.header(&format!("x-ratelimit-{name}"));
        value.map(|value| value.trim_end_matches('s').parse::<f64>().unwrap())
    };
    let first = call("a", json!({})).send(server.address).await;
    assert_eq!(first.status, 200);
    assert_eq!(told(&first, "limit-requests"), Some(2.0));
    assert_eq!(told(&first, "remaining-requests"), Some(1.0));
    let reset = told(&first, "reset-requests").unwrap();
    assert!(reset > 0.0 && reset <= 30.0, "{reset}");
    assert_eq!(told(&first, "limit-tokens"), Some(40.0));
    // A prompt of 19 tokens and an answer of one; what has come back since is not known.
    let left = told(&first, "remaining-tokens").unwrap();
    assert!((20.0..=40.0).contains(&left), "{left}");
    assert_eq!(status(&server, "a").await, 200);
    let refused = call("a", json!({})).send(server.address).await;
    assert_eq!(refused.status, 429);
    assert_eq!(told(&refused, "remaining-requests"), Some(0.0));
    let unlimited = call("b", json!({})).send(server.address).await;
    assert_eq!(told(&unlimited, "limit-requests"), None);
}

#[tokio::test]
async fn tokens_a_minute_count_prompts_and_answers() {
    let server = server(KeyLimits {
        tokens_per_minute: Some(20),
        ..KeyLimits::default()
    })
    .await;
    server.engine.open_gate(9);
    // A prompt of 19 tokens and an answer of one.
    assert_eq!(status(&server, "a").await, 200);
    let reply = call("a", json!({})).send(server.address).await;
    assert_eq!(
        reply.error(),
        (429, "tokens_per_minute_exceeded".into(), None)
    );
    assert_eq!(
        (status(&server, "b").await, status(&server, "b").await),
        (200, 200)
    );
}

#[tokio::test]
async fn requests_at_once_count_until_they_are_sent_or_given_up() {
    let server = server(KeyLimits {
        concurrent_requests: Some(1),
        ..KeyLimits::default()
    })
    .await;
    let stream = call("a", json!({"stream": true}))
        .open(server.address)
        .await;
    server.engine.until_running(1).await;
    let reply = call("a", json!({})).send(server.address).await;
    assert_eq!(
        reply.error(),
        (429, "concurrent_requests_exceeded".into(), None)
    );
    assert_eq!(reply.header("retry-after"), Some("1"));
    drop(stream);
    server.engine.until_running(0).await;
    server.engine.open_gate(1);
    // What was given up is noticed a moment later than by the engine.
    while status(&server, "a").await != 200 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_batch_takes_no_more_than_its_share_and_goes_on_within_it() {
    let server = server(KeyLimits::default()).await;
    let texts: Vec<String> = (0..12).map(|i| format!("text {i}")).collect();
    let body = json!({"model": "tiny/moe", "input": texts});
    let batch = Call::new("POST", "/v1/embeddings")
        .header("authorization", "Bearer a")
        .json(body.clone());
    let batch = batch.open(server.address).await;
    server.engine.until_running(4).await;
    let stream = call("b", json!({"stream": true}))
        .open(server.address)
        .await;
    server.engine.until_running(5).await;
    let again = Call::new("POST", "/v1/embeddings").header("authorization", "Bearer a");
    let again = again.json(body).send(server.address).await;
    assert_eq!(again.error(), (429, "queue_share_full".into(), None));
    server.engine.open_gate(13);
    assert_eq!(batch.finish().await.status, 200);
    assert_eq!(stream.finish().await.status, 200);
    assert_eq!(server.engine.requests().len(), 13);
    server.engine.until_running(0).await;
}

#[tokio::test]
async fn a_key_leaves_places_in_the_queue_to_others_and_is_known_to_the_engine() {
    let server = server(KeyLimits::default()).await;
    let mut streams = Vec::new();
    for _ in 0..4 {
        streams.push(
            call("a", json!({"stream": true}))
                .open(server.address)
                .await,
        );
    }
    server.engine.until_running(4).await;
    let reply = call("a", json!({})).send(server.address).await;
    assert_eq!(reply.error(), (429, "queue_share_full".into(), None));
    streams.push(
        call("b", json!({"stream": true}))
            .open(server.address)
            .await,
    );
    server.engine.until_running(5).await;
    let clients: Vec<ClientId> = server.engine.requests().iter().map(|r| r.client).collect();
    assert_eq!(clients, [1, 1, 1, 1, 2].map(ClientId));
    server.engine.open_gate(5);
    for stream in streams {
        assert!(stream.finish().await.body.ends_with("data: [DONE]\n\n"));
    }
    assert_eq!(server.engine.requests().len(), 5);
}

#[tokio::test]
async fn the_log_names_the_key() {
    let lines = super::log::Lines::collect();
    let server = server(KeyLimits::default()).await;
    server.engine.open_gate(1);
    let call = call("b", json!({})).header("x-request-id", "whose");
    assert_eq!(call.send(server.address).await.status, 200);
    assert_eq!(lines.request("whose").await["key"], "bob");
}
