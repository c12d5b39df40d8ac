//! The files of a model: one, or a set that `gguf-split` made, found from any of its members.

use crate::fingerprint::{Fingerprint, FingerprintBuilder};
use crate::source::{SourceError, shown};
use crate::source_folder::SourceFolder;
use odmoe_formats::ByteCount;
use odmoe_formats::gguf::{Gguf, GgufError, Metadata, TensorInfo};
use sha2::{Digest, Sha256};
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

/// The most files of a set; the numbers in their names have five digits.
const MAX_PARTS: u64 = 10_000;
/// The most bytes of descriptions that the files of a set may have together; those of one model in one file end below
/// 32 MiB.
const MAX_HEADERS_BYTES: u64 = 256 << 20;
/// How many files an error names.
const FILES_NAMED: usize = 8;

/// One tensor of one of the files.
pub(super) struct PartTensor {
    /// Index of the file among the folder's.
    pub file: usize,
    pub info: TensorInfo,
}

/// A model's files and what they hold.
pub(super) struct Parts {
    pub folder: SourceFolder,
    /// What the model's file is called, without its number and `.gguf`.
    pub name: String,
    /// The first file, for messages.
    pub path: PathBuf,
    /// Of the first file; the others have none of the model's.
    pub metadata: Metadata,
    /// Of all files. No two have one name.
    pub tensors: Vec<PartTensor>,
    /// Of all descriptions.
    pub header_digest: Fingerprint,
}

impl Parts {
    pub fn open(path: &Path) -> Result<Self, SourceError> {
        Self::open_within(path, MAX_HEADERS_BYTES)
    }

    fn open_within(path: &Path, max_headers_bytes: u64) -> Result<Self, SourceError> {
        let file_name = path.file_name().and_then(|name| name.to_str());
        let Some(file_name) = file_name else {
            return Err(malformed(path, "its name is not UTF-8".into()));
        };
        let parent = path.parent().filter(|parent| *parent != Path::new(""));
        let folder = parent.unwrap_or(Path::new("."));
        let mut reader = PartsReader::new(folder, max_headers_bytes)?;
        let metadata = reader.read(file_name)?;
        match split_count(&metadata, path)? {
            0 | 1 => reader.finish(metadata, stem(file_name)),
            count => {
                let folder = reader.folder;
                // They are read again in the order of the set.
                drop((metadata, reader.tensors));
                read_set(&folder, file_name, count, max_headers_bytes)
            }
        }
    }

    /// The tensor of that name.
    pub fn find(&self, name: &str) -> Option<&PartTensor> {
        self.tensors.iter().find(|tensor| tensor.info.name == name)
    }
}

/// Reads files one after another, and keeps no more of each than its tensors.
struct PartsReader {
    folder: SourceFolder,
    digest: FingerprintBuilder,
    tensors: Vec<PartTensor>,
    max_headers_bytes: u64,
    headers_bytes: u64,
}

impl PartsReader {
    fn new(folder: &Path, max_headers_bytes: u64) -> Result<Self, SourceError> {
        Ok(Self {
            folder: SourceFolder::new(folder)?,
            digest: FingerprintBuilder::new("gguf headers"),
            tensors: Vec::new(),
            max_headers_bytes,
            headers_bytes: 0,
        })
    }

