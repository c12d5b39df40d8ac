//! The plug for eviction policies.

use odmoe_formats::{ExpertKey, LayerIndex};

/// Where an object enters, and where a use puts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heat {
    /// Unproven: prefetched and not used yet, or only ever used by prefill.
    Cold,
    /// Used by decode.
    Warm,
}

/// Orders the resident objects of one size class of one tier.
///
/// The caller guarantees that every call but `insert` and `remember` names an object inserted before and not removed since, that
/// `insert` names none of those, and that all calls come in an order that depends on recorded events alone.
///
/// The implementation guarantees that its answers are a function of the calls so far (no clock, no random numbers
/// but seeded ones), so that a recorded trace replays exactly; that it never forgets an object by itself; and that
/// [`Self::victim`] finds an object if `may_leave` accepts any.
pub trait EvictionPolicy: Send {
    /// Decode asks for objects of a layer, in this class or not; the uses come next. A layer that is not after the one
    /// before it begins a pass.
    fn reached(&mut self, _layer: LayerIndex) {}

    /// In an earlier run decode used an object, resident or not, in this share of its passes. Comes before any use.
    fn remember(&mut self, _key: ExpertKey, _share: f64) {}

    /// An object became resident.
    fn insert(&mut self, key: ExpertKey, heat: Heat);

    /// A resident object was used. `heat` never falls from warm to cold.
    fn touch(&mut self, key: ExpertKey, heat: Heat);

    /// An object left, as a victim or otherwise.
    fn remove(&mut self, key: ExpertKey);

    /// The object to evict, among those that `may_leave` accepts. Changes nothing: the caller removes it.
    fn victim(&self, may_leave: &mut dyn FnMut(ExpertKey) -> bool) -> Option<ExpertKey>;

    /// Every object, next victim first: what a smaller budget gives up, and for checks.
    fn order(&self) -> Vec<ExpertKey>;
}
