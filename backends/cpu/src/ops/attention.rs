//! Keys and values: storing them, and attention over them.

use super::Executor;
use super::machine::Machine;
use super::operands::{floats, floats_mut, kv_layer, read, write};
use crate::kernel_set::KernelSet;
use crate::kernels::{AttentionSplit, KvHead, MergeSplit, SplitState, TILE_POSITIONS};
use crate::memory::SharedSlice;
use crate::reference::{self, Merged, SPLIT};
use crate::view::{KvHalf, KvLayout};
use half::f16;
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use odmoe_backend::{AttentionSpan, KvFormat, Op};
use std::cell::RefCell;
use std::ops::Range;

/// Queries that go over the keys and values of a head together: enough to read them seldom, few enough that their
/// scores of one split (64 KiB) stay close.
const TASK_QUERIES: usize = 64;
/// Tasks that a thread should have at least; with fewer, splits of the context are shared out instead.
const THREAD_TASKS: usize = 2;
/// Floats of splits that wait to be merged, 256 KiB: 4096 positions of 32 query heads of 128. Longer contexts go in rounds.
const WAITING_FLOATS: usize = 1 << 16;

/// Kept between ops.
#[derive(Default)]
pub struct AttentionScratch {
    /// Values of splits that wait to be merged.
    values: Vec<f32>,
    /// Their states.
    states: Vec<SplitState>,
}

/// What one thread works with. Kept, since it is as long as the stack of some threads.
#[derive(Default)]
struct ThreadScratch {
    decoded: Vec<f32>,
    scores: Vec<f32>,
    values: Vec<f32>,
    results: Vec<f32>,
}

thread_local! {
    static THREAD: RefCell<ThreadScratch> = RefCell::default();
}

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
                    let row = layout.row(
                        half,
                        position.block as usize,
                        head,
                        position.offset as usize,
                    );
                    let head = heads.next().expect("one head's row for each place");
                    let row_bytes = format.row_bytes(layout.head_dim);
                    store(format, head, &mut bytes[row * row_bytes..][..row_bytes]);
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
            attention.run(&self.machine, spans, out, &mut self.attention);
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

