//! The experts of one layer pass, from demand to the last group.

use super::routing::Demand;
use odmoe_backend::{Buffer, ExpertGroup, ExpertRow, Weight};
use odmoe_expert_store::{Catalog, ExpertStore, Landed, LoadError, Pin, Ticket};
use odmoe_formats::ExpertKey;
use odmoe_formats::manifest::PageableObject;
use odmoe_formats::names::ExpertRole;
use std::sync::Arc;

/// What a pass waits for in one layer.
pub struct ExpertWork {
    ticket: Ticket,
    demand: Demand,
    missing: usize,
}

/// What one visit to the store brought.
#[derive(Default)]
pub struct LandedWork {
    /// Experts in memory, with their rows.
    pub groups: Vec<ExpertGroup>,
    /// One for each group, to be released after the groups' event.
    pub pins: Vec<Pin>,
    /// Experts that cannot be had.
    pub failures: Vec<ExpertFailure>,
}

/// An expert that cannot be had, with the rows that it leaves without an output.
pub struct ExpertFailure {
    /// The rows.
    pub rows: Arc<[ExpertRow]>,
    /// Why.
    pub error: LoadError,
}

impl LandedWork {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty() && self.failures.is_empty()
    }
}

impl ExpertWork {
    /// Nothing has landed yet.
    pub fn new(ticket: Ticket, demand: Demand) -> Self {
        let missing = demand.keys().len();
        Self {
            ticket,
            demand,
            missing,
        }
    }

    /// For cancelling.
    pub fn ticket(&self) -> Ticket {
        self.ticket
    }

    /// Experts still to come.
    pub fn missing(&self) -> usize {
        self.missing
    }

    /// Takes what has landed since the last call.
    pub fn take_landed(&mut self, store: &mut ExpertStore, catalog: &Catalog) -> LandedWork {
        if self.missing == 0 {
            return LandedWork::default();
        }
        let mut landed = Vec::new();
        self.missing = store.take_landed(self.ticket, &mut landed);
        let mut work = LandedWork::default();
        for expert in landed {
            match expert {
                Landed::Ready { key, slot, pin } => {
                    work.groups
                        .push(group(store, catalog.object(key), &slot, self.rows(key)));
                    work.pins.push(pin);
                }
                Landed::Failed { key, error } => {
                    work.failures.push(ExpertFailure {
                        rows: self.rows(key),
                        error,
                    });
                }
            }
        }
        work
    }

    fn rows(&self, key: ExpertKey) -> Arc<[ExpertRow]> {
        self.demand.rows(key)
    }
}

fn group(
    store: &ExpertStore,
    object: &PageableObject,
    slot: &Buffer,
    rows: Arc<[ExpertRow]>,
) -> ExpertGroup {
    let weight = |role: ExpertRole| {
        let tensor = &object.tensors[role.name()];
        Weight {
            buffer: slot.clone(),
            offset_bytes: tensor.offset as usize,
            format: tensor.format,
            layout: store.layout_in_slots(object, tensor),
            rows: tensor.shape[0] as usize,
            columns: tensor.shape[1] as usize,
        }
    };
    ExpertGroup {
        gate: weight(ExpertRole::GateProj),
        up: weight(ExpertRole::UpProj),
        down: weight(ExpertRole::DownProj),
        rows,
    }
}
