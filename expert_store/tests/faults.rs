//! Storage that is wrong, short, late, deaf or gone, under the real store and its threads.

mod common;

use common::{Harness, key};
use odmoe_expert_store::faulty::Fault;
use odmoe_expert_store::{
    FaultyReader, LoadError, LoadFailureKind, Phase, StoreEvent, StoreHealth,
};
use std::sync::Arc;
use std::time::{Duration, Instant};

const SMALL: u64 = 8192;
const TIMEOUT: Duration = Duration::from_secs(30);

fn harness(readers: usize) -> Harness {
    Harness::new(&[SMALL; 16], 4, |c| {
        (c.readers, c.read_timeout) = (readers, TIMEOUT)
    })
}

/// The error that a ticket for one expert gets.
fn error_of(h: &mut Harness, index: u32) -> LoadError {
    let ticket = h.acquire(&[index]);
    h.finish(ticket).remove(&index).unwrap().unwrap_err()
}

#[test]
fn wrong_bytes_are_read_once_more() {
    let mut h = harness(2);
    h.faulty
        .strike(&h.object(0).clone(), Fault::Corrupt, Some(1));
    h.visit(&[0, 1]);
    assert_eq!(h.faulty.reads_of(h.object(0)), 2);
    assert_eq!(
        h.events
            .count(|e| matches!(e, StoreEvent::Reread { key: k } if *k == key(0))),
        1
    );
    assert!(h.events.failures().is_empty());
    h.assert_at_rest();
}

#[test]
fn a_damaged_shard_fails_alone_and_is_tried_anew() {
    let mut h = harness(2);
    for (fault, kind) in [
        (Fault::Corrupt, LoadFailureKind::Checksum),
        (Fault::Short, LoadFailureKind::ShortRead),
        (Fault::Fail, LoadFailureKind::Io),
    ] {
        h.faulty.strike(&h.object(0).clone(), fault, None);
        let ticket = h.acquire(&[0, 1]);
        let got = h.finish(ticket);
        assert_eq!(got[&0].as_ref().unwrap_err().kind(), kind);
        assert!(got[&1].is_ok(), "the others are served");
        h.release(got);
        assert_eq!(h.events.failures().pop(), Some(kind));
        h.faulty.heal();
        h.visit(&[0, 2, 3, 4]);
        h.visit(&[5, 6, 7, 8]);
    }
    assert_eq!(h.store.health(), StoreHealth::Healthy);
    h.assert_at_rest();
}

#[test]
fn a_failure_is_told_to_everybody_who_waits() {
    let mut h = harness(2);
    h.faulty.strike(&h.object(0).clone(), Fault::Hang, Some(1));
    let tickets = [
        h.acquire(&[0]),
        h.acquire_as(&[0], Phase::Prefill),
        h.acquire(&[0, 1]),
    ];
    h.until("the other read to end", |h| {
        h.faulty.hanging() == 1 && h.store.gauges().resident.0 == SMALL
    });
    h.store.poll(Instant::now() + 2 * TIMEOUT);
    for ticket in tickets {
        let got = h.finish(ticket);
        assert!(matches!(got[&0], Err(LoadError::Timeout { .. })));
        h.release(got);
    }
    assert_eq!(
        h.events.failures(),
        [LoadFailureKind::Timeout],
        "one read failed, once"
    );
    h.faulty.release();
    h.assert_at_rest();
}

#[test]
fn a_late_read_keeps_its_slot_and_its_reader_until_it_returns() {
    let mut h = Harness::new(&[SMALL; 16], 2, |c| c.read_timeout = TIMEOUT);
    h.faulty.strike(&h.object(0).clone(), Fault::Hang, Some(1));
    let ticket = h.acquire(&[0]);
    h.until("the read to begin", |h| h.faulty.hanging() == 1);
    h.store.poll(Instant::now() + 2 * TIMEOUT);
    assert!(
        matches!(h.finish(ticket)[&0], Err(LoadError::Timeout { waited, .. }) if waited >= TIMEOUT)
    );
    assert_eq!(h.store.gauges().readers_stuck, 1);
    // One slot and one reader are left, and they do: other objects, and the same by a fresh read.
    h.visit(&[1]);
    h.visit(&[2]);
    h.visit(&[0]);
    assert_eq!(h.faulty.hanging(), 1);
    h.faulty.release();
    h.until("the late read", |h| h.store.gauges().readers_stuck == 0);
    h.visit(&[3, 4]);
    h.assert_at_rest();
}

#[test]
fn a_late_read_that_comes_after_all_is_kept() {
    let mut h = harness(2);
    h.faulty.strike(&h.object(0).clone(), Fault::Hang, Some(1));
    let ticket = h.acquire(&[0]);
    h.until("the read to begin", |h| h.faulty.hanging() == 1);
    h.store.poll(Instant::now() + 2 * TIMEOUT);
    assert!(h.finish(ticket)[&0].is_err());
    h.faulty.release();
    h.until("the late read", |h| h.store.gauges().readers_stuck == 0);
    h.visit(&[0]);
    assert_eq!(h.faulty.reads_of(h.object(0)), 1);
}

