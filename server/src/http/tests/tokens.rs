//! Text and tokens without an answer.

use super::*;

const TOKENIZE: &str = "/v1/tokenize";
const DETOKENIZE: &str = "/v1/detokenize";
const TEMPLATE: &str = "/v1/apply-template";

fn hi(more: Value) -> Value {
    with(
        json!({"messages": [{"role": "user", "content": "hi"}]}),
        more,
    )
}

#[tokio::test]
async fn text_becomes_tokens_and_comes_back() {
    let server = Server::saying("x").await;
    let reply = server.post(TOKENIZE, json!({"prompt": "aé<|end|>"})).await;
    assert_eq!(
        reply.json(),
        json!({"count": 4, "max_model_len": 512, "tokens": [97, 195, 169, 256], "token_strs": null})
    );
    let reply = server
        .post(
            TOKENIZE,
            json!({"content": "aé", "return_token_strs": true}),
        )
        .await
        .json();
    assert_eq!(reply["token_strs"], json!(["a", "\u{fffd}", "\u{fffd}"]));
    let reply = server
        .post(DETOKENIZE, json!({"tokens": [97, 195, 169, 256]}))
        .await;
    assert_eq!(
        reply.json(),
        json!({"prompt": "aé<|end|>", "content": "aé<|end|>"})
    );
    let none = server.post(DETOKENIZE, json!({"tokens": []})).await;
    assert_eq!(none.json()["prompt"], "");
}

#[tokio::test]
async fn a_conversation_is_shown_as_the_model_would_see_it() {
    let server = Server::saying("x").await;
    let text = |reply: Value| reply["prompt"].as_str().unwrap().to_owned();
    let tool = json!({"type": "function", "function": {"name": "f"}});
    let plain = server.post(TEMPLATE, hi(json!({}))).await.json();
    assert_eq!(text(plain), "user: hi\nassistant:");
    let more = json!({"tools": [tool, tool], "chat_template_kwargs": {"shout": true}});
    let full = server.post(TEMPLATE, hi(more.clone())).await.json();
    assert_eq!(text(full), "user: hi\n2 tools\nLOUD\nassistant:");
    // And what a chat completion would be asked with.
    let counted = server.post(TOKENIZE, hi(more.clone())).await.json();
    server.post(CHAT, chat(more)).await;
    assert_eq!(
        counted["tokens"],
        json!(server.engine.requests()[0].prompt),
        "{counted}"
    );
}

#[tokio::test]
async fn what_cannot_be_shown_is_refused() {
    let server = Server::saying("x").await;
    let long = "a".repeat(513);
    let invalid = |param: &str| (400, "invalid_value".to_owned(), Some(param.to_owned()));
    let too_long = |param: &str| {
        (
            400,
            "context_length_exceeded".to_owned(),
            Some(param.to_owned()),
        )
    };
    let cases = [
        (TOKENIZE, json!({}), invalid("prompt")),
        (
            TOKENIZE,
            json!({"prompt": "a", "content": "a"}),
            invalid("prompt"),
        ),
        (TOKENIZE, hi(json!({"prompt": "a"})), invalid("prompt")),
        (TOKENIZE, json!({"messages": []}), invalid("messages")),
        (TOKENIZE, json!({"prompt": long}), too_long("prompt")),
        (TOKENIZE, json!({"content": long}), too_long("content")),
        (DETOKENIZE, json!({"tokens": [258]}), invalid("tokens")),
        (
            DETOKENIZE,
            json!({"tokens": vec![1; 513]}),
            invalid("tokens"),
        ),
        (
            TEMPLATE,
            json!({"messages": [{"role": "user", "content": "refuse me"}]}),
            invalid("messages"),
        ),
        (TEMPLATE, json!({}), invalid("messages")),
        (
            TEMPLATE,
            hi(json!({"model": "other"})),
            (404, "model_not_found".into(), Some("model".into())),
        ),
        (
            DETOKENIZE,
            json!({"tokens": "a"}),
            (400, "invalid_request_body".into(), Some("tokens".into())),
        ),
    ];
    for (path, body, expected) in cases {
        let reply = server.post(path, body.clone()).await;
        assert_eq!(reply.error(), expected, "{path} {body}");
    }
}

/// More tokens than other bodies may have values.
#[tokio::test]
async fn many_tokens_are_refused_by_their_number_alone() {
    let server = Server::saying("x").await;
    let reply = server
        .post(DETOKENIZE, json!({"tokens": vec![1; 100_000]}))
        .await;
    assert_eq!(reply.error().1, "invalid_value", "{}", reply.body);
}
