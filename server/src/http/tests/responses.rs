//! Responses: items and events.

use super::fake::Act;
use super::*;
use odmoe_engine::{FinishReason, RequestError};

pub const RESPONSES: &str = "/v1/responses";

pub fn ask(input: Value, more: Value) -> Value {
    with(json!({"model": "tiny/moe", "input": input}), more)
}

fn tool() -> Value {
    let city = json!({"type": "object", "properties": {"city": {"type": "string"}}});
    json!({"type": "function", "name": "weather", "parameters": city, "strict": null})
}

/// What the engine was asked last, as text.
pub fn prompt(server: &Server) -> String {
    let requests = server.engine.requests();
    fake::tokenizer().decode(&requests.last().unwrap().prompt, false)
}

/// The events of a stream: each is named as its type is, they are numbered in order, and nothing else comes.
pub fn events(body: &str) -> Vec<Value> {
    let events = body.split_terminator("\n\n").map(|event| {
        let (name, data) = event.split_once('\n').unwrap();
        let data: Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!(name, format!("event: {}", data["type"].as_str().unwrap()));
        data
    });
    let events: Vec<Value> = events.collect();
    for (number, event) in events.iter().enumerate() {
        assert_eq!(event["sequence_number"], number);
    }
    events
}

pub fn types(events: &[Value]) -> Vec<&str> {
    let names = events.iter().map(|event| event["type"].as_str().unwrap());
    names
        .map(|name| name.trim_start_matches("response."))
        .collect()
}

#[tokio::test]
async fn a_text_is_answered_by_a_message() {
    let server = Server::saying("hello").await;
    let reply = server
        .post(
            RESPONSES,
            ask(
                json!("hi"),
                json!({"instructions": "be kind", "metadata": {"a": "b"}}),
            ),
        )
        .await
        .json();
    assert_eq!(prompt(&server), "system: be kind\nuser: hi\nassistant:");
    assert_eq!(reply["object"], "response");
    assert_eq!(reply["status"], "completed");
    assert!(reply["id"].as_str().unwrap().starts_with("resp_"));
    assert_eq!(
        (&reply["metadata"], &reply["error"]),
        (&json!({"a": "b"}), &Value::Null)
    );
    let [item] = reply["output"].as_array().unwrap().as_slice() else {
        panic!("{reply}")
    };
    assert_eq!(
        (&item["type"], &item["role"], &item["status"]),
        (&json!("message"), &json!("assistant"), &json!("completed"))
    );
    assert_eq!(
        item["content"],
        json!([{"type": "output_text", "text": "hello", "annotations": [], "logprobs": []}])
    );
    let usage = &reply["usage"];
    assert_eq!(
        (
            &usage["input_tokens"],
            &usage["output_tokens"],
            &usage["total_tokens"]
        ),
        (&json!(35), &json!(6), &json!(41))
    );
}

#[tokio::test]
async fn a_streams_events_build_what_a_whole_response_is() {
    let text = "<think>\nhm\n</think>\n\nI look.\n<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Rome\"}}\n</tool_call>";
    let server = Server::saying(text).await;
    let body = |stream| ask(json!("hi"), json!({"tools": [tool()], "stream": stream}));
    let whole = server.post(RESPONSES, body(false)).await.json();
    let reply = server.post(RESPONSES, body(true)).await;
    assert_eq!(reply.header("content-type"), Some("text/event-stream"));
    let events = events(&reply.body);
    let names = types(&events);
    assert_eq!(names[..2], ["created", "in_progress"]);
    assert_eq!(*names.last().unwrap(), "completed");
    let mut distinct = names.clone();
    distinct.dedup();
    assert_eq!(
        distinct,
        [
            "created",
            "in_progress",
            "output_item.added",
            "content_part.added",
            "reasoning_text.delta",
            "reasoning_text.done",
            "content_part.done",
            "output_item.done",
            "output_item.added",
            "content_part.added",
            "output_text.delta",
            "output_text.done",
            "content_part.done",
            "output_item.done",
            "output_item.added",
            "function_call_arguments.delta",
            "function_call_arguments.done",
            "output_item.done",
            "completed",
        ]
    );
    let last = &events.last().unwrap()["response"];
    let done: Vec<&Value> = events
        .iter()
        .filter(|event| event["type"] == "response.output_item.done")
        .map(|event| &event["item"])
        .collect();
    assert_eq!(
        json!(done),
        last["output"],
        "items are announced as they end up"
    );
    let said = |output: &Value| -> Vec<Value> {
        let items = output.as_array().unwrap().iter();
        items
            .map(|item| {
                json!([
                    item["type"],
                    item["content"][0]["text"],
                    item["name"],
                    item["arguments"]
                ])
            })
            .collect()
    };
    assert_eq!(said(&last["output"]), said(&whole["output"]));
    assert_eq!(
        said(&whole["output"]),
        [
            json!(["reasoning", "hm", null, null]),
            json!(["message", "I look.", null, null]),
            json!(["function_call", null, "weather", "{\"city\": \"Rome\"}"]),
        ]
    );
    assert_eq!(last["usage"], whole["usage"]);
    let deltas = |kind: &str| -> String {
        let deltas = events.iter().filter(|event| event["type"] == kind);
        deltas
            .map(|event| event["delta"].as_str().unwrap())
            .collect()
    };
    assert_eq!(deltas("response.output_text.delta"), "I look.");
    assert_eq!(
        deltas("response.function_call_arguments.delta"),
        "{\"city\": \"Rome\"}"
    );
    assert_eq!(events[0]["response"]["output"], json!([]));
}

