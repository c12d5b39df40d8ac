//! Which bytes of a model's files are looked at to tell it from another of the same layout: reading all of them would
//! take minutes.

use crate::source::{Advice, advise_file};
use odmoe_formats::checksum::Xxh3Hasher;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

const BLOCK_BYTES: u64 = 4096;
/// Blocks of one file, and of all files together as long as each has one. They are asked for before they are waited
/// for, so that a disk can fetch many at once.
const FILE_BLOCKS: usize = 64;
const ALL_BLOCKS: usize = 1024;

/// Blocks that each of so many files gives.
pub(crate) fn blocks_per_file(files: usize) -> usize {
    (ALL_BLOCKS / files.max(1)).clamp(1, FILE_BLOCKS)
}

/// Takes a file of `bytes` in: all of one that is no longer than its blocks together, blocks of any other.
pub(crate) fn take(
    into: &mut Xxh3Hasher,
    file: &File,
    bytes: u64,
    blocks: usize,
) -> io::Result<()> {
    let mut block = [0; BLOCK_BYTES as usize];
    let ranges: Vec<(u64, u64)> = ranges(bytes, blocks).collect();
    for (offset, length) in &ranges {
        advise_file(file, *offset, *length, Advice::NeededSoon);
    }
    for (offset, length) in ranges {
        let block = &mut block[..length as usize];
        file.read_exact_at(block, offset)?;
        into.update(block);
    }
    Ok(())
}

/// Offsets and lengths: a block somewhere in each of equal parts of the file. In the same place of each part it would
/// meet the layers of a model, which are of one size too, at a few places only.
fn ranges(bytes: u64, blocks: usize) -> impl Iterator<Item = (u64, u64)> {
    let whole = bytes.div_ceil(BLOCK_BYTES) <= blocks as u64;
    let count = match whole {
        true => bytes.div_ceil(BLOCK_BYTES),
        false => blocks as u64,
    };
    let part = bytes / count.max(1);
    (0..count).map(move |index| {
        let offset = match whole {
            true => index * BLOCK_BYTES,
            false => index * part + scattered(index) % (part - BLOCK_BYTES + 1),
        };
        (offset, BLOCK_BYTES.min(bytes - offset))
    })
}

/// As good as random, and always the same: the finaliser of SplitMix64 (Steele, Lea and Flood 2014).
fn scattered(index: u64) -> u64 {
    let mut mixed = (index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_files_are_taken_whole_and_long_ones_all_over() {
        assert_eq!(ranges(0, 64).count(), 0);
        let short: Vec<_> = ranges(9000, 64).collect();
        assert_eq!(short, [(0, 4096), (4096, 4096), (8192, 808)]);
        // The first that is longer than its blocks.
        assert_eq!(ranges(4 * 4096 + 1, 4).last(), Some((3 * 4096, 4096)));

        let bytes = 3 << 30;
        let starts: Vec<u64> = ranges(bytes, 64).map(|(offset, _)| offset).collect();
        let part = bytes / 64;
        for (index, start) in (0..64).zip(&starts) {
            let (first, last) = (index * part, (index + 1) * part - 4096);
            assert!((first..=last).contains(start), "{index}: {start}");
        }
        // Of 48 layers no tenth is left out.
        let layer = bytes / 48;
        let tenths = starts.iter().map(|start| start % layer * 10 / layer);
        assert_eq!(tenths.collect::<std::collections::BTreeSet<_>>().len(), 10);
    }

    #[test]
    fn many_files_give_few_blocks_each() {
        let counts = [1, 16, 17, 1024, 10_000].map(blocks_per_file);
        assert_eq!(counts, [64, 64, 60, 1, 1]);
    }
}
