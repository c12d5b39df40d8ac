//! While a model loads: the port is open, nothing is served, and progress is told.

use odmoe_convert::random_model::RandomModel;
use odmoe_tests::models::large_model;
use odmoe_tests::process::eventually;
use odmoe_tests::sse::SseItem;
use odmoe_tests::store_files::StoreFolder;
use odmoe_tests::{Server, ServerOptions};
use serde_json::json;

#[test]
fn progress_rises_while_ready_says_503() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    large_model()
        .write(folder.path())
        .expect("a writable folder");
    let model = folder.path().display().to_string();
    let mut server = Server::spawn(&ServerOptions::with(["--model", &model]));
    let client = server.client.clone();
    eventually("an open port", || {
        client.try_get("/health").map(|reply| reply.expect(200))
    });
    let (mut fractions, mut refused, mut last_ready) = (Vec::new(), false, false);
    for item in client.get_stream("/v1/loading/progress") {
        let SseItem::Json(progress) = item else {
            continue;
        };
        let fraction = progress["fraction"]
            .as_f64()
            .unwrap_or_else(|| panic!("{progress}"));
        last_ready = progress["ready"] == true;
        let ready = client.get("/ready");
        if ready.status == 503 {
            fractions.push(fraction);
        }
        if ready.status == 503 && !refused {
            let reply = client.post("/v1/completions", &json!({"prompt": [30], "max_tokens": 1}));
            // It may have become ready since.
            if reply.status != 200 {
                assert!(reply.clone().expect(503).header("retry-after").is_some());
                assert_eq!(reply.json()["error"]["code"], "model_loading");
                refused = true;
            }
        }
    }
    assert!(last_ready, "the stream ends when the model is ready");
    assert!(fractions.is_sorted(), "{fractions:?}");
    fractions.dedup();
    assert!(
        fractions.len() >= 3,
        "three fractions while /ready is 503, but: {fractions:?}"
    );
    assert!(refused, "no completion was refused while loading");
    server.wait_until_ready();
    client
        .post("/v1/completions", &json!({"prompt": [30], "max_tokens": 1}))
        .expect(200);
}

/// A later start knows the source again and converts nothing.
#[test]
fn a_source_is_converted_once() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let home = tempfile::tempdir().expect("a temporary folder");
    RandomModel::default()
        .write(folder.path())
        .expect("a writable folder");
    let model = folder.path().display().to_string();
    let options = ServerOptions {
        home: Some(home.path().to_path_buf()),
        ..ServerOptions::with(["--model", &model])
    };
    let manifest_made = || {
        let manifest = StoreFolder::find(home.path()).path.join("manifest.json");
        manifest
            .metadata()
            .and_then(|m| m.modified())
            .expect("a manifest")
    };
    Server::start(&options).stop();
    let first = manifest_made();
    Server::start(&options).stop();
    assert_eq!(manifest_made(), first);
}

#[test]
fn a_folder_that_is_no_model_is_an_error() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let model = folder.path().display().to_string();
    let mut server = Server::spawn(&ServerOptions::with(["--model", &model]));
    assert_eq!(server.wait().code(), Some(1), "{}", server.log());
    eventually("an error that names the folder", || {
        server.log().contains(&model).then_some(())
    });
}
