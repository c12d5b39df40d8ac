//! One small configuration for each family and each of its switches.

use super::model::small_config;
use odmoe_formats::model_config::{ModelConfig, MoeConfig};

/// Every family, named by what the configuration is about.
pub fn families() -> Vec<(&'static str, ModelConfig)> {
    vec![
        ("llama", llama()),
        ("llama with biases and divisors", biased_llama()),
        ("mixtral", mixtral()),
        ("qwen2moe", qwen2moe()),
        ("qwen3", qwen3()),
        ("olmoe", olmoe()),
    ]
}

/// Rows of whole superblocks, so that every format can store every matrix.
pub fn superblock_config() -> ModelConfig {
    let config = sparse("qwen2moe", |moe| {
        moe.num_experts = 8;
        moe.moe_intermediate_size = 256;
        moe.shared_expert_intermediate_size = 256;
    });
    ModelConfig {
        hidden_size: 256,
        num_attention_heads: 8,
        head_dim: 32,
        attention_bias: true,
        ..config
    }
}

/// Without experts.
pub fn dense(architecture: &str) -> ModelConfig {
    ModelConfig {
        architecture: architecture.into(),
        num_hidden_layers: 3,
        moe: None,
        ..small_config()
    }
}

/// The experts of [`small_config`] in every layer, changed.
fn sparse(architecture: &str, change: impl FnOnce(&mut MoeConfig)) -> ModelConfig {
    let mut config = ModelConfig {
        architecture: architecture.into(),
        num_hidden_layers: 3,
        intermediate_size: 0,
        ..small_config()
    };
    let moe = config.moe.as_mut().expect("a sparse model");
    moe.dense_layers = vec![];
    change(moe);
    config
}

fn llama() -> ModelConfig {
    dense("llama")
}

/// Divisors as Llama 3's scaling gives them: ones for the fast pairs, eights for the slow, and what lies between.
fn biased_llama() -> ModelConfig {
    ModelConfig {
        attention_bias: true,
        tie_word_embeddings: true,
        rope_frequency_divisors: vec![1.0, 1.0, 1.0, 1.7, 3.9, 8.0, 8.0, 8.0],
        ..dense("llama")
    }
}

fn mixtral() -> ModelConfig {
    sparse("llama", |moe| moe.num_experts_per_tok = 2)
}

/// With a dense layer, and a shared expert that is wider than it.
fn qwen2moe() -> ModelConfig {
    let config = sparse("qwen2moe", |moe| {
        moe.norm_topk_prob = false;
        moe.dense_layers = vec![0];
        moe.shared_expert_intermediate_size = 192;
    });
    ModelConfig {
        attention_bias: true,
        intermediate_size: 128,
        ..config
    }
}

fn qwen3() -> ModelConfig {
    dense("qwen3")
}

fn olmoe() -> ModelConfig {
    sparse("olmoe", |moe| moe.norm_topk_prob = false)
}
