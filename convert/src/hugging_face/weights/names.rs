//! What the tensors of a checkpoint are, by the names that the families' published checkpoints have.

use crate::source::TensorId;
use odmoe_formats::ExpertKey;
use odmoe_formats::model_config::ModelConfig;
use odmoe_formats::names::{self, ExpertRole, LayerTensor};

/// What a name stands for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// One tensor.
    Tensor(TensorId),
    /// All experts of a layer in one tensor.
    Stack(Stack),
}

/// A tensor of all experts of a layer, as transformers holds them in memory.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stack {
    layer: u32,
    /// The matrices of one expert, row after row.
    roles: &'static [ExpertRole],
}

impl Stack {
    /// [E, rows of all its roles, columns].
    pub fn shape(&self, config: &ModelConfig) -> [u64; 3] {
        let [rows, columns] =
            self.roles[0].shape(config.hidden_size, config.moe_intermediate_size());
        let all_rows = rows * self.roles.len() as u64;
        [config.num_experts().into(), all_rows, columns]
    }

    /// Its matrices in the order in which they lie, all of one size.
    pub fn matrices(&self, config: &ModelConfig) -> Vec<(ExpertKey, ExpertRole)> {
        let experts = 0..config.num_experts();
        let keys = experts.map(|index| ExpertKey::routed(self.layer, index));
        keys.flat_map(|key| self.roles.iter().map(move |role| (key, *role)))
            .collect()
    }
}

/// Tensors that follow from others, and that some checkpoints hold all the same.
pub(super) fn is_derived(name: &str, config: &ModelConfig) -> bool {
    name.ends_with("rotary_emb.inv_freq")
        || (config.tie_word_embeddings && name == "lm_head.weight")
}

/// What a tensor is; None where the configuration has no such layer or expert. Whether the architecture has such a
/// tensor is checked once all are known.
pub(super) fn meaning(name: &str, config: &ModelConfig) -> Option<Meaning> {
    let resident = |name: &str| Some(Meaning::Tensor(TensorId::Resident(name.into())));
    match name {
        "model.embed_tokens.weight" => return resident(names::EMBED_TOKENS),
        "model.norm.weight" => return resident(names::NORM),
        "lm_head.weight" => return resident(names::LM_HEAD),
        _ => {}
    }
    let (layer, part) = name.strip_prefix("model.layers.")?.split_once('.')?;
    let layer = plain_number(layer, config.num_hidden_layers)?;
    if config.moe.is_some()
        && let Some(found) = expert_meaning(layer, part, config)
    {
        return Some(found);
    }
    resident(&names::in_layer(layer, layer_tensor(part, config)?))
}

fn layer_tensor(part: &str, config: &ModelConfig) -> Option<LayerTensor> {
    if let Some(biased) = part.strip_suffix(".bias") {
        return match biased {
            _ if !config.attention_bias => None,
            "self_attn.q_proj" => Some(LayerTensor::QBias),
            "self_attn.k_proj" => Some(LayerTensor::KBias),
            "self_attn.v_proj" => Some(LayerTensor::VBias),
            _ => None,
        };
    }
    let part = part.strip_suffix(".weight")?;
    let shared = config.shared_expert_intermediate_size() > 0;
    Some(match part {
        _ if part.starts_with("mlp.shared_expert") && !shared => return None,
        "input_layernorm" => LayerTensor::InputNorm,
        "post_attention_layernorm" => LayerTensor::PostAttentionNorm,
        "self_attn.q_proj" => LayerTensor::QProj,
        "self_attn.k_proj" => LayerTensor::KProj,
        "self_attn.v_proj" => LayerTensor::VProj,
        "self_attn.o_proj" => LayerTensor::OProj,
        "self_attn.q_norm" => LayerTensor::QNorm,
        "self_attn.k_norm" => LayerTensor::KNorm,
        "mlp.gate" | "block_sparse_moe.gate" => LayerTensor::Router,
        "mlp.gate_proj" => LayerTensor::GateProj,
        "mlp.up_proj" => LayerTensor::UpProj,
        "mlp.down_proj" => LayerTensor::DownProj,
        "mlp.shared_expert.gate_proj" => LayerTensor::SharedGateProj,
        "mlp.shared_expert.up_proj" => LayerTensor::SharedUpProj,
        "mlp.shared_expert.down_proj" => LayerTensor::SharedDownProj,
        "mlp.shared_expert_gate" => LayerTensor::SharedExpertGate,
        _ => return None,
    })
}

fn expert_meaning(layer: u32, part: &str, config: &ModelConfig) -> Option<Meaning> {
    match part {
        "mlp.experts.gate_up_proj" => {
            let roles = &[ExpertRole::GateProj, ExpertRole::UpProj];
            return Some(Meaning::Stack(Stack { layer, roles }));
        }
        "mlp.experts.down_proj" => {
            let roles = &[ExpertRole::DownProj];
            return Some(Meaning::Stack(Stack { layer, roles }));
        }
        _ => {}
    }
    let part = part.strip_suffix(".weight")?;
    // Mixtral counts its matrices: the gate, the way down, the way up.
    let (expert, mixtral) = match part.strip_prefix("mlp.experts.") {
        Some(expert) => (expert, false),
        None => (part.strip_prefix("block_sparse_moe.experts.")?, true),
    };
    let (index, role) = expert.split_once('.')?;
    let role = match (mixtral, role) {
        (false, "gate_proj") | (true, "w1") => ExpertRole::GateProj,
        (false, "up_proj") | (true, "w3") => ExpertRole::UpProj,
        (false, "down_proj") | (true, "w2") => ExpertRole::DownProj,
        _ => return None,
    };
    let index = plain_number(index, config.num_experts())?;
    let key = ExpertKey::routed(layer, index);
    Some(Meaning::Tensor(TensorId::Expert(key, role)))
}

/// A number below `limit` as a checkpoint writes it: no sign, no leading zero.
fn plain_number(text: &str, limit: u32) -> Option<u32> {
    let number: u32 = text.parse().ok()?;
    (number < limit && number.to_string() == text).then_some(number)
}
