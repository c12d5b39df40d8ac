//! The store over real backends and real files: what a lane reads from a slot on the compute stream is what was
//! converted, and the checking backend finds no access without its upload, window or event.

mod common;

use common::{content, key, manifest, write_files};
use odmoe_backend::{Backend, Event, ReadBack, StreamId};
use odmoe_backend_checking::{CheckingBackend, CheckingConfig, Completion};
use odmoe_backend_cpu::{CpuBackend, CpuConfig, KernelSet};
use odmoe_expert_store::*;
use odmoe_formats::block::to_lanes;
use odmoe_formats::checksum::Xxh3;
use odmoe_formats::manifest::{Manifest, ObjectTensor};
use odmoe_formats::{BlockFormat, ByteCount, WeightLayout};
use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

const OBJECTS: u32 = 12;

fn sizes() -> Vec<u64> {
    (0..OBJECTS as u64)
        .map(|i| [8192, 20 << 10, 64 << 10][i as usize % 3])
        .collect()
}

fn cpu() -> Arc<dyn Backend> {
    cpu_with(None)
}

fn cpu_with(kernels: Option<KernelSet>) -> Arc<dyn Backend> {
    let threads = 1;
    Arc::new(CpuBackend::new(CpuConfig { threads, kernels }).unwrap())
}

fn checking(seed: u64, unified_memory: bool) -> Arc<dyn Backend> {
    checked(cpu(), seed, unified_memory)
}

fn checked(inner: Arc<dyn Backend>, seed: u64, unified_memory: bool) -> Arc<dyn Backend> {
    let completion = Completion::AfterPolls { most: 5 };
    Arc::new(CheckingBackend::new(
        inner,
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

/// A store with so many times the least budget.
fn open(dir: &Path, manifest: &Manifest, backend: Arc<dyn Backend>, times: u64) -> ExpertStore {
    let reader = Arc::new(FileReader::open(dir, manifest).unwrap());
    let catalog = Arc::new(Catalog::new(manifest));
    let config = StoreConfig {
        budget: ByteCount(catalog.least_budget().0 * times),
        readers: 2,
        ..StoreConfig::default()
    };
    let (observer, waker) = (Arc::new(NoObserver), Arc::new(|| {}));
    ExpertStore::new(catalog, backend, reader, config, observer, waker).unwrap()
}

fn run(backend: Arc<dyn Backend>, seed: u32) {
    let dir = tempfile::tempdir().unwrap();
    write_files(dir.path(), &sizes());
    let manifest = manifest(&sizes());
    let mut store = open(dir.path(), &manifest, backend.clone(), 2);
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

const TENSOR: (BlockFormat, u64, u64) = (BlockFormat::Q8_0, 48, 64);

/// A store of one object, whose only tensor lies in lanes; the same tensor in rows.
fn in_lanes(dir: &Path) -> (Manifest, Vec<u8>) {
    let (format, rows, columns) = TENSOR;
    let bytes = rows * format.row_bytes(columns).unwrap();
    let mut manifest = manifest(&[8192]);
    let in_rows = content(0, bytes);
    let object = &mut manifest.objects[0];
    let mut stored = content(0, object.bytes);
    to_lanes(format, columns, &in_rows, &mut stored[..bytes as usize]);
    object.layout = WeightLayout::Lanes16;
    object.xxh3_128 = Xxh3::of(&stored).to_hex();
    let tensor = ObjectTensor {
        offset: 0,
        bytes,
        shape: vec![rows, columns],
        format,
    };
    object.tensors.insert("gate_proj".into(), tensor);
    write_files(dir, &[object.bytes]);
    let path = dir.join(&manifest.files[0].path);
    let mut file = std::fs::read(&path).unwrap();
    let at = object.offset as usize;
    file[at..at + stored.len()].copy_from_slice(&stored);
    std::fs::write(path, file).unwrap();
    (manifest, in_rows)
}

/// What is in the only slot once the object has landed, and the layout that it is said to have.
fn landed(backend: Arc<dyn Backend>) -> (Vec<u8>, WeightLayout, Vec<u8>) {
    let dir = tempfile::tempdir().unwrap();
    let (manifest, in_rows) = in_lanes(dir.path());
    let mut store = open(dir.path(), &manifest, backend.clone(), 1);
    let ticket = store.acquire(&[key(0)], Phase::Decode, Instant::now());
    let mut landed = Vec::new();
    while store.take_landed(ticket, &mut landed) > 0 {
        store.poll(Instant::now());
        std::thread::yield_now();
    }
    let Some(Landed::Ready { slot, pin, .. }) = landed.pop() else {
        panic!("the object can be read");
    };
    let object = &manifest.objects[0];
    let tensor = &object.tensors["gate_proj"];
    let layout = store.layout_in_slots(object, tensor);
    let bytes = 0..tensor.bytes as usize;
    let mut back = backend.read_back(StreamId::COMPUTE, &slot, bytes).unwrap();
    let found = loop {
        if let Some(bytes) = backend.take(&mut back).unwrap() {
            break bytes;
        }
        store.poll(Instant::now());
    };
    let read = backend.record(StreamId::COMPUTE).unwrap();
    store.release(vec![pin], read);
    (found, layout, in_rows)
}

/// Verified as it is stored, then laid out once, whether the slot is addressed or reached by uploads.
#[test]
fn lanes_land_in_rows_where_the_backend_takes_no_lanes() {
    let portable = || cpu_with(Some(KernelSet::Portable));
    for backend in [
        portable(),
        checked(portable(), 1, true),
        checked(portable(), 2, false),
    ] {
        let (found, layout, in_rows) = landed(backend);
        assert_eq!(layout, WeightLayout::RowMajor);
        assert!(found == in_rows);
    }
}

#[test]
fn lanes_land_as_they_are_stored_where_the_backend_takes_them() {
    let (found, layout, in_rows) = landed(cpu_with(Some(KernelSet::Reference)));
    assert_eq!(layout, WeightLayout::Lanes16);
    let (format, _, columns) = TENSOR;
    let mut lanes = vec![0; in_rows.len()];
    to_lanes(format, columns, &in_rows, &mut lanes);
    assert!(found == lanes);
}
