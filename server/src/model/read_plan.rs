//! How a store's experts are read: as flags say, as was remembered, or as is measured now, at the store's first start.
//!
//! What was measured is kept in `disks.json` of the cache folder, by the store's folder and the device that it lies on.
//! The file may go at any time; whatever is in it that this version does not understand is measured anew.

use odmoe_expert_store::disk::{Choice, DiskBench, Verify, Wanted, choose};
use odmoe_expert_store::{Access, Catalog, FileReader, Method, ReadPlan};
use odmoe_formats::ByteCount;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

const FILE: &str = "disks.json";
const VERSION: u32 = 1;
const STORES_MAX: usize = 256;
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Experts that take less are read in no time by any plan.
const MEASURED_FROM: ByteCount = ByteCount(256 << 20);
/// What measuring reads into at most; it is given back before experts take their memory.
const MEMORY_MAX: ByteCount = ByteCount(512 << 20);
/// For all of measuring. One turn of the slowest disk may come on top.
const TIME: Duration = Duration::from_millis(1400);
/// A disk that is slower than this is not measured to the end.
const PATIENCE: Duration = Duration::from_secs(1);
/// The bounds of what a file may say.
const AT_ONCE_MAX: usize = 64;

/// What flags say about reading.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadSettings {
    /// What is not to be measured.
    pub wanted: Wanted,
    /// Whether what was remembered is void.
    pub anew: bool,
}

/// What measuring may read into, where `experts` bytes are for experts.
pub fn measuring_memory(experts: ByteCount) -> ByteCount {
    experts.min(MEMORY_MAX)
}

/// Where a plan comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Flags settle it.
    Flags,
    /// The model is so small, or its disk so slow or broken, that nothing was measured.
    Default,
    /// Measured at an earlier start.
    Remembered,
    /// Measured now.
    Measured,
}

impl Origin {
    /// For reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Flags => "flags",
            Self::Default => "default",
            Self::Remembered => "remembered",
            Self::Measured => "measured",
        }
    }
}

/// How experts are read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reading {
    /// The plan.
    pub plan: ReadPlan,
    /// Why this one.
    pub origin: Origin,
    /// What it brought when it was measured.
    pub bytes_per_s: Option<f64>,
}

/// Decides how the experts of the store in `folder` are read. `measuring` is told before time is spent on it, and `memory`
/// is free until then.
pub fn reading(
    settings: &ReadSettings,
    cache_folder: Option<&Path>,
    folder: &Path,
    catalog: &Arc<Catalog>,
    reader: &FileReader,
    memory: ByteCount,
    measuring: &dyn Fn(),
) -> Reading {
    let unmeasured = |origin| Reading {
        plan: settings.wanted.plan(),
        origin,
        bytes_per_s: None,
    };
    if settings.wanted.is_settled() {
        return unmeasured(Origin::Flags);
    }
    if catalog.total() < MEASURED_FROM {
        return unmeasured(Origin::Default);
    }
    let place = Place::of(folder);
    let (Some(cache), Some(place)) = (cache_folder, place) else {
        return measure(settings, catalog, reader, memory, measuring)
            .unwrap_or(unmeasured(Origin::Default));
    };
    let mut known = Known::read(cache);
    let remembered = known
        .plan_of(&place)
        .filter(|choice| settings.wanted.allows(choice.plan));
    if let Some(choice) = remembered
        && !settings.anew
    {
        return Reading {
            plan: choice.plan,
            origin: Origin::Remembered,
            bytes_per_s: Some(choice.bytes_per_s),
        };
    }
    let Some(measured) = measure(settings, catalog, reader, memory, measuring) else {
        return unmeasured(Origin::Default);
    };
    // What flags restricted is not the best there is.
    if settings.wanted == Wanted::default() {
        known.remember(&place, &measured);
        if let Err(error) = known.write(cache) {
            tracing::debug!(%error, "how this disk is best read is not remembered");
        }
    }
    measured
}

fn measure(
    settings: &ReadSettings,
    catalog: &Arc<Catalog>,
    reader: &FileReader,
    memory: ByteCount,
    measuring: &dyn Fn(),
) -> Option<Reading> {
    measuring();
    let mut bench = DiskBench::new(catalog.clone(), reader, memory, PATIENCE).ok()?;
    let object_bytes = catalog.total().0 / catalog.len().max(1) as u64;
    let start = Instant::now();
    let choice = choose(&settings.wanted, object_bytes, &mut |plan, time| {
        if start.elapsed() >= TIME {
            return None;
        }
        let speed = bench.run(plan, Verify::Yes, time).ok()?;
        Some(speed.bytes_per_s())
    })?;
    Some(Reading {
        // What the system does of it: a kernel without io_uring reads by threads.
        plan: reader.with_plan(choice.plan).plan(),
        origin: Origin::Measured,
        bytes_per_s: Some(choice.bytes_per_s),
    })
}

/// A store, as long as it lies where it lies.
struct Place {
    folder: String,
    device: u64,
}

