//! Anthropic's API.

use super::fake::{Act, FakeEngine};
use super::*;
use odmoe_engine::{FinishReason, RequestError};

const MESSAGES: &str = "/v1/messages";
const COUNT: &str = "/v1/messages/count_tokens";
const CALL: &str =
    "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Rome\"}}\n</tool_call>";

fn ask(more: Value) -> Value {
    let hi = json!([{"role": "user", "content": "hi"}]);
    with(
        json!({"model": "tiny/moe", "max_tokens": 100, "messages": hi}),
        more,
    )
}

fn weather() -> Value {
    let city = json!({"type": "object", "properties": {"city": {"type": "string"}}});
    json!({"name": "weather", "description": "tells", "input_schema": city})
}

fn prompt(server: &Server) -> String {
    let requests = server.engine.requests();
    fake::tokenizer().decode(&requests.last().unwrap().prompt, false)
}

/// The events of a stream: each is named as its type is.
fn events(body: &str) -> Vec<Value> {
    let events = body.split_terminator("\n\n").map(|event| {
        let (name, data) = event.split_once('\n').unwrap();
        let data: Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!(name, format!("event: {}", data["type"].as_str().unwrap()));
        data
    });
    events.collect()
}

/// Status, type and message of an error in Anthropic's shape.
#[track_caller]
fn error(reply: &Reply) -> (u16, String, String) {
    let json = reply.json();
    assert_eq!(json["type"], "error", "{json}");
    assert_eq!(json["request_id"].as_str(), reply.header("request-id"));
    assert_eq!(reply.header("request-id"), reply.header("x-request-id"));
    let text = |key: &str| json["error"][key].as_str().unwrap().to_owned();
    (reply.status, text("type"), text("message"))
}

#[tokio::test]
async fn a_message_is_answered() {
    let server = Server::saying("hello").await;
    let reply = server
        .post(MESSAGES, ask(json!({"system": "be kind"})))
        .await;
    assert_eq!(prompt(&server), "system: be kind\nuser: hi\nassistant:");
    assert_eq!(reply.header("request-id"), reply.header("x-request-id"));
    let mut json = reply.json();
    assert!(json["id"].take().as_str().unwrap().starts_with("msg_"));
    assert_eq!(
        json,
        json!({
            "id": null, "type": "message", "role": "assistant", "model": "tiny/moe",
            "content": [{"type": "text", "text": "hello"}],
            "stop_reason": "end_turn", "stop_sequence": null,
            "usage": {"input_tokens": 35, "output_tokens": 6, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0},
        })
    );
    assert_eq!(server.engine.requests()[0].max_new_tokens, 100);
}

#[tokio::test]
async fn thoughts_text_and_calls_are_blocks_whole_or_streamed() {
    let server = Server::saying(&format!("<think>\nhm\n</think>\n\nI look.\n{CALL}")).await;
    let body = |stream| ask(json!({"tools": [weather()], "stream": stream}));
    let whole = server.post(MESSAGES, body(false)).await.json();
    assert_eq!(whole["stop_reason"], "tool_use");
    let [thought, text, call] = whole["content"].as_array().unwrap().as_slice() else {
        panic!("{whole}")
    };
    assert_eq!(
        *thought,
        json!({"type": "thinking", "thinking": "hm", "signature": ""})
    );
    assert_eq!(*text, json!({"type": "text", "text": "I look."}));
    assert_eq!(
        (&call["type"], &call["name"], &call["input"]),
        (
            &json!("tool_use"),
            &json!("weather"),
            &json!({"city": "Rome"})
        )
    );

    let reply = server.post(MESSAGES, body(true)).await;
    let events = events(&reply.body);
    let mut names: Vec<&str> = events
        .iter()
        .map(|event| event["type"].as_str().unwrap())
        .collect();
    names.dedup();
    let block = [
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
    ];
    let expected = [
        &["message_start"],
        &block[..],
        &block,
        &block,
        &["message_delta", "message_stop"],
    ]
    .concat();
    assert_eq!(names, expected);
    let start = &events[0]["message"];
    assert_eq!(
        (&start["content"], &start["stop_reason"]),
        (&json!([]), &Value::Null)
    );
    assert_eq!(
        start["usage"]["input_tokens"],
        whole["usage"]["input_tokens"]
    );
    let joined = |index: u32, member: &str| -> String {
        let deltas = events
            .iter()
            .filter(|event| event["type"] == "content_block_delta" && event["index"] == index);
        deltas
            .map(|event| event["delta"][member].as_str().unwrap())
            .collect()
    };
    assert_eq!(joined(0, "thinking"), "hm");
    assert_eq!(joined(1, "text"), "I look.");
    assert_eq!(joined(2, "partial_json"), "{\"city\": \"Rome\"}");
    let starts: Vec<&Value> = events
        .iter()
        .filter(|event| event["type"] == "content_block_start")
        .collect();
    assert_eq!(starts[2]["content_block"]["name"], "weather");
    assert_eq!(starts[2]["content_block"]["input"], json!({}));
    let delta = &events[events.len() - 2];
    assert_eq!(
        delta["delta"],
        json!({"stop_reason": "tool_use", "stop_sequence": null})
    );
    assert_eq!(delta["usage"], whole["usage"]);
}

