//! Hits, misses, waves, pins, prefetch and cancellation, with storage that works or waits.

mod common;

use common::{Harness, SLOT, event_of, key};
use odmoe_expert_store::faulty::Fault;
use odmoe_expert_store::{LookupResult::*, Phase, StoreEvent};
use odmoe_formats::ByteCount;

const SMALL: u64 = 8192;

#[test]
fn a_lookup_is_a_miss_then_a_hit() {
    let mut h = Harness::new(&[SMALL; 8], 4, |_| {});
    h.visit(&[0, 1]);
    h.visit(&[1, 0, 2]);
    assert_eq!(h.events.lookups(), [Miss, Miss, Hit, Hit, Miss]);
    assert_eq!(h.store.gauges().resident, ByteCount(3 * SMALL));
    assert_eq!(h.store.gauges().capacity, ByteCount(4 * SLOT));
    assert_eq!(h.faulty.reads(), 3);
    let loaded = |e: &StoreEvent| {
        matches!(
            e,
            StoreEvent::Loaded {
                bytes: SMALL,
                prefetch: false,
                source: "memory",
                ..
            }
        )
    };
    assert_eq!(h.events.count(loaded), 3);
    h.assert_at_rest();
}

#[test]
fn the_least_recently_used_leaves() {
    let mut h = Harness::new(&[SMALL; 8], 3, |_| {});
    h.visit(&[0, 1, 2]);
    h.visit(&[0]);
    h.visit(&[3]);
    let evicted: Vec<_> = h.events.all();
    let evicted: Vec<_> = evicted
        .iter()
        .filter_map(|e| {
            if let StoreEvent::Evicted { key, .. } = e {
                Some(*key)
            } else {
                None
            }
        })
        .collect();
    assert_eq!(evicted.len(), 1);
    assert_ne!(evicted[0], key(0), "0 was used last");
}

