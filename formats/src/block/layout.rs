//! In which order the blocks of a matrix lie.

use super::BlockFormat;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::Range;

/// Rows that lie together in [`WeightLayout::Lanes16`].
pub const LANES: usize = 16;
/// Bytes of what one row has in one place of a register.
const WORD: usize = 4;
/// Bytes of one word of each row.
const REGISTER: usize = LANES * WORD;

/// In which order the bytes of a matrix in blocks lie. Every order takes the same bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum WeightLayout {
    /// One row after another.
    #[default]
    #[serde(rename = "row-major-1")]
    RowMajor,
    /// Groups of sixteen rows, one after another; in a group all rows' first blocks, then all rows' second ones, and so on.
    /// Blocks are cut into words of four bytes: the word that comes first of each row, then the next of each row, in the
    /// order of [`BlockFormat::word_order`]. Formats whose blocks are not whole words have some bytes left over: these come
    /// before the words, row by row, of as many blocks together as make 64 bytes, or of as many as are left. So every
    /// sixteen words begin on 64 bytes if the group does, and kernels read a group in ascending address.
    #[serde(rename = "lanes-16-1")]
    Lanes16,
}

impl WeightLayout {
    /// Every layout.
    pub const ALL: [Self; 2] = [Self::RowMajor, Self::Lanes16];

    /// Its name in manifests and messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::RowMajor => "row-major-1",
            Self::Lanes16 => "lanes-16-1",
        }
    }

    /// The layout of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|layout| layout.name() == name)
    }

    /// The layout of a matrix where this one is asked for: row-major where its elements are floats or its rows are not
    /// whole groups.
    pub const fn of_matrix(self, format: BlockFormat, rows: u64) -> Self {
        match self {
            Self::Lanes16 if !format.is_float() && rows.is_multiple_of(LANES as u64) => self,
            _ => Self::RowMajor,
        }
    }

    /// [`Self::of_matrix`] for a tensor, whose rows are all of its dimensions but the last.
    pub fn of_tensor(self, format: BlockFormat, shape: &[u64]) -> Self {
        let rows = shape.split_last().and_then(|(_, rows)| {
            rows.iter()
                .try_fold(1u64, |product, size| product.checked_mul(*size))
        });
        rows.map_or(Self::RowMajor, |rows| self.of_matrix(format, rows))
    }

    /// Whether rows lie one after another.
    pub fn is_row_major(&self) -> bool {
        *self == Self::RowMajor
    }

    /// How many rows lie together: whole groups of so many can be laid out anew by themselves.
    pub const fn rows_together(self) -> usize {
        match self {
            Self::RowMajor => 1,
            Self::Lanes16 => LANES,
        }
    }

    /// Lays whole groups of rows in this layout out row-major, where they are. `group` is room for one of them.
    ///
    /// Panics where the bytes are not whole groups.
    pub fn into_rows(
        self,
        format: BlockFormat,
        columns: u64,
        bytes: &mut [u8],
        group: &mut Vec<u8>,
    ) {
        match self {
            Self::RowMajor => {}
            Self::Lanes16 => {
                let group_bytes = whole_groups(format, columns, bytes.len()).bytes();
                group.resize(group_bytes, 0);
                for rows in bytes.chunks_exact_mut(group_bytes) {
                    group.copy_from_slice(rows);
                    rows_of_lanes(format, columns, group, rows);
                }
            }
        }
    }
}

impl fmt::Display for WeightLayout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Consecutive words: the first and how many.
type WordRun = (usize, usize);

impl BlockFormat {
    /// Bytes of a block that come before the first word which [`WeightLayout::Lanes16`] moves as a whole.
    pub const fn bytes_before_words(self) -> usize {
        match self {
            // The scale, so that quants are whole words.
            Self::Q8_0 | Self::Q4_0 | Self::Q5_0 | Self::IQ4_NL => 2,
            Self::MXFP4 => 1,
            _ => 0,
        }
    }

    /// Whole words of a block.
    pub const fn block_words(self) -> usize {
        (self.block_bytes() - self.bytes_before_words()) / WORD
    }

    /// Bytes of a block that are left over.
    pub const fn bytes_left_over(self) -> usize {
        self.block_bytes() - self.block_words() * WORD
    }

