//! What a store will hold, worked out before anything is written: every file with its tensors, and the manifest but
//! for its digests.

use super::{ConvertError, ConvertOptions, WeightFormat, version_of};
use crate::source::{ModelMetadata, ModelSource, SourceError, TensorId, shown};
use odmoe_formats::expected::{self, ExpectedTensor, TensorUse};
use odmoe_formats::manifest::{
    FORMAT_VERSION_ROW_MAJOR, FileIndex, Manifest, ObjectTensor, PageableObject, Provenance,
    ResidentTensor, SourceFile, StoreFile, TextFiles,
};
use odmoe_formats::names::{EMBED_TOKENS, ExpertRole};
use odmoe_formats::safetensors::{LayoutError, SafetensorsLayout, TensorSpec};
use odmoe_formats::{BlockFormat, ByteCount, ExpertKey, WeightLayout};
use std::collections::{BTreeMap, HashMap, HashSet};

pub(super) const TOKENIZER: &str = "tokenizer.json";
pub(super) const CHAT_TEMPLATE: &str = "chat_template.jinja";
pub(super) const GENERATION_CONFIG: &str = "generation_config.json";

/// Room for the manifest, folders and what else a file system keeps of a file, for each file.
const MARGIN_PER_FILE: u64 = 8192;
const MARGIN: u64 = 16 << 20;
/// The folder itself, that of the experts, the manifest, the marker and the text files.
const OTHER_FILES: u64 = 8;

/// One tensor of a planned file.
#[derive(Clone, Debug)]
pub(super) struct PlannedTensor {
    /// Index among the source's tensors.
    pub source: usize,
    /// Its name in the file.
    pub name: String,
    /// How it will be stored.
    pub format: BlockFormat,
    /// In which order its blocks will lie.
    pub layout: WeightLayout,
}

/// Whose bytes a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileOwner {
    /// Resident tensors.
    Base,
    /// The object of this place in the manifest.
    Object(usize),
}

/// One tensor file, in the order of the manifest's files. Its layout is worked out again when it is written: the
/// headers of all files together may be large.
#[derive(Clone, Debug)]
pub(super) struct PlannedFile {
    pub owner: FileOwner,
    pub tensors: Vec<PlannedTensor>,
}

impl PlannedFile {
    pub fn layout(&self, source: &dyn ModelSource) -> Result<SafetensorsLayout, LayoutError> {
        let spec = |tensor: &PlannedTensor| TensorSpec {
            name: tensor.name.clone(),
            format: tensor.format,
            shape: source.tensors()[tensor.source].shape.clone(),
            layout: tensor.layout,
        };
        SafetensorsLayout::new(&self.tensors.iter().map(spec).collect::<Vec<_>>())
    }
}

pub(super) struct Plan {
    /// Valid, with zeros for digests.
    pub manifest: Manifest,
    pub files: Vec<PlannedFile>,
    pub kept_matrices: usize,
    pub quantised_already: usize,
    text_bytes: u64,
}

impl Plan {
    pub fn new(source: &dyn ModelSource, options: &ConvertOptions) -> Result<Self, ConvertError> {
        let metadata = source.metadata();
        metadata
            .config
            .check()
            .map_err(odmoe_formats::manifest::ManifestError::Config)?;
        let tensors = TensorIndex::new(source)?;
        let mut planner = Planner {
            source,
            options,
            manifest: empty_manifest(source, options),
            files: Vec::new(),
            kept_matrices: 0,
            quantised_already: 0,
        };
        planner.plan_base(&tensors)?;
        planner.plan_experts(&tensors)?;
        let Planner {
            mut manifest,
            files,
            kept_matrices,
            quantised_already,
            ..
        } = planner;
        manifest.format_version = version_of(manifest.layout());
        manifest.validate()?;
        Ok(Self {
            manifest,
            files,
            kept_matrices,
            quantised_already,
            text_bytes: text_bytes(metadata),
        })
    }

