//! The answers to one HTTP request while they are made.

use super::account::{Account, PlacesTaken};
use super::answer::{Answer, Piece, Progress};
use super::app::{Admitted, App};
use super::backlog::{BacklogReceiver, BacklogSender, Share, backlog};
use super::deadlines::Deadlines;
use super::error::ApiError;
use super::job::Job;
use super::lifecycle::{InFlight, LifePhase};
use super::record::Record;
use super::said::Said;
use crate::metrics::{SequenceEnd, SequenceMeter, Siblings};
use crate::state::ServedModel;
use odmoe_engine::{
    FinishReason as EngineReason, Request, RequestId, SubmitError, TokenEvent, TokenSink,
};
use odmoe_openapi::{FinishReason, Usage};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How often a silent engine is asked whether it lives.
pub(super) const LIVENESS_INTERVAL: Duration = Duration::from_secs(1);

/// What happened to the answers.
#[derive(Debug, PartialEq)]
pub(crate) enum Update {
    /// One of them grew.
    Piece { index: u32, piece: Piece },
    /// One of them ended.
    Ended {
        index: u32,
        piece: Piece,
        reason: FinishReason,
    },
    /// The request as a whole failed; nothing follows.
    Failed(ApiError),
}

/// The answers to one HTTP request. Dropping it cancels what still runs, wherever it is: that is how a client's
/// disconnect, an error and a time-out all free the engine.
pub(crate) struct Generation {
    model: Arc<ServedModel>,
    choices: Vec<Choice>,
    running: usize,
    events: BacklogReceiver,
    deadlines: Deadlines,
    prompt_tokens: u64,
    /// Of them, those that did not have to be computed.
    cached_tokens: u64,
    completion_tokens: u64,
    retry_after: Duration,
    /// Ends when the server stops waiting for requests.
    stopping: Pin<Box<dyn Future<Output = ()> + Send>>,
    record: Arc<Record>,
    account: Arc<Account>,
    submitted: Instant,
    said: Option<Said>,
    _in_flight: InFlight,
    _places: PlacesTaken,
}

struct Choice {
    id: RequestId,
    /// Whether it is the first answer to its prompt: the others find what it has computed.
    is_first: bool,
    answer: Answer,
    is_over: bool,
    /// Tells the sink that a cancellation is a stop string's doing.
    stopped_by_text: Arc<AtomicBool>,
}

impl Generation {
    /// Queues every answer, or none.
    pub(crate) fn start(
        app: &App,
        admitted: Admitted,
        job: &Job,
        record: Arc<Record>,
    ) -> Result<Self, ApiError> {
        let Admitted { model, in_flight } = admitted;
        let lifecycle = app.lifecycle.clone();
        let account = record.account().unwrap_or_else(|| app.accounts.anybody());
        let answers = job.prompts.len() * job.sampling.n as usize;
        let capacity = model.capacity_answers;
        let places = account.take_places(answers, capacity).map_err(|held| {
            app.metrics.count_limited("share");
            ApiError::share_full(held, capacity, app.config.retry_after)
        })?;
        let (sender, events) = backlog(&app.output);
        let deadlines = Deadlines::new(&app.config.timeouts, job.delivery, record.arrived);
        let mut generation = Self {
            model,
            choices: Vec::new(),
            running: 0,
            events,
            deadlines,
            prompt_tokens: 0,
            cached_tokens: 0,
            completion_tokens: 0,
            retry_after: app.config.retry_after,
            stopping: Box::pin(async move { lifecycle.reached(LifePhase::Stopping).await }),
            record,
            account,
            submitted: Instant::now(),
            said: app.config.log_text.then(|| Said::new(job)),
            _in_flight: in_flight,
            _places: places,
        };
        for prompt in &job.prompts {
            generation.prompt_tokens += prompt.len() as u64;
            let siblings = Siblings::new(job.sampling.n);
            for choice in 0..job.sampling.n {
                generation.submit(app, job, prompt, (choice, &siblings), &sender)?;
            }
        }
        generation.count_accepted(app, job);
        generation.count_tokens();
        Ok(generation)
    }

