//! Keys, `Host`, `Origin`.

use super::fake::{self, FakeEngine};
use super::*;

async fn with_config(config: HttpConfig) -> Server {
    Server::with(config, FakeEngine::new(|_| fake::says("x"))).await
}

#[tokio::test]
async fn with_a_key_every_route_but_the_probes_is_closed() {
    let keys = vec!["first".to_owned(), "second".to_owned()];
    let server = with_config(HttpConfig {
        api_keys: keys,
        ..HttpConfig::default()
    })
    .await;
    let closed = [
        "/v1/models",
        "/v1/models/tiny/moe",
        "/metrics",
        "/openapi.json",
        "/docs",
        "/docs/",
        "/docs/index.html",
        "/v1/loading/progress",
        "/unknown",
        "/health/",
        "/health/x",
        "//health",
        "/HEALTH",
        "/ready?x=/health/..",
    ];
    for path in closed
        .into_iter()
        .filter(|path| !path.starts_with("/ready"))
    {
        let reply = server.get(path).await;
        assert_eq!(
            reply.error(),
            (401, "invalid_api_key".into(), None),
            "{path}"
        );
        assert_eq!(reply.header("www-authenticate"), Some("Bearer"));
    }
    assert_eq!(server.post(CHAT, chat(json!({}))).await.status, 401);
    for path in ["/health", "/ready", "/ready?probe=1"] {
        assert_eq!(server.get(path).await.status, 200, "{path}");
    }
    let models = |name: &str, value: &str| Call::new("GET", "/v1/models").header(name, value);
    for (name, value) in [
        ("authorization", "Bearer first"),
        ("authorization", "bearer second"),
        ("Authorization", "Bearer  second"),
        ("x-api-key", "second"),
    ] {
        assert_eq!(
            models(name, value).send(server.address).await.status,
            200,
            "{name}: {value}"
        );
    }
    for (name, value) in [
        ("authorization", "Bearer third"),
        ("authorization", "Bearer "),
        ("authorization", "Bearer"),
        ("authorization", "first"),
        ("authorization", "Basic first"),
        ("authorization", "Bearer firs"),
        ("x-api-key", ""),
        ("x-api-key", "firstsecond"),
    ] {
        assert_eq!(
            models(name, value).send(server.address).await.status,
            401,
            "{name}: {value}"
        );
    }
}

#[tokio::test]
async fn on_loopback_a_foreign_host_is_refused() {
    let hosts = vec!["my.name".to_owned()];
    let server = with_config(HttpConfig {
        allowed_hosts: hosts,
        ..HttpConfig::default()
    })
    .await;
    let health = |host: &str| Call::new("GET", "/health").header("host", host);
    let port = server.address.port();
    for host in [
        "localhost",
        "LOCALHOST:1",
        "127.0.0.1",
        "127.1.2.3:80",
        "[::1]",
        "[::1]:8000",
        "my.name",
        "My.Name:9",
    ] {
        assert_eq!(
            health(host).send(server.address).await.status,
            200,
            "{host}"
        );
    }
    let rebound = format!("evil.example:{port}");
    for host in [
        &rebound,
        "10.0.0.1",
        "localhost.evil.example",
        "my.name.evil",
        "x@localhost",
        "",
    ] {
        let reply = health(host).send(server.address).await;
        assert_eq!(reply.status, 403, "{host:?}: {}", reply.body);
    }
    let two = health("localhost").header("host", "evil.example");
    assert!([400, 403].contains(&two.send(server.address).await.status));
    let absolute = Call::new("GET", "http://evil.example/health").header("host", "localhost");
    assert_eq!(absolute.send(server.address).await.status, 403);
}

#[tokio::test]
async fn a_foreign_page_cannot_post_and_cannot_read() {
    let origins = vec!["https://app.example".to_owned()];
    let server = with_config(HttpConfig {
        allowed_origins: origins,
        ..HttpConfig::default()
    })
    .await;
    let post = |origin: &str| {
        Call::new("POST", CHAT)
            .header("origin", origin)
            .json(chat(json!({})))
    };
    for origin in [
        "https://evil.example",
        "null",
        "http://app.example",
        "https://app.example.evil",
    ] {
        let reply = post(origin).send(server.address).await;
        assert_eq!(
            reply.error(),
            (403, "origin_not_allowed".into(), None),
            "{origin}"
        );
        let reply = Call::new("GET", "/v1/models")
            .header("origin", origin)
            .send(server.address)
            .await;
        assert_eq!(
            (reply.status, reply.header("access-control-allow-origin")),
            (200, None)
        );
    }
    assert!(server.engine.requests().is_empty());
    let reply = post("https://app.example").send(server.address).await;
    assert_eq!(reply.status, 200);
    assert_eq!(
        reply.header("access-control-allow-origin"),
        Some("https://app.example")
    );
    assert_eq!(reply.header("vary"), Some("origin"));
    // The documentation page tries requests from the server's own origin.
    let own = format!("http://{}", server.address);
    assert_eq!(post(&own).send(server.address).await.status, 200);
}

#[tokio::test]
async fn preflights_are_answered_without_a_key_for_listed_origins_only() {
    let config = HttpConfig {
        allowed_origins: vec!["https://app.example".into()],
        api_keys: vec!["k".into()],
        ..HttpConfig::default()
    };
    let server = with_config(config).await;
    let preflight = |origin: &str| {
        Call::new("OPTIONS", CHAT)
            .header("origin", origin)
            .header("access-control-request-method", "POST")
            .header(
                "access-control-request-headers",
                "authorization, content-type",
            )
    };
    let reply = preflight("https://app.example").send(server.address).await;
    assert_eq!(reply.status, 204);
    assert_eq!(
        reply.header("access-control-allow-headers"),
        Some("authorization, content-type")
    );
    let reply = preflight("https://evil.example").send(server.address).await;
    assert_eq!(
        (reply.status, reply.header("access-control-allow-origin")),
        (403, None)
    );
}

#[tokio::test]
async fn request_ids_are_kept_if_safe_and_made_otherwise() {
    let server = Server::saying("x").await;
    let with_id = |id: &str| Call::new("GET", "/health").header("x-request-id", id);
    let reply = with_id("run-7:a.b/c_d").send(server.address).await;
    assert_eq!(reply.header("x-request-id"), Some("run-7:a.b/c_d"));
    let long = "x".repeat(129);
    for id in ["has space", "quote\"", "", &long] {
        let reply = with_id(id).send(server.address).await;
        let made = reply.header("x-request-id").unwrap();
        assert!(made != id && made.len() == 36, "{id:?} became {made:?}");
    }
    for path in ["/unknown", "/v1/models/none", "/metrics"] {
        assert!(
            server.get(path).await.header("x-request-id").is_some(),
            "{path}"
        );
    }
    assert!(
        server
            .post(CHAT, json!(1))
            .await
            .header("x-request-id")
            .is_some()
    );
}
