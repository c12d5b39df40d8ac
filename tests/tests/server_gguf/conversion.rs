//! A file is converted at its first start and recognised at the next, by any member of a set and by its folder.

use crate::serve;
use odmoe_convert::random_model::{ExpertNaming, GgufOptions, Preset, Quantisation, WriteOptions};
use odmoe_tests::Server;
use odmoe_tests::client::{answer, chat_text};
use odmoe_tests::golden::Golden;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// What the console says before it converts.
const CONVERTS: &str = "writing to ";

fn stores(home: &Path) -> Vec<PathBuf> {
    let stores = home.join("cache/odmoe/stores");
    let entries = std::fs::read_dir(stores).expect("a folder of stores");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    paths.filter(|path| path.is_dir()).collect()
}

fn complete(server: &Server, golden: &Golden) -> Value {
    let prompt = &golden.ids[..golden.prompt_tokens];
    answer(&server.client.complete_tokens(prompt, 5))
}

fn file_name(path: &Path) -> &str {
    path.file_name()
        .and_then(|name| name.to_str())
        .expect("a name")
}

/// Serves the model by each of these paths; the first one converts it.
#[track_caller]
fn check(golden: &Golden, paths: &[PathBuf]) {
    let home = tempfile::tempdir().expect("a temporary folder");
    let mut first: Option<(Vec<PathBuf>, Value)> = None;
    for path in paths {
        let server = serve(path, home.path(), "");
        assert_eq!(
            server.log().contains(CONVERTS),
            first.is_none(),
            "{}",
            server.log()
        );
        let found = (stores(home.path()), complete(&server, golden));
        assert_eq!(found.0.len(), 1);
        assert_eq!(*first.get_or_insert_with(|| found.clone()), found);
    }
}

#[test]
fn a_file_is_converted_once() {
    let golden = Golden::gguf("qwen3moe-q4_k_m");
    let folder = golden.model.parent().expect("a folder");
    check(
        &golden,
        &[golden.model.clone(), golden.model.clone(), folder.into()],
    );
}

#[test]
fn a_set_is_one_model_whichever_member_is_given() {
    let golden = Golden::gguf("qwen3moe-blocks");
    let member = |number: u32| {
        let name = file_name(&golden.model).replace("00001-of", &format!("{number:05}-of"));
        golden.model.with_file_name(name)
    };
    let folder = golden.model.parent().expect("a folder");
    check(&golden, &[member(2), member(3), member(1), folder.into()]);
}

#[test]
fn a_dense_model_has_no_experts_to_page() {
    let golden = Golden::gguf("llama-q4_k_m");
    let home = tempfile::tempdir().expect("a temporary folder");
    let server = serve(&golden.model, home.path(), "");
    let log = server.log();
    assert!(log.contains("2 dense layers, no experts"), "{log}");
    let text = &complete(&server, &golden)[0];
    assert_eq!(text["finish_reason"], "length", "{text}");
}

/// The oracle's files have no template, so a random model stands in: two parts whose name has a space.
#[test]
fn a_chat_uses_the_files_own_template() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("my toy.gguf");
    let gguf = GgufOptions {
        quantisation: Quantisation::Q4KM,
        naming: ExpertNaming::Stacked,
    };
    let options = WriteOptions {
        parts: 2,
        ..WriteOptions::default()
    };
    let written = Preset::Toy.model().write_gguf(&path, gguf, options);
    let written = written.unwrap_or_else(|e| panic!("{e}"));
    let home = tempfile::tempdir().expect("a temporary folder");
    let server = serve(&written.files[1], home.path(), "--expert-cache 25%");
    let mut body = json!({
        "messages": [{"role": "user", "content": "Hello, who are you?"}],
        "max_tokens": 12, "temperature": 0, "ignore_eos": true,
    });
    let whole = server.client.post("/v1/chat/completions", &body);
    let whole = whole.expect(200).json();
    let text = whole["choices"][0]["message"]["content"].as_str();
    assert_eq!(whole["usage"]["completion_tokens"], 12, "{whole}");
    // As the template words it.
    let prompt = "<|im_start|>user\nHello, who are you?<|im_end|>\n<|im_start|>assistant\n";
    let by_hand = json!({"prompt": prompt, "max_tokens": 12, "temperature": 0, "ignore_eos": true});
    let by_hand = answer(&server.client.post("/v1/completions", &by_hand));
    assert_eq!(by_hand[0]["text"].as_str(), text);
    body["stream"] = json!(true);
    let streamed = server.client.stream("/v1/chat/completions", &body);
    assert_eq!(Some(chat_text(streamed).as_str()), text);
}

#[test]
fn a_chat_without_a_template_is_told_what_to_use() {
    let golden = Golden::gguf("qwen3moe-blocks");
    let home = tempfile::tempdir().expect("a temporary folder");
    let server = serve(&golden.model, home.path(), "");
    let body = json!({"messages": [{"role": "user", "content": "Hello"}]});
    let reply = server.client.post("/v1/chat/completions", &body);
    let told = reply.expect(400).json()["error"]["message"].to_string();
    assert!(
        told.contains("no chat template") && told.contains("/v1/completions"),
        "{told}"
    );
    // The line to try is one that works.
    assert!(server.log().contains("/v1/completions"), "{}", server.log());
}
