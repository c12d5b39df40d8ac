//! Small tokenizers made here, against what their definitions say.

use odmoe_text::{IncrementalDetokenizer, Tokenizer, TokenizerError};
use serde_json::{Value, json};

/// GPT-2's spelling of a byte.
fn printable(byte: u8) -> char {
    let prints = |b: u8| matches!(b, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    if prints(byte) {
        return char::from(byte);
    }
    let place = (0..byte).filter(|b| !prints(*b)).count() as u32;
    char::from_u32(256 + place).unwrap()
}

/// Ids 0 and 1 are special, 2 + b is byte b, then four merged tokens.
fn byte_level_json() -> Value {
    let mut vocabulary = serde_json::Map::new();
    vocabulary.insert("<|end|>".to_owned(), json!(0));
    vocabulary.insert("<|im_start|>".to_owned(), json!(1));
    for byte in 0..=255u8 {
        vocabulary.insert(printable(byte).to_string(), json!(u32::from(byte) + 2));
    }
    let merges = [("t", "h"), ("th", "e"), ("\u{120}", "the"), ("a", "a")];
    for (place, (left, right)) in merges.iter().enumerate() {
        vocabulary.insert(format!("{left}{right}"), json!(258 + place));
    }
    let special = |id: u32, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": true})
    };
    json!({
        "version": "1.0",
        "truncation": {"max_length": 3, "strategy": "LongestFirst", "stride": 0, "direction": "Right"},
        "padding": null,
        "added_tokens": [special(0, "<|end|>"), special(1, "<|im_start|>")],
        "normalizer": null,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "behavior": "Isolated", "invert": false,
             "pattern": {"Regex": "[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"}},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}]},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                  "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
                  "vocab": vocabulary, "merges": merges.map(|(l, r)| format!("{l} {r}"))}
    })
}

/// Llama's way: spaces are U+2581, unknown bytes are `<0xHH>` tokens, a beginning token is added on request.
fn byte_fallback_json() -> Value {
    let mut vocabulary = serde_json::Map::new();
    for (id, text) in [
        "<unk>",
        "<s>",
        "\u{2581}",
        "h",
        "i",
        "\u{2581}h",
        "\u{2581}hi",
    ]
    .iter()
    .enumerate()
    {
        vocabulary.insert((*text).to_owned(), json!(id));
    }
    for byte in 0..=255u8 {
        vocabulary.insert(format!("<0x{byte:02X}>"), json!(7 + u32::from(byte)));
    }
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [{"id": 1, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false,
                          "normalized": false, "special": true}],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "\u{2581}"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"}]},
        "pre_tokenizer": null,
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "\u{2581}"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
                  "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true,
                  "vocab": vocabulary, "merges": ["\u{2581} h", "\u{2581}h i"]}
    })
}

fn open(json: &Value) -> Tokenizer {
    Tokenizer::from_json(json.to_string().as_bytes()).unwrap()
}

fn byte(byte: u8) -> u32 {
    u32::from(byte) + 2
}

#[test]
fn byte_level_text_goes_there_and_back() {
    let tokenizer = open(&byte_level_json());
    assert_eq!(tokenizer.vocabulary_size(), 262);
    let ids = tokenizer.encode("the thea\u{e9}<|end|>", false).unwrap();
    // "the", then " the" and "a", a two-byte letter, and the special token as such; truncation is left out.
    assert_eq!(ids, [259, 260, byte(b'a'), byte(0xC3), byte(0xA9), 0]);
    assert_eq!(tokenizer.decode(&ids, false), "the thea\u{e9}<|end|>");
    assert_eq!(tokenizer.decode(&ids, true), "the thea\u{e9}");
    assert_eq!(tokenizer.token_bytes(260), b" the");
    assert_eq!(tokenizer.token_bytes(byte(0xC3)), [0xC3]);
    assert_eq!(tokenizer.token_id("<|im_start|>"), Some(1));
    assert!(tokenizer.is_special(1) && !tokenizer.is_special(2) && !tokenizer.is_special(u32::MAX));
}

#[test]
fn ids_beyond_the_vocabulary_are_no_text() {
    let tokenizer = open(&byte_level_json());
    assert_eq!(
        tokenizer.decode(&[byte(b'a'), 262, u32::MAX, byte(b'b')], false),
        "ab"
    );
    assert!(tokenizer.token_bytes(262).is_empty());
}

#[test]
fn byte_fallback_and_the_stripped_space() {
    let tokenizer = open(&byte_fallback_json());
    let ids = tokenizer.encode("hi hi\u{20ac}", true).unwrap();
    assert_eq!(ids, [1, 6, 6, 7 + 0xE2, 7 + 0x82, 7 + 0xAC]);
    assert_eq!(tokenizer.encode("hi", false).unwrap(), [6]);
    assert_eq!(tokenizer.decode(&ids, true), "hi hi\u{20ac}");
    assert_eq!(tokenizer.token_bytes(6), b" hi");
    assert_eq!(tokenizer.token_bytes(7 + 0xE2), [0xE2]);
    let mut incremental = IncrementalDetokenizer::new(tokenizer, true);
    let pieces: Vec<String> = ids.iter().map(|id| incremental.push(*id)).collect();
    assert_eq!(pieces, ["", "hi", " hi", "", "", "\u{20ac}"]);
}

