//! The engine without a server around it, on the CPU backend: what goldens need and no client sees.

use odmoe_backend::KvFormat;
use odmoe_backend_cpu::{CpuBackend, CpuConfig, KernelSet};
use odmoe_convert::{ConvertOptions, NoProgress, WeightFormat, convert, open_source, open_store};
use odmoe_engine::{
    ClientId, EngineConfig, EngineEvent, EngineHandle, EngineObserver, EngineParts,
    PositionLogprobs, PrefixCache, Request, SamplingParams, TokenEvent, TokenSink,
};
use odmoe_expert_store::{FileReader, StoreConfig};
use odmoe_formats::manifest::Manifest;
use odmoe_formats::{ByteCount, WeightLayout};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

/// An engine over a checkpoint, with its store in a folder of its own.
pub struct TestEngine {
    handle: EngineHandle,
    vocabulary: usize,
    _folder: tempfile::TempDir,
}

/// How an engine is made.
#[derive(Clone, Copy, Debug)]
pub struct EngineOptions {
    /// How weights are stored.
    pub weights: WeightFormat,
    /// In which order their blocks lie.
    pub layout: WeightLayout,
    /// How keys and values are stored.
    pub kv_format: KvFormat,
    /// Share of all expert bytes that the cache holds.
    pub cache_share: f64,
    /// Prompt tokens of one prefill pass.
    pub prefill_chunk_tokens: usize,
}

impl Default for EngineOptions {
    /// Exact keys and values, half of the experts in memory.
    fn default() -> Self {
        Self {
            weights: WeightFormat::Source,
            layout: WeightLayout::RowMajor,
            kv_format: KvFormat::F32,
            cache_share: 0.5,
            prefill_chunk_tokens: 64,
        }
    }
}

impl TestEngine {
    /// Converts a checkpoint of any kind and starts an engine over it.
    #[track_caller]
    pub fn start(checkpoint: &Path, options: EngineOptions) -> Self {
        Self::start_observed(checkpoint, options, Arc::new(Nobody))
    }

    /// As [`Self::start`], with somebody who is told of all that happens.
    #[track_caller]
    pub fn start_observed(
        checkpoint: &Path,
        options: EngineOptions,
        observer: Arc<dyn EngineObserver>,
    ) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store = folder.path().join("store");
        let source = open_source(checkpoint).unwrap_or_else(|e| panic!("{e}"));
        let convert_options = ConvertOptions {
            weights: options.weights,
            layout: options.layout,
            ..ConvertOptions::default()
        };
        convert(source.as_ref(), &store, &convert_options, &NoProgress)
            .unwrap_or_else(|e| panic!("{}: {e}", checkpoint.display()));
        let manifest = Arc::new(open_store(&store).unwrap_or_else(|e| panic!("{e}")));
        let reader = FileReader::open(&store, &manifest).unwrap_or_else(|e| panic!("{e}"));
        let backend = CpuBackend::new(CpuConfig {
            threads: 2,
            kernels: forced_kernels(),
        });
        let parts = EngineParts {
            backend: Arc::new(backend.unwrap_or_else(|e| panic!("{e}"))),
            reader: Arc::new(reader),
            store: store_config(&manifest, options.cache_share),
            config: engine_config(&manifest, options),
            observer,
            manifest: manifest.clone(),
        };
        let handle = EngineHandle::start(parts, &|_, _| {}).unwrap_or_else(|e| panic!("{e}"));
        Self {
            handle,
            vocabulary: manifest.config.vocab_size as usize,
            _folder: folder,
        }
    }

    /// Rows of the output head.
    pub fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    /// Greedy tokens after `prompt`, each with its logprob.
    #[track_caller]
    pub fn generate(&self, prompt: &[u32], tokens: u32) -> Vec<PositionLogprobs> {
        self.begin(prompt, tokens).wait()
    }

    /// Begins to generate greedy tokens after `prompt`.
    #[track_caller]
    pub fn begin(&self, prompt: &[u32], tokens: u32) -> Scoring {
        let (sender, events) = channel();
        let request = Request {
            client: ClientId::default(),
            prompt: prompt.to_vec(),
            sampling: SamplingParams {
                temperature: 0.0,
                ..SamplingParams::default()
            },
            max_new_tokens: tokens,
            stop_token_ids: Vec::new(),
            logprobs: Some(1),
            rules: None,
        };
        self.handle
            .submit(request, Box::new(Sink(sender)))
            .unwrap_or_else(|e| panic!("{e}"));
        Scoring { events }
    }

    /// Begins to score `continuation` after `prompt`: the logprobs of its tokens, and of the `top` most likely ones.
    #[track_caller]
    pub fn score(&self, prompt: &[u32], continuation: &[u32], top: usize) -> Scoring {
        let (sender, events) = channel();
        let (prompt, continuation) = (prompt.to_vec(), continuation.to_vec());
        self.handle
            .score(
                ClientId::default(),
                prompt,
                continuation,
                top as u32,
                Box::new(Sink(sender)),
            )
            .unwrap_or_else(|e| panic!("{e}"));
        Scoring { events }
    }
}

