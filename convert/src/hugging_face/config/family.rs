//! What each `model_type` of transformers means here: its architecture, its defaults, its switches.

use odmoe_formats::architecture::{LLAMA, OLMOE, QWEN2_MOE, QWEN3, QWEN3_MOE};

/// A `model_type`. Defaults are those of its configuration class in transformers.
pub(super) struct Family {
    pub model_type: &'static str,
    /// As GGUF spells it.
    pub architecture: &'static str,
    pub rms_norm_eps: f64,
    pub rope_theta: f64,
    /// None where a head is as wide as the hidden state over the heads.
    pub head_dim: Option<u32>,
    pub bias: Bias,
    pub window: Window,
    pub experts: Option<Experts>,
    /// Fields that change results when they are set to anything but null, false or 0.
    pub refused: &'static [&'static str],
}

/// Whether projections have biases.
pub(super) enum Bias {
    None,
    /// On queries, keys and values, unless `qkv_bias` is false.
    QueryKeyValue,
}

/// Which field says that attention looks back over a window only.
pub(super) enum Window {
    None,
    /// `sliding_window`, and what it is where the file does not have it.
    Always(Option<u64>),
    /// `sliding_window` where `use_sliding_window`; 4096 where the file does not have it.
    IfUsed,
}

/// How a family with experts describes them.
pub(super) struct Experts {
    /// The field with an expert's width.
    pub width: &'static str,
    /// None where the top-k weights always sum to one; else the default of `norm_topk_prob`.
    pub norm_topk_prob: Option<bool>,
    /// Whether `decoder_sparse_step` and `mlp_only_layers` make some layers dense, of width `intermediate_size`.
    pub dense_layers: bool,
    pub shared: bool,
}

const QWEN_EXPERTS: Experts = Experts {
    width: "moe_intermediate_size",
    norm_topk_prob: Some(false),
    dense_layers: true,
    shared: false,
};

const DENSE: Family = Family {
    model_type: "",
    architecture: LLAMA,
    rms_norm_eps: 1e-6,
    rope_theta: 10_000.0,
    head_dim: None,
    bias: Bias::None,
    window: Window::None,
    experts: None,
    refused: &[],
};

/// Every `model_type` of this build.
pub(super) const FAMILIES: [Family; 7] = [
    // Its attention_bias is one on the output projection as well.
    Family {
        model_type: "llama",
        refused: &["attention_bias", "mlp_bias"],
        ..DENSE
    },
    Family {
        model_type: "mistral",
        window: Window::Always(Some(4096)),
        ..DENSE
    },
    Family {
        model_type: "mixtral",
        rms_norm_eps: 1e-5,
        rope_theta: 1e6,
        window: Window::Always(None),
        experts: Some(Experts {
            width: "intermediate_size",
            norm_topk_prob: None,
            dense_layers: false,
            shared: false,
        }),
        ..DENSE
    },
    Family {
        model_type: "olmoe",
        architecture: OLMOE,
        rms_norm_eps: 1e-5,
        experts: Some(Experts {
            width: "intermediate_size",
            dense_layers: false,
            ..QWEN_EXPERTS
        }),
        refused: &["attention_bias", "clip_qkv"],
        ..DENSE
    },
    Family {
        model_type: "qwen2_moe",
        architecture: QWEN2_MOE,
        bias: Bias::QueryKeyValue,
        window: Window::IfUsed,
        experts: Some(Experts {
            shared: true,
            ..QWEN_EXPERTS
        }),
        ..DENSE
    },
    Family {
        model_type: "qwen3",
        architecture: QWEN3,
        head_dim: Some(128),
        window: Window::IfUsed,
        refused: &["attention_bias"],
        ..DENSE
    },
    Family {
        model_type: "qwen3_moe",
        architecture: QWEN3_MOE,
        window: Window::IfUsed,
        experts: Some(QWEN_EXPERTS),
        refused: &["attention_bias"],
        ..DENSE
    },
];

/// All `model_type`s, for messages.
pub(super) const SUPPORTED: &str = "llama, mistral, mixtral, olmoe, qwen2_moe, qwen3, qwen3_moe";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_names_every_family() {
        let names = FAMILIES.map(|family| family.model_type);
        assert_eq!(names.join(", "), SUPPORTED);
    }
}
