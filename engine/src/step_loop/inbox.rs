//! What handles and the engine's thread share: the queue of commands, the doorbell, and the published gauges.

use crate::api::{
    EmbeddingRequest, EmbeddingSink, EngineGauges, Pooling, ReportSink, Request, RequestId,
    SamplingParams, SubmitError, TokenConstraint, TokenSink,
};
use odmoe_formats::ByteCount;
use std::collections::{BTreeSet, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// What a request is checked against before it is queued.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// V.
    pub vocab: usize,
    /// The longest context, prompt and answer, whatever the KV cache holds.
    pub context_tokens: usize,
    /// Tokens in a KV block.
    pub kv_block_tokens: usize,
    /// KV blocks to begin with.
    pub kv_blocks: usize,
    /// As many as there can be.
    pub kv_blocks_max: usize,
    /// Sequences that run at once.
    pub max_running: usize,
    /// Requests that may wait beside them.
    pub max_waiting: usize,
}

/// A request on its way to the engine's thread.
pub struct Submission {
    /// Its id.
    pub id: RequestId,
    /// What is asked for.
    pub request: Request,
    /// What its tokens may be.
    pub constraint: Option<Box<dyn TokenConstraint>>,
    /// What becomes of it.
    pub purpose: Purpose,
    /// When it was queued.
    pub at: Instant,
}

/// What a request is for, and who hears of it.
pub enum Purpose {
    /// An answer. The tokens of `continuation`, if any, come first: they are scored and not chosen.
    Answer {
        /// What is given of the answer.
        continuation: Vec<u32>,
        /// Where events go.
        sink: Box<dyn TokenSink>,
    },
    /// An embedding of the prompt.
    Embedding {
        /// How.
        pooling: Pooling,
        /// Where it goes.
        sink: Box<dyn EmbeddingSink>,
    },
}

impl Purpose {
    /// Whether the last layer's output is wanted for every token.
    pub fn wants_every_state(&self) -> bool {
        matches!(
            self,
            Self::Embedding {
                pooling: Pooling::Mean,
                ..
            }
        )
    }
}

/// What the engine's thread takes from the inbox at once.
pub struct Commands {
    /// New requests, in order.
    pub submissions: VecDeque<Submission>,
    /// Requests to end.
    pub cancels: BTreeSet<RequestId>,
    /// Who wants to know what became of experts.
    pub reports: Vec<ReportSink>,
    /// What expert slots may take from now on, if that changed.
    pub expert_budget: Option<ByteCount>,
    /// How many KV blocks there are to be, if that changed.
    pub kv_blocks: Option<usize>,
    /// Whether the engine is to stop.
    pub stop: bool,
}

/// See the module.
pub struct Shared {
    limits: Limits,
    state: Mutex<State>,
    bell: Condvar,
}

struct State {
    rung: bool,
    submissions: VecDeque<Submission>,
    cancels: BTreeSet<RequestId>,
    reports: Vec<ReportSink>,
    expert_budget: Option<ByteCount>,
    new_kv_blocks: Option<usize>,
    /// What sequences are checked against.
    kv_blocks: usize,
    draining: bool,
    stop: bool,
    alive: bool,
    next_id: u64,
    /// Accepted and not ended: what bounds every queue here.
    live: BTreeSet<RequestId>,
    gauges: EngineGauges,
}

impl Shared {
    /// Empty, for an engine that lives.
    pub fn new(limits: Limits, gauges: EngineGauges) -> Self {
        let state = State {
            rung: false,
            submissions: VecDeque::new(),
            cancels: BTreeSet::new(),
            reports: Vec::new(),
            expert_budget: None,
            new_kv_blocks: None,
            kv_blocks: limits.kv_blocks,
            draining: false,
            stop: false,
            alive: true,
            next_id: 0,
            live: BTreeSet::new(),
            gauges,
        };
        Self {
            limits,
            state: Mutex::new(state),
            bell: Condvar::new(),
        }
    }

