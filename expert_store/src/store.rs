//! The store: the machine, its memory and its readers, put together.

use crate::api::*;
use crate::catalog::Catalog;
use crate::executor::{Checks, Ended, Job, ReaderPool, Report};
use crate::memory::SlotMemory;
use crate::residency::layout::SlotLayout;
use crate::residency::{
    Command, CopyId, ExpertUse, Extent, Grant, Machine, Moment, PinId, Priority, ReadId, Settings,
    SlotId,
};
use odmoe_backend::{Backend, Capabilities, Event, StreamId, Waker};
use odmoe_formats::manifest::{ObjectTensor, PageableObject};
use odmoe_formats::{ByteCount, ExpertKey, LayerIndex, WeightLayout};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

/// The expert store. One thread, the engine's, owns it; nothing here blocks on storage.
///
/// What the caller promises: it computes with what landed and releases the pins before it waits for more, and calls
/// [`Self::poll`] when woken and at [`Self::next_deadline`]. Then every key of every ticket lands or fails.
pub struct ExpertStore {
    machine: Machine,
    catalog: Arc<Catalog>,
    backend: Arc<dyn Backend>,
    capabilities: Capabilities,
    observer: Arc<dyn StoreObserver>,
    memory: SlotMemory,
    readers: ReaderPool,
    /// The zero of the machine's moments.
    epoch: Instant,
    /// Pins given back, each until its event.
    releasing: Vec<(Event, Vec<Pin>)>,
    /// Uploads under way.
    copying: Vec<(Event, CopyId)>,
    /// The slot of each read that the pool has.
    reading: HashMap<ReadId, SlotId>,
    /// What the host tier was given, if that was said.
    host_budget: Option<ByteCount>,
    /// Empty extents whose memory is still to go.
    leaving: VecDeque<Extent>,
}

impl ExpertStore {
    /// Allocates every slot and starts the readers.
    pub fn new(
        catalog: Arc<Catalog>,
        backend: Arc<dyn Backend>,
        reader: Arc<dyn ShardReader>,
        config: StoreConfig,
        observer: Arc<dyn StoreObserver>,
        waker: Waker,
    ) -> Result<Self, StoreError> {
        assert_eq!(
            *catalog.kept(),
            config.keep,
            "the budgets have room for what is kept"
        );
        let readers = config.readers.max(1);
        let settings = Settings {
            tiers: layouts(&catalog, &*backend, config.budget, config.host_budget)?,
            readers,
            prefetch: config.prefetch,
            eviction: config.eviction,
            read_timeout: config.read_timeout,
        };
        let machine = Machine::new(settings, catalog.sizes());
        let mut memory = SlotMemory::default();
        for extent in machine.extents() {
            memory.allocate(&*backend, extent)?;
        }
        let capabilities = backend.capabilities();
        let checks = Checks::Checksum;
        let readers = ReaderPool::start(
            readers,
            &catalog,
            Some(&capabilities),
            &reader,
            checks,
            &waker,
        )
        .map_err(|e| StoreError::Thread(e.to_string()))?;
        let mut store = Self {
            machine,
            catalog,
            backend,
            capabilities,
            observer,
            memory,
            readers,
            epoch: Instant::now(),
            releasing: Vec::new(),
            copying: Vec::new(),
            reading: HashMap::new(),
            host_budget: config.host_budget,
            leaving: VecDeque::new(),
        };
        store.machine.keep(config.keep);
        store.machine.warm_up(config.warm_up);
        store.carry_out();
        Ok(store)
    }

    /// Changes the budget while serving; returns what its slots will take. Extents that are too many are drained and
    /// released, missing ones are allocated, as [`Self::poll`] goes on; [`StoreGauges::capacity`] says how far it is.
    /// Where the system has no memory for more, what there is stays.
    pub fn resize(&mut self, budget: ByteCount, now: Instant) -> Result<ByteCount, StoreError> {
        let layouts = layouts(&self.catalog, &*self.backend, budget, self.host_budget)?;
        let bytes = layouts.iter().map(|layout| layout.bytes().0).sum();
        self.machine.resize(layouts, self.moment(now));
        self.carry_out();
        Ok(ByteCount(bytes))
    }

