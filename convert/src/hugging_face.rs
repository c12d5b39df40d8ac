//! A Hugging Face folder: `config.json`, safetensors in one file or many, a tokenizer.

mod config;
mod text;
mod weights;

use crate::fingerprint::{Fingerprint, FingerprintBuilder};
use crate::source::{
    Advice, ModelMetadata, ModelSource, SourceError, SourceFileInfo, SourceTensor,
};
use crate::source_folder::SourceFolder;
use std::path::Path;
use weights::{Weights, WeightsPlace};

/// An opened folder. Its files are read by position and never mapped or kept open, so they may be many.
pub struct HuggingFaceFolder {
    metadata: ModelMetadata,
    folder: SourceFolder,
    tensors: Vec<SourceTensor>,
    places: Vec<WeightsPlace>,
    fingerprint: Fingerprint,
}

impl HuggingFaceFolder {
    /// Reads the configuration, the text files and the headers of all tensor files.
    pub fn open(path: &Path) -> Result<Self, SourceError> {
        let mut folder = SourceFolder::new(path)?;
        let config = config::read(&mut folder)?;
        let text = text::read(&mut folder, &config)?;
        let Weights {
            tensors,
            places,
            header_digest,
        } = weights::read(&mut folder, &config.model)?;
        let fingerprint = FingerprintBuilder::new("hugging face folder")
            .part("files", folder.fingerprint()?.to_string().as_bytes())
            .part("config", &config.bytes)
            .part("headers", header_digest.to_string().as_bytes())
            .finish();
        let suggested_name = folder.name();
        let metadata = ModelMetadata {
            suggested_name,
            config: config.model,
            text,
        };
        Ok(Self {
            metadata,
            folder,
            tensors,
            places,
            fingerprint,
        })
    }
}

impl ModelSource for HuggingFaceFolder {
    fn metadata(&self) -> &ModelMetadata {
        &self.metadata
    }

    fn tensors(&self) -> &[SourceTensor] {
        &self.tensors
    }

    fn read_tensor(&self, index: usize, offset: u64, into: &mut [u8]) -> Result<(), SourceError> {
        let place = &self.places[index];
        let end = offset.checked_add(into.len() as u64);
        assert!(end.is_some_and(|end| end <= place.range.end - place.range.start));
        self.folder
            .read_at(place.file, place.range.start + offset, into)
    }

    fn files(&self) -> &[SourceFileInfo] {
        self.folder.infos()
    }

    fn read_file(&self, index: usize, offset: u64, into: &mut [u8]) -> Result<(), SourceError> {
        self.folder.read_at(index, offset, into)
    }

    fn tensor_start(&self, index: usize) -> Option<(usize, u64)> {
        let place = &self.places[index];
        Some((place.file, place.range.start))
    }

    fn advise(&self, index: usize, offset: u64, bytes: u64, advice: Advice) {
        self.folder.advise(index, offset, bytes, advice);
    }

    fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    fn check_unchanged(&self) -> Result<(), SourceError> {
        self.folder.check_unchanged()
    }
}

#[cfg(test)]
mod tests;
