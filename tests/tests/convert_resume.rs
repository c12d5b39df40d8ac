//! A conversion that is killed, at any moment, and run again: the same bytes as if nothing had happened, from what was
//! there already.

use odmoe_convert::random_model::{
    ExpertNaming, Family, GgufOptions, Quantisation, RandomModel, WriteOptions,
};
use odmoe_convert::{is_store, open_store};
use odmoe_tests::conversion::{Conversion, assert_same_files, files_below, recorded_experts};
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

const SEED: u64 = 0x0dd;
const KILLS: usize = 20;
/// A conversion that is killed so often at most is then left to end.
const KILLS_IN_A_ROW: usize = 4;

const EXPERTS: u64 = 288;

/// 30 MB in 288 experts' files, and a base of 30 MB.
fn model() -> RandomModel {
    RandomModel {
        layers: 3,
        hidden: 256,
        experts: EXPERTS as u32 / 3,
        expert_ffn: 64,
        heads: 16,
        head_dim: 128,
        kv_heads: 8,
        vocab: 20_000,
        ..RandomModel::default()
    }
}

/// What is converted, and what an undisturbed conversion makes of it.
struct Case {
    source: PathBuf,
    whole: PathBuf,
    store_bytes: u64,
}

impl Case {
    fn new(source: PathBuf, whole: PathBuf) -> Self {
        let said = Conversion::start(&source, &whole).finish();
        said.expect("an undisturbed conversion succeeds");
        let files = files_below(&whole).into_values();
        let store_bytes = files.map(|file| file.len()).sum();
        Self {
            source,
            whole,
            store_bytes,
        }
    }

    /// A folder, and a set of GGUF files with stacked experts, mixed formats and rows that conversion reorders.
    fn both(folder: &Path) -> [Self; 2] {
        let plain = folder.join("model");
        model().write(&plain).expect("a writable folder");
        let gguf = GgufOptions {
            quantisation: Quantisation::Q4KM,
            naming: ExpertNaming::Stacked,
        };
        let options = WriteOptions {
            parts: 3,
            ..WriteOptions::default()
        };
        let mixture = RandomModel {
            family: Family::Llama,
            expert_ffn: 256,
            ..model()
        };
        let written = mixture.write_gguf(&folder.join("mixture.gguf"), gguf, options);
        let files = written.expect("a writable folder").files;
        [
            Self::new(plain, folder.join("whole")),
            Self::new(files[1].clone(), folder.join("whole-gguf")),
        ]
    }
}

/// When a kill comes.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// So many thousandths of the store's bytes are in the folder.
    Stored(u64),
    /// So many thousandths of the experts have their files.
    Experts(u64),
    /// The journal has so many lines.
    Recorded(usize),
    /// So many lines of progress have been said.
    Said(usize),
    /// The manifest is about to be put in place, or just was.
    Manifest,
}

struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed ^ (mixed >> 31)) % limit
    }

    fn moment(&mut self) -> Moment {
        match self.below(9) {
            0..3 => Moment::Stored(self.below(1000)),
            3..5 => Moment::Experts(self.below(1000)),
            5..7 => Moment::Recorded(1 + self.below(330) as usize),
            7 => Moment::Said(1 + self.below(12) as usize),
            _ => Moment::Manifest,
        }
    }
}

impl Moment {
    fn has_come(self, conversion: &Conversion, store: &Path, store_bytes: u64) -> bool {
        match self {
            Self::Stored(thousandths) => {
                let lengths = files_below(store).into_values().map(|file| file.len());
                lengths.sum::<u64>() * 1000 >= store_bytes * thousandths
            }
            Self::Experts(thousandths) => {
                let names = files_below(store).into_keys();
                let experts = names.filter(|name| name.starts_with("experts")).count() as u64;
                experts * 1000 >= EXPERTS * thousandths
            }
            Self::Recorded(lines) => {
                let journal = std::fs::read(store.join(".odmoe-incomplete")).unwrap_or_default();
                journal.iter().filter(|byte| **byte == b'\n').count() >= lines
            }
            Self::Said(lines) => conversion.said().lines().count() >= lines,
            Self::Manifest => {
                store.join("manifest.json.partial").exists() || store.join("manifest.json").exists()
            }
        }
    }
}

#[test]
fn a_conversion_that_is_killed_goes_on_to_the_same_bytes() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let cases = Case::both(folder.path());

    let mut random = Random(SEED);
    let (mut kills, mut attempts, mut reused) = (0, 0, 0);
    while kills < KILLS {
        attempts += 1;
        assert!(
            attempts <= 3 * KILLS,
            "{kills} kills in {attempts} attempts"
        );
        let Case {
            source,
            whole,
            store_bytes,
        } = &cases[attempts % 2];
        let store = folder.path().join(format!("store-{attempts}"));
        let mut in_a_row = 0;
        let context = loop {
            let moment = random.moment();
            let context =
                format!("seed {SEED:#x}, attempt {attempts}, {in_a_row} kills, {moment:?}");
            let before = recorded_experts(&store);
            let mut conversion = Conversion::start(source, &store);
            let may_kill = in_a_row < KILLS_IN_A_ROW && kills < KILLS;
            let running = may_kill
                && conversion
                    .run_until(|conversion| moment.has_come(conversion, &store, *store_bytes));
            let was_killed = if running {
                conversion.kill()
            } else {
                let said = conversion.finish();
                let said = said.unwrap_or_else(|said| panic!("{context}: {said}"));
                let told = said.contains("going on with a stopped conversion");
                assert!(told || before.is_empty(), "{context}: {said}");
                false
            };
            check_kept(&store, &before, &context);
            reused += before.len();
            if !was_killed {
                break context;
            }
            (kills, in_a_row) = (kills + 1, in_a_row + 1);
            // From the manifest's rename on it is a store, and then it is whole.
            let opened = open_store(&store);
            assert_eq!(opened.is_ok(), is_store(&store), "{context}");
            if opened.is_ok() {
                check_complete(&store, whole, &context);
                // All was done, and only the process had not ended yet.
                if !store.join(".odmoe-incomplete").exists() {
                    break context;
                }
            }
        };
        assert_same_files(&store, whole, &context);
        std::fs::remove_dir_all(&store).expect("a writable folder");
    }
    println!("{kills} kills in {attempts} attempts, {reused} files of experts kept");
    assert!(reused as u64 > EXPERTS, "only {reused} files were kept");
}

/// What the journal recorded before is not written again.
fn check_kept(store: &Path, before: &BTreeMap<PathBuf, (u64, i64, i64)>, context: &str) {
    for (name, signs) in before {
        let found = std::fs::metadata(store.join(name));
        let found = found.unwrap_or_else(|e| panic!("{context}: {}: {e}", name.display()));
        let found = (found.ino(), found.mtime(), found.mtime_nsec());
        assert_eq!(
            found,
            *signs,
            "{context}: {} was written again",
            name.display()
        );
    }
}

/// A store that only lacks the removal of its marker.
fn check_complete(store: &Path, whole: &Path, context: &str) {
    for name in files_below(whole).into_keys() {
        let read = |folder: &Path| std::fs::read(folder.join(&name)).expect("a file");
        assert!(read(store) == read(whole), "{context}: {}", name.display());
    }
}
