//! Lanes: the decode batch and the prompt chunk as resumable cursors over layers.
//!
//! A lane never blocks. [`Lane::advance`] enqueues what can be enqueued and says what it waits for; the step loop
//! runs the other lane meanwhile. Within a layer, experts run in the order in which they arrive and are summed in
//! the order of their index, so arrival never changes a bit.

mod cursor;
mod experts;
mod routing;
mod token_table;

use crate::api::{EngineObserver, RequestId, StartError};
use crate::model::Family;
use crate::model::layers::RoutedLayer;
use crate::model::pass::Pass;
use crate::model::queue::Queue;
use crate::model::scratch::{Scratch, ScratchShape};
use crate::scheduler::LaneKind;
use cursor::{Cursor, Failures, Running, hint_source, store_phase};
use odmoe_backend::{Backend, BackendError, KvCache};
use odmoe_expert_store::{Catalog, ExpertStore};
use std::cell::RefCell;
use std::sync::Arc;
pub use token_table::TokenTable;

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
    /// H.
    pub hidden: usize,
    /// P; 0 predicts nothing.
    pub predict_top: usize,
    /// What tokens asked the first layers for; empty where nothing is predicted.
    pub token_table: RefCell<TokenTable>,
    /// Who counts.
    pub observer: Arc<dyn EngineObserver>,
}

impl Model {
    /// The routed experts of a layer that has them.
    fn routed(&self, layer: usize) -> &RoutedLayer {
        self.family
            .routed(layer)
            .expect("a layer with routed experts")
    }
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
    /// The pass is over.
    Finished(PassOutput),
}

/// What a pass was for, in little-endian F32. Empty where no live sequence wants it.
#[derive(Debug, Default)]
pub struct PassOutput {
    /// [S, V] of its sampled rows.
    pub logits: Vec<u8>,
    /// [N, H] of its pooled rows, as the head sees them.
    pub states: Vec<u8>,
}

/// One lane with its buffers, and the pass that is in it, if any.
pub struct Lane {
    kind: LaneKind,
    scratch: Scratch,
    running: Option<Running>,
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
        self.running = Some(Running::new(pass));
    }

    /// The pass, if one is in.
    pub fn pass(&self) -> Option<&Pass> {
        self.running.as_ref().map(|running| &running.pass)
    }

    /// Whether it waits for experts.
    pub fn awaits_experts(&self) -> bool {
        self.running
            .as_ref()
            .is_some_and(|running| running.expert_work().is_some())
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
        let running = self.running.take().expect("a pass to drop");
        if let Some(work) = running.expert_work() {
            store.cancel(work.ticket());
        }
        store.hint(hint_source(self.kind), store_phase(self.kind), &[]);
    }

    /// Does the next thing of the pass, without waiting. Sequences whose experts cannot be had are added to `failed`
    /// and end here; the others go on.
    pub fn advance(
        &mut self,
        model: &Model,
        store: &mut ExpertStore,
        failed: &mut Failures,
    ) -> Result<Progress, BackendError> {
        let running = self.running.as_mut().expect("a pass to advance");
        let (scratch, kind) = (&self.scratch, self.kind);
        Cursor {
            model,
            store,
            scratch,
            running,
            kind,
        }
        .advance(failed)
    }
}
