//! Responses that are kept for later: so many, and so many bytes; the oldest go first.

use super::super::keys::SecretDigest;
use super::log::EventLog;
use odmoe_openapi::{ChatMessage, ResponseObject, ResponseStatus};
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// Whose a response is: others cannot tell it from one that does not exist. Callers are told apart by the key they sent.
pub(crate) type Owner = Option<SecretDigest>;

/// A response and the conversation that it belongs to.
#[derive(Clone)]
pub(crate) struct Kept {
    pub(crate) object: Arc<ResponseObject>,
    /// Without instructions; with the response itself.
    pub(crate) messages: Arc<Vec<ChatMessage>>,
    /// Where it was asked for in the background and as a stream.
    pub(crate) log: Option<Arc<EventLog>>,
}

/// Why a response was not cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CancelError {
    Unknown,
    /// Somebody waits for it and can hang up.
    Foreground,
}

/// See the module.
pub(crate) struct ResponseStore {
    entries_max: usize,
    bytes_max: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    entries: HashMap<String, Entry>,
    /// From the oldest on.
    order: BTreeMap<u64, String>,
    next_age: u64,
    bytes: usize,
}

struct Entry {
    owner: Owner,
    age: u64,
    bytes: usize,
    kept: Kept,
    /// Ends it while it is made in the background.
    running: Option<Arc<Notify>>,
}

impl ResponseStore {
    pub(crate) fn new(entries_max: usize, bytes_max: usize) -> Self {
        Self {
            entries_max,
            bytes_max,
            state: Mutex::default(),
        }
    }

    /// Keeps a response that is whole.
    pub(super) fn keep(&self, owner: Owner, kept: Kept) {
        self.insert(owner, kept, None);
    }

    /// Keeps one that is made in the background; what is returned says when it is to end.
    pub(super) fn keep_running(&self, owner: Owner, kept: Kept) -> Arc<Notify> {
        let cancel = Arc::new(Notify::new());
        self.insert(owner, kept, Some(Arc::clone(&cancel)));
        cancel
    }

    fn insert(&self, owner: Owner, kept: Kept, running: Option<Arc<Notify>>) {
        let (id, bytes) = (kept.object.id.clone(), size(&kept));
        let mut state = self.lock();
        let age = state.next_age;
        state.next_age += 1;
        state.bytes += bytes;
        state.order.insert(age, id.clone());
        let entry = Entry {
            owner,
            age,
            bytes,
            kept,
            running,
        };
        state.entries.insert(id, entry);
        self.shrink(&mut state);
    }

    /// What was made in the background is whole. Nothing happens if it was deleted meanwhile.
    pub(super) fn finish(&self, kept: Kept) {
        let bytes = size(&kept);
        let mut state = self.lock();
        let Some(entry) = state.entries.get_mut(&kept.object.id) else {
            return;
        };
        let before = std::mem::replace(&mut entry.bytes, bytes);
        entry.kept = kept;
        entry.running = None;
        state.bytes = state.bytes - before + bytes;
        self.shrink(&mut state);
    }

    /// One response.
    pub(crate) fn get(&self, owner: Owner, id: &str) -> Option<Kept> {
        let state = self.lock();
        let entry = state.entries.get(id).filter(|entry| entry.owner == owner);
        entry.map(|entry| entry.kept.clone())
    }

    /// Asks for the end of one that is made in the background; nothing happens to one that is whole. Returns it as it is.
    pub(super) fn cancel(&self, owner: Owner, id: &str) -> Result<Kept, CancelError> {
        let state = self.lock();
        let entry = state.entries.get(id).filter(|entry| entry.owner == owner);
        let entry = entry.ok_or(CancelError::Unknown)?;
        if !entry.kept.object.background {
            return Err(CancelError::Foreground);
        }
        let mut kept = entry.kept.clone();
        if let Some(running) = &entry.running {
            running.notify_one();
            Arc::make_mut(&mut kept.object).status = ResponseStatus::Cancelled;
        }
        Ok(kept)
    }

    /// Forgets one, and ends it if it is being made. False if there is none.
    pub(super) fn delete(&self, owner: Owner, id: &str) -> bool {
        let mut state = self.lock();
        if state
            .entries
            .get(id)
            .is_none_or(|entry| entry.owner != owner)
        {
            return false;
        }
        state.remove(id);
        true
    }

    /// Those that are being made stay: the engine's queue bounds how many there are.
    fn shrink(&self, state: &mut State) {
        while state.entries.len() > self.entries_max || state.bytes > self.bytes_max {
            let mut order = state.order.values();
            let Some(oldest) = order.find(|id| state.entries[*id].running.is_none()) else {
                return;
            };
            let oldest = oldest.clone();
            state.remove(&oldest);
        }
    }

    /// Every change is complete in itself, so a panic elsewhere leaves nothing half done.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn remove(&mut self, id: &str) {
        if let Some(entry) = self.entries.remove(id) {
            self.order.remove(&entry.age);
            self.bytes -= entry.bytes;
            if let Some(running) = entry.running {
                running.notify_one();
            }
        }
    }
}

/// About what an entry takes: its JSON, and as much again for being taken apart. The log of one that is being made is
/// counted elsewhere, but is small then.
fn size(kept: &Kept) -> usize {
    let log = kept.log.as_ref().map_or(0, |log| log.bytes());
    2 * (json_bytes(&*kept.object) + json_bytes(&*kept.messages)) + log
}

fn json_bytes(value: &impl Serialize) -> usize {
    struct Counter(usize);
    impl io::Write for Counter {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut counter = Counter(0);
    serde_json::to_writer(&mut counter, value).expect("our own types become JSON");
    counter.0
}
