//! Times attention at the shape of Qwen3-30B-A3B (32 query heads over 4 key/value heads of 128): decode of one and of
//! eight sequences over a long context, in GB/s of keys and values, and prefill in chunks of 256, in GFLOP/s.
//!
//! `cargo run --release -p odmoe-backend-cpu --example attention_bench -- [threads] [kernel set]`
//!
//! A multiply-add counts as two. Caches are as long as several contexts, so that keys and values come from memory.

use odmoe_backend::{
    AttentionSpan, Backend, Buffer, KvCache, KvFormat, KvPosition, KvSpec, Op, StreamId,
};
use odmoe_backend_cpu::{CpuBackend, CpuConfig, KernelSet};
use std::time::{Duration, Instant};

const QUERY_HEADS: usize = 32;
const KV_HEADS: usize = 4;
const HEAD_DIM: usize = 128;
const BLOCK_TOKENS: usize = 16;
const CHUNK: usize = 256;
/// Positions of the cache: 256 MiB in binary16.
const POSITIONS: usize = 1 << 17;
/// Each measurement repeats for this long and takes the fastest run.
const SPAN: Duration = Duration::from_millis(600);

struct Bench {
    backend: CpuBackend,
    cache: KvCache,
    q: Buffer,
    out: Buffer,
    next_block: usize,
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let threads = arguments
        .next()
        .map_or(2, |text| text.parse().expect("a number"));
    let kernels = arguments
        .next()
        .map(|name| KernelSet::parse(&name).expect("a kernel set"));
    println!(
        "{:8} {:8} {:>4} {:>8} {:>12} {:>8} {:>8}",
        "work", "format", "rows", "context", "us", "GB/s", "GFLOP/s"
    );
    for format in [KvFormat::F16, KvFormat::Q8_0] {
        let backend = CpuBackend::new(CpuConfig { threads, kernels }).expect("a backend");
        let mut bench = Bench::new(backend, format);
        for (sequences, context) in [(1, 1024), (1, 4096), (1, 16384), (8, 1024)] {
            bench.decode(sequences, context);
        }
        for context in [256, 512, 1024, 4096] {
            bench.prefill(context);
        }
    }
}

impl Bench {
    fn new(backend: CpuBackend, format: KvFormat) -> Self {
        let cache = backend
            .allocate_kv(KvSpec {
                layers: 1,
                kv_heads: KV_HEADS,
                head_dim: HEAD_DIM,
                block_tokens: BLOCK_TOKENS,
                blocks: POSITIONS / BLOCK_TOKENS,
                format,
            })
            .expect("a cache");
        let [rows, q, out] = [CHUNK * KV_HEADS, CHUNK * QUERY_HEADS, CHUNK * QUERY_HEADS]
            .map(|heads| floats(&backend, heads * HEAD_DIM));
        for first in (0..POSITIONS).step_by(CHUNK) {
            let place = |position: usize| KvPosition {
                block: (position / BLOCK_TOKENS) as u32,
                offset: (position % BLOCK_TOKENS) as u32,
            };
            let append = Op::KvAppend {
                cache: cache.clone(),
                layer: 0,
                k: rows.clone(),
                v: rows.clone(),
                positions: (first..first + CHUNK).map(place).collect(),
            };
            backend.enqueue(StreamId::COMPUTE, append).expect("an op");
        }
        Self {
            backend,
            cache,
            q,
            out,
            next_block: 0,
        }
    }

    /// The last `rows` positions of a context that lies in the next part of the cache.
    fn span(&mut self, first_row: usize, rows: usize, context: usize) -> AttentionSpan {
        let blocks = context / BLOCK_TOKENS;
        if (self.next_block + blocks) * BLOCK_TOKENS > POSITIONS {
            self.next_block = 0;
        }
        let first = self.next_block as u32;
        self.next_block += blocks;
        AttentionSpan {
            first_row,
            rows,
            first_position: context - rows,
            blocks: (first..first + blocks as u32).collect(),
        }
    }

    fn run(&self, spans: Vec<AttentionSpan>) -> Duration {
        let op = Op::PagedAttention {
            q: self.q.clone(),
            cache: self.cache.clone(),
            layer: 0,
            spans: spans.into(),
            query_heads: QUERY_HEADS,
            scale: 0.088,
            out: self.out.clone(),
        };
        let start = Instant::now();
        self.backend.enqueue(StreamId::COMPUTE, op).expect("an op");
        start.elapsed()
    }

    fn decode(&mut self, sequences: usize, context: usize) {
        let best = fastest(|| {
            let spans = (0..sequences)
                .map(|row| self.span(row, 1, context))
                .collect();
            self.run(spans)
        });
        self.print("decode", sequences, context, sequences * context, best);
    }

    /// All chunks of a prompt of `context` tokens.
    fn prefill(&mut self, context: usize) {
        let best = fastest(|| {
            let ends = (CHUNK..=context).step_by(CHUNK);
            ends.map(|end| {
                self.next_block = 0;
                let span = self.span(0, CHUNK, end);
                self.run(vec![span])
            })
            .sum()
        });
        self.print(
            "prefill",
            context,
            context,
            context * (context + 1) / 2,
            best,
        );
    }

    /// `pairs`: how many positions all rows together see.
    fn print(&self, work: &str, rows: usize, context: usize, pairs: usize, best: Duration) {
        let spec = self.cache.spec();
        let bytes = pairs * spec.token_bytes();
        let flops = 4 * pairs * QUERY_HEADS * HEAD_DIM;
        let seconds = best.as_secs_f64();
        let format = format!("{:?}", spec.format);
        println!(
            "{work:8} {format:8} {rows:4} {context:8} {:12.1} {:8.2} {:8.1}",
            seconds * 1e6,
            bytes as f64 / seconds / 1e9,
            flops as f64 / seconds / 1e9
        );
    }
}

fn fastest(mut run: impl FnMut() -> Duration) -> Duration {
    let (start, mut best, mut runs) = (Instant::now(), Duration::MAX, 0);
    while runs < 3 || start.elapsed() < SPAN {
        best = best.min(run());
        runs += 1;
    }
    best
}

fn floats(backend: &CpuBackend, count: usize) -> Buffer {
    let buffer = backend.allocate(count * 4).expect("a buffer");
    let values: Vec<u8> = (0..count)
        .flat_map(|i| ((i % 37) as f32 / 37.0 - 0.5).to_le_bytes())
        .collect();
    backend
        .upload(StreamId::COMPUTE, &values, &buffer, 0)
        .expect("an upload");
    buffer
}