    fn submit(
        &mut self,
        app: &App,
        job: &Job,
        prompt: &[u32],
        (choice, siblings): (u32, &Arc<Siblings>),
        sender: &BacklogSender,
    ) -> Result<(), ApiError> {
        let index = self.choices.len() as u32;
        let stopped_by_text = Arc::new(AtomicBool::new(false));
        let submit = |max_new_tokens: u32| {
            let mut sampling = job.sampling.params.clone();
            sampling.choice = choice;
            let request = Request {
                client: self.account.client,
                prompt: prompt.to_vec(),
                sampling,
                max_new_tokens,
                stop_token_ids: job.sampling.stop_token_ids.clone(),
                logprobs: job.logprobs,
                rules: job.rules.clone(),
            };
            let metrics = app.metrics.model(&self.model.name);
            let sink = ChannelSink {
                index,
                events: sender.clone(),
                ends_at: self.deadlines.ends_at(),
                meter: SequenceMeter::new(metrics, siblings, self.record.arrived),
                stopped_by_text: Arc::clone(&stopped_by_text),
            };
            self.model.engine.submit(request, Box::new(sink))
        };
        let submitted = match job.max_new_tokens {
            Some(max) => submit(max),
            None => submit_for_the_rest(prompt.len(), self.model.context_tokens, submit),
        };
        let id = submitted
            .map_err(|error| ApiError::submit(error, job.prompt_param, self.retry_after))?;
        let answer = Answer::new(
            &self.model.tokenizer,
            &job.sampling.stops,
            &job.sampling.stop_token_ids,
            &job.output,
        );
        self.choices.push(Choice {
            id,
            is_first: choice == 0,
            answer,
            is_over: false,
            stopped_by_text,
        });
        self.running += 1;
        Ok(())
    }

    fn count_accepted(&self, app: &App, job: &Job) {
        let metrics = app.metrics.model(&self.model.name);
        for prompt in &job.prompts {
            let rest = self.model.context_tokens.saturating_sub(prompt.len());
            let max = job
                .max_new_tokens
                .unwrap_or(u32::try_from(rest).unwrap_or(u32::MAX));
            metrics.record_request(prompt.len(), job.sampling.n, max);
        }
    }

    pub(crate) fn answers(&self) -> u32 {
        self.choices.len() as u32
    }

    /// A part of what all answers may hold, for what is put together before it is sent.
    pub(crate) fn share(&self) -> Share {
        self.events.share()
    }

    pub(crate) fn retry_after(&self) -> Duration {
        self.retry_after
    }

    /// The stop string that ended an answer.
    pub(crate) fn matched_stop(&self, index: u32) -> Option<String> {
        let answer = &self.choices[index as usize].answer;
        answer.matched_stop().map(str::to_owned)
    }

    pub(crate) fn usage(&self) -> Usage {
        Usage::new(
            self.prompt_tokens,
            self.cached_tokens,
            self.completion_tokens,
        )
    }

    /// The next update; None once all answers have ended. May be dropped while it waits without losing anything.
    pub(crate) async fn next(&mut self) -> Option<Update> {
        while self.running > 0 {
            let event = tokio::select! {
                biased;
                event = self.events.recv() => event,
                () = &mut self.stopping => {
                    return Some(self.fail(ApiError::draining(self.retry_after)));
                }
                () = tokio::time::sleep(self.deadlines.next_within(LIVENESS_INTERVAL)) => {
                    if let Some(error) = self.deadlines.missed(Instant::now()) {
                        return Some(self.fail(error));
                    }
                    if self.model.engine.is_alive() {
                        continue;
                    }
                    None
                }
            };
            let Some((index, event)) = event else {
                let error = self.why_nothing_comes();
                return Some(self.fail(error));
            };
            self.deadlines.heard(Instant::now());
            if let Some(update) = self.take(index, event) {
                return Some(update);
            }
        }
        None
    }

    fn why_nothing_comes(&self) -> ApiError {
        if self.events.has_lost() {
            return ApiError::slow_reader();
        }
        let missed = self.deadlines.missed(Instant::now());
        missed.unwrap_or_else(|| ApiError::internal("the engine stopped during the request"))
    }

