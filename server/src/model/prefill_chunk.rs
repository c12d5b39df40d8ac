//! How many prompt tokens are worked on at once.

use crate::model::memory_limit::MemoryLimit;
use odmoe_formats::ByteCount;

/// Where memory is not short: each expert is read, and its weights unpacked, once a chunk.
const TOKENS: usize = 512;
/// Fewer would leave an expert of a wide layer with less than a kernel's tile.
const TOKENS_MIN: usize = 64;
/// The part of the limit that activations may take for the sake of speed.
const PART_OF_LIMIT: u64 = 16;

/// The most that the limit allows, by halves. `scratch` says what a chunk takes.
pub fn prefill_chunk(limit: Option<&MemoryLimit>, scratch: impl Fn(usize) -> ByteCount) -> usize {
    let room = limit.map_or(u64::MAX, |limit| limit.bytes.0 / PART_OF_LIMIT);
    let mut tokens = TOKENS;
    while tokens > TOKENS_MIN && scratch(tokens).0 > room {
        tokens /= 2;
    }
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::memory_limit::LimitSource;

    #[test]
    fn halved_until_it_takes_a_sixteenth_of_the_limit() {
        let chunk = |limit: Option<u64>| {
            let limit = limit.map(|bytes| MemoryLimit {
                bytes: ByteCount(bytes),
                source: LimitSource::Flag,
            });
            prefill_chunk(limit.as_ref(), |tokens| ByteCount(tokens as u64 * 10))
        };
        assert_eq!(chunk(None), 512);
        assert_eq!(chunk(Some(16 * 5120)), 512);
        assert_eq!(chunk(Some(16 * 5120 - 1)), 256);
        assert_eq!(chunk(Some(16 * 1300)), 128);
        assert_eq!(chunk(Some(0)), 64);
    }
}
