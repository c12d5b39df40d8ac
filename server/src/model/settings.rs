//! Everything that opening a model depends on, as plain values: no flags, no environment.

use crate::config::{ExpertCacheSize, KvCacheSize, PinList};
use crate::model::locate::ModelLocation;
use crate::model::memory_limit::MemoryLimit;
use crate::model::read_plan::ReadSettings;
use odmoe_backend::KvFormat;
use odmoe_backend_cpu::KernelSet;
use odmoe_convert::ConvertOptions;
use odmoe_engine::PrefixCache;
use odmoe_expert_store::residency::eviction::Eviction;
use odmoe_formats::WeightLayout;
use std::path::PathBuf;
use std::time::Duration;

/// Everything that opening a model depends on.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where the model comes from.
    pub location: ModelLocation,
    /// Where converted and unpacked models are kept, if anywhere.
    pub cache_folder: Option<PathBuf>,
    /// None: what the kind of model asks for.
    pub expert_cache: Option<ExpertCacheSize>,
    /// None: no limit is known.
    pub memory_limit: Option<MemoryLimit>,
    /// Size of the KV cache.
    pub kv_cache: KvCacheSize,
    /// How keys and values are stored.
    pub kv_format: KvFormat,
    /// Sequences at once.
    pub max_running: usize,
    /// Requests that may wait.
    pub max_queue: usize,
    /// Prompt tokens of one pass. None: by the memory limit.
    pub prefill_chunk_tokens: Option<usize>,
    /// Threads that compute.
    pub threads: usize,
    /// None: the fastest.
    pub kernels: Option<KernelSet>,
    /// How experts are read, as far as it is not to be measured.
    pub reading: ReadSettings,
    /// After this a read fails.
    pub read_timeout: Duration,
    /// Whether experts are read ahead of demand.
    pub prefetch: bool,
    /// Whether the use of experts is kept with the store, and an earlier run's is followed.
    pub warm_start: bool,
    /// Which expert leaves memory when another needs its place.
    pub eviction: Eviction,
    /// Experts that stay in memory.
    pub pins: Option<PinList>,
    /// Where to record which experts are asked for.
    pub record_trace: Option<PathBuf>,
    /// Who is spared computing the beginning of a prompt again.
    pub prefix_cache: PrefixCache,
    /// The name that clients use, if not the store's.
    pub served_name: Option<String>,
}

impl Settings {
    /// How a model that is no store is converted before it is opened.
    pub fn conversion(&self) -> ConvertOptions {
        automatic_conversion(self.kernels)
    }
}

/// The conversion that nobody gives options for, by the kernels that will multiply; None: the fastest.
pub fn automatic_conversion(kernels: Option<KernelSet>) -> ConvertOptions {
    ConvertOptions {
        layout: fastest_layout(kernels),
        ..ConvertOptions::default()
    }
}

/// The layout that kernels multiply fastest; None: the fastest kernels here.
pub fn fastest_layout(kernels: Option<KernelSet>) -> WeightLayout {
    kernels.unwrap_or_else(KernelSet::best).weight_layout()
}
