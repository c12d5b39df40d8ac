//! Products over the pool: activations are quantised where the weight wants it, weight rows are shared out.

use super::machine::Machine;
use crate::kernels::{
    Activations, OutRows, PACKED_ROWS, PANEL_ROWS, Product, Quantise, QuantisedPart, QuantisedRows,
};
use crate::memory::SharedSlice;
use crate::view::{Q8_ELEMENTS, WeightView};
use odmoe_formats::BlockFormat;

/// Buffers that ops need on the way. They grow to what the largest op needs (bounded by the largest batch), and stay.
#[derive(Default)]
pub struct ProductScratch {
    quantised: QuantisedRows,
    identity: Vec<u32>,
}

/// 0, 1, 2, ... `count` - 1, from a vector that only grows.
fn identity(numbers: &mut Vec<u32>, count: usize) -> &[u32] {
    numbers.extend(numbers.len() as u32..count.max(numbers.len()) as u32);
    &numbers[..count]
}

/// Rows of x [_, columns] in the form that a product with `format` takes. `rows`, ascending, are those that the
/// product will read.
pub fn activations<'a>(
    machine: &Machine,
    format: BlockFormat,
    x: &'a [f32],
    columns: usize,
    rows: &[u32],
    quantised: &'a mut QuantisedRows,
) -> Activations<'a> {
    if format != BlockFormat::Q8_0 {
        return Activations::Float(x);
    }
    assert!(
        rows.is_sorted_by(|a, b| a < b),
        "a row would be written twice"
    );
    let rows_in_use = rows.last().map_or(0, |&last| last as usize + 1);
    let QuantisedPart { blocks, wide } = quantised.prepare(rows_in_use, columns);
    let (blocks, wide) = (SharedSlice::new(blocks), SharedSlice::new(wide));
    let blocks_a_row = columns / Q8_ELEMENTS;
    machine.parallel(rows.len(), rows.len() * columns, |index| {
        let row = rows[index] as usize;
        let range = row * blocks_a_row..(row + 1) * blocks_a_row;
        // SAFETY: every index is claimed once, and rows are distinct, so parts do not overlap.
        let to = unsafe {
            QuantisedPart {
                blocks: blocks.range_mut(range.clone()),
                wide: wide.range_mut(range),
            }
        };
        machine.run(Quantise {
            x: &x[row * columns..(row + 1) * columns],
            to,
        });
    });
    Activations::Quantised(quantised)
}

/// Weight rows of one chunk: as many as a panel holds, fewer where threads would go idle.
pub fn chunk_rows(machine: &Machine, rows: usize) -> usize {
    let shared_out = rows
        .div_ceil(machine.pool.threads() * 4)
        .next_multiple_of(PACKED_ROWS);
    shared_out.clamp(PACKED_ROWS, PANEL_ROWS)
}

/// out [T, N] = x [T, columns] * weight^T.
pub fn linear(
    machine: &Machine,
    weight: WeightView<'_>,
    x: &[f32],
    out: &mut [f32],
    scratch: &mut ProductScratch,
) {
    let tokens = x.len() / weight.columns;
    let ProductScratch {
        quantised,
        identity: numbers,
    } = scratch;
    let rows = identity(numbers, tokens);
    let x = activations(machine, weight.format, x, weight.columns, rows, quantised);
    let shared = SharedSlice::new(out);
    // SAFETY: the rows are distinct, and chunks write different columns of them.
    let out = unsafe { OutRows::new(&shared, weight.rows, rows) };
    let chunk = chunk_rows(machine, weight.rows);
    machine.parallel(
        weight.rows.div_ceil(chunk),
        tokens * weight.rows * weight.columns,
        |index| {
            let rows_of_chunk = index * chunk..weight.rows.min((index + 1) * chunk);
            machine.run(Product {
                weight,
                rows: rows_of_chunk,
                x,
                tokens: rows,
                out,
            });
        },
    );
}
