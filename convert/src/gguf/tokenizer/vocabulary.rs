//! The vocabulary: tokens by id, with what each is for.

use super::ImportError;
use super::special::ends_a_turn;
use crate::source::shown;
use odmoe_formats::gguf::{Metadata, ValueError};
use std::borrow::Cow;
use std::collections::HashMap;

const TOKENS: &str = "tokenizer.ggml.tokens";
const TYPES: &str = "tokenizer.ggml.token_type";
/// The most tokens; real vocabularies end below 2^19.
const LIMIT_TOKENS: usize = 1 << 22;

/// What a token is for, by `tokenizer.ggml.token_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenKind {
    /// 1 and any number that is not below; 5, unused, is no different in encoding.
    Normal,
    /// 2: stands for what no token spells.
    Unknown,
    /// 3: marks structure.
    Control,
    /// 4: text that is never cut.
    UserDefined,
    /// 6: one byte, spelled `<0x0A>`.
    Byte,
}

impl TokenKind {
    fn of(number: i64) -> Self {
        match number {
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            6 => Self::Byte,
            _ => Self::Normal,
        }
    }

    /// Whether it is looked for in a text before anything else.
    pub fn is_found_first(self) -> bool {
        matches!(self, Self::Unknown | Self::Control | Self::UserDefined)
    }

    /// Whether it is structure and no text of an answer.
    pub fn is_special(self) -> bool {
        matches!(self, Self::Unknown | Self::Control)
    }
}

/// One token.
#[derive(Clone, Copy, Debug)]
pub(super) struct Token<'a> {
    pub id: u32,
    pub text: &'a str,
    pub kind: TokenKind,
}

/// Every token, by id and by text. No two texts are the same.
pub(super) struct Vocabulary<'a> {
    texts: Vec<Cow<'a, str>>,
    kinds: Vec<TokenKind>,
}

impl<'a> Vocabulary<'a> {
    pub fn read(metadata: &'a Metadata) -> Result<Self, ImportError> {
        let tokens = metadata.strings(TOKENS)?;
        let tokens = tokens.ok_or_else(|| ValueError::Missing(TOKENS.into()))?;
        if tokens.is_empty() || tokens.len() > LIMIT_TOKENS {
            return Err(ImportError::VocabularySize {
                found: tokens.len(),
                limit: LIMIT_TOKENS,
            });
        }
        let texts = (0..)
            .zip(tokens)
            .map(|(id, bytes)| text(id, bytes))
            .collect::<Result<Vec<_>, _>>()?;
        let mut kinds = match metadata.integers(TYPES)? {
            None => vec![TokenKind::Normal; texts.len()],
            Some(types) if types.len() < texts.len() => {
                return Err(ImportError::Length {
                    key: TYPES,
                    found: types.len(),
                    tokens: texts.len(),
                });
            }
            Some(types) => types.into_iter().map(TokenKind::of).collect(),
        };
        kinds.truncate(texts.len());
        // Converters have marked some of these as ordinary text.
        for (kind, text) in kinds.iter_mut().zip(&texts) {
            if ends_a_turn(text, *kind) {
                *kind = TokenKind::Control;
            }
        }
        Ok(Self { texts, kinds })
    }

    pub fn len(&self) -> usize {
        self.texts.len()
    }

    /// The text of a token. Panics where `id` is not in the vocabulary.
    pub fn text(&self, id: u32) -> &str {
        &self.texts[id as usize]
    }

    /// Every token in the order of ids.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Token<'_>> {
        let all = self.texts.iter().zip(&self.kinds).enumerate();
        all.map(|(id, (text, kind))| Token {
            id: id as u32,
            text,
            kind: *kind,
        })
    }

    /// Ids by text.
    pub fn by_text(&self) -> Result<HashMap<&str, u32>, ImportError> {
        let mut ids = HashMap::with_capacity(self.len());
        for token in self.iter() {
            if let Some(first) = ids.insert(token.text, token.id) {
                return Err(ImportError::Duplicate {
                    first,
                    second: token.id,
                    text: shown(token.text),
                });
            }
        }
        Ok(ids)
    }
}

/// Empty tokens, which some files pad their vocabularies with, get a name of their own.
fn text(id: u32, bytes: &[u8]) -> Result<Cow<'_, str>, ImportError> {
    if bytes.is_empty() {
        return Ok(format!("[EMPTY_{id}]").into());
    }
    let text = std::str::from_utf8(bytes);
    text.map(Cow::from).map_err(|_| ImportError::NotUtf8 { id })
}
