//! Real files: direct reads, and shards that are truncated, deleted and replaced while serving.

mod common;

use common::backend::FakeBackend;
use common::{Harness, content, files, manifest, write_files};
use odmoe_expert_store::*;
use odmoe_formats::ByteCount;
use odmoe_formats::manifest::FileIndex;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;

const BYTES: u64 = 20 << 10;
const SIZES: [u64; 8] = [BYTES; 8];

fn shard(dir: &Path, index: u32) -> PathBuf {
    dir.join(format!("experts/{index}.safetensors"))
}

/// Room for two of eight experts, so that most visits read.
fn serve(dir: &Path, plan: ReadPlan) -> Harness {
    let reader = FileReader::open(dir, &manifest(&SIZES)).unwrap();
    let reader = Arc::new(reader.with_plan(plan));
    Harness::over(FakeBackend::unified(), reader, &SIZES, 2, |_| {})
}

fn new_store(plan: ReadPlan) -> (TempDir, Harness) {
    let dir = tempfile::tempdir().unwrap();
    write_files(dir.path(), &SIZES);
    let harness = serve(dir.path(), plan);
    (dir, harness)
}

/// Every way to read.
fn each(test: impl Fn(ReadPlan)) {
    for access in [Access::Direct, Access::Buffered] {
        for (method, piece) in [
            (Method::IoUring, None),
            (Method::IoUring, Some(ByteCount(4096))),
            (Method::IoUring, Some(ByteCount(12 << 10))),
            (Method::Threads, None),
        ] {
            let at_once = 2;
            let plan = ReadPlan {
                method,
                access,
                at_once,
                piece,
            };
            eprintln!("{plan}");
            test(plan);
        }
    }
}

fn failure(h: &mut Harness, index: u32) -> LoadFailureKind {
    let ticket = h.acquire(&[index]);
    let got = h.finish(ticket);
    got[&index]
        .as_ref()
        .expect_err("the shard is broken")
        .kind()
}

#[test]
fn objects_are_read_past_the_page_cache_or_through_it() {
    each(objects_are_read_past_the_page_cache_or_through_it_by);
}

fn objects_are_read_past_the_page_cache_or_through_it_by(plan: ReadPlan) {
    let (_dir, mut h) = new_store(plan);
    for pair in [[0, 1], [2, 3], [4, 5], [6, 7], [0, 1]] {
        h.visit(&pair);
    }
    let source = |e: &StoreEvent| {
        matches!(
            e,
            StoreEvent::Loaded {
                source,
                bytes: BYTES,
                ..
            } if *source == "buffered" || *source == plan.access.name()
        )
    };
    assert_eq!(h.events.count(source), 10);
    h.assert_at_rest();
}

#[test]
fn any_range_of_any_file_can_be_read() {
    each(any_range_of_any_file_can_be_read_by);
}

