//! The CPU backend: a scalar reference of every op and its SIMD versions, on a pool of threads.
//!
//! Every kernel set gives the same bits for every op, whatever the number of rows, threads, chunks or the layout of
//! the block table. `reference` defines those bits; `kernels` reproduces them fast; `ops` checks operands and shares
//! out the work; `memory` holds the bytes.
//!
//! Beside the buffers that its caller allocates, a backend keeps scratch that grows to what the largest op needs, within
//! [`odmoe_backend::scratch_bytes_max`]: at most 26 MiB for the intermediate state of experts; for the largest batch of
//! activations that meets quantised weights 3.25 bytes an element in blocks of 32 and 1.75 in superblocks of 256, and of up
//! to 64 rows of these 1.25 more, rearranged; the router's logits, and some 170 KiB a thread.
//!
//! `unsafe` is where it must be: in `memory` (borrow states make the outside safe), in `pool` (a loop's body outlives
//! the loop), in the vector primitives of `kernels`, and where `ops` hands disjoint parts of an output to threads.

#[cfg(not(target_endian = "little"))]
compile_error!("weights and buffers are little endian, and so must be the machine");

mod backend;
mod blocks;
mod kernel_set;
mod kernels;
mod memory;
mod ops;
mod pool;
mod reference;
mod view;

pub use backend::{CpuBackend, CpuBackendError, CpuConfig};
pub use kernel_set::{KernelSet, UnknownKernelSet};
