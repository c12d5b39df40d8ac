//! Ids and quantities as types, shared by every crate.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A transformer layer, counted from 0 at the embedding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LayerIndex(pub u32);

/// A routed expert of one layer, counted from 0 in the router's order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ExpertIndex(pub u32);

/// What kind of pageable object a key names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Space {
    /// A routed expert of a mixture-of-experts layer.
    RoutedExpert,
}

/// The name of one pageable object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ExpertKey {
    /// The kind of object.
    pub space: Space,
    /// Its layer.
    pub layer: LayerIndex,
    /// Its place in the layer.
    pub index: ExpertIndex,
}

impl ExpertKey {
    /// The key of a routed expert.
    pub const fn routed(layer: u32, index: u32) -> Self {
        Self {
            space: Space::RoutedExpert,
            layer: LayerIndex(layer),
            index: ExpertIndex(index),
        }
    }
}

impl fmt::Display for ExpertKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "layer {} expert {}", self.layer.0, self.index.0)
    }
}

/// A number of bytes; displayed with a binary unit.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct ByteCount(pub u64);

impl fmt::Display for ByteCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(&str, u64); 4] = [
            ("TiB", 1 << 40),
            ("GiB", 1 << 30),
            ("MiB", 1 << 20),
            ("KiB", 1 << 10),
        ];
        for (name, size) in UNITS {
            if self.0 >= size {
                return write!(f, "{:.1} {name}", self.0 as f64 / size as f64);
            }
        }
        write!(f, "{} B", self.0)
    }
}
