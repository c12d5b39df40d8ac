//! What is refused, and in which words.

use super::made::{EXPERT_WIDTH, EXPERTS, HIDDEN, Made, Naming};
use super::{GgufModel, file};
use crate::convert::{ConvertOptions, convert};
use crate::progress::NoProgress;
use odmoe_formats::BlockFormat;
use odmoe_formats::architecture::{LLAMA, OLMOE, QWEN2_MOE, QWEN3, QWEN3_MOE};
use odmoe_formats::gguf::{Array, Value};

#[track_caller]
fn refused(made: &Made, part_of_message: &str) {
    let (_folder, path) = file(made);
    let error = GgufModel::open(&path).err().expect("must be refused");
    let text = error.to_string();
    assert!(text.contains(part_of_message), "{text}");
}

/// Refused with a key at a value.
#[track_caller]
fn refused_with(name: &str, part: &str, value: Value, part_of_message: &str) {
    let mut made = Made::new(name);
    made.set(&format!("{name}.{part}"), value);
    refused(&made, part_of_message);
}

fn text(text: &str) -> Value {
    Value::String(text.into())
}

#[test]
fn architectures_are_named_with_what_is_supported() {
    refused(
        &Made::new("deepseek2"),
        "architecture \"deepseek2\" is not supported; supported: llama, olmoe, qwen2moe, qwen3, qwen3moe",
    );
    let mut made = Made::new(QWEN3);
    made.unset("general.architecture");
    refused(&made, "the metadata has no \"general.architecture\"");
}

#[test]
fn tensor_types_are_named_with_what_is_supported() {
    let made = Made::new(QWEN3_MOE);
    let (_folder, path) = file(&made);
    let name = b"blk.1.ffn_up_exps.weight";
    let mut bytes = made.bytes();
    let at = bytes
        .windows(name.len())
        .position(|window| window == name)
        .unwrap();
    // After the name: three dimensions, then the type. A row of 64 elements suits type 42, Q2_0, in fewer bytes.
    let kind = at + name.len() + 4 + 3 * 8;
    bytes[kind..kind + 4].copy_from_slice(&42u32.to_le_bytes());
    std::fs::write(&path, &bytes).unwrap();
    let error = GgufModel::open(&path).err().unwrap().to_string();
    let expected = "tensor blk.1.ffn_up_exps.weight is Q2_0; supported: F32, F16, BF16, Q8_0, Q4_0";
    assert!(error.contains(expected), "{error}");
}

#[test]
fn missing_and_mistyped_keys_are_named() {
    for part in [
        "block_count",
        "embedding_length",
        "attention.head_count",
        "attention.layer_norm_rms_epsilon",
        "context_length",
        "expert_used_count",
    ] {
        let mut made = Made::new(QWEN3_MOE);
        let key = format!("qwen3moe.{part}");
        made.unset(&key);
        refused(&made, &format!("the metadata has no {key:?}"));
        made.set(&key, text("many"));
        refused(&made, &format!("{key:?} must be"));
    }
    refused_with(
        QWEN3,
        "block_count",
        Value::U64(1 << 32),
        "\"qwen3.block_count\" must be a whole number",
    );
    refused_with(
        QWEN3,
        "block_count",
        Value::I32(-1),
        "\"qwen3.block_count\" must be",
    );
    refused_with(
        QWEN3,
        "block_count",
        Value::U32(0),
        "num_hidden_layers is 0",
    );
    refused_with(
        QWEN3,
        "block_count",
        Value::U32(1 << 30),
        "num_hidden_layers is 1073741824",
    );
    refused_with(QWEN3_MOE, "expert_count", Value::U32(0), "num_experts is 0");
    refused_with(
        QWEN3_MOE,
        "expert_used_count",
        Value::U32(5),
        "num_experts_per_tok is 5",
    );
}

#[test]
fn what_would_change_results_is_named() {
    let float = Value::F32;
    let cases = [
        (
            "attention.clamp_kqv",
            float(8.0),
            "qwen3moe.attention.clamp_kqv = 8",
        ),
        ("logit_scale", float(0.5), "qwen3moe.logit_scale = 0.5"),
        (
            "embedding_scale",
            float(12.0),
            "qwen3moe.embedding_scale = 12",
        ),
        (
            "residual_scale",
            float(f32::NAN),
            "qwen3moe.residual_scale = NaN",
        ),
        (
            "final_logit_softcapping",
            float(30.0),
            "final_logit_softcapping = 30",
        ),
        (
            "expert_weights_scale",
            float(2.5),
            "qwen3moe.expert_weights_scale = 2.5",
        ),
        (
            "expert_weights_norm",
            Value::Bool(false),
            "qwen3moe.expert_weights_norm = 0",
        ),
        (
            "expert_gating_func",
            Value::U32(2),
            "qwen3moe.expert_gating_func = 2",
        ),
        (
            "expert_group_count",
            Value::U32(8),
            "qwen3moe.expert_group_count = 8",
        ),
        (
            "leading_dense_block_count",
            Value::U32(1),
            "leading_dense_block_count = 1",
        ),
        (
            "attention.causal",
            Value::Bool(false),
            "qwen3moe.attention.causal = 0",
        ),
        (
            "attention.scale",
            text("small"),
            "qwen3moe.attention.scale =",
        ),
        (
            "attention.sliding_window",
            Value::U32(64),
            "a sliding window of 64 tokens",
        ),
        (
            "rope.dimension_count",
            Value::U32(8),
            "rope.dimension_count = 8 where heads are 16 wide",
        ),
        (
            "attention.value_length",
            Value::U32(8),
            "attention.value_length = 8 where heads are 16",
        ),
        (
            "rope.scaling.type",
            text("yarn"),
            "qwen3moe.rope.scaling.type \"yarn\"",
        ),
        (
            "rope.scaling.attn_factor",
            float(1.5),
            "rope.scaling.attn_factor = 1.5",
        ),
        (
            "expert_shared_feed_forward_length",
            Value::U32(32),
            "a shared expert",
        ),
        (
            "nextn_predict_layers",
            Value::U32(1),
            "qwen3moe.nextn_predict_layers = 1",
        ),
    ];
    for (part, value, expected) in cases {
        refused_with(QWEN3_MOE, part, value, expected);
        refused_with(
            QWEN3_MOE,
            part,
            Value::Array(Array::U8(vec![9])),
            "qwen3moe.",
        );
    }
    refused_with(
        QWEN2_MOE,
        "expert_weights_norm",
        Value::Bool(true),
        "expert_weights_norm = 1",
    );
    refused_with(
        OLMOE,
        "expert_weights_norm",
        Value::Bool(true),
        "expert_weights_norm = 1",
    );
    refused_with(
        QWEN3,
        "expert_count",
        Value::U32(4),
        "qwen3.expert_count = 4",
    );
    let heads = Value::Array(Array::I32(vec![4, 2]));
    refused_with(
        QWEN3,
        "attention.head_count",
        heads,
        "that differs from layer to layer",
    );
}

