//! How experts are read: what `disk` measures, what flags force, what a reader follows.

use odmoe_formats::ByteCount;
use std::fmt;

/// Which system calls read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    /// io_uring: one thread has all pieces of a read under way at once.
    IoUring,
    /// Positioned reads: a thread waits for each.
    Threads,
}

impl Method {
    /// As flags, files and reports write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::IoUring => "io_uring",
            Self::Threads => "threads",
        }
    }
}

/// Whether reads of experts go through the page cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// Past it, where the file system can; through it elsewhere.
    Direct,
    /// Through it; what was read is dropped from it.
    Buffered,
}

impl Access {
    /// As flags, files and reports write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Buffered => "buffered",
        }
    }
}

/// How experts are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ReadPlan {
    /// By which calls; a system without io_uring reads by threads whatever this says.
    pub method: Method,
    /// Past the page cache or through it.
    pub access: Access,
    /// Experts that are on their way from the disk at once; at least one.
    pub at_once: usize,
    /// The length of the pieces that a read is cut into, where io_uring reads it; None: uncut.
    pub piece: Option<ByteCount>,
}

/// The piece that reads are cut into where nothing else is faster: all but the last of it is verified while the rest is
/// on its way, so the demand that waits gets its expert sooner.
pub(crate) const DEFAULT_PIECE: ByteCount = ByteCount(512 << 10);

impl Default for ReadPlan {
    /// What does well on most disks: direct reads by io_uring, two at once, in pieces.
    fn default() -> Self {
        Self {
            method: Method::IoUring,
            access: Access::Direct,
            at_once: 2,
            piece: Some(DEFAULT_PIECE),
        }
    }
}

impl fmt::Display for ReadPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (method, access) = (self.method.name(), self.access.name());
        write!(f, "{method}, {access}, {} at once", self.at_once)?;
        match self.piece {
            Some(piece) => write!(f, ", in pieces of {piece}"),
            None => Ok(()),
        }
    }
}
