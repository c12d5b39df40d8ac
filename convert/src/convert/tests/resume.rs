//! Conversions that go on where another stopped, and disks that fill up.

use super::layouts::in_lanes;
use super::*;
use crate::convert::disk::Room;
use crate::convert::old_files::OldFiles;
use crate::test_support::StopAtStep;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

/// Remembers what it is told of an earlier conversion.
#[derive(Default)]
struct Listener(Mutex<Vec<Earlier>>);

impl Progress for Listener {
    fn earlier(&self, earlier: &Earlier) {
        self.0.lock().unwrap().push(earlier.clone());
    }

    fn report(&self, _report: &ProgressReport<'_>) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

fn model() -> RandomModel {
    RandomModel {
        shards: 2,
        ..RandomModel::default()
    }
}

/// A fixture whose conversion was stopped after the tensors; and the store that an undisturbed one gives.
fn stopped(options: &ConvertOptions) -> (Fixture, PathBuf) {
    let fixture = fixture(&model());
    let whole = fixture.folder.path().join("whole");
    let source = fixture.open();
    convert(&source, &whole, options, &NoProgress).unwrap();
    let stop = StopAtStep("source checksums");
    let error = convert(&source, &fixture.store, options, &stop).unwrap_err();
    assert!(matches!(error, ConvertError::Cancelled), "{error}");
    (fixture, whole)
}

/// Converts, and gives what was said of the earlier attempt.
fn go_on(fixture: &Fixture, options: &ConvertOptions) -> (Summary, Vec<Earlier>) {
    let listener = Listener::default();
    let summary = convert(&fixture.open(), &fixture.store, options, &listener).unwrap();
    (summary, listener.0.into_inner().unwrap())
}

#[track_caller]
fn assert_same(store: &Path, whole: &Path) {
    let manifest = open_store(whole).unwrap();
    let names = manifest.files.iter().map(|file| file.path.as_str());
    for name in names.chain(["manifest.json", "tokenizer.json"]) {
        let read = |folder: &Path| fs::read(folder.join(name)).unwrap();
        assert!(read(store) == read(whole), "{name}");
    }
    assert!(!store.join(".odmoe-incomplete").exists());
}

#[test]
fn what_is_finished_is_kept_and_the_bytes_are_the_same() {
    for options in [
        ConvertOptions::default(),
        quantised(),
        in_lanes(&quantised()),
    ] {
        let (fixture, whole) = stopped(&options);
        let expert = fixture
            .store
            .join("experts/layer-001/expert-007.safetensors");
        let signs = |path: &Path| {
            let found = fs::metadata(path).unwrap();
            (found.ino(), found.mtime(), found.mtime_nsec())
        };
        let before = signs(&expert);
        let (summary, said) = go_on(&fixture, &options);
        assert_eq!(signs(&expert), before);
        assert!(summary.reused_bytes > summary.expert_bytes, "{summary:?}");
        let expected = Earlier::Resumed {
            already_there: summary.reused_bytes,
        };
        assert_eq!(said, [expected]);
        assert_same(&fixture.store, &whole);
    }
}

#[test]
fn files_that_are_not_what_was_recorded_are_written_again() {
    let flip = |path: &Path, at: usize| {
        let mut bytes = fs::read(path).unwrap();
        bytes[at] ^= 1;
        fs::write(path, bytes).unwrap();
    };
    let expert = "experts/layer-000/expert-001.safetensors";
    let damages: [&dyn Fn(&Path); 6] = [
        &|store| flip(&store.join(expert), 20),
        &|store| flip(&store.join(expert), 5000),
        &|store| fs::remove_file(store.join(expert)).unwrap(),
        &|store| fs::write(store.join(expert), "short").unwrap(),
        &|store| flip(&store.join("base-00001.safetensors"), 9000),
        &|store| fs::remove_file(store.join("base-00001.safetensors")).unwrap(),
    ];
    for options in [ConvertOptions::default(), in_lanes(&quantised())] {
        for (index, damage) in damages.into_iter().enumerate() {
            let (fixture, whole) = stopped(&options);
            damage(&fixture.store);
            let (summary, _) = go_on(&fixture, &options);
            assert!(summary.reused_bytes < summary.store_bytes, "{index}");
            assert_same(&fixture.store, &whole);
        }
    }
}

#[test]
fn a_journal_that_is_cut_or_damaged_counts_up_to_there() {
    let (fixture, whole) = stopped(&ConvertOptions::default());
    let marker = fixture.store.join(".odmoe-incomplete");
    let journal = fs::read(&marker).unwrap();
    let heading = journal.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    let mut reused = Vec::new();
    for kept in [heading, heading + 10, journal.len() / 2, journal.len() - 1] {
        let mut cut = journal[..kept].to_vec();
        cut.extend([0; 100]);
        fs::write(&marker, cut).unwrap();
        fs::remove_file(fixture.store.join("manifest.json")).ok();
        reused.push(go_on(&fixture, &ConvertOptions::default()).0.reused_bytes);
        assert_same(&fixture.store, &whole);
    }
    assert!(reused.is_sorted() && reused[..2] == [ByteCount(0); 2] && reused[2].0 > 0);
}

/// Of before there were layouts, that is: the digest, the heading's fields and their order are what they were.
#[test]
fn a_journal_of_rows_reads_as_it_always_did() {
    let heading = |options: &ConvertOptions| {
        let (fixture, _) = stopped(options);
        let journal = fs::read_to_string(fixture.store.join(".odmoe-incomplete")).unwrap();
        let (_, heading) = journal.lines().next().unwrap().split_once(' ').unwrap();
        heading.to_owned()
    };
    let [rows, lanes] = [quantised(), in_lanes(&quantised())].map(|options| heading(&options));
    assert!(rows.starts_with(r#"{"format_version":1,"revision":1,"converter":"#));
    assert!(rows.contains(r#","weights":"q8_0","name":null,"#), "{rows}");
    assert!(lanes.starts_with(r#"{"format_version":2,"revision":1,"converter":"#));
    assert!(
        lanes.contains(r#","weights":"q8_0","layout":"lanes-16-1","name":null,"#),
        "{lanes}"
    );
}

#[test]
fn another_conversion_starts_over_and_says_why() {
    let reasons_after =
        |before: &ConvertOptions, change: &dyn Fn(&Fixture), options: &ConvertOptions| {
            let (fixture, _) = stopped(before);
            change(&fixture);
            let (summary, said) = go_on(&fixture, options);
            assert_eq!(summary.reused_bytes, ByteCount(0));
            let verified = verify_store(&fixture.store, &NoProgress).unwrap();
            assert_eq!(verified.problems, []);
            match &said[..] {
                [Earlier::StartedOver { reason }] => *reason,
                other => panic!("{other:?}"),
            }
        };
    let reasons = |change: &dyn Fn(&Fixture), options: &ConvertOptions| {
        reasons_after(&ConvertOptions::default(), change, options)
    };
    let (rows, lanes) = (quantised(), in_lanes(&quantised()));
    for (before, after) in [(&rows, &lanes), (&lanes, &rows)] {
        let reason = reasons_after(before, &|_| {}, after);
        assert_eq!(reason, "it has other options");
    }
    assert_eq!(reasons(&|_| {}, &quantised()), "it has other options");
    let named = ConvertOptions {
        name: Some("other".into()),
        ..ConvertOptions::default()
    };
    assert_eq!(reasons(&|_| {}, &named), "it has other options");
    let edit = |fixture: &Fixture| {
        fixture.edit_json("config.json", |config| config["rms_norm_eps"] = 1e-5.into());
    };
    assert_eq!(
        reasons(&edit, &ConvertOptions::default()),
        "it is of another model, or the model's files have changed"
    );
    let foreign = |fixture: &Fixture| {
        fs::write(fixture.store.join(".odmoe-incomplete"), "not a journal").unwrap();
    };
    assert_eq!(
        reasons(&foreign, &ConvertOptions::default()),
        "its journal cannot be read"
    );
}

#[test]
fn a_stop_between_the_manifest_and_the_markers_removal_is_taken_up() {
    let (fixture, whole) = stopped(&ConvertOptions::default());
    let marker = fixture.store.join(".odmoe-incomplete");
    let journal = fs::read(&marker).unwrap();
    go_on(&fixture, &ConvertOptions::default());
    fs::write(&marker, journal).unwrap();
    let (summary, _) = go_on(&fixture, &ConvertOptions::default());
    assert!(summary.reused_bytes > summary.expert_bytes);
    assert_same(&fixture.store, &whole);
}

#[test]
fn a_store_that_is_what_would_be_made_is_an_answer_and_no_other_is() {
    let fixture = fixture(&model());
    let options = ConvertOptions::default();
    let first = run(&fixture, &options).unwrap();
    let manifest = fixture.store.join("manifest.json");
    let before = fs::metadata(&manifest).unwrap().ino();
    let (again, said) = go_on(&fixture, &options);
    let already_there = first.store_bytes;
    assert_eq!(said, [Earlier::Resumed { already_there }]);
    let all = Summary {
        reused_bytes: first.store_bytes,
        ..first
    };
    assert_eq!(again, all);
    assert_eq!(fs::metadata(&manifest).unwrap().ino(), before);

    let refuse = |options: &ConvertOptions| {
        let error = run(&fixture, options).unwrap_err();
        assert!(matches!(error, ConvertError::StoreExists { .. }), "{error}");
    };
    let named = ConvertOptions {
        name: Some("other".into()),
        ..options.clone()
    };
    let split = ConvertOptions {
        base_file_limit: ByteCount(40_000),
        ..options.clone()
    };
    let quantised_lanes = in_lanes(&quantised());
    [quantised(), quantised_lanes, named, split]
        .iter()
        .for_each(refuse);
    let base = fixture.store.join("base-00001.safetensors");
    let whole = fs::read(&base).unwrap();
    let mut damaged = whole.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    fs::write(&base, damaged).unwrap();
    refuse(&options);
    fs::write(&base, whole).unwrap();
    go_on(&fixture, &options);
    fixture.edit_json("config.json", |config| config["rms_norm_eps"] = 1e-5.into());
    refuse(&options);
}

/// Puts another model of the same layout, size and time in the source's place, as soon as a step begins.
struct SwapAt<'a> {
    step: &'static str,
    weights: &'a Path,
    other: &'a Path,
    swapped: AtomicBool,
}

impl Progress for SwapAt<'_> {
    fn report(&self, report: &ProgressReport<'_>) -> ControlFlow<()> {
        if report.step == self.step && !self.swapped.swap(true, Ordering::Relaxed) {
            fs::hard_link(self.weights, self.weights.with_extension("aside")).unwrap();
            fs::rename(self.other, self.weights).unwrap();
        }
        ControlFlow::Continue(())
    }
}

#[test]
fn bytes_of_a_file_that_took_the_sources_place_are_not_recorded() {
    let model = |seed| RandomModel {
        experts: 64,
        layers: 4,
        seed,
        ..RandomModel::default()
    };
    let (fixture, other) = (fixture(&model(1)), fixture(&model(2)));
    let options = ConvertOptions::default();
    let whole = fixture.folder.path().join("whole");
    convert(&fixture.open(), &whole, &options, &NoProgress).unwrap();
    let [weights, other] =
        [&fixture, &other].map(|fixture| fixture.model.join("model.safetensors"));
    let modified = fs::metadata(&weights).unwrap().modified().unwrap();
    let file = File::options().write(true).open(&other).unwrap();
    file.set_modified(modified).unwrap();
    let swap = SwapAt {
        step: "experts of layer 0",
        weights: &weights,
        other: &other,
        swapped: AtomicBool::new(false),
    };
    let error = convert(&fixture.open(), &fixture.store, &options, &swap).unwrap_err();
    let changed = matches!(error, ConvertError::Source(SourceError::Changed { .. }));
    assert!(changed, "{error}");
    fs::rename(weights.with_extension("aside"), &weights).unwrap();
    go_on(&fixture, &options);
    assert_same(&fixture.store, &whole);
}

#[test]
fn bytes_that_are_written_into_the_source_are_not_read() {
    let fixture = fixture(&RandomModel::default());
    let weights = fixture.model.join("model.safetensors");
    // Clocks of file systems are coarse.
    let file = File::options().write(true).open(&weights).unwrap();
    file.set_modified(std::time::UNIX_EPOCH).unwrap();
    let source = fixture.open();
    let mut bytes = fs::read(&weights).unwrap();
    let mut read = [0; 4];
    source.read_tensor(0, 0, &mut read).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&weights, &bytes).unwrap();
    let error = source.read_tensor(0, 0, &mut read).unwrap_err();
    assert!(matches!(error, SourceError::Changed { .. }), "{error}");
    // A file that has become shorter has changed too, whatever the read says.
    fs::write(&weights, "").unwrap();
    let error = source.read_tensor(0, 0, &mut read).unwrap_err();
    assert!(matches!(error, SourceError::Changed { .. }), "{error}");
}

/// A disk that takes so many bytes more, and then says why not.
struct FillsUp {
    left: AtomicI64,
    refusal: rustix::io::Errno,
    /// What it claims to have free from then on.
    then_free: Room,
}

impl FillsUp {
    fn at(bytes: i64, refusal: rustix::io::Errno, then_free: Room) -> Self {
        Self {
            left: AtomicI64::new(bytes),
            refusal,
            then_free,
        }
    }

    /// The error of a conversion to it.
    fn refuse(&self, fixture: &Fixture, options: &ConvertOptions) -> ConvertError {
        let conversion = Conversion {
            source: &fixture.open(),
            options,
            more_files: &[],
            disk: self,
        };
        let error = conversion.run(&fixture.store, &NoProgress).unwrap_err();
        assert!(!crate::store::is_store(&fixture.store));
        error
    }
}

impl Disk for FillsUp {
    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> std::io::Result<()> {
        use std::os::unix::fs::FileExt;
        let wanted = bytes.len() as i64;
        let left = self.left.fetch_sub(wanted, Ordering::Relaxed);
        let fits = left.clamp(0, wanted) as usize;
        file.write_all_at(&bytes[..fits], offset)?;
        match fits < bytes.len() {
            true => Err(self.refusal.into()),
            false => Ok(()),
        }
    }

    fn room(&self, folder: &Path) -> std::io::Result<Room> {
        match self.left.load(Ordering::Relaxed) {
            0.. => SystemDisk.room(folder),
            _ => Ok(self.then_free),
        }
    }
}

const NOTHING: Room = Room {
    bytes: 0,
    files: Some(1),
};

#[test]
fn a_disk_that_fills_up_says_so_and_the_conversion_goes_on_later() {
    let fixture = fixture(&model());
    let whole = fixture.folder.path().join("whole");
    let options = ConvertOptions::default();
    let summary = convert(&fixture.open(), &whole, &options, &NoProgress).unwrap();
    let bytes = summary.store_bytes.0 as i64;
    for room in [0, 10_000, bytes / 3, bytes - 1] {
        let disk = FillsUp::at(room, rustix::io::Errno::NOSPC, NOTHING);
        let error = disk.refuse(&fixture, &options);
        assert!(matches!(error, ConvertError::DiskFull { .. }), "{error}");
        let said = error.to_string();
        assert!(
            said.contains("must be free") && said.contains("goes on"),
            "{said}"
        );
        go_on(&fixture, &options);
        assert_same(&fixture.store, &whole);
        fs::remove_dir_all(&fixture.store).unwrap();
    }
}

#[test]
fn a_limit_that_is_not_the_disks_is_told_as_what_it_is() {
    use rustix::io::Errno;
    let fixture = fixture(&model());
    let options = ConvertOptions::default();
    let bytes = 1 << 40;
    let files = Some(7);
    let cases = [
        (Errno::DQUOT, Room { bytes, files }, "the quota"),
        (
            Errno::NOSPC,
            Room {
                bytes,
                files: Some(0),
            },
            "no more files",
        ),
        (
            Errno::NOSPC,
            Room { bytes, files: None },
            "though the disk has room",
        ),
        (Errno::DQUOT, NOTHING, "must be free"),
    ];
    for (refusal, then_free, expected) in cases {
        let said = FillsUp::at(10_000, refusal, then_free).refuse(&fixture, &options);
        let said = said.to_string();
        assert!(
            said.contains(expected) && said.contains("goes on"),
            "{said}"
        );
    }
}

#[test]
fn a_disk_with_too_few_inodes_is_refused_before_a_byte_is_written() {
    struct FewFiles(Option<u64>);
    impl Disk for FewFiles {
        fn room(&self, _folder: &Path) -> std::io::Result<Room> {
            let bytes = 1 << 40;
            Ok(Room {
                bytes,
                files: self.0,
            })
        }
    }
    let fixture = fixture(&model());
    let convert = |files| {
        let conversion = Conversion {
            source: &fixture.open(),
            options: &ConvertOptions::default(),
            more_files: &[],
            disk: &FewFiles(files),
        };
        conversion.run(&fixture.store, &NoProgress)
    };
    let error = convert(Some(10)).unwrap_err();
    let ConvertError::TooManyFiles { needed, free, .. } = error else {
        panic!("{error}")
    };
    assert!(needed > 16 && free == 10, "{needed}");
    assert!(!fixture.store.exists());
    convert(Some(needed)).unwrap();
    let files = OldFiles::find(&fixture.store, true).unwrap();
    let made = (files.files.len() + files.folders.len()) as u64;
    // With the folder itself and the marker, and without what this model does not have.
    assert!((made + 2..made + 5).contains(&needed), "{made} {needed}");
    fs::remove_dir_all(&fixture.store).unwrap();
    convert(None).unwrap();
}

#[test]
fn folders_above_a_new_store_reach_the_disk_with_it() {
    #[derive(Default)]
    struct Synced(Mutex<Vec<PathBuf>>);
    impl Disk for Synced {
        fn sync_folder(&self, folder: &Path) -> std::io::Result<()> {
            self.0.lock().unwrap().push(folder.into());
            SystemDisk.sync_folder(folder)
        }
    }
    let fixture = fixture(&model());
    let disk = Synced::default();
    let conversion = Conversion {
        source: &fixture.open(),
        options: &ConvertOptions::default(),
        more_files: &[],
        disk: &disk,
    };
    let top = fixture.folder.path();
    conversion.run(&top.join("b/c/store"), &NoProgress).unwrap();
    let synced = disk.0.into_inner().unwrap();
    for folder in ["", "b", "b/c", "b/c/store"] {
        // No ending slash: it is a path like any other.
        let folder = match folder {
            "" => top.to_path_buf(),
            below => top.join(below),
        };
        assert!(synced.contains(&folder), "{}", folder.display());
    }
}
