//! Rows that are asked for before they are used: the machine's own prefetchers stop at pages of 4 KiB.

use super::super::columns::ROWS;
use crate::kernels::processor::is_amd;
use std::arch::x86_64::*;

const LINE: usize = 64;

/// How far ahead, and into which cache.
#[derive(Clone, Copy)]
pub struct Wishes {
    /// Where rows lie by themselves: of each of sixteen streams.
    streams: Ahead,
    /// Where rows lie in lanes: of the one stream, near and far.
    stream: [Option<Ahead>; 2],
}

/// One of so many parts of a block.
#[derive(Clone, Copy)]
pub struct Part {
    /// Which, from 0.
    pub index: usize,
    /// How many there are.
    pub of: usize,
}

impl Part {
    /// The whole block.
    pub const ALL: Self = Self { index: 0, of: 1 };
}

#[derive(Clone, Copy)]
struct Ahead {
    bytes: usize,
    into: Cache,
}

#[derive(Clone, Copy)]
enum Cache {
    First,
    Second,
}

impl Wishes {
    /// Of several tokens on AMD's cores.
    pub const OF_SEVERAL_ON_AMD: Self = Self {
        streams: Ahead {
            bytes: 1024,
            into: Cache::Second,
        },
        stream: [
            Some(Ahead {
                bytes: 8 << 10,
                into: Cache::Second,
            }),
            None,
        ],
    };

    /// What was found best for so many tokens, see decisions 9 and 23. AMD's first cache waits for some twenty lines at a
    /// time, also for those that come by a wish; its second for twice as many. With one token its own
    /// prefetcher goes ahead of a single stream faster than wishes do, and a block's lines are only asked for together.
    pub fn of_this_machine(tokens: usize) -> Self {
        let ahead = |bytes, into| Ahead { bytes, into };
        if is_amd() && tokens == 1 {
            Self {
                stream: [Some(ahead(0, Cache::First)), None],
                ..Self::OF_SEVERAL_ON_AMD
            }
        } else if is_amd() {
            Self::OF_SEVERAL_ON_AMD
        } else {
            Self {
                streams: ahead(256, Cache::First),
                stream: [
                    Some(ahead(1024, Cache::First)),
                    Some(ahead(16 << 10, Cache::Second)),
                ],
            }
        }
    }

    /// Wishes for what the first block's wishes take for granted.
    #[inline(always)]
    pub fn begin_streams<B>(self, rows: &[&[B]; ROWS]) {
        self.lines(rows, 0..self.streams.bytes);
    }

    /// Wishes for as much as block `index` of each row is, so far ahead of it. Each line is asked for once, with the first part.
    #[inline(always)]
    pub fn go_on_streams<B>(self, rows: &[&[B]; ROWS], index: usize, part: Part) {
        if part.index == 0 {
            let of_block = Part::ALL;
            self.lines(rows, self.streams.part(size_of::<B>(), index, of_block));
        }
    }

    /// As [`Self::begin_streams`] for a single stream.
    #[inline(always)]
    pub fn begin_stream(self, start: *const u8) {
        for ahead in self.stream.into_iter().flatten() {
            ahead.into.lines(start, 0..ahead.bytes);
        }
    }

    /// As [`Self::go_on_streams`] for a single stream with blocks of so many bytes.
    #[inline(always)]
    pub fn go_on_stream(self, start: *const u8, block_bytes: usize, index: usize, part: Part) {
        let [near, far] = self.stream;
        if let Some(near) = near {
            near.into.lines(start, near.part(block_bytes, index, part));
        }
        if let Some(far) = far {
            far.into.lines(start, far.part(block_bytes, index, part));
        }
    }

    #[inline(always)]
    fn lines<B>(self, rows: &[&[B]; ROWS], offsets: std::ops::Range<usize>) {
        for offset in offsets.step_by(LINE) {
            for row in rows {
                let line = row.as_ptr().cast::<u8>().wrapping_add(offset);
                self.streams.into.line(line);
            }
        }
    }
}

impl Ahead {
    #[inline(always)]
    fn part(self, block_bytes: usize, index: usize, part: Part) -> std::ops::Range<usize> {
        let block = index * block_bytes + self.bytes;
        let from =
            |part_index: usize| (block + block_bytes * part_index / part.of).next_multiple_of(LINE);
        from(part.index)..from(part.index + 1)
    }
}

impl Cache {
    #[inline(always)]
    fn lines(self, start: *const u8, offsets: std::ops::Range<usize>) {
        match self {
            Cache::First => {
                for offset in offsets.step_by(LINE) {
                    wish::<_MM_HINT_T0>(start.wrapping_add(offset));
                }
            }
            Cache::Second => {
                for offset in offsets.step_by(LINE) {
                    wish::<_MM_HINT_T1>(start.wrapping_add(offset));
                }
            }
        }
    }

    #[inline(always)]
    fn line(self, line: *const u8) {
        match self {
            Cache::First => wish::<_MM_HINT_T0>(line),
            Cache::Second => wish::<_MM_HINT_T1>(line),
        }
    }
}

#[inline(always)]
fn wish<const HINT: i32>(line: *const u8) {
    // SAFETY: a wish may be for any address; the instruction is older than what the callers need.
    unsafe { _mm_prefetch::<HINT>(line.cast()) }
}