/// Any ids, any bytes: the pieces joined are the whole, and each piece is whole characters by its type.
#[test]
fn pieces_join_to_the_whole() {
    for (name, json) in [
        ("byte-level", byte_level_json()),
        ("byte fallback", byte_fallback_json()),
    ] {
        let tokenizer = open(&json);
        for seed in 0..300u64 {
            let mut state = seed;
            let mut draw = |below: u64| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                (state >> 33) % below
            };
            let ids: Vec<u32> = (0..draw(60)).map(|_| draw(264) as u32).collect();
            for skip in [false, true] {
                let mut incremental = IncrementalDetokenizer::new(tokenizer.clone(), skip);
                let mut text: String = ids.iter().map(|id| incremental.push(*id)).collect();
                text.push_str(&incremental.finish());
                assert_eq!(
                    text,
                    tokenizer.decode(&ids, skip),
                    "{name}, seed {seed}, skip {skip}, ids {ids:?}"
                );
            }
        }
    }
}

#[test]
fn a_character_appears_with_its_last_byte_and_a_broken_one_is_replaced_at_once() {
    let mut incremental = IncrementalDetokenizer::new(open(&byte_level_json()), true);
    let smile = "\u{1f600}".as_bytes();
    for part in &smile[..3] {
        assert_eq!(incremental.push(byte(*part)), "");
    }
    assert_eq!(incremental.push(byte(smile[3])), "\u{1f600}");
    assert_eq!(incremental.push(byte(0xE2)), "");
    assert_eq!(incremental.push(byte(b'x')), "\u{fffd}x");
    assert_eq!(incremental.push(byte(0xE2)), "");
    assert_eq!(incremental.finish(), "\u{fffd}");
}

/// A megabyte each of what makes regular expressions and merges slow; quadratic time would take hours here.
#[test]
fn hostile_texts_are_encoded_whole() {
    let tokenizer = open(&byte_level_json());
    let size = 1 << 20;
    for pattern in [
        "a",
        "\u{0}",
        " ",
        "\n",
        " \n",
        "'",
        "\u{301}",
        "a ",
        "\u{1f600}",
        "\t\u{b}\u{7f}\u{200b}",
        "<|end|",
    ] {
        let text = pattern.repeat(size / pattern.len());
        let ids = tokenizer.encode(&text, false).unwrap();
        assert!(
            tokenizer.decode(&ids, false) == text,
            "{pattern:?} repeated came back changed"
        );
    }
    assert_eq!(
        tokenizer.encode(&"a".repeat(size), false).unwrap().len(),
        size / 2,
        "one letter is still merged"
    );
}

#[test]
fn a_text_of_too_many_tokens_is_refused_by_a_part_of_it() {
    let tokenizer = open(&byte_level_json());
    let within = |text: &str, limit| tokenizer.encode_within(text, false, limit);
    assert_eq!(within("the", 1), Ok(vec![259]));
    assert_eq!(
        within("the the", 1),
        Err(TokenizerError::TooMany {
            at_least: 2,
            limit: 1
        })
    );
    // Whole where it fits, however long, and cut inside characters nowhere.
    for unit in ["the ", "\u{20ac}", "a"] {
        let text = unit.repeat(100_000 / unit.len());
        let whole = tokenizer.encode(&text, false).unwrap();
        assert_eq!(within(&text, whole.len()), Ok(whole.clone()), "{unit:?}");
        let Err(TokenizerError::TooMany { at_least, .. }) = within(&text, whole.len() - 1) else {
            panic!("{unit:?}: one too many was let through");
        };
        assert!(at_least <= whole.len());
        // A first piece is enough to refuse what is far too long.
        let Err(TokenizerError::TooMany { at_least, .. }) = within(&text, 100) else {
            panic!("{unit:?}: far too many were let through");
        };
        assert!((101..20_000).contains(&at_least), "{unit:?}: {at_least}");
    }
}

#[test]
fn files_that_are_no_tokenizer_are_refused_without_panic() {
    let error = |bytes: &[u8]| Tokenizer::from_json(bytes).unwrap_err();
    for bytes in [
        &b""[..],
        b"{",
        b"[]",
        b"null",
        b"{\"model\": 3}",
        b"\xff\xfe",
        b"{\"decoder\": {\"type\": 3}}",
    ] {
        assert!(
            matches!(error(bytes), TokenizerError::Parse(_)),
            "{bytes:?}"
        );
    }
    let deep = "[".repeat(100_000);
    assert!(matches!(error(deep.as_bytes()), TokenizerError::Parse(_)));

    let mut large = byte_level_json();
    large["model"]["vocab"]["zzz"] = json!(u32::MAX);
    assert!(matches!(
        error(large.to_string().as_bytes()),
        TokenizerError::IdTooLarge { .. }
    ));

    let mut moved = byte_level_json();
    moved["added_tokens"][0]["content"] = json!("<|not in the vocabulary|>");
    assert!(matches!(
        error(moved.to_string().as_bytes()),
        TokenizerError::AddedToken { .. }
    ));

    let whole = byte_level_json().to_string();
    for seed in 0..40 {
        // Cut at places spread over the file: every one is an error, none a panic.
        let end = whole.len() * seed / 40;
        assert!(
            Tokenizer::from_json(&whole.as_bytes()[..end]).is_err(),
            "cut at {end}"
        );
    }
}
