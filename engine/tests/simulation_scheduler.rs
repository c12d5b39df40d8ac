//! Millions of seeded steps of the scheduler: requests, cancellations, lanes that end in any order, lanes that are
//! dropped, tiny caches. A shadow of the KV cache checks that every position of every sequence is computed with the
//! right token, in blocks that nobody else writes while they matter.
//!
//! `ODMOE_SIMULATION_SEED=n` runs episode n alone.

use odmoe_engine::scheduler::{LaneKind, LanePlan, LaneSpan, Removal, Scheduler, SchedulerConfig};
use odmoe_engine::{RequestId, SubmitError};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const EPISODES: u64 = 4000;
const STEPS: usize = 1500;
const LANES: [LaneKind; 2] = [LaneKind::Prefill, LaneKind::Decode];

/// SplitMix64 (Steele, Lea, Flood 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn within(&mut self, first: usize, last: usize) -> usize {
        first + self.below(last - first + 1)
    }
}

fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// The one token that belongs at a position of a request, prompt and answer alike.
fn token_at(id: RequestId, position: usize) -> u32 {
    mix(id.0 << 32 | position as u64) as u32
}

/// What the simulation knows of a request that lives.
struct Live {
    prompt_tokens: usize,
    max_new_tokens: usize,
    tokens: usize,
    /// Positions in the cache. None while it waits, as far as plans have told.
    computed: Option<usize>,
    lane: Option<LaneKind>,
    planned: bool,
    /// Sampled since it was last (re)computed.
    decodes: bool,
    removed: bool,
    preemptions: u32,
}

/// How often something happened, over all episodes: a simulation that never gets there shows nothing.
#[derive(Default, Debug)]
struct Reached {
    steps: u64,
    finished: u64,
    preempted: u64,
    preempted_in_prefill: u64,
    recomputed: u64,
    stalled: u64,
    aborted: u64,
    removed_waiting: u64,
    removed_idle: u64,
    removed_in_lane: u64,
    too_long: u64,
    queue_full: u64,
    packed: u64,
    both_out: u64,
}

struct Simulation<'a> {
    random: Random,
    config: SchedulerConfig,
    scheduler: Scheduler,
    now: Instant,
    next_id: u64,
    /// By id, which is the order of submission.
    live: BTreeMap<RequestId, Live>,
    out: BTreeMap<LaneKind, LanePlan>,
    /// By slot (block * block_tokens + offset): which position of which request was written last, and its token.
    cache: Vec<Option<(RequestId, usize, u32)>>,
    last_first_planned: Option<RequestId>,
    reached: &'a mut Reached,
}

impl<'a> Simulation<'a> {
    fn new(seed: u64, reached: &'a mut Reached) -> Self {
        let mut random = Random(mix(seed));
        let config = SchedulerConfig {
            max_running: random.within(1, 8),
            max_waiting: random.within(1, 6),
            prefill_chunk_tokens: random.within(1, 12),
            kv_block_tokens: random.within(1, 5),
            kv_blocks: random.within(1, 16),
            max_context_tokens: random.within(2, 40),
        };
        Self {
            random,
            config,
            scheduler: Scheduler::new(config),
            now: Instant::now(),
            next_id: 0,
            live: BTreeMap::new(),
            out: BTreeMap::new(),
            cache: vec![None; config.kv_blocks * config.kv_block_tokens],
            last_first_planned: None,
            reached,
        }
    }

    fn episode(&mut self) {
        // Each episode has its own mixture of events; some never happen in it.
        let mut weights: [usize; 6] = std::array::from_fn(|_| self.random.below(10));
        weights[1] += 5;
        weights[2] += 5;
        for weight in &mut weights[3..] {
            *weight *= self.random.below(2);
        }
        weights[0] += 1;
        let all: usize = weights.iter().sum();
        for _ in 0..STEPS {
            let mut dice = self.random.below(all);
            let mut event = 0;
            while dice >= weights[event] {
                dice -= weights[event];
                event += 1;
            }
            self.step(event);
        }
        self.drain();
    }

    fn step(&mut self, event: usize) {
        self.now += Duration::from_millis(1);
        let kind = LANES[self.random.below(2)];
        match event {
            0 => self.submit(),
            1 => self.plan(kind),
            2 => self.complete(kind),
            3 => self.remove_any(),
            // Rarer, or nothing would ever end.
            4 if self.random.below(4) == 0 => self.abort(kind),
            5 if self.random.below(4) == 0 => self.fail_lane(kind),
            _ => self.complete(kind),
        }
        self.check();
    }

