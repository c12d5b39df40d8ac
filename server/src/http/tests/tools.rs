//! Tool calls and reasoning, in the words of a model that writes them as Hermes does.

use super::*;
use odmoe_engine::FinishReason;

/// What a tool call looks like in the answers of the scripted model.
const CALL: &str =
    "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Rome\"}}\n</tool_call>";

fn weather() -> Value {
    let city = json!({"type": "object", "properties": {"city": {"type": "string"}}});
    json!([{"type": "function", "function": {"name": "weather", "parameters": city}}])
}

/// The deltas of a streamed answer, and its finish reason.
fn deltas(body: &str) -> (Vec<Value>, String) {
    let data = body
        .lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .filter(|data| *data != "[DONE]");
    let choices: Vec<Value> = data
        .map(|data| serde_json::from_str::<Value>(data).unwrap()["choices"][0].take())
        .collect();
    let (last, rest) = choices.split_last().unwrap();
    assert_eq!(last["delta"], json!({}), "the end has no delta");
    let deltas = rest.iter().map(|choice| choice["delta"].clone()).collect();
    (deltas, last["finish_reason"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn a_whole_answer_has_its_calls_beside_its_text() {
    let text = format!("<think>\nWhere?\n</think>\n\nI look.\n{CALL}");
    let server = Server::saying(&text).await;
    let reply = server.post(CHAT, chat(json!({"tools": weather()}))).await;
    let choice = &reply.json()["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls");
    let message = &choice["message"];
    assert_eq!(message["content"], "I look.");
    assert_eq!(message["reasoning_content"], "Where?");
    let call = &message["tool_calls"][0];
    assert_eq!(call["type"], "function");
    assert!(call["id"].as_str().unwrap().starts_with("call_"), "{call}");
    let function = json!({"name": "weather", "arguments": "{\"city\": \"Rome\"}"});
    assert_eq!(call["function"], function);
}

#[tokio::test]
async fn an_answer_of_calls_alone_has_no_content() {
    let server = Server::saying(&CALL.repeat(2)).await;
    let reply = server.post(CHAT, chat(json!({"tools": weather()}))).await;
    let message = &reply.json()["choices"][0]["message"];
    assert_eq!(message["content"], Value::Null);
    assert_eq!(message.get("reasoning_content"), None);
    let calls = message["tool_calls"].as_array().unwrap();
    assert_eq!(calls.len(), 2);
    assert_ne!(calls[0]["id"], calls[1]["id"]);
}

#[tokio::test]
async fn calls_are_streamed_name_first_then_arguments_as_they_come() {
    let server = Server::saying(&format!("<think>Hm</think>{CALL}")).await;
    let body = chat(json!({"tools": weather(), "stream": true, "logprobs": true}));
    let reply = server.post(CHAT, body).await;
    let (deltas, reason) = deltas(&reply.body);
    assert_eq!(reason, "tool_calls");
    let of = |key: &str| deltas.iter().filter(|d| d.get(key).is_some()).count();
    assert_eq!(of("reasoning_content"), 2, "{deltas:?}");
    assert_eq!(of("content"), 1, "only the opening has content");
    let calls: Vec<&Value> = deltas.iter().filter_map(|d| d.get("tool_calls")).collect();
    assert!(calls.iter().all(|call| call[0]["index"] == 0), "{calls:?}");
    let (first, rest) = calls.split_first().unwrap();
    assert_eq!(first[0]["type"], "function");
    assert_eq!(
        first[0]["function"],
        json!({"name": "weather", "arguments": ""})
    );
    let arguments = rest.iter().map(|call| {
        assert_eq!(call[0].as_object().unwrap().len(), 2, "index and function");
        call[0]["function"]["arguments"].as_str().unwrap()
    });
    let arguments: Vec<&str> = arguments.collect();
    assert!(arguments.len() > 5, "in pieces: {arguments:?}");
    assert_eq!(arguments.concat(), "{\"city\": \"Rome\"}");
}

#[tokio::test]
async fn every_token_is_scored_once_though_marks_are_no_text() {
    let text = format!("<think>Hm</think>ok {CALL}");
    let server = Server::saying(&text).await;
    for stream in [false, true] {
        let body = chat(json!({"tools": weather(), "logprobs": true, "stream": stream}));
        let reply = server.post(CHAT, body).await;
        assert_eq!(reply.body.matches("\"top_logprobs\"").count(), text.len());
    }
}

#[tokio::test]
async fn without_tools_marks_of_calls_are_text() {
    let server = Server::saying(CALL).await;
    for more in [
        json!({}),
        json!({"tools": weather(), "tool_choice": "none"}),
    ] {
        let reply = server.post(CHAT, chat(more)).await;
        let choice = &reply.json()["choices"][0];
        assert_eq!(choice["message"]["content"], CALL);
        assert_eq!(choice["finish_reason"], "stop");
    }
}

#[tokio::test]
async fn a_call_that_the_limit_cuts_ends_by_length() {
    let cut = CALL.split("Ro").next().unwrap().to_owned();
    let acts = vec![Act::Text(cut), Act::Finish(FinishReason::Length)];
    let server = Server::start(move |_| acts.clone()).await;
    let reply = server.post(CHAT, chat(json!({"tools": weather()}))).await;
    let choice = &reply.json()["choices"][0];
    assert_eq!(choice["finish_reason"], "length");
    let call = &choice["message"]["tool_calls"][0]["function"];
    assert_eq!(call["arguments"], "{\"city\": \"");
}

#[tokio::test]
async fn an_effort_reaches_the_template_unless_its_own_variables_say_otherwise() {
    let server = Server::saying("ok").await;
    let bodies = [
        json!({"reasoning_effort": "low"}),
        json!({"reasoning_effort": "none"}),
        json!({"reasoning_effort": "none", "chat_template_kwargs": {"enable_thinking": true}}),
    ];
    for body in bodies {
        server.post(CHAT, chat(body)).await;
    }
    let prompts = server.engine.requests();
    let prompts = prompts
        .iter()
        .map(|r| fake::tokenizer().decode(&r.prompt, false));
    let ends: Vec<String> = prompts.map(|p| p.replace("user: hi\n", "")).collect();
    let expected = [
        "effort low\nassistant:",
        "effort none\nassistant:<think></think>",
        "effort none\nassistant:",
    ];
    assert_eq!(ends, expected);
}
