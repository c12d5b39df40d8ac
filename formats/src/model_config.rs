//! The architecture and hyper-parameters of a model, as the manifest carries them.

use serde::{Deserialize, Serialize};

/// What a model family's forward pass needs to know. Names follow Hugging Face's `config.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelConfig {
    /// The family's name as GGUF spells it: `qwen3moe`.
    pub architecture: String,
    /// Transformer layers.
    pub num_hidden_layers: u32,
    /// Width of the residual stream.
    pub hidden_size: u32,
    /// Query heads.
    pub num_attention_heads: u32,
    /// Key/value heads; divides `num_attention_heads`.
    pub num_key_value_heads: u32,
    /// Width of one head.
    pub head_dim: u32,
    /// Rows of the embedding and of the output head.
    pub vocab_size: u32,
    /// Added to the mean square in RMS norm.
    pub rms_norm_eps: f32,
    /// Base of the rotary angles.
    pub rope_theta: f64,
    /// The longest context that the model was made for, in tokens.
    pub max_position_embeddings: u32,
    /// Whether the output head is the embedding table.
    pub tie_word_embeddings: bool,
    /// Width of a dense MLP layer; 0 where every layer is sparse.
    pub intermediate_size: u32,
    /// The mixture-of-experts part.
    pub moe: MoeConfig,
}

/// The mixture-of-experts part of a model's configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MoeConfig {
    /// Routed experts a layer.
    pub num_experts: u32,
    /// Experts that a token is sent to (top-k).
    pub num_experts_per_tok: u32,
    /// Width of one expert's intermediate state.
    pub moe_intermediate_size: u32,
    /// Whether the top-k weights are scaled to sum to one.
    pub norm_topk_prob: bool,
    /// Layers with a dense MLP in place of experts, ascending.
    pub dense_layers: Vec<u32>,
}
