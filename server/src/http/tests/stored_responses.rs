//! Responses that are kept: gone on from, retrieved, cancelled, deleted.

use super::fake::{Act, FakeEngine};
use super::responses::{RESPONSES, ask, events, prompt};
use super::*;
use crate::http::Limits;

#[tokio::test]
async fn a_conversation_goes_on_from_a_stored_response() {
    let server = Server::saying("hello").await;
    let first = server
        .post(RESPONSES, ask(json!("hi"), json!({"instructions": "x"})))
        .await
        .json();
    let id = first["id"].as_str().unwrap();
    let goes_on = json!({"previous_response_id": id, "instructions": "y"});
    let second = server
        .post(RESPONSES, ask(json!("more"), goes_on))
        .await
        .json();
    assert_eq!(
        prompt(&server),
        "system: y\nuser: hi\nassistant: hello\nuser: more\nassistant:"
    );
    assert_eq!(second["previous_response_id"], id);
    // The first is as it was, and can be gone on from once more, by a stream too.
    assert_eq!(server.get(&format!("{RESPONSES}/{id}")).await.json(), first);
    let streamed = json!({"previous_response_id": second["id"], "stream": true});
    let reply = server.post(RESPONSES, ask(json!("on"), streamed)).await;
    assert!(prompt(&server).ends_with("user: more\nassistant: hello\nuser: on\nassistant:"));
    let events = events(&reply.body);
    let last = &events.last().unwrap()["response"];
    let id = last["id"].as_str().unwrap();
    assert_eq!(server.get(&format!("{RESPONSES}/{id}")).await.json(), *last);
}

#[tokio::test]
async fn what_is_not_stored_or_was_deleted_is_unknown() {
    let server = Server::saying("hello").await;
    let unknown = (404, "response_not_found".to_owned(), None);
    let unstored = server
        .post(RESPONSES, ask(json!("hi"), json!({"store": false})))
        .await
        .json();
    let path = |reply: &Value| format!("{RESPONSES}/{}", reply["id"].as_str().unwrap());
    assert_eq!(server.get(&path(&unstored)).await.error(), unknown);
    let stored = server
        .post(RESPONSES, ask(json!("hi"), json!({})))
        .await
        .json();
    // Somebody else's key.
    let other = Call::new("GET", &path(&stored)).header("x-api-key", "other");
    assert_eq!(other.send(server.address).await.error(), unknown);
    let deleted = Call::new("DELETE", &path(&stored))
        .send(server.address)
        .await;
    assert_eq!(
        deleted.json(),
        json!({"id": stored["id"], "object": "response", "deleted": true})
    );
    assert_eq!(server.get(&path(&stored)).await.error(), unknown);
    let again = Call::new("DELETE", &path(&stored))
        .send(server.address)
        .await;
    assert_eq!(again.error(), unknown);
    let goes_on = ask(json!("hi"), json!({"previous_response_id": stored["id"]}));
    assert_eq!(
        server.post(RESPONSES, goes_on).await.error(),
        (
            400,
            "previous_response_not_found".into(),
            Some("previous_response_id".into())
        )
    );
    assert_eq!(server.get(&format!("{RESPONSES}/%ff")).await.error().0, 400);
}

#[tokio::test]
async fn a_key_is_the_same_in_either_header() {
    let server = Server::saying("hello").await;
    let stored = Call::new("POST", RESPONSES).header("authorization", "Bearer KEY");
    let stored = stored.json(ask(json!("hi"), json!({})));
    let stored = stored.send(server.address).await.json();
    let path = format!("{RESPONSES}/{}", stored["id"].as_str().unwrap());
    let status = async |name, value| {
        let call = Call::new("GET", &path).header(name, value);
        call.send(server.address).await.status
    };
    assert_eq!(status("x-api-key", "KEY").await, 200);
    assert_eq!(status("authorization", "bearer KEY").await, 200);
    assert_eq!(status("x-api-key", "OTHER").await, 404);
}

