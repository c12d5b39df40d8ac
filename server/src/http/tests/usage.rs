//! What answers say of the tokens that did not have to be computed.

use super::fake::Act;
use super::*;

/// Of a prompt, 12 tokens are found.
async fn server() -> Server {
    Server::start(|_| [vec![Act::Prefilled(12)], fake::says("hello")].concat()).await
}

fn data(body: &str) -> impl Iterator<Item = Value> {
    let lines = body.lines().filter_map(|line| line.strip_prefix("data: "));
    lines.filter_map(|data| serde_json::from_str(data).ok())
}

#[tokio::test]
async fn completions_and_chats_tell_cached_tokens() {
    let server = server().await;
    let cached = |usage: &Value| usage["prompt_tokens_details"]["cached_tokens"].clone();
    let reply = server.post(CHAT, chat(json!({}))).await.json();
    assert_eq!(cached(&reply["usage"]), 12);
    // All answers to a prompt are counted with it, once; what the second finds, the first has computed.
    let two = server.post(CHAT, chat(json!({"n": 2}))).await.json();
    assert_eq!(cached(&two["usage"]), 12);
    assert_eq!(
        two["usage"]["prompt_tokens"],
        reply["usage"]["prompt_tokens"]
    );
    let prompts = json!({"model": "tiny/moe", "prompt": ["a long prompt", "another prompt"]});
    let reply = server.post("/v1/completions", prompts).await.json();
    assert_eq!(cached(&reply["usage"]), 24);
    // An answer that a stop string ends has its counts too.
    let stopped = json!({"stream": true, "stop": "ll", "stream_options": {"include_usage": true}});
    let body = server.post(CHAT, chat(stopped)).await.body;
    let usage = data(&body)
        .find(|chunk| chunk["usage"].is_object())
        .unwrap();
    assert_eq!(cached(&usage["usage"]), 12);
}

#[tokio::test]
async fn responses_tell_cached_tokens() {
    let server = server().await;
    let ask = json!({"model": "tiny/moe", "input": "hi"});
    let usage = &server.post("/v1/responses", ask).await.json()["usage"];
    assert_eq!(usage["input_tokens_details"]["cached_tokens"], 12);
    assert!(usage["input_tokens"].as_u64() >= Some(12));
}

/// Anthropic's counts are those of what was computed, and apart from them those of what was read.
#[tokio::test]
async fn messages_tell_what_was_read_apart_from_the_rest() {
    let server = server().await;
    let say = |stream: bool| {
        let messages = json!([{"role": "user", "content": "a text of some length"}]);
        json!({"model": "tiny/moe", "max_tokens": 20, "messages": messages, "stream": stream})
    };
    let whole = server.post("/v1/messages", say(false)).await.json();
    let usage = &whole["usage"];
    assert_eq!(usage["cache_read_input_tokens"], 12);
    let all = server.post("/v1/messages/count_tokens", say(false)).await;
    let all = all.json()["input_tokens"].as_u64().unwrap();
    assert_eq!(usage["input_tokens"], all - 12);
    let body = server.post("/v1/messages", say(true)).await.body;
    let end = data(&body).find(|event| event["type"] == "message_delta");
    assert_eq!(end.unwrap()["usage"], *usage);
}
