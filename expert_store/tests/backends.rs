//! The store over real backends and real files: what a lane reads from a slot on the compute stream is what was
//! converted, and the checking backend finds no access without its upload, window or event.

mod common;

use common::{content, key, manifest, write_files};
use odmoe_backend::{Backend, Event, ReadBack, StreamId};
use odmoe_backend_checking::{CheckingBackend, CheckingConfig, Completion};
use odmoe_backend_cpu::{CpuBackend, CpuConfig};
use odmoe_expert_store::*;
use odmoe_formats::ByteCount;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

const OBJECTS: u32 = 12;

fn sizes() -> Vec<u64> {
    (0..OBJECTS as u64)
        .map(|i| [8192, 20 << 10, 64 << 10][i as usize % 3])
        .collect()
}

fn cpu() -> Arc<dyn Backend> {
    Arc::new(
        CpuBackend::new(CpuConfig {
            threads: 1,
            kernels: None,
        })
        .unwrap(),
    )
}

fn checking(seed: u64, unified_memory: bool) -> Arc<dyn Backend> {
    let completion = Completion::AfterPolls { most: 5 };
    Arc::new(CheckingBackend::new(
        cpu(),
        CheckingConfig {
            seed,
            unified_memory,
            completion,
        },
    ))
}

/// Lets the backend read slots late, as a forward pass does, and compares.
struct Pass {
    backend: Arc<dyn Backend>,
    reading: VecDeque<(u32, ReadBack)>,
    compared: usize,
}

impl Pass {
    /// Enqueues reads of what landed; the event behind them.
    fn compute(&mut self, landed: Vec<Landed>) -> (Vec<Pin>, Event) {
        let mut pins = Vec::new();
        for landed in landed {
            let Landed::Ready { key, slot, pin } = landed else {
                panic!("{landed:?}")
            };
            let index = key.layer.0 * 8 + key.index.0;
            let bytes = sizes()[index as usize] as usize;
            let back = self
                .backend
                .read_back(StreamId::COMPUTE, &slot, 0..bytes)
                .unwrap();
            self.reading.push_back((index, back));
            pins.push(pin);
        }
        (pins, self.backend.record(StreamId::COMPUTE).unwrap())
    }

    fn compare(&mut self) {
        while let Some((index, back)) = self.reading.front_mut() {
            let Some(bytes) = self.backend.take(back).unwrap() else {
                return;
            };
            assert!(
                bytes == content(*index, bytes.len() as u64),
                "{} reached the kernel whole",
                key(*index)
            );
            self.reading.pop_front();
            self.compared += 1;
        }
    }
}

fn run(backend: Arc<dyn Backend>, seed: u32) {
    let dir = tempfile::tempdir().unwrap();
    write_files(dir.path(), &sizes());
    let manifest = manifest(&sizes());
    let reader = Arc::new(FileReader::open(dir.path(), &manifest).unwrap());
    let catalog = Arc::new(Catalog::new(&manifest));
    let budget = ByteCount(catalog.least_budget().0 * 2);
    let config = StoreConfig {
        budget,
        readers: 2,
        ..StoreConfig::default()
    };
    let waker = Arc::new(|| {});
    let mut store = ExpertStore::new(
        catalog,
        backend.clone(),
        reader,
        config,
        Arc::new(NoObserver),
        waker,
    )
    .unwrap();
    let mut pass = Pass {
        backend,
        reading: VecDeque::new(),
        compared: 0,
    };
    let mut asked = 0;
    for round in 0..30 {
        let some: Vec<_> = (0..4)
            .map(|i| key((seed + round * 5 + i * 7) % OBJECTS))
            .collect();
        let ticket = store.acquire(&some, Phase::Decode, Instant::now());
        store.hint(0, Phase::Decode, &[key((seed + round * 3) % OBJECTS)]);
        asked += some.len();
        let mut remaining = usize::MAX;
        while remaining > 0 {
            store.poll(Instant::now());
            let mut landed = Vec::new();
            remaining = store.take_landed(ticket, &mut landed);
            let (pins, event) = pass.compute(landed);
            store.release(pins, event);
            pass.compare();
            std::thread::yield_now();
        }
    }
    while !pass.reading.is_empty() {
        pass.compare();
    }
    assert_eq!(pass.compared, asked);
}

#[test]
fn slots_hold_what_was_converted_on_the_cpu() {
    run(cpu(), 0);
}

#[test]
fn nothing_is_touched_before_its_time_with_unified_memory() {
    for seed in 0..3 {
        run(checking(seed, true), seed as u32);
    }
}

#[test]
fn nothing_is_touched_before_its_time_with_two_tiers() {
    for seed in 0..3 {
        run(checking(seed, false), seed as u32);
    }
}
