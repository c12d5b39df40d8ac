//! Random models of any shape, as Hugging Face folders: for tests, benchmarks and `odmoe synth`.
//!
//! Weights are uniform with variance 1 / columns, so that activations keep their size through any depth. A tensor's
//! values depend on the seed, its name and its shape alone, not on the number of files.

mod text;
mod weights;

use odmoe_formats::BlockFormat;
use odmoe_formats::architecture::QWEN3_MOE;
use odmoe_formats::model_config::{ConfigError, ModelConfig, MoeConfig};
use odmoe_formats::safetensors::LayoutError;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

pub use text::{TOKENIZER_VOCABULARY, special};

/// The shape of a random model. Field names follow Hugging Face's `config.json`, shortened.
#[derive(Clone, Debug, PartialEq)]
pub struct RandomModel {
    /// Transformer layers.
    pub layers: u32,
    /// Width of the residual stream.
    pub hidden: u32,
    /// Query heads.
    pub heads: u32,
    /// Key/value heads; divides `heads`.
    pub kv_heads: u32,
    /// Width of a head, even.
    pub head_dim: u32,
    /// Routed experts a layer.
    pub experts: u32,
    /// Experts a token.
    pub top_k: u32,
    /// Width of an expert's intermediate state.
    pub expert_ffn: u32,
    /// Rows of the embedding, at least [`TOKENIZER_VOCABULARY`]; the tokenizer has only that many.
    pub vocab: u32,
    /// Layers with a dense MLP.
    pub dense_layers: Vec<u32>,
    /// Width of the dense MLPs.
    pub dense_ffn: u32,
    /// Whether the output head is the embedding table.
    pub tie: bool,
    /// Whether top-k weights are scaled to sum to one.
    pub norm_topk_prob: bool,
    /// The longest context in tokens.
    pub max_position: u32,
    /// F32, F16 or BF16.
    pub format: BlockFormat,
    /// Files that the tensors are spread over; 1 gives `model.safetensors`.
    pub shards: usize,
    /// Decides every weight.
    pub seed: u64,
}

impl Default for RandomModel {
    /// A model of about 0.3 MB that has one of everything but dense layers.
    fn default() -> Self {
        Self {
            layers: 2,
            hidden: 64,
            heads: 4,
            kv_heads: 2,
            head_dim: 16,
            experts: 8,
            top_k: 2,
            expert_ffn: 32,
            vocab: 300,
            dense_layers: Vec::new(),
            dense_ffn: 96,
            tie: false,
            norm_topk_prob: true,
            max_position: 512,
            format: BlockFormat::BF16,
            shards: 1,
            seed: 0,
        }
    }
}

/// A random model that cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RandomModelError {
    /// A shape that no model can have.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Too few rows for the tokenizer.
    #[error("vocab is {0}; the tokenizer needs {TOKENIZER_VOCABULARY}")]
    Vocabulary(u32),
    /// Blocks are for stores.
    #[error("a checkpoint in {0} cannot be written; choose F32, F16 or BF16")]
    Format(BlockFormat),
    /// No files at all.
    #[error("shards is 0; a model has at least one file")]
    NoShards,
    /// A tensor too large to be described.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The system refused.
    #[error("{path}: {source}")]
    Io {
        /// Which file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

impl RandomModelError {
    fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}

impl RandomModel {
    /// Writes the model into a folder, which is made where it is not there. Memory use does not grow with the model.
    pub fn write(&self, folder: &Path) -> Result<(), RandomModelError> {
        self.check()?;
        fs::create_dir_all(folder).map_err(RandomModelError::io(folder))?;
        weights::write(self, folder)?;
        let files = [
            ("tokenizer.json", text::tokenizer()),
            (
                "tokenizer_config.json",
                text::tokenizer_config(self.max_position),
            ),
            ("generation_config.json", text::generation_config()),
            // Last: without it the folder is no model.
            ("config.json", self.config_json()),
        ];
        for (name, contents) in files {
            write_json(&folder.join(name), &contents)?;
        }
        Ok(())
    }

    fn check(&self) -> Result<(), RandomModelError> {
        self.model_config().check()?;
        if self.vocab < TOKENIZER_VOCABULARY {
            return Err(RandomModelError::Vocabulary(self.vocab));
        }
        if !self.format.is_float() {
            return Err(RandomModelError::Format(self.format));
        }
        if self.shards == 0 {
            return Err(RandomModelError::NoShards);
        }
        Ok(())
    }

    /// The configuration that a conversion of this model gives.
    pub fn model_config(&self) -> ModelConfig {
        ModelConfig {
            architecture: QWEN3_MOE.into(),
            num_hidden_layers: self.layers,
            hidden_size: self.hidden,
            num_attention_heads: self.heads,
            num_key_value_heads: self.kv_heads,
            head_dim: self.head_dim,
            vocab_size: self.vocab,
            rms_norm_eps: 1e-6,
            rope_theta: 10_000.0,
            max_position_embeddings: self.max_position,
            tie_word_embeddings: self.tie,
            intermediate_size: self.dense_ffn,
            attention_bias: false,
            rope_frequency_divisors: Vec::new(),
            moe: Some(MoeConfig {
                num_experts: self.experts,
                num_experts_per_tok: self.top_k,
                moe_intermediate_size: self.expert_ffn,
                norm_topk_prob: self.norm_topk_prob,
                dense_layers: self.dense_layers.clone(),
                shared_expert_intermediate_size: 0,
            }),
        }
    }

    fn config_json(&self) -> Value {
        let dtype = match self.format {
            BlockFormat::F32 => "float32",
            BlockFormat::F16 => "float16",
            _ => "bfloat16",
        };
        json!({
            "architectures": ["Qwen3MoeForCausalLM"],
            "model_type": "qwen3_moe",
            "attention_bias": false,
            "decoder_sparse_step": 1,
            "eos_token_id": special::IM_END,
            "pad_token_id": special::END_OF_TEXT,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "hidden_size": self.hidden,
            "intermediate_size": self.dense_ffn,
            "max_position_embeddings": self.max_position,
            "mlp_only_layers": self.dense_layers,
            "moe_intermediate_size": self.expert_ffn,
            "norm_topk_prob": self.norm_topk_prob,
            "num_attention_heads": self.heads,
            "num_experts": self.experts,
            "num_experts_per_tok": self.top_k,
            "num_hidden_layers": self.layers,
            "num_key_value_heads": self.kv_heads,
            "rms_norm_eps": 1e-6,
            "rope_scaling": null,
            "rope_theta": 10000.0,
            "sliding_window": null,
            "tie_word_embeddings": self.tie,
            "torch_dtype": dtype,
            "use_sliding_window": false,
            "vocab_size": self.vocab,
        })
    }
}

fn write_json(path: &Path, value: &Value) -> Result<(), RandomModelError> {
    let json = serde_json::to_vec_pretty(value).expect("a JSON value serialises");
    fs::write(path, json).map_err(RandomModelError::io(path))
}

#[cfg(test)]
mod tests;