impl Place {
    fn of(folder: &Path) -> Option<Self> {
        let folder = folder.canonicalize().ok()?;
        Some(Self {
            device: folder.metadata().ok()?.dev(),
            folder: folder.to_str()?.to_owned(),
        })
    }
}

/// The file of remembered plans.
#[derive(Debug, Deserialize, Serialize)]
struct Known {
    version: u32,
    stores: BTreeMap<String, Entry>,
}

#[derive(Debug, Deserialize, Serialize)]
struct Entry {
    device: u64,
    method: String,
    access: String,
    at_once: usize,
    piece_bytes: Option<u64>,
    bytes_per_s: f64,
}

impl Default for Known {
    fn default() -> Self {
        Self {
            version: VERSION,
            stores: BTreeMap::new(),
        }
    }
}

impl Known {
    /// Nothing, where there is no such file or it cannot be understood.
    fn read(cache: &Path) -> Self {
        let path = cache.join(FILE);
        let small = path
            .metadata()
            .is_ok_and(|file| file.len() <= FILE_BYTES_MAX);
        let text = small.then(|| std::fs::read(&path).ok()).flatten();
        let known = text.and_then(|text| serde_json::from_slice::<Self>(&text).ok());
        known
            .filter(|known| known.version == VERSION)
            .unwrap_or_default()
    }

    fn plan_of(&self, place: &Place) -> Option<Choice> {
        let entry = self.stores.get(&place.folder)?;
        let methods = [Method::IoUring, Method::Threads];
        let accesses = [Access::Direct, Access::Buffered];
        let plan = ReadPlan {
            method: methods.into_iter().find(|m| m.name() == entry.method)?,
            access: accesses.into_iter().find(|a| a.name() == entry.access)?,
            at_once: entry.at_once,
            piece: entry.piece_bytes.map(ByteCount),
        };
        let sane = (1..=AT_ONCE_MAX).contains(&plan.at_once)
            && entry.piece_bytes != Some(0)
            && entry.bytes_per_s > 0.0;
        (entry.device == place.device && sane).then_some(Choice {
            plan,
            bytes_per_s: entry.bytes_per_s,
        })
    }

    fn remember(&mut self, place: &Place, measured: &Reading) {
        if self.stores.len() >= STORES_MAX {
            self.stores.clear();
        }
        let plan = measured.plan;
        let entry = Entry {
            device: place.device,
            method: plan.method.name().to_owned(),
            access: plan.access.name().to_owned(),
            at_once: plan.at_once,
            piece_bytes: plan.piece.map(|piece| piece.0),
            bytes_per_s: measured.bytes_per_s.unwrap_or_default(),
        };
        self.stores.insert(place.folder.clone(), entry);
    }

    /// Renamed into place: two starts at once leave one of both.
    fn write(&self, cache: &Path) -> io::Result<()> {
        std::fs::create_dir_all(cache)?;
        let mut file = tempfile::NamedTempFile::new_in(cache)?;
        serde_json::to_writer_pretty(&mut file, self)?;
        file.persist(cache.join(FILE))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured() -> Reading {
        Reading {
            plan: ReadPlan {
                method: Method::Threads,
                access: Access::Buffered,
                at_once: 8,
                piece: None,
            },
            origin: Origin::Measured,
            bytes_per_s: Some(1.5e9),
        }
    }

    #[test]
    fn what_was_measured_is_remembered_for_its_folder_and_device() {
        let cache = tempfile::tempdir().unwrap();
        let store = tempfile::tempdir().unwrap();
        let place = Place::of(store.path()).unwrap();
        let mut known = Known::read(cache.path());
        assert!(known.plan_of(&place).is_none());
        known.remember(&place, &measured());
        known.write(cache.path()).unwrap();
        let known = Known::read(cache.path());
        assert_eq!(known.plan_of(&place).unwrap().plan, measured().plan);
        let moved = Place {
            device: place.device + 1,
            ..place
        };
        assert!(known.plan_of(&moved).is_none());
    }

    #[test]
    fn what_cannot_be_understood_is_void() {
        let cache = tempfile::tempdir().unwrap();
        let place = Place::of(cache.path()).unwrap();
        let mut good = Known::default();
        good.remember(&place, &measured());
        let good = serde_json::to_string(&good).unwrap();
        for (from, to) in [
            ("threads", "magic"),
            ("buffered", "psychic"),
            ("\"at_once\":8", "\"at_once\":0"),
            ("\"at_once\":8", "\"at_once\":1000000"),
            ("\"piece_bytes\":null", "\"piece_bytes\":0"),
            ("\"version\":1", "\"version\":2"),
            ("{", "["),
        ] {
            let bad = good.replacen(from, to, 1);
            assert_ne!(bad, good);
            std::fs::write(cache.path().join(FILE), bad).unwrap();
            assert!(Known::read(cache.path()).plan_of(&place).is_none(), "{to}");
        }
        std::fs::write(cache.path().join(FILE), good).unwrap();
        assert!(Known::read(cache.path()).plan_of(&place).is_some());
    }
}
