//! The store's manifest: what the files of a converted model hold, and the checksum of every read.

mod error;
mod unique_map;
mod validate;

pub use error::ManifestError;

use crate::{BlockFormat, ByteCount, ExpertKey, WeightLayout, model_config::ModelConfig};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The newest version that this build writes and reads. It reads 1 as well, and writes 1 where every matrix is
/// row-major, which is all that 1 has.
pub const FORMAT_VERSION: u32 = 2;
/// See [`FORMAT_VERSION`].
pub const FORMAT_VERSION_ROW_MAJOR: u32 = 1;
/// Every pageable object starts and ends on a multiple of this, in bytes: one aligned direct read.
pub const OBJECT_ALIGNMENT_BYTES: u64 = 4096;
/// Every tensor inside an object starts on a multiple of this, in bytes.
pub const TENSOR_ALIGNMENT_BYTES: u64 = 256;
/// The name of the manifest in a store.
pub const MANIFEST_FILE: &str = "manifest.json";
/// The largest manifest that is read: several times that of the largest models known.
pub const MAX_MANIFEST_BYTES: u64 = 256 << 20;

/// `manifest.json`, written last: a folder without it is no store.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// See [`FORMAT_VERSION`].
    pub format_version: u32,
    /// The name that clients see, unless the server is told another.
    pub name: String,
    /// Architecture and hyper-parameters.
    pub config: ModelConfig,
    /// Every file that the tensors live in, relative to the store, with its exact size.
    pub files: Vec<StoreFile>,
    /// Everything that stays in memory, by canonical tensor name (see `docs/store.md`).
    #[serde(deserialize_with = "unique_map::deserialize")]
    pub resident: BTreeMap<String, ResidentTensor>,
    /// Everything that is paged.
    pub objects: Vec<PageableObject>,
    /// The text side.
    pub text: TextFiles,
    /// Where it came from.
    pub provenance: Provenance,
}

#[derive(Deserialize)]
struct VersionOnly {
    format_version: u64,
}

impl Manifest {
    /// Parses and validates. Memory use is a small multiple of `json`, which may be hostile.
    pub fn from_json(json: &[u8]) -> Result<Self, ManifestError> {
        if json.len() as u64 > MAX_MANIFEST_BYTES {
            return Err(ManifestError::TooLong {
                bytes: json.len() as u64,
            });
        }
        let invalid = |error: serde_json::Error| ManifestError::Json(error.to_string());
        // The version first: a newer format must be called that, not a list of missing fields.
        let version = serde_json::from_slice::<VersionOnly>(json).map_err(invalid)?;
        let known = [FORMAT_VERSION_ROW_MAJOR, FORMAT_VERSION].map(u64::from);
        if !known.contains(&version.format_version) {
            return Err(ManifestError::Version {
                found: version.format_version,
            });
        }
        let manifest: Self = serde_json::from_slice(json).map_err(invalid)?;
        manifest.validate()?;
        Ok(manifest)
    }

    /// Checks everything that can be checked without the files. What passes has every range inside its declared
    /// file and apart from all others, every size equal to its shape's, and exactly the objects of its
    /// configuration.
    pub fn validate(&self) -> Result<(), ManifestError> {
        validate::validate(self)
    }

    /// As JSON. The same manifest gives the same bytes.
    pub fn to_json(&self) -> Vec<u8> {
        let mut json = serde_json::to_vec_pretty(self).expect("strings and numbers serialise");
        json.push(b'\n');
        json
    }

    /// The declared file of an index. Panics where the manifest was not validated.
    pub fn file(&self, index: FileIndex) -> &StoreFile {
        &self.files[index.0 as usize]
    }

    /// The layout of its weights, as far as they can have it: row-major where all are.
    pub fn layout(&self) -> WeightLayout {
        let resident = self.resident.values().map(|tensor| tensor.layout);
        let mut all = resident.chain(self.objects.iter().map(|object| object.layout));
        all.find(|layout| !layout.is_row_major())
            .unwrap_or_default()
    }

