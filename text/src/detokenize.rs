//! Token ids to text, one token at a time, whole characters only.

use crate::Tokenizer;

/// Turns a stream of token ids into text. What all calls return, joined, is [`Tokenizer::decode`] of all ids.
///
/// A character may be spread over tokens, and a token may end inside one: at most three bytes wait for the rest, so a
/// call takes time in proportion to its token alone.
#[derive(Clone, Debug)]
pub struct IncrementalDetokenizer {
    tokenizer: Tokenizer,
    skip_special_tokens: bool,
    /// Special tokens whose text is shown all the same.
    shown: Vec<u32>,
    /// Bytes that may still become a character.
    pending: Vec<u8>,
    /// Spaces still to be taken from the start of the text.
    spaces_to_strip: usize,
}

impl IncrementalDetokenizer {
    /// At the start of a text.
    pub fn new(tokenizer: Tokenizer, skip_special_tokens: bool) -> Self {
        let spaces_to_strip = tokenizer.strip_leading_spaces();
        Self {
            tokenizer,
            skip_special_tokens,
            shown: Vec::new(),
            pending: Vec::new(),
            spaces_to_strip,
        }
    }

    /// Shows these special tokens, though others are skipped.
    #[must_use]
    pub fn showing(mut self, special: Vec<u32>) -> Self {
        self.shown = special;
        self
    }

    /// The text that this token completes; may be empty.
    pub fn push(&mut self, id: u32) -> String {
        if self.skip_special_tokens && self.tokenizer.is_special(id) && !self.shown.contains(&id) {
            return String::new();
        }
        let mut bytes = self.tokenizer.token_slice(id);
        while self.spaces_to_strip > 0 {
            match bytes.split_first() {
                None => break,
                Some((b' ', rest)) => {
                    bytes = rest;
                    self.spaces_to_strip -= 1;
                }
                Some(_) => self.spaces_to_strip = 0,
            }
        }
        self.pending.extend_from_slice(bytes);
        self.take_whole_characters()
    }

    /// The end of the text: what waited in vain becomes U+FFFD.
    pub fn finish(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.pending)).into_owned()
    }

    fn take_whole_characters(&mut self) -> String {
        let mut text = String::new();
        let mut rest = self.pending.as_slice();
        loop {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    rest = &[];
                    break;
                }
                Err(error) => {
                    let (valid, after) = rest.split_at(error.valid_up_to());
                    text.push_str(std::str::from_utf8(valid).expect("valid up to here"));
                    rest = after;
                    let Some(bad) = error.error_len() else { break };
                    text.push(char::REPLACEMENT_CHARACTER);
                    rest = &rest[bad..];
                }
            }
        }
        let done = self.pending.len() - rest.len();
        self.pending.drain(..done);
        text
    }
}
