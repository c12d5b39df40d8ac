//! Products over the pool: activations are quantised where the weight wants it, weight rows are shared out.

use super::machine::Machine;
use crate::blocks::{BLOCK, SUPERBLOCK};
use crate::kernels::{
    ActivationForm, Activations, BlockRows, BlocksPart, OutRows, PACKED_ROWS, PANEL_ROWS, Product,
    QuantiseBlocks, QuantiseSuperblocks, SuperblockRows, SuperblocksPart,
};
use crate::memory::SharedSlice;
use crate::view::WeightView;
use odmoe_formats::WeightLayout;

/// Buffers that ops need on the way. They grow to what the largest op needs (bounded by the largest batch), and stay.
#[derive(Default)]
pub struct ProductScratch {
    quantised: QuantisedScratch,
    identity: Vec<u32>,
}

/// Quantised activations, in both forms.
#[derive(Default)]
pub struct QuantisedScratch {
    blocks: BlockRows,
    superblocks: SuperblockRows,
}

/// 0, 1, 2, ... `count` - 1, from a vector that only grows.
fn identity(numbers: &mut Vec<u32>, count: usize) -> &[u32] {
    numbers.extend(numbers.len() as u32..count.max(numbers.len()) as u32);
    &numbers[..count]
}

/// Rows of x [_, columns] in every form that products of these formats take. `rows`, ascending, are those that the
/// products will read; up to `arranged_max` of them are also rearranged where products of few tokens want that.
pub fn activations<'a>(
    machine: &Machine,
    weights: impl Iterator<Item = WeightView<'a>> + Clone,
    x: &'a [f32],
    rows: &[u32],
    arranged_max: usize,
    scratch: &'a mut QuantisedScratch,
) -> Activations<'a> {
    assert!(
        rows.is_sorted_by(|a, b| a < b),
        "a row would be written twice"
    );
    let wanted = |form| {
        let mut weights = weights.clone();
        weights.find(|weight| ActivationForm::of(weight.format) == form)
    };
    let mut all = Activations {
        floats: x,
        blocks: None,
        superblocks: None,
    };
    if let Some(weight) = wanted(ActivationForm::Blocks) {
        quantise_blocks(machine, x, weight.columns, rows, &mut scratch.blocks);
        all.blocks = Some(&scratch.blocks);
    }
    if let Some(weight) = wanted(ActivationForm::Superblocks) {
        let to = &mut scratch.superblocks;
        quantise_superblocks(machine, x, &weight, rows, arranged_max, to);
        all.superblocks = Some(&scratch.superblocks);
    }
    all
}

fn quantise_blocks(machine: &Machine, x: &[f32], columns: usize, rows: &[u32], to: &mut BlockRows) {
    let rows_in_use = rows.last().map_or(0, |&last| last as usize + 1);
    let BlocksPart { blocks, wide } = to.prepare(rows_in_use, columns);
    let (blocks, wide) = (SharedSlice::new(blocks), SharedSlice::new(wide));
    let blocks_a_row = columns / BLOCK;
    machine.parallel(rows.len(), rows.len() * columns, |index| {
        let row = rows[index] as usize;
        let range = row * blocks_a_row..(row + 1) * blocks_a_row;
        // SAFETY: every index is claimed once, and rows are distinct, so parts do not overlap.
        let to = unsafe {
            BlocksPart {
                blocks: blocks.range_mut(range.clone()),
                wide: wide.range_mut(range),
            }
        };
        let x = &x[row * columns..(row + 1) * columns];
        machine.run(QuantiseBlocks { x, to });
    });
}

fn quantise_superblocks(
    machine: &Machine,
    x: &[f32],
    weight: &WeightView<'_>,
    rows: &[u32],
    arranged_max: usize,
    to: &mut SuperblockRows,
) {
    let columns = weight.columns;
    let rows_in_use = rows.last().map_or(0, |&last| last as usize + 1);
    let row_major = weight.layout == WeightLayout::RowMajor;
    let order = machine.instructions.order(weight.format);
    let order = order.filter(|_| row_major && rows_in_use <= arranged_max);
    let SuperblocksPart {
        superblocks,
        arranged,
    } = to.prepare(rows_in_use, columns, order);
    let (a_row, quads_a_row) = (columns / SUPERBLOCK, arranged.len() / rows_in_use.max(1));
    let (superblocks, arranged) = (SharedSlice::new(superblocks), SharedSlice::new(arranged));
    machine.parallel(rows.len(), rows.len() * columns, |index| {
        let row = rows[index] as usize;
        // SAFETY: every index is claimed once, and rows are distinct, so parts do not overlap.
        let to = unsafe {
            SuperblocksPart {
                superblocks: superblocks.range_mut(row * a_row..(row + 1) * a_row),
                arranged: arranged.range_mut(row * quads_a_row..(row + 1) * quads_a_row),
            }
        };
        let x = &x[row * columns..(row + 1) * columns];
        machine.run(QuantiseSuperblocks { x, to, order });
    });
}

/// The most tokens that kernels take rearranged.
const FEW_TOKENS_MAX: usize = 4;

/// Bytes of activations that go over weights together: they stay in a core's own cache from panel to panel.
const PART_BYTES: usize = 1 << 20;
/// Tokens that unpacking weights is shared by at least, however wide they are: it is a tenth of the work then.
const PART_TOKENS_MIN: usize = 32;
/// Tokens that unpacking is shared by at most: beyond this it is next to nothing.
const PART_TOKENS_MAX: usize = 256;