#[test]
fn things_that_are_no_models_are_named() {
    let mut made = Made::new(QWEN3);
    made.set("general.type", text("adapter"));
    refused(&made, "a thing of type \"adapter\", not a model");
    let mut made = Made::new(QWEN3);
    made.set("general.quantization_version", Value::U32(1));
    refused(&made, "quantization version 1");
    let (_folder, path) = file(&made);
    std::fs::write(&path, "GGU").unwrap();
    let error = GgufModel::open(&path).err().unwrap().to_string();
    assert!(
        error.contains("model.gguf: the file ends at byte 3"),
        "{error}"
    );
}

#[test]
fn tensors_that_do_not_belong_are_refused() {
    let unknown = [
        (QWEN3_MOE, "blk.0.attn_output.bias"),
        (QWEN3_MOE, "blk.2.attn_q.weight"),
        (QWEN3_MOE, "blk.0.exp_probs_b.bias"),
        (QWEN3_MOE, "rope_freqs.weight"),
        (QWEN3, "blk.0.ffn_up_exps.weight"),
        (QWEN3, "blk.0.ffn_up.0.weight"),
    ];
    for (name, tensor) in unknown {
        let mut made = Made::new(name);
        made.tensor(tensor, BlockFormat::F32, &[1], vec![0; 4]);
        refused(
            &made,
            &format!("tensor {tensor:?} is no part of this architecture"),
        );
    }
    let mut made = Made::new(QWEN3_MOE);
    made.tensor("blk.0.attn_rot_embd", BlockFormat::F32, &[1], vec![0; 4]);
    let (_folder, path) = file(&made);
    assert!(GgufModel::open(&path).is_ok(), "bookkeeping is left out");
}

#[test]
fn tensors_that_are_there_twice_or_misshapen_are_refused() {
    let mut made = Made::with(LLAMA, true, Naming::Stacked);
    let one = vec![0; (EXPERT_WIDTH * HIDDEN * 4) as usize];
    let shape = [EXPERT_WIDTH, HIDDEN];
    made.tensor("blk.1.ffn_up.2.weight", BlockFormat::F32, &shape, one);
    refused(&made, "tensor layer 1 expert 2 up_proj is there twice");

    let mut made = Made::new(QWEN3_MOE);
    let bytes = vec![0; (HIDDEN * EXPERT_WIDTH * 4) as usize];
    let shape = [EXPERTS - 3, EXPERT_WIDTH, HIDDEN];
    made.tensor("blk.1.ffn_up_exps.weight", BlockFormat::F32, &shape, bytes);
    refused(
        &made,
        "has shape [1, 32, 64]; the configuration calls for [4, 32, 64]",
    );

    let mut made = Made::new(LLAMA);
    made.tensor(
        "blk.0.attn_q.weight",
        BlockFormat::F32,
        &[15, 64],
        vec![0; 15 * 64 * 4],
    );
    refused(&made, "15 rows, not whole heads of 16");
    let mut made = Made::new(LLAMA);
    made.tensor("rope_freqs.weight", BlockFormat::F32, &[7], vec![0; 28]);
    refused(&made, "has shape [7]; the configuration calls for [8]");
    made.tensor("rope_freqs.weight", BlockFormat::F32, &[8], vec![0; 32]);
    refused(&made, "rope_frequency_divisors is 0");

    let mut made = Made::new(QWEN3);
    made.without("token_embd.weight");
    refused(&made, "there is no matrix token_embd.weight");
    made.tensors.clear();
    refused(&made, "it holds a vocabulary and no weights");
    let mut made = Made::new(QWEN3);
    let tokens = vec![b"t".to_vec(); 41];
    made.set("tokenizer.ggml.tokens", Value::Array(Array::String(tokens)));
    refused(&made, "it has 41 tokens but an embedding of 40 rows");
}

/// A tensor that is missing is found out before anything is written.
#[test]
fn nothing_is_written_of_an_incomplete_model() {
    let mut made = Made::new(QWEN3_MOE);
    made.without("blk.1.ffn_down_exps.weight");
    let (folder, path) = file(&made);
    let source = GgufModel::open(&path).unwrap();
    let store = folder.path().join("store");
    let error = convert(&source, &store, &ConvertOptions::default(), &NoProgress).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("tensor layer 1 expert 0 down_proj is missing"),
        "{text}"
    );
    assert!(!store.exists());
}