    /// Checks and queues a request.
    pub fn submit(
        &self,
        request: Request,
        sink: Box<dyn TokenSink>,
    ) -> Result<RequestId, SubmitError> {
        let continuation = Vec::new();
        self.queue(request, Purpose::Answer { continuation, sink })
    }

    /// Checks and queues a request whose answer is given, to be scored.
    pub fn score(
        &self,
        request: Request,
        continuation: Vec<u32>,
        sink: Box<dyn TokenSink>,
    ) -> Result<RequestId, SubmitError> {
        self.limits.check_tokens(&continuation)?;
        self.queue(request, Purpose::Answer { continuation, sink })
    }

    /// Checks and queues a text to embed. To the scheduler it is a prompt with one token after it, which is never made.
    pub fn embed(
        &self,
        request: EmbeddingRequest,
        sink: Box<dyn EmbeddingSink>,
    ) -> Result<RequestId, SubmitError> {
        let EmbeddingRequest {
            client,
            tokens,
            pooling,
        } = request;
        let request = Request {
            client,
            prompt: tokens,
            sampling: SamplingParams::default(),
            max_new_tokens: 1,
            stop_token_ids: Vec::new(),
            logprobs: None,
            rules: None,
        };
        self.queue(request, Purpose::Embedding { pooling, sink })
    }

    fn queue(&self, request: Request, purpose: Purpose) -> Result<RequestId, SubmitError> {
        let kv_blocks = self.lock().kv_blocks;
        self.limits.check(&request, kv_blocks)?;
        // Before the lock, and not on the engine's thread: it may copy much.
        let constraint = request.rules.as_ref().map(|rules| rules.begin());
        let mut state = self.lock();
        if state.draining || state.stop {
            return Err(SubmitError::ShuttingDown);
        }
        self.limits.check_queue(state.live.len())?;
        let id = RequestId(state.next_id);
        state.next_id += 1;
        state.live.insert(id);
        state.submissions.push_back(Submission {
            id,
            request,
            constraint,
            purpose,
            at: Instant::now(),
        });
        self.ring_locked(state);
        Ok(id)
    }

    /// Asks for a request's end.
    pub fn cancel(&self, id: RequestId) {
        let mut state = self.lock();
        if state.live.contains(&id) {
            state.cancels.insert(id);
            self.ring_locked(state);
        }
    }

    /// Asks what became of experts.
    pub fn report_experts(&self, to: ReportSink) {
        let mut state = self.lock();
        if state.alive {
            state.reports.push(to);
            self.ring_locked(state);
        }
    }

    /// Changes what expert slots may take. The last word before the engine's thread looks counts.
    pub fn set_expert_budget(&self, budget: ByteCount) {
        let mut state = self.lock();
        state.expert_budget = Some(budget);
        self.ring_locked(state);
    }

    /// Changes how many KV blocks there are to be, at least one; returns how many it takes on. Requests that come from
    /// now on must fit; those that came before still do.
    pub fn set_kv_blocks(&self, blocks: usize) -> usize {
        let blocks = blocks.clamp(1, self.limits.kv_blocks_max);
        let mut state = self.lock();
        state.new_kv_blocks = Some(blocks);
        state.kv_blocks = blocks;
        self.ring_locked(state);
        blocks
    }

    /// Refuses new requests from now on.
    pub fn drain(&self) {
        self.lock().draining = true;
    }

    /// Asks the engine's thread to end.
    pub fn stop(&self) {
        let mut state = self.lock();
        state.stop = true;
        self.ring_locked(state);
    }

    /// Wakes the engine's thread, or keeps it from the next sleep.
    pub fn ring(&self) {
        self.ring_locked(self.lock());
    }

