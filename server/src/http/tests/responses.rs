//! Responses: items, events, and what is kept of them.

use super::fake::{Act, FakeEngine};
use super::*;
use crate::http::Limits;
use odmoe_engine::{FinishReason, RequestError};

const RESPONSES: &str = "/v1/responses";

fn ask(input: Value, more: Value) -> Value {
    with(json!({"model": "tiny/moe", "input": input}), more)
}

fn tool() -> Value {
    let city = json!({"type": "object", "properties": {"city": {"type": "string"}}});
    json!({"type": "function", "name": "weather", "parameters": city, "strict": null})
}

/// What the engine was asked last, as text.
fn prompt(server: &Server) -> String {
    let requests = server.engine.requests();
    fake::tokenizer().decode(&requests.last().unwrap().prompt, false)
}

/// The events of a stream: each is named as its type is, they are numbered in order, and nothing else comes.
fn events(body: &str) -> Vec<Value> {
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

fn types(events: &[Value]) -> Vec<&str> {
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

#[tokio::test]
async fn a_conversation_goes_on_from_a_stored_response() {
    let server = Server::saying("hello").await;
    let first = server
        .post(RESPONSES, ask(json!("hi"), json!({"instructions": "x"})))
        .await
        .json();
    let id = first["id"].as_str().unwrap();
    let goes_on = json!({"previous_response_id": id, "instructions": "y"});
    let second = server
        .post(RESPONSES, ask(json!("more"), goes_on))
        .await
        .json();
    assert_eq!(
        prompt(&server),
        "system: y\nuser: hi\nassistant: hello\nuser: more\nassistant:"
    );
    assert_eq!(second["previous_response_id"], id);
    // The first is as it was, and can be gone on from once more, by a stream too.
    assert_eq!(server.get(&format!("{RESPONSES}/{id}")).await.json(), first);
    let streamed = json!({"previous_response_id": second["id"], "stream": true});
    let reply = server.post(RESPONSES, ask(json!("on"), streamed)).await;
    assert!(prompt(&server).ends_with("user: more\nassistant: hello\nuser: on\nassistant:"));
    let events = events(&reply.body);
    let last = &events.last().unwrap()["response"];
    let id = last["id"].as_str().unwrap();
    assert_eq!(server.get(&format!("{RESPONSES}/{id}")).await.json(), *last);
}

#[tokio::test]
async fn what_is_not_stored_or_was_deleted_is_unknown() {
    let server = Server::saying("hello").await;
    let unknown = (404, "response_not_found".to_owned(), None);
    let unstored = server
        .post(RESPONSES, ask(json!("hi"), json!({"store": false})))
        .await
        .json();
    let path = |reply: &Value| format!("{RESPONSES}/{}", reply["id"].as_str().unwrap());
    assert_eq!(server.get(&path(&unstored)).await.error(), unknown);
    let stored = server
        .post(RESPONSES, ask(json!("hi"), json!({})))
        .await
        .json();
    // Somebody else's key.
    let other = Call::new("GET", &path(&stored)).header("x-api-key", "other");
    assert_eq!(other.send(server.address).await.error(), unknown);
    let deleted = Call::new("DELETE", &path(&stored))
        .send(server.address)
        .await;
    assert_eq!(
        deleted.json(),
        json!({"id": stored["id"], "object": "response", "deleted": true})
    );
    assert_eq!(server.get(&path(&stored)).await.error(), unknown);
    let again = Call::new("DELETE", &path(&stored))
        .send(server.address)
        .await;
    assert_eq!(again.error(), unknown);
    let goes_on = ask(json!("hi"), json!({"previous_response_id": stored["id"]}));
    assert_eq!(
        server.post(RESPONSES, goes_on).await.error(),
        (
            400,
            "previous_response_not_found".into(),
            Some("previous_response_id".into())
        )
    );
    assert_eq!(server.get(&format!("{RESPONSES}/%ff")).await.error().0, 400);
}

#[tokio::test]
async fn what_is_stored_is_bounded_and_the_oldest_goes_first() {
    let limits = Limits {
        stored_responses: 2,
        stored_responses_bytes: 12_000,
        ..Limits::default()
    };
    let config = HttpConfig {
        limits,
        ..HttpConfig::default()
    };
    let server = Server::with(config, FakeEngine::new(|_| fake::says("x"))).await;
    let store = async |input: &str, more: Value| {
        let reply = server.post(RESPONSES, ask(json!(input), more)).await.json();
        format!("{RESPONSES}/{}", reply["id"].as_str().unwrap())
    };
    let status = async |path: &str| server.get(path).await.status;
    let mut paths = Vec::new();
    for _ in 0..3 {
        paths.push(store("a", json!({})).await);
    }
    assert_eq!(
        [
            status(&paths[0]).await,
            status(&paths[1]).await,
            status(&paths[2]).await
        ],
        [404, 200, 200]
    );
    let large = store("b", json!({"metadata": {"a": "x".repeat(4000)}})).await;
    assert_eq!([status(&paths[2]).await, status(&large).await], [404, 200]);
    // What is too large by itself is answered and not kept.
    let larger = store("b", json!({"metadata": {"a": "x".repeat(8000)}})).await;
    assert_eq!([status(&large).await, status(&larger).await], [404, 404]);
}

#[tokio::test]
async fn a_response_in_the_background_is_retrieved_when_it_is_whole() {
    let server =
        Server::start(|_| [vec![Act::Text("he".into()), Act::Gate], fake::says("llo")].concat())
            .await;
    let background = json!({"background": true});
    let begun = server
        .post(RESPONSES, ask(json!("hi"), background.clone()))
        .await
        .json();
    assert_eq!(
        (&begun["status"], &begun["usage"]),
        (&json!("in_progress"), &Value::Null)
    );
    let path = format!("{RESPONSES}/{}", begun["id"].as_str().unwrap());
    assert_eq!(server.get(&path).await.json(), begun);
    let early = ask(json!("hi"), json!({"previous_response_id": begun["id"]}));
    assert_eq!(
        server.post(RESPONSES, early).await.error().2.as_deref(),
        Some("previous_response_id")
    );
    server.engine.open_gate(1);
    server.engine.until_running(0).await;
    let whole = until(&server, &path, "completed").await;
    assert_eq!(whole["output"][0]["content"][0]["text"], "hello");
    // Cancelling what is whole changes nothing.
    let cancelled = Call::new("POST", &format!("{path}/cancel"))
        .send(server.address)
        .await;
    assert_eq!(cancelled.json(), whole);
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

/// Asks until a response has this status.
async fn until(server: &Server, path: &str, status: &str) -> Value {
    client::soon(async {
        loop {
            let response = server.get(path).await.json();
            if response["status"] == status {
                return response;
            }
            tokio::task::yield_now().await;
        }
    })
    .await
}

#[tokio::test]
async fn a_response_in_the_background_can_be_cancelled_and_deleted() {
    let server = Server::start(|_| vec![Act::Text("he".into()), Act::Gate]).await;
    let begin = async || {
        let reply = server
            .post(RESPONSES, ask(json!("hi"), json!({"background": true})))
            .await;
        format!("{RESPONSES}/{}", reply.json()["id"].as_str().unwrap())
    };
    let path = begin().await;
    server.engine.until_running(1).await;
    let reply = Call::new("POST", &format!("{path}/cancel"))
        .send(server.address)
        .await;
    assert_eq!(reply.json()["status"], "cancelled");
    server.engine.until_cancelled(1).await;
    let kept = until(&server, &path, "cancelled").await;
    assert_eq!(kept["output"][0]["status"], "incomplete");
    let path = begin().await;
    server.engine.until_running(1).await;
    let reply = Call::new("DELETE", &path).send(server.address).await;
    assert_eq!(reply.status, 200);
    server.engine.until_cancelled(2).await;
    server.engine.until_running(0).await;
    assert_eq!(server.get(&path).await.status, 404);
    for path in [
        "/v1/responses/resp_none/cancel",
        "/responses/resp_none/cancel",
    ] {
        let reply = Call::new("POST", path).send(server.address).await;
        assert_eq!(reply.error().1, "response_not_found");
    }
}

#[tokio::test]
async fn only_what_is_in_the_background_can_be_cancelled() {
    let server = Server::saying("x").await;
    let reply = server
        .post(RESPONSES, ask(json!("hi"), json!({})))
        .await
        .json();
    let path = format!("{RESPONSES}/{}/cancel", reply["id"].as_str().unwrap());
    let reply = Call::new("POST", &path).send(server.address).await;
    assert_eq!(
        reply.error(),
        (400, "invalid_value".into(), Some("id".into()))
    );
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
        invalid(
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
            json!({"background": true, "stream": true}),
            "background",
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
