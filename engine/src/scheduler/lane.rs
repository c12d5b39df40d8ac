//! What goes into a lane, and what is out.

use super::Scheduler;
use super::plan::{LaneKind, LaneSpan};
use super::sequence::Age;
use std::time::Instant;

/// A sequence's part of a lane that is out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flight {
    pub age: Age,
    pub tokens: usize,
    pub samples: bool,
}

/// The lanes that are out, by kind.
#[derive(Debug, Default)]
pub(super) struct OutLanes {
    prefill: Option<Vec<Flight>>,
    decode: Option<Vec<Flight>>,
}

impl OutLanes {
    pub fn get(&self, kind: LaneKind) -> Option<&[Flight]> {
        match kind {
            LaneKind::Prefill => self.prefill.as_deref(),
            LaneKind::Decode => self.decode.as_deref(),
        }
    }

    pub fn is_out(&self, kind: LaneKind) -> bool {
        self.get(kind).is_some()
    }

    pub fn send<'a>(&mut self, kind: LaneKind, spans: impl Iterator<Item = (Age, &'a LaneSpan)>) {
        let flights = spans.map(|(age, span)| Flight {
            age,
            tokens: span.tokens.len(),
            samples: span.samples,
        });
        *self.slot(kind) = Some(flights.collect());
    }

    /// Ends a lane. One that is not out is a bug.
    pub fn land(&mut self, kind: LaneKind) -> Vec<Flight> {
        self.slot(kind)
            .take()
            .unwrap_or_else(|| panic!("no {kind:?} lane is out"))
    }

    fn slot(&mut self, kind: LaneKind) -> &mut Option<Vec<Flight>> {
        match kind {
            LaneKind::Prefill => &mut self.prefill,
            LaneKind::Decode => &mut self.decode,
        }
    }
}

impl Scheduler {
    /// Chunks of what is to be prefilled, oldest first, until the lane is full.
    pub(super) fn prefill_spans(&mut self, now: Instant) -> Vec<LaneSpan> {
        let mut room_tokens = self.config.prefill_chunk_tokens;
        let mut spans = Vec::new();
        for sequence in self
            .running
            .values_mut()
            .filter(|sequence| sequence.is_ready(LaneKind::Prefill))
        {
            if room_tokens == 0 {
                break;
            }
            let span = sequence.enter(LaneKind::Prefill, room_tokens, now);
            room_tokens -= span.tokens.len();
            spans.push(span);
        }
        spans
    }

    /// The next token of each sequence that is ready and has a block for it.
    pub(super) fn decode_spans(&mut self, now: Instant) -> Vec<LaneSpan> {
        let block_tokens = self.config.kv_block_tokens;
        self.running
            .values_mut()
            .filter(|sequence| {
                sequence.is_ready(LaneKind::Decode) && sequence.has_room(block_tokens)
            })
            .map(|sequence| sequence.enter(LaneKind::Decode, 1, now))
            .collect()
    }
}
