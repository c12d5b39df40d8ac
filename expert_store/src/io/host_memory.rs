//! Page-aligned memory of the host: slots of the host tier, and scratch for probes.

#![allow(unsafe_code)]

use memmap2::MmapMut;
use std::sync::Arc;

/// Keeps a map alive for the slots cut from it.
struct Extent {
    _map: MmapMut,
}

/// One slot of the host tier, owned by whoever holds the value: the store while it is free or resident, a reader
/// while it is filled. That nobody else writes is thus a matter of types.
pub(crate) struct HostSlot {
    start: *mut u8,
    bytes: usize,
    _extent: Arc<Extent>,
}

// SAFETY: a slot is the only owner of its bytes (see `allocate_slots`), so it may go to another thread like a Box.
unsafe impl Send for HostSlot {}

impl HostSlot {
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: `start` points at `bytes` initialised bytes of a map that `_extent` keeps alive; slots of an extent
        // are disjoint and are not cloned, so `&self` excludes writers.
        unsafe { std::slice::from_raw_parts(self.start, self.bytes) }
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`; `&mut self` excludes readers too.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.bytes) }
    }
}

/// Extents start on multiples of it, so that the kernel can back them by huge pages: a direct read then looks up a
/// page for each 2 MiB and not for each 4 KiB.
const HUGE_PAGE: usize = 2 << 20;

/// Allocates the slots of an extent. Pages are touched now, so that page-in meets no page fault.
pub(crate) fn allocate_slots(slots: usize, slot_bytes: usize) -> std::io::Result<Vec<HostSlot>> {
    let bytes = slots.checked_mul(slot_bytes);
    let bytes = bytes.ok_or(std::io::ErrorKind::OutOfMemory)?;
    let (mut map, skip) = map_aligned(bytes)?;
    map[skip..skip + bytes].fill(0);
    let base = map[skip..].as_mut_ptr();
    let extent = Arc::new(Extent { _map: map });
    let slot = |index: usize| HostSlot {
        // SAFETY: `index < slots`, so the offset and the slot behind it are inside the map, which has `slots` slots
        // from `base` on.
        start: unsafe { base.add(index * slot_bytes) },
        bytes: slot_bytes,
        _extent: extent.clone(),
    };
    Ok((0..slots).map(slot).collect())
}

/// A map with `bytes` of zeros behind the second value, on a multiple of [`HUGE_PAGE`] where there are as many.
fn map_aligned(bytes: usize) -> std::io::Result<(MmapMut, usize)> {
    if bytes < HUGE_PAGE {
        return Ok((MmapMut::map_anon(bytes)?, 0));
    }
    let map = MmapMut::map_anon(bytes + HUGE_PAGE)?;
    let skip = map.as_ptr().align_offset(HUGE_PAGE);
    // Only pages that lie wholly in the data, for the padding is memory that no sum counts. A kernel without huge pages
    // refuses, and nothing but speed depends on it.
    #[cfg(target_os = "linux")]
    let _ = map.advise_range(
        memmap2::Advice::HugePage,
        skip,
        bytes / HUGE_PAGE * HUGE_PAGE,
    );
    Ok((map, skip))
}

/// Zeroed bytes on a page boundary, as direct reads need.
pub(crate) struct AlignedBuffer(Option<MmapMut>);

impl AlignedBuffer {
    /// Fails where the system has no memory for it.
    pub fn zeroed(bytes: usize) -> std::io::Result<Self> {
        let map = (bytes > 0).then(|| MmapMut::map_anon(bytes)).transpose()?;
        Ok(Self(map))
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.0.as_deref_mut().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_aligned_and_disjoint() {
        let mut slots = allocate_slots(5, 16 << 10).unwrap();
        for (index, slot) in slots.iter_mut().enumerate() {
            assert_eq!(slot.bytes_mut().as_ptr() as usize % 4096, 0);
            slot.bytes_mut().fill(index as u8);
        }
        let last = slots.pop().unwrap();
        drop(slots);
        assert!(
            last.bytes().iter().all(|b| *b == 4),
            "a slot outlives its neighbours"
        );
    }
}
