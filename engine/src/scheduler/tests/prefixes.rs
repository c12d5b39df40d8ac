//! What is remembered, for whom, and what it spares.

use super::*;

fn remembering(config: SchedulerConfig) -> Bench {
    Bench::new(SchedulerConfig {
        prefix_cache: PrefixCache::PerClient,
        ..config
    })
}

/// A text of `tokens` tokens that is the same as other texts up to `fork`.
fn text(tokens: u32, fork: u32, end: u32) -> Vec<u32> {
    (0..tokens)
        .map(|i| if i < fork { i } else { 1000 * end + i })
        .collect()
}

/// One request of one new token, from its submission to its end; returns the position where it began.
fn ask(bench: &mut Bench, request: NewSequence) -> usize {
    let id = request.id.0;
    bench.submit_new(request);
    let mut first = None;
    loop {
        let spans = bench.plan(Prefill);
        let [(_, position, _, samples)] = spans[..] else {
            panic!("{spans:?}");
        };
        first.get_or_insert(position);
        let sampled = samples.then_some(id);
        bench.complete(Prefill, sampled.as_slice());
        if samples {
            break;
        }
    }
    let cached = bench.scheduler.timings(RequestId(id)).cached_tokens;
    assert_eq!(first, Some(cached), "told is what was spared");
    bench.remove(id);
    cached
}

#[test]
fn a_prompt_that_begins_alike_begins_where_it_differs() {
    let mut bench = remembering(ROOMY);
    assert_eq!(ask(&mut bench, new(0, 1, text(18, 18, 0), 1)), 0);
    assert_eq!(bench.scheduler.blocks_used(), 0);
    assert_eq!(bench.scheduler.blocks_remembered(), 4);
    assert_eq!(
        ask(&mut bench, new(0, 2, text(30, 14, 1), 1)),
        12,
        "three blocks of four agree wholly"
    );
    assert_eq!(ask(&mut bench, new(0, 3, text(18, 18, 0), 1)), 16);
    assert_eq!(ask(&mut bench, new(0, 4, text(30, 14, 1), 1)), 28);
    assert_eq!(ask(&mut bench, new(0, 5, text(30, 14, 2), 1)), 12);
}

#[test]
fn the_last_token_of_a_prompt_is_always_computed() {
    let mut bench = remembering(ROOMY);
    ask(&mut bench, new(0, 1, text(16, 16, 0), 1));
    assert_eq!(ask(&mut bench, new(0, 2, text(16, 16, 0), 1)), 12);
    assert_eq!(ask(&mut bench, new(0, 3, text(17, 17, 0), 1)), 16);
}

#[test]
fn answers_are_remembered_with_their_prompts() {
    let mut bench = remembering(ROOMY);
    bench.submit_new(new(0, 1, text(6, 6, 0), 4));
    bench.pass(Prefill, &[(1, 0, 6, true)]);
    for position in 6..9 {
        bench.pass(Decode, &[(1, position, 1, true)]);
    }
    let mut turns = bench.scheduler.tokens(RequestId(1)).to_vec();
    bench.remove(1);
    turns.extend([7, 7, 7]);
    assert_eq!(
        ask(&mut bench, new(0, 2, turns, 1)),
        8,
        "the answer's last token was never computed"
    );
}

#[test]
fn what_runs_is_shared_and_held_once() {
    let mut bench = remembering(ROOMY);
    bench.submit_new(new(0, 1, text(8, 8, 0), 9));
    bench.pass(Prefill, &[(1, 0, 8, true)]);
    assert_eq!(bench.scheduler.blocks_used(), 2);
    bench.submit_new(new(0, 2, text(10, 8, 1), 9));
    bench.pass(Prefill, &[(2, 8, 2, true)]);
    assert_eq!(bench.scheduler.blocks_used(), 4, "two, and one of each");
    bench.remove(1);
    assert_eq!(bench.scheduler.blocks_used(), 3);
    bench.pass(Decode, &[(2, 10, 1, true)]);
}

#[test]
fn two_alike_in_one_lane_end_up_sharing() {
    let mut bench = remembering(ROOMY);
    bench.submit_new(new(0, 1, text(4, 4, 0), 9));
    bench.submit_new(new(0, 2, text(4, 4, 0), 9));
    bench.pass(Prefill, &[(1, 0, 4, true), (2, 0, 4, true)]);
    assert_eq!(bench.scheduler.blocks_used(), 1);
    let plan = bench.plan_whole(Decode).expect("a lane");
    let [first, second] = &plan.spans[..] else {
        panic!("{plan:?}")
    };
    assert_eq!(first.blocks[0], second.blocks[0]);
    assert_ne!(first.blocks[1], second.blocks[1]);
}

#[test]
fn clients_do_not_find_each_others_prompts_unless_they_share() {
    for (cache, found) in [
        (PrefixCache::Off, [0, 0]),
        (PrefixCache::PerClient, [0, 8]),
        (PrefixCache::Shared, [8, 8]),
    ] {
        let mut bench = Bench::new(SchedulerConfig {
            prefix_cache: cache,
            ..ROOMY
        });
        ask(&mut bench, new(1, 1, text(9, 9, 0), 1));
        let others = ask(&mut bench, new(2, 2, text(9, 9, 0), 1));
        let own = ask(&mut bench, new(1, 3, text(9, 9, 0), 1));
        assert_eq!([others, own], found, "{cache:?}");
    }
}

