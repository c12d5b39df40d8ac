//! Quantities as people write them, and the configuration file.
//!
//! Every option has one definition, a flag of the command line; its `ODMOE_*` twin and its key in the configuration
//! file are the same name. Flags win over the environment, the environment over the file.

pub mod file;
pub mod keys;
mod quantity;

pub use quantity::{
    ByteSize, ExpertCacheSize, KvCacheSize, Patience, QuantityError, Seconds, parse_kernels,
    parse_kv_format,
};
