//! The small model that the binary carries, and how it becomes files that experts can be paged from.

pub mod archive;
mod unpack;

pub use archive::{PackError, pack};
pub use unpack::{UnpackError, Unpacked, unpack};

/// A store in one file.
#[derive(Clone, Copy, Debug)]
pub struct Archive {
    /// Names the folder that it is unpacked into.
    pub name: &'static str,
    /// An uncompressed tar of the store's files.
    pub bytes: &'static [u8],
    /// Of `bytes`, in lower-case hex.
    pub sha256: &'static str,
}

/// The model that is served where none is named; see `server/embedded/README.md`.
pub const TINY_MOE: Archive = Archive {
    name: "tiny-moe",
    bytes: include_bytes!("../embedded/tiny-moe.tar"),
    sha256: include_str!("../embedded/tiny-moe.tar.sha256"),
};