/// A scoring or a generation under way.
pub struct Scoring {
    events: Receiver<TokenEvent>,
}

impl Scoring {
    /// Its logprobs, by position of the continuation.
    #[track_caller]
    pub fn wait(self) -> Vec<PositionLogprobs> {
        let mut positions = Vec::new();
        for event in self.events {
            match event {
                TokenEvent::Prefilled { .. } => {}
                TokenEvent::Token { logprobs, .. } => positions.push(logprobs.expect("asked for")),
                TokenEvent::Finished { .. } => return positions,
                TokenEvent::Failed { error } => panic!("{error}"),
            }
        }
        panic!("a scoring without an end");
    }
}

/// Where slots start in the store's memory.
const SLOT_ALIGNMENT: u64 = 16 << 10;

fn store_config(manifest: &Manifest, share: f64) -> StoreConfig {
    let bytes = manifest.objects.iter().map(|object| object.bytes);
    let slot = bytes.clone().max().unwrap_or(0);
    let least = 2 * slot.next_multiple_of(SLOT_ALIGNMENT);
    let budget = ((bytes.sum::<u64>() as f64 * share) as u64).max(least);
    StoreConfig {
        budget: ByteCount(budget),
        readers: 2,
        prefetch: true,
        read_timeout: Duration::from_secs(60),
        ..StoreConfig::default()
    }
}

fn engine_config(manifest: &Manifest, options: EngineOptions) -> EngineConfig {
    let context = manifest.config.max_position_embeddings as usize;
    let (running, block) = (32, 16);
    EngineConfig {
        max_running: running,
        max_waiting: 4096,
        prefill_chunk_tokens: options.prefill_chunk_tokens,
        kv_block_tokens: block,
        kv_blocks: running * context.min(640).div_ceil(block),
        kv_blocks_max: 0,
        kv_format: options.kv_format,
        max_context_tokens: context,
        predict_top: 4,
        prefix_cache: PrefixCache::PerClient,
        compute_threads: 2,
    }
}

/// The variable that forces a kernel set, in servers and here alike.
pub const FORCED_KERNELS: &str = "ODMOE_CPU";

/// The kernel set that the environment forces, if any.
fn forced_kernels() -> Option<KernelSet> {
    let name = std::env::var(FORCED_KERNELS).ok()?;
    Some(KernelSet::parse(&name).unwrap_or_else(|e| panic!("{FORCED_KERNELS}: {e}")))
}

struct Nobody;

impl EngineObserver for Nobody {
    fn record(&self, _event: &EngineEvent) {}
}

struct Sink(Sender<TokenEvent>);

impl TokenSink for Sink {
    fn emit(&mut self, event: TokenEvent) {
        // Nobody listens any more once a test has failed.
        let _ = self.0.send(event);
    }

    fn is_closed(&self) -> bool {
        false
    }
}
