//! Models, readiness, metrics, documentation.

use super::fake::{self, FakeEngine};
use super::*;
use odmoe_expert_store::StoreHealth;
use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

#[tokio::test]
async fn models_are_listed_and_found_by_name() {
    let config = HttpConfig {
        model_aliases: vec!["alias".into()],
        ..HttpConfig::default()
    };
    let server = Server::with(config, FakeEngine::new(|_| fake::says("x"))).await;
    let model = |id: &str| {
        json!({"id": id, "object": "model", "created": 1_700_000_000, "owned_by": "odmoe", "max_model_len": 512,
        "context_length": 512, "status": "ready"})
    };
    let list = server.get("/v1/models").await.json();
    assert_eq!(
        list,
        json!({"object": "list", "data": [model("tiny/moe"), model("alias")]})
    );
    assert_eq!(
        server.get("/v1/models/tiny/moe").await.json(),
        model("tiny/moe")
    );
    assert_eq!(
        server.get("/v1/models/tiny%2Fmoe").await.json(),
        model("tiny/moe")
    );
    let missing = server.get("/v1/models/other").await.error();
    assert_eq!(
        missing,
        (404, "model_not_found".into(), Some("model".into()))
    );
    assert_eq!(server.get("/v1/models/%ff").await.error().0, 400);
}

#[tokio::test]
async fn clients_routes_answer_with_and_without_their_prefix() {
    let server = Server::saying("x").await;
    let bodies = [
        (CHAT, chat(json!({}))),
        (COMPLETIONS, completion(json!({}))),
        ("/v1/tokenize", json!({"prompt": "a"})),
        ("/v1/detokenize", json!({"tokens": [97]})),
        ("/v1/apply-template", chat(json!({}))),
    ];
    for (path, body) in bodies {
        let long = server.post(path, body.clone()).await;
        let bare = path.strip_prefix("/v1").unwrap();
        let short = server.post(bare, body).await;
        assert_eq!(short.status, 200, "{bare}");
        assert_eq!(settled(&short.body), settled(&long.body));
    }
    for path in ["/models", "/models/tiny/moe"] {
        let long = server.get(&format!("/v1{path}")).await;
        assert_eq!(server.get(path).await.body, long.body);
    }
}

#[tokio::test]
async fn readiness_follows_storage_and_engine() {
    let server = Server::saying("x").await;
    assert_eq!(
        server.get("/ready").await.json(),
        json!({"status": "ready"})
    );
    *server.engine.health.lock().unwrap() = StoreHealth::Failing {
        last_error: "disk gone".into(),
    };
    let ready = server.get("/ready").await;
    assert_eq!(ready.status, 503);
    assert_eq!(
        ready.json(),
        json!({"status": "storage_failing", "reason": "disk gone"})
    );
    *server.engine.health.lock().unwrap() = StoreHealth::Healthy;
    assert_eq!(server.get("/ready").await.status, 200);
    server.engine.alive.store(false, Ordering::Relaxed);
    assert_eq!(
        server.get("/ready").await.json()["status"],
        "engine_stopped"
    );
    assert_eq!(
        server.post(CHAT, chat(json!({}))).await.error().1,
        "engine_stopped"
    );
    assert_eq!(server.get("/health").await.json(), json!({"status": "ok"}));
}

#[tokio::test]
async fn a_models_status_is_that_of_the_server() {
    let server = Server::saying("x").await;
    let status = async || server.get("/v1/models/tiny/moe").await.json()["status"].clone();
    assert_eq!(status().await, "ready");
    *server.engine.health.lock().unwrap() = StoreHealth::Failing {
        last_error: "disk gone".into(),
    };
    assert_eq!(status().await, "storage_failing");
}

