//! Why lookups miss: each miss has one cause.

mod common;

use common::{Harness, key};
use odmoe_expert_store::faulty::Fault;
use odmoe_expert_store::{MissCause::*, Phase, StoreEvent};

const SMALL: u64 = 8192;

trait Causes {
    fn causes(&self) -> Vec<(u32, odmoe_expert_store::MissCause)>;
}

impl Causes for Harness {
    fn causes(&self) -> Vec<(u32, odmoe_expert_store::MissCause)> {
        let cause = |e: &StoreEvent| match e {
            StoreEvent::Missed { cause, key, .. } => Some((key.layer.0 * 8 + key.index.0, *cause)),
            _ => None,
        };
        self.events.all().iter().filter_map(cause).collect()
    }
}

#[test]
fn the_first_use_is_cold_and_the_next_is_capacity_s_fault() {
    let mut h = Harness::new(&[SMALL; 8], 2, |_| {});
    for index in [0, 1, 2, 0, 0] {
        h.visit(&[index]);
    }
    assert_eq!(
        h.causes(),
        [(0, Cold), (1, Cold), (2, Cold), (0, Capacity)],
        "and a hit has none"
    );
}

#[test]
fn what_could_have_stayed_left_early() {
    // Prefill may not take what decode uses, so it evicts its own although all four would fit.
    let mut h = Harness::new(&[SMALL; 8], 4, |_| {});
    h.visit(&[0, 1]);
    for index in [2, 3, 4, 2] {
        let ticket = h.acquire_as(&[index], Phase::Prefill);
        let got = h.finish(ticket);
        h.release(got);
    }
    assert_eq!(h.causes().last(), Some(&(2, EvictedEarly)));
}

#[test]
fn a_prefetch_that_left_before_its_use_left_early() {
    let mut h = Harness::new(&[SMALL; 16], 4, |_| {});
    h.hint(0, &[9]);
    h.settle();
    h.hint(0, &[]);
    h.visit(&[0, 1, 2, 3]);
    assert_eq!(h.events.prefetches(), [1, 0, 1]);
    h.visit(&[9]);
    assert_eq!(h.causes().last(), Some(&(9, EvictedEarly)));
}

#[test]
fn a_prefetch_under_way_is_late_for_all_who_come() {
    let mut h = Harness::new(&[SMALL; 8], 4, |_| {});
    h.faulty.strike(&h.object(0).clone(), Fault::Hang, Some(1));
    h.faulty.strike(&h.object(1).clone(), Fault::Hang, Some(1));
    h.hint(0, &[0]);
    h.until("the read to begin", |h| h.faulty.hanging() == 1);
    let tickets = [h.acquire(&[0]), h.acquire_as(&[0, 1], Phase::Prefill)];
    h.until("the other read to begin", |h| h.faulty.hanging() == 2);
    let third = h.acquire(&[1]);
    h.faulty.release();
    for ticket in tickets.into_iter().chain([third]) {
        let got = h.finish(ticket);
        h.release(got);
    }
    // The last one joined the read of the second, which was cold.
    let expected = [(0, ArrivedLate), (0, ArrivedLate), (1, Cold), (1, Cold)];
    assert_eq!(h.causes(), expected);
}

#[test]
fn what_could_not_be_read_stays_cold() {
    let mut h = Harness::new(&[SMALL; 8], 4, |_| {});
    h.faulty.strike(&h.object(0).clone(), Fault::Fail, Some(1));
    let ticket = h.acquire(&[0]);
    assert!(h.finish(ticket)[&0].is_err());
    h.visit(&[0]);
    assert_eq!(h.causes(), [(0, Cold), (0, Cold)]);
    assert_eq!(
        h.events
            .count(|e| matches!(e, StoreEvent::Missed { key: k, .. } if *k == key(0))),
        2
    );
}
