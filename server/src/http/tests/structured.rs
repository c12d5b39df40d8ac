//! Answers that are bound to a schema, a grammar or a call: what the engine is told to allow.

use super::*;
use odmoe_engine::TokenMask;

/// Whether a request's rules allow `text` and then an end. Tokens are bytes here.
fn allows(request: &Request, text: &str) -> bool {
    let mut constraint = request.rules.as_ref().expect("rules").begin();
    let mut mask = TokenMask::new(fake::VOCABULARY);
    for (place, token) in text.bytes().map(u32::from).enumerate() {
        mask.clear();
        constraint.allow(&mut mask).unwrap();
        if !mask.contains(token) {
            return false;
        }
        if constraint.accept(token).unwrap() {
            return place + 1 == text.len();
        }
    }
    mask.clear();
    constraint.allow(&mut mask).unwrap();
    mask.contains(fake::END) && !mask.contains(fake::PAD)
}

/// Sends `body` and checks which texts its answer may be.
async fn check(path: &str, body: Value, good: &[&str], bad: &[&str]) {
    let server = Server::saying("x").await;
    let reply = server.post(path, body.clone()).await;
    assert_eq!(reply.status, 200, "{body}: {}", reply.body);
    let request = server.engine.requests().remove(0);
    for text in good {
        assert!(allows(&request, text), "{body} refuses {text}");
    }
    for text in bad {
        assert!(!allows(&request, text), "{body} allows {text}");
    }
}

fn person() -> Value {
    json!({"type": "object", "properties": {"age": {"type": "integer"}},
           "required": ["age"], "additionalProperties": false})
}

#[tokio::test]
async fn every_name_for_a_format_binds_the_answer() {
    let strict = json!({"name": "person", "strict": true, "schema": person()});
    let people = (["{\"age\": 4}"], ["{}", "four", "{\"age\": \"4\"}"]);
    let numbers = (["42"], ["4", "x"]);
    let choices = (["a\"b", "c"], ["a", "d"]);
    let schemas = [
        json!({"response_format": {"type": "json_schema", "json_schema": strict}}),
        json!({"structured_outputs": {"json": person(), "regex": null}}),
        json!({"guided_json": person()}),
        json!({"guided_json": person().to_string()}),
        json!({"grammar": {"type": "json_schema", "value": person()}}),
    ];
    for body in schemas {
        check(CHAT, chat(body.clone()), &people.0, &people.1).await;
        check(COMPLETIONS, completion(body), &people.0, &people.1).await;
    }
    let regexes = [
        json!({"structured_outputs": {"regex": "[0-9]{2}"}}),
        json!({"guided_regex": "[0-9]{2}"}),
        json!({"regex": "[0-9]{2}"}),
        json!({"grammar": "start: DIGIT DIGIT\nDIGIT: /[0-9]/"}),
        json!({"guided_grammar": "start: /[0-9][0-9]/"}),
        json!({"grammar": {"type": "regex", "value": "[0-9]{2}"}}),
    ];
    for body in regexes {
        check(CHAT, chat(body), &numbers.0, &numbers.1).await;
    }
    for body in [
        json!({"structured_outputs": {"choice": ["a\"b", "c"]}}),
        json!({"guided_choice": ["a\"b", "c"]}),
    ] {
        check(CHAT, chat(body), &choices.0, &choices.1).await;
    }
    let object = json!({"response_format": {"type": "json_object"}});
    check(
        CHAT,
        chat(object),
        &["{\"x\": [1]}", "<think>so</think>\n{}"],
        &["[]", "x"],
    )
    .await;
}

#[tokio::test]
async fn nothing_binds_a_plain_answer() {
    let server = Server::saying("x").await;
    for body in [
        json!({}),
        json!({"response_format": {"type": "text"}, "structured_outputs": null, "grammar": null}),
        json!({"structured_outputs": {}}),
        json!({"tools": [{"type": "function", "function": {"name": "f"}}]}),
    ] {
        server.post(CHAT, chat(body)).await;
    }
    let requests = server.engine.requests();
    assert_eq!(requests.len(), 4);
    assert!(requests.iter().all(|request| request.rules.is_none()));
}

fn tools() -> Value {
    let tool = |name: &str, parameters| json!({"type": "function", "function": {"name": name, "parameters": parameters}});
    json!([
        tool("age", person()),
        tool("now", json!({"type": "object", "properties": {}}))
    ])
}

