//! What can be paged: every object of the manifest, by key.

use crate::api::StoreError;
use crate::residency::layout::{self, SlotLayout};
use odmoe_formats::manifest::{Manifest, PageableObject};
use odmoe_formats::{ByteCount, ExpertKey};
use std::collections::{HashMap, HashSet};

/// The objects that can be paged, by key.
#[derive(Clone, Debug)]
pub struct Catalog {
    objects: Vec<PageableObject>,
    by_key: HashMap<ExpertKey, usize>,
    kept: HashSet<ExpertKey>,
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
        Self {
            objects,
            by_key,
            kept: HashSet::new(),
        }
    }

    /// With objects that are to stay in memory: budgets have room for them beside the others. Unknown keys are a bug of
    /// the caller.
    pub fn keeping(mut self, keys: &HashSet<ExpertKey>) -> Self {
        let known = keys.iter().all(|key| self.by_key.contains_key(key));
        assert!(known, "what is kept is in the catalog");
        self.kept.clone_from(keys);
        self
    }

    /// The objects that are to stay in memory.
    pub fn kept(&self) -> &HashSet<ExpertKey> {
        &self.kept
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

    /// The least budget: two of the largest objects, in slots; more where objects are kept.
    pub fn least_budget(&self) -> ByteCount {
        if !self.kept.is_empty() {
            return SlotLayout::least_keeping(self.demand());
        }
        self.least_without_kept()
    }

    /// What [`Self::least_budget`] is if nothing is kept.
    pub fn least_without_kept(&self) -> ByteCount {
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
        SlotLayout::plan_keeping(self.demand(), budget)
    }

    fn demand(&self) -> impl Iterator<Item = (u64, bool)> {
        let objects = self.objects.iter();
        objects.map(|o| (o.bytes, self.kept.contains(&o.key)))
    }

    /// As [`Self::slots`], with the least budget in the error.
    pub fn check_budget(&self, budget: ByteCount) -> Result<SlotLayout, StoreError> {
        self.slots(budget).ok_or(StoreError::BudgetTooSmall {
            budget,
            least: self.least_budget(),
            kept: self.kept.len(),
        })
    }

    pub(crate) fn sizes(&self) -> impl Iterator<Item = (ExpertKey, u64)> + '_ {
        self.objects.iter().map(|o| (o.key, o.bytes))
    }
}
