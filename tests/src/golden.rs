//! Reference values by `transformers`, and what a comparison with them may find.

use odmoe_engine::PositionLogprobs;
use serde_json::Value;
use std::path::Path;

/// Reads a JSON file.
#[track_caller]
pub fn read_json(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Token ids of a JSON list.
#[track_caller]
pub fn token_ids(list: &Value) -> Vec<u32> {
    let list = list
        .as_array()
        .unwrap_or_else(|| panic!("{list} is no list"));
    list.iter()
        .map(|id| id.as_u64().expect("a token id") as u32)
        .collect()
}

/// Numbers of a JSON list.
#[track_caller]
pub fn numbers(list: &Value) -> Vec<f64> {
    let list = list
        .as_array()
        .unwrap_or_else(|| panic!("{list} is no list"));
    list.iter()
        .map(|number| number.as_f64().expect("a number"))
        .collect()
}

/// Little-endian binary32 values.
#[track_caller]
pub fn read_floats(path: &Path) -> Vec<f32> {
    let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let (values, rest) = bytes.as_chunks::<4>();
    assert!(rest.is_empty(), "{}: no whole values", path.display());
    values
        .iter()
        .map(|value| f32::from_le_bytes(*value))
        .collect()
}

/// The natural logs of the softmax of logits.
pub fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let greatest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits
        .iter()
        .map(|&logit| f64::from(logit - greatest).exp())
        .sum();
    logits
        .iter()
        .map(|&logit| f64::from(logit - greatest) - sum.ln())
        .collect()
}

/// The largest difference between reported logprobs and the reference's, over all tokens that were reported.
pub fn largest_difference(found: &PositionLogprobs, reference: &[f64]) -> f64 {
    let all = found.top.iter().chain([&found.chosen]);
    let differences = all.map(|t| (f64::from(t.logprob) - reference[t.token as usize]).abs());
    differences.fold(0.0, f64::max)
}
