//! Keys that change results and that nothing here acts on: each is let through only with the value that changes nothing.

use super::keys::Keys;
use crate::source::SourceError;
use odmoe_formats::gguf::{Array, Value};

/// Keys of an architecture, with the values that change nothing.
const NEUTRAL: [(&str, &[f64]); 28] = [
    ("attention.causal", &[1.0]),
    ("attention.clamp_kqv", &[0.0]),
    ("attention.max_alibi_bias", &[0.0]),
    ("attention.output_scale", &[0.0, 1.0]),
    ("attention.q_lora_rank", &[0.0]),
    ("attention.kv_lora_rank", &[0.0]),
    ("attention.scale", &[0.0]),
    ("attention.temperature_scale", &[0.0]),
    ("attention.value_scale", &[0.0, 1.0]),
    ("attn_logit_softcapping", &[0.0]),
    ("embedding_scale", &[0.0, 1.0]),
    // 1 is softmax, which all families here use; 0 leaves the choice to the family.
    ("expert_gating_func", &[0.0, 1.0]),
    ("expert_group_count", &[0.0, 1.0]),
    ("expert_group_scale", &[0.0]),
    ("expert_weights_scale", &[0.0, 1.0]),
    ("final_logit_softcapping", &[0.0]),
    ("interleave_moe_layer_step", &[0.0, 1.0]),
    ("leading_dense_block_count", &[0.0]),
    ("logit_scale", &[0.0, 1.0]),
    ("moe_every_n_layers", &[0.0, 1.0]),
    ("nextn_predict_layers", &[0.0]),
    ("residual_scale", &[0.0, 1.0]),
    ("rope.scaling.attn_factor", &[0.0, 1.0]),
    ("rope.scaling.yarn_log_multiplier", &[0.0]),
    ("router_logit_softcapping", &[0.0]),
    ("swiglu_clamp_exp", &[0.0]),
    ("swiglu_clamp_shexp", &[0.0]),
    ("use_parallel_residual", &[0.0]),
];

/// Refuses by name what would change results. `top_k_is_normalised` is what the family does.
pub(super) fn refuse(keys: &Keys<'_>, top_k_is_normalised: bool) -> Result<(), SourceError> {
    for (part, neutral) in NEUTRAL {
        refuse_other_than(keys, part, neutral)?;
    }
    let normalised = f64::from(u8::from(top_k_is_normalised));
    refuse_other_than(keys, "expert_weights_norm", &[normalised])?;
    refuse_sliding_window(keys)?;
    refuse_kinds(keys)
}

fn refuse_other_than(keys: &Keys<'_>, part: &str, neutral: &[f64]) -> Result<(), SourceError> {
    let key = keys.key(part);
    let Some(value) = keys.metadata.get(&key) else {
        return Ok(());
    };
    let numbers = numbers(value);
    match numbers.iter().all(|number| neutral.contains(number)) {
        true if !numbers.is_empty() => Ok(()),
        _ => {
            let found: Vec<String> = numbers.iter().take(4).map(f64::to_string).collect();
            Err(keys.unsupported(format!("{key} = {}", found.join(", "))))
        }
    }
}

/// A value as numbers: flags as 0 and 1, lists of floats as they are, nothing for what is none of these.
fn numbers(value: &Value) -> Vec<f64> {
    match value {
        Value::Bool(flag) => vec![u8::from(*flag).into()],
        Value::U8(n) => vec![(*n).into()],
        Value::I8(n) => vec![(*n).into()],
        Value::U16(n) => vec![(*n).into()],
        Value::I16(n) => vec![(*n).into()],
        Value::U32(n) => vec![(*n).into()],
        Value::I32(n) => vec![(*n).into()],
        Value::F32(x) => vec![(*x).into()],
        Value::F64(x) => vec![*x],
        Value::U64(n) => vec![*n as f64],
        Value::I64(n) => vec![*n as f64],
        Value::Array(Array::F32(all)) => all.iter().map(|x| (*x).into()).collect(),
        _ => Vec::new(),
    }
}

/// A window as long as the context hides nothing.
fn refuse_sliding_window(keys: &Keys<'_>) -> Result<(), SourceError> {
    let window = keys.optional_u32("attention.sliding_window")?.unwrap_or(0);
    match window == 0 || window >= keys.u32("context_length")? {
        true => Ok(()),
        false => Err(keys.unsupported(format!("a sliding window of {window} tokens"))),
    }
}

/// Files that hold something else than a model, or blocks of a form that is no more.
fn refuse_kinds(keys: &Keys<'_>) -> Result<(), SourceError> {
    let kind = keys.metadata.text("general.type");
    let kind = kind.map_err(|error| keys.wrong(error))?;
    if let Some(kind) = kind.filter(|kind| *kind != "model") {
        let kind: String = kind.chars().take(64).collect();
        return Err(keys.malformed(format!("it holds a thing of type {kind:?}, not a model")));
    }
    let version = keys.metadata.integer("general.quantization_version");
    match version.map_err(|error| keys.wrong(error))? {
        None | Some(2) => Ok(()),
        Some(other) => {
            let reason = format!("quantization version {other} is not supported, only 2");
            Err(keys.malformed(reason))
        }
    }
}
