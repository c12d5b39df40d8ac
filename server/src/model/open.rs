//! From settings to a running engine: find the store (unpacking or converting it first), divide the memory, start.

use crate::config::ExpertCacheSize;
use crate::embedded::{self, UnpackError, Unpacked};
use crate::grammars::Grammars;
use crate::model::budget::{BudgetError, ExpertBudget, ExpertBytes, expert_budget};
use crate::model::kv_budget::{KV_BLOCK_TOKENS, KvRoom, kv_blocks, kv_blocks_max, kv_token_bytes};
use crate::model::live_budget::{LiveBudget, LiveBudgetParts, LiveChange, LiveKv};
use crate::model::locate::ModelLocation;
use crate::model::memory_limit;
use crate::model::prefill_chunk::prefill_chunk;
use crate::model::read_plan::{Reading, measuring_memory, reading};
use crate::model::recorder::{Recorder, experts_by_layer};
use crate::model::settings::Settings;
use crate::model::text_side::{TextSide, TextSideError, check_text, open_text_side};
use crate::model::usage::{self, UsageKeeper};
use crate::state::{LoadingProgress, ServedModel, Stage};
use odmoe_backend::Backend;
use odmoe_backend_cpu::{CpuBackend, CpuBackendError, CpuConfig};
use odmoe_convert::{
    ConvertError, ConvertOptions, Earlier, Level, ModelSource, OpenStoreError, Preflight, Progress,
    ProgressReport, SourceError, check_store_files, open_source, open_store, planned_manifest,
    store_cache,
};
use odmoe_engine::{
    EngineConfig, EngineHandle, EngineObserver, EngineParts, MemoryPlan, StartError,
};
use odmoe_expert_store::{Catalog, FileReader, OpenError, StoreConfig};
use odmoe_formats::ByteCount;
use odmoe_formats::manifest::Manifest;
use std::collections::HashSet;
use std::io;
use std::ops::ControlFlow;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// The embedded model's share of experts in memory.
const EMBEDDED_EXPERT_CACHE: ExpertCacheSize = ExpertCacheSize::Percent(25.0);
const EMBEDDED_REASON: &str = "the embedded model's default, so that paging can be seen at work; --expert-cache auto keeps \
                               every expert in memory";
/// How much of the whole a conversion is, and loading the base after it.
const CONVERTED_FRACTION: f64 = 0.7;
const LOADED_FRACTION: f64 = 0.95;

