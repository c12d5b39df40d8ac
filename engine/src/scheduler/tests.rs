//! Rules one by one. What follows from all of them together is left to the simulation.

use super::*;
use crate::api::{ClientId, PrefixCache};
use LaneKind::{Decode, Prefill};

mod prefixes;

const ROOMY: SchedulerConfig = SchedulerConfig {
    max_running: 8,
    max_waiting: 8,
    prefill_chunk_tokens: 8,
    kv_block_tokens: 4,
    kv_blocks: 64,
    max_context_tokens: 64,
    prefix_cache: PrefixCache::Off,
};

fn new(client: u32, id: u64, prompt: Vec<u32>, max_new_tokens: u32) -> NewSequence {
    NewSequence {
        id: RequestId(id),
        client: ClientId(client),
        prompt,
        max_new_tokens,
        computes_all: false,
    }
}

/// A scheduler, the clock, and what the fake model samples: 100, 101, ...
struct Bench {
    scheduler: Scheduler,
    now: Instant,
    next_token: u32,
}

impl Bench {
    fn new(config: SchedulerConfig) -> Self {
        Self {
            scheduler: Scheduler::new(config),
            now: Instant::now(),
            next_token: 100,
        }
    }

    fn submit(&mut self, id: u64, prompt_tokens: usize, max_new_tokens: u32) {
        self.submit_of(0, id, prompt_tokens, max_new_tokens);
    }

    fn submit_of(&mut self, client: u32, id: u64, prompt_tokens: usize, max_new_tokens: u32) {
        let prompt = (0..prompt_tokens as u32).collect();
        self.submit_new(new(client, id, prompt, max_new_tokens));
    }

    fn submit_new(&mut self, new: NewSequence) {
        self.scheduler.submit(new, self.now).expect("accepted");
    }

    /// (id, first position, tokens, samples) of each span; empty for no lane.
    fn plan(&mut self, kind: LaneKind) -> Vec<(u64, usize, usize, bool)> {
        let plan = self.plan_whole(kind);
        let spans = plan.into_iter().flat_map(|plan| plan.spans);
        spans
            .map(|span| {
                (
                    span.id.0,
                    span.first_position,
                    span.tokens.len(),
                    span.samples,
                )
            })
            .collect()
    }

    fn plan_whole(&mut self, kind: LaneKind) -> Option<LanePlan> {
        let plan = self.scheduler.plan(kind, self.now);
        self.scheduler.check_invariants();
        plan
    }

    fn complete(&mut self, kind: LaneKind, samples: &[u64]) {
        let mut sampled = Vec::new();
        for &id in samples {
            sampled.push((RequestId(id), self.next_token));
            self.next_token += 1;
        }
        self.scheduler.complete(kind, &sampled, self.now);
        self.scheduler.check_invariants();
    }

    /// Plans, expects these spans, and completes.
    fn pass(&mut self, kind: LaneKind, spans: &[(u64, usize, usize, bool)]) {
        assert_eq!(self.plan(kind), spans);
        let samples: Vec<u64> = spans
            .iter()
            .filter(|span| span.3)
            .map(|span| span.0)
            .collect();
        self.complete(kind, &samples);
    }

    fn remove(&mut self, id: u64) -> Removal {
        let removal = self.scheduler.remove(RequestId(id));
        self.scheduler.check_invariants();
        removal
    }
}

#[test]
fn a_prompt_is_computed_in_chunks_and_then_decoded() {
    let mut bench = Bench::new(ROOMY);
    bench.submit(1, 18, 3);
    bench.pass(Prefill, &[(1, 0, 8, false)]);
    bench.pass(Prefill, &[(1, 8, 8, false)]);
    bench.pass(Prefill, &[(1, 16, 2, true)]);
    assert_eq!(bench.plan(Prefill), []);
    bench.pass(Decode, &[(1, 18, 1, true)]);
    let plan = bench.plan_whole(Decode).expect("a lane");
    assert_eq!(
        plan.spans[0].tokens,
        [101],
        "a decode lane feeds the token sampled last"
    );
    bench.complete(Decode, &[1]);
    assert_eq!(
        &bench.scheduler.tokens(RequestId(1))[17..],
        [17, 100, 101, 102]
    );
    assert_eq!(bench.remove(1), Removal::Freed);
    assert!(bench.scheduler.is_idle());
    assert_eq!(bench.scheduler.blocks_used(), 0);
}

