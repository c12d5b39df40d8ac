//! Unpacking once, for any number of processes that start at the same time and without locks: each unpacks into a
//! folder of its own and renames it; the first wins.

use crate::embedded::Archive;
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Written into an unpacked folder after everything else, with the archive's hash.
const MARKER: &str = ".unpacked";
/// Losing this many races in a row means that something else is wrong.
const ATTEMPTS: usize = 16;

/// A model that could not be unpacked anywhere.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The program file is damaged.
    #[error(
        "the embedded model {0} does not match its checksum: the odmoe binary is damaged, install it again"
    )]
    Damaged(&'static str),
    /// Neither folder can be written.
    #[error(
        "the embedded model can be unpacked neither into the cache folder ({cache}) nor into a temporary one ({temporary}); \
         name a writable folder with --store-dir, or set TMPDIR"
    )]
    NoFolder {
        /// Why not there.
        cache: String,
        /// Why not there either.
        temporary: String,
    },
}

/// An unpacked model.
#[derive(Debug)]
pub struct Unpacked {
    /// The store.
    pub folder: PathBuf,
    /// Removed when dropped, if it could not be kept.
    temporary: Option<TempDir>,
}

impl Unpacked {
    /// Whether the folder goes away with the process.
    pub fn is_temporary(&self) -> bool {
        self.temporary.is_some()
    }
}

/// Finds the unpacked model below `cache`, or unpacks it there; into a temporary folder where that cannot be written.
///
/// A copy is taken as whole when its marker holds the archive's hash and every file has its size; what its bytes are is
/// checked as they are read. A damaged copy is replaced.
pub fn unpack(archive: &Archive, cache: Option<&Path>) -> Result<Unpacked, UnpackError> {
    let hash = archive.sha256.trim();
    let name = format!("{}-{}", archive.name, hash.get(..16).unwrap_or(hash));
    let in_cache = match cache {
        None => Err(io::Error::other("there is no home folder")),
        Some(cache) => unpack_once(archive, &cache.join("embedded"), &name),
    };
    let refused = match in_cache {
        Ok(folder) => {
            return Ok(Unpacked {
                folder,
                temporary: None,
            });
        }
        Err(_) if !archive.is_whole() => return Err(UnpackError::Damaged(archive.name)),
        Err(error) => error,
    };
    let temporary = tempfile::Builder::new()
        .prefix("odmoe-")
        .tempdir()
        .and_then(|folder| {
            write_all(archive, folder.path())?;
            Ok(folder)
        });
    match temporary {
        Ok(folder) => Ok(Unpacked {
            folder: folder.path().to_owned(),
            temporary: Some(folder),
        }),
        Err(error) => Err(UnpackError::NoFolder {
            cache: refused.to_string(),
            temporary: error.to_string(),
        }),
    }
}

fn unpack_once(archive: &Archive, parent: &Path, name: &str) -> io::Result<PathBuf> {
    let place = parent.join(name);
    if is_whole(archive, &place)? {
        return Ok(place);
    }
    if !archive.is_whole() {
        return Err(io::Error::other("the archive is damaged"));
    }
    std::fs::create_dir_all(parent)?;
    let own = tempfile::Builder::new()
        .prefix(".unpacking-")
        .tempdir_in(parent)?;
    write_all(archive, own.path())?;
    for _ in 0..ATTEMPTS {
        if std::fs::rename(own.path(), &place).is_ok() {
            // Nothing is left to remove at the old name.
            drop(own.keep());
            return Ok(place);
        }
        if is_whole(archive, &place)? {
            return Ok(place);
        }
        // A damaged copy is in the way: move it aside, so that whoever reads it keeps what is open, and try again.
        let aside = tempfile::Builder::new()
            .prefix(".damaged-")
            .tempdir_in(parent)?;
        match std::fs::rename(&place, aside.path().join("copy")) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other(format!(
        "{} changes all the time",
        place.display()
    )))
}

fn is_whole(archive: &Archive, folder: &Path) -> io::Result<bool> {
    match std::fs::read(folder.join(MARKER)) {
        Ok(marker) if marker == archive.sha256.trim().as_bytes() => {}
        _ => return Ok(false),
    }
    let listing = archive.listing()?;
    Ok(listing.iter().all(|(path, bytes)| {
        let metadata = std::fs::symlink_metadata(folder.join(path));
        metadata.is_ok_and(|m| m.is_file() && m.len() == *bytes)
    }))
}

