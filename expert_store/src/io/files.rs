//! Reads the files of a store: expert shards as planned and as the system lets us, the rest through the page cache.
//!
//! What happens while serving: a shard that is deleted or replaced goes on to be read by its open descriptor, as it
//! was; once that is closed (descriptors are bounded, a failed read closes its own, a wrong checksum asks for a new
//! one) the new file is seen, and its checksum decides. A truncated shard is a short read at once.

use super::plan::{Access, Method, ReadPlan};
use super::ring::Ring;
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
use std::sync::{Arc, Mutex, PoisonError};

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

struct StoreFile {
    path: PathBuf,
    /// Holds objects that are paged.
    paged: bool,
    /// The file system does not do direct reads.
    refuses_direct: AtomicBool,
}

/// What readers of one store share.
struct Shared {
    files: Vec<StoreFile>,
    open: Mutex<LruCache<(FileIndex, Access), Arc<File>>>,
    /// Rings that nobody reads by at the moment; never more than reads were under way at once.
    rings: Mutex<Vec<Ring>>,
    /// The kernel made no ring.
    refuses_rings: AtomicBool,
}

/// Reads the files of a store folder.
pub struct FileReader {
    shared: Arc<Shared>,
    plan: ReadPlan,
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
            shared: Arc::new(Shared {
                files,
                open: Mutex::new(LruCache::new(OPEN_FILES_MAX)),
                rings: Mutex::default(),
                refuses_rings: AtomicBool::new(false),
            }),
            plan: ReadPlan::default(),
        })
    }

    /// The same files, opened once for both, read by another plan.
    pub fn with_plan(&self, plan: ReadPlan) -> Self {
        Self {
            shared: self.shared.clone(),
            plan,
        }
    }

    /// How experts are read: as planned, as far as the system does it.
    pub fn plan(&self) -> ReadPlan {
        let no_rings = self.shared.refuses_rings.load(Ordering::Relaxed);
        let mut plan = self.plan;
        if no_rings {
            (plan.method, plan.piece) = (Method::Threads, None);
        }
        plan
    }

    /// Drops a file from the page cache, so that the next read comes from storage.
    pub(crate) fn forget(&self, file: FileIndex) {
        if let Ok(descriptor) = self.shared.descriptor(file, Access::Buffered) {
            drop_page_cache(&descriptor, 0, u64::MAX);
        }
    }

    /// Past the page cache where it can be, or None where the plan or the system is against that.
    fn read_direct(
        &self,
        index: FileIndex,
        offset: u64,
        into: &mut [u8],
        seen: &mut dyn FnMut(&[u8]),
    ) -> Option<io::Result<Got>> {
        let file = self.shared.file(index);
        if self.access(file) == Access::Buffered || !is_aligned(offset, into) {
            return None;
        }
        let result = self
            .shared
            .descriptor(index, Access::Direct)
            .and_then(|f| self.read_object(&f, offset, into, seen));
        match result {
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                file.refuses_direct.store(true, Ordering::Relaxed);
                lock(&self.shared.open).pop(&(index, Access::Direct));
                None
            }
            result => Some(result),
        }
    }

    fn read_buffered(
        &self,
        index: FileIndex,
        offset: u64,
        into: &mut [u8],
        seen: &mut dyn FnMut(&[u8]),
    ) -> io::Result<Got> {
        let descriptor = self.shared.descriptor(index, Access::Buffered)?;
        if !self.shared.file(index).paged {
            let filled = read_full(&descriptor, offset, into, 0)?;
            return Ok(Got { filled, seen: 0 });
        }
        let got = self.read_object(&descriptor, offset, into, seen)?;
        drop_page_cache(&descriptor, offset, got.filled as u64);
        Ok(got)
    }

    /// Reads by the plan's method; what a ring leaves out, a plain read gets, or it says why not.
    fn read_object(
        &self,
        file: &File,
        offset: u64,
        into: &mut [u8],
        seen: &mut dyn FnMut(&[u8]),
    ) -> io::Result<Got> {
        let mut got = Got::default();
        if self.plan.method == Method::IoUring
            && let Some(mut ring) = self.shared.take_ring()
        {
            let piece = self.plan.piece.map_or(u64::MAX, |piece| piece.0);
            let piece = usize::try_from(piece).unwrap_or(usize::MAX);
            let read = ring.read(file, offset, into, piece, seen);
            (got.filled, got.seen) = (read.filled, read.seen);
            lock(&self.shared.rings).push(ring);
        }
        got.filled = read_full(file, offset, into, got.filled)?;
        Ok(got)
    }

    /// How a file is read, as far as is known by now.
    fn access(&self, file: &StoreFile) -> Access {
        if file.paged && !file.refuses_direct.load(Ordering::Relaxed) {
            self.plan.access
        } else {
            Access::Buffered
        }
    }
}

