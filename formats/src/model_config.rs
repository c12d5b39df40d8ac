//! The architecture and hyper-parameters of a model, as the manifest carries them.

use crate::architecture::{self, Experts};
use serde::{Deserialize, Serialize};

/// What a model family's forward pass needs to know. Names follow Hugging Face's `config.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelConfig {
    /// The family's name as GGUF spells it: `qwen3moe` (see [`crate::architecture`]).
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
    /// Whether the query, key and value projections have biases.
    #[serde(default, skip_serializing_if = "is_false")]
    pub attention_bias: bool,
    /// What each pair's rotary frequency is divided by, [D / 2]; empty where nothing is. Linear scaling divides all by
    /// its factor, Llama 3's divides the slow ones.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rope_frequency_divisors: Vec<f32>,
    /// The mixture-of-experts part; absent in a dense model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moe: Option<MoeConfig>,
}

fn is_false(flag: &bool) -> bool {
    !flag
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
    /// Width of the shared expert that every token passes through; 0 without one.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub shared_expert_intermediate_size: u32,
}

fn is_zero(count: &u32) -> bool {
    *count == 0
}

/// The most layers that a configuration may claim.
pub const MAX_LAYERS: u32 = 1024;
/// The most routed experts that a layer may claim.
pub const MAX_EXPERTS_PER_LAYER: u32 = 65_536;
/// The largest width of anything: the vocabulary, a hidden state, all heads together.
pub const MAX_WIDTH: u32 = 1 << 24;
/// The widest head.
pub const MAX_HEAD_DIM: u32 = 4096;

/// A configuration that no model can have, or that is too large to be meant.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A size of nothing.
    #[error("{field} is 0")]
    Zero {
        /// Which.
        field: &'static str,
    },
    /// Larger than any model of today by far.
    #[error("{field} is {found}, more than the {limit} that this build accepts")]
    TooLarge {
        /// Which.
        field: &'static str,
        /// What it says.
        found: u64,
        /// The most.
        limit: u64,
    },
    /// Grouped-query attention needs whole groups.
    #[error(
        "num_attention_heads ({attention}) is not a multiple of num_key_value_heads ({key_value})"
    )]
    HeadGroups {
        /// Query heads.
        attention: u32,
        /// Key/value heads.
        key_value: u32,
    },
    /// Rotary embedding turns pairs of elements.
    #[error("head_dim is {0}, an odd number; rotary embedding turns pairs")]
    OddHeadDim(u32),
    /// One divisor a pair, or none at all.
    #[error("rope_frequency_divisors has {found} numbers; there are {pairs} rotary pairs")]
    RopeDivisors {
        /// How many there are.
        found: usize,
        /// Half the head's width.
        pairs: u32,
    },
    /// The router cannot choose more experts than there are.
    #[error("num_experts_per_tok is {chosen} but there are {experts} experts")]
    TopK {
        /// How many are chosen.
        chosen: u32,
        /// How many there are.
        experts: u32,
    },
    /// A number that is not a usable one.
    #[error("{field} is {found}; it must be finite and greater than 0")]
    NotPositive {
        /// Which.
        field: &'static str,
        /// What it says.
        found: f64,
    },
    /// The list of dense layers is not ascending or names a layer that is not there.
    #[error("dense_layers must be ascending and below {layers}; {found} is not")]
    DenseLayers {
        /// The first that is wrong.
        found: u32,
        /// How many layers there are.
        layers: u32,
    },
    /// Experts that no layer routes to.
    #[error("every layer is dense but experts are described; leave them out of a dense model")]
    NoSparseLayer,
    /// Experts in an architecture without, or none in one with.
    #[error("{architecture} models {}", if *experts { "have no routed experts, but experts are described" } else { "have routed experts, but none are described" })]
    Experts {
        /// The architecture.
        architecture: &'static str,
        /// Whether experts are described.
        experts: bool,
    },
    /// A shared expert in an architecture without, or none in one with.
    #[error("shared_expert_intermediate_size is {found}; {architecture} models have {} shared expert", if *found == 0 { "a" } else { "no" })]
    SharedExpert {
        /// The architecture.
        architecture: &'static str,
        /// Width of the shared expert.
        found: u32,
    },
    /// An architecture name that cannot be one.
    #[error("architecture {0:?} is not a name of 1 to 64 letters, digits, '-', '_' or '.'")]
    ArchitectureName(String),
}

