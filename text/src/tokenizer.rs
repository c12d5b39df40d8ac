//! Hugging Face's `tokenizer.json`: encoding by the `tokenizers` crate, decoding by a table of bytes.

mod byte_pair;

use crate::surface::Surface;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use tokenizers::Model as _;

/// Token ids from here on are refused: tables are sized by the largest id, and real vocabularies end below 2^19.
const TOKEN_ID_LIMIT: u32 = 1 << 22;
/// A text longer than this is counted in pieces before it is encoded whole: the library takes some 300 bytes a token.
const PIECE_BYTES: usize = 16 << 10;
/// Tokens by which a piece may come out longer for being cut out of its text; more where a token is longer than so many
/// bytes, which a cut may leave as one token a byte.
const CUT_TOKENS: usize = 64;

/// Why a tokenizer could not be opened, or a text not be encoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenizerError {
    /// The file is no `tokenizer.json`.
    #[error("the tokenizer cannot be read: {0}; it must be a Hugging Face tokenizer.json")]
    Parse(String),
    /// The decoder is of a kind that no language model served here uses.
    #[error("the tokenizer's decoder {0:?} is not supported")]
    Decoder(String),
    /// An id beyond any real vocabulary.
    #[error("the tokenizer has token id {found}; ids must be below {limit}")]
    IdTooLarge {
        /// The largest id.
        found: u32,
        /// Ids must be below it.
        limit: u32,
    },
    /// The library numbers added tokens itself: where the file says otherwise, every prompt would be wrong.
    #[error(
        "the tokenizer gives {text:?} the id {written}, which does not follow on from its vocabulary ({numbered:?})"
    )]
    AddedToken {
        /// The token.
        text: String,
        /// Its id in the file.
        written: u64,
        /// Its id by the order of the file.
        numbered: Option<u32>,
    },
    /// More tokens than were allowed.
    #[error("the text has {at_least} tokens or more; at most {limit} are allowed")]
    TooMany {
        /// So many at the least; exact for short texts.
        at_least: usize,
        /// So many were allowed.
        limit: usize,
    },
    /// The text was refused by the tokenizer.
    #[error("the text cannot be encoded: {0}")]
    Encode(String),
}

/// Text to token ids and back. Cloning shares it.
#[derive(Clone)]
pub struct Tokenizer(Arc<Inner>);

/// What is looked at beside the library. The vocabulary is most of the file, and passed over.
#[derive(serde::Deserialize)]
struct Outline {
    #[serde(default)]
    decoder: serde_json::Value,
    #[serde(default)]
    added_tokens: serde_json::Value,
}

struct Inner {
    encoder: tokenizers::Tokenizer,
    tokens: TokenTable,
    strip_leading_spaces: usize,
}

/// The bytes of every token, back to back, with where each begins.
struct TokenTable {
    bytes: Vec<u8>,
    /// Token `i` is `bytes[starts[i]..starts[i + 1]]`.
    starts: Vec<usize>,
    special: Vec<bool>,
    longest_bytes: usize,
}

impl Tokenizer {
    /// From the bytes of a `tokenizer.json`.
    ///
    /// Truncation and padding that the file may ask for are left out: they belong to training.
    pub fn from_json(bytes: &[u8]) -> Result<Self, TokenizerError> {
        let file: Outline =
            serde_json::from_slice(bytes).map_err(|e| TokenizerError::Parse(e.to_string()))?;
        let surface = Surface::from_decoder(&file.decoder)?;
        let mut encoder = no_panic(|| match byte_pair::read(bytes) {
            Some(encoder) => Ok(encoder),
            None => tokenizers::Tokenizer::from_bytes(bytes),
        })
        .map_err(TokenizerError::Parse)?
        .map_err(|e| TokenizerError::Parse(e.to_string()))?;
        check_added_tokens(&file, &encoder)?;
        encoder.with_padding(None);
        encoder
            .with_truncation(None)
            .map_err(|e| TokenizerError::Parse(e.to_string()))?;
        let tokens = TokenTable::new(&encoder, &surface)?;
        let strip_leading_spaces = surface.strip_leading_spaces();
        Ok(Self(Arc::new(Inner {
            encoder,
            tokens,
            strip_leading_spaces,
        })))
    }

