//! Random models of any shape, as GGUF files and as Hugging Face folders: for tests, benchmarks and `odmoe synth`.
//!
//! Weights have variance 1 / columns, so that activations keep their size through any depth; [`Routing`] says what is
//! done beyond that. A tensor's values depend on the seed, its name in a checkpoint, its shape and its format alone: not
//! on the number of files, nor on how a GGUF file names its experts.

mod blocks;
mod family;
mod gguf;
mod place;
mod preset;
mod quantisation;
mod random;
mod recipe;
mod text;
mod values;
mod vocabulary;
mod write;

use crate::progress::Cancelled;
use crate::source::TensorId;
use odmoe_formats::expected::{self, ExpectedTensor};
use odmoe_formats::gguf::GgufLayoutError;
use odmoe_formats::model_config::{ConfigError, ModelConfig, MoeConfig};
use odmoe_formats::names::ExpertRole;
use odmoe_formats::safetensors::LayoutError;
use odmoe_formats::{BlockFormat, ByteCount, ExpertKey};
use recipe::LEAST_HIDDEN_FOR_REUSE;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

pub use family::Family;
pub use gguf::{ExpertNaming, GgufOptions};
pub use preset::Preset;
pub use quantisation::Quantisation;
pub use vocabulary::{TOKENIZER_VOCABULARY, special};
pub use write::{WriteOptions, Written};

/// What decides which experts a token is sent to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Routing {
    /// Nothing is done about it: the states of deep layers grow alike as the context grows, and so do choices.
    #[default]
    Unshaped,
    /// The token alone: two tokens share experts as often as chance has it.
    Uniform,
    /// A running mixture of the last tokens: the next token keeps a large part of a token's experts.
    Reuse,
}

/// The shape of a random model. Field names follow Hugging Face's `config.json`, shortened.
#[derive(Clone, Debug, PartialEq)]
pub struct RandomModel {
    /// Which family it belongs to.
    pub family: Family,
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
    /// Routed experts a layer; 0 for a dense model.
    pub experts: u32,
    /// Experts a token; 0 for a dense model.
    pub top_k: u32,
    /// Width of an expert's intermediate state.
    pub expert_ffn: u32,
    /// Rows of the embedding and tokens of the tokenizer, at least [`TOKENIZER_VOCABULARY`].
    pub vocab: u32,
    /// Layers with a dense MLP.
    pub dense_layers: Vec<u32>,
    /// Width of the dense MLPs.
    pub dense_ffn: u32,
    /// Whether the output head is the embedding table.
    pub tie: bool,
    /// Whether top-k weights are scaled to sum to one.
    pub norm_topk_prob: bool,
    /// Added to the mean square in RMS norm.
    pub rms_norm_eps: f32,
    /// Base of the rotary angles.
    pub rope_theta: f64,
    /// The longest context in tokens.
    pub max_position: u32,
    /// What decides which experts a token is sent to.
    pub routing: Routing,
    /// Of a Hugging Face folder: F32, F16 or BF16.
    pub format: BlockFormat,
    /// Files that [`Self::write`] spreads the tensors over; 1 gives `model.safetensors`.
    pub shards: usize,
    /// Decides every weight.
    pub seed: u64,
}

