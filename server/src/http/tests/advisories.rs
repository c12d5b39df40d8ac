//! What was published against other servers, tried on this one. Those about model files are in
//! `tests/tests/advisories.rs`.

use super::client::soon;
use super::fake::{self, FakeEngine};
use super::*;
use crate::http::ApiKey;
use odmoe_text::{ChatTemplate, RenderOptions, TemplateError};
use std::collections::BTreeMap;

/// The server serves others as if nothing had been.
async fn assert_unharmed(server: &Server) {
    server.engine.until_running(0).await;
    assert_eq!(server.get("/health").await.status, 200);
    assert_eq!(server.post(CHAT, chat(json!({}))).await.status, 200);
}

/// The answer is a 4xx that names the field.
async fn assert_refused(server: &Server, body: Value, param: &str) {
    let reply = server.post(CHAT, chat(body)).await;
    let (status, code, named) = reply.error();
    let named = named.unwrap_or_default();
    assert!(
        (400..500).contains(&status) && named.starts_with(param),
        "{status} {code} {named}"
    );
}

/// vLLM CVE-2025-48944 (GHSA-vrq3-r879-7m65): a malformed schema of a tool ended the worker.
#[tokio::test]
async fn malformed_tool_schemas_end_nothing() {
    let server = Server::saying("x").await;
    let schemas = [
        json!({"type": "object", "properties": {"a": {"type": "string", "pattern": "["}}}),
        json!({"type": "something"}),
        json!({"type": ["object", 7]}),
        json!({"properties": 7}),
        json!({"$ref": "#/nowhere"}),
        json!({"$ref": "#"}),
        json!({"type": "string", "pattern": "(a{1,99999}){1,99999}"}),
        json!({"enum": []}),
        json!([]),
        json!("{"),
        json!(null),
        (0..60).fold(
            json!({}),
            |inner, _| json!({"type": "object", "properties": {"a": inner}}),
        ),
    ];
    for schema in schemas {
        let function = json!({"name": "f", "parameters": schema});
        let tools = json!([{"type": "function", "function": function}]);
        for choice in [
            json!("auto"),
            json!("required"),
            json!({"type": "function", "function": {"name": "f"}}),
        ] {
            let body = chat(json!({"tools": tools, "tool_choice": choice}));
            let reply = server.post(CHAT, body).await;
            assert!(reply.status < 500, "{tools} with {choice}: {}", reply.body);
        }
        let format = json!({"type": "json_schema", "json_schema": {"name": "s", "schema": schema}});
        let reply = server
            .post(CHAT, chat(json!({"response_format": format})))
            .await;
        assert!(reply.status < 500, "{format}: {}", reply.body);
    }
    assert_unharmed(&server).await;
}

/// vLLM CVE-2025-48956: one request with a huge header took all memory, before any key was asked for.
#[tokio::test]
async fn huge_headers_are_cut_off() {
    let server = Server::saying("x").await;
    let line = "a".repeat(64 << 10);
    let many = "x: y\r\n".repeat(1000);
    for head in [format!("x-big: {line}"), many] {
        let mut connection = Connection::keep_alive(server.address).await;
        let request = format!("GET /health HTTP/1.1\r\nhost: localhost\r\n{head}\r\n\r\n");
        connection.write(request.as_bytes()).await;
        let reply = connection.finish().await;
        assert!((400..500).contains(&reply.status), "{}", reply.status);
    }
    // One that never ends is not read to its end.
    let mut endless = tokio::net::TcpStream::connect(server.address)
        .await
        .unwrap();
    let send = async {
        use tokio::io::AsyncWriteExt;
        endless.write_all(b"GET / HTTP/1.1\r\nx: ").await?;
        let mut sent = 0_u64;
        while sent < 1 << 30 {
            endless.write_all(line.as_bytes()).await?;
            sent += line.len() as u64;
        }
        Ok::<u64, io::Error>(sent)
    };
    assert!(soon(send).await.is_err(), "a gigabyte of header was taken");
    assert_unharmed(&server).await;
}