impl Shared {
    fn file(&self, index: FileIndex) -> &StoreFile {
        &self.files[index.0 as usize]
    }

    /// Opened outside the lock: a slow disk must not hold up readers of what is open.
    fn descriptor(&self, index: FileIndex, access: Access) -> io::Result<Arc<File>> {
        if let Some(file) = lock(&self.open).get(&(index, access)) {
            return Ok(file.clone());
        }
        let path = &self.file(index).path;
        let file = match access {
            Access::Direct => open_direct(path)?,
            Access::Buffered => File::open(path)?,
        };
        let file = Arc::new(file);
        lock(&self.open).put((index, access), file.clone());
        Ok(file)
    }

    /// A ring of one's own, to be put back; None where the kernel makes none.
    fn take_ring(&self) -> Option<Ring> {
        if self.refuses_rings.load(Ordering::Relaxed) {
            return None;
        }
        let idle = lock(&self.rings).pop();
        idle.or_else(|| match Ring::new() {
            Ok(ring) => Some(ring),
            Err(_) => {
                self.refuses_rings.store(true, Ordering::Relaxed);
                None
            }
        })
    }
}

/// What a read brought so far, from the start without a gap, and how much of it was shown.
#[derive(Clone, Copy, Default)]
struct Got {
    filled: usize,
    seen: usize,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ShardReader for FileReader {
    fn read_at(&self, file: FileIndex, offset: u64, into: &mut [u8]) -> Result<(), ReadError> {
        self.read_showing(file, offset, into, &mut |_| {})?;
        Ok(())
    }

    fn read_showing(
        &self,
        file: FileIndex,
        offset: u64,
        into: &mut [u8],
        seen: &mut dyn FnMut(&[u8]),
    ) -> Result<usize, ReadError> {
        let result = self
            .read_direct(file, offset, into, seen)
            .unwrap_or_else(|| self.read_buffered(file, offset, into, seen));
        let path = || self.shared.file(file).path.display().to_string();
        let error = match result {
            Ok(got) if got.filled == into.len() => return Ok(got.seen),
            Ok(got) => ReadError::Short {
                path: path(),
                offset,
                wanted: into.len() as u64,
                got: got.filled as u64,
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
        self.access(self.shared.file(file)).name()
    }

    fn reopen(&self, file: FileIndex) {
        let mut open = lock(&self.shared.open);
        open.pop(&(file, Access::Direct));
        open.pop(&(file, Access::Buffered));
    }
}

fn is_aligned(offset: u64, into: &[u8]) -> bool {
    let aligned = |n: u64| n.is_multiple_of(OBJECT_ALIGNMENT_BYTES);
    aligned(offset) && aligned(into.len() as u64) && aligned(into.as_ptr() as u64)
}

/// Reads until `into`, of which `got` bytes are there, is full or the file ends; returns the bytes that are there.
fn read_full(file: &File, offset: u64, into: &mut [u8], mut got: usize) -> io::Result<usize> {
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

/// Experts have a cache of their own; a second copy would only take memory from the rest. `u64::MAX` bytes: to the end.
#[cfg(target_os = "linux")]
fn drop_page_cache(file: &File, offset: u64, bytes: u64) {
    use rustix::fs::{Advice, fadvise};
    // Advice: a file system that does not take it keeps the pages, no more.
    let _ = fadvise(
        file,
        offset,
        std::num::NonZeroU64::new(bytes).filter(|bytes| bytes.get() != u64::MAX),
        Advice::DontNeed,
    );
}

#[cfg(not(target_os = "linux"))]
fn drop_page_cache(_file: &File, _offset: u64, _bytes: u64) {}