#[test]
fn one_prefill_lane_packs_several_prompts_in_order() {
    let mut bench = Bench::new(ROOMY);
    bench.submit(7, 3, 1);
    bench.submit(5, 4, 1);
    bench.submit(6, 9, 1);
    bench.submit(4, 1, 1);
    let plan = bench.plan_whole(Prefill).expect("a lane");
    assert_eq!(plan.tokens(), 8);
    assert_eq!(
        plan.spans.iter().map(|span| span.id.0).collect::<Vec<_>>(),
        [7, 5, 6]
    );
    assert_eq!(
        (bench.scheduler.running(), bench.scheduler.waiting()),
        (3, 1)
    );
    bench.complete(Prefill, &[5, 7]);
    bench.remove(7);
    bench.remove(5);
    bench.pass(Prefill, &[(6, 1, 8, true)]);
    bench.remove(6);
    bench.pass(Prefill, &[(4, 0, 1, true)]);
}

#[test]
fn lanes_run_side_by_side_and_share_no_sequence() {
    let mut bench = Bench::new(ROOMY);
    bench.submit(1, 2, 9);
    bench.pass(Prefill, &[(1, 0, 2, true)]);
    bench.submit(2, 9, 9);
    assert_eq!(bench.plan(Prefill), [(2, 0, 8, false)]);
    assert_eq!(bench.plan(Prefill), [], "that lane is out");
    bench.pass(Decode, &[(1, 2, 1, true)]);
    assert_eq!(bench.plan(Decode), [(1, 3, 1, true)]);
    assert_eq!(bench.plan(Decode), [], "that lane is out");
    bench.complete(Prefill, &[]);
    bench.pass(Prefill, &[(2, 8, 1, true)]);
    bench.complete(Decode, &[1]);
    bench.pass(Decode, &[(1, 4, 1, true), (2, 9, 1, true)]);
}

#[test]
fn an_aborted_lane_is_planned_again() {
    let mut bench = Bench::new(ROOMY);
    bench.submit(1, 9, 5);
    assert_eq!(bench.plan(Prefill), [(1, 0, 8, false)]);
    bench.scheduler.abort(Prefill);
    bench.pass(Prefill, &[(1, 0, 8, false)]);
    bench.pass(Prefill, &[(1, 8, 1, true)]);
    assert_eq!(bench.plan(Decode), [(1, 9, 1, true)]);
    bench.scheduler.abort(Decode);
    bench.pass(Decode, &[(1, 9, 1, true)]);
}

#[test]
fn what_is_removed_in_a_lane_goes_when_the_lane_ends() {
    for abort in [false, true] {
        let mut bench = Bench::new(ROOMY);
        bench.submit(1, 3, 5);
        bench.submit(2, 3, 5);
        assert_eq!(bench.plan(Prefill).len(), 2);
        assert_eq!(bench.remove(1), Removal::InLane(Prefill));
        assert_eq!(
            bench.remove(1),
            Removal::InLane(Prefill),
            "a second time changes nothing"
        );
        assert!(!bench.scheduler.contains(RequestId(1)));
        assert_eq!(bench.scheduler.blocks_used(), 2);
        if abort {
            bench.scheduler.abort(Prefill);
        } else {
            bench.complete(Prefill, &[1, 2]);
        }
        bench.scheduler.check_invariants();
        assert_eq!(bench.scheduler.blocks_used(), 1);
        assert_eq!(bench.remove(1), Removal::Unknown);
        assert!(bench.scheduler.contains(RequestId(2)));
    }
}

#[test]
fn a_waiting_request_is_removed_at_once() {
    let mut bench = Bench::new(ROOMY);
    bench.submit(1, 3, 5);
    assert_eq!(bench.remove(1), Removal::Freed);
    assert_eq!(bench.remove(1), Removal::Unknown);
    assert!(bench.scheduler.is_idle());
}

#[test]
fn what_can_never_fit_is_refused_with_both_numbers() {
    let mut bench = Bench::new(SchedulerConfig {
        kv_blocks: 4,
        max_context_tokens: 100,
        ..ROOMY
    });
    let now = bench.now;
    let refused = bench.scheduler.submit(new(0, 1, vec![0; 10], 7), now);
    assert_eq!(
        refused,
        Err(SubmitError::TooLong {
            prompt: 10,
            new: 7,
            limit: 16
        })
    );
    let mut bench = Bench::new(SchedulerConfig {
        max_context_tokens: 12,
        ..ROOMY
    });
    let refused = bench.scheduler.submit(new(0, 1, vec![0; 1], u32::MAX), now);
    assert_eq!(
        refused,
        Err(SubmitError::TooLong {
            prompt: 1,
            new: u32::MAX as usize,
            limit: 12
        })
    );
    assert!(matches!(
        bench.scheduler.submit(new(0, 1, vec![], 1), now),
        Err(SubmitError::BadPrompt(_))
    ));
    assert!(matches!(
        bench.scheduler.submit(new(0, 1, vec![1], 0), now),
        Err(SubmitError::BadPrompt(_))
    ));
    assert!(bench.scheduler.is_idle());
    bench.submit(1, 11, 1);
}

