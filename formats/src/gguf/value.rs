//! Metadata: values of the types that GGUF has, by key, in the order of the file.

use std::collections::HashMap;

/// One value. Strings need not be UTF-8: tokens of a vocabulary may be any bytes.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Type 0.
    U8(u8),
    /// Type 1.
    I8(i8),
    /// Type 2.
    U16(u16),
    /// Type 3.
    I16(i16),
    /// Type 4.
    U32(u32),
    /// Type 5.
    I32(i32),
    /// Type 6.
    F32(f32),
    /// Type 7.
    Bool(bool),
    /// Type 8.
    String(Vec<u8>),
    /// Type 9.
    Array(Array),
    /// Type 10.
    U64(u64),
    /// Type 11.
    I64(i64),
    /// Type 12.
    F64(f64),
}

/// An array; its elements are of one type. Arrays of arrays are refused on reading: no known key has one.
#[derive(Clone, Debug, PartialEq)]
pub enum Array {
    /// Of type 0.
    U8(Vec<u8>),
    /// Of type 1.
    I8(Vec<i8>),
    /// Of type 2.
    U16(Vec<u16>),
    /// Of type 3.
    I16(Vec<i16>),
    /// Of type 4.
    U32(Vec<u32>),
    /// Of type 5.
    I32(Vec<i32>),
    /// Of type 6.
    F32(Vec<f32>),
    /// Of type 7.
    Bool(Vec<bool>),
    /// Of type 8.
    String(Vec<Vec<u8>>),
    /// Of type 10.
    U64(Vec<u64>),
    /// Of type 11.
    I64(Vec<i64>),
    /// Of type 12.
    F64(Vec<f64>),
}

/// A key that is missing or of another type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// It is not there.
    #[error("the metadata has no {0:?}")]
    Missing(String),
    /// It is there as something else.
    #[error("{key:?} must be {expected}")]
    Type {
        /// Which.
        key: String,
        /// What it should be.
        expected: &'static str,
    },
}

/// All metadata of a file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata {
    entries: Vec<(String, Value)>,
    by_key: HashMap<String, usize>,
}

impl Metadata {
    /// Adds an entry. False, and nothing changed, where the key is there already.
    pub fn insert(&mut self, key: impl Into<String>, value: Value) -> bool {
        let key = key.into();
        if self.by_key.contains_key(&key) {
            return false;
        }
        self.by_key.insert(key.clone(), self.entries.len());
        self.entries.push((key, value));
        true
    }

    /// Every entry, in the order of the file.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.entries
            .iter()
            .map(|(key, value)| (key.as_str(), value))
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        Some(&self.entries[*self.by_key.get(key)?].1)
    }

    /// A whole number of any integer type that is not negative; None where the key is absent.
    pub fn integer(&self, key: &str) -> Result<Option<u64>, ValueError> {
        self.typed(key, "a whole number, not negative", |value| match *value {
            Value::U8(n) => Some(n.into()),
            Value::U16(n) => Some(n.into()),
            Value::U32(n) => Some(n.into()),
            Value::U64(n) => Some(n),
            Value::I8(n) => n.try_into().ok(),
            Value::I16(n) => n.try_into().ok(),
            Value::I32(n) => n.try_into().ok(),
            Value::I64(n) => n.try_into().ok(),
            _ => None,
        })
    }

    /// A number that has a fraction.
    pub fn float(&self, key: &str) -> Result<Option<f64>, ValueError> {
        self.typed(key, "a floating-point number", |value| match *value {
            Value::F32(x) => Some(x.into()),
            Value::F64(x) => Some(x),
            _ => None,
        })
    }

    /// True or false.
    pub fn boolean(&self, key: &str) -> Result<Option<bool>, ValueError> {
        self.typed(key, "true or false", |value| match *value {
            Value::Bool(flag) => Some(flag),
            _ => None,
        })
    }

    /// Text.
    pub fn text(&self, key: &str) -> Result<Option<&str>, ValueError> {
        self.typed(key, "text in UTF-8", |value| match value {
            Value::String(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        })
    }

    /// A list of strings of bytes.
    pub fn strings(&self, key: &str) -> Result<Option<&[Vec<u8>]>, ValueError> {
        self.typed(key, "a list of strings", |value| match value {
            Value::Array(Array::String(strings)) => Some(strings.as_slice()),
            _ => None,
        })
    }

    /// A list of 32-bit floats.
    pub fn floats(&self, key: &str) -> Result<Option<&[f32]>, ValueError> {
        self.typed(key, "a list of 32-bit floats", |value| match value {
            Value::Array(Array::F32(floats)) => Some(floats.as_slice()),
            _ => None,
        })
    }

    /// A list of 32-bit integers, signed or not.
    pub fn integers(&self, key: &str) -> Result<Option<Vec<i64>>, ValueError> {
        self.typed(key, "a list of 32-bit integers", |value| match value {
            Value::Array(Array::U32(all)) => Some(all.iter().map(|n| i64::from(*n)).collect()),
            Value::Array(Array::I32(all)) => Some(all.iter().map(|n| i64::from(*n)).collect()),
            _ => None,
        })
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        expected: &'static str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, ValueError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let wrong = || ValueError::Type {
            key: key.into(),
            expected,
        };
        read(value).map(Some).ok_or_else(wrong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_what_they_are() {
        let mut metadata = Metadata::default();
        assert!(metadata.insert("count", Value::I32(7)));
        assert!(metadata.insert("below", Value::I32(-7)));
        assert!(metadata.insert("name", Value::String(b"x".to_vec())));
        assert!(!metadata.insert("name", Value::U8(0)));
        assert_eq!(metadata.integer("count"), Ok(Some(7)));
        assert_eq!(metadata.integer("absent"), Ok(None));
        assert!(metadata.integer("below").is_err());
        assert_eq!(metadata.text("name"), Ok(Some("x")));
        assert!(metadata.float("name").is_err());
        assert_eq!(metadata.iter().len(), 3);
    }
}
