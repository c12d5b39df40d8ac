//! Files and host memory. The only place of this crate that may use `unsafe`.

mod ahead;
mod files;
mod host_memory;
mod in_memory;
mod plan;
#[cfg(target_os = "linux")]
mod ring;
#[cfg(not(target_os = "linux"))]
#[path = "no_ring.rs"]
mod ring;

pub(crate) use ahead::hash;
pub use files::{FileReader, OpenError};
pub(crate) use host_memory::{AlignedBuffer, HostSlot, allocate_slots};
pub use in_memory::MemoryReader;
pub(crate) use plan::DEFAULT_PIECE;
pub use plan::{Access, Method, ReadPlan};
