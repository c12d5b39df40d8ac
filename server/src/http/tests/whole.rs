//! Whole answers.

use super::fake::{self, Act, END, FakeEngine, PAD};
use super::*;
use odmoe_engine::FinishReason;

#[tokio::test]
async fn a_chat_answer_has_openai_s_shape() {
    let server = Server::saying("Grüße!").await;
    let reply = server.post(CHAT, chat(json!({}))).await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    assert_eq!(reply.header("content-type"), Some("application/json"));
    let expected = r#"{"id":"ID","object":"chat.completion","created":TIME,"model":"tiny/moe","system_fingerprint":"BUILD","choices":[{"index":0,"message":{"role":"assistant","content":"Grüße!","refusal":null},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":19,"completion_tokens":9,"total_tokens":28,"prompt_tokens_details":{"cached_tokens":0}}}"#;
    assert_eq!(settled(&reply.body), expected);
    assert!(
        reply.json()["id"]
            .as_str()
            .unwrap()
            .starts_with("chatcmpl-")
    );
    let prompt = &server.engine.requests()[0].prompt;
    assert_eq!(
        fake::tokenizer().decode(prompt, false),
        "user: hi\nassistant:"
    );
}

#[tokio::test]
async fn a_completion_has_openai_s_shape() {
    let server = Server::saying("there").await;
    let reply = server.post(COMPLETIONS, completion(json!({}))).await;
    let expected = r#"{"id":"ID","object":"text_completion","created":TIME,"model":"tiny/moe","system_fingerprint":"BUILD","choices":[{"index":0,"text":"there","logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":2,"completion_tokens":6,"total_tokens":8,"prompt_tokens_details":{"cached_tokens":0}}}"#;
    assert_eq!(settled(&reply.body), expected);
    assert!(reply.json()["id"].as_str().unwrap().starts_with("cmpl-"));
    assert_eq!(server.engine.requests()[0].max_new_tokens, 16);
}

#[tokio::test]
async fn the_request_reaches_the_engine_as_it_was_asked() {
    let server = Server::saying("").await;
    let body = chat(json!({
        "max_tokens": 7, "max_completion_tokens": 9, "temperature": 0.5, "top_p": 0.75, "min_p": 0.25, "seed": -1,
        "presence_penalty": 1, "frequency_penalty": -1, "repetition_penalty": 1.5, "stop_token_ids": [5],
        "logit_bias": {"65": -100, "3": 1.5}, "logprobs": true, "top_logprobs": 3,
    }));
    assert_eq!(server.post(CHAT, body).await.status, 200);
    let request = &server.engine.requests()[0];
    let sampling = &request.sampling;
    assert_eq!(request.max_new_tokens, 9);
    assert_eq!(
        (sampling.temperature, sampling.top_p, sampling.min_p),
        (0.5, 0.75, 0.25)
    );
    assert_eq!(sampling.seed, u64::MAX);
    assert_eq!(
        (sampling.presence_penalty, sampling.frequency_penalty),
        (1.0, -1.0)
    );
    assert_eq!((sampling.repetition_penalty, sampling.top_k), (1.5, 20));
    assert_eq!(sampling.logit_bias, [(3, 1.5), (65, -100.0)]);
    assert_eq!(request.stop_token_ids, [5, END]);
    assert_eq!(request.logprobs, Some(3));
}

#[tokio::test]
async fn without_max_tokens_a_chat_gets_what_fits() {
    let server = Server::saying("").await;
    server.post(CHAT, chat(json!({}))).await;
    assert_eq!(
        server.engine.requests()[0].max_new_tokens as usize,
        fake::CONTEXT - 19
    );
    // A KV cache that is smaller than the model's context.
    let small = FakeEngine::new(|_| fake::says("")).with_token_limit(40);
    let server = Server::with(HttpConfig::default(), small).await;
    assert_eq!(server.post(CHAT, chat(json!({}))).await.status, 200);
    assert_eq!(server.engine.requests()[0].max_new_tokens, 40 - 19);
}

