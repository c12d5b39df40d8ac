//! Times the ops that a forward pass spends its time in, per kernel set, format and number of rows.
//!
//! `cargo run --release -p odmoe-backend-cpu --example op_bench -- [threads] [MiB of weights] [kernel set] [format]`
//!
//! Weights are read from a buffer of the given size, a different part each time, so that a size beyond the caches
//! measures memory. GB/s counts bytes of weights (or keys and values) once an op; GFLOP/s counts a multiply-add as two.

use odmoe_backend::{
    AttentionSpan, Backend, Buffer, ExpertGroup, ExpertRow, KvFormat, KvPosition, KvSpec, Op,
    StreamId, Weight,
};
use odmoe_backend_cpu::{CpuBackend, CpuConfig, KernelSet};
use odmoe_formats::BlockFormat;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Rows of weights; few enough that an op ends within a time slice of a busy machine, so that some run is undisturbed.
const ROWS: usize = 1024;
/// Shapes of a 30-billion-parameter mixture of experts with 3 billion active.
const HIDDEN: usize = 2048;
const WIDTH: usize = 768;
const TOP_K: usize = 8;
/// Each measurement repeats an op for this long and takes the fastest run.
const SPAN: Duration = Duration::from_millis(150);

struct Bench {
    backend: CpuBackend,
    weights: Buffer,
    set: KernelSet,
    next: usize,
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |index: usize, default| {
        arguments
            .get(index)
            .map_or(default, |text| text.parse().expect("a number"))
    };
    let (threads, mebibytes) = (number(0, 1), number(1, 256));
    let sets = match arguments.get(2) {
        Some(name) => vec![KernelSet::parse(name).expect("a kernel set")],
        None => KernelSet::available()
            .into_iter()
            .filter(|&set| set != KernelSet::Reference)
            .collect(),
    };
    let formats = match arguments.get(3) {
        Some(name) => vec![BlockFormat::from_name(name).expect("a format")],
        None => BlockFormat::ALL.to_vec(),
    };
    println!(
        "{:16} {:9} {:5} {:>6} {:>12} {:>8} {:>8}",
        "op", "kernels", "", "rows", "us", "GB/s", "GFLOP/s"
    );
    for set in sets {
        let backend = CpuBackend::new(CpuConfig {
            threads,
            kernels: Some(set),
        })
        .expect("a backend");
        let weights = backend
            .allocate(mebibytes << 20)
            .expect("memory for weights");
        // Bytes that are small numbers in every format.
        backend
            .host_window(&weights)
            .expect("host memory")
            .bytes_mut()
            .fill(0x2c);
        let mut bench = Bench {
            backend,
            weights,
            set,
            next: 0,
        };
        for &format in &formats {
            for tokens in [1, 2, 4, 8, 16, 64] {
                bench.mat_mul(format, tokens);
            }
            for tokens in [1, 8] {
                bench.expert_ffn(format, tokens);
            }
        }
        if formats.len() == 1 {
            continue;
        }
        for format in [KvFormat::F32, KvFormat::F16] {
            for (tokens, context) in [(1, 4096), (32, 1024)] {
                bench.attention(format, tokens, context);
            }
        }
        bench.rows(1);
        bench.rows(128);
    }
}

