//! Brings models in: model sources, quantisation at conversion, the store writer.
//!
//! A [`ModelSource`] describes a checkpoint of some kind by canonical names and gives its bytes in pieces;
//! [`convert`] turns one into a store (see `docs/store.md`), and [`store_cache`] does so once for each source.
//! Memory use does not grow with the size of the weights.
#![forbid(unsafe_code)]

mod content_sample;
mod convert;
mod fingerprint;
pub mod gguf;
pub mod hugging_face;
mod progress;
pub mod random_model;
mod source;
mod source_folder;
mod store;
pub mod store_cache;
mod verify;

#[cfg(test)]
mod test_support;

pub use convert::{
    ConvertError, ConvertOptions, Preflight, Summary, WeightFormat, convert, planned_manifest,
    preflight,
};
pub use fingerprint::{Fingerprint, FingerprintBuilder};
pub use progress::{Earlier, Level, NoProgress, Progress, ProgressReport};
pub use source::{
    Advice, ModelMetadata, ModelSource, SourceError, SourceFileInfo, SourceTensor, TensorId,
    TextContents, open_source,
};
pub use store::{OpenStoreError, check_store_files, is_store, open_store};
pub use verify::{Problem, VerifyError, VerifyReport, verify_store};
