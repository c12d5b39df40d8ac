//! What the routes need of an engine.

use odmoe_engine::{
    ClientId, EmbeddingRequest, EmbeddingSink, EngineGauges, EngineHandle, ReportSink, Request,
    RequestId, SubmitError, TokenSink,
};

/// An engine as the routes see it: the real one, or a scripted one in tests.
pub trait Generator: Send + Sync {
    /// Queues a request. Its sink gets exactly one end. Never blocks.
    fn submit(&self, request: Request, sink: Box<dyn TokenSink>) -> Result<RequestId, SubmitError>;
    /// Queues a text to embed, likewise.
    fn embed(
        &self,
        request: EmbeddingRequest,
        sink: Box<dyn EmbeddingSink>,
    ) -> Result<RequestId, SubmitError>;
    /// Scores a known text, likewise; see [`EngineHandle::score`].
    fn score(
        &self,
        client: ClientId,
        prompt: Vec<u32>,
        continuation: Vec<u32>,
        top: u32,
        sink: Box<dyn TokenSink>,
    ) -> Result<RequestId, SubmitError>;
    /// Ends a request wherever it is; ended or unknown ids are ignored.
    fn cancel(&self, id: RequestId);
    /// The gauges after the last step.
    fn gauges(&self) -> EngineGauges;
    /// Asks what became of experts; see [`EngineHandle::report_experts`].
    fn report_experts(&self, to: ReportSink);
    /// Whether the engine can still answer.
    fn is_alive(&self) -> bool;
}

impl Generator for EngineHandle {
    fn submit(&self, request: Request, sink: Box<dyn TokenSink>) -> Result<RequestId, SubmitError> {
        EngineHandle::submit(self, request, sink)
    }

    fn embed(
        &self,
        request: EmbeddingRequest,
        sink: Box<dyn EmbeddingSink>,
    ) -> Result<RequestId, SubmitError> {
        EngineHandle::embed(self, request, sink)
    }

    fn score(
        &self,
        client: ClientId,
        prompt: Vec<u32>,
        continuation: Vec<u32>,
        top: u32,
        sink: Box<dyn TokenSink>,
    ) -> Result<RequestId, SubmitError> {
        EngineHandle::score(self, client, prompt, continuation, top, sink)
    }

    fn cancel(&self, id: RequestId) {
        EngineHandle::cancel(self, id);
    }

    fn gauges(&self) -> EngineGauges {
        EngineHandle::gauges(self)
    }

    fn report_experts(&self, to: ReportSink) {
        EngineHandle::report_experts(self, to);
    }

    fn is_alive(&self) -> bool {
        EngineHandle::is_alive(self)
    }
}
