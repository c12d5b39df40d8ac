//! Opening a model: where it is, what memory it gets, and the engine that runs it.

pub mod budget;
pub mod cache_folder;
pub mod memory_limit;
