//! The scalar reference against the textbook formulas in double precision.

use odmoe_backend::*;
use odmoe_backend_cpu::{CpuBackend, CpuConfig, KernelSet};
use odmoe_formats::{BlockFormat, WeightLayout};
use std::sync::Arc;

/// A seeded stream of numbers in -1..1 (xorshift).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> f32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    fn take(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.next()).collect()
    }
}

struct Bench {
    backend: CpuBackend,
}

impl Bench {
    fn new() -> Self {
        let config = CpuConfig {
            threads: 1,
            kernels: Some(KernelSet::Reference),
        };
        Self {
            backend: CpuBackend::new(config).unwrap(),
        }
    }

    fn put(&self, values: &[f32]) -> Buffer {
        let buffer = self.backend.allocate(values.len() * 4).unwrap();
        let bytes: Vec<u8> = values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        self.backend
            .upload(StreamId::COMPUTE, &bytes, &buffer, 0)
            .unwrap();
        buffer
    }

    fn weight(&self, values: &[f32], rows: usize) -> Weight {
        let columns = values.len() / rows;
        Weight {
            buffer: self.put(values),
            offset_bytes: 0,
            format: BlockFormat::F32,
            layout: WeightLayout::RowMajor,
            rows,
            columns,
        }
    }

    fn run(&self, op: Op) {
        self.backend.enqueue(StreamId::COMPUTE, op).unwrap();
    }

    fn bytes(&self, buffer: &Buffer) -> Vec<u8> {
        let mut ticket = self
            .backend
            .read_back(StreamId::COMPUTE, buffer, 0..buffer.bytes())
            .unwrap();
        self.backend.take(&mut ticket).unwrap().unwrap()
    }

    fn get(&self, buffer: &Buffer) -> Vec<f32> {
        self.bytes(buffer)
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
            .collect()
    }
}

fn assert_close(actual: &[f32], expected: &[f64]) {
    assert_eq!(actual.len(), expected.len());
    for (i, (actual, expected)) in actual.iter().zip(expected).enumerate() {
        let difference = (f64::from(*actual) - expected).abs();
        assert!(
            difference <= 2e-6 * (1.0 + expected.abs()),
            "element {i}: {actual} is not {expected}"
        );
    }
}

/// [rows, columns] * [columns] in double precision.
fn product(weight: &[f32], x: &[f64]) -> Vec<f64> {
    weight
        .chunks_exact(x.len())
        .map(|row| row.iter().zip(x).map(|(w, x)| f64::from(*w) * x).sum())
        .collect()
}

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

#[test]
fn mat_mul_is_the_product_with_the_transpose() {
    let (bench, mut numbers) = (Bench::new(), Numbers(1));
    let (weight, x) = (numbers.take(5 * 19), numbers.take(3 * 19));
    let out = bench.put(&[0.0; 15]);
    bench.run(Op::MatMul {
        x: bench.put(&x),
        weight: bench.weight(&weight, 5),
        out: out.clone(),
        tokens: 3,
    });
    let expected: Vec<f64> = x
        .chunks(19)
        .flat_map(|x| product(&weight, &wide(x)))
        .collect();
    assert_close(&bench.get(&out), &expected);
}

#[test]
fn rms_norm_in_place_and_beside() {
    let (bench, mut numbers) = (Bench::new(), Numbers(2));
    let (x, weight) = (numbers.take(2 * 21), numbers.take(21));
    let expected: Vec<f64> = x
        .chunks(21)
        .flat_map(|x| {
            let mean = x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / 21.0;
            x.iter()
                .zip(&weight)
                .map(move |(x, w)| f64::from(*x) / (mean + 1e-3).sqrt() * f64::from(*w))
                .collect::<Vec<_>>()
        })
        .collect();
    let (buffer, out) = (bench.put(&x), bench.put(&[0.0; 42]));
    let norm = |out: &Buffer| Op::RmsNorm {
        x: buffer.clone(),
        weight: bench.weight(&weight, 1),
        epsilon: 1e-3,
        out: out.clone(),
        rows: 2,
    };
    bench.run(norm(&out));
    assert_close(&bench.get(&out), &expected);
    bench.run(norm(&buffer));
    assert_close(&bench.get(&buffer), &expected);
}

