//! Rules of residency, told to the machine event by event: no threads, no files, no waiting.

use odmoe_expert_store::residency::eviction::Eviction;
use odmoe_expert_store::residency::layout::{SizeClass, SlotLayout};
use odmoe_expert_store::residency::*;
use odmoe_expert_store::{LookupResult, Phase, StoreEvent, Ticket};
use odmoe_formats::{ExpertKey, LayerIndex};
use std::time::Duration;

const SLOT: u64 = 16 << 10;

fn key(index: u32) -> ExpertKey {
    ExpertKey::routed(0, index)
}

fn keys(indices: impl IntoIterator<Item = u32>) -> Vec<ExpertKey> {
    indices.into_iter().map(key).collect()
}

fn at(seconds: u64) -> Moment {
    Moment(Duration::from_secs(seconds))
}

/// A machine with one tier, and the commands that are not answered yet.
struct Driver {
    machine: Machine,
    open: Vec<(ReadId, ExpertKey, Priority)>,
    cancelled: Vec<ReadId>,
}

impl Driver {
    fn new(slots: usize, readers: usize) -> Self {
        Self::of(slots, readers, (0..256).map(|i| (key(i), SLOT)))
    }

    fn of(
        slots: usize,
        readers: usize,
        objects: impl IntoIterator<Item = (ExpertKey, u64)>,
    ) -> Self {
        let tier = SlotLayout::new(vec![SizeClass {
            slot_bytes: SLOT,
            slots,
        }]);
        let read_timeout = Duration::from_secs(30);
        let settings = Settings {
            tiers: vec![tier],
            readers,
            prefetch: true,
            eviction: Eviction::Lru,
            read_timeout,
        };
        Self {
            machine: Machine::new(settings, objects),
            open: Vec::new(),
            cancelled: Vec::new(),
        }
    }

    fn commands(&mut self) {
        let mut commands = Vec::new();
        self.machine.take_commands(&mut commands);
        for command in commands {
            match command {
                Command::Read {
                    read,
                    key,
                    priority,
                    ..
                } => self.open.push((read, key, priority)),
                Command::CancelRead { read } => self.cancelled.push(read),
                Command::Reprioritise { read, priority } => {
                    self.open.iter_mut().find(|r| r.0 == read).unwrap().2 = priority;
                }
                other => panic!("{other:?} with one tier"),
            }
        }
        self.machine.check();
    }

    fn demand(&mut self, indices: impl IntoIterator<Item = u32>, phase: Phase) -> Ticket {
        let ticket = self.machine.demand(&keys(indices), phase, at(0));
        self.commands();
        ticket
    }

    fn hint(&mut self, indices: impl IntoIterator<Item = u32>) {
        self.machine.hint(0, Phase::Decode, &keys(indices));
        self.commands();
    }

    /// The keys of the reads that were asked for and not answered, in that order.
    fn reading(&mut self) -> Vec<ExpertKey> {
        self.commands();
        self.open.iter().map(|r| r.1).collect()
    }

    fn read(&mut self, index: u32) {
        self.read_key(key(index));
    }

    /// Ends one read well.
    fn read_key(&mut self, key: ExpertKey) {
        self.commands();
        let place = self.open.iter().position(|r| r.1 == key);
        let place = place.expect("asked for");
        let (read, ..) = self.open.remove(place);
        self.machine.read_started(read, at(0));
        self.machine.read_done(
            read,
            ReadReport {
                bytes: SLOT,
                seconds: 0.0,
                source: "test",
            },
            at(0),
        );
        self.commands();
    }

    fn read_all(&mut self) {
        while let Some(first) = self.reading().first() {
            self.read_key(*first);
        }
    }

