//! A byte-level BPE vocabulary of any size, the same for every model of that size.
//!
//! First come the 256 bytes, whose id is the byte, then the special tokens, then one token for each merge: a space or a
//! letter with more letters behind it, shorter ones first, letters in the order of their frequency in English. Each
//! merge adds one letter to a token that is there.

/// Ids of the special tokens, which follow the 256 bytes.
pub mod special {
    /// `<|endoftext|>`.
    pub const END_OF_TEXT: u32 = 256;
    /// `<|im_start|>`.
    pub const IM_START: u32 = 257;
    /// `<|im_end|>`.
    pub const IM_END: u32 = 258;
}

/// The smallest vocabulary: 256 bytes and the special tokens.
pub const TOKENIZER_VOCABULARY: u32 = 259;

/// The special tokens, by text and id.
pub(super) const SPECIAL: [(&str, u32); 3] = [
    ("<|endoftext|>", special::END_OF_TEXT),
    ("<|im_start|>", special::IM_START),
    ("<|im_end|>", special::IM_END),
];

const LETTERS: &str = "etaoinshrdlcumwfgypbvkjxqz";
/// What byte-level BPE writes for a space.
const SPACE: char = 'Ġ';

/// Tokens in the order of their ids, and the merges that make them.
pub(super) struct Vocabulary {
    pub tokens: Vec<String>,
    pub merges: Vec<(String, String)>,
}

impl Vocabulary {
    /// Panics where `size` is below [`TOKENIZER_VOCABULARY`].
    pub fn new(size: u32) -> Self {
        let wanted = (size as usize)
            .checked_sub(TOKENIZER_VOCABULARY as usize)
            .expect("a vocabulary has all bytes");
        let bytes = byte_characters().into_iter().map(String::from);
        let special = SPECIAL.iter().map(|(text, _)| (*text).to_owned());
        let mut tokens: Vec<String> = bytes.chain(special).collect();
        let merges = merges(wanted);
        tokens.extend(merges.iter().map(|(left, right)| format!("{left}{right}")));
        Self { tokens, merges }
    }
}

/// The first `wanted` of endlessly many.
fn merges(wanted: usize) -> Vec<(String, String)> {
    let mut stems: Vec<String> = std::iter::once(SPACE)
        .chain(LETTERS.chars())
        .map(String::from)
        .collect();
    let mut merges = Vec::with_capacity(wanted);
    while merges.len() < wanted {
        let left = wanted - merges.len();
        let longer = stems
            .iter()
            .flat_map(|stem| LETTERS.chars().map(move |c| (stem.clone(), c.to_string())));
        let longer: Vec<_> = longer.take(left).collect();
        stems = longer
            .iter()
            .map(|(stem, c)| format!("{stem}{c}"))
            .collect();
        merges.extend(longer);
    }
    merges
}

/// The character that byte-level BPE writes for each byte: itself where it is visible Latin-1, else the next unused
/// one from U+0100.
fn byte_characters() -> Vec<char> {
    let visible = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let mut unused = '\u{100}'..;
    let character = |byte: u8| match visible(byte) {
        true => char::from(byte),
        false => unused.next().expect("there are more characters than bytes"),
    };
    (0..=u8::MAX).map(character).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_byte_has_a_character_of_its_own() {
        let characters = byte_characters();
        let distinct: HashSet<&char> = characters.iter().collect();
        assert_eq!(distinct.len(), 256);
        // As GPT-2 has them: space is Ġ, newline is Ċ, the soft hyphen is the last of the invisible ones.
        assert_eq!(
            (characters[0x20], characters[0x0A], characters[0xAD]),
            ('Ġ', 'Ċ', 'Ń')
        );
        assert!(
            characters
                .iter()
                .all(|c| !c.is_whitespace() && !c.is_control())
        );
    }

    #[test]
    fn every_token_is_new_and_every_merge_joins_tokens() {
        for size in [259, 260, 300, 1000, 32_000, 151_936] {
            let vocabulary = Vocabulary::new(size);
            let tokens: HashSet<&str> = vocabulary.tokens.iter().map(String::as_str).collect();
            assert_eq!(
                (vocabulary.tokens.len(), tokens.len()),
                (size as usize, size as usize)
            );
            assert_eq!(vocabulary.merges.len() as u32, size - TOKENIZER_VOCABULARY);
            for (left, right) in &vocabulary.merges {
                assert!(tokens.contains(left.as_str()) && tokens.contains(right.as_str()));
                assert!(tokens.contains(format!("{left}{right}").as_str()));
            }
        }
    }
}
