//! The vocabulary of the machine: what it asks for, and what it is told.

use crate::api::LoadError;
use odmoe_formats::ExpertKey;
use std::time::Duration;

/// A moment, as time since the store was made: the machine has no clock of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub Duration);

impl Moment {
    /// Later by `by`.
    pub fn after(self, by: Duration) -> Self {
        Self(self.0.saturating_add(by))
    }
}

/// A slot. Tier 0 is the one that the backend computes from, the last tier is filled from disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SlotId {
    /// The memory tier.
    pub tier: usize,
    /// The size class in the tier.
    pub class: usize,
    /// The place in the class.
    pub index: usize,
}

/// Slots that are allocated and released together: `first ..` of a class, so many of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Extent {
    /// The memory tier.
    pub tier: usize,
    /// The size class in the tier.
    pub class: usize,
    /// Its first slot's place in the class.
    pub first: usize,
    /// How many.
    pub slots: usize,
    /// Length of each.
    pub slot_bytes: u64,
}

impl Extent {
    /// Its slots.
    pub fn ids(self) -> impl Iterator<Item = SlotId> {
        let (tier, class) = (self.tier, self.class);
        (self.first..self.first + self.slots).map(move |index| SlotId { tier, class, index })
    }

    /// Bytes of its slots.
    pub fn bytes(self) -> u64 {
        self.slot_bytes * self.slots as u64
    }
}

/// A read that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReadId(pub u64);

/// A copy between tiers that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CopyId(pub u64);

/// A hold on a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PinId(pub u64);

/// Which queued read a free reader takes: the least, then the oldest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Priority {
    /// Generated tokens wait for it.
    Decode,
    /// A prompt waits for it.
    Prefill,
    /// Nobody waits yet.
    Prefetch,
}

/// What the executor must do. Every `Read` is answered once, by started-then-done, started-then-failed, or cancelled
/// (in answer to `CancelRead`, where it had not started); every `Copy` once, by done or failed; every `Probe` once; every
/// `Allocate` once, by allocated or refused; every `Release` once. Until the answer the slots named belong to the executor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Read an object from disk into a slot of the last tier, and verify it.
    Read {
        /// To be named in the answer.
        read: ReadId,
        /// What.
        key: ExpertKey,
        /// Where to.
        slot: SlotId,
        /// Its place among the queued reads.
        priority: Priority,
    },
    /// A read has become more urgent. Void once it has started.
    Reprioritise {
        /// Which.
        read: ReadId,
        /// Its new place.
        priority: Priority,
    },
    /// Nobody wants a read any more: answer `cancelled` if it has not started, else as if nothing had been said.
    CancelRead {
        /// Which.
        read: ReadId,
    },
    /// Copy an object between slots, from a tier to the one before it.
    Copy {
        /// To be named in the answer.
        copy: CopyId,
        /// What.
        key: ExpertKey,
        /// A verified copy.
        from: SlotId,
        /// Where to.
        to: SlotId,
    },
    /// Make the slots of an extent; none of them exists.
    Allocate {
        /// Which.
        extent: Extent,
    },
    /// Give the memory of an extent back; nothing uses it.
    Release {
        /// Which.
        extent: Extent,
    },
    /// Read the first bytes of an object into scratch memory, to see whether storage answers again.
    Probe {
        /// What.
        key: ExpertKey,
    },
}

/// A read that ended well.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ReadReport {
    /// Bytes read.
    pub bytes: u64,
    /// From its start to the end of its verification.
    pub seconds: f64,
    /// See [`crate::ShardReader::source`].
    pub source: &'static str,
}

/// What a ticket gets for one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Grant {
    /// The object is in this slot of tier 0 until the pin is released.
    Ready {
        /// Which.
        key: ExpertKey,
        /// Where.
        slot: SlotId,
        /// What holds it there.
        pin: PinId,
    },
    /// It cannot be had.
    Failed {
        /// Which.
        key: ExpertKey,
        /// Why.
        error: LoadError,
    },
}
