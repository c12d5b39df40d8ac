//! The single checks that a manifest's validation is made of.

use crate::BlockFormat;
use crate::checksum::is_lower_hex;
use crate::expected::TensorUse;
use crate::manifest::{FileIndex, Manifest, ManifestError};

const MAX_DIMENSIONS: usize = 8;
const MAX_PATH_BYTES: usize = 1024;
pub(super) const MAX_TEXT_BYTES: usize = 4096;

/// `ranges` of (start, end, owner), ascending and none empty.
pub(super) fn check_no_overlap<T: Copy>(
    ranges: &[(u64, u64, T)],
    describe: impl Fn(T) -> String,
) -> Result<(), ManifestError> {
    for pair in ranges.windows(2) {
        let ((_, end, first), (start, _, second)) = (pair[0], pair[1]);
        if start < end {
            let (first, second) = (describe(first), describe(second));
            return Err(ManifestError::Overlap { first, second });
        }
    }
    Ok(())
}

/// Parts joined by `/`, none of them empty, `.` or `..`; no backslash, NUL, other control character or drive colon.
pub(super) fn is_plain_relative_path(path: &str) -> bool {
    let plain_part = |part: &str| !matches!(part, "" | "." | "..");
    let plain_char = |c: char| !c.is_control() && c != '\\' && c != ':';
    path.len() <= MAX_PATH_BYTES && path.split('/').all(plain_part) && path.chars().all(plain_char)
}

pub(super) fn file_bytes(
    manifest: &Manifest,
    owner: impl Fn() -> String,
    index: FileIndex,
) -> Result<u64, ManifestError> {
    let files = manifest.files.len();
    match manifest.files.get(index.0 as usize) {
        Some(file) => Ok(file.bytes),
        None => Err(ManifestError::FileIndex {
            owner: owner(),
            index: index.0,
            files,
        }),
    }
}

pub(super) fn check_bounds(
    owner: impl Fn() -> String,
    offset: u64,
    bytes: u64,
    within: u64,
) -> Result<(), ManifestError> {
    match offset.checked_add(bytes) {
        Some(end) if end <= within => Ok(()),
        _ => Err(ManifestError::OutOfBounds {
            owner: owner(),
            offset,
            bytes,
            within,
        }),
    }
}

pub(super) fn check_size(
    owner: impl Fn() -> String,
    shape: &[u64],
    format: BlockFormat,
    bytes: u64,
) -> Result<(), ManifestError> {
    let sound = shape.len() <= MAX_DIMENSIONS && !shape.contains(&0);
    if sound && format.tensor_bytes(shape) == Some(bytes) {
        return Ok(());
    }
    let shape = shape.iter().take(MAX_DIMENSIONS).copied().collect();
    Err(ManifestError::Size {
        owner: owner(),
        shape,
        format,
        bytes,
    })
}

pub(super) fn check_shape(
    owner: impl Fn() -> String,
    expected: &[u64],
    found: &[u64],
) -> Result<(), ManifestError> {
    if expected == found {
        return Ok(());
    }
    let found = found.iter().take(MAX_DIMENSIONS).copied().collect();
    Err(ManifestError::Shape {
        owner: owner(),
        expected: expected.to_vec(),
        found,
    })
}

pub(super) fn check_use(
    owner: impl Fn() -> String,
    tensor_use: TensorUse,
    format: BlockFormat,
) -> Result<(), ManifestError> {
    match tensor_use.allows(format) {
        true => Ok(()),
        false => Err(ManifestError::Format {
            owner: owner(),
            format,
        }),
    }
}

pub(super) fn check_digest(
    owner: impl Fn() -> String,
    found: &str,
    digits: usize,
) -> Result<(), ManifestError> {
    match is_lower_hex(found, digits) {
        true => Ok(()),
        false => Err(ManifestError::Digest {
            owner: owner(),
            found: shortened(found),
            digits,
        }),
    }
}

pub(super) fn check_text(what: &'static str, text: &str) -> Result<(), ManifestError> {
    let sound =
        !text.is_empty() && text.len() <= MAX_TEXT_BYTES && !text.chars().any(char::is_control);
    match sound {
        true => Ok(()),
        false => Err(ManifestError::Text {
            what,
            found: shortened(text),
        }),
    }
}

pub(super) fn shortened(text: &str) -> String {
    text.chars().take(128).collect()
}
