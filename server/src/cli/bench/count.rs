//! Counts what the engine tells.

use odmoe_engine::{EngineEvent, EngineObserver};
use odmoe_expert_store::{LookupResult, Phase, StoreEvent};
use odmoe_formats::ExpertKey;
use odmoe_formats::manifest::PageableObject;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Sums since the engine started, or between two moments.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Counts {
    /// Lookups in prefill, and of them those that found the expert in memory.
    pub prefill: Lookups,
    /// The same in decode.
    pub decode: Lookups,
    /// Read from storage.
    pub bytes_read: u64,
    /// Of it, read ahead of demand and then used.
    pub prefetch_used_bytes: u64,
    /// The same, not used.
    pub prefetch_wasted_bytes: u64,
    /// Lookups in decode that only a prefetch could have made hits, and of them those that were predicted.
    pub foreseen: Lookups,
    /// Waiting for experts with nothing else to do.
    pub stall_s: f64,
}

/// Lookups of one phase.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Lookups {
    /// In memory, by an earlier use or a prefetch.
    pub hits: u64,
    /// All.
    pub all: u64,
    /// Bytes of those that no earlier use had left in memory: what storage must give, however well it is foreseen.
    pub missed_bytes: u64,
}

impl Lookups {
    /// Hits of all; None without any lookup.
    pub fn rate(self) -> Option<f64> {
        (self.all > 0).then(|| self.hits as f64 / self.all as f64)
    }

    fn since(self, before: Self) -> Self {
        Self {
            hits: self.hits - before.hits,
            all: self.all - before.all,
            missed_bytes: self.missed_bytes - before.missed_bytes,
        }
    }
}

impl Counts {
    /// What came after `before`.
    pub fn since(&self, before: &Self) -> Self {
        Self {
            prefill: self.prefill.since(before.prefill),
            decode: self.decode.since(before.decode),
            bytes_read: self.bytes_read - before.bytes_read,
            prefetch_used_bytes: self.prefetch_used_bytes - before.prefetch_used_bytes,
            prefetch_wasted_bytes: self.prefetch_wasted_bytes - before.prefetch_wasted_bytes,
            foreseen: self.foreseen.since(before.foreseen),
            stall_s: self.stall_s - before.stall_s,
        }
    }

    fn record(&mut self, event: &EngineEvent, bytes_of: &HashMap<ExpertKey, u64>) {
        match event {
            EngineEvent::Store(StoreEvent::Lookup { phase, result, key }) => {
                let lookups = match phase {
                    Phase::Prefill => &mut self.prefill,
                    Phase::Decode => &mut self.decode,
                };
                lookups.all += 1;
                lookups.hits += u64::from(matches!(
                    result,
                    LookupResult::Hit | LookupResult::PrefetchHit
                ));
                if *result != LookupResult::Hit {
                    lookups.missed_bytes += bytes_of[key];
                }
            }
            EngineEvent::Store(StoreEvent::Loaded { bytes, .. }) => self.bytes_read += bytes,
            EngineEvent::Store(StoreEvent::PrefetchUsed { bytes }) => {
                self.prefetch_used_bytes += bytes;
            }
            EngineEvent::Store(StoreEvent::PrefetchWasted { bytes }) => {
                self.prefetch_wasted_bytes += bytes;
            }
            EngineEvent::Store(StoreEvent::Foreseen {
                phase: Phase::Decode,
                missed,
                foreseen,
            }) => {
                self.foreseen.hits += *foreseen as u64;
                self.foreseen.all += *missed as u64;
            }
            EngineEvent::ExpertStall { seconds } => self.stall_s += seconds,
            _ => {}
        }
    }
}

/// Counts on the engine's thread, is read by the bench's.
pub struct Counter {
    counts: Mutex<Counts>,
    bytes_of: HashMap<ExpertKey, u64>,
}

impl Counter {
    /// For objects of these sizes.
    pub fn new(objects: &[PageableObject]) -> Self {
        Self {
            counts: Mutex::default(),
            bytes_of: objects.iter().map(|o| (o.key, o.bytes)).collect(),
        }
    }

    /// The sums now.
    pub fn counts(&self) -> Counts {
        *self.lock()
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl EngineObserver for Counter {
    fn record(&self, event: &EngineEvent) {
        self.lock().record(event, &self.bytes_of);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hits_are_those_that_did_not_wait() {
        let key = ExpertKey::routed(0, 0);
        let counter = Counter {
            counts: Mutex::default(),
            bytes_of: HashMap::from([(key, 10)]),
        };
        let lookup = |phase, result| {
            counter.record(&EngineEvent::Store(StoreEvent::Lookup {
                phase,
                result,
                key,
            }));
        };
        lookup(Phase::Prefill, LookupResult::Miss);
        let before = counter.counts();
        lookup(Phase::Decode, LookupResult::Hit);
        lookup(Phase::Decode, LookupResult::PrefetchHit);
        lookup(Phase::Decode, LookupResult::Coalesced);
        lookup(Phase::Decode, LookupResult::Miss);
        counter.record(&EngineEvent::ExpertStall { seconds: 0.25 });
        let counts = counter.counts().since(&before);
        assert_eq!(
            (counts.prefill.rate(), counts.decode.rate(), counts.stall_s),
            (None, Some(0.5), 0.25)
        );
        assert_eq!(
            (counts.prefill.missed_bytes, counts.decode.missed_bytes),
            (0, 30),
            "a prefetch reads as many bytes as a miss"
        );
    }
}
