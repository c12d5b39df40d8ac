//! The machine's state and its smallest steps; the events are in the modules beside it.

use super::command::{Command, CopyId, Grant, Moment, PinId, ReadId, SlotId};
use super::eviction::{Eviction, Heat};
use super::flight::{CopyInFlight, Flight, ReadInFlight, Stage};
use super::forecast::Forecasts;
use super::health::Health;
use super::hints::Hints;
use super::keep::Keep;
use super::layout::SlotLayout;
use super::slots::{Census, ClassPool, SlotState, Tier};
use super::sweep::Sweep;
use super::throttle::Throttle;
use super::usage::{ExpertUse, Usage};
use super::warm_up::WarmUp;
use crate::api::{EvictionReason, StoreEvent, StoreGauges, Ticket};
use odmoe_formats::{ByteCount, ExpertKey, LayerIndex};
use rustc_hash::FxHashMap;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How the machine works.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The slots of each memory tier, the one that is computed from first. At least one tier.
    pub tiers: Vec<SlotLayout>,
    /// Reads that can be under way at once.
    pub readers: usize,
    /// Whether hints are followed.
    pub prefetch: bool,
    /// Who leaves when a slot is needed.
    pub eviction: Eviction,
    /// After this without an answer a read has failed.
    pub read_timeout: Duration,
}

/// What a ticket waits for and has got.
#[derive(Debug, Default)]
pub(super) struct TicketState {
    pub waiting: BTreeSet<ExpertKey>,
    pub landed: Vec<Grant>,
}

/// Decides which objects are in memory. See the module's comment.
pub struct Machine {
    pub(super) settings: Settings,
    /// Every object, in the catalog's order.
    pub(super) objects: Vec<ExpertKey>,
    pub(super) sizes: FxHashMap<ExpertKey, u64>,
    pub(super) tiers: Vec<Tier>,
    /// Of each layer: how many of its objects tier 0 lacks.
    pub(super) absent: FxHashMap<LayerIndex, usize>,
    pub(super) sweep: Sweep,
    pub(super) flights: BTreeMap<ExpertKey, Flight>,
    pub(super) reads: BTreeMap<ReadId, ReadInFlight>,
    pub(super) copies: BTreeMap<CopyId, CopyInFlight>,
    pub(super) tickets: BTreeMap<Ticket, TicketState>,
    pub(super) pins: FxHashMap<PinId, SlotId>,
    pub(super) hints: Hints,
    /// Prefetched, in memory or on the way, and neither used nor gone since.
    pub(super) prefetched: BTreeSet<ExpertKey>,
    pub(super) throttle: Throttle,
    pub(super) forecasts: Forecasts,
    /// When a read that a ticket waited for last ended.
    pub(super) waited_until: Moment,
    pub(super) usage: Usage,
    pub(super) keep: Keep,
    pub(super) warm_up: WarmUp,
    pub(super) health: Health,
    /// The last moment that an event named.
    pub(super) now: Moment,
    /// When a read last began or ended.
    pub(super) last_progress: Moment,
    last_id: u64,
    pub(super) commands: Vec<Command>,
    pub(super) events: Vec<StoreEvent>,
}

impl Machine {
    /// A machine with empty slots, for objects of these sizes.
    pub fn new(settings: Settings, objects: impl IntoIterator<Item = (ExpertKey, u64)>) -> Self {
        assert!(!settings.tiers.is_empty(), "at least one memory tier");
        assert!(settings.readers > 0, "at least one reader");
        let (mut keys, mut sizes, mut absent) =
            (Vec::new(), FxHashMap::default(), FxHashMap::default());
        for (key, bytes) in objects {
            *absent.entry(key.layer).or_default() += 1;
            keys.push(key);
            sizes.insert(key, bytes);
        }
        Self {
            tiers: settings
                .tiers
                .iter()
                .map(|layout| Tier::new(layout.clone(), settings.eviction))
                .collect(),
            sweep: Sweep::over(&absent),
            absent,
            settings,
            usage: Usage::new(&keys),
            keep: Keep::default(),
            warm_up: WarmUp::default(),
            objects: keys,
            sizes,
            flights: BTreeMap::new(),
            reads: BTreeMap::new(),
            copies: BTreeMap::new(),
            tickets: BTreeMap::new(),
            pins: FxHashMap::default(),
            hints: Hints::default(),
            prefetched: BTreeSet::new(),
            throttle: Throttle::default(),
            forecasts: Forecasts::default(),
            waited_until: Moment::default(),
            health: Health::default(),
            now: Moment::default(),
            last_progress: Moment::default(),
            last_id: 0,
            commands: Vec::new(),
            events: Vec::new(),
        }
    }