    /// Takes what has landed and gives the pins back; the keys.
    fn use_landed(&mut self, ticket: Ticket) -> Vec<ExpertKey> {
        let mut grants = Vec::new();
        self.machine.take(ticket, &mut grants);
        let (mut used, mut pins) = (Vec::new(), Vec::new());
        for grant in grants {
            let Grant::Ready { key, pin, .. } = grant else {
                panic!("{grant:?}")
            };
            used.push(key);
            pins.push(pin);
        }
        self.machine.pins_released(pins);
        self.commands();
        used
    }

    fn visit(&mut self, indices: impl IntoIterator<Item = u32>, phase: Phase) {
        let ticket = self.demand(indices, phase);
        loop {
            self.read_all();
            if self.use_landed(ticket).is_empty() {
                return;
            }
        }
    }

    fn last_lookup(&mut self) -> LookupResult {
        let mut events = Vec::new();
        self.machine.take_events(&mut events);
        let result = |e: &StoreEvent| {
            if let StoreEvent::Lookup { result, .. } = e {
                Some(*result)
            } else {
                None
            }
        };
        events.iter().rev().find_map(result).expect("a lookup")
    }

    fn issued(&mut self) -> usize {
        let mut events = Vec::new();
        self.machine.take_events(&mut events);
        events
            .iter()
            .filter(|e| matches!(e, StoreEvent::PrefetchIssued))
            .count()
    }
}

#[test]
fn slots_go_to_the_oldest_demand() {
    let mut d = Driver::new(2, 4);
    let a = d.demand(0..4, Phase::Prefill);
    let b = d.demand(10..13, Phase::Decode);
    let mut order = d.reading();
    for _ in 0..4 {
        d.read_all();
        d.use_landed(a);
        d.use_landed(b);
        order.extend(d.reading());
    }
    assert_eq!(order, keys([0, 1, 2, 3, 10, 11, 12]));
}

#[test]
fn decode_goes_ahead_of_prefill_that_has_used_up_its_half() {
    let mut d = Driver::new(4, 4);
    d.visit(0..4, Phase::Decode);
    let prefill = d.demand(10..20, Phase::Prefill);
    assert_eq!(d.reading(), keys([10, 11]), "half of the slots");
    let decode = d.demand([20, 21], Phase::Decode);
    assert_eq!(d.reading(), keys([10, 11, 20, 21]));
    d.read_all();
    assert_eq!(d.use_landed(decode).len(), 2);
    assert_eq!(d.use_landed(prefill), keys([10, 11]));
    assert_eq!(
        d.reading(),
        keys([12, 13]),
        "prefill goes on in its own half"
    );
}

#[test]
fn what_a_ticket_waits_to_use_is_not_evicted_for_it() {
    let mut d = Driver::new(2, 4);
    d.visit([0, 1], Phase::Decode);
    let ticket = d.demand([2, 3, 0, 1], Phase::Decode);
    assert_eq!(d.reading(), [], "both slots hold hits of the ticket");
    assert_eq!(d.use_landed(ticket), keys([0, 1]));
    assert_eq!(d.reading(), keys([2, 3]));
}

#[test]
fn a_read_that_waits_its_turn_is_not_late() {
    let mut d = Driver::new(8, 1);
    let ticket = d.demand(0..8, Phase::Decode);
    // One reader, 20 s a read: the last ends after 160 s, and nothing is late after 30 s of silence.
    for index in 0..8u64 {
        let (read, ..) = d.open.remove(0);
        d.machine.read_started(read, at(20 * index));
        d.machine.tick(at(20 * index + 19));
        d.machine.read_done(
            read,
            ReadReport {
                bytes: SLOT,
                seconds: 20.0,
                source: "test",
            },
            at(20 * index + 20),
        );
    }
    assert_eq!(d.use_landed(ticket).len(), 8);
}

