//! One episode: a machine, its executor, its lanes, and the shadow that watches them.

use crate::executor::Executor;
use crate::keep::{Pinned, choose_kept};
use crate::lanes::Lane;
use odmoe_expert_store::residency::eviction::Eviction;
use odmoe_expert_store::residency::layout::{SlotLayout, slot_bytes};
use odmoe_expert_store::residency::{Command, Machine, Moment, Settings, SlotId};
use odmoe_expert_store::{EvictionReason, LookupResult, MissCause, Phase, StoreEvent, StoreHealth};
use odmoe_formats::{ByteCount, ExpertKey};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Duration;

/// splitmix64 (Steele, Lea, Flood 2014).
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// Below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    pub fn within(&mut self, range: std::ops::RangeInclusive<usize>) -> usize {
        range.start() + self.below(range.end() - range.start() + 1)
    }

    pub fn percent(&mut self, share: usize) -> bool {
        self.below(100) < share
    }

    /// Takes one out at random.
    pub fn take<T>(&mut self, from: &mut Vec<T>) -> T {
        let at = self.below(from.len());
        from.swap_remove(at)
    }
}

/// How often what happened.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    pub asked: usize,
    pub lookups: [usize; 4],
    /// In the order of [`MissCause`].
    pub causes: [usize; 4],
    pub landed: usize,
    pub failed: usize,
    pub timed_out: usize,
    pub abandoned: usize,
    pub evicted: usize,
    pub issued: usize,
    pub used: usize,
    pub wasted: usize,
    pub warmed: usize,
    pub copies: usize,
    pub cancelled_reads: usize,
    pub hung_reads: usize,
    pub probes: usize,
    pub resized: usize,
    pub evicted_by_budget: usize,
    pub allocated: usize,
    pub refused: usize,
    pub released: usize,
    /// Evictions in which what is kept was spared, must be; and of it, those that a budget and dire need brought about.
    pub spared: usize,
    pub kept_by_budget: usize,
    pub kept_by_need: usize,
}

impl Tally {
    pub fn add(&mut self, other: &Self) {
        let Self {
            asked,
            lookups,
            causes,
            landed,
            failed,
            timed_out,
            abandoned,
            evicted,
            issued,
            used,
            wasted,
            ..
        } = *other;
        self.asked += asked;
        self.lookups
            .iter_mut()
            .zip(lookups)
            .for_each(|(sum, n)| *sum += n);
        self.causes
            .iter_mut()
            .zip(causes)
            .for_each(|(sum, n)| *sum += n);
        self.landed += landed;
        self.failed += failed;
        self.timed_out += timed_out;
        self.abandoned += abandoned;
        self.evicted += evicted;
        self.issued += issued;
        self.used += used;
        self.wasted += wasted;
        self.warmed += other.warmed;
        self.copies += other.copies;
        self.cancelled_reads += other.cancelled_reads;
        self.hung_reads += other.hung_reads;
        self.probes += other.probes;
        self.resized += other.resized;
        self.evicted_by_budget += other.evicted_by_budget;
        self.allocated += other.allocated;
        self.refused += other.refused;
        self.released += other.released;
        self.spared += other.spared;
        self.kept_by_budget += other.kept_by_budget;
        self.kept_by_need += other.kept_by_need;
    }

    pub fn all_happened(&self, tiers: usize) -> bool {
        let counts = [
            self.landed,
            self.failed,
            self.timed_out,
            self.abandoned,
            self.evicted,
            self.issued,
            self.used,
            self.wasted,
            self.warmed,
            self.cancelled_reads,
            self.hung_reads,
            self.probes,
            self.resized,
            self.evicted_by_budget,
            self.allocated,
            self.refused,
            self.released,
            self.spared,
            self.kept_by_budget,
            self.kept_by_need,
        ];
        let mut counts = counts.iter().chain(&self.lookups).chain(&self.causes);
        let often = counts.all(|n| *n > 100);
        often && (self.copies > 0) == (tiers > 1)
    }
}