/// vLLM CVE-2025-62426: `chat_template_kwargs` replaced the template and kept the server busy.
#[tokio::test]
async fn template_variables_are_not_settings_of_the_renderer() {
    let server = Server::saying("x").await;
    server.post(CHAT, chat(json!({}))).await;
    let source = "{% for i in range(1000000000) %}{{ i }}{% endfor %}";
    let kwargs =
        json!({"chat_template": source, "tokenize": true, "max_length": -1, "messages": []});
    server
        .post(CHAT, chat(json!({"chat_template_kwargs": kwargs})))
        .await;
    let own = json!({"chat_template": source});
    server.post(CHAT, chat(own)).await;
    let prompts: Vec<_> = server
        .engine
        .requests()
        .into_iter()
        .map(|r| r.prompt)
        .collect();
    assert!(
        prompts.windows(2).all(|pair| pair[0] == pair[1]),
        "{prompts:?}"
    );
    let many: serde_json::Map<_, _> = (0..65).map(|i| (i.to_string(), json!(1))).collect();
    assert_refused(
        &server,
        json!({"chat_template_kwargs": many}),
        "chat_template_kwargs",
    )
    .await;
    assert_unharmed(&server).await;
}

/// vLLM GHSA-4fv6-24cq-h5pw, -m9fh-2f8w-jhw9, -q9q8-922v-2c42, -rp22-rc8r-qjmh: lists without bounds.
#[tokio::test]
async fn lists_of_the_sampler_are_bounded() {
    let server = Server::saying("x").await;
    let bias: serde_json::Map<_, _> = (0..1025).map(|i| (format!("{i:05}"), json!(1))).collect();
    for (param, value) in [
        ("logit_bias", json!(bias)),
        ("stop_token_ids", json!(vec![1; 129])),
        ("stop", json!(vec!["a"; 17])),
        ("stop", json!(["a".repeat(257)])),
        ("n", json!(17)),
        ("n", json!(u32::MAX)),
    ] {
        assert_refused(&server, json!({param: value}), param).await;
    }
    assert_refused(
        &server,
        json!({"logprobs": true, "top_logprobs": 21}),
        "top_logprobs",
    )
    .await;
    let words = vec!["word"; 20_000];
    let reply = server.post(CHAT, chat(json!({"bad_words": words}))).await;
    assert!([200, 400].contains(&reply.status), "{}", reply.body);
    assert_unharmed(&server).await;
}

/// vLLM CVE-2026-24779: the server fetched what an image's address named. CVE-2026-5497, CVE-2026-22773: media ended it.
#[tokio::test]
async fn media_are_refused_and_nothing_is_fetched() {
    let server = Server::saying("x").await;
    let inside = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    inside.set_nonblocking(true).unwrap();
    let address = inside.local_addr().unwrap();
    let data = format!("data:image/png;base64,{}", "A".repeat(1 << 20));
    let urls = [
        format!("http://{address}/image.png"),
        format!("http://example.org\\@{address}/"),
        format!("http://example.org#@{address}/"),
        "file:///etc/passwd".to_owned(),
        data,
    ];
    for url in urls {
        for part in [
            json!({"type": "image_url", "image_url": {"url": url}}),
            json!({"type": "input_audio", "input_audio": {"data": url, "format": "wav"}}),
            json!({"type": "video_url", "video_url": {"url": url}}),
            json!({"type": "file", "file": {"file_data": url}}),
        ] {
            let messages = json!([{"role": "user", "content": [part]}]);
            let reply = server.post(CHAT, chat(json!({"messages": messages}))).await;
            assert_eq!(reply.error().0, 400, "{}", reply.body);
        }
    }
    let nobody = inside.accept().map(|_| ()).unwrap_err();
    assert_eq!(
        nobody.kind(),
        io::ErrorKind::WouldBlock,
        "something was fetched"
    );
    assert!(server.engine.requests().is_empty());
    assert_unharmed(&server).await;
}