    /// Sleeps until rung or until `deadline`. Returns at once if it was rung since the last sleep.
    pub fn sleep(&self, deadline: Option<Instant>) {
        let mut state = self.lock();
        while !state.rung {
            let Some(deadline) = deadline else {
                state = self
                    .bell
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            state = self
                .bell
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        state.rung = false;
    }

    /// Takes all commands.
    pub fn take(&self) -> Commands {
        let mut state = self.lock();
        Commands {
            submissions: std::mem::take(&mut state.submissions),
            cancels: std::mem::take(&mut state.cancels),
            reports: std::mem::take(&mut state.reports),
            expert_budget: state.expert_budget.take(),
            kv_blocks: state.new_kv_blocks.take(),
            stop: state.stop,
        }
    }

    /// Says that a request has had its end.
    pub fn ended(&self, id: RequestId) {
        self.lock().live.remove(&id);
    }

    /// Refuses new requests for ever; hands out what nobody will take any more.
    pub fn close(&self) -> VecDeque<Submission> {
        let mut state = self.lock();
        state.draining = true;
        std::mem::take(&mut state.submissions)
    }

    /// Says that the engine's thread ends.
    pub fn died(&self) {
        let mut state = self.lock();
        state.alive = false;
        state.reports.clear();
    }

    /// Publishes gauges; returns whether they changed.
    pub fn publish(&self, gauges: &EngineGauges) -> bool {
        let mut state = self.lock();
        let changed = state.gauges != *gauges;
        if changed {
            state.gauges.clone_from(gauges);
        }
        changed
    }

    /// The gauges published last, with what is not yet taken counted as waiting.
    pub fn gauges(&self) -> EngineGauges {
        let state = self.lock();
        let mut gauges = state.gauges.clone();
        gauges.waiting += state.submissions.len();
        gauges
    }

    /// Whether every accepted request has ended.
    pub fn is_idle(&self) -> bool {
        self.lock().live.is_empty()
    }

    /// Whether the engine's thread lives.
    pub fn is_alive(&self) -> bool {
        self.lock().alive
    }

    /// A panic elsewhere must not keep requests from their ends: every change here is complete in itself.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ring_locked(&self, mut state: MutexGuard<'_, State>) {
        state.rung = true;
        drop(state);
        self.bell.notify_one();
    }
}

impl Limits {
    fn check(&self, request: &Request, kv_blocks: usize) -> Result<(), SubmitError> {
        let (prompt, new) = (request.prompt.len(), request.max_new_tokens as usize);
        if prompt == 0 {
            return Err(SubmitError::BadPrompt(
                "the prompt is empty: send at least one token".into(),
            ));
        }
        if new == 0 {
            return Err(SubmitError::BadPrompt(
                "no new tokens are asked for: ask for at least one".into(),
            ));
        }
        self.check_tokens(&request.prompt)?;
        let kv_tokens = kv_blocks.saturating_mul(self.kv_block_tokens);
        let limit = self.context_tokens.min(kv_tokens);
        if prompt.saturating_add(new) > limit {
            return Err(SubmitError::TooLong { prompt, new, limit });
        }
        Ok(())
    }

    fn check_tokens(&self, tokens: &[u32]) -> Result<(), SubmitError> {
        if let Some(token) = tokens.iter().find(|&&token| token as usize >= self.vocab) {
            let vocab = self.vocab;
            return Err(SubmitError::BadPrompt(format!(
                "token {token} is not in the vocabulary of {vocab} tokens"
            )));
        }
        Ok(())
    }

