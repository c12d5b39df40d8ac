//! What an earlier run used most is there before anybody asks, at nobody's cost.

mod common;

use common::{Harness, SLOT, key};
use odmoe_expert_store::faulty::Fault;
use odmoe_expert_store::residency::eviction::Eviction;
use odmoe_expert_store::{LookupResult::*, StoreEvent};
use odmoe_formats::{ByteCount, ExpertKey};
use std::time::Instant;

const SMALL: u64 = 8192;

fn heat(hottest_first: &[u32]) -> Vec<(ExpertKey, f64)> {
    let heat = |(place, index): (usize, &u32)| (key(*index), 100.0 - place as f64);
    let mut heat: Vec<_> = hottest_first.iter().enumerate().map(heat).collect();
    heat.reverse();
    heat
}

fn evicted(h: &Harness) -> Vec<ExpertKey> {
    let key = |e: &StoreEvent| match e {
        StoreEvent::Evicted { key, .. } => Some(*key),
        _ => None,
    };
    h.events.all().iter().filter_map(key).collect()
}

#[test]
fn the_hottest_fill_what_is_free() {
    let mut h = Harness::new(&[SMALL; 16], 4, |c| {
        c.warm_up = heat(&[9, 3, 5, 1, 7, 2]);
        c.warm_up.push((ExpertKey::routed(99, 0), 1e9));
        c.warm_up.push((key(8), f64::NAN));
        c.warm_up.push((key(10), -1.0));
    });
    h.settle();
    assert_eq!(h.store.gauges().resident, ByteCount(4 * SMALL));
    assert_eq!(h.faulty.reads(), 4);
    h.visit(&[9, 3, 5, 1]);
    assert_eq!(h.events.lookups(), [Hit; 4]);
    assert_eq!(h.events.prefetches(), [0; 3], "nobody predicted it");
    assert_eq!(h.events.count(|e| matches!(e, StoreEvent::WarmUpIssued)), 4);
    h.assert_at_rest();
}

#[test]
fn the_coldest_leaves_first() {
    for eviction in Eviction::ALL {
        let mut h = Harness::new(&[SMALL; 8], 4, |c| {
            c.warm_up = heat(&[2, 1, 3, 0]);
            c.eviction = eviction;
        });
        h.settle();
        h.visit(&[4, 5]);
        assert_eq!(evicted(&h), [key(0), key(3)], "{eviction:?}");
    }
}

#[test]
fn heat_goes_on_from_where_it_was() {
    let mut h = Harness::new(&[SMALL; 8], 4, |c| c.warm_up = vec![(key(2), 5.0)]);
    h.settle();
    h.visit(&[2, 3]);
    let usage = h.store.usage();
    assert_eq!(usage.len(), 8);
    let of = |index: usize| (usage[index].uses, usage[index].hits, usage[index].resident);
    assert_eq!(
        (of(2), of(3), of(4)),
        ((1, 1, true), (1, 0, true), (0, 0, false))
    );
    assert!(
        usage[2].heat > 5.9 && usage[2].heat < 6.0,
        "{}",
        usage[2].heat
    );
    assert_eq!(usage[3].misses.cold, 1);
}

#[test]
fn memory_that_is_added_takes_what_was_used_most() {
    let mut h = Harness::new(&[SMALL; 16], 2, |_| {});
    for _ in 0..4 {
        [3, 9, 5].into_iter().for_each(|index| h.visit(&[index]));
    }
    [1, 7].into_iter().for_each(|index| h.visit(&[index]));
    assert!(h.store.usage().iter().filter(|u| u.resident).count() == 2);
    let grown = h.store.resize(ByteCount(4 * SLOT), Instant::now());
    assert_eq!(grown.expect("room for all"), ByteCount(4 * SLOT));
    h.until("what was used most", |h| {
        h.store.gauges().resident == ByteCount(4 * SMALL)
    });
    let before = h.events.lookups().len();
    [3, 9].into_iter().for_each(|index| h.visit(&[index]));
    assert_eq!(h.events.lookups()[before..], [Hit, Hit]);
    let shrunk = h.store.resize(ByteCount(2 * SLOT), Instant::now());
    shrunk.expect("enough for one pass");
    h.settle();
    assert!(
        h.store.gauges().resident <= ByteCount(2 * SMALL),
        "none comes back"
    );
    h.assert_at_rest();
}

#[test]
fn a_demand_overtakes() {
    let mut h = Harness::new(&[SMALL; 16], 8, |c| {
        c.readers = 2;
        c.warm_up = heat(&[0, 1, 2, 3]);
    });
    // The first may have begun before this strikes; some of the four hangs.
    let all = 0..h.object(0).offset + h.object(0).bytes;
    for index in 0..4 {
        let file = h.object(index).file;
        h.faulty
            .strike_file(file, all.clone(), Fault::Hang, Some(1));
    }
    h.until("a read to hang", |h| h.faulty.hanging() == 1);
    let issued = |h: &Harness| h.events.count(|e| matches!(e, StoreEvent::WarmUpIssued));
    let before = issued(&h);
    h.faulty.strike(&h.object(8).clone(), Fault::Hang, Some(1));
    let ticket = h.acquire(&[8]);
    h.until("the demand to be read", |h| h.faulty.hanging() == 2);
    assert_eq!(issued(&h), before, "one reader is left to demands");
    h.faulty.release();
    let got = h.finish(ticket);
    h.release(got);
    h.until("the rest", |h| {
        h.faulty.release();
        h.store.gauges().resident == ByteCount(5 * SMALL)
    });
    h.assert_at_rest();
}
