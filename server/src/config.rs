//! Quantities as people write them, the configuration file, and the files of API keys and pinned experts.
//!
//! Every option has one definition, a flag of the command line; its `ODMOE_*` twin and its key in the configuration
//! file are the same name. Flags win over the environment, the environment over the file.

pub mod file;
pub mod keys;
mod pins;
mod quantity;
pub(crate) mod small_file;

pub use pins::{PinError, PinList};
pub use quantity::{
    ByteSize, ExpertCacheSize, KvCacheSize, Patience, QuantityError, Seconds, parse_kernels,
    parse_kv_format,
};
