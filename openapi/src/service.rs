//! Models, health and progress.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `GET /v1/models`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct ModelList {
    /// Always `list`.
    #[schema(example = "list")]
    pub object: String,
    /// The models.
    pub data: Vec<Model>,
}

/// One model.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct Model {
    /// What requests name it by.
    pub id: String,
    /// Always `model`.
    #[schema(example = "model")]
    pub object: String,
    /// When it was loaded, in seconds since 1970.
    pub created: u64,
    /// Always `odmoe`.
    pub owned_by: String,
    /// Prompt and answer together, in tokens.
    pub max_model_len: u64,
    /// The same, as other servers call it.
    pub context_length: u64,
    /// As `GET /ready` says it.
    #[schema(example = "ready")]
    pub status: String,
}

/// `GET /health`: the process answers.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct Health {
    /// Always `ok`.
    pub status: String,
}

/// `GET /ready`: whether completions would be served now.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct Readiness {
    /// `ready`, `loading`, `draining`, `storage_failing` or `engine_stopped`.
    pub status: String,
    /// In words; absent when ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// One event of `GET /v1/loading/progress`.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, ToSchema)]
pub struct LoadingProgress {
    /// `converting`, `loading_base`, `starting_engine`, `ready` or `failed`.
    pub stage: String,
    /// The same, for people.
    pub detail: String,
    /// How much of all of it is done, 0 to 1.
    pub fraction: f64,
    /// Bytes of this stage that are done.
    pub bytes_done: u64,
    /// Bytes of this stage; 0 where it moves none.
    pub bytes_total: u64,
    /// Whether the model is served; the stream then ends.
    pub ready: bool,
    /// Why loading failed, if it did; the stream then ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// `GET /admin/cache`: what the caches may hold and what they hold.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct CacheReport {
    /// The served model.
    pub model: String,
    /// All slots of the expert cache that there are now; after a change they follow the budget.
    pub capacity_bytes: u64,
    /// What the expert cache may take.
    pub budget_bytes: u64,
    /// What it was asked to take; more than `budget_bytes` while the memory limit or pressure holds it down.
    pub asked_bytes: u64,
    /// The least that it can take.
    pub least_bytes: u64,
    /// Verified experts in it.
    pub resident_bytes: u64,
    /// Of these, held in place by running work.
    pub pinned_bytes: u64,
    /// Reads under way.
    pub reads_in_flight: u64,
    /// Reads that wait for a reader or a slot.
    pub reads_queued: u64,
    /// Readers inside a read that timed out and has not returned.
    pub readers_stuck: u64,
    /// What storage said last, if it fails.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage_error: Option<String>,
    /// The KV cache.
    pub kv: KvCacheReport,
    /// What the process is to take in all.
    pub memory: MemoryReport,
}

/// `PATCH /admin/cache`: what the caches may hold from now on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct CacheChange {
    /// As `--expert-cache`: `auto`, a size such as `8GB`, or a share of all experts such as `25%`.
    #[schema(example = "25%")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expert_cache: Option<String>,
    /// As `--kv-cache`: a number of tokens, a size such as `2GB`, or `auto` for what the start chose. At most what was set
    /// aside at the start.
    #[schema(example = "16384")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kv_cache: Option<String>,
}

/// The memory sum, in bytes.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct MemoryReport {
    /// Resident weights.
    pub base_bytes: u64,
    /// KV cache.
    pub kv_bytes: u64,
    /// Expert slots.
    pub experts_bytes: u64,
    /// Activations.
    pub scratch_bytes: u64,
    /// Everything else.
    pub overhead_bytes: u64,
    /// All of it.
    pub total_bytes: u64,
    /// The most that it may be, if anything limits it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit_bytes: Option<u64>,
    /// Who limits it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit_source: Option<String>,
}

/// The KV cache's part of [`CacheReport`].
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct KvCacheReport {
    /// Blocks in all.
    pub blocks: u64,
    /// Blocks in use.
    pub blocks_used: u64,
}