#[test]
fn more_experts_than_slots_come_in_waves() {
    let mut h = Harness::new(&[SMALL; 8], 2, |_| {});
    let ticket = h.acquire_as(&[0, 1, 2, 3, 4, 5, 6, 7], Phase::Prefill);
    let mut all = Vec::new();
    let mut most = 0;
    while all.len() < 8 {
        h.until("a wave", |h| h.store.gauges().pinned.0 > 0);
        let (got, remaining) = h.take(ticket);
        most = most.max(got.len());
        all.extend(got.keys().copied());
        assert_eq!(remaining, 8 - all.len());
        h.release(got);
    }
    assert!(most <= 2, "never more at once than slots");
    all.sort();
    assert_eq!(all, [0, 1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(h.faulty.reads(), 8, "each is read once");
    h.assert_at_rest();
}

#[test]
fn hits_are_there_before_a_miss_arrives() {
    let mut h = Harness::new(&[SMALL; 8], 4, |_| {});
    h.visit(&[0, 1]);
    h.faulty.strike(&h.object(2).clone(), Fault::Hang, Some(1));
    let ticket = h.acquire(&[2, 0, 1]);
    let (got, remaining) = h.take(ticket);
    assert_eq!(
        (got.keys().copied().collect::<Vec<_>>(), remaining),
        (vec![0, 1], 1)
    );
    h.release(got);
    h.until("the read to begin", |h| h.faulty.hanging() == 1);
    assert_eq!(h.store.gauges().reads_in_flight, 1);
    h.faulty.release();
    let rest = h.finish(ticket);
    assert!(rest[&2].is_ok());
    h.release(rest);
    h.assert_at_rest();
}

#[test]
fn two_tickets_share_one_read() {
    let mut h = Harness::new(&[SMALL; 8], 4, |_| {});
    h.faulty.strike(&h.object(0).clone(), Fault::Hang, Some(1));
    let (a, b) = (h.acquire(&[0]), h.acquire(&[0, 1]));
    h.until("the read to begin", |h| h.faulty.hanging() == 1);
    h.faulty.release();
    let (got_a, got_b) = (h.finish(a), h.finish(b));
    assert_eq!(h.faulty.reads_of(h.object(0)), 1);
    assert_eq!(h.events.lookups(), [Miss, Coalesced, Miss]);
    h.release(got_a);
    h.visit(&[2, 3]);
    assert_eq!(
        h.store.gauges().pinned,
        ByteCount(2 * SMALL),
        "the other ticket's pins hold"
    );
    h.release(got_b);
    h.assert_at_rest();
}

#[test]
fn a_pin_holds_until_its_event() {
    let mut h = Harness::new(&[SMALL; 8], 2, |_| {});
    h.backend.set_prompt(false);
    let ticket = h.acquire(&[0, 1]);
    let got = h.finish(ticket);
    let pins = got.into_values().map(|r| r.unwrap().1).collect();
    let event = event_of(&h.backend);
    h.store.release(pins, event);
    let next = h.acquire(&[2]);
    h.store.poll(std::time::Instant::now());
    assert_eq!(
        h.store.gauges().pinned,
        ByteCount(2 * SMALL),
        "the backend may still read the slots"
    );
    assert_eq!(h.store.gauges().reads_queued, 1);
    h.backend.complete();
    let got = h.finish(next);
    h.release(got);
    h.assert_at_rest();
}

#[test]
fn a_prefetch_is_used_coalesced_or_wasted() {
    let mut h = Harness::new(&[SMALL; 16], 8, |_| {});
    h.hint(0, &[0, 1]);
    h.settle();
    h.until("prefetches", |h| h.events.prefetches()[0] == 2);
    h.settle();
    h.visit(&[0]);
    h.visit(&[0]);
    assert_eq!(h.events.lookups(), [PrefetchHit, Hit]);
    assert_eq!(h.events.prefetches(), [2, 1, 0]);

    h.faulty.strike(&h.object(2).clone(), Fault::Hang, Some(1));
    h.hint(0, &[2]);
    h.until("the read to begin", |h| h.faulty.hanging() == 1);
    let ticket = h.acquire(&[2]);
    h.faulty.release();
    let got = h.finish(ticket);
    h.release(got);
    assert_eq!(h.events.lookups().last(), Some(&Coalesced));
    assert_eq!(h.events.prefetches(), [3, 2, 0]);

    h.hint(0, &[]);
    h.visit(&[3, 4, 5, 6, 7, 8]);
    assert_eq!(
        h.events.prefetches(),
        [3, 2, 1],
        "an unused one leaves first"
    );
    h.visit(&[0, 2]);
    assert_eq!(h.events.lookups()[9..], [Hit, Hit], "what was used stays");
    h.assert_at_rest();
}

#[test]
fn a_demand_overtakes_prefetches_and_a_new_hint_calls_them_back() {
    let mut h = Harness::new(&[SMALL; 32], 24, |c| c.readers = 1);
    let all = 0..h.object(0).offset + h.object(0).bytes;
    h.faulty
        .strike_file(h.object(0).file, all, Fault::Hang, Some(1));
    h.hint(0, &[0, 1, 2, 3]);
    h.until("the read to begin", |h| h.faulty.hanging() == 1);
    assert_eq!(
        h.events.prefetches()[0],
        2,
        "one is read, one is ready for the reader"
    );
    let ticket = h.acquire(&[8]);
    h.hint(0, &[9]);
    h.faulty.release();
    let got = h.finish(ticket);
    assert_eq!(
        h.faulty.reads_of(h.object(1)),
        0,
        "stale, and no reader had it"
    );
    h.release(got);
    h.until("the new hint", |h| h.events.prefetches()[0] == 3);
    h.assert_at_rest();
    assert_eq!(h.faulty.reads_of(h.object(9)), 1);
    assert_eq!(h.faulty.reads(), 3);
}

#[test]
fn nothing_is_prefetched_when_told_not_to() {
    let mut h = Harness::new(&[SMALL; 8], 4, |c| c.prefetch = false);
    h.hint(0, &[0, 1, 2]);
    h.visit(&[4]);
    h.assert_at_rest();
    assert_eq!((h.faulty.reads(), h.events.prefetches()[0]), (1, 0));
}

#[test]
fn a_cancelled_ticket_frees_what_it_held() {
    let mut h = Harness::new(&[SMALL; 8], 2, |c| c.readers = 1);
    h.faulty.strike(&h.object(0).clone(), Fault::Hang, Some(1));
    let gone = h.acquire(&[0, 1, 2, 3]);
    let kept = h.acquire(&[4]);
    h.until("the read to begin", |h| h.faulty.hanging() == 1);
    h.store.cancel(gone);
    let (got, remaining) = h.take(gone);
    assert!(got.is_empty() && remaining == 0);
    h.faulty.release();
    let got = h.finish(kept);
    h.release(got);
    h.assert_at_rest();
    let reads: Vec<_> = (0..4).map(|i| h.faulty.reads_of(h.object(i))).collect();
    assert_eq!(reads, [1, 0, 0, 0], "only the read that had begun went on");
    h.visit(&[0]);
    assert_eq!(
        h.events.lookups().last(),
        Some(&Hit),
        "and what it brought is kept"
    );
}

#[test]
fn cancelling_after_landing_unpins() {
    let mut h = Harness::new(&[SMALL; 8], 2, |_| {});
    let ticket = h.acquire(&[0, 1]);
    h.settle();
    assert_eq!(
        h.store.gauges().pinned,
        ByteCount(2 * SMALL),
        "landed reads are leased"
    );
    h.store.cancel(ticket);
    h.assert_at_rest();
}

#[test]
fn prefill_leaves_half_of_the_slots_to_decode() {
    let mut h = Harness::new(&[SMALL; 64], 8, |_| {});
    h.visit(&[0, 1, 2, 3]);
    for first in (8..64).step_by(8) {
        let wave: Vec<u32> = (first..first + 8).collect();
        let ticket = h.acquire_as(&wave, Phase::Prefill);
        let mut left = 8;
        while left > 0 {
            h.until("a wave", |h| h.store.gauges().pinned.0 > 0);
            let (got, remaining) = h.take(ticket);
            left = remaining;
            h.release(got);
        }
    }
    h.visit(&[0, 1, 2, 3]);
    assert_eq!(h.events.lookups()[60..], [Hit; 4]);
}

#[test]
fn experts_of_several_sizes_use_their_own_slots() {
    let sizes: Vec<u64> = (0..16)
        .map(|i| if i % 2 == 0 { 40 << 10 } else { 8192 })
        .collect();
    let mut h = Harness::new(&sizes, 4, |_| {});
    for _ in 0..3 {
        h.visit(&[0, 1, 2, 3]);
        h.visit(&[4, 5, 6, 7]);
    }
    assert!(h.store.gauges().capacity.0 <= 4 * 3 * SLOT);
    h.assert_at_rest();
}

#[test]
fn a_store_can_move_to_the_engines_thread() {
    fn moves<T: Send>() {}
    moves::<odmoe_expert_store::ExpertStore>();
}