#[test]
fn norm_rope_turns_halves_by_the_angle_of_the_position() {
    let (bench, mut numbers) = (Bench::new(), Numbers(3));
    let x = numbers.take(2 * 3 * 8);
    let into = bench.put(&x);
    let positions = [4u32, 31];
    let rope = Rope {
        theta: 10_000.0,
        divisors: None,
    };
    bench.run(Op::NormRope {
        into: into.clone(),
        norm: None,
        rope,
        heads: 3,
        head_dim: 8,
        positions: Arc::new(positions),
    });
    let mut expected = wide(&x);
    for (index, head) in expected.chunks_mut(8).enumerate() {
        for i in 0..4 {
            let angle = f64::from(positions[index / 3]) * 10_000f64.powf(-(i as f64) / 4.0);
            let (a, b) = (head[i], head[i + 4]);
            head[i] = a * angle.cos() - b * angle.sin();
            head[i + 4] = b * angle.cos() + a * angle.sin();
        }
    }
    assert_close(&bench.get(&into), &expected);
}

#[test]
fn attention_is_the_softmax_weighted_sum_over_what_a_row_sees() {
    let (bench, mut numbers) = (Bench::new(), Numbers(4));
    // More than two splits of 256 positions, in blocks that lie in descending order.
    let (tokens, block_tokens, query_heads, kv_heads, head_dim) = (600, 16, 4, 2, 8);
    let blocks = 38;
    let spec = KvSpec {
        layers: 2,
        kv_heads,
        head_dim,
        block_tokens,
        blocks,
        format: KvFormat::F32,
    };
    let cache = bench.backend.allocate_kv(spec).unwrap();
    let row = kv_heads * head_dim;
    let (k, v) = (numbers.take(tokens * row), numbers.take(tokens * row));
    let table: Arc<[u32]> = (0..blocks as u32).rev().collect();
    let positions = (0..tokens)
        .map(|token| KvPosition {
            block: table[token / block_tokens],
            offset: (token % block_tokens) as u32,
        })
        .collect();
    bench.run(Op::KvAppend {
        cache: cache.clone(),
        layer: 1,
        k: bench.put(&k),
        v: bench.put(&v),
        positions,
    });
    let q = numbers.take(2 * query_heads * head_dim);
    let out = bench.put(&vec![0.0; q.len()]);
    let span = AttentionSpan {
        first_row: 0,
        rows: 2,
        first_position: 598,
        blocks: table,
    };
    let (spans, scale) = (Arc::new([span]), 0.7);
    let q_buffer = bench.put(&q);
    bench.run(Op::PagedAttention {
        q: q_buffer,
        cache,
        layer: 1,
        spans,
        query_heads,
        scale,
        out: out.clone(),
    });
    let mut expected = Vec::new();
    for (index, q) in q.chunks(head_dim).enumerate() {
        let (visible, kv_head) = (599 + index / query_heads, index % query_heads / 2);
        let of = |x: &[f32], position: usize| {
            wide(&x[position * row + kv_head * head_dim..][..head_dim])
        };
        let score = |p: usize| {
            of(&k, p)
                .iter()
                .zip(q)
                .map(|(k, q)| k * f64::from(*q))
                .sum::<f64>()
                * 0.7
        };
        let weights: Vec<f64> = (0..visible).map(|p| score(p).exp()).collect();
        let total: f64 = weights.iter().sum();
        expected.extend(
            (0..head_dim)
                .map(|d| (0..visible).map(|p| weights[p] * of(&v, p)[d]).sum::<f64>() / total),
        );
    }
    assert_close(&bench.get(&out), &expected);
}

