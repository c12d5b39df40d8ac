//! Keys, `Host`, `Origin`.

use super::fake::{self, FakeEngine};
use super::*;
use crate::http::{ApiKey, Listeners, SecretDigest};
use crate::model::live_budget::LiveChange;
use odmoe_engine::{EngineEvent, EngineObserver};
use odmoe_expert_store::{LookupResult, Phase, StoreEvent};
use odmoe_formats::ExpertKey;

async fn with_config(config: HttpConfig) -> Server {
    Server::with(config, FakeEngine::new(|_| fake::says("x"))).await
}

#[tokio::test]
async fn with_a_key_every_route_but_the_probes_is_closed() {
    let keys = vec![ApiKey::new("a", "first"), ApiKey::new("b", "second")];
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
async fn without_a_key_a_foreign_host_is_refused() {
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
async fn with_a_key_any_host_is_answered() {
    let server = with_config(HttpConfig {
        api_keys: vec![ApiKey::new("k", "k")],
        ..HttpConfig::default()
    })
    .await;
    let call = Call::new("GET", "/v1/models").header("host", "api.example.org");
    assert_eq!(call.send(server.address).await.status, 401);
    let call = Call::new("GET", "/v1/models").header("host", "api.example.org");
    let call = call.header("authorization", "Bearer k");
    assert_eq!(call.send(server.address).await.status, 200);
}

#[tokio::test]
async fn without_an_admin_key_there_is_nothing_to_administer() {
    for api_keys in [vec![], vec![ApiKey::new("k", "k")]] {
        let server = with_config(HttpConfig {
            api_keys,
            ..HttpConfig::default()
        })
        .await;
        for key in ["", "Bearer k"] {
            let call = Call::new("GET", "/admin/cache").header("authorization", key);
            let reply = call.send(server.address).await;
            assert_eq!(reply.error(), (404, "not_found".into(), None), "{key:?}");
        }
    }
}

#[tokio::test]
async fn the_admin_key_opens_what_is_for_operators_and_nothing_else() {
    let server = with_config(HttpConfig {
        api_keys: vec![ApiKey::new("k", "k")],
        admin_key: Some(SecretDigest::of(b"root")),
        ..HttpConfig::default()
    })
    .await;
    let get = |path: &str, key: &str| {
        let call = Call::new("GET", path).header("authorization", &format!("Bearer {key}"));
        call.send(server.address)
    };
    let cache = get("/admin/cache", "root").await;
    assert_eq!(cache.status, 200, "{}", cache.body);
    assert_eq!(cache.json()["kv"], json!({"blocks": 12, "blocks_used": 3}));
    for key in ["k", "", "roo"] {
        let reply = get("/admin/cache", key).await;
        assert_eq!(reply.error(), (401, "invalid_admin_key".into(), None));
    }
    assert_eq!(get("/admin/other", "root").await.error().0, 404);
    assert_eq!(get("/admin/other", "k").await.error().0, 401);
    for (path, key, status) in [
        ("/metrics", "root", 200),
        ("/metrics", "k", 200),
        ("/metrics", "x", 401),
        ("/v1/models", "root", 401),
        ("/administer", "root", 401),
    ] {
        assert_eq!(get(path, key).await.status, status, "{path} with {key}");
    }
}

#[tokio::test]
async fn the_table_of_experts_comes_in_parts() {
    let server = with_config(HttpConfig {
        admin_key: Some(SecretDigest::of(b"root")),
        ..HttpConfig::default()
    })
    .await;
    let get = |path: &str| {
        let call = Call::new("GET", path).header("authorization", "Bearer root");
        call.send(server.address)
    };
    let all = get("/admin/experts").await;
    assert_eq!(all.status, 200, "{}", all.body);
    let all = all.json();
    assert_eq!(
        (&all["experts_total"], &all["next_offset"]),
        (&json!(4), &json!(null))
    );
    assert_eq!(all["layers"].as_array().unwrap().len(), 2);
    let misses = json!({"cold": 2, "capacity": 13, "evicted_early": 0, "arrived_late": 0});
    assert_eq!(
        all["layers"][1],
        json!({"layer": 1, "experts": 2, "resident": 1, "uses": 20, "hits": 5, "misses": misses,
               "stall_s": 1.5, "stalls": 3})
    );
    let part = get("/admin/experts?offset=1&limit=2").await.json();
    assert_eq!(part["next_offset"], 3);
    let keys: Vec<_> = part["experts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| (&e["layer"], &e["expert"]))
        .collect();
    assert_eq!(keys, [(&json!(0), &json!(1)), (&json!(1), &json!(0))]);
    let layer = get("/admin/experts?layer=1").await.json();
    assert_eq!(
        (&layer["experts_total"], &layer["experts"][0]["hits"]),
        (&json!(2), &json!(2))
    );
    assert_eq!(
        get("/admin/experts?layer=9").await.json()["experts"],
        json!([])
    );
    for bad in [
        "limit=99999999",
        "limit=x",
        "layer=-1",
        "offset=99999999999999999999999",
    ] {
        assert_eq!(
            get(&format!("/admin/experts?{bad}")).await.status,
            400,
            "{bad}"
        );
    }
    let far = get("/admin/experts?offset=18446744073709551615").await;
    assert_eq!(
        (far.status, &far.json()["next_offset"]),
        (200, &json!(null))
    );
}

#[tokio::test]
async fn routing_is_recorded_while_somebody_listens() {
    let server = with_config(HttpConfig {
        admin_key: Some(SecretDigest::of(b"root")),
        ..HttpConfig::default()
    })
    .await;
    let open = |path: &str| {
        let call = Call::new("GET", path).header("authorization", "Bearer root");
        call.open(server.address)
    };
    let mut listening = open("/admin/trace").await;
    listening.until("odmoetrc", 1).await;
    let recorder = Arc::clone(&server.slot.get().unwrap().recorder);
    recorder.record(&EngineEvent::Store(StoreEvent::Lookup {
        phase: Phase::Decode,
        result: LookupResult::Hit,
        key: ExpertKey::routed(1, 1),
    }));
    recorder.record(&EngineEvent::Step {
        tokens: 1,
        prefill: false,
    });
    listening.until("\0\u{1}\0\u{1}\0\u{1}\0", 1).await;

    let ended = open("/admin/trace?seconds=0").await.finish().await;
    assert_eq!(ended.status, 200);
    assert_eq!(
        ended.header("content-type"),
        Some("application/octet-stream")
    );
    for bad in ["seconds=86401", "seconds=x"] {
        let reply = open(&format!("/admin/trace?{bad}")).await.finish().await;
        assert_eq!(reply.status, 400, "{bad}");
    }
    let mut others = Vec::new();
    for _ in 0..3 {
        let mut other = open("/admin/trace").await;
        other.until("odmoetrc", 1).await;
        others.push(other);
    }
    let fifth = open("/admin/trace").await.finish().await;
    assert_eq!((fifth.status, fifth.error().1), (503, "busy".into()));
    drop(others);
    server.stop.send(()).await.unwrap();
    listening.until_closed().await;
}

#[tokio::test]
async fn the_admin_key_changes_what_the_expert_cache_may_take() {
    let server = with_config(HttpConfig {
        admin_key: Some(SecretDigest::of(b"root")),
        ..HttpConfig::default()
    })
    .await;
    let patch = |body: Value, key: &str| {
        let call = Call::new("PATCH", "/admin/cache").json(body);
        let call = call.header("authorization", &format!("Bearer {key}"));
        call.send(server.address)
    };
    let mib = |n: u64| n << 20;
    let changed = patch(json!({"expert_cache": "25%"}), "root").await;
    assert_eq!(changed.status, 200, "{}", changed.body);
    let report = changed.json();
    assert_eq!(report["budget_bytes"], mib(250));
    assert_eq!(report["asked_bytes"], mib(250));
    assert_eq!(report["memory"]["total_bytes"], mib(450));
    assert_eq!(report["memory"]["limit_bytes"], mib(800));

    for (size, says) in [
        ("601MiB", "at most 600.0 MiB"),
        ("1MiB", "the least is 20.0 MiB"),
        ("much", "write auto"),
        ("0%", "more than 0%"),
    ] {
        let refused = patch(json!({"expert_cache": size}), "root").await;
        let expected = (400, "invalid_value".into(), Some("expert_cache".into()));
        assert_eq!(refused.error(), expected);
        assert!(refused.body.contains(says), "{}", refused.body);
    }
    assert_eq!(patch(json!({}), "root").await.error().0, 400);
    let number = patch(json!({"expert_cache": 7}), "root").await;
    assert_eq!(number.error().1, "invalid_request_body");
    let other = patch(json!({"expert_cache": "auto"}), "k").await;
    assert_eq!(other.error(), (401, "invalid_admin_key".into(), None));
    let both = patch(json!({"expert_cache": "auto", "kv_cache": "1600"}), "root").await;
    let memory = &both.json()["memory"];
    assert_eq!(
        (&memory["kv_bytes"], &memory["experts_bytes"]),
        (&json!(mib(100)), &json!(mib(550)))
    );
    let tokens = patch(json!({"kv_cache": "1601"}), "root").await;
    assert_eq!(tokens.error().2, Some("kv_cache".into()));
    assert!(tokens.body.contains("16 to 1600 tokens"), "{}", tokens.body);
    let told = server.engine.changes.lock().unwrap().clone();
    let experts = |n| LiveChange::Experts(odmoe_formats::ByteCount(mib(n)));
    assert_eq!(
        told,
        [experts(250), LiveChange::KvBlocks(100), experts(550)]
    );
}

#[tokio::test]
async fn metrics_move_to_an_address_of_their_own() {
    let clients = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let metrics = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addresses = (clients.local_addr().unwrap(), metrics.local_addr().unwrap());
    let config = HttpConfig {
        api_keys: vec![ApiKey::new("k", "k")],
        ..HttpConfig::default()
    };
    let listeners = Listeners {
        clients,
        tls: None,
        metrics: Some(metrics),
    };
    let (_stop, stops) = mpsc::channel(2);
    tokio::spawn(serve_until(
        listeners,
        config,
        ModelSlot::new(),
        MetricsHandle::new(),
        stops,
    ));
    let get = |path: &str| Call::new("GET", path);
    let status = async |call: Call, to| call.send(to).await.status;
    for (path, expected) in [
        ("/metrics", 200),
        ("/health", 200),
        ("/ready", 503),
        ("/v1/models", 404),
    ] {
        assert_eq!(status(get(path), addresses.1).await, expected, "{path}");
    }
    let keyed = get("/metrics").header("authorization", "Bearer k");
    assert_eq!(status(keyed, addresses.0).await, 404);
    let page = get("/metrics").header("origin", "http://evil.example");
    assert_eq!(status(page, addresses.1).await, 403);
    let rebound = get("/metrics").header("host", "evil.example");
    assert_eq!(status(rebound, addresses.1).await, 403);
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
            (403, None)
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
        api_keys: vec![ApiKey::new("k", "k")],
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
