//! The engine's thread: commands in, lanes stepped, tokens out.
//!
//! Every turn takes commands, lets the store take in finished reads, ends what nobody wants any more, and gives each
//! lane its share. The thread sleeps only when no lane can move.

mod answering;
pub mod inbox;
mod pooled;
mod sequence;
mod shares;
mod stall;

use crate::api::{EngineEvent, EngineGauges, ExpertReport, FinishReason, RequestError, RequestId};
use crate::lanes::{Lane, Model, PassOutput, Progress};
use crate::model::pass::Pass;
use crate::sampler::Sampled;
use crate::scheduler::{LaneKind, NewSequence, PrefixLookups, Scheduler};
use inbox::{Limits, Shared, Submission};
use odmoe_backend::BackendError;
use odmoe_expert_store::ExpertStore;
use odmoe_formats::ByteCount;
use sequence::Sequence;
use shares::Shares;
use stall::{StallClock, Waiting};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Layers that the decode lane may advance for each layer of the prefill lane. A decode pass of L layers therefore
/// ends within L / 8 + 2 prefill layers, and prefill keeps moving whatever decode does. A prompt chunk's layer costs
/// some tens of decode layers, so 8 of them slow prefill little.
pub const DECODE_LAYERS_PER_PREFILL_LAYER: usize = 8;

/// How often sinks are asked whether anybody listens while nothing can run: a sink cannot ring.
const CLOSED_SINK_POLL: Duration = Duration::from_millis(20);

/// See the module.
pub struct StepLoop {
    shared: Arc<Shared>,
    limits: Limits,
    scheduler: Scheduler,
    store: ExpertStore,
    model: Model,
    prefill: Lane,
    decode: Lane,
    kv_block_tokens: usize,
    shares: Shares,
    sequences: BTreeMap<RequestId, Sequence>,
    stall: StallClock,
    /// One row of logits: memory that stays, for a vocabulary is long.
    logits: Vec<f32>,
}

/// What a loop is made of.
pub struct StepLoopParts {
    /// Shared with the handles.
    pub shared: Arc<Shared>,
    /// What requests were checked against.
    pub limits: Limits,
    /// Empty.
    pub scheduler: Scheduler,
    /// Started.
    pub store: ExpertStore,
    /// Loaded.
    pub model: Model,
    /// The prefill and the decode lane.
    pub lanes: [Lane; 2],
    /// Tokens in a KV block.
    pub kv_block_tokens: usize,
    /// What the store began with.
    pub expert_budget: ByteCount,
}

impl StepLoop {
    /// A loop that has not begun.
    pub fn new(parts: StepLoopParts) -> Self {
        let [prefill, decode] = parts.lanes;
        let kv_bound = parts.scheduler.kv_bound();
        Self {
            shared: parts.shared,
            limits: parts.limits,
            scheduler: parts.scheduler,
            store: parts.store,
            model: parts.model,
            prefill,
            decode,
            kv_block_tokens: parts.kv_block_tokens,
            shares: Shares::new(parts.expert_budget, kv_bound),
            sequences: BTreeMap::new(),
            stall: StallClock::default(),
            logits: Vec::new(),
        }
    }

    /// Runs until told to stop or until the backend fails.
    pub fn run(&mut self) -> Result<(), BackendError> {
        while self.take_commands() {
            self.divide_memory();
            self.store.poll(Instant::now());
            self.end_closed();
            self.drop_unwanted_passes();
            let moved = self.step_lanes()?;
            self.publish();
            if moved {
                self.end_stall();
            } else {
                self.sleep();
            }
        }
        Ok(())
    }

    /// Ends everything that is left, each with its own copy of `error`, and refuses what comes.
    pub fn fail_all(&mut self, error: &RequestError) {
        for submission in self.shared.close() {
            self.sequences
                .insert(submission.id, Sequence::new(submission, self.limits.vocab));
        }
        while let Some((id, sequence)) = self.sequences.pop_first() {
            sequence.fail(error.clone());
            self.shared.ended(id);
        }
    }

    /// Takes in what handles asked for. False once the engine is to stop.
    fn take_commands(&mut self) -> bool {
        let commands = self.shared.take();
        self.shares.ask(&commands);
        for submission in commands.submissions {
            self.accept(submission);
        }
        for id in commands.cancels {
            self.finish(id, FinishReason::Cancelled);
        }
        for sink in commands.reports {
            sink(ExpertReport {
                experts: self.store.usage(),
                layers: self.stall.by_layer(),
            });
        }
        !commands.stop
    }

