//! The experts of a layer as one op.

use super::Executor;
use super::machine::Machine;
use super::operands::{floats, floats_mut, read, weight_view, write};
use super::products::{QuantisedScratch, activations, chunk_rows, part_tokens};
use crate::kernel_set::KernelSet;
use crate::kernels::{Activations, OutRows, Product, SiluMul};
use crate::memory::{ReadGuard, SharedSlice};
use crate::reference::{self, ExpertView};
use crate::view::WeightView;
use odmoe_backend::{Buffer, ExpertGroup, ExpertRow};
use std::ops::Range;

/// Floats of intermediate state that are kept at once, 8 MiB. An op with more goes in several passes.
const STATE_FLOATS: usize = 2 << 20;

/// Rows that may well be few for each expert. Beyond this most experts have more than kernels take rearranged.
const ARRANGED_ROWS_MAX: usize = 64;

/// Kept between ops.
#[derive(Default)]
pub struct ExpertScratch {
    /// silu(gate x), then the state, [slots, F].
    gate: Vec<f32>,
    /// up x, [slots, F].
    up: Vec<f32>,
    x: QuantisedScratch,
    state: QuantisedScratch,
}

/// Some rows of one expert, with their places in the intermediate state.
struct Job<'a> {
    expert: ExpertView<'a>,
    /// Rows of x.
    token_rows: Vec<u32>,
    /// Rows of out.
    out_rows: Vec<u32>,
    /// Rows of the state.
    slots: Vec<u32>,
}

/// Those rows of a job that go over one of its weights together.
struct Part<'a> {
    expert: ExpertView<'a>,
    token_rows: &'a [u32],
    out_rows: &'a [u32],
    slots: &'a [u32],
}

