//! Many small pieces of work of one request on their way through the engine, a few at a time.

use super::account::{Account, PlacesTaken};
use super::app::App;
use super::deadlines::Deadlines;
use super::error::ApiError;
use super::generation::LIVENESS_INTERVAL;
use super::job::Delivery;
use super::lifecycle::LifePhase;
use super::record::Record;
use crate::state::ServedModel;
use odmoe_engine::{RequestError, RequestId, SubmitError};
use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// In the engine at once: enough to fill a prompt chunk, few enough to leave the queue to others.
const AT_ONCE: usize = 16;

/// What came of a piece.
pub(crate) enum Outcome<T> {
    Done(T),
    Cancelled,
    Failed(RequestError),
}

/// Where the outcome of one piece goes; for the engine's thread.
pub(crate) struct Reply<T> {
    place: usize,
    sender: mpsc::UnboundedSender<(usize, Outcome<T>)>,
    has_moved: Arc<AtomicBool>,
}

impl<T> Reply<T> {
    /// The engine has worked on the piece.
    pub(crate) fn moved(&self) {
        self.has_moved.store(true, Ordering::Relaxed);
    }

    pub(crate) fn send(&self, outcome: Outcome<T>) {
        // Nobody listens once the client is gone.
        let _ = self.sender.send((self.place, outcome));
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }
}

/// Dropping it cancels what still runs.
pub(crate) struct Batch<T> {
    model: Arc<ServedModel>,
    /// By place, what still runs, and the caller's part of the queue that it takes.
    running: BTreeMap<usize, (RequestId, PlacesTaken)>,
    account: Arc<Account>,
    deadlines: Deadlines,
    /// Whether any piece has, since the last look.
    has_moved: Arc<AtomicBool>,
    share_full: Box<dyn Fn(usize) -> ApiError + Send>,
    outcomes: Vec<Option<T>>,
    ends: mpsc::UnboundedReceiver<(usize, Outcome<T>)>,
    sender: mpsc::UnboundedSender<(usize, Outcome<T>)>,
    retry_after: Duration,
    /// Ends when the server stops waiting for requests.
    stopping: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl<T> Batch<T> {
    /// For a request that is answered so; its time has begun when it arrived.
    pub(crate) fn new(
        app: &App,
        model: Arc<ServedModel>,
        record: &Record,
        delivery: Delivery,
    ) -> Self {
        let (sender, ends) = mpsc::unbounded_channel();
        let lifecycle = app.lifecycle.clone();
        let (metrics, retry_after) = (app.metrics.clone(), app.config.retry_after);
        let capacity = model.capacity_answers;
        Self {
            model,
            running: BTreeMap::new(),
            account: record.account().unwrap_or_else(|| app.accounts.anybody()),
            deadlines: Deadlines::new(&app.config.timeouts, delivery, record.arrived),
            has_moved: Arc::default(),
            share_full: Box::new(move |held| {
                metrics.count_limited("share");
                ApiError::share_full(held, capacity, retry_after)
            }),
            outcomes: Vec::new(),
            ends,
            sender,
            retry_after: app.config.retry_after,
            stopping: Box::pin(async move { lifecycle.reached(LifePhase::Stopping).await }),
        }
    }

    /// Does `count` pieces of work, each handed to the engine by `submit`; their outcomes come in order. A full queue, or
    /// a caller's full share of it, is an error only where none of these pieces will make room in it.
    pub(crate) async fn run(
        &mut self,
        count: usize,
        submit: impl Fn(&ServedModel, usize, Reply<T>) -> Result<RequestId, SubmitError>,
        refuse: impl Fn(SubmitError) -> ApiError,
    ) -> Result<Vec<T>, ApiError> {
        self.outcomes.resize_with(count, || None);
        let mut next = 0;
        loop {
            while next < count && self.running.len() < AT_ONCE {
                let capacity = self.model.capacity_answers;
                let taken = match self.account.take_places(1, capacity) {
                    Ok(taken) => taken,
                    Err(_) if !self.running.is_empty() => break,
                    Err(held) => return Err((self.share_full)(held)),
                };
                let reply = Reply {
                    place: next,
                    sender: self.sender.clone(),
                    has_moved: Arc::clone(&self.has_moved),
                };
                match submit(&self.model, next, reply) {
                    Ok(id) => self.running.insert(next, (id, taken)),
                    Err(SubmitError::QueueFull { .. }) if !self.running.is_empty() => break,
                    Err(error) => return Err(refuse(error)),
                };
                next += 1;
            }
            if self.running.is_empty() {
                let outcomes = std::mem::take(&mut self.outcomes).into_iter();
                return Ok(outcomes.map(|o| o.expect("all have ended")).collect());
            }
            self.take_end().await?;
        }
    }

    async fn take_end(&mut self) -> Result<(), ApiError> {
        let (place, outcome) = self.next_end().await?;
        self.running.remove(&place);
        self.deadlines.heard(Instant::now());
        match outcome {
            Outcome::Done(done) => {
                self.outcomes[place] = Some(done);
                Ok(())
            }
            Outcome::Cancelled => {
                let message = "the request was cancelled in the engine";
                Err(ApiError::internal(message))
            }
            Outcome::Failed(error) => {
                tracing::warn!(%error, "a request failed in the engine");
                Err(ApiError::failed(&error, self.retry_after))
            }
        }
    }

    async fn next_end(&mut self) -> Result<(usize, Outcome<T>), ApiError> {
        loop {
            tokio::select! {
                biased;
                Some(end) = self.ends.recv() => return Ok(end),
                () = &mut self.stopping => return Err(ApiError::draining(self.retry_after)),
                () = tokio::time::sleep(self.deadlines.next_within(LIVENESS_INTERVAL)) => {
                    let now = Instant::now();
                    if self.has_moved.swap(false, Ordering::Relaxed) {
                        self.deadlines.heard(now);
                    }
                    if let Some(error) = self.deadlines.missed(now) {
                        return Err(error);
                    }
                    if !self.model.engine.is_alive() {
                        return Err(ApiError::internal("the engine stopped during the request"));
                    }
                }
            }
        }
    }
}

impl<T> Drop for Batch<T> {
    fn drop(&mut self) {
        for (id, _) in self.running.values() {
            self.model.engine.cancel(*id);
        }
    }
}
