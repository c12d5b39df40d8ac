//! Vectors of texts.

use super::fake::{Act, FakeEngine};
use super::*;
use crate::http::Limits;
use odmoe_engine::RequestError;

const EMBEDDINGS: &str = "/v1/embeddings";

async fn server() -> Server {
    Server::start(|_| Vec::new()).await
}

fn numbers(reply: &Value, index: usize) -> Vec<f64> {
    let entry = &reply["data"][index];
    assert_eq!(
        (&entry["object"], &entry["index"]),
        (&json!("embedding"), &json!(index))
    );
    let values = entry["embedding"].as_array().unwrap();
    values.iter().map(|value| value.as_f64().unwrap()).collect()
}

#[tokio::test]
async fn every_form_of_input_is_taken() {
    let server = server().await;
    let forms = [
        (json!("ab"), vec![[2.0, 97.0, 98.0]]),
        (
            json!(["ab", "c"]),
            vec![[2.0, 97.0, 98.0], [1.0, 99.0, 99.0]],
        ),
        (json!([97, 256]), vec![[2.0, 97.0, 256.0]]),
        (
            json!([[97], [98, 99]]),
            vec![[1.0, 97.0, 97.0], [2.0, 98.0, 99.0]],
        ),
    ];
    for (input, expected) in forms {
        let body = json!({"input": input, "normalize": false});
        let reply = server.post(EMBEDDINGS, body).await.json();
        assert_eq!(reply["object"], "list");
        assert_eq!(reply["model"], "tiny/moe");
        let tokens: f64 = expected.iter().map(|vector| vector[0]).sum();
        let usage = json!({"prompt_tokens": tokens as u64, "total_tokens": tokens as u64});
        assert_eq!(reply["usage"], usage);
        assert_eq!(reply["data"].as_array().unwrap().len(), expected.len());
        for (index, expected) in expected.iter().enumerate() {
            assert_eq!(numbers(&reply, index), expected, "{input}");
        }
    }
    let labels = r#"vllm:prompt_tokens_total{model_name="tiny/moe",engine="0"}"#;
    assert_eq!(server.metric(labels), 10.0);
}

#[tokio::test]
async fn vectors_have_length_one_unless_told_otherwise() {
    let server = server().await;
    let reply = server.post(EMBEDDINGS, json!({"input": [[3, 4]]})).await;
    let vector = numbers(&reply.json(), 0);
    let length: f64 = vector.iter().map(|value| value * value).sum();
    assert!((length - 1.0).abs() < 1e-6, "{vector:?}");
    assert!((vector[2] / vector[0] - 2.0).abs() < 1e-6);
    let body = json!({"input": [[3, 4]], "normalize": false, "pooling": "last"});
    let reply = server.post(EMBEDDINGS, body).await;
    assert_eq!(numbers(&reply.json(), 0), [2.0, 3.0, -4.0]);
}

#[tokio::test]
async fn base64_holds_the_same_floats() {
    let server = server().await;
    let body =
        json!({"input": "a", "normalize": false, "encoding_format": "base64", "dimensions": 3});
    let reply = server.post(EMBEDDINGS, body).await.json();
    // 1.0, 97.0, 97.0, little-endian.
    assert_eq!(reply["data"][0]["embedding"], "AACAPwAAwkIAAMJC");
}

#[tokio::test]
async fn many_texts_pass_through_a_small_queue_in_order() {
    let engine = FakeEngine::new(|_| vec![Act::Gate]).with_queue_limit(3);
    let server = Server::with(HttpConfig::default(), engine).await;
    server.engine.open_gate(2000);
    let texts: Vec<[u32; 1]> = (0..2000).map(|place| [place % 256]).collect();
    let body = json!({"input": texts, "normalize": false});
    let reply = server.post(EMBEDDINGS, body).await.json();
    for place in 0..2000 {
        assert_eq!(numbers(&reply, place)[1], f64::from(place as u32 % 256));
    }
    server.engine.until_running(0).await;
}