    /// Bytes of all resident tensors.
    pub fn resident_bytes(&self) -> ByteCount {
        ByteCount(self.resident.values().map(|tensor| tensor.bytes).sum())
    }

    /// Bytes of all pageable objects.
    pub fn object_bytes(&self) -> ByteCount {
        ByteCount(self.objects.iter().map(|object| object.bytes).sum())
    }
}

/// One tensor file of the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreFile {
    /// Path relative to the store, `/` between parts.
    pub path: String,
    /// Its exact size.
    pub bytes: u64,
}

/// An index into [`Manifest::files`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FileIndex(pub u32);

/// One tensor that stays in memory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ResidentTensor {
    /// The file.
    pub file: FileIndex,
    /// First byte in the file.
    pub offset: u64,
    /// Length in bytes.
    pub bytes: u64,
    /// Rows first, elements of a row last.
    pub shape: Vec<u64>,
    /// How it is stored.
    pub format: BlockFormat,
    /// In which order its blocks lie.
    #[serde(default, skip_serializing_if = "WeightLayout::is_row_major")]
    pub layout: WeightLayout,
    /// XXH3-128 of exactly these bytes, 32 lower-case hex digits.
    pub xxh3_128: String,
}

/// One object that is read as a whole: a routed expert.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PageableObject {
    /// Its name.
    pub key: ExpertKey,
    /// The file.
    pub file: FileIndex,
    /// First byte in the file, a multiple of [`OBJECT_ALIGNMENT_BYTES`].
    pub offset: u64,
    /// Length, a multiple of [`OBJECT_ALIGNMENT_BYTES`].
    pub bytes: u64,
    /// In which order the blocks of its tensors lie, as far as they can: see [`PageableObject::layout_of`].
    pub layout: WeightLayout,
    /// The tensors inside, by role: `gate_proj`, `up_proj`, `down_proj`.
    #[serde(deserialize_with = "unique_map::deserialize")]
    pub tensors: BTreeMap<String, ObjectTensor>,
    /// XXH3-128 of exactly the bytes read, 32 lower-case hex digits.
    pub xxh3_128: String,
}

impl PageableObject {
    /// The layout of one of its tensors: the object's own, or row-major where that does not fit.
    pub fn layout_of(&self, tensor: &ObjectTensor) -> WeightLayout {
        let rows = tensor.shape.first().copied().unwrap_or(0);
        self.layout.of_matrix(tensor.format, rows)
    }
}

/// One tensor inside a pageable object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectTensor {
    /// First byte, from the object's start.
    pub offset: u64,
    /// Length in bytes.
    pub bytes: u64,
    /// Rows first, elements of a row last.
    pub shape: Vec<u64>,
    /// How it is stored.
    pub format: BlockFormat,
}

/// The text side of a store: file names relative to it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TextFiles {
    /// `tokenizer.json` in Hugging Face's format.
    pub tokenizer: Option<String>,
    /// The Jinja chat template.
    pub chat_template: Option<String>,
    /// `generation_config.json`: default sampling and end-of-sequence ids.
    pub generation_config: Option<String>,
    /// Text of the special tokens that templates name: `bos_token`, `eos_token`, `pad_token`.
    #[serde(default, deserialize_with = "unique_map::deserialize")]
    pub special_tokens: BTreeMap<String, String>,
    /// Token ids that end an answer, from the generation config or else the model config.
    #[serde(default)]
    pub end_of_sequence_ids: Vec<u32>,
}

/// Where a store came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provenance {
    /// The converter's name and version.
    pub converter: String,
    /// The files that it read.
    pub sources: Vec<SourceFile>,
}

/// One file that a conversion read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceFile {
    /// File name, without folders.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// SHA-256, 64 lower-case hex digits.
    pub sha256: String,
}

#[cfg(test)]
mod tests;
