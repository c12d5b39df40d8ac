//! A bounded pool of reader threads: takes the most urgent read, fills its slot, verifies it, reports.

use crate::api::{LoadError, ReadError, ShardReader};
use crate::catalog::Catalog;
use crate::io::{AlignedBuffer, HostSlot};
use crate::residency::{Priority, ReadId, ReadReport};
use odmoe_backend::{HostWindow, Waker};
use odmoe_formats::ExpertKey;
use odmoe_formats::checksum::Xxh3;
use odmoe_formats::manifest::PageableObject;
use std::collections::{BTreeMap, HashMap};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::Instant;

/// Where a read's bytes go. It belongs to the reader until the report.
pub(crate) enum Target {
    /// A slot of a backend whose memory the host can address.
    Window(HostWindow),
    /// A slot of the host tier.
    Host(HostSlot),
}

impl Target {
    fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            Self::Window(window) => window.bytes_mut(),
            Self::Host(slot) => slot.bytes_mut(),
        }
    }

    /// Ends the write; what is left goes back to the store.
    fn finish(self) -> Option<HostSlot> {
        match self {
            Self::Window(window) => {
                drop(window);
                None
            }
            Self::Host(slot) => Some(slot),
        }
    }
}

/// One thing for a reader to do.
pub(crate) enum Job {
    /// Fill a slot with an object and verify it.
    Read {
        read: ReadId,
        key: ExpertKey,
        target: Target,
    },
    /// See whether an object's first bytes can be read.
    Probe { key: ExpertKey },
}

/// What became of a job.
pub(crate) enum Report {
    Started {
        read: ReadId,
        at: Instant,
    },
    Ended {
        read: ReadId,
        outcome: Outcome,
        slot: Option<HostSlot>,
        at: Instant,
    },
    Probed {
        result: Result<(), LoadError>,
        at: Instant,
    },
}

/// How a read ended.
pub(crate) struct Outcome {
    pub key: ExpertKey,
    pub result: Result<ReadReport, LoadError>,
    /// Whether the bytes were wrong the first time.
    pub reread: bool,
}

/// The most urgent first, then the oldest.
type Place = (Priority, u64);

#[derive(Default)]
struct Queue {
    jobs: BTreeMap<Place, Job>,
    places: HashMap<ReadId, Place>,
    last: u64,
    closed: bool,
}

struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue
            .lock()
            .expect("no reader panics while it holds the queue")
    }

    /// The next job, or None once the pool is closed.
    fn next(&self) -> Option<Job> {
        let mut queue = self.lock();
        loop {
            if queue.closed {
                return None;
            }
            if let Some((_, job)) = queue.jobs.pop_first() {
                if let Job::Read { read, .. } = &job {
                    queue.places.remove(read);
                }
                return Some(job);
            }
            queue = self
                .changed
                .wait(queue)
                .expect("no reader panics while it holds the queue");
        }
    }
}

/// Threads that read. Dropping it ends those that are idle; one inside a read ends when the read does.
pub(crate) struct ReaderPool {
    shared: Arc<Shared>,
    reports: Receiver<Report>,
}

