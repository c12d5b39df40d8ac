//! Thousands of shards at `ulimit -n 128`. Alone in its process, for the limit is the process's.

mod common;

use common::backend::FakeBackend;
use common::{Harness, manifest, write_files};
use odmoe_expert_store::FileReader;
use rustix::process::{Resource, Rlimit, setrlimit};
use std::sync::Arc;

#[test]
fn descriptors_are_bounded() {
    let sizes = [4096; 3000];
    let dir = tempfile::tempdir().unwrap();
    write_files(dir.path(), &sizes);
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: Some(128),
            maximum: Some(128),
        },
    )
    .unwrap();
    let reader = FileReader::open(dir.path(), &manifest(&sizes)).unwrap();
    let mut h = Harness::over(FakeBackend::unified(), Arc::new(reader), &sizes, 64, |c| {
        c.readers = 8
    });
    // Every sixth: the first direct read of a new file waits until it is on the disk.
    for first in (0..3000).step_by(300) {
        let some: Vec<u32> = (first..first + 300).step_by(6).collect();
        h.visit(&some);
    }
    assert_eq!(h.faulty.reads(), 500);
    let open = std::fs::read_dir("/proc/self/fd").map(|fds| fds.count());
    assert!(open.unwrap_or(0) <= 64, "a bounded number stays open");
    h.assert_at_rest();
}
