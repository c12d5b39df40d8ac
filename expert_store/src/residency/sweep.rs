//! A long prompt goes through all layers once and takes nearly everything of each: what it has passed is needed last, and
//! what it still comes to is needed for certain.

use super::eviction::{EvictionPolicy, Heat};
use crate::api::Phase;
use odmoe_formats::{ExpertKey, LayerIndex};
use rustc_hash::FxHashMap;

/// How far a long prompt is.
#[derive(Debug)]
pub(super) struct Sweep {
    /// The first layer that it has not asked for, while one is under way.
    next: Option<u32>,
    /// Objects of each layer.
    sizes: FxHashMap<LayerIndex, usize>,
    layers: u32,
}

impl Sweep {
    /// None under way, over layers of so many objects.
    pub(super) fn over(sizes: &FxHashMap<LayerIndex, usize>) -> Self {
        Self {
            next: None,
            sizes: sizes.clone(),
            layers: sizes.keys().max().map_or(0, |last| last.0 + 1),
        }
    }

    /// Whether a layer has no more objects than so many.
    pub(super) fn is_whole(&self, layer: LayerIndex, objects: usize) -> bool {
        self.sizes.get(&layer).is_some_and(|size| objects >= *size)
    }

    /// A prompt that asks for half of a layer or more sweeps. Its next piece begins right after the last layer, so that it
    /// is over when decode goes on without one.
    pub(super) fn demanded(&mut self, keys: &[ExpertKey], phase: Phase) {
        let Some(layer) = keys.first().map(|key| key.layer) else {
            return;
        };
        match phase {
            Phase::Prefill => {
                self.next = (keys.len() * 2 >= self.sizes[&layer]).then_some(layer.0 + 1);
            }
            Phase::Decode if self.next == Some(self.layers) => self.next = None,
            Phase::Decode => {}
        }
    }

    /// A sweep is about to ask for a layer: it begins there, or begins anew.
    pub(super) fn announced(&mut self, layer: LayerIndex) {
        self.next = Some(self.next.map_or(layer.0, |next| next.min(layer.0)));
    }

    /// Whether the sweep that is under way needs an object no more.
    pub(super) fn has_passed(&self, key: ExpertKey) -> bool {
        self.next.is_none_or(|next| key.layer.0 < next)
    }

    /// Who leaves for a prompt: of what is cold, what was passed, in the policy's order, and then what is farthest ahead; the
    /// same of what is warm. Without a sweep, whom the policy names.
    pub(super) fn victim(
        &self,
        policy: &dyn EvictionPolicy,
        heat: &dyn Fn(ExpertKey) -> Heat,
        may_leave: &mut dyn FnMut(ExpertKey) -> bool,
    ) -> Option<ExpertKey> {
        if self.next.is_none() {
            return policy.victim(may_leave);
        }
        let is_cold = |key| heat(key) == Heat::Cold;
        let is_passed = |key| self.has_passed(key);
        if let Some(key) =
            policy.victim(&mut |key| is_passed(key) && is_cold(key) && may_leave(key))
        {
            return Some(key);
        }
        if let Some(key) = farthest(policy, &mut |key| is_cold(key) && may_leave(key)) {
            return Some(key);
        }
        if let Some(key) = policy.victim(&mut |key| is_passed(key) && may_leave(key)) {
            return Some(key);
        }
        farthest(policy, may_leave)
    }
}

/// Of those that may leave, the policy's first of the last layer.
fn farthest(
    policy: &dyn EvictionPolicy,
    may_leave: &mut dyn FnMut(ExpertKey) -> bool,
) -> Option<ExpertKey> {
    let mut found: Option<ExpertKey> = None;
    policy.victim(&mut |key| {
        if found.is_none_or(|found| found.layer < key.layer) && may_leave(key) {
            found = Some(key);
        }
        false
    });
    found
}

#[cfg(test)]
mod tests {
    use super::super::eviction::SegmentedLru;
    use super::*;

    const LAYERS: u32 = 4;

    fn key(layer: u32, index: u32) -> ExpertKey {
        ExpertKey::routed(layer, index)
    }

    /// Four layers of two objects; all in memory, the first of each used by decode.
    fn resident() -> (Sweep, SegmentedLru) {
        let sizes = (0..LAYERS).map(|layer| (LayerIndex(layer), 2)).collect();
        let mut policy = SegmentedLru::default();
        for layer in 0..LAYERS {
            policy.insert(key(layer, 0), Heat::Warm);
            policy.insert(key(layer, 1), Heat::Cold);
        }
        (Sweep::over(&sizes), policy)
    }

    fn heat(key: ExpertKey) -> Heat {
        match key.index.0 {
            0 => Heat::Warm,
            _ => Heat::Cold,
        }
    }

    fn order(sweep: &Sweep, policy: &mut SegmentedLru) -> Vec<(u32, u32)> {
        let mut next = || {
            let key = sweep.victim(policy, &heat, &mut |_| true)?;
            policy.remove(key);
            Some((key.layer.0, key.index.0))
        };
        std::iter::from_fn(&mut next).collect()
    }

    #[test]
    fn what_a_prompt_has_passed_leaves_first_and_what_is_near_last() {
        let (mut sweep, mut policy) = resident();
        sweep.demanded(&[key(1, 0)], Phase::Prefill);
        let cold = [(0, 1), (1, 1), (3, 1), (2, 1)];
        let warm = [(0, 0), (1, 0), (3, 0), (2, 0)];
        assert_eq!(order(&sweep, &mut policy), [cold, warm].concat());
    }

    #[test]
    fn the_next_piece_of_a_prompt_begins_with_all_layers_ahead() {
        let (mut sweep, mut policy) = resident();
        sweep.demanded(&[key(3, 0)], Phase::Prefill);
        assert!(sweep.has_passed(key(3, 0)));
        sweep.announced(LayerIndex(0));
        assert!(!sweep.has_passed(key(0, 0)));
        let farthest_first = |index| (0..LAYERS).rev().map(move |layer| (layer, index));
        let expected: Vec<_> = farthest_first(1).chain(farthest_first(0)).collect();
        assert_eq!(order(&sweep, &mut policy), expected);
    }

    #[test]
    fn small_prompts_leave_it_to_the_policy() {
        let sizes = (0..LAYERS).map(|layer| (LayerIndex(layer), 3)).collect();
        let mut sweep = Sweep::over(&sizes);
        sweep.demanded(&[key(1, 0), key(1, 1)], Phase::Prefill);
        assert_eq!(sweep.next, Some(2));
        sweep.demanded(&[key(2, 0)], Phase::Prefill);
        assert_eq!(sweep.next, None);
    }

    #[test]
    fn decode_ends_a_sweep_that_is_through() {
        let (mut sweep, mut policy) = resident();
        sweep.demanded(&[key(2, 0)], Phase::Prefill);
        sweep.demanded(&[key(0, 0)], Phase::Decode);
        assert_eq!(sweep.next, Some(3), "decode goes on beside it");
        sweep.demanded(&[key(3, 0)], Phase::Prefill);
        sweep.demanded(&[key(0, 0)], Phase::Decode);
        let oldest_first = (0..LAYERS).map(|layer| (layer, 1));
        let oldest_first = oldest_first.chain((0..LAYERS).map(|layer| (layer, 0)));
        let expected: Vec<_> = oldest_first.collect();
        assert_eq!(order(&sweep, &mut policy), expected);
    }
}
