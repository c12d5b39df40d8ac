//! Memory of a backend, seen from outside as opaque handles.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

/// What a backend implements for a buffer. Dropping the last handle frees it.
pub trait DeviceBuffer: Any + Send + Sync {
    /// Its length.
    fn bytes(&self) -> usize;
    /// For the backend that made it.
    fn as_any(&self) -> &dyn Any;
}

/// A handle to memory of a backend. Cloning shares it.
#[derive(Clone)]
pub struct Buffer(Arc<dyn DeviceBuffer>);

impl Buffer {
    /// Wraps a backend's own buffer.
    pub fn new(inner: Arc<dyn DeviceBuffer>) -> Self {
        Self(inner)
    }

    /// Its length.
    pub fn bytes(&self) -> usize {
        self.0.bytes()
    }

    /// The backend's own type; None when another backend made it, which is a bug of the caller.
    pub fn downcast<T: DeviceBuffer>(&self) -> Option<&T> {
        self.0.as_any().downcast_ref()
    }

    /// Whether both handles are of one buffer.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// A number that tells live buffers apart.
    pub fn address(&self) -> usize {
        Arc::as_ptr(&self.0).cast::<()>() as usize
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({} bytes at {:#x})", self.bytes(), self.address())
    }
}

/// What a backend implements for an extent.
pub trait ExtentMemory: Any + Send + Sync {
    /// Its length.
    fn bytes(&self) -> usize;
    /// For the backend that made it.
    fn as_any(&self) -> &dyn Any;
}

/// A large allocation from which slots are carved. It lives until the last handle and the last slot are dropped.
#[derive(Clone)]
pub struct Extent(Arc<dyn ExtentMemory>);

impl Extent {
    /// Wraps a backend's own extent.
    pub fn new(inner: Arc<dyn ExtentMemory>) -> Self {
        Self(inner)
    }

    /// Its length.
    pub fn bytes(&self) -> usize {
        self.0.bytes()
    }

    /// The backend's own type.
    pub fn downcast<T: ExtentMemory>(&self) -> Option<&T> {
        self.0.as_any().downcast_ref()
    }
}

/// Exclusive host access to a whole buffer, for one read from disk. While it lives the backend refuses every op
/// on the buffer; dropping it ends the write.
pub trait HostWindowMemory: Send {
    /// The buffer's bytes.
    fn bytes_mut(&mut self) -> &mut [u8];
}

/// See [`HostWindowMemory`].
pub type HostWindow = Box<dyn HostWindowMemory>;
