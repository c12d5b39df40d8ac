//! The CPU backend: a scalar reference of every op and its SIMD versions, on a pool of threads.
//!
//! Every kernel set gives the same bits for every op, whatever the number of rows, threads, chunks or the layout of
//! the block table. `reference` defines those bits.

#[cfg(not(target_endian = "little"))]
compile_error!("weights and buffers are little endian, and so must be the machine");

mod backend;
mod kernel_set;
mod kernels;
mod memory;
mod ops;
mod pool;
mod reference;
mod view;

pub use backend::{CpuBackend, CpuBackendError, CpuConfig};
pub use kernel_set::{KernelSet, UnknownKernelSet};
