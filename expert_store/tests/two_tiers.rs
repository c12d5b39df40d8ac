//! Host memory behind device memory: reads land in the host tier and are uploaded.

mod common;

use common::backend::FakeBackend;
use common::{Harness, SLOT, files};
use odmoe_expert_store::{LoadError, LookupResult::*, MemoryReader};
use odmoe_formats::ByteCount;
use std::sync::Arc;
use std::sync::atomic::Ordering;

const SMALL: u64 = 8192;

fn harness(device_slots: u64, host_slots: u64) -> Harness {
    let reader = Arc::new(MemoryReader::new(files(&[SMALL; 16])));
    Harness::over(
        FakeBackend::discrete(),
        reader,
        &[SMALL; 16],
        device_slots,
        |c| {
            c.host_budget = Some(ByteCount(host_slots * SLOT));
        },
    )
}

#[test]
fn what_the_host_still_has_is_not_read_again() {
    let mut h = harness(2, 6);
    h.visit(&[0, 1]);
    h.visit(&[2, 3]);
    h.visit(&[0, 1]);
    assert_eq!(h.events.lookups(), [Miss, Miss, Miss, Miss, Hit, Hit]);
    assert_eq!(h.faulty.reads(), 4);
    assert_eq!(h.backend.uploads.load(Ordering::SeqCst), 6);
    assert_eq!(h.store.gauges().capacity, ByteCount(8 * SLOT));
    assert_eq!(
        h.store.gauges().resident,
        ByteCount(6 * SMALL),
        "four in the host tier, two in the device's"
    );
    h.assert_at_rest();
}

#[test]
fn a_copy_that_is_done_at_once_has_landed_at_once() {
    let mut h = harness(2, 4);
    h.visit(&[0, 1]);
    h.visit(&[2, 3]);
    let ticket = h.acquire(&[0]);
    let (got, remaining) = h.take(ticket);
    assert!(
        got.len() == 1 && remaining == 0,
        "nobody would wake the caller for it"
    );
    h.release(got);
}

#[test]
fn a_copy_lands_when_its_event_is_reached() {
    let mut h = harness(2, 2);
    h.backend.set_prompt(false);
    let ticket = h.acquire(&[0]);
    h.until("the upload", |h| {
        h.backend.uploads.load(Ordering::SeqCst) == 1
    });
    let (got, remaining) = h.take(ticket);
    assert!(got.is_empty() && remaining == 1, "enqueued is not there");
    h.backend.complete();
    let got = h.finish(ticket);
    h.release(got);
    h.assert_at_rest();
}

#[test]
fn a_refused_upload_fails_the_demand_and_keeps_the_host_copy() {
    let mut h = harness(2, 4);
    h.backend.refuse_uploads(true);
    let ticket = h.acquire(&[0]);
    assert!(matches!(
        h.finish(ticket)[&0],
        Err(LoadError::Upload { .. })
    ));
    h.backend.refuse_uploads(false);
    h.visit(&[0]);
    assert_eq!(h.faulty.reads(), 1);
    h.assert_at_rest();
}

#[test]
fn waves_work_with_the_least_of_both() {
    let mut h = harness(2, 2);
    let ticket = h.acquire(&[0, 1, 2, 3, 4, 5, 6]);
    let mut seen = 0;
    while seen < 7 {
        h.until("a wave", |h| {
            let (got, _) = h.take(ticket);
            seen += got.len();
            let landed = !got.is_empty();
            h.release(got);
            landed
        });
    }
    h.assert_at_rest();
}

#[test]
fn a_prefetch_goes_all_the_way_up() {
    let mut h = harness(8, 8);
    h.hint(0, &[0, 1]);
    h.until("two uploads", |h| {
        h.backend.uploads.load(Ordering::SeqCst) == 2
    });
    h.settle();
    h.visit(&[0, 1]);
    assert_eq!(h.events.lookups(), [PrefetchHit, PrefetchHit]);
    assert_eq!(h.events.prefetches(), [2, 2, 0]);
    h.assert_at_rest();
}
