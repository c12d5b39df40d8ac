//! Storage that does what a test tells it to.

use super::model::{Random, TestModel};
use odmoe_expert_store::{ReadError, ShardReader};
use odmoe_formats::ExpertKey;
use odmoe_formats::manifest::FileIndex;
use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// What happens to reads of an expert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// One bit is wrong.
    Corrupt,
    /// The file ends early.
    Short,
    /// The system refuses.
    Fail,
    /// No answer until the fault is taken away.
    Hang,
}

/// Reads from memory, with delays and faults by expert, counting reads.
pub struct TestReader {
    files: Arc<Vec<Vec<u8>>>,
    by_offset: HashMap<u64, ExpertKey>,
    script: Mutex<Script>,
    changed: Condvar,
}

#[derive(Default)]
struct Script {
    delay: Duration,
    jitter: Option<(Random, Duration)>,
    faults: HashMap<ExpertKey, Fault>,
    reads: HashMap<ExpertKey, usize>,
}

impl TestReader {
    pub fn new(model: &TestModel) -> Arc<Self> {
        let by_offset = model
            .manifest
            .objects
            .iter()
            .map(|object| (object.offset, object.key))
            .collect();
        Arc::new(Self {
            files: model.files.clone(),
            by_offset,
            script: Mutex::default(),
            changed: Condvar::new(),
        })
    }

    /// Every expert read takes this long.
    pub fn set_delay(&self, delay: Duration) {
        self.script.lock().unwrap().delay = delay;
    }

    /// Every expert read takes a random time up to `most`, so that experts land in any order.
    pub fn set_jitter(&self, seed: u64, most: Duration) {
        self.script.lock().unwrap().jitter = Some((Random(seed), most));
    }

    /// Reads of `keys` do this.
    pub fn set_faults(&self, keys: impl IntoIterator<Item = ExpertKey>, fault: Fault) {
        let faults: Vec<_> = keys.into_iter().map(|key| (key, fault)).collect();
        self.script.lock().unwrap().faults.extend(faults);
    }

    /// Every read is good again; those that hang go on.
    pub fn heal(&self) {
        self.script.lock().unwrap().faults.clear();
        self.changed.notify_all();
    }

    /// How often an expert was read.
    pub fn reads(&self, key: ExpertKey) -> usize {
        self.script
            .lock()
            .unwrap()
            .reads
            .get(&key)
            .copied()
            .unwrap_or(0)
    }

    /// How often experts were read in all.
    pub fn total_reads(&self) -> usize {
        self.script.lock().unwrap().reads.values().sum()
    }

    /// Waits as told; returns the fault that is left.
    fn follow_script(&self, key: ExpertKey) -> Option<Fault> {
        let mut script = self.script.lock().unwrap();
        *script.reads.entry(key).or_default() += 1;
        let delay = match &mut script.jitter {
            Some((random, most)) => Duration::from_nanos(random.below(most.as_nanos() as u64 + 1)),
            None => script.delay,
        };
        drop(script);
        std::thread::sleep(delay);
        let mut script = self.script.lock().unwrap();
        while script.faults.get(&key) == Some(&Fault::Hang) {
            script = self.changed.wait(script).unwrap();
        }
        script.faults.get(&key).copied()
    }
}

impl ShardReader for TestReader {
    fn read_at(&self, file: FileIndex, offset: u64, into: &mut [u8]) -> Result<(), ReadError> {
        let key = if file.0 == 1 {
            self.by_offset.get(&offset).copied()
        } else {
            None
        };
        let fault = key.and_then(|key| self.follow_script(key));
        let path = format!("file {}", file.0);
        let wanted = into.len() as u64;
        match fault {
            Some(Fault::Short) => {
                return Err(ReadError::Short {
                    path,
                    offset,
                    wanted,
                    got: wanted / 2,
                });
            }
            Some(Fault::Fail) => {
                return Err(ReadError::Io {
                    path,
                    reason: "told to fail".into(),
                });
            }
            _ => {}
        }
        into.copy_from_slice(&self.files[file.0 as usize][offset as usize..][..into.len()]);
        if fault == Some(Fault::Corrupt) {
            let middle = into.len() / 2;
            into[middle] ^= 1;
        }
        Ok(())
    }
}
