//! Time-outs, and readers that are too slow.

use super::fake::{self, Act, FakeEngine};
use super::*;
use crate::http::{Limits, Timeouts};
use odmoe_engine::FinishReason;
use std::time::Duration;

const SHORT: Option<Duration> = Some(Duration::from_millis(50));
const NEVER: Timeouts = Timeouts {
    request: None,
    stream: None,
    stall: None,
};

/// Says one letter and then nothing, for ever.
async fn silent(timeouts: Timeouts) -> Server {
    let config = HttpConfig {
        timeouts,
        ..HttpConfig::default()
    };
    let acts = [
        Act::Text("a".into()),
        Act::Gate,
        Act::Finish(FinishReason::Stop),
    ];
    Server::with(config, FakeEngine::new(move |_| acts.to_vec())).await
}

#[tokio::test]
async fn a_whole_answer_has_its_time() {
    let server = silent(Timeouts {
        request: SHORT,
        ..NEVER
    })
    .await;
    let reply = server.post(CHAT, chat(json!({}))).await;
    assert_eq!(reply.error(), (504, "request_timeout".into(), None));
    assert_eq!(reply.header("x-should-retry"), Some("false"));
    server.engine.until_running(0).await;
}

#[tokio::test]
async fn a_stream_has_its_time() {
    let server = silent(Timeouts {
        stream: SHORT,
        ..NEVER
    })
    .await;
    let body = server.post(CHAT, chat(json!({"stream": true}))).await.body;
    assert!(body.contains(r#"{"content":"a"}"#), "{body}");
    assert!(
        body.contains("stream_timeout") && body.ends_with("data: [DONE]\n\n"),
        "{body}"
    );
    assert_eq!(body.matches("[DONE]").count(), 1);
    server.engine.until_running(0).await;
}

#[tokio::test]
async fn silence_of_the_engine_has_its_time() {
    let server = silent(Timeouts {
        stall: SHORT,
        ..NEVER
    })
    .await;
    let streamed = server.post(CHAT, chat(json!({"stream": true}))).await.body;
    assert!(streamed.contains("generation_stalled"), "{streamed}");
    let whole = server.post(CHAT, chat(json!({}))).await;
    assert_eq!(whole.error(), (504, "generation_stalled".into(), None));
    server.engine.until_running(0).await;
}

/// Texts to embed, and a prompt to score, are silent until they end.
#[tokio::test]
async fn batches_have_their_time_too() {
    let embed = json!({"model": "tiny/moe", "input": ["a", "b"]});
    let score =
        json!({"model": "tiny/moe", "prompt": "abc", "echo": true, "logprobs": 1, "max_tokens": 0});
    let stall = Timeouts {
        stall: SHORT,
        ..NEVER
    };
    let request = Timeouts {
        request: SHORT,
        ..NEVER
    };
    for (timeouts, code) in [(stall, "generation_stalled"), (request, "request_timeout")] {
        let config = HttpConfig {
            timeouts,
            ..HttpConfig::default()
        };
        let server = Server::with(config, FakeEngine::new(|_| vec![Act::Gate])).await;
        for (path, body) in [("/v1/embeddings", &embed), ("/v1/completions", &score)] {
            let reply = server.post(path, body.clone()).await;
            assert_eq!(reply.error(), (504, code.into(), None), "{path}");
            server.engine.until_running(0).await;
        }
    }
}

#[tokio::test]
async fn without_time_outs_nothing_ends_by_itself() {
    let server = silent(NEVER).await;
    let mut stream = server.open(CHAT, chat(json!({"stream": true}))).await;
    stream.until(r#"{"content":"a"}"#, 1).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    server.engine.open_gate(1);
    assert!(stream.finish().await.body.ends_with("data: [DONE]\n\n"));
}

fn small_output(output_total_bytes: usize) -> HttpConfig {
    HttpConfig {
        limits: Limits {
            output_total_bytes,
            ..Limits::default()
        },
        ..HttpConfig::default()
    }
}

#[tokio::test]
async fn a_stream_that_piles_up_ends_and_others_go_on() {
    let acts = fake::says(&"a".repeat(10_000));
    let engine = FakeEngine::new(move |_| acts.clone());
    let server = Server::with(small_output(1 << 20), engine).await;
    // The scripted engine says everything before anybody can read.
    let body = chat(json!({"stream": true, "logprobs": true, "top_logprobs": 20}));
    let reply = server.post(CHAT, body).await;
    assert!(
        reply.body.contains("slow_reader"),
        "{}",
        &reply.body[reply.body.len() - 400..]
    );
    assert!(reply.body.ends_with("data: [DONE]\n\n"));
    server.engine.until_running(0).await;
    let plain = server.post(CHAT, chat(json!({"stream": true}))).await;
    assert!(!plain.body.contains("slow_reader"));
    server.get("/metrics").await;
    assert_eq!(server.metric("odmoe_unsent_answer_bytes"), 0.0);
}

#[tokio::test]
async fn a_whole_answer_beyond_the_room_is_refused() {
    let acts = fake::says(&"a".repeat(2000));
    let engine = FakeEngine::new(move |_| acts.clone());
    let server = Server::with(small_output(1 << 20), engine).await;
    let body = chat(json!({"logprobs": true, "top_logprobs": 20}));
    let reply = server.post(CHAT, body).await;
    assert_eq!(reply.error(), (503, "overloaded".into(), None));
    assert_eq!(server.post(CHAT, chat(json!({}))).await.status, 200);
}

#[tokio::test]
async fn a_connection_whose_peer_reads_in_drops_is_cut() {
    let acts = fake::says(&"a".repeat(2000));
    let second = Duration::from_secs(1);
    let config = HttpConfig {
        timeouts: Timeouts {
            request: Some(second),
            stream: Some(second),
            stall: None,
        },
        limits: Limits {
            receive_timeout: Duration::from_millis(50),
            peer_timeout: second,
            ..Limits::default()
        },
        ..HttpConfig::default()
    };
    let server = Server::with(config, FakeEngine::new(move |_| acts.clone())).await;
    // Some 30 MB, more than the sockets' buffers hold, at less than 1 MB/s.
    let body = chat(json!({"n": 16, "logprobs": true, "top_logprobs": 20}));
    let mut drops = server.open(CHAT, body).await;
    let mut received = drops.until("\r\n\r\n", 1).await.len();
    loop {
        let count = drops.read().await;
        received += count;
        if count == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(received < 20 << 20, "{received} bytes came");
    server.engine.until_running(0).await;
}