    /// How the tensor of an object lies in a slot.
    pub fn layout_in_slots(&self, object: &PageableObject, tensor: &ObjectTensor) -> WeightLayout {
        self.capabilities.layout_in_memory(object.layout_of(tensor))
    }

    /// Asks for a set of distinct experts. Hits are ready at the next [`Self::take_landed`]; misses land as they are
    /// read. More experts than slots is allowed: they come in waves as pins are released. Never blocks.
    pub fn acquire(&mut self, keys: &[ExpertKey], phase: Phase, now: Instant) -> Ticket {
        // What is in memory by now is a hit, even if nobody has looked since.
        self.collect();
        let ticket = self.machine.demand(keys, phase, self.moment(now));
        self.carry_out();
        ticket
    }

    /// Takes in what readers and the backend finished, fails what is late, starts what can start.
    pub fn poll(&mut self, now: Instant) {
        self.collect();
        self.machine.tick(self.moment(now));
        self.release_one();
        self.carry_out();
    }

    /// Moves what has landed for a ticket since the last call into `out`; returns how many are still to come. At
    /// zero the ticket is over.
    pub fn take_landed(&mut self, ticket: Ticket, out: &mut Vec<Landed>) -> usize {
        let mut grants = Vec::new();
        let remaining = self.machine.take(ticket, &mut grants);
        out.extend(grants.into_iter().map(|grant| match grant {
            Grant::Ready { key, slot, pin } => Landed::Ready {
                key,
                slot: self.memory.device(slot).clone(),
                pin: Pin(pin.0),
            },
            Grant::Failed { key, error } => Landed::Failed { key, error },
        }));
        remaining
    }

    /// Gives pins back; they end when `event` is reached, for the backend may still read the slots until then.
    pub fn release(&mut self, pins: Vec<Pin>, event: Event) {
        self.releasing.push((event, pins));
        self.end_releases();
        self.carry_out();
    }

    /// Gives a ticket up. What landed and was not taken is unpinned; reads nobody else wants are cancelled.
    pub fn cancel(&mut self, ticket: Ticket) {
        self.machine.cancel(ticket);
        self.carry_out();
    }

    /// Says what will likely be wanted soon of one layer, most likely first, and then, perhaps, of layers behind it, in turn.
    /// Replaces the last hint of the same `source` (a lane); what was not started of it is dropped. Only idle readers and
    /// cold slots are used.
    pub fn hint(&mut self, source: u32, phase: Phase, keys: &[ExpertKey]) {
        self.machine.hint(source, phase, keys);
        self.carry_out();
    }

    /// Whether every object of a layer is in memory to compute from: a hint about it would bring nothing.
    pub fn holds_layer(&self, layer: LayerIndex) -> bool {
        self.machine.holds_layer(layer)
    }

    /// When [`Self::poll`] must be called even if nobody wakes the engine: the next read's time-out or probe.
    pub fn next_deadline(&self) -> Option<Instant> {
        if !self.leaving.is_empty() {
            return Some(self.epoch);
        }
        self.epoch.checked_add(self.machine.next_deadline()?.0)
    }

    /// Gauges now.
    pub fn gauges(&self) -> StoreGauges {
        self.machine.gauges()
    }

    /// What was asked of each object, in the catalog's order. Takes time in proportion to their number.
    pub fn usage(&self) -> Vec<ExpertUse> {
        self.machine.usage()
    }

    /// Whether storage answers.
    pub fn health(&self) -> StoreHealth {
        self.machine.health()
    }

    fn moment(&self, at: Instant) -> Moment {
        Moment(at.saturating_duration_since(self.epoch))
    }

    /// Tells the machine what readers and the backend have finished.
    fn collect(&mut self) {
        while let Some(report) = self.readers.try_report() {
            match report {
                Report::Started { read, at } => self.machine.read_started(read, self.moment(at)),
                Report::Ended(ended) => self.end_read(ended),
                Report::Probed { result, at } => self.machine.probe_done(result, self.moment(at)),
            }
        }
        self.end_releases();
        self.end_copies();
    }

    fn end_read(&mut self, ended: Ended) {
        let (read, at) = (ended.read, self.moment(ended.at));
        let id = self.reading.remove(&read).expect("a read is reported once");
        self.memory.close(id, ended.slot);
        if ended.reread {
            self.observer.record(&StoreEvent::Reread { key: ended.key });
        }
        match ended.result {
            Ok(report) => self.machine.read_done(read, report, at),
            Err(error) => self.machine.read_failed(read, error, at),
        }
    }

