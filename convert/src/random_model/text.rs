//! The text side of a random model as a Hugging Face folder has it: a tokenizer and a small ChatML template.

use super::vocabulary::{SPECIAL, Vocabulary, special};
use serde_json::{Map, Value, json};

pub(super) const CHAT_TEMPLATE: &str = "\
{%- for message in messages %}\
{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}\
{%- endfor %}\
{%- if add_generation_prompt %}\
{{- '<|im_start|>assistant\\n' }}\
{%- endif %}";

/// Where Qwen2's tokenizer cuts a text before it merges: contractions, words with what stands before them, single
/// digits, signs, line ends, blanks. In GGUF its name stands for it.
const QWEN2_PIECES: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Byte-level BPE.
pub(super) fn tokenizer(vocab: u32) -> Value {
    let Vocabulary { tokens, merges } = Vocabulary::new(vocab);
    // The special ones too: what is only added would have to come after all others.
    let vocabulary: Map<String, Value> = tokens
        .into_iter()
        .zip(0u32..)
        .map(|(token, id)| (token, id.into()))
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
    let split = json!({
        "type": "Split", "pattern": { "Regex": QWEN2_PIECES }, "behavior": "Isolated", "invert": false,
    });
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": null,
        "pre_tokenizer": { "type": "Sequence", "pretokenizers": [split, byte_level] },
        "post_processor": null,
        "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": false, "vocab": vocabulary, "merges": merges,
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
