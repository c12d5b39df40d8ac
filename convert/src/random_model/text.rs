//! The text side of a random model: a tokenizer with a token for each byte, and a small ChatML template.

use serde_json::{Map, Value, json};

/// Ids of the special tokens, which follow the 256 bytes.
pub mod special {
    /// `<|endoftext|>`.
    pub const END_OF_TEXT: u32 = 256;
    /// `<|im_start|>`.
    pub const IM_START: u32 = 257;
    /// `<|im_end|>`.
    pub const IM_END: u32 = 258;
}

/// Tokens that the tokenizer has: 256 bytes, whose id is the byte, and the special ones.
pub const TOKENIZER_VOCABULARY: u32 = 259;

const SPECIAL: [(&str, u32); 3] = [
    ("<|endoftext|>", special::END_OF_TEXT),
    ("<|im_start|>", special::IM_START),
    ("<|im_end|>", special::IM_END),
];

const CHAT_TEMPLATE: &str = "\
{%- for message in messages %}\
{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}\
{%- endfor %}\
{%- if add_generation_prompt %}\
{{- '<|im_start|>assistant\\n' }}\
{%- endif %}";

/// Byte-level BPE without merges.
pub(super) fn tokenizer() -> Value {
    let vocabulary: Map<String, Value> = byte_characters()
        .into_iter()
        .zip(0u32..)
        .map(|(c, id)| (c.to_string(), id.into()))
        .collect();
    let added: Vec<Value> = SPECIAL
        .iter()
        .map(|(content, id)| {
            json!({
                "id": id, "content": content, "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": true,
            })
        })
        .collect();
    let byte_level = json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false,
    });
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": null,
        "pre_tokenizer": byte_level,
        "post_processor": null,
        "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": false, "vocab": vocabulary, "merges": [],
        },
    })
}

pub(super) fn tokenizer_config(max_position: u32) -> Value {
    let decoder: Map<String, Value> = SPECIAL
        .iter()
        .map(|(content, id)| {
            let token = json!({
                "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true,
            });
            (id.to_string(), token)
        })
        .collect();
    json!({
        "added_tokens_decoder": decoder,
        "bos_token": null,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "unk_token": null,
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": false,
        "model_max_length": max_position,
        "tokenizer_class": "PreTrainedTokenizerFast",
    })
}

pub(super) fn generation_config() -> Value {
    json!({
        "eos_token_id": [special::IM_END, special::END_OF_TEXT],
        "pad_token_id": special::END_OF_TEXT,
        "do_sample": true,
        "temperature": 0.7,
        "top_p": 0.9,
    })
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

    #[test]
    fn every_byte_has_a_character_of_its_own() {
        let characters = byte_characters();
        let distinct: std::collections::HashSet<&char> = characters.iter().collect();
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
}