#[tokio::test]
async fn null_is_absent_and_unknown_fields_are_ignored() {
    let server = Server::saying("ok").await;
    let reply = server
        .post(
            CHAT,
            json!({
                "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}], "name": null, "x": 1}],
                "model": null, "stream": null, "stream_options": null, "n": null, "stop": null, "max_tokens": null,
                "temperature": null, "top_p": null, "logprobs": null, "top_logprobs": null, "logit_bias": null,
                "tools": null, "tool_choice": null, "response_format": null, "seed": null,
                "user": "u", "metadata": {"a": "b"}, "store": true, "service_tier": "auto",
                "parallel_tool_calls": true, "something_new": [1, {"2": 3}],
            }),
        )
        .await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    let sampling = &server.engine.requests()[0].sampling;
    assert_eq!((sampling.temperature, sampling.top_k), (1.0, 20));
}

#[tokio::test]
async fn tools_and_variables_reach_the_template() {
    let server = Server::saying("ok").await;
    let tool = json!({"type": "function", "function": {"name": "f"}});
    let body = |choice| {
        chat(
            json!({"tools": [tool], "tool_choice": choice, "chat_template_kwargs": {"shout": true}}),
        )
    };
    server.post(CHAT, body("auto")).await;
    server.post(CHAT, body("none")).await;
    let text = |request: &Request| fake::tokenizer().decode(&request.prompt, false);
    let requests = server.engine.requests();
    assert_eq!(text(&requests[0]), "user: hi\n1 tools\nLOUD\nassistant:");
    assert_eq!(text(&requests[1]), "user: hi\nLOUD\nassistant:");
}

#[tokio::test]
async fn every_form_of_prompt_is_taken() {
    let server = Server::saying("x").await;
    let forms = [
        (json!("ab"), vec![vec![97, 98]]),
        (json!(["ab", "c"]), vec![vec![97, 98], vec![99]]),
        (json!([97, 256]), vec![vec![97, 256]]),
        (json!([[97], [98, 99]]), vec![vec![97], vec![98, 99]]),
    ];
    let mut seen = 0;
    for (prompt, expected) in forms {
        let reply = server
            .post(COMPLETIONS, completion(json!({"prompt": prompt})))
            .await;
        let choices = reply.json()["choices"].as_array().unwrap().len();
        assert_eq!(choices, expected.len(), "{}", reply.body);
        let requests = server.engine.requests();
        let prompts: Vec<Vec<u32>> = requests[seen..].iter().map(|r| r.prompt.clone()).collect();
        assert_eq!(prompts, expected);
        seen = requests.len();
    }
}

#[tokio::test]
async fn several_answers_are_told_apart_by_index() {
    let server = Server::start(|request| {
        let place = request.prompt[0] - 97;
        fake::says(&format!("{place}.{}", request.sampling.choice))
    })
    .await;
    let body = completion(json!({"prompt": ["a", "b"], "n": 2, "seed": 5}));
    let reply = server.post(COMPLETIONS, body).await.json();
    let choices = reply["choices"].as_array().unwrap();
    let texts: Vec<_> = choices
        .iter()
        .map(|c| (c["index"].as_u64(), c["text"].as_str()))
        .collect();
    let expected = ["0.0", "0.1", "1.0", "1.1"];
    let expected = expected
        .iter()
        .enumerate()
        .map(|(i, text)| (Some(i as u64), Some(*text)));
    assert_eq!(texts, expected.collect::<Vec<_>>());
    assert_eq!(reply["usage"]["prompt_tokens"], 2);
    assert_eq!(reply["usage"]["completion_tokens"], 16);
    assert!(
        server
            .engine
            .requests()
            .iter()
            .all(|request| request.sampling.seed == 5)
    );
}

#[tokio::test]
async fn answers_without_a_seed_differ_in_seed() {
    let server = Server::saying("x").await;
    for _ in 0..2 {
        server.post(CHAT, chat(json!({}))).await;
    }
    let requests = server.engine.requests();
    assert_ne!(requests[0].sampling.seed, requests[1].sampling.seed);
}

#[tokio::test]
async fn finish_reasons_and_special_tokens() {
    let server = Server::start(|_| {
        vec![
            Act::Text("a".into()),
            Act::Token(PAD),
            Act::Text("b".into()),
            Act::Finish(FinishReason::Length),
        ]
    })
    .await;
    let reply = server.post(CHAT, chat(json!({}))).await.json();
    assert_eq!(reply["choices"][0]["finish_reason"], "length");
    assert_eq!(reply["choices"][0]["message"]["content"], "ab");
    assert_eq!(reply["usage"]["completion_tokens"], 3);
    // The request's own stop tokens are no part of the answer either.
    let server = Server::saying("abc").await;
    let reply = server
        .post(CHAT, chat(json!({"stop_token_ids": [99]})))
        .await
        .json();
    assert_eq!(reply["choices"][0]["message"]["content"], "ab");
    let body = chat(json!({"ignore_eos": true}));
    server.post(CHAT, body).await;
    assert!(server.engine.requests()[1].stop_token_ids.is_empty());
}