    /// In which order [`WeightLayout::Lanes16`] has the words of a block: as kernels need them, scales first.
    pub const fn word_order(self) -> &'static [WordRun] {
        match self {
            Self::Q8_0 => &[(0, 8)],
            Self::Q4_0 | Self::MXFP4 | Self::IQ4_NL => &[(0, 4)],
            Self::Q4_1 | Self::Q5_0 => &[(0, 5)],
            Self::Q5_1 => &[(0, 6)],
            // The units, then scales and quants.
            Self::Q2_K => &[(20, 1), (0, 20)],
            // Scales, then third bits and quants.
            Self::Q3_K => &[(24, 3), (0, 24)],
            Self::Q4_K => &[(0, 36)],
            Self::Q5_K => &[(0, 44)],
            // Scales, then for 16 bytes of each row the lower bits of 32 elements, of 32 others, and the upper of both.
            Self::Q6_K => &[
                (48, 4),
                (0, 4),
                (8, 4),
                (32, 4),
                (4, 4),
                (12, 4),
                (36, 4),
                (16, 4),
                (24, 4),
                (40, 4),
                (20, 4),
                (28, 4),
                (44, 4),
            ],
            Self::IQ4_XS => &[(0, 34)],
            Self::F32 | Self::F16 | Self::BF16 => &[],
        }
    }

    /// The place of word `word` in [`Self::word_order`].
    pub const fn place_of_word(self, word: usize) -> usize {
        let (order, mut place, mut run) = (self.word_order(), 0, 0);
        while run < order.len() {
            let (first, count) = order[run];
            if first <= word && word < first + count {
                return place + word - first;
            }
            place += count;
            run += 1;
        }
        panic!("the block has no such word")
    }

    /// Of how many blocks what is left over comes together.
    pub const fn blocks_together(self) -> usize {
        match self.bytes_left_over() {
            0 => 1,
            bytes => REGISTER / (LANES * bytes),
        }
    }
}

/// Where the bytes of a group lie.
struct Group {
    format: BlockFormat,
    /// Blocks of a row.
    blocks: usize,
}

impl Group {
    fn row_bytes(&self) -> usize {
        self.blocks * self.format.block_bytes()
    }

    fn bytes(&self) -> usize {
        LANES * self.row_bytes()
    }

    /// Calls `piece` for all that the rows have.
    #[inline(always)]
    fn each(&self, mut piece: impl FnMut(Piece)) {
        let (bytes, before) = (self.format.block_bytes(), self.format.bytes_before_words());
        let (words, left) = (self.format.block_words(), self.format.bytes_left_over());
        let together = self.format.blocks_together();
        for first in (0..self.blocks).step_by(together) {
            let count = together.min(self.blocks - first);
            let start = first * LANES * bytes;
            for index in 0..count {
                let in_row = (first + index) * bytes;
                let mut in_group = start + count * LANES * left + index * words * REGISTER;
                for &(first, count) in self.format.word_order() {
                    for word in first..first + count {
                        piece(Piece {
                            in_row: in_row + before + word * WORD,
                            in_group,
                            bytes: WORD,
                            stride: WORD,
                        });
                        in_group += REGISTER;
                    }
                }
                let in_group = start + index * LANES * left;
                let after = before + words * WORD;
                for (offset, skipped, bytes) in [(0, 0, before), (after, before, left - before)] {
                    if bytes > 0 {
                        piece(Piece {
                            in_row: in_row + offset,
                            in_group: in_group + skipped,
                            bytes,
                            stride: left,
                        });
                    }
                }
            }
        }
    }
}

/// Some bytes of every row of a group.
struct Piece {
    /// Their place in a row.
    in_row: usize,
    /// The place of the first row's in the group.
    in_group: usize,
    /// How many of each row.
    bytes: usize,
    /// From one row's to the next row's in the group.
    stride: usize,
}

impl Piece {
    /// Those of one row: places in the row and in the group.
    #[inline(always)]
    fn of(&self, lane: usize) -> (Range<usize>, Range<usize>) {
        let in_group = self.in_group + lane * self.stride;
        (
            self.in_row..self.in_row + self.bytes,
            in_group..in_group + self.bytes,
        )
    }
}

