//! Keys and values: storing them, and attention over them.

use super::Executor;
use super::operands::{floats, floats_mut, kv_layer, read, write};
use crate::reference;
use crate::view::{KvHalf, KvLayout, read_f32};
use half::f16;
use odmoe_backend::{AttentionSpan, Buffer, KvCache, KvFormat, KvPosition};

impl Executor {
    /// Stores k and v [T, G, D].
    pub(super) fn kv_append(
        &mut self,
        cache: &KvCache,
        layer: usize,
        k: &Buffer,
        v: &Buffer,
        positions: &[KvPosition],
    ) {
        let (cache, range, layout, format) = kv_layer(cache, layer);
        let mut bytes = cache.region.write();
        let bytes = &mut bytes[range];
        let elements = positions.len() * layout.kv_heads * layout.head_dim;
        for (half, rows) in [(KvHalf::Key, read(k)), (KvHalf::Value, read(v))] {
            let mut heads = floats(&rows, elements).chunks_exact(layout.head_dim);
            for position in positions {
                for head in 0..layout.kv_heads {
                    let first = layout.element(
                        half,
                        position.block as usize,
                        head,
                        position.offset as usize,
                    );
                    let head = heads.next().expect("one head's row for each place");
                    store(format, head, &mut bytes[first * format.element_bytes()..]);
                }
            }
        }
    }

    /// out [T, Q, D] of q [T, Q, D].
    #[allow(clippy::too_many_arguments)]
    pub(super) fn paged_attention(
        &mut self,
        q: &Buffer,
        cache: &KvCache,
        layer: usize,
        spans: &[AttentionSpan],
        query_heads: usize,
        scale: f32,
        out: &Buffer,
    ) {
        let (cache, range, layout, format) = kv_layer(cache, layer);
        assert!(
            query_heads % layout.kv_heads == 0,
            "{query_heads} query heads share {} KV heads",
            layout.kv_heads
        );
        let rows = spans
            .iter()
            .map(|span| span.first_row + span.rows)
            .max()
            .unwrap_or(0);
        let elements = rows * query_heads * layout.head_dim;
        let (kv, q, mut out) = (cache.region.read(), read(q), write(out));
        let (kv, q, out) = (
            &kv[range],
            floats(&q, elements),
            floats_mut(&mut out, elements),
        );
        for span in spans {
            let held = span.blocks.len() * layout.block_tokens;
            let seen = span.first_position + span.rows;
            assert!(
                seen <= held,
                "a span sees {seen} positions, but its blocks hold {held}"
            );
            for row in 0..span.rows {
                for head in 0..query_heads {
                    let start = ((span.first_row + row) * query_heads + head) * layout.head_dim;
                    let kv_head = head * layout.kv_heads / query_heads;
                    let place = |half, position: usize| {
                        let block = span.blocks[position / layout.block_tokens] as usize;
                        layout.element(half, block, kv_head, position % layout.block_tokens)
                    };
                    reference::attend(
                        &q[start..start + layout.head_dim],
                        scale,
                        span.first_position + row + 1,
                        |position, out| load(format, kv, place(KvHalf::Key, position), out),
                        |position, out| load(format, kv, place(KvHalf::Value, position), out),
                        &mut out[start..start + layout.head_dim],
                    );
                }
            }
        }
    }
}

/// Writes one head's row to the front of `to`.
fn store(format: KvFormat, from: &[f32], to: &mut [u8]) {
    match format {
        KvFormat::F32 => to[..from.len() * 4].copy_from_slice(bytemuck::cast_slice(from)),
        KvFormat::F16 => {
            for (from, to) in from.iter().zip(to.chunks_exact_mut(2)) {
                to.copy_from_slice(&f16::from_f32(*from).to_le_bytes());
            }
        }
    }
}

/// Reads one head's row from element `first` on.
fn load(format: KvFormat, from: &[u8], first: usize, to: &mut [f32]) {
    let from = &from[first * format.element_bytes()..];
    for (i, to) in to.iter_mut().enumerate() {
        *to = match format {
            KvFormat::F32 => read_f32(&from[i * 4..]),
            KvFormat::F16 => f16::from_le_bytes([from[i * 2], from[i * 2 + 1]]).to_f32(),
        };
    }
}