#[tokio::test]
async fn an_answer_says_what_ended_it() {
    let server = Server::saying("one two").await;
    let reply = server
        .post(MESSAGES, ask(json!({"stop_sequences": ["x", " t"]})))
        .await
        .json();
    assert_eq!(reply["content"][0]["text"], "one");
    assert_eq!(
        (&reply["stop_reason"], &reply["stop_sequence"]),
        (&json!("stop_sequence"), &json!(" t"))
    );
    let streamed = server
        .post(
            MESSAGES,
            ask(json!({"stop_sequences": [" t"], "stream": true})),
        )
        .await;
    let events = events(&streamed.body);
    let delta = &events[events.len() - 2]["delta"];
    assert_eq!(
        *delta,
        json!({"stop_reason": "stop_sequence", "stop_sequence": " t"})
    );
    let acts = vec![Act::Text("he".into()), Act::Finish(FinishReason::Length)];
    let server = Server::start(move |_| acts.clone()).await;
    let reply = server
        .post(MESSAGES, ask(json!({"max_tokens": 2})))
        .await
        .json();
    assert_eq!(reply["stop_reason"], "max_tokens");
}

#[tokio::test]
async fn counting_counts_what_would_be_asked() {
    let server = Server::saying("x").await;
    let more = json!({"system": "be kind", "tools": [weather(), {"type": "web_search_20250305", "name": "web_search"}]});
    let counted = server.post(COUNT, ask(more.clone())).await.json();
    server.post(MESSAGES, ask(more)).await;
    assert_eq!(
        prompt(&server),
        "system: be kind\nuser: hi\n1 tools\nassistant:"
    );
    assert_eq!(
        counted,
        json!({"input_tokens": server.engine.requests()[0].prompt.len()})
    );
}

#[tokio::test]
async fn choices_of_tools_are_understood() {
    let server = Server::saying("x").await;
    let with_choice = |choice: Value| ask(json!({"tools": [weather()], "tool_choice": choice}));
    for (choice, shown) in [("auto", true), ("none", false)] {
        let reply = server
            .post(MESSAGES, with_choice(json!({"type": choice})))
            .await;
        assert_eq!(reply.status, 200, "{}", reply.body);
        assert_eq!(prompt(&server).contains("1 tools"), shown, "{choice}");
    }
    let unknown = server
        .post(
            MESSAGES,
            with_choice(json!({"type": "tool", "name": "none"})),
        )
        .await;
    assert!(
        error(&unknown).2.starts_with("tool_choice: "),
        "{}",
        unknown.body
    );
}

#[tokio::test]
async fn errors_have_anthropics_shape_wherever_they_come_from() {
    let config = HttpConfig {
        api_keys: vec![crate::http::ApiKey::new("k", "KEY")],
        ..HttpConfig::default()
    };
    let server = Server::with(config, FakeEngine::new(|_| fake::says("x"))).await;
    let send = async |call: Call| error(&call.send(server.address).await);
    let keyed = |method: &str, path: &str| Call::new(method, path).header("x-api-key", "KEY");
    let (status, kind, _) = send(Call::new("POST", MESSAGES).json(ask(json!({})))).await;
    assert_eq!((status, kind.as_str()), (401, "authentication_error"));
    let (status, kind, _) = send(keyed("GET", MESSAGES)).await;
    assert_eq!((status, kind.as_str()), (405, "invalid_request_error"));
    let foreign = keyed("POST", "/messages")
        .header("origin", "http://evil")
        .json(ask(json!({})));
    let (status, kind, _) = send(foreign).await;
    assert_eq!((status, kind.as_str()), (403, "permission_error"));
    let cases = [
        (json!({"model": "other"}), 404, "not_found_error", "model: "),
        (
            json!({"messages": []}),
            400,
            "invalid_request_error",
            "messages: ",
        ),
        (
            json!({"messages": 5}),
            400,
            "invalid_request_error",
            "messages: ",
        ),
        (
            json!({"messages": [{"role": "user", "content": 5}]}),
            400,
            "invalid_request_error",
            "messages[0].content: ",
        ),
        (
            json!({"messages": [{"role": "user", "content": "refuse me"}]}),
            400,
            "invalid_request_error",
            "messages: ",
        ),
        (
            json!({"max_tokens": 0}),
            400,
            "invalid_request_error",
            "max_tokens: ",
        ),
        (
            json!({"stop_sequences": [""]}),
            400,
            "invalid_request_error",
            "stop_sequences: ",
        ),
        (
            json!({"temperature": 3}),
            400,
            "invalid_request_error",
            "temperature: ",
        ),
        (json!({"n": 2}), 400, "invalid_request_error", "n: "),
        (
            json!({"thinking": {"type": "loud"}}),
            400,
            "invalid_request_error",
            "thinking.type: ",
        ),
        (
            json!({"output_config": {"effort": "huge"}}),
            400,
            "invalid_request_error",
            "output_config.effort: ",
        ),
        (
            json!({"tool_choice": {"type": "all"}}),
            400,
            "invalid_request_error",
            "tool_choice.type: ",
        ),
        (
            json!({"tools": [{"input_schema": {}}]}),
            400,
            "invalid_request_error",
            "tools[0].function.name: ",
        ),
    ];
    for (more, status, kind, begins) in cases {
        for path in [MESSAGES, COUNT, "/messages"] {
            // Counting asks nothing of sampling.
            if path == COUNT
                && ["max_tokens: ", "stop_sequences: ", "temperature: ", "n: "].contains(&begins)
            {
                continue;
            }
            let found = send(keyed("POST", path).json(ask(more.clone()))).await;
            assert_eq!((found.0, found.1.as_str()), (status, kind), "{more}");
            assert!(found.2.starts_with(begins), "{found:?}");
        }
    }
    assert!(server.engine.requests().is_empty());
}

