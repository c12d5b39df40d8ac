//! What every route shares, and who may pass to the engine.

use super::account::Accounts;
use super::backlog::OutputBudget;
use super::error::ApiError;
use super::keys::SecretDigest;
use super::lifecycle::{InFlight, LifePhase, Lifecycle};
use super::responses::ResponseStore;
use super::{HttpConfig, body::BodyBudget};
use crate::metrics::MetricsHandle;
use crate::state::{ModelSlot, ServedModel, Stage};
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Requests whose bodies are read at once. Each may take some 20 MiB besides its body.
const PREPARING_MAX: usize = 4;

/// What every route shares.
pub(crate) struct App {
    pub(crate) config: HttpConfig,
    pub(crate) slot: ModelSlot,
    pub(crate) metrics: MetricsHandle,
    pub(crate) lifecycle: Lifecycle,
    pub(crate) bodies: BodyBudget,
    pub(crate) output: Arc<OutputBudget>,
    pub(crate) accounts: Accounts,
    pub(crate) responses: ResponseStore,
    /// Held while a table of experts is made.
    pub(crate) expert_reports: tokio::sync::Mutex<()>,
    /// One permit a KiB of embeddings that are held.
    vectors: Arc<Semaphore>,
    /// One permit a processor, but few: parsing, templates and tokenizers never take more, nor their memory.
    blocking: Arc<Semaphore>,
}

/// A request that may use the model.
pub(crate) struct Admitted {
    pub(crate) model: Arc<ServedModel>,
    pub(crate) in_flight: InFlight,
}

impl App {
    pub(crate) fn new(config: HttpConfig, slot: ModelSlot, metrics: MetricsHandle) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, |n| n.get());
        let preparing = processors.min(PREPARING_MAX);
        let vectors_kib = config.limits.embeddings_total_bytes.div_ceil(1024).max(1);
        Self {
            bodies: BodyBudget::new(&config.limits),
            output: OutputBudget::new(config.limits.output_total_bytes),
            accounts: Accounts::new(&config),
            responses: ResponseStore::new(
                config.limits.stored_responses,
                config.limits.stored_responses_bytes,
            ),
            expert_reports: tokio::sync::Mutex::default(),
            config,
            slot,
            metrics,
            lifecycle: Lifecycle::new(),
            vectors: Arc::new(Semaphore::new(vectors_kib)),
            blocking: Arc::new(Semaphore::new(preparing)),
        }
    }

    /// The model, or why there is none now.
    pub(crate) fn model(&self) -> Result<Arc<ServedModel>, ApiError> {
        let after = self.config.retry_after;
        if let Some(model) = self.slot.get() {
            return if model.engine.is_alive() {
                Ok(model)
            } else {
                Err(ApiError::engine_stopped(after))
            };
        }
        let progress = self.slot.progress();
        Err(match &progress.stage {
            Stage::Failed(reason) => ApiError::load_failed(reason),
            stage => ApiError::loading(stage.name(), progress.fraction, after),
        })
    }

    /// Lets a request pass to the model, and makes draining wait for it.
    pub(crate) fn admit(&self) -> Result<Admitted, ApiError> {
        let in_flight = self
            .lifecycle
            .enter()
            .ok_or_else(|| ApiError::draining(self.config.retry_after))?;
        Ok(Admitted {
            model: self.model()?,
            in_flight,
        })
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.lifecycle.phase() >= LifePhase::Draining
    }

    /// Runs `work` off the async threads. Even if the caller goes away, the permit is kept until the work ends.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let permit = Arc::clone(&self.blocking)
            .acquire_owned()
            .await
            .expect("never closed");
        let task = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            work()
        });
        task.await
            .unwrap_or_else(|_| Err(ApiError::internal("preparing the request failed")))
    }

    /// Takes a share of what embeddings may hold; None if there is not so much now. One that is larger than all is given
    /// all.
    pub(crate) fn take_for_vectors(&self, kibibytes: usize) -> Option<OwnedSemaphorePermit> {
        let all = self
            .config
            .limits
            .embeddings_total_bytes
            .div_ceil(1024)
            .max(1);
        let share = u32::try_from(kibibytes.min(all)).unwrap_or(u32::MAX);
        Arc::clone(&self.vectors).try_acquire_many_owned(share).ok()
    }

    pub(crate) fn has_admin_key(&self) -> bool {
        self.config.admin_key.is_some()
    }

    pub(crate) fn is_admin_key(&self, given: &SecretDigest) -> bool {
        let admin = self.config.admin_key.as_ref();
        admin.is_some_and(|admin| admin.equals(given))
    }
}
