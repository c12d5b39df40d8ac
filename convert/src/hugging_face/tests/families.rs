//! Configurations of every family: what they mean, and what is refused by name.

use super::super::config;
use super::*;
use crate::source_folder::SourceFolder;
use odmoe_formats::model_config::ModelConfig;

/// Reads a `config.json` of a small model of a family, with changes.
fn read(model_type: &str, change: Value) -> Result<ModelConfig, String> {
    let mut config = json!({
        "model_type": model_type, "num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 40, "max_position_embeddings": 8192, "intermediate_size": 96,
        "moe_intermediate_size": 24, "shared_expert_intermediate_size": 48, "num_experts": 6,
        "num_experts_per_tok": 2, "sliding_window": null,
    });
    merge(&mut config, change);
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let read = config::read(&mut SourceFolder::new(folder.path()).unwrap());
    read.map(|config| config.model).map_err(|e| e.to_string())
}

#[track_caller]
fn refused(model_type: &str, change: Value, expected: &str) {
    let error = read(model_type, change).expect_err("accepted");
    assert!(
        error.contains(expected),
        "{error:?} does not say {expected:?}"
    );
}

#[test]
fn each_family_has_its_architecture_and_the_defaults_of_transformers() {
    let cases = [
        ("llama", "llama", 16, 1e-6, 1e4),
        ("mistral", "llama", 16, 1e-6, 1e4),
        ("mixtral", "llama", 16, 1e-5, 1e6),
        ("olmoe", "olmoe", 16, 1e-5, 1e4),
        ("qwen2_moe", "qwen2moe", 16, 1e-6, 1e4),
        ("qwen3", "qwen3", 128, 1e-6, 1e4),
        ("qwen3_moe", "qwen3moe", 16, 1e-6, 1e4),
    ];
    for (model_type, architecture, head_dim, eps, theta) in cases {
        let config = read(model_type, json!({})).unwrap();
        assert_eq!(config.architecture, architecture, "{model_type}");
        assert_eq!(config.head_dim, head_dim, "{model_type}");
        assert_eq!(config.rms_norm_eps, eps, "{model_type}");
        assert_eq!(config.rope_theta, theta, "{model_type}");
        assert_eq!(config.attention_bias, model_type == "qwen2_moe");
        assert!(config.rope_frequency_divisors.is_empty());
    }
}

#[test]
fn experts_are_described_as_each_family_does() {
    for dense in ["llama", "mistral", "qwen3"] {
        let config = read(dense, json!({})).unwrap();
        assert_eq!((config.moe, config.intermediate_size), (None, 96));
        refused(
            dense,
            json!({"intermediate_size": null}),
            "\"intermediate_size\" must",
        );
    }
    let moe = |model_type: &str, change| {
        let config = read(model_type, change).unwrap();
        let moe = config.moe.expect("a sparse model");
        let widths = (
            moe.moe_intermediate_size,
            moe.shared_expert_intermediate_size,
        );
        (
            moe.num_experts,
            widths,
            moe.norm_topk_prob,
            config.intermediate_size,
        )
    };
    let local = json!({"num_experts": null, "num_local_experts": 5, "norm_topk_prob": false});
    assert_eq!(moe("mixtral", local), (5, (96, 0), true, 0));
    assert_eq!(moe("olmoe", json!({})), (6, (96, 0), false, 0));
    assert_eq!(moe("qwen2_moe", json!({})), (6, (24, 48), false, 96));
    let normed = json!({"norm_topk_prob": true});
    assert_eq!(moe("qwen3_moe", normed), (6, (24, 0), true, 96));
    let shared = json!({"shared_expert_intermediate_size": null});
    refused(
        "qwen2_moe",
        shared,
        "\"shared_expert_intermediate_size\" must",
    );
    // A family without dense layers has none, whatever else its file says.
    let config = read("mixtral", json!({"mlp_only_layers": [0]})).unwrap();
    assert!(config.moe.unwrap().dense_layers.is_empty());
    assert!(
        !read("qwen2_moe", json!({"qkv_bias": false}))
            .unwrap()
            .attention_bias
    );
}

#[test]
fn what_would_change_results_is_refused_in_every_family() {
    let switches = [
        ("llama", "attention_bias"),
        ("llama", "mlp_bias"),
        ("olmoe", "attention_bias"),
        ("qwen3", "attention_bias"),
    ];
    for (model_type, name) in switches {
        refused(
            model_type,
            json!({name: true}),
            &format!("{name} is not supported"),
        );
        read(model_type, json!({name: false})).unwrap();
    }
    refused(
        "olmoe",
        json!({"clip_qkv": 8.0}),
        "clip_qkv is not supported",
    );
    read("olmoe", json!({"clip_qkv": null})).unwrap();
    refused(
        "llama",
        json!({"hidden_act": "gelu"}),
        "hidden_act \"gelu\"",
    );
    let half = json!({"partial_rotary_factor": 0.5});
    refused("llama", half, "a partial_rotary_factor");
}

#[test]
fn windows_are_refused_where_they_cut_the_context() {
    for model_type in ["mistral", "mixtral"] {
        refused(
            model_type,
            json!({"sliding_window": 4096}),
            "a sliding window",
        );
        read(model_type, json!({"sliding_window": 8192})).unwrap();
    }
    for model_type in ["qwen2_moe", "qwen3", "qwen3_moe"] {
        let used = json!({"use_sliding_window": true, "sliding_window": 4096});
        refused(model_type, used, "a sliding window");
        read(model_type, json!({"sliding_window": 4096})).unwrap();
    }
    // Where the file does not have it the class has 4096.
    let folder = tempfile::tempdir().unwrap();
    let config = json!({
        "model_type": "mistral", "num_hidden_layers": 1, "hidden_size": 8, "num_attention_heads": 1,
        "vocab_size": 4, "max_position_embeddings": 8192, "intermediate_size": 8,
    });
    fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let read = config::read(&mut SourceFolder::new(folder.path()).unwrap());
    assert!(read.err().unwrap().to_string().contains("a sliding window"));
}

#[test]
fn rope_scaling_becomes_divisors() {
    let scaled = |change| read("llama", change).unwrap();
    let old = scaled(json!({"rope_scaling": {"type": "linear", "factor": 4.0}}));
    assert_eq!(old.rope_frequency_divisors, [4.0; 8]);
    let new = json!({"rope_parameters": {"rope_type": "linear", "factor": 2, "rope_theta": 5e5}});
    let new = scaled(new);
    assert_eq!(
        (new.rope_theta, new.rope_frequency_divisors),
        (5e5, vec![2.0; 8])
    );
    let llama3 = json!({
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 256,
    });
    let divisors = scaled(json!({"rope_scaling": llama3})).rope_frequency_divisors;
    assert_eq!((divisors[0], divisors[7]), (1.0, 8.0));
    assert!(divisors.is_sorted());

    let zero = json!({"rope_scaling": {"type": "linear", "factor": 0.0}});
    refused("llama", zero, "rope_frequency_divisors is 0");
    let lacking = json!({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}});
    refused("llama", lacking, "\"low_freq_factor\" must be a number");
    let dynamic = json!({"rope_scaling": {"type": "dynamic", "factor": 2.0}});
    refused("llama", dynamic, "rope_scaling of type \"dynamic\"");
    // A claim of absurd heads costs no memory.
    let wide = json!({"head_dim": u32::MAX, "rope_scaling": {"type": "linear", "factor": 2.0}});
    refused("llama", wide, "head_dim is 4294967295");
}