impl ReaderPool {
    pub fn start(
        readers: usize,
        catalog: &Arc<Catalog>,
        reader: &Arc<dyn ShardReader>,
        waker: &Waker,
    ) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            changed: Condvar::new(),
        });
        let (sender, reports) = mpsc::channel();
        let pool = Self { shared, reports };
        for index in 0..readers {
            let worker = Worker {
                shared: pool.shared.clone(),
                catalog: catalog.clone(),
                reader: reader.clone(),
                reports: sender.clone(),
                waker: waker.clone(),
            };
            thread::Builder::new()
                .name(format!("odmoe-read-{index}"))
                .spawn(move || worker.run())?;
        }
        Ok(pool)
    }

    pub fn submit(&self, priority: Priority, job: Job) {
        let mut queue = self.shared.lock();
        queue.last += 1;
        let place = (priority, queue.last);
        if let Job::Read { read, .. } = &job {
            queue.places.insert(*read, place);
        }
        queue.jobs.insert(place, job);
        drop(queue);
        self.shared.changed.notify_one();
    }

    /// Moves a queued read; void where a reader has it.
    pub fn reprioritise(&self, read: ReadId, priority: Priority) {
        let mut queue = self.shared.lock();
        let Some(place) = queue.places.get(&read).copied() else {
            return;
        };
        let job = queue.jobs.remove(&place).expect("queued reads have a job");
        let place = (priority, place.1);
        queue.places.insert(read, place);
        queue.jobs.insert(place, job);
    }

    /// Takes a queued read back with its target, unless a reader has it.
    pub fn cancel(&self, read: ReadId) -> Option<Option<HostSlot>> {
        let mut queue = self.shared.lock();
        let place = queue.places.remove(&read)?;
        match queue.jobs.remove(&place).expect("queued reads have a job") {
            Job::Read { target, .. } => Some(target.finish()),
            Job::Probe { .. } => unreachable!("probes have no read id"),
        }
    }

    /// What has been reported since the last call.
    pub fn try_report(&self) -> Option<Report> {
        self.reports.try_recv().ok()
    }
}

impl Drop for ReaderPool {
    fn drop(&mut self) {
        let mut queue = self.shared.lock();
        queue.closed = true;
        queue.jobs.clear();
        queue.places.clear();
        drop(queue);
        self.shared.changed.notify_all();
    }
}

struct Worker {
    shared: Arc<Shared>,
    catalog: Arc<Catalog>,
    reader: Arc<dyn ShardReader>,
    reports: Sender<Report>,
    waker: Waker,
}

impl Worker {
    fn run(self) {
        while let Some(job) = self.shared.next() {
            let report = match job {
                Job::Read { read, key, target } => {
                    self.read(read, self.catalog.object(key), target)
                }
                Job::Probe { key } => {
                    let result = self.probe(self.catalog.object(key));
                    Report::Probed {
                        result,
                        at: Instant::now(),
                    }
                }
            };
            if self.reports.send(report).is_err() {
                return;
            }
            (self.waker)();
        }
    }

    fn read(&self, read: ReadId, object: &PageableObject, mut target: Target) -> Report {
        let start = Instant::now();
        // The receiver may be gone: then nobody needs to know.
        let _ = self.reports.send(Report::Started { read, at: start });
        let into = &mut target.bytes_mut()[..object.bytes as usize];
        let (result, reread) = self.fill(object, into);
        let source = self.reader.source(object.file);
        let seconds = start.elapsed().as_secs_f64();
        let result = result.map(|()| ReadReport {
            bytes: object.bytes,
            seconds,
            source,
        });
        let slot = target.finish();
        Report::Ended {
            read,
            outcome: Outcome {
                key: object.key,
                result,
                reread,
            },
            slot,
            at: Instant::now(),
        }
    }

    /// Reads and verifies; wrong bytes are read once more from a newly opened file, for memory and cables err and
    /// shards get repaired in place. Says whether that happened.
    fn fill(&self, object: &PageableObject, into: &mut [u8]) -> (Result<(), LoadError>, bool) {
        match self.fill_once(object, into) {
            Err(LoadError::Checksum { .. }) => {
                self.reader.reopen(object.file);
                (self.fill_once(object, into), true)
            }
            result => (result, false),
        }
    }

    fn fill_once(&self, object: &PageableObject, into: &mut [u8]) -> Result<(), LoadError> {
        self.reader.read_at(object.file, object.offset, into)?;
        let found = Xxh3::of(into).to_hex();
        if found == object.xxh3_128 {
            return Ok(());
        }
        Err(LoadError::Checksum {
            key: object.key,
            expected: object.xxh3_128.clone(),
            found,
        })
    }

    /// Reads a whole object as a demand would, from a newly opened file.
    fn probe(&self, object: &PageableObject) -> Result<(), LoadError> {
        let mut scratch = AlignedBuffer::zeroed(object.bytes as usize).map_err(|error| {
            LoadError::Read(ReadError::Io {
                path: object.key.to_string(),
                reason: format!("no memory to probe with: {error}"),
            })
        })?;
        self.reader.reopen(object.file);
        self.fill_once(object, scratch.bytes_mut())
    }
}