#[test]
fn experts_and_their_sum() {
    let (bench, mut numbers) = (Bench::new(), Numbers(5));
    let (hidden, width, tokens) = (12, 20, 2);
    let x = numbers.take(tokens * hidden);
    let weights: Vec<[Vec<f32>; 3]> = (0..2)
        .map(|_| [(); 3].map(|()| numbers.take(width * hidden)))
        .collect();
    let group = |index: usize, rows: &[(u32, u32)]| ExpertGroup {
        gate: bench.weight(&weights[index][0], width),
        up: bench.weight(&weights[index][1], width),
        down: bench.weight(&weights[index][2], hidden),
        rows: rows
            .iter()
            .map(|&(token_row, out_row)| ExpertRow { token_row, out_row })
            .collect(),
    };
    let expert_out = bench.put(&vec![0.0; tokens * 2 * hidden]);
    let groups = vec![group(1, &[(0, 1), (1, 3)]), group(0, &[(1, 2), (0, 0)])];
    bench.run(Op::ExpertFfn {
        x: bench.put(&x),
        groups,
        out: expert_out.clone(),
    });
    let choices: Vec<u8> = [(0u32, 0.25f32), (1, 0.75), (0, 0.5), (1, 0.5)]
        .iter()
        .flat_map(|(expert, weight)| [expert.to_le_bytes(), weight.to_le_bytes()].concat())
        .collect();
    let choice_buffer = bench.backend.allocate(choices.len()).unwrap();
    bench
        .backend
        .upload(StreamId::COMPUTE, &choices, &choice_buffer, 0)
        .unwrap();
    let into = bench.put(&x);
    bench.run(Op::CombineExperts {
        expert_out,
        choices: choice_buffer,
        into: into.clone(),
        tokens,
        top_k: 2,
        hidden,
    });
    let mut expected = wide(&x);
    for (token, shares) in [[0.25, 0.75], [0.5, 0.5]].iter().enumerate() {
        let input = wide(&x[token * hidden..][..hidden]);
        for ([gate, up, down], share) in weights.iter().zip(shares) {
            let state: Vec<f64> = product(gate, &input)
                .iter()
                .zip(product(up, &input))
                .map(|(g, u)| silu(*g) * u)
                .collect();
            for (i, value) in product(down, &state).iter().enumerate() {
                expected[token * hidden + i] += share * value;
            }
        }
    }
    assert_close(&bench.get(&into), &expected);
}

#[test]
fn a_bias_and_a_gated_row_are_added() {
    let (bench, mut numbers) = (Bench::new(), Numbers(7));
    let (rows, width) = (3, 5);
    let (start, x) = (numbers.take(rows * width), numbers.take(rows * width));
    let (bias, gate) = (numbers.take(width), [-30.0f32, 0.25, 40.0]);
    let into = bench.put(&start);
    bench.run(Op::AddBias {
        bias: bench.weight(&bias, 1),
        into: into.clone(),
        rows,
    });
    bench.run(Op::AddGated {
        gate: bench.put(&gate),
        x: bench.put(&x),
        into: into.clone(),
        rows,
        width,
    });
    let sigmoid = |x: f32| 1.0 / (1.0 + f64::from(-x).exp());
    let expected: Vec<f64> = (0..rows * width)
        .map(|i| {
            let biased = f64::from(start[i]) + f64::from(bias[i % width]);
            biased + sigmoid(gate[i / width]) * f64::from(x[i])
        })
        .collect();
    assert_close(&bench.get(&into), &expected);
}

#[test]
fn route_embed_gather_add_silu() {
    let (bench, mut numbers) = (Bench::new(), Numbers(6));
    let table = numbers.take(7 * 4);
    let rows = bench.put(&[0.0; 8]);
    bench.run(Op::Embed {
        table: bench.weight(&table, 7),
        ids: Arc::new([6, 2]),
        out: rows.clone(),
    });
    assert_eq!(bench.get(&rows), [&table[24..28], &table[8..12]].concat());
    let swapped = bench.put(&[0.0; 8]);
    bench.run(Op::GatherRows {
        x: rows.clone(),
        rows: Arc::new([1, 0]),
        out: swapped.clone(),
        width: 4,
    });
    assert_eq!(
        bench.get(&swapped),
        [&table[8..12], &table[24..28]].concat()
    );
    bench.run(Op::AddInPlace {
        x: rows,
        into: swapped.clone(),
        elements: 3,
    });
    assert_eq!(bench.get(&swapped)[0], table[8] + table[24]);
    assert_eq!(bench.get(&swapped)[3], table[11]);
    let gate = bench.put(&[-3.0, 0.5]);
    bench.run(Op::SiluMul {
        gate: gate.clone(),
        up: bench.put(&[2.0, -1.0]),
        out: gate.clone(),
        elements: 2,
    });
    assert_close(&bench.get(&gate), &[silu(-3.0) * 2.0, -silu(0.5)]);
    let choices = bench.backend.allocate(2 * Choice::BYTES).unwrap();
    bench.run(Op::Route {
        x: bench.put(&[1.0]),
        weight: bench.weight(&[0.0, 2.0, 1.0], 3),
        tokens: 1,
        top_k: 2,
        scoring: Scoring::SoftmaxTopK { renormalise: true },
        order: ChoiceOrder::ByScore,
        out: choices.clone(),
    });
    let found: Vec<Choice> = Choice::decode(&bench.bytes(&choices)).collect();
    assert_eq!([found[0].expert, found[1].expert], [1, 2]);
    assert_close(&[found[0].weight], &[1.0 / (1.0 + (-1f64).exp())]);
}
