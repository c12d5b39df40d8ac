//! What the tensors of a GGUF file are, by their names.

use crate::source::TensorId;
use odmoe_formats::ExpertKey;
use odmoe_formats::names::{self, ExpertRole, LayerTensor};

pub(super) const EMBEDDING: &str = "token_embd.weight";
/// Absent where the head is the embedding.
pub(super) const HEAD: &str = "output.weight";
/// What each rotary frequency is divided by. Part of the configuration, not of the store's tensors.
pub(super) const ROPE_DIVISORS: &str = "rope_freqs.weight";
/// The end of the name of a query projection's bias.
pub(super) const QUERY_BIAS: &str = ".attn_q.bias";

/// What a tensor is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// One tensor of the store.
    One(TensorId),
    /// The same matrix of all experts of a layer, one after the other: [E, rows, columns].
    Stacked(u32, ExpertRole),
    /// [`ROPE_DIVISORS`].
    RopeDivisors,
    /// Kept by some writers and read by nobody.
    Ignored,
}

/// None for a name that is not known, or names a layer or an expert that is not there.
pub(super) fn meaning(name: &str, layers: u32, experts: u32) -> Option<Meaning> {
    let resident = |name: &str| Some(Meaning::One(TensorId::Resident(name.into())));
    match name {
        EMBEDDING => return resident(names::EMBED_TOKENS),
        "output_norm.weight" => return resident(names::NORM),
        HEAD => return resident(names::LM_HEAD),
        ROPE_DIVISORS => return Some(Meaning::RopeDivisors),
        _ => {}
    }
    let (layer, part) = name.strip_prefix("blk.")?.split_once('.')?;
    let layer = plain_number(layer, layers)?;
    if matches!(part, "attn_rot_embd" | "attn_rot_embd.weight") {
        return Some(Meaning::Ignored);
    }
    if let Some(tensor) = layer_tensor(part) {
        return resident(&names::in_layer(layer, tensor));
    }
    let part = part.strip_suffix(".weight")?;
    if let Some(role) = part.strip_suffix("_exps").and_then(expert_role) {
        return Some(Meaning::Stacked(layer, role));
    }
    let (role, index) = one_expert(part)?;
    let index = plain_number(index, experts)?;
    let key = ExpertKey::routed(layer, index);
    Some(Meaning::One(TensorId::Expert(key, role)))
}

fn layer_tensor(part: &str) -> Option<LayerTensor> {
    Some(match part {
        "attn_norm.weight" => LayerTensor::InputNorm,
        "ffn_norm.weight" => LayerTensor::PostAttentionNorm,
        "attn_q.weight" => LayerTensor::QProj,
        "attn_k.weight" => LayerTensor::KProj,
        "attn_v.weight" => LayerTensor::VProj,
        "attn_output.weight" => LayerTensor::OProj,
        "attn_q.bias" => LayerTensor::QBias,
        "attn_k.bias" => LayerTensor::KBias,
        "attn_v.bias" => LayerTensor::VBias,
        "attn_q_norm.weight" => LayerTensor::QNorm,
        "attn_k_norm.weight" => LayerTensor::KNorm,
        "ffn_gate_inp.weight" => LayerTensor::Router,
        "ffn_gate.weight" => LayerTensor::GateProj,
        "ffn_up.weight" => LayerTensor::UpProj,
        "ffn_down.weight" => LayerTensor::DownProj,
        "ffn_gate_shexp.weight" => LayerTensor::SharedGateProj,
        "ffn_up_shexp.weight" => LayerTensor::SharedUpProj,
        "ffn_down_shexp.weight" => LayerTensor::SharedDownProj,
        "ffn_gate_inp_shexp.weight" => LayerTensor::SharedExpertGate,
        _ => return None,
    })
}

/// `ffn_gate.7`, or as files of early 2024 have it, `ffn.experts.7.w1`.
fn one_expert(part: &str) -> Option<(ExpertRole, &str)> {
    if let Some(older) = part.strip_prefix("ffn.experts.") {
        let (index, matrix) = older.split_once('.')?;
        let role = match matrix {
            "w1" => ExpertRole::GateProj,
            "w2" => ExpertRole::DownProj,
            "w3" => ExpertRole::UpProj,
            _ => return None,
        };
        return Some((role, index));
    }
    let (matrix, index) = part.split_once('.')?;
    Some((expert_role(matrix)?, index))
}

fn expert_role(matrix: &str) -> Option<ExpertRole> {
    Some(match matrix {
        "ffn_gate" => ExpertRole::GateProj,
        "ffn_up" => ExpertRole::UpProj,
        "ffn_down" => ExpertRole::DownProj,
        _ => return None,
    })
}

/// A number below `limit`, without sign and leading zero.
fn plain_number(text: &str, limit: u32) -> Option<u32> {
    let number: u32 = text.parse().ok()?;
    (number < limit && number.to_string() == text).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_three_namings_of_experts_mean_the_same() {
        let roles = [
            (ExpertRole::GateProj, "ffn_gate", "w1"),
            (ExpertRole::DownProj, "ffn_down", "w2"),
            (ExpertRole::UpProj, "ffn_up", "w3"),
        ];
        for (role, newer, older) in roles {
            let one = Some(Meaning::One(TensorId::Expert(
                ExpertKey::routed(2, 7),
                role,
            )));
            assert_eq!(meaning(&format!("blk.2.{newer}.7.weight"), 3, 8), one);
            assert_eq!(
                meaning(&format!("blk.2.ffn.experts.7.{older}.weight"), 3, 8),
                one
            );
            let stacked = meaning(&format!("blk.2.{newer}_exps.weight"), 3, 8);
            assert_eq!(stacked, Some(Meaning::Stacked(2, role)));
        }
    }

    #[test]
    fn layers_and_experts_that_are_not_there_mean_nothing() {
        let nothing = [
            "blk.3.attn_q.weight",
            "blk.02.attn_q.weight",
            "blk.+2.attn_q.weight",
            "blk.2.ffn_gate.8.weight",
            "blk.2.ffn_gate.07.weight",
            "blk.2.ffn.experts.8.w1.weight",
            "blk.2.ffn.experts.7.w4.weight",
            "blk.2.ffn_gate_exps.bias",
            "blk.2.ffn_gate_up_exps.weight",
            "blk.2.attn_output.bias",
            "blk.2.attn_q.weight.x",
            "blk.2.attn_q",
            "output.bias",
            "",
        ];
        for name in nothing {
            assert_eq!(meaning(name, 3, 8), None, "{name}");
        }
        assert!(meaning("blk.2.ffn_gate.7.weight", 3, 8).is_some());
        assert_eq!(meaning("blk.2.attn_rot_embd", 3, 8), Some(Meaning::Ignored));
    }
}
