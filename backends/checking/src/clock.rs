//! What has happened before what: a vector clock over streams.

use odmoe_backend::StreamId;
use std::collections::BTreeMap;

/// For each stream, up to which of its items everything has happened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VectorClock(BTreeMap<u32, u64>);

/// The place of one item: the n-th of its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The stream.
    pub stream: StreamId,
    /// Counted from 1.
    pub tick: u64,
}

impl VectorClock {
    /// Whether the item has happened.
    pub fn has_seen(&self, stamp: Stamp) -> bool {
        self.0
            .get(&stamp.stream.0)
            .is_some_and(|&tick| stamp.tick <= tick)
    }

    /// Adds all that the other has seen.
    pub fn join(&mut self, other: &Self) {
        for (&stream, &tick) in &other.0 {
            let own = self.0.entry(stream).or_default();
            *own = tick.max(*own);
        }
    }

    /// Counts one more item of a stream.
    pub fn tick(&mut self, stream: StreamId) -> Stamp {
        let tick = self.0.entry(stream.0).or_default();
        *tick += 1;
        Stamp {
            stream,
            tick: *tick,
        }
    }
}

/// The clocks of all streams, and of the host.
#[derive(Debug, Default)]
pub struct Clocks {
    streams: BTreeMap<u32, VectorClock>,
    host: VectorClock,
}

impl Clocks {
    /// What an item enqueued now would come after: the items before it in its stream, the events that the stream
    /// waits for, and all that the host has seen to be done.
    pub fn before_next(&self, stream: StreamId) -> VectorClock {
        let mut clock = self.streams.get(&stream.0).cloned().unwrap_or_default();
        clock.join(&self.host);
        clock
    }

    /// Enqueues an item.
    pub fn enqueue(&mut self, stream: StreamId) -> Stamp {
        let clock = self.streams.entry(stream.0).or_default();
        clock.join(&self.host);
        clock.tick(stream)
    }

    /// Makes later items of a stream come after all that `clock` has seen.
    pub fn wait(&mut self, stream: StreamId, clock: &VectorClock) {
        self.streams.entry(stream.0).or_default().join(clock);
    }

    /// The host has seen an event to be reached.
    pub fn observe(&mut self, clock: &VectorClock) {
        self.host.join(clock);
    }

    /// What the host knows to be done.
    pub fn host(&self) -> &VectorClock {
        &self.host
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_wait_or_an_observation_orders_streams() {
        let mut clocks = Clocks::default();
        let upload = clocks.enqueue(StreamId::COPY);
        assert!(!clocks.before_next(StreamId::COMPUTE).has_seen(upload));
        let event = clocks.before_next(StreamId::COPY);
        clocks.wait(StreamId::COMPUTE, &event);
        assert!(clocks.before_next(StreamId::COMPUTE).has_seen(upload));
        assert!(!clocks.host().has_seen(upload));

        let op = clocks.enqueue(StreamId::COMPUTE);
        assert!(!clocks.before_next(StreamId::COPY).has_seen(op));
        let event = clocks.before_next(StreamId::COMPUTE);
        clocks.observe(&event);
        assert!(clocks.before_next(StreamId::COPY).has_seen(op));
        assert!(
            clocks.host().has_seen(upload),
            "what the stream waited for is seen with it"
        );
    }
}