/// A model that could not be opened. The message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenModelError {
    /// The embedded model cannot be unpacked.
    #[error(transparent)]
    Unpack(#[from] UnpackError),
    /// The model to convert is refused.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The conversion failed.
    #[error(transparent)]
    Convert(#[from] ConvertError),
    /// There is no home folder to convert into.
    #[error("there is no home folder to keep the converted model in; name one with --store-dir")]
    NoCacheFolder,
    /// Converted models cannot be kept where they should be.
    #[error(
        "{path}: {source}; converted models are kept there: name another folder with --store-dir"
    )]
    CacheFolder {
        /// The folder, or a file in it.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The routing trace cannot be written.
    #[error("{path}: {source}; name another file with --record-trace")]
    Trace {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The store is refused.
    #[error(transparent)]
    Store(#[from] OpenStoreError),
    /// Its files cannot be opened.
    #[error(transparent)]
    Files(#[from] OpenError),
    /// Its text side is refused.
    #[error(transparent)]
    Text(#[from] TextSideError),
    /// The memory does not suffice.
    #[error(transparent)]
    Budget(#[from] BudgetError),
    /// The processor cannot do what was asked.
    #[error(transparent)]
    Cpu(#[from] CpuBackendError),
    /// The engine does not start.
    #[error(transparent)]
    Start(#[from] StartError),
}

/// Told how far opening is.
pub type OpenProgress<'a> = &'a (dyn Fn(LoadingProgress) + Sync);

/// A model with its memory divided, before anything is allocated.
pub struct PreparedModel {
    /// What it was prepared from.
    pub settings: Settings,
    /// The store.
    pub folder: PathBuf,
    /// Its manifest, validated.
    pub manifest: Arc<Manifest>,
    /// The memory sum.
    pub plan: MemoryPlan,
    /// The experts' part of it.
    pub budget: ExpertBudget,
    /// What the engine will be told.
    pub engine_config: EngineConfig,
    store_config: StoreConfig,
    /// What it runs on.
    pub backend: Arc<dyn Backend>,
    /// Kept for as long as the model is served.
    unpacked: Option<Unpacked>,
}

/// A running model.
pub struct OpenModel {
    /// What it was made from.
    pub prepared: PreparedModel,
    /// Tokenizer and template.
    pub text: TextSide,
    /// The engine.
    pub engine: EngineHandle,
    /// Who tells which experts are asked for.
    pub recorder: Arc<Recorder>,
    /// How its experts are read.
    pub reading: Reading,
    /// The files that they are read from.
    pub reader: FileReader,
    /// Keeps what its experts are used for, where that is wanted and the store stays.
    pub usage: Option<UsageKeeper>,
}

/// Finds or makes the store and divides the memory. A conversion, if there is one, is a part of `progress`, and is told
/// in all its detail to `conversion`.
pub fn prepare(
    settings: Settings,
    progress: OpenProgress<'_>,
    conversion: &dyn Progress,
) -> Result<PreparedModel, OpenModelError> {
    let both = ConversionProgress {
        whole: progress,
        detail: conversion,
    };
    let (folder, unpacked) = obtain_store(&settings, &both)?;
    let manifest = open_store(&folder)?;
    check_store_files(&folder, &manifest)?;
    let backend = Arc::new(CpuBackend::new(CpuConfig {
        threads: settings.threads,
        kernels: settings.kernels,
    })?);
    let (engine_config, store_config, plan, budget) = divide(&settings, &manifest)?;
    let manifest = Arc::new(manifest);
    Ok(PreparedModel {
        settings,
        folder,
        manifest,
        plan,
        budget,
        engine_config,
        store_config,
        backend,
        unpacked,
    })
}

impl PreparedModel {
    /// The name that clients use.
    pub fn name(&self) -> &str {
        self.settings
            .served_name
            .as_deref()
            .unwrap_or(&self.manifest.name)
    }

    /// The longest sequence: the model's context, or all of the KV cache where that is less.
    pub fn context_tokens(&self) -> usize {
        self.engine_config.max_context_tokens
    }

    /// Whether the store's folder goes away with the process.
    pub fn is_temporary(&self) -> bool {
        self.unpacked.as_ref().is_some_and(Unpacked::is_temporary)
    }

    /// Loads the base and starts the engine, and opens the text files meanwhile: a large tokenizer takes as long as the disk
    /// takes for a GB, and of the processors one.
    pub fn start(
        self,
        observer: Arc<dyn EngineObserver>,
        progress: OpenProgress<'_>,
    ) -> Result<OpenModel, OpenModelError> {
        let (reader, reading) = self.reader(progress)?;
        let mut store_config = self.store_config.clone();
        store_config.readers = reading.plan.at_once;
        let begin = self.base_fraction();
        let on_load = |done: ByteCount, total: ByteCount| {
            let share = done.0 as f64 / total.0.max(1) as f64;
            progress(LoadingProgress {
                stage: Stage::LoadingBase,
                fraction: begin + (LOADED_FRACTION - begin) * share,
                detail: format!("loading the base, {done} of {total}"),
                bytes_done: done,
                bytes_total: total,
            });
            if done == total {
                let detail = "allocating expert slots and the KV cache";
                progress(LoadingProgress::stage(
                    Stage::StartingEngine,
                    LOADED_FRACTION,
                    detail,
                ));
            }
        };
        let keeps_usage = self.settings.warm_start && !self.is_temporary();
        if keeps_usage {
            store_config.warm_up = usage::read(&self.folder);
        }
        let recorder = Recorder::new(&experts_by_layer(&self.manifest), observer);
        if let Some(path) = &self.settings.record_trace {
            recorder.begin_file(path).map_err(|source| {
                let path = path.clone();
                OpenModelError::Trace { path, source }
            })?;
        }
        let parts = EngineParts {
            manifest: self.manifest.clone(),
            backend: self.backend.clone(),
            reader: Arc::new(reader.with_plan(reading.plan)),
            store: store_config,
            config: self.engine_config.clone(),
            observer: Arc::clone(&recorder) as Arc<dyn EngineObserver>,
        };
        let (text, engine) = std::thread::scope(|scope| {
            let text = scope.spawn(|| open_text_side(&self.folder, &self.manifest));
            let engine = EngineHandle::start(parts, &on_load);
            let text = text.join();
            (text.unwrap_or_else(|panic| resume_unwind(panic)), engine)
        });
        let (text, engine) = (text?, engine?);
        let usage = keeps_usage
            .then(|| UsageKeeper::start(self.folder.clone(), engine.clone()))
            .flatten();
        Ok(OpenModel {
            prepared: self,
            text,
            engine,
            recorder,
            usage,
            reading,
            reader,
        })
    }

    /// What can be paged, and what stays in memory.
    pub fn catalog(&self) -> Catalog {
        Catalog::new(&self.manifest).keeping(&self.store_config.keep)
    }

    /// Opens the store's files, and finds out how its experts are read best.
    pub fn reader(
        &self,
        progress: OpenProgress<'_>,
    ) -> Result<(FileReader, Reading), OpenModelError> {
        let reader = FileReader::open(&self.folder, &self.manifest)?;
        let catalog = Arc::new(Catalog::new(&self.manifest));
        let measuring = || {
            progress(LoadingProgress::stage(
                Stage::LoadingBase,
                self.base_fraction(),
                "measuring how this disk is read best, once",
            ));
        };
        let reading = reading(
            &self.settings.reading,
            self.settings.cache_folder.as_deref(),
            &self.folder,
            &catalog,
            &reader,
            measuring_memory(self.budget.bytes),
            &measuring,
        );
        tracing::info!(plan = %reading.plan, from = reading.origin.name(), "reading experts");
        Ok((reader, reading))
    }

    fn base_fraction(&self) -> f64 {
        match self.settings.location {
            ModelLocation::HuggingFace(_) | ModelLocation::Gguf(_) => CONVERTED_FRACTION,
            ModelLocation::Embedded | ModelLocation::Store(_) => 0.0,
        }
    }
}

impl OpenModel {
    /// What the routes serve.
    pub fn served(&self) -> ServedModel {
        let prepared = &self.prepared;
        let vocabulary = prepared.manifest.config.vocab_size as usize;
        let end_ids = prepared.manifest.text.end_of_sequence_ids.clone();
        let tokenizer = self.text.tokenizer.clone();
        ServedModel {
            name: prepared.name().to_owned(),
            engine: Arc::new(self.engine.clone()),
            grammars: Grammars::new(tokenizer.clone(), vocabulary, end_ids.clone()),
            tokenizer,
            template: self.text.template.clone(),
            sampling_defaults: self.text.sampling_defaults,
            end_ids,
            context_tokens: prepared.context_tokens(),
            capacity_answers: prepared.settings.max_running + prepared.settings.max_queue,
            budget: Some(Arc::new(self.live_budget())),
            embedding_width: prepared.manifest.config.hidden_size as usize,
            vocabulary,
            recorder: Arc::clone(&self.recorder),
            created_unix_s: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| since.as_secs()),
        }
    }
}

impl OpenModel {
    /// The experts' budget as it was divided, to be changed while serving.
    fn live_budget(&self) -> LiveBudget {
        let prepared = &self.prepared;
        let catalog = Arc::new(prepared.catalog());
        let (at_start, engine) = (prepared.settings.memory_limit.clone(), self.engine.clone());
        LiveBudget::new(LiveBudgetParts {
            plan: prepared.plan,
            experts: expert_bytes(&catalog),
            limit: Box::new(move || memory_limit::again(Path::new("/"), at_start.as_ref())),
            in_slots: Box::new(move |budget| in_slots(&catalog, budget)),
            kv: LiveKv {
                blocks: prepared.engine_config.kv_blocks,
                blocks_max: prepared.engine_config.kv_blocks_max,
                block_bytes: kv_token_bytes(&prepared.manifest.config, prepared.settings.kv_format)
                    * KV_BLOCK_TOKENS as u64,
                block_tokens: KV_BLOCK_TOKENS,
            },
            apply: Box::new(move |change| match change {
                LiveChange::Experts(budget) => {
                    if let Err(error) = engine.set_expert_budget(budget) {
                        tracing::error!(%error, "the expert cache stays as it is");
                    }
                }
                LiveChange::KvBlocks(blocks) => {
                    engine.set_kv_blocks(blocks);
                }
            }),
        })
    }
}

fn expert_bytes(catalog: &Catalog) -> ExpertBytes {
    ExpertBytes {
        least: catalog.least_budget(),
        two: catalog.least_without_kept(),
        full: catalog.full_budget(),
    }
}

/// What is really allocated of a budget.
fn in_slots(catalog: &Catalog, budget: ByteCount) -> ByteCount {
    catalog.slots(budget).map_or(budget, |slots| slots.bytes())
}

fn obtain_store(
    settings: &Settings,
    progress: &dyn Progress,
) -> Result<(PathBuf, Option<Unpacked>), OpenModelError> {
    match &settings.location {
        ModelLocation::Store(folder) => Ok((folder.clone(), None)),
        ModelLocation::Embedded => {
            let unpacked = embedded::unpack(&embedded::TINY_MOE, settings.cache_folder.as_deref())?;
            Ok((unpacked.folder.clone(), Some(unpacked)))
        }
        ModelLocation::HuggingFace(path) | ModelLocation::Gguf(path) => {
            let source = open_source(path)?;
            let cache = settings
                .cache_folder
                .as_deref()
                .ok_or(OpenModelError::NoCacheFolder)?;
            let stores = cache.join("stores");
            let options = settings.conversion();
            if store_cache::find_in_any_layout(&stores, &*source, &options).is_none() {
                check_servable(&*source, &options, settings)?;
            }
            let obtained = store_cache::obtain(&*source, &stores, &options, progress);
            let obtained = obtained.map_err(|error| match error {
                ConvertError::Io { path, source } if path.starts_with(&stores) => {
                    OpenModelError::CacheFolder { path, source }
                }
                other => other.into(),
            })?;
            Ok((obtained.store, None))
        }
    }
}

/// A conversion may take an hour: what would be refused after it is refused before.
fn check_servable(
    source: &dyn ModelSource,
    options: &ConvertOptions,
    settings: &Settings,
) -> Result<(), OpenModelError> {
    divide(settings, &planned_manifest(source, options)?)?;
    Ok(check_text(&source.metadata().text)?)
}

/// Tells a conversion twice: as the first part of opening, and as it is.
struct ConversionProgress<'a> {
    whole: OpenProgress<'a>,
    detail: &'a dyn Progress,
}

impl Progress for ConversionProgress<'_> {
    fn planned(&self, preflight: &Preflight) {
        let detail = format!(
            "converting into {}: needs {}, {} are free",
            preflight.destination.display(),
            preflight.needed,
            preflight.free
        );
        (self.whole)(LoadingProgress::stage(Stage::Converting, 0.0, detail));
        self.detail.planned(preflight);
    }

    fn earlier(&self, earlier: &Earlier) {
        self.detail.earlier(earlier);
    }

    fn report(&self, report: &ProgressReport<'_>) -> ControlFlow<()> {
        let Level { done, total } = report.whole;
        let share = done.0 as f64 / total.0.max(1) as f64;
        (self.whole)(LoadingProgress {
            stage: Stage::Converting,
            fraction: CONVERTED_FRACTION * share,
            detail: format!("converting: {}", report.step),
            bytes_done: done,
            bytes_total: total,
        });
        self.detail.report(report)
    }
}

/// The division of memory for a manifest, which may be a sketch.
pub fn divide(
    settings: &Settings,
    manifest: &Manifest,
) -> Result<(EngineConfig, StoreConfig, MemoryPlan, ExpertBudget), BudgetError> {
    let catalog = Catalog::new(manifest);
    let keep = match &settings.pins {
        Some(pins) => pins.resolve(catalog.objects().map(|object| object.key))?,
        None => HashSet::new(),
    };
    let catalog = catalog.keeping(&keep);
    let experts = expert_bytes(&catalog);
    let (format, head_dim) = (settings.kv_format, manifest.config.head_dim as usize);
    if !format.holds_heads_of(head_dim) {
        return Err(BudgetError::KvFormat {
            format: format.name(),
            block: format.block_format().block_elements(),
            head_dim,
        });
    }
    let is_embedded = settings.location == ModelLocation::Embedded;
    let default = if is_embedded {
        EMBEDDED_EXPERT_CACHE
    } else {
        ExpertCacheSize::Auto
    };
    let size = settings.expert_cache.unwrap_or(default);
    let limit = settings.memory_limit.as_ref();
    let mut store_config = StoreConfig {
        budget: experts.least,
        prefetch: settings.prefetch,
        eviction: settings.eviction,
        read_timeout: settings.read_timeout,
        keep,
        ..StoreConfig::default()
    };

    let sum_of = |chunk: usize, store: &StoreConfig| {
        EngineHandle::plan_memory(
            manifest,
            store,
            &engine_config(settings, manifest, chunk, 1),
        )
    };
    let chunk = settings
        .prefill_chunk_tokens
        .unwrap_or_else(|| prefill_chunk(limit, |tokens| sum_of(tokens, &store_config).scratch));
    let least = sum_of(chunk, &store_config);
    let taken = least.base.0 + least.scratch.0 + least.overhead.0;
    let room = KvRoom {
        bytes: limit.map_or(u64::MAX, |limit| limit.bytes.0.saturating_sub(taken)),
        experts: experts.asked(size),
    };
    let (model, format) = (&manifest.config, settings.kv_format);
    let blocks = kv_blocks(settings.kv_cache, model, format, settings.max_running, room);
    let mut engine_config = engine_config(settings, manifest, chunk, blocks);
    engine_config.kv_blocks_max = kv_blocks_max(model, format, settings.max_running, room, experts);

    let plan = EngineHandle::plan_memory(manifest, &store_config, &engine_config);
    let mut budget = expert_budget(size, &plan, experts, limit, |budget| {
        in_slots(&catalog, budget)
    })?;
    if is_embedded && settings.expert_cache.is_none() {
        budget.reason = EMBEDDED_REASON.to_owned();
    }
    store_config.budget = budget.bytes;
    let plan = EngineHandle::plan_memory(manifest, &store_config, &engine_config);
    Ok((engine_config, store_config, plan, budget))
}

fn engine_config(
    settings: &Settings,
    manifest: &Manifest,
    prefill_chunk_tokens: usize,
    kv_blocks: usize,
) -> EngineConfig {
    let model = &manifest.config;
    let top_k = model.num_experts_per_tok() as usize;
    EngineConfig {
        max_running: settings.max_running,
        max_waiting: settings.max_queue,
        prefill_chunk_tokens,
        kv_block_tokens: KV_BLOCK_TOKENS,
        kv_blocks,
        kv_blocks_max: kv_blocks,
        kv_format: settings.kv_format,
        max_context_tokens: (model.max_position_embeddings as usize)
            .min(kv_blocks * KV_BLOCK_TOKENS),
        // Half as many again as will be chosen: recall grows from 0.65 to 0.77 on the embedded model's held-out text.
        predict_top: if settings.prefetch {
            top_k + top_k / 2
        } else {
            0
        },
        prefix_cache: settings.prefix_cache,
        compute_threads: settings.threads,
    }
}
