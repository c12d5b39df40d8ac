//! Tells which experts are asked for to whoever records it, for `odmoe trace`. No token and no text is in it.

use odmoe_bench::recording::{self, Kind};
use odmoe_engine::{EngineEvent, EngineObserver};
use odmoe_expert_store::{Phase, StoreEvent};
use odmoe_formats::ExpertKey;
use odmoe_formats::manifest::Manifest;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::mpsc::{Receiver, Sender, channel};

/// Passes that may wait for whoever writes them; a recording that falls further behind ends.
const PASSES_MAX: usize = 4096;
/// A recording ends here: at two kilobytes a token, half a million tokens.
const BYTES_MAX: u64 = 1 << 30;
/// Recordings at once.
const RECORDINGS_MAX: usize = 4;

/// An observer beside another, on the engine's thread. While nobody records it costs a look at a flag.
pub struct Recorder {
    inner: Arc<dyn EngineObserver>,
    header: Vec<u8>,
    records: AtomicBool,
    state: Mutex<State>,
}

/// What is computed from now on, for as long as the receiver lives.
pub struct Live {
    /// The first bytes of the trace.
    pub header: Vec<u8>,
    /// The others, a pass at a time. It ends with the recording.
    pub passes: Receiver<Arc<[u8]>>,
}

#[derive(Default)]
struct State {
    /// The demand whose lookups come now.
    demand: Option<(Phase, Vec<ExpertKey>)>,
    /// Since the last pass.
    bytes: Vec<u8>,
    writers: Vec<Writer>,
}

struct Writer {
    passes: Sender<Arc<[u8]>>,
    left: u64,
}

impl Recorder {
    /// Nobody records yet. `experts`: routed experts of each layer, see [`experts_by_layer`].
    pub fn new(experts: &[u32], inner: Arc<dyn EngineObserver>) -> Arc<Self> {
        Arc::new(Self {
            inner,
            header: recording::header(experts),
            records: AtomicBool::new(false),
            state: Mutex::default(),
        })
    }

    /// Begins a recording; None while as many as may be are under way.
    pub fn begin(&self) -> Option<Live> {
        let mut state = self.state();
        state.writers.retain(|writer| !writer.passes.is_closed());
        if state.writers.len() == RECORDINGS_MAX {
            return None;
        }
        let (sender, passes) = channel(PASSES_MAX);
        state.writers.push(Writer {
            passes: sender,
            left: BYTES_MAX,
        });
        self.records.store(true, Ordering::Relaxed);
        let header = self.header.clone();
        Some(Live { header, passes })
    }

    /// Begins a recording in a new file, or over an old one.
    pub fn begin_file(&self, path: &Path) -> io::Result<()> {
        let mut file = File::create(path)?;
        let live = self.begin();
        let Live { header, mut passes } = live.ok_or(io::ErrorKind::ResourceBusy)?;
        file.write_all(&header)?;
        let path = path.to_owned();
        let write = move || {
            while let Some(pass) = passes.blocking_recv() {
                if let Err(error) = file.write_all(&pass) {
                    tracing::warn!(path = %path.display(), %error, "the routing trace ends here");
                    return;
                }
            }
        };
        std::thread::Builder::new()
            .name("odmoe-trace".to_owned())
            .spawn(write)?;
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Routed experts of each layer of a model; 0 for a dense one.
pub fn experts_by_layer(manifest: &Manifest) -> Vec<u32> {
    let mut experts = vec![0; manifest.config.num_hidden_layers as usize];
    for object in &manifest.objects {
        if let Some(count) = experts.get_mut(object.key.layer.0 as usize) {
            *count = (object.key.index.0 + 1).max(*count);
        }
    }
    experts
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
        let pass: Arc<[u8]> = std::mem::take(&mut self.bytes).into();
        self.writers.retain_mut(|writer| writer.take(&pass));
    }
}

impl Writer {
    /// Whether it goes on after this pass.
    fn take(&mut self, pass: &Arc<[u8]>) -> bool {
        if self.passes.is_closed() {
            return false;
        }
        self.left = self.left.saturating_sub(pass.len() as u64);
        let goes_on = self.left > 0 && self.passes.try_send(Arc::clone(pass)).is_ok();
        if !goes_on {
            tracing::warn!("a routing trace ends here: it is full, or its reader does not follow");
        }
        goes_on
    }
}

impl EngineObserver for Recorder {
    fn record(&self, event: &EngineEvent) {
        self.inner.record(event);
        if !self.records.load(Ordering::Relaxed) {
            return;
        }
        let mut state = self.state();
        state.record(event);
        if state.writers.is_empty() {
            *state = State::default();
            self.records.store(false, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use odmoe_expert_store::LookupResult;

    struct Nobody;

    impl EngineObserver for Nobody {
        fn record(&self, _: &EngineEvent) {}
    }

    fn recorder() -> Arc<Recorder> {
        Recorder::new(&[8, 8], Arc::new(Nobody))
    }

    fn look_up(recorder: &Recorder, layer: u32, index: u32) {
        recorder.record(&EngineEvent::Store(StoreEvent::Lookup {
            phase: Phase::Decode,
            result: LookupResult::Hit,
            key: ExpertKey::routed(layer, index),
        }));
    }

    fn end_pass(recorder: &Recorder) {
        recorder.record(&EngineEvent::Step {
            tokens: 1,
            prefill: false,
        });
    }

    #[test]
    fn lookups_become_demands_and_a_pass_goes_out_at_its_end() {
        let recorder = recorder();
        look_up(&recorder, 1, 7);
        let mut live = recorder.begin().expect("nobody records");
        // The same layer again, but not ascending: another demand.
        for (layer, index) in [(0, 1), (0, 4), (0, 2), (1, 3)] {
            look_up(&recorder, layer, index);
        }
        let (phase, keys) = (Phase::Decode, vec![ExpertKey::routed(1, 3)]);
        recorder.record(&EngineEvent::Store(StoreEvent::Hinted { phase, keys }));
        assert!(live.passes.try_recv().is_err(), "the pass is not over");
        end_pass(&recorder);
        let bytes = [&live.header[..], &live.passes.try_recv().unwrap()].concat();
        let found = recording::Recording::read(&bytes).unwrap();
        let widths: Vec<usize> = found.steps.iter().map(|step| step.keys.len()).collect();
        assert_eq!((widths, found.hints.len()), (vec![2, 1, 1], 1));
    }

    #[test]
    fn who_does_not_follow_or_goes_away_costs_nothing_more() {
        let recorder = recorder();
        let slow = recorder.begin().expect("the first");
        let gone = recorder.begin().expect("the second");
        let mut follows = recorder.begin().expect("the third");
        drop(gone);
        for _ in 0..=PASSES_MAX {
            look_up(&recorder, 0, 0);
            end_pass(&recorder);
            assert!(follows.passes.try_recv().is_ok());
        }
        assert_eq!(recorder.state().writers.len(), 1, "one follows");
        drop((slow, follows));
        end_pass(&recorder);
        assert!(!recorder.records.load(Ordering::Relaxed));
        look_up(&recorder, 0, 0);
        assert!(recorder.state().demand.is_none(), "nobody records");
    }

    #[test]
    fn so_many_at_once_and_no_more() {
        let recorder = recorder();
        let mut live: Vec<Live> = (0..RECORDINGS_MAX)
            .filter_map(|_| recorder.begin())
            .collect();
        assert_eq!(live.len(), RECORDINGS_MAX);
        assert!(recorder.begin().is_none());
        live.pop();
        assert!(recorder.begin().is_some(), "a place is free");
    }
}