#[tokio::test]
async fn overload_and_failure_have_their_own_types() {
    let engine = FakeEngine::new(|_| vec![Act::Gate]).with_queue_limit(1);
    let server = Server::with(HttpConfig::default(), engine).await;
    let first = server.open(MESSAGES, ask(json!({}))).await;
    server.engine.until_running(1).await;
    let full = server.post(MESSAGES, ask(json!({}))).await;
    assert_eq!(error(&full).1, "rate_limit_error");
    assert!(full.header("retry-after").is_some());
    drop(first);
    let broken = RequestError::Backend("it broke".into());
    let acts = vec![Act::Text("he".into()), Act::Fail(broken)];
    let server = Server::start(move |_| acts.clone()).await;
    assert_eq!(
        error(&server.post(MESSAGES, ask(json!({}))).await).1,
        "api_error"
    );
    let streamed = server.post(MESSAGES, ask(json!({"stream": true}))).await;
    let events = events(&streamed.body);
    let last = events.last().unwrap();
    assert_eq!(
        (&last["type"], &last["error"]["type"]),
        (&json!("error"), &json!("api_error"))
    );
    let loading = Server::loading(HttpConfig::default(), FakeEngine::new(|_| Vec::new())).await;
    let reply = loading.post(MESSAGES, ask(json!({}))).await;
    assert_eq!(error(&reply).1, "overloaded_error");
}

/// A format and a forced call bind the answer; otherwise it is free.
#[tokio::test]
async fn formats_and_forced_calls_bind_the_answer() {
    let server = Server::saying("{}").await;
    let schema = json!({"type": "object", "properties": {}, "additionalProperties": false});
    let format = json!({"output_config": {"format": {"type": "json_schema", "schema": schema}}});
    let forced = json!({"tools": [weather()], "tool_choice": {"type": "any", "disable_parallel_tool_use": true}});
    let named = json!({"tools": [weather()], "tool_choice": {"type": "tool", "name": "weather"}});
    for more in [format, forced, named, json!({})] {
        let reply = server.post(MESSAGES, ask(more.clone())).await;
        assert_eq!(reply.status, 200, "{}", reply.body);
        let is_bound = server.engine.requests().last().unwrap().rules.is_some();
        assert_eq!(is_bound, more != json!({}), "{more}");
    }
    let bad = json!({"output_config": {"format": {"type": "yaml"}}});
    let refused = server.post(MESSAGES, ask(bad)).await;
    assert!(
        error(&refused).2.starts_with("output_config.format: "),
        "{}",
        refused.body
    );
}

#[tokio::test]
async fn thinking_can_be_turned_off() {
    let server = Server::saying("x").await;
    let cases = [
        (json!({"type": "disabled"}), true),
        (json!({"type": "enabled", "budget_tokens": 1024}), false),
        (json!({"type": "adaptive"}), false),
    ];
    for (thinking, is_quiet) in cases {
        let body = ask(json!({"thinking": thinking, "output_config": {"effort": "max"}}));
        assert_eq!(server.post(MESSAGES, body).await.status, 200);
        assert_eq!(
            prompt(&server).contains("effort none"),
            is_quiet,
            "{thinking}"
        );
    }
}