#[tokio::test]
async fn tools_of_other_types_are_skipped() {
    let server = Server::saying("ok").await;
    let tools = json!([tool(), {"type": "web_search"}, {"type": "custom", "name": "c"}, {"type": "local_shell"}]);
    let reply = server
        .post(RESPONSES, ask(json!("hi"), json!({"tools": tools})))
        .await;
    assert_eq!(prompt(&server), "user: hi\n1 tools\nassistant:");
    assert_eq!(reply.json()["tools"].as_array().unwrap().len(), 1);
    let none = json!({"tools": tools, "tool_choice": "none"});
    server.post(RESPONSES, ask(json!("hi"), none)).await;
    assert_eq!(prompt(&server), "user: hi\nassistant:");
    let allowed = json!({"tools": tools, "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": []}});
    server.post(RESPONSES, ask(json!("hi"), allowed)).await;
    assert_eq!(prompt(&server), "user: hi\nassistant:");
}

/// A format and a forced call bind the answer; otherwise it is free.
#[tokio::test]
async fn formats_and_forced_calls_bind_the_answer() {
    let server = Server::saying("{}").await;
    let schema = json!({"type": "object", "properties": {}, "additionalProperties": false});
    let schema = json!({"type": "json_schema", "name": "o", "schema": schema, "strict": true});
    let named = json!({"type": "function", "name": "weather"});
    let allowed = json!({"type": "allowed_tools", "mode": "required", "tools": [named]});
    let cases = [
        json!({"text": {"format": schema}}),
        json!({"text": {"format": {"type": "json_object"}}}),
        json!({"tools": [tool()], "tool_choice": "required"}),
        json!({"tools": [tool()], "tool_choice": named}),
        json!({"tools": [tool()], "tool_choice": allowed}),
        json!({"text": {"format": {"type": "text"}}}),
    ];
    let free = cases.len() - 1;
    for (place, more) in cases.into_iter().enumerate() {
        let reply = server.post(RESPONSES, ask(json!("hi"), more.clone())).await;
        assert_eq!(reply.status, 200, "{}", reply.body);
        let is_bound = server.engine.requests().last().unwrap().rules.is_some();
        assert_eq!(is_bound, place != free, "{more}");
    }
}

#[tokio::test]
async fn an_answer_that_was_cut_is_incomplete() {
    let acts = vec![Act::Text("he".into()), Act::Finish(FinishReason::Length)];
    let server = Server::start(move |_| acts.clone()).await;
    let body = |stream| {
        ask(
            json!("hi"),
            json!({"max_output_tokens": 2, "stream": stream}),
        )
    };
    let whole = server.post(RESPONSES, body(false)).await.json();
    assert_eq!(whole["status"], "incomplete");
    assert_eq!(
        whole["incomplete_details"],
        json!({"reason": "max_output_tokens"})
    );
    assert_eq!(whole["output"][0]["status"], "incomplete");
    let streamed = server.post(RESPONSES, body(true)).await;
    assert_eq!(
        *types(&events(&streamed.body)).last().unwrap(),
        "incomplete"
    );
}

#[tokio::test]
async fn a_failure_ends_a_stream_as_a_failed_response() {
    let error = RequestError::Backend("it broke".into());
    let acts = vec![Act::Text("he".into()), Act::Fail(error)];
    let server = Server::start(move |_| acts.clone()).await;
    let whole = server.post(RESPONSES, ask(json!("hi"), json!({}))).await;
    assert_eq!(whole.error().0, 500);
    let streamed = server
        .post(RESPONSES, ask(json!("hi"), json!({"stream": true})))
        .await;
    let events = events(&streamed.body);
    assert_eq!(*types(&events).last().unwrap(), "failed");
    let response = &events.last().unwrap()["response"];
    assert_eq!(response["status"], "failed");
    assert_eq!(response["error"]["code"], "server_error");
    assert!(
        response["error"]["message"]
            .as_str()
            .unwrap()
            .contains("it broke")
    );
}

