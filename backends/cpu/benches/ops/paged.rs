//! Attention over the paged KV cache.

use crate::fixture::{Fixture, HEAD_DIM, KV_HEADS, QUERY_HEADS, Work};
use criterion::Criterion;
use odmoe_backend::{
    AttentionSpan, Backend, Buffer, KvCache, KvFormat, KvPosition, KvSpec, Op, StreamId,
};
use std::sync::Arc;

const BLOCK_TOKENS: usize = 16;

/// One token at a context of 4096, and the last of a prompt's chunks.
pub fn attention(criterion: &mut Criterion, fixture: &mut Fixture) {
    for format in [KvFormat::F32, KvFormat::F16] {
        for (tokens, context) in [(1, 4096), (512, 512), (512, 4096)] {
            last_tokens(criterion, fixture, format, tokens, context);
        }
    }
}

/// The last `tokens` positions of a context.
fn last_tokens(
    criterion: &mut Criterion,
    fixture: &mut Fixture,
    format: KvFormat,
    tokens: usize,
    context: usize,
) {
    let cache = filled_cache(fixture, format, context);
    let width = tokens * QUERY_HEADS * HEAD_DIM;
    let (q, out): (Buffer, Buffer) = (fixture.floats(width), fixture.floats(width));
    let first_position = context - tokens;
    let spans: Arc<[AttentionSpan]> = Arc::new([AttentionSpan {
        first_row: 0,
        rows: tokens,
        first_position,
        blocks: (0..(context / BLOCK_TOKENS) as u32).collect(),
    }]);
    let seen: usize = (0..tokens).map(|row| first_position + row + 1).sum();
    let work = Work {
        bytes: cache.spec().bytes(),
        operations: 4 * seen * QUERY_HEADS * HEAD_DIM,
    };
    let name = format!("paged_attention/{format:?} of {context}/{tokens}");
    fixture.time(criterion, &name, work, |_| Op::PagedAttention {
        q: q.clone(),
        cache: cache.clone(),
        layer: 0,
        spans: spans.clone(),
        query_heads: QUERY_HEADS,
        scale: 0.088,
        out: out.clone(),
    });
}

fn filled_cache(fixture: &Fixture, format: KvFormat, context: usize) -> KvCache {
    let spec = KvSpec {
        layers: 1,
        kv_heads: KV_HEADS,
        head_dim: HEAD_DIM,
        block_tokens: BLOCK_TOKENS,
        blocks: context / BLOCK_TOKENS,
        format,
    };
    let cache = fixture.backend.allocate_kv(spec).expect("a cache");
    let rows = fixture.floats(context * KV_HEADS * HEAD_DIM);
    let place = |position: usize| KvPosition {
        block: (position / BLOCK_TOKENS) as u32,
        offset: (position % BLOCK_TOKENS) as u32,
    };
    let append = Op::KvAppend {
        cache: cache.clone(),
        layer: 0,
        k: rows.clone(),
        v: rows,
        positions: (0..context).map(place).collect(),
    };
    fixture
        .backend
        .enqueue(StreamId::COMPUTE, append)
        .expect("an op");
    cache
}
