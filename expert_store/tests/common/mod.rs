//! A store over made-up objects, a fake backend, and ways to drive and watch both.
#![allow(dead_code, reason = "each test file uses its part")]

pub mod backend;

use backend::FakeBackend;
use odmoe_backend::{Backend, Buffer, Event};
use odmoe_expert_store::*;
use odmoe_formats::checksum::Xxh3;
use odmoe_formats::manifest::*;
use odmoe_formats::model_config::{ModelConfig, MoeConfig};
use odmoe_formats::{ByteCount, ExpertKey, WeightLayout};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Only ends tests that would hang.
const PATIENCE: Duration = Duration::from_secs(60);
pub const SLOT: u64 = 16 << 10;

pub fn key(index: u32) -> ExpertKey {
    ExpertKey::routed(index / 8, index % 8)
}

/// The bytes of an object: different for each, never constant.
pub fn content(index: u32, bytes: u64) -> Vec<u8> {
    (0..bytes as u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8 ^ (index as u8) ^ ((index >> 8) as u8))
        .collect()
}

/// A manifest with one object a file, object `i` with key `key(i)` and the content of that number.
pub fn manifest(sizes: &[u64]) -> Manifest {
    let object = |(i, &bytes): (usize, &u64)| PageableObject {
        key: key(i as u32),
        file: FileIndex(i as u32),
        offset: 4096,
        bytes,
        layout: WeightLayout::RowMajor,
        tensors: BTreeMap::new(),
        xxh3_128: Xxh3::of(&content(i as u32, bytes)).to_hex(),
    };
    let file = |(i, bytes): (usize, &u64)| StoreFile {
        path: format!("experts/{i}.safetensors"),
        bytes: 4096 + bytes,
    };
    Manifest {
        format_version: FORMAT_VERSION_ROW_MAJOR,
        name: "made up".into(),
        config: config(),
        files: sizes.iter().enumerate().map(file).collect(),
        resident: BTreeMap::new(),
        objects: sizes.iter().enumerate().map(object).collect(),
        text: TextFiles::default(),
        provenance: Provenance {
            converter: "test".into(),
            sources: Vec::new(),
        },
    }
}

fn config() -> ModelConfig {
    ModelConfig {
        architecture: "qwen3moe".into(),
        num_hidden_layers: 1,
        hidden_size: 1,
        num_attention_heads: 1,
        num_key_value_heads: 1,
        head_dim: 1,
        vocab_size: 1,
        rms_norm_eps: 1e-6,
        rope_theta: 1e6,
        max_position_embeddings: 1,
        tie_word_embeddings: true,
        intermediate_size: 0,
        attention_bias: false,
        rope_frequency_divisors: Vec::new(),
        moe: Some(MoeConfig {
            num_experts: 8,
            num_experts_per_tok: 1,
            moe_intermediate_size: 1,
            norm_topk_prob: true,
            dense_layers: Vec::new(),
            shared_expert_intermediate_size: 0,
        }),
    }
}

/// The files of such a manifest.
pub fn files(sizes: &[u64]) -> Vec<Vec<u8>> {
    let file = |(i, &bytes): (usize, &u64)| [vec![0x20; 4096], content(i as u32, bytes)].concat();
    sizes.iter().enumerate().map(file).collect()
}

/// Writes them into a folder.
pub fn write_files(dir: &Path, sizes: &[u64]) {
    std::fs::create_dir_all(dir.join("experts")).unwrap();
    for (i, bytes) in files(sizes).iter().enumerate() {
        std::fs::write(dir.join(format!("experts/{i}.safetensors")), bytes).unwrap();
    }
}

/// Keeps every event.
#[derive(Default)]
pub struct Recorder(Mutex<Vec<StoreEvent>>);

impl StoreObserver for Recorder {
    fn record(&self, event: &StoreEvent) {
        self.0.lock().unwrap().push(event.clone());
    }
}

impl Recorder {
    pub fn all(&self) -> Vec<StoreEvent> {
        self.0.lock().unwrap().clone()
    }

    pub fn count(&self, matches: impl Fn(&StoreEvent) -> bool) -> usize {
        self.0.lock().unwrap().iter().filter(|e| matches(e)).count()
    }

    pub fn lookups(&self) -> Vec<LookupResult> {
        let result = |e: &StoreEvent| {
            if let StoreEvent::Lookup { result, .. } = e {
                Some(*result)
            } else {
                None
            }
        };
        self.0.lock().unwrap().iter().filter_map(result).collect()
    }

    pub fn failures(&self) -> Vec<LoadFailureKind> {
        let kind = |e: &StoreEvent| {
            if let StoreEvent::LoadFailed { kind, .. } = e {
                Some(*kind)
            } else {
                None
            }
        };
        self.0.lock().unwrap().iter().filter_map(kind).collect()
    }

    /// Prefetches issued, used, wasted.
    pub fn prefetches(&self) -> [usize; 3] {
        [
            self.count(|e| matches!(e, StoreEvent::PrefetchIssued)),
            self.count(|e| matches!(e, StoreEvent::PrefetchUsed { .. })),
            self.count(|e| matches!(e, StoreEvent::PrefetchWasted { .. })),
        ]
    }
}

/// What a ticket got for one key, by object number.
pub type Got = BTreeMap<u32, Result<(Buffer, Pin), LoadError>>;

