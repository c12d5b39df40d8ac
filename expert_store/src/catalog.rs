//! What can be paged: every object of the manifest, by key.

use crate::api::StoreError;
use crate::residency::layout::{self, SlotLayout};
use odmoe_formats::manifest::{Manifest, PageableObject};
use odmoe_formats::{ByteCount, ExpertKey};
use std::collections::HashMap;

/// The objects that can be paged, by key.
#[derive(Clone, Debug)]
pub struct Catalog {
    objects: Vec<PageableObject>,
    by_key: HashMap<ExpertKey, usize>,
}

impl Catalog {
    /// From a validated manifest.
    pub fn new(manifest: &Manifest) -> Self {
        let objects = manifest.objects.clone();
        let by_key = objects
            .iter()
            .enumerate()
            .map(|(i, o)| (o.key, i))
            .collect();
        Self { objects, by_key }
    }

    /// One object. Unknown keys are a bug of the caller.
    pub fn object(&self, key: ExpertKey) -> &PageableObject {
        let index = self
            .by_key
            .get(&key)
            .unwrap_or_else(|| panic!("{key} is not in the catalog"));
        &self.objects[*index]
    }

    /// How many objects.
    pub fn len(&self) -> usize {
        self.objects.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    /// Every object, in the manifest's order.
    pub fn objects(&self) -> impl Iterator<Item = &PageableObject> {
        self.objects.iter()
    }

    /// Bytes of all objects.
    pub fn total(&self) -> ByteCount {
        ByteCount(self.objects.iter().map(|o| o.bytes).sum())
    }

    /// The least budget: two of the largest objects, in slots.
    pub fn least_budget(&self) -> ByteCount {
        let largest = self
            .objects
            .iter()
            .map(|o| layout::slot_bytes(o.bytes))
            .max()
            .unwrap_or(0);
        ByteCount(largest * self.objects.len().min(2) as u64)
    }

    /// The budget at which every object has a slot; more is never allocated.
    pub fn full_budget(&self) -> ByteCount {
        ByteCount(
            self.objects
                .iter()
                .map(|o| layout::slot_bytes(o.bytes))
                .sum(),
        )
    }

    /// The slots that a budget is cut into, or None where it is below [`Self::least_budget`]. Their bytes are what
    /// the store will allocate, at most `budget`.
    pub fn slots(&self, budget: ByteCount) -> Option<SlotLayout> {
        SlotLayout::plan(self.objects.iter().map(|o| o.bytes), budget)
    }

    /// As [`Self::slots`], with the least budget in the error.
    pub fn check_budget(&self, budget: ByteCount) -> Result<SlotLayout, StoreError> {
        let least = self.least_budget();
        self.slots(budget)
            .ok_or(StoreError::BudgetTooSmall { budget, least })
    }

    pub(crate) fn sizes(&self) -> impl Iterator<Item = (ExpertKey, u64)> + '_ {
        self.objects.iter().map(|o| (o.key, o.bytes))
    }
}
