//! KV storage. The backend owns it; the engine keeps the books in block numbers.

use odmoe_formats::BlockFormat;
use std::any::Any;
use std::sync::Arc;

/// How keys and values are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KvFormat {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary16, rounded to nearest even.
    F16,
    /// Blocks of 32 elements of a head as the weight format of that name: 8-bit integers and a binary16 unit. A head's
    /// width is a multiple of 32.
    Q8_0,
}

impl KvFormat {
    /// Every format.
    pub const ALL: [Self; 3] = [Self::F32, Self::F16, Self::Q8_0];

    /// The format of weights whose blocks these are: what a row of D elements decodes to, and how one is encoded.
    pub const fn block_format(self) -> BlockFormat {
        match self {
            Self::F32 => BlockFormat::F32,
            Self::F16 => BlockFormat::F16,
            Self::Q8_0 => BlockFormat::Q8_0,
        }
    }

    /// Whether heads of that width can be stored: whole blocks.
    pub const fn holds_heads_of(self, head_dim: usize) -> bool {
        head_dim.is_multiple_of(self.block_format().block_elements())
    }

    /// Bytes of a row of that many elements. Panics where they are not whole blocks.
    pub const fn row_bytes(self, elements: usize) -> usize {
        let format = self.block_format();
        assert!(
            self.holds_heads_of(elements),
            "a head of the KV cache is whole blocks wide"
        );
        elements / format.block_elements() * format.block_bytes()
    }

    /// Its name for the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Q8_0 => "q8_0",
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
        self.layers * 2 * self.kv_heads * self.format.row_bytes(self.head_dim)
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
