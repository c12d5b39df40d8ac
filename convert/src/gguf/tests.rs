//! Models opened from files made here.

pub(crate) mod made;
mod refusals;
mod sets;

use super::*;
use crate::convert::{ConvertOptions, convert};
use crate::progress::NoProgress;
use crate::source::{TensorId, open_source};
use crate::store::open_store;
use crate::test_support::{source_values, store_values};
use crate::verify::verify_store;
use made::{Made, Naming};
use odmoe_formats::BlockFormat;
use odmoe_formats::ExpertKey;
use odmoe_formats::architecture::{ARCHITECTURES, LLAMA, OLMOE, QWEN2_MOE, QWEN3, QWEN3_MOE};
use odmoe_formats::gguf::{Array, Value};
use odmoe_formats::names::{self, ExpertRole, LayerTensor};
use std::collections::BTreeMap;
use std::path::PathBuf;
use tempfile::TempDir;

/// A temporary folder with one file.
pub(crate) fn file(made: &Made) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    made.write(&path);
    (folder, path)
}

fn open(made: &Made) -> GgufModel {
    let (_folder, path) = file(made);
    GgufModel::open(&path).unwrap()
}

/// Every tensor's format, shape and bytes by its id.
fn contents(model: &GgufModel) -> BTreeMap<TensorId, (BlockFormat, Vec<u64>, Vec<u8>)> {
    let read = |(index, tensor): (usize, &SourceTensor)| {
        let mut bytes = vec![0; tensor.format.tensor_bytes(&tensor.shape).unwrap() as usize];
        model.read_tensor(index, 0, &mut bytes).unwrap();
        let shape = tensor.shape.clone();
        (tensor.id.clone(), (tensor.format, shape, bytes))
    };
    model.tensors().iter().enumerate().map(read).collect()
}

fn resident(layer: u32, tensor: LayerTensor) -> TensorId {
    TensorId::Resident(names::in_layer(layer, tensor))
}

#[test]
fn every_architecture_is_converted_and_verified() {
    let both = [true, false].map(|experts| Made::with(LLAMA, experts, Naming::Stacked));
    let others = ARCHITECTURES.into_iter().map(|a| Made::new(a.name));
    for made in others.chain(both) {
        let (folder, path) = file(&made);
        let source = open_source(&path).unwrap();
        let store = folder.path().join("store");
        convert(&*source, &store, &ConvertOptions::default(), &NoProgress).unwrap();
        let manifest = open_store(&store).unwrap();
        assert!(
            verify_store(&store, &NoProgress)
                .unwrap()
                .problems
                .is_empty()
        );
        assert_eq!(manifest.name, "Small Model");
        assert_eq!(manifest.provenance.sources[0].name, "model.gguf");
        for tensor in source.tensors() {
            let (format, values) = store_values(&store, &manifest, &tensor.id);
            assert_eq!(format, BlockFormat::F32, "{}", tensor.id);
            assert!(
                values == source_values(&*source, &tensor.id),
                "{}",
                tensor.id
            );
        }
    }
}

#[test]
fn configurations_follow_the_metadata() {
    let config = open(&Made::new(QWEN3_MOE)).metadata.config;
    assert_eq!(config.architecture, QWEN3_MOE);
    assert_eq!((config.num_hidden_layers, config.hidden_size), (2, 64));
    assert_eq!(
        (config.num_attention_heads, config.num_key_value_heads),
        (4, 2)
    );
    assert_eq!((config.head_dim, config.vocab_size), (16, 40));
    assert_eq!((config.rms_norm_eps, config.rope_theta), (1e-6, 10_000.0));
    assert!(!config.tie_word_embeddings && !config.attention_bias);
    let moe = config.moe.unwrap();
    assert_eq!((moe.num_experts, moe.num_experts_per_tok), (4, 2));
    assert_eq!(
        (
            moe.moe_intermediate_size,
            moe.shared_expert_intermediate_size
        ),
        (32, 0)
    );

    let normalises = [
        (QWEN3_MOE, true),
        (LLAMA, true),
        (QWEN2_MOE, false),
        (OLMOE, false),
    ];
    for (name, expected) in normalises {
        let moe = open(&Made::new(name)).metadata.config.moe.unwrap();
        assert_eq!(moe.norm_topk_prob, expected, "{name}");
        assert_eq!(moe.moe_intermediate_size, 32, "{name}");
    }
    let config = open(&Made::new(QWEN2_MOE)).metadata.config;
    assert!(config.attention_bias);
    assert_eq!(config.moe.unwrap().shared_expert_intermediate_size, 48);
    let config = open(&Made::new(QWEN3)).metadata.config;
    assert_eq!((config.intermediate_size, config.moe), (96, None));
}

