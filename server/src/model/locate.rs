//! What a model's path leads to.

use odmoe_convert::gguf::{is_gguf, model_of_folder};
use odmoe_convert::{SourceError, is_store};
use std::io;
use std::path::{Path, PathBuf};

/// Where a model comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelLocation {
    /// The binary itself.
    Embedded,
    /// A store, served in place.
    Store(PathBuf),
    /// A Hugging Face folder, converted once into the cache folder.
    HuggingFace(PathBuf),
    /// A GGUF file, or one of a set, converted once into the cache folder.
    Gguf(PathBuf),
}

/// A path that leads to no model.
#[derive(Debug, thiserror::Error)]
pub enum LocateError {
    /// The system refused.
    #[error("{path}: {source}")]
    Io {
        /// What was given.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A folder of several models.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// Something else.
    #[error(
        "{0}: no model is here; give a GGUF file, a folder with one GGUF model, a Hugging Face folder (config.json and \
         safetensors), or a store (a folder with manifest.json)"
    )]
    Unknown(PathBuf),
}

/// Looks at names, and at the first bytes of a file that has no telling one. Without a path it is the embedded model.
pub fn locate(path: Option<&Path>) -> Result<ModelLocation, LocateError> {
    let Some(path) = path else {
        return Ok(ModelLocation::Embedded);
    };
    let metadata = std::fs::metadata(path);
    let metadata = metadata.map_err(|source| LocateError::Io {
        path: path.to_owned(),
        source,
    })?;
    if metadata.is_dir() {
        if is_store(path) {
            return Ok(ModelLocation::Store(path.to_owned()));
        }
        if let Some(file) = model_of_folder(path)? {
            return Ok(ModelLocation::Gguf(file));
        }
        if path.join("config.json").is_file() {
            return Ok(ModelLocation::HuggingFace(path.to_owned()));
        }
    } else if is_gguf(path) {
        return Ok(ModelLocation::Gguf(path.to_owned()));
    }
    Err(LocateError::Unknown(path.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_told_apart_by_their_files() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        assert_eq!(locate(None).unwrap(), ModelLocation::Embedded);
        assert!(matches!(
            locate(Some(&path.join("nothing"))),
            Err(LocateError::Io { .. })
        ));
        assert!(matches!(locate(Some(path)), Err(LocateError::Unknown(_))));
        std::fs::write(path.join("config.json"), "{}").unwrap();
        assert_eq!(
            locate(Some(path)).unwrap(),
            ModelLocation::HuggingFace(path.to_owned())
        );
        std::fs::write(path.join("manifest.json"), "{}").unwrap();
        assert_eq!(
            locate(Some(path)).unwrap(),
            ModelLocation::Store(path.to_owned())
        );
        let downloaded = path.join("downloaded");
        std::fs::create_dir(&downloaded).unwrap();
        let one = downloaded.join("one.gguf");
        std::fs::write(&one, "").unwrap();
        assert_eq!(locate(Some(&downloaded)).unwrap(), ModelLocation::Gguf(one));
        std::fs::write(downloaded.join("two.gguf"), "").unwrap();
        let error = locate(Some(&downloaded)).unwrap_err().to_string();
        assert!(error.contains("one.gguf, two.gguf"), "{error}");
        let gguf = path.join("model.GGUF");
        std::fs::write(&gguf, "").unwrap();
        assert_eq!(locate(Some(&gguf)).unwrap(), ModelLocation::Gguf(gguf));
        let blob = path.join("sha256-0123");
        std::fs::write(&blob, "GGUF").unwrap();
        assert_eq!(locate(Some(&blob)).unwrap(), ModelLocation::Gguf(blob));
        assert!(matches!(
            locate(Some(&path.join("config.json"))),
            Err(LocateError::Unknown(_))
        ));
    }
}
