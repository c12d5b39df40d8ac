//! What an engine is made of, and why one does not start.

use crate::api::events::EngineObserver;
use odmoe_backend::{AllocateError, BackendError, KvFormat};
use odmoe_expert_store::{LoadError, StoreError};
use odmoe_formats::ByteCount;

/// Who is spared computing the beginning of a prompt that was computed before. Answers are the same; but whoever
/// measures how long the first token takes learns what others have sent, if they share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PrefixCache {
    /// Nobody.
    Off,
    /// A client, of its own requests.
    #[default]
    PerClient,
    /// All, of each other's.
    Shared,
}

/// How the engine works. Sizes are fixed at start.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Sequences that run at once.
    pub max_running: usize,
    /// Requests that may wait.
    pub max_waiting: usize,
    /// Prompt tokens of one prefill lane pass.
    pub prefill_chunk_tokens: usize,
    /// Tokens in a KV block.
    pub kv_block_tokens: usize,
    /// KV blocks to begin with.
    pub kv_blocks: usize,
    /// As many as there can be later; `kv_blocks` where that is more. What is not used of them takes addresses and no
    /// memory.
    pub kv_blocks_max: usize,
    /// How KV is stored.
    pub kv_format: KvFormat,
    /// The longest context, at most the model's.
    pub max_context_tokens: usize,
    /// Predicted experts a token for the next layer; 0 turns prediction off.
    pub predict_top: usize,
    /// Who finds what was computed for whom.
    pub prefix_cache: PrefixCache,
    /// Threads that the backend computes with: the memory sum counts what each keeps for itself.
    pub compute_threads: usize,
}

/// The memory sum of promise P2, computed before anything is allocated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryPlan {
    /// Resident weights.
    pub base: ByteCount,
    /// KV cache.
    pub kv: ByteCount,
    /// Expert slots.
    pub experts: ByteCount,
    /// Activations and host copies, at the configured sizes.
    pub scratch: ByteCount,
    /// Everything else: code, stacks, tokenizer, buffers of connections.
    pub overhead: ByteCount,
}

impl MemoryPlan {
    /// The sum.
    pub fn total(&self) -> ByteCount {
        ByteCount(self.base.0 + self.kv.0 + self.experts.0 + self.scratch.0 + self.overhead.0)
    }
}

/// Why an engine did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The family is not supported.
    #[error("architecture {found:?} is not supported; supported: {supported}")]
    Architecture {
        /// What the manifest says.
        found: String,
        /// What there is.
        supported: String,
    },
    /// A tensor is missing or has another shape.
    #[error("the store does not fit its own configuration: {0}; convert the model again")]
    Shape(String),
    /// A resident tensor could not be read or verified.
    #[error("loading the base: {0}")]
    Load(LoadError),
    /// No memory.
    #[error(transparent)]
    Allocate(#[from] AllocateError),
    /// The store could not start.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The device failed.
    #[error(transparent)]
    Backend(#[from] BackendError),
}

/// Called while the base loads: bytes done, bytes in all.
pub type LoadProgress<'a> = &'a (dyn Fn(ByteCount, ByteCount) + Sync);

/// What an engine is made of.
pub struct EngineParts {
    /// A validated manifest.
    pub manifest: std::sync::Arc<odmoe_formats::manifest::Manifest>,
    /// Where it runs.
    pub backend: std::sync::Arc<dyn odmoe_backend::Backend>,
    /// Reads the store's files.
    pub reader: std::sync::Arc<dyn odmoe_expert_store::ShardReader>,
    /// The expert store's settings.
    pub store: odmoe_expert_store::StoreConfig,
    /// The engine's.
    pub config: EngineConfig,
    /// Who counts.
    pub observer: std::sync::Arc<dyn EngineObserver>,
}
