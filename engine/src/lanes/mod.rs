//! Lanes: the decode batch and the prompt chunk as resumable cursors over layers.
//!
//! A lane never blocks. [`Lane::advance`] enqueues what can be enqueued and says what it waits for; the step loop
//! runs the other lane meanwhile. Within a layer, experts run in the order in which they arrive and are summed in
//! the order of their index, so arrival never changes a bit.

mod experts;
mod routing;

use crate::api::{EngineEvent, EngineObserver, RequestId, StartError};
use crate::model::pass::Pass;
use crate::model::queue::Queue;
use crate::model::scratch::{Scratch, ScratchShape};
use crate::model::{Family, FeedForward, Step};
use crate::scheduler::LaneKind;
use experts::{ExpertFailure, ExpertWork};
use odmoe_backend::{Backend, BackendError, KvCache, ReadBack};
use odmoe_expert_store::{Catalog, ExpertStore, LoadError, Phase as StorePhase};
use routing::{Demand, Prediction};
use std::sync::Arc;
use std::time::Instant;

/// What lanes share: the model, and where it runs.
pub struct Model {
    /// The layer program.
    pub family: Box<dyn Family>,
    /// Where ops go.
    pub queue: Queue,
    /// Keys and values.
    pub kv: KvCache,
    /// The layouts of paged experts.
    pub catalog: Arc<Catalog>,
    /// V.
    pub vocab: usize,
    /// P; 0 predicts nothing.
    pub predict_top: usize,
    /// Who counts.
    pub observer: Arc<dyn EngineObserver>,
}

/// What came of [`Lane::advance`].
#[derive(Debug)]
pub enum Progress {
    /// Something was done, more can be.
    Moved,
    /// A layer is behind the lane.
    LayerDone,
    /// A read-back is under way.
    AwaitsDevice,
    /// Experts are being read.
    AwaitsExperts,
    /// The pass is over; the logits [S, V] of its sampled rows, little-endian F32.
    Finished(Vec<u8>),
}

/// One lane with its buffers, and the pass that is in it, if any.
pub struct Lane {
    kind: LaneKind,
    scratch: Scratch,
    running: Option<Running>,
}

struct Running {
    pass: Pass,
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
    /// The logits are on their way to the host.
    AwaitLogits(ReadBack),
}

/// Choices and predictions on their way. Both are copied in stream order, so one wait covers them.
struct RoutingReadBack {
    choices: ReadBack,
    predicted: Option<ReadBack>,
}

impl Lane {
    /// An empty lane with buffers for the most rows that it can have.
    pub fn new(
        kind: LaneKind,
        backend: &dyn Backend,
        shape: &ScratchShape,
    ) -> Result<Self, StartError> {
        Ok(Self {
            kind,
            scratch: Scratch::allocate(backend, shape)?,
            running: None,
        })
    }

    /// Puts a pass in. The lane must be empty.
    pub fn begin(&mut self, pass: Pass) {
        assert!(self.running.is_none(), "{:?} lane is taken", self.kind);
        self.running = Some(Running {
            pass,
            layer: 0,
            phase: Phase::Attention,
            prediction: None,
        });
    }

    /// The pass, if one is in.
    pub fn pass(&self) -> Option<&Pass> {
        self.running.as_ref().map(|running| &running.pass)
    }

    /// Whether it waits for experts.
    pub fn awaits_experts(&self) -> bool {
        matches!(
            &self.running,
            Some(Running {
                phase: Phase::AwaitExperts(_),
                ..
            })
        )
    }

    /// Marks a sequence's rows as unwanted.
    pub fn end_sequence(&mut self, id: RequestId) {
        if let Some(running) = &mut self.running {
            running.pass.end(id);
        }
    }

    /// Takes the finished pass out.
    pub fn take(&mut self) -> Pass {
        self.running.take().expect("a pass to take").pass
    }

    /// Drops the pass wherever it stands.
    pub fn abort(&mut self, store: &mut ExpertStore) {
        if let Some(Running {
            phase: Phase::AwaitExperts(work),
            ..
        }) = self.running.take()
        {
            store.cancel(work.ticket());
        }
        store.hint(self.hint_source(), &[]);
    }

    /// Does the next thing of the pass, without waiting. Sequences whose experts cannot be had are added to `failed`
    /// and end here; the others go on.
    pub fn advance(
        &mut self,
        model: &Model,
        store: &mut ExpertStore,
        failed: &mut Vec<(RequestId, LoadError)>,
    ) -> Result<Progress, BackendError> {
        let hint_source = self.hint_source();
        let phase = store_phase(self.kind);
        let running = self.running.as_mut().expect("a pass to advance");
        let mut cursor = Cursor {
            model,
            store,
            scratch: &self.scratch,
            running,
            hint_source,
            phase,
        };
        cursor.advance(failed)
    }

    fn hint_source(&self) -> u32 {
        self.kind as u32
    }
}

fn store_phase(kind: LaneKind) -> StorePhase {
    match kind {
        LaneKind::Prefill => StorePhase::Prefill,
        LaneKind::Decode => StorePhase::Decode,
    }
}

