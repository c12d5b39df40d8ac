//! GGUF files: a model in one file, or in a set `NAME-00001-of-0000N.gguf`, described by its metadata alone.

mod config;
mod folder;
mod keys;
mod names;
mod parts;
mod rotary;
mod tensors;
pub mod tokenizer;
mod variations;

use crate::fingerprint::{Fingerprint, FingerprintBuilder};
use crate::source::{
    Advice, ModelMetadata, ModelSource, SourceError, SourceFileInfo, SourceTensor,
};
use crate::source_folder::SourceFolder;
pub use folder::model_of_folder;
use odmoe_formats::gguf::{MAGIC, Metadata};
use parts::Parts;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use tensors::{Place, Tensors};

/// The longest name that is taken from a file.
const MAX_NAME_CHARS: usize = 256;

/// An opened model. Its files are read by position and never mapped or kept open.
pub struct GgufModel {
    metadata: ModelMetadata,
    folder: SourceFolder,
    tensors: Vec<SourceTensor>,
    places: Vec<Place>,
    fingerprint: Fingerprint,
}

impl GgufModel {
    /// Reads the descriptions of a file and of all others of its set, whichever of the set is given.
    pub fn open(path: &Path) -> Result<Self, SourceError> {
        let parts = Parts::open(path)?;
        let config = config::read(&parts)?;
        let Tensors { tensors, places } = tensors::read(&parts, &config)?;
        let fingerprint = FingerprintBuilder::new("gguf")
            .part("files", parts.folder.fingerprint()?.to_string().as_bytes())
            .part("headers", parts.header_digest.to_string().as_bytes())
            .finish();
        let text = tokenizer::import(&parts.metadata);
        let text = text.map_err(|source| SourceError::GgufTokenizer {
            path: parts.path.clone(),
            source,
        })?;
        let metadata = ModelMetadata {
            suggested_name: suggested_name(&parts.metadata, &parts.name),
            config,
            text,
        };
        Ok(Self {
            metadata,
            folder: parts.folder,
            tensors,
            places,
            fingerprint,
        })
    }
}

/// Whether a file says that it is one, by its name or its first bytes.
pub fn is_gguf(path: &Path) -> bool {
    let named = path
        .extension()
        .is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"));
    let mut first = [0; MAGIC.len()];
    let begins = |mut file: File| file.read_exact(&mut first).is_ok() && first == MAGIC;
    path.is_file() && (named || File::open(path).is_ok_and(begins))
}

/// What the model is called inside, or else what its file is called.
fn suggested_name(metadata: &Metadata, file_name: &str) -> String {
    let inside = metadata.text("general.name").ok().flatten();
    let candidates = [inside.unwrap_or_default(), file_name];
    let shown = candidates.map(|name| {
        let shown = name.chars().filter(|c| !c.is_control());
        let shown: String = shown.take(MAX_NAME_CHARS).collect();
        shown.trim().to_owned()
    });
    let found = shown.into_iter().find(|name| !name.is_empty());
    found.unwrap_or_else(|| "model".into())
}

impl ModelSource for GgufModel {
    fn metadata(&self) -> &ModelMetadata {
        &self.metadata
    }

    fn tensors(&self) -> &[SourceTensor] {
        &self.tensors
    }

    fn read_tensor(&self, index: usize, offset: u64, into: &mut [u8]) -> Result<(), SourceError> {
        self.places[index].read(&self.folder, offset, into)
    }

    fn files(&self) -> &[SourceFileInfo] {
        self.folder.infos()
    }

    fn read_file(&self, index: usize, offset: u64, into: &mut [u8]) -> Result<(), SourceError> {
        self.folder.read_at(index, offset, into)
    }

    fn tensor_start(&self, index: usize) -> Option<(usize, u64)> {
        Some(self.places[index].start())
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
