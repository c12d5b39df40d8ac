//! Chats and completions against the embedded model, whole and streamed, through a cache smaller than the model.

use odmoe_tests::client::{answer, chat_text};
use odmoe_tests::sse::SseItem;
use odmoe_tests::{Server, ServerOptions, metrics};
use serde_json::{Value, json};

fn chat(content: &str) -> Value {
    json!({
        "messages": [{"role": "user", "content": content}],
        "max_tokens": 24, "temperature": 0, "seed": 7,
    })
}

fn with(mut body: Value, field: &str, value: Value) -> Value {
    body[field] = value;
    body
}

#[test]
fn a_chat_is_answered_whole_and_streamed() {
    let server = Server::start(&ServerOptions::default());
    let body = chat("What color is the sky?");
    let whole = server
        .client
        .post("/v1/chat/completions", &body)
        .expect(200)
        .json();
    let text = whole["choices"][0]["message"]["content"]
        .as_str()
        .expect("a text")
        .to_string();
    assert!(
        text.split_whitespace().count() >= 3,
        "a legible answer: {text:?}"
    );
    assert_eq!(whole["object"], "chat.completion");
    assert_eq!(whole["choices"][0]["message"]["role"], "assistant");
    let usage = &whole["usage"];
    let tokens = |name: &str| usage[name].as_u64().unwrap_or_else(|| panic!("{usage}"));
    assert_eq!(
        tokens("prompt_tokens") + tokens("completion_tokens"),
        tokens("total_tokens")
    );

    let streamed = server
        .client
        .stream("/v1/chat/completions", &with(body, "stream", json!(true)));
    assert_eq!(chat_text(streamed), text);

    // The answer was paged: the default budget is a quarter of the experts.
    let scraped = server.client.get("/metrics").expect(200).body;
    let misses = metrics::sum(
        &scraped,
        "odmoe_expert_cache_lookups_total",
        &["result=\"miss\""],
    );
    let evicted = metrics::sum(&scraped, "odmoe_expert_cache_evictions_total", &[]);
    assert!(
        misses > 0.0 && evicted > 0.0,
        "misses {misses}, evictions {evicted}"
    );
}

#[test]
fn usage_comes_last_and_only_when_asked() {
    let server = Server::start(&ServerOptions::default());
    let body = with(chat("Hello!"), "stream", json!(true));
    let usage_chunks = |body: &Value| -> Vec<Value> {
        let items = server.client.stream("/v1/chat/completions", body);
        let chunks = items.filter_map(|item| {
            if let SseItem::Json(chunk) = item {
                Some(chunk)
            } else {
                None
            }
        });
        let chunks: Vec<Value> = chunks.collect();
        let (last, others) = chunks.split_last().expect("chunks");
        assert!(others.iter().all(|chunk| chunk["usage"].is_null()));
        Some(last.clone())
            .filter(|last| !last["usage"].is_null())
            .into_iter()
            .collect()
    };
    assert_eq!(usage_chunks(&body), Vec::<Value>::new());
    let asked = with(body, "stream_options", json!({"include_usage": true}));
    let usage = usage_chunks(&asked);
    assert_eq!(usage.len(), 1);
    assert_eq!(usage[0]["choices"], json!([]));
}

/// The budget is seen from outside only by its speed and its metrics, never by a token.
#[test]
fn answers_are_the_same_at_every_budget_and_thread_count() {
    let prompt = [954, 671, 261, 514, 14, 480, 313, 261, 540, 710];
    let mut first = None;
    for (budget, threads) in [("100%", "2"), ("25%", "1"), ("12.5%", "3")] {
        let server = Server::start(&ServerOptions::with([
            "--expert-cache",
            budget,
            "--threads",
            threads,
        ]));
        let sampled = json!({
            "prompt": prompt, "max_tokens": 16, "temperature": 0.9, "seed": 11, "logprobs": 5, "n": 2,
        });
        let greedy = answer(&server.client.complete_tokens(&prompt, 24));
        let sampled = answer(&server.client.post("/v1/completions", &sampled));
        let found = (greedy, sampled);
        assert_eq!(
            *first.get_or_insert_with(|| found.clone()),
            found,
            "{budget}, {threads} threads"
        );
    }
}

#[test]
fn wrong_requests_are_told_what_is_wrong() {
    let server = Server::start(&ServerOptions::default());
    let cases = [
        (
            with(chat("a"), "temperature", json!(-1)),
            400,
            "temperature",
        ),
        (with(chat("a"), "n", json!(0)), 400, "n"),
        (with(chat("a"), "max_tokens", json!(0)), 400, "max_tokens"),
        (with(chat("a"), "messages", json!([])), 400, "messages"),
        (
            with(chat("a"), "model", json!("no-such-model")),
            404,
            "model",
        ),
        (
            with(with(chat("a"), "n", json!(0)), "stream", json!(true)),
            400,
            "n",
        ),
    ];
    for (body, status, param) in cases {
        let error = server
            .client
            .post("/v1/chat/completions", &body)
            .expect(status)
            .json()["error"]
            .clone();
        assert_eq!(error["type"], "invalid_request_error", "{error}");
        assert_eq!(error["param"], param, "{error}");
        assert!(
            error["message"].is_string() && error.get("code").is_some(),
            "{error}"
        );
    }
    let long: Vec<u32> = vec![300; 100_000];
    let error = server.client.complete_tokens(&long, 1).expect(400).json()["error"].clone();
    assert_eq!(error["code"], "context_length_exceeded");
    let unknown = with(chat("Hello!"), "no_such_field", json!({"a": [1]}));
    server
        .client
        .post("/v1/chat/completions", &unknown)
        .expect(200);
}

#[test]
fn pages_and_documents_are_served() {
    let server = Server::start(&ServerOptions::default());
    server.client.get("/health").expect(200);
    let document = server.client.get("/openapi.json").expect(200).json();
    for path in [
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/models",
        "/ready",
        "/metrics",
    ] {
        assert!(
            document["paths"].get(path).is_some(),
            "{path} is not in the OpenAPI document"
        );
    }
    let page = server.client.get("/docs").expect(200);
    for remote in ["src=\"http", "src=\"//", "href=\"http", "href=\"//"] {
        assert!(
            !page.body.contains(remote),
            "the page needs the network: {}",
            page.body
        );
    }
    server.client.get("/no/such/page").expect(404);
}