pub struct World {
    pub machine: Machine,
    pub executor: Executor,
    pub lanes: Vec<Lane>,
    pub tiers: usize,
    pub random: Random,
    pub objects: Vec<(ExpertKey, u64)>,
    pub now: Moment,
    pub steps: usize,
    pub tally: Tally,
    pub log: Vec<Command>,
    /// Slots that lanes hold, with how many of their pins.
    pub held: HashMap<SlotId, usize>,
    /// Whether faults strike.
    pub stormy: bool,
    /// How many of a hundred reads fail in a storm.
    pub failing_percent: usize,
    /// What each tier was last told to hold.
    pub layouts: Vec<SlotLayout>,
    pub pinned: Pinned,
    /// Whether memory was refused since.
    pub refused: bool,
}

impl World {
    pub fn new(seed: u64, tiers: usize) -> Self {
        let mut random = Random::new(seed);
        let count = random.within(3..=48);
        let kinds: Vec<u64> = (0..random.within(1..=3))
            .map(|_| random.within(1..=12) as u64 * 4096)
            .collect();
        let objects: Vec<_> = (0..count as u32)
            .map(|i| {
                (
                    ExpertKey::routed(i / 8, i % 8),
                    kinds[random.below(kinds.len())],
                )
            })
            .collect();
        let kept = choose_kept(&mut random, &objects);
        let layouts: Vec<_> = (0..tiers)
            .map(|_| random_layout(&mut random, &objects, &kept))
            .collect();
        let settings = Settings {
            tiers: layouts.clone(),
            readers: random.within(1..=4),
            prefetch: random.percent(80),
            eviction: Eviction::ALL[random.within(0..=1)],
            read_timeout: Duration::from_millis(500),
        };
        let lanes = (0..random.within(1..=4))
            .map(|i| Lane::new(i as u32))
            .collect();
        let readers = settings.readers;
        let mut machine = Machine::new(settings, objects.iter().copied());
        let executor = Executor::new(readers, &machine.extents());
        let pinned = Pinned::new(kept.clone(), &machine.extents());
        machine.keep(kept);
        if random.percent(50) {
            // Some of it of another model.
            let known = random.within(0..=count + 3) as u32;
            let heat =
                (0..known).map(|i| (ExpertKey::routed(i % 7, i / 7), random.below(9) as f64));
            machine.warm_up(heat.collect::<Vec<_>>());
        }
        Self {
            executor,
            machine,
            lanes,
            tiers,
            random,
            objects,
            now: Moment::default(),
            steps: 0,
            tally: Tally::default(),
            log: Vec::new(),
            held: HashMap::new(),
            stormy: true,
            failing_percent: 0,
            layouts,
            pinned,
            refused: false,
        }
    }

    /// Random events, faults among them.
    pub fn storm(&mut self, steps: usize) {
        self.stormy = true;
        self.failing_percent = [0, 3, 10, 90][self.random.below(4)];
        let end = self.steps + steps;
        while self.steps < end {
            match self.random.below(100) {
                0..50 => self.run_executor(),
                50..92 => {
                    let lane = self.random.below(self.lanes.len());
                    self.run_lane(lane);
                }
                92..95 => self.hint(),
                95 => self.resize(),
                _ => self.pass_time(),
            }
        }
    }

    /// Storage goes dead: no read begins or ends. Whatever is asked for must still end, by time-outs alone.
    pub fn silence(&mut self) {
        self.stormy = false;
        let limit = self.now.after(Duration::from_secs(60));
        while self.lanes.iter().any(|lane| !lane.is_idle()) {
            assert!(
                self.now < limit,
                "waits for dead storage: {:?}",
                self.machine.gauges()
            );
            self.now = self.now.after(Duration::from_millis(100));
            self.machine.tick(self.now);
            self.after_step();
            self.answer_cancellation();
            self.end_copy();
            self.end_extent();
            for turn in 0..16 * self.lanes.len() {
                self.run_lane(turn % self.lanes.len());
            }
        }
    }

