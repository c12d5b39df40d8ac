//! Storage that fails on purpose, behind the real interface: wraps any [`ShardReader`].
//!
//! The faults:
//! - **short**: the file ends within the read;
//! - **slow**: the read takes longer, then succeeds;
//! - **corrupt**: one bit of the bytes is wrong, and nothing says so;
//! - **failing**: the system refuses (an input/output error);
//! - **hanging**: the read does not return until [`FaultyReader::release`], then goes on as if nothing had been;
//! - **vanished**: from [`FaultyReader::vanish`] to [`FaultyReader::reappear`] every read fails.
//!
//! A fault strikes by script (a place, a number of times) or by chance. Chance is a function of the seed, the place
//! and how often it has been read, so it does not depend on which thread reads first.

use crate::api::{ReadError, ShardReader};
use odmoe_formats::manifest::{FileIndex, PageableObject};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

/// What goes wrong with a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The file ends within the read.
    Short,
    /// It takes this much longer.
    Slow(Duration),
    /// One bit is wrong.
    Corrupt,
    /// The system refuses.
    Fail,
    /// It does not return until released.
    Hang,
}

/// A fault at a place.
struct Script {
    file: FileIndex,
    offsets: Range<u64>,
    fault: Fault,
    /// How often it strikes still; None: always.
    left: Option<u32>,
}

#[derive(Default)]
struct State {
    scripts: Vec<Script>,
    /// Faults with the share of reads, of 2^32, that each strikes.
    chances: Vec<(Fault, u64)>,
    reads: HashMap<(FileIndex, u64), u64>,
    vanished: bool,
    hanging: usize,
    /// Counts calls of `release`.
    releases: u64,
}

/// See the module.
pub struct FaultyReader {
    inner: Arc<dyn ShardReader>,
    seed: u64,
    state: Mutex<State>,
    released: Condvar,
}

impl FaultyReader {
    /// Without faults so far.
    pub fn new(inner: Arc<dyn ShardReader>, seed: u64) -> Self {
        Self {
            inner,
            seed,
            state: Mutex::default(),
            released: Condvar::new(),
        }
    }

    /// Makes a share (0 to 1) of all reads suffer a fault. The first of several chances that strikes counts.
    pub fn with_chance(self, fault: Fault, share: f64) -> Self {
        let of_2_32 = (share.clamp(0.0, 1.0) * (1u64 << 32) as f64) as u64;
        self.lock().chances.push((fault, of_2_32));
        self
    }

    /// Makes reads that begin inside an object suffer a fault, `times` times or always. Scripts come before chance.
    pub fn strike(&self, object: &PageableObject, fault: Fault, times: Option<u32>) {
        self.strike_file(
            object.file,
            object.offset..object.offset + object.bytes,
            fault,
            times,
        );
    }

    /// The same for reads that begin in a range of a file.
    pub fn strike_file(
        &self,
        file: FileIndex,
        offsets: Range<u64>,
        fault: Fault,
        times: Option<u32>,
    ) {
        self.lock().scripts.push(Script {
            file,
            offsets,
            fault,
            left: times,
        });
    }

    /// Ends all faults but those that strike right now.
    pub fn heal(&self) {
        let mut state = self.lock();
        state.scripts.clear();
        state.chances.clear();
        state.vanished = false;
    }

    /// The disk is gone.
    pub fn vanish(&self) {
        self.lock().vanished = true;
    }

    /// The disk is back.
    pub fn reappear(&self) {
        self.lock().vanished = false;
    }

    /// Lets all hanging reads go on.
    pub fn release(&self) {
        self.lock().releases += 1;
        self.released.notify_all();
    }

    /// Reads that hang now.
    pub fn hanging(&self) -> usize {
        self.lock().hanging
    }

    /// How many reads there were, of all files.
    pub fn reads(&self) -> u64 {
        self.lock().reads.values().sum()
    }

    /// How many reads began at an object's first byte.
    pub fn reads_of(&self, object: &PageableObject) -> u64 {
        self.lock()
            .reads
            .get(&(object.file, object.offset))
            .copied()
            .unwrap_or(0)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .expect("no panic while the faults are locked")
    }

    /// Counts a read and decides its fate, with a random number for the details.
    fn decide(&self, file: FileIndex, offset: u64) -> (Option<Fault>, u64) {
        let mut state = self.lock();
        let count = state.reads.entry((file, offset)).or_default();
        *count += 1;
        let random = mix(mix(mix(self.seed ^ u64::from(file.0)) ^ offset) ^ *count);
        if state.vanished {
            return (Some(Fault::Fail), random);
        }
        let here =
            |s: &&mut Script| s.file == file && s.offsets.contains(&offset) && s.left != Some(0);
        if let Some(script) = state.scripts.iter_mut().find(here) {
            script.left = script.left.map(|left| left - 1);
            return (Some(script.fault), random);
        }
        let mut lot = random >> 32;
        for (fault, share) in &state.chances {
            if lot < *share {
                return (Some(*fault), mix(random));
            }
            lot -= share;
        }
        (None, random)
    }

    fn hang(&self) {
        let mut state = self.lock();
        let releases = state.releases;
        state.hanging += 1;
        while state.releases == releases {
            state = self
                .released
                .wait(state)
                .expect("no panic while the faults are locked");
        }
        state.hanging -= 1;
    }
}

impl ShardReader for FaultyReader {
    fn read_at(&self, file: FileIndex, offset: u64, into: &mut [u8]) -> Result<(), ReadError> {
        let (fault, random) = self.decide(file, offset);
        let path = || format!("file {} (faulty)", file.0);
        match fault {
            Some(Fault::Fail) => {
                return Err(ReadError::Io {
                    path: path(),
                    reason: "input/output error".into(),
                });
            }
            Some(Fault::Short) => {
                let wanted = into.len() as u64;
                let got = random % wanted.max(1);
                self.inner
                    .read_at(file, offset, &mut into[..got as usize])?;
                return Err(ReadError::Short {
                    path: path(),
                    offset,
                    wanted,
                    got,
                });
            }
            Some(Fault::Slow(by)) => std::thread::sleep(by),
            Some(Fault::Hang) => self.hang(),
            Some(Fault::Corrupt) | None => {}
        }
        self.inner.read_at(file, offset, into)?;
        if fault == Some(Fault::Corrupt) && !into.is_empty() {
            let bit = random as usize % (into.len() * 8);
            into[bit / 8] ^= 1 << (bit % 8);
        }
        Ok(())
    }

    fn source(&self, file: FileIndex) -> &'static str {
        self.inner.source(file)
    }

    fn reopen(&self, file: FileIndex) {
        self.inner.reopen(file);
    }
}

/// The finaliser of splitmix64 (Steele, Lea, Flood 2014).
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
