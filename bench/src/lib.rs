//! Replay of recorded routing traces: eviction policies against Belady's optimum, and predictor recall.
//!
//! Policies are compared on recorded routing only. Synthetic routing flatters every policy alike and says nothing
//! about a real model.
#![forbid(unsafe_code)]

pub mod belady;
pub mod foreseen;
pub mod judge;
pub mod plot;
pub mod policies;
pub mod recall;
pub mod recording;
pub mod replay;
pub mod steps;
pub mod trace;