    /// Moves the commands since the last call into `out`, in order.
    pub fn take_commands(&mut self, out: &mut Vec<Command>) {
        out.append(&mut self.commands);
    }

    /// Moves the events since the last call into `out`, in order.
    pub fn take_events(&mut self, out: &mut Vec<StoreEvent>) {
        out.append(&mut self.events);
    }

    /// Gauges now.
    pub fn gauges(&self) -> StoreGauges {
        let census = self
            .tiers
            .iter()
            .flat_map(|t| &t.classes)
            .fold(Census::default(), |sum, c| sum.plus(c.census));
        let pools = self.tiers.iter().flat_map(|t| &t.classes);
        let capacity = pools.map(ClassPool::held_bytes).sum();
        let budget = self.tiers.iter().map(|t| t.layout.bytes().0).sum();
        let started = self.reads.values().filter(|r| r.started.is_some()).count();
        let waiting = self
            .flights
            .values()
            .filter(|f| matches!(f.stage, Stage::Waiting { .. }))
            .count();
        StoreGauges {
            resident: ByteCount(census.resident_bytes),
            capacity: ByteCount(capacity),
            budget: ByteCount(budget),
            pinned: ByteCount(census.pinned_bytes),
            kept: ByteCount(census.kept_bytes),
            reads_in_flight: started,
            reads_queued: self.reads.len() - started + waiting,
            readers_stuck: self.readers_stuck(),
        }
    }

    /// What was asked of each object, in the catalog's order.
    pub fn usage(&self) -> Vec<ExpertUse> {
        let of = |key: &ExpertKey| {
            let books = self.usage.of(*key);
            ExpertUse {
                key: *key,
                bytes: self.sizes[key],
                uses: books.uses,
                hits: books.hits,
                misses: books.misses,
                heat: self.usage.heat(*key),
                resident: self.highest_resident(*key).is_some(),
                kept: self.keep.names(*key),
            }
        };
        self.objects.iter().map(of).collect()
    }

    /// Readers inside a read that was given up for late.
    pub(super) fn readers_stuck(&self) -> usize {
        self.reads
            .values()
            .filter(|r| r.lost && r.started.is_some())
            .count()
    }

    pub(super) fn fresh_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// Time only goes on.
    pub(super) fn advance(&mut self, now: Moment) {
        self.now = self.now.max(now);
    }

    pub(super) fn last_tier(&self) -> usize {
        self.tiers.len() - 1
    }

    pub(super) fn class_of(&self, tier: usize, key: ExpertKey) -> usize {
        let bytes = *self
            .sizes
            .get(&key)
            .unwrap_or_else(|| panic!("{key} is not in the catalog"));
        self.tiers[tier].class_of(bytes)
    }

    pub(super) fn pool(&mut self, slot: SlotId) -> &mut ClassPool {
        &mut self.tiers[slot.tier].classes[slot.class]
    }

    /// Where an object is resident in a tier.
    pub(super) fn resident(&self, tier: usize, key: ExpertKey) -> Option<SlotId> {
        let (class, index) = *self.tiers[tier].resident.get(&key)?;
        Some(SlotId { tier, class, index })
    }

    /// Whether tier 0 holds every object of a layer: a hint about the layer would bring nothing.
    pub fn holds_layer(&self, layer: LayerIndex) -> bool {
        self.absent.get(&layer) == Some(&0)
    }

    fn absent_in(&mut self, layer: LayerIndex) -> &mut usize {
        let absent = self.absent.get_mut(&layer);
        absent.expect("an object's layer is known")
    }

    /// The first tier that holds an object.
    pub(super) fn highest_resident(&self, key: ExpertKey) -> Option<SlotId> {
        (0..self.tiers.len()).find_map(|tier| self.resident(tier, key))
    }

    pub(super) fn pin(&mut self, slot: SlotId) {
        self.pool(slot).update(slot.index, |s| {
            assert_eq!(
                s.state,
                SlotState::Resident,
                "only a resident object can be pinned"
            );
            s.pins += 1;
        });
    }