impl ModelConfig {
    /// Whether a layer routes to experts.
    pub fn is_sparse(&self, layer: u32) -> bool {
        let moe = self.moe.as_ref();
        moe.is_some_and(|moe| moe.dense_layers.binary_search(&layer).is_err())
    }

    /// Routed experts a layer; 0 in a dense model.
    pub fn num_experts(&self) -> u32 {
        self.moe.as_ref().map_or(0, |moe| moe.num_experts)
    }

    /// Experts that a token is sent to in a sparse layer; 0 in a dense model.
    pub fn num_experts_per_tok(&self) -> u32 {
        self.moe.as_ref().map_or(0, |moe| moe.num_experts_per_tok)
    }

    /// Width of one expert's intermediate state; 0 in a dense model.
    pub fn moe_intermediate_size(&self) -> u32 {
        self.moe.as_ref().map_or(0, |moe| moe.moe_intermediate_size)
    }

    /// Width of the shared expert; 0 without one.
    pub fn shared_expert_intermediate_size(&self) -> u32 {
        let moe = self.moe.as_ref();
        moe.map_or(0, |moe| moe.shared_expert_intermediate_size)
    }

    /// Layers that route to experts. Only of a configuration that passed [`Self::check`].
    pub fn sparse_layers(&self) -> u32 {
        let moe = self.moe.as_ref();
        moe.map_or(0, |moe| {
            self.num_hidden_layers
                .saturating_sub(moe.dense_layers.len() as u32)
        })
    }

    /// Routed experts of all layers. Only of a configuration that passed [`Self::check`].
    pub fn routed_experts(&self) -> u64 {
        u64::from(self.sparse_layers()) * u64::from(self.num_experts())
    }