/// The queries of a task, ordered by how much they see.
struct Queries<'a> {
    /// [D] each.
    rows: Vec<&'a [f32]>,
    /// Positions that each sees.
    visible: Vec<usize>,
    /// Where each begins, in `q` and in `out`.
    starts: Vec<usize>,
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
                    let row = layout.row(half, block, kv_head, position % layout.block_tokens);
                    let bytes = self.format.row_bytes(layout.head_dim);
                    &self.kv[row * bytes..][..bytes]
                };
                let format = self.format.block_format();
                reference::attend(
                    &self.q[start..start + layout.head_dim],
                    self.scale,
                    span.first_position + row + 1,
                    |position, out| format.decode_row(place(KvHalf::Key, position), out),
                    |position, out| format.decode_row(place(KvHalf::Value, position), out),
                    &mut out[start..start + layout.head_dim],
                );
            }
        }
    }

    fn run(
        &self,
        machine: &Machine,
        spans: &[AttentionSpan],
        out: &mut [f32],
        scratch: &mut AttentionScratch,
    ) {
        assert_apart(spans);
        let tasks = self.tasks(machine, spans);
        let pairs: usize = spans
            .iter()
            .map(|span| span.rows * (span.first_position + span.rows))
            .sum();
        let operations = pairs * self.query_heads * self.layout.head_dim;
        let out = SharedSlice::new(out);
        if tasks.len() < THREAD_TASKS * machine.pool.threads()
            && tasks.iter().any(|task| task.splits() > 1)
            && machine.pays(operations)
        {
            self.run_by_splits(machine, &tasks, operations, &out, scratch);
            return;
        }
        machine.parallel(tasks.len(), operations, |index| {
            self.run_task(machine, &tasks[index], &out);
        });
    }

    /// The rows of every span, a few together with each head.
    fn tasks<'a>(&self, machine: &Machine, spans: &'a [AttentionSpan]) -> Vec<Task<'a>> {
        let shared_by = self.query_heads / self.layout.kv_heads;
        let rows: usize = spans.iter().map(|span| span.rows).sum();
        let tasks_wanted = THREAD_TASKS * machine.pool.threads();
        let rows_a_task = (rows * self.layout.kv_heads)
            .div_ceil(tasks_wanted)
            .clamp(1, (TASK_QUERIES / shared_by).max(1));
        let mut tasks = Vec::new();
        for span in spans {
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
        tasks
    }

    /// One task from its first split to its last.
    fn run_task(&self, machine: &Machine, task: &Task<'_>, out: &SharedSlice<'_, f32>) {
        let queries = self.queries(task);
        let elements = queries.rows.len() * self.layout.head_dim;
        THREAD.with_borrow_mut(|scratch| {
            let mut results = std::mem::take(&mut scratch.results);
            let mut values = std::mem::take(&mut scratch.values);
            let into = at_least(&mut results, elements);
            let split_values = at_least(&mut values, elements);
            into.fill(0.0);
            let mut states = vec![SplitState::EMPTY; queries.rows.len()];
            let mut split_states = states.clone();
            for split in 0..task.splits() {
                split_states.fill(SplitState::EMPTY);
                self.run_split(
                    machine,
                    task,
                    &queries,
                    split,
                    scratch,
                    &mut split_states,
                    split_values,
                );
                machine.run(MergeSplit {
                    split: &split_states,
                    split_values,
                    states: &mut states,
                    values: into,
                });
            }
            self.finish(&queries, &states, into, out);
            scratch.results = results;
            scratch.values = values;
        });
    }

    /// Few tasks over a long context: every split is a chunk of its own. What they give is merged in ascending order, as
    /// one thread would have done.
    fn run_by_splits(
        &self,
        machine: &Machine,
        tasks: &[Task<'_>],
        operations: usize,
        out: &SharedSlice<'_, f32>,
        scratch: &mut AttentionScratch,
    ) {
        let head_dim = self.layout.head_dim;
        let queries: Vec<Queries<'_>> = tasks.iter().map(|task| self.queries(task)).collect();
        // Every task has as much room as the largest.
        let room = queries.iter().map(|queries| queries.rows.len()).max();
        let room = room.unwrap_or(0);
        let splits = tasks.iter().map(Task::splits).max().unwrap_or(0);
        let round = (WAITING_FLOATS / (tasks.len() * room * head_dim)).clamp(1, splits);
        let mut states: Vec<Vec<SplitState>> = queries
            .iter()
            .map(|queries| vec![SplitState::EMPTY; queries.rows.len()])
            .collect();
        let mut results: Vec<Vec<f32>> = queries
            .iter()
            .map(|queries| vec![0.0; queries.rows.len() * head_dim])
            .collect();
        let places = round * tasks.len() * room;
        let waiting = at_least(&mut scratch.values, places * head_dim);
        scratch.states.resize(places, SplitState::EMPTY);
        for first in (0..splits).step_by(round) {
            let chunks = tasks.len() * round.min(splits - first);
            scratch.states.fill(SplitState::EMPTY);
            let waiting_states = SharedSlice::new(&mut scratch.states);
            let waiting_values = SharedSlice::new(waiting);
            machine.parallel(chunks, operations, |chunk| {
                let (task, split) = (chunk % tasks.len(), first + chunk / tasks.len());
                if split >= tasks[task].splits() {
                    return;
                }
                let places = chunk * room..chunk * room + queries[task].rows.len();
                let floats = places.start * head_dim..places.end * head_dim;
                // SAFETY: every chunk is claimed once, and the room of chunks does not overlap.
                let (states, values) = unsafe {
                    (
                        waiting_states.range_mut(places),
                        waiting_values.range_mut(floats),
                    )
                };
                THREAD.with_borrow_mut(|scratch| {
                    let (task, queries) = (&tasks[task], &queries[task]);
                    self.run_split(machine, task, queries, split, scratch, states, values);
                });
            });
            for chunk in 0..chunks {
                let task = chunk % tasks.len();
                let places = chunk * room..chunk * room + queries[task].rows.len();
                machine.run(MergeSplit {
                    split: &scratch.states[places.clone()],
                    split_values: &waiting[places.start * head_dim..places.end * head_dim],
                    states: &mut states[task],
                    values: &mut results[task],
                });
            }
        }
        for ((queries, states), results) in queries.iter().zip(&states).zip(&mut results) {
            self.finish(queries, states, results, out);
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn run_split(
        &self,
        machine: &Machine,
        task: &Task<'_>,
        queries: &Queries<'_>,
        split: usize,
        scratch: &mut ThreadScratch,
        states: &mut [SplitState],
        values: &mut [f32],
    ) {
        let decoded = at_least(&mut scratch.decoded, TILE_POSITIONS * self.layout.head_dim);
        let scores = at_least(&mut scratch.scores, queries.rows.len() * SPLIT);
        machine.run(AttentionSplit {
            head: KvHead {
                kv: self.kv,
                format: self.format,
                layout: self.layout,
                head: task.kv_head,
                blocks: &task.span.blocks,
            },
            queries: &queries.rows,
            visible: &queries.visible,
            scale: self.scale,
            split,
            scratch: (decoded, scores),
            states,
            values,
        });
    }

    fn queries(&self, task: &Task<'_>) -> Queries<'_> {
        let head_dim = self.layout.head_dim;
        let shared_by = self.query_heads / self.layout.kv_heads;
        let count = task.rows.len() * shared_by;
        let mut queries = Queries {
            rows: Vec::with_capacity(count),
            visible: Vec::with_capacity(count),
            starts: Vec::with_capacity(count),
        };
        for row in task.rows.clone() {
            for head in task.kv_head * shared_by..(task.kv_head + 1) * shared_by {
                let start = ((task.span.first_row + row) * self.query_heads + head) * head_dim;
                queries.rows.push(&self.q[start..start + head_dim]);
                queries.starts.push(start);
                queries.visible.push(task.span.first_position + row + 1);
            }
        }
        queries
    }

    /// Divides by the sums of exponentials and writes the rows of a task.
    fn finish(
        &self,
        queries: &Queries<'_>,
        states: &[SplitState],
        results: &mut [f32],
        out: &SharedSlice<'_, f32>,
    ) {
        let head_dim = self.layout.head_dim;
        let results = results.chunks_exact_mut(head_dim);
        for ((&start, state), result) in queries.starts.iter().zip(states).zip(results) {
            Merged {
                largest: state.largest,
                total: state.total,
                values: result,
            }
            .finish();
            // SAFETY: rows of spans are apart (`assert_apart`), and tasks differ in rows or heads.
            unsafe { out.range_mut(start..start + head_dim) }.copy_from_slice(result);
        }
    }
}

impl Task<'_> {
    /// Splits that its last row sees.
    fn splits(&self) -> usize {
        (self.span.first_position + self.rows.end).div_ceil(SPLIT)
    }
}

/// The first `length` floats of a vector that only grows.
fn at_least(floats: &mut Vec<f32>, length: usize) -> &mut [f32] {
    floats.resize(floats.len().max(length), 0.0);
    &mut floats[..length]
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

/// Writes one head's row.
fn store(format: KvFormat, from: &[f32], to: &mut [u8]) {
    match format {
        KvFormat::F32 | KvFormat::Q8_0 => format.block_format().encode_row(from, to),
        KvFormat::F16 => {
            let to: &mut [u16] = bytemuck::cast_slice_mut(to);
            to.reinterpret_cast_mut::<f16>()
                .convert_from_f32_slice(from);
        }
    }
}
