//! Raw zeroed memory: anonymous maps for what is large, the heap for what is small.

use memmap2::MmapMut;
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::io;
use std::ops::Range;
use std::ptr::NonNull;

/// Alignment of every allocation: a cache line and an AVX-512 register.
const HEAP_ALIGNMENT: usize = 64;
/// Alignment of a map: the largest page of common machines (16 KiB on Apple silicon), for direct reads.
const MAP_ALIGNMENT: usize = 16 << 10;
/// Maps at least this long are aligned to it, so that the kernel can back them by huge pages.
const HUGE_PAGE: usize = 2 << 20;
/// From here on memory comes from a map, which is zeroed as it is first touched.
const MAP_THRESHOLD: usize = 256 << 10;

/// Zeroed memory that is freed when it is dropped. It hands out a pointer only: who may read and write is settled
/// by [`super::region::Region`].
pub struct RawMemory {
    base: NonNull<u8>,
    bytes: usize,
    owner: Owner,
}

enum Owner {
    Heap(Layout),
    Map {
        #[cfg_attr(not(target_os = "linux"), allow(dead_code))]
        map: MmapMut,
    },
}

// SAFETY: the memory belongs to this value alone, and the pointer is only used through `Region`, which
// synchronises access by its borrow state.
unsafe impl Send for RawMemory {}
// SAFETY: as above.
unsafe impl Sync for RawMemory {}

impl RawMemory {
    /// `bytes` of zeros, aligned to 64 bytes at least.
    pub fn zeroed(bytes: usize) -> io::Result<Self> {
        if bytes >= MAP_THRESHOLD {
            Self::mapped(bytes)
        } else {
            Self::on_heap(bytes)
        }
    }

    /// `bytes` of zeros in an anonymous map, aligned to 16 KiB at least.
    pub fn mapped(bytes: usize) -> io::Result<Self> {
        let alignment = if bytes >= HUGE_PAGE {
            HUGE_PAGE
        } else {
            MAP_ALIGNMENT
        };
        let padded = bytes
            .checked_add(alignment)
            .ok_or(io::ErrorKind::OutOfMemory)?;
        let mut map = MmapMut::map_anon(padded)?;
        let start = map.as_mut_ptr();
        let skip = start.align_offset(alignment);
        assert!(skip <= alignment, "a byte pointer can always be aligned");
        advise_huge_pages(&map, skip, bytes);
        // SAFETY: `skip <= alignment`, and the map is `alignment` longer than `bytes`.
        let base = NonNull::new(unsafe { start.add(skip) }).expect("a map is never at null");
        Ok(Self {
            base,
            bytes,
            owner: Owner::Map { map },
        })
    }

    fn on_heap(bytes: usize) -> io::Result<Self> {
        let layout = Layout::from_size_align(bytes.max(1), HEAP_ALIGNMENT)
            .map_err(|_| io::ErrorKind::OutOfMemory)?;
        // SAFETY: the layout's size is at least one.
        let base =
            NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self {
            base,
            bytes,
            owner: Owner::Heap(layout),
        })
    }

    /// Wishes for huge pages, where the memory is a map that holds some.
    pub fn wish_huge_pages(&self, range: Range<usize>) {
        #[cfg(target_os = "linux")]
        if let Some((map, offset, bytes)) = self.whole_pages(range) {
            let _ = map.advise_range(memmap2::Advice::HugePage, offset, bytes);
        }
        #[cfg(not(target_os = "linux"))]
        let _ = range;
    }

    /// Gives the whole pages of a range back to the system; they read as zeros then. Nothing happens to memory on the
    /// heap, or where the system cannot. No huge page reaches into the range any more.
    ///
    /// # Safety
    /// Nobody else refers to these bytes.
    pub unsafe fn give_back(&self, range: Range<usize>) {
        #[cfg(target_os = "linux")]
        if let Some((map, offset, bytes)) = self.whole_pages(range) {
            let _ = map.advise_range(memmap2::Advice::NoHugePage, offset, bytes);
            let unneeded = memmap2::UncheckedAdvice::DontNeed;
            // SAFETY: the map is private and anonymous, so its pages come again as zeros, which are initialised bytes;
            // by contract nobody refers to them.
            let _ = unsafe { map.unchecked_advise_range(unneeded, offset, bytes) };
        }
        #[cfg(not(target_os = "linux"))]
        let _ = range;
    }

    /// The map, and where in it the whole pages of a range lie; None on the heap, and where there is none.
    #[cfg(target_os = "linux")]
    fn whole_pages(&self, range: Range<usize>) -> Option<(&MmapMut, usize, usize)> {
        assert!(range.end <= self.bytes, "{range:?} leaves the memory");
        let Owner::Map { map } = &self.owner else {
            return None;
        };
        let skip = self.base.as_ptr() as usize - map.as_ptr() as usize;
        // `base` is on a page's start.
        let start = range.start.next_multiple_of(MAP_ALIGNMENT);
        let end = range.end / MAP_ALIGNMENT * MAP_ALIGNMENT;
        (start < end).then(|| (map, skip + start, end - start))
    }

    /// The first byte.
    pub fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// How many bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for RawMemory {
    fn drop(&mut self) {
        if let Owner::Heap(layout) = &self.owner {
            // SAFETY: allocated by `on_heap` with this layout, freed once.
            unsafe { dealloc(self.base.as_ptr(), *layout) }
        }
    }
}

/// Only a wish: a kernel without huge pages refuses, and nothing but speed depends on it.
///
/// Only pages that lie wholly in the data are wished for, and the rest is kept from them: a huge page that reaches into
/// the padding would be memory that no sum counts, up to 2 MiB a map.
#[cfg(target_os = "linux")]
fn advise_huge_pages(map: &MmapMut, skip: usize, bytes: usize) {
    let whole = bytes / HUGE_PAGE * HUGE_PAGE;
    if whole > 0 {
        let _ = map.advise_range(memmap2::Advice::HugePage, skip, whole);
    }
    let rest = skip + whole;
    let _ = map.advise_range(memmap2::Advice::NoHugePage, rest, map.len() - rest);
}

#[cfg(not(target_os = "linux"))]
fn advise_huge_pages(_map: &MmapMut, _skip: usize, _bytes: usize) {}
