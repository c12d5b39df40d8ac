//! Prefetch: hints go into idle readers and into slots that nobody will miss, where that is expected to pay.

use super::command::{Command, Moment, SlotId};
use super::flight::{Flight, Stage};
use super::forecast::{Pace, Place};
use super::machine::Machine;
use super::pump::Claim;
use crate::api::{LookupResult, MissCause, Phase, StoreEvent};
use odmoe_formats::{ExpertKey, LayerIndex};
use rustc_hash::FxHashSet;
use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

/// Prefetches that each reader may have, including the one it is in: enough that a reader finds its next one while the
/// caller computes. A layer of a prompt chunk computes for tens of reads without a look at the store, and wants nearly
/// every expert of the next ones.
fn reads_per_reader(phase: Phase) -> usize {
    match phase {
        Phase::Prefill => 64,
        Phase::Decode => 2,
    }
}

/// The current hint of each source.
#[derive(Debug, Default)]
pub(super) struct Hints {
    by_source: BTreeMap<u32, Hint>,
}

#[derive(Debug)]
struct Hint {
    /// Of one layer, most likely first; then, perhaps, of layers after it.
    keys: Vec<ExpertKey>,
    named: FxHashSet<ExpertKey>,
    /// How many are of the first layer.
    near: usize,
    /// Which of these were not in tier 0 when the hint came.
    absent: Vec<bool>,
    phase: Phase,
    pace: Pace,
    since: Moment,
    /// The first that was not looked at yet.
    next: usize,
}

impl Hint {
    fn place(&self, at: usize) -> Place {
        match at < self.near {
            true => Place::Next { at, of: self.near },
            false => Place::Beyond {
                turns: self.keys[at].layer.0.saturating_sub(self.keys[0].layer.0) + 1,
            },
        }
    }

    /// Whether it was given for a demand like this.
    fn foresaw(&self, layer: LayerIndex, phase: Phase) -> bool {
        self.phase == phase && self.keys.first().is_some_and(|key| key.layer == layer)
    }
}

/// What is known of a demand's misses from a hint.
#[derive(Debug, Default)]
pub(super) struct Foresight {
    keys: HashSet<ExpertKey>,
    missed: usize,
    foreseen: usize,
}

impl Foresight {
    /// Counts what would not have been there without the hint.
    pub(super) fn count(&mut self, key: ExpertKey, result: LookupResult) {
        if result != LookupResult::Hit {
            self.missed += 1;
            self.foreseen += usize::from(self.keys.contains(&key));
        }
    }
}

impl Hints {
    /// Whether a current hint names the object.
    pub(super) fn names(&self, key: ExpertKey) -> bool {
        self.by_source
            .values()
            .any(|hint| hint.named.contains(&key))
    }
}

impl Machine {
    /// What a source will likely want soon of one layer, most likely first, and after that, perhaps, of layers behind it,
    /// in turn; replaces its last hint. What that one had asked for and no reader has taken is called back.
    pub fn hint(&mut self, source: u32, phase: Phase, keys: &[ExpertKey]) {
        if !self.settings.prefetch {
            return;
        }
        self.throttle.hinted();
        if keys.is_empty() {
            self.hints.by_source.remove(&source);
        } else {
            let next = keys.iter().take_while(|key| key.layer == keys[0].layer);
            let next: Vec<ExpertKey> = next.copied().collect();
            let absent = next.iter().map(|key| self.resident(0, *key).is_none());
            let absent: Vec<bool> = absent.collect();
            let hint = Hint {
                keys: keys.to_vec(),
                named: keys.iter().copied().collect(),
                near: absent.len(),
                pace: self.pace(keys[0].layer, absent.len(), phase),
                absent,
                phase,
                since: self.now,
                next: 0,
            };
            if hint.pace == Pace::Sweep {
                self.sweep.announced(keys[0].layer);
            }
            self.hints.by_source.insert(source, hint);
            self.events.push(StoreEvent::Hinted { phase, keys: next });
        }
        let stale: Vec<_> = self
            .flights
            .iter()
            .filter(|(key, f)| f.prefetch && !self.hints.names(**key))
            .map(|(key, _)| *key)
            .collect();
        for key in stale {
            self.call_back(key);
        }
        self.pump();
    }

    fn pace(&self, layer: LayerIndex, named: usize, phase: Phase) -> Pace {
        match phase {
            Phase::Decode => Pace::Decode,
            Phase::Prefill if self.sweep.is_whole(layer, named) => Pace::Sweep,
            Phase::Prefill => Pace::Prefill,
        }
    }

    fn call_back(&mut self, key: ExpertKey) {
        let Stage::Reading(read) = self.flights[&key].stage else {
            return;
        };
        let state = self.reads.get_mut(&read).expect("a flight's read is known");
        if state.started.is_none() && !state.cancelling {
            state.cancelling = true;
            self.commands.push(Command::CancelRead { read });
        }
    }

    /// Begins what hints ask for, a key of each source in turn.
    pub(super) fn pump_hints(&mut self) {
        let mut sources: Vec<u32> = self.hints.by_source.keys().copied().collect();
        while !sources.is_empty() {
            sources.retain(|source| self.may_prefetch(*source) && self.follow_one(*source));
        }
    }

