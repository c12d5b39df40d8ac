//! One output written by many threads at once, each in places of its own.

use std::marker::PhantomData;
use std::ops::Range;

/// A mutable slice whose parts are handed to the chunks of a parallel loop.
pub struct SharedSlice<'a, T> {
    base: *mut T,
    len: usize,
    _borrow: PhantomData<&'a mut [T]>,
}

// SAFETY: `range_mut` hands out disjoint parts only (its contract), so sharing is as good as splitting the slice.
unsafe impl<T: Send> Send for SharedSlice<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for SharedSlice<'_, T> {}

impl<'a, T> SharedSlice<'a, T> {
    /// Borrows the slice for the loop.
    pub fn new(slice: &'a mut [T]) -> Self {
        Self {
            base: slice.as_mut_ptr(),
            len: slice.len(),
            _borrow: PhantomData,
        }
    }

    /// Where it begins.
    #[cfg(target_arch = "x86_64")]
    pub fn as_ptr(&self) -> *const T {
        self.base
    }

    /// One part. Panics out of bounds.
    ///
    /// # Safety
    /// Parts that live at the same time do not overlap.
    #[inline(always)]
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn range_mut(&self, range: Range<usize>) -> &mut [T] {
        assert!(
            range.start <= range.end && range.end <= self.len,
            "part {range:?} of {} elements",
            self.len
        );
        // SAFETY: in bounds as just checked, exclusive by contract, alive by the borrow.
        unsafe { std::slice::from_raw_parts_mut(self.base.add(range.start), range.len()) }
    }
}
