//! What sets the families apart: their names in checkpoints and the fields of their `config.json`.

use super::RandomModel;
use crate::source::TensorId;
use odmoe_formats::architecture;
use odmoe_formats::names::{EMBED_TOKENS, ExpertRole, LM_HEAD, NORM};
use serde_json::{Value, json};

/// A model family that can be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Norms on every head, experts in every layer that is not dense.
    Qwen3Moe,
    /// Dense where there are no experts; with experts it is Mixtral.
    Llama,
    /// Norms over all heads together; top-k weights as the softmax gives them.
    Olmoe,
}

impl Family {
    /// The architecture's name in GGUF and in stores.
    pub const fn architecture(self) -> &'static str {
        match self {
            Self::Qwen3Moe => architecture::QWEN3_MOE,
            Self::Llama => architecture::LLAMA,
            Self::Olmoe => architecture::OLMOE,
        }
    }

    /// Whether queries and keys are normed before they meet.
    pub(super) const fn has_query_key_norm(self) -> bool {
        !matches!(self, Self::Llama)
    }

    /// What a checkpoint calls a tensor.
    pub(super) fn checkpoint_name(self, id: &TensorId, sparse: bool) -> String {
        let mixtral = self == Self::Llama && sparse;
        match id {
            TensorId::Resident(name) if name == LM_HEAD => "lm_head.weight".into(),
            TensorId::Resident(name) if name == NORM || name == EMBED_TOKENS => {
                format!("model.{name}.weight")
            }
            TensorId::Resident(name) => {
                let rest = name.strip_prefix("layers.").and_then(|r| r.split_once('.'));
                let (layer, tensor) = rest.expect("a layer's tensor has two parts");
                let tensor = match tensor {
                    "input_norm" => "input_layernorm",
                    "post_attention_norm" => "post_attention_layernorm",
                    "router" if mixtral => "block_sparse_moe.gate",
                    "router" => "mlp.gate",
                    "gate_proj" => "mlp.gate_proj",
                    "up_proj" => "mlp.up_proj",
                    "down_proj" => "mlp.down_proj",
                    attention => {
                        return format!("model.layers.{layer}.self_attn.{attention}.weight");
                    }
                };
                format!("model.layers.{layer}.{tensor}.weight")
            }
            TensorId::Expert(key, role) => {
                let (layer, index) = (key.layer.0, key.index.0);
                if mixtral {
                    let role = match role {
                        ExpertRole::GateProj => "w1",
                        ExpertRole::DownProj => "w2",
                        ExpertRole::UpProj => "w3",
                    };
                    let experts = format!("model.layers.{layer}.block_sparse_moe.experts");
                    return format!("{experts}.{index}.{role}.weight");
                }
                format!("model.layers.{layer}.mlp.experts.{index}.{role}.weight")
            }
        }
    }

    /// The family's own fields of `config.json`.
    pub(super) fn config_fields(self, model: &RandomModel) -> Value {
        match self {
            Self::Qwen3Moe => json!({
                "architectures": ["Qwen3MoeForCausalLM"],
                "model_type": "qwen3_moe",
                "decoder_sparse_step": 1,
                "intermediate_size": model.dense_ffn,
                "mlp_only_layers": model.dense_layers,
                "moe_intermediate_size": model.expert_ffn,
                "norm_topk_prob": model.norm_topk_prob,
                "num_experts": model.experts,
                "num_experts_per_tok": model.top_k,
                "sliding_window": null,
                "use_sliding_window": false,
            }),
            Self::Llama if model.experts > 0 => json!({
                "architectures": ["MixtralForCausalLM"],
                "model_type": "mixtral",
                "intermediate_size": model.expert_ffn,
                "num_experts_per_tok": model.top_k,
                "num_local_experts": model.experts,
                "sliding_window": null,
            }),
            Self::Llama => json!({
                "architectures": ["LlamaForCausalLM"],
                "model_type": "llama",
                "intermediate_size": model.dense_ffn,
                "mlp_bias": false,
            }),
            Self::Olmoe => json!({
                "architectures": ["OlmoeForCausalLM"],
                "model_type": "olmoe",
                "clip_qkv": null,
                "intermediate_size": model.expert_ffn,
                "norm_topk_prob": model.norm_topk_prob,
                "num_experts": model.experts,
                "num_experts_per_tok": model.top_k,
            }),
        }
    }
}
