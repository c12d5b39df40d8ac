//! Files and host memory. The only place of this crate that may use `unsafe`.

mod files;
mod host_memory;
mod in_memory;

pub use files::{FileReader, OpenError};
pub(crate) use host_memory::{AlignedBuffer, HostSlot, allocate_slots};
pub use in_memory::MemoryReader;
