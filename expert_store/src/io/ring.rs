//! One read by io_uring: all its pieces under way at once, seen in order as they land.

#![allow(unsafe_code)]

use io_uring::{IoUring, opcode, types};
use odmoe_formats::manifest::OBJECT_ALIGNMENT_BYTES;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::time::Duration;

/// The most pieces of a read; a bit of a word stands for each.
const PIECES_MAX: usize = u64::BITS as usize;
/// The longest piece; the kernel takes somewhat less than twice as much.
const PIECE_MAX: usize = 1 << 30;
/// Between two tries of a kernel that has no memory for a submission.
const RETRY: Duration = Duration::from_millis(1);

/// A submission and a completion queue of the kernel's. It serves one read at a time.
pub(crate) struct Ring(IoUring);

/// What a read brought.
pub(crate) struct RingRead {
    /// Bytes that are there, from the start without a gap. Fewer than asked for: the file ended, or the system refused;
    /// a plain read of the rest tells which.
    pub filled: usize,
    /// Of those, how many were shown.
    pub seen: usize,
}

impl Ring {
    /// Fails where the kernel has no io_uring or does not let this process use it.
    pub fn new() -> io::Result<Self> {
        // Completions are worked on when this thread waits for them, without an interrupt for each (Linux 5.19).
        let quiet = IoUring::builder()
            .setup_coop_taskrun()
            .build(PIECES_MAX as u32);
        quiet.or_else(|_| IoUring::new(PIECES_MAX as u32)).map(Self)
    }

    /// Reads from `offset` of a file in pieces of `piece` bytes, or of more where those would be too many. `seen` gets
    /// what has landed, in order, while the rest is on its way; what lands last it does not get.
    pub fn read(
        &mut self,
        file: &File,
        offset: u64,
        into: &mut [u8],
        piece: usize,
        seen: &mut dyn FnMut(&[u8]),
    ) -> RingRead {
        let length = into.len();
        let piece = piece
            .max(length.div_ceil(PIECES_MAX))
            .min(PIECE_MAX)
            .next_multiple_of(OBJECT_ALIGNMENT_BYTES as usize);
        let base = into.as_mut_ptr();
        let pieces = Pieces { length, piece };
        let mut flying = Flying {
            ring: &mut self.0,
            left: 0,
            landed: 0,
        };
        for index in 0..pieces.count() {
            let (start, length) = pieces.range(index);
            // SAFETY: `start + length` is at most the length of `into`.
            let to = unsafe { base.add(start) };
            let read = opcode::Read::new(types::Fd(file.as_raw_fd()), to, length as u32)
                .offset(offset + start as u64)
                .build()
                .user_data(index as u64);
            // SAFETY: the memory is `into`'s, exclusively borrowed until this function returns, and the file is open
            // until then; `flying` does not go before every submitted piece has completed, even in a panic.
            unsafe { flying.submit(&read) };
        }
        let mut whole = 0;
        while flying.left > 0 {
            flying.wait(&pieces);
            while flying.left > 0 && flying.landed >> whole & 1 == 1 {
                let (start, length) = pieces.range(whole);
                // SAFETY: this piece has completed, so the kernel writes it no more, and no other reference to it is
                // used meanwhile; it lies within `into`.
                seen(unsafe { std::slice::from_raw_parts(base.add(start), length) });
                whole += 1;
            }
        }
        RingRead {
            filled: (flying.landed.trailing_ones() as usize * piece).min(length),
            seen: whole * piece,
        }
    }
}

/// How a read is cut.
struct Pieces {
    length: usize,
    piece: usize,
}

impl Pieces {
    /// How many; what they do not cover is not read.
    fn count(&self) -> usize {
        self.length.div_ceil(self.piece).min(PIECES_MAX)
    }

    /// Start and length of a piece.
    fn range(&self, index: usize) -> (usize, usize) {
        let start = index * self.piece;
        (start, self.piece.min(self.length - start))
    }
}

