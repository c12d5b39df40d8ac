//! The files of a model: one, or a set that `gguf-split` made, found from any of its members.

use crate::fingerprint::{Fingerprint, FingerprintBuilder};
use crate::source::SourceError;
use crate::source_folder::SourceFolder;
use odmoe_formats::gguf::{Gguf, GgufError, Metadata, TensorInfo};
use sha2::{Digest, Sha256};
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

/// The most files of a set; the numbers in their names have five digits.
const MAX_PARTS: u64 = 10_000;
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
        let file_name = path.file_name().and_then(|name| name.to_str());
        let Some(file_name) = file_name else {
            return Err(malformed(path, "its name is not UTF-8".into()));
        };
        let parent = path.parent().filter(|parent| *parent != Path::new(""));
        let folder = SourceFolder::new(parent.unwrap_or(Path::new(".")))?;
        let mut reader = PartsReader {
            folder,
            digest: FingerprintBuilder::new("gguf headers"),
        };
        let given = reader.read(file_name)?;
        match split_count(&given.gguf.metadata, path)? {
            0 | 1 => reader.finish(vec![given], stem(file_name)),
            count => reader.read_set(file_name, count),
        }
    }

    /// The tensor of that name.
    pub fn find(&self, name: &str) -> Option<&PartTensor> {
        self.tensors.iter().find(|tensor| tensor.info.name == name)
    }
}

/// A file that has been read, and its place in the folder.
struct Part {
    file: usize,
    gguf: Gguf,
}

struct PartsReader {
    folder: SourceFolder,
    digest: FingerprintBuilder,
}

impl PartsReader {
    /// Notes a file as used and reads its description.
    fn read(&mut self, name: &str) -> Result<Part, SourceError> {
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
        };
        let gguf = Gguf::read(&mut hashing, bytes);
        self.folder.check_read(file, &opened, Ok(()))?;
        let gguf = gguf.map_err(|source| match source {
            GgufError::Io(source) => SourceError::Io { path, source },
            source => SourceError::Gguf { path, source },
        })?;
        let digest = std::mem::replace(&mut self.digest, FingerprintBuilder::new(""));
        self.digest = digest.part(name, &hashing.hasher.finalize());
        Ok(Part { file, gguf })
    }

    /// Reads the set that `given` names. Every file was noted once; the given one is read anew in its turn.
    fn read_set(self, given: &str, count: u64) -> Result<Parts, SourceError> {
        let path = self.folder.file_path(given);
        let Some(set) = SetName::of(given).filter(|set| set.count == count) else {
            let reason = format!(
                "it is one of {count} files; give them their names back, NAME-00001-of-{count:05}.gguf and so on"
            );
            return Err(malformed(&path, reason));
        };
        let names: Vec<String> = (1..=count).map(|number| set.file_name(number)).collect();
        let missing: Vec<&String> = names
            .iter()
            .filter(|name| !self.folder.file_path(name).exists())
            .collect();
        if !missing.is_empty() {
            return Err(SourceError::MissingParts {
                folder: self.folder.path().into(),
                count: missing.len(),
                names: listed(&missing),
            });
        }
        let mut fresh = PartsReader {
            folder: SourceFolder::new(self.folder.path())?,
            digest: FingerprintBuilder::new("gguf headers"),
        };
        let mut parts = Vec::new();
        for (index, name) in names.iter().enumerate() {
            let part = fresh.read(name)?;
            check_place(
                &fresh.folder.file_path(name),
                &part.gguf.metadata,
                index,
                count,
            )?;
            parts.push(part);
        }
        fresh.finish(parts, set.stem.into())
    }

    fn finish(self, parts: Vec<Part>, name: String) -> Result<Parts, SourceError> {
        let first = &parts[0];
        let path = self.folder.file_path(&self.folder.infos()[first.file].name);
        let metadata = first.gguf.metadata.clone();
        let tensors: Vec<PartTensor> = parts
            .into_iter()
            .flat_map(|Part { file, gguf }| {
                let infos = gguf.tensors.into_iter();
                infos.map(move |info| PartTensor { file, info })
            })
            .collect();
        check_tensor_count(&path, &metadata, tensors.len())?;
        check_names(&path, &tensors)?;
        Ok(Parts {
            folder: self.folder,
            name,
            path,
            metadata,
            tensors,
            header_digest: self.digest.finish(),
        })
    }
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
            format!("tensor {:?} is in two of the set's files", pair[0]),
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
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(into)?;
        self.hasher.update(&into[..read]);
        Ok(read)
    }
}