    /// Token ids of a text. With `add_special_tokens` also those that the model's own post-processing puts around it
    /// (a beginning-of-sequence token, for most families none); a rendered chat template has them already.
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, TokenizerError> {
        let encoding = no_panic(|| self.0.encoder.encode_fast(text, add_special_tokens))
            .map_err(TokenizerError::Encode)?
            .map_err(|e| TokenizerError::Encode(e.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// As [`Self::encode`], for a text of at most `limit` tokens. Of a longer text only so much is encoded as shows that
    /// it is longer, so that memory beside the text follows the limit and not the text.
    pub fn encode_within(
        &self,
        text: &str,
        add_special_tokens: bool,
        limit: usize,
    ) -> Result<Vec<u32>, TokenizerError> {
        let cut_tokens = CUT_TOKENS.max(self.0.tokens.longest_bytes);
        let mut at_least = 0;
        let mut rest = text;
        while text.len() > PIECE_BYTES && !rest.is_empty() {
            let (piece, after) = rest.split_at(char_boundary(rest, PIECE_BYTES));
            at_least += self.encode(piece, false)?.len().saturating_sub(cut_tokens);
            if at_least > limit {
                return Err(TokenizerError::TooMany { at_least, limit });
            }
            rest = after;
        }
        let ids = self.encode(text, add_special_tokens)?;
        if ids.len() > limit {
            return Err(TokenizerError::TooMany {
                at_least: ids.len(),
                limit,
            });
        }
        Ok(ids)
    }

    /// The text of token ids. Bytes that are not UTF-8 become U+FFFD, unknown ids nothing.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> String {
        let mut bytes = Vec::new();
        for &id in ids {
            if !(skip_special_tokens && self.is_special(id)) {
                bytes.extend_from_slice(self.0.tokens.get(id));
            }
        }
        let spaces = bytes
            .iter()
            .take(self.0.strip_leading_spaces)
            .take_while(|b| **b == b' ')
            .count();
        String::from_utf8_lossy(&bytes[spaces..]).into_owned()
    }

    /// The raw bytes of one token: not always whole characters, and empty for an unknown id.
    pub fn token_bytes(&self, id: u32) -> Vec<u8> {
        self.0.tokens.get(id).to_vec()
    }

    pub(crate) fn token_slice(&self, id: u32) -> &[u8] {
        self.0.tokens.get(id)
    }

    pub(crate) fn strip_leading_spaces(&self) -> usize {
        self.0.strip_leading_spaces
    }

    /// One more than the largest id.
    pub fn vocabulary_size(&self) -> usize {
        self.0.tokens.special.len()
    }

    /// The id of a token by its text as `tokenizer.json` spells it.
    pub fn token_id(&self, text: &str) -> Option<u32> {
        self.0.encoder.token_to_id(text)
    }

    /// Whether a token marks structure, such as the end of a turn, and is no text of the answer.
    pub fn is_special(&self, id: u32) -> bool {
        self.0
            .tokens
            .special
            .get(id as usize)
            .copied()
            .unwrap_or(false)
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tokenizer({} tokens)", self.vocabulary_size())
    }
}

impl TokenTable {
    fn new(encoder: &tokenizers::Tokenizer, surface: &Surface) -> Result<Self, TokenizerError> {
        let mut entries: Vec<(u32, Vec<u8>)> = vocabulary(encoder)
            .into_iter()
            .map(|(id, text)| (id, surface.bytes(&text)))
            .collect();
        // Added tokens come last, so that they win over a vocabulary entry of the same id: their text is literal.
        entries.sort_unstable();
        let added = encoder.get_added_tokens_decoder();
        entries.extend(
            added
                .iter()
                .map(|(id, token)| (*id, token.content.clone().into_bytes())),
        );
        entries.sort_by_key(|(id, _)| *id);

        let size = entries.last().map_or(0, |(id, _)| id.saturating_add(1));
        if size > TOKEN_ID_LIMIT {
            return Err(TokenizerError::IdTooLarge {
                found: size - 1,
                limit: TOKEN_ID_LIMIT,
            });
        }
        let mut special = vec![false; size as usize];
        for (id, token) in &added {
            special[*id as usize] = token.special;
        }
        let mut table = Self {
            bytes: Vec::new(),
            starts: vec![0],
            special,
            longest_bytes: 0,
        };
        let mut entries = entries.into_iter().peekable();
        for id in 0..size {
            let mut text = None;
            while let Some((_, bytes)) = entries.next_if(|(entry, _)| *entry == id) {
                text = Some(bytes);
            }
            let text = text.unwrap_or_default();
            table.longest_bytes = table.longest_bytes.max(text.len());
            table.bytes.extend_from_slice(&text);
            table.starts.push(table.bytes.len());
        }
        Ok(table)
    }

    fn get(&self, id: u32) -> &[u8] {
        let id = id as usize;
        match (self.starts.get(id), self.starts.get(id + 1)) {
            (Some(&start), Some(&end)) => &self.bytes[start..end],
            _ => &[],
        }
    }
}

/// Every token with its id. Ids nearly always go from 0 without a gap, and each has one text: asking for them one by one
/// spares a map of them all.
fn vocabulary(encoder: &tokenizers::Tokenizer) -> Vec<(u32, String)> {
    let (model, size) = (encoder.get_model(), encoder.get_vocab_size(false));
    let in_turn: Vec<_> = (0..size as u32)
        .map_while(|id| Some((id, model.id_to_token(id)?)))
        .collect();
    if in_turn.len() == size {
        return in_turn;
    }
    let all = encoder.get_vocab(false).into_iter();
    all.map(|(text, id)| (id, text)).collect()
}

fn check_added_tokens(
    file: &Outline,
    encoder: &tokenizers::Tokenizer,
) -> Result<(), TokenizerError> {
    for token in file.added_tokens.as_array().into_iter().flatten() {
        let (Some(text), Some(written)) = (token["content"].as_str(), token["id"].as_u64()) else {
            continue;
        };
        let numbered = encoder.token_to_id(text);
        if numbered.map(u64::from) != Some(written) {
            let text = text.to_owned();
            return Err(TokenizerError::AddedToken {
                text,
                written,
                numbered,
            });
        }
    }
    Ok(())
}

/// The last boundary between characters at or before `most`.
fn char_boundary(text: &str, most: usize) -> usize {
    (0..=most.min(text.len()))
        .rev()
        .find(|at| text.is_char_boundary(*at))
        .unwrap_or(0)
}

/// The `tokenizers` crate asserts on some malformed files; such a panic is an error of the file.
fn no_panic<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(run)).map_err(|payload| {
        let text = payload.downcast_ref::<String>().map(String::as_str);
        let text = text
            .or_else(|| payload.downcast_ref::<&str>().copied())
            .unwrap_or("no reason given");
        format!("the tokenizer library stopped: {text}")
    })
}