#[test]
fn a_late_read_does_not_make_others_late() {
    let mut d = Driver::new(8, 2);
    let ticket = d.demand(0..3, Phase::Decode);
    let reads: Vec<_> = d.open.iter().map(|r| r.0).collect();
    d.machine.read_started(reads[0], at(0));
    d.machine.read_started(reads[1], at(25));
    assert_eq!(d.machine.next_deadline(), Some(at(30)));
    d.machine.tick(at(31));
    let mut grants = Vec::new();
    assert_eq!(d.machine.take(ticket, &mut grants), 2);
    assert!(
        matches!(&grants[..], [Grant::Failed { key: k, .. }] if *k == key(0)),
        "{grants:?}"
    );
    assert_eq!(d.machine.gauges().readers_stuck, 1);
    assert_eq!(d.machine.next_deadline(), Some(at(55)));
    d.commands();
    assert!(
        d.cancelled.is_empty(),
        "a read that a reader has cannot be called off"
    );
}

#[test]
fn the_most_urgent_waiter_decides() {
    let mut d = Driver::new(8, 1);
    d.hint([0, 1]);
    d.demand([0], Phase::Prefill);
    d.demand([0], Phase::Decode);
    let priorities: Vec<_> = d.open.iter().map(|r| r.2).collect();
    assert_eq!(priorities, [Priority::Decode, Priority::Prefetch]);
    assert_eq!(d.last_lookup(), LookupResult::Coalesced);
}

#[test]
fn an_abandoned_read_that_is_wanted_again_goes_on() {
    let mut d = Driver::new(2, 1);
    let gone = d.demand([0], Phase::Decode);
    d.machine.cancel(gone);
    d.commands();
    let back = d.demand([0], Phase::Decode);
    let (read, ..) = d.open.remove(0);
    assert_eq!(d.cancelled, [read]);
    d.machine.read_cancelled(read);
    d.read(0);
    assert_eq!(d.use_landed(back), keys([0]));
}

#[test]
fn prefetch_that_does_not_pay_stops_and_tries_again() {
    let mut d = Driver::new(8, 4);
    d.visit(0..8, Phase::Decode);
    d.issued();
    // Hints that never come true, each replaced by the next.
    for round in 0..400u32 {
        d.hint([20 + round % 100]);
        d.read_all();
    }
    let wrong = d.issued();
    assert!(wrong < 50, "{wrong} of 400 were followed");
    for round in 0..400u32 {
        d.hint([20 + round % 100]);
        d.read_all();
        d.visit([20 + round % 100], Phase::Decode);
    }
    let right = d.issued();
    assert!(
        right > 300,
        "{right} of 400 were followed once they came true"
    );
}

/// A layer of a prompt chunk computes for as long as tens of reads take, and asks for nearly every expert of the next; a
/// token asks for a few.
#[test]
fn a_prompt_is_read_further_ahead_than_a_token() {
    for (phase, ahead) in [(Phase::Decode, 2), (Phase::Prefill, 64)] {
        let mut d = Driver::new(256, 1);
        d.machine.hint(0, phase, &keys(0..100));
        assert_eq!(d.reading(), keys(0..ahead), "{phase:?}");
        d.demand([150], phase);
        assert_eq!(d.open.last().unwrap().1, key(150), "{phase:?}");
        assert!(d.open.last().unwrap().2 < d.open[0].2, "it overtakes");
    }
    let mut d = Driver::new(40, 1);
    d.machine.hint(0, Phase::Prefill, &keys(0..100));
    assert_eq!(d.reading(), keys(0..10), "a quarter of the memory");
}

