//! From parts to a running engine.

use crate::api::{
    EngineEvent, EngineGauges, EngineObserver, EngineParts, LoadProgress, RequestError, StartError,
};
use crate::lanes::{Lane, Model};
use crate::memory;
use crate::model::queue::Queue;
use crate::model::weights::WeightLoader;
use crate::model::{Family, families};
use crate::scheduler::{LaneKind, Scheduler, SchedulerConfig};
use crate::step_loop::inbox::{Limits, Shared};
use crate::step_loop::{StepLoop, StepLoopParts};
use odmoe_backend::{AllocateError, KvCache, Waker};
use odmoe_expert_store::{Catalog, ExpertStore, StoreEvent, StoreHealth, StoreObserver};
use odmoe_formats::BlockFormat;
use odmoe_formats::manifest::Manifest;
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;

/// What a handle has of a running engine.
pub struct Started {
    /// Shared with the engine's thread.
    pub shared: Arc<Shared>,
    /// The engine's thread.
    pub thread: JoinHandle<()>,
    /// What is paged.
    pub catalog: Arc<Catalog>,
}

/// Starts an engine.
pub fn start(parts: EngineParts, progress: LoadProgress<'_>) -> Result<Started, StartError> {
    let manifest = parts.manifest.clone();
    let family = load_family(&parts, progress)?;
    check_expert_formats(&manifest, &parts.backend.capabilities().formats)?;
    let kv = allocate_kv(&parts)?;
    let scheduler_config = scheduler_config(&parts, kv.spec().blocks);
    let limits = Limits {
        vocab: manifest.config.vocab_size as usize,
        kv_blocks: parts.config.kv_blocks,
        kv_blocks_max: scheduler_config.kv_blocks,
        kv_block_tokens: parts.config.kv_block_tokens,
        context_tokens: scheduler_config.max_context_tokens,
        max_running: parts.config.max_running,
        max_waiting: parts.config.max_waiting,
    };
    let shared = Arc::new(Shared::new(limits, idle_gauges(&parts)));
    let bell = shared.clone();
    let waker: Waker = Arc::new(move || bell.ring());
    parts.backend.set_waker(waker.clone());
    let lanes = lanes(&parts)?;
    let catalog = Arc::new(Catalog::new(&manifest).keeping(&parts.store.keep));
    let store = ExpertStore::new(
        catalog.clone(),
        parts.backend.clone(),
        parts.reader.clone(),
        parts.store.clone(),
        Arc::new(StoreEvents(parts.observer.clone())),
        waker,
    )?;
    let model = Model {
        family,
        queue: Queue::new(parts.backend.clone()),
        kv,
        catalog: catalog.clone(),
        vocab: limits.vocab,
        hidden: manifest.config.hidden_size as usize,
        predict_top: memory::predict_top(&manifest.config, &parts.config),
        token_table: RefCell::default(),
        observer: parts.observer.clone(),
    };
    let mut scheduler = Scheduler::new(scheduler_config);
    scheduler.set_kv_blocks(parts.config.kv_blocks);
    let step_loop = StepLoop::new(StepLoopParts {
        shared: shared.clone(),
        limits,
        scheduler,
        store,
        model,
        lanes,
        kv_block_tokens: parts.config.kv_block_tokens,
        expert_budget: parts.store.budget,
    });
    let thread = std::thread::Builder::new().name("odmoe-engine".into());
    let alive = Alive(shared.clone());
    let thread = thread
        .spawn(move || run(step_loop, alive))
        .map_err(|error| {
            StartError::Store(odmoe_expert_store::StoreError::Thread(error.to_string()))
        })?;
    Ok(Started {
        shared,
        thread,
        catalog,
    })
}

/// Says that the engine's thread has ended, however it does.
struct Alive(Arc<Shared>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.died();
    }
}

