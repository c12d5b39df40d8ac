//! Unpacking once, for any number of processes that start at the same time and without locks: each unpacks into a
//! folder of its own and renames it; the first wins.

use crate::embedded::Archive;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

/// Written into an unpacked folder after everything else, with the archive's hash.
const MARKER: &str = ".unpacked";
/// How the names of folders begin that a process is about to fill, or to remove.
const UNPACKING: &str = ".unpacking-";
const DAMAGED: &str = ".damaged-";
/// Unpacking takes seconds: nobody works any more in such a folder that has not changed for so long.
const LEFTOVER_AGE: Duration = Duration::from_secs(3600);
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
/// A copy is taken as whole when its marker holds the archive's hash and every file the archive's bytes: a disk may have
/// kept some from before a power cut and lost others. A damaged copy is replaced.
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
    remove_leftovers(parent);
    let place = parent.join(name);
    if is_whole(archive, &place)? {
        return Ok(place);
    }
    if !archive.is_whole() {
        return Err(io::Error::other("the archive is damaged"));
    }
    std::fs::create_dir_all(parent)?;
    let own = tempfile::Builder::new()
        .prefix(UNPACKING)
        .tempdir_in(parent)?;
    write_all(archive, own.path())?;
    for _ in 0..ATTEMPTS {
        if std::fs::rename(own.path(), &place).is_ok() {
            // Nothing is left to remove at the old name.
            drop(own.keep());
            sync_folder(parent)?;
            return Ok(place);
        }
        if is_whole(archive, &place)? {
            return Ok(place);
        }
        // A damaged copy is in the way: move it aside, so that whoever reads it keeps what is open, and try again.
        let aside = tempfile::Builder::new()
            .prefix(DAMAGED)
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
    let mut is_whole = true;
    archive.for_each(|member| {
        is_whole = is_whole && is_copy(&member.bytes, &folder.join(&member.path));
        Ok(())
    })?;
    Ok(is_whole)
}

/// Whether the file, and no link to one, holds these bytes. The size is looked at first, so that no more is read.
fn is_copy(bytes: &[u8], path: &Path) -> bool {
    let metadata = std::fs::symlink_metadata(path);
    metadata.is_ok_and(|m| m.is_file() && m.len() == bytes.len() as u64)
        && std::fs::read(path).is_ok_and(|found| found == bytes)
}

/// Writes every file and the marker, all of it on the disk when this returns.
fn write_all(archive: &Archive, folder: &Path) -> io::Result<()> {
    let mut folders = BTreeSet::from([folder.to_owned()]);
    archive.for_each(|member| {
        let path = folder.join(&member.path);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
            let inside = parent.ancestors().take_while(|above| *above != folder);
            folders.extend(inside.map(Path::to_owned));
        }
        write_synced(&path, &member.bytes)
    })?;
    write_synced(&folder.join(MARKER), archive.sha256.trim().as_bytes())?;
    folders.iter().try_for_each(|folder| sync_folder(folder))
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Puts the names in a folder on the disk.
fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Removes what processes left behind that were killed while they unpacked. It is in nobody's way, so that failing to
/// is no error.
fn remove_leftovers(parent: &Path) {
    let entries = std::fs::read_dir(parent).into_iter().flatten().flatten();
    for entry in entries {
        let name = entry.file_name();
        let is_ours = [UNPACKING, DAMAGED]
            .iter()
            .any(|prefix| name.as_bytes().starts_with(prefix.as_bytes()));
        let modified = entry.metadata().and_then(|metadata| metadata.modified());
        let age = modified.ok().and_then(|at| at.elapsed().ok());
        if is_ours && age.is_some_and(|age| age > LEFTOVER_AGE) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedded::archive::to_hex;
    use sha2::{Digest, Sha256};
    use std::sync::Barrier;
    use std::time::SystemTime;

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
        let damages: [fn(&Path); 5] = [
            |folder| {
                let shard = folder.join("experts/layer-000/expert-000.safetensors");
                let mut bytes = std::fs::read(&shard).unwrap();
                bytes[4321] ^= 1;
                std::fs::write(shard, bytes).unwrap();
            },
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
    fn what_killed_processes_left_is_removed_an_hour_later() {
        let cache = tempfile::tempdir().unwrap();
        let parent = cache.path().join("embedded");
        let folder = |name: &str, minutes: u64| {
            let folder = parent.join(name);
            std::fs::create_dir_all(folder.join("experts")).unwrap();
            let then = SystemTime::now() - Duration::from_secs(60 * minutes);
            File::open(&folder).unwrap().set_modified(then).unwrap();
            folder
        };
        let old = [folder(".unpacking-a", 61), folder(".damaged-a", 61)];
        let kept = [folder(".unpacking-b", 30), folder("another", 61)];
        unpack(&small(), Some(cache.path())).unwrap();
        assert!(old.iter().all(|folder| !folder.exists()));
        assert!(kept.iter().all(|folder| folder.exists()));
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
