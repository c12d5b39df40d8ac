//! KV storage. The backend owns it; the engine keeps the books in block numbers.

use std::any::Any;
use std::sync::Arc;

/// How keys and values are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KvFormat {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary16, rounded to nearest even.
    F16,
}

impl KvFormat {
    /// Bytes of one element.
    pub const fn element_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 => 2,
        }
    }
}

/// The shape of a KV cache: `layers` x `blocks` x `block_tokens` x 2 x `kv_heads` x `head_dim` elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvSpec {
    /// Layers with attention.
    pub layers: usize,
    /// Key/value heads, G.
    pub kv_heads: usize,
    /// Width of a head, D.
    pub head_dim: usize,
    /// Tokens in one block.
    pub block_tokens: usize,
    /// Blocks in all.
    pub blocks: usize,
    /// How elements are stored.
    pub format: KvFormat,
}

impl KvSpec {
    /// Bytes that one token takes over all layers.
    pub const fn token_bytes(&self) -> usize {
        self.layers * 2 * self.kv_heads * self.head_dim * self.format.element_bytes()
    }

    /// Bytes of the whole cache.
    pub const fn bytes(&self) -> usize {
        self.token_bytes() * self.block_tokens * self.blocks
    }
}

/// What a backend implements for a KV cache.
pub trait KvMemory: Any + Send + Sync {
    /// Its shape.
    fn spec(&self) -> KvSpec;
    /// For the backend that made it.
    fn as_any(&self) -> &dyn Any;
}

/// A handle to a KV cache.
#[derive(Clone)]
pub struct KvCache(Arc<dyn KvMemory>);

impl KvCache {
    /// Wraps a backend's own cache.
    pub fn new(inner: Arc<dyn KvMemory>) -> Self {
        Self(inner)
    }

    /// Its shape.
    pub fn spec(&self) -> KvSpec {
        self.0.spec()
    }

    /// The backend's own type.
    pub fn downcast<T: KvMemory>(&self) -> Option<&T> {
        self.0.as_any().downcast_ref()
    }

    /// A number that tells live caches apart.
    pub fn address(&self) -> usize {
        Arc::as_ptr(&self.0).cast::<()>() as usize
    }
}

impl std::fmt::Debug for KvCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "KvCache({:?})", self.spec())
    }
}

/// Where one token's key and value are kept, the same in every layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvPosition {
    /// The block.
    pub block: u32,
    /// The token's place in it.
    pub offset: u32,
}
