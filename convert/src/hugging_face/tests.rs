mod families;
mod files;

use super::*;
use crate::convert::{ConvertOptions, convert};
use crate::progress::NoProgress;
use crate::random_model::RandomModel;
use crate::source::{TensorId, open_source};
use crate::test_support::{Fixture, fixture};
use odmoe_formats::BlockFormat;
use serde_json::{Value, json};
use std::fs;

fn default_fixture() -> Fixture {
    fixture(&RandomModel::default())
}

fn error_of(fixture: &Fixture) -> String {
    match HuggingFaceFolder::open(&fixture.model) {
        // What the folder alone does not show is found before the first byte is written.
        Ok(source) => {
            let converted = convert(
                &source,
                &fixture.store,
                &ConvertOptions::default(),
                &NoProgress,
            );
            assert!(!fixture.store.exists(), "something was written");
            converted.expect_err("the model was converted").to_string()
        }
        Err(error) => error.to_string(),
    }
}

/// A change of `config.json` must be refused with an error whose text has `expected` in it.
#[track_caller]
fn refused(change: Value, expected: &str) {
    let fixture = default_fixture();
    fixture.edit_json("config.json", |config| merge(config, change));
    let error = error_of(&fixture);
    assert!(
        error.contains(expected),
        "{error:?} does not say {expected:?}"
    );
}

fn config_with(change: Value) -> odmoe_formats::model_config::ModelConfig {
    let fixture = default_fixture();
    fixture.edit_json("config.json", |config| merge(config, change));
    fixture.open().metadata().config.clone()
}

fn merge(into: &mut Value, change: Value) {
    let Value::Object(change) = change else {
        panic!("not an object")
    };
    for (name, value) in change {
        into[name] = value;
    }
}

#[test]
fn a_random_model_is_described_as_it_was_asked_for() {
    for tie in [false, true] {
        let model = RandomModel {
            tie,
            layers: 3,
            dense_layers: vec![1],
            ..RandomModel::default()
        };
        let fixture = fixture(&model);
        let source = open_source(&fixture.model).unwrap();
        assert_eq!(source.metadata().config, model.model_config());
        assert_eq!(source.metadata().suggested_name, "model");
        assert_eq!(source.metadata().text.end_of_sequence_ids, [258, 256]);
        let lm_head = TensorId::Resident("lm_head".into());
        assert_eq!(
            source.tensors().iter().any(|tensor| tensor.id == lm_head),
            !tie
        );
    }
}

#[test]
fn what_would_change_results_is_refused_by_name() {
    refused(
        json!({"model_type": "gemma2"}),
        "model_type \"gemma2\" is not supported; supported: llama, mistral, mixtral, olmoe, qwen2_moe, qwen3, qwen3_moe",
    );
    refused(json!({"model_type": null}), "model_type \"\"");
    refused(
        json!({"attention_bias": true}),
        "attention_bias is not supported",
    );
    refused(json!({"hidden_act": "gelu"}), "hidden_act \"gelu\"");
    refused(
        json!({"use_sliding_window": true, "sliding_window": 128}),
        "a sliding window",
    );
    refused(
        json!({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}),
        "rope_scaling of type \"yarn\"",
    );
    refused(
        json!({"rope_scaling": {"type": "linear"}}),
        "\"factor\" must be a number",
    );
    refused(
        json!({"rope_parameters": {"full_attention": {}}}),
        "rope_parameters without a rope_type",
    );
    refused(
        json!({"quantization_config": {"quant_method": "fp8"}}),
        "quantization_config",
    );
    refused(
        json!({"layer_types": ["full_attention", "sliding_attention"]}),
        "layer_types",
    );
    let partial =
        json!({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}});
    refused(partial, "partial_rotary_factor");
}

#[test]
fn fields_of_the_wrong_kind_are_named() {
    refused(
        json!({"hidden_size": "64"}),
        "\"hidden_size\" must be a whole number",
    );
    refused(
        json!({"hidden_size": -64}),
        "\"hidden_size\" must be a whole number",
    );
    refused(
        json!({"num_experts": null}),
        "\"num_experts\" must be a whole number",
    );
    refused(
        json!({"num_hidden_layers": 4_294_967_296u64}),
        "\"num_hidden_layers\" must be",
    );
    refused(
        json!({"num_hidden_layers": u32::MAX}),
        "num_hidden_layers is 4294967295",
    );
    refused(
        json!({"num_attention_heads": 0, "head_dim": null}),
        "num_attention_heads is 0",
    );
    refused(
        json!({"decoder_sparse_step": 0}),
        "\"decoder_sparse_step\" must be",
    );
    refused(
        json!({"mlp_only_layers": "all"}),
        "\"mlp_only_layers\" must be a list",
    );
    refused(json!({"mlp_only_layers": [0, 1]}), "every layer is dense");
    refused(
        json!({"tie_word_embeddings": 1}),
        "\"tie_word_embeddings\" must be true or false",
    );
    refused(
        json!({"rope_theta": "large"}),
        "\"rope_theta\" must be a number",
    );
    refused(json!({"rms_norm_eps": 1e300}), "rms_norm_eps is inf");
    refused(
        json!({"num_key_value_heads": 3}),
        "not a multiple of num_key_value_heads",
    );
    refused(
        json!({"num_experts_per_tok": 9}),
        "num_experts_per_tok is 9",
    );
}

