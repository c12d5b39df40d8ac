//! Every refusal: status, code, param, and what SDKs are told about retrying.

use super::fake::{self, Act, FakeEngine};
use super::*;
use crate::http::Limits;
use odmoe_engine::{FinishReason, RequestError};
use odmoe_expert_store::{LoadError, ReadError};
use std::time::Duration;

/// Posts each body and compares status, code and param.
async fn check(server: &Server, path: &str, cases: &[(Value, u16, &str, Option<&str>)]) {
    for (body, status, code, param) in cases {
        let reply = server.post(path, body.clone()).await;
        let expected = (*status, (*code).to_owned(), param.map(str::to_owned));
        assert_eq!(reply.error(), expected, "{body} got {}", reply.body);
    }
    assert!(
        server.engine.requests().is_empty(),
        "nothing refused reaches the engine"
    );
}

#[tokio::test]
async fn values_out_of_range_name_their_field() {
    let server = Server::saying("x").await;
    let many = |count: usize| -> Vec<String> { (0..count).map(|i| format!("s{i}")).collect() };
    let bias: serde_json::Map<_, _> = (0..1025).map(|i| (format!("{i}"), json!(1))).collect();
    let bad = |more: Value, param| (chat(more), 400, "invalid_value", Some(param));
    let cases = [
        bad(json!({"temperature": 2.5}), "temperature"),
        bad(json!({"temperature": -0.1}), "temperature"),
        (
            chat(json!({"temperature": 1e39})),
            400,
            "malformed_json",
            None,
        ),
        bad(json!({"top_p": 0}), "top_p"),
        bad(json!({"top_p": 1.1}), "top_p"),
        bad(json!({"min_p": 2}), "min_p"),
        bad(json!({"top_k": -2}), "top_k"),
        bad(json!({"repetition_penalty": 0}), "repetition_penalty"),
        bad(json!({"presence_penalty": 3}), "presence_penalty"),
        bad(json!({"frequency_penalty": -3}), "frequency_penalty"),
        bad(json!({"n": 0}), "n"),
        bad(json!({"n": 17}), "n"),
        bad(json!({"n": 0, "stream": true}), "n"),
        bad(json!({"max_tokens": 0}), "max_tokens"),
        bad(json!({"max_completion_tokens": 0}), "max_completion_tokens"),
        bad(json!({"stop": many(17)}), "stop"),
        bad(json!({"stop": "x".repeat(257)}), "stop"),
        bad(json!({"stop": ""}), "stop"),
        bad(json!({"stop_token_ids": vec![1; 129]}), "stop_token_ids"),
        bad(json!({"stop_token_ids": [258]}), "stop_token_ids"),
        bad(json!({"logit_bias": bias}), "logit_bias"),
        bad(json!({"logit_bias": {"258": 1}}), "logit_bias"),
        bad(json!({"logit_bias": {"a": 1}}), "logit_bias"),
        bad(json!({"logit_bias": {"1": 101}}), "logit_bias"),
        bad(json!({"logit_bias": {"1": 1, "01": 2}}), "logit_bias"),
        bad(
            json!({"top_logprobs": 21, "logprobs": true}),
            "top_logprobs",
        ),
        bad(json!({"top_logprobs": 1}), "top_logprobs"),
        bad(
            json!({"stream_options": {"include_usage": true}}),
            "stream_options",
        ),
        bad(json!({"messages": []}), "messages"),
        bad(
            json!({"messages": vec![json!({"role": "user", "content": "a"}); 4097]}),
            "messages",
        ),
        bad(
            json!({"messages": [{"role": "user", "content": "refuse me"}]}),
            "messages",
        ),
        bad(json!({"tools": vec![json!({}); 257]}), "tools"),
        bad(
            json!({"tools": [{"type": "function"}]}),
            "tools[0].function.name",
        ),
        bad(
            json!({"tools": [{"function": {"name": "a b"}}]}),
            "tools[0].function.name",
        ),
        bad(
            json!({"tools": [{"function": {"name": "f", "parameters": []}}]}),
            "tools[0].function.parameters",
        ),
        bad(json!({"tool_choice": "required"}), "tool_choice"),
        bad(json!({"tool_choice": "perhaps"}), "tool_choice"),
        bad(json!({"tool_choice": {"type": "function"}}), "tool_choice"),
        bad(
            json!({"tools": [{"function": {"name": "f"}}],
                   "tool_choice": {"type": "function", "function": {"name": "g"}}}),
            "tool_choice",
        ),
        bad(json!({"reasoning_effort": "much"}), "reasoning_effort"),
        bad(json!({"response_format": {}}), "response_format"),
    ];
    check(&server, CHAT, &cases).await;
}