/// How many of so many tokens go over weights like this together: all, or in parts of nearly the same size.
pub fn part_tokens(weight: &WeightView<'_>, tokens: usize) -> usize {
    let bytes = match ActivationForm::of(weight.format) {
        // Panels of these weights stay in the cache instead.
        ActivationForm::Floats => return tokens.max(1),
        ActivationForm::Blocks => BlockRows::row_bytes(weight.columns),
        ActivationForm::Superblocks => SuperblockRows::row_bytes(weight.columns),
    };
    let most = (PART_BYTES / bytes.max(1)).clamp(PART_TOKENS_MIN, PART_TOKENS_MAX);
    tokens.div_ceil(tokens.div_ceil(most).max(1)).max(1)
}

/// Tokens from which on kernels take panels of twice as many rows.
const MANY_TOKENS: usize = 5;
/// Tokens from which on arithmetic is the limit, whatever is fetched in vain.
const PLENTY_TOKENS: usize = 64;

/// Bytes of weights that a core's own cache holds beside the activations.
const CHUNK_BYTES: usize = 512 << 10;

/// Weight rows of one chunk of `rows` like the weight's. Kernels ask for the bytes after those that they multiply, and
/// beyond a chunk these are another thread's: so a few panels, but fewer where threads would go idle, and one where
/// memory is not the limit, so that threads end together.
pub fn chunk_rows(machine: &Machine, weight: &WeightView<'_>, rows: usize, tokens: usize) -> usize {
    let least = if tokens < MANY_TOKENS {
        PACKED_ROWS
    } else {
        2 * PACKED_ROWS
    };
    let most = if tokens < PLENTY_TOKENS {
        let fit = CHUNK_BYTES / weight.row_bytes().max(1) / PANEL_ROWS * PANEL_ROWS;
        fit.clamp(PANEL_ROWS, 4 * PANEL_ROWS)
    } else {
        PANEL_ROWS
    };
    let shared_out = rows
        .div_ceil(machine.pool.threads() * 4)
        .next_multiple_of(least);
    let chunk = shared_out.clamp(least, most);
    if tokens <= STREAMED_TOKENS_MAX {
        with_streams_apart(chunk, least, weight.row_bytes())
    } else {
        chunk
    }
}

/// Bytes after which addresses have the same place in the innermost cache (64 sets of 64 bytes, whatever its
/// ways, on Intel's and AMD's cores).
const CACHE_WAY_BYTES: usize = 4096;
const CACHE_LINE_BYTES: usize = 64;
/// The most tokens for which a kernel reads a chunk as sixteen streams.
const STREAMED_TOKENS_MAX: usize = 8;
/// Streams that meet in one place without pushing each other out, beside all else that is kept there.
const STREAMS_A_PLACE_MAX: usize = 2;

/// `rows` or a few steps more, so that the sixteen streams that kernels of few tokens read, each a sixteenth of the
/// chunk, are not all in the same places of the innermost cache.
fn with_streams_apart(rows: usize, step: usize, row_bytes: usize) -> usize {
    const TRIES: usize = 4;
    let mut longer = (rows..).step_by(step).take(TRIES);
    longer
        .find(|rows| streams_a_place(rows / PACKED_ROWS * row_bytes) <= STREAMS_A_PLACE_MAX)
        .unwrap_or(rows)
}

/// How many of sixteen streams at such a distance meet in one place of the cache.
fn streams_a_place(distance_bytes: usize) -> usize {
    let mut places = [0; CACHE_WAY_BYTES / CACHE_LINE_BYTES];
    for stream in 0..PACKED_ROWS {
        places[stream * distance_bytes % CACHE_WAY_BYTES / CACHE_LINE_BYTES] += 1;
    }
    places.into_iter().max().unwrap_or(0)
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
    let weights = std::iter::once(weight);
    let x = activations(machine, weights, x, rows, FEW_TOKENS_MAX, quantised);
    let shared = SharedSlice::new(out);
    let chunk = chunk_rows(machine, &weight, weight.rows, tokens);
    let chunks = weight.rows.div_ceil(chunk);
    let parts = rows.chunks(part_tokens(&weight, tokens));
    machine.parallel(
        parts.len() * chunks,
        tokens * weight.rows * weight.columns,
        |index| {
            let tokens = parts.clone().nth(index / chunks).expect("a part");
            let start = index % chunks * chunk;
            // SAFETY: the rows are distinct, and chunks write different columns of them.
            let out = unsafe { OutRows::new(&shared, weight.rows, tokens) };
            machine.run(Product {
                weight,
                rows: start..weight.rows.min(start + chunk),
                x,
                tokens,
                out,
            });
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 256 rows of 1280 bytes (2048 columns of Q4_1) would be sixteen streams five pages apart.
    #[test]
    fn streams_do_not_all_meet_in_one_place_of_the_cache() {
        assert_eq!(streams_a_place(16 * 1280), PACKED_ROWS);
        for row_bytes in [1088, 1152, 1280, 1408, 1536, 2176, 4608, 6720, 8704] {
            let rows = with_streams_apart(256, PACKED_ROWS, row_bytes);
            assert!(rows.is_multiple_of(PACKED_ROWS) && (256..320).contains(&rows));
            let meet = streams_a_place(rows / PACKED_ROWS * row_bytes);
            assert!(meet <= STREAMS_A_PLACE_MAX, "{row_bytes}: {meet} meet");
        }
    }
}