    fn take(&mut self, index: u32, event: TokenEvent) -> Option<Update> {
        let choice = &mut self.choices[index as usize];
        if choice.is_over {
            return None;
        }
        match event {
            TokenEvent::Prefilled { cached_tokens } => {
                if choice.is_first {
                    self.cached_tokens += cached_tokens as u64;
                }
                None
            }
            TokenEvent::Token { token, logprobs } => {
                self.completion_tokens += 1;
                self.record
                    .set_tokens(self.prompt_tokens, self.completion_tokens);
                if let Some(said) = &mut self.said {
                    said.push(index, token);
                }
                match choice.answer.push(token, logprobs) {
                    Progress::Piece(piece) if piece.parts.is_empty() => {
                        debug_assert!(piece.scores.is_empty(), "scores wait for their text");
                        None
                    }
                    Progress::Piece(piece) => Some(Update::Piece { index, piece }),
                    Progress::Stopped(piece) => {
                        choice.stopped_by_text.store(true, Ordering::Relaxed);
                        self.model.engine.cancel(choice.id);
                        Some(self.end(index, piece, FinishReason::Stop))
                    }
                }
            }
            TokenEvent::Finished { reason, timings } => {
                self.record.set_timings(self.submitted, timings);
                let (piece, is_stopped) = match choice.answer.finish() {
                    Progress::Piece(piece) => (piece, false),
                    Progress::Stopped(piece) => (piece, true),
                };
                Some(match reason {
                    _ if is_stopped => self.end(index, piece, FinishReason::Stop),
                    EngineReason::Stop => self.end(index, piece, FinishReason::Stop),
                    EngineReason::Length => self.end(index, piece, FinishReason::Length),
                    EngineReason::Cancelled => {
                        let error = self.why_nothing_comes();
                        self.fail(error)
                    }
                })
            }
            TokenEvent::Failed { error } => {
                tracing::warn!(%error, "a request failed in the engine");
                Some(self.fail(ApiError::failed(&error, self.retry_after)))
            }
        }
    }

    fn end(&mut self, index: u32, piece: Piece, reason: FinishReason) -> Update {
        let choice = &mut self.choices[index as usize];
        choice.is_over = true;
        let reason = match reason {
            FinishReason::Stop if choice.answer.calls_tools() => FinishReason::ToolCalls,
            reason => reason,
        };
        self.running -= 1;
        if self.running == 0 {
            let outcome = match reason {
                FinishReason::Stop => "stop",
                FinishReason::Length => "length",
                FinishReason::ToolCalls => "tool_calls",
            };
            self.close(outcome);
        }
        Update::Ended {
            index,
            piece,
            reason,
        }
    }

    fn fail(&mut self, error: ApiError) -> Update {
        self.cancel_running();
        self.close(error.code());
        Update::Failed(error)
    }

    fn cancel_running(&mut self) {
        for choice in self.choices.iter_mut().filter(|choice| !choice.is_over) {
            choice.is_over = true;
            self.model.engine.cancel(choice.id);
        }
        self.running = 0;
    }

    fn close(&self, outcome: &str) {
        self.count_tokens();
        if let Some(said) = &self.said {
            said.log(&self.record, &self.model.tokenizer);
        }
        self.record.set_outcome(outcome);
    }

    fn count_tokens(&self) {
        self.record
            .set_tokens(self.prompt_tokens, self.completion_tokens);
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        if self.running > 0 {
            self.cancel_running();
            self.close("cancelled");
        }
    }
}

/// Asks for all that the context leaves; where the KV cache holds less than the context, for all that it leaves.
fn submit_for_the_rest(
    prompt_tokens: usize,
    context_tokens: usize,
    submit: impl Fn(u32) -> Result<RequestId, SubmitError>,
) -> Result<RequestId, SubmitError> {
    let rest =
        |limit: usize| u32::try_from(limit.saturating_sub(prompt_tokens)).unwrap_or(u32::MAX);
    match submit(rest(context_tokens).max(1)) {
        Err(SubmitError::TooLong { limit, .. }) if rest(limit) > 0 => submit(rest(limit)),
        other => other,
    }
}

/// Carries events from the engine's thread.
struct ChannelSink {
    index: u32,
    events: BacklogSender,
    /// When the answer's time is up. The client's end looks only when the client reads.
    ends_at: Option<Instant>,
    meter: SequenceMeter,
    stopped_by_text: Arc<AtomicBool>,
}

impl TokenSink for ChannelSink {
    fn emit(&mut self, event: TokenEvent) {
        let now = Instant::now();
        match &event {
            TokenEvent::Prefilled { .. } => {}
            TokenEvent::Token { .. } => self.meter.token(now),
            TokenEvent::Finished { reason, timings } => {
                let how = match reason {
                    EngineReason::Stop => SequenceEnd::Stop,
                    EngineReason::Length => SequenceEnd::Length,
                    EngineReason::Cancelled if self.stopped_by_text.load(Ordering::Relaxed) => {
                        SequenceEnd::Stop
                    }
                    EngineReason::Cancelled => SequenceEnd::Abort,
                };
                self.meter.end(how, Some(timings), now);
            }
            TokenEvent::Failed { .. } => self.meter.end(SequenceEnd::Error, None, now),
        }
        self.events.send(self.index, event);
    }

    fn is_closed(&self) -> bool {
        let is_late = self.ends_at.is_some_and(|end| Instant::now() >= end);
        is_late || self.events.is_closed()
    }
}