    /// Bytes of all tensor files.
    pub fn store_bytes(&self) -> u64 {
        self.manifest.files.iter().map(|file| file.bytes).sum()
    }

    /// Files and folders that the store is made of, at most.
    pub fn needed_files(&self) -> u64 {
        let layers = self.manifest.config.num_hidden_layers;
        self.files.len() as u64 + u64::from(layers) + OTHER_FILES
    }

    /// Bytes that must be free.
    pub fn needed(&self) -> ByteCount {
        let margin = MARGIN + self.files.len() as u64 * MARGIN_PER_FILE;
        ByteCount(
            self.store_bytes()
                .saturating_add(self.text_bytes)
                .saturating_add(margin),
        )
    }
}

/// The source's tensors by id, known to be exactly those that the configuration calls for.
struct TensorIndex<'a> {
    by_id: HashMap<&'a TensorId, usize>,
    /// In the order of a forward pass.
    resident: Vec<ExpectedTensor>,
}

impl<'a> TensorIndex<'a> {
    fn new(source: &'a dyn ModelSource) -> Result<Self, ConvertError> {
        let config = &source.metadata().config;
        let Some(resident) = expected::resident_tensors(config) else {
            return Err(ConvertError::Architecture {
                found: config.architecture.clone(),
            });
        };
        let ids = source
            .tensors()
            .iter()
            .enumerate()
            .map(|(index, tensor)| (&tensor.id, index));
        let index = Self {
            by_id: ids.collect(),
            resident,
        };
        for tensor in &index.resident {
            index.check(
                source,
                TensorId::Resident(tensor.name.clone()),
                &tensor.shape,
            )?;
        }
        // A configuration that claims more experts than there are ends at the first that is missing.
        for key in expert_keys(source) {
            for (role, shape) in expected::expert_tensors(config) {
                index.check(source, TensorId::Expert(key, role), &shape)?;
            }
        }
        index.check_no_others(source)?;
        Ok(index)
    }

    fn check(
        &self,
        source: &dyn ModelSource,
        id: TensorId,
        expected: &[u64],
    ) -> Result<(), SourceError> {
        let Some(&index) = self.by_id.get(&id) else {
            return Err(SourceError::MissingTensor {
                id,
                shape: expected.to_vec(),
            });
        };
        let tensor = &source.tensors()[index];
        if tensor.shape != expected {
            return Err(SourceError::Shape {
                source_name: shown(&tensor.source_name),
                expected: expected.to_vec(),
                found: tensor.shape.clone(),
            });
        }
        Ok(())
    }

    fn check_no_others(&self, source: &dyn ModelSource) -> Result<(), SourceError> {
        let config = &source.metadata().config;
        let resident: HashSet<&str> = self
            .resident
            .iter()
            .map(|tensor| tensor.name.as_str())
            .collect();
        for (index, tensor) in source.tensors().iter().enumerate() {
            let known = match &tensor.id {
                TensorId::Resident(name) => resident.contains(name.as_str()),
                TensorId::Expert(ExpertKey { layer, index, .. }, _) => {
                    layer.0 < config.num_hidden_layers
                        && config.is_sparse(layer.0)
                        && index.0 < config.num_experts()
                }
            };
            if !known {
                return Err(SourceError::UnknownTensor(shown(&tensor.source_name)));
            }
            if self.by_id[&tensor.id] != index {
                return Err(SourceError::DuplicateTensor(tensor.id.clone()));
            }
        }
        Ok(())
    }

    fn get(&self, id: &TensorId) -> usize {
        self.by_id[id]
    }
}

/// Keys of all routed experts, ascending.
fn expert_keys(source: &dyn ModelSource) -> impl Iterator<Item = ExpertKey> {
    let config = &source.metadata().config;
    let sparse = (0..config.num_hidden_layers).filter(|layer| config.is_sparse(*layer));
    sparse.flat_map(|layer| {
        (0..config.num_experts()).map(move |index| ExpertKey::routed(layer, index))
    })
}