    /// Notes a file as used and reads its description.
    fn read(&mut self, name: &str) -> Result<Metadata, SourceError> {
        let path = self.folder.file_path(name);
        let Some(file) = self.folder.add(name)? else {
            let source = io::ErrorKind::NotFound.into();
            return Err(SourceError::Io { path, source });
        };
        let bytes = self.folder.infos()[file].bytes;
        let opened = self.folder.open(file)?;
        let mut hashing = Hashing {
            inner: BufReader::with_capacity(1 << 16, &opened),
            hasher: Sha256::new(),
            bytes: 0,
        };
        let gguf = Gguf::read(&mut hashing, bytes);
        self.folder.check_read(file, &opened, Ok(()))?;
        let gguf = gguf.map_err(|source| match source {
            GgufError::Io(source) => SourceError::Io {
                path: path.clone(),
                source,
            },
            source => SourceError::Gguf {
                path: path.clone(),
                source,
            },
        })?;
        self.headers_bytes += hashing.bytes;
        if self.headers_bytes > self.max_headers_bytes {
            let limit = ByteCount(self.max_headers_bytes);
            let reason = format!("the set's descriptions up to this file take more than {limit}");
            return Err(malformed(&path, reason));
        }
        let digest = std::mem::replace(&mut self.digest, FingerprintBuilder::new(""));
        self.digest = digest.part(name, &hashing.hasher.finalize());
        let infos = gguf.tensors.into_iter();
        self.tensors
            .extend(infos.map(|info| PartTensor { file, info }));
        Ok(gguf.metadata)
    }

    /// The model, whose `metadata` is that of the first file.
    fn finish(self, metadata: Metadata, name: String) -> Result<Parts, SourceError> {
        let path = self.folder.file_path(&self.folder.infos()[0].name);
        check_tensor_count(&path, &metadata, self.tensors.len())?;
        check_names(&path, &self.tensors)?;
        Ok(Parts {
            folder: self.folder,
            name,
            path,
            metadata,
            tensors: self.tensors,
            header_digest: self.digest.finish(),
        })
    }
}

/// Reads the set that the file `given` names.
fn read_set(
    folder: &SourceFolder,
    given: &str,
    count: u64,
    max_headers_bytes: u64,
) -> Result<Parts, SourceError> {
    let path = folder.file_path(given);
    let Some(set) = SetName::of(given).filter(|set| set.count == count) else {
        let reason = format!(
            "it is one of {count} files; give them their names back, NAME-00001-of-{count:05}.gguf and so on"
        );
        return Err(malformed(&path, reason));
    };
    let names: Vec<String> = (1..=count).map(|number| set.file_name(number)).collect();
    let missing: Vec<&String> = names
        .iter()
        .filter(|name| !folder.file_path(name).exists())
        .collect();
    if !missing.is_empty() {
        return Err(SourceError::MissingParts {
            folder: folder.path().into(),
            count: missing.len(),
            names: listed(&missing),
        });
    }
    let mut reader = PartsReader::new(folder.path(), max_headers_bytes)?;
    let mut first = None;
    for (index, name) in names.iter().enumerate() {
        let metadata = reader.read(name)?;
        check_place(&folder.file_path(name), &metadata, index, count)?;
        // The others have none of the model's.
        first.get_or_insert(metadata);
    }
    let first = first.expect("a set has two files at least");
    reader.finish(first, set.stem.into())
}

/// How many files the model has, as one of them says; 0 where it says nothing.
fn split_count(metadata: &Metadata, path: &Path) -> Result<u64, SourceError> {
    let count = integer(metadata, "split.count", path)?.unwrap_or(0);
    match count <= MAX_PARTS {
        true => Ok(count),
        false => Err(malformed(
            path,
            format!("split.count is {count}, more than {MAX_PARTS}"),
        )),
    }
}

fn integer(metadata: &Metadata, key: &str, path: &Path) -> Result<Option<u64>, SourceError> {
    metadata
        .integer(key)
        .map_err(|source| SourceError::Metadata {
            path: path.into(),
            source,
        })
}

/// Each file of a set says which it is, from 0, and of how many.
fn check_place(
    path: &Path,
    metadata: &Metadata,
    index: usize,
    count: u64,
) -> Result<(), SourceError> {
    let found = (
        integer(metadata, "split.no", path)?,
        integer(metadata, "split.count", path)?,
    );
    if found == (Some(index as u64), Some(count)) {
        return Ok(());
    }
    let said = |value: Option<u64>| value.map_or("nothing".into(), |value| value.to_string());
    let reason = format!(
        "its name makes it part {index}, counted from 0, of {count}, but it says split.no {} and split.count {}; \
         do not mix or rename the files of sets",
        said(found.0),
        said(found.1)
    );
    Err(malformed(path, reason))
}