/// vLLM CVE-2026-48746: the check of the key and the choice of the route read the path differently.
#[tokio::test]
async fn no_spelling_of_a_path_goes_round_the_key() {
    let config = HttpConfig {
        api_keys: vec![ApiKey::new("k", "k")],
        ..HttpConfig::default()
    };
    let server = Server::with(config, FakeEngine::new(|_| fake::says("x"))).await;
    let address = server.address;
    let targets = [
        "/v1/models",
        "//v1/models",
        "/v1//models",
        "/./v1/models",
        "/health/../v1/models",
        "/health/..%2fv1/models",
        "/health%2f..%2fv1%2fmodels",
        "/%76%31/models",
        "/v1/models/",
        "/V1/MODELS",
        "/v1/models;/health",
        "/v1/models%00/health",
        "/v1/models?x=/health",
        "/v1/models#/health",
        "/models",
        "/metrics",
        "/metrics/",
        "/openapi.json",
        "/docs/",
        "/invocations",
        "/pause",
        "/tokenize",
        "/v1/tokenize",
        "/admin/cache",
        "/ADMIN/cache",
    ];
    for target in targets {
        for method in ["GET", "POST", "OPTIONS", "HEAD", "PUT", "TRACE", "health"] {
            let call = Call::new(method, target)
                .header("x-http-method-override", "GET")
                .header("x-original-url", "/health")
                .header("x-rewrite-url", "/health")
                .header("x-forwarded-prefix", "/health")
                .header("x-forwarded-for", "127.0.0.1");
            let status = call.send(address).await.status;
            assert!((400..500).contains(&status), "{method} {target}: {status}");
        }
    }
    let absolute = Call::new("GET", &format!("http://{address}/v1/models"))
        .send(address)
        .await;
    assert_eq!(absolute.status, 401);
    let upgrade = Call::new("POST", CHAT)
        .header("upgrade", "websocket")
        .json(chat(json!({})));
    assert_eq!(upgrade.send(address).await.status, 401);
    assert!(server.engine.requests().is_empty());
}

/// llama.cpp CVE-2026-21869: a negative `n_discard` wrote outside of its buffer.
#[tokio::test]
async fn negative_counts_are_refused_or_ignored() {
    let server = Server::saying("x").await;
    for param in [
        "max_tokens",
        "max_completion_tokens",
        "n",
        "top_k",
        "top_logprobs",
        "stop_token_ids",
    ] {
        for value in [json!(-2), json!(i64::MIN), json!(-1e300)] {
            let value = if param == "stop_token_ids" {
                json!([value])
            } else {
                value
            };
            assert_refused(&server, json!({param: value, "logprobs": true}), param).await;
        }
    }
    let unknown = json!({"n_discard": -1, "n_keep": i64::MIN, "id_slot": -9, "cache_prompt": -1});
    assert_eq!(server.post(CHAT, chat(unknown)).await.status, 200);
    let prompt = completion(json!({"prompt": [-1, 2]}));
    assert_eq!(server.post(COMPLETIONS, prompt).await.error().0, 400);
    assert_unharmed(&server).await;
}

/// SGLang CVE-2026-5760: a template in the model's file ran Python.
#[test]
fn a_models_template_has_no_way_out_and_no_endless_way() {
    let render = |source: &str| {
        let template = ChatTemplate::compile(source, &BTreeMap::new())?;
        template.render(
            &json!([{"role": "user", "content": "hi"}]),
            &RenderOptions::default(),
        )
    };
    for source in [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ self.__init__.__globals__.__builtins__.open('/etc/passwd').read() }}",
        "{{ messages.__class__.__base__.__subclasses__()[40]('/etc/passwd').read() }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}{{ os.environ }}",
    ] {
        if let Ok(text) = render(source) {
            assert!(
                !text.contains("root:") && !text.contains("uid=") && text.len() < 64,
                "{source}: {text}"
            );
        }
    }
    for source in [
        "{% for a in range(100000) %}{% for b in range(100000) %}{{ b }}{% endfor %}{% endfor %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% for a in range(100000) %}{{ 'a' * 1000 }}{% endfor %}",
    ] {
        let error = render(source).unwrap_err();
        assert!(
            !matches!(error, TemplateError::Compile(_)),
            "{source}: {error}"
        );
    }
}
