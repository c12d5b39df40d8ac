//! What is to be kept is loaded first and stays, and leaves room for the rest.

mod common;

use common::backend::FakeBackend;
use common::{Harness, SLOT, files, key, manifest};
use odmoe_expert_store::faulty::{Fault, FaultyReader};
use odmoe_expert_store::residency::eviction::Eviction;
use odmoe_expert_store::{
    Catalog, EvictionReason, LookupResult::*, MemoryReader, Phase, StoreError, StoreEvent,
};
use odmoe_formats::ByteCount;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

const SMALL: u64 = 8192;

fn left(h: &Harness, index: u32) -> Vec<EvictionReason> {
    let reason = |e: &StoreEvent| match e {
        StoreEvent::Evicted { key: k, reason } if *k == key(index) => Some(*reason),
        _ => None,
    };
    h.events.all().iter().filter_map(reason).collect()
}

fn until_there(h: &mut Harness, indices: &[usize]) {
    h.until("what is kept", |h| {
        let usage = h.store.usage();
        indices.iter().all(|index| usage[*index].resident)
    });
}

#[test]
fn what_is_kept_is_loaded_first_and_stays() {
    for eviction in Eviction::ALL {
        let mut h = Harness::new(&[SMALL; 16], 4, |c| {
            c.keep = [key(3), key(7)].into();
            c.warm_up = vec![(key(1), 9.0), (key(2), 8.0), (key(4), 7.0)];
            c.eviction = eviction;
        });
        h.settle();
        assert_eq!(h.store.gauges().kept, ByteCount(2 * SMALL));
        h.visit(&[3, 7, 1, 2]);
        assert_eq!(h.events.lookups(), [Hit; 4]);
        for index in 8..16 {
            h.visit(&[index]);
            let ticket = h.acquire_as(&[index - 8], Phase::Prefill);
            let got = h.finish(ticket);
            h.release(got);
            h.hint(0, &[index - 8, (index - 7) % 8]);
            h.settle();
        }
        let before = h.faulty.reads();
        h.visit(&[3, 7]);
        assert_eq!(h.faulty.reads(), before, "{eviction:?}");
        assert_eq!((left(&h, 3), left(&h, 7)), (vec![], vec![]));
        let usage = h.store.usage();
        assert!(usage[3].kept && !usage[4].kept);
        h.assert_at_rest();
    }
}

#[test]
fn more_than_the_room_beside_them_comes_in_waves() {
    let mut h = Harness::new(&[SMALL; 16], 4, |c| c.keep = [key(0), key(1)].into());
    for phase in [Phase::Prefill, Phase::Decode] {
        let ticket = h.acquire_as(&(0..16).collect::<Vec<_>>(), phase);
        let mut left = 16;
        while left > 0 {
            h.until("a wave", |h| h.store.gauges().pinned.0 > 0);
            let (got, remaining) = h.take(ticket);
            left = remaining;
            h.release(got);
        }
    }
    h.assert_at_rest();
}

#[test]
fn a_smaller_budget_drains_others_first_and_brings_back_what_is_kept() {
    let keep = [key(0), key(5), key(9)];
    let mut h = Harness::new(&[SMALL; 16], 16, |c| c.keep = keep.into());
    for index in 0..16 {
        h.visit(&[index]);
    }
    for slots in [8, 5, 16, 5, 12] {
        h.store
            .resize(ByteCount(slots * SLOT), Instant::now())
            .unwrap();
        h.until("the budget", |h| {
            h.store.gauges().capacity == h.store.gauges().budget
        });
        until_there(&mut h, &[0, 5, 9]);
        assert_eq!(h.store.gauges().kept, ByteCount(3 * SMALL));
        let lookups = h.events.lookups().len();
        h.visit(&[0, 5]);
        h.visit(&[9]);
        assert_eq!(h.events.lookups()[lookups..], [Hit; 3]);
        for index in 10..16 {
            h.visit(&[index]);
        }
    }
    for index in [0, 5, 9] {
        let reasons = left(&h, index);
        assert!(reasons.iter().all(|r| *r == EvictionReason::Budget));
    }
    let refused = h.store.resize(ByteCount(4 * SLOT), Instant::now());
    let Err(error @ StoreError::BudgetTooSmall { least, kept, .. }) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!((least, kept), (ByteCount(5 * SLOT), 3));
    assert!(
        error.to_string().contains("beside 3 pinned ones"),
        "{error}"
    );
    h.assert_at_rest();
}

#[test]
fn what_cannot_be_read_is_left_until_it_is_asked_for() {
    let keep: HashSet<_> = (0..4).map(key).collect();
    let sizes = [SMALL; 8];
    let broken = FaultyReader::new(Arc::new(MemoryReader::new(files(&sizes))), 1);
    broken.strike(&manifest(&sizes).objects[1], Fault::Fail, Some(1));
    let mut h = Harness::over(FakeBackend::unified(), Arc::new(broken), &sizes, 6, |c| {
        c.keep = keep
    });
    until_there(&mut h, &[0, 2, 3]);
    h.settle();
    let before = h.faulty.reads();
    h.visit(&[5]);
    h.settle();
    assert_eq!(
        h.faulty.reads(),
        before + 1,
        "it is not tried over and over"
    );
    h.visit(&[1]);
    for index in 4..8 {
        h.visit(&[index]);
    }
    assert!(h.store.usage()[1].resident);
    h.assert_at_rest();
}

#[test]
fn the_least_budget_grows_with_what_is_kept() {
    let large = 40 << 10;
    let sizes: Vec<u64> = (0..16)
        .map(|i| if i % 2 == 0 { large } else { SMALL })
        .collect();
    let least = |keep: HashSet<_>| {
        let catalog = Catalog::new(&manifest(&sizes)).keeping(&keep);
        let least = catalog.least_budget();
        assert!(catalog.slots(least).is_some());
        assert!(catalog.slots(ByteCount(least.0 - 1)).is_none());
        assert!(least >= catalog.least_without_kept());
        assert!(least <= catalog.full_budget());
        least.0 / SLOT
    };
    assert_eq!(least(HashSet::new()), 2 * 3);
    assert_eq!(least((0..8).step_by(2).map(key).collect()), (4 + 2) * 3);
    // Small ones in slots of their own beside two of each.
    assert_eq!(least((1..8).step_by(2).map(key).collect()), 4 + 2 + 2 * 3);
    assert_eq!(least([key(1)].into()), 3 * 3);
    assert_eq!(least((0..16).map(key).collect()), 8 + 8 * 3);
}
