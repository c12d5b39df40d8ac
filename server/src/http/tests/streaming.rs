//! Streamed answers, byte for byte.

use super::fake::{self, Act, FakeEngine};
use super::*;
use odmoe_engine::{FinishReason, RequestError};
use odmoe_expert_store::{LoadError, ReadError};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// A chunk of a chat, from its choices on.
fn chunk(choices: &str) -> String {
    format!(
        "data: {{\"id\":\"ID\",\"object\":\"chat.completion.chunk\",\"created\":TIME,\"model\":\"tiny/moe\",\
         \"system_fingerprint\":\"BUILD\",\"choices\":{choices}}}\n\n"
    )
}

fn delta(index: u32, delta: &str) -> String {
    chunk(&format!(
        "[{{\"index\":{index},\"delta\":{delta},\"logprobs\":null,\"finish_reason\":null}}]"
    ))
}

fn ending(index: u32, reason: &str) -> String {
    chunk(&format!(
        "[{{\"index\":{index},\"delta\":{{}},\"logprobs\":null,\"finish_reason\":\"{reason}\"}}]"
    ))
}

const ROLE: &str = r#"{"role":"assistant","content":""}"#;
const DONE: &str = "data: [DONE]\n\n";

#[tokio::test]
async fn a_chat_stream_is_role_then_text_then_end_then_done() {
    let server = Server::saying("Hé").await;
    let reply = server.post(CHAT, chat(json!({"stream": true}))).await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("content-type"), Some("text/event-stream"));
    assert_eq!(reply.header("cache-control"), Some("no-cache"));
    assert!(reply.header("x-request-id").is_some());
    let expected = [
        delta(0, ROLE),
        delta(0, r#"{"content":"H"}"#),
        delta(0, r#"{"content":"é"}"#),
        ending(0, "stop"),
        DONE.into(),
    ];
    assert_eq!(settled(&reply.body), expected.concat());
    let ids: Vec<&str> = reply
        .body
        .split("\"id\":\"")
        .skip(1)
        .map(|p| &p[..41])
        .collect();
    assert!(
        ids.iter().all(|id| *id == ids[0]),
        "one id for the whole stream: {ids:?}"
    );
}

#[tokio::test]
async fn usage_comes_last_and_only_when_asked_for() {
    let server = Server::saying("a").await;
    let body = chat(json!({"stream": true, "stream_options": {"include_usage": true}}));
    let reply = server.post(CHAT, body).await;
    let usage = r#"[],"usage":{"prompt_tokens":19,"completion_tokens":2,"total_tokens":21,"prompt_tokens_details":{"cached_tokens":0}}"#;
    let expected = [
        delta(0, ROLE),
        delta(0, r#"{"content":"a"}"#),
        ending(0, "stop"),
        chunk(usage),
        DONE.into(),
    ];
    assert_eq!(settled(&reply.body), expected.concat());
    let body = chat(json!({"stream": true, "stream_options": {"include_usage": false}}));
    assert!(!server.post(CHAT, body).await.body.contains("usage"));
}

#[tokio::test]
async fn a_completion_stream_has_no_opening() {
    let server = Server::saying("ab").await;
    let body = completion(json!({"stream": true, "stream_options": {"include_usage": true}}));
    let reply = server.post(COMPLETIONS, body).await;
    let chunk = |choices: &str| {
        format!(
            "data: {{\"id\":\"ID\",\"object\":\"text_completion\",\"created\":TIME,\"model\":\"tiny/moe\",\
             \"system_fingerprint\":\"BUILD\",\"choices\":{choices}}}\n\n"
        )
    };
    let choice = |text: &str, reason: &str| {
        chunk(&format!(
            "[{{\"index\":0,\"text\":\"{text}\",\"logprobs\":null,\"finish_reason\":{reason}}}]"
        ))
    };
    let expected = [
        choice("a", "null"),
        choice("b", "null"),
        choice("", "\"stop\""),
        chunk(
            r#"[],"usage":{"prompt_tokens":2,"completion_tokens":3,"total_tokens":5,"prompt_tokens_details":{"cached_tokens":0}}"#,
        ),
        DONE.into(),
    ];
    assert_eq!(settled(&reply.body), expected.concat());
}

#[tokio::test]
async fn two_answers_share_a_stream() {
    let server =
        Server::start(|request| fake::says(&format!("c{}", request.sampling.choice))).await;
    let reply = server
        .post(CHAT, chat(json!({"stream": true, "n": 2})))
        .await;
    let body = settled(&reply.body);
    assert!(
        body.starts_with(&(delta(0, ROLE) + &delta(1, ROLE))),
        "{body}"
    );
    assert!(body.ends_with(DONE));
    for index in [0, 1] {
        let of_this: Vec<&str> = body
            .split_inclusive("\n\n")
            .filter(|e| e.contains(&format!("\"index\":{index}")))
            .collect();
        let expected = [
            delta(index, ROLE),
            delta(index, r#"{"content":"c"}"#),
            delta(index, &format!("{{\"content\":\"{index}\"}}")),
            ending(index, "stop"),
        ];
        assert_eq!(of_this, expected);
    }
}

#[tokio::test]
async fn a_stop_string_over_several_tokens_is_never_shown() {
    let acts = [
        Act::Text("a S".into()),
        Act::Text("TO".into()),
        Act::Text("P b".into()),
        Act::Gate,
    ];
    let server = Server::start(move |_| acts.to_vec()).await;
    let reply = server
        .post(CHAT, chat(json!({"stream": true, "stop": ["STOP"]})))
        .await;
    let expected = [
        delta(0, ROLE),
        delta(0, r#"{"content":"a"}"#),
        delta(0, r#"{"content":" "}"#),
        ending(0, "stop"),
        DONE.into(),
    ];
    assert_eq!(settled(&reply.body), expected.concat());
    server.engine.until_running(0).await;
}

#[tokio::test]
async fn held_back_text_comes_when_the_answer_ends() {
    let server = Server::saying("aST").await;
    let reply = server
        .post(CHAT, chat(json!({"stream": true, "stop": "STOP"})))
        .await;
    let expected = [
        delta(0, ROLE),
        delta(0, r#"{"content":"a"}"#),
        delta(0, r#"{"content":"ST"}"#),
        ending(0, "stop"),
        DONE.into(),
    ];
    assert_eq!(settled(&reply.body), expected.concat());
}

#[tokio::test]
async fn streamed_logprobs_come_with_their_text() {
    let server = Server::saying("é!").await;
    let reply = server
        .post(CHAT, chat(json!({"stream": true, "logprobs": true})))
        .await;
    let events: Vec<Value> = events(&reply.body);
    let tokens = |event: &Value| {
        event["choices"][0]["logprobs"]["content"]
            .as_array()
            .map(Vec::len)
    };
    assert_eq!(
        events.iter().map(tokens).collect::<Vec<_>>(),
        [None, Some(2), Some(1), None]
    );
    let reply = server
        .post(
            COMPLETIONS,
            completion(json!({"stream": true, "logprobs": 0})),
        )
        .await;
    let offsets: Vec<Value> = self::events(&reply.body)
        .iter()
        .map(|event| event["choices"][0]["logprobs"]["text_offset"].clone())
        .collect();
    assert_eq!(offsets, [json!([0, 0]), json!([1]), Value::Null]);
}

/// Payloads of a stream, without the closing `[DONE]`.
fn events(body: &str) -> Vec<Value> {
    let payloads = body
        .split("\n\n")
        .filter_map(|event| event.strip_prefix("data: "));
    payloads
        .filter(|text| *text != "[DONE]")
        .map(|text| serde_json::from_str(text).unwrap())
        .collect()
}

#[tokio::test]
async fn silence_is_filled_with_comments_from_acceptance_on() {
    let config = HttpConfig {
        keep_alive: Duration::from_millis(20),
        ..HttpConfig::default()
    };
    let acts = [
        Act::Gate,
        Act::Text("a".into()),
        Act::Finish(FinishReason::Length),
    ];
    let server = Server::with(config, FakeEngine::new(move |_| acts.to_vec())).await;
    let mut stream = server.open(CHAT, chat(json!({"stream": true}))).await;
    stream.until("\r\n:\n\n\r\n", 3).await;
    server.engine.open_gate(1);
    let reply = stream.finish().await;
    let body = settled(&reply.body.replace(":\n\n", ""));
    let expected = [
        delta(0, ROLE),
        delta(0, r#"{"content":"a"}"#),
        ending(0, "length"),
        DONE.into(),
    ];
    assert_eq!(body, expected.concat());
    for line in reply.body.lines() {
        assert!(
            line.is_empty() || line == ":" || line.starts_with("data: "),
            "{line:?}"
        );
    }
}

#[tokio::test]
async fn an_error_in_the_stream_ends_it_once() {
    let error = RequestError::ExpertUnavailable(LoadError::Read(ReadError::Io {
        path: "expert-042".into(),
        reason: "gone".into(),
    }));
    let acts = [Act::Text("a".into()), Act::Gate, Act::Fail(error)];
    let server = Server::start(move |_| acts.to_vec()).await;
    let mut stream = server
        .open(CHAT, chat(json!({"stream": true, "n": 2})))
        .await;
    stream.until(r#"{"content":"a"}"#, 2).await;
    server.engine.open_gate(1);
    let body = stream.finish().await.body;
    let events = body.split_inclusive("\n\n").collect::<Vec<_>>();
    assert_eq!(events.len(), 6, "{body}");
    let error: Value = serde_json::from_str(events[4].strip_prefix("data: ").unwrap()).unwrap();
    assert_eq!(error["error"]["code"], "expert_unavailable");
    assert_eq!(error["error"]["type"], "server_error");
    assert_eq!(events[5], DONE);
    // The other answer does not go on for nobody.
    server.engine.until_running(0).await;
}

#[tokio::test]
async fn an_engine_that_vanishes_ends_the_stream() {
    let server = Server::start(|_| vec![Act::Text("a".into())]).await;
    let reply = server.post(CHAT, chat(json!({"stream": true}))).await;
    assert!(reply.body.contains("internal_error"), "{}", reply.body);
    assert!(reply.body.ends_with(DONE));
    // One that hangs and then is found dead, too.
    let server = Server::start(|_| vec![Act::Text("a".into()), Act::Gate]).await;
    let mut stream = server.open(CHAT, chat(json!({"stream": true}))).await;
    stream.until(r#"{"content":"a"}"#, 1).await;
    server.engine.alive.store(false, Ordering::Relaxed);
    let reply = stream.finish().await;
    assert!(
        reply.body.contains("internal_error") && reply.body.ends_with(DONE),
        "{}",
        reply.body
    );
}
