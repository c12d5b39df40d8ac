//! What the engine has made and a client has not yet taken, in bytes.
//!
//! The engine never waits for a client: a sequence that stood still would keep its KV blocks, which are dearer than the
//! few bytes of a token. So tokens pile up for a slow reader, but not without bound: each request may hold a little,
//! what is beyond comes out of a budget of all requests, and whoever finds it exhausted ends.

use odmoe_engine::{TokenEvent, TokenLogprob};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::mpsc;

/// What a request may hold without asking: some thousand tokens. Readers that keep up never hold more.
const FREE_BYTES: usize = 64 << 10;

/// What all requests may hold at once.
pub(crate) struct OutputBudget {
    limit_bytes: usize,
    used_bytes: Mutex<usize>,
}

impl OutputBudget {
    pub(crate) fn new(limit_bytes: usize) -> Arc<Self> {
        Arc::new(Self {
            limit_bytes,
            used_bytes: Mutex::new(0),
        })
    }

    pub(crate) fn used_bytes(&self) -> usize {
        *lock(&self.used_bytes)
    }

    fn take(&self, bytes: usize) -> bool {
        let mut used = lock(&self.used_bytes);
        let fits = bytes <= self.limit_bytes.saturating_sub(*used);
        *used += if fits { bytes } else { 0 };
        fits
    }

    fn give_back(&self, bytes: usize) {
        *lock(&self.used_bytes) -= bytes;
    }
}

/// One request's part of the budget, given back when it is dropped.
pub(crate) struct Share {
    budget: Arc<OutputBudget>,
    held_bytes: usize,
    taken_bytes: usize,
}

impl Share {
    pub(crate) fn new(budget: &Arc<OutputBudget>) -> Self {
        Self {
            budget: Arc::clone(budget),
            held_bytes: 0,
            taken_bytes: 0,
        }
    }

    /// Changes what is held. False, and unchanged, if the budget is exhausted.
    pub(crate) fn set(&mut self, held_bytes: usize) -> bool {
        let wanted = held_bytes.saturating_sub(FREE_BYTES);
        if wanted > self.taken_bytes && !self.budget.take(wanted - self.taken_bytes) {
            return false;
        }
        self.budget
            .give_back(self.taken_bytes.saturating_sub(wanted));
        (self.held_bytes, self.taken_bytes) = (held_bytes, wanted);
        true
    }

    pub(crate) fn grow(&mut self, bytes: usize) -> bool {
        self.set(self.held_bytes + bytes)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.give_back(self.taken_bytes);
    }
}

/// Events of one request's answers, each with its index.
pub(crate) fn backlog(budget: &Arc<OutputBudget>) -> (BacklogSender, BacklogReceiver) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let state = Arc::new(Mutex::new(State {
        share: Share::new(budget),
        is_over: false,
    }));
    let backlog = BacklogSender {
        events: sender,
        state: Arc::clone(&state),
    };
    (
        backlog,
        BacklogReceiver {
            events: receiver,
            state,
        },
    )
}

struct State {
    share: Share,
    /// An event found no room: nothing is taken any more.
    is_over: bool,
}

/// The engine's end.
#[derive(Clone)]
pub(crate) struct BacklogSender {
    events: mpsc::UnboundedSender<(u32, TokenEvent)>,
    state: Arc<Mutex<State>>,
}

impl BacklogSender {
    /// Never waits. An event for which there is no room is dropped, and so are all after it.
    pub(crate) fn send(&self, index: u32, event: TokenEvent) {
        let mut state = lock(&self.state);
        if !state.is_over {
            state.is_over = !state.share.grow(size_bytes(&event));
        }
        if !state.is_over {
            // Nobody listens once the client is gone; the engine is told through `is_closed`.
            let _ = self.events.send((index, event));
        }
    }

    /// Whether nobody will take what comes.
    pub(crate) fn is_closed(&self) -> bool {
        self.events.is_closed() || lock(&self.state).is_over
    }
}

/// The client's end.
pub(crate) struct BacklogReceiver {
    events: mpsc::UnboundedReceiver<(u32, TokenEvent)>,
    state: Arc<Mutex<State>>,
}

impl BacklogReceiver {
    /// The next event; None once the engine has let go of every sender. May be dropped while it waits.
    pub(crate) async fn recv(&mut self) -> Option<(u32, TokenEvent)> {
        let (index, event) = self.events.recv().await?;
        let mut state = lock(&self.state);
        let left = state.share.held_bytes.saturating_sub(size_bytes(&event));
        let shrunk = state.share.set(left);
        debug_assert!(shrunk, "there is always room for less");
        drop(state);
        Some((index, event))
    }

    /// A further part of the same budget.
    pub(crate) fn share(&self) -> Share {
        Share::new(&lock(&self.state).share.budget)
    }

    /// Whether events were dropped because they found no room.
    pub(crate) fn has_lost(&self) -> bool {
        lock(&self.state).is_over
    }
}

fn size_bytes(event: &TokenEvent) -> usize {
    let scores = match event {
        TokenEvent::Token { logprobs, .. } => logprobs.as_ref().map_or(0, |l| l.top.len()),
        TokenEvent::Prefilled { .. } | TokenEvent::Finished { .. } | TokenEvent::Failed { .. } => 0,
    };
    size_of::<(u32, TokenEvent)>() + scores * size_of::<TokenLogprob>()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn token() -> TokenEvent {
        TokenEvent::Token {
            token: 1,
            logprobs: None,
        }
    }

    #[tokio::test]
    async fn a_slow_reader_gets_what_fitted_and_learns_that_more_is_lost() {
        let each = size_bytes(&token());
        let budget = OutputBudget::new(10 * each);
        let (sender, mut receiver) = backlog(&budget);
        let fitting = FREE_BYTES / each + 10;
        for _ in 0..fitting {
            sender.send(0, token());
        }
        assert!(!sender.is_closed() && budget.used_bytes() > 9 * each);
        sender.send(0, token());
        assert!(sender.is_closed() && receiver.has_lost());
        assert!(receiver.recv().await.is_some());
        sender.send(0, token());
        drop(sender);
        for _ in 1..fitting {
            assert!(receiver.recv().await.is_some());
        }
        assert!(receiver.recv().await.is_none());
        assert_eq!(budget.used_bytes(), 0);
    }

    #[tokio::test]
    async fn a_reader_that_keeps_up_needs_no_budget() {
        let budget = OutputBudget::new(0);
        let (sender, mut receiver) = backlog(&budget);
        for _ in 0..100_000 {
            sender.send(0, token());
            receiver.recv().await.unwrap();
        }
        assert!(!sender.is_closed());
    }

    proptest! {
        #[test]
        fn what_is_taken_is_given_back(steps in prop::collection::vec((0..3usize, 0..3 * FREE_BYTES), 1..60)) {
            let budget = OutputBudget::new(4 * FREE_BYTES);
            let mut shares: Vec<Share> = (0..3).map(|_| Share::new(&budget)).collect();
            for (index, held) in steps {
                let _ = shares[index].set(held);
                let taken: usize = shares.iter().map(|s| s.held_bytes.saturating_sub(FREE_BYTES)).sum();
                prop_assert_eq!(budget.used_bytes(), taken);
                prop_assert!(taken <= 4 * FREE_BYTES);
            }
            drop(shares);
            prop_assert_eq!(budget.used_bytes(), 0);
        }
    }
}
