//! Weights that are asked for before they are wanted.

use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};

const LINE: usize = 64;

/// The bytes after a panel: most often the next panel. They come into the core's own cache in parts, while this one is
/// multiplied; a panel's rows are as many short streams that the machine's own prefetcher does not follow.
pub struct Ahead {
    next: *const u8,
    end: *const u8,
    part: usize,
}

impl Ahead {
    /// What follows `bytes` bytes from `panel` on, and is as long, in so many parts.
    #[inline(always)]
    pub fn of(panel: *const u8, bytes: usize, parts: usize) -> Self {
        let next = panel.wrapping_add(bytes);
        Self {
            next,
            end: next.wrapping_add(bytes),
            part: bytes.div_ceil(parts.max(1)).next_multiple_of(LINE),
        }
    }

    /// Wishes for the next part.
    #[inline(always)]
    pub fn part(&mut self) {
        let end = self.next.wrapping_add(self.part).min(self.end);
        while self.next < end {
            // SAFETY: a wish may be for any address; the instruction is older than what the callers need.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(self.next.cast()) };
            self.next = self.next.wrapping_add(LINE);
        }
    }
}
