//! Tokenizers of GGUF files as Hugging Face's `tokenizer.json`, with the text that belongs to them.
//!
//! What comes out encodes as llama.cpp does: the same cuts before merging, the same merges, the same tokens found in
//! the text before anything else. Two kinds are known, byte-level BPE and SentencePiece's BPE.

mod byte_level;
mod json;
mod pre_tokenizer;
mod sentence_piece;
mod special;
mod template;
mod vocabulary;

#[cfg(test)]
mod tests;

use crate::source::{TextContents, shown};
use json::{AddedToken, TokenizerJson};
use odmoe_formats::gguf::{Metadata, ValueError};
use special::SpecialIds;
use vocabulary::Vocabulary;

const MODEL: &str = "tokenizer.ggml.model";
/// Kinds as the metadata names them.
const BYTE_LEVEL: &str = "gpt2";
const SENTENCE_PIECE: &str = "llama";
const SUPPORTED: &str = "\"gpt2\" (byte-level BPE), \"llama\" (SentencePiece BPE)";

/// A tokenizer that cannot be taken over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// A key that is missing or of another type.
    #[error(transparent)]
    Value(#[from] ValueError),
    /// A kind of tokenizer that is not known.
    #[error(
        "tokenizers of kind {0:?} (tokenizer.ggml.model) are not supported; supported: {SUPPORTED}"
    )]
    Kind(String),
    /// A way of cutting texts that is not known.
    #[error(
        "the pre-tokenizer {found:?} (tokenizer.ggml.pre) is not supported; supported: {supported}"
    )]
    PreTokenizer {
        /// Its name.
        found: String,
        /// Names of those that are.
        supported: String,
    },
    /// Something that would change ids.
    #[error("{0} is not supported and would change token ids")]
    Feature(&'static str),
    /// More tokens than any vocabulary has, or none.
    #[error("the vocabulary has {found} tokens; between 1 and {limit} are accepted")]
    VocabularySize {
        /// How many.
        found: usize,
        /// The most.
        limit: usize,
    },
    /// A list that should have an entry for each token.
    #[error("{key} has {found} entries for {tokens} tokens; the file is damaged")]
    Length {
        /// Which list.
        key: &'static str,
        /// Its entries.
        found: usize,
        /// Tokens of the vocabulary.
        tokens: usize,
    },
    /// A token that cannot stand in a `tokenizer.json`.
    #[error("token {id} is not UTF-8; the file is damaged")]
    NotUtf8 {
        /// Which.
        id: u32,
    },
    /// Two tokens that are spelled alike.
    #[error("tokens {first} and {second} are both {text:?}; the file is damaged")]
    Duplicate {
        /// The lower id.
        first: u32,
        /// The higher one.
        second: u32,
        /// Their text.
        text: String,
    },
    /// A merge that is not two tokens which make a third.
    #[error("merge {index}, {text:?}, is not two tokens that make a third; the file is damaged")]
    Merge {
        /// Its place in the list.
        index: usize,
        /// As it is written.
        text: String,
    },
    /// A score that gives no order.
    #[error("the score of token {id} is not a number; the file is damaged")]
    Score {
        /// Which.
        id: u32,
    },
    /// Tokens so long that their merges would not fit in memory.
    #[error("the vocabulary's tokens are too long to derive their merges; the file is damaged")]
    TokensTooLong,
    /// A special token behind the vocabulary.
    #[error("{key} is {id}, but the vocabulary has {tokens} tokens; the file is damaged")]
    SpecialId {
        /// Which one.
        key: &'static str,
        /// Its id.
        id: u64,
        /// Tokens of the vocabulary.
        tokens: usize,
    },
    /// A token that is to be put around every text, and is not named.
    #[error("the metadata asks for a token around every text but lacks {0}")]
    NoSpecialId(&'static str),
}

/// The text side of a model from its metadata: `tokenizer.json`, chat template, special tokens, end-of-sequence ids.
///
/// Tokens that mark structure (control, unknown, and those whose text says that they end a turn) are special; they
/// and user-defined ones are found in a text before it is cut. Work and memory are linear in the metadata, but for
/// SentencePiece's merges, which are bounded.
pub fn import(metadata: &Metadata) -> Result<TextContents, ImportError> {
    let model = metadata.text(MODEL)?;
    let model = model.ok_or_else(|| ValueError::Missing(MODEL.into()))?;
    if ![BYTE_LEVEL, SENTENCE_PIECE].contains(&model) {
        return Err(ImportError::Kind(shown(model)));
    }
    let vocabulary = Vocabulary::read(metadata)?;
    let (parts, defaults) = match model {
        BYTE_LEVEL => byte_level::parts(metadata, &vocabulary)?,
        _ => sentence_piece::parts(metadata, &vocabulary)?,
    };
    let ids = SpecialIds::read(metadata, &vocabulary, &defaults)?;
    let added_tokens = added_tokens(&vocabulary);
    let file = TokenizerJson::new(
        added_tokens,
        parts,
        ids.unknown(&vocabulary),
        ids.post_processor(&vocabulary),
        &vocabulary,
    );
    Ok(TextContents {
        tokenizer: Some(file.to_bytes()),
        chat_template: template::default_template(metadata)?,
        generation_config: template::generation_config(metadata),
        special_tokens: ids.texts(&vocabulary),
        end_of_sequence_ids: ids.end_of_sequence(&vocabulary),
    })
}

/// Tokens that are found in a text before it is cut.
fn added_tokens<'a>(vocabulary: &'a Vocabulary) -> Vec<AddedToken<'a>> {
    let found_first = vocabulary
        .iter()
        .filter(|token| token.kind.is_found_first());
    found_first
        .map(|token| AddedToken::new(token.id, token.text, token.kind.is_special()))
        .collect()
}
