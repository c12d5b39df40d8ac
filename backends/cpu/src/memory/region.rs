//! A range of memory with a borrow state, so that wrong callers panic instead of racing.

use super::extent::SlotLease;
use super::map::RawMemory;
use odmoe_backend::HostWindowMemory;
use std::ops::{Deref, DerefMut, Range};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// The borrow state of a region that is being written, or has a host window open.
const WRITER: u32 = u32::MAX;

/// Bytes that are read by many or written by one. Every access goes through a guard that holds the borrow state.
pub struct Region {
    base: NonNull<u8>,
    bytes: usize,
    /// 0 when free, [`WRITER`], else the number of readers.
    borrows: AtomicU32,
    /// Keeps the range to itself, where it is a slot.
    _lease: Option<SlotLease>,
    /// Keeps the memory alive.
    memory: Arc<RawMemory>,
}

// SAFETY: the bytes are only reached through guards, which follow `borrows` as a lock does.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    /// A region over part of `memory`; it keeps `lease` for as long as it lives.
    ///
    /// # Safety
    /// No other live region overlaps `range` of this memory.
    pub unsafe fn new(
        memory: Arc<RawMemory>,
        range: Range<usize>,
        lease: Option<SlotLease>,
    ) -> Self {
        assert!(
            range.start <= range.end && range.end <= memory.bytes(),
            "region {range:?} is out of bounds"
        );
        // SAFETY: the range was just checked against the memory's length.
        let base = unsafe { memory.base().add(range.start) };
        Self {
            base,
            bytes: range.len(),
            borrows: AtomicU32::new(0),
            _lease: lease,
            memory,
        }
    }

    /// A region over memory of its own.
    pub fn whole(memory: RawMemory) -> Self {
        let bytes = memory.bytes();
        // SAFETY: the memory was moved in, so nothing else refers to it.
        unsafe { Self::new(Arc::new(memory), 0..bytes, None) }
    }

    /// How many bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Shares the bytes for reading. Panics while they are written or a host window is open.
    pub fn read(&self) -> ReadGuard<'_> {
        let taken = self
            .borrows
            .fetch_update(Ordering::Acquire, Ordering::Relaxed, |readers| {
                (readers < WRITER - 1).then(|| readers + 1)
            });
        assert!(
            taken.is_ok(),
            "a buffer is read while an op writes it or a host window is open"
        );
        ReadGuard { region: self }
    }

    /// Takes the bytes for writing. Panics while anything else uses them.
    pub fn write(&self) -> WriteGuard<'_> {
        self.lock_for_writing();
        WriteGuard { region: self }
    }

    /// Takes the bytes for writing until the window is dropped. Panics while anything else uses them.
    pub fn window(self: &Arc<Self>) -> Window {
        self.lock_for_writing();
        Window {
            region: Arc::clone(self),
        }
    }

    /// Says that `start .. used` is worked on and `used .. end` is not: the latter's pages go back to the system, as far
    /// as it takes them, and hold zeros or what they held. Panics while anything uses the bytes.
    pub fn divide(&self, start: usize, used: usize, end: usize) {
        assert!(start <= used && used <= end && end <= self.bytes);
        let guard = self.write();
        // SAFETY: both addresses are in the map that both were made from.
        let base = unsafe { self.base.offset_from(self.memory.base()) } as usize;
        self.memory.wish_huge_pages(base + start..base + used);
        // SAFETY: the guard is the only borrow of these bytes.
        unsafe { self.memory.give_back(base + used..base + end) };
        drop(guard);
    }

    fn lock_for_writing(&self) {
        let taken = self
            .borrows
            .compare_exchange(0, WRITER, Ordering::Acquire, Ordering::Relaxed);
        assert!(
            taken.is_ok(),
            "a buffer is written while it is in use, or while a host window is open"
        );
    }

    /// # Safety
    /// The caller holds a borrow, of either kind, for as long as the slice lives.
    unsafe fn bytes_unchecked(&self) -> &[u8] {
        // SAFETY: in bounds and alive by `new`; initialised because it started as zeros; nobody writes by contract.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.bytes) }
    }

    /// # Safety
    /// The caller holds the writer's borrow, and this is its only slice.
    #[allow(clippy::mut_from_ref)]
    unsafe fn bytes_mut_unchecked(&self) -> &mut [u8] {
        // SAFETY: in bounds and alive by `new`; exclusive by contract.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr(), self.bytes) }
    }
}

/// Shared access to a region.
pub struct ReadGuard<'a> {
    region: &'a Region,
}

impl Deref for ReadGuard<'_> {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: this guard is a reader's borrow.
        unsafe { self.region.bytes_unchecked() }
    }
}

impl Drop for ReadGuard<'_> {
    fn drop(&mut self) {
        self.region.borrows.fetch_sub(1, Ordering::Release);
    }
}

/// Exclusive access to a region.
pub struct WriteGuard<'a> {
    region: &'a Region,
}

impl Deref for WriteGuard<'_> {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: this guard is the writer's borrow, here shared through `&self`.
        unsafe { self.region.bytes_unchecked() }
    }
}

impl DerefMut for WriteGuard<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: this guard is the writer's borrow, here exclusive through `&mut self`.
        unsafe { self.region.bytes_mut_unchecked() }
    }
}

impl Drop for WriteGuard<'_> {
    fn drop(&mut self) {
        self.region.borrows.store(0, Ordering::Release);
    }
}

/// Exclusive access that outlives the caller's frame and may move to another thread.
pub struct Window {
    region: Arc<Region>,
}

impl HostWindowMemory for Window {
    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: the window holds the writer's borrow, here exclusive through `&mut self`.
        unsafe { self.region.bytes_mut_unchecked() }
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        self.region.borrows.store(0, Ordering::Release);
    }
}
