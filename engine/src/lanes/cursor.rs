//! One pass on its way through the layers.

use super::experts::{ExpertFailure, ExpertWork};
use super::routing::{Demand, Prediction, RoutingBytes, RoutingReadBack};
use super::{Model, PassOutput, Progress};
use crate::api::{EngineEvent, RequestId};
use crate::model::pass::Pass;
use crate::model::queue::Queue;
use crate::model::scratch::Scratch;
use crate::model::{FeedForward, Step};
use crate::scheduler::LaneKind;
use odmoe_backend::{BackendError, Buffer, Choice, ReadBack};
use odmoe_expert_store::{ExpertStore, LoadError, Phase as StorePhase};
use odmoe_formats::LayerIndex;
use std::time::Instant;

/// A long prompt asks for everything of so many layers ahead. Memory for it and the store's rules end it before.
const LAYERS_AHEAD: u32 = 4;

/// Sequences that end because an expert cannot be had.
pub type Failures = Vec<(RequestId, LoadError)>;

/// A pass and how far it is.
pub struct Running {
    /// Its rows.
    pub pass: Pass,
    layer: usize,
    phase: Phase,
    /// What was said of the next routed layer.
    prediction: Option<Prediction>,
}

/// Where in a layer a pass stands.
enum Phase {
    /// The layer begins.
    Attention,
    /// The router's choices are on their way to the host.
    AwaitRouting(RoutingReadBack),
    /// Some of the chosen experts are not there yet.
    AwaitExperts(ExpertWork),
    /// What the pass is for is on its way to the host.
    AwaitOutput(OutputReadBack),
}

/// Two read-backs, in this order on the stream.
struct OutputReadBack {
    logits: Option<ReadBack>,
    states: Option<ReadBack>,
    output: PassOutput,
}

impl OutputReadBack {
    /// Both, once they are there.
    fn take(&mut self, queue: &Queue) -> Result<Option<PassOutput>, BackendError> {
        let parts = [
            (&mut self.logits, &mut self.output.logits),
            (&mut self.states, &mut self.output.states),
        ];
        for (ticket, bytes) in parts {
            if let Some(pending) = ticket {
                let Some(taken) = queue.take(pending)? else {
                    return Ok(None);
                };
                *bytes = taken;
                *ticket = None;
            }
        }
        Ok(Some(std::mem::take(&mut self.output)))
    }
}

impl Running {
    /// A pass before its first layer.
    pub fn new(pass: Pass) -> Self {
        Self {
            pass,
            layer: 0,
            phase: Phase::Attention,
            prediction: None,
        }
    }

    /// Where it stands.
    pub fn layer(&self) -> LayerIndex {
        LayerIndex(self.layer as u32)
    }

    /// What it waits for in the store, if it does.
    pub fn expert_work(&self) -> Option<&ExpertWork> {
        match &self.phase {
            Phase::AwaitExperts(work) => Some(work),
            _ => None,
        }
    }
}

/// A pass with all that it works on.
pub struct Cursor<'a> {
    /// The model.
    pub model: &'a Model,
    /// Where experts come from.
    pub store: &'a mut ExpertStore,
    /// The lane's buffers.
    pub scratch: &'a Scratch,
    /// The pass.
    pub running: &'a mut Running,
    /// The lane.
    pub kind: LaneKind,
}

