//! The CPU backend: a scalar reference of every op and its SIMD versions, on a pool of threads.