#[tokio::test]
async fn what_is_not_supported_says_so() {
    let server = Server::saying("x").await;
    let bad = |body: Value, param| (body, 400, "unsupported_value", Some(param));
    let image = json!([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x"}}]}]);
    let cases = [
        bad(chat(json!({"modalities": ["text", "audio"]})), "modalities"),
        bad(
            chat(json!({"messages": image})),
            "messages[0].content[0].type",
        ),
    ];
    check(&server, CHAT, &cases).await;
    let cases = [
        bad(completion(json!({"suffix": "x"})), "suffix"),
        bad(completion(json!({"best_of": 2})), "best_of"),
    ];
    check(&server, COMPLETIONS, &cases).await;
    // The same fields with values that ask for nothing.
    let harmless =
        json!({"echo": false, "suffix": "", "best_of": 1, "response_format": {"type": "text"}});
    assert_eq!(
        server.post(COMPLETIONS, completion(harmless)).await.status,
        200
    );
}

#[tokio::test]
async fn prompts_are_checked() {
    let server = Server::saying("x").await;
    let bad = |prompt: Value| {
        (
            json!({"prompt": prompt}),
            400,
            "invalid_value",
            Some("prompt"),
        )
    };
    let cases = [
        bad(json!(null)),
        bad(json!("")),
        bad(json!([])),
        bad(json!([[]])),
        bad(json!(["a", ""])),
        bad(json!([258])),
        bad(json!(vec!["a"; 65])),
        (json!({}), 400, "invalid_value", Some("prompt")),
        (
            json!({"prompt": vec!["a"; 64], "n": 3}),
            400,
            "invalid_value",
            Some("n"),
        ),
        (
            json!({"prompt": "a", "best_of": 1, "n": 2}),
            400,
            "invalid_value",
            Some("best_of"),
        ),
        (
            json!({"prompt": "a", "logprobs": 21}),
            400,
            "invalid_value",
            Some("logprobs"),
        ),
    ];
    check(&server, COMPLETIONS, &cases).await;
}

#[tokio::test]
async fn json_of_another_shape_names_the_field() {
    let server = Server::saying("x").await;
    let bad = |body: Value, param| (body, 400, "invalid_request_body", param);
    let cases = [
        bad(json!([]), None),
        bad(json!({"messages": "hi"}), Some("messages")),
        bad(json!({}), None),
        bad(
            chat(json!({"messages": [{"content": "a"}]})),
            Some("messages[0]"),
        ),
        bad(
            chat(json!({"messages": [{"role": "user", "content": 5}]})),
            Some("messages[0].content"),
        ),
        bad(chat(json!({"temperature": "hot"})), Some("temperature")),
        bad(chat(json!({"n": -1})), Some("n")),
        bad(chat(json!({"n": 1.5})), Some("n")),
        bad(chat(json!({"stop": 7})), Some("stop")),
        bad(chat(json!({"stream": "yes"})), Some("stream")),
        bad(
            chat(json!({"max_tokens": 4294967296u64})),
            Some("max_tokens"),
        ),
        bad(chat(json!({"seed": 1.5})), Some("seed")),
        bad(chat(json!({"logit_bias": [1]})), Some("logit_bias")),
    ];
    check(&server, CHAT, &cases).await;
    let cases = [
        bad(json!({"prompt": {"a": 1}}), Some("prompt")),
        bad(json!({"prompt": [-1]}), Some("prompt[0]")),
        bad(json!({"prompt": [1, "a"]}), Some("prompt[1]")),
    ];
    check(&server, COMPLETIONS, &cases).await;
}

#[tokio::test]
async fn bodies_that_are_not_json() {
    let server = Server::saying("x").await;
    let deep = "[".repeat(100_000);
    let trailing = format!("{} more", chat(json!({})));
    for body in [
        "",
        "{",
        "{\"messages\": [}",
        "nonsense",
        &trailing,
        &deep,
        "\u{0}",
    ] {
        let reply = Call::new("POST", CHAT)
            .json(body)
            .send(server.address)
            .await;
        assert_eq!(
            reply.error(),
            (400, "malformed_json".into(), None),
            "{}",
            reply.body
        );
    }
    let invalid_utf8 = b"{\"messages\": \"\xff\"}";
    let call = Call::new("POST", CHAT).header("content-type", "application/json");
    assert_eq!(
        call.bytes(invalid_utf8).send(server.address).await.status,
        400
    );
}

#[tokio::test]
async fn only_json_is_taken() {
    let server = Server::saying("x").await;
    let body = chat(json!({})).to_string();
    for content_type in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
        "json",
    ] {
        let call = Call::new("POST", CHAT).header("content-type", content_type);
        let reply = call.bytes(body.as_bytes()).send(server.address).await;
        assert_eq!(reply.error(), (415, "unsupported_media_type".into(), None));
    }
    let reply = Call::new("POST", CHAT)
        .bytes(body.as_bytes())
        .send(server.address)
        .await;
    assert_eq!(reply.status, 415);
    for content_type in [
        "application/json; charset=utf-8",
        "Application/JSON",
        "application/x+json",
    ] {
        let call = Call::new("POST", CHAT).header("content-type", content_type);
        assert_eq!(
            call.bytes(body.as_bytes())
                .send(server.address)
                .await
                .status,
            200
        );
    }
}

#[tokio::test]
async fn unknown_routes_and_methods() {
    let server = Server::saying("x").await;
    for path in [
        "/",
        "/v1",
        "/v1/audio/speech",
        "/v1/chat/completions/",
        "//health",
        "/%00",
    ] {
        assert_eq!(
            server.get(path).await.error(),
            (404, "not_found".into(), None),
            "{path}"
        );
    }
    for (method, path) in [
        ("GET", CHAT),
        ("DELETE", COMPLETIONS),
        ("POST", "/health"),
        ("PUT", "/v1/models"),
    ] {
        let reply = Call::new(method, path).send(server.address).await;
        assert_eq!(reply.error(), (405, "method_not_allowed".into(), None));
        assert!(reply.header("allow").is_some());
    }
}

#[tokio::test]
async fn another_model_is_not_served() {
    let config = HttpConfig {
        model_aliases: vec!["gpt-4o".into()],
        ..HttpConfig::default()
    };
    let server = Server::with(config, FakeEngine::new(|_| fake::says("x"))).await;
    let reply = server.post(CHAT, chat(json!({"model": "other"}))).await;
    assert_eq!(
        reply.error(),
        (404, "model_not_found".into(), Some("model".into()))
    );
    let reply = server
        .post(COMPLETIONS, completion(json!({"model": ""})))
        .await;
    assert_eq!(
        reply.error(),
        (404, "model_not_found".into(), Some("model".into()))
    );
    let reply = server.post(CHAT, chat(json!({"model": "gpt-4o"}))).await;
    assert_eq!(
        (reply.status, reply.json()["model"].as_str()),
        (200, Some("tiny/moe"))
    );
}

#[tokio::test]
async fn too_long_says_both_numbers() {
    let server = Server::saying("x").await;
    let long = json!({"prompt": "a".repeat(500), "max_tokens": 13});
    let reply = server.post(COMPLETIONS, long).await;
    assert_eq!(
        reply.error(),
        (400, "context_length_exceeded".into(), Some("prompt".into()))
    );
    let message = reply.json()["error"]["message"]
        .as_str()
        .unwrap()
        .to_owned();
    for number in ["512", "513", "500", "13"] {
        assert!(message.contains(number), "{message}");
    }
    assert_eq!(reply.header("retry-after"), None);
    let messages = json!([{"role": "user", "content": "a".repeat(600)}]);
    let reply = server
        .post(CHAT, chat(json!({"messages": messages, "stream": true})))
        .await;
    assert_eq!(
        reply.error(),
        (
            400,
            "context_length_exceeded".into(),
            Some("messages".into())
        )
    );
}

#[tokio::test]
async fn a_full_queue_is_429_and_takes_all_or_nothing() {
    let engine =
        FakeEngine::new(|_| vec![Act::Gate, Act::Finish(FinishReason::Stop)]).with_queue_limit(3);
    let server = Server::with(HttpConfig::default(), engine).await;
    let _first = server.open(CHAT, chat(json!({"stream": true}))).await;
    server.engine.until_running(1).await;
    let reply = server
        .post(CHAT, chat(json!({"n": 3, "stream": true})))
        .await;
    assert_eq!(reply.error(), (429, "queue_full".into(), None));
    assert_eq!(reply.json()["error"]["type"], "rate_limit_error");
    assert_eq!(reply.header("retry-after"), Some("1"));
    // The two that found a place have left it.
    server.engine.until_running(1).await;
    assert_eq!(server.engine.cancelled().len(), 2);
}

#[tokio::test]
async fn failures_of_a_whole_answer_are_statuses() {
    let read = ReadError::Io {
        path: "expert-042".into(),
        reason: "gone".into(),
    };
    let expert = RequestError::ExpertUnavailable(LoadError::Read(read));
    let cases = [
        (expert, 500, "expert_unavailable", Some("false"), None),
        (
            RequestError::Backend("lost".into()),
            500,
            "internal_error",
            None,
            None,
        ),
        (
            RequestError::ShuttingDown,
            503,
            "shutting_down",
            None,
            Some("1"),
        ),
    ];
    for (error, status, code, should_retry, retry_after) in cases {
        let acts = [Act::Text("a".into()), Act::Fail(error)];
        let server = Server::start(move |_| acts.to_vec()).await;
        let reply = server.post(CHAT, chat(json!({}))).await;
        assert_eq!(reply.error(), (status, code.into(), None));
        assert_eq!(reply.header("x-should-retry"), should_retry);
        assert_eq!(reply.header("retry-after"), retry_after);
        let errors = r#"vllm:request_success_total{model_name="tiny/moe",engine="0",finished_reason="error"}"#;
        assert_eq!(server.metric(errors), 1.0);
    }
}

#[tokio::test]
async fn bodies_are_bounded_one_by_one_and_in_sum() {
    let limits = Limits {
        body_bytes: 4000,
        bodies_total_bytes: 1024,
        ..Limits::default()
    };
    let config = HttpConfig {
        limits,
        ..HttpConfig::default()
    };
    let server = Server::with(config, FakeEngine::new(|_| fake::says("x"))).await;
    let padded = |bytes: usize| chat(json!({"padding": "x".repeat(bytes)}));
    let reply = server.post(CHAT, padded(4000)).await;
    assert_eq!(reply.error(), (413, "request_too_large".into(), None));
    // One whole body always fits, however small the sum; and shares go back.
    for _ in 0..3 {
        assert_eq!(server.post(CHAT, padded(3500)).await.status, 200);
    }
    let chunked = || {
        let call = Call::new("POST", CHAT).header("content-type", "application/json");
        call.header("transfer-encoding", "chunked")
            .open(server.address)
    };
    let piece = format!("400\r\n{}\r\n", " ".repeat(1024));
    // A length that is not announced is bounded too.
    let mut connection = chunked().await;
    connection.write(piece.repeat(4).as_bytes()).await;
    assert_eq!(connection.finish().await.status, 413);
    // Two that fit one by one but not together: at least one is refused, by whichever piece comes last.
    let (mut one, mut other) = (chunked().await, chunked().await);
    one.write(piece.repeat(3).as_bytes()).await;
    other.write(piece.repeat(3).as_bytes()).await;
    let reply = tokio::select! {
        reply = one.finish() => reply,
        reply = other.finish() => reply,
    };
    assert_eq!(reply.error(), (503, "overloaded".into(), None));
    assert_eq!(reply.header("retry-after"), Some("1"));
}

#[tokio::test]
async fn bodies_that_would_take_far_more_memory_than_their_bytes_are_refused() {
    let server = Server::saying("x").await;
    let many = |item: Value| vec![item; 40_000];
    let cases = [
        json!({"tools": many(json!({}))}),
        json!({"tools": [{"deep": {"er": many(json!(0))}}]}),
        json!({"messages": many(json!({"role": "user", "content": "a"}))}),
        json!({"messages": [{"role": "user", "content": many(json!(0))}]}),
        json!({"stop": many(json!(0))}),
        json!({"chat_template_kwargs": {"x": many(json!([]))}}),
        json!({"response_format": {"prompt": many(json!(0))}}),
    ];
    for case in cases {
        for path in [CHAT, COMPLETIONS] {
            let reply = server.post(path, chat(case.clone())).await;
            assert_eq!(reply.error(), (400, "invalid_request_body".into(), None));
            assert!(reply.body.contains("at most 32768 fit"), "{}", reply.body);
        }
    }
    // The same amount of text or of token ids is a prompt that is too long, or too many of them.
    let refused = |code: &str| (400, code.to_owned(), Some("prompt".to_owned()));
    let lists = completion(json!({"prompt": many(json!([0]))}));
    let reply = server.post(COMPLETIONS, lists).await;
    assert_eq!(reply.error(), refused("invalid_value"));
    let reply = server
        .post(COMPLETIONS, completion(json!({"prompt": vec![0; 200_000]})))
        .await;
    assert_eq!(reply.error(), refused("context_length_exceeded"));
    let text = json!({"messages": [{"role": "user", "content": ",[{".repeat(40_000)}]});
    let reply = server.post(CHAT, chat(text)).await;
    assert_eq!(reply.error().1, "context_length_exceeded");
}

#[tokio::test]
async fn more_answers_than_ever_fit_are_not_worth_a_retry() {
    let engine = FakeEngine::new(|_| fake::says("x")).with_queue_limit(4);
    let server = Server::with(HttpConfig::default(), engine).await;
    let cases = [
        (CHAT, chat(json!({"n": 5})), "n"),
        (
            COMPLETIONS,
            completion(json!({"prompt": ["a", "b"], "n": 3})),
            "n",
        ),
        (
            COMPLETIONS,
            completion(json!({"prompt": vec!["a"; 6]})),
            "prompt",
        ),
    ];
    for (path, body, param) in cases {
        let reply = server.post(path, body).await;
        assert_eq!(
            reply.error(),
            (400, "invalid_value".into(), Some(param.into()))
        );
        let says = |text: &str| assert!(reply.body.contains(text), "{}", reply.body);
        says(if path == CHAT {
            "5 answers"
        } else {
            "6 answers"
        });
        says("at most 4");
    }
    assert_eq!(server.post(CHAT, chat(json!({"n": 4}))).await.status, 200);
}

#[tokio::test]
async fn a_body_that_never_comes_is_given_up() {
    let limits = Limits {
        receive_timeout: Duration::from_millis(50),
        ..Limits::default()
    };
    let config = HttpConfig {
        limits,
        ..HttpConfig::default()
    };
    let server = Server::with(config, FakeEngine::new(|_| fake::says("x"))).await;
    let call = Call::new("POST", CHAT)
        .header("content-type", "application/json")
        .header("content-length", "100");
    let reply = call.open(server.address).await.finish().await;
    assert_eq!(reply.error(), (408, "request_timeout".into(), None));
}

#[tokio::test]
async fn huge_heads_are_refused() {
    let server = Server::saying("x").await;
    let call = Call::new("GET", "/health").header("x-big", &"x".repeat(100_000));
    assert_eq!(call.send(server.address).await.status, 431);
    let many = (0..200).fold(Call::new("GET", "/health"), |call, i| {
        call.header(&format!("x-{i}"), "1")
    });
    assert_eq!(many.send(server.address).await.status, 431);
}

#[tokio::test]
async fn a_model_without_a_template_still_completes() {
    let server = Server::loading(HttpConfig::default(), FakeEngine::new(|_| fake::says("x"))).await;
    server.set_ready();
    let model = server.slot.get().unwrap();
    let bare = ServedModel {
        name: "bare".into(),
        engine: Arc::clone(&model.engine),
        budget: model.budget.clone(),
        recorder: Arc::clone(&model.recorder),
        tokenizer: fake::tokenizer(),
        template: None,
        sampling_defaults: SamplingDefaults::default(),
        end_ids: vec![],
        grammars: Grammars::new(fake::tokenizer(), fake::VOCABULARY, vec![]),
        ..*model
    };
    server.slot.set_ready(Arc::new(bare));
    let reply = server.post(CHAT, chat(json!({"model": "bare"}))).await;
    assert_eq!(
        reply.error(),
        (400, "unsupported_value".into(), Some("messages".into()))
    );
    assert_eq!(
        server
            .post(COMPLETIONS, completion(json!({"model": "bare"})))
            .await
            .status,
        200
    );
}

#[tokio::test]
async fn a_bug_is_a_500_for_one_request() {
    let server = Server::start(|request| match request.prompt[0] {
        97 => panic!("this panic is a part of the test"),
        _ => fake::says("x"),
    })
    .await;
    let reply = server
        .post(COMPLETIONS, completion(json!({"prompt": [97]})))
        .await;
    assert_eq!(reply.error(), (500, "internal_error".into(), None));
    assert!(reply.header("x-request-id").is_some());
    assert_eq!(server.get("/health").await.status, 200);
}
