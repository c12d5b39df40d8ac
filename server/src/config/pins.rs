//! The file of experts that are to stay in memory.
//!
//! ```text
//! # layers, all experts of them
//! 0-1
//! # layers:experts
//! 5:0,7,12-15
//! ```

use super::small_file;
use odmoe_formats::ExpertKey;
use std::collections::{BTreeMap, HashSet};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

/// A longer file is refused.
const LIMIT_BYTES: u64 = 256 << 10;

/// Entries as they were written, for any model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PinList {
    path: PathBuf,
    entries: Vec<Entry>,
}

/// One line that says something.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    line: usize,
    layers: Vec<RangeInclusive<u32>>,
    /// None: all.
    experts: Option<Vec<RangeInclusive<u32>>>,
}

/// A pin list that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PinError {
    /// The file cannot be read.
    #[error("--pin-experts {path}: {reason}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A line is no entry.
    #[error(
        "{path}, line {line}: {text:?} names no experts; write LAYERS or LAYERS:EXPERTS, such as 0-3 or 5:0,7,12-15"
    )]
    Syntax {
        /// Which file.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
        /// What stands there, or its beginning.
        text: String,
    },
    /// The model has no such layer, or no experts in it.
    #[error("{path}, line {line}: layer {layer} has no experts; {}", match valid {
        Some((first, last)) => format!("the layers of this model that have some are within {first}-{last}"),
        None => "this model has none at all".to_owned(),
    })]
    Layer {
        /// Which file.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
        /// What was named.
        layer: u32,
        /// The first and the last layer with experts.
        valid: Option<(u32, u32)>,
    },
    /// A layer has no such expert.
    #[error(
        "{path}, line {line}: there is no expert {expert} in layer {layer}; its experts are 0-{last}"
    )]
    Expert {
        /// Which file.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
        /// Where it was looked for.
        layer: u32,
        /// What was named.
        expert: u32,
        /// The last that there is.
        last: u32,
    },
}

impl PinList {
    /// Reads a file of at most 256 KiB.
    pub fn read(path: &Path) -> Result<Self, PinError> {
        let failed = |reason: String| PinError::Read {
            path: path.to_owned(),
            reason,
        };
        let text = small_file::read_text(path, LIMIT_BYTES).map_err(failed)?;
        Self::parse(path, &text)
    }

    fn parse(path: &Path, text: &str) -> Result<Self, PinError> {
        let mut entries = Vec::new();
        for (line, text) in (1..).zip(text.lines()) {
            let text = text.split('#').next().unwrap_or("").trim();
            if text.is_empty() {
                continue;
            }
            let entry = Entry::parse(line, text).ok_or_else(|| PinError::Syntax {
                path: path.to_owned(),
                line,
                text: text.chars().take(40).collect(),
            })?;
            entries.push(entry);
        }
        let path = path.to_owned();
        Ok(Self { path, entries })
    }

    /// The experts that the list names, among those that a model has.
    pub fn resolve(
        &self,
        known: impl Iterator<Item = ExpertKey>,
    ) -> Result<HashSet<ExpertKey>, PinError> {
        let mut layers: BTreeMap<u32, BTreeMap<u32, ExpertKey>> = BTreeMap::new();
        for key in known {
            layers
                .entry(key.layer.0)
                .or_default()
                .insert(key.index.0, key);
        }
        let mut pinned = HashSet::new();
        for entry in &self.entries {
            for layer in entry.layers.iter().cloned().flatten() {
                let Some(experts) = layers.get(&layer) else {
                    return Err(self.no_layer(entry.line, layer, &layers));
                };
                let Some(named) = &entry.experts else {
                    pinned.extend(experts.values());
                    continue;
                };
                for expert in named.iter().cloned().flatten() {
                    let key = experts.get(&expert).ok_or_else(|| PinError::Expert {
                        path: self.path.clone(),
                        line: entry.line,
                        layer,
                        expert,
                        last: experts.keys().last().copied().unwrap_or(0),
                    })?;
                    pinned.insert(*key);
                }
            }
        }
        Ok(pinned)
    }

