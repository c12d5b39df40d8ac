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

    /// Gives the memory behind the first `blocks` of each layer back, as far as it is whole pages.
    pub fn use_blocks(&self, blocks: usize) {
        let KvSpec {
            layers,
            blocks: all,
            ..
        } = self.spec;
        assert!(blocks <= all, "{blocks} blocks of {all}");
        let layer_bytes = self.spec.bytes() / layers;
        let used = layer_bytes / all * blocks;
        for layer in 0..layers {
            let start = layer * layer_bytes;
            self.region.divide(start, start + used, start + layer_bytes);
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use odmoe_backend::KvFormat;

    #[test]
    fn unused_blocks_give_their_pages_back_and_used_ones_stay() {
        let spec = KvSpec {
            layers: 3,
            kv_heads: 4,
            head_dim: 64,
            block_tokens: 16,
            blocks: 100,
            format: KvFormat::F16,
        };
        let cache = CpuKv::zeroed(spec).unwrap();
        cache.region.write().fill(7);
        cache.use_blocks(41);
        let block_bytes = spec.bytes() / 3 / 100;
        let bytes = cache.region.read();
        for (number, block) in bytes.chunks(block_bytes).enumerate() {
            let kept = block.iter().all(|byte| *byte == 7);
            assert!(kept || number % 100 >= 41, "block {number} was used");
            // A page at either end may reach into what is used.
            let inside = (43..98).contains(&(number % 100));
            assert!(!(kept && inside && cfg!(target_os = "linux")), "{number}");
        }
        drop(bytes);
        cache.use_blocks(100);
        cache.region.write().fill(9);
        cache.use_blocks(0);
    }
}
