//! Writes down which experts are asked for, for `odmoe trace`. No token and no text is in it.

use odmoe_bench::recording::{self, Kind};
use odmoe_engine::{EngineEvent, EngineObserver};
use odmoe_expert_store::{Phase, StoreEvent};
use odmoe_formats::ExpertKey;
use odmoe_formats::manifest::Manifest;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

/// Passes that may wait for the disk; a recording that falls further behind ends.
const PASSES_MAX: usize = 4096;
/// A recording ends here: at two kilobytes a token, half a million tokens.
const BYTES_MAX: u64 = 1 << 30;

/// Records beside another observer, on the engine's thread; a thread of its own writes.
pub struct Recorder {
    inner: Arc<dyn EngineObserver>,
    state: Mutex<State>,
}

struct State {
    /// The demand whose lookups come now.
    demand: Option<(Phase, Vec<ExpertKey>)>,
    /// Since the last pass.
    bytes: Vec<u8>,
    /// None once the recording has ended.
    writer: Option<SyncSender<Vec<u8>>>,
    left: u64,
}

impl Recorder {
    /// Begins a recording in a new file, or over an old one.
    pub fn begin(
        path: &Path,
        manifest: &Manifest,
        inner: Arc<dyn EngineObserver>,
    ) -> io::Result<Arc<Self>> {
        let mut file = File::create(path)?;
        file.write_all(&recording::header(&experts_by_layer(manifest)))?;
        let (writer, passes) = sync_channel(PASSES_MAX);
        let path = path.to_owned();
        std::thread::Builder::new()
            .name("odmoe-trace".to_owned())
            .spawn(move || write(&mut file, &passes, &path))?;
        let state = State {
            demand: None,
            bytes: Vec::new(),
            writer: Some(writer),
            left: BYTES_MAX,
        };
        Ok(Arc::new(Self {
            inner,
            state: Mutex::new(state),
        }))
    }
}

/// Routed experts of each layer of the model.
fn experts_by_layer(manifest: &Manifest) -> Vec<u32> {
    let mut experts = vec![0; manifest.config.num_hidden_layers as usize];
    for object in &manifest.objects {
        if let Some(count) = experts.get_mut(object.key.layer.0 as usize) {
            *count = (object.key.index.0 + 1).max(*count);
        }
    }
    experts
}

/// Until the recorder is gone or the disk refuses.
fn write(file: &mut File, passes: &Receiver<Vec<u8>>, path: &Path) {
    for pass in passes {
        if let Err(error) = file.write_all(&pass) {
            tracing::warn!(path = %path.display(), %error, "the routing trace ends here");
            return;
        }
    }
}

impl State {
    fn record(&mut self, event: &EngineEvent) {
        match event {
            EngineEvent::Store(StoreEvent::Lookup { phase, key, .. }) => self.look_up(*phase, *key),
            EngineEvent::Store(StoreEvent::Hinted { phase, keys }) => {
                self.end_demand();
                recording::append(Kind::Hint(*phase), keys, &mut self.bytes);
            }
            EngineEvent::Step { .. } => self.end_pass(),
            _ => {}
        }
    }

    /// A demand's lookups come in ascending order, one after the other.
    fn look_up(&mut self, phase: Phase, key: ExpertKey) {
        let goes_on = |demand: &(Phase, Vec<ExpertKey>)| {
            let last = demand.1.last();
            demand.0 == phase && last.is_some_and(|last| last.layer == key.layer && *last < key)
        };
        if !self.demand.as_ref().is_some_and(goes_on) {
            self.end_demand();
            self.demand = Some((phase, Vec::new()));
        }
        if let Some((_, keys)) = &mut self.demand {
            keys.push(key);
        }
    }

    fn end_demand(&mut self) {
        if let Some((phase, keys)) = self.demand.take() {
            recording::append(Kind::Demand(phase), &keys, &mut self.bytes);
        }
    }

    fn end_pass(&mut self) {
        self.end_demand();
        let pass = std::mem::take(&mut self.bytes);
        let Some(writer) = &self.writer else { return };
        self.left = self.left.saturating_sub(pass.len() as u64);
        if self.left == 0 || writer.try_send(pass).is_err() {
            tracing::warn!("the routing trace ends here: it is full, or the disk does not follow");
            self.writer = None;
        }
    }
}

impl EngineObserver for Recorder {
    fn record(&self, event: &EngineEvent) {
        self.inner.record(event);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.record(event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use odmoe_expert_store::LookupResult;

    #[test]
    fn lookups_become_demands_and_a_pass_goes_out_at_its_end() {
        let (writer, passes) = sync_channel(1);
        let mut state = State {
            demand: None,
            bytes: Vec::new(),
            writer: Some(writer),
            left: 1000,
        };
        let look_up = |state: &mut State, layer, index| {
            let lookup = StoreEvent::Lookup {
                phase: Phase::Decode,
                result: LookupResult::Hit,
                key: ExpertKey::routed(layer, index),
            };
            state.record(&EngineEvent::Store(lookup));
        };
        let keys = vec![ExpertKey::routed(1, 3)];
        // The same layer again, but not ascending: another demand.
        for (layer, index) in [(0, 1), (0, 4), (0, 2), (1, 3)] {
            look_up(&mut state, layer, index);
        }
        let phase = Phase::Decode;
        state.record(&EngineEvent::Store(StoreEvent::Hinted { phase, keys }));
        assert!(passes.try_recv().is_err(), "the pass is not over");
        let step = EngineEvent::Step {
            tokens: 1,
            prefill: false,
        };
        state.record(&step);
        let bytes = [recording::header(&[8, 8]), passes.try_recv().unwrap()].concat();
        let found = recording::Recording::read(&bytes).unwrap();
        let widths: Vec<usize> = found.steps.iter().map(|step| step.keys.len()).collect();
        assert_eq!((widths, found.hints.len()), (vec![2, 1, 1], 1));

        // A writer that does not follow ends the recording, and costs nothing more.
        for _ in 0..3 {
            look_up(&mut state, 0, 0);
            state.record(&step);
        }
        assert!(state.writer.is_none() && state.bytes.is_empty());
    }
}
