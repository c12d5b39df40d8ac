//! Readers, a copy engine and an allocator that take their time, in any order, and fail.

use crate::world::World;
use odmoe_expert_store::residency::{
    Command, CopyId, Extent, Moment, Priority, ReadId, ReadReport, SlotId,
};
use odmoe_expert_store::{LoadError, ReadError};
use odmoe_formats::ExpertKey;
use std::collections::{HashMap, HashSet};

#[derive(Clone, Copy)]
struct Read {
    read: ReadId,
    key: ExpertKey,
    slot: SlotId,
    priority: Priority,
    /// Asked to be called off, and not answered yet.
    cancelled: bool,
}

pub struct Executor {
    readers: usize,
    queued: Vec<Read>,
    running: Vec<Read>,
    hanging: Vec<Read>,
    copies: Vec<(CopyId, ExpertKey, SlotId, SlotId)>,
    probe: Option<ExpertKey>,
    allocating: Vec<Extent>,
    releasing: Vec<Extent>,
    /// Slots that have memory.
    present: HashSet<SlotId>,
    /// What each slot holds, as far as bytes go; absent while it is written or was never.
    contents: HashMap<SlotId, ExpertKey>,
    /// Slots that are being written.
    writing: HashMap<SlotId, ExpertKey>,
}

impl Executor {
    pub fn new(readers: usize, extents: &[Extent]) -> Self {
        Self {
            allocating: Vec::new(),
            releasing: Vec::new(),
            present: extents.iter().copied().flat_map(Extent::ids).collect(),
            readers,
            queued: Vec::new(),
            running: Vec::new(),
            hanging: Vec::new(),
            copies: Vec::new(),
            probe: None,
            contents: HashMap::new(),
            writing: HashMap::new(),
        }
    }

    pub fn is_busy(&self) -> bool {
        let reads = self.queued.len() + self.running.len() + self.hanging.len();
        let extents = self.allocating.len() + self.releasing.len();
        reads + self.copies.len() + extents > 0 || self.probe.is_some()
    }

    /// Slots that are being written with an object.
    pub fn writes(&self, key: ExpertKey) -> impl Iterator<Item = SlotId> {
        let writing = self.writing.iter();
        writing
            .filter(move |(_, of)| **of == key)
            .map(|(slot, _)| *slot)
    }

    pub fn is_written(&self, slot: SlotId) -> bool {
        self.writing.contains_key(&slot)
    }

    /// Slots that have memory.
    pub fn present(&self) -> impl Iterator<Item = &SlotId> {
        self.present.iter()
    }

    pub fn holds(&self, slot: SlotId) -> Option<ExpertKey> {
        self.contents.get(&slot).copied()
    }

    pub fn accept(&mut self, command: &Command) {
        match *command {
            Command::Read {
                read,
                key,
                slot,
                priority,
            } => {
                self.begin_write(slot, key);
                self.queued.push(Read {
                    read,
                    key,
                    slot,
                    priority,
                    cancelled: false,
                });
            }
            Command::Reprioritise { read, priority } => {
                if let Some(queued) = self.queued.iter_mut().find(|q| q.read == read) {
                    assert!(priority < queued.priority, "reads only become more urgent");
                    queued.priority = priority;
                }
            }
            Command::CancelRead { read } => {
                if let Some(queued) = self.queued.iter_mut().find(|q| q.read == read) {
                    assert!(!queued.cancelled, "called off once");
                    queued.cancelled = true;
                }
            }
            Command::Copy {
                copy,
                key,
                from,
                to,
            } => {
                assert_eq!(self.holds(from), Some(key), "a copy has a source");
                assert_eq!(from.tier, to.tier + 1, "copies go up one tier");
                self.begin_write(to, key);
                self.copies.push((copy, key, from, to));
            }
            Command::Allocate { extent } => {
                for slot in extent.ids() {
                    assert!(!self.present.contains(&slot), "{slot:?} is made twice");
                }
                self.allocating.push(extent);
            }
            Command::Release { extent } => {
                for slot in extent.ids() {
                    assert!(self.present.contains(&slot), "{slot:?} is released twice");
                    assert!(!self.writing.contains_key(&slot), "{slot:?} is written");
                    let copied = self.copies.iter().any(|(_, _, from, _)| *from == slot);
                    assert!(!copied, "{slot:?} is released while it is copied");
                    self.contents.remove(&slot);
                    self.present.remove(&slot);
                }
                self.releasing.push(extent);
            }
            Command::Probe { key } => {
                assert!(self.probe.is_none(), "one probe at a time");
                self.probe = Some(key);
            }
        }
    }

    fn begin_write(&mut self, slot: SlotId, key: ExpertKey) {
        assert!(self.present.contains(&slot), "{slot:?} has no memory");
        assert!(
            self.writing.insert(slot, key).is_none(),
            "{slot:?} has two writers"
        );
        assert!(
            self.copies.iter().all(|(_, _, from, _)| *from != slot),
            "{slot:?} is overwritten while it is copied"
        );
        self.contents.remove(&slot);
    }

    fn end_write(&mut self, slot: SlotId, whole: Option<ExpertKey>) {
        self.writing.remove(&slot).expect("written once");
        if let Some(key) = whole {
            self.contents.insert(slot, key);
        }
    }

