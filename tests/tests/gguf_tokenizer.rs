//! Tokenizers of GGUF files encode as llama.cpp does: its ids of the same texts stand in `oracle/vocab/`, made there by
//! `make.py` from two small vocabularies.

use odmoe_convert::TextContents;
use odmoe_convert::gguf::tokenizer;
use odmoe_formats::gguf::{Gguf, Metadata, Value};
use odmoe_tests::golden::read_json;
use odmoe_tests::workspace::root;
use odmoe_text::{ChatTemplate, RenderOptions, Tokenizer};

fn folder() -> std::path::PathBuf {
    root().join("tests/oracle/vocab")
}

/// The metadata of a vocabulary, some of it replaced.
fn metadata(name: &str, replaced: &[(&str, Value)]) -> Metadata {
    let bytes = std::fs::read(folder().join(name)).expect("a vocabulary");
    let gguf = Gguf::read(&mut bytes.as_slice(), bytes.len() as u64);
    let mut metadata = Metadata::default();
    for (key, value) in replaced {
        metadata.insert(*key, value.clone());
    }
    for (key, value) in gguf.unwrap_or_else(|e| panic!("{e}")).metadata.iter() {
        metadata.insert(key, value.clone());
    }
    metadata
}

fn open(text: &TextContents) -> Tokenizer {
    let bytes = text.tokenizer.as_deref().expect("a tokenizer");
    Tokenizer::from_json(bytes).unwrap_or_else(|e| panic!("{e}"))
}

fn import(name: &str, replaced: &[(&str, Value)]) -> TextContents {
    tokenizer::import(&metadata(name, replaced)).unwrap_or_else(|e| panic!("{e}"))
}

/// Every text has the expected ids, and its ids are the text again where the vocabulary has all of its bytes.
fn check(tokenizer: &Tokenizer, expected: &serde_json::Value, with_special: bool, what: &str) {
    let texts = read_json(&folder().join("expected.json"))["texts"].clone();
    let texts = texts.as_array().expect("texts");
    let expected = expected.as_array().expect("ids");
    assert!(texts.len() > 40 && texts.len() == expected.len(), "{what}");
    for (text, expected) in texts.iter().zip(expected) {
        let text = text.as_str().expect("a text");
        let expected: Vec<u32> = serde_json::from_value(expected.clone()).expect("ids");
        let found = tokenizer
            .encode(text, with_special)
            .unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(found, expected, "{what}: {text:?}");
        let bounded = tokenizer.encode_within(text, with_special, found.len());
        assert_eq!(bounded, Ok(found), "{what}: {text:?}");
    }
}

#[test]
fn every_kind_of_pre_tokenizer_cuts_as_llama_cpp_does() {
    let expected = read_json(&folder().join("expected.json"));
    let kinds = expected["byte_level"].as_object().expect("kinds");
    assert!(kinds.len() > 20);
    for (kind, expected) in kinds {
        let pre = Value::String(kind.clone().into_bytes());
        let text = import("byte_level.gguf", &[("tokenizer.ggml.pre", pre)]);
        check(&open(&text), expected, false, kind);
    }
}

#[test]
fn sentence_piece_merges_as_llama_cpp_does() {
    let expected = read_json(&folder().join("expected.json"));
    let text = import("sentence_piece.gguf", &[]);
    let tokenizer = open(&text);
    check(&tokenizer, &expected["sentence_piece"], false, "plain");
    check(
        &tokenizer,
        &expected["sentence_piece_with_bos"],
        true,
        "with a beginning",
    );
    for text in ["Hello  world\n", " a", "\u{1f680}\u{0130}", "x<tool>"] {
        let ids = tokenizer.encode(text, false).expect("ids");
        assert_eq!(
            tokenizer.decode(&ids, false).trim_start(),
            text.trim_start()
        );
    }
}

#[test]
fn special_tokens_are_found_and_hidden() {
    let text = import("byte_level.gguf", &[]);
    let tokenizer = open(&text);
    let id = |text: &str| tokenizer.token_id(text).expect("in the vocabulary");
    assert!(tokenizer.is_special(id("<|im_end|>")));
    assert!(!tokenizer.is_special(id("<tool>")) && !tokenizer.is_special(id("a")));
    assert_eq!(
        text.end_of_sequence_ids,
        [id("<|im_end|>"), id("<|endoftext|>")]
    );
    let ids = tokenizer.encode("<tool>a<|im_end|>", false).expect("ids");
    assert_eq!(ids, [id("<tool>"), id("a"), id("<|im_end|>")]);
    assert_eq!(tokenizer.decode(&ids, true), "<tool>a");
    // Ids around a text are those that the metadata asks for.
    let around = [
        ("tokenizer.ggml.add_bos_token", Value::Bool(true)),
        ("tokenizer.ggml.add_eos_token", Value::Bool(true)),
    ];
    let tokenizer = open(&import("byte_level.gguf", &around));
    let ids = tokenizer.encode("a", true).expect("ids");
    assert_eq!(ids, [id("<|endoftext|>"), id("a"), id("<|im_end|>")]);
    assert_eq!(tokenizer.encode("a", false).expect("ids"), [id("a")]);
}

#[test]
fn the_template_sees_the_special_tokens() {
    let text = import("byte_level.gguf", &[]);
    let source = text.chat_template.expect("a template");
    let template = ChatTemplate::compile(&source, &text.special_tokens).expect("a template");
    let messages = serde_json::json!([{"role": "user", "content": "hi"}]);
    let rendered = template.render(&messages, &RenderOptions::default());
    assert_eq!(rendered.expect("a prompt"), "<|endoftext|>hi<|im_end|>");
    assert_eq!(import("sentence_piece.gguf", &[]).chat_template, None);
}
