//! Which tensors a model of a given configuration has, by canonical name and shape.

use crate::BlockFormat;
use crate::model_config::ModelConfig;
use crate::names::{self, ExpertRole, LayerTensor};

/// The architecture of Qwen3-MoE, as GGUF spells it.
pub const QWEN3_MOE: &str = "qwen3moe";

/// What a tensor is used for; decides how it may be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TensorUse {
    /// Weight of a norm: F32, which is exact from every float format.
    Norm,
    /// Router: a float format, never quantised.
    Router,
    /// A matrix of a product, or the embedding table: any format.
    Matrix,
}

impl TensorUse {
    /// Whether a store may hold such a tensor in `format`.
    pub fn allows(self, format: BlockFormat) -> bool {
        match self {
            Self::Norm => format == BlockFormat::F32,
            Self::Router => format.is_float(),
            Self::Matrix => true,
        }
    }
}

/// A resident tensor that a configuration calls for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpectedTensor {
    /// Canonical name.
    pub name: String,
    /// Rows first, elements of a row last.
    pub shape: Vec<u64>,
    /// What it is for.
    pub tensor_use: TensorUse,
}

/// Every resident tensor of a model, in the order of a forward pass; None for an architecture that this build does
/// not know. The configuration must have passed [`ModelConfig::check`], which bounds the answer.
pub fn resident_tensors(config: &ModelConfig) -> Option<Vec<ExpectedTensor>> {
    match config.architecture.as_str() {
        QWEN3_MOE => Some(qwen3_moe(config)),
        _ => None,
    }
}

/// The tensors of each routed expert, in the order in which an object holds them.
pub fn expert_tensors(config: &ModelConfig) -> [(ExpertRole, [u64; 2]); 3] {
    ExpertRole::ALL.map(|role| {
        (
            role,
            role.shape(config.hidden_size, config.moe_intermediate_size()),
        )
    })
}

fn qwen3_moe(config: &ModelConfig) -> Vec<ExpectedTensor> {
    let hidden = u64::from(config.hidden_size);
    let vocab = u64::from(config.vocab_size);
    let top = |name: &str, shape, tensor_use| ExpectedTensor {
        name: name.into(),
        shape,
        tensor_use,
    };

    let mut all = vec![top(
        names::EMBED_TOKENS,
        vec![vocab, hidden],
        TensorUse::Matrix,
    )];
    for layer in 0..config.num_hidden_layers {
        for (tensor, shape) in qwen3_moe_layer(config, layer) {
            let tensor_use = match tensor {
                LayerTensor::Router => TensorUse::Router,
                norm if norm.is_norm() => TensorUse::Norm,
                _ => TensorUse::Matrix,
            };
            all.push(ExpectedTensor {
                name: names::in_layer(layer, tensor),
                shape,
                tensor_use,
            });
        }
    }
    all.push(top(names::NORM, vec![hidden], TensorUse::Norm));
    if !config.tie_word_embeddings {
        all.push(top(names::LM_HEAD, vec![vocab, hidden], TensorUse::Matrix));
    }
    all
}

fn qwen3_moe_layer(config: &ModelConfig, layer: u32) -> Vec<(LayerTensor, Vec<u64>)> {
    use LayerTensor as T;
    let hidden = u64::from(config.hidden_size);
    let head_dim = u64::from(config.head_dim);
    let queries = u64::from(config.num_attention_heads) * head_dim;
    let keys = u64::from(config.num_key_value_heads) * head_dim;

    let mut tensors = vec![
        (T::InputNorm, vec![hidden]),
        (T::QProj, vec![queries, hidden]),
        (T::KProj, vec![keys, hidden]),
        (T::VProj, vec![keys, hidden]),
        (T::QNorm, vec![head_dim]),
        (T::KNorm, vec![head_dim]),
        (T::OProj, vec![hidden, queries]),
        (T::PostAttentionNorm, vec![hidden]),
    ];
    if config.is_sparse(layer) {
        tensors.push((T::Router, vec![u64::from(config.num_experts()), hidden]));
    } else {
        let width = u64::from(config.intermediate_size);
        tensors.push((T::GateProj, vec![width, hidden]));
        tensors.push((T::UpProj, vec![width, hidden]));
        tensors.push((T::DownProj, vec![hidden, width]));
    }
    tensors
}
