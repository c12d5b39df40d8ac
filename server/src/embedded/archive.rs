//! Packing a store into a tar that depends on nothing but its contents, and reading it back.

use crate::embedded::Archive;
use odmoe_formats::manifest::{MANIFEST_FILE, Manifest, ManifestError};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::io::{self, Cursor, Read, Write};
use std::path::{Component, Path, PathBuf};

/// A store that cannot be packed.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// The system refused.
    #[error("{path}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is no store.
    #[error("{path}: {source}")]
    Manifest {
        /// Which manifest.
        path: PathBuf,
        /// Why.
        source: ManifestError,
    },
}

/// Writes the files that a store's manifest names, and the manifest, in order of their paths, without times, owners or
/// folders: the same store gives the same bytes. Returns the SHA-256 in hex.
pub fn pack(store: &Path, output: &Path) -> Result<String, PackError> {
    let io_error = |path: &Path| {
        let path = path.to_owned();
        move |source| PackError::Io { path, source }
    };
    let manifest_path = store.join(MANIFEST_FILE);
    let json = std::fs::read(&manifest_path).map_err(io_error(&manifest_path))?;
    let manifest = Manifest::from_json(&json).map_err(|source| PackError::Manifest {
        path: manifest_path,
        source,
    })?;

    let file = std::fs::File::create(output).map_err(io_error(output))?;
    let mut writer = Hashing {
        file: io::BufWriter::new(file),
        hash: Sha256::new(),
    };
    let mut builder = tar::Builder::new(&mut writer);
    for name in file_names(&manifest) {
        let path = store.join(&name);
        let bytes = std::fs::read(&path).map_err(io_error(&path))?;
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        builder
            .append_data(&mut header, &name, bytes.as_slice())
            .map_err(io_error(output))?;
    }
    builder.finish().map_err(io_error(output))?;
    drop(builder);
    writer.file.flush().map_err(io_error(output))?;
    Ok(to_hex(&writer.hash.finalize()))
}

fn file_names(manifest: &Manifest) -> BTreeSet<String> {
    let text = &manifest.text;
    let mut names: BTreeSet<String> = manifest
        .files
        .iter()
        .map(|file| file.path.clone())
        .collect();
    let optional = [
        &text.tokenizer,
        &text.chat_template,
        &text.generation_config,
    ];
    names.extend(optional.into_iter().flatten().cloned());
    names.insert(MANIFEST_FILE.to_owned());
    names
}

struct Hashing<W> {
    file: W,
    hash: Sha256,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Lower-case hex.
pub fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// One file of an archive.
pub(super) struct Member {
    /// Relative, without `..`.
    pub path: PathBuf,
    pub bytes: Vec<u8>,
}

impl Archive {
    /// Whether the bytes are those that were packed.
    pub(super) fn is_whole(&self) -> bool {
        to_hex(&Sha256::digest(self.bytes)) == self.sha256.trim()
    }

    /// Calls `visit` with each file.
    pub(super) fn for_each(
        &self,
        mut visit: impl FnMut(Member) -> io::Result<()>,
    ) -> io::Result<()> {
        for entry in tar::Archive::new(Cursor::new(self.bytes)).entries()? {
            let mut entry = entry?;
            let path = relative(&entry.path()?)?;
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes)?;
            visit(Member { path, bytes })?;
        }
        Ok(())
    }
}

fn relative(path: &Path) -> io::Result<PathBuf> {
    if path
        .components()
        .all(|part| matches!(part, Component::Normal(_)))
    {
        Ok(path.to_owned())
    } else {
        Err(io::Error::other(format!(
            "{} is not a path inside a store",
            path.display()
        )))
    }
}
