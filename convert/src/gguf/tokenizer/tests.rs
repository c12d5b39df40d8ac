//! Metadata made here: what is refused, and what is written. That ids are right is tested with the `tokenizers` crate,
//! in the crate `tests`.

use super::{ImportError, import};
use odmoe_formats::gguf::{Array, Metadata, Value};

fn strings(texts: &[&str]) -> Value {
    let bytes = texts.iter().map(|text| text.as_bytes().to_vec());
    Value::Array(Array::String(bytes.collect()))
}

fn types(types: &[i32]) -> Value {
    Value::Array(Array::I32(types.to_vec()))
}

fn text(text: &str) -> Value {
    Value::String(text.as_bytes().to_vec())
}

/// What is given, then what makes a whole vocabulary of it.
fn with(given: &[(&str, Value)], rest: &[(&str, Value)]) -> Metadata {
    let mut metadata = Metadata::default();
    for (key, value) in given.iter().chain(rest) {
        metadata.insert(format!("tokenizer.{key}"), value.clone());
    }
    metadata
}

fn byte_level(given: &[(&str, Value)]) -> Metadata {
    let rest = [
        ("ggml.model", text("gpt2")),
        ("ggml.tokens", strings(&["a", "b", "ab", "<end>", ""])),
        ("ggml.token_type", types(&[1, 1, 1, 3, 5])),
        ("ggml.merges", strings(&["a b"])),
    ];
    with(given, &rest)
}

fn sentence_piece(given: &[(&str, Value)]) -> Metadata {
    let rest = [
        ("ggml.model", text("llama")),
        (
            "ggml.tokens",
            strings(&["<unk>", "<s>", "</s>", "a", "aa", "aaa"]),
        ),
        ("ggml.token_type", types(&[2, 3, 3, 1, 1, 1])),
        (
            "ggml.scores",
            Value::Array(Array::F32(vec![0.0, 0.0, 0.0, -3.0, -1.0, -2.0])),
        ),
    ];
    with(given, &rest)
}

fn json(metadata: &Metadata) -> serde_json::Value {
    let imported = import(metadata).unwrap_or_else(|e| panic!("{e}"));
    serde_json::from_slice(&imported.tokenizer.expect("a tokenizer")).expect("JSON")
}

fn refusal(metadata: &Metadata) -> String {
    import(metadata).expect_err("refused").to_string()
}

#[test]
fn whole_vocabularies_are_taken() {
    let file = json(&byte_level(&[]));
    assert_eq!(file["model"]["vocab"]["[EMPTY_4]"], 4);
    assert_eq!(file["added_tokens"][0]["content"], "<end>");
    assert_eq!(file["post_processor"], serde_json::Value::Null);
    let file = json(&sentence_piece(&[]));
    assert_eq!(
        file["model"]["merges"],
        serde_json::json!([["a", "a"], ["a", "aa"], ["aa", "a"]])
    );
    assert_eq!(file["post_processor"]["special_tokens"]["<s>"]["ids"][0], 1);
}

#[test]
fn what_is_not_supported_is_named() {
    for kind in ["bert", "t5", "rwkv", "plamo2", "none", "no_vocab", "x"] {
        let error = refusal(&byte_level(&[("ggml.model", text(kind))]));
        assert!(error.contains(kind) && error.contains("gpt2"), "{error}");
    }
    let error = refusal(&byte_level(&[("ggml.pre", text("kimi-k2"))]));
    assert!(
        error.contains("kimi-k2") && error.contains("qwen2, "),
        "{error}"
    );
    let error = refusal(&sentence_piece(&[(
        "ggml.remove_extra_whitespaces",
        Value::Bool(true),
    )]));
    assert!(error.contains("remove_extra_whitespaces"), "{error}");
}

#[test]
fn errors_show_no_more_of_a_file_than_can_be_read() {
    let long = "x".repeat(1 << 20);
    let merges = Value::Array(Array::String(vec![long.clone().into()]));
    for change in [
        ("ggml.model", text(&long)),
        ("ggml.pre", text(&long)),
        ("ggml.merges", merges),
        ("ggml.tokens", strings(&[&long, &long, "ab", "<end>", ""])),
    ] {
        let key = change.0;
        let error = refusal(&byte_level(&[change]));
        assert!(error.contains("xxx...") && error.len() < 2000, "{key}");
    }
}

#[test]
fn missing_and_mistyped_keys_are_named() {
    let mut metadata = Metadata::default();
    assert!(refusal(&metadata).contains("tokenizer.ggml.model"));
    metadata.insert("tokenizer.ggml.model", text("gpt2"));
    assert!(refusal(&metadata).contains("tokenizer.ggml.tokens"));
    metadata.insert("tokenizer.ggml.tokens", strings(&["a"]));
    assert!(refusal(&metadata).contains("tokenizer.ggml.merges"));
    for key in [
        "pre",
        "tokens",
        "token_type",
        "merges",
        "bos_token_id",
        "add_bos_token",
    ] {
        let error = refusal(&byte_level(&[(&format!("ggml.{key}"), Value::F32(0.5))]));
        assert!(error.contains(key), "{error}");
    }
}

