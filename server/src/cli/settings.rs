//! From flags to the settings of opening a model.

use crate::cli::Failure;
use crate::cli::args::ModelArgs;
use crate::config::PinList;
use crate::model::cache_folder::cache_folder;
use crate::model::locate::locate;
use crate::model::settings::Settings;
use crate::model::{cpu_limit, memory_limit};
use odmoe_engine::PrefixCache;
use std::path::{Path, PathBuf};

/// The folder for converted and unpacked models.
pub fn cache_folder_of(store_dir: Option<&Path>) -> Option<PathBuf> {
    store_dir
        .map(Path::to_owned)
        .or_else(|| cache_folder(&|name| std::env::var_os(name)))
}

/// Looks at the model's path, the machine and the environment.
pub fn settings(args: &ModelArgs, served_name: Option<String>) -> Result<Settings, Failure> {
    let processors = cpu_limit::processors(Path::new("/"));
    let flag = args.memory_limit.map(|size| size.count());
    Ok(Settings {
        location: locate(args.model.as_deref()).map_err(Failure::failed)?,
        cache_folder: cache_folder_of(args.store_dir.as_deref()),
        expert_cache: args.expert_cache,
        memory_limit: memory_limit::detect(Path::new("/"), flag),
        kv_cache: args.kv_cache,
        kv_format: args.kv_format,
        max_running: args.max_running as usize,
        max_queue: args.max_queue as usize,
        prefill_chunk_tokens: args.prefill_chunk.map(|tokens| tokens as usize),
        threads: args.threads.map_or(processors, |threads| threads as usize),
        kernels: args.cpu,
        reading: args.reading.settings(),
        read_timeout: args.read_timeout.0,
        prefetch: !args.no_prefetch,
        // What serves knows what for.
        warm_start: false,
        eviction: args.eviction,
        pins: match &args.pin_experts {
            Some(path) => Some(PinList::read(path).map_err(Failure::failed)?),
            None => None,
        },
        record_trace: args.record_trace.clone(),
        prefix_cache: match (args.no_prefix_cache, args.share_prefix_cache) {
            (true, _) => PrefixCache::Off,
            (false, true) => PrefixCache::Shared,
            (false, false) => PrefixCache::PerClient,
        },
        served_name,
    })
}