#[test]
fn keys_that_are_absent_have_the_defaults_of_llama_cpp() {
    let mut made = Made::new(QWEN3_MOE);
    made.unset("qwen3moe.attention.head_count_kv");
    made.unset("qwen3moe.expert_feed_forward_length");
    made.set("qwen3moe.feed_forward_length", Value::U32(64));
    made.without("output.weight");
    let config = open(&made).metadata.config;
    assert_eq!(config.num_key_value_heads, 4);
    assert!(config.tie_word_embeddings);
    assert_eq!(
        config.moe.unwrap().moe_intermediate_size,
        32,
        "64 for two chosen experts"
    );

    let mut made = Made::new(QWEN2_MOE);
    made.unset("qwen2moe.expert_shared_feed_forward_length");
    made.set("qwen2moe.feed_forward_length", Value::U32(48));
    let moe = open(&made).metadata.config.moe.unwrap();
    assert_eq!(moe.shared_expert_intermediate_size, 48);
}

#[test]
fn keys_that_are_there_are_taken() {
    let mut made = Made::new(QWEN3);
    made.set("qwen3.rope.freq_base", Value::F32(1e6));
    made.set("qwen3.attention.key_length", Value::U32(16));
    made.set("qwen3.attention.value_length", Value::U32(16));
    made.set("qwen3.rope.dimension_count", Value::U32(16));
    made.set("qwen3.rope.scaling.type", Value::String("linear".into()));
    made.set("qwen3.rope.scaling.factor", Value::F32(4.0));
    let widths = Value::Array(Array::I32(vec![96, 96]));
    made.set("qwen3.feed_forward_length", widths);
    // What changes nothing is let through.
    made.set("qwen3.attention.sliding_window", Value::U32(128));
    made.set("qwen3.logit_scale", Value::F32(1.0));
    made.set("qwen3.attention.causal", Value::Bool(true));
    made.set("general.quantization_version", Value::U32(2));
    made.set("general.type", Value::String("model".into()));
    let config = open(&made).metadata.config;
    assert_eq!((config.rope_theta, config.intermediate_size), (1e6, 96));
    assert_eq!(config.rope_frequency_divisors, [4.0; 8]);
    made.set("qwen3.rope.scaling.type", Value::String("none".into()));
    assert!(
        open(&made)
            .metadata
            .config
            .rope_frequency_divisors
            .is_empty()
    );
}

#[test]
fn rope_divisors_are_configuration() {
    let mut made = Made::new(LLAMA);
    let divisors: Vec<f32> = (1..=8).map(|i| i as f32).collect();
    let bytes: Vec<u8> = divisors.iter().flat_map(|d| d.to_le_bytes()).collect();
    made.tensor("rope_freqs.weight", BlockFormat::F32, &[8], bytes);
    let model = open(&made);
    assert_eq!(model.metadata.config.rope_frequency_divisors, divisors);
    assert!(
        model
            .tensors
            .iter()
            .all(|tensor| tensor.source_name != "rope_freqs.weight")
    );
    made.set("llama.rope.scale_linear", Value::F32(2.0));
    let doubled: Vec<f32> = divisors.iter().map(|divisor| divisor * 2.0).collect();
    assert_eq!(open(&made).metadata.config.rope_frequency_divisors, doubled);
}

#[test]
fn every_naming_of_experts_gives_the_same_bytes() {
    let of = |naming| {
        let (_folder, path) = file(&Made::with(LLAMA, true, naming));
        contents(&GgufModel::open(&path).unwrap())
    };
    let stacked = of(Naming::Stacked);
    let experts = stacked
        .keys()
        .filter(|id| matches!(id, TensorId::Expert(..)));
    assert_eq!(experts.count(), 2 * 4 * 3);
    assert!(of(Naming::OneAnExpert) == stacked);
    assert!(of(Naming::Older) == stacked);
}

