//! Reads objects at random by the threads that serve, with nothing else to do.

use crate::api::{LoadError, ShardReader};
use crate::catalog::Catalog;
use crate::executor::{Checks, Job, ReaderPool, Target};
use crate::io::{Access, FileReader, HostSlot, ReadPlan, allocate_slots};
use crate::residency::layout::{EXTENT_BYTES, slot_bytes};
use crate::residency::{Priority, ReadId};
use odmoe_formats::{ByteCount, ExpertKey};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Jobs that wait beyond those at storage, so that it never waits for this thread.
const WAITING: usize = 4;
/// Read into in turn, where memory and objects are as many: more than caches hold, as the slots that are served from.
const ROTATION: ByteCount = ByteCount(192 << 20);

/// Whether what was read is verified, as it is when it is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verify {
    /// As when serving.
    Yes,
    /// Storage alone.
    No,
}

/// What was read in a time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct DiskSpeed {
    /// Objects.
    pub reads: u64,
    /// Their bytes.
    pub bytes: u64,
    /// From the end of the first reads, when all that may be at storage were there, to the end of the last.
    pub seconds: f64,
}

impl DiskSpeed {
    /// Bytes a second.
    pub fn bytes_per_s(&self) -> f64 {
        self.bytes as f64 / self.seconds
    }
}

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// There is nothing to read.
    #[error("the model has no experts that are paged: there are no reads to measure")]
    NoObjects,
    /// The memory that measuring may take does not hold as many reads.
    #[error(
        "{0} reads at once do not fit into the memory of the experts; force fewer with --readers"
    )]
    Room(usize),
    /// There is no memory to read into, or no thread to read.
    #[error("no memory or threads to measure with: {0}")]
    Start(#[from] std::io::Error),
    /// A read failed.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A read does not come back.
    #[error("storage has not answered for {0:?}")]
    Hung(Duration),
}

/// Reads objects in a random order, each once before any comes again.
pub struct DiskBench {
    catalog: Arc<Catalog>,
    reader: FileReader,
    slots: VecDeque<HostSlot>,
    slot_bytes: u64,
    slots_max: usize,
    order: Vec<ExpertKey>,
    next: usize,
    last_read: u64,
    patience: Duration,
}

impl DiskBench {
    /// For the objects of a catalog, which are read into `memory` at most. A read that takes longer than `patience` ends
    /// the measurement.
    pub fn new(
        catalog: Arc<Catalog>,
        reader: &FileReader,
        memory: ByteCount,
        patience: Duration,
    ) -> Result<Self, DiskError> {
        let mut order: Vec<ExpertKey> = catalog.objects().map(|object| object.key).collect();
        let largest = catalog.objects().map(|object| object.bytes).max();
        let slot_bytes = slot_bytes(largest.ok_or(DiskError::NoObjects)?);
        shuffle(&mut order);
        Ok(Self {
            reader: reader.with_plan(reader.plan()),
            catalog,
            slots: VecDeque::new(),
            slot_bytes,
            slots_max: (memory.0 / slot_bytes) as usize,
            order,
            next: 0,
            last_read: 0,
            patience,
        })
    }

