//! What a model is made of, counted from its tensors.

use odmoe_convert::{ModelSource, TensorId};
use odmoe_formats::manifest::{
    FORMAT_VERSION_ROW_MAJOR, FileIndex, Manifest, OBJECT_ALIGNMENT_BYTES, ObjectTensor,
    PageableObject, Provenance, ResidentTensor, TextFiles,
};
use odmoe_formats::names::EMBED_TOKENS;
use odmoe_formats::{BlockFormat, ByteCount, ExpertKey, WeightLayout};
use std::collections::BTreeMap;

/// Tensors of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// How many.
    pub tensors: u64,
    /// Their elements.
    pub elements: u64,
    /// Their bytes.
    pub bytes: ByteCount,
}

impl Tally {
    fn add(&mut self, shape: &[u64], bytes: u64) {
        self.tensors += 1;
        self.elements += elements(shape);
        self.bytes.0 += bytes;
    }
}

/// What a model is made of.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelFacts {
    /// Elements of all tensors.
    pub parameters: u64,
    /// Elements that one token is multiplied with: everything resident but the rows of the embedding, and the chosen
    /// experts.
    pub active_parameters: u64,
    /// Bytes that one token touches, by the same count.
    pub bytes_a_token: ByteCount,
    /// Tensors by format.
    pub by_format: BTreeMap<BlockFormat, Tally>,
    /// What stays in memory.
    pub resident: Tally,
    /// What is paged.
    pub experts: Tally,
    /// How many routed experts, all layers together.
    pub expert_count: usize,
    /// The largest expert as stored.
    pub largest_expert: ByteCount,
}

fn elements(shape: &[u64]) -> u64 {
    shape.iter().product()
}

impl ModelFacts {
    /// Counts a validated manifest, or a sketch.
    pub fn of(manifest: &Manifest) -> Self {
        let mut by_format: BTreeMap<BlockFormat, Tally> = BTreeMap::new();
        let (mut resident, mut experts) = (Tally::default(), Tally::default());
        for tensor in manifest.resident.values() {
            resident.add(&tensor.shape, tensor.bytes);
            by_format
                .entry(tensor.format)
                .or_default()
                .add(&tensor.shape, tensor.bytes);
        }
        for tensor in manifest
            .objects
            .iter()
            .flat_map(|object| object.tensors.values())
        {
            experts.add(&tensor.shape, tensor.bytes);
            by_format
                .entry(tensor.format)
                .or_default()
                .add(&tensor.shape, tensor.bytes);
        }
        // A tied embedding is the output head as well, and then every row is used.
        let looked_up = match manifest.resident.get(EMBED_TOKENS) {
            Some(embedding) if !manifest.config.tie_word_embeddings => embedding.clone(),
            _ => ResidentTensor {
                shape: vec![0],
                bytes: 0,
                ..empty_tensor()
            },
        };
        let config = &manifest.config;
        let chosen = |all: u64| {
            let all = u128::from(all) * u128::from(config.num_experts_per_tok());
            (all / u128::from(config.num_experts().max(1))) as u64
        };
        Self {
            parameters: resident.elements + experts.elements,
            active_parameters: resident.elements - elements(&looked_up.shape)
                + chosen(experts.elements),
            bytes_a_token: ByteCount(resident.bytes.0 - looked_up.bytes + chosen(experts.bytes.0)),
            by_format,
            resident,
            experts,
            expert_count: manifest.objects.len(),
            largest_expert: ByteCount(
                manifest
                    .objects
                    .iter()
                    .map(|object| object.bytes)
                    .max()
                    .unwrap_or(0),
            ),
        }
    }
}

fn empty_tensor() -> ResidentTensor {
    ResidentTensor {
        file: FileIndex(0),
        offset: 0,
        bytes: 0,
        shape: Vec::new(),
        format: BlockFormat::F32,
        layout: WeightLayout::default(),
        xxh3_128: String::new(),
    }
}

/// The manifest that a source would have, as far as sizes go: no files, offsets or checksums. Good for counting and for
/// the memory sum, not for opening.
pub fn sketch_manifest(source: &dyn ModelSource) -> Manifest {
    let metadata = source.metadata();
    let mut resident = BTreeMap::new();
    let mut objects: BTreeMap<ExpertKey, PageableObject> = BTreeMap::new();
    for tensor in source.tensors() {
        let row = tensor.shape.last().copied().unwrap_or(1);
        let rows = tensor.elements().checked_div(row).unwrap_or(0);
        let bytes = tensor.format.row_bytes(row).unwrap_or(0) * rows;
        let (shape, format) = (tensor.shape.clone(), tensor.format);
        match &tensor.id {
            TensorId::Resident(name) => {
                resident.insert(
                    name.clone(),
                    ResidentTensor {
                        bytes,
                        shape,
                        format,
                        ..empty_tensor()
                    },
                );
            }
            TensorId::Expert(key, role) => {
                let object = objects.entry(*key).or_insert_with(|| empty_object(*key));
                object.tensors.insert(
                    role.to_string(),
                    ObjectTensor {
                        offset: 0,
                        bytes,
                        shape,
                        format,
                    },
                );
                object.bytes += bytes;
            }
        }
    }
    for object in objects.values_mut() {
        object.bytes = object.bytes.next_multiple_of(OBJECT_ALIGNMENT_BYTES);
    }
    Manifest {
        format_version: FORMAT_VERSION_ROW_MAJOR,
        name: metadata.suggested_name.clone(),
        config: metadata.config.clone(),
        files: Vec::new(),
        resident,
        objects: objects.into_values().collect(),
        text: TextFiles::default(),
        provenance: Provenance {
            converter: String::new(),
            sources: Vec::new(),
        },
    }
}

fn empty_object(key: ExpertKey) -> PageableObject {
    PageableObject {
        key,
        file: FileIndex(0),
        offset: 0,
        bytes: 0,
        layout: WeightLayout::default(),
        tensors: BTreeMap::new(),
        xxh3_128: String::new(),
    }
}