#[test]
fn slices_of_quantised_stacks_are_the_experts_bytes() {
    let mut made = Made::new(QWEN3_MOE);
    made.store_as("blk.1.ffn_up_exps.weight", BlockFormat::Q8_0);
    made.store_as("blk.1.ffn_down_exps.weight", BlockFormat::F16);
    let (_folder, path) = file(&made);
    let model = GgufModel::open(&path).unwrap();
    let found = contents(&model);
    for (name, role) in [
        ("blk.1.ffn_up_exps.weight", ExpertRole::UpProj),
        ("blk.1.ffn_down_exps.weight", ExpertRole::DownProj),
    ] {
        let stack = made
            .tensors
            .iter()
            .find(|tensor| tensor.name == name)
            .unwrap();
        for (index, slice) in stack.bytes.chunks(stack.bytes.len() / 4).enumerate() {
            let id = TensorId::Expert(ExpertKey::routed(1, index as u32), role);
            let (format, shape, bytes) = &found[&id];
            assert_eq!(*format, stack.format);
            assert_eq!(shape, &stack.shape[1..]);
            assert!(bytes == slice, "{id}");
        }
    }
    assert!(
        model
            .tensors
            .iter()
            .any(|t| t.source_name == "blk.1.ffn_up_exps.weight[3]")
    );
}

/// Rows that all hold their own number in the file: 16 of a head, pairs side by side.
#[test]
fn rotary_pairs_of_llama_files_become_halves() {
    let numbered = |rows: u64, columns: usize| -> Vec<u8> {
        let row = |row| std::iter::repeat_n((row as f32).to_le_bytes(), columns);
        (0..rows).flat_map(row).flatten().collect()
    };
    let mut made = Made::new(LLAMA);
    for (part, rows) in [("attn_q", 64), ("attn_k", 32), ("attn_v", 32)] {
        let name = format!("blk.0.{part}.weight");
        made.tensor(&name, BlockFormat::F32, &[rows, 64], numbered(rows, 64));
        for layer in 0..2 {
            let name = format!("blk.{layer}.{part}.bias");
            made.tensor(&name, BlockFormat::F32, &[rows], numbered(rows, 1));
        }
    }
    made.store_as("blk.0.attn_k.weight", BlockFormat::F16);
    let (_folder, path) = file(&made);
    let model = GgufModel::open(&path).unwrap();
    let firsts = |tensor: LayerTensor, columns: usize| -> Vec<f32> {
        let values = source_values(&model, &resident(0, tensor));
        let rows = values.chunks(columns);
        rows.map(|row| {
            assert!(row.iter().all(|value| *value == row[0]));
            row[0]
        })
        .collect()
    };
    let head = [0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15];
    let halves = |heads: u32| -> Vec<f32> {
        let rows = (0..heads).flat_map(|h| head.map(|row| (16 * h + row) as f32));
        rows.collect()
    };
    assert_eq!(firsts(LayerTensor::QProj, 64), halves(4));
    assert_eq!(firsts(LayerTensor::KProj, 64), halves(2));
    assert_eq!(firsts(LayerTensor::QBias, 1), halves(4));
    assert_eq!(firsts(LayerTensor::KBias, 1), halves(2));
    let in_order: Vec<f32> = (0..32).map(|row| row as f32).collect();
    assert_eq!(firsts(LayerTensor::VProj, 64), in_order);
    assert_eq!(firsts(LayerTensor::VBias, 1), in_order);
}

/// The same rows in a family that keeps halves are left as they are.
#[test]
fn other_families_keep_their_rows() {
    let made = Made::new(OLMOE);
    let (_folder, path) = file(&made);
    let found = contents(&GgufModel::open(&path).unwrap());
    let tensor = |name: &str| made.tensors.iter().find(|t| t.name == name).unwrap();
    let query = &found[&resident(1, LayerTensor::QProj)].2;
    assert!(*query == tensor("blk.1.attn_q.weight").bytes);
}

#[test]
fn any_piece_of_a_reordered_tensor_is_that_piece_of_the_whole() {
    let mut made = Made::new(LLAMA);
    made.store_as("blk.0.attn_q.weight", BlockFormat::Q8_0);
    let (_folder, path) = file(&made);
    let model = GgufModel::open(&path).unwrap();
    let id = resident(0, LayerTensor::QProj);
    let index = model
        .tensors
        .iter()
        .position(|tensor| tensor.id == id)
        .unwrap();
    let whole = &contents(&model)[&id].2;
    let mut state = 7u64;
    let mut below = |limit: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 33) as usize % limit
    };
    for _ in 0..500 {
        let start = below(whole.len());
        let length = below(whole.len() - start + 1);
        let mut piece = vec![0; length];
        model.read_tensor(index, start as u64, &mut piece).unwrap();
        assert!(piece == whole[start..start + length], "{start} + {length}");
    }
}

