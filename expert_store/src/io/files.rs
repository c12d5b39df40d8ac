//! Reads the files of a store: expert shards past the page cache where the system lets us, the rest through it.
//!
//! What happens while serving: a shard that is deleted or replaced goes on to be read by its open descriptor, as it
//! was; once that is closed (descriptors are bounded, a failed read closes its own, a wrong checksum asks for a new
//! one) the new file is seen, and its checksum decides. A truncated shard is a short read at once.

use crate::api::{ReadError, ShardReader};
use lru::LruCache;
use odmoe_formats::ByteCount;
use odmoe_formats::manifest::{FileIndex, Manifest, OBJECT_ALIGNMENT_BYTES};
use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

/// Descriptors kept open. Those inside a read come on top: one a reader.
const OPEN_FILES_MAX: NonZeroUsize = NonZeroUsize::new(32).expect("not zero");

/// A store whose files are not what its manifest says.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A file cannot be opened.
    #[error("{path}: {reason}; the store is incomplete, convert the model again")]
    Missing {
        /// The file.
        path: String,
        /// What the system said.
        reason: String,
    },
    /// A file has another size.
    #[error(
        "{path}: has {found} where the manifest says {expected}; the store is damaged, convert the model again"
    )]
    Size {
        /// The file.
        path: String,
        /// From the manifest.
        expected: ByteCount,
        /// What there is.
        found: ByteCount,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Mode {
    Direct,
    Buffered,
}

struct StoreFile {
    path: PathBuf,
    /// Holds objects that are paged: read past the page cache.
    paged: bool,
    /// The file system does not do direct reads.
    refuses_direct: AtomicBool,
}

/// Reads the files of a store folder.
pub struct FileReader {
    files: Vec<StoreFile>,
    open: Mutex<LruCache<(FileIndex, Mode), Arc<File>>>,
}

impl FileReader {
    /// Checks that every file of a validated manifest is there with its size. Opens none for longer.
    pub fn open(dir: &Path, manifest: &Manifest) -> Result<Self, OpenError> {
        let mut files = Vec::with_capacity(manifest.files.len());
        for file in &manifest.files {
            let path: PathBuf = dir.join(file.path.split('/').collect::<PathBuf>());
            let missing = |reason: String| OpenError::Missing {
                path: path.display().to_string(),
                reason,
            };
            let metadata = std::fs::metadata(&path).map_err(|e| missing(e.to_string()))?;
            if !metadata.is_file() {
                return Err(missing("not a file".into()));
            }
            if metadata.len() != file.bytes {
                let (expected, found) = (ByteCount(file.bytes), ByteCount(metadata.len()));
                return Err(OpenError::Size {
                    path: path.display().to_string(),
                    expected,
                    found,
                });
            }
            files.push(StoreFile {
                path,
                paged: false,
                refuses_direct: AtomicBool::new(false),
            });
        }
        for object in &manifest.objects {
            files[object.file.0 as usize].paged = true;
        }
        Ok(Self {
            files,
            open: Mutex::new(LruCache::new(OPEN_FILES_MAX)),
        })
    }

    fn file(&self, index: FileIndex) -> &StoreFile {
        &self.files[index.0 as usize]
    }

    fn cache(&self) -> MutexGuard<'_, LruCache<(FileIndex, Mode), Arc<File>>> {
        self.open
            .lock()
            .expect("no panic while the descriptors are locked")
    }

    /// Opened outside the lock: a slow disk must not hold up readers of what is open.
    fn descriptor(&self, index: FileIndex, mode: Mode) -> io::Result<Arc<File>> {
        if let Some(file) = self.cache().get(&(index, mode)) {
            return Ok(file.clone());
        }
        let path = &self.file(index).path;
        let file = match mode {
            Mode::Direct => open_direct(path)?,
            Mode::Buffered => File::open(path)?,
        };
        let file = Arc::new(file);
        self.cache().put((index, mode), file.clone());
        Ok(file)
    }

    /// Direct where it can be, or None where the system refuses that.
    fn read_direct(
        &self,
        index: FileIndex,
        offset: u64,
        into: &mut [u8],
    ) -> Option<io::Result<usize>> {
        let file = self.file(index);
        if !file.paged || file.refuses_direct.load(Ordering::Relaxed) || !is_aligned(offset, into) {
            return None;
        }
        let result = self
            .descriptor(index, Mode::Direct)
            .and_then(|f| read_full(&f, offset, into));
        match result {
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                file.refuses_direct.store(true, Ordering::Relaxed);
                self.cache().pop(&(index, Mode::Direct));
                None
            }
            result => Some(result),
        }
    }

    fn read_buffered(&self, index: FileIndex, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let descriptor = self.descriptor(index, Mode::Buffered)?;
        let got = read_full(&descriptor, offset, into)?;
        if self.file(index).paged {
            drop_page_cache(&descriptor, offset, got as u64);
        }
        Ok(got)
    }
}

