//! Digests that tell models and conversions apart.

use sha2::{Digest, Sha256};
use std::fmt;

/// A SHA-256 of what identifies something. Displayed as 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 32]);

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

/// Collects labelled parts; the lengths are hashed too, so that parts cannot run into each other.
pub struct FingerprintBuilder(Sha256);

impl FingerprintBuilder {
    /// Begins a fingerprint of one kind of thing.
    pub fn new(kind: &str) -> Self {
        Self(Sha256::new()).part("kind", kind.as_bytes())
    }

    /// Adds a part.
    #[must_use]
    pub fn part(mut self, label: &str, bytes: &[u8]) -> Self {
        for piece in [label.as_bytes(), bytes] {
            self.0.update((piece.len() as u64).to_le_bytes());
            self.0.update(piece);
        }
        self
    }

    /// The fingerprint of all parts.
    pub fn finish(self) -> Fingerprint {
        Fingerprint(self.0.finalize().into())
    }
}

/// Lower-case hex digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_do_not_run_into_each_other() {
        let of =
            |label: &str, bytes: &[u8]| FingerprintBuilder::new("k").part(label, bytes).finish();
        assert_eq!(of("ab", b"c"), of("ab", b"c"));
        assert_ne!(of("ab", b"c"), of("a", b"bc"));
        assert_ne!(
            FingerprintBuilder::new("kab").finish(),
            FingerprintBuilder::new("k").finish()
        );
        assert_eq!(of("a", b"").to_string().len(), 64);
    }
}