#[tokio::test]
async fn what_cannot_be_embedded_is_refused() {
    let server = server().await;
    let invalid = |body: Value| (body, 400, "invalid_value", Some("input"));
    let cases = [
        invalid(json!({})),
        invalid(json!({"input": ""})),
        invalid(json!({"input": []})),
        invalid(json!({"input": ["a", ""]})),
        invalid(json!({"input": [258]})),
        invalid(json!({"input": vec!["a"; 2049]})),
        (
            json!({"input": vec![1; 512]}),
            400,
            "context_length_exceeded",
            Some("input"),
        ),
        (
            json!({"input": "a".repeat(512)}),
            400,
            "context_length_exceeded",
            Some("input"),
        ),
        (
            json!({"input": "a", "dimensions": 2}),
            400,
            "unsupported_value",
            Some("dimensions"),
        ),
        (
            json!({"input": "a", "model": "none"}),
            404,
            "model_not_found",
            Some("model"),
        ),
        (
            json!({"input": 1}),
            400,
            "invalid_request_body",
            Some("input"),
        ),
        (
            json!({"input": "a", "pooling": "max"}),
            400,
            "invalid_request_body",
            Some("pooling"),
        ),
        (
            json!({"input": "a", "encoding_format": "hex"}),
            400,
            "invalid_request_body",
            Some("encoding_format"),
        ),
    ];
    for (body, status, code, param) in cases {
        let reply = server.post(EMBEDDINGS, body.clone()).await;
        let expected = (status, code.to_owned(), param.map(str::to_owned));
        assert_eq!(reply.error(), expected, "{body}");
    }
    assert!(server.engine.requests().is_empty());
    let longest = json!({"input": vec![1; 511]});
    assert_eq!(server.post(EMBEDDINGS, longest).await.status, 200);
}

#[tokio::test]
async fn one_failure_fails_the_request_and_frees_the_rest() {
    let server = Server::start(|request| match request.prompt[0] {
        98 => vec![Act::Fail(RequestError::Backend("it broke".into()))],
        _ => vec![Act::Gate],
    })
    .await;
    let reply = server
        .post(EMBEDDINGS, json!({"input": ["a", "b", "c"]}))
        .await;
    assert_eq!(reply.error().0, 500);
    server.engine.until_running(0).await;
    assert_eq!(server.engine.cancelled().len(), 2);
}

#[tokio::test]
async fn a_client_that_leaves_frees_the_engine() {
    let server = Server::start(|_| vec![Act::Gate]).await;
    let connection = server.open(EMBEDDINGS, json!({"input": ["a", "b"]})).await;
    server.engine.until_running(2).await;
    drop(connection);
    server.engine.until_running(0).await;
    assert_eq!(server.engine.cancelled().len(), 2);
}

#[tokio::test]
async fn a_full_queue_is_told_at_once() {
    let engine = FakeEngine::new(|_| vec![Act::Gate]).with_queue_limit(1);
    let server = Server::with(HttpConfig::default(), engine).await;
    let first = server.open(EMBEDDINGS, json!({"input": "a"})).await;
    server.engine.until_running(1).await;
    let refused = server.post(EMBEDDINGS, json!({"input": "a"})).await;
    assert_eq!(refused.error().1, "queue_full");
    assert!(refused.header("retry-after").is_some());
    server.engine.open_gate(1);
    assert_eq!(first.finish().await.status, 200);
}

/// Vectors are held until they are sent; what they may hold together is bounded.
#[tokio::test]
async fn vectors_held_at_once_are_bounded() {
    let limits = Limits {
        embeddings_total_bytes: 1024,
        ..Limits::default()
    };
    let config = HttpConfig {
        limits,
        ..HttpConfig::default()
    };
    let server = Server::with(config, FakeEngine::new(|_| vec![Act::Gate])).await;
    let too_many = server
        .post(EMBEDDINGS, json!({"input": vec!["a"; 86]}))
        .await;
    assert_eq!(
        too_many.error(),
        (400, "invalid_value".into(), Some("input".into()))
    );
    let first = server.open(EMBEDDINGS, json!({"input": "a"})).await;
    server.engine.until_running(1).await;
    let refused = server.post(EMBEDDINGS, json!({"input": "a"})).await;
    assert_eq!(refused.error().1, "overloaded");
    server.engine.open_gate(86);
    assert_eq!(first.finish().await.status, 200);
    let later = server
        .post(EMBEDDINGS, json!({"input": vec!["a"; 85]}))
        .await;
    assert_eq!(later.status, 200);
}
