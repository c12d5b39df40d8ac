//! Responses in the background whose events are followed, and the items that a stored response answers.

use super::fake::{Act, FakeEngine};
use super::responses::{RESPONSES, ask, events, types};
use super::*;

/// Says `he`, waits at a gate, and says `llo`.
async fn server() -> Server {
    Server::start(|_| [vec![Act::Text("he".into()), Act::Gate], fake::says("llo")].concat()).await
}

fn followed() -> Value {
    ask(json!("hi"), json!({"background": true, "stream": true}))
}

/// The path of the response that a stream has begun with.
fn path_of(seen: &str) -> String {
    let id = seen.split("\"id\":\"resp_").nth(1).unwrap();
    format!("{RESPONSES}/resp_{}", id.split('"').next().unwrap())
}

#[tokio::test]
async fn its_events_are_those_of_any_stream() {
    let server = server().await;
    server.engine.open_gate(2);
    let whole = server.post(RESPONSES, followed()).await;
    assert_eq!(whole.header("content-type"), Some("text/event-stream"));
    let whole = events(&whole.body);
    let other = ask(json!("hi"), json!({"stream": true}));
    let other = events(&server.post(RESPONSES, other).await.body);
    assert_eq!(types(&whole), types(&other));
    let last = &whole.last().unwrap()["response"];
    assert_eq!(
        (&last["background"], &last["status"]),
        (&json!(true), &json!("completed"))
    );
    let path = format!("{RESPONSES}/{}", last["id"].as_str().unwrap());
    assert_eq!(server.get(&path).await.json(), *last);
}

#[tokio::test]
async fn who_lost_the_connection_goes_on_from_the_last_event() {
    let server = server().await;
    let mut connection = server.open(RESPONSES, followed()).await;
    let seen = connection.until("output_text.delta", 1).await;
    let path = path_of(&seen);
    drop(connection);
    server.engine.until_running(1).await;
    assert!(
        server.engine.cancelled().is_empty(),
        "nobody waits and it goes on"
    );
    let again = Call::new("GET", &format!("{path}?stream=true"));
    let mut again = again.open(server.address).await;
    again.until("output_text.delta", 1).await;
    server.engine.open_gate(1);
    let whole = events(&again.finish().await.body);
    for last in [0, 3, whole.len() - 2] {
        let rest = format!("{path}?stream=true&starting_after={last}");
        let rest = server.get(&rest).await.body;
        let numbers: Vec<usize> = rest
            .split("\"sequence_number\":")
            .skip(1)
            .map(|text| text.split([',', '}']).next().unwrap().parse().unwrap())
            .collect();
        assert_eq!(numbers, (last + 1..whole.len()).collect::<Vec<_>>());
    }
    let beyond = format!("{path}?stream=true&starting_after={}", u64::MAX);
    assert_eq!(server.get(&beyond).await.body, "");
}

#[tokio::test]
async fn a_stream_ends_with_what_is_cancelled_or_deleted() {
    let server = server().await;
    for (method, more) in [("POST", "/cancel"), ("DELETE", "")] {
        let mut connection = server.open(RESPONSES, followed()).await;
        let path = path_of(&connection.until("output_text.delta", 1).await);
        let call = Call::new(method, &format!("{path}{more}"));
        assert_eq!(call.send(server.address).await.status, 200);
        let whole = connection.finish().await;
        assert!(!whole.body.contains("response.completed"));
        server.engine.until_running(0).await;
    }
}

#[tokio::test]
async fn what_fails_says_so_in_its_last_event() {
    let server = Server::start(|_| {
        let error = odmoe_engine::RequestError::ShuttingDown;
        vec![Act::Text("he".into()), Act::Fail(error)]
    })
    .await;
    let events = events(&server.post(RESPONSES, followed()).await.body);
    assert_eq!(events.last().unwrap()["type"], "response.failed");
}