fn any_range_of_any_file_can_be_read_by(plan: ReadPlan) {
    let dir = tempfile::tempdir().unwrap();
    write_files(dir.path(), &SIZES);
    let reader = FileReader::open(dir.path(), &manifest(&SIZES)).unwrap();
    let reader = reader.with_plan(plan);
    let expected = &files(&SIZES)[3];
    for (offset, length) in [
        (0, 1),
        (4095, 2),
        (4096, 4096),
        (5000, 10_001),
        (24_575, 1),
        (24_576, 0),
    ] {
        let mut into = vec![0; length + 1];
        // An odd address: neither aligned nor lucky.
        reader
            .read_at(FileIndex(3), offset, &mut into[1..])
            .unwrap();
        assert_eq!(
            into[1..],
            expected[offset as usize..offset as usize + length]
        );
    }
    let mut beyond = vec![0; 10];
    let error = reader
        .read_at(FileIndex(3), 24_570, &mut beyond)
        .unwrap_err();
    assert!(
        matches!(
            error,
            ReadError::Short {
                offset: 24_570,
                wanted: 10,
                got: 6,
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn a_store_that_is_incomplete_is_not_opened() {
    let dir = tempfile::tempdir().unwrap();
    write_files(dir.path(), &SIZES);
    let open = || FileReader::open(dir.path(), &manifest(&SIZES)).map(|_| ());
    open().unwrap();
    std::fs::write(shard(dir.path(), 2), [0; 100]).unwrap();
    assert!(matches!(open(), Err(OpenError::Size { .. })));
    std::fs::remove_file(shard(dir.path(), 2)).unwrap();
    assert!(matches!(open(), Err(OpenError::Missing { .. })));
    std::fs::create_dir(shard(dir.path(), 2)).unwrap();
    assert!(
        matches!(open(), Err(OpenError::Missing { .. })),
        "a folder is no shard"
    );
}

#[test]
fn a_truncated_shard_is_a_short_read() {
    each(a_truncated_shard_is_a_short_read_by);
}

fn a_truncated_shard_is_a_short_read_by(plan: ReadPlan) {
    let (dir, mut h) = new_store(plan);
    h.visit(&[0, 1]);
    h.visit(&[2, 3]);
    for length in [0, 4096, 4096 + 8192, 4096 + 8192 + 77] {
        std::fs::File::options()
            .write(true)
            .open(shard(dir.path(), 0))
            .unwrap()
            .set_len(length)
            .unwrap();
        assert_eq!(
            failure(&mut h, 0),
            LoadFailureKind::ShortRead,
            "at {length} bytes"
        );
    }
    write_files(dir.path(), &SIZES);
    h.visit(&[0, 1]);
    h.assert_at_rest();
}

#[test]
fn a_deleted_shard_fails_until_it_is_back() {
    each(a_deleted_shard_fails_until_it_is_back_by);
}

fn a_deleted_shard_fails_until_it_is_back_by(plan: ReadPlan) {
    let (dir, mut h) = new_store(plan);
    std::fs::remove_file(shard(dir.path(), 0)).unwrap();
    assert_eq!(failure(&mut h, 0), LoadFailureKind::Io);
    h.visit(&[1, 2]);
    write_files(dir.path(), &SIZES);
    h.visit(&[0]);
    h.assert_at_rest();
}

#[test]
fn a_replaced_shard_is_judged_by_its_checksum() {
    each(a_replaced_shard_is_judged_by_its_checksum_by);
}

fn a_replaced_shard_is_judged_by_its_checksum_by(plan: ReadPlan) {
    let (dir, mut h) = new_store(plan);
    h.visit(&[0, 1]);
    h.visit(&[2, 3]);
    // Renamed over, as tools do; the old file is still open here.
    let replace = |bytes: Vec<u8>| {
        let new = dir.path().join("new");
        std::fs::write(&new, [vec![0; 4096], bytes].concat()).unwrap();
        std::fs::rename(&new, shard(dir.path(), 0)).unwrap();
    };
    replace(content(1, BYTES));
    h.visit(&[0]);
    h.visit(&[1, 2]);
    // Damaged in place: seen at once; then repaired by a rename, which the second look at wrong bytes finds.
    let (dir, mut h) = new_store(plan);
    h.visit(&[0, 1]);
    h.visit(&[2, 3]);
    std::fs::write(
        shard(dir.path(), 0),
        [vec![0; 4096], content(1, BYTES)].concat(),
    )
    .unwrap();
    assert_eq!(failure(&mut h, 0), LoadFailureKind::Checksum);
    let new = dir.path().join("new");
    std::fs::write(&new, [vec![0; 4096], content(0, BYTES)].concat()).unwrap();
    std::fs::rename(&new, shard(dir.path(), 0)).unwrap();
    h.visit(&[0]);
    assert_eq!(h.events.failures(), [LoadFailureKind::Checksum]);
    h.assert_at_rest();
}

#[test]
fn a_folder_that_goes_away_and_comes_back() {
    each(a_folder_that_goes_away_and_comes_back_by);
}

fn a_folder_that_goes_away_and_comes_back_by(plan: ReadPlan) {
    let (dir, mut h) = new_store(plan);
    h.visit(&[6, 7]);
    let (here, away) = (dir.path().join("experts"), dir.path().join("away"));
    std::fs::rename(&here, &away).unwrap();
    for index in [0, 1, 2] {
        assert_eq!(failure(&mut h, index), LoadFailureKind::Io);
    }
    assert!(matches!(h.store.health(), StoreHealth::Failing { .. }));
    h.visit(&[6, 7]);
    std::fs::rename(&away, &here).unwrap();
    h.until("health", |h| {
        if let Some(due) = h.store.next_deadline() {
            h.store.poll(due);
        }
        h.store.health() == StoreHealth::Healthy
    });
    h.visit(&[0, 1]);
    h.assert_at_rest();
}