const AGE: &str = "<tool_call>\n{\"name\": \"age\", \"arguments\": {\"age\": 4}}\n</tool_call>";
const NOW: &str = "<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>";

#[tokio::test]
async fn a_call_can_be_forced() {
    let both = format!("{AGE}\n{NOW}");
    let thinks = format!("<think>hm</think>\n\n{NOW}");
    let required = json!({"tools": tools(), "tool_choice": "required"});
    check(
        CHAT,
        chat(required),
        &[AGE, NOW, &both, &thinks],
        &["well", "{}"],
    )
    .await;
    let single = json!({"tools": tools(), "tool_choice": "required", "parallel_tool_calls": false});
    check(CHAT, chat(single), &[AGE, NOW], &[&both]).await;
    let named =
        json!({"tools": tools(), "tool_choice": {"type": "function", "function": {"name": "now"}}});
    check(CHAT, chat(named), &[NOW], &[AGE]).await;
    let format = json!({"type": "json_object"});
    let either = json!({"tools": tools(), "response_format": format});
    check(CHAT, chat(either), &[AGE, "{\"x\": 1}"], &["well"]).await;
}

#[tokio::test]
async fn without_parallel_calls_an_answer_ends_before_the_second() {
    let acts = vec![Act::Text(format!("{AGE}\n{NOW} and more")), Act::Gate];
    let server = Server::start(move |_| acts.clone()).await;
    for stream in [false, true] {
        let body = json!({"tools": tools(), "parallel_tool_calls": false, "stream": stream});
        let reply = server.post(CHAT, chat(body)).await;
        assert!(reply.body.contains("\"name\":\"age\""), "{}", reply.body);
        assert!(!reply.body.contains("\"name\":\"now\""), "{}", reply.body);
        assert!(!reply.body.contains("more"), "{}", reply.body);
        assert!(
            reply.body.contains("\"finish_reason\":\"tool_calls\""),
            "{}",
            reply.body
        );
    }
    server.engine.until_cancelled(2).await;
}

#[tokio::test]
async fn what_cannot_be_enforced_is_a_400_that_names_the_field() {
    let server = Server::saying("x").await;
    let mut deep = json!({});
    for _ in 0..40 {
        deep = json!({"items": deep});
    }
    let schema = |schema: Value| json!({"type": "json_schema", "json_schema": {"schema": schema}});
    let cases = [
        (
            json!({"response_format": {"type": "json_schema"}}),
            "response_format.json_schema.schema",
        ),
        (
            json!({"response_format": schema(json!([]))}),
            "response_format.json_schema.schema",
        ),
        (
            json!({"response_format": schema(json!({"type": "colour"}))}),
            "response_format",
        ),
        (
            json!({"response_format": schema(json!({"not": {}}))}),
            "response_format",
        ),
        (json!({"response_format": schema(deep)}), "response_format"),
        (
            json!({"response_format": schema(json!({"title": "x".repeat(70_000)}))}),
            "response_format",
        ),
        (
            json!({"response_format": {"type": "xml"}}),
            "response_format",
        ),
        (json!({"guided_regex": "("}), "guided_regex"),
        (json!({"guided_regex": "a", "regex": "b"}), "regex"),
        (json!({"guided_choice": []}), "guided_choice"),
        (json!({"guided_json": "{"}), "guided_json"),
        (
            json!({"guided_grammar": "root ::= \"a\""}),
            "guided_grammar",
        ),
        (json!({"grammar": "start: nothing"}), "grammar"),
        (
            json!({"grammar": {"type": "gbnf", "value": "x"}}),
            "grammar",
        ),
        (
            json!({"structured_outputs": {"json": {}, "regex": "a"}}),
            "structured_outputs",
        ),
        (
            json!({"structured_outputs": {"xml": "a"}}),
            "structured_outputs",
        ),
        (
            json!({"structured_outputs": {"regex": 7}}),
            "structured_outputs",
        ),
        (
            json!({"tools": [{"function": {"name": "f", "parameters": {"type": "colour"}}}],
                   "tool_choice": "required"}),
            "tools",
        ),
    ];
    for (body, param) in cases {
        let (status, _, named) = server.post(CHAT, chat(body.clone())).await.error();
        assert_eq!((status, named.as_deref()), (400, Some(param)), "{body}");
    }
    assert!(
        server.engine.requests().is_empty(),
        "none reached the engine"
    );
}
