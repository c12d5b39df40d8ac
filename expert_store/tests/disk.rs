//! Measuring reads real files by the threads that serve.

mod common;

use common::{manifest, write_files};
use odmoe_expert_store::disk::{DiskBench, DiskError, Verify};
use odmoe_expert_store::*;
use odmoe_formats::ByteCount;
use std::sync::Arc;
use std::time::Duration;

const BYTES: u64 = 20 << 10;
const SIZES: [u64; 16] = [BYTES; 16];
const PATIENCE: Duration = Duration::from_secs(60);
const ROOM: ByteCount = ByteCount(8 * (32 << 10));
const TIME: Duration = Duration::from_millis(5);

fn bench(dir: &std::path::Path, sizes: &[u64]) -> Result<DiskBench, DiskError> {
    let manifest = manifest(sizes);
    let reader = FileReader::open(dir, &manifest).unwrap();
    DiskBench::new(Arc::new(Catalog::new(&manifest)), &reader, ROOM, PATIENCE)
}

#[test]
fn every_plan_reads_and_counts_whole_objects() {
    let dir = tempfile::tempdir().unwrap();
    write_files(dir.path(), &SIZES);
    let mut bench = bench(dir.path(), &SIZES).unwrap();
    for method in [Method::IoUring, Method::Threads] {
        for (at_once, piece) in [(1, None), (2, Some(ByteCount(8192))), (8, None)] {
            let plan = ReadPlan {
                method,
                at_once,
                piece,
                access: if at_once == 1 {
                    Access::Buffered
                } else {
                    Access::Direct
                },
            };
            for verify in [Verify::Yes, Verify::No] {
                let speed = bench.run(plan, verify, TIME).unwrap();
                assert!(speed.reads > 0 && speed.seconds > 0.0, "{speed:?}");
                assert_eq!(speed.bytes, speed.reads * BYTES);
            }
        }
    }
}

#[test]
fn memory_is_bounded() {
    let dir = tempfile::tempdir().unwrap();
    write_files(dir.path(), &SIZES);
    let mut bench = bench(dir.path(), &SIZES).unwrap();
    let plan = ReadPlan {
        at_once: 9,
        ..ReadPlan::default()
    };
    let refused = bench.run(plan, Verify::No, TIME);
    assert!(matches!(refused, Err(DiskError::Room(9))), "{refused:?}");
}

#[test]
fn damage_is_found_only_where_it_is_looked_for() {
    let dir = tempfile::tempdir().unwrap();
    write_files(dir.path(), &SIZES);
    for i in 0..SIZES.len() {
        let path = dir.path().join(format!("experts/{i}.safetensors"));
        std::fs::write(path, vec![7; 4096 + BYTES as usize]).unwrap();
    }
    let mut bench = bench(dir.path(), &SIZES).unwrap();
    let plan = ReadPlan::default();
    assert!(matches!(
        bench.run(plan, Verify::Yes, TIME),
        Err(DiskError::Load(LoadError::Checksum { .. }))
    ));
    assert!(bench.run(plan, Verify::No, TIME).is_ok());
}

#[test]
fn a_model_without_experts_has_nothing_to_measure() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(bench(dir.path(), &[]), Err(DiskError::NoObjects)));
}