/// Reads that the kernel has, or is to get. Dropping it waits for them: the kernel writes into borrowed memory.
struct Flying<'a> {
    ring: &'a mut IoUring,
    /// Pieces without a completion.
    left: usize,
    /// A bit for each piece that came whole.
    landed: u64,
}

impl Flying<'_> {
    /// Puts a piece into the submission queue.
    ///
    /// # Safety
    /// The memory that it names is the kernel's until `self` is gone, and its file stays open until then.
    unsafe fn submit(&mut self, read: &io_uring::squeue::Entry) {
        // SAFETY: promised by the caller.
        let pushed = unsafe { self.ring.submission().push(read) };
        pushed.expect("the queue has room for the pieces of one read");
        self.left += 1;
    }

    /// Waits until at least one more piece has completed.
    fn wait(&mut self, pieces: &Pieces) {
        self.wait_for(|index, got| got == pieces.range(index).1);
    }

    fn wait_for(&mut self, is_whole: impl Fn(usize, usize) -> bool) {
        match self.ring.submit_and_wait(1) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // The kernel may still be writing, so there is no way but to try again.
            Err(_) => std::thread::sleep(RETRY),
        }
        for completion in self.ring.completion() {
            self.left -= 1;
            let index = completion.user_data() as usize;
            let whole = usize::try_from(completion.result()).is_ok_and(|got| is_whole(index, got));
            self.landed |= u64::from(whole) << index;
        }
    }
}

impl Drop for Flying<'_> {
    fn drop(&mut self) {
        while self.left > 0 {
            self.wait_for(|_, _| false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn file_of(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    fn content(length: usize) -> Vec<u8> {
        (0..length as u32)
            .map(|i| (i.wrapping_mul(2_654_435_761) >> 11) as u8)
            .collect()
    }

    #[test]
    fn pieces_are_shown_in_order_and_all_but_the_last_landed() {
        let Ok(mut ring) = Ring::new() else {
            return eprintln!("left out: no io_uring here");
        };
        let bytes = content(1_000_000);
        let file = file_of(&bytes);
        for (offset, length, piece) in [
            (0, 1_000_000, 4096),
            (4096, 700_000, 65_536),
            (17, 999, 1),
            (0, 500_000, usize::MAX),
            (0, 0, 4096),
        ] {
            let mut into = vec![0; length];
            let mut shown = Vec::new();
            let read = ring.read(&file, offset as u64, &mut into, piece, &mut |part| {
                shown.extend_from_slice(part);
            });
            assert_eq!(into, bytes[offset..offset + length]);
            assert_eq!((read.filled, read.seen), (length, shown.len()));
            assert_eq!(shown, into[..shown.len()]);
        }
    }

    #[test]
    fn a_file_that_ends_early_fills_what_lies_before() {
        let Ok(mut ring) = Ring::new() else {
            return eprintln!("left out: no io_uring here");
        };
        let bytes = content(100_000);
        let mut into = vec![0; 200_000];
        let read = ring.read(&file_of(&bytes), 0, &mut into, 16_384, &mut |_| {});
        assert_eq!(read.filled, 6 * 16_384, "whole pieces alone count");
        assert_eq!(into[..100_000], bytes);
    }

    #[test]
    fn a_panic_of_the_looker_waits_for_the_rest() {
        let Ok(mut ring) = Ring::new() else {
            return eprintln!("left out: no io_uring here");
        };
        let bytes = content(1_000_000);
        let file = file_of(&bytes);
        let mut into = vec![0; bytes.len()];
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            ring.read(&file, 0, &mut into, 65_536, &mut |_| panic!("no"));
        }));
        // All pieces may land at once, and then nothing is shown.
        assert!(panicked.is_err() || into == bytes);
        let read = ring.read(&file, 0, &mut into, 65_536, &mut |_| {});
        assert_eq!(read.filled, bytes.len(), "the ring is as good as new");
        assert_eq!(into, bytes);
    }
}
