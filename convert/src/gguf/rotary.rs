//! The order of rows of query and key projections. GGUF files of `llama` models keep the two rows of a rotary pair
//! next to each other, as their first implementation did; stores, like Hugging Face, keep the first elements of all
//! pairs of a head before the second ones. The rows themselves are the same, so any block format can be reordered.

use std::ops::Range;

/// Rows that are read at once at most, with those in between that belong to other halves.
const PIECE_BYTES: u64 = 1 << 20;

/// How a tensor's rows lie in a file that keeps pairs together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PairedRows {
    /// Bytes of one row.
    pub row_bytes: u64,
    /// Rows of one head; even.
    pub head_rows: u64,
}

/// A piece of the reordered tensor: rows of the file that are two apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// Bytes of the file's tensor from the first to the last of the rows.
    pub span: Range<u64>,
    /// How many rows are taken, every other one of the span; 1 where the span is a part of one row.
    pub rows: u64,
}

impl PairedRows {
    /// The file's row that is row `row` of the store.
    fn file_row(self, row: u64) -> u64 {
        let pairs = self.head_rows / 2;
        let (head, in_head) = (row / self.head_rows, row % self.head_rows);
        let (half, pair) = (in_head / pairs, in_head % pairs);
        head * self.head_rows + 2 * pair + half
    }

    /// The first piece of `length` bytes of the store's tensor from `offset`.
    pub fn piece(self, offset: u64, length: u64) -> Piece {
        let (row, inside) = (offset / self.row_bytes, offset % self.row_bytes);
        let start = self.file_row(row) * self.row_bytes;
        if inside != 0 || length < self.row_bytes {
            let end = (inside + length).min(self.row_bytes);
            return Piece {
                span: start + inside..start + end,
                rows: 1,
            };
        }
        let pairs = self.head_rows / 2;
        let left_in_half = pairs - row % pairs;
        let at_once = (PIECE_BYTES / self.row_bytes / 2).max(1);
        let rows = (length / self.row_bytes).min(left_in_half).min(at_once);
        Piece {
            span: start..start + (2 * rows - 1) * self.row_bytes,
            rows,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two heads of width 6. A projection row r of the checkpoint turns with its partner r + 3 of the same head; the
    /// file has them side by side.
    #[test]
    fn pairs_side_by_side_become_halves() {
        let rows = PairedRows {
            row_bytes: 1,
            head_rows: 6,
        };
        let order: Vec<u64> = (0..12).map(|row| rows.file_row(row)).collect();
        assert_eq!(order, [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11]);
    }

    #[test]
    fn pieces_end_with_rows_halves_and_the_limit() {
        let rows = PairedRows {
            row_bytes: 10,
            head_rows: 6,
        };
        let piece = |offset, length| {
            let Piece { span, rows } = rows.piece(offset, length);
            (span, rows)
        };
        assert_eq!(piece(0, 120), (0..50, 3), "a half of a head");
        assert_eq!(piece(10, 15), (20..30, 1), "one whole row, then a part");
        assert_eq!(piece(14, 100), (24..30, 1), "the end of a row");
        assert_eq!(piece(30, 5), (10..15, 1), "the start of a row");
        assert_eq!(piece(33, 5), (13..18, 1), "the middle of a row");
        assert_eq!(piece(60, 60), (60..110, 3), "the second head");
        let wide = PairedRows {
            row_bytes: PIECE_BYTES,
            head_rows: 6,
        };
        assert_eq!(wide.piece(0, 6 * PIECE_BYTES).rows, 1);
    }
}
