//! GGUF files that hold a small vocabulary and no tensors.

use super::Seed;
use odmoe_formats::gguf::{Array, GgufLayout, Metadata, Value};

type Entries = Vec<(&'static str, Value)>;

pub(super) fn seeds() -> Vec<Seed> {
    let with = |base: Entries, key: &'static str, value: Value| {
        let mut entries = base;
        entries.retain(|(other, _)| *other != key);
        entries.push((key, value));
        file(entries)
    };
    let without = |base: Entries, key: &str| {
        let mut entries = base;
        entries.retain(|(other, _)| *other != key);
        file(entries)
    };
    let tokens = |texts: &[&str]| Value::Array(Array::String(strings(texts)));
    vec![
        ("byte-level", file(byte_level())),
        ("sentence-piece", file(sentence_piece())),
        ("no-model", without(byte_level(), "tokenizer.ggml.model")),
        ("no-tokens", without(byte_level(), "tokenizer.ggml.tokens")),
        (
            "unknown-model",
            with(byte_level(), "tokenizer.ggml.model", text("t5")),
        ),
        (
            "unknown-pre",
            with(byte_level(), "tokenizer.ggml.pre", text("nobody")),
        ),
        (
            "tokens-of-numbers",
            with(
                byte_level(),
                "tokenizer.ggml.tokens",
                Value::Array(Array::I32(vec![1])),
            ),
        ),
        (
            "no-vocabulary",
            with(byte_level(), "tokenizer.ggml.tokens", tokens(&[])),
        ),
        (
            "duplicate-tokens",
            with(byte_level(), "tokenizer.ggml.tokens", tokens(&["a", "a"])),
        ),
        (
            "not-utf-8",
            with(
                byte_level(),
                "tokenizer.ggml.tokens",
                Value::Array(Array::String(vec![vec![0xff]; 3])),
            ),
        ),
        (
            "merge-of-nothing",
            with(byte_level(), "tokenizer.ggml.merges", tokens(&["a zz"])),
        ),
        (
            "merge-without-space",
            with(
                byte_level(),
                "tokenizer.ggml.merges",
                tokens(&["ab", " ", ""]),
            ),
        ),
        (
            "few-types",
            with(
                byte_level(),
                "tokenizer.ggml.token_type",
                Value::Array(Array::I32(vec![1])),
            ),
        ),
        (
            "scores-that-are-none",
            with(
                sentence_piece(),
                "tokenizer.ggml.scores",
                Value::Array(Array::F32(vec![f32::NAN; 12])),
            ),
        ),
        (
            "special-beyond",
            with(
                byte_level(),
                "tokenizer.ggml.eos_token_id",
                Value::U32(u32::MAX),
            ),
        ),
        (
            "template-of-bytes",
            with(
                byte_level(),
                "tokenizer.chat_template",
                Value::String(vec![0xff, 0xfe]),
            ),
        ),
        ("not-gguf", b"{\"model\":{\"type\":\"BPE\"}}".to_vec()),
    ]
}

fn text(text: &str) -> Value {
    Value::String(text.as_bytes().to_vec())
}

fn strings(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

fn file(entries: Entries) -> Vec<u8> {
    let mut metadata = Metadata::default();
    for (key, value) in entries {
        metadata.insert(key, value);
    }
    GgufLayout::new(&metadata, &[]).expect("a layout").header
}

pub(super) fn byte_level() -> Entries {
    let tokens = [
        "a",
        "b",
        "c",
        "\u{120}",
        "ab",
        "\u{120}a",
        "<|im_end|>",
        "\u{10a}",
    ];
    vec![
        ("tokenizer.ggml.model", text("gpt2")),
        ("tokenizer.ggml.pre", text("qwen2")),
        (
            "tokenizer.ggml.tokens",
            Value::Array(Array::String(strings(&tokens))),
        ),
        (
            "tokenizer.ggml.token_type",
            Value::Array(Array::I32(vec![1, 1, 1, 1, 1, 1, 3, 1])),
        ),
        (
            "tokenizer.ggml.merges",
            Value::Array(Array::String(strings(&["a b", "\u{120} a"]))),
        ),
        ("tokenizer.ggml.eos_token_id", Value::U32(6)),
        ("tokenizer.chat_template", text("{{ messages[0].content }}")),
    ]
}

fn sentence_piece() -> Entries {
    let tokens = [
        "<unk>",
        "<s>",
        "</s>",
        "<0x0A>",
        "<0x61>",
        "\u{2581}",
        "a",
        "b",
        "ab",
        "\u{2581}a",
        "\u{2581}ab",
        "c",
    ];
    let scores = [
        0.0, 0.0, 0.0, 0.0, 0.0, -1.0, -2.0, -3.0, -4.0, -5.0, -6.0, -7.0,
    ];
    vec![
        ("tokenizer.ggml.model", text("llama")),
        (
            "tokenizer.ggml.tokens",
            Value::Array(Array::String(strings(&tokens))),
        ),
        (
            "tokenizer.ggml.scores",
            Value::Array(Array::F32(scores.to_vec())),
        ),
        (
            "tokenizer.ggml.token_type",
            Value::Array(Array::I32(vec![2, 3, 3, 6, 6, 1, 1, 1, 1, 1, 1, 1])),
        ),
        ("tokenizer.ggml.bos_token_id", Value::U32(1)),
        ("tokenizer.ggml.eos_token_id", Value::U32(2)),
        ("tokenizer.ggml.add_bos_token", Value::Bool(true)),
    ]
}
