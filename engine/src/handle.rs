//! The handle that everybody else holds.

use crate::api::{
    ClientId, EmbeddingRequest, EmbeddingSink, EngineConfig, EngineGauges, EngineParts,
    LoadProgress, MemoryPlan, ReportSink, Request, RequestId, SamplingParams, StartError,
    SubmitError, TokenSink,
};
use crate::memory;
use crate::start::{self, Started};
use crate::step_loop::inbox::Shared;
use odmoe_expert_store::{Catalog, StoreError};
use odmoe_formats::ByteCount;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// A running engine. Cloning shares it; dropping the last one stops it.
#[derive(Clone)]
pub struct EngineHandle {
    running: Arc<Running>,
}

/// The engine's thread, as long as any handle lives.
struct Running {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
    catalog: Arc<Catalog>,
}

impl EngineHandle {
    /// The memory sum, before anything is allocated.
    pub fn plan_memory(
        manifest: &odmoe_formats::manifest::Manifest,
        store: &odmoe_expert_store::StoreConfig,
        config: &EngineConfig,
    ) -> MemoryPlan {
        memory::plan(manifest, store, config)
    }

    /// Loads and verifies the base, allocates KV and slots, starts the engine's thread.
    pub fn start(parts: EngineParts, progress: LoadProgress<'_>) -> Result<Self, StartError> {
        let Started {
            shared,
            thread,
            catalog,
        } = start::start(parts, progress)?;
        Ok(Self {
            running: Arc::new(Running {
                shared,
                thread: Mutex::new(Some(thread)),
                catalog,
            }),
        })
    }

    /// Queues a request. Its sink gets exactly one end. Never blocks.
    pub fn submit(
        &self,
        request: Request,
        sink: Box<dyn TokenSink>,
    ) -> Result<RequestId, SubmitError> {
        self.running.shared.submit(request, sink)
    }

    /// Scores a known text: `continuation`, at least one token, is taken as the answer to `prompt`, whatever the model
    /// would choose. The sink gets each of its tokens with its logprob and those of the `top` most likely ones.
    pub fn score(
        &self,
        client: ClientId,
        prompt: Vec<u32>,
        continuation: Vec<u32>,
        top: u32,
        sink: Box<dyn TokenSink>,
    ) -> Result<RequestId, SubmitError> {
        let request = Request {
            client,
            prompt,
            sampling: SamplingParams::default(),
            max_new_tokens: u32::try_from(continuation.len()).unwrap_or(u32::MAX),
            stop_token_ids: Vec::new(),
            logprobs: Some(top),
            rules: None,
        };
        self.running.shared.score(request, continuation, sink)
    }

    /// Queues a text whose embedding is wanted. Its sink gets exactly one end. Never blocks.
    pub fn embed(
        &self,
        request: EmbeddingRequest,
        sink: Box<dyn EmbeddingSink>,
    ) -> Result<RequestId, SubmitError> {
        self.running.shared.embed(request, sink)
    }

    /// Ends a request wherever it is, within a step; ended or unknown ids are ignored.
    pub fn cancel(&self, id: RequestId) {
        self.running.shared.cancel(id);
    }

    /// Changes what expert slots may take while requests run: none fails by it, and no token changes. Returns what the
    /// slots of that budget take; the store's gauges say how far it is. Never blocks.
    pub fn set_expert_budget(&self, budget: ByteCount) -> Result<ByteCount, StoreError> {
        let slots = self.running.catalog.check_budget(budget)?;
        self.running.shared.set_expert_budget(budget);
        Ok(slots.bytes())
    }

    /// Changes how many KV blocks there are to be while requests run, from one to
    /// [`EngineConfig::kv_blocks_max`]; returns how many it takes on. Blocks that are held leave when they are free, and
    /// as many stay as the longest accepted request may need. Never blocks.
    ///
    /// With [`Self::set_expert_budget`] this moves memory between experts and KV: who is to have more waits for the other.
    pub fn set_kv_blocks(&self, blocks: usize) -> usize {
        self.running.shared.set_kv_blocks(blocks)
    }

    /// The gauges after the last step.
    pub fn gauges(&self) -> EngineGauges {
        self.running.shared.gauges()
    }

    /// Asks what became of each expert. The sink is called at the engine's next turn, or dropped.
    pub fn report_experts(&self, to: ReportSink) {
        self.running.shared.report_experts(to);
    }

    /// Refuses new requests from now on; what was accepted goes on.
    pub fn drain(&self) {
        self.running.shared.drain();
    }

    /// Whether nothing runs or waits.
    pub fn is_idle(&self) -> bool {
        self.running.shared.is_idle()
    }

    /// Whether the engine's thread lives. False after a backend failure or a panic: the process should end.
    pub fn is_alive(&self) -> bool {
        self.running.shared.is_alive()
    }

    /// Ends every request with [`RequestError::ShuttingDown`](crate::RequestError::ShuttingDown) and joins the
    /// engine's thread.
    pub fn stop(&self) {
        self.running.stop();
    }
}

impl Running {
    fn stop(&self) {
        self.shared.stop();
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        // A sink may hold the last handle: the engine's thread drops it and cannot wait for itself.
        if let Some(thread) =
            thread.filter(|thread| thread.thread().id() != std::thread::current().id())
        {
            // Its panics end in the requests' sinks, not here.
            let _ = thread.join();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
    }
}