    fn accept(&mut self, submission: Submission) {
        let request = &submission.request;
        let new = NewSequence {
            id: submission.id,
            client: request.client,
            prompt: request.prompt.clone(),
            max_new_tokens: request.max_new_tokens,
            computes_all: submission.purpose.wants_every_state(),
        };
        self.scheduler
            .submit(new, submission.at)
            .expect("checked against the same limits by the handle");
        self.sequences
            .insert(submission.id, Sequence::new(submission, self.limits.vocab));
    }

    /// Ends requests whose client went away, wherever they are.
    fn end_closed(&mut self) {
        let closed = self
            .sequences
            .iter()
            .filter(|(_, sequence)| sequence.is_closed());
        let closed: Vec<RequestId> = closed.map(|(&id, _)| id).collect();
        for id in closed {
            self.finish(id, FinishReason::Cancelled);
        }
    }

    /// Drops a pass that no sequence wants any more, so that it neither waits for experts nor computes.
    fn drop_unwanted_passes(&mut self) {
        for kind in [LaneKind::Prefill, LaneKind::Decode] {
            let (lane, store) = self.lane(kind);
            if lane.pass().is_some_and(|pass| !pass.is_live()) {
                lane.abort(store);
                // The lane's last ops may be pending, but those of whoever gets its blocks come after them.
                self.scheduler.abort(kind);
            }
        }
    }

    /// Puts the scheduler's next pass into an empty lane.
    fn fill_lane(&mut self, kind: LaneKind) {
        if self.lane(kind).0.pass().is_some() {
            return;
        }
        let Some(plan) = self.scheduler.plan(kind, Instant::now()) else {
            return;
        };
        for _ in &plan.preempted {
            self.model.observer.record(&EngineEvent::Preempted);
        }
        if plan.lookups != PrefixLookups::default() {
            let lookups = EngineEvent::PrefixLookups(plan.lookups);
            self.model.observer.record(&lookups);
        }
        let pooling = |id| self.sequences.get(&id).and_then(Sequence::pooling);
        let pass = Pass::new(&plan, self.kv_block_tokens, pooling);
        self.lane(kind).0.begin(pass);
    }

    /// One layer of prefill, then a few of decode. Returns whether anything moved.
    fn step_lanes(&mut self) -> Result<bool, BackendError> {
        self.fill_lane(LaneKind::Prefill);
        let mut moved = self.step_layer(LaneKind::Prefill)?;
        for _ in 0..DECODE_LAYERS_PER_PREFILL_LAYER {
            self.fill_lane(LaneKind::Decode);
            if !self.step_layer(LaneKind::Decode)? {
                break;
            }
            moved = true;
        }
        Ok(moved)
    }

    /// Advances a lane until a layer is done or it has to wait. Returns whether it moved.
    fn step_layer(&mut self, kind: LaneKind) -> Result<bool, BackendError> {
        let mut moved = false;
        loop {
            let mut failed = Vec::new();
            let lane = match kind {
                LaneKind::Prefill => &mut self.prefill,
                LaneKind::Decode => &mut self.decode,
            };
            if !lane.pass().is_some_and(Pass::is_live) {
                return Ok(moved);
            }
            let progress = lane.advance(&self.model, &mut self.store, &mut failed)?;
            for (id, error) in failed {
                self.fail(id, RequestError::ExpertUnavailable(error));
            }
            match progress {
                Progress::Moved => moved = true,
                Progress::LayerDone => return Ok(true),
                Progress::AwaitsDevice | Progress::AwaitsExperts => return Ok(moved),
                Progress::Finished(output) => {
                    self.complete(kind, &output);
                    return Ok(true);
                }
            }
        }
    }

    /// Samples and pools what a finished pass computed, and tells the scheduler.
    fn complete(&mut self, kind: LaneKind, output: &PassOutput) {
        let pass = self.lane(kind).0.take();
        let sampled = self.sample(&pass, &output.logits);
        let embedded = self.pool(&pass, &output.states);
        let now = Instant::now();
        let mut tokens: Vec<_> = sampled
            .iter()
            .map(|(id, sampled)| (*id, sampled.token))
            .collect();
        // The scheduler waits for a token after every prompt; nobody ever sees this one.
        tokens.extend(embedded.iter().map(|&id| (id, 0)));
        self.scheduler.complete(kind, &tokens, now);
        for (id, sampled) in sampled {
            let sequence = self.sequences.get_mut(&id).expect("sampled just now");
            let answering = sequence.answering().expect("answers are sampled");
            answering.begin(|| self.scheduler.timings(id).cached_tokens);
            if let Some(reason) = answering.emit(sampled) {
                self.finish(id, reason);
            }
        }
        for id in embedded {
            self.finish(id, FinishReason::Stop);
        }
        let prefill = kind == LaneKind::Prefill;
        self.model.observer.record(&EngineEvent::Step {
            tokens: pass.tokens,
            prefill,
        });
    }