/// The engine's thread: whatever ends the loop, every request gets its end.
fn run(mut step_loop: StepLoop, alive: Alive) {
    let error = match catch_unwind(AssertUnwindSafe(|| step_loop.run())) {
        Ok(Ok(())) => RequestError::ShuttingDown,
        Ok(Err(error)) => RequestError::Backend(error.to_string()),
        Err(panic) => RequestError::Backend(panic_text(&*panic)),
    };
    step_loop.fail_all(&error);
    // Before the store's readers are waited for: storage that hangs must not hide that the engine is gone.
    drop(alive);
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    format!(
        "the engine panicked: {}",
        text.unwrap_or_else(|| "no message".into())
    )
}

fn load_family(
    parts: &EngineParts,
    progress: LoadProgress<'_>,
) -> Result<Box<dyn Family>, StartError> {
    let config = &parts.manifest.config;
    let build = families::find(&config.architecture)?;
    let mut loader = WeightLoader::new(&parts.manifest, &*parts.backend);
    let family = build(config, &mut loader)?;
    loader.finish(&*parts.reader, parts.store.readers, progress)?;
    Ok(family)
}

fn lanes(parts: &EngineParts) -> Result<[Lane; 2], StartError> {
    let [prefill, decode] = memory::lane_shapes(&parts.manifest.config, &parts.config);
    Ok([
        Lane::new(LaneKind::Prefill, &*parts.backend, &prefill)?,
        Lane::new(LaneKind::Decode, &*parts.backend, &decode)?,
    ])
}

/// Storage for as many blocks as there can be, of which the first are used. Where the system has no addresses for so many,
/// there will never be more than at the start.
fn allocate_kv(parts: &EngineParts) -> Result<KvCache, AllocateError> {
    let (model, config) = (&parts.manifest.config, &parts.config);
    let allocate = |blocks| {
        parts
            .backend
            .allocate_kv(memory::kv_spec(model, config, blocks))
    };
    let most = config.kv_blocks_max.max(config.kv_blocks);
    let kv = allocate(most).or_else(|_| allocate(config.kv_blocks))?;
    parts.backend.use_kv_blocks(&kv, config.kv_blocks);
    Ok(kv)
}

/// The handle refuses what the queue cannot take, so the scheduler's own limit is never met: every live request fits.
fn scheduler_config(parts: &EngineParts, kv_blocks: usize) -> SchedulerConfig {
    let config = &parts.config;
    SchedulerConfig {
        max_running: config.max_running,
        max_waiting: config.max_running + config.max_waiting,
        prefill_chunk_tokens: config.prefill_chunk_tokens,
        kv_block_tokens: config.kv_block_tokens,
        kv_blocks,
        max_context_tokens: config
            .max_context_tokens
            .min(parts.manifest.config.max_position_embeddings as usize),
        prefix_cache: config.prefix_cache,
    }
}

fn idle_gauges(parts: &EngineParts) -> EngineGauges {
    EngineGauges {
        running: 0,
        waiting: 0,
        kv_blocks_used: 0,
        kv_blocks_remembered: 0,
        kv_blocks: parts.config.kv_blocks,
        store: Default::default(),
        health: StoreHealth::Healthy,
    }
}

/// A validated manifest holds every expert in its shape; which formats can be multiplied is for the backend to say.
fn check_expert_formats(manifest: &Manifest, formats: &[BlockFormat]) -> Result<(), StartError> {
    let tensors = manifest
        .objects
        .iter()
        .flat_map(|object| object.tensors.values().map(|t| (object.key, t.format)));
    match tensors
        .into_iter()
        .find(|(_, format)| !formats.contains(format))
    {
        Some((key, format)) => Err(StartError::Shape(format!(
            "{key} is {format}, which this backend cannot multiply"
        ))),
        None => Ok(()),
    }
}

/// Passes the store's events on.
struct StoreEvents(Arc<dyn EngineObserver>);

impl StoreObserver for StoreEvents {
    fn record(&self, event: &StoreEvent) {
        self.0.record(&EngineEvent::Store(event.clone()));
    }
}
