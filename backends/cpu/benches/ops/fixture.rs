//! A backend with weights and activations, and how an op on them is timed.

use criterion::{Criterion, SamplingMode, Throughput};
use odmoe_backend::{Backend, Buffer, Op, StreamId, Weight};
use odmoe_backend_cpu::{CpuBackend, CpuConfig, KernelSet};
use odmoe_formats::BlockFormat;
use std::thread;

/// Bytes of weights: more than the last-level cache of a large server.
const WEIGHT_BYTES: usize = 512 << 20;

/// The shapes of a mixture of experts with 30 billion parameters, 3 billion of them active.
pub const HIDDEN: usize = 2048;
pub const EXPERT_WIDTH: usize = 768;
pub const EXPERTS: usize = 128;
pub const TOP_K: usize = 8;
pub const QUERY_HEADS: usize = 32;
pub const KV_HEADS: usize = 4;
pub const HEAD_DIM: usize = 128;

/// What an op has to do at least.
#[derive(Clone, Copy)]
pub struct Work {
    /// Bytes from memory.
    pub bytes: usize,
    /// Operations, a multiply-add as two.
    pub operations: usize,
}

pub struct Fixture {
    pub backend: CpuBackend,
    pub set: KernelSet,
    weights: Buffer,
    next: usize,
}

impl Fixture {
    pub fn new(set: KernelSet) -> Self {
        let threads = std::env::var("ODMOE_BENCH_THREADS").map_or_else(
            |_| thread::available_parallelism().map_or(1, usize::from),
            |text| text.parse().expect("ODMOE_BENCH_THREADS is a number"),
        );
        let kernels = Some(set);
        let backend = CpuBackend::new(CpuConfig { threads, kernels }).expect("a backend");
        let weights = backend.allocate(WEIGHT_BYTES).expect("memory for weights");
        // Bytes that are small numbers in every format.
        let mut window = backend.host_window(&weights).expect("host memory");
        window.bytes_mut().fill(0x2c);
        drop(window);
        Self {
            backend,
            set,
            weights,
            next: 0,
        }
    }

    /// A buffer of floats between -0.5 and 0.5.
    pub fn floats(&self, count: usize) -> Buffer {
        let buffer = self.backend.allocate(count * 4).expect("a buffer");
        let values: Vec<u8> = (0..count)
            .flat_map(|i| ((i % 37) as f32 / 37.0 - 0.5).to_le_bytes())
            .collect();
        self.backend
            .upload(StreamId::COMPUTE, &values, &buffer, 0)
            .expect("an upload");
        buffer
    }

    /// The next part of the weights.
    pub fn weight(&mut self, format: BlockFormat, rows: usize, columns: usize) -> Weight {
        let bytes = weight_bytes(format, rows, columns);
        if self.next + bytes > self.weights.bytes() {
            self.next = 0;
        }
        let offset_bytes = self.next;
        self.next += bytes.next_multiple_of(64);
        Weight {
            buffer: self.weights.clone(),
            offset_bytes,
            format,
            layout: self.set.weight_layout().of_matrix(format, rows as u64),
            rows,
            columns,
        }
    }

    /// Times the ops that `op` makes, under `KERNELS/name`; making them is not timed.
    pub fn time(
        &mut self,
        criterion: &mut Criterion,
        name: &str,
        work: Work,
        mut op: impl FnMut(&mut Self) -> Op,
    ) {
        let (group, function) = name.rsplit_once('/').expect("OP/FORMAT/TOKENS");
        let mut group = criterion.benchmark_group(format!("{}/{group}", self.set.name()));
        group.sampling_mode(SamplingMode::Flat);
        group.throughput(Throughput::ElementsAndBytes {
            elements: work.operations as u64,
            bytes: work.bytes as u64,
        });
        group.bench_function(function, |bencher| {
            let this = std::cell::RefCell::new(&mut *self);
            bencher.iter_batched(
                || op(&mut this.borrow_mut()),
                |op| {
                    let this = this.borrow();
                    this.backend.enqueue(StreamId::COMPUTE, op).expect("an op");
                },
                criterion::BatchSize::PerIteration,
            );
        });
        group.finish();
    }
}

/// Bytes of a matrix.
pub fn weight_bytes(format: BlockFormat, rows: usize, columns: usize) -> usize {
    rows * format.row_bytes(columns as u64).expect("whole blocks") as usize
}