#[test]
fn a_full_queue_says_so_with_both_numbers() {
    let mut bench = Bench::new(SchedulerConfig {
        max_waiting: 2,
        ..ROOMY
    });
    bench.submit(1, 1, 1);
    bench.submit(2, 1, 1);
    let now = bench.now;
    let refused = bench.scheduler.submit(new(0, 3, vec![0], 1), now);
    assert_eq!(
        refused,
        Err(SubmitError::QueueFull {
            waiting: 2,
            limit: 2
        })
    );
    bench.pass(Prefill, &[(1, 0, 1, true), (2, 0, 1, true)]);
    bench.submit(3, 1, 1);
}

#[test]
fn nobody_overtakes_a_request_that_does_not_fit_yet() {
    let mut bench = Bench::new(SchedulerConfig {
        kv_blocks: 4,
        ..ROOMY
    });
    bench.submit(1, 5, 3);
    bench.submit(2, 8, 5);
    bench.submit(3, 1, 1);
    bench.pass(Prefill, &[(1, 0, 5, true)]);
    assert_eq!(
        bench.plan(Prefill),
        [],
        "two blocks are free, request 2 needs two and a spare one"
    );
    bench.remove(1);
    bench.pass(Prefill, &[(2, 0, 8, true)]);
    bench.pass(Prefill, &[(3, 0, 1, true)]);
}

/// Runs one sequence at a time, each of one prompt token and one new one; returns the order.
fn order_of_turns(bench: &mut Bench) -> Vec<u64> {
    let mut order = Vec::new();
    while let [(id, ..)] = bench.plan(Prefill)[..] {
        bench.complete(Prefill, &[id]);
        bench.remove(id);
        order.push(id);
    }
    order
}

#[test]
fn clients_take_turns_however_much_one_of_them_asks() {
    let mut bench = Bench::new(SchedulerConfig {
        max_running: 1,
        ..ROOMY
    });
    for id in 1..=4 {
        bench.submit_of(7, id, 1, 1);
    }
    bench.submit_of(8, 5, 1, 1);
    bench.submit_of(8, 6, 1, 1);
    bench.submit_of(9, 7, 1, 1);
    assert_eq!(order_of_turns(&mut bench), [1, 5, 7, 2, 6, 3, 4]);
}

#[test]
fn a_client_that_was_away_has_saved_nothing_up() {
    let mut bench = Bench::new(SchedulerConfig {
        max_running: 1,
        ..ROOMY
    });
    for id in 1..=3 {
        bench.submit_of(7, id, 1, 1);
    }
    assert_eq!(order_of_turns(&mut bench), [1, 2, 3]);
    for id in 4..=6 {
        bench.submit_of(7, id, 1, 1);
    }
    for id in 14..=16 {
        bench.submit_of(8, id, 1, 1);
    }
    assert_eq!(order_of_turns(&mut bench), [14, 4, 15, 5, 16, 6]);
}

#[test]
fn long_prompts_and_answers_count_for_what_they_are() {
    let mut bench = Bench::new(SchedulerConfig {
        max_running: 1,
        ..ROOMY
    });
    bench.submit_of(7, 1, 8, 1);
    bench.submit_of(7, 2, 1, 1);
    for id in 3..=5 {
        bench.submit_of(8, id, 1, 1);
    }
    assert_eq!(
        order_of_turns(&mut bench),
        [1, 3, 4, 2, 5],
        "the first counts 16, each other 9"
    );
}

#[test]
fn a_request_as_large_as_the_cache_is_admitted() {
    let mut bench = Bench::new(SchedulerConfig {
        kv_blocks: 2,
        ..ROOMY
    });
    bench.submit(1, 7, 1);
    bench.pass(Prefill, &[(1, 0, 7, true)]);
    bench.remove(1);
    bench.submit(2, 5, 3);
    bench.pass(Prefill, &[(2, 0, 5, true)]);
    bench.pass(Decode, &[(2, 5, 1, true)]);
    bench.pass(Decode, &[(2, 6, 1, true)]);
}