#[tokio::test]
async fn what_is_stored_is_bounded_and_the_oldest_goes_first() {
    let limits = Limits {
        stored_responses: 2,
        stored_responses_bytes: 12_000,
        ..Limits::default()
    };
    let config = HttpConfig {
        limits,
        ..HttpConfig::default()
    };
    let server = Server::with(config, FakeEngine::new(|_| fake::says("x"))).await;
    let store = async |input: &str, more: Value| {
        let reply = server.post(RESPONSES, ask(json!(input), more)).await.json();
        format!("{RESPONSES}/{}", reply["id"].as_str().unwrap())
    };
    let status = async |path: &str| server.get(path).await.status;
    let mut paths = Vec::new();
    for _ in 0..3 {
        paths.push(store("a", json!({})).await);
    }
    assert_eq!(
        [
            status(&paths[0]).await,
            status(&paths[1]).await,
            status(&paths[2]).await
        ],
        [404, 200, 200]
    );
    let large = store("b", json!({"metadata": {"a": "x".repeat(4000)}})).await;
    assert_eq!([status(&paths[2]).await, status(&large).await], [404, 200]);
    // What is too large by itself is answered and not kept.
    let larger = store("b", json!({"metadata": {"a": "x".repeat(8000)}})).await;
    assert_eq!([status(&large).await, status(&larger).await], [404, 404]);
}

#[tokio::test]
async fn a_response_in_the_background_is_retrieved_when_it_is_whole() {
    let server =
        Server::start(|_| [vec![Act::Text("he".into()), Act::Gate], fake::says("llo")].concat())
            .await;
    let background = json!({"background": true});
    let begun = server
        .post(RESPONSES, ask(json!("hi"), background.clone()))
        .await
        .json();
    assert_eq!(
        (&begun["status"], &begun["usage"]),
        (&json!("in_progress"), &Value::Null)
    );
    let path = format!("{RESPONSES}/{}", begun["id"].as_str().unwrap());
    assert_eq!(server.get(&path).await.json(), begun);
    let early = ask(json!("hi"), json!({"previous_response_id": begun["id"]}));
    assert_eq!(
        server.post(RESPONSES, early).await.error().2.as_deref(),
        Some("previous_response_id")
    );
    server.engine.open_gate(1);
    server.engine.until_running(0).await;
    let whole = until(&server, &path, "completed").await;
    assert_eq!(whole["output"][0]["content"][0]["text"], "hello");
    // Cancelling what is whole changes nothing.
    let cancelled = Call::new("POST", &format!("{path}/cancel"))
        .send(server.address)
        .await;
    assert_eq!(cancelled.json(), whole);
}

/// Asks until a response has this status.
async fn until(server: &Server, path: &str, status: &str) -> Value {
    client::soon(async {
        loop {
            let response = server.get(path).await.json();
            if response["status"] == status {
                return response;
            }
            tokio::task::yield_now().await;
        }
    })
    .await
}

#[tokio::test]
async fn a_response_in_the_background_can_be_cancelled_and_deleted() {
    let server = Server::start(|_| vec![Act::Text("he".into()), Act::Gate]).await;
    let begin = async || {
        let reply = server
            .post(RESPONSES, ask(json!("hi"), json!({"background": true})))
            .await;
        format!("{RESPONSES}/{}", reply.json()["id"].as_str().unwrap())
    };
    let path = begin().await;
    server.engine.until_running(1).await;
    let reply = Call::new("POST", &format!("{path}/cancel"))
        .send(server.address)
        .await;
    assert_eq!(reply.json()["status"], "cancelled");
    server.engine.until_cancelled(1).await;
    let kept = until(&server, &path, "cancelled").await;
    assert_eq!(kept["output"][0]["status"], "incomplete");
    let path = begin().await;
    server.engine.until_running(1).await;
    let reply = Call::new("DELETE", &path).send(server.address).await;
    assert_eq!(reply.status, 200);
    server.engine.until_cancelled(2).await;
    server.engine.until_running(0).await;
    assert_eq!(server.get(&path).await.status, 404);
    for path in [
        "/v1/responses/resp_none/cancel",
        "/responses/resp_none/cancel",
    ] {
        let reply = Call::new("POST", path).send(server.address).await;
        assert_eq!(reply.error().1, "response_not_found");
    }
}

#[tokio::test]
async fn only_what_is_in_the_background_can_be_cancelled() {
    let server = Server::saying("x").await;
    let reply = server
        .post(RESPONSES, ask(json!("hi"), json!({})))
        .await
        .json();
    let path = format!("{RESPONSES}/{}/cancel", reply["id"].as_str().unwrap());
    let reply = Call::new("POST", &path).send(server.address).await;
    assert_eq!(
        reply.error(),
        (400, "invalid_value".into(), Some("id".into()))
    );
}