struct Planner<'a> {
    source: &'a dyn ModelSource,
    options: &'a ConvertOptions,
    manifest: Manifest,
    files: Vec<PlannedFile>,
    kept_matrices: usize,
    quantised_already: usize,
}

impl Planner<'_> {
    fn plan_base(&mut self, tensors: &TensorIndex<'_>) -> Result<(), ConvertError> {
        let mut batch: Vec<PlannedTensor> = Vec::new();
        let mut batch_bytes = 0u64;
        for expected in &tensors.resident {
            let source = tensors.get(&TensorId::Resident(expected.name.clone()));
            let format = self.resident_format(expected.tensor_use, source);
            let bytes = format.tensor_bytes(&expected.shape).unwrap_or(u64::MAX);
            let full = batch_bytes.saturating_add(bytes) > self.options.base_file_limit.0;
            if full && !batch.is_empty() {
                self.add_base_file(std::mem::take(&mut batch))?;
                batch_bytes = 0;
            }
            batch_bytes = batch_bytes.saturating_add(bytes);
            batch.push(PlannedTensor {
                source,
                name: expected.name.clone(),
                format,
                layout: self.resident_layout(expected, format),
            });
        }
        if batch.is_empty() {
            Ok(())
        } else {
            self.add_base_file(batch)
        }
    }

    fn resident_format(&mut self, tensor_use: TensorUse, source: usize) -> BlockFormat {
        let format = self.source.tensors()[source].format;
        match tensor_use {
            TensorUse::Matrix => self.matrix_format(source),
            // Exact from every format.
            TensorUse::Norm | TensorUse::Bias => BlockFormat::F32,
            TensorUse::Router | TensorUse::SharedGate if format.is_float() => format,
            // Stores have none of these in blocks.
            TensorUse::Router | TensorUse::SharedGate => BlockFormat::F32,
        }
    }

    fn resident_layout(&self, expected: &ExpectedTensor, format: BlockFormat) -> WeightLayout {
        // Rows of an embedding that is not the output head too are only looked up, one by one.
        let looked_up = expected.name == EMBED_TOKENS && !self.manifest.config.tie_word_embeddings;
        match expected.tensor_use {
            TensorUse::Matrix if !looked_up => {
                self.options.layout.of_tensor(format, &expected.shape)
            }
            _ => WeightLayout::RowMajor,
        }
    }

    /// Counts the matrices that were to be quantised and are not.
    fn matrix_format(&mut self, source: usize) -> BlockFormat {
        let tensor = &self.source.tensors()[source];
        let columns = tensor.shape.last().copied().unwrap_or(0);
        match self.options.weights {
            WeightFormat::Source => {}
            WeightFormat::Q8_0 if !tensor.format.is_float() => {
                self.quantised_already += usize::from(tensor.format != BlockFormat::Q8_0);
            }
            WeightFormat::Q8_0 if BlockFormat::Q8_0.row_bytes(columns).is_none() => {
                self.kept_matrices += 1;
            }
            WeightFormat::Q8_0 => return BlockFormat::Q8_0,
        }
        tensor.format
    }

    fn add_base_file(&mut self, tensors: Vec<PlannedTensor>) -> Result<(), ConvertError> {
        let path = format!("base-{:05}.safetensors", self.files.len() + 1);
        let (file, planned) = (FileIndex(self.files.len() as u32), tensors.clone());
        let layout = self.add_file(
            path,
            PlannedFile {
                owner: FileOwner::Base,
                tensors,
            },
        )?;
        for (tensor, placed) in planned.into_iter().zip(layout.tensors) {
            let resident = ResidentTensor {
                file,
                offset: placed.offset,
                bytes: placed.bytes,
                shape: self.source.tensors()[tensor.source].shape.clone(),
                format: tensor.format,
                layout: tensor.layout,
                xxh3_128: "0".repeat(32),
            };
            self.manifest.resident.insert(tensor.name, resident);
        }
        Ok(())
    }

    fn plan_experts(&mut self, tensors: &TensorIndex<'_>) -> Result<(), ConvertError> {
        for key in expert_keys(self.source) {
            let planned = ExpertRole::ALL.map(|role| {
                let source = tensors.get(&TensorId::Expert(key, role));
                let format = self.matrix_format(source);
                let shape = &self.source.tensors()[source].shape;
                PlannedTensor {
                    source,
                    name: role.name().into(),
                    format,
                    layout: self.options.layout.of_tensor(format, shape),
                }
            });
            self.add_expert_file(key, planned.to_vec())?;
        }
        Ok(())
    }

    fn add_expert_file(
        &mut self,
        key: ExpertKey,
        tensors: Vec<PlannedTensor>,
    ) -> Result<(), ConvertError> {
        let (layer, index) = (key.layer.0, key.index.0);
        let path = format!("experts/layer-{layer:03}/expert-{index:03}.safetensors");
        let (file, planned) = (FileIndex(self.files.len() as u32), tensors.clone());
        let owner = FileOwner::Object(self.manifest.objects.len());
        let layout = self.add_file(path, PlannedFile { owner, tensors })?;
        let mut described = BTreeMap::new();
        let mut layouts = planned.iter().map(|tensor| tensor.layout);
        let object_layout = layouts.find(|layout| !layout.is_row_major());
        for (tensor, placed) in planned.into_iter().zip(&layout.tensors) {
            let object_tensor = ObjectTensor {
                offset: placed.offset - layout.data_start(),
                bytes: placed.bytes,
                shape: self.source.tensors()[tensor.source].shape.clone(),
                format: tensor.format,
            };
            described.insert(tensor.name, object_tensor);
        }
        self.manifest.objects.push(PageableObject {
            key,
            file,
            offset: layout.data_start(),
            bytes: layout.data_bytes(),
            layout: object_layout.unwrap_or_default(),
            tensors: described,
            xxh3_128: "0".repeat(32),
        });
        Ok(())
    }

    fn add_file(
        &mut self,
        path: String,
        file: PlannedFile,
    ) -> Result<SafetensorsLayout, ConvertError> {
        let layout = file.layout(self.source)?;
        self.manifest.files.push(StoreFile {
            path,
            bytes: layout.file_bytes,
        });
        self.files.push(file);
        Ok(layout)
    }
}

