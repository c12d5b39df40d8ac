//! The metadata under an architecture's own keys: `qwen3moe.block_count`.

use super::parts::Parts;
use crate::source::SourceError;
use odmoe_formats::gguf::{Array, Metadata, Value, ValueError};
use std::path::PathBuf;

/// Keys of one architecture of one file.
pub(super) struct Keys<'a> {
    pub path: PathBuf,
    pub metadata: &'a Metadata,
    architecture: &'a str,
}

impl<'a> Keys<'a> {
    pub fn new(parts: &'a Parts, architecture: &'a str) -> Self {
        Self {
            path: parts.path.clone(),
            metadata: &parts.metadata,
            architecture,
        }
    }

    /// The whole key of a part.
    pub fn key(&self, part: &str) -> String {
        format!("{}.{part}", self.architecture)
    }

    /// A count that must be there.
    pub fn u32(&self, part: &str) -> Result<u32, SourceError> {
        self.optional_u32(part)?
            .ok_or_else(|| self.wrong(ValueError::Missing(self.key(part))))
    }

    /// A count, or the same count for every layer as a list.
    pub fn optional_u32(&self, part: &str) -> Result<Option<u32>, SourceError> {
        let key = self.key(part);
        let found = match self.metadata.get(&key) {
            Some(Value::Array(Array::U32(_) | Array::I32(_))) => self.uniform(part)?,
            _ => self
                .metadata
                .integer(&key)
                .map_err(|error| self.wrong(error))?,
        };
        let narrow = |value: u64| {
            let expected = "a whole number below 2^32";
            let error = ValueError::Type { key, expected };
            u32::try_from(value).map_err(|_| self.wrong(error))
        };
        found.map(narrow).transpose()
    }

    fn uniform(&self, part: &str) -> Result<Option<u64>, SourceError> {
        let key = self.key(part);
        let all = self
            .metadata
            .integers(&key)
            .map_err(|error| self.wrong(error))?;
        let all = all.unwrap_or_default();
        let expected = "a whole number, not negative";
        let first = all.first().and_then(|first| u64::try_from(*first).ok());
        let Some(first) = first else {
            return Err(self.wrong(ValueError::Type { key, expected }));
        };
        if all.iter().any(|other| *other != all[0]) {
            return Err(self.unsupported(format!("{key} that differs from layer to layer")));
        }
        Ok(Some(first))
    }

    pub fn float(&self, part: &str) -> Result<Option<f64>, SourceError> {
        let found = self.metadata.float(&self.key(part));
        found.map_err(|error| self.wrong(error))
    }

    pub fn text(&self, part: &str) -> Result<Option<&'a str>, SourceError> {
        let found = self.metadata.text(&self.key(part));
        found.map_err(|error| self.wrong(error))
    }

    pub fn wrong(&self, source: ValueError) -> SourceError {
        SourceError::Metadata {
            path: self.path.clone(),
            source,
        }
    }

    pub fn malformed(&self, reason: String) -> SourceError {
        SourceError::Malformed {
            path: self.path.clone(),
            reason,
        }
    }

    pub fn unsupported(&self, feature: String) -> SourceError {
        SourceError::Feature {
            path: self.path.clone(),
            feature,
        }
    }
}
