//! Where kernels run: the instructions of a set, and a pool.

use crate::kernels::{Instructions, Kernel};
use crate::pool::{Pool, Wake};

/// Operations (multiply-adds, elements) from which a loop is shared with threads that are awake: one or two
/// microseconds, where sharing costs a half.
const SHARE_FROM: usize = 1 << 15;
/// Operations from which it is worth waking threads: ten to twenty microseconds.
const WAKE_FROM: usize = 1 << 18;

/// Instructions and threads.
pub struct Machine {
    pub instructions: Instructions,
    pub pool: Pool,
}

impl Machine {
    /// Runs one kernel on this thread.
    pub fn run<K: Kernel>(&self, kernel: K) -> K::Output {
        self.instructions.run(kernel)
    }

    /// Whether a loop that costs about `operations` in all is worth the other threads.
    pub fn pays(&self, operations: usize) -> bool {
        operations >= SHARE_FROM && self.pool.threads() > 1
    }

    /// Runs chunks of a loop that costs about `operations` in all. Who runs them changes no bit of any result.
    pub fn parallel(&self, chunks: usize, operations: usize, body: impl Fn(usize) + Sync) {
        if !self.pays(operations) {
            (0..chunks).for_each(body);
        } else {
            self.pool.parallel_for(chunks, wake(operations), &body);
        }
    }

    /// Runs a loop over the rows of `rows` [_, width], each row by one thread.
    pub fn parallel_rows(
        &self,
        rows: &mut [f32],
        width: usize,
        body: impl Fn(usize, &mut [f32]) + Sync,
    ) {
        let (count, operations) = (rows.len() / width, rows.len());
        if !self.pays(operations) {
            rows.chunks_exact_mut(width)
                .enumerate()
                .for_each(|(row, values)| body(row, values));
            return;
        }
        let shared = crate::memory::SharedSlice::new(rows);
        self.pool.parallel_for(count, wake(operations), &|row| {
            // SAFETY: every row is claimed once, and rows do not overlap.
            body(row, unsafe {
                shared.range_mut(row * width..(row + 1) * width)
            });
        });
    }
}

fn wake(operations: usize) -> Wake {
    if operations < WAKE_FROM {
        Wake::Nobody
    } else {
        Wake::Sleepers
    }
}
