//! The checksum at the speed of memory: what comes next is fetched into the cache while a block is hashed.

#![allow(unsafe_code)]

use odmoe_formats::checksum::Xxh3Hasher;

/// Hashed at a time; as much again is on its way from memory meanwhile.
const BLOCK: usize = 4 << 10;

/// Takes bytes in. A processor's own guess at what is read next leaves a third of the speed unused.
pub(crate) fn hash(hasher: &mut Xxh3Hasher, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let (block, rest) = bytes.split_at(bytes.len().min(BLOCK));
        fetch(&rest[..rest.len().min(BLOCK)]);
        hasher.update(block);
        bytes = rest;
    }
}

#[cfg(target_arch = "x86_64")]
fn fetch(bytes: &[u8]) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    for line in bytes.chunks(64) {
        // SAFETY: SSE is part of x86-64, and a prefetch touches nothing that a program could see.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn fetch(_bytes: &[u8]) {}

#[cfg(test)]
mod tests {
    use super::*;
    use odmoe_formats::checksum::Xxh3;

    #[test]
    fn blocks_and_whole_agree() {
        let bytes: Vec<u8> = (0..20_000u32).map(|i| (i * 31) as u8).collect();
        for length in [0, 1, 63, 4095, 4096, 4097, 8191, 12_288, 20_000] {
            let mut hasher = Xxh3Hasher::new();
            hash(&mut hasher, &bytes[..length]);
            assert_eq!(hasher.finish(), Xxh3::of(&bytes[..length]), "{length}");
        }
    }
}
