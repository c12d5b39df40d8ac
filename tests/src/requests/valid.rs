//! One valid request or more of each endpoint, with most fields that it knows.

use super::Wanted;
use serde_json::{Value, json};

/// All of them. Few tokens each, so that thousands of them take little time.
pub fn valid() -> Vec<Wanted> {
    let mut all: Vec<Wanted> = bodies()
        .into_iter()
        .map(|(target, body)| Wanted {
            method: "POST".into(),
            target: target.into(),
            headers: headers(),
            body: Some(body),
        })
        .collect();
    let reading = [
        ("GET", "/v1/models"),
        ("GET", "/v1/models/tiny-moe"),
        ("GET", "/health"),
        ("GET", "/ready"),
        ("GET", "/metrics"),
        ("GET", "/openapi.json"),
        ("GET", "/docs/"),
        ("GET", "/v1/loading/progress"),
        ("GET", "/v1/responses/resp_unknown"),
        (
            "GET",
            "/v1/responses/resp_unknown?stream=true&starting_after=3",
        ),
        (
            "GET",
            "/v1/responses/resp_unknown/input_items?limit=2&order=asc&after=x",
        ),
        ("DELETE", "/v1/responses/resp_unknown"),
        ("POST", "/v1/responses/resp_unknown/cancel"),
        ("GET", "/admin/cache"),
    ];
    all.extend(reading.map(|(method, target)| Wanted {
        method: method.into(),
        target: target.into(),
        headers: headers(),
        body: None,
    }));
    all
}

fn headers() -> Vec<(String, String)> {
    [
        ("host", "localhost"),
        ("content-type", "application/json"),
        ("accept", "*/*"),
        ("authorization", "Bearer none"),
        ("x-request-id", "fuzz"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .to_vec()
}

fn bodies() -> Vec<(&'static str, Value)> {
    let messages = json!([
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "hi"}]},
    ]);
    let tool = json!({"name": "f", "description": "d", "parameters": schema()});
    let function = json!({"type": "function", "function": tool});
    vec![
        ("/v1/chat/completions", chat(json!({"messages": messages}))),
        (
            "/chat/completions",
            chat(
                json!({"messages": messages, "stream": true, "stream_options": {"include_usage": true}}),
            ),
        ),
        (
            "/v1/chat/completions",
            chat(json!({"messages": messages, "tools": [function], "tool_choice": "auto"})),
        ),
        (
            "/v1/chat/completions",
            chat(
                json!({"messages": messages, "tools": [function], "tool_choice": "required", "parallel_tool_calls": false}),
            ),
        ),
        (
            "/v1/chat/completions",
            chat(json!({"messages": messages, "response_format": {"type": "json_object"}})),
        ),
        (
            "/v1/chat/completions",
            chat(json!({"messages": messages, "response_format":
            {"type": "json_schema", "json_schema": {"name": "s", "strict": true, "schema": schema()}}})),
        ),
        (
            "/v1/chat/completions",
            chat(
                json!({"messages": messages, "guided_regex": "[a-z]{1,5}", "structured_outputs": {"regex": "a+"}}),
            ),
        ),
        (
            "/v1/chat/completions",
            chat(json!({"messages": conversation(), "reasoning_effort": "low"})),
        ),
        (
            "/v1/completions",
            sampled(json!({"prompt": "Once upon", "logprobs": 2, "echo": true})),
        ),
        (
            "/v1/completions",
            sampled(json!({"prompt": ["a", "b"], "stream": true, "suffix": null})),
        ),
        (
            "/completions",
            sampled(json!({"prompt": [[300, 301], [302]], "best_of": 1})),
        ),
        (
            "/v1/responses",
            json!({"input": "hi", "instructions": "Be brief.", "max_output_tokens": 3, "store": true, "stream": false,
            "temperature": 0.5, "tools": [{"type": "function", "name": "f", "parameters": schema()}, {"type": "web_search"}],
            "previous_response_id": null, "metadata": {"a": "b"}, "reasoning": {"effort": "low"}, "text": {"format": {"type": "text"}}}),
        ),
        (
            "/v1/responses",
            json!({"input": [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]}],
            "max_output_tokens": 3, "stream": true, "background": false}),
        ),
        (
            "/v1/responses",
            json!({"input": "hi", "max_output_tokens": 3, "stream": true, "background": true}),
        ),
        (
            "/v1/messages",
            json!({"max_tokens": 3, "messages": [{"role": "user", "content": "hi"}], "system": "Be brief.",
            "stop_sequences": ["x"], "temperature": 0.5, "top_k": 3, "top_p": 0.9, "stream": false, "metadata": {"user_id": "u"},
            "tools": [{"name": "f", "description": "d", "input_schema": schema()}], "tool_choice": {"type": "auto"}}),
        ),
        (
            "/v1/messages",
            json!({"max_tokens": 3, "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}], "stream": true}),
        ),
        (
            "/v1/messages/count_tokens",
            json!({"messages": [{"role": "user", "content": "hi"}], "system": [{"type": "text", "text": "s"}]}),
        ),
        (
            "/v1/embeddings",
            json!({"input": ["a", "b"], "encoding_format": "base64", "normalize": true, "pooling": "last"}),
        ),
        ("/v1/embeddings", json!({"input": [300, 301], "user": "u"})),
        (
            "/v1/tokenize",
            json!({"prompt": "hello", "add_special_tokens": true, "return_token_strs": true}),
        ),
        (
            "/tokenize",
            json!({"messages": messages, "add_generation_prompt": true}),
        ),
        ("/v1/detokenize", json!({"tokens": [300, 301]})),
        (
            "/v1/apply-template",
            json!({"messages": messages, "tools": [function]}),
        ),
    ]
}

/// A chat of several turns, with a call and its result.
fn conversation() -> Value {
    json!([
        {"role": "user", "content": "hi", "name": "n"},
        {"role": "assistant", "content": null, "tool_calls":
            [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "c", "content": "1"},
    ])
}

fn schema() -> Value {
    json!({"type": "object", "properties": {"a": {"type": "string", "maxLength": 4}, "b": {"enum": [1, 2]}},
           "required": ["a"], "additionalProperties": false})
}

fn chat(more: Value) -> Value {
    sampled(with(
        json!({"logprobs": true, "top_logprobs": 2, "chat_template_kwargs": {"enable_thinking": false}, "store": true,
               "service_tier": "auto", "metadata": {"a": "b"}, "modalities": ["text"]}),
        more,
    ))
}

fn sampled(more: Value) -> Value {
    with(
        json!({"max_tokens": 3, "temperature": 0.7, "top_p": 0.9, "top_k": 20, "min_p": 0.01, "n": 1, "seed": 1,
               "stop": ["zzz"], "stop_token_ids": [7], "logit_bias": {"5": 1}, "presence_penalty": 0.1,
               "frequency_penalty": 0.1, "repetition_penalty": 1.1, "ignore_eos": false, "user": "u", "unknown": {"a": [1]}}),
        more,
    )
}

fn with(mut body: Value, more: Value) -> Value {
    if let (Some(fields), Value::Object(more)) = (body.as_object_mut(), more) {
        fields.extend(more);
    }
    body
}
