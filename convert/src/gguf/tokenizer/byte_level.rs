//! Byte-level BPE: every byte is spelled as a printable character, and pairs of tokens are merged in a given order.

use super::ImportError;
use super::json::Parts;
use super::pre_tokenizer::{self, PreTokenizer};
use super::special::Defaults;
use super::vocabulary::Vocabulary;
use crate::source::shown;
use odmoe_formats::gguf::{Metadata, ValueError};
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet};

const PRE: &str = "tokenizer.ggml.pre";
const MERGES: &str = "tokenizer.ggml.merges";

pub(super) fn parts<'a>(
    metadata: &'a Metadata,
    vocabulary: &'a Vocabulary,
) -> Result<(Parts<'a>, Defaults), ImportError> {
    let name = metadata.text(PRE)?;
    let kind = pre_tokenizer::by_name(name).ok_or_else(|| ImportError::PreTokenizer {
        found: shown(name.unwrap_or_default()),
        supported: pre_tokenizer::names().join(", "),
    })?;
    let ids = vocabulary.by_text()?;
    let parts = Parts {
        normalizer: Value::Null,
        pre_tokenizer: pre_tokenizer_json(&kind, &ids),
        decoder: json!({
            "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true
        }),
        has_unknown: false,
        byte_fallback: false,
        ignore_merges: kind.ignore_merges,
        merges: merges(metadata, &ids)?,
    };
    let defaults = Defaults {
        add_bos: kind.adds_bos,
        ..Defaults::default()
    };
    Ok((parts, defaults))
}

/// A byte that the vocabulary lacks is left out of a text, and what lies around it does not merge across the gap.
fn pre_tokenizer_json(kind: &PreTokenizer, ids: &HashMap<&str, u32>) -> Value {
    let mut steps = kind.steps();
    let mut spelling = [0; 4];
    let missing: String = (0..=u8::MAX)
        .map(printable)
        .filter(|character| !ids.contains_key(&*character.encode_utf8(&mut spelling)))
        .map(|character| format!("\\x{{{:X}}}", u32::from(character)))
        .collect();
    if !missing.is_empty() {
        let pattern = json!({"Regex": format!("[{missing}]")});
        steps.push(json!({
            "type": "Split", "pattern": pattern, "behavior": "Removed", "invert": false
        }));
    }
    json!({"type": "Sequence", "pretokenizers": steps})
}

/// Pairs in the order of the file; of a pair that comes twice the first counts. A merge is written as two tokens with a
/// space between them; the first of them may begin with a space.
fn merges<'a>(
    metadata: &'a Metadata,
    ids: &HashMap<&str, u32>,
) -> Result<Vec<(&'a str, &'a str)>, ImportError> {
    let lines = metadata.strings(MERGES)?;
    let lines = lines.ok_or_else(|| ValueError::Missing(MERGES.into()))?;
    let (mut merges, mut seen) = (Vec::with_capacity(lines.len()), HashSet::new());
    let mut joined = String::new();
    for (index, line) in lines.iter().enumerate() {
        let wrong = || ImportError::Merge {
            index,
            text: shown(&String::from_utf8_lossy(line)),
        };
        let line = std::str::from_utf8(line).map_err(|_| wrong())?;
        let space = line.char_indices().skip(1).find(|(_, c)| *c == ' ');
        let (at, _) = space.ok_or_else(wrong)?;
        let pair @ (left, right) = (&line[..at], &line[at + 1..]);
        joined.clear();
        joined.extend([left, right]);
        if ![left, right, &joined]
            .iter()
            .all(|text| ids.contains_key(text))
        {
            return Err(wrong());
        }
        if seen.insert(pair) {
            merges.push(pair);
        }
    }
    Ok(merges)
}

/// GPT-2 spells a byte that prints as itself, and the n-th of the others as U+0100 + n.
fn printable(byte: u8) -> char {
    let prints = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    if prints(&byte) {
        return char::from(byte);
    }
    let place = (0..byte).filter(|byte| !prints(byte)).count() as u32;
    char::from_u32(0x100 + place).expect("below U+0144")
}