#[tokio::test]
async fn only_what_was_asked_for_as_a_stream_can_be_followed() {
    let server = Server::saying("x").await;
    let reply = server.post(RESPONSES, ask(json!("hi"), json!({}))).await;
    let path = format!("{RESPONSES}/{}", reply.json()["id"].as_str().unwrap());
    let follow = |query: &str| format!("{path}?{query}");
    assert_eq!(
        server.get(&follow("stream=true")).await.error(),
        (400, "invalid_value".into(), Some("stream".into()))
    );
    assert_eq!(server.get(&follow("stream=false")).await.status, 200);
    assert_eq!(server.get(&follow("stream=perhaps")).await.error().0, 400);
    assert_eq!(
        server
            .get(&format!("{RESPONSES}/resp_none?stream=true"))
            .await
            .status,
        404
    );
}

/// A store of a few bytes must not be outgrown by logs of events.
#[tokio::test]
async fn logs_count_among_what_is_stored() {
    let limits = crate::http::Limits {
        stored_responses_bytes: 12_000,
        ..crate::http::Limits::default()
    };
    let config = HttpConfig {
        limits,
        ..HttpConfig::default()
    };
    let text = "word ".repeat(100);
    let engine = FakeEngine::new(move |_| fake::says(&text));
    let server = Server::with(config, engine).await;
    let whole = events(&server.post(RESPONSES, followed()).await.body);
    let id = whole[0]["response"]["id"].as_str().unwrap();
    let status = server.get(&format!("{RESPONSES}/{id}")).await.status;
    assert_eq!(status, 404, "some hundred events are more than fits");
}

#[tokio::test]
async fn the_input_of_a_response_is_listed_page_by_page() {
    let server = Server::saying("well").await;
    let input = json!([
        {"role": "user", "content": [{"type": "input_text", "text": "one"}]},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "two"},
        {"role": "user", "content": "three"},
    ]);
    let first = server.post(RESPONSES, ask(input, json!({}))).await.json();
    let more = json!({"previous_response_id": first["id"]});
    let second = server
        .post(RESPONSES, ask(json!("four"), more))
        .await
        .json();
    let path = |reply: &Value, query: &str| {
        let id = reply["id"].as_str().unwrap();
        format!("{RESPONSES}/{id}/input_items{query}")
    };
    let list = server.get(&path(&first, "?order=asc")).await.json();
    let kinds: Vec<_> = list["data"].as_array().unwrap().iter().collect();
    let kinds: Vec<_> = kinds
        .iter()
        .map(|item| item["type"].as_str().unwrap())
        .collect();
    assert_eq!(
        kinds,
        [
            "message",
            "function_call",
            "function_call_output",
            "message"
        ]
    );
    assert_eq!(
        list["data"][0]["content"],
        json!([{"type": "input_text", "text": "one"}])
    );
    assert_eq!(
        (&list["object"], &list["has_more"]),
        (&json!("list"), &json!(false))
    );
    // The next one's input is the whole conversation, its last item first.
    let mut texts = Vec::new();
    let mut after = String::new();
    loop {
        let page = server
            .get(&path(&second, &format!("?limit=2{after}")))
            .await
            .json();
        for item in page["data"].as_array().unwrap() {
            let text = item["content"][0]["text"].as_str();
            texts.push(
                text.or(item["output"].as_str())
                    .unwrap_or("call")
                    .to_owned(),
            );
        }
        if page["has_more"] == false {
            break;
        }
        after = format!("&after={}", page["last_id"].as_str().unwrap());
    }
    assert_eq!(texts, ["four", "well", "three", "two", "call", "one"]);
    for (query, param) in [
        ("?limit=0", "limit"),
        ("?limit=101", "limit"),
        ("?after=none", "after"),
        ("?order=up", "query"),
        ("?limit=many", "query"),
    ] {
        let reply = server.get(&path(&first, query)).await;
        assert_eq!(
            reply.error(),
            (400, "invalid_value".into(), Some(param.into())),
            "{query}"
        );
    }
    let unknown = server.get("/v1/responses/resp_none/input_items").await;
    assert_eq!(unknown.error().1, "response_not_found");
}
