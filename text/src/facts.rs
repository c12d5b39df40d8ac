//! What a `tokenizer.json` says of itself, for people who look at a model.

use serde_json::Value;

/// Facts of a tokenizer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenizerFacts {
    /// How texts become tokens.
    pub kind: String,
    /// Tokens of the vocabulary, added ones among them.
    pub tokens: usize,
    /// Tokens that mark structure.
    pub special_tokens: usize,
    /// Pairs that are merged; none where the kind knows no merges.
    pub merges: usize,
}

impl TokenizerFacts {
    /// From the contents of a `tokenizer.json`. What is not there counts as nothing.
    pub fn of(file: &Value) -> Self {
        let model = &file["model"];
        let vocabulary = &model["vocab"];
        let known = |text: &Value| vocabulary.get(text.as_str().unwrap_or_default()).is_some();
        let added = file["added_tokens"]
            .as_array()
            .map_or(&[][..], Vec::as_slice);
        let beyond = added.iter().filter(|token| !known(&token["content"]));
        let listed = match vocabulary {
            Value::Object(by_text) => by_text.len(),
            Value::Array(by_id) => by_id.len(),
            _ => 0,
        };
        Self {
            kind: kind(file),
            tokens: listed + beyond.count(),
            special_tokens: added
                .iter()
                .filter(|token| token["special"] == true)
                .count(),
            merges: model["merges"].as_array().map_or(0, Vec::len),
        }
    }
}

fn kind(file: &Value) -> String {
    let model = &file["model"];
    match model["type"].as_str().unwrap_or("unknown") {
        "BPE" if decodes_bytes(&file["decoder"]) => "byte-level BPE".to_owned(),
        "BPE" if model["byte_fallback"] == true => "SentencePiece BPE".to_owned(),
        other => other.to_owned(),
    }
}

fn decodes_bytes(decoder: &Value) -> bool {
    let steps = decoder["decoders"]
        .as_array()
        .map_or(&[][..], Vec::as_slice);
    decoder["type"] == "ByteLevel" || steps.iter().any(|step| step["type"] == "ByteLevel")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn facts_are_counted() {
        let file = json!({
            "added_tokens": [{"content": "<s>", "special": true}, {"content": "tool", "special": false}],
            "decoder": {"type": "Sequence", "decoders": [{"type": "ByteLevel"}]},
            "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "<s>": 3}, "merges": [["a", "b"]]},
        });
        let expected = TokenizerFacts {
            kind: "byte-level BPE".to_owned(),
            tokens: 5,
            special_tokens: 1,
            merges: 1,
        };
        assert_eq!(TokenizerFacts::of(&file), expected);
    }

    #[test]
    fn kinds_are_told_apart() {
        let kind = |model: Value| TokenizerFacts::of(&json!({"model": model})).kind;
        assert_eq!(
            kind(json!({"type": "BPE", "byte_fallback": true})),
            "SentencePiece BPE"
        );
        assert_eq!(
            kind(json!({"type": "Unigram", "vocab": [["a", 0.0]]})),
            "Unigram"
        );
        assert_eq!(kind(json!(null)), "unknown");
    }
}