impl Bench {
    fn floats(&self, count: usize) -> Buffer {
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
    fn weight(&mut self, format: BlockFormat, rows: usize, columns: usize) -> Weight {
        let bytes = rows * format.row_bytes(columns as u64).expect("whole blocks") as usize;
        if self.next + bytes > self.weights.bytes() {
            self.next = 0;
        }
        let offset_bytes = self.next;
        self.next += bytes.next_multiple_of(64);
        Weight {
            buffer: self.weights.clone(),
            offset_bytes,
            format,
            rows,
            columns,
        }
    }

    fn time(
        &mut self,
        name: &str,
        detail: &str,
        rows: usize,
        bytes: usize,
        flops: usize,
        op: impl Fn(&mut Self) -> Op,
    ) {
        let (start, mut best, mut runs) = (Instant::now(), Duration::MAX, 0);
        while runs < 3 || start.elapsed() < SPAN {
            let op = op(self);
            let before = Instant::now();
            self.backend.enqueue(StreamId::COMPUTE, op).expect("an op");
            best = best.min(before.elapsed());
            runs += 1;
        }
        let seconds = best.as_secs_f64();
        let (us, gigabytes, gigaflops) = (
            seconds * 1e6,
            bytes as f64 / seconds / 1e9,
            flops as f64 / seconds / 1e9,
        );
        let set = self.set.name();
        println!("{name:16} {set:9} {detail:5} {rows:6} {us:12.1} {gigabytes:8.2} {gigaflops:8.1}");
    }

    fn mat_mul(&mut self, format: BlockFormat, tokens: usize) {
        let (x, out) = (self.floats(tokens * HIDDEN), self.floats(tokens * ROWS));
        let bytes = ROWS * format.row_bytes(HIDDEN as u64).expect("whole blocks") as usize;
        let detail = format!("{format}");
        self.time(
            "mat_mul",
            &detail,
            tokens,
            bytes,
            2 * tokens * HIDDEN * ROWS,
            |bench| Op::MatMul {
                x: x.clone(),
                weight: bench.weight(format, ROWS, HIDDEN),
                out: out.clone(),
                tokens,
            },
        );
    }

    /// Each token goes to 8 experts; all tokens to the same.
    fn expert_ffn(&mut self, format: BlockFormat, tokens: usize) {
        let experts = TOP_K;
        let rows_each = tokens * TOP_K / experts;
        let (x, out) = (
            self.floats(tokens * HIDDEN),
            self.floats(tokens * TOP_K * HIDDEN),
        );
        let row_bytes =
            |columns: usize| format.row_bytes(columns as u64).expect("whole blocks") as usize;
        let bytes = experts * (2 * WIDTH * row_bytes(HIDDEN) + HIDDEN * row_bytes(WIDTH));
        let flops = 2 * tokens * TOP_K * 3 * HIDDEN * WIDTH;
        let detail = format!("{format:?}");
        self.time("expert_ffn", &detail, tokens, bytes, flops, |bench| {
            let group = |expert: usize, bench: &mut Self| ExpertGroup {
                gate: bench.weight(format, WIDTH, HIDDEN),
                up: bench.weight(format, WIDTH, HIDDEN),
                down: bench.weight(format, HIDDEN, WIDTH),
                rows: (0..rows_each)
                    .map(|row| (row * experts + expert) as u32)
                    .map(|out_row| ExpertRow {
                        token_row: out_row / TOP_K as u32,
                        out_row,
                    })
                    .collect(),
            };
            let groups = (0..experts).map(|expert| group(expert, bench)).collect();
            Op::ExpertFfn {
                x: x.clone(),
                groups,
                out: out.clone(),
            }
        });
    }

    /// The last `tokens` positions of a context, 32 query heads over 4 key/value heads of 128.
    fn attention(&mut self, format: KvFormat, tokens: usize, context: usize) {
        let (query_heads, kv_heads, head_dim, block_tokens) = (32, 4, 128, 16);
        let blocks = context / block_tokens;
        let spec = KvSpec {
            layers: 1,
            kv_heads,
            head_dim,
            block_tokens,
            blocks,
            format,
        };
        let cache = self.backend.allocate_kv(spec).expect("a cache");
        let rows = self.floats(context * kv_heads * head_dim);
        let place = |position: usize| KvPosition {
            block: (position / block_tokens) as u32,
            offset: (position % block_tokens) as u32,
        };
        let positions = (0..context).map(place).collect();
        let append = Op::KvAppend {
            cache: cache.clone(),
            layer: 0,
            k: rows.clone(),
            v: rows,
            positions,
        };
        self.backend
            .enqueue(StreamId::COMPUTE, append)
            .expect("an op");
        let (q, out) = (
            self.floats(tokens * query_heads * head_dim),
            self.floats(tokens * query_heads * head_dim),
        );
        let first_position = context - tokens;
        let span = AttentionSpan {
            first_row: 0,
            rows: tokens,
            first_position,
            blocks: (0..blocks as u32).collect(),
        };
        let spans: Arc<[AttentionSpan]> = Arc::new([span]);
        let seen: usize = (0..tokens).map(|row| first_position + row + 1).sum();
        let flops = 4 * seen * query_heads * head_dim;
        self.time(
            "paged_attention",
            &format!("{format:?}"),
            tokens,
            spec.bytes(),
            flops,
            |_| Op::PagedAttention {
                q: q.clone(),
                cache: cache.clone(),
                layer: 0,
                spans: spans.clone(),
                query_heads,
                scale: 0.088,
                out: out.clone(),
            },
        );
    }

    fn rows(&mut self, tokens: usize) {
        let (x, out) = (self.floats(tokens * HIDDEN), self.floats(tokens * HIDDEN));
        let elements = tokens * HIDDEN;
        self.time("silu_mul", "F32", tokens, 12 * elements, 0, |_| {
            Op::SiluMul {
                gate: x.clone(),
                up: x.clone(),
                out: out.clone(),
                elements,
            }
        });
        self.time("rms_norm", "F32", tokens, 8 * elements, 0, |bench| {
            Op::RmsNorm {
                x: x.clone(),
                weight: bench.weight(BlockFormat::F32, 1, HIDDEN),
                epsilon: 1e-6,
                out: out.clone(),
                rows: tokens,
            }
        });
    }
}