/// Some quantisers do not spare them; stores must.
#[test]
fn quantised_routers_and_shared_gates_are_decoded() {
    let mut made = Made::new(QWEN2_MOE);
    made.store_as("blk.0.ffn_gate_inp.weight", BlockFormat::Q8_0);
    made.store_as("blk.0.ffn_gate_inp_shexp.weight", BlockFormat::Q8_0);
    made.store_as("blk.0.attn_norm.weight", BlockFormat::F16);
    made.store_as("blk.0.attn_q.bias", BlockFormat::F16);
    let (folder, path) = file(&made);
    let source = open_source(&path).unwrap();
    let store = folder.path().join("store");
    convert(&*source, &store, &ConvertOptions::default(), &NoProgress).unwrap();
    let manifest = open_store(&store).unwrap();
    for tensor in [
        LayerTensor::Router,
        LayerTensor::SharedExpertGate,
        LayerTensor::InputNorm,
        LayerTensor::QBias,
    ] {
        let id = resident(0, tensor);
        let (format, values) = store_values(&store, &manifest, &id);
        assert_eq!(format, BlockFormat::F32, "{id}");
        assert!(values == source_values(&*source, &id), "{id}");
    }
    let gate = &manifest.resident[&names::in_layer(0, LayerTensor::SharedExpertGate)];
    assert_eq!(gate.shape, [1, 64]);
}

#[test]
fn names_come_from_inside_or_from_the_file() {
    let mut made = Made::new(QWEN3);
    assert_eq!(open(&made).metadata.suggested_name, "Small Model");
    made.set("general.name", Value::String(b" \x07 ".to_vec()));
    assert_eq!(open(&made).metadata.suggested_name, "model");
    made.unset("general.name");
    assert_eq!(open(&made).metadata.suggested_name, "model");
}

#[test]
fn a_file_is_known_by_its_name_or_its_first_bytes() {
    let made = Made::new(QWEN3);
    let (folder, path) = file(&made);
    let blob = folder.path().join("blob");
    made.write(&blob);
    assert!(is_gguf(&path) && is_gguf(&blob));
    assert!(open_source(&blob).is_ok());
    std::fs::write(&blob, b"GGU").unwrap();
    assert!(!is_gguf(&blob) && !is_gguf(folder.path()));
    let error = open_source(&blob).err().unwrap().to_string();
    assert!(
        error.contains("give a GGUF file or a Hugging Face folder"),
        "{error}"
    );
}

#[test]
fn another_file_has_another_fingerprint_and_a_changed_one_is_seen() {
    let made = Made::new(QWEN3);
    let (_folder, path) = file(&made);
    let model = GgufModel::open(&path).unwrap();
    let again = GgufModel::open(&path).unwrap();
    assert_eq!(model.fingerprint(), again.fingerprint());
    assert!(model.check_unchanged().is_ok());

    let mut file_bytes = made.bytes();
    let mut read = vec![0; file_bytes.len()];
    model.read_file(0, 0, &mut read).unwrap();
    assert!(read == file_bytes);
    file_bytes.extend([0; 32]);
    std::fs::write(&path, &file_bytes).unwrap();
    assert!(matches!(
        model.check_unchanged(),
        Err(SourceError::Changed { .. })
    ));
    let longer = GgufModel::open(&path).unwrap();
    assert_ne!(model.fingerprint(), longer.fingerprint());
}

#[test]
fn weights_tell_models_apart_whose_files_have_equal_times() {
    let (_folder, path) = file(&Made::new(QWEN3));
    let fingerprint = || {
        let opened = std::fs::File::options().write(true).open(&path).unwrap();
        opened.set_modified(std::time::UNIX_EPOCH).unwrap();
        GgufModel::open(&path).unwrap().fingerprint()
    };
    let before = fingerprint();
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..].iter_mut().for_each(|byte| *byte ^= 1);
    std::fs::write(&path, bytes).unwrap();
    assert_ne!(fingerprint(), before);
}