    fn no_layer<T>(&self, line: usize, layer: u32, layers: &BTreeMap<u32, T>) -> PinError {
        let (first, last) = (layers.keys().next(), layers.keys().last());
        PinError::Layer {
            path: self.path.clone(),
            line,
            layer,
            valid: first.copied().zip(last.copied()),
        }
    }
}

impl Entry {
    fn parse(line: usize, text: &str) -> Option<Self> {
        let (layers, experts) = match text.split_once(':') {
            Some((layers, experts)) => (layers, Some(parse_ranges(experts)?)),
            None => (text, None),
        };
        Some(Self {
            line,
            layers: parse_ranges(layers)?,
            experts,
        })
    }
}

fn parse_ranges(text: &str) -> Option<Vec<RangeInclusive<u32>>> {
    text.split(',').map(parse_range).collect()
}

fn parse_range(text: &str) -> Option<RangeInclusive<u32>> {
    let number = |text: &str| text.trim().parse::<u32>().ok();
    let range = match text.split_once('-') {
        Some((first, last)) => number(first)?..=number(last)?,
        None => number(text)?..=number(text)?,
    };
    (!range.is_empty()).then_some(range)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Layers 1 to 4 of eight experts each.
    fn known() -> impl Iterator<Item = ExpertKey> {
        (0..32).map(|i| ExpertKey::routed(1 + i / 8, i % 8))
    }

    fn pinned(text: &str) -> Result<Vec<(u32, u32)>, PinError> {
        let list = PinList::parse(Path::new("pins"), text)?;
        let mut pinned: Vec<_> = list.resolve(known())?.into_iter().collect();
        pinned.sort();
        Ok(pinned.iter().map(|k| (k.layer.0, k.index.0)).collect())
    }

    #[test]
    fn layers_and_experts_are_named_by_ranges() {
        assert_eq!(pinned("1").unwrap().len(), 8);
        assert_eq!(pinned("1-2, 4").unwrap().len(), 24);
        assert_eq!(pinned("2-3:0,6-7").unwrap().len(), 6);
        let text = "# hot\n1:1\n\n1:1-2 # again\n  4 : 5\r\n";
        assert_eq!(pinned(text).unwrap(), [(1, 1), (1, 2), (4, 5)]);
        assert_eq!(pinned("# none\n").unwrap(), []);
    }

    #[test]
    fn mistakes_are_named_with_their_line() {
        for text in [
            "x",
            "1:",
            ":1",
            "1:2-",
            "3-1",
            "1:2:3",
            "-1",
            "4294967296",
            "1;2",
            "1,",
        ] {
            let error = pinned(&format!("1\n\n{text}")).unwrap_err().to_string();
            assert!(error.starts_with("pins, line 3: "), "{error}");
        }
    }

    #[test]
    fn what_the_model_lacks_is_named_with_what_it_has() {
        for (text, layer) in [("1\n0", 0), ("1\n4-4294967295:0", 5)] {
            let error = pinned(text).unwrap_err().to_string();
            let says = format!("pins, line 2: layer {layer} has no experts; ");
            assert!(error.starts_with(&says), "{error}");
            assert!(error.ends_with("within 1-4"), "{error}");
        }
        let error = pinned("2:7-4294967295").unwrap_err().to_string();
        assert_eq!(
            error,
            "pins, line 1: there is no expert 8 in layer 2; its experts are 0-7"
        );
        let list = PinList::parse(Path::new("pins"), "0").unwrap();
        let error = list.resolve(std::iter::empty()).unwrap_err().to_string();
        assert!(error.contains("none at all"), "{error}");
    }

    #[test]
    fn a_file_is_read_if_it_is_one_and_short() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pins");
        std::fs::write(&path, "3:5").unwrap();
        let list = PinList::read(&path).unwrap();
        assert_eq!(list.resolve(known()).unwrap().len(), 1);
        let long = std::fs::File::create(&path).unwrap();
        long.set_len(LIMIT_BYTES + 1).unwrap();
        for path in [&path, folder.path(), &folder.path().join("none")] {
            let error = PinList::read(path).unwrap_err();
            assert!(matches!(error, PinError::Read { .. }), "{error}");
        }
    }
}
