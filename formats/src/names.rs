//! Canonical tensor names: what a store calls its tensors, whatever the source called them.

use std::fmt;

/// The embedding table, [vocab, hidden].
pub const EMBED_TOKENS: &str = "embed_tokens";
/// The last norm's weight, [hidden].
pub const NORM: &str = "norm";
/// The output head, [vocab, hidden]; absent where it is the embedding table.
pub const LM_HEAD: &str = "lm_head";

/// A resident tensor of one layer. Letters: H hidden, Q query heads, G key/value heads, D head width, E experts,
/// I width of the dense MLP, S width of the shared expert.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum LayerTensor {
    /// Norm before attention, [H].
    InputNorm,
    /// Norm before the MLP, [H].
    PostAttentionNorm,
    /// Query projection, [Q * D, H].
    QProj,
    /// Key projection, [G * D, H].
    KProj,
    /// Value projection, [G * D, H].
    VProj,
    /// Output projection, [H, Q * D].
    OProj,
    /// Bias of the query projection, [Q * D]; where [`crate::model_config::ModelConfig::attention_bias`].
    QBias,
    /// Bias of the key projection, [G * D]; as [`Self::QBias`].
    KBias,
    /// Bias of the value projection, [G * D]; as [`Self::QBias`].
    VBias,
    /// Norm of each query head, [D]; of all query heads together, [Q * D], in `olmoe`.
    QNorm,
    /// Norm of each key head, [D]; of all key heads together, [G * D], in `olmoe`.
    KNorm,
    /// Router, [E, H]; sparse layers only.
    Router,
    /// Gate projection of a dense MLP, [I, H]; dense layers only.
    GateProj,
    /// Up projection of a dense MLP, [I, H]; dense layers only.
    UpProj,
    /// Down projection of a dense MLP, [H, I]; dense layers only.
    DownProj,
    /// Gate projection of the shared expert, [S, H]; sparse layers of families that have one.
    SharedGateProj,
    /// Up projection of the shared expert, [S, H].
    SharedUpProj,
    /// Down projection of the shared expert, [H, S].
    SharedDownProj,
    /// The sigmoid gate on the shared expert's output, [1, H].
    SharedExpertGate,
}

impl LayerTensor {
    /// The last part of the name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::InputNorm => "input_norm",
            Self::PostAttentionNorm => "post_attention_norm",
            Self::QProj => "q_proj",
            Self::KProj => "k_proj",
            Self::VProj => "v_proj",
            Self::OProj => "o_proj",
            Self::QBias => "q_bias",
            Self::KBias => "k_bias",
            Self::VBias => "v_bias",
            Self::QNorm => "q_norm",
            Self::KNorm => "k_norm",
            Self::Router => "router",
            Self::GateProj => "gate_proj",
            Self::UpProj => "up_proj",
            Self::DownProj => "down_proj",
            Self::SharedGateProj => "shared_gate_proj",
            Self::SharedUpProj => "shared_up_proj",
            Self::SharedDownProj => "shared_down_proj",
            Self::SharedExpertGate => "shared_expert_gate",
        }
    }

    /// Whether it is the weight of a norm: those are stored as F32 and never quantised.
    pub const fn is_norm(self) -> bool {
        matches!(
            self,
            Self::InputNorm | Self::PostAttentionNorm | Self::QNorm | Self::KNorm
        )
    }
}

/// The name of a resident tensor of a layer: `layers.3.q_proj`.
pub fn in_layer(layer: u32, tensor: LayerTensor) -> String {
    format!("layers.{layer}.{}", tensor.name())
}

/// A tensor of a routed expert. Letters: H hidden, F width of the expert's intermediate state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ExpertRole {
    /// [F, H].
    GateProj,
    /// [F, H].
    UpProj,
    /// [H, F].
    DownProj,
}

impl ExpertRole {
    /// Every role, in the order in which an object holds them.
    pub const ALL: [Self; 3] = [Self::GateProj, Self::UpProj, Self::DownProj];

    /// The key in [`crate::manifest::PageableObject::tensors`].
    pub const fn name(self) -> &'static str {
        match self {
            Self::GateProj => "gate_proj",
            Self::UpProj => "up_proj",
            Self::DownProj => "down_proj",
        }
    }

    /// Its shape, rows first.
    pub const fn shape(self, hidden: u32, expert_width: u32) -> [u64; 2] {
        match self {
            Self::GateProj | Self::UpProj => [expert_width as u64, hidden as u64],
            Self::DownProj => [hidden as u64, expert_width as u64],
        }
    }
}

impl fmt::Display for ExpertRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