    fn check(&mut self) {
        self.reached.steps += 1;
        self.scheduler.check_invariants();
        assert_eq!(self.scheduler.is_idle(), self.live.is_empty());
        assert_eq!(
            self.scheduler.running() + self.scheduler.waiting(),
            self.live.len()
        );
        self.reached.both_out += u64::from(self.out.len() == 2);
    }

    fn submit(&mut self) {
        let id = RequestId(self.next_id);
        self.next_id += 1;
        let limit = self.config.longest_sequence_tokens();
        // Rather a short prompt and a long answer: then sequences outgrow what they were admitted with.
        let longest_prompt = self.random.within(1, limit);
        let prompt_tokens = self.random.within(1, longest_prompt);
        // Now and then one too many.
        let most_new_tokens = (limit - prompt_tokens).max(1) + self.random.below(2);
        let max_new_tokens = self.random.within(1, most_new_tokens);
        let prompt = (0..prompt_tokens)
            .map(|position| token_at(id, position))
            .collect();
        let waiting = self.scheduler.waiting();
        match self
            .scheduler
            .submit(id, prompt, max_new_tokens as u32, self.now)
        {
            Ok(()) => {
                assert!(
                    prompt_tokens + max_new_tokens <= limit && waiting < self.config.max_waiting
                );
                let live = Live {
                    prompt_tokens,
                    max_new_tokens,
                    tokens: prompt_tokens,
                    computed: None,
                    lane: None,
                    planned: false,
                    decodes: false,
                    removed: false,
                    preemptions: 0,
                };
                self.live.insert(id, live);
            }
            Err(SubmitError::TooLong {
                prompt,
                new,
                limit: told,
            }) => {
                assert_eq!((prompt, new, told), (prompt_tokens, max_new_tokens, limit));
                assert!(prompt + new > limit);
                self.reached.too_long += 1;
            }
            Err(SubmitError::QueueFull {
                waiting: told,
                limit,
            }) => {
                assert_eq!((told, limit), (waiting, self.config.max_waiting));
                assert!(waiting >= limit);
                self.reached.queue_full += 1;
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn plan(&mut self, kind: LaneKind) {
        let was_out = self.out.contains_key(&kind);
        let Some(plan) = self.scheduler.plan(kind, self.now) else {
            return;
        };
        assert!(!was_out, "a second {kind:?} lane");
        assert!(plan.kind == kind && !plan.spans.is_empty());
        for id in &plan.preempted {
            self.note_preempted(*id);
        }
        for span in &plan.spans {
            self.enter(kind, span);
        }
        assert!(plan.spans.is_sorted_by_key(|span| span.id), "not by age");
        match kind {
            LaneKind::Prefill => {
                assert!(plan.tokens() <= self.config.prefill_chunk_tokens);
                self.reached.packed += u64::from(plan.spans.len() > 1);
            }
            LaneKind::Decode => self.check_nobody_is_left_out(),
        }
        // A lane writes at any time from here to its end: now, and again then.
        self.write(&plan.spans);
        self.out.insert(kind, plan);
    }

    fn note_preempted(&mut self, id: RequestId) {
        self.reached.preempted += 1;
        // It may have been removed since.
        if let Some(live) = self.live.get_mut(&id) {
            assert!(
                live.lane.is_none() && !live.removed,
                "{id:?} was preempted in a lane"
            );
            self.reached.preempted_in_prefill += u64::from(!live.decodes);
            live.computed = None;
            live.decodes = false;
            live.preemptions += 1;
        }
    }

    fn enter(&mut self, kind: LaneKind, span: &LaneSpan) {
        let id = span.id;
        let live = self.live.get_mut(&id).expect("planned after its end");
        assert!(
            !live.removed && live.lane.is_none(),
            "{id:?} is in two lanes or was removed"
        );
        let computed = *live.computed.get_or_insert(0);
        assert_eq!(
            span.first_position, computed,
            "{id:?} skips or repeats positions"
        );
        let end = computed + span.tokens.len();
        assert!(end > computed && end <= live.tokens);
        for (position, &token) in (computed..).zip(&span.tokens) {
            assert_eq!(
                token,
                token_at(id, position),
                "{id:?} has a wrong token at {position}"
            );
        }
        assert_eq!(span.samples, end == live.tokens);
        assert_eq!(span.sample_position(), end);
        assert_eq!(
            live.decodes,
            kind == LaneKind::Decode,
            "{id:?} is in the wrong kind of lane"
        );
        assert!(kind == LaneKind::Prefill || span.tokens.len() == 1 && span.samples);
        if kind == LaneKind::Prefill && live.tokens > live.prompt_tokens && span.samples {
            self.reached.recomputed += 1;
        }
        live.lane = Some(kind);
        if !std::mem::replace(&mut live.planned, true) {
            assert!(self.last_first_planned < Some(id), "{id:?} was overtaken");
            self.last_first_planned = Some(id);
        }
    }

    /// Whoever could decode and is not in the decode lane lacks a block.
    fn check_nobody_is_left_out(&mut self) {
        for (id, live) in &self.live {
            if let Some(computed) = live.computed
                && live.lane.is_none()
                && live.decodes
            {
                assert_eq!(
                    computed % self.config.kv_block_tokens,
                    0,
                    "{id:?} had room and was left out"
                );
                assert_eq!(
                    self.scheduler.blocks_used(),
                    self.config.kv_blocks,
                    "{id:?} was left out"
                );
                self.reached.stalled += 1;
            }
        }
    }

    fn write(&mut self, spans: &[LaneSpan]) {
        for span in spans {
            for (i, place) in span.kv_positions(self.config.kv_block_tokens).enumerate() {
                let slot =
                    place.block as usize * self.config.kv_block_tokens + place.offset as usize;
                self.cache[slot] = Some((span.id, span.first_position + i, span.tokens[i]));
            }
        }
    }

    /// Attention of the span's last token sees every position up to it, as it was written.
    fn check_cache(&self, span: &LaneSpan) {
        let block_tokens = self.config.kv_block_tokens;
        for position in 0..span.sample_position() {
            let slot = span.blocks[position / block_tokens] as usize * block_tokens
                + position % block_tokens;
            let expected = Some((span.id, position, token_at(span.id, position)));
            assert_eq!(
                self.cache[slot], expected,
                "position {position} of {:?}",
                span.id
            );
        }
    }

    fn complete(&mut self, kind: LaneKind) {
        let Some(plan) = self.out.remove(&kind) else {
            return;
        };
        self.write(&plan.spans);
        let mut sampled = Vec::new();
        let mut ended = Vec::new();
        for span in &plan.spans {
            self.check_cache(span);
            let live = self
                .live
                .get_mut(&span.id)
                .expect("stays until its lane ends");
            live.lane = None;
            live.computed = Some(span.sample_position());
            if span.samples && (!live.removed || self.random.below(2) == 0) {
                sampled.push((span.id, token_at(span.id, live.tokens)));
            }
            if live.removed {
                self.live.remove(&span.id);
            } else if span.samples {
                live.tokens += 1;
                live.decodes = true;
                if live.tokens == live.prompt_tokens + live.max_new_tokens
                    || self.random.below(64) == 0
                {
                    ended.push(span.id);
                }
            }
        }
        if self.random.below(2) == 0 {
            sampled.reverse();
        }
        self.scheduler.complete(kind, &sampled, self.now);
        for id in ended {
            self.check_tokens(id);
            assert_eq!(self.scheduler.remove(id), Removal::Freed);
            self.live.remove(&id);
            self.reached.finished += 1;
        }
    }

    fn check_tokens(&self, id: RequestId) {
        let tokens = self.scheduler.tokens(id);
        let live = &self.live[&id];
        assert_eq!(tokens.len(), live.tokens);
        assert!(
            (0..)
                .zip(tokens)
                .all(|(position, &token)| token == token_at(id, position))
        );
        let told = self.scheduler.timings(id).preemptions;
        assert_eq!(
            told, live.preemptions,
            "{id:?} was preempted and no plan told"
        );
    }

    fn abort(&mut self, kind: LaneKind) {
        let Some(plan) = self.out.remove(&kind) else {
            return;
        };
        self.scheduler.abort(kind);
        self.reached.aborted += 1;
        for span in &plan.spans {
            let live = self
                .live
                .get_mut(&span.id)
                .expect("stays until its lane ends");
            live.lane = None;
            if live.removed {
                self.live.remove(&span.id);
            }
        }
    }

    /// All sequences of a lane fail, as when an expert that they need is gone.
    fn fail_lane(&mut self, kind: LaneKind) {
        let spans = self.out.get(&kind).into_iter().flat_map(|plan| &plan.spans);
        let ids: Vec<RequestId> = spans.map(|span| span.id).collect();
        for id in ids {
            self.remove(id);
        }
        self.abort(kind);
    }

    fn remove_any(&mut self) {
        if self.random.below(4) == 0 {
            assert_eq!(
                self.scheduler.remove(RequestId(self.next_id)),
                Removal::Unknown
            );
        }
        if self.random.below(4) == 0 && !self.live.is_empty() {
            let nth = self.random.below(self.live.len());
            let id = *self.live.keys().nth(nth).expect("less than their number");
            self.remove(id);
        }
    }

    fn remove(&mut self, id: RequestId) {
        let used = self.scheduler.blocks_used();
        let removal = self.scheduler.remove(id);
        assert!(!self.scheduler.contains(id));
        let live = self.live.get_mut(&id).expect("chosen among the living");
        match live.lane {
            Some(kind) => {
                assert_eq!(removal, Removal::InLane(kind));
                assert_eq!(self.scheduler.blocks_used(), used, "freed under a lane");
                live.removed = true;
                self.reached.removed_in_lane += 1;
            }
            None => {
                assert_eq!(removal, Removal::Freed);
                if self.scheduler.blocks_used() < used {
                    self.reached.removed_idle += 1;
                } else {
                    self.reached.removed_waiting += 1;
                }
                self.live.remove(&id);
            }
        }
    }

    /// No lane is out. The oldest that runs must be planned, or somebody if none does.
    fn check_the_oldest_advances(&mut self) {
        let oldest = self
            .live
            .iter()
            .find(|(_, live)| live.computed.is_some())
            .map(|(&id, _)| id);
        for kind in LANES {
            self.plan(kind);
            self.check();
        }
        let planned = self
            .out
            .values()
            .flat_map(|plan| &plan.spans)
            .map(|span| span.id)
            .min();
        assert!(
            planned.is_some(),
            "nothing is planned for {} requests",
            self.live.len()
        );
        assert!(
            oldest.is_none_or(|oldest| planned <= Some(oldest)),
            "{oldest:?} does not advance"
        );
    }

    /// Nobody comes any more: everybody ends, in a bounded number of passes.
    fn drain(&mut self) {
        for kind in LANES {
            self.complete(kind);
            self.check();
        }
        let tokens: usize = self
            .live
            .values()
            .map(|live| live.prompt_tokens + live.max_new_tokens)
            .sum();
        // Each pass advances the oldest that runs, and nothing that it has computed is lost.
        let most_passes = 2 * tokens;
        let mut passes = 0;
        while !self.live.is_empty() {
            self.check_the_oldest_advances();
            let first = self.random.below(2);
            for kind in [LANES[first], LANES[1 - first]] {
                self.complete(kind);
                self.check();
            }
            passes += 1;
            assert!(
                passes <= most_passes,
                "{} requests do not end",
                self.live.len()
            );
        }
        assert!(self.scheduler.is_idle());
        let rest = (
            self.scheduler.blocks_used(),
            self.scheduler.running(),
            self.scheduler.waiting(),
        );
        assert_eq!(rest, (0, 0, 0));
    }
}

/// Says which episode failed.
struct SeedOnPanic(u64);

impl Drop for SeedOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "the scheduler's simulation failed: ODMOE_SIMULATION_SEED={}",
                self.0
            );
        }
    }
}

#[test]
fn a_million_steps() {
    let chosen = std::env::var("ODMOE_SIMULATION_SEED").ok();
    let chosen = chosen.map(|seed| {
        seed.parse::<u64>()
            .expect("ODMOE_SIMULATION_SEED is a number")
    });
    let seeds = chosen.map_or(0..EPISODES, |seed| seed..seed + 1);
    let mut reached = Reached::default();
    for seed in seeds {
        let _guard = SeedOnPanic(seed);
        Simulation::new(seed, &mut reached).episode();
    }
    println!("{reached:?}");
    if chosen.is_none() {
        reached.check();
    }
}

impl Reached {
    /// That everything the simulation is for happened, and often.
    fn check(&self) {
        assert!(self.steps >= 1_000_000, "{self:?}");
        let often = [
            self.finished,
            self.preempted,
            self.preempted_in_prefill,
            self.recomputed,
            self.stalled,
            self.aborted,
            self.removed_waiting,
            self.removed_idle,
            self.removed_in_lane,
            self.too_long,
            self.queue_full,
            self.packed,
            self.both_out,
        ];
        assert!(often.iter().all(|&times| times >= 1000), "{self:?}");
    }
}
