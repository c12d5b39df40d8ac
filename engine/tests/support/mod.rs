//! What the engine's tests share.
#![allow(dead_code)] // Each test file uses a part.

pub mod engine;
pub mod families;
pub mod model;
pub mod oracle;
pub mod reader;
pub mod recorder;
pub mod sink;
