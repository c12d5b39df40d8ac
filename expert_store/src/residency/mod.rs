//! Which objects are in memory: a pure state machine.
//!
//! Nothing here reads a clock, opens a file or starts a thread. Events and time come in as arguments, commands go
//! out as plain data ([`Command`]), so that a million steps can be simulated with seeded faults and a recorded trace
//! replays exactly. A thin executor carries the commands out.
//!
//! The life of an object that is asked for: a *flight* is made, waits for a slot of the last tier, is read into it,
//! then for each tier above waits for a slot and is copied into it; in tier 0 it lands, pinned once for each ticket
//! that waited. Tickets that want the same object share the flight.
//!
//! The slots themselves come and go with the budget, an extent at a time: see `resize`. Objects that an operator named
//! stay in theirs: see `keep`.
//!
//! Why it cannot deadlock: a flight holds at most the slot that it has reached and waits only for tiers above it; a
//! slot of tier 0 is held by a read or copy, which ends or is given up for late, or by a pin of a caller that has
//! promised to compute and release what landed before it waits. Slots go to the oldest demand first.
#![forbid(unsafe_code)]

mod check;
mod command;
mod demand;
pub mod eviction;
mod extents;
mod flight;
mod forecast;
mod health;
mod hints;
mod keep;
pub mod layout;
mod machine;
mod outcomes;
mod pump;
mod resize;
mod slots;
mod sweep;
mod throttle;
mod timeouts;
mod usage;
mod warm_up;

pub use command::{
    Command, CopyId, Extent, Grant, Moment, PinId, Priority, ReadId, ReadReport, SlotId,
};
pub use machine::{Machine, Settings};
pub use usage::{ExpertUse, MissCounts};