    /// Counted against all live requests, so that a burst on an idle engine is not refused before its first
    /// requests have begun to run.
    fn check_queue(&self, live: usize) -> Result<(), SubmitError> {
        let waiting = live.saturating_sub(self.max_running);
        if live >= self.max_running + self.max_waiting {
            return Err(SubmitError::QueueFull {
                waiting,
                limit: self.max_waiting,
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{ClientId, SamplingParams, TokenEvent};
    use odmoe_expert_store::{StoreGauges, StoreHealth};
    use std::time::Duration;

    struct Deaf;
    impl TokenSink for Deaf {
        fn emit(&mut self, _event: TokenEvent) {}
        fn is_closed(&self) -> bool {
            false
        }
    }

    fn shared(max_running: usize, max_waiting: usize) -> Shared {
        let limits = Limits {
            vocab: 10,
            context_tokens: 20,
            kv_block_tokens: 8,
            kv_blocks: 4,
            kv_blocks_max: 4,
            max_running,
            max_waiting,
        };
        let gauges = EngineGauges {
            running: 0,
            waiting: 0,
            kv_blocks_used: 0,
            kv_blocks_remembered: 0,
            kv_blocks: 4,
            store: StoreGauges::default(),
            health: StoreHealth::Healthy,
        };
        Shared::new(limits, gauges)
    }

    fn submit(shared: &Shared) -> Result<RequestId, SubmitError> {
        let request = Request {
            client: ClientId::default(),
            prompt: vec![1],
            sampling: SamplingParams::default(),
            max_new_tokens: 1,
            stop_token_ids: vec![],
            logprobs: None,
            rules: None,
        };
        shared.submit(request, Box::new(Deaf))
    }

    #[test]
    fn requests_are_bounded_from_acceptance_to_their_end() {
        let shared = shared(2, 1);
        let ids: Vec<_> = (0..3).map(|_| submit(&shared).unwrap()).collect();
        let full = Err(SubmitError::QueueFull {
            waiting: 1,
            limit: 1,
        });
        assert_eq!(submit(&shared), full);
        assert_eq!(shared.gauges().waiting, 3);
        assert_eq!(shared.take().submissions.len(), 3);
        assert_eq!(submit(&shared), full, "taken is not ended");
        shared.ended(ids[1]);
        assert!(submit(&shared).is_ok() && !shared.is_idle());
    }

    #[test]
    fn requests_are_checked_against_the_kv_cache_as_it_is_to_be() {
        let shared = shared(2, 1);
        assert_eq!(shared.set_kv_blocks(0), 1);
        let too_long = |limit| {
            let request = Request {
                client: ClientId::default(),
                prompt: vec![1; 9],
                sampling: SamplingParams::default(),
                max_new_tokens: 1,
                stop_token_ids: vec![],
                logprobs: None,
                rules: None,
            };
            let (prompt, new) = (9, 1);
            let refused = SubmitError::TooLong { prompt, new, limit };
            shared.submit(request, Box::new(Deaf)) == Err(refused)
        };
        assert!(too_long(8));
        assert_eq!(shared.set_kv_blocks(100), 4);
        assert!(!too_long(8));
        assert_eq!(shared.take().kv_blocks, Some(4));
        assert_eq!(shared.take().kv_blocks, None);
    }

    #[test]
    fn only_live_requests_can_be_cancelled() {
        let shared = shared(1, 1);
        let id = submit(&shared).unwrap();
        for unknown in 100..200 {
            shared.cancel(RequestId(unknown));
        }
        shared.cancel(id);
        shared.cancel(id);
        assert_eq!(Vec::from_iter(shared.take().cancels), [id]);
        shared.ended(id);
        shared.cancel(id);
        assert!(shared.take().cancels.is_empty());
    }

    #[test]
    fn a_ring_before_the_sleep_is_not_lost() {
        let shared = shared(1, 1);
        shared.ring();
        shared.sleep(None);
        let deadline = Instant::now() + Duration::from_millis(5);
        shared.sleep(Some(deadline));
        assert!(Instant::now() >= deadline, "one ring wakes once");
    }

    #[test]
    fn what_is_closed_stays_closed() {
        let shared = shared(2, 2);
        submit(&shared).unwrap();
        assert_eq!(shared.close().len(), 1);
        assert_eq!(submit(&shared), Err(SubmitError::ShuttingDown));
        assert!(shared.is_alive());
        shared.died();
        assert!(!shared.is_alive());
    }
}