    /// Whether such a model can be. What passes has no size of 0, no product of two sizes that overflows 64 bits,
    /// and at most [`MAX_LAYERS`] x [`MAX_EXPERTS_PER_LAYER`] experts.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.check_name()?;
        self.check_sizes()?;
        self.check_numbers()?;
        self.check_relations()?;
        self.check_dense_layers()?;
        self.check_architecture()
    }

    fn check_name(&self) -> Result<(), ConfigError> {
        let name = &self.architecture;
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        if name.is_empty() || name.len() > 64 || !name.bytes().all(allowed) {
            return Err(ConfigError::ArchitectureName(
                name.chars().take(64).collect(),
            ));
        }
        Ok(())
    }

    fn check_sizes(&self) -> Result<(), ConfigError> {
        let sizes = [
            ("num_hidden_layers", self.num_hidden_layers, MAX_LAYERS),
            ("hidden_size", self.hidden_size, MAX_WIDTH),
            ("num_attention_heads", self.num_attention_heads, MAX_WIDTH),
            ("num_key_value_heads", self.num_key_value_heads, MAX_WIDTH),
            ("head_dim", self.head_dim, MAX_HEAD_DIM),
            ("vocab_size", self.vocab_size, MAX_WIDTH),
            (
                "max_position_embeddings",
                self.max_position_embeddings,
                1 << 30,
            ),
        ];
        for (field, found, limit) in sizes {
            check_size(field, found.into(), limit.into())?;
        }
        let all_heads = u64::from(self.num_attention_heads) * u64::from(self.head_dim);
        check_size(
            "num_attention_heads * head_dim",
            all_heads,
            MAX_WIDTH.into(),
        )?;
        if let Some(moe) = &self.moe {
            check_moe_sizes(moe)?;
        }
        if self.sparse_layers() < self.num_hidden_layers {
            let width = self.intermediate_size.into();
            check_size("intermediate_size", width, MAX_WIDTH.into())?;
        }
        Ok(())
    }

    fn check_numbers(&self) -> Result<(), ConfigError> {
        let numbers = [
            ("rms_norm_eps", f64::from(self.rms_norm_eps)),
            ("rope_theta", self.rope_theta),
        ];
        let divisors = self.rope_frequency_divisors.iter();
        let divisors = divisors.map(|divisor| ("rope_frequency_divisors", f64::from(*divisor)));
        for (field, found) in numbers.into_iter().chain(divisors) {
            if !(found.is_finite() && found > 0.0) {
                return Err(ConfigError::NotPositive { field, found });
            }
        }
        Ok(())
    }

    fn check_relations(&self) -> Result<(), ConfigError> {
        let (attention, key_value) = (self.num_attention_heads, self.num_key_value_heads);
        if !attention.is_multiple_of(key_value) {
            return Err(ConfigError::HeadGroups {
                attention,
                key_value,
            });
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(ConfigError::OddHeadDim(self.head_dim));
        }
        let divisors = self.rope_frequency_divisors.len();
        if divisors != 0 && divisors != self.head_dim as usize / 2 {
            return Err(ConfigError::RopeDivisors {
                found: divisors,
                pairs: self.head_dim / 2,
            });
        }
        let (chosen, experts) = (self.num_experts_per_tok(), self.num_experts());
        if chosen > experts {
            return Err(ConfigError::TopK { chosen, experts });
        }
        Ok(())
    }

    fn check_dense_layers(&self) -> Result<(), ConfigError> {
        let layers = self.num_hidden_layers;
        let mut least = 0;
        let Some(moe) = &self.moe else { return Ok(()) };
        for &found in &moe.dense_layers {
            if found < least || found >= layers {
                return Err(ConfigError::DenseLayers { found, layers });
            }
            least = found + 1;
        }
        if self.sparse_layers() == 0 {
            return Err(ConfigError::NoSparseLayer);
        }
        Ok(())
    }

    /// What the architecture, if it is a known one, says about experts.
    fn check_architecture(&self) -> Result<(), ConfigError> {
        let Some(known) = architecture::find(&self.architecture) else {
            return Ok(());
        };
        let (architecture, experts) = (known.name, self.moe.is_some());
        match (known.experts, experts) {
            (Experts::Never, true) | (Experts::Always, false) => {
                return Err(ConfigError::Experts {
                    architecture,
                    experts,
                });
            }
            _ => {}
        }
        let found = self.shared_expert_intermediate_size();
        if known.shared_expert != (found > 0) {
            return Err(ConfigError::SharedExpert {
                architecture,
                found,
            });
        }
        Ok(())
    }
}

fn check_moe_sizes(moe: &MoeConfig) -> Result<(), ConfigError> {
    let sizes = [
        ("num_experts", moe.num_experts, MAX_EXPERTS_PER_LAYER),
        (
            "num_experts_per_tok",
            moe.num_experts_per_tok,
            MAX_EXPERTS_PER_LAYER,
        ),
        (
            "moe_intermediate_size",
            moe.moe_intermediate_size,
            MAX_WIDTH,
        ),
    ];
    for (field, found, limit) in sizes {
        check_size(field, found.into(), limit.into())?;
    }
    match moe.shared_expert_intermediate_size {
        0 => Ok(()),
        shared => check_size(
            "shared_expert_intermediate_size",
            shared.into(),
            MAX_WIDTH.into(),
        ),
    }
}

fn check_size(field: &'static str, found: u64, limit: u64) -> Result<(), ConfigError> {
    match found {
        0 => Err(ConfigError::Zero { field }),
        _ if found > limit => Err(ConfigError::TooLarge {
            field,
            found,
            limit,
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
pub(crate) mod tests;