#[test]
fn damaged_lists_are_refused() {
    let many = Value::Array(Array::String(vec![vec![]; (1 << 22) + 1]));
    let not_utf8 = Value::Array(Array::String(vec![vec![b'a'], vec![0xFF]]));
    let cases: [(&str, Value, &str); 10] = [
        ("tokens", strings(&[]), "0 tokens"),
        ("tokens", many, "4194305 tokens"),
        ("tokens", strings(&["a", "b", "ab", "a"]), "tokens 0 and 3"),
        ("tokens", not_utf8, "token 1 is not UTF-8"),
        ("token_type", types(&[1, 1]), "2 entries for 5"),
        ("merges", strings(&["a b", "ab"]), "merge 1"),
        ("merges", strings(&["a "]), "merge 0"),
        ("merges", strings(&[""]), "merge 0"),
        ("merges", strings(&["b a"]), "merge 0"),
        ("eos_token_id", Value::U32(5), "is 5, but"),
    ];
    for (key, value, expected) in cases {
        let error = refusal(&byte_level(&[(&format!("ggml.{key}"), value)]));
        assert!(error.contains(expected), "{key}: {error}");
    }
    let scores = |scores: &[f32]| Value::Array(Array::F32(scores.to_vec()));
    let short = sentence_piece(&[("ggml.scores", scores(&[0.0]))]);
    assert!(refusal(&short).contains("1 entries for 6"));
    let not_a_number = [0.0, 0.0, 0.0, f32::NAN, 0.0, 0.0];
    let odd = sentence_piece(&[("ggml.scores", scores(&not_a_number))]);
    assert!(refusal(&odd).contains("token 3"));
}

/// Some writers say "none" by the largest number, and padding is never used.
#[test]
fn special_ids_out_of_range_matter_where_they_are_used() {
    for (key, value) in [("bos_token_id", u32::MAX), ("padding_token_id", 5)] {
        let metadata = byte_level(&[(&format!("ggml.{key}"), Value::U32(value))]);
        let imported = import(&metadata).unwrap_or_else(|e| panic!("{e}"));
        assert!(imported.special_tokens.is_empty());
    }
    let asked = byte_level(&[("ggml.add_bos_token", Value::Bool(true))]);
    assert_eq!(
        import(&asked),
        Err(ImportError::NoSpecialId("tokenizer.ggml.bos_token_id"))
    );
}

/// Tokens of one letter, each one longer: their merges would take memory by the cube of their number.
#[test]
fn merges_of_long_tokens_are_bounded() {
    let tokens: Vec<Vec<u8>> = (1..1500).map(|length| vec![b'a'; length]).collect();
    let scores = vec![0.0; tokens.len()];
    let metadata = sentence_piece(&[
        ("ggml.tokens", Value::Array(Array::String(tokens))),
        ("ggml.token_type", types(&vec![1; scores.len()])),
        ("ggml.scores", Value::Array(Array::F32(scores))),
    ]);
    assert_eq!(import(&metadata), Err(ImportError::TokensTooLong));
    let one = sentence_piece(&[(
        "ggml.tokens",
        Value::Array(Array::String(vec![vec![b'a'; 1 << 20]])),
    )]);
    assert_eq!(import(&one), Err(ImportError::TokensTooLong));
}

#[test]
fn of_a_merge_that_comes_twice_the_first_counts() {
    let merges = strings(&["a b", "a b"]);
    let file = json(&byte_level(&[("ggml.merges", merges)]));
    assert_eq!(file["model"]["merges"], serde_json::json!([["a", "b"]]));
}

#[test]
fn answers_end_at_what_the_metadata_and_the_texts_say() {
    let tokens = strings(&["a", "</s>", "<|im_end|>", "x", "</s>y", "<|eot_id|>"]);
    let given = |kind| {
        byte_level(&[
            ("ggml.tokens", tokens.clone()),
            ("ggml.token_type", types(&[1, kind, 1, 1, 1, 4])),
            ("ggml.merges", strings(&[])),
            ("ggml.eot_token_id", Value::U32(3)),
        ])
    };
    let ends = |kind| import(&given(kind)).expect("imported").end_of_sequence_ids;
    assert_eq!(ends(3), [3, 1, 2, 5]);
    assert_eq!(ends(1), [3, 2, 5], "an ordinary word");
    let special = json(&given(1))["added_tokens"].clone();
    let special: Vec<_> = special.as_array().expect("a list").iter().collect();
    assert_eq!(special.len(), 2, "{special:?}");
    assert!(special.iter().all(|token| token["special"] == true));
}

#[test]
fn sampling_advice_is_passed_on() {
    let mut metadata = byte_level(&[]);
    assert_eq!(import(&metadata).expect("imported").generation_config, None);
    metadata.insert("general.sampling.temp", Value::F32(0.7));
    metadata.insert("general.sampling.top_k", Value::I32(20));
    metadata.insert("general.sampling.top_p", Value::F32(f32::INFINITY));
    let config = import(&metadata).expect("imported").generation_config;
    let config: serde_json::Value =
        serde_json::from_slice(&config.expect("some advice")).expect("JSON");
    assert_eq!(config, serde_json::json!({"temperature": 0.7, "top_k": 20}));
}

#[test]
fn the_template_for_chats_is_taken() {
    let template = |given: &[(&str, Value)]| {
        let imported = import(&byte_level(given)).expect("imported");
        imported.chat_template
    };
    assert_eq!(template(&[]), None);
    assert_eq!(template(&[("chat_template", text(""))]), None);
    let named = ("chat_template.default", text("named"));
    assert_eq!(
        template(std::slice::from_ref(&named)).as_deref(),
        Some("named")
    );
    let both = [("chat_template", text("plain")), named];
    assert_eq!(template(&both).as_deref(), Some("plain"));
}
