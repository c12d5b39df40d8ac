//! The work of a conversion, in pieces that threads take one after another.

use super::plan::{FileOwner, Plan};
use crate::source::ModelSource;
use std::collections::BTreeMap;
use std::ops::Range;

/// What is written, digested and recorded at once: one resident tensor, or the file of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unit {
    /// The planned file.
    pub file: usize,
    /// Which of its tensors: one of a base file, all of an object.
    pub tensors: Range<usize>,
    /// Its name in the journal.
    pub name: String,
    /// Which step it belongs to.
    pub step: usize,
    /// Its bytes in the store: a tensor's, or the whole file's.
    pub bytes: u64,
    /// The first place in the source that it is made of: which file, and the offset in it.
    pub start: SourcePosition,
}

/// A file of the source and an offset in it, in the order in which files are hashed.
pub(super) type SourcePosition = (usize, u64);

/// All units in the order in which they are begun, and the names and sizes of the steps that they make up.
///
/// The base comes first, then layer after layer; within a step, and from layer to layer, the order is that of the
/// source: so it is read from front to back but for the base, and its hash finds the bytes in the page cache.
pub(super) struct Work {
    pub units: Vec<Unit>,
    pub steps: Vec<(String, u64)>,
}

impl Work {
    pub fn new(source: &dyn ModelSource, plan: &Plan) -> Self {
        let mut units = units(source, plan);
        let layers = layer_order(plan, &units);
        let base_bytes = base_files(plan).map(|file| plan.manifest.files[file].bytes);
        let mut steps = vec![("base".to_owned(), base_bytes.sum())];
        for layer in &layers {
            steps.push((format!("experts of layer {layer}"), 0));
        }
        for unit in &mut units {
            if let Some(layer) = layer(plan, unit.file) {
                let place = layers.iter().position(|other| *other == layer);
                unit.step = 1 + place.expect("a layer of a unit");
                steps[unit.step].1 += unit.bytes;
            }
        }
        units.sort_by_key(|unit| (unit.step, unit.start));
        Self { units, steps }
    }
}

/// The planned files with resident tensors.
pub(super) fn base_files(plan: &Plan) -> impl Iterator<Item = usize> {
    let files = plan.files.iter().enumerate();
    files.filter_map(|(index, file)| (file.owner == FileOwner::Base).then_some(index))
}

fn layer(plan: &Plan, file: usize) -> Option<u32> {
    match plan.files[file].owner {
        FileOwner::Base => None,
        FileOwner::Object(object) => Some(plan.manifest.objects[object].key.layer.0),
    }
}

fn units(source: &dyn ModelSource, plan: &Plan) -> Vec<Unit> {
    let mut units = Vec::new();
    for (file, planned) in plan.files.iter().enumerate() {
        let start = |tensors: Range<usize>| {
            let places = planned.tensors[tensors].iter();
            // Where the source cannot say, the hash waits for all such units.
            let places = places.map(|tensor| source.tensor_start(tensor.source).unwrap_or((0, 0)));
            places.min().unwrap_or((0, 0))
        };
        let unit = |tensors: Range<usize>, name: &str, bytes| Unit {
            file,
            name: name.to_owned(),
            step: 0,
            bytes,
            start: start(tensors.clone()),
            tensors,
        };
        match planned.owner {
            FileOwner::Object(_) => {
                let stored = &plan.manifest.files[file];
                units.push(unit(0..planned.tensors.len(), &stored.path, stored.bytes));
            }
            FileOwner::Base => {
                for (index, tensor) in planned.tensors.iter().enumerate() {
                    let bytes = plan.manifest.resident[&tensor.name].bytes;
                    units.push(unit(index..index + 1, &tensor.name, bytes));
                }
            }
        }
    }
    units
}

/// Layers with experts, by the first place in the source that any of their experts has.
fn layer_order(plan: &Plan, units: &[Unit]) -> Vec<u32> {
    let mut first = BTreeMap::new();
    for unit in units {
        if let Some(layer) = layer(plan, unit.file) {
            let start = first.entry(layer).or_insert(unit.start);
            *start = unit.start.min(*start);
        }
    }
    let mut layers: Vec<(SourcePosition, u32)> = first
        .into_iter()
        .map(|(layer, start)| (start, layer))
        .collect();
    layers.sort();
    layers.into_iter().map(|(_, layer)| layer).collect()
}
