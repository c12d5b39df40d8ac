//! An engine over a test model.

use super::model::TestModel;
use super::reader::TestReader;
use super::recorder::{Entry, HookedBackend, Log};
use super::sink::{Answer, EmbeddingListener, Listener};
use odmoe_backend::{Backend, KvFormat};
use odmoe_backend_checking::{CheckingBackend, CheckingConfig, Completion};
use odmoe_backend_cpu::{CpuBackend, CpuConfig, KernelSet};
use odmoe_engine::{
    ClientId, EmbeddingEnd, EmbeddingRequest, EngineConfig, EngineHandle, EngineParts, Pooling,
    PrefixCache, Request, RequestId, SamplingParams,
};
use odmoe_expert_store::StoreConfig;
use odmoe_formats::ByteCount;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How a test engine is made; fields are changed before [`Setup::start`].
pub struct Setup {
    pub backend: Arc<dyn Backend>,
    pub reader: Arc<TestReader>,
    pub store: StoreConfig,
    pub config: EngineConfig,
    pub log: Log,
    manifest: Arc<odmoe_formats::manifest::Manifest>,
}

/// A CPU backend with the kernels that `ODMOE_CPU` names, or the fastest.
pub fn cpu(threads: usize) -> Arc<dyn Backend> {
    let forced = std::env::var("ODMOE_CPU").ok();
    let kernels = forced.map(|name| KernelSet::parse(&name).expect("ODMOE_CPU"));
    Arc::new(CpuBackend::new(CpuConfig { threads, kernels }).expect("a CPU backend"))
}

/// A backend that completes late, checks every access, and keeps its memory apart from the host's if asked to.
pub fn checking(unified_memory: bool, seed: u64) -> Arc<dyn Backend> {
    let config = CheckingConfig {
        seed,
        unified_memory,
        completion: Completion::AfterPolls { most: 3 },
    };
    Arc::new(CheckingBackend::new(cpu(1), config))
}

/// Every kind of backend that there is without a device, by name.
pub fn backends(seed: u64) -> [(&'static str, Arc<dyn Backend>); 3] {
    [
        ("cpu", cpu(1)),
        ("checking, unified", checking(true, seed)),
        ("checking, separate", checking(false, seed)),
    ]
}

/// One set-up for each kind of backend; what fails says on which.
pub fn setups(model: &TestModel, seed: u64) -> impl Iterator<Item = Setup> {
    backends(seed).into_iter().map(move |(name, backend)| {
        println!("on {name}, seed {seed}");
        Setup {
            backend,
            ..Setup::new(model)
        }
    })
}

impl Setup {
    /// All experts fit, one thread, prediction on.
    pub fn new(model: &TestModel) -> Self {
        Self {
            backend: cpu(1),
            reader: TestReader::new(model),
            store: StoreConfig {
                budget: ByteCount(1 << 30),
                readers: 2,
                prefetch: true,
                read_timeout: Duration::from_secs(60),
                ..StoreConfig::default()
            },
            config: EngineConfig {
                max_running: 8,
                max_waiting: 16,
                prefill_chunk_tokens: 64,
                kv_block_tokens: 16,
                kv_blocks: 128,
                kv_blocks_max: 0,
                kv_format: KvFormat::F16,
                max_context_tokens: 2048,
                predict_top: 4,
                prefix_cache: PrefixCache::PerClient,
                compute_threads: 2,
            },
            log: Log::default(),
            manifest: model.manifest.clone(),
        }
    }

    /// Writes every op into the log beside the engine's events.
    pub fn recording(mut self) -> Self {
        let log = self.log.clone();
        let hook = move |op: &odmoe_backend::Op| {
            log.push(Entry::Op(op.clone()));
            Ok(())
        };
        self.backend = Arc::new(HookedBackend::new(self.backend, hook));
        self
    }

    /// Makes every op take a while, so that a request of some hundred tokens outlives whatever the test does meanwhile.
    pub fn slowed(mut self) -> Self {
        let hook = |_: &odmoe_backend::Op| {
            std::thread::sleep(Duration::from_micros(200));
            Ok(())
        };
        self.backend = Arc::new(HookedBackend::new(self.backend, hook));
        self
    }

    pub fn start(self) -> TestEngine {
        let parts = EngineParts {
            manifest: self.manifest.clone(),
            backend: self.backend.clone(),
            reader: self.reader.clone(),
            store: self.store.clone(),
            config: self.config.clone(),
            observer: Arc::new(self.log.clone()),
        };
        let handle = EngineHandle::start(parts, &|_, _| {}).expect("an engine");
        TestEngine {
            handle,
            reader: self.reader,
            log: self.log,
        }
    }
}

pub struct TestEngine {
    pub handle: EngineHandle,
    pub reader: Arc<TestReader>,
    pub log: Log,
}

impl TestEngine {
    pub fn submit(&self, request: Request) -> (RequestId, Listener) {
        let listener = Listener::default();
        let id = self
            .handle
            .submit(request, listener.sink())
            .expect("room in the queue");
        (id, listener)
    }

    /// One request, to its end.
    pub fn answer(&self, request: Request) -> Answer {
        self.submit(request).1.wait()
    }

    pub fn submit_text(&self, tokens: &[u32], pooling: Pooling) -> (RequestId, EmbeddingListener) {
        let request = EmbeddingRequest {
            client: ClientId::default(),
            tokens: tokens.to_vec(),
            pooling,
        };
        let listener = EmbeddingListener::default();
        let submitted = self.handle.embed(request, listener.sink());
        (submitted.expect("room in the queue"), listener)
    }

    /// The embedding of one text.
    pub fn embedding(&self, tokens: &[u32], pooling: Pooling) -> Vec<f32> {
        match self.submit_text(tokens, pooling).1.wait() {
            EmbeddingEnd::Done { values, .. } => values,
            other => panic!("{other:?}"),
        }
    }

    /// All requests at once, each to its end.
    pub fn answers(&self, requests: &[Request]) -> Vec<Answer> {
        let listeners: Vec<_> = requests
            .iter()
            .map(|request| self.submit(request.clone()).1)
            .collect();
        listeners.iter().map(Listener::wait).collect()
    }

    /// Waits until `done`; fails where it never comes.
    pub fn wait_until(&self, what: &str, mut done: impl FnMut(&Self) -> bool) {
        let begin = Instant::now();
        while !done(self) {
            assert!(
                begin.elapsed() < Duration::from_secs(60),
                "never {what}: {:?}",
                self.handle.gauges()
            );
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Nothing runs, waits, is pinned, read or held in the KV cache.
    pub fn wait_for_rest(&self) {
        self.wait_until("at rest", |engine| {
            let gauges = engine.handle.gauges();
            let books = gauges.running + gauges.waiting + gauges.kv_blocks_used;
            let reads = gauges.store.reads_in_flight + gauges.store.reads_queued;
            engine.handle.is_idle() && books + reads == 0 && gauges.store.pinned == ByteCount(0)
        });
    }
}

/// Greedy, with logprobs.
pub fn greedy(prompt: Vec<u32>, max_new_tokens: u32) -> Request {
    let sampling = SamplingParams {
        temperature: 0.0,
        ..Default::default()
    };
    Request {
        client: ClientId::default(),
        prompt,
        sampling,
        max_new_tokens,
        stop_token_ids: vec![],
        logprobs: Some(3),
        rules: None,
    }
}

impl Drop for TestEngine {
    /// A failed test must not wait for reads that hang.
    fn drop(&mut self) {
        self.reader.heal();
    }
}
