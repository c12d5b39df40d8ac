//! Fields of a JSON object with errors that name them.

use crate::source::SourceError;
use serde_json::{Map, Value};
use std::path::PathBuf;

pub(super) struct Fields {
    pub path: PathBuf,
    pub map: Map<String, Value>,
}

impl Fields {
    /// A field's value; null counts as absent, as in transformers.
    pub fn present(&self, name: &str) -> Option<&Value> {
        self.map.get(name).filter(|value| !value.is_null())
    }

    pub fn u32(&self, name: &str) -> Result<u32, SourceError> {
        let value = self.present(name).and_then(Value::as_u64);
        let value = value.and_then(|value| u32::try_from(value).ok());
        value.ok_or_else(|| self.wrong(name, "a whole number below 2^32"))
    }

    pub fn u32_or(&self, name: &str, default: u32) -> Result<u32, SourceError> {
        match self.present(name) {
            None => Ok(default),
            Some(_) => self.u32(name),
        }
    }

    pub fn f64(&self, name: &str) -> Result<f64, SourceError> {
        let value = self.present(name).and_then(Value::as_f64);
        value.ok_or_else(|| self.wrong(name, "a number"))
    }

    pub fn f64_or(&self, name: &str, default: f64) -> Result<f64, SourceError> {
        match self.present(name) {
            None => Ok(default),
            Some(_) => self.f64(name),
        }
    }

    pub fn bool_or(&self, name: &str, default: bool) -> Result<bool, SourceError> {
        match self.present(name) {
            None => Ok(default),
            Some(value) => value
                .as_bool()
                .ok_or_else(|| self.wrong(name, "true or false")),
        }
    }

    pub fn wrong(&self, field: &str, expected: &'static str) -> SourceError {
        SourceError::Field {
            path: self.path.clone(),
            field: field.into(),
            expected,
        }
    }

    pub fn unsupported(&self, feature: &str) -> SourceError {
        let feature = feature.chars().take(128).collect();
        SourceError::Feature {
            path: self.path.clone(),
            feature,
        }
    }
}
