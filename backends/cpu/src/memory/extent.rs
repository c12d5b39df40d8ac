//! Extents, and the books on which ranges of one are live slots.

use super::map::RawMemory;
use super::region::Region;
use odmoe_backend::ExtentMemory;
use std::any::Any;
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

/// A large map from which slots are carved.
pub struct CpuExtent {
    memory: Arc<RawMemory>,
    slots: Arc<Slots>,
}

/// Start and end of every live slot.
#[derive(Default)]
struct Slots(Mutex<BTreeMap<usize, usize>>);

/// A slot's entry in the books; dropping it frees the range.
pub struct SlotLease {
    slots: Arc<Slots>,
    start: usize,
}

impl CpuExtent {
    /// A map of `bytes`, touched by nobody yet.
    pub fn new(bytes: usize) -> io::Result<Self> {
        Ok(Self {
            memory: Arc::new(RawMemory::mapped(bytes)?),
            slots: Arc::default(),
        })
    }

    /// A slot. Panics where the range is out of bounds, empty, or overlaps a live slot.
    pub fn carve(&self, range: Range<usize>) -> Region {
        assert!(range.start < range.end, "a slot of {range:?} is empty");
        assert!(
            range.end <= self.memory.bytes(),
            "slot {range:?} leaves its extent of {}",
            self.memory.bytes()
        );
        let lease = self.slots.lease(range.clone());
        // SAFETY: the lease, which the region keeps, makes this range the only live one over its bytes.
        unsafe { Region::new(Arc::clone(&self.memory), range, Some(lease)) }
    }
}

impl Slots {
    fn lease(self: &Arc<Self>, range: Range<usize>) -> SlotLease {
        let mut live = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let overlapping = live
            .range(..range.end)
            .next_back()
            .filter(|&(_, &end)| end > range.start);
        let overlapping = overlapping.map(|(&start, &end)| start..end);
        assert!(
            overlapping.is_none(),
            "slot {range:?} overlaps the live slot {overlapping:?}"
        );
        live.insert(range.start, range.end);
        SlotLease {
            slots: Arc::clone(self),
            start: range.start,
        }
    }
}

impl Drop for SlotLease {
    fn drop(&mut self) {
        self.slots
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.start);
    }
}

impl ExtentMemory for CpuExtent {
    fn bytes(&self) -> usize {
        self.memory.bytes()
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}