/// Copies a few bytes, mostly a word, which needs no call.
#[inline(always)]
fn copy(from: &[u8], to: &mut [u8]) {
    match (
        <&[u8; WORD]>::try_from(from),
        <&mut [u8; WORD]>::try_from(&mut *to),
    ) {
        (Ok(from), Ok(to)) => *to = *from,
        _ => to.copy_from_slice(from),
    }
}

/// Writes whole groups of sixteen rows in [`WeightLayout::Lanes16`], from row-major ones.
///
/// Panics where the bytes are not whole groups, or of different lengths.
pub fn to_lanes(format: BlockFormat, columns: u64, rows: &[u8], lanes: &mut [u8]) {
    let group = whole_groups(format, columns, rows.len());
    assert_eq!(rows.len(), lanes.len(), "both orders take the same bytes");
    let row_bytes = group.row_bytes();
    let groups = rows.chunks_exact(group.bytes());
    for (rows, lanes) in groups.zip(lanes.chunks_exact_mut(group.bytes())) {
        group.each(|piece| {
            for (lane, row) in rows.chunks_exact(row_bytes).enumerate() {
                let (in_row, in_group) = piece.of(lane);
                copy(&row[in_row], &mut lanes[in_group]);
            }
        });
    }
}

/// Writes whole groups row-major, from those in [`WeightLayout::Lanes16`].
///
/// Panics as [`to_lanes`] does.
pub fn rows_of_lanes(format: BlockFormat, columns: u64, lanes: &[u8], rows: &mut [u8]) {
    let group = whole_groups(format, columns, lanes.len());
    assert_eq!(rows.len(), lanes.len(), "both orders take the same bytes");
    let row_bytes = group.row_bytes();
    let groups = rows.chunks_exact_mut(group.bytes());
    for (rows, lanes) in groups.zip(lanes.chunks_exact(group.bytes())) {
        group.each(|piece| {
            for (lane, row) in rows.chunks_exact_mut(row_bytes).enumerate() {
                let (in_row, in_group) = piece.of(lane);
                copy(&lanes[in_group], &mut row[in_row]);
            }
        });
    }
}

/// Row `row` of a matrix in [`WeightLayout::Lanes16`], as the format defines it.
///
/// Panics where `row_bytes` is not a row's length, or the matrix has no such row or is not whole groups.
pub fn row_of_lanes(
    format: BlockFormat,
    columns: u64,
    matrix: &[u8],
    row: usize,
    row_bytes: &mut [u8],
) {
    let group = whole_groups(format, columns, matrix.len());
    assert_eq!(row_bytes.len(), group.row_bytes(), "{columns} columns");
    let lanes = &matrix[row / LANES * group.bytes()..][..group.bytes()];
    group.each(|piece| {
        let (in_row, in_group) = piece.of(row % LANES);
        copy(&lanes[in_group], &mut row_bytes[in_row]);
    });
}