/// A long prompt wants every object of each layer in turn. Where half of them fit, layers ahead are read into the memory of
/// those behind, and what is there of a layer ahead is not read again.
#[test]
fn a_long_prompt_reads_layers_ahead_and_leaves_what_it_comes_to() {
    const LAYERS: u32 = 8;
    const WIDTH: u32 = 16;
    let layer = |layer: u32| (0..WIDTH).map(move |index| ExpertKey::routed(layer, index));
    let objects = (0..LAYERS).flat_map(layer).map(|key| (key, SLOT));
    let slots = (LAYERS * WIDTH / 2) as usize;
    let mut d = Driver::of(slots, 4, objects);
    let hint = |d: &mut Driver, layers: std::ops::Range<u32>| {
        let keys: Vec<_> = layers.flat_map(layer).collect();
        d.machine.hint(0, Phase::Prefill, &keys);
    };
    for pass in 0..3 {
        let (mut reads, mut far) = (0, 0);
        hint(&mut d, 0..2);
        for now in 0..LAYERS {
            reads += d.reading().len();
            d.read_all();
            let wanted: Vec<_> = layer(now).collect();
            let is_there = d.machine.holds_layer(LayerIndex(now));
            assert!(
                is_there,
                "pass {pass}: layer {now} was read before its turn"
            );
            let ticket = d.machine.demand(&wanted, Phase::Prefill, at(0));
            d.use_landed(ticket);
            hint(&mut d, now + 1..LAYERS.min(now + 3));
            let of = |d: &mut Driver, layer| {
                let reading = d.reading();
                reading.iter().filter(|key| key.layer.0 == layer).count()
            };
            far += of(&mut d, now + 2);
        }
        let misses = (LAYERS * WIDTH) as usize - slots;
        let most = misses + 2 * WIDTH as usize;
        assert!(pass == 0 || reads <= most, "pass {pass}: {reads} reads");
        assert!(
            pass == 0 || far > 0,
            "pass {pass}: nothing two layers ahead"
        );
    }
}

/// Recordings of hints are for the next demand of their layer.
#[test]
fn a_hint_tells_of_the_next_layer_alone() {
    let objects = (0..3).flat_map(|layer| (0..4).map(move |i| ExpertKey::routed(layer, i)));
    let objects: Vec<_> = objects.collect();
    let mut d = Driver::of(12, 4, objects.iter().map(|key| (*key, SLOT)));
    d.machine.hint(0, Phase::Prefill, &objects[4..]);
    let mut events = Vec::new();
    d.machine.take_events(&mut events);
    let hinted = events.iter().find_map(|event| match event {
        StoreEvent::Hinted { keys, .. } => Some(keys.as_slice()),
        _ => None,
    });
    assert_eq!(hinted, Some(&objects[4..8]));
}

#[test]
fn prefetch_spares_what_current_hints_name() {
    let mut d = Driver::new(8, 8);
    d.visit(0..8, Phase::Decode);
    d.machine.hint(1, Phase::Decode, &keys([0, 1, 2, 3]));
    d.hint([10, 11, 12, 13, 14]);
    d.read_all();
    for index in 0..4 {
        d.demand([index], Phase::Decode);
        assert_eq!(
            d.last_lookup(),
            LookupResult::Hit,
            "{index} is least recently used, but hinted"
        );
    }
}

#[test]
fn a_layer_is_held_while_all_of_it_is_in_memory() {
    let objects = [(0, 0), (0, 1), (1, 0), (1, 1)];
    let objects = objects.map(|(layer, index)| (ExpertKey::routed(layer, index), SLOT));
    let mut d = Driver::of(3, 4, objects);
    let held = |d: &Driver| [0, 1, 2].map(|layer| d.machine.holds_layer(LayerIndex(layer)));
    assert_eq!(held(&d), [false; 3]);
    d.visit([0], Phase::Decode);
    assert_eq!(held(&d), [false; 3]);
    d.visit([1], Phase::Decode);
    assert_eq!(
        held(&d),
        [true, false, false],
        "layer 2 is not in the catalog"
    );
    let others = [0, 1].map(|index| ExpertKey::routed(1, index));
    let ticket = d.machine.demand(&others, Phase::Decode, at(0));
    d.commands();
    assert_eq!(held(&d), [false; 3], "an eviction made room");
    for (read, ..) in std::mem::take(&mut d.open) {
        let report = ReadReport {
            bytes: SLOT,
            seconds: 0.0,
            source: "test",
        };
        d.machine.read_started(read, at(0));
        d.machine.read_done(read, report, at(0));
    }
    d.use_landed(ticket);
    assert_eq!(held(&d), [false, true, false]);
}