    /// The most urgent queued read; a reader takes no prefetch while a demand waits.
    fn most_urgent(&self) -> Option<usize> {
        (0..self.queued.len()).min_by_key(|i| (self.queued[*i].priority, self.queued[*i].read))
    }
}

impl World {
    /// One thing that readers or the copy engine do.
    pub fn run_executor(&mut self) {
        if !self.stormy {
            let hanging = std::mem::take(&mut self.executor.hanging);
            self.executor.running.extend(hanging);
        }
        match self.random.below(11) {
            0..4 => self.start_read(),
            4..8 => self.end_read(),
            8 => self.end_copy(),
            9 => self.end_extent(),
            _ => self.end_probe(),
        }
    }

    /// Memory comes, is refused, or is gone.
    pub fn end_extent(&mut self) {
        if self.random.percent(50) && !self.executor.releasing.is_empty() {
            let extent = self.random.take(&mut self.executor.releasing);
            self.tally.released += 1;
            self.machine.extent_released(extent);
        } else if !self.executor.allocating.is_empty() {
            let extent = self.random.take(&mut self.executor.allocating);
            if self.stormy && self.random.percent(5) {
                self.tally.refused += 1;
                self.refused = true;
                self.machine.extent_refused(extent);
            } else {
                self.tally.allocated += 1;
                self.executor.present.extend(extent.ids());
                self.machine.extent_allocated(extent);
            }
        } else {
            return;
        }
        self.after_step();
    }

    /// Answers one cancellation. Says whether there was one.
    pub fn answer_cancellation(&mut self) -> bool {
        let Some(at) = self.executor.queued.iter().position(|q| q.cancelled) else {
            return false;
        };
        let queued = self.executor.queued.swap_remove(at);
        self.executor.end_write(queued.slot, None);
        self.tally.cancelled_reads += 1;
        self.machine.read_cancelled(queued.read);
        self.after_step();
        true
    }

    fn start_read(&mut self) {
        let busy = self.executor.running.len() + self.executor.hanging.len();
        if self.random.percent(50) && self.answer_cancellation() {
            return;
        }
        let Some(at) = self
            .executor
            .most_urgent()
            .filter(|_| busy < self.executor.readers)
        else {
            return;
        };
        let read = self.executor.queued.swap_remove(at);
        if self.stormy && self.random.percent(2) {
            self.tally.hung_reads += 1;
            self.executor.hanging.push(read);
        } else {
            self.executor.running.push(read);
        }
        let at = self.soon();
        self.machine.read_started(read.read, at);
        self.after_step();
    }

    fn end_read(&mut self) {
        if self.stormy && self.random.percent(3) && !self.executor.hanging.is_empty() {
            let freed = self.random.take(&mut self.executor.hanging);
            self.executor.running.push(freed);
        }
        if self.executor.running.is_empty() {
            return;
        }
        let Read {
            read, key, slot, ..
        } = self.random.take(&mut self.executor.running);
        let at = self.soon();
        if self.stormy && self.random.percent(self.failing_percent) {
            self.executor.end_write(slot, None);
            let error = self.error(key);
            self.machine.read_failed(read, error, at);
        } else {
            self.executor.end_write(slot, Some(key));
            let report = ReadReport {
                bytes: 1,
                seconds: 0.0,
                source: "simulated",
            };
            self.machine.read_done(read, report, at);
        }
        self.after_step();
    }

    pub fn end_copy(&mut self) {
        if self.executor.copies.is_empty() {
            return;
        }
        let (copy, key, from, to) = self.random.take(&mut self.executor.copies);
        assert_eq!(
            self.executor.holds(from),
            Some(key),
            "the source stays until the copy is done"
        );
        self.tally.copies += 1;
        let at = self.soon();
        if self.stormy && self.random.percent(3) {
            self.executor.end_write(to, None);
            self.machine.copy_failed(copy, "simulated".into(), at);
        } else {
            self.executor.end_write(to, Some(key));
            self.machine.copy_done(copy, at);
        }
        self.after_step();
    }

    fn end_probe(&mut self) {
        let Some(key) = self.executor.probe.take() else {
            return;
        };
        self.tally.probes += 1;
        let result = if self.stormy && self.random.percent(50) {
            Err(self.error(key))
        } else {
            Ok(())
        };
        let at = self.soon();
        self.machine.probe_done(result, at);
        self.after_step();
    }

    /// Reports carry the time of what they report, which may be a little before the last tick.
    fn soon(&mut self) -> Moment {
        let ago = std::time::Duration::from_micros(self.random.below(2000) as u64);
        Moment(self.now.0.saturating_sub(ago))
    }

    fn error(&mut self, key: ExpertKey) -> LoadError {
        let path = "simulated".to_owned();
        match self.random.below(4) {
            0 => LoadError::Checksum {
                key,
                expected: "a".into(),
                found: "b".into(),
            },
            1 => ReadError::Short {
                path,
                offset: 0,
                wanted: 2,
                got: 1,
            }
            .into(),
            _ => ReadError::Io {
                path,
                reason: "told to".into(),
            }
            .into(),
        }
    }
}