    pub(super) fn unpin(&mut self, slot: SlotId) {
        self.pool(slot).update(slot.index, |s| {
            assert!(s.pins > 0, "a pin is released once");
            s.pins -= 1;
        });
    }

    /// Pins an object of tier 0 for a ticket and tells it.
    pub(super) fn grant(&mut self, ticket: Ticket, key: ExpertKey, slot: SlotId) {
        let pin = PinId(self.fresh_id());
        self.pin(slot);
        self.pins.insert(pin, slot);
        let state = self
            .tickets
            .get_mut(&ticket)
            .expect("a waiter's ticket is open");
        state.waiting.remove(&key);
        state.landed.push(Grant::Ready { key, slot, pin });
    }

    /// Hands a free or just emptied slot to a flight's object.
    pub(super) fn begin_fill(&mut self, slot: SlotId, key: ExpertKey, heat: Heat) {
        let bytes = self.sizes[&key];
        let unused = self.prefetched.contains(&key);
        let kept = self.keep.names(key);
        self.pool(slot).update(slot.index, |s| {
            assert!(s.state == SlotState::Free, "a slot has one owner");
            (s.state, s.key, s.bytes, s.heat, s.unused, s.kept) =
                (SlotState::Filling, Some(key), bytes, heat, unused, kept);
        });
    }

    /// The bytes in a filling or lost slot are whole: the object is resident.
    pub(super) fn make_resident(&mut self, slot: SlotId, key: ExpertKey, heat: Heat) {
        let unused = self.prefetched.contains(&key);
        let pool = self.pool(slot);
        pool.update(slot.index, |s| {
            assert_eq!(s.key, Some(key), "a slot has one owner");
            (s.state, s.heat, s.unused) = (SlotState::Resident, heat, unused);
        });
        if !pool.slot(slot.index).kept {
            pool.policy.insert(key, heat);
        }
        let before = self.tiers[slot.tier]
            .resident
            .insert(key, (slot.class, slot.index));
        assert!(before.is_none(), "an object is resident once a tier");
        self.usage.arrived(key);
        self.keep.arrived(key);
        if slot.tier == 0 {
            *self.absent_in(key.layer) -= 1;
        }
    }

    /// Empties the slot of an unpinned resident object.
    pub(super) fn evict(&mut self, slot: SlotId, key: ExpertKey, reason: EvictionReason) {
        self.tiers[slot.tier].resident.remove(&key);
        if slot.tier == 0 {
            *self.absent_in(key.layer) += 1;
        }
        let unused = self.prefetched.contains(&key);
        self.usage.left(key, unused);
        let pool = self.pool(slot);
        if !pool.slot(slot.index).kept {
            pool.policy.remove(key);
        }
        pool.set_free(slot.index);
        if self.highest_resident(key).is_none() {
            self.keep.left(key);
        }
        self.events.push(StoreEvent::Evicted { reason, key });
        if self.settle_prefetch(key) {
            self.throttle.wasted();
        }
    }

    /// A prefetched object that is neither in memory nor on the way was fetched for nothing. Says whether it was
    /// one.
    pub(super) fn settle_prefetch(&mut self, key: ExpertKey) -> bool {
        let gone = self.highest_resident(key).is_none() && !self.flights.contains_key(&key);
        let wasted = gone && self.prefetched.remove(&key);
        if wasted {
            let bytes = self.sizes[&key];
            self.events.push(StoreEvent::PrefetchWasted { bytes });
        }
        wasted
    }

    /// Counts a use: recency where the object is resident, and the first use of a prefetched one. Says whether it
    /// was that.
    pub(super) fn touch(&mut self, key: ExpertKey, heat: Heat) -> bool {
        for tier in 0..self.tiers.len() {
            let Some(slot) = self.resident(tier, key) else {
                continue;
            };
            let pool = self.pool(slot);
            let heat = if pool.slot(slot.index).heat == Heat::Warm {
                Heat::Warm
            } else {
                heat
            };
            if !pool.slot(slot.index).kept {
                pool.policy.touch(key, heat);
            }
            pool.update(slot.index, |s| (s.heat, s.unused) = (heat, false));
        }
        let first = self.prefetched.remove(&key);
        if first {
            self.throttle.used();
            let bytes = self.sizes[&key];
            self.events.push(StoreEvent::PrefetchUsed { bytes });
        }
        first
    }
}
