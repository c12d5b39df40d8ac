//! Memory of the CPU backend. Only here are bytes reached by pointer; outside everything is a checked slice.

mod extent;
mod map;
mod region;
mod shared_slice;

pub use extent::CpuExtent;
pub use region::{ReadGuard, Region, WriteGuard};
pub use shared_slice::SharedSlice;

use map::RawMemory;
use odmoe_backend::{DeviceBuffer, KvMemory, KvSpec};
use std::any::Any;
use std::io;
use std::sync::Arc;

/// A buffer, of its own or a slot of an extent.
pub struct CpuBuffer(pub Arc<Region>);

impl CpuBuffer {
    /// A zeroed buffer of its own.
    pub fn zeroed(bytes: usize) -> io::Result<Self> {
        Ok(Self(Arc::new(Region::whole(RawMemory::zeroed(bytes)?))))
    }
}

impl DeviceBuffer for CpuBuffer {
    fn bytes(&self) -> usize {
        self.0.bytes()
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// KV storage as `[layers][blocks][key, value][G][block_tokens][D]`: the keys of one head in one block lie together
/// as a matrix, which is what scores are computed from.
pub struct CpuKv {
    spec: KvSpec,
    /// All of it.
    pub region: Region,
}

impl CpuKv {
    /// Zeroed storage.
    pub fn zeroed(spec: KvSpec) -> io::Result<Self> {
        Ok(Self {
            spec,
            region: Region::whole(RawMemory::zeroed(spec.bytes())?),
        })
    }
}

impl KvMemory for CpuKv {
    fn spec(&self) -> KvSpec {
        self.spec
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}