#[test]
fn the_youngest_gives_way_and_is_computed_again() {
    let mut bench = Bench::new(SchedulerConfig {
        kv_blocks: 4,
        ..ROOMY
    });
    bench.submit(1, 3, 9);
    bench.submit(2, 4, 6);
    bench.pass(Prefill, &[(1, 0, 3, true), (2, 0, 4, true)]);
    bench.pass(Decode, &[(1, 3, 1, true), (2, 4, 1, true)]);
    for step in 0..3 {
        bench.pass(Decode, &[(1, 4 + step, 1, true), (2, 5 + step, 1, true)]);
    }
    bench.submit(3, 1, 1);
    let before = bench.scheduler.tokens(RequestId(2)).to_vec();
    // Request 1 holds positions up to 7 and all four blocks are taken: two each.
    let plan = bench.plan_whole(Decode).expect("a lane");
    assert_eq!(
        plan.preempted,
        [],
        "request 1 fits and request 2, the youngest, stays out"
    );
    assert_eq!(plan.spans.len(), 1);
    bench.complete(Decode, &[1]);
    let plan = bench.plan_whole(Decode).expect("a lane");
    assert_eq!(
        (plan.spans[0].first_position, plan.preempted.as_slice()),
        (8, [RequestId(2)].as_slice())
    );
    assert_eq!(bench.scheduler.timings(RequestId(2)).preemptions, 1);
    assert_eq!(bench.plan(Prefill), [], "request 3 waits behind request 2");
    bench.complete(Decode, &[1]);
    bench.remove(1);
    // Nine tokens, the last of which would have been fed in decode: two chunks, then decode goes on.
    bench.pass(Prefill, &[(2, 0, 8, false)]);
    bench.pass(Prefill, &[(2, 8, 1, true), (3, 0, 1, true)]);
    assert_eq!(bench.scheduler.tokens(RequestId(2))[..9], before);
    assert_eq!(bench.scheduler.tokens(RequestId(2)).len(), 10);
}

#[test]
fn what_is_in_a_lane_is_not_preempted_but_right_after() {
    let mut bench = Bench::new(SchedulerConfig {
        kv_blocks: 5,
        prefill_chunk_tokens: 4,
        ..ROOMY
    });
    bench.submit(1, 4, 16);
    bench.submit(2, 8, 3);
    bench.pass(Prefill, &[(1, 0, 4, true)]);
    assert_eq!(bench.plan(Prefill), [(2, 0, 4, false)]);
    for position in 4..12 {
        bench.pass(Decode, &[(1, position, 1, true)]);
    }
    assert_eq!(bench.scheduler.blocks_used(), 5);
    assert_eq!(
        bench.plan(Decode),
        [],
        "request 1 needs a block and request 2 is in a lane"
    );
    bench.complete(Prefill, &[]);
    assert_eq!(bench.plan(Prefill), [], "request 2 gave way first");
    let plan = bench.plan_whole(Decode).expect("a lane");
    assert_eq!(
        (plan.spans[0].first_position, plan.preempted.as_slice()),
        (12, [RequestId(2)].as_slice())
    );
}

#[test]
fn timings_are_those_of_the_first_time() {
    let mut bench = Bench::new(ROOMY);
    let start = bench.now;
    let seconds = std::time::Duration::from_secs;
    bench.submit(1, 9, 5);
    bench.now = start + seconds(1);
    assert_eq!(bench.plan(Prefill).len(), 1);
    bench.now = start + seconds(2);
    bench.complete(Prefill, &[]);
    assert_eq!(bench.scheduler.timings(RequestId(1)).first_token_at, None);
    bench.pass(Prefill, &[(1, 8, 1, true)]);
    bench.now = start + seconds(3);
    bench.pass(Decode, &[(1, 9, 1, true)]);
    let timings = bench.scheduler.timings(RequestId(1));
    assert_eq!(timings.submitted_at, start);
    assert_eq!(timings.first_planned_at, Some(start + seconds(1)));
    assert_eq!(timings.first_token_at, Some(start + seconds(2)));
}

#[test]
fn the_blocks_of_a_plan_are_copied_only_when_they_change() {
    let mut bench = Bench::new(ROOMY);
    bench.submit(1, 4, 9);
    bench.pass(Prefill, &[(1, 0, 4, true)]);
    let first = bench.plan_whole(Decode).expect("a lane");
    bench.complete(Decode, &[1]);
    let second = bench.plan_whole(Decode).expect("a lane");
    assert!(std::sync::Arc::ptr_eq(
        &first.spans[0].blocks,
        &second.spans[0].blocks
    ));
}

#[test]
#[should_panic(expected = "remove it before the next plan")]
fn a_finished_request_that_stays_is_a_bug() {
    let mut bench = Bench::new(ROOMY);
    bench.submit(1, 4, 1);
    bench.pass(Prefill, &[(1, 0, 4, true)]);
    bench.plan(Decode);
}

#[test]
#[should_panic(expected = "a span was not sampled")]
fn a_span_without_its_token_is_a_bug() {
    let mut bench = Bench::new(ROOMY);
    bench.submit(1, 4, 1);
    bench.plan(Prefill);
    bench.complete(Prefill, &[]);
}

#[test]
#[should_panic(expected = "no Decode lane is out")]
fn ending_a_lane_that_is_not_out_is_a_bug() {
    Bench::new(ROOMY).complete(Decode, &[]);
}
