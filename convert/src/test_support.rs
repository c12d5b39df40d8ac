//! What tests of several modules need: random models in temporary folders, stores read back, made-up sources.

use crate::fingerprint::{Fingerprint, FingerprintBuilder};
use crate::hugging_face::HuggingFaceFolder;
use crate::progress::{Progress, ProgressReport};
use crate::random_model::RandomModel;
use crate::source::{
    ModelMetadata, ModelSource, SourceError, SourceFileInfo, SourceTensor, TensorId, TextContents,
};
use odmoe_formats::expected;
use odmoe_formats::manifest::Manifest;
use odmoe_formats::model_config::ModelConfig;
use odmoe_formats::names::ExpertRole;
use odmoe_formats::{BlockFormat, ExpertKey};
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use tempfile::TempDir;

/// A temporary folder with a model in `model/`; `store` names a place beside it.
pub(crate) struct Fixture {
    pub folder: TempDir,
    pub model: PathBuf,
    pub store: PathBuf,
}

pub(crate) fn fixture(model: &RandomModel) -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let (path, store) = (folder.path().join("model"), folder.path().join("store"));
    model.write(&path).unwrap();
    Fixture {
        folder,
        model: path,
        store,
    }
}

impl Fixture {
    pub fn open(&self) -> HuggingFaceFolder {
        HuggingFaceFolder::open(&self.model).unwrap()
    }

    /// Changes a JSON file of the model.
    pub fn edit_json(&self, name: &str, change: impl FnOnce(&mut serde_json::Value)) {
        let path = self.model.join(name);
        let mut value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        change(&mut value);
        fs::write(path, serde_json::to_vec(&value).unwrap()).unwrap();
    }
}

/// A tensor of a source as values.
pub(crate) fn source_values(source: &dyn ModelSource, id: &TensorId) -> Vec<f32> {
    let index = source
        .tensors()
        .iter()
        .position(|tensor| tensor.id == *id)
        .unwrap();
    let tensor = &source.tensors()[index];
    let mut bytes = vec![0; tensor.format.tensor_bytes(&tensor.shape).unwrap() as usize];
    source.read_tensor(index, 0, &mut bytes).unwrap();
    decode(tensor.format, &bytes, tensor.elements())
}

/// A tensor of a store as values, with the format that it has there.
pub(crate) fn store_values(
    store: &Path,
    manifest: &Manifest,
    id: &TensorId,
) -> (BlockFormat, Vec<f32>) {
    let (file, offset, bytes, shape, format) = match id {
        TensorId::Resident(name) => {
            let tensor = &manifest.resident[name];
            (
                tensor.file,
                tensor.offset,
                tensor.bytes,
                &tensor.shape,
                tensor.format,
            )
        }
        TensorId::Expert(key, role) => {
            let object = manifest
                .objects
                .iter()
                .find(|object| object.key == *key)
                .unwrap();
            let tensor = &object.tensors[role.name()];
            let offset = object.offset + tensor.offset;
            (
                object.file,
                offset,
                tensor.bytes,
                &tensor.shape,
                tensor.format,
            )
        }
    };
    let contents = fs::read(store.join(&manifest.file(file).path)).unwrap();
    let bytes = &contents[offset as usize..(offset + bytes) as usize];
    (format, decode(format, bytes, shape.iter().product()))
}

fn decode(format: BlockFormat, bytes: &[u8], elements: u64) -> Vec<f32> {
    let mut values = vec![0.0; elements as usize];
    format.decode_row(bytes, &mut values);
    values
}

/// Ends the work at a given report.
pub(crate) struct StopAt {
    pub report: usize,
    pub seen: AtomicUsize,
}

impl StopAt {
    pub fn report(report: usize) -> Self {
        Self {
            report,
            seen: AtomicUsize::new(0),
        }
    }
}

impl Progress for StopAt {
    fn report(&self, _report: &ProgressReport<'_>) -> ControlFlow<()> {
        match self.seen.fetch_add(1, Ordering::Relaxed) + 1 >= self.report {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }
}

/// Ends the work when a step begins.
pub(crate) struct StopAtStep(pub &'static str);

impl Progress for StopAtStep {
    fn report(&self, report: &ProgressReport<'_>) -> ControlFlow<()> {
        match report.step == self.0 {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }
}

/// A source that lives in no file: every weight is the same.
pub(crate) struct MadeUpSource {
    pub metadata: ModelMetadata,
    pub tensors: Vec<SourceTensor>,
    pub weight: f32,
}

impl MadeUpSource {
    /// Every tensor that the configuration calls for, as F32.
    pub fn new(config: ModelConfig) -> Self {
        let tensor = |id: TensorId, shape: Vec<u64>| SourceTensor {
            source_name: id.to_string(),
            id,
            format: BlockFormat::F32,
            shape,
        };
        let resident = expected::resident_tensors(&config).unwrap().into_iter();
        let mut tensors: Vec<SourceTensor> = resident
            .map(|wanted| tensor(TensorId::Resident(wanted.name), wanted.shape))
            .collect();
        for layer in (0..config.num_hidden_layers).filter(|layer| config.is_sparse(*layer)) {
            for index in 0..config.num_experts() {
                for role in ExpertRole::ALL {
                    let shape = role.shape(config.hidden_size, config.moe_intermediate_size());
                    let id = TensorId::Expert(ExpertKey::routed(layer, index), role);
                    tensors.push(tensor(id, shape.to_vec()));
                }
            }
        }
        let text = TextContents::default();
        let metadata = ModelMetadata {
            suggested_name: "made-up".into(),
            config,
            text,
        };
        Self {
            metadata,
            tensors,
            weight: 0.5,
        }
    }
}

impl ModelSource for MadeUpSource {
    fn metadata(&self) -> &ModelMetadata {
        &self.metadata
    }

    fn tensors(&self) -> &[SourceTensor] {
        &self.tensors
    }

    fn read_tensor(&self, _index: usize, _offset: u64, into: &mut [u8]) -> Result<(), SourceError> {
        for bytes in into.chunks_exact_mut(4) {
            bytes.copy_from_slice(&self.weight.to_le_bytes());
        }
        Ok(())
    }

    fn files(&self) -> &[SourceFileInfo] {
        &[]
    }

    fn read_file(&self, _index: usize, _offset: u64, _into: &mut [u8]) -> Result<(), SourceError> {
        unreachable!("there are no files")
    }

    fn fingerprint(&self) -> Fingerprint {
        FingerprintBuilder::new("made up").finish()
    }

    fn check_unchanged(&self) -> Result<(), SourceError> {
        Ok(())
    }
}
