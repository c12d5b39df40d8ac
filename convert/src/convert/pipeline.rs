//! The threads of a conversion: some that each take one unit after another, one that hashes the source, one that makes
//! sure of what is written. The caller's thread tells the progress.

use super::base_files::BaseFiles;
use super::frontier::Frontier;
use super::journal::{Journal, Record, Records};
use super::keeper::{self, ToKeep, WrittenPart};
use super::plan::Plan;
use super::provenance::hash_sources;
use super::steps::Steps;
use super::store_writer::StoreWriter;
use super::units::{Unit, Work};
use super::worker::Worker;
use super::{ConvertError, units};
use crate::progress::Progress;
use crate::source::ModelSource;
use odmoe_formats::checksum::Xxh3;
use odmoe_formats::manifest::SourceFile;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread;

/// Two at least, so that one reads while another writes. Each has buffers of some 10 MiB.
const WORKERS: std::ops::RangeInclusive<usize> = 2..=16;
/// Written parts that may wait to be made sure of; whoever has one more waits too.
const WAITING_PARTS: usize = 16;

/// What a conversion begins with.
pub(super) struct Begun<'a> {
    pub source: &'a dyn ModelSource,
    pub plan: &'a Plan,
    pub work: &'a Work,
    pub writer: &'a StoreWriter<'a>,
    /// Of an earlier attempt.
    pub records: &'a Records,
}

/// What it ends with, but for the manifest.
pub(super) struct Outcome {
    /// One for each unit.
    pub digests: Vec<Xxh3>,
    /// Bytes that an earlier attempt had written.
    pub reused_bytes: u64,
    pub sources: Vec<SourceFile>,
}

/// What the threads tell the caller's.
pub(super) enum Event {
    /// Bytes of a step of the store.
    Stored { step: usize, bytes: u64 },
    /// Bytes of the source.
    Hashed(u64),
    /// A unit is done.
    Done {
        unit: usize,
        digest: Xxh3,
        reused: bool,
    },
    /// A thread has ended.
    Ended,
}

/// What all threads share.
pub(super) struct Pipeline<'a> {
    pub source: &'a dyn ModelSource,
    pub plan: &'a Plan,
    pub writer: &'a StoreWriter<'a>,
    pub records: &'a Records,
    pub base: BaseFiles,
    pub frontier: Frontier,
    units: &'a [Unit],
    next: AtomicUsize,
    events: Sender<Event>,
    to_keep: SyncSender<ToKeep>,
    stopped: AtomicBool,
    failure: Mutex<Option<ConvertError>>,
}

impl Pipeline<'_> {
    /// The next unit that nobody has taken.
    pub fn next_unit(&self) -> Option<(usize, &Unit)> {
        let index = self.next.fetch_add(1, Ordering::Relaxed);
        self.units.get(index).map(|unit| (index, unit))
    }

    /// Tells the caller's thread.
    pub fn tell(&self, event: Event) {
        // It listens until every thread has ended.
        let _ = self.events.send(event);
    }

    /// Hands over a part that is written, but not yet known to be on disk.
    pub fn written(&self, part: WrittenPart) -> Result<(), ConvertError> {
        self.hand_over(ToKeep::Part(part))
    }

    /// Hands over something to be recorded.
    pub fn record(&self, record: Record) -> Result<(), ConvertError> {
        self.hand_over(ToKeep::Record(record))
    }

    fn hand_over(&self, what: ToKeep) -> Result<(), ConvertError> {
        // The keeper is gone only after it failed, and its error is the one that counts.
        let sent = self.to_keep.send(what);
        sent.map_err(|_| ConvertError::Cancelled)
    }

    /// Fails where the work has been given up.
    pub fn check_going(&self) -> Result<(), ConvertError> {
        match self.stopped.load(Ordering::Relaxed) {
            true => Err(ConvertError::Cancelled),
            false => Ok(()),
        }
    }

    /// Gives up. The first error is the one that the caller gets.
    fn fail(&self, error: ConvertError) {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.get_or_insert(error);
        self.stop();
    }

    fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
        self.frontier.stop();
    }

    /// The body of a thread: an error or a panic stops the others, and the end of either is told.
    fn run<T>(&self, body: impl FnOnce() -> Result<T, ConvertError>) -> Option<T> {
        struct Ending<'a, 'b>(&'a Pipeline<'b>);
        impl Drop for Ending<'_, '_> {
            fn drop(&mut self) {
                if thread::panicking() {
                    // The unit that it was at will never be done.
                    self.0.stop();
                }
                self.0.tell(Event::Ended);
            }
        }
        let _ending = Ending(self);
        body().map_err(|error| self.fail(error)).ok()
    }
}

