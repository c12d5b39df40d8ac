//! The texts of one request on their way through the engine, a few at a time.

use super::super::app::App;
use super::super::error::ApiError;
use super::super::lifecycle::LifePhase;
use crate::metrics::MetricsHandle;
use crate::state::ServedModel;
use odmoe_engine::{
    ClientId, EmbeddingEnd, EmbeddingRequest, EmbeddingSink, Pooling, RequestId, SubmitError,
};
use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Texts of one request in the engine at once: enough to fill a prompt chunk, few enough to leave the queue to others.
const TEXTS_AT_ONCE: usize = 16;
/// How often a silent engine is asked whether it lives.
const LIVENESS_INTERVAL: Duration = Duration::from_secs(1);

/// Dropping it cancels what still runs.
pub(super) struct Texts {
    model: Arc<ServedModel>,
    client: ClientId,
    waiting: std::iter::Enumerate<std::vec::IntoIter<Vec<u32>>>,
    /// A text that found the queue full.
    postponed: Option<(usize, Vec<u32>)>,
    pooling: Pooling,
    /// By the text's place.
    running: BTreeMap<usize, RequestId>,
    vectors: Vec<Vec<f32>>,
    ends: mpsc::UnboundedReceiver<(usize, EmbeddingEnd)>,
    sender: mpsc::UnboundedSender<(usize, EmbeddingEnd)>,
    metrics: MetricsHandle,
    retry_after: Duration,
    /// Ends when the server stops waiting for requests.
    stopping: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Texts {
    pub(super) fn new(
        app: &App,
        model: Arc<ServedModel>,
        client: ClientId,
        texts: Vec<Vec<u32>>,
        pooling: Pooling,
    ) -> Self {
        let (sender, ends) = mpsc::unbounded_channel();
        let lifecycle = app.lifecycle.clone();
        Self {
            model,
            client,
            vectors: vec![Vec::new(); texts.len()],
            waiting: texts.into_iter().enumerate(),
            postponed: None,
            pooling,
            running: BTreeMap::new(),
            ends,
            sender,
            metrics: app.metrics.clone(),
            retry_after: app.config.retry_after,
            stopping: Box::pin(async move { lifecycle.reached(LifePhase::Stopping).await }),
        }
    }

    /// The vectors, in the order of the texts.
    pub(super) async fn embed(&mut self) -> Result<Vec<Vec<f32>>, ApiError> {
        loop {
            self.submit()?;
            if self.running.is_empty() {
                return Ok(std::mem::take(&mut self.vectors));
            }
            let (place, end) = self.next_end().await?;
            self.running.remove(&place);
            match end {
                EmbeddingEnd::Done { values, .. } if values.iter().all(|v| v.is_finite()) => {
                    self.vectors[place] = values;
                }
                EmbeddingEnd::Done { .. } => {
                    return Err(ApiError::internal("the model's numbers are not finite"));
                }
                EmbeddingEnd::Cancelled => {
                    let message = "the request was cancelled in the engine";
                    return Err(ApiError::internal(message));
                }
                EmbeddingEnd::Failed(error) => {
                    tracing::warn!(%error, "an embedding failed in the engine");
                    return Err(ApiError::failed(&error, self.retry_after));
                }
            }
        }
    }

    /// Queues what has room. A full queue is an error only where none of these texts will make room in it.
    fn submit(&mut self) -> Result<(), ApiError> {
        while self.running.len() < TEXTS_AT_ONCE
            && let Some((place, tokens)) = self.postponed.take().or_else(|| self.waiting.next())
        {
            let count = tokens.len();
            let request = EmbeddingRequest {
                client: self.client,
                tokens: tokens.clone(),
                pooling: self.pooling,
            };
            let sink = OneEnd {
                place,
                sender: self.sender.clone(),
            };
            match self.model.engine.embed(request, Box::new(sink)) {
                Ok(id) => {
                    self.running.insert(place, id);
                    self.metrics.model(&self.model.name).record_text(count);
                }
                Err(SubmitError::QueueFull { .. }) if !self.running.is_empty() => {
                    self.postponed = Some((place, tokens));
                    return Ok(());
                }
                Err(SubmitError::TooLong { prompt, limit, .. }) => {
                    return Err(ApiError::text_too_long(prompt, limit));
                }
                Err(error) => return Err(ApiError::submit(error, "input", self.retry_after)),
            }
        }
        Ok(())
    }

    async fn next_end(&mut self) -> Result<(usize, EmbeddingEnd), ApiError> {
        loop {
            tokio::select! {
                biased;
                Some(end) = self.ends.recv() => return Ok(end),
                () = &mut self.stopping => return Err(ApiError::draining(self.retry_after)),
                () = tokio::time::sleep(LIVENESS_INTERVAL) => {
                    if !self.model.engine.is_alive() {
                        return Err(ApiError::internal("the engine stopped during the request"));
                    }
                }
            }
        }
    }
}

impl Drop for Texts {
    fn drop(&mut self) {
        for id in self.running.values() {
            self.model.engine.cancel(*id);
        }
    }
}

/// Carries one end from the engine's thread.
struct OneEnd {
    place: usize,
    sender: mpsc::UnboundedSender<(usize, EmbeddingEnd)>,
}

impl EmbeddingSink for OneEnd {
    fn end(self: Box<Self>, end: EmbeddingEnd) {
        // Nobody listens once the client is gone.
        let _ = self.sender.send((self.place, end));
    }

    fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }
}
