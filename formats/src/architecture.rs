//! The architectures that this build converts and serves, and what sets their tensors apart.

/// What a checkpoint's tensors say about its architecture; the engine's families say how they are computed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Architecture {
    /// As GGUF spells it.
    pub name: &'static str,
    /// Whether its models have routed experts.
    pub experts: Experts,
    /// What its query and key norms go over.
    pub query_key_norm: QueryKeyNorm,
    /// Whether each sparse layer has a gated expert that every token passes through.
    pub shared_expert: bool,
}

/// Whether the models of an architecture have routed experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Experts {
    /// None has.
    Never,
    /// Some have.
    Sometimes,
    /// All have.
    Always,
}

/// What the norms of queries and keys go over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueryKeyNorm {
    /// There are none.
    Absent,
    /// Each head by itself, by one weight [D].
    EachHead,
    /// All heads together: weights [Q * D] and [G * D].
    AllHeads,
}

/// Llama and what is built like it; with experts it is Mixtral.
pub const LLAMA: &str = "llama";
/// OLMoE.
pub const OLMOE: &str = "olmoe";
/// Qwen1.5-MoE and Qwen2-MoE.
pub const QWEN2_MOE: &str = "qwen2moe";
/// Qwen3, the dense models.
pub const QWEN3: &str = "qwen3";
/// Qwen3-MoE.
pub const QWEN3_MOE: &str = "qwen3moe";

/// Every architecture of this build, by name.
pub const ARCHITECTURES: [Architecture; 5] = [
    Architecture {
        name: LLAMA,
        experts: Experts::Sometimes,
        query_key_norm: QueryKeyNorm::Absent,
        shared_expert: false,
    },
    Architecture {
        name: OLMOE,
        experts: Experts::Always,
        query_key_norm: QueryKeyNorm::AllHeads,
        shared_expert: false,
    },
    Architecture {
        name: QWEN2_MOE,
        experts: Experts::Always,
        query_key_norm: QueryKeyNorm::Absent,
        shared_expert: true,
    },
    Architecture {
        name: QWEN3,
        experts: Experts::Never,
        query_key_norm: QueryKeyNorm::EachHead,
        shared_expert: false,
    },
    Architecture {
        name: QWEN3_MOE,
        experts: Experts::Always,
        query_key_norm: QueryKeyNorm::EachHead,
        shared_expert: false,
    },
];

/// The architecture of that name.
pub fn find(name: &str) -> Option<&'static Architecture> {
    ARCHITECTURES
        .iter()
        .find(|architecture| architecture.name == name)
}

/// The names of all, for messages: `llama, olmoe, ...`.
pub fn supported() -> String {
    ARCHITECTURES
        .map(|architecture| architecture.name)
        .join(", ")
}
