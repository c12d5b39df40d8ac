//! SentencePiece's BPE: spaces are spelled U+2581, tokens have scores, and of all neighbours that make a token those
//! with the highest score are joined first. What no token spells is spelled by its bytes.

use super::ImportError;
use super::json::Parts;
use super::special::Defaults;
use super::vocabulary::Vocabulary;
use odmoe_formats::gguf::{Metadata, ValueError};
use serde_json::{Value, json};
use std::collections::HashMap;

const SCORES: &str = "tokenizer.ggml.scores";
const ADD_SPACE_PREFIX: &str = "tokenizer.ggml.add_space_prefix";
const REMOVE_EXTRA_WHITESPACES: &str = "tokenizer.ggml.remove_extra_whitespaces";
const SPACE: &str = "\u{2581}";

/// Looking for a token's halves takes steps by the square of its length; so many are taken in all. A vocabulary of
/// 256,000 tokens takes some 2^25.
const LIMIT_SPLIT_STEPS: u64 = 1 << 31;
/// So many bytes of merges are written.
const LIMIT_MERGE_BYTES: u64 = 256 << 20;

pub(super) fn parts<'a>(
    metadata: &Metadata,
    vocabulary: &'a Vocabulary,
) -> Result<(Parts<'a>, Defaults), ImportError> {
    // llama.cpp overlooks it, SentencePiece would not: whichever is meant, somebody's ids differ.
    if metadata.boolean(REMOVE_EXTRA_WHITESPACES)? == Some(true) {
        return Err(ImportError::Feature("remove_extra_whitespaces"));
    }
    let add_space = metadata.boolean(ADD_SPACE_PREFIX)?.unwrap_or(true);
    let ids = vocabulary.by_text()?;
    let has_bytes = ids.contains_key("<0x0A>");
    let parts = Parts {
        normalizer: normalizer(add_space),
        pre_tokenizer: Value::Null,
        decoder: decoder(add_space),
        has_unknown: true,
        byte_fallback: has_bytes,
        ignore_merges: false,
        merges: merges(vocabulary, &ids, &scores(metadata, vocabulary.len())?)?,
    };
    let defaults = Defaults {
        bos: Some(1),
        eos: Some(2),
        unknown: Some(0),
        add_bos: true,
    };
    Ok((parts, defaults))
}

/// A space is put before every stretch of text between special tokens.
fn normalizer(add_space: bool) -> Value {
    let mut steps = Vec::new();
    if add_space {
        steps.push(json!({"type": "Prepend", "prepend": SPACE}));
    }
    steps.push(json!({"type": "Replace", "pattern": {"String": " "}, "content": SPACE}));
    json!({"type": "Sequence", "normalizers": steps})
}

fn decoder(add_space: bool) -> Value {
    let mut steps = vec![
        json!({"type": "Replace", "pattern": {"String": SPACE}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if add_space {
        steps.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    json!({"type": "Sequence", "decoders": steps})
}

fn scores(metadata: &Metadata, tokens: usize) -> Result<Vec<f32>, ImportError> {
    let scores = match metadata.floats(SCORES) {
        Ok(scores) => scores.map(<[f32]>::to_vec),
        // Some writers make them whole numbers.
        Err(error) => match metadata.integers(SCORES) {
            Ok(scores) => scores.map(|all| all.into_iter().map(|score| score as f32).collect()),
            Err(_) => return Err(error.into()),
        },
    };
    let scores = scores.ok_or_else(|| ValueError::Missing(SCORES.into()))?;
    if scores.len() < tokens {
        return Err(ImportError::Length {
            key: SCORES,
            found: scores.len(),
            tokens,
        });
    }
    match scores[..tokens].iter().position(|score| score.is_nan()) {
        Some(id) => Err(ImportError::Score { id: id as u32 }),
        None => Ok(scores),
    }
}

/// A merge for each way to make a token of two others, those of higher scores first. Of one score, which real
/// vocabularies give to one token, SentencePiece takes what comes first in the text; a list of merges cannot say that.
fn merges<'a>(
    vocabulary: &'a Vocabulary,
    ids: &HashMap<&str, u32>,
    scores: &[f32],
) -> Result<Vec<(&'a str, &'a str)>, ImportError> {
    let steps = vocabulary
        .iter()
        .map(|token| (token.text.len() as u64).saturating_pow(2));
    if steps.fold(0, u64::saturating_add) > LIMIT_SPLIT_STEPS {
        return Err(ImportError::TokensTooLong);
    }
    let mut bytes = 0;
    let mut found = Vec::new();
    for token in vocabulary.iter() {
        for (at, _) in token.text.char_indices().skip(1) {
            let pair @ (left, right) = token.text.split_at(at);
            if let (Some(&left), Some(&right)) = (ids.get(left), ids.get(right)) {
                bytes += token.text.len() as u64;
                if bytes > LIMIT_MERGE_BYTES {
                    return Err(ImportError::TokensTooLong);
                }
                found.push((token.id, left, right, pair));
            }
        }
    }
    found.sort_by(|(a, a_left, a_right, _), (b, b_left, b_right, _)| {
        let by_score = scores[*b as usize].partial_cmp(&scores[*a as usize]);
        let by_score = by_score.expect("no score is NaN");
        by_score.then_with(|| (a_left, a_right).cmp(&(b_left, b_right)))
    });
    Ok(found.into_iter().map(|(.., pair)| pair).collect())
}