fn write_all(archive: &Archive, folder: &Path) -> io::Result<()> {
    archive.for_each(|member| {
        let path = folder.join(&member.path);
        if let Some(parent) = path
            .parent()
            .filter(|p| p.file_name() != Some(OsStr::new("")))
        {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(path, member.bytes)
    })?;
    std::fs::write(folder.join(MARKER), archive.sha256.trim())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedded::archive::to_hex;
    use sha2::{Digest, Sha256};
    use std::sync::Barrier;

    fn archive(files: &[(&str, &[u8])]) -> Archive {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, bytes) in files {
            let mut header = tar::Header::new_ustar();
            header.set_size(bytes.len() as u64);
            builder.append_data(&mut header, path, *bytes).unwrap();
        }
        let bytes: &'static [u8] = builder.into_inner().unwrap().leak();
        let sha256: &'static str = to_hex(&Sha256::digest(bytes)).leak();
        Archive {
            name: "small",
            bytes,
            sha256,
        }
    }

    fn small() -> Archive {
        archive(&[
            ("manifest.json", b"{}"),
            ("experts/layer-000/expert-000.safetensors", &[7; 5000]),
        ])
    }

    fn entries(folder: &Path) -> usize {
        std::fs::read_dir(folder).unwrap().count()
    }

    #[test]
    fn it_is_unpacked_once_and_found_again() {
        let cache = tempfile::tempdir().unwrap();
        let first = unpack(&small(), Some(cache.path())).unwrap();
        assert!(!first.is_temporary());
        let shard = first
            .folder
            .join("experts/layer-000/expert-000.safetensors");
        assert_eq!(std::fs::read(&shard).unwrap(), [7; 5000]);
        let written = std::fs::metadata(&shard).unwrap().modified().unwrap();
        let second = unpack(&small(), Some(cache.path())).unwrap();
        assert_eq!(second.folder, first.folder);
        assert_eq!(
            std::fs::metadata(&shard).unwrap().modified().unwrap(),
            written,
            "not written again"
        );
        assert_eq!(
            entries(&cache.path().join("embedded")),
            1,
            "nothing is left behind"
        );
    }

    #[test]
    fn a_damaged_copy_is_replaced() {
        let damages: [fn(&Path); 4] = [
            |folder| std::fs::write(folder.join("manifest.json"), "").unwrap(),
            |folder| std::fs::remove_dir_all(folder.join("experts")).unwrap(),
            |folder| std::fs::remove_file(folder.join(MARKER)).unwrap(),
            |folder| std::fs::write(folder.join(MARKER), "another").unwrap(),
        ];
        for damage in damages {
            let cache = tempfile::tempdir().unwrap();
            let folder = unpack(&small(), Some(cache.path())).unwrap().folder;
            damage(&folder);
            let repaired = unpack(&small(), Some(cache.path())).unwrap();
            assert_eq!(repaired.folder, folder);
            assert_eq!(std::fs::read(folder.join("manifest.json")).unwrap(), b"{}");
            assert!(is_whole(&small(), &folder).unwrap());
            assert_eq!(
                entries(&cache.path().join("embedded")),
                1,
                "nothing is left behind"
            );
        }
    }

    #[test]
    fn many_at_once_end_with_one_whole_copy() {
        for damaged_before in [false, true] {
            let cache = tempfile::tempdir().unwrap();
            if damaged_before {
                let folder = unpack(&small(), Some(cache.path())).unwrap().folder;
                std::fs::write(folder.join("manifest.json"), "").unwrap();
            }
            let barrier = Barrier::new(8);
            let folders: Vec<PathBuf> = std::thread::scope(|scope| {
                let start = || {
                    barrier.wait();
                    unpack(&small(), Some(cache.path())).unwrap().folder
                };
                let threads: Vec<_> = (0..8).map(|_| scope.spawn(start)).collect();
                threads
                    .into_iter()
                    .map(|thread| thread.join().unwrap())
                    .collect()
            });
            assert!(folders.iter().all(|folder| *folder == folders[0]));
            assert!(is_whole(&small(), &folders[0]).unwrap());
            assert_eq!(
                entries(&cache.path().join("embedded")),
                1,
                "nothing is left behind"
            );
        }
    }

    #[test]
    fn without_a_writable_cache_it_is_unpacked_for_this_process_only() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for cache in [None, Some(file.path())] {
            let unpacked = unpack(&small(), cache).unwrap();
            assert!(unpacked.is_temporary() && is_whole(&small(), &unpacked.folder).unwrap());
            let folder = unpacked.folder.clone();
            drop(unpacked);
            assert!(!folder.exists());
        }
    }

    #[test]
    fn a_damaged_binary_is_told_as_such() {
        let cache = tempfile::tempdir().unwrap();
        let broken = Archive {
            sha256: "00",
            ..small()
        };
        for cache in [None, Some(cache.path())] {
            assert!(matches!(
                unpack(&broken, cache),
                Err(UnpackError::Damaged("small"))
            ));
        }
    }

    #[test]
    fn a_path_that_leaves_the_folder_is_refused() {
        let mut outside = small();
        // The tar crate refuses to write such a path, so it is patched in.
        let mut bytes = archive(&[("aa/manifest.json", b"{}")]).bytes.to_vec();
        bytes[..2].copy_from_slice(b"..");
        let sum: u32 = (0..512)
            .map(|i| {
                if (148..156).contains(&i) {
                    32
                } else {
                    u32::from(bytes[i])
                }
            })
            .sum();
        bytes[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        outside.sha256 = to_hex(&Sha256::digest(&bytes)).leak();
        outside.bytes = bytes.leak();
        let cache = tempfile::tempdir().unwrap();
        assert!(matches!(
            unpack(&outside, Some(cache.path())),
            Err(UnpackError::NoFolder { .. })
        ));
    }
}