#[tokio::test]
async fn requests_are_counted() {
    let server = Server::saying("abc").await;
    server
        .post(CHAT, chat(json!({"n": 2, "max_tokens": 9})))
        .await;
    server.get("/nowhere").await;
    let reply = server.get("/metrics").await;
    assert_eq!(
        reply.header("content-type"),
        Some("text/plain; version=0.0.4; charset=utf-8")
    );
    let labels = r#"{model_name="tiny/moe",engine="0"}"#;
    for (name, expected) in [
        ("vllm:prompt_tokens_total", 19.0),
        ("vllm:generation_tokens_total", 8.0),
        ("vllm:kv_cache_usage_perc", 0.25),
        ("vllm:time_to_first_token_seconds_count", 2.0),
        ("vllm:inter_token_latency_seconds_count", 6.0),
        ("vllm:e2e_request_latency_seconds_count", 2.0),
        ("vllm:request_queue_time_seconds_count", 2.0),
        ("vllm:request_prompt_tokens_sum", 19.0),
        ("vllm:request_generation_tokens_sum", 8.0),
        ("vllm:request_params_max_tokens_sum", 9.0),
        ("vllm:request_params_n_sum", 2.0),
    ] {
        assert_eq!(
            server.metric(&format!("{name}{labels}")),
            expected,
            "{name}"
        );
    }
    let stopped =
        r#"vllm:request_success_total{model_name="tiny/moe",engine="0",finished_reason="stop"}"#;
    assert_eq!(server.metric(stopped), 2.0);
    let http = |handler: &str, method: &str, status: u16| {
        format!(r#"http_requests_total{{handler="{handler}",method="{method}",status="{status}"}}"#)
    };
    assert_eq!(server.metric(&http(CHAT, "POST", 200)), 1.0);
    assert_eq!(server.metric(&http(CHAT, "POST", 429)), 0.0);
    assert_eq!(server.metric(&http("unknown", "GET", 404)), 1.0);
    assert_eq!(server.metric("odmoe_model_load_progress_ratio"), 1.0);
}

#[tokio::test]
async fn the_document_lists_every_route_and_the_page_needs_no_network() {
    let server = Server::saying("x").await;
    let document = server.get("/openapi.json").await.json();
    assert!(document["openapi"].as_str().unwrap().starts_with("3."));
    let paths: BTreeSet<&str> = document["paths"]
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    let routes: Vec<String> = crate::http::router::paths()
        .map(|(path, _)| path.replace("{*", "{"))
        .collect();
    let routes: BTreeSet<&str> = routes.iter().map(String::as_str).collect();
    assert_eq!(paths, routes);
    check_references(&document, &document);
    let description = document["info"]["description"].as_str().unwrap();
    assert!(
        description.contains("| `stop` | 16 strings of 256 bytes |"),
        "{description}"
    );
    assert_eq!(
        document["components"]["securitySchemes"]["key"]["scheme"],
        "bearer"
    );
    let properties = &document["components"]["schemas"]["ErrorBody"]["properties"];
    let keys: Vec<&String> = properties.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["code", "message", "param", "type"]);

    let page = server.get("/docs/").await;
    assert_eq!(page.status, 200);
    assert!(page.body.contains("swagger-ui"));
    for remote in ["src=\"http", "href=\"http", "//cdn"] {
        assert!(!page.body.contains(remote), "{}", page.body);
    }
    for asset in [
        "swagger-ui.css",
        "swagger-ui-bundle.js",
        "swagger-initializer.js",
    ] {
        assert_eq!(
            server.get(&format!("/docs/{asset}")).await.status,
            200,
            "{asset}"
        );
    }
    assert_eq!(server.get("/docs/none.js").await.error().0, 404);
}

/// Every `$ref` leads somewhere.
fn check_references(document: &Value, part: &Value) {
    match part {
        Value::Object(fields) => {
            if let Some(reference) = fields.get("$ref").and_then(Value::as_str) {
                let target = document.pointer(reference.trim_start_matches('#'));
                assert!(target.is_some(), "{reference} leads nowhere");
            }
            fields
                .values()
                .for_each(|field| check_references(document, field));
        }
        Value::Array(items) => items
            .iter()
            .for_each(|item| check_references(document, item)),
        _ => {}
    }
}