impl Cursor<'_> {
    /// See [`super::Lane::advance`].
    pub fn advance(&mut self, failed: &mut Failures) -> Result<Progress, BackendError> {
        match &mut self.running.phase {
            Phase::Attention => self.attend(),
            Phase::AwaitRouting(_) => self.take_routing(),
            Phase::AwaitExperts(_) => self.run_experts(failed),
            Phase::AwaitOutput(pending) => match pending.take(&self.model.queue)? {
                Some(output) => Ok(Progress::Finished(output)),
                None => Ok(Progress::AwaitsDevice),
            },
        }
    }

    fn step(&self) -> Step<'_> {
        Step {
            queue: &self.model.queue,
            pass: &self.running.pass,
            scratch: self.scratch,
            kv: &self.model.kv,
        }
    }

    /// Enqueues attention and either the dense MLP or the router.
    fn attend(&mut self) -> Result<Progress, BackendError> {
        let layer = self.running.layer;
        if layer == 0 {
            self.hint_first();
            self.model.family.embed(self.step())?;
        }
        self.model.family.attend(layer, self.step())?;
        match self.model.family.feed_forward(layer) {
            FeedForward::Dense(dense) => {
                dense.enqueue(self.step())?;
                self.end_layer()
            }
            FeedForward::Routed(routed) => {
                routed.route(self.step())?;
                let choices = self.read_choices(&self.scratch.choices, routed.top_k)?;
                let predicted = self.predict(layer + 1)?;
                self.running.phase = Phase::AwaitRouting(RoutingReadBack { choices, predicted });
                Ok(Progress::Moved)
            }
        }
    }

    /// Asks a layer's router ahead of time, where it has one and the answer can bring something: an expert that is not
    /// in memory.
    fn predict(&self, layer: usize) -> Result<Option<ReadBack>, BackendError> {
        let predict_top = self.model.predict_top;
        if predict_top == 0 || self.store.holds_layer(LayerIndex(layer as u32)) {
            return Ok(None);
        }
        let Some(next) = self.model.family.routed(layer) else {
            return Ok(None);
        };
        next.predict(self.step(), predict_top)?;
        self.read_choices(&self.scratch.predicted, predict_top)
            .map(Some)
    }

    fn read_choices(&self, from: &Buffer, per_row: usize) -> Result<ReadBack, BackendError> {
        let bytes = self.running.pass.tokens * per_row * Choice::BYTES;
        self.model.queue.read_back(from, 0..bytes)
    }

    /// Turns the router's choices into demand, and the prediction into a hint; then, while experts are read, the
    /// shared expert runs.
    fn take_routing(&mut self) -> Result<Progress, BackendError> {
        let Phase::AwaitRouting(pending) = &mut self.running.phase else {
            unreachable!("checked by advance")
        };
        let Some(RoutingBytes { choices, predicted }) = pending.take(&self.model.queue)? else {
            return Ok(Progress::AwaitsDevice);
        };
        let layer = self.running.layer;
        let top_k = self.model.routed(layer).top_k;
        let demand = Demand::new(layer as u32, &choices, &self.running.pass, top_k);
        self.count_prediction(&demand);
        if self.model.predict_top > 0 {
            let mut table = self.model.token_table.borrow_mut();
            table.learn(layer, &demand, &self.running.pass);
        }
        let phase = store_phase(self.kind);
        let ticket = self.store.acquire(demand.keys(), phase, Instant::now());
        self.running.phase = Phase::AwaitExperts(ExpertWork::new(ticket, demand));
        self.hint(layer as u32 + 1, predicted);
        self.model.routed(layer).shared(self.step())?;
        Ok(Progress::Moved)
    }

    /// The first layer with experts is predicted before there is any state.
    fn hint_first(&mut self) {
        let layers = 0..self.model.family.layers();
        let mut routed = layers.filter(|layer| self.model.family.routed(*layer).is_some());
        if let Some(first) = routed.next() {
            self.hint(first as u32, None);
        }
    }

    /// Tells the store what a layer will likely want: what its tokens wanted before, where they are known and the layer
    /// is among the first, else what its router says. A prompt chunk that is long wants everything, of this layer and of
    /// some behind it.
    fn hint(&mut self, layer: u32, predicted: Option<Vec<u8>>) {
        if self.model.predict_top == 0 {
            return;
        }
        let pass = &self.running.pass;
        let is_held = self.store.holds_layer(LayerIndex(layer));
        let remembered = match is_held {
            true => None,
            false => self
                .model
                .token_table
                .borrow()
                .predict(layer as usize, pass),
        };
        let prediction = match (remembered, predicted) {
            (Some(keys), _) => Some(Prediction::of(keys)),
            (None, Some(bytes)) => {
                let top = self.model.predict_top;
                Some(Prediction::new(layer, &bytes, pass, top))
            }
            (None, None) => None,
        };
        let everything = self.everything(layer).filter(|_| !is_held);
        let prediction = match (prediction, everything) {
            (Some(ranked), Some(everything)) => Some(ranked.and_then(&everything)),
            (ranked, everything) => ranked.or(everything),
        };
        let mut keys = prediction
            .as_ref()
            .map_or(vec![], |next| next.keys().to_vec());
        for beyond in (1..LAYERS_AHEAD).map_while(|turns| self.everything(layer + turns)) {
            keys.extend(beyond.keys());
        }
        self.store
            .hint(hint_source(self.kind), store_phase(self.kind), &keys);
        self.running.prediction = prediction;
    }

    /// All experts of a layer, where it has any and the pass is a long piece of a prompt.
    fn everything(&self, layer: u32) -> Option<Prediction> {
        let routed = self.model.family.routed(layer as usize)?;
        let choices = self.running.pass.tokens * routed.top_k;
        Prediction::all(layer, routed.router.rows, choices)
    }

    fn count_prediction(&mut self, demand: &Demand) {
        if let Some(prediction) = self.running.prediction.take() {
            let (chosen, predicted) = (demand.keys().len(), prediction.hits(demand));
            self.model
                .observer
                .record(&EngineEvent::Prediction { chosen, predicted });
        }
    }

    /// Runs what landed; once nothing is missing, sums and goes on.
    fn run_experts(&mut self, failed: &mut Failures) -> Result<Progress, BackendError> {
        let Phase::AwaitExperts(work) = &mut self.running.phase else {
            unreachable!("checked by advance")
        };
        let landed = work.take_landed(self.store, &self.model.catalog);
        let missing = work.missing();
        if landed.is_empty() && missing > 0 {
            return Ok(Progress::AwaitsExperts);
        }
        let routed = self.model.routed(self.running.layer);
        if !landed.groups.is_empty() {
            routed.experts(self.step(), landed.groups)?;
        }
        if !landed.pins.is_empty() {
            let done = self.model.queue.record()?;
            self.store.release(landed.pins, done);
        }
        for failure in landed.failures {
            self.fail(failure, failed);
        }
        if missing > 0 {
            return Ok(Progress::Moved);
        }
        routed.combine(self.step())?;
        self.end_layer()
    }

    /// Ends the sequences that were routed to an expert that cannot be had. Their rows hold nothing of meaning from
    /// here on, and no other row reads them.
    fn fail(&mut self, failure: ExpertFailure, failed: &mut Failures) {
        let rows = failure.rows.iter().map(|row| row.token_row as usize);
        for span in self.running.pass.spans.iter_mut().filter(|span| span.live) {
            if rows.clone().any(|row| span.rows.contains(&row)) {
                span.live = false;
                failed.push((span.id, failure.error.clone()));
            }
        }
    }

    /// Goes on to the next layer, or to the head.
    fn end_layer(&mut self) -> Result<Progress, BackendError> {
        self.running.layer += 1;
        self.running.phase = Phase::Attention;
        if self.running.layer < self.model.family.layers() {
            return Ok(Progress::LayerDone);
        }
        let pass = &self.running.pass;
        let is_sampled = pass.live_spans().any(|span| span.sample.is_some());
        let is_pooled = pass.live_spans().any(|span| span.pooled.is_some());
        let logits = is_sampled.then(|| self.read_logits()).transpose()?;
        let states = (is_pooled && !pass.pooled_rows.is_empty())
            .then(|| self.read_states())
            .transpose()?;
        if logits.is_none() && states.is_none() {
            return Ok(Progress::Finished(PassOutput::default()));
        }
        self.running.phase = Phase::AwaitOutput(OutputReadBack {
            logits,
            states,
            output: PassOutput::default(),
        });
        Ok(Progress::LayerDone)
    }

    fn read_logits(&self) -> Result<ReadBack, BackendError> {
        self.model.family.head(self.step())?;
        let rows = self.running.pass.sampled_rows.len();
        let bytes = rows * self.model.vocab * size_of::<f32>();
        self.model.queue.read_back(&self.scratch.logits, 0..bytes)
    }

    fn read_states(&self) -> Result<ReadBack, BackendError> {
        self.model.family.states(self.step())?;
        let rows = self.running.pass.pooled_rows.len();
        let bytes = rows * self.model.hidden * size_of::<f32>();
        self.model.queue.read_back(&self.scratch.normed, 0..bytes)
    }
}

/// The store tells the hints of lanes apart by this.
pub fn hint_source(kind: LaneKind) -> u32 {
    kind as u32
}

/// Who asks, as the store counts it.
pub fn store_phase(kind: LaneKind) -> StorePhase {
    match kind {
        LaneKind::Prefill => StorePhase::Prefill,
        LaneKind::Decode => StorePhase::Decode,
    }
}