#[test]
fn defaults_and_newer_spellings_are_those_of_transformers() {
    let head_dim = config_with(json!({"head_dim": null})).head_dim;
    assert_eq!(head_dim, 64 / 4);
    assert!(
        !config_with(json!({"norm_topk_prob": null}))
            .moe
            .expect("a sparse model")
            .norm_topk_prob
    );
    assert_eq!(config_with(json!({"rope_theta": 1e6})).rope_theta, 1e6);
    let newer =
        json!({"rope_theta": null, "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}});
    assert_eq!(config_with(newer).rope_theta, 5e5);
    assert_eq!(
        config_with(json!({"rope_theta": null})).rope_theta,
        10_000.0
    );
    // A window that is not in use is no window.
    config_with(json!({"sliding_window": 128, "use_sliding_window": false}));
    let step = config_with(
        json!({"num_hidden_layers": 4, "decoder_sparse_step": 2, "mlp_only_layers": [3]}),
    );
    assert_eq!(step.moe.expect("a sparse model").dense_layers, [0, 2, 3]);
}

#[test]
fn tensors_that_do_not_fit_the_configuration_are_named() {
    refused(
        json!({"num_hidden_layers": 3}),
        "tensor layers.2.input_norm is missing; shape [64]",
    );
    refused(
        json!({"num_experts": 9}),
        "the configuration calls for [9, 64]",
    );
    refused(
        json!({"num_hidden_layers": 1}),
        "\"model.layers.1.input_layernorm.weight\" is no part",
    );
    refused(json!({"vocab_size": 301}), "calls for [301, 64]");
    refused(
        json!({"mlp_only_layers": [1]}),
        "tensor layers.1.gate_proj is missing; shape [96, 64]",
    );
    refused(json!({"head_dim": 8}), "calls for [32, 64]");
}

/// Rewrites the only tensor file with its header changed; the data stays.
fn edit_header(fixture: &Fixture, change: impl FnOnce(&mut Value)) {
    let path = fixture.model.join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    change(&mut header);
    let json = serde_json::to_vec(&header).unwrap();
    let mut changed = (json.len() as u64).to_le_bytes().to_vec();
    changed.extend(json);
    changed.extend(&bytes[8 + length..]);
    fs::write(path, changed).unwrap();
}

fn rename_tensor(header: &mut Value, from: &str, to: &str) {
    let entry = header.as_object_mut().unwrap().remove(from).unwrap();
    header[to] = entry;
}

#[test]
fn unknown_tensors_are_refused_and_derived_ones_ignored() {
    for unknown in [
        "model.layers.0.self_attn.q_proj.bias",
        "model.layers.01.self_attn.q_proj.weight",
        "model.layers.0.mlp.experts.+1.gate_proj.weight",
        "model.layers.0.mlp.shared_expert.gate_proj.weight",
        "other",
    ] {
        let fixture = default_fixture();
        edit_header(&fixture, |header| {
            rename_tensor(header, "model.layers.0.self_attn.q_proj.weight", unknown);
        });
        assert_eq!(
            error_of(&fixture),
            format!(
                "tensor {unknown:?} is no part of this architecture; leaving it out would change results"
            )
        );
    }
    // A tied model may carry its head all the same.
    let fixture = default_fixture();
    fixture.edit_json("config.json", |config| {
        config["tie_word_embeddings"] = true.into()
    });
    let tensors = fixture.open().tensors().len();
    assert_eq!(tensors, default_fixture().open().tensors().len() - 1);
}

#[test]
fn a_dtype_that_is_not_supported_is_named() {
    let fixture = default_fixture();
    edit_header(&fixture, |header| {
        header["model.layers.0.mlp.experts.1.up_proj.weight"]["dtype"] = "I16".into();
    });
    let error = error_of(&fixture);
    let expected =
        "\"model.layers.0.mlp.experts.1.up_proj.weight\" has dtype I16; F32, F16 and BF16";
    assert!(error.contains(expected), "{error}");
}

#[test]
fn a_stack_of_another_shape_is_refused() {
    let fixture = default_fixture();
    edit_header(&fixture, |header| {
        let up = "model.layers.0.mlp.experts.0.up_proj.weight";
        rename_tensor(header, up, "model.layers.0.mlp.experts.gate_up_proj");
    });
    let error = error_of(&fixture);
    assert!(
        error
            .contains("gate_up_proj\" has shape [32, 64]; the configuration calls for [8, 64, 64]"),
        "{error}"
    );
}