#[test]
fn what_must_be_computed_whole_is_and_is_remembered() {
    let mut bench = remembering(ROOMY);
    let whole = |id| NewSequence {
        computes_all: true,
        ..new(0, id, text(9, 9, 0), 1)
    };
    assert_eq!(ask(&mut bench, whole(1)), 0);
    assert_eq!(ask(&mut bench, whole(2)), 0);
    assert_eq!(ask(&mut bench, new(0, 3, text(9, 9, 0), 1)), 8);
}

#[test]
fn what_is_needed_is_taken_from_what_was_used_longest_ago() {
    let mut bench = remembering(SchedulerConfig {
        kv_blocks: 6,
        ..ROOMY
    });
    ask(&mut bench, new(0, 1, text(9, 0, 1), 1));
    ask(&mut bench, new(0, 2, text(9, 0, 2), 1));
    ask(&mut bench, new(0, 3, text(9, 0, 1), 1));
    assert_eq!(bench.scheduler.blocks_remembered(), 4);
    // Two blank blocks, and one of those of text 2: its end.
    ask(&mut bench, new(0, 4, text(9, 0, 3), 1));
    assert_eq!(ask(&mut bench, new(0, 5, text(9, 0, 1), 1)), 8);
    assert_eq!(ask(&mut bench, new(0, 6, text(9, 0, 2), 1)), 4);
}

#[test]
fn a_prefix_that_others_hold_needs_no_free_blocks() {
    let mut bench = remembering(SchedulerConfig {
        kv_blocks: 5,
        ..ROOMY
    });
    bench.submit_new(new(0, 1, text(12, 12, 0), 2));
    bench.pass(Prefill, &[(1, 0, 8, false)]);
    bench.pass(Prefill, &[(1, 8, 4, true)]);
    // Four blocks hold all that request 2 can ever have, and request 1 takes its fourth: one is free.
    bench.submit_new(new(0, 2, text(13, 12, 1), 2));
    bench.pass(Prefill, &[(2, 12, 1, true)]);
    assert_eq!(bench.scheduler.blocks_used(), 5);
}

#[test]
fn who_is_preempted_finds_what_is_left_when_it_comes_back() {
    let mut bench = remembering(SchedulerConfig {
        kv_blocks: 4,
        ..ROOMY
    });
    bench.submit_new(new(0, 1, text(3, 0, 1), 8));
    bench.submit_new(new(0, 2, text(5, 0, 2), 6));
    bench.pass(Prefill, &[(1, 0, 3, true), (2, 0, 5, true)]);
    for step in 0..3 {
        bench.pass(Decode, &[(1, 3 + step, 1, true), (2, 5 + step, 1, true)]);
    }
    bench.pass(Decode, &[(1, 6, 1, true)]);
    bench.pass(Decode, &[(1, 7, 1, true)]);
    let plan = bench.plan_whole(Decode).expect("a lane");
    assert_eq!(plan.preempted, [RequestId(2)], "request 1 takes its end");
    bench.complete(Decode, &[1]);
    bench.remove(1);
    let plan = bench.plan_whole(Prefill).expect("a lane");
    let found = plan.spans[0].first_position;
    assert_eq!(found, 4, "its beginning is still there");
    assert_eq!(plan.lookups, PrefixLookups::default(), "counted once");
    bench.complete(Prefill, &[2]);
    assert_eq!(bench.scheduler.timings(RequestId(2)).cached_tokens, 0);
}

#[test]
fn lookups_are_told_with_the_next_plan() {
    let mut bench = remembering(ROOMY);
    ask(&mut bench, new(0, 1, text(9, 9, 0), 1));
    bench.submit_new(new(0, 2, text(9, 9, 0), 1));
    bench.submit_new(new(0, 3, text(4, 0, 1), 1));
    let plan = bench.plan_whole(Prefill).expect("a lane");
    let told = PrefixLookups {
        queried: 13,
        found: 8,
    };
    assert_eq!(plan.lookups, told);
}

#[test]
fn found_tokens_do_not_count_against_a_client() {
    let mut bench = remembering(SchedulerConfig {
        max_running: 1,
        ..ROOMY
    });
    ask(&mut bench, new(7, 1, text(40, 40, 0), 1));
    ask(&mut bench, new(8, 2, text(48, 0, 1), 1));
    // Client 7 has had 48 and client 8 56; each turn below counts 11 or, as 36 tokens are found, 12.
    for id in [3, 4] {
        bench.submit_new(new(7, id, text(40, 40, 0), 1));
    }
    for id in [5, 6] {
        bench.submit_new(new(8, id, text(3, 0, id as u32), 1));
    }
    assert_eq!(order_of_turns(&mut bench), [3, 5, 4, 6]);
}
