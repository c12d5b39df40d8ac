//! The engine used directly, without HTTP: a request's events as a channel.

use odmoe_engine::{EngineHandle, Request, SubmitError, TokenEvent, TokenSink};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;

/// An event, and when it was emitted.
pub struct Timed {
    /// When.
    pub at: Instant,
    /// What.
    pub event: TokenEvent,
}

/// A request's events. Dropping it cancels the request.
pub struct Answer {
    events: Receiver<Timed>,
    gone: Arc<AtomicBool>,
}

impl Answer {
    /// Submits a request.
    pub fn of(engine: &EngineHandle, request: Request) -> Result<Self, SubmitError> {
        let (sender, events) = channel();
        let gone = Arc::new(AtomicBool::new(false));
        engine.submit(
            request,
            Box::new(Sink {
                sender,
                gone: gone.clone(),
            }),
        )?;
        Ok(Self { events, gone })
    }

    /// The next event; None after the last.
    pub fn next(&self) -> Option<Timed> {
        self.events.recv().ok()
    }

    /// Ends the request within a step; what it emits until then still arrives.
    pub fn close(&self) {
        self.gone.store(true, Ordering::Relaxed);
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.close();
    }
}

struct Sink {
    sender: Sender<Timed>,
    gone: Arc<AtomicBool>,
}

impl TokenSink for Sink {
    fn emit(&mut self, event: TokenEvent) {
        // Nobody listens any more: the engine finds out by `is_closed`.
        let _ = self.sender.send(Timed {
            at: Instant::now(),
            event,
        });
    }

    fn is_closed(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }
}