#[tokio::test]
async fn a_character_cut_by_the_limit_becomes_a_replacement() {
    let server = Server::start(|_| {
        vec![
            Act::Text("é".into()),
            Act::Token(0xE2),
            Act::Finish(FinishReason::Length),
        ]
    })
    .await;
    let reply = server.post(CHAT, chat(json!({}))).await.json();
    assert_eq!(reply["choices"][0]["message"]["content"], "é\u{FFFD}");
}

#[tokio::test]
async fn stop_strings_end_the_answer_before_them_and_free_the_engine() {
    // The gate never opens: only a cancellation ends the sequence.
    let acts = [Act::Text("one END two".into()), Act::Gate];
    let server = Server::start(move |_| acts.to_vec()).await;
    for stop in [json!("END"), json!(["never", " END t"])] {
        let reply = server.post(CHAT, chat(json!({"stop": stop}))).await.json();
        let choice = &reply["choices"][0];
        assert_eq!(choice["finish_reason"], "stop");
        assert!(
            choice["message"]["content"].as_str().unwrap().trim_end() == "one",
            "{choice}"
        );
    }
    server.engine.until_cancelled(2).await;
    server.engine.until_running(0).await;
    let stopped =
        r#"vllm:request_success_total{model_name="tiny/moe",engine="0",finished_reason="stop"}"#;
    assert_eq!(server.metric(stopped), 2.0);
}

#[tokio::test]
async fn what_only_looked_like_a_stop_string_is_kept() {
    let server = Server::saying("an EN").await;
    let reply = server.post(CHAT, chat(json!({"stop": "END"}))).await.json();
    assert_eq!(reply["choices"][0]["message"]["content"], "an EN");
}

#[tokio::test]
async fn chat_logprobs_carry_exact_bytes() {
    let server = Server::saying("é").await;
    let reply = server
        .post(CHAT, chat(json!({"logprobs": true, "top_logprobs": 1})))
        .await
        .json();
    let token = |byte: u8| {
        json!({"token": "\u{FFFD}", "logprob": -0.5, "bytes": [byte],
               "top_logprobs": [{"token": "\u{FFFD}", "logprob": -0.5, "bytes": [byte]}]})
    };
    assert_eq!(
        reply["choices"][0]["logprobs"],
        json!({"content": [token(0xC3), token(0xA9)]})
    );
    let reply = server
        .post(CHAT, chat(json!({"logprobs": true})))
        .await
        .json();
    assert_eq!(
        reply["choices"][0]["logprobs"]["content"][0]["top_logprobs"],
        json!([])
    );
}

#[tokio::test]
async fn completion_logprobs_are_lists() {
    let server = Server::saying("éa").await;
    let reply = server
        .post(COMPLETIONS, completion(json!({"logprobs": 2})))
        .await
        .json();
    assert_eq!(
        reply["choices"][0]["logprobs"],
        json!({
            "tokens": ["bytes:\\xc3", "bytes:\\xa9", "a"],
            "token_logprobs": [-0.5, -0.5, -0.5],
            "top_logprobs": [
                {"bytes:\\xc3": -0.5, "bytes:\\xc4": -1.5},
                {"bytes:\\xa9": -0.5, "bytes:\\xaa": -1.5},
                {"a": -0.5, "b": -1.5},
            ],
            "text_offset": [0, 0, 1],
        })
    );
}

#[tokio::test]
async fn logprobs_end_where_a_stop_string_begins() {
    let server = Server::saying("ab##c").await;
    let reply = server
        .post(CHAT, chat(json!({"logprobs": true, "stop": "##"})))
        .await
        .json();
    let content = reply["choices"][0]["logprobs"]["content"]
        .as_array()
        .unwrap()
        .clone();
    let tokens: Vec<_> = content
        .iter()
        .map(|entry| entry["token"].as_str().unwrap())
        .collect();
    assert_eq!(tokens, ["a", "b"]);
}