impl ShardReader for FileReader {
    fn read_at(&self, file: FileIndex, offset: u64, into: &mut [u8]) -> Result<(), ReadError> {
        let result = self
            .read_direct(file, offset, into)
            .unwrap_or_else(|| self.read_buffered(file, offset, into));
        let path = || self.file(file).path.display().to_string();
        let error = match result {
            Ok(got) if got == into.len() => return Ok(()),
            Ok(got) => ReadError::Short {
                path: path(),
                offset,
                wanted: into.len() as u64,
                got: got as u64,
            },
            Err(error) => ReadError::Io {
                path: path(),
                reason: error.to_string(),
            },
        };
        self.reopen(file);
        Err(error)
    }

    fn source(&self, file: FileIndex) -> &'static str {
        let file = self.file(file);
        if file.paged && !file.refuses_direct.load(Ordering::Relaxed) {
            "direct"
        } else {
            "buffered"
        }
    }

    fn reopen(&self, file: FileIndex) {
        let mut cache = self.cache();
        cache.pop(&(file, Mode::Direct));
        cache.pop(&(file, Mode::Buffered));
    }
}

fn is_aligned(offset: u64, into: &[u8]) -> bool {
    let aligned = |n: u64| n.is_multiple_of(OBJECT_ALIGNMENT_BYTES);
    aligned(offset) && aligned(into.len() as u64) && aligned(into.as_ptr() as u64)
}

/// Reads until `into` is full or the file ends; returns the bytes read.
fn read_full(file: &File, offset: u64, into: &mut [u8]) -> io::Result<usize> {
    let mut got = 0;
    while got < into.len() {
        match file.read_at(&mut into[got..], offset + got as u64) {
            Ok(0) => break,
            Ok(n) => got += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // A direct read that stopped in the middle of a block stopped at the end of the file.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput && got > 0 => break,
            Err(error) => return Err(error),
        }
    }
    Ok(got)
}

#[cfg(target_os = "linux")]
fn open_direct(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    File::options()
        .read(true)
        .custom_flags(libc::O_DIRECT)
        .open(path)
}

#[cfg(target_vendor = "apple")]
fn open_direct(path: &Path) -> io::Result<File> {
    let file = File::open(path)?;
    rustix::fs::fcntl_nocache(&file, true)
        .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    Ok(file)
}

#[cfg(not(any(target_os = "linux", target_vendor = "apple")))]
fn open_direct(_path: &Path) -> io::Result<File> {
    Err(io::ErrorKind::InvalidInput.into())
}

/// Experts have a cache of their own; a second copy would only take memory from the rest.
#[cfg(target_os = "linux")]
fn drop_page_cache(file: &File, offset: u64, bytes: u64) {
    use rustix::fs::{Advice, fadvise};
    // Advice: a file system that does not take it keeps the pages, no more.
    let _ = fadvise(
        file,
        offset,
        std::num::NonZeroU64::new(bytes),
        Advice::DontNeed,
    );
}

#[cfg(not(target_os = "linux"))]
fn drop_page_cache(_file: &File, _offset: u64, _bytes: u64) {}
