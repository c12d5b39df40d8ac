//! API keys as they are configured: who may call, by what secret, within which limits.

use sha2::{Digest, Sha256};

/// The name of the one caller where there are no keys.
pub(crate) const ANYBODY: &str = "anybody";

/// A secret, kept as its SHA-256. Comparing digests takes the same time wherever two keys differ.
#[derive(Clone, Copy)]
pub struct SecretDigest([u8; 32]);

impl PartialEq for SecretDigest {
    fn eq(&self, other: &Self) -> bool {
        self.equals(other)
    }
}

impl SecretDigest {
    /// Of a secret.
    pub fn of(secret: &[u8]) -> Self {
        Self(Sha256::digest(secret).into())
    }

    /// From 64 hexadecimal digits.
    pub fn from_hex(text: &str) -> Option<Self> {
        let digits: Vec<u8> = text
            .chars()
            .map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
            .collect::<Option<_>>()?;
        let bytes: Vec<u8> = digits
            .chunks(2)
            .map(|pair| pair[0] << 4 | pair[pair.len() - 1])
            .collect();
        (digits.len() == 64).then(|| bytes.try_into().ok().map(Self))?
    }

    /// Whether both are of one secret. Looks at every byte, whatever the first ones say.
    pub fn equals(&self, other: &Self) -> bool {
        let difference = self
            .0
            .iter()
            .zip(other.0)
            .fold(0, |sum, (a, b)| sum | (a ^ b));
        difference == 0
    }
}

/// What one key may do; None is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyLimits {
    /// Requests that generate, in a minute.
    pub requests_per_minute: Option<u32>,
    /// Tokens of prompts and answers, in a minute.
    pub tokens_per_minute: Option<u32>,
    /// Requests at once.
    pub concurrent_requests: Option<u32>,
}

impl KeyLimits {
    /// These, and `defaults` where these say nothing.
    pub fn or(self, defaults: Self) -> Self {
        Self {
            requests_per_minute: self.requests_per_minute.or(defaults.requests_per_minute),
            tokens_per_minute: self.tokens_per_minute.or(defaults.tokens_per_minute),
            concurrent_requests: self.concurrent_requests.or(defaults.concurrent_requests),
        }
    }
}

/// One API key. Not `Debug`: digests of weak secrets are worth something too.
#[derive(Clone)]
pub struct ApiKey {
    /// What logs call it.
    pub name: String,
    /// Of its secret.
    pub digest: SecretDigest,
    /// Its own limits; [`HttpConfig::key_limits`](super::HttpConfig::key_limits) fill the gaps.
    pub limits: KeyLimits,
}

impl ApiKey {
    /// Without limits of its own.
    pub fn new(name: impl Into<String>, secret: &str) -> Self {
        Self {
            name: name.into(),
            digest: SecretDigest::of(secret.as_bytes()),
            limits: KeyLimits::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_read_from_hexadecimal_digits_alone() {
        // printf secret | sha256sum
        let hex = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";
        let read = SecretDigest::from_hex(hex).unwrap();
        assert!(read.equals(&SecretDigest::of(b"secret")));
        assert!(!read.equals(&SecretDigest::of(b"secreT")));
        assert!(SecretDigest::from_hex(&hex.to_uppercase()).is_some());
        let long = format!("{hex}00");
        for wrong in [
            "",
            &hex[1..],
            &long,
            &hex.replace('2', "g"),
            &hex.replace('2', "é"),
        ] {
            assert!(SecretDigest::from_hex(wrong).is_none(), "{wrong}");
        }
    }
}
