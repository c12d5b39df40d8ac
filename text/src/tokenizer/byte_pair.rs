//! A `tokenizer.json` whose model is byte-pair encoding, as nearly every one, read in one pass.
//!
//! The library's own reader finds out a model's kind from the whole model, and copies its vocabulary twice for that: most
//! of the time that a large one takes. What comes out is the same.

use serde::Deserialize;
use serde::de::{Deserializer, Error, SeqAccess, Visitor};
use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::{
    AddedToken, DecoderWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper,
    Tokenizer, TokenizerBuilder,
};

type Builder = TokenizerBuilder<
    BPE,
    NormalizerWrapper,
    PreTokenizerWrapper,
    PostProcessorWrapper,
    DecoderWrapper,
>;

/// The file, but for truncation and padding, which are not wanted here.
#[derive(Deserialize)]
struct File {
    version: Version,
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
    normalizer: Option<NormalizerWrapper>,
    pre_tokenizer: Option<PreTokenizerWrapper>,
    post_processor: Option<PostProcessorWrapper>,
    decoder: Option<DecoderWrapper>,
    model: Model,
}

#[derive(Deserialize)]
enum Version {
    #[serde(rename = "1.0")]
    One,
}

#[derive(Deserialize)]
enum Kind {
    #[serde(rename = "BPE")]
    BytePair,
}

#[derive(Deserialize)]
struct Model {
    #[serde(rename = "type")]
    kind: Kind,
    dropout: Option<f32>,
    unk_token: Option<String>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    fuse_unk: Option<bool>,
    byte_fallback: Option<bool>,
    ignore_merges: Option<bool>,
    vocab: Vocab,
    #[serde(deserialize_with = "merges")]
    merges: Merges,
}

/// The tokenizer, or nothing where the file is not such a one, or holds what only the library's own reader judges.
pub(super) fn read(bytes: &[u8]) -> Option<Tokenizer> {
    let file: File = serde_json::from_slice(bytes).ok()?;
    let (Version::One, Kind::BytePair) = (file.version, &file.model.kind);
    let mut encoder = Builder::new()
        .with_normalizer(file.normalizer)
        .with_pre_tokenizer(file.pre_tokenizer)
        .with_post_processor(file.post_processor)
        .with_decoder(file.decoder)
        .with_model(file.model.build()?)
        .build()
        .ok()?;
    encoder.add_tokens(file.added_tokens).ok()?;
    Some(encoder.into())
}

impl Model {
    fn build(self) -> Option<BPE> {
        let mut builder = BPE::builder()
            .vocab_and_merges(self.vocab, self.merges)
            .fuse_unk(self.fuse_unk.unwrap_or(false))
            .byte_fallback(self.byte_fallback.unwrap_or(false))
            .ignore_merges(self.ignore_merges.unwrap_or(false));
        if let Some(dropout) = self.dropout {
            builder = builder.dropout(dropout);
        }
        if let Some(token) = self.unk_token {
            builder = builder.unk_token(token);
        }
        if let Some(prefix) = self.continuing_subword_prefix {
            builder = builder.continuing_subword_prefix(prefix);
        }
        if let Some(suffix) = self.end_of_word_suffix {
            builder = builder.end_of_word_suffix(suffix);
        }
        builder.build().ok()
    }
}

/// Two tokens that make one: `["th", "e"]`, in older files `"th e"`.
struct Merge(String, String);

fn merges<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Merges, D::Error> {
    struct All;
    impl<'de> Visitor<'de> for All {
        type Value = Merges;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a list of merges")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Merges, A::Error> {
            let mut merges = Merges::new();
            while let Some(Merge(left, right)) = seq.next_element()? {
                merges.push((left, right));
            }
            Ok(merges)
        }
    }
    deserializer.deserialize_seq(All)
}

impl<'de> Deserialize<'de> for Merge {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct One;
        impl<'de> Visitor<'de> for One {
            type Value = Merge;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a merge of two tokens")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Merge, E> {
                match text.split_once(' ') {
                    Some((left, right))
                        if !right.contains(' ') && !left.starts_with("#version") =>
                    {
                        Ok(Merge(left.to_owned(), right.to_owned()))
                    }
                    _ => Err(E::custom("a merge is two tokens")),
                }
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Merge, A::Error> {
                let mut token = || {
                    seq.next_element()?
                        .ok_or_else(|| A::Error::invalid_length(0, &self))
                };
                let merge = Merge(token()?, token()?);
                match seq.next_element::<serde::de::IgnoredAny>()? {
                    None => Ok(merge),
                    Some(_) => Err(A::Error::invalid_length(3, &self)),
                }
            }
        }
        deserializer.deserialize_any(One)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// Every part that a file can have.
    fn file() -> Value {
        json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": [
                {"id": 0, "content": "<s>", "single_word": false, "lstrip": true, "rstrip": false, "normalized": false, "special": true},
                {"id": 6, "content": "new", "single_word": true, "lstrip": false, "rstrip": false, "normalized": true, "special": false}
            ],
            "normalizer": {"type": "NFC"},
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
            "post_processor": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false, "use_regex": true},
            "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
            "model": {
                "type": "BPE", "dropout": null, "unk_token": "<s>", "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": true,
                "vocab": {"<s>": 0, "a": 1, "b": 2, "ab": 3, "c": 4, "abc": 5},
                "merges": [["a", "b"], ["ab", "c"]]
            }
        })
    }

    fn changed(place: &str, to: Value) -> Vec<u8> {
        let mut file = file();
        *file.pointer_mut(place).unwrap() = to;
        file.to_string().into_bytes()
    }

    #[test]
    fn what_comes_out_is_what_the_library_reads() {
        let files = [
            file().to_string().into_bytes(),
            changed("/model/merges", json!(["a b", "ab c"])),
            changed("/model/unk_token", Value::Null),
            changed("/model/fuse_unk", Value::Null),
            changed("/model/continuing_subword_prefix", json!("")),
            changed("/model/end_of_word_suffix", json!("c")),
            changed("/model/dropout", json!(0.5)),
            changed("/model/ignore_merges", json!(false)),
            changed("/normalizer", Value::Null),
            changed("/added_tokens", json!([])),
        ];
        for bytes in files {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let ours = read(&bytes).expect(&text).to_string(false).unwrap();
            let library = Tokenizer::from_bytes(&bytes).unwrap();
            assert_eq!(ours, library.to_string(false).unwrap(), "{text}");
        }
    }

    #[test]
    fn other_files_are_left_to_the_library() {
        for bytes in [
            b"{".to_vec(),
            changed("/version", json!("2.0")),
            changed("/model/type", json!("WordLevel")),
            changed("/model/merges", json!(["a b c"])),
            changed("/model/merges", json!([["a"]])),
            changed("/model/merges", json!([["a", "b", "c"]])),
            changed("/model/merges", json!([["a", "nothing"]])),
            changed("/model/merges", json!(["#version: 0.2", "a b"])),
            changed("/model/dropout", json!(2)),
        ] {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            assert!(read(&bytes).is_none(), "{text}");
        }
    }
}
