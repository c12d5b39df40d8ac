//! Budgets that change while experts are asked for: what leaves, what stays, and when memory is given back.

mod common;

use common::backend::FakeBackend;
use common::{Harness, SLOT, event_of, files};
use odmoe_expert_store::{
    EvictionReason, LookupResult, LookupResult::*, MemoryReader, StoreError, StoreEvent,
};
use odmoe_formats::ByteCount;
use std::sync::Arc;
use std::time::Instant;

/// Sixteen of them make extents of one slot each, but for the first of two.
const SIZES: [u64; 16] = [8192; 16];

fn resize(h: &mut Harness, slots: u64) -> Result<ByteCount, StoreError> {
    h.store.resize(ByteCount(slots * SLOT), Instant::now())
}

fn resize_to_the_end(h: &mut Harness, slots: u64) {
    assert_eq!(resize(h, slots).unwrap(), ByteCount(slots * SLOT));
    h.until("the budget", |h| {
        h.store.gauges().capacity == h.store.gauges().budget
    });
}

/// What looking up each of these finds.
fn found(h: &mut Harness, indices: &[u32]) -> Vec<LookupResult> {
    let before = h.events.lookups().len();
    for index in indices {
        h.visit(&[*index]);
    }
    h.events.lookups()[before..].to_vec()
}

#[test]
fn a_smaller_budget_keeps_what_was_used_last() {
    let mut h = Harness::new(&SIZES, 8, |_| {});
    h.visit(&[0, 1, 2, 3, 4, 5, 6, 7]);
    h.visit(&[0]);
    h.visit(&[1]);
    h.visit(&[6]);
    h.visit(&[7]);
    resize_to_the_end(&mut h, 4);
    assert_eq!(h.store.gauges().capacity, ByteCount(4 * SLOT));
    let by_budget = |e: &StoreEvent| {
        let reason = EvictionReason::Budget;
        matches!(e, StoreEvent::Evicted { reason: r, .. } if *r == reason)
    };
    assert_eq!(h.events.count(by_budget), 4);
    assert_eq!(found(&mut h, &[0, 1, 6, 7]), [Hit; 4]);
    assert_eq!(found(&mut h, &[5]), [Miss]);
    h.assert_at_rest();
}

#[test]
fn a_larger_budget_keeps_everything_and_takes_more() {
    let mut h = Harness::new(&SIZES, 2, |_| {});
    h.visit(&[0, 1]);
    resize_to_the_end(&mut h, 16);
    assert_eq!(found(&mut h, &[0, 1]), [Hit; 2]);
    for index in 2..16 {
        h.visit(&[index]);
    }
    let all: Vec<u32> = (0..16).collect();
    assert_eq!(found(&mut h, &all), [Hit; 16]);
    assert!(h.store.holds_layer(odmoe_formats::LayerIndex(0)));
    resize_to_the_end(&mut h, 2);
    assert!(!h.store.holds_layer(odmoe_formats::LayerIndex(0)));
    h.assert_at_rest();
}

#[test]
fn what_is_computed_with_stays_until_the_backend_is_done() {
    for backend in [FakeBackend::unified(), FakeBackend::discrete()] {
        let reader = Arc::new(MemoryReader::new(files(&SIZES)));
        let mut h = Harness::over(backend, reader, &SIZES, 4, |c| {
            c.host_budget = Some(ByteCount(4 * SLOT));
        });
        let ticket = h.acquire(&[0, 1, 2, 3]);
        let got = h.finish(ticket);
        let before = h.store.gauges().capacity;
        resize(&mut h, 2).unwrap();
        for _ in 0..8 {
            h.store.poll(Instant::now());
        }
        assert_eq!(h.store.gauges().capacity, before, "all four are held");
        h.backend.set_prompt(false);
        let event = event_of(&h.backend);
        let pins = got.into_values().map(|r| r.unwrap().1).collect();
        h.store.release(pins, event);
        h.store.poll(Instant::now());
        assert_eq!(h.store.gauges().capacity, before, "the backend reads them");
        h.backend.complete();
        h.backend.set_prompt(true);
        h.until("the budget", |h| {
            h.store.gauges().capacity == h.store.gauges().budget
        });
        assert_eq!(h.store.gauges().budget.0, before.0 - 2 * SLOT);
        h.visit(&[5, 6]);
        h.assert_at_rest();
    }
}

#[test]
fn less_than_the_least_is_refused_with_the_number_that_would_do() {
    let mut h = Harness::new(&SIZES, 4, |_| {});
    let Err(StoreError::BudgetTooSmall { budget, least, .. }) = resize(&mut h, 1) else {
        panic!("one slot was enough");
    };
    assert_eq!((budget, least), (ByteCount(SLOT), ByteCount(2 * SLOT)));
    assert_eq!(h.store.gauges().budget, ByteCount(4 * SLOT));
}

#[test]
fn small_objects_move_into_large_slots_and_back() {
    let mixed: Vec<u64> = [[8192; 8], [24576; 8]].concat();
    let least = 2 * 2 * SLOT;
    let mut h = Harness::new(&mixed, 24, |_| {});
    let all: Vec<u32> = (0..16).collect();
    for slots in [24, 4, 10, 5, 24, 6, 4, 24] {
        let bytes = h.store.resize(ByteCount(slots * SLOT), Instant::now());
        assert!((least..=slots * SLOT).contains(&bytes.unwrap().0));
        for pair in all.chunks(2) {
            h.visit(pair);
        }
        h.until("the budget", |h| {
            h.store.gauges().capacity == h.store.gauges().budget
        });
        for pair in all.chunks(2) {
            h.visit(pair);
        }
    }
    h.assert_at_rest();
}