/// A lane's pass with all that it works on.
struct Cursor<'a> {
    model: &'a Model,
    store: &'a mut ExpertStore,
    scratch: &'a Scratch,
    running: &'a mut Running,
    hint_source: u32,
    phase: StorePhase,
}

impl Cursor<'_> {
    fn advance(
        &mut self,
        failed: &mut Vec<(RequestId, LoadError)>,
    ) -> Result<Progress, BackendError> {
        match &mut self.running.phase {
            Phase::Attention => self.attend(),
            Phase::AwaitRouting(_) => self.take_routing(),
            Phase::AwaitExperts(_) => self.run_experts(failed),
            Phase::AwaitLogits(logits) => match self.model.queue.take(logits)? {
                Some(logits) => Ok(Progress::Finished(logits)),
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

    /// Asks a layer's router ahead of time, where it has one.
    fn predict(&self, layer: usize) -> Result<Option<ReadBack>, BackendError> {
        let predict_top = self.model.predict_top;
        let Some(next) = self.model.family.routed(layer).filter(|_| predict_top > 0) else {
            return Ok(None);
        };
        next.predict(self.step(), predict_top)?;
        self.read_choices(&self.scratch.predicted, predict_top)
            .map(Some)
    }

    fn read_choices(
        &self,
        from: &odmoe_backend::Buffer,
        per_row: usize,
    ) -> Result<ReadBack, BackendError> {
        let bytes = self.running.pass.tokens * per_row * odmoe_backend::Choice::BYTES;
        self.model.queue.read_back(from, 0..bytes)
    }

    /// Turns the router's choices into demand, and the prediction into a hint.
    fn take_routing(&mut self) -> Result<Progress, BackendError> {
        let Phase::AwaitRouting(pending) = &mut self.running.phase else {
            unreachable!("checked by advance")
        };
        let queue = &self.model.queue;
        // The last copy of the two: once it is there, so is the other.
        let last = pending.predicted.as_mut().unwrap_or(&mut pending.choices);
        let Some(bytes) = queue.take(last)? else {
            return Ok(Progress::AwaitsDevice);
        };
        let (choices, predicted) = match pending.predicted.is_some() {
            true => (
                queue
                    .take(&mut pending.choices)?
                    .expect("copied in stream order"),
                Some(bytes),
            ),
            false => (bytes, None),
        };
        let layer = self.running.layer as u32;
        let demand = Demand::new(layer, &choices, &self.running.pass, self.top_k());
        self.count_prediction(&demand);
        let ticket = self
            .store
            .acquire(demand.keys(), self.phase, Instant::now());
        self.running.phase = Phase::AwaitExperts(ExpertWork::new(ticket, demand));
        self.hint(layer + 1, predicted);
        Ok(Progress::Moved)
    }

    fn top_k(&self) -> usize {
        self.model
            .family
            .routed(self.running.layer)
            .expect("a routed layer")
            .top_k
    }

    fn hint(&mut self, layer: u32, predicted: Option<Vec<u8>>) {
        if self.model.predict_top == 0 {
            return;
        }
        let pass = &self.running.pass;
        let prediction =
            predicted.map(|bytes| Prediction::new(layer, &bytes, pass, self.model.predict_top));
        self.store.hint(
            self.hint_source,
            prediction.as_ref().map_or(&[], |p| p.keys()),
        );
        self.running.prediction = prediction;
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
    fn run_experts(
        &mut self,
        failed: &mut Vec<(RequestId, LoadError)>,
    ) -> Result<Progress, BackendError> {
        let Phase::AwaitExperts(work) = &mut self.running.phase else {
            unreachable!("checked by advance")
        };
        let landed = work.take_landed(self.store, &self.model.catalog);
        let missing = work.missing();
        if landed.is_empty() && missing > 0 {
            return Ok(Progress::AwaitsExperts);
        }
        let layer = self.running.layer;
        let routed = self.model.family.routed(layer).expect("a routed layer");
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
    fn fail(&mut self, failure: ExpertFailure, failed: &mut Vec<(RequestId, LoadError)>) {
        for span in self.running.pass.spans.iter_mut().filter(|span| span.live) {
            if failure
                .rows
                .iter()
                .any(|row| span.rows.contains(&(row.token_row as usize)))
            {
                span.live = false;
                failed.push((span.id, failure.error.clone()));
            }
        }
    }

    fn end_layer(&mut self) -> Result<Progress, BackendError> {
        self.running.layer += 1;
        self.running.phase = Phase::Attention;
        if self.running.layer < self.model.family.layers() {
            return Ok(Progress::LayerDone);
        }
        if self
            .running
            .pass
            .live_spans()
            .all(|span| span.sample.is_none())
        {
            return Ok(Progress::Finished(Vec::new()));
        }
        self.model.family.head(self.step())?;
        let logits = &self.scratch.logits;
        let bytes = self.running.pass.sampled_rows.len() * self.model.vocab * size_of::<f32>();
        self.running.phase = Phase::AwaitLogits(self.model.queue.read_back(logits, 0..bytes)?);
        Ok(Progress::LayerDone)
    }
}