    /// The next token of each sequence whose logits are there.
    fn sample(&mut self, pass: &Pass, logits: &[u8]) -> Vec<(RequestId, Sampled)> {
        let vocab = self.limits.vocab;
        let (mut sampled, mut failed) = (Vec::new(), Vec::new());
        for span in pass.live_spans() {
            let Some((row, position)) = span.sample else {
                continue;
            };
            self.logits.clear();
            self.logits
                .extend(f32s(&logits[row * vocab * 4..(row + 1) * vocab * 4]));
            let sequence = self
                .sequences
                .get_mut(&span.id)
                .expect("live spans have sequences");
            let answering = sequence.answering().expect("answers are sampled");
            match answering.sample(&mut self.logits, position) {
                Ok(token) => sampled.push((span.id, token)),
                Err(error) => failed.push((span.id, error)),
            }
        }
        for (id, error) in failed {
            self.fail(id, error.into());
        }
        sampled
    }

    /// Hands out states; returns the embeddings that are complete with them.
    fn pool(&mut self, pass: &Pass, states: &[u8]) -> Vec<RequestId> {
        let hidden = self.model.hidden;
        let mut complete = Vec::new();
        for span in pass.live_spans() {
            let Some(pooled) = &span.pooled else { continue };
            let state_bytes = hidden * size_of::<f32>();
            let bytes = pooled.rows.start * state_bytes..pooled.rows.end * state_bytes;
            let sequence = self
                .sequences
                .get_mut(&span.id)
                .expect("live spans have sequences");
            sequence.pool(pooled.first_position, &states[bytes], hidden);
            if pooled.ends {
                complete.push(span.id);
            }
        }
        complete
    }

    fn finish(&mut self, id: RequestId, reason: FinishReason) {
        let Some(sequence) = self.sequences.remove(&id) else {
            return;
        };
        let timings = sequence.timings(&self.scheduler.timings(id), Instant::now());
        self.forget(id);
        sequence.finish(reason, timings);
        self.shared.ended(id);
    }

    fn fail(&mut self, id: RequestId, error: RequestError) {
        let Some(sequence) = self.sequences.remove(&id) else {
            return;
        };
        self.forget(id);
        sequence.fail(error);
        self.shared.ended(id);
    }

    /// Takes a request out of scheduler and lanes. Its blocks stay until the pass that writes them is over.
    fn forget(&mut self, id: RequestId) {
        self.scheduler.remove(id);
        self.prefill.end_sequence(id);
        self.decode.end_sequence(id);
    }

    fn lane(&mut self, kind: LaneKind) -> (&mut Lane, &mut ExpertStore) {
        let lane = match kind {
            LaneKind::Prefill => &mut self.prefill,
            LaneKind::Decode => &mut self.decode,
        };
        (lane, &mut self.store)
    }

    fn publish(&mut self) {
        let gauges = EngineGauges {
            running: self.scheduler.running(),
            waiting: self.scheduler.waiting(),
            kv_blocks_used: self.scheduler.blocks_used(),
            kv_blocks_remembered: self.scheduler.blocks_remembered(),
            kv_blocks: self.scheduler.kv_blocks(),
            store: self.store.gauges(),
            health: self.store.health(),
        };
        if self.shared.publish(&gauges) {
            self.model.observer.record(&EngineEvent::Gauges(gauges));
        }
    }

    fn end_stall(&mut self) {
        let Some((stall, waited)) = self.stall.end(Instant::now()) else {
            return;
        };
        self.model.observer.record(&EngineEvent::ExpertStall {
            seconds: stall.as_secs_f64(),
        });
        for id in waited {
            if let Some(sequence) = self.sequences.get_mut(&id) {
                sequence.expert_stall += stall;
            }
        }
    }

    /// Sleeps until something can have changed: a command, a read, the device, the store's own deadline.
    fn sleep(&mut self) {
        let now = Instant::now();
        let mut waiting = Waiting::default();
        for lane in [&self.prefill, &self.decode] {
            if let (Some(layer), Some(pass)) = (lane.awaited_layer(), lane.pass()) {
                waiting.layers.push(layer);
                waiting
                    .sequences
                    .extend(pass.live_spans().map(|span| span.id));
            }
        }
        if waiting.sequences.is_empty() {
            self.end_stall();
        } else {
            self.stall.begin(now, waiting);
        }
        let poll = (!self.sequences.is_empty()).then(|| now + CLOSED_SINK_POLL);
        self.shared
            .sleep(self.store.next_deadline().into_iter().chain(poll).min());
    }
}

fn f32s(bytes: &[u8]) -> impl Iterator<Item = f32> {
    let word = |chunk: &[u8]| f32::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]);
    bytes.chunks_exact(4).map(word)
}
