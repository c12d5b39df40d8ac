//! The files of a model in one folder: which were used, and the signs by which a change of them is seen.

use crate::content_sample;
use crate::fingerprint::{Fingerprint, FingerprintBuilder};
use crate::source::{Advice, SourceError, SourceFileInfo, advise_file};
use odmoe_formats::ByteCount;
use odmoe_formats::checksum::{Xxh3, Xxh3Hasher};
use std::fs::{self, File, Metadata};
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Which file it is, its size and time of last change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sign {
    device: u64,
    inode: u64,
    bytes: u64,
    modified_s: i64,
    modified_ns: i64,
}

impl Sign {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.len(),
            modified_s: metadata.mtime(),
            modified_ns: metadata.mtime_nsec(),
        }
    }
}

pub(crate) struct SourceFolder {
    path: PathBuf,
    infos: Vec<SourceFileInfo>,
    signs: Vec<Sign>,
    /// Of the files that were read whole.
    digests: Vec<Option<Xxh3>>,
}

impl SourceFolder {
    pub fn new(path: &Path) -> Result<Self, SourceError> {
        // The full path, so that "." has a name too.
        let full = path.canonicalize();
        let path = full.map_err(|source| SourceError::Io {
            path: path.into(),
            source,
        })?;
        Ok(Self {
            path,
            infos: Vec::new(),
            signs: Vec::new(),
            digests: Vec::new(),
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn file_path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The folder's name, fit to be shown: a model's name is often all that a folder says about it.
    pub fn name(&self) -> String {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        let shown: String = name.chars().filter(|c| !c.is_control()).take(256).collect();
        if shown.is_empty() {
            "model".into()
        } else {
            shown
        }
    }

    pub fn infos(&self) -> &[SourceFileInfo] {
        &self.infos
    }

    /// Notes a file as used. None where there is no file of that name.
    pub fn add(&mut self, name: &str) -> Result<Option<usize>, SourceError> {
        let path = self.file_path(name);
        let metadata = match fs::metadata(&path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(SourceError::Io { path, source }),
        };
        // Anything else, a pipe say, might never answer a read.
        if !metadata.is_file() {
            return Err(SourceError::Malformed {
                path,
                reason: "not a regular file".into(),
            });
        }
        let sign = Sign::of(&metadata);
        self.infos.push(SourceFileInfo {
            name: name.into(),
            bytes: sign.bytes,
        });
        self.signs.push(sign);
        self.digests.push(None);
        Ok(Some(self.infos.len() - 1))
    }

    /// Reads a whole file of at most `limit` bytes and notes it as used. None where there is none of that name.
    pub fn read_whole(
        &mut self,
        name: &str,
        limit: ByteCount,
    ) -> Result<Option<Vec<u8>>, SourceError> {
        let Some(index) = self.add(name)? else {
            return Ok(None);
        };
        let path = self.file_path(name);
        let found = ByteCount(self.infos[index].bytes);
        if found > limit {
            return Err(SourceError::FileTooLong { path, found, limit });
        }
        let file = self.open(index)?;
        let mut bytes = Vec::new();
        let read = (&file).take(limit.0).read_to_end(&mut bytes);
        self.check_read(index, &file, read)?;
        let mut hasher = Xxh3Hasher::new();
        hasher.update(&bytes);
        self.digests[index] = Some(hasher.finish());
        Ok(Some(bytes))
    }

    pub fn read_at(&self, index: usize, offset: u64, into: &mut [u8]) -> Result<(), SourceError> {
        let file = self.open(index)?;
        let read = file.read_exact_at(into, offset);
        self.check_read(index, &file, read)
    }

    /// Opens a used file. What is read of it counts only after [`Self::check_read`].
    pub fn open(&self, index: usize) -> Result<File, SourceError> {
        let path = self.file_path(&self.infos[index].name);
        File::open(&path).map_err(|source| SourceError::Io { path, source })
    }

    /// What came of reading an open file, once it is known that the file was the noted one until then: neither
    /// another one of its name, nor written to. A look before the reading would say less.
    pub fn check_read<T>(
        &self,
        index: usize,
        file: &File,
        read: std::io::Result<T>,
    ) -> Result<T, SourceError> {
        let path = self.file_path(&self.infos[index].name);
        let found = file.metadata().ok().map(|metadata| Sign::of(&metadata));
        if found != Some(self.signs[index]) {
            return Err(SourceError::Changed { path });
        }
        read.map_err(|source| SourceError::Io { path, source })
    }

    pub fn advise(&self, index: usize, offset: u64, bytes: u64, advice: Advice) {
        // Where the file is gone the next read says so.
        if let Ok(file) = File::open(self.file_path(&self.infos[index].name)) {
            advise_file(&file, offset, bytes, advice);
        }
    }

    /// Tells these files from all others: their names, sizes and times, the contents of those that were read whole and
    /// samples of the contents of the rest. A copy on another disk gives the same.
    pub fn fingerprint(&self) -> Result<Fingerprint, SourceError> {
        let not_read = self.digests.iter().filter(|digest| digest.is_none());
        let blocks = content_sample::blocks_per_file(not_read.count());
        let mut builder = FingerprintBuilder::new("files");
        for (index, (info, sign)) in self.infos.iter().zip(&self.signs).enumerate() {
            let content = match self.digests[index] {
                Some(digest) => digest,
                None => self.sample(index, blocks)?,
            };
            let times = [sign.modified_s, sign.modified_ns].map(i64::to_le_bytes);
            builder = builder
                .part("name", info.name.as_bytes())
                .part("bytes", &sign.bytes.to_le_bytes())
                .part("modified", &times.concat())
                .part("content", content.to_hex().as_bytes());
        }
        Ok(builder.finish())
    }

    fn sample(&self, index: usize, blocks: usize) -> Result<Xxh3, SourceError> {
        let file = self.open(index)?;
        let mut hasher = Xxh3Hasher::new();
        let taken = content_sample::take(&mut hasher, &file, self.signs[index].bytes, blocks);
        self.check_read(index, &file, taken)?;
        Ok(hasher.finish())
    }

    pub fn check_unchanged(&self) -> Result<(), SourceError> {
        for (info, sign) in self.infos.iter().zip(&self.signs) {
            let path = self.file_path(&info.name);
            if fs::metadata(&path).ok().map(|metadata| Sign::of(&metadata)) != Some(*sign) {
                return Err(SourceError::Changed { path });
            }
        }
        Ok(())
    }
}
