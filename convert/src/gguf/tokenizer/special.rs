//! Special tokens: which ids begin and end a text, and which end an answer.

use super::ImportError;
use super::vocabulary::{TokenKind, Vocabulary};
use odmoe_formats::gguf::Metadata;
use serde_json::{Value, json};
use std::collections::BTreeMap;

const BOS: &str = "tokenizer.ggml.bos_token_id";
const EOS: &str = "tokenizer.ggml.eos_token_id";
const EOT: &str = "tokenizer.ggml.eot_token_id";
const EOM: &str = "tokenizer.ggml.eom_token_id";
const UNKNOWN: &str = "tokenizer.ggml.unknown_token_id";
const PADDING: &str = "tokenizer.ggml.padding_token_id";
const ADD_BOS: &str = "tokenizer.ggml.add_bos_token";
const ADD_EOS: &str = "tokenizer.ggml.add_eos_token";

/// Texts of tokens that end an answer in the chat formats of public models. Metadata has room for one such token of
/// each kind, and many files name one where their model writes several.
const ENDS: [&str; 9] = [
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|return|>",
    "<|call|>",
    "<\u{ff5c}end\u{2581}of\u{2581}sentence\u{ff5c}>",
];
/// The same, where the metadata says that they are no ordinary text: Qwen's vocabulary, for one, has the end of an HTML
/// element `</s>` as a word.
const ENDS_UNLESS_TEXT: [&str; 6] = ["</s>", "<end_of_turn>", "<EOT>", "[EOT]", "[EOS]", "<eos>"];

/// Whether a token ends an answer by its text.
pub(super) fn ends_a_turn(text: &str, kind: TokenKind) -> bool {
    ENDS.contains(&text) || (kind != TokenKind::Normal && ENDS_UNLESS_TEXT.contains(&text))
}

/// What holds where the metadata does not say.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Defaults {
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    pub unknown: Option<u32>,
    pub add_bos: bool,
}

/// Ids of special tokens; each is in the vocabulary.
#[derive(Clone, Debug)]
pub(super) struct SpecialIds {
    bos: Option<u32>,
    eos: Option<u32>,
    unknown: Option<u32>,
    padding: Option<u32>,
    /// What else ends an answer.
    ends: Vec<u32>,
    add_bos: bool,
    add_eos: bool,
}

impl SpecialIds {
    pub fn read(
        metadata: &Metadata,
        vocabulary: &Vocabulary,
        defaults: &Defaults,
    ) -> Result<Self, ImportError> {
        let tokens = vocabulary.len();
        let id = |key| id(metadata, key, tokens);
        let default = |id: Option<u32>| id.filter(|id| (*id as usize) < tokens);
        let ids = Self {
            bos: id(BOS)?.or(default(defaults.bos)),
            eos: id(EOS)?.or(default(defaults.eos)),
            // Neither is ever used where it is not in the vocabulary, and many files say so of padding.
            unknown: id(UNKNOWN).ok().flatten().or(default(defaults.unknown)),
            padding: id(PADDING).ok().flatten(),
            ends: [id(EOT)?, id(EOM)?].into_iter().flatten().collect(),
            add_bos: metadata.boolean(ADD_BOS)?.unwrap_or(defaults.add_bos),
            add_eos: metadata.boolean(ADD_EOS)?.unwrap_or(false),
        };
        if ids.add_bos && ids.bos.is_none() {
            return Err(ImportError::NoSpecialId(BOS));
        }
        if ids.add_eos && ids.eos.is_none() {
            return Err(ImportError::NoSpecialId(EOS));
        }
        Ok(ids)
    }

    /// The token that stands for what no other spells.
    pub fn unknown<'a>(&self, vocabulary: &'a Vocabulary) -> Option<&'a str> {
        self.unknown.map(|id| vocabulary.text(id))
    }

    /// Texts by the names that chat templates use.
    pub fn texts(&self, vocabulary: &Vocabulary) -> BTreeMap<String, String> {
        let named = [
            ("bos_token", self.bos),
            ("eos_token", self.eos),
            ("unk_token", self.unknown),
            ("pad_token", self.padding),
        ];
        let found = named.into_iter().filter_map(|(name, id)| Some((name, id?)));
        found
            .map(|(name, id)| (name.to_owned(), vocabulary.text(id).to_owned()))
            .collect()
    }

    /// What ends an answer: the ids that the metadata names, then those whose texts say so.
    pub fn end_of_sequence(&self, vocabulary: &Vocabulary) -> Vec<u32> {
        let by_text = vocabulary
            .iter()
            .filter(|token| ends_a_turn(token.text, token.kind))
            .map(|token| token.id);
        let mut ids = Vec::new();
        for id in self.eos.into_iter().chain(self.ends.clone()).chain(by_text) {
            if !ids.contains(&id) {
                ids.push(id);
            }
        }
        ids
    }

    /// Puts tokens around a text, or nothing.
    pub fn post_processor(&self, vocabulary: &Vocabulary) -> Value {
        let before = self.bos.filter(|_| self.add_bos);
        let after = self.eos.filter(|_| self.add_eos);
        if before.is_none() && after.is_none() {
            return Value::Null;
        }
        let special = |id: u32| json!({"SpecialToken": {"id": vocabulary.text(id), "type_id": 0}});
        let sequence = |name: &str, kind: u32| json!({"Sequence": {"id": name, "type_id": kind}});
        let single: Vec<Value> = (before.into_iter().map(special))
            .chain([sequence("A", 0)])
            .chain(after.into_iter().map(special))
            .collect();
        let mut tokens = serde_json::Map::new();
        for id in before.into_iter().chain(after) {
            let text = vocabulary.text(id);
            tokens.insert(
                text.to_owned(),
                json!({"id": text, "ids": [id], "tokens": [text]}),
            );
        }
        json!({
            "type": "TemplateProcessing",
            "single": single,
            "pair": [sequence("A", 0), sequence("B", 1)],
            "special_tokens": tokens,
        })
    }
}

/// An id of the metadata. Some writers say "none" by the largest number.
fn id(metadata: &Metadata, key: &'static str, tokens: usize) -> Result<Option<u32>, ImportError> {
    match metadata.integer(key)? {
        None => Ok(None),
        Some(none) if none == u64::from(u32::MAX) => Ok(None),
        Some(id) if id < tokens as u64 => Ok(Some(id as u32)),
        Some(id) => Err(ImportError::SpecialId { key, id, tokens }),
    }
}