impl<'a> Job<'a> {
    fn parts(&self, weight: &WeightView<'_>) -> impl Iterator<Item = Part<'_>> {
        let most = part_tokens(weight, self.slots.len());
        let rows = self.token_rows.chunks(most).zip(self.out_rows.chunks(most));
        (rows.zip(self.slots.chunks(most))).map(|((token_rows, out_rows), slots)| Part {
            expert: self.expert,
            token_rows,
            out_rows,
            slots,
        })
    }
}

impl Executor {
    /// Each row of each group through its expert.
    pub(super) fn expert_ffn(&mut self, x: &Buffer, groups: &[ExpertGroup], out: &Buffer) {
        let (x, mut out) = (read(x), write(out));
        let x: &[f32] = floats(&x, x.len() / 4);
        let elements = out.len() / 4;
        let out = floats_mut(&mut out, elements);
        let guards: Vec<[ReadGuard<'_>; 3]> = groups
            .iter()
            .map(|group| [&group.gate, &group.up, &group.down].map(|weight| read(&weight.buffer)))
            .collect();
        let experts: Vec<(ExpertView<'_>, &[ExpertRow])> = groups
            .iter()
            .zip(&guards)
            .map(|(group, guards)| (expert_view(group, guards), &*group.rows))
            .collect();
        let Some((first, _)) = experts.first() else {
            return;
        };
        let (hidden, width) = (first.gate.columns, first.gate.rows);
        for (expert, _) in &experts {
            let shape = (expert.gate.columns, expert.gate.rows);
            assert_eq!(
                shape,
                (hidden, width),
                "the experts of one op have one shape"
            );
        }
        if self.set == KernelSet::Reference {
            run_reference(&experts, x, out);
            return;
        }
        assert_distinct(&experts, out.len() / hidden);
        for jobs in passes(&experts, (STATE_FLOATS / width).max(1)) {
            run_pass(&self.machine, &jobs, x, out, &mut self.experts);
        }
    }
}

fn run_reference(experts: &[(ExpertView<'_>, &[ExpertRow])], x: &[f32], out: &mut [f32]) {
    for (expert, rows) in experts {
        let hidden = expert.gate.columns;
        for row in *rows {
            let x = &x[row.token_row as usize * hidden..][..hidden];
            reference::expert_ffn_row(
                expert,
                x,
                &mut out[row.out_row as usize * hidden..][..hidden],
            );
        }
    }
}

fn expert_view<'a>(group: &ExpertGroup, guards: &'a [ReadGuard<'_>; 3]) -> ExpertView<'a> {
    let gate = weight_view(&group.gate, &guards[0]);
    let up = weight_view(&group.up, &guards[1]);
    let down = weight_view(&group.down, &guards[2]);
    assert!(
        up.rows == gate.rows && up.columns == gate.columns,
        "gate and up of an expert have one shape"
    );
    assert!(
        down.rows == gate.columns && down.columns == gate.rows,
        "down of an expert has the shape of gate, turned"
    );
    ExpertView { gate, up, down }
}

/// Threads write rows of `out` at the same time, so no row may be named twice.
fn assert_distinct(experts: &[(ExpertView<'_>, &[ExpertRow])], out_rows: usize) {
    let mut seen = vec![false; out_rows];
    for row in experts.iter().flat_map(|(_, rows)| *rows) {
        let seen = &mut seen[row.out_row as usize];
        assert!(!*seen, "two expert rows come out at row {}", row.out_row);
        *seen = true;
    }
}

/// Cuts the work into passes of at most `most` rows. A group is split only where it alone has more.
fn passes<'a>(experts: &[(ExpertView<'a>, &[ExpertRow])], most: usize) -> Vec<Vec<Job<'a>>> {
    let (mut all, mut pass, mut used) = (Vec::new(), Vec::new(), 0);
    for (expert, rows) in experts {
        for part in rows.chunks(most) {
            if used + part.len() > most {
                all.push(std::mem::take(&mut pass));
                used = 0;
            }
            pass.push(Job {
                expert: *expert,
                token_rows: part.iter().map(|row| row.token_row).collect(),
                out_rows: part.iter().map(|row| row.out_row).collect(),
                slots: (used as u32..(used + part.len()) as u32).collect(),
            });
            used += part.len();
        }
    }
    all.push(pass);
    all
}

fn run_pass(
    machine: &Machine,
    jobs: &[Job<'_>],
    x: &[f32],
    out: &mut [f32],
    scratch: &mut ExpertScratch,
) {
    let Some(first) = jobs.first() else { return };
    let (hidden, width) = (first.expert.gate.columns, first.expert.gate.rows);
    let slots: usize = jobs.iter().map(|job| job.slots.len()).sum();
    let operations = slots * hidden * width;
    let ExpertScratch {
        gate,
        up,
        x: x_quantised,
        state: state_quantised,
    } = scratch;
    gate.resize(gate.len().max(slots * width), 0.0);
    up.resize(up.len().max(slots * width), 0.0);
    let (gate, up) = (&mut gate[..slots * width], &mut up[..slots * width]);

    let mut x_rows: Vec<u32> = jobs
        .iter()
        .flat_map(|job| &job.token_rows)
        .copied()
        .collect();
    x_rows.sort_unstable();
    x_rows.dedup();
    let weights = jobs.iter().flat_map(|job| [job.expert.gate, job.expert.up]);
    let inputs = activations(machine, weights, x, &x_rows, ARRANGED_ROWS_MAX, x_quantised);
    {
        let (gate, up) = (SharedSlice::new(gate), SharedSlice::new(up));
        for_chunks(
            machine,
            jobs,
            |expert| expert.gate,
            2 * operations,
            |part, rows| {
                open_rows(machine, part, rows, inputs, &gate, &up);
            },
        );
    }
    let slots: Vec<u32> = (0..slots as u32).collect();
    let weights = jobs.iter().map(|job| job.expert.down);
    let states = activations(
        machine,
        weights,
        gate,
        &slots,
        ARRANGED_ROWS_MAX,
        state_quantised,
    );
    let out = SharedSlice::new(out);
    for_chunks(
        machine,
        jobs,
        |expert| expert.down,
        operations,
        |part, rows| {
            let weight = part.expert.down;
            // SAFETY: out rows are distinct over all jobs, and chunks of one job write different columns.
            let out = unsafe { OutRows::new(&out, hidden, part.out_rows) };
            machine.run(Product {
                weight,
                rows,
                x: states,
                tokens: part.slots,
                out,
            });
        },
    );
}

/// The state of some of an expert's F for all its rows: gate, up, and their silu product.
fn open_rows(
    machine: &Machine,
    part: &Part<'_>,
    rows: Range<usize>,
    x: Activations<'_>,
    gate: &SharedSlice<'_, f32>,
    up: &SharedSlice<'_, f32>,
) {
    let width = part.expert.gate.rows;
    for (weight, to) in [(part.expert.gate, gate), (part.expert.up, up)] {
        // SAFETY: slots are distinct over all jobs, and chunks of one job write different columns.
        let out = unsafe { OutRows::new(to, width, part.slots) };
        machine.run(Product {
            weight,
            rows: rows.clone(),
            x,
            tokens: part.token_rows,
            out,
        });
    }
    for &slot in part.slots {
        let range = slot as usize * width + rows.start..slot as usize * width + rows.end;
        // SAFETY: as above; the products are done with them.
        let (gate, up) = unsafe { (gate.range_mut(range.clone()), up.range_mut(range)) };
        machine.run(SiluMul { gate, up });
    }
}

/// Shares out the rows of one weight of every job, with the tokens that go over them together.
fn for_chunks<'a>(
    machine: &Machine,
    jobs: &[Job<'a>],
    weight: impl Fn(&ExpertView<'a>) -> WeightView<'a>,
    operations: usize,
    body: impl Fn(&Part<'_>, Range<usize>) + Sync,
) {
    let weight = weight(&jobs[0].expert);
    let rows = weight.rows;
    let tokens = jobs.iter().map(|job| job.slots.len()).sum::<usize>() / jobs.len();
    let chunk = chunk_rows(machine, &weight, rows * jobs.len(), tokens);
    let chunks = rows.div_ceil(chunk);
    let parts: Vec<Part<'_>> = jobs.iter().flat_map(|job| job.parts(&weight)).collect();
    machine.parallel(parts.len() * chunks, operations, |index| {
        let start = index % chunks * chunk;
        body(&parts[index / chunks], start..rows.min(start + chunk));
    });
}
