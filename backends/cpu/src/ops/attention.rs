//! Keys and values: storing them, and attention over them.

use super::Executor;
use super::machine::Machine;
use super::operands::{floats, floats_mut, kv_layer, read, write};
use crate::kernel_set::KernelSet;
use crate::kernels::AttentionTile;
use crate::memory::SharedSlice;
use crate::reference;
use crate::view::{KvHalf, KvLayout, read_f32};
use half::f16;
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use odmoe_backend::{AttentionSpan, KvFormat, Op};
use std::ops::Range;

/// Queries that go over the keys and values of a head together: enough to read them seldom, few enough that their
/// scores of one split (32 KiB) stay close.
const TASK_QUERIES: usize = 32;

impl Executor {
    /// Stores k and v [T, G, D].
    pub(super) fn kv_append(&mut self, op: &Op) {
        let Op::KvAppend {
            cache,
            layer,
            k,
            v,
            positions,
        } = op
        else {
            unreachable!("called for this op only")
        };
        let (cache, range, layout, format) = kv_layer(cache, *layer);
        let mut bytes = cache.region.write();
        let bytes = &mut bytes[range];
        let elements = positions.len() * layout.kv_heads * layout.head_dim;
        for (half, rows) in [(KvHalf::Key, read(k)), (KvHalf::Value, read(v))] {
            let mut heads = floats(&rows, elements).chunks_exact(layout.head_dim);
            for position in positions.iter() {
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
    pub(super) fn paged_attention(&mut self, op: &Op) {
        let Op::PagedAttention {
            q,
            cache,
            layer,
            spans,
            query_heads,
            scale,
            out,
        } = op
        else {
            unreachable!("called for this op only")
        };
        let (query_heads, scale) = (*query_heads, *scale);
        let (cache, range, layout, format) = kv_layer(cache, *layer);
        assert!(
            query_heads.is_multiple_of(layout.kv_heads),
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
        assert_held(spans, layout);
        let attention = Attention {
            kv,
            format,
            layout,
            query_heads,
            scale,
            q,
        };
        if self.set == KernelSet::Reference {
            spans
                .iter()
                .for_each(|span| attention.run_reference(span, out));
        } else {
            attention.run(&self.machine, spans, out);
        }
    }
}

/// Operands of one attention op.
struct Attention<'a> {
    kv: &'a [u8],
    format: KvFormat,
    layout: KvLayout,
    query_heads: usize,
    scale: f32,
    q: &'a [f32],
}

/// Some rows of a span with one key/value head.
struct Task<'a> {
    span: &'a AttentionSpan,
    kv_head: usize,
    rows: Range<usize>,
}

impl Attention<'_> {
    fn run_reference(&self, span: &AttentionSpan, out: &mut [f32]) {
        let layout = self.layout;
        for row in 0..span.rows {
            for head in 0..self.query_heads {
                let start = ((span.first_row + row) * self.query_heads + head) * layout.head_dim;
                let kv_head = head * layout.kv_heads / self.query_heads;
                let place = |half, position: usize| {
                    let block = span.blocks[position / layout.block_tokens] as usize;
                    layout.element(half, block, kv_head, position % layout.block_tokens)
                };
                reference::attend(
                    &self.q[start..start + layout.head_dim],
                    self.scale,
                    span.first_position + row + 1,
                    |position, out| load(self.format, self.kv, place(KvHalf::Key, position), out),
                    |position, out| load(self.format, self.kv, place(KvHalf::Value, position), out),
                    &mut out[start..start + layout.head_dim],
                );
            }
        }
    }

    fn run(&self, machine: &Machine, spans: &[AttentionSpan], out: &mut [f32]) {
        let shared_by = self.query_heads / self.layout.kv_heads;
        let rows_a_task = (TASK_QUERIES / shared_by).max(1);
        let (mut tasks, mut operations) = (Vec::new(), 0);
        for span in spans {
            let seen = span.first_position + span.rows;
            operations += span.rows * seen * self.query_heads * self.layout.head_dim;
            for start in (0..span.rows).step_by(rows_a_task) {
                let rows = start..span.rows.min(start + rows_a_task);
                let heads = 0..self.layout.kv_heads;
                tasks.extend(heads.map(|kv_head| Task {
                    span,
                    kv_head,
                    rows: rows.clone(),
                }));
            }
        }
        assert_apart(spans);
        let out = SharedSlice::new(out);
        machine.parallel(tasks.len(), operations, |index| {
            self.run_task(machine, &tasks[index], &out);
        });
    }

    fn run_task(&self, machine: &Machine, task: &Task<'_>, out: &SharedSlice<'_, f32>) {
        let head_dim = self.layout.head_dim;
        let shared_by = self.query_heads / self.layout.kv_heads;
        let (mut starts, mut visible) = (Vec::new(), Vec::new());
        for row in task.rows.clone() {
            for head in task.kv_head * shared_by..(task.kv_head + 1) * shared_by {
                starts.push(((task.span.first_row + row) * self.query_heads + head) * head_dim);
                visible.push(task.span.first_position + row + 1);
            }
        }
        let queries: Vec<&[f32]> = starts
            .iter()
            .map(|&start| &self.q[start..][..head_dim])
            .collect();
        let mut results = vec![0.0f32; queries.len() * head_dim];
        machine.run(AttentionTile {
            kv: self.kv,
            format: self.format,
            layout: self.layout,
            kv_head: task.kv_head,
            blocks: &task.span.blocks,
            queries: &queries,
            visible: &visible,
            scale: self.scale,
            out: &mut results,
        });
        for (start, result) in starts.into_iter().zip(results.chunks_exact(head_dim)) {
            // SAFETY: rows of spans are apart (`assert_apart`), and tasks differ in rows or heads.
            unsafe { out.range_mut(start..start + head_dim) }.copy_from_slice(result);
        }
    }
}

/// What a span's last row sees must be in the blocks that the span names.
fn assert_held(spans: &[AttentionSpan], layout: KvLayout) {
    for span in spans {
        let held = span.blocks.len() * layout.block_tokens;
        let seen = span.first_position + span.rows;
        assert!(
            seen <= held,
            "a span sees {seen} positions, but its blocks hold {held}"
        );
    }
}

/// Threads write the rows of spans at the same time, so no row may be in two.
fn assert_apart(spans: &[AttentionSpan]) {
    let rows = spans
        .iter()
        .map(|span| span.first_row..span.first_row + span.rows);
    let mut rows: Vec<Range<usize>> = rows.filter(|rows| !rows.is_empty()).collect();
    rows.sort_unstable_by_key(|rows| rows.start);
    let apart = rows.windows(2).all(|pair| pair[0].end <= pair[1].start);
    assert!(apart, "two attention spans share a row");
}

/// Writes one head's row to the front of `to`.
fn store(format: KvFormat, from: &[f32], to: &mut [u8]) {
    let to = &mut to[..from.len() * format.element_bytes()];
    match format {
        KvFormat::F32 => to.copy_from_slice(bytemuck::cast_slice(from)),
        KvFormat::F16 => {
            let to: &mut [u16] = bytemuck::cast_slice_mut(to);
            to.reinterpret_cast_mut::<f16>()
                .convert_from_f32_slice(from);
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
