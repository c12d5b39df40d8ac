//! Objects on their way into tier 0.

use super::command::{CopyId, Moment, Priority, ReadId, SlotId};
use super::eviction::Heat;
use crate::api::{MissCause, Ticket};
use odmoe_formats::ExpertKey;

/// Where a flight is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Waits for a slot of `tier`; `from` holds the bytes already (pinned), or they come from disk.
    Waiting {
        /// The tier.
        tier: usize,
        /// The slot in the tier below.
        from: Option<SlotId>,
    },
    /// Is being read.
    Reading(ReadId),
    /// Is being copied.
    Copying(CopyId),
}

/// One object on its way. At most one for each key.
#[derive(Clone, Debug)]
pub(super) struct Flight {
    /// Its age among those that wait for slots.
    pub seq: u64,
    pub stage: Stage,
    /// Who wants it.
    pub waiters: Vec<Ticket>,
    /// Whether decode is among them, or was.
    pub decode: bool,
    /// Begun by a hint, and not wanted by any ticket so far.
    pub prefetch: bool,
    /// Why who asks for it does not find it; None where a tier of memory has it.
    pub cause: Option<MissCause>,
    /// When a ticket began to wait for it; when it was made, while none does.
    pub since: Moment,
}

impl Flight {
    pub(super) fn heat(&self) -> Heat {
        if self.decode { Heat::Warm } else { Heat::Cold }
    }

    pub(super) fn priority(&self) -> Priority {
        match (self.waiters.is_empty(), self.decode) {
            (true, _) => Priority::Prefetch,
            (false, true) => Priority::Decode,
            (false, false) => Priority::Prefill,
        }
    }
}

/// A read that the executor has.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReadInFlight {
    pub key: ExpertKey,
    pub slot: SlotId,
    /// As the executor knows it.
    pub priority: Priority,
    pub issued: Moment,
    /// When a reader took it.
    pub started: Option<Moment>,
    /// A cancellation was asked for and is not answered yet.
    pub cancelling: bool,
    /// Given up for late: no flight waits for it.
    pub lost: bool,
}

/// A copy that the executor has.
#[derive(Clone, Copy, Debug)]
pub(super) struct CopyInFlight {
    pub key: ExpertKey,
    pub from: SlotId,
    pub to: SlotId,
    pub issued: Moment,
    /// Given up for late.
    pub lost: bool,
}
