//! Eight bytes at a time in a word: it unpacks quants at the speed of vectors in plain Rust, since compilers put four
//! or eight words into a register where they would take a short loop over bytes apart.
//!
//! Shifts move bits across bytes, so each is followed by a mask; sums of bytes stay below 256.

/// The same byte eight times.
#[inline(always)]
pub const fn each(byte: u8) -> u64 {
    u64::from_le_bytes([byte; 8])
}

/// Word `index`.
#[inline(always)]
pub fn word(bytes: &[u8], index: usize) -> u64 {
    u64::from_le_bytes(bytes.as_chunks::<8>().0[index])
}

/// Writes word `index`.
#[inline(always)]
pub fn put(bytes: &mut [u8], index: usize, word: u64) {
    bytes.as_chunks_mut::<8>().0[index] = word.to_le_bytes();
}

/// Eight bits as eight bytes of 0 or 1, the lowest first.
#[inline(always)]
pub fn spread_bits(bits: u8) -> u64 {
    // Byte k keeps bit k, which adding 127 carries into the byte's upper bit.
    let kept = each(bits) & 0x8040_2010_0804_0201;
    kept.wrapping_add(each(0x7f)) >> 7 & each(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_become_bytes_in_order() {
        for bits in 0..=u8::MAX {
            let bytes = spread_bits(bits).to_le_bytes();
            for (k, byte) in bytes.into_iter().enumerate() {
                assert_eq!(byte, bits >> k & 1, "bit {k} of {bits:#x}");
            }
        }
    }
}