fn whole_groups(format: BlockFormat, columns: u64, bytes: usize) -> Group {
    assert!(!format.is_float(), "{format} is not in blocks");
    let row_bytes = format.row_bytes(columns).expect("whole blocks") as usize;
    let blocks = row_bytes / format.block_bytes();
    let group = Group { format, blocks };
    assert!(
        row_bytes > 0 && bytes.is_multiple_of(group.bytes()),
        "{bytes} bytes are not whole groups of sixteen rows of {row_bytes}"
    );
    group
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_random::Random;

    #[test]
    fn rows_come_back_from_lanes() {
        let mut random = Random::new(7);
        let blocks = BlockFormat::ALL.into_iter().filter(|f| !f.is_float());
        for format in blocks {
            let columns = 3 * format.block_elements() as u64;
            let row_bytes = format.row_bytes(columns).unwrap() as usize;
            let rows: Vec<u8> = (0..48 * row_bytes).map(|_| random.next() as u8).collect();
            let mut lanes = vec![0; rows.len()];
            to_lanes(format, columns, &rows, &mut lanes);
            assert_ne!(rows, lanes, "{format}");
            let mut row = vec![0; row_bytes];
            for (number, expected) in rows.chunks_exact(row_bytes).enumerate() {
                row_of_lanes(format, columns, &lanes, number, &mut row);
                assert_eq!(row, expected, "{format} row {number}");
            }
            let mut all = vec![0; rows.len()];
            rows_of_lanes(format, columns, &lanes, &mut all);
            assert_eq!(rows, all, "{format}");
            // A group by itself, then the others: parts of a matrix are laid out as they are read.
            let (first, rest) = lanes.split_at_mut(LANES * row_bytes);
            for part in [first, rest] {
                WeightLayout::Lanes16.into_rows(format, columns, part, &mut Vec::new());
            }
            assert_eq!(rows, lanes, "{format} in place");
        }
    }

    /// The order is a format on disk: written out for one of each kind, with three blocks a row.
    #[test]
    fn words_come_in_order_and_odd_bytes_before_them() {
        // What lies at each place: the row, and the byte of the row.
        let order = |format: BlockFormat| {
            let bytes = 3 * format.block_bytes();
            let columns = 3 * format.block_elements() as u64;
            let mark = |keep: fn(usize, usize) -> usize| {
                let rows = (0..LANES * bytes).map(|at| (keep(at / bytes, at % bytes) % 256) as u8);
                let mut lanes = vec![0; LANES * bytes];
                to_lanes(format, columns, &rows.collect::<Vec<_>>(), &mut lanes);
                lanes
            };
            let (rows, places) = (mark(|row, _| row), mark(|_, place| place));
            let high = mark(|_, place| place / 256);
            let place = |at: usize| usize::from(places[at]) + 256 * usize::from(high[at]);
            (0..LANES * bytes)
                .map(|at| (usize::from(rows[at]), place(at)))
                .collect::<Vec<_>>()
        };
        // A scale of two bytes, then four words: two blocks together, and one.
        let q4_0 = order(BlockFormat::Q4_0);
        assert_eq!(q4_0[..3], [(0, 0), (0, 1), (1, 0)]);
        assert_eq!((q4_0[32], q4_0[64]), ((0, 18), (0, 2)));
        assert_eq!(
            (q4_0[68], q4_0[2 * 64], q4_0[5 * 64]),
            ((1, 2), (0, 6), (0, 20))
        );
        assert_eq!((q4_0[9 * 64], q4_0[9 * 64 + 32]), ((0, 36), (0, 38)));
        // Five words.
        let q4_1 = order(BlockFormat::Q4_1);
        assert_eq!((q4_1[4], q4_1[64], q4_1[5 * 64]), ((1, 0), (0, 4), (0, 20)));
        assert_eq!(q4_1[15 * 64 - 1], (15, 59));
        // 27 words, of which the last three come first, then a scale of two bytes.
        let q3_k = order(BlockFormat::Q3_K);
        assert_eq!(
            (q3_k[0], q3_k[64], q3_k[4 * 64]),
            ((0, 108), (0, 96), (0, 0))
        );
        // One byte, then four words: four blocks would be together.
        let mxfp4 = order(BlockFormat::MXFP4);
        assert_eq!((mxfp4[1], mxfp4[16], mxfp4[48]), ((1, 0), (0, 17), (0, 1)));
    }

    #[test]
    fn every_word_has_its_place() {
        for format in BlockFormat::ALL.into_iter().filter(|f| !f.is_float()) {
            let mut places: Vec<_> = (0..format.block_words())
                .map(|word| format.place_of_word(word))
                .collect();
            places.sort_unstable();
            assert!(places.into_iter().eq(0..format.block_words()), "{format}");
        }
    }

    #[test]
    fn only_whole_groups_of_blocks_go_into_lanes() {
        let asked = WeightLayout::Lanes16;
        assert_eq!(asked.of_matrix(BlockFormat::Q4_K, 48), asked);
        for (format, rows) in [(BlockFormat::Q4_K, 40), (BlockFormat::BF16, 48)] {
            assert_eq!(asked.of_matrix(format, rows), WeightLayout::RowMajor);
        }
        let q8_0 = BlockFormat::Q8_0;
        assert_eq!(asked.of_tensor(q8_0, &[2, 24, 32]), asked);
        for shape in [&[][..], &[32], &[2, 20, 32], &[u64::MAX, 16, 32]] {
            let found = asked.of_tensor(q8_0, shape);
            assert_eq!(found, WeightLayout::RowMajor, "{shape:?}");
        }
        for layout in WeightLayout::ALL {
            assert_eq!(WeightLayout::from_name(layout.name()), Some(layout));
        }
    }
}