#[tokio::test]
async fn an_empty_answer_is_an_empty_message() {
    let server = Server::saying("").await;
    let reply = server
        .post(RESPONSES, ask(json!("hi"), json!({})))
        .await
        .json();
    assert_eq!(reply["output"][0]["content"][0]["text"], "");
}

#[tokio::test]
async fn logprobs_come_with_their_text_if_they_are_included() {
    let server = Server::saying("ab").await;
    let more = json!({"include": ["message.output_text.logprobs", "file_search_call.results"], "top_logprobs": 1});
    let whole = server
        .post(RESPONSES, ask(json!("hi"), more.clone()))
        .await
        .json();
    let logprobs = &whole["output"][0]["content"][0]["logprobs"];
    assert_eq!(
        logprobs[0],
        json!({
            "token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": [{"token": "a", "logprob": -0.5, "bytes": [97]}],
        })
    );
    assert_eq!(logprobs.as_array().unwrap().len(), 2);
    let streamed = server
        .post(
            RESPONSES,
            ask(json!("hi"), with(more, json!({"stream": true}))),
        )
        .await;
    let events = events(&streamed.body);
    let deltas: Vec<Value> = events
        .iter()
        .filter(|event| event["type"] == "response.output_text.delta")
        .flat_map(|event| event["logprobs"].as_array().unwrap().clone())
        .collect();
    assert_eq!(json!(deltas), *logprobs);
}

#[tokio::test]
async fn refusals_name_the_fields_of_this_endpoint() {
    let server = Server::saying("x").await;
    let invalid = |input: Value, more: Value, param: &str| {
        (ask(input, more), "invalid_value", param.to_owned())
    };
    let unsupported = |input: Value, more: Value, param: &str| {
        (ask(input, more), "unsupported_value", param.to_owned())
    };
    let cases = [
        invalid(json!(null), json!({}), "input"),
        invalid(json!([]), json!({}), "input"),
        invalid(json!("refuse me"), json!({}), "input"),
        invalid(json!([{"role": "user"}]), json!({}), "input[0].content"),
        unsupported(
            json!([{"role": "user", "content": [{"type": "input_image"}]}]),
            json!({}),
            "input[0].content[0].type",
        ),
        invalid(
            json!("a"),
            json!({"max_output_tokens": 0}),
            "max_output_tokens",
        ),
        invalid(json!("a"), json!({"temperature": 3}), "temperature"),
        invalid(json!("a"), json!({"n": 2}), "n"),
        unsupported(
            json!("a"),
            json!({"text": {"format": {"type": "yaml"}}}),
            "text.format",
        ),
        invalid(
            json!("a"),
            json!({"reasoning": {"effort": "huge"}}),
            "reasoning.effort",
        ),
        invalid(
            json!("a"),
            json!({"tool_choice": "required"}),
            "tool_choice",
        ),
        invalid(
            json!("a"),
            json!({"tool_choice": {"type": "allowed_tools"}}),
            "tool_choice.tools",
        ),
        invalid(
            json!("a"),
            json!({"background": true, "store": false}),
            "store",
        ),
        unsupported(
            json!("a"),
            json!({"conversation": "conv_1"}),
            "conversation",
        ),
        unsupported(json!("a"), json!({"prompt": {"id": "p"}}), "prompt"),
        (
            ask(json!(5), json!({})),
            "invalid_request_body",
            "input".to_owned(),
        ),
        (
            ask(json!("a".repeat(500)), json!({})),
            "context_length_exceeded",
            "input".to_owned(),
        ),
    ];
    for (body, code, param) in cases {
        let reply = server.post(RESPONSES, body.clone()).await;
        assert_eq!(reply.error(), (400, code.to_owned(), Some(param)), "{body}");
    }
    assert!(server.engine.requests().is_empty());
}

#[tokio::test]
async fn a_client_that_leaves_a_stream_frees_the_engine_and_keeps_nothing() {
    let server = Server::start(|_| vec![Act::Text("he".into()), Act::Gate]).await;
    let mut connection = server
        .open(RESPONSES, ask(json!("hi"), json!({"stream": true})))
        .await;
    let seen = connection.until("output_text.delta", 1).await;
    let id = seen
        .split("\"id\":\"")
        .nth(1)
        .unwrap()
        .split('"')
        .next()
        .unwrap()
        .to_owned();
    drop(connection);
    server.engine.until_cancelled(1).await;
    server.engine.until_running(0).await;
    assert_eq!(server.get(&format!("{RESPONSES}/{id}")).await.status, 404);
}