    /// Gives the memory of one empty extent back. Unmapping takes time in proportion to its pages, so that a budget that
    /// falls by gigabytes is spread over many turns of the engine.
    fn release_one(&mut self) {
        if let Some(extent) = self.leaving.pop_front() {
            self.memory.release(extent);
            self.machine.extent_released(extent);
        }
    }

    /// A backend that fails says so to the engine, which ends; until then its slots stay pinned.
    fn end_releases(&mut self) {
        let (machine, backend) = (&mut self.machine, &self.backend);
        self.releasing.retain_mut(|(event, pins)| {
            if !backend.is_done(*event).unwrap_or(false) {
                return true;
            }
            machine.pins_released(pins.drain(..).map(|pin| PinId(pin.0)));
            false
        });
    }

    fn end_copies(&mut self) {
        let (machine, backend) = (&mut self.machine, &self.backend);
        let now = Moment(self.epoch.elapsed());
        self.copying
            .retain(|&(event, copy)| match backend.is_done(event) {
                Ok(done) => {
                    if done {
                        machine.copy_done(copy, now);
                    }
                    !done
                }
                Err(error) => {
                    machine.copy_failed(copy, error.to_string(), now);
                    false
                }
            });
    }

    /// Carries out what the machine asks for, and tells the observer what happened.
    fn carry_out(&mut self) {
        let mut commands = Vec::new();
        loop {
            self.machine.take_commands(&mut commands);
            if commands.is_empty() {
                break;
            }
            commands.drain(..).for_each(|command| self.execute(command));
            // A backend that copies at once wakes nobody afterwards.
            self.end_copies();
        }
        let mut events = Vec::new();
        self.machine.take_events(&mut events);
        events.iter().for_each(|event| self.observer.record(event));
    }

    fn execute(&mut self, command: Command) {
        match command {
            Command::Read {
                read,
                key,
                slot,
                priority,
            } => {
                let target = self.memory.open(&*self.backend, slot);
                self.reading.insert(read, slot);
                self.readers
                    .submit(priority, Job::Read { read, key, target });
            }
            Command::Reprioritise { read, priority } => self.readers.reprioritise(read, priority),
            Command::CancelRead { read } => {
                if let Some(slot) = self.readers.cancel(read) {
                    let id = self.reading.remove(&read).expect("the pool had it");
                    self.memory.close(id, slot);
                    self.machine.read_cancelled(read);
                }
            }
            Command::Copy {
                copy,
                key,
                from,
                to,
            } => match self.upload(key, from, to) {
                Ok(event) => self.copying.push((event, copy)),
                Err(error) => {
                    self.machine
                        .copy_failed(copy, error.to_string(), Moment(self.epoch.elapsed()))
                }
            },
            Command::Allocate { extent } => match self.memory.allocate(&*self.backend, extent) {
                Ok(()) => self.machine.extent_allocated(extent),
                Err(_) => self.machine.extent_refused(extent),
            },
            Command::Release { extent } => self.leaving.push_back(extent),
            Command::Probe { key } => self.readers.submit(Priority::Decode, Job::Probe { key }),
        }
    }

    fn upload(
        &self,
        key: ExpertKey,
        from: SlotId,
        to: SlotId,
    ) -> Result<Event, odmoe_backend::BackendError> {
        let bytes = self.catalog.object(key).bytes as usize;
        self.backend.upload(
            StreamId::COPY,
            &self.memory.host(from)[..bytes],
            self.memory.device(to),
            0,
        )?;
        self.backend.record(StreamId::COPY)
    }
}

/// The slots of each tier.
fn layouts(
    catalog: &Catalog,
    backend: &dyn Backend,
    budget: ByteCount,
    host_budget: Option<ByteCount>,
) -> Result<Vec<SlotLayout>, StoreError> {
    let mut layouts = vec![catalog.check_budget(budget)?];
    if !backend.capabilities().unified_memory {
        layouts.push(catalog.check_budget(host_budget.unwrap_or(budget))?);
    }
    Ok(layouts)
}
