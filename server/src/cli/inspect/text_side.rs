//! What a tokenizer is, from its file.

use odmoe_text::Tokenizer;
use serde_json::{Value, json};

/// Its kind, its tokens, and how many of them are special; or why it cannot be used.
pub(super) fn describe(tokenizer: &[u8]) -> Value {
    let opened = match Tokenizer::from_json(tokenizer) {
        Ok(opened) => opened,
        Err(error) => return json!({"error": error.to_string()}),
    };
    let description: Value = serde_json::from_slice(tokenizer).unwrap_or_default();
    let is_special = |added: &&Value| added["special"] == true;
    let added = description["added_tokens"].as_array();
    json!({
        "kind": kind(&description),
        "vocabulary": opened.vocabulary_size(),
        "special_tokens": added.map_or(0, |added| added.iter().filter(is_special).count()),
    })
}

/// BPE comes over bytes, or over characters with bytes for those it lacks, as SentencePiece trains it.
fn kind(description: &Value) -> String {
    let model = &description["model"];
    match model["type"].as_str() {
        Some("BPE") if model["byte_fallback"] == true => "BPE with byte fallback".into(),
        Some("BPE") => "byte-level BPE".into(),
        Some(other) => other.into(),
        None => "unknown".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_told_apart() {
        let of = |kind_name: &str, fallback: bool| {
            kind(&json!({"model": {"type": kind_name, "byte_fallback": fallback}}))
        };
        assert_eq!(of("BPE", false), "byte-level BPE");
        assert_eq!(of("BPE", true), "BPE with byte fallback");
        assert_eq!(of("Unigram", false), "Unigram");
        assert!(describe(b"{}")["error"].is_string());
    }
}
