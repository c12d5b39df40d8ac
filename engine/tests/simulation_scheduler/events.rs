//! What can happen to a scheduler, at random.

use crate::checks::{Live, Prefix, Text};
use crate::random::{Random, mix};
use crate::reached::Reached;
use odmoe_engine::scheduler::{
    LaneKind, LanePlan, NewSequence, Removal, Scheduler, SchedulerConfig,
};
use odmoe_engine::{ClientId, PrefixCache, RequestId, SubmitError};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const STEPS: usize = 1500;
const LANES: [LaneKind; 2] = [LaneKind::Prefill, LaneKind::Decode];

pub struct Simulation<'a> {
    pub random: Random,
    pub config: SchedulerConfig,
    pub scheduler: Scheduler,
    pub now: Instant,
    pub next_id: u64,
    pub kv_target: usize,
    /// By id, which is the order of submission.
    pub live: BTreeMap<RequestId, Live>,
    pub out: BTreeMap<LaneKind, LanePlan>,
    /// By slot (block * block_tokens + offset): what was written last.
    pub cache: Vec<Prefix>,
    /// Of each client.
    pub last_first_planned: BTreeMap<ClientId, RequestId>,
    pub reached: &'a mut Reached,
}

impl<'a> Simulation<'a> {
    pub fn new(seed: u64, reached: &'a mut Reached) -> Self {
        let mut random = Random(mix(seed));
        let config = SchedulerConfig {
            max_running: random.within(1, 8),
            max_waiting: random.within(1, 6),
            prefill_chunk_tokens: random.within(1, 12),
            kv_block_tokens: random.within(1, 5),
            kv_blocks: random.within(1, 16),
            max_context_tokens: random.within(2, 40),
            prefix_cache: match random.below(4) {
                0 => PrefixCache::Off,
                1 => PrefixCache::Shared,
                _ => PrefixCache::PerClient,
            },
        };
        Self {
            random,
            config,
            scheduler: Scheduler::new(config),
            now: Instant::now(),
            next_id: 0,
            kv_target: config.kv_blocks,
            live: BTreeMap::new(),
            out: BTreeMap::new(),
            cache: vec![0; config.kv_blocks * config.kv_block_tokens],
            last_first_planned: BTreeMap::new(),
            reached,
        }
    }

    pub fn episode(&mut self) {
        // Each episode has its own mixture of events; some never happen in it.
        let mut weights: [usize; 7] = std::array::from_fn(|_| self.random.below(10));
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
            6 if self.random.below(4) == 0 => self.change_kv(),
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
        let blocks = self.scheduler.kv_blocks();
        assert!(blocks >= self.kv_target && blocks <= self.config.kv_blocks);
        assert!(self.scheduler.kv_bound() >= blocks);
        if self.live.is_empty() {
            let bound = self.scheduler.kv_bound();
            assert_eq!((blocks, bound), (self.kv_target, self.kv_target));
        }
    }

    /// The KV cache gives blocks up, or gets some back.
    fn change_kv(&mut self) {
        self.kv_target = self.random.within(1, self.config.kv_blocks);
        self.scheduler.set_kv_blocks(self.kv_target);
        self.reached.kv_changed += 1;
        self.reached.kv_held_back += u64::from(self.scheduler.kv_blocks() > self.kv_target);
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
        let text = Text {
            id,
            story: self.random.below(3) as u64,
            fork: self.random.below(2) * self.random.below(limit + 1),
        };
        let waiting = self.scheduler.waiting();
        let client = ClientId(self.random.below(3) as u32);
        let computes_all = self.random.below(8) == 0;
        let new = NewSequence {
            id,
            client,
            prompt: (0..prompt_tokens).map(|i| text.token_at(i)).collect(),
            max_new_tokens: max_new_tokens as u32,
            computes_all,
        };
        match self.scheduler.submit(new, self.now) {
            Ok(()) => {
                assert!(
                    prompt_tokens + max_new_tokens <= limit && waiting < self.config.max_waiting
                );
                let live = Live {
                    client,
                    text,
                    prefixes: self.prefixes(text, client, limit),
                    computes_all,
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
        let remembered_before = self.scheduler.blocks_remembered();
        let Some(plan) = self.scheduler.plan(kind, self.now) else {
            return;
        };
        assert!(!was_out, "a second {kind:?} lane");
        assert!(plan.kind == kind && !plan.spans.is_empty());
        for id in &plan.preempted {
            self.note_preempted(*id);
        }
        let (used, remembered) = (
            self.scheduler.blocks_used(),
            self.scheduler.blocks_remembered(),
        );
        assert!(used + remembered <= self.config.kv_blocks);
        self.reached.forgotten += u64::from(remembered < remembered_before);
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
                sampled.push((span.id, live.text.token_at(live.tokens)));
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
