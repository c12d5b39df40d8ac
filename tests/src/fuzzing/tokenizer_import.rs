//! Tokenizers of GGUF files as `tokenizer.json`.

use super::Outcome;
use odmoe_convert::TextContents;
use odmoe_convert::gguf::tokenizer::{ImportError, import};
use odmoe_formats::gguf::{Gguf, GgufError};
use odmoe_text::Tokenizer;

/// Texts with what tokenizers cut at: spaces, digits, scripts, bytes that no token spells.
const TEXTS: [&str; 4] = [
    "",
    "Hello, world!  ab 123\n\n",
    "\u{4f60}\u{597d} \u{e9}\u{301} \u{1f600}",
    "</s><|im_end|>\0",
];

fn read(mut bytes: &[u8]) -> Result<Gguf, GgufError> {
    let file_bytes = bytes.len() as u64;
    Gguf::read(&mut bytes, file_bytes)
}

fn imported(gguf: &Gguf) -> Result<TextContents, ImportError> {
    import(&gguf.metadata)
}

/// Only parses and imports.
pub fn parse(bytes: &[u8]) {
    if let Ok(gguf) = read(bytes) {
        drop(imported(&gguf));
    }
}

/// Imports the tokenizer of `bytes`, a GGUF file. What comes out opens, or is refused by name; one that opens takes any
/// text.
pub fn check(bytes: &[u8]) -> Outcome {
    let gguf = match read(bytes) {
        Ok(gguf) => gguf,
        Err(error) => return Outcome::refused(&error),
    };
    let contents = match imported(&gguf) {
        Ok(contents) => contents,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return Outcome::refused(&error);
        }
    };
    let json = contents.tokenizer.expect("an import has a tokenizer");
    let tokenizer = match Tokenizer::from_json(&json) {
        Ok(tokenizer) => tokenizer,
        Err(error) => return Outcome::refused(&error),
    };
    let size = tokenizer.vocabulary_size();
    for id in &contents.end_of_sequence_ids {
        assert!(
            (*id as usize) < size,
            "end of sequence {id} of {size} tokens"
        );
    }
    for text in TEXTS {
        // A vocabulary need not spell every text.
        let Ok(ids) = tokenizer.encode(text, true) else {
            continue;
        };
        assert!(
            ids.iter().all(|id| (*id as usize) < size),
            "{text:?}: {ids:?}"
        );
        tokenizer.decode(&ids, false);
    }
    Outcome::Accepted
}
