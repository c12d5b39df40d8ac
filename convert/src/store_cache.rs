//! Stores that were made from other models, kept in a folder so that each model is converted once.
//!
//! A store's folder is named after the model and a key; the key is a fingerprint of the source and of what it was
//! converted to, and stands whole in a file beside the manifest. A conversion happens in a hidden folder that is
//! renamed when it is complete, under a lock file that is never removed. Where it was stopped it goes on in that folder.

use crate::convert::{CONVERSION_REVISION, ConvertError, ConvertOptions, convert, version_of};
use crate::fingerprint::{Fingerprint, FingerprintBuilder};
use crate::progress::{Progress, Tracker};
use crate::source::{ModelSource, SourceError};
use crate::store::{check_store_files, open_store};
use odmoe_formats::WeightLayout;
use serde::{Deserialize, Serialize};
use std::fs::{self, File, TryLockError};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Beside the manifest of a store: which source and options it was made from.
pub(crate) const FINGERPRINT_FILE: &str = "fingerprint.json";
/// Digits of the key in a folder's name.
const KEY_DIGITS: usize = 16;

#[derive(Serialize, Deserialize)]
struct FingerprintFile {
    key: String,
}

/// A store that was found or made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obtained {
    /// Its folder.
    pub store: PathBuf,
    /// Whether it had to be converted.
    pub converted: bool,
}

/// The key of a source converted with these options. Reads nothing.
pub fn key(source: &dyn ModelSource, options: &ConvertOptions) -> Fingerprint {
    let layout = options.layout_of(source);
    let key = FingerprintBuilder::new("cached store")
        .part("source", source.fingerprint().to_string().as_bytes())
        .part("weights", options.weights.label().as_bytes())
        .part("base files", &options.base_file_limit.0.to_le_bytes())
        .part("name", options.name_of(source).as_bytes())
        .part("version", &version_of(layout).to_le_bytes())
        .part("revision", &CONVERSION_REVISION.to_le_bytes());
    // Keys of before there were layouts stay what they were.
    match layout {
        WeightLayout::RowMajor => key.finish(),
        other => key.part("layout", other.name().as_bytes()).finish(),
    }
}

/// As [`find`], for the store of a source in the layout of the options or else in any other: each gives the same tokens.
pub fn find_in_any_layout(
    cache_dir: &Path,
    source: &dyn ModelSource,
    options: &ConvertOptions,
) -> Option<PathBuf> {
    let others = WeightLayout::ALL.into_iter();
    let others = others.filter(|layout| *layout != options.layout);
    let mut layouts = [options.layout].into_iter().chain(others);
    layouts.find_map(|layout| {
        let options = ConvertOptions {
            layout,
            ..options.clone()
        };
        find(cache_dir, key(source, &options))
    })
}

/// A complete store of this [`key`] in the cache folder: its manifest is valid and its files have their sizes.
pub fn find(cache_dir: &Path, key: Fingerprint) -> Option<PathBuf> {
    let suffix = folder_suffix(key);
    let folders = fs::read_dir(cache_dir).ok()?.filter_map(Result::ok);
    let of_key = folders.filter(|entry| {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        name.ends_with(&suffix) && !name.starts_with('.')
    });
    of_key
        .map(|entry| entry.path())
        .find(|folder| is_complete(folder, key))
}

/// Finds the store of a source, in whatever layout, or converts it. Of several processes that want the same one, one
/// converts and the others wait for it.
pub fn obtain(
    source: &dyn ModelSource,
    cache_dir: &Path,
    options: &ConvertOptions,
    progress: &dyn Progress,
) -> Result<Obtained, ConvertError> {
    let key = key(source, options);
    if let Some(store) = find_in_any_layout(cache_dir, source, options) {
        return Ok(Obtained {
            store,
            converted: false,
        });
    }
    fs::create_dir_all(cache_dir).map_err(ConvertError::io(cache_dir))?;
    let name = plain_name(options.name_of(source));
    let folder = format!("{name}{}", folder_suffix(key));
    let _lock = lock(
        &cache_dir.join(format!(".lock{}", folder_suffix(key))),
        progress,
    )?;
    if let Some(store) = find(cache_dir, key) {
        return Ok(Obtained {
            store,
            converted: false,
        });
    }

    let partial = cache_dir.join(format!(".partial{}", folder_suffix(key)));
    let options = ConvertOptions {
        overwrite: true,
        ..options.clone()
    };
    // A process may have been stopped after the conversion and before the renaming.
    if !is_complete(&partial, key) {
        let converted = convert(source, &partial, &options, progress);
        if let Err(ConvertError::Source(SourceError::Changed { .. })) = converted
            && partial.exists()
        {
            // The source will have another key when it is whole, and nobody would look here again.
            fs::remove_dir_all(&partial).map_err(ConvertError::io(&partial))?;
        }
        converted?;
    }
    let store = cache_dir.join(folder);
    put_in_place(&partial, &store, cache_dir)?;
    Ok(Obtained {
        store,
        converted: true,
    })
}

fn folder_suffix(key: Fingerprint) -> String {
    format!("-{}", &key.to_string()[..KEY_DIGITS])
}

/// A model's name as the beginning of a folder's.
fn plain_name(name: &str) -> String {
    let plain = |c: char| {
        if c.is_ascii_alphanumeric() || "._-".contains(c) {
            c
        } else {
            '_'
        }
    };
    let name: String = name
        .trim_start_matches('.')
        .chars()
        .take(64)
        .map(plain)
        .collect();
    if name.is_empty() {
        "model".into()
    } else {
        name
    }
}

pub(crate) fn is_complete(folder: &Path, key: Fingerprint) -> bool {
    let mut text = String::new();
    let read = File::open(folder.join(FINGERPRINT_FILE))
        .and_then(|file| file.take(1 << 16).read_to_string(&mut text));
    let written = read
        .ok()
        .and_then(|_| serde_json::from_str::<FingerprintFile>(&text).ok());
    written.is_some_and(|written| written.key == key.to_string())
        && open_store(folder).is_ok_and(|manifest| check_store_files(folder, &manifest).is_ok())
}

/// Waits for the lock; the progress receiver sees the waiting and can end it.
fn lock(path: &Path, progress: &dyn Progress) -> Result<File, ConvertError> {
    let file = File::create(path).map_err(ConvertError::io(path))?;
    let mut waiting = Tracker::new(progress, 0);
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(error)) => return Err(ConvertError::io(path)(error)),
            Err(TryLockError::WouldBlock) => {
                waiting.step("waiting for another process that converts this model", 0)?;
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }
}

pub(crate) fn fingerprint_file(key: Fingerprint) -> Vec<u8> {
    let contents = FingerprintFile {
        key: key.to_string(),
    };
    serde_json::to_vec(&contents).expect("a string serialises")
}

/// Renames the finished store to its place. What is there already did not pass as a store of this key.
fn put_in_place(partial: &Path, store: &Path, cache_dir: &Path) -> Result<(), ConvertError> {
    if store.exists() {
        fs::remove_dir_all(store).map_err(ConvertError::io(store))?;
    }
    fs::rename(partial, store).map_err(ConvertError::io(store))?;
    let synced = File::open(cache_dir).and_then(|folder| folder.sync_all());
    synced.map_err(ConvertError::io(cache_dir))
}

#[cfg(test)]
mod tests;
