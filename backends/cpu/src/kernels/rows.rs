//! Groups of weight rows that are multiplied together.

use super::Simd;

/// `height` rows, then copies of the first in place of those that are missing.
#[inline(always)]
pub fn gather<'a, B, const N: usize>(
    row: &impl Fn(usize) -> &'a [B],
    first: usize,
    height: usize,
) -> [&'a [B]; N] {
    let mut rows = [row(first); N];
    let blocks = rows[0].len();
    for (offset, to) in rows.iter_mut().enumerate().take(height).skip(1) {
        *to = &row(first + offset)[..blocks];
    }
    rows
}

/// Block `index` of each row.
#[inline(always)]
pub fn blocks_at<'a, B, const N: usize>(rows: &[&'a [B]; N], index: usize) -> [&'a B; N] {
    let mut blocks = [&rows[0][index]; N];
    for (to, row) in blocks.iter_mut().zip(rows) {
        *to = &row[index];
    }
    blocks
}

/// Wishes for block `index` of the rows that follow these in memory, where it starts a cache line. Such rows are as
/// many short streams to the machine's own prefetcher, which has hardly started on one when it ends.
#[inline(always)]
pub fn prefetch_next<S: Simd, B, const N: usize>(simd: S, rows: &[&[B]; N], index: usize) {
    const LINE: usize = 64;
    let first = (index * size_of::<B>()).next_multiple_of(LINE);
    for row in rows {
        let next: *const u8 = row.as_ptr().wrapping_add(N * row.len()).cast();
        let mut line = first;
        while line < (index + 1) * size_of::<B>() {
            simd.prefetch(next.wrapping_add(line));
            line += LINE;
        }
    }
}