#[test]
fn with_every_reader_stuck_storage_is_failing_until_one_returns() {
    let mut h = harness(2);
    for index in [0, 1] {
        h.faulty
            .strike(&h.object(index).clone(), Fault::Hang, Some(1));
    }
    let ticket = h.acquire(&[0, 1, 2]);
    h.until("both reads to begin", |h| h.faulty.hanging() == 2);
    h.store.poll(Instant::now() + 2 * TIMEOUT);
    let got = h.finish(ticket);
    assert!(
        got.values()
            .all(|r| matches!(r, Err(LoadError::Timeout { .. }))),
        "also what no reader could take"
    );
    h.store.poll(Instant::now());
    assert!(matches!(h.store.health(), StoreHealth::Failing { .. }));
    assert_eq!(h.store.gauges().readers_stuck, 2);
    h.faulty.release();
    h.until("health", |h| h.store.health() == StoreHealth::Healthy);
    h.visit(&[0, 1, 2]);
    h.assert_at_rest();
}

#[test]
fn a_vanished_disk_is_probed_until_it_is_back() {
    let mut h = harness(2);
    h.visit(&[0]);
    h.faulty.vanish();
    for index in [1, 2, 3] {
        assert_eq!(
            h.store.health(),
            StoreHealth::Healthy,
            "{index}: a shard or two may just be broken"
        );
        assert_eq!(error_of(&mut h, index).kind(), LoadFailureKind::Io);
    }
    assert!(matches!(h.store.health(), StoreHealth::Failing { .. }));
    h.visit(&[0]);
    assert!(
        matches!(h.store.health(), StoreHealth::Failing { .. }),
        "a hit says nothing about the disk"
    );

    let reads = h.faulty.reads();
    let due = h.store.next_deadline().expect("a probe is due");
    h.store.poll(due);
    h.until("a probe", |h| h.faulty.reads() == reads + 1);
    h.until("its end", |h| {
        h.store.next_deadline().is_some_and(|next| next > due)
    });
    assert!(
        matches!(h.store.health(), StoreHealth::Failing { .. }),
        "the probe failed too"
    );

    h.faulty.reappear();
    let due = h.store.next_deadline().unwrap();
    h.store.poll(due);
    h.until("health", |h| h.store.health() == StoreHealth::Healthy);
    assert_eq!(h.store.next_deadline(), None);
    h.visit(&[1, 2, 3]);
    h.assert_at_rest();
}

#[test]
fn one_lost_shard_does_not_keep_storage_failing() {
    let mut h = harness(2);
    h.faulty.strike(&h.object(5).clone(), Fault::Fail, None);
    for _ in 0..3 {
        error_of(&mut h, 5);
    }
    assert!(
        matches!(h.store.health(), StoreHealth::Failing { .. }),
        "so far nothing else was read"
    );
    h.until("a probe of another shard", |h| {
        if let Some(due) = h.store.next_deadline() {
            h.store.poll(due);
        }
        h.store.health() == StoreHealth::Healthy
    });
    assert_eq!(error_of(&mut h, 5).kind(), LoadFailureKind::Io);
    h.assert_at_rest();
}

#[test]
fn every_key_gets_its_bytes_or_an_error_whatever_happens() {
    for seed in 0..8u64 {
        let sizes: Vec<u64> = (0..24)
            .map(|i| [SMALL, 20 << 10, 48 << 10][i % 3])
            .collect();
        let inner = Arc::new(odmoe_expert_store::MemoryReader::new(common::files(&sizes)));
        let reader = FaultyReader::new(inner, seed)
            .with_chance(Fault::Corrupt, 0.1)
            .with_chance(Fault::Short, 0.05)
            .with_chance(Fault::Fail, 0.05)
            .with_chance(Fault::Slow(Duration::from_micros(300)), 0.2);
        let backend = match seed % 2 {
            0 => common::backend::FakeBackend::unified(),
            _ => common::backend::FakeBackend::discrete(),
        };
        let mut h = Harness::over(backend, Arc::new(reader), &sizes, 20, |c| c.readers = 3);
        let (mut good, mut bad) = (0, 0);
        for round in 0..60u32 {
            let a: Vec<u32> = (0..6).map(|i| (round * 5 + i * 7) % 24).collect();
            let b: Vec<u32> = (0..3).map(|i| (round * 11 + i * 5) % 24).collect();
            let tickets = [h.acquire(&a), h.acquire_as(&b, Phase::Prefill)];
            h.hint(0, &[(round * 3) % 24, (round * 3 + 1) % 24]);
            for (ticket, asked) in tickets.into_iter().zip([a.len(), b.len()]) {
                // The harness compares bytes; pins go back as they come, or waves would never end.
                let (mut seen, mut remaining) = (0, usize::MAX);
                while remaining > 0 {
                    h.until("progress", |h| {
                        let got;
                        (got, remaining) = h.take(ticket);
                        seen += got.len();
                        good += got.values().filter(|r| r.is_ok()).count();
                        bad += got.values().filter(|r| r.is_err()).count();
                        let progress = !got.is_empty() || remaining == 0;
                        h.release(got);
                        progress
                    });
                }
                assert_eq!(seen, asked, "seed {seed}: one outcome a key");
            }
        }
        assert!(good > 100 && bad > 0, "seed {seed}: {good} good, {bad} bad");
        h.hint(0, &[]);
        h.assert_at_rest();
    }
}

#[test]
fn a_store_ends_without_waiting_for_a_read_that_hangs() {
    let mut h = harness(2);
    h.faulty.strike(&h.object(0).clone(), Fault::Hang, Some(1));
    h.acquire(&[0]);
    h.until("the read to begin", |h| h.faulty.hanging() == 1);
    let faulty = h.faulty.clone();
    drop(h);
    assert_eq!(faulty.hanging(), 1);
    faulty.release();
    // The reader writes into memory that it keeps alive, finds nobody to report to, and ends.
    while Arc::strong_count(&faulty) > 1 {
        std::thread::yield_now();
    }
}
