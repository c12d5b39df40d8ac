//! Keys and values, appended and read over block tables.

use super::Case;
use super::scene::Scene;
use odmoe_backend::{AttentionSpan, KvCache, KvFormat, KvPosition, KvSpec, Op};

#[derive(Clone, Copy)]
struct Shape {
    query_heads: usize,
    kv_heads: usize,
    head_dim: usize,
    block_tokens: usize,
    format: KvFormat,
    /// Positions of the sequence; its last ones are queries.
    length: usize,
}

pub fn cases() -> Vec<Case> {
    // (query heads, key/value heads, D, tokens a block, length, queries)
    let shapes = [
        (1, 1, 8, 16, 1, 1),
        (4, 2, 16, 16, 17, 17),
        (6, 3, 20, 5, 40, 7),
        (4, 1, 64, 32, 255, 3),
        (8, 8, 32, 16, 256, 4),
        (5, 5, 33, 7, 257, 2),
        (8, 2, 128, 16, 530, 5),
        (2, 1, 16, 64, 600, 40),
        (32, 4, 64, 16, 300, 12),
        (8, 1, 64, 16, 2100, 1),
        (32, 1, 128, 16, 4300, 1),
        (6, 2, 96, 48, 1300, 2),
        (4, 4, 32, 24, 90, 70),
    ];
    let mut all = Vec::new();
    for format in KvFormat::ALL {
        for (query_heads, kv_heads, head_dim, block_tokens, length, queries) in shapes {
            if !format.holds_heads_of(head_dim) {
                continue;
            }
            all.push(attention(
                Shape {
                    query_heads,
                    kv_heads,
                    head_dim,
                    block_tokens,
                    format,
                    length,
                },
                queries,
            ));
        }
    }
    all
}

fn attention(shape: Shape, queries: usize) -> Case {
    let Shape {
        query_heads,
        kv_heads,
        head_dim,
        block_tokens,
        format,
        length,
    } = shape;
    let name = format!(
        "paged_attention {query_heads}/{kv_heads} heads of {head_dim}, blocks of {block_tokens}, {format:?}, {length} long"
    );
    Case::floats(name, queries, move |scene, tokens| {
        let blocks = length.div_ceil(block_tokens);
        // More blocks than needed, in an order that depends on how many queries there are.
        let spec = KvSpec {
            layers: 2,
            kv_heads,
            head_dim,
            block_tokens,
            blocks: 2 * blocks + 1,
            format,
        };
        let cache = scene.backend.allocate_kv(spec).expect("a small cache");
        let stride = 1 + tokens.len() % 2;
        let table: Vec<u32> = (0..blocks)
            .map(|block| (2 * blocks - stride * block) as u32)
            .collect();
        append(scene, &cache, shape, &table);
        let q = scene.put(&scene.token_rows(1, tokens, query_heads * head_dim));
        let out = scene.empty(q.bytes());
        let spans = spans(tokens, length - queries, &table);
        let scale = 1.0 / (head_dim as f32).sqrt();
        scene.run(Op::PagedAttention {
            q,
            cache,
            layer: 1,
            spans: spans.into(),
            query_heads,
            scale,
            out: out.clone(),
        });
        scene.rows(&out, tokens.len(), query_heads * head_dim * 4)
    })
}

/// All positions at once.
fn append(scene: &Scene<'_>, cache: &KvCache, shape: Shape, table: &[u32]) {
    let all: Vec<usize> = (0..shape.length).collect();
    let [k, v] = [2, 3].map(|purpose| {
        scene.put(&scene.token_rows(purpose, &all, shape.kv_heads * shape.head_dim))
    });
    let place = |position: usize| KvPosition {
        block: table[position / shape.block_tokens],
        offset: (position % shape.block_tokens) as u32,
    };
    let positions = all.iter().map(|&position| place(position)).collect();
    scene.run(Op::KvAppend {
        cache: cache.clone(),
        layer: 1,
        k,
        v,
        positions,
    });
}

/// Consecutive tokens become one span.
fn spans(tokens: &[usize], first_position: usize, table: &[u32]) -> Vec<AttentionSpan> {
    let mut all: Vec<AttentionSpan> = Vec::new();
    for (row, &token) in tokens.iter().enumerate() {
        let position = first_position + token;
        match all.last_mut() {
            Some(span) if span.first_position + span.rows == position => span.rows += 1,
            _ => all.push(AttentionSpan {
                first_row: row,
                rows: 1,
                first_position: position,
                blocks: table.into(),
            }),
        }
    }
    all
}