    /// No more faults and no new demands: everything that was asked for must end soon.
    pub fn calm(&mut self) {
        self.stormy = false;
        let limit = self.steps + 3_000;
        while self.lanes.iter().any(|lane| !lane.is_idle()) || self.executor.is_busy() {
            assert!(self.steps < limit, "starved: {:?}", self.machine.gauges());
            self.run_executor();
            for lane in 0..self.lanes.len() {
                self.run_lane(lane);
            }
        }
        while self.machine.health() != StoreHealth::Healthy {
            assert!(
                self.steps < limit,
                "storage answers, but is held for failing"
            );
            self.now = self.now.after(Duration::from_secs(1));
            self.machine.tick(self.now);
            self.after_step();
            self.run_executor();
        }
        // What waited for storage to answer.
        while self.executor.is_busy() {
            assert!(self.steps < limit, "never at rest");
            self.run_executor();
        }
        self.check_rest();
        self.check_kept();
    }

    /// Nothing is owed, held or under way; and the counters add up.
    fn check_rest(&mut self) {
        let gauges = self.machine.gauges();
        assert_eq!(gauges.pinned, ByteCount(0), "all pins came back");
        assert_eq!(
            (
                gauges.reads_in_flight,
                gauges.reads_queued,
                gauges.readers_stuck
            ),
            (0, 0, 0)
        );
        assert_eq!(self.machine.next_deadline(), None, "nothing is due");
        assert!(!self.machine.is_resizing(), "a budget is reached");
        let wanted: u64 = self.layouts.iter().map(|layout| layout.bytes().0).sum();
        assert_eq!(gauges.budget, ByteCount(wanted));
        let classes = || self.layouts.iter().flat_map(|layout| layout.classes());
        let largest = classes().map(|class| class.slot_bytes).max().unwrap_or(0);
        // The first two slots of a class stay, though it may have one object by now.
        let lone = classes().filter(|class| class.slots == 1).count() as u64;
        assert!(
            gauges.capacity.0.abs_diff(wanted) <= lone * largest
                || (self.refused && gauges.capacity < gauges.budget),
            "all memory is there but what was refused: {gauges:?}"
        );
        let present = self.executor.present().count();
        let slots: usize = self.machine.extents().iter().map(|e| e.slots).sum();
        assert_eq!(present, slots, "no memory is forgotten");
        let t = &self.tally;
        assert_eq!(t.lookups.iter().sum::<usize>(), t.asked, "one lookup a key");
        // With a second tier, who joins a copy between the two misses nothing.
        let (caused, absent) = (t.causes.iter().sum::<usize>(), t.lookups[2] + t.lookups[3]);
        assert!(caused == absent || (self.tiers > 1 && (t.lookups[3]..absent).contains(&caused)));
        assert_eq!(
            t.landed + t.failed + t.abandoned,
            t.asked,
            "one outcome a key"
        );
        assert_eq!(
            t.used + t.wasted + self.machine.unused_prefetches(),
            t.issued,
            "each prefetch has one fate"
        );
    }

    /// Budgets change, one tier's or all.
    fn resize(&mut self) {
        for layout in &mut self.layouts {
            if self.random.percent(70) {
                *layout = random_layout(&mut self.random, &self.objects, &self.pinned.kept);
            }
        }
        self.tally.resized += 1;
        self.refused = false;
        self.pinned.unsettled = true;
        self.machine.resize(self.layouts.clone(), self.now);
        self.after_step();
    }

    fn hint(&mut self) {
        let source = self.random.below(3) as u32;
        let count = self.random.within(0..=5);
        let mut keys = self.choose(count);
        let mut phase = Phase::Decode;
        if self.random.percent(30) {
            // As a long prompt: whole layers, in turn.
            phase = Phase::Prefill;
            keys.sort_unstable();
            let layers: BTreeSet<_> = keys.iter().map(|key| key.layer).collect();
            let objects = self.objects.iter().map(|(key, _)| *key);
            keys = objects.filter(|key| layers.contains(&key.layer)).collect();
        }
        self.machine.hint(source, phase, &keys);
        self.after_step();
    }

    /// Usually milliseconds; now and then past every time-out.
    fn pass_time(&mut self) {
        let by = if self.stormy && self.random.percent(10) {
            600
        } else {
            self.random.below(40)
        };
        self.now = self.now.after(Duration::from_millis(by as u64));
        self.machine.tick(self.now);
        self.after_step();
    }

