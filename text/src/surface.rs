//! The bytes that each token stands for, worked out once from the decoder that `tokenizer.json` names.

use crate::TokenizerError;
use serde_json::Value;

/// How the texts of a vocabulary become bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Surface {
    /// Every byte is spelled as one printable character (GPT-2's table).
    ByteLevel,
    /// Pieces of text; some decoders spell spaces with another character and lone bytes as `<0x0A>`.
    Pieces(Pieces),
}

/// See [`Surface::Pieces`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pieces {
    /// Replaced in every token, in order.
    pub replace: Vec<(String, String)>,
    /// Whether `<0xHH>` is a byte.
    pub byte_fallback: bool,
    /// How many spaces are taken from the start of the whole text.
    pub strip_leading_spaces: usize,
}

impl Surface {
    /// From the `decoder` of a `tokenizer.json`. Decoders that need more than a token at a time are refused.
    pub fn from_decoder(decoder: &Value) -> Result<Self, TokenizerError> {
        let mut pieces = Pieces::default();
        let mut byte_level = false;
        let single = std::slice::from_ref(decoder);
        let steps = match kind(decoder) {
            "Sequence" => decoder["decoders"]
                .as_array()
                .map_or(&[][..], Vec::as_slice),
            _ => single,
        };
        for step in steps {
            match kind(step) {
                "" | "Fuse" => {}
                "ByteLevel" => byte_level = true,
                "ByteFallback" => pieces.byte_fallback = true,
                "Replace" => pieces.replace.push(replacement(step)?),
                "Metaspace" => {
                    let space = step["replacement"].as_str().unwrap_or("\u{2581}");
                    pieces.replace.push((space.to_owned(), " ".to_owned()));
                    let prepended = match step["prepend_scheme"].as_str() {
                        Some(scheme) => scheme != "never",
                        None => step["add_prefix_space"].as_bool().unwrap_or(true),
                    };
                    pieces.strip_leading_spaces = usize::from(prepended);
                }
                "Strip" if step["content"] == " " && step["stop"].as_u64() == Some(0) => {
                    pieces.strip_leading_spaces =
                        step["start"].as_u64().unwrap_or(0).min(16) as usize;
                }
                other => return Err(TokenizerError::Decoder(other.to_owned())),
            }
        }
        Ok(if byte_level {
            Self::ByteLevel
        } else {
            Self::Pieces(pieces)
        })
    }

    /// The bytes of one vocabulary entry.
    pub fn bytes(&self, token: &str) -> Vec<u8> {
        match self {
            Self::ByteLevel => token
                .chars()
                .map(byte_of_printable)
                .collect::<Option<Vec<u8>>>()
                .unwrap_or_else(|| token.as_bytes().to_vec()),
            Self::Pieces(pieces) => pieces.bytes(token),
        }
    }

    /// How many spaces are taken from the start of the whole text.
    pub fn strip_leading_spaces(&self) -> usize {
        match self {
            Self::ByteLevel => 0,
            Self::Pieces(pieces) => pieces.strip_leading_spaces,
        }
    }
}

impl Pieces {
    fn bytes(&self, token: &str) -> Vec<u8> {
        if self.byte_fallback
            && let Some(hex) = token.strip_prefix("<0x").and_then(|t| t.strip_suffix('>'))
            && hex.len() == 2
            && let Ok(byte) = u8::from_str_radix(hex, 16)
        {
            return vec![byte];
        }
        let replaced = self
            .replace
            .iter()
            .fold(token.to_owned(), |text, (from, to)| {
                text.replace(from.as_str(), to)
            });
        replaced.into_bytes()
    }
}

fn kind(step: &Value) -> &str {
    step["type"].as_str().unwrap_or("")
}

fn replacement(step: &Value) -> Result<(String, String), TokenizerError> {
    match (step["pattern"]["String"].as_str(), step["content"].as_str()) {
        (Some(from), Some(to)) if !from.is_empty() => Ok((from.to_owned(), to.to_owned())),
        _ => Err(TokenizerError::Decoder(
            "Replace by a regular expression".to_owned(),
        )),
    }
}

/// GPT-2 spells a byte that prints as itself, and the n-th of the others as U+0100 + n.
fn byte_of_printable(character: char) -> Option<u8> {
    let prints = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let code = u32::from(character);
    match u8::try_from(code) {
        Ok(byte) => prints(byte).then_some(byte),
        Err(_) => (0..=255u8)
            .filter(|byte| !prints(*byte))
            .nth((code - 256) as usize),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn byte_level_spells_every_byte_once() {
        let mut seen = [false; 256];
        for code in 0..0x400 {
            if let Some(byte) = byte_of_printable(char::from_u32(code).unwrap()) {
                assert!(
                    !std::mem::replace(&mut seen[byte as usize], true),
                    "byte {byte} twice"
                );
            }
        }
        assert!(seen.iter().all(|s| *s));
        assert_eq!(
            Surface::ByteLevel.bytes("\u{120}caf\u{c3}\u{a9}"),
            " caf\u{e9}".as_bytes()
        );
        assert_eq!(
            Surface::ByteLevel.bytes("\u{2581}x"),
            "\u{2581}x".as_bytes(),
            "not spelled in the table"
        );
    }

    #[test]
    fn llama_style_decoders_are_understood() {
        let decoder = json!({"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "\u{2581}"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]});
        let surface = Surface::from_decoder(&decoder).unwrap();
        assert_eq!(surface.bytes("\u{2581}a\u{2581}"), b" a ");
        assert_eq!(surface.bytes("<0xE2>"), [0xE2]);
        assert_eq!(surface.bytes("<0xZZ>"), b"<0xZZ>");
        assert_eq!(surface.strip_leading_spaces(), 1);
    }

    #[test]
    fn a_decoder_that_needs_neighbours_is_refused_by_name() {
        let error = Surface::from_decoder(&json!({"type": "WordPiece"})).unwrap_err();
        assert!(error.to_string().contains("WordPiece"), "{error}");
    }
}
