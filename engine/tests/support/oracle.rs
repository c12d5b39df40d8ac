//! The master oracle's tools: what an engine answers where nothing pages and nobody shares, and the comparison with it.

use super::engine::{Setup, TestEngine};
use super::model::{Random, TestModel};
use super::sink::Answer;
use odmoe_engine::scheduler::PrefixLookups;
use odmoe_engine::{EngineEvent, PrefixCache, Request};
use odmoe_expert_store::{Catalog, StoreEvent};
use odmoe_formats::{ByteCount, ExpertKey};
use std::collections::HashSet;

/// Tokens and the bits of their logprobs, by request.
pub type Bits = Vec<Vec<(u32, Vec<(u32, u32)>)>>;

fn bits(answers: &[Answer]) -> Bits {
    answers.iter().map(Answer::bits).collect()
}

/// All experts in memory, no prediction, nothing remembered, one thread, each request alone.
pub fn reference(model: &TestModel, requests: &[Request]) -> Bits {
    let mut setup = Setup::new(model);
    setup.config.predict_top = 0;
    setup.store.prefetch = false;
    setup.config.prefix_cache = PrefixCache::Off;
    let engine = setup.start();
    let answers: Vec<_> = requests
        .iter()
        .map(|request| engine.answer(request.clone()))
        .collect();
    bits(&answers)
}

/// A model, requests, and what they must be answered.
pub struct Oracle {
    pub model: TestModel,
    pub requests: Vec<Request>,
    pub expected: Bits,
}

impl Oracle {
    pub fn new(model: TestModel, requests: Vec<Request>) -> Self {
        let expected = reference(&model, &requests);
        Self {
            model,
            requests,
            expected,
        }
    }

    /// Asks an engine that is made otherwise all requests at once; returns what it counted.
    pub fn check(&self, what: &str, change: impl FnOnce(&mut Setup)) -> Counts {
        let mut setup = Setup::new(&self.model);
        change(&mut setup);
        let paged = setup.store.budget < self.percent(100);
        let prefetch = setup.store.prefetch;
        let engine: TestEngine = setup.start();
        let found = bits(&engine.answers(&self.requests));
        for (index, (found, expected)) in found.iter().zip(&self.expected).enumerate() {
            assert_eq!(found, expected, "{what}, request {index}");
        }
        engine.wait_for_rest();
        let counts = Counts::of(&engine.log.events());
        assert_eq!(
            counts.evictions > 0,
            paged,
            "{what}: the budget must decide whether it pages"
        );
        assert!(
            prefetch || counts.prefetches == 0,
            "{what}: prefetched, though told not to"
        );
        assert!(
            !(prefetch && paged) || counts.prefetches > 0,
            "{what}: nothing was prefetched"
        );
        counts
    }

    /// A part of what all experts need.
    pub fn percent(&self, percent: u64) -> ByteCount {
        ByteCount(Catalog::new(&self.model.manifest).full_budget().0 * percent / 100)
    }

    /// A share of the experts, at random.
    pub fn some_experts(&self, percent: u64, seed: u64) -> HashSet<ExpertKey> {
        let mut random = Random(seed);
        let keys = self.model.manifest.objects.iter().map(|object| object.key);
        keys.filter(|_| random.below(100) < percent).collect()
    }

    /// The least budget with which these stay in memory.
    pub fn least_keeping(&self, keep: &HashSet<ExpertKey>) -> ByteCount {
        let catalog = Catalog::new(&self.model.manifest).keeping(keep);
        catalog.least_budget()
    }

    /// The least budget that an engine starts with.
    pub fn least(&self) -> ByteCount {
        Catalog::new(&self.model.manifest).least_budget()
    }
}

/// What an engine did while it answered.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub evictions: usize,
    pub prefetches: usize,
    pub preemptions: usize,
    /// Prompt tokens that were looked up, and found, among remembered prefixes.
    pub prefixes: PrefixLookups,
}

impl Counts {
    pub fn of(events: &[EngineEvent]) -> Self {
        let mut counts = Self::default();
        for event in events {
            match event {
                EngineEvent::Store(StoreEvent::Evicted { .. }) => counts.evictions += 1,
                EngineEvent::Store(StoreEvent::PrefetchIssued) => counts.prefetches += 1,
                EngineEvent::Preempted => counts.preemptions += 1,
                EngineEvent::PrefixLookups(lookups) => {
                    counts.prefixes.queried += lookups.queried;
                    counts.prefixes.found += lookups.found;
                }
                _ => {}
            }
        }
        counts
    }
}