    /// Reads by a plan for about `time`, longer where that is too short for a few reads.
    pub fn run(
        &mut self,
        plan: ReadPlan,
        verify: Verify,
        time: Duration,
    ) -> Result<DiskSpeed, DiskError> {
        let at_hand = (plan.at_once + WAITING).min(self.slots_max);
        if at_hand < plan.at_once {
            return Err(DiskError::Room(plan.at_once));
        }
        self.allocate(at_hand)?;
        let reader: Arc<dyn ShardReader> = Arc::new(self.reader.with_plan(plan));
        let checks = match verify {
            Verify::Yes => Checks::Checksum,
            Verify::No => Checks::None,
        };
        let waker: odmoe_backend::Waker = Arc::new(|| ());
        let pool = ReaderPool::start(plan.at_once, &self.catalog, None, &reader, checks, &waker)?;
        let mut waiting: Vec<ReadId> = (0..at_hand).map(|_| self.submit(&pool, plan)).collect();
        let mut stretch = Stretch::begin(plan.at_once as u64, time);
        let mut failed = None;
        while !waiting.is_empty() {
            let ended = pool.ended_within(self.patience);
            let ended = ended.ok_or(DiskError::Hung(self.patience))?;
            waiting.retain(|read| *read != ended.read);
            self.slots.extend(ended.slot);
            match ended.result {
                Ok(report) => stretch.count(report.bytes, ended.at),
                Err(error) => failed = Some(error),
            }
            if failed.is_none() && !stretch.is_over() {
                waiting.push(self.submit(&pool, plan));
            } else {
                waiting.retain(|read| match pool.cancel(*read) {
                    Some(slot) => {
                        self.slots.extend(slot);
                        false
                    }
                    None => true,
                });
            }
        }
        match failed {
            Some(error) => Err(error.into()),
            None => Ok(stretch.speed()),
        }
    }

    fn submit(&mut self, pool: &ReaderPool, plan: ReadPlan) -> ReadId {
        let slot = self.slots.pop_front().expect("as many slots as reads");
        let key = self.order[self.next];
        self.next = (self.next + 1) % self.order.len();
        if plan.access == Access::Buffered {
            // What was just converted is in the page cache, where serving will not find it.
            self.reader.forget(self.catalog.object(key).file);
        }
        self.last_read += 1;
        let (read, target) = (ReadId(self.last_read), Target::Host(slot));
        pool.submit(Priority::Prefetch, Job::Read { read, key, target });
        read
    }

    fn allocate(&mut self, least: usize) -> Result<(), DiskError> {
        let rotation = (ROTATION.0 / self.slot_bytes) as usize;
        let slots = rotation
            .min(self.order.len())
            .max(least)
            .min(self.slots_max);
        let in_extent = (EXTENT_BYTES / self.slot_bytes).max(1) as usize;
        while self.slots.len() < slots {
            let count = in_extent.min(slots - self.slots.len());
            self.slots
                .extend(allocate_slots(count, self.slot_bytes as usize)?);
        }
        Ok(())
    }
}

/// A time of reading: the reads that fill the queue, then those that count, then none.
struct Stretch {
    start: Instant,
    time: Duration,
    filling: u64,
    ended: u64,
    /// The end of the last read that is not counted.
    from: Instant,
    to: Instant,
    speed: DiskSpeed,
}

impl Stretch {
    fn begin(filling: u64, time: Duration) -> Self {
        let start = Instant::now();
        Self {
            start,
            time,
            filling,
            ended: 0,
            from: start,
            to: start,
            speed: DiskSpeed::default(),
        }
    }

    fn count(&mut self, bytes: u64, at: Instant) {
        if self.is_over() {
            return;
        }
        self.ended += 1;
        if self.ended <= self.filling {
            self.from = self.from.max(at);
        } else {
            self.speed.reads += 1;
            self.speed.bytes += bytes;
        }
        self.to = self.to.max(at);
    }

    /// Over when the time is and so many reads are counted that a burst of them, all that may be at storage, weighs
    /// little; a slow disk has four times the time.
    fn is_over(&self) -> bool {
        let enough = self.speed.reads >= 4 * self.filling;
        (enough && self.to - self.from >= self.time)
            || (self.speed.reads > 0 && self.to - self.start >= 4 * self.time)
    }

    fn speed(self) -> DiskSpeed {
        let seconds = (self.to - self.from).as_secs_f64();
        DiskSpeed {
            seconds: seconds.max(f64::MIN_POSITIVE),
            ..self.speed
        }
    }
}

/// Fisher and Yates, with a fixed seed: the same model is read in the same order.
fn shuffle(keys: &mut [ExpertKey]) {
    let mut state = 0u64;
    for last in (1..keys.len()).rev() {
        // Vigna's splitmix64.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = state;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        keys.swap(last, ((x ^ (x >> 31)) % (last as u64 + 1)) as usize);
    }
}
