//! What every plan must be, told by a shadow that shares nothing with the scheduler.

use crate::events::Simulation;
use crate::random::mix;
use odmoe_engine::scheduler::{LaneKind, LaneSpan};
use odmoe_engine::{ClientId, RequestId};

/// The one token that belongs at a position of a request, prompt and answer alike.
pub fn token_at(id: RequestId, position: usize) -> u32 {
    mix(id.0 << 32 | position as u64) as u32
}

/// What the simulation knows of a request that lives.
pub struct Live {
    pub client: ClientId,
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

    pub fn write(&mut self, spans: &[LaneSpan]) {
        for span in spans {
            for (i, place) in span.kv_positions(self.config.kv_block_tokens).enumerate() {
                let slot =
                    place.block as usize * self.config.kv_block_tokens + place.offset as usize;
                self.cache[slot] = Some((span.id, span.first_position + i, span.tokens[i]));
            }
        }
    }

    /// Attention of the span's last token sees every position up to it, as it was written.
    pub fn check_cache(&self, span: &LaneSpan) {
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

    pub fn check_tokens(&self, id: RequestId) {
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
}