    /// Distinct keys, the first of them more often, as experts are in life.
    pub fn choose(&mut self, count: usize) -> Vec<ExpertKey> {
        let mut keys = Vec::new();
        for _ in 0..count {
            let (a, b) = (
                self.random.below(self.objects.len()),
                self.random.below(self.objects.len()),
            );
            let key = self.objects[a.min(b)].0;
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
        keys
    }

    /// Ends a step: hands commands to the executor, counts events, checks everything.
    pub fn after_step(&mut self) {
        self.steps += 1;
        // What left a slot did so before anything was read into it.
        let mut events = Vec::new();
        self.machine.take_events(&mut events);
        self.watch_kept(&events);
        events.iter().for_each(|event| self.count(event));
        let mut commands = Vec::new();
        self.machine.take_commands(&mut commands);
        for command in &commands {
            self.watch(command);
            self.pinned.note(command);
            self.executor.accept(command);
        }
        self.log.append(&mut commands);
        self.machine.check();
        let gauges = self.machine.gauges();
        assert!(
            gauges.resident <= gauges.capacity,
            "no more than the budget"
        );
    }

    /// Nobody writes or releases a slot that a lane reads, and memory is asked for only where the budget has room.
    fn watch(&mut self, command: &Command) {
        let slot = match command {
            Command::Release { extent } => {
                let mut slots = extent.ids();
                let held = slots.any(|slot| self.held.contains_key(&slot));
                return assert!(!held, "{extent:?} is released under a pin");
            }
            Command::Allocate { extent } => {
                let claimed = self.machine.claimed_bytes(extent.tier);
                let budget = self.layouts[extent.tier].bytes().0;
                return assert!(claimed <= budget, "{claimed} of {budget} bytes");
            }
            Command::Read { slot, .. } => *slot,
            Command::Copy { to, .. } => *to,
            _ => return,
        };
        assert!(
            !self.held.contains_key(&slot),
            "{slot:?} is overwritten under a pin"
        );
    }

    fn count(&mut self, event: &StoreEvent) {
        let t = &mut self.tally;
        match event {
            StoreEvent::Lookup { result, .. } => {
                let place = match result {
                    LookupResult::Hit => 0,
                    LookupResult::PrefetchHit => 1,
                    LookupResult::Coalesced => 2,
                    LookupResult::Miss => 3,
                };
                t.lookups[place] += 1;
            }
            StoreEvent::Missed { cause, .. } => {
                let place = match cause {
                    MissCause::Cold => 0,
                    MissCause::Capacity => 1,
                    MissCause::EvictedEarly => 2,
                    MissCause::ArrivedLate => 3,
                };
                t.causes[place] += 1;
            }
            StoreEvent::WarmUpIssued => t.warmed += 1,
            StoreEvent::Evicted { reason, .. } => {
                t.evicted += 1;
                t.evicted_by_budget += usize::from(*reason == EvictionReason::Budget);
            }
            StoreEvent::PrefetchIssued => t.issued += 1,
            StoreEvent::PrefetchUsed { .. } => t.used += 1,
            StoreEvent::PrefetchWasted { .. } => t.wasted += 1,
            _ => {}
        }
    }
}

/// Slots for a random budget: the least, all, or something between.
fn random_layout(
    random: &mut Random,
    objects: &[(ExpertKey, u64)],
    kept: &HashSet<ExpertKey>,
) -> SlotLayout {
    let sizes = || {
        let objects = objects.iter();
        objects.map(|(key, bytes)| (*bytes, kept.contains(key)))
    };
    let full = sizes().map(|(bytes, _)| slot_bytes(bytes)).sum::<u64>();
    let least = match kept.is_empty() {
        true => 2 * sizes().map(|(bytes, _)| slot_bytes(bytes)).max().unwrap(),
        false => SlotLayout::least_keeping(sizes()).0,
    };
    let budget = match random.below(4) {
        0 => least,
        1 => least.max(full),
        _ => least.max(full * random.within(5..=70) as u64 / 100),
    };
    SlotLayout::plan_keeping(sizes(), ByteCount(budget)).unwrap()
}