pub struct Harness {
    pub store: ExpertStore,
    pub backend: Arc<FakeBackend>,
    pub faulty: Arc<FaultyReader>,
    pub events: Arc<Recorder>,
    pub manifest: Manifest,
    woken: Receiver<()>,
}

impl Harness {
    /// Objects in memory behind a faulty reader, with room for `slots` of the first object's size.
    pub fn new(sizes: &[u64], slots: u64, change: impl FnOnce(&mut StoreConfig)) -> Self {
        Self::over(
            FakeBackend::unified(),
            Arc::new(MemoryReader::new(files(sizes))),
            sizes,
            slots,
            change,
        )
    }

    pub fn over(
        backend: FakeBackend,
        reader: Arc<dyn ShardReader>,
        sizes: &[u64],
        slots: u64,
        change: impl FnOnce(&mut StoreConfig),
    ) -> Self {
        let slot = sizes[0].next_multiple_of(SLOT);
        let mut config = StoreConfig {
            budget: ByteCount(slots * slot),
            readers: 2,
            prefetch: true,
            ..StoreConfig::default()
        };
        change(&mut config);
        let manifest = manifest(sizes);
        let faulty = Arc::new(FaultyReader::new(reader, 1));
        let backend = Arc::new(backend);
        let events = Arc::new(Recorder::default());
        let (wake, woken) = channel();
        let waker = Arc::new(move || wake.send(()).unwrap_or(()));
        let catalog = Arc::new(Catalog::new(&manifest).keeping(&config.keep));
        let store = ExpertStore::new(
            catalog,
            backend.clone(),
            faulty.clone(),
            config,
            events.clone(),
            waker,
        )
        .unwrap();
        Self {
            store,
            backend,
            faulty,
            events,
            manifest,
            woken,
        }
    }

    pub fn object(&self, index: u32) -> &PageableObject {
        self.manifest
            .objects
            .iter()
            .find(|o| o.key == key(index))
            .unwrap()
    }

    pub fn acquire(&mut self, indices: &[u32]) -> Ticket {
        self.acquire_as(indices, Phase::Decode)
    }

    pub fn acquire_as(&mut self, indices: &[u32], phase: Phase) -> Ticket {
        let keys: Vec<_> = indices.iter().map(|i| key(*i)).collect();
        self.store.acquire(&keys, phase, Instant::now())
    }

    pub fn hint(&mut self, source: u32, indices: &[u32]) {
        let keys: Vec<_> = indices.iter().map(|i| key(*i)).collect();
        self.store.hint(source, Phase::Decode, &keys);
    }

    /// Takes what has landed, checking that slots hold the right bytes; adds the number of keys still to come.
    pub fn take(&mut self, ticket: Ticket) -> (Got, usize) {
        let mut landed = Vec::new();
        let remaining = self.store.take_landed(ticket, &mut landed);
        let index = |k: ExpertKey| k.layer.0 * 8 + k.index.0;
        let mut got = Got::new();
        for landed in landed {
            match landed {
                Landed::Ready { key, slot, pin } => {
                    let object = self.object(index(key));
                    let bytes = self.backend.bytes(&slot);
                    assert!(
                        bytes[..object.bytes as usize] == content(index(key), object.bytes),
                        "{key} has its bytes"
                    );
                    got.insert(index(key), Ok((slot, pin)));
                }
                Landed::Failed { key, error } => {
                    got.insert(index(key), Err(error));
                }
            }
        }
        (got, remaining)
    }

    /// Polls until `done` says so.
    pub fn until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        let start = Instant::now();
        loop {
            self.store.poll(Instant::now());
            if done(self) {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "waited in vain for {what}");
            // Backend events wake nobody here, so look again soon in any case.
            let _ = self.woken.recv_timeout(Duration::from_millis(5));
        }
    }

    /// Waits until a ticket is over; releases nothing.
    pub fn finish(&mut self, ticket: Ticket) -> Got {
        let mut all = Got::new();
        self.until("a ticket", |h| {
            let (got, remaining) = h.take(ticket);
            all.extend(got);
            remaining == 0
        });
        all
    }

    /// Gives pins back behind an event that is reached already.
    pub fn release(&mut self, got: Got) {
        let pins = got
            .into_values()
            .filter_map(|r| r.ok())
            .map(|(_, pin)| pin)
            .collect();
        let event = self.backend.done();
        self.store.release(pins, event);
    }

    /// Acquires, waits, releases.
    pub fn visit(&mut self, indices: &[u32]) {
        let ticket = self.acquire(indices);
        let got = self.finish(ticket);
        assert!(got.values().all(Result::is_ok), "{got:?}");
        self.release(got);
    }

    /// Waits until no read is under way or queued.
    pub fn settle(&mut self) {
        self.until("rest", |h| {
            let gauges = h.store.gauges();
            gauges.reads_in_flight == 0 && gauges.reads_queued == 0
        });
    }

    /// Waits until nothing is held, after everything was given back.
    pub fn assert_at_rest(&mut self) {
        self.settle();
        self.until("pins to end", |h| h.store.gauges().pinned == ByteCount(0));
        let gauges = self.store.gauges();
        assert_eq!(gauges.readers_stuck, 0);
        assert!(gauges.resident <= gauges.capacity);
    }
}

pub fn event_of(backend: &FakeBackend) -> Event {
    backend.record(odmoe_backend::StreamId::COMPUTE).unwrap()
}
