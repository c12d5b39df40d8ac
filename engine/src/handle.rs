/// A running engine. Cloning shares it.
#[derive(Clone)]
pub struct EngineHandle {}

#[allow(unused_variables)]
impl EngineHandle {
    /// The memory sum, before anything is allocated.
    pub fn plan_memory(
        manifest: &odmoe_formats::manifest::Manifest,
        store: &odmoe_expert_store::StoreConfig,
        config: &EngineConfig,
    ) -> MemoryPlan {
        todo!()
    }

    /// Loads and verifies the base, allocates KV and slots, starts the engine's thread.
    pub fn start(parts: EngineParts, progress: LoadProgress<'_>) -> Result<Self, StartError> {
        todo!()
    }

    /// Queues a request. Its sink gets exactly one end. Never blocks.
    pub fn submit(&self, request: Request, sink: Box<dyn TokenSink>) -> Result<RequestId, SubmitError> {
        todo!()
    }

    /// Ends a request wherever it is, within a step; ended or unknown ids are ignored.
    pub fn cancel(&self, id: RequestId) {
        todo!()
    }

    /// The gauges after the last step.
    pub fn gauges(&self) -> EngineGauges {
        todo!()
    }

    /// Refuses new requests from now on; what was accepted goes on.
    pub fn drain(&self) {
        todo!()
    }

    /// Whether nothing runs or waits.
    pub fn is_idle(&self) -> bool {
        todo!()
    }

    /// Whether the engine's thread lives. False after a backend failure or a panic: the process should end.
    pub fn is_alive(&self) -> bool {
        todo!()
    }

    /// Ends every request with [`RequestError::ShuttingDown`] and joins the engine's thread.
    pub fn stop(&self) {
        todo!()
    }
}
