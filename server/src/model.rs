//! Opening a model: where it is, what memory it gets, and the engine that runs it.

pub mod budget;
pub mod cache_folder;
pub mod control_groups;
pub mod cpu_limit;
pub mod facts;
pub mod kv_budget;
pub mod live_budget;
pub mod locate;
pub mod memory_limit;
pub mod open;
mod prefill_chunk;
pub mod pressure;
pub mod read_plan;
pub mod recorder;
pub mod report;
pub mod settings;
pub mod text_side;
pub mod usage;
