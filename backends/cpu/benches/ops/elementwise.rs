//! Ops without weights to speak of: their limit is the memory that their activations lie in, mostly caches.

use crate::fixture::{EXPERT_WIDTH, Fixture, HEAD_DIM, HIDDEN, KV_HEADS, QUERY_HEADS, TOP_K, Work};
use criterion::Criterion;
use odmoe_backend::{Backend, Choice, Op, Rope, StreamId};
use odmoe_formats::BlockFormat;

pub fn all(criterion: &mut Criterion, fixture: &mut Fixture) {
    for tokens in [1, 8, 512] {
        rms_norm(criterion, fixture, tokens);
        norm_rope(criterion, fixture, tokens);
        silu_mul(criterion, fixture, tokens);
        add(criterion, fixture, tokens);
        combine(criterion, fixture, tokens);
    }
}

/// Bytes that are read and written, and about how many operations an element takes.
fn work(floats: usize, elements: usize, each: usize) -> Work {
    Work {
        bytes: 4 * floats,
        operations: elements * each,
    }
}

fn rms_norm(criterion: &mut Criterion, fixture: &mut Fixture, tokens: usize) {
    let elements = tokens * HIDDEN;
    let (x, out) = (fixture.floats(elements), fixture.floats(elements));
    let (name, work) = (
        format!("rms_norm/F32/{tokens}"),
        work(2 * elements, elements, 4),
    );
    fixture.time(criterion, &name, work, |f| Op::RmsNorm {
        x: x.clone(),
        weight: f.weight(BlockFormat::F32, 1, HIDDEN),
        epsilon: 1e-6,
        out: out.clone(),
        rows: tokens,
    });
}

/// Of queries and keys together.
fn norm_rope(criterion: &mut Criterion, fixture: &mut Fixture, tokens: usize) {
    let heads = QUERY_HEADS + KV_HEADS;
    let elements = tokens * heads * HEAD_DIM;
    let into = fixture.floats(elements);
    let (name, work) = (
        format!("norm_rope/F32/{tokens}"),
        work(2 * elements, elements, 7),
    );
    fixture.time(criterion, &name, work, |f| Op::NormRope {
        into: into.clone(),
        norm: Some((f.weight(BlockFormat::F32, 1, HEAD_DIM), 1e-6)),
        rope: Rope {
            theta: 1e6,
            divisors: None,
        },
        heads,
        head_dim: HEAD_DIM,
        positions: (0..tokens as u32).collect(),
    });
}

fn silu_mul(criterion: &mut Criterion, fixture: &mut Fixture, tokens: usize) {
    let elements = tokens * TOP_K * EXPERT_WIDTH;
    let (x, out) = (fixture.floats(elements), fixture.floats(elements));
    let (name, work) = (
        format!("silu_mul/F32/{tokens}"),
        work(3 * elements, elements, 20),
    );
    fixture.time(criterion, &name, work, |_| Op::SiluMul {
        gate: x.clone(),
        up: x.clone(),
        out: out.clone(),
        elements,
    });
}

fn add(criterion: &mut Criterion, fixture: &mut Fixture, tokens: usize) {
    let elements = tokens * HIDDEN;
    let (x, into) = (fixture.floats(elements), fixture.floats(elements));
    let (name, work) = (format!("add/F32/{tokens}"), work(3 * elements, elements, 1));
    fixture.time(criterion, &name, work, |_| Op::AddInPlace {
        x: x.clone(),
        into: into.clone(),
        elements,
    });
}

fn combine(criterion: &mut Criterion, fixture: &mut Fixture, tokens: usize) {
    let expert_out = fixture.floats(tokens * TOP_K * HIDDEN);
    let into = fixture.floats(tokens * HIDDEN);
    let choices: Vec<u8> = (0..tokens * TOP_K)
        .flat_map(|i| [((i % TOP_K) as u32).to_le_bytes(), 0.125_f32.to_le_bytes()].concat())
        .collect();
    let buffer = fixture.backend.allocate(tokens * TOP_K * Choice::BYTES);
    let buffer = buffer.expect("a buffer");
    fixture
        .backend
        .upload(StreamId::COMPUTE, &choices, &buffer, 0)
        .expect("an upload");
    let floats = (TOP_K + 2) * tokens * HIDDEN;
    let (name, work) = (
        format!("combine_experts/F32/{tokens}"),
        work(floats, tokens * HIDDEN, 2 * TOP_K),
    );
    fixture.time(criterion, &name, work, |_| Op::CombineExperts {
        expert_out: expert_out.clone(),
        choices: buffer.clone(),
        into: into.clone(),
        tokens,
        top_k: TOP_K,
        hidden: HIDDEN,
    });
}
