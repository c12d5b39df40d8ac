//! Which tensors a model of a given configuration has, by canonical name and shape.

use crate::BlockFormat;
use crate::architecture::{self, Architecture, QueryKeyNorm};
use crate::model_config::ModelConfig;
use crate::names::{self, ExpertRole, LayerTensor};

/// What a tensor is used for; decides how it may be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TensorUse {
    /// Weight of a norm: F32, which is exact from every float format.
    Norm,
    /// Bias of a projection: F32, as norms are.
    Bias,
    /// Router: a float format, never quantised.
    Router,
    /// Gate of the shared expert, one row: a float format, never quantised.
    SharedGate,
    /// A matrix of a product, or the embedding table: any format.
    Matrix,
}

impl TensorUse {
    /// Whether a store may hold such a tensor in `format`.
    pub fn allows(self, format: BlockFormat) -> bool {
        match self {
            Self::Norm | Self::Bias => format == BlockFormat::F32,
            Self::Router | Self::SharedGate => format.is_float(),
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
    let architecture = architecture::find(&config.architecture)?;
    Some(all_tensors(architecture, config))
}

/// The tensors of each routed expert of a model that has some, in the order in which an object holds them.
pub fn expert_tensors(config: &ModelConfig) -> [(ExpertRole, [u64; 2]); 3] {
    ExpertRole::ALL.map(|role| {
        (
            role,
            role.shape(config.hidden_size, config.moe_intermediate_size()),
        )
    })
}

fn all_tensors(architecture: &Architecture, config: &ModelConfig) -> Vec<ExpectedTensor> {
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
        let mut tensors = attention_tensors(architecture, config);
        tensors.push((LayerTensor::PostAttentionNorm, vec![hidden]));
        match config.is_sparse(layer) {
            true => tensors.extend(sparse_tensors(architecture, config)),
            false => tensors.extend(dense_tensors(config)),
        }
        all.extend(tensors.into_iter().map(|(tensor, shape)| ExpectedTensor {
            name: names::in_layer(layer, tensor),
            shape,
            tensor_use: use_of(tensor),
        }));
    }
    all.push(top(names::NORM, vec![hidden], TensorUse::Norm));
    if !config.tie_word_embeddings {
        all.push(top(names::LM_HEAD, vec![vocab, hidden], TensorUse::Matrix));
    }
    all
}

type LayerTensors = Vec<(LayerTensor, Vec<u64>)>;

fn attention_tensors(architecture: &Architecture, config: &ModelConfig) -> LayerTensors {
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
    ];
    if config.attention_bias {
        tensors.push((T::QBias, vec![queries]));
        tensors.push((T::KBias, vec![keys]));
        tensors.push((T::VBias, vec![keys]));
    }
    let normed = match architecture.query_key_norm {
        QueryKeyNorm::Absent => None,
        QueryKeyNorm::EachHead => Some((head_dim, head_dim)),
        QueryKeyNorm::AllHeads => Some((queries, keys)),
    };
    if let Some((queries, keys)) = normed {
        tensors.push((T::QNorm, vec![queries]));
        tensors.push((T::KNorm, vec![keys]));
    }
    tensors.push((T::OProj, vec![hidden, queries]));
    tensors
}

fn sparse_tensors(architecture: &Architecture, config: &ModelConfig) -> LayerTensors {
    use LayerTensor as T;
    let hidden = u64::from(config.hidden_size);
    let mut tensors = vec![(T::Router, vec![u64::from(config.num_experts()), hidden])];
    if architecture.shared_expert {
        let width = u64::from(config.shared_expert_intermediate_size());
        tensors.push((T::SharedGateProj, vec![width, hidden]));
        tensors.push((T::SharedUpProj, vec![width, hidden]));
        tensors.push((T::SharedDownProj, vec![hidden, width]));
        tensors.push((T::SharedExpertGate, vec![1, hidden]));
    }
    tensors
}

fn dense_tensors(config: &ModelConfig) -> LayerTensors {
    use LayerTensor as T;
    let hidden = u64::from(config.hidden_size);
    let width = u64::from(config.intermediate_size);
    vec![
        (T::GateProj, vec![width, hidden]),
        (T::UpProj, vec![width, hidden]),
        (T::DownProj, vec![hidden, width]),
    ]
}

const fn use_of(tensor: LayerTensor) -> TensorUse {
    use LayerTensor as T;
    match tensor {
        T::Router => TensorUse::Router,
        T::SharedExpertGate => TensorUse::SharedGate,
        T::QBias | T::KBias | T::VBias => TensorUse::Bias,
        norm if norm.is_norm() => TensorUse::Norm,
        _ => TensorUse::Matrix,
    }
}

#[cfg(test)]
mod tests;
