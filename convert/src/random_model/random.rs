//! Random numbers that depend on a seed and a name alone.

use odmoe_formats::checksum::Xxh3;

/// SplitMix64, started from a seed and a name.
pub(super) struct Random(u64);

impl Random {
    pub fn new(seed: u64, name: &str) -> Self {
        let digest = Xxh3::of(format!("{seed} {name}").as_bytes()).to_hex();
        Self(u64::from_str_radix(&digest[..16], 16).expect("a digest is hex"))
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In [-1, 1), on a grid of 2^-23.
    pub fn signed_unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    /// Any bytes at all.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        let (words, rest) = bytes.as_chunks_mut::<8>();
        for word in words {
            *word = self.next().to_le_bytes();
        }
        if !rest.is_empty() {
            rest.copy_from_slice(&self.next().to_le_bytes()[..rest.len()]);
        }
    }
}