/// Does all the work; on success every part is on disk and its record in the journal.
pub(super) fn run(
    begun: &Begun<'_>,
    journal: Journal,
    progress: &dyn Progress,
) -> Result<Outcome, ConvertError> {
    let (events, received) = channel();
    let (to_keep, kept) = sync_channel(WAITING_PARTS);
    let (mut steps, base) = begin_steps(begun, progress)?;
    let pipeline = Pipeline {
        source: begun.source,
        plan: begun.plan,
        writer: begun.writer,
        records: begun.records,
        base,
        frontier: Frontier::new(&begun.work.units),
        units: &begun.work.units,
        next: AtomicUsize::new(0),
        events,
        to_keep,
        stopped: AtomicBool::new(false),
        failure: Mutex::new(None),
    };
    let (told, sources) = thread::scope(|scope| {
        let pipeline = &pipeline;
        scope.spawn(move || pipeline.run(|| keeper::run(begun.writer, journal, &kept)));
        let workers = worker_count();
        for _ in 0..workers {
            scope.spawn(|| pipeline.run(|| Worker::new(pipeline).run()));
        }
        let hasher = scope.spawn(|| pipeline.run(|| hash_sources(pipeline)));
        let mut told = Told::new(begun.work);
        told.follow(pipeline, &received, &mut steps, workers + 1);
        // Nothing more comes; where the keeper has failed it is gone already.
        let _ = pipeline.to_keep.send(ToKeep::End);
        told.follow(pipeline, &received, &mut steps, 1);
        (told, hasher.join().ok().flatten())
    });
    let failure = pipeline.failure.into_inner();
    if let Some(error) = failure.unwrap_or_else(PoisonError::into_inner) {
        return Err(error);
    }
    let digests: Option<Vec<Xxh3>> = told.digests.into_iter().collect();
    Ok(Outcome {
        digests: digests.expect("every unit was done"),
        reused_bytes: told.reused_bytes,
        sources: sources.expect("the hasher did not fail"),
    })
}

fn worker_count() -> usize {
    let cores = thread::available_parallelism().map_or(1, |cores| cores.get());
    cores.clamp(*WORKERS.start(), *WORKERS.end())
}

/// The base's files with their headers, and the progress of it.
fn begin_steps<'a>(
    begun: &Begun<'_>,
    progress: &'a dyn Progress,
) -> Result<(Steps<'a>, BaseFiles), ConvertError> {
    let source_bytes = begun.source.files().iter().map(|file| file.bytes).sum();
    let mut names = begun.work.steps.clone();
    names.push(("source checksums".into(), source_bytes));
    let mut steps = Steps::begin(progress, names)?;
    let base = BaseFiles::make(begun, units::base_files(begun.plan))?;
    steps.advance(0, base.frame_bytes())?;
    Ok((steps, base))
}

/// What the threads have told so far.
struct Told<'a> {
    units: &'a [Unit],
    hash_step: usize,
    digests: Vec<Option<Xxh3>>,
    reused_bytes: u64,
}

impl<'a> Told<'a> {
    fn new(work: &'a Work) -> Self {
        Self {
            units: &work.units,
            hash_step: work.steps.len(),
            digests: vec![None; work.units.len()],
            reused_bytes: 0,
        }
    }

    /// Takes in what is told until so many threads have ended.
    fn follow(
        &mut self,
        pipeline: &Pipeline<'_>,
        received: &Receiver<Event>,
        steps: &mut Steps<'_>,
        threads: usize,
    ) {
        let mut running = threads;
        while running > 0 {
            let event = received.recv().expect("the pipeline holds a sender");
            let (step, bytes) = match event {
                Event::Ended => {
                    running -= 1;
                    continue;
                }
                Event::Done {
                    unit,
                    digest,
                    reused,
                } => {
                    self.digests[unit] = Some(digest);
                    self.reused_bytes += if reused { self.units[unit].bytes } else { 0 };
                    continue;
                }
                Event::Stored { step, bytes } => (step, bytes),
                Event::Hashed(bytes) => (self.hash_step, bytes),
            };
            // Whoever asked for the end is not told any more.
            if pipeline.check_going().is_ok()
                && let Err(cancelled) = steps.advance(step, bytes)
            {
                pipeline.fail(cancelled.into());
            }
        }
    }
}
