//! What every plan must be, told by a shadow that shares nothing with the scheduler.

use crate::events::Simulation;
use crate::random::mix;
use odmoe_engine::scheduler::{LaneKind, LaneSpan};
use odmoe_engine::{ClientId, PrefixCache, RequestId};

/// The text that a request reads and writes: tokens of a story that others tell too, then its own.
#[derive(Clone, Copy)]
pub struct Text {
    pub id: RequestId,
    pub story: u64,
    /// The first position that is its own.
    pub fork: usize,
}

impl Text {
    /// The one token that belongs at a position, prompt and answer alike.
    pub fn token_at(&self, position: usize) -> u32 {
        let author = if position < self.fork {
            u64::MAX - self.story
        } else {
            self.id.0
        };
        mix(author << 32 ^ position as u64) as u32
    }
}

/// What a position of the cache holds: all tokens up to it, in order, and who may see them.
pub type Prefix = u64;

/// What the simulation knows of a request that lives.
pub struct Live {
    pub client: ClientId,
    pub text: Text,
    /// By position, prompt and answer.
    pub prefixes: Vec<Prefix>,
    pub computes_all: bool,
    pub prompt_tokens: usize,
    pub max_new_tokens: usize,
    pub tokens: usize,
    /// Positions in the cache. None while it waits, as far as plans have told.
    pub computed: Option<usize>,
    pub lane: Option<LaneKind>,
    pub planned: bool,
    /// Sampled since it was last (re)computed.
    pub decodes: bool,
    pub removed: bool,
    pub preemptions: u32,
}

impl Simulation<'_> {
    pub fn note_preempted(&mut self, id: RequestId) {
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

    pub fn enter(&mut self, kind: LaneKind, span: &LaneSpan) {
        let id = span.id;
        let live = self.live.get_mut(&id).expect("planned after its end");
        assert!(
            !live.removed && live.lane.is_none(),
            "{id:?} is in two lanes or was removed"
        );
        let begins = live.computed.is_none();
        let computed = *live.computed.get_or_insert(span.first_position);
        assert_eq!(
            span.first_position, computed,
            "{id:?} skips or repeats positions"
        );
        if begins && computed > 0 {
            assert!(!live.computes_all, "{id:?} is not computed whole");
            assert_eq!(computed % self.config.kv_block_tokens, 0);
            self.reached.found += 1;
            self.reached.found_again += u64::from(live.preemptions > 0);
        }
        let end = computed + span.tokens.len();
        assert!(end > computed && end <= live.tokens);
        for (position, &token) in (computed..).zip(&span.tokens) {
            assert_eq!(
                token,
                live.text.token_at(position),
                "{id:?} has a wrong token at {position}"
            );
        }
        let bound = self.scheduler.kv_bound() as u32;
        assert!(span.blocks.iter().all(|block| *block < bound));
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
            let before = self.last_first_planned.insert(live.client, id);
            assert!(before < Some(id), "{id:?} was overtaken by its own client");
        }
    }

    /// Whoever could decode and is not in the decode lane lacks a block.
    pub fn check_nobody_is_left_out(&mut self) {
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
                assert_eq!(self.scheduler.blocks_free(), 0, "{id:?} was left out");
                self.reached.stalled += 1;
            }
        }
    }

    /// What the cache holds at each position of a request, depending on who may share it.
    pub fn prefixes(&self, text: Text, client: ClientId, tokens: usize) -> Vec<Prefix> {
        let who = match self.config.prefix_cache {
            PrefixCache::Off => text.id.0 << 32,
            PrefixCache::PerClient => u64::from(client.0),
            PrefixCache::Shared => 0,
        };
        let next = |before: &mut Prefix, position| {
            *before = mix(before.rotate_left(9) ^ u64::from(text.token_at(position)));
            Some(*before)
        };
        (0..tokens).scan(mix(who + 1), next).collect()
    }

    pub fn write(&mut self, spans: &[LaneSpan]) {
        for span in spans {
            let prefixes = &self.live[&span.id].prefixes[span.first_position..];
            let places = span.kv_positions(self.config.kv_block_tokens);
            for (place, &prefix) in places.zip(prefixes) {
                let slot =
                    place.block as usize * self.config.kv_block_tokens + place.offset as usize;
                self.cache[slot] = prefix;
            }
        }
    }

    /// Attention of the span's last token sees every position up to it, as it was written, whoever wrote it.
    pub fn check_cache(&self, span: &LaneSpan) {
        let block_tokens = self.config.kv_block_tokens;
        let prefixes = &self.live[&span.id].prefixes;
        for (position, &expected) in prefixes[..span.sample_position()].iter().enumerate() {
            let slot = span.blocks[position / block_tokens] as usize * block_tokens
                + position % block_tokens;
            assert_eq!(
                self.cache[slot], expected,
                "position {position} of {:?}",
                span.id
            );
        }
    }

    pub fn check_tokens(&self, id: RequestId) {
        let tokens = self.scheduler.tokens(id);
        let live = &self.live[&id];
        assert_eq!(tokens.len(), live.tokens);
        assert!(
            (0..)
                .zip(tokens)
                .all(|(position, &token)| token == live.text.token_at(position))
        );
        let told = self.scheduler.timings(id).preemptions;
        assert_eq!(
            told, live.preemptions,
            "{id:?} was preempted and no plan told"
        );
    }
}
