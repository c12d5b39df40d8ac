//! XXH3-128 of the bytes of a read: finds damage by accident, not by intent.

use std::fmt;
use std::str::FromStr;
use twox_hash::XxHash3_128;

/// An XXH3-128 digest (seed 0). Displayed as 32 lower-case hex digits, most significant first.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Xxh3(u128);

impl Xxh3 {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(XxHash3_128::oneshot(bytes))
    }

    /// The digest that 32 lower-case hex digits spell; None for anything else.
    pub fn from_hex(hex: &str) -> Option<Self> {
        is_lower_hex(hex, 32).then(|| u128::from_str_radix(hex, 16).ok().map(Self))?
    }

    /// As 32 lower-case hex digits.
    pub fn to_hex(self) -> String {
        self.to_string()
    }
}

impl fmt::Display for Xxh3 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for Xxh3 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Xxh3({self})")
    }
}

/// Text that is no digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an XXH3-128 digest: 32 lower-case hex digits were expected")]
pub struct NotADigest;

impl FromStr for Xxh3 {
    type Err = NotADigest;

    fn from_str(text: &str) -> Result<Self, NotADigest> {
        Self::from_hex(text).ok_or(NotADigest)
    }
}

/// XXH3-128 of bytes that come in pieces.
#[derive(Clone, Default)]
pub struct Xxh3Hasher(XxHash3_128);

impl Xxh3Hasher {
    /// A hasher that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in the next piece.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.write(bytes);
    }

    /// The digest of everything so far.
    pub fn finish(&self) -> Xxh3 {
        Xxh3(self.0.finish_128())
    }
}

/// XXH3-128 as the manifest writes it.
pub fn xxh3_128_hex(bytes: &[u8]) -> String {
    Xxh3::of(bytes).to_hex()
}

/// Whether `text` is exactly `digits` lower-case hex digits.
pub(crate) fn is_lower_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_published_values() {
        // From xxHash's own sanity tests: the empty input, seed 0.
        assert_eq!(xxh3_128_hex(b""), "99aa06d3014798d86001c324468d497f");
    }

    #[test]
    fn pieces_and_whole_agree() {
        let bytes: Vec<u8> = (0..5000u32).map(|i| (i * 31) as u8).collect();
        for piece in [1, 7, 64, 240, 241, 1024, 4999] {
            let mut hasher = Xxh3Hasher::new();
            bytes.chunks(piece).for_each(|piece| hasher.update(piece));
            assert_eq!(hasher.finish(), Xxh3::of(&bytes), "pieces of {piece}");
        }
    }

    #[test]
    fn only_32_lower_case_digits_parse() {
        let digest = Xxh3::of(b"expert");
        assert_eq!(digest.to_hex().parse(), Ok(digest));
        assert_eq!(
            Xxh3::from_hex(&"0".repeat(32)).unwrap().to_hex(),
            "0".repeat(32)
        );
        for bad in [
            "",
            "0",
            "+0000000000000000000000000000000",
            "g0000000000000000000000000000000",
        ] {
            assert_eq!(bad.parse::<Xxh3>(), Err(NotADigest), "{bad:?}");
        }
        assert_eq!(Xxh3::from_hex(&digest.to_hex().to_uppercase()), None);
        assert_eq!(Xxh3::from_hex(&"0".repeat(33)), None);
    }
}
