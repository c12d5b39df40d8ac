//! `tokenizer.json` as Hugging Face's `tokenizers` reads it: only what is written here.

use super::vocabulary::Vocabulary;
use serde::ser::{Serialize, Serializer};
use serde_json::Value;

/// A token that is found in a text before it is cut, exactly as it is spelled.
#[derive(serde::Serialize)]
pub(super) struct AddedToken<'a> {
    id: u32,
    content: &'a str,
    single_word: bool,
    lstrip: bool,
    rstrip: bool,
    normalized: bool,
    special: bool,
}

impl<'a> AddedToken<'a> {
    pub fn new(id: u32, content: &'a str, special: bool) -> Self {
        Self {
            id,
            content,
            single_word: false,
            lstrip: false,
            rstrip: false,
            normalized: false,
            special,
        }
    }
}

/// What differs between kinds of tokenizers.
pub(super) struct Parts<'a> {
    pub normalizer: Value,
    pub pre_tokenizer: Value,
    pub decoder: Value,
    /// Whether a token stands for what no other spells; else that is left out.
    pub has_unknown: bool,
    pub byte_fallback: bool,
    pub ignore_merges: bool,
    /// First merged first.
    pub merges: Vec<(&'a str, &'a str)>,
}

/// The whole file. Fields are in the order of Hugging Face's own.
#[derive(serde::Serialize)]
pub(super) struct TokenizerJson<'a> {
    version: &'static str,
    truncation: (),
    padding: (),
    added_tokens: Vec<AddedToken<'a>>,
    normalizer: Value,
    pre_tokenizer: Value,
    post_processor: Value,
    decoder: Value,
    model: Model<'a>,
}

#[derive(serde::Serialize)]
struct Model<'a> {
    r#type: &'static str,
    dropout: (),
    unk_token: Option<&'a str>,
    continuing_subword_prefix: (),
    end_of_word_suffix: (),
    fuse_unk: bool,
    byte_fallback: bool,
    ignore_merges: bool,
    vocab: ById<'a>,
    merges: Vec<(&'a str, &'a str)>,
}

/// Ids by text, in the order of ids.
struct ById<'a>(&'a Vocabulary<'a>);

impl Serialize for ById<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|token| (token.text, token.id)))
    }
}

impl<'a> TokenizerJson<'a> {
    pub fn new(
        added_tokens: Vec<AddedToken<'a>>,
        parts: Parts<'a>,
        unknown: Option<&'a str>,
        post_processor: Value,
        vocabulary: &'a Vocabulary<'a>,
    ) -> Self {
        Self {
            version: "1.0",
            truncation: (),
            padding: (),
            added_tokens,
            normalizer: parts.normalizer,
            pre_tokenizer: parts.pre_tokenizer,
            post_processor,
            decoder: parts.decoder,
            model: Model {
                r#type: "BPE",
                dropout: (),
                unk_token: unknown.filter(|_| parts.has_unknown),
                continuing_subword_prefix: (),
                end_of_word_suffix: (),
                fuse_unk: true,
                byte_fallback: parts.byte_fallback,
                ignore_merges: parts.ignore_merges,
                vocab: ById(vocabulary),
                merges: parts.merges,
            },
        }
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("strings and numbers are JSON")
    }
}
