//! The text side of a folder: tokenizer, chat template, special tokens, end-of-sequence ids.

use super::config::{self, Config, parse_object};
use crate::source::{SourceError, TextContents};
use crate::source_folder::SourceFolder;
use odmoe_formats::ByteCount;
use serde::de::IgnoredAny;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

const MAX_TOKENIZER: ByteCount = ByteCount(256 << 20);
const MAX_OTHER: ByteCount = ByteCount(16 << 20);
const SPECIAL_TOKENS: [&str; 4] = ["bos_token", "eos_token", "pad_token", "unk_token"];

const TOKENIZER: &str = "tokenizer.json";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const SPECIAL_TOKENS_MAP: &str = "special_tokens_map.json";
const CHAT_TEMPLATE: &str = "chat_template.jinja";
const GENERATION_CONFIG: &str = "generation_config.json";

pub(super) fn read(
    folder: &mut SourceFolder,
    config: &Config,
) -> Result<TextContents, SourceError> {
    let tokenizer_config = read_object(folder, TOKENIZER_CONFIG)?.unwrap_or_default();
    let special_tokens_map = read_object(folder, SPECIAL_TOKENS_MAP)?.unwrap_or_default();
    let generation_config = folder.read_whole(GENERATION_CONFIG, MAX_OTHER)?;
    Ok(TextContents {
        tokenizer: Some(read_tokenizer(folder)?),
        chat_template: chat_template(folder, &tokenizer_config)?,
        special_tokens: special_tokens(&tokenizer_config, &special_tokens_map),
        end_of_sequence_ids: end_of_sequence_ids(folder, config, generation_config.as_deref())?,
        generation_config,
    })
}

fn read_object(
    folder: &mut SourceFolder,
    name: &str,
) -> Result<Option<Map<String, Value>>, SourceError> {
    match folder.read_whole(name, MAX_OTHER)? {
        Some(bytes) => parse_object(folder, name, &bytes).map(Some),
        None => Ok(None),
    }
}

fn read_tokenizer(folder: &mut SourceFolder) -> Result<Vec<u8>, SourceError> {
    let Some(bytes) = folder.read_whole(TOKENIZER, MAX_TOKENIZER)? else {
        return Err(SourceError::MissingFile {
            folder: folder.path().into(),
            file: TOKENIZER,
            advice: "save the model's fast tokenizer beside its weights",
        });
    };
    // Whether it is a tokenizer is for the text side to say; a cut download is better found now.
    match serde_json::from_slice::<IgnoredAny>(&bytes) {
        Ok(_) => Ok(bytes),
        Err(error) => Err(SourceError::Malformed {
            path: folder.file_path(TOKENIZER),
            reason: format!("not JSON: {error}"),
        }),
    }
}

/// A file of its own wins; else a string, or the one named `default` of a list of named templates.
fn chat_template(
    folder: &mut SourceFolder,
    tokenizer_config: &Map<String, Value>,
) -> Result<Option<String>, SourceError> {
    if let Some(bytes) = folder.read_whole(CHAT_TEMPLATE, MAX_OTHER)? {
        let path = folder.file_path(CHAT_TEMPLATE);
        let text = String::from_utf8(bytes);
        let reason = "not UTF-8".to_string();
        return text
            .map(Some)
            .map_err(|_| SourceError::Malformed { path, reason });
    }
    let wrong = || SourceError::Field {
        path: folder.file_path(TOKENIZER_CONFIG),
        field: "chat_template".into(),
        expected: "a string or a list of {name, template}",
    };
    match tokenizer_config.get("chat_template") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(template)) => Ok(Some(template.clone())),
        Some(Value::Array(named)) => {
            let is_default = |entry: &&Value| entry["name"].as_str() == Some("default");
            let Some(default) = named.iter().find(is_default) else {
                return Ok(None);
            };
            let template = default["template"].as_str().ok_or_else(wrong)?;
            Ok(Some(template.to_string()))
        }
        Some(_) => Err(wrong()),
    }
}

/// Each is a string, or an object with its text under `content`.
fn special_tokens(
    tokenizer_config: &Map<String, Value>,
    special_tokens_map: &Map<String, Value>,
) -> BTreeMap<String, String> {
    let text = |map: &Map<String, Value>, name: &str| {
        let value = map.get(name)?;
        let text = value.as_str().or_else(|| value.get("content")?.as_str())?;
        Some(text.to_string())
    };
    let found =
        |name: &str| text(tokenizer_config, name).or_else(|| text(special_tokens_map, name));
    SPECIAL_TOKENS
        .iter()
        .filter_map(|name| Some((name.to_string(), found(name)?)))
        .collect()
}

/// From the generation config or else the model config: a number or a list of numbers.
fn end_of_sequence_ids(
    folder: &SourceFolder,
    config: &Config,
    generation_config: Option<&[u8]>,
) -> Result<Vec<u32>, SourceError> {
    let generation = match generation_config {
        Some(bytes) => parse_object(folder, GENERATION_CONFIG, bytes)?,
        None => Map::new(),
    };
    let (file, value) = match generation
        .get("eos_token_id")
        .filter(|value| !value.is_null())
    {
        Some(value) => (GENERATION_CONFIG, Some(value)),
        None => (config::FILE, config.eos_token_id.as_ref()),
    };
    let values = match value {
        None => &[],
        Some(Value::Array(list)) => list.as_slice(),
        Some(one) => std::slice::from_ref(one),
    };
    let path = || folder.file_path(file);
    let vocab_size = config.model.vocab_size;
    let mut ids = Vec::new();
    for value in values.iter().take(4096) {
        let Some(id) = value.as_u64() else {
            let expected = "a token id or a list of them";
            return Err(SourceError::Field {
                path: path(),
                field: "eos_token_id".into(),
                expected,
            });
        };
        match u32::try_from(id) {
            Ok(id) if id < vocab_size && ids.contains(&id) => {}
            Ok(id) if id < vocab_size => ids.push(id),
            _ => {
                return Err(SourceError::EndOfSequence {
                    path: path(),
                    id,
                    vocab_size,
                });
            }
        }
    }
    Ok(ids)
}
