//! The header's JSON, read entry by entry so that duplicates and floods are seen as they come.

use super::{MAX_DIMENSIONS, MAX_NAME_BYTES, MAX_TENSORS, SafetensorsError};
use serde::Deserialize;
use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::collections::BTreeMap;
use std::fmt;

const METADATA: &str = "__metadata__";

/// The JSON as it stands, with nothing but its form checked.
#[derive(Debug, Default)]
pub(super) struct RawHeader {
    pub metadata: BTreeMap<String, String>,
    /// In the order of the file.
    pub tensors: Vec<(String, RawTensor)>,
}

#[derive(Debug, Deserialize)]
pub(super) struct RawTensor {
    pub dtype: String,
    #[serde(deserialize_with = "bounded_shape")]
    pub shape: Vec<u64>,
    pub data_offsets: (u64, u64),
}

pub(super) fn parse(json: &[u8]) -> Result<RawHeader, SafetensorsError> {
    let mut refused = None;
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let parsed = HeaderSeed {
        refused: &mut refused,
    }
    .deserialize(&mut deserializer)
    .and_then(|header| deserializer.end().map(|()| header));
    // A refusal travels beside the JSON error that carries it through the parser, to keep its type.
    match (refused, parsed) {
        (Some(error), _) => Err(error),
        (None, Ok(header)) => Ok(header),
        (None, Err(error)) => Err(SafetensorsError::Json(error.to_string())),
    }
}

struct HeaderSeed<'a> {
    refused: &'a mut Option<SafetensorsError>,
}

impl HeaderSeed<'_> {
    fn refuse<E: serde::de::Error>(&mut self, error: SafetensorsError) -> E {
        let message = error.to_string();
        *self.refused = Some(error);
        E::custom(message)
    }
}

impl<'de> DeserializeSeed<'de> for HeaderSeed<'_> {
    type Value = RawHeader;

    fn deserialize<D: serde::Deserializer<'de>>(self, input: D) -> Result<RawHeader, D::Error> {
        input.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for HeaderSeed<'_> {
    type Value = RawHeader;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map from tensor names to tensors")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<RawHeader, A::Error> {
        let mut header = RawHeader::default();
        let mut seen = std::collections::HashSet::new();
        while let Some(name) = map.next_key::<String>()? {
            if !seen.insert(name.clone()) {
                return Err(self.refuse(SafetensorsError::DuplicateTensor(name)));
            }
            if name == METADATA {
                let pairs = map.next_value::<MetadataPairs>()?;
                if let Some(name) = pairs.duplicate {
                    return Err(self.refuse(SafetensorsError::DuplicateMetadata(name)));
                }
                header.metadata = pairs.pairs;
                continue;
            }
            if name.is_empty() || name.len() > MAX_NAME_BYTES {
                return Err(self.refuse(SafetensorsError::NameLength(name.len())));
            }
            if header.tensors.len() == MAX_TENSORS {
                return Err(self.refuse(SafetensorsError::TooManyTensors));
            }
            header.tensors.push((name, map.next_value()?));
        }
        Ok(header)
    }
}

/// `__metadata__`: strings to strings; the first name that comes twice is kept aside.
struct MetadataPairs {
    pairs: BTreeMap<String, String>,
    duplicate: Option<String>,
}

impl<'de> Deserialize<'de> for MetadataPairs {
    fn deserialize<D: serde::Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        struct PairsVisitor;
        impl<'de> Visitor<'de> for PairsVisitor {
            type Value = MetadataPairs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map from strings to strings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<MetadataPairs, A::Error> {
                let mut found = MetadataPairs {
                    pairs: BTreeMap::new(),
                    duplicate: None,
                };
                while let Some((key, value)) = map.next_entry::<String, String>()? {
                    if found.pairs.insert(key.clone(), value).is_some() {
                        found.duplicate.get_or_insert(key);
                    }
                }
                Ok(found)
            }

            fn visit_unit<E: serde::de::Error>(self) -> Result<MetadataPairs, E> {
                Ok(MetadataPairs {
                    pairs: BTreeMap::new(),
                    duplicate: None,
                })
            }
        }
        input.deserialize_any(PairsVisitor)
    }
}

/// A shape of at most one dimension too many: enough to refuse it by name, never a flood.
fn bounded_shape<'de, D: serde::Deserializer<'de>>(input: D) -> Result<Vec<u64>, D::Error> {
    struct ShapeVisitor;
    impl<'de> Visitor<'de> for ShapeVisitor {
        type Value = Vec<u64>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list of dimensions")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<u64>, A::Error> {
            let mut shape = Vec::new();
            while shape.len() <= MAX_DIMENSIONS {
                match list.next_element()? {
                    Some(dimension) => shape.push(dimension),
                    None => return Ok(shape),
                }
            }
            while list.next_element::<IgnoredAny>()?.is_some() {}
            Ok(shape)
        }
    }
    input.deserialize_seq(ShapeVisitor)
}
