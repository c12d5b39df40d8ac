//! What a store remembers of its use: which experts were asked for most.
//!
//! The file stands beside the manifest and is no part of the model: it may be missing, old or wrong, which costs time and
//! nothing else. `docs/store.md` has its fields.

use crate::ExpertKey;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Its name in the store's folder. While it is written, a full stop and the writer's process id are added.
pub const USAGE_FILE: &str = "usage.json";
/// A longer file is none: this is room for a million experts.
pub const USAGE_BYTES_MAX: u64 = 16 << 20;
/// What this build writes and reads.
const FORMAT_VERSION: u32 = 1;

/// Bytes that say nothing of use.
#[derive(Debug, thiserror::Error)]
pub enum UsageError {
    /// No JSON, or of another shape.
    #[error("not a usage file: {0}")]
    Syntax(#[from] serde_json::Error),
    /// Of a later build.
    #[error("usage format {0} is not known, this build knows {FORMAT_VERSION}")]
    Version(u32),
}

#[derive(Deserialize, Serialize)]
struct File {
    format_version: u32,
    layers: Vec<Layer>,
}

#[derive(Deserialize, Serialize)]
struct Layer {
    layer: u32,
    /// By index in the layer.
    heat: Vec<f64>,
}

/// The bytes of the file. Heat is kept to three decimals; what has none is left out.
pub fn to_json(heat: impl IntoIterator<Item = (ExpertKey, f64)>) -> Vec<u8> {
    let mut layers: BTreeMap<u32, Vec<f64>> = BTreeMap::new();
    for (key, heat) in heat {
        let heat = (heat * 1e3).round() / 1e3;
        if heat > 0.0 && heat.is_finite() {
            let place = key.index.0 as usize;
            let layer = layers.entry(key.layer.0).or_default();
            layer.resize(layer.len().max(place + 1), 0.0);
            layer[place] = heat;
        }
    }
    let layers = layers
        .into_iter()
        .map(|(layer, heat)| Layer { layer, heat })
        .collect();
    let file = File {
        format_version: FORMAT_VERSION,
        layers,
    };
    serde_json::to_vec(&file).expect("plain numbers")
}

/// What the file says, in no order that means anything. Which of the experts there are is for the reader to know.
pub fn from_json(bytes: &[u8]) -> Result<Vec<(ExpertKey, f64)>, UsageError> {
    let file: File = serde_json::from_slice(bytes)?;
    if file.format_version != FORMAT_VERSION {
        return Err(UsageError::Version(file.format_version));
    }
    let layers = file.layers.into_iter().flat_map(|Layer { layer, heat }| {
        let keyed = move |(index, heat)| (ExpertKey::routed(layer, index), heat);
        (0..).zip(heat).map(keyed)
    });
    Ok(layers.filter(|(_, heat)| *heat > 0.0).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read() {
        let heat = [
            ((2, 3), 1.5),
            ((0, 0), 0.25),
            ((0, 1), 0.0001),
            ((5, 1), f64::NAN),
        ];
        let heat = heat.map(|((layer, index), heat)| (ExpertKey::routed(layer, index), heat));
        let bytes = to_json(heat);
        assert_eq!(
            String::from_utf8_lossy(&bytes),
            r#"{"format_version":1,"layers":[{"layer":0,"heat":[0.25]},{"layer":2,"heat":[0.0,0.0,0.0,1.5]}]}"#
        );
        let read = from_json(&bytes).unwrap();
        assert_eq!(read, [heat[1], heat[0]]);
    }

    #[test]
    fn other_bytes_are_named_errors() {
        for bytes in [
            &b""[..],
            b"[]",
            b"{\"format_version\":1}",
            b"{\"format_version\":1,\"layers\":[{\"layer\":-1,\"heat\":[]}]}",
        ] {
            assert!(matches!(from_json(bytes), Err(UsageError::Syntax(_))));
        }
        let later = from_json(b"{\"format_version\":2,\"layers\":[]}");
        assert!(matches!(later, Err(UsageError::Version(2))));
        let odd = b"{\"format_version\":1,\"layers\":[{\"layer\":0,\"heat\":[-1.0,2.0]},{\"layer\":0,\"heat\":[1e308]}]}";
        assert_eq!(from_json(odd).unwrap().len(), 2);
    }
}
