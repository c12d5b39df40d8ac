//! The embedded model bound to schemas, grammars and calls: it knows next to nothing, so what fits was enforced.

use odmoe_tests::{Server, ServerOptions};
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";

fn chat(more: Value) -> Value {
    let mut body = json!({
        "messages": [{"role": "user", "content": "Tell me about a cat."}],
        "max_tokens": 400, "temperature": 1.0, "seed": 11,
    });
    body.as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    body
}

/// A schema whose answers end soon whatever the model would say.
fn cat() -> Value {
    json!({
        "type": "object", "additionalProperties": false, "required": ["name", "age", "likes", "mood"],
        "properties": {
            "name": {"type": "string", "maxLength": 12},
            "age": {"type": "integer", "minimum": 0, "maximum": 30},
            "likes": {"type": "array", "minItems": 2, "maxItems": 3, "items": {"enum": ["milk", "sun", "mice"]}},
            "mood": {"anyOf": [{"const": "happy"}, {"type": "null"}]},
        },
    })
}

fn check_cat(text: &str) {
    let cat: Value = serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"));
    assert!(
        cat["name"].as_str().unwrap().chars().count() <= 12,
        "{text}"
    );
    assert!((0..=30).contains(&cat["age"].as_i64().unwrap()), "{text}");
    assert!(
        (2..=3).contains(&cat["likes"].as_array().unwrap().len()),
        "{text}"
    );
    assert!(cat["mood"] == "happy" || cat["mood"].is_null(), "{text}");
    assert_eq!(cat.as_object().unwrap().len(), 4, "{text}");
}

#[test]
fn answers_fit_their_schema_whole_and_streamed_alone_and_together() {
    let server = Server::start(&ServerOptions::default());
    let format = json!({"type": "json_schema", "json_schema": {"name": "cat", "strict": true, "schema": cat()}});
    let body = chat(json!({"response_format": format, "n": 2, "seed": 11, "logprobs": true}));
    let whole = server.client.post(CHAT, &body).expect(200).json();
    let choices = whole["choices"].as_array().unwrap();
    for choice in choices {
        check_cat(choice["message"]["content"].as_str().unwrap());
        assert_eq!(choice["finish_reason"], "stop");
    }
    let again = server.client.post(CHAT, &body).expect(200).json();
    assert_eq!(
        again["choices"], whole["choices"],
        "the same seed, the same answers"
    );
    let mut streamed = body.clone();
    streamed["stream"] = json!(true);
    streamed["n"] = json!(1);
    let text = odmoe_tests::client::chat_text(server.client.stream(CHAT, &streamed));
    assert_eq!(text, choices[0]["message"]["content"].as_str().unwrap());
    let object = chat(json!({"response_format": {"type": "json_object"}, "max_tokens": 120}));
    let reply = server.client.post(CHAT, &object).expect(200).json();
    let choice = &reply["choices"][0];
    if choice["finish_reason"] == "stop" {
        let text = choice["message"]["content"].as_str().unwrap();
        let value: Value = serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"));
        assert!(value.is_object(), "{text}");
    }
}

#[test]
fn calls_are_forced_and_read() {
    let server = Server::start(&ServerOptions::default());
    let tool =
        |name: &str| json!({"type": "function", "function": {"name": name, "parameters": cat()}});
    let tools = json!([tool("pet"), tool("feed")]);
    let check = |choice: &Value, names: &[&str]| {
        assert_eq!(choice["finish_reason"], "tool_calls", "{choice}");
        let message = &choice["message"];
        assert_eq!(message["content"], Value::Null);
        let calls = message["tool_calls"].as_array().unwrap();
        for call in calls {
            assert!(
                names.contains(&call["function"]["name"].as_str().unwrap()),
                "{call}"
            );
            check_cat(call["function"]["arguments"].as_str().unwrap());
        }
        calls.len()
    };
    let body = chat(
        json!({"tools": tools, "tool_choice": "required", "parallel_tool_calls": false, "n": 2}),
    );
    let reply = server.client.post(CHAT, &body).expect(200).json();
    for choice in reply["choices"].as_array().unwrap() {
        assert_eq!(check(choice, &["pet", "feed"]), 1);
    }
    let named = json!({"type": "function", "function": {"name": "feed"}});
    let body = chat(json!({"tools": tools, "tool_choice": named, "parallel_tool_calls": false}));
    let reply = server.client.post(CHAT, &body).expect(200).json();
    check(&reply["choices"][0], &["feed"]);
    let body = chat(
        json!({"tools": tools, "tool_choice": "required", "temperature": 0, "max_tokens": 150}),
    );
    let reply = server.client.post(CHAT, &body).expect(200).json();
    if reply["choices"][0]["finish_reason"] != "length" {
        assert!(check(&reply["choices"][0], &["pet", "feed"]) >= 1);
    }
}

#[test]
fn completions_follow_regular_expressions_and_grammars() {
    let server = Server::start(&ServerOptions::default());
    let complete = |more: Value| {
        let mut body = json!({"prompt": "The cat is", "max_tokens": 60, "temperature": 1.0});
        body.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        let reply = server
            .client
            .post("/v1/completions", &body)
            .expect(200)
            .json();
        assert_eq!(reply["choices"][0]["finish_reason"], "stop");
        reply["choices"][0]["text"].as_str().unwrap().to_owned()
    };
    let date = complete(json!({"regex": "20[0-9]{2}-(0[1-9]|1[0-2])"}));
    assert!(date.len() == 7 && date.starts_with("20"), "{date}");
    let choice = complete(json!({"guided_choice": [" black", " white", " \u{e9}blouissant"]}));
    assert!(
        [" black", " white", " \u{e9}blouissant"].contains(&choice.as_str()),
        "{choice}"
    );
    let nested = complete(
        json!({"grammar": "start: \"(\" inner \")\"\ninner: \"()\" | \"[\" \"cat\" \"]\""}),
    );
    assert!(["(())", "([cat])"].contains(&nested.as_str()), "{nested}");
}

/// A grammar whose masks are as dear as they may be ends its own request and leaves others their tokens.
#[test]
fn a_grammar_that_was_made_to_hurt_ends_alone() {
    let server = Server::start(&ServerOptions::default());
    let plain = chat(json!({"max_tokens": 24, "temperature": 0}));
    let alone = server.client.post(CHAT, &plain).expect(200).json();
    let rules: String = (0..20)
        .map(|n| format!("r{n}: r{0} r{0}\n", n + 1))
        .collect();
    let hostile = [
        format!("start: r0\n{rules}r20: \"a\"?"),
        "start: A\nA: /a{0,100000}{0,1000}/".to_owned(),
    ];
    for grammar in hostile {
        let body = chat(json!({"grammar": grammar, "max_tokens": 16}));
        std::thread::scope(|scope| {
            let hurt = scope.spawn(|| server.client.post(CHAT, &body));
            let beside = server.client.post(CHAT, &plain).expect(200).json();
            assert_eq!(beside["choices"], alone["choices"]);
            let hurt = hurt.join().unwrap();
            assert!([200, 400].contains(&hurt.status), "{}", hurt.body);
        });
    }
    let after = server.client.post(CHAT, &plain).expect(200).json();
    assert_eq!(after["choices"], alone["choices"]);
}
