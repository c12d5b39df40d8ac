//! Rows that are asked for before they are used: the machine's own prefetchers stop at pages of 4 KiB.

use super::super::columns::ROWS;
use crate::kernels::processor::is_amd;
use std::arch::x86_64::*;

const LINE: usize = 64;

/// How far ahead, and into which cache.
#[derive(Clone, Copy)]
pub struct Wishes {
    ahead_bytes: usize,
    into: Cache,
}

#[derive(Clone, Copy)]
enum Cache {
    First,
    Second,
}

impl Wishes {
    /// What was found best, see decision 9. AMD's first cache waits for some twenty lines at a time, also for those that
    /// come by a wish; its second for twice as many.
    pub fn of_this_machine() -> Self {
        if is_amd() {
            Self {
                ahead_bytes: 1024,
                into: Cache::Second,
            }
        } else {
            Self {
                ahead_bytes: 256,
                into: Cache::First,
            }
        }
    }

    /// Wishes for what the first block's wishes take for granted.
    #[inline(always)]
    pub fn begin<B>(self, rows: &[&[B]; ROWS]) {
        self.lines(rows, 0..self.ahead_bytes);
    }

    /// Wishes for as much as block `index` of each row is, so far ahead of it. Each line is asked for once.
    #[inline(always)]
    pub fn go_on<B>(self, rows: &[&[B]; ROWS], index: usize) {
        let from =
            |index: usize| (index * size_of::<B>()).next_multiple_of(LINE) + self.ahead_bytes;
        self.lines(rows, from(index)..from(index + 1));
    }

    #[inline(always)]
    fn lines<B>(self, rows: &[&[B]; ROWS], offsets: std::ops::Range<usize>) {
        for offset in offsets.step_by(LINE) {
            for row in rows {
                let line = row.as_ptr().cast::<i8>().wrapping_add(offset);
                // SAFETY: a wish may be for any address; the instruction is older than what the callers need.
                unsafe {
                    match self.into {
                        Cache::First => _mm_prefetch::<_MM_HINT_T0>(line),
                        Cache::Second => _mm_prefetch::<_MM_HINT_T1>(line),
                    }
                }
            }
        }
    }
}
