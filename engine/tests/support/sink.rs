//! A sink that a test can wait on.

use odmoe_engine::{
    EmbeddingEnd, EmbeddingSink, FinishReason, PositionLogprobs, RequestError, RequestTimings,
    TokenEvent, TokenSink,
};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// Longer than anything here takes: what is waited for this long does not come.
const NEVER: Duration = Duration::from_secs(60);

/// What a request got.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    pub cached_tokens: Option<usize>,
    pub tokens: Vec<u32>,
    pub logprobs: Vec<Option<PositionLogprobs>>,
    pub end: Option<Result<(FinishReason, RequestTimings), RequestError>>,
}

impl Answer {
    /// Tokens and the bits of all logprobs: what must never change.
    pub fn bits(&self) -> Vec<(u32, Vec<(u32, u32)>)> {
        let bits = |position: &PositionLogprobs| {
            let all = std::iter::once(&position.chosen).chain(&position.top);
            all.map(|t| (t.token, t.logprob.to_bits())).collect()
        };
        let logprobs = self
            .logprobs
            .iter()
            .map(|p| p.as_ref().map(bits).unwrap_or_default());
        self.tokens.iter().copied().zip(logprobs).collect()
    }

    pub fn finish_reason(&self) -> Option<FinishReason> {
        self.end
            .as_ref()
            .and_then(|end| end.as_ref().ok())
            .map(|(reason, _)| *reason)
    }

    pub fn error(&self) -> Option<&RequestError> {
        self.end.as_ref().and_then(|end| end.as_ref().err())
    }
}

/// The test's side of a sink.
#[derive(Clone, Default)]
pub struct Listener(Arc<Inner>);

#[derive(Default)]
struct Inner {
    answer: Mutex<Answer>,
    changed: Condvar,
    closed: AtomicBool,
}

impl Listener {
    pub fn sink(&self) -> Box<dyn TokenSink> {
        Box::new(Sink(self.0.clone()))
    }

    /// The client goes away.
    pub fn close(&self) {
        self.0.closed.store(true, Ordering::SeqCst);
    }

    pub fn now(&self) -> Answer {
        self.0.answer.lock().unwrap().clone()
    }

    pub fn has_ended(&self) -> bool {
        self.now().end.is_some()
    }

    /// Waits for the end.
    pub fn wait(&self) -> Answer {
        self.wait_until(|answer| answer.end.is_some())
    }

    /// Waits for at least so many tokens, or the end.
    pub fn wait_for_tokens(&self, count: usize) -> Answer {
        self.wait_until(|answer| answer.tokens.len() >= count || answer.end.is_some())
    }

    fn wait_until(&self, mut done: impl FnMut(&Answer) -> bool) -> Answer {
        let answer = self.0.answer.lock().unwrap();
        let waited = self
            .0
            .changed
            .wait_timeout_while(answer, NEVER, |answer| !done(answer));
        let (answer, timeout) = waited.unwrap();
        assert!(!timeout.timed_out(), "nothing came: {answer:?}");
        answer.clone()
    }
}

struct Sink(Arc<Inner>);

impl TokenSink for Sink {
    fn emit(&mut self, event: TokenEvent) {
        let mut answer = self.0.answer.lock().unwrap();
        let late = answer.end.is_some();
        let mut early = true;
        match event {
            TokenEvent::Prefilled { cached_tokens } => {
                early = answer.cached_tokens.replace(cached_tokens).is_none()
                    && answer.tokens.is_empty();
            }
            TokenEvent::Token { token, logprobs } => {
                answer.tokens.push(token);
                answer.logprobs.push(logprobs);
            }
            TokenEvent::Finished { reason, timings } => answer.end = Some(Ok((reason, timings))),
            TokenEvent::Failed { error } => answer.end = Some(Err(error)),
        }
        self.0.changed.notify_all();
        // Seen by the engine as a panic of its own thread, and so by every later check.
        assert!(!late, "an event after the end");
        assert!(early, "the prompt was computed twice, or after a token");
    }

    fn is_closed(&self) -> bool {
        self.0.closed.load(Ordering::SeqCst)
    }
}

/// The test's side of an embedding's sink.
#[derive(Clone, Default)]
pub struct EmbeddingListener(Arc<EmbeddingInner>);

#[derive(Default)]
struct EmbeddingInner {
    end: Mutex<Option<EmbeddingEnd>>,
    changed: Condvar,
    closed: AtomicBool,
}

impl EmbeddingListener {
    pub fn sink(&self) -> Box<dyn EmbeddingSink> {
        Box::new(OneEnd(self.0.clone()))
    }

    /// The client goes away.
    pub fn close(&self) {
        self.0.closed.store(true, Ordering::SeqCst);
    }

    pub fn wait(&self) -> EmbeddingEnd {
        let end = self.0.end.lock().unwrap();
        let waited = self
            .0
            .changed
            .wait_timeout_while(end, NEVER, |end| end.is_none());
        let (end, _) = waited.unwrap();
        end.clone().expect("an end within the time")
    }
}

struct OneEnd(Arc<EmbeddingInner>);

impl EmbeddingSink for OneEnd {
    fn end(self: Box<Self>, end: EmbeddingEnd) {
        let earlier = self.0.end.lock().unwrap().replace(end);
        self.0.changed.notify_all();
        assert!(earlier.is_none(), "a second end");
    }

    fn is_closed(&self) -> bool {
        self.0.closed.load(Ordering::SeqCst)
    }
}