impl Default for RandomModel {
    /// A model of about 0.3 MB that has one of everything but dense layers.
    fn default() -> Self {
        Self {
            family: Family::Qwen3Moe,
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
            rms_norm_eps: 1e-6,
            rope_theta: 10_000.0,
            max_position: 512,
            routing: Routing::Unshaped,
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
    /// Blocks are for GGUF files and stores.
    #[error("a checkpoint in {0} cannot be written; choose F32, F16 or BF16")]
    Format(BlockFormat),
    /// No files at all.
    #[error("shards is 0; a model has at least one file")]
    NoShards,
    /// A residual stream without room for what `Routing::Reuse` keeps in it.
    #[error(
        "hidden is {0}; routing that reuses experts needs a multiple of 32 from {LEAST_HIDDEN_FOR_REUSE} on"
    )]
    ReuseTooNarrow(u32),
    /// Chance alone repeats more than `Routing::Reuse` is to.
    #[error(
        "{top_k} of {experts} experts a token recur by chance as often as routing that reuses experts is to have it; \
         have at most a quarter of them a token, or choose uniform"
    )]
    ReuseByChance {
        /// Experts a token.
        top_k: u32,
        /// Experts a layer.
        experts: u32,
    },
    /// Routing without experts.
    #[error("a dense model has no routing to shape; choose uniform")]
    ReuseWithoutExperts,
    /// A model that GGUF files cannot describe.
    #[error("GGUF cannot say {0}; write a Hugging Face folder, or change it")]
    NotInGguf(&'static str),
    /// A tensor too large to be described.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// A tensor too large to be described, or a name too long.
    #[error(transparent)]
    Gguf(#[from] GgufLayoutError),
    /// Something is there.
    #[error("{path} exists; choose another output, or replace it with --overwrite")]
    Exists {
        /// What.
        path: PathBuf,
    },
    /// The disk is too small.
    #[error("{path}: needs {needed}, but {free} are free; {missing} are missing")]
    NoRoom {
        /// Where.
        path: PathBuf,
        /// Bytes of the model.
        needed: ByteCount,
        /// Bytes that may be written.
        free: ByteCount,
        /// The difference.
        missing: ByteCount,
    },
    /// Whoever was told of the progress ended it.
    #[error("stopped; nothing is left of what was written")]
    Cancelled,
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

impl From<Cancelled> for RandomModelError {
    fn from(_: Cancelled) -> Self {
        Self::Cancelled
    }
}

impl RandomModel {
    /// Writes the model into a folder, over what is there, in [`Self::shards`] files.
    pub fn write(&self, folder: &Path) -> Result<(), RandomModelError> {
        let options = WriteOptions {
            parts: self.shards,
            overwrite: true,
            ..WriteOptions::default()
        };
        self.write_hugging_face(folder, options).map(drop)
    }

    fn check(&self) -> Result<(), RandomModelError> {
        self.model_config().check()?;
        if self.vocab < TOKENIZER_VOCABULARY {
            return Err(RandomModelError::Vocabulary(self.vocab));
        }
        if !self.format.is_float() {
            return Err(RandomModelError::Format(self.format));
        }
        if self.routing == Routing::Reuse {
            if self.hidden < LEAST_HIDDEN_FOR_REUSE || !self.hidden.is_multiple_of(32) {
                return Err(RandomModelError::ReuseTooNarrow(self.hidden));
            }
            if self.experts == 0 {
                return Err(RandomModelError::ReuseWithoutExperts);
            }
            let (top_k, experts) = (self.top_k, self.experts);
            if u64::from(top_k) * 4 > experts.into() {
                return Err(RandomModelError::ReuseByChance { top_k, experts });
            }
        }
        Ok(())
    }

    fn sparse_layers(&self) -> impl Iterator<Item = u32> + '_ {
        let sparse = |layer: &u32| self.experts > 0 && !self.dense_layers.contains(layer);
        (0..self.layers).filter(sparse)
    }

    fn resident(&self) -> Vec<ExpectedTensor> {
        expected::resident_tensors(&self.model_config()).expect("the architecture is known")
    }

    fn expert_id(&self, layer: u32, index: u32, role: ExpertRole) -> TensorId {
        TensorId::Expert(ExpertKey::routed(layer, index), role)
    }

    /// Every tensor of every expert, with its shape.
    fn experts(&self) -> impl Iterator<Item = (TensorId, Vec<u64>)> + '_ {
        let keys = self
            .sparse_layers()
            .flat_map(|layer| (0..self.experts).map(move |index| (layer, index)));
        keys.flat_map(move |(layer, index)| {
            ExpertRole::ALL.map(|role| {
                let shape = role.shape(self.hidden, self.expert_ffn);
                (self.expert_id(layer, index, role), shape.to_vec())
            })
        })
    }

    /// The configuration that a conversion of this model gives.
    pub fn model_config(&self) -> ModelConfig {
        ModelConfig {
            architecture: self.family.architecture().into(),
            num_hidden_layers: self.layers,
            hidden_size: self.hidden,
            num_attention_heads: self.heads,
            num_key_value_heads: self.kv_heads,
            head_dim: self.head_dim,
            vocab_size: self.vocab,
            rms_norm_eps: self.rms_norm_eps,
            rope_theta: self.rope_theta,
            max_position_embeddings: self.max_position,
            tie_word_embeddings: self.tie,
            intermediate_size: self.dense_ffn,
            attention_bias: false,
            rope_frequency_divisors: Vec::new(),
            moe: (self.experts > 0).then(|| MoeConfig {
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
        let mut config = self.family.config_fields(self);
        let common = json!({
            "attention_bias": false,
            "eos_token_id": special::IM_END,
            "pad_token_id": special::END_OF_TEXT,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "hidden_size": self.hidden,
            "max_position_embeddings": self.max_position,
            "num_attention_heads": self.heads,
            "num_hidden_layers": self.layers,
            "num_key_value_heads": self.kv_heads,
            "rms_norm_eps": shortest(self.rms_norm_eps),
            "rope_scaling": null,
            "rope_theta": self.rope_theta,
            "tie_word_embeddings": self.tie,
            "torch_dtype": dtype,
            "vocab_size": self.vocab,
        });
        let (Value::Object(config_fields), Value::Object(common)) = (&mut config, common) else {
            unreachable!("both are objects")
        };
        config_fields.extend(common);
        config
    }
}

/// The number as people write it: 1e-6, not the nearest binary32 spelled out as a binary64.
fn shortest(number: f32) -> f64 {
    number
        .to_string()
        .parse()
        .expect("a number that was written")
}

#[cfg(test)]
mod tests;