fn check_tensor_count(path: &Path, metadata: &Metadata, found: usize) -> Result<(), SourceError> {
    match integer(metadata, "split.tensors.count", path)? {
        Some(expected) if expected != found as u64 => {
            let reason = format!("the set has {found} tensors where {expected} were split");
            Err(malformed(path, reason))
        }
        _ => Ok(()),
    }
}

/// A file has no name twice, but two files might.
fn check_names(path: &Path, tensors: &[PartTensor]) -> Result<(), SourceError> {
    let mut names: Vec<&str> = tensors
        .iter()
        .map(|tensor| tensor.info.name.as_str())
        .collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(malformed(
            path,
            format!("tensor {:?} is in two of the set's files", shown(pair[0])),
        )),
        None => Ok(()),
    }
}

/// The name of a file of a set: `STEM-NUMBER-of-COUNT.gguf`.
pub(super) struct SetName<'a> {
    stem: &'a str,
    count: u64,
    extension: &'a str,
}

impl<'a> SetName<'a> {
    pub fn of(file_name: &'a str) -> Option<Self> {
        let (rest, extension) = file_name.rsplit_once('.')?;
        let (rest, count) = rest.rsplit_once("-of-")?;
        let (stem, number) = rest.rsplit_once('-')?;
        let five_digits = |text: &str| text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit());
        if !five_digits(number) || !five_digits(count) {
            return None;
        }
        let count = count.parse().ok()?;
        Some(Self {
            stem,
            count,
            extension,
        })
    }

    pub fn file_name(&self, number: u64) -> String {
        let Self {
            stem,
            count,
            extension,
        } = self;
        format!("{stem}-{number:05}-of-{count:05}.{extension}")
    }
}

fn stem(file_name: &str) -> String {
    let stem = Path::new(file_name).file_stem();
    stem.and_then(|stem| stem.to_str())
        .unwrap_or(file_name)
        .into()
}

/// Names with commas between, the first of them where there are many.
pub(super) fn listed(names: &[&String]) -> String {
    let shown: Vec<&str> = names
        .iter()
        .take(FILES_NAMED)
        .map(|name| name.as_str())
        .collect();
    let rest = if names.len() > FILES_NAMED {
        ", ..."
    } else {
        ""
    };
    shown.join(", ") + rest
}

fn malformed(path: &Path, reason: String) -> SourceError {
    SourceError::Malformed {
        path: path.into(),
        reason,
    }
}

/// Hashes what is read, so that the description counts in the fingerprint without being kept.
struct Hashing<R> {
    inner: R,
    hasher: Sha256,
    bytes: u64,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(into)?;
        self.hasher.update(&into[..read]);
        self.bytes += read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::tests::made::{Made, write_set};
    use odmoe_formats::architecture::QWEN3_MOE;

    #[test]
    fn the_descriptions_of_a_set_are_bounded_together() {
        let folder = tempfile::tempdir().unwrap();
        let paths = write_set(folder.path(), &Made::new(QWEN3_MOE).split(3));
        let header = |path: &Path| {
            let mut reader = PartsReader::new(folder.path(), u64::MAX).unwrap();
            reader
                .read(path.file_name().unwrap().to_str().unwrap())
                .unwrap();
            reader.headers_bytes
        };
        let all: u64 = paths.iter().map(|path| header(path)).sum();
        for path in &paths {
            assert!(Parts::open_within(path, all).is_ok());
            let error = Parts::open_within(path, all - 1).err().unwrap().to_string();
            assert!(error.contains("00003-of-00003.gguf: the set's"), "{error}");
        }
    }
}
