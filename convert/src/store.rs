//! Reading a store's manifest from its folder.

use odmoe_formats::ByteCount;
use odmoe_formats::manifest::{MANIFEST_FILE, MAX_MANIFEST_BYTES, Manifest, ManifestError};
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

/// A folder that cannot be opened as a store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenStoreError {
    /// No manifest: the conversion was stopped, or it is something else.
    #[error(
        "{folder}: there is no {MANIFEST_FILE}, so it is not a (complete) store; convert the model again"
    )]
    NoManifest {
        /// The folder.
        folder: PathBuf,
    },
    /// The system refused.
    #[error("{path}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A manifest that is refused.
    #[error("{path}: {source}")]
    Manifest {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        source: ManifestError,
    },
    /// A file of another size than the manifest says.
    #[error("{path}: {found} where the manifest says {expected}; convert the model again")]
    FileSize {
        /// Which file.
        path: PathBuf,
        /// From the manifest.
        expected: ByteCount,
        /// On disk.
        found: ByteCount,
    },
}

/// Whether a folder claims to be a store: it has a manifest.
pub fn is_store(folder: &Path) -> bool {
    folder.join(MANIFEST_FILE).is_file()
}

/// Reads and validates a store's manifest. The other files are not looked at: see [`check_store_files`].
pub fn open_store(folder: &Path) -> Result<Manifest, OpenStoreError> {
    let path = folder.join(MANIFEST_FILE);
    if !is_store(folder) {
        return Err(OpenStoreError::NoManifest {
            folder: folder.into(),
        });
    }
    let mut json = Vec::new();
    // One byte past the limit, so that a manifest that is too long is refused and not cut.
    let read =
        File::open(&path).and_then(|file| file.take(MAX_MANIFEST_BYTES + 1).read_to_end(&mut json));
    read.map_err(|source| OpenStoreError::Io {
        path: path.clone(),
        source,
    })?;
    Manifest::from_json(&json).map_err(|source| OpenStoreError::Manifest { path, source })
}

/// Whether every file of a store is there with its declared size. Reads no contents.
pub fn check_store_files(folder: &Path, manifest: &Manifest) -> Result<(), OpenStoreError> {
    for file in &manifest.files {
        let path = folder.join(&file.path);
        let found = file_size(&path)?;
        if found != file.bytes {
            let (expected, found) = (ByteCount(file.bytes), ByteCount(found));
            return Err(OpenStoreError::FileSize {
                path,
                expected,
                found,
            });
        }
    }
    let text = &manifest.text;
    let names = [
        &text.tokenizer,
        &text.chat_template,
        &text.generation_config,
    ];
    for name in names.into_iter().flatten() {
        file_size(&folder.join(name))?;
    }
    Ok(())
}

fn file_size(path: &Path) -> Result<u64, OpenStoreError> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(metadata.len()),
        Err(source) => Err(OpenStoreError::Io {
            path: path.into(),
            source,
        }),
    }
}