fn empty_manifest(source: &dyn ModelSource, options: &ConvertOptions) -> Manifest {
    let metadata = source.metadata();
    let text = &metadata.text;
    let file = |there: bool, name: &str| there.then(|| name.to_string());
    Manifest {
        format_version: FORMAT_VERSION_ROW_MAJOR,
        name: options.name_of(source).into(),
        config: metadata.config.clone(),
        files: Vec::new(),
        resident: BTreeMap::new(),
        objects: Vec::new(),
        text: TextFiles {
            tokenizer: file(text.tokenizer.is_some(), TOKENIZER),
            chat_template: file(text.chat_template.is_some(), CHAT_TEMPLATE),
            generation_config: file(text.generation_config.is_some(), GENERATION_CONFIG),
            special_tokens: text.special_tokens.clone(),
            end_of_sequence_ids: text.end_of_sequence_ids.clone(),
        },
        provenance: Provenance {
            converter: super::CONVERTER.into(),
            sources: source.files().iter().map(unhashed).collect(),
        },
    }
}

fn unhashed(file: &crate::source::SourceFileInfo) -> SourceFile {
    SourceFile {
        name: file.name.clone(),
        bytes: file.bytes,
        sha256: "0".repeat(64),
    }
}

fn text_bytes(metadata: &ModelMetadata) -> u64 {
    let text = &metadata.text;
    let bytes = |contents: Option<&[u8]>| contents.map_or(0, |contents| contents.len() as u64);
    bytes(text.tokenizer.as_deref())
        + bytes(text.chat_template.as_deref().map(str::as_bytes))
        + bytes(text.generation_config.as_deref())
}