    /// Whether prefetch pays and not too much of it is under way. It may be asked for while a demand is read, since the
    /// executor begins it only when none is at storage: then at once, whatever the caller is busy with.
    fn may_prefetch(&self, source: u32) -> bool {
        let phase = self.hints.by_source[&source].phase;
        self.throttle.allows() && self.ahead() < self.settings.readers * reads_per_reader(phase)
    }

    /// Prefetches that nobody has asked for so far.
    fn ahead(&self) -> usize {
        self.flights.values().filter(|f| f.prefetch).count()
    }

    /// Whether a ticket waits for a read.
    pub(super) fn is_waited_for(&self) -> bool {
        self.flights
            .values()
            .any(|flight| !flight.waiters.is_empty())
    }

    /// A demand has come: judges the hint that foresaw it, which is over thereby.
    pub(super) fn judge_hints(&mut self, keys: &[ExpertKey], phase: Phase) -> Option<Foresight> {
        let layer = keys.first()?.layer;
        let hints = &mut self.hints.by_source;
        let mut hints = hints.values_mut();
        let hint = hints.find(|hint| hint.next < usize::MAX && hint.foresaw(layer, phase))?;
        hint.next = usize::MAX;
        let window = self
            .now
            .0
            .saturating_sub(hint.since.max(self.waited_until).0);
        self.forecasts.demanded(hint.pace, window);
        let wanted: HashSet<ExpertKey> = keys.iter().copied().collect();
        for (at, key) in hint.keys[..hint.near].iter().enumerate() {
            if hint.absent[at] {
                self.forecasts
                    .judged(hint.pace, hint.place(at), wanted.contains(key));
            }
        }
        Some(Foresight {
            keys: hint.keys[..hint.near].iter().copied().collect(),
            ..Foresight::default()
        })
    }

    /// Tells what a hint was worth.
    pub(super) fn tell_foresight(&mut self, phase: Phase, foresight: &Foresight) {
        let &Foresight {
            missed, foreseen, ..
        } = foresight;
        self.events.push(StoreEvent::Foreseen {
            phase,
            missed,
            foreseen,
        });
    }

    /// Begins the next prefetch of a source. Says whether there may be another.
    fn follow_one(&mut self, source: u32) -> bool {
        loop {
            let hint = &self.hints.by_source[&source];
            let Some(&key) = hint.keys.get(hint.next) else {
                return false;
            };
            let wanted = self.resident(0, key).is_none() && !self.flights.contains_key(&key);
            let claim = match hint.next < hint.near {
                true => Claim::Prefetch,
                false => Claim::PrefetchFar,
            };
            if wanted && !(self.would_pay(hint) && self.start_prefetch(key, claim)) {
                return false;
            }
            self.hints
                .by_source
                .get_mut(&source)
                .expect("still there")
                .next += 1;
            if wanted {
                return true;
            }
        }
    }

    fn would_pay(&self, hint: &Hint) -> bool {
        let place = hint.place(hint.next);
        let begun = hint.since.max(self.waited_until);
        let elapsed = match self.is_waited_for() {
            true => Duration::ZERO,
            false => self.now.0.saturating_sub(begun.0),
        };
        self.forecasts.pays(hint.pace, place, elapsed, self.ahead())
    }

    /// Begins to bring an object one tier up, if there is a slot for it.
    fn start_prefetch(&mut self, key: ExpertKey, claim: Claim) -> bool {
        let below = self.highest_resident(key);
        let tier = below.map_or(self.last_tier(), |slot| slot.tier - 1);
        // Pinned first: the claim must not evict what is about to be copied.
        below.into_iter().for_each(|slot| self.pin(slot));
        let Some(slot) = self.claim_for_prefetch(tier, key, claim) else {
            below.into_iter().for_each(|slot| self.unpin(slot));
            return false;
        };
        if self.prefetched.insert(key) {
            self.events.push(StoreEvent::PrefetchIssued);
        }
        self.throttle.began();
        below
            .into_iter()
            .for_each(|slot| self.pool(slot).update(slot.index, |s| s.unused = true));
        let seq = self.fresh_id();
        let stage = Stage::Waiting { tier, from: below };
        let flight = Flight {
            seq,
            stage,
            waiters: Vec::new(),
            decode: false,
            prefetch: true,
            cause: Some(MissCause::ArrivedLate),
            since: self.now,
        };
        self.flights.insert(key, flight);
        self.begin(key, slot);
        true
    }

    /// Goes on with a prefetch that has reached a lower tier, or ends it there: prefetches do not wait.
    pub(super) fn prefetch_upwards(&mut self, key: ExpertKey) {
        let Stage::Waiting { tier, from } = self.flights[&key].stage else {
            panic!("{key} waits for no slot")
        };
        match self.claim_for_prefetch(tier, key, Claim::Prefetch) {
            Some(slot) => self.begin(key, slot),
            None => {
                self.flights.remove(&key);
                from.into_iter().for_each(|slot| self.unpin(slot));
            }
        }
    }

    fn claim_for_prefetch(&mut self, tier: usize, key: ExpertKey, claim: Claim) -> Option<SlotId> {
        let class = self.class_of(tier, key);
        let pool = &self.tiers[tier].classes[class];
        let contended = !pool.waiting_decode.is_empty() || !pool.waiting_prefill.is_empty();
        if contended {
            None
        } else {
            self.claim(tier, class, claim)
        }
    }
}
