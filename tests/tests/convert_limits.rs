//! A conversion that runs short of disk or memory, and a random model on a disk that fills up. Needs root: for a file
//! system of its own, and for a cgroup.

use odmoe_convert::open_store;
use odmoe_tests::binary::odmoe_binary;
use odmoe_tests::cgroup::MemoryCgroup;
use odmoe_tests::conversion::{Conversion, assert_same_files, files_below, recorded_experts};
use odmoe_tests::models::large_model;
use rustix::fs::{FallocateFlags, fallocate};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// A file system in memory; unmounted when dropped.
struct Tmpfs(PathBuf);

impl Tmpfs {
    #[track_caller]
    fn mount(at: PathBuf, bytes: u64) -> Self {
        std::fs::create_dir(&at).expect("a writable folder");
        let options = format!("size={bytes}");
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", &options, "odmoe-test"]);
        let status = command.arg(&at).status().expect("mount runs");
        assert!(status.success(), "no tmpfs could be mounted; are you root?");
        Self(at)
    }

    /// Takes all room that is left.
    fn fill(ballast: &File, taken: &mut u64) {
        // An allocation that does not fit whole gives back what it took.
        for bytes in [1 << 20, 4096] {
            while fallocate(ballast, FallocateFlags::empty(), *taken, bytes).is_ok() {
                *taken += bytes;
            }
        }
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let status = Command::new("umount").arg(&self.0).status();
        if !status.is_ok_and(|status| status.success()) {
            eprintln!("{}: could not be unmounted", self.0.display());
        }
    }
}

#[test]
fn a_disk_that_fills_up_is_said_and_the_conversion_goes_on_once_there_is_room() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (source, whole) = (folder.path().join("model"), folder.path().join("whole"));
    large_model().write(&source).expect("a writable folder");
    Conversion::start(&source, &whole)
        .finish()
        .expect("an undisturbed conversion succeeds");
    let files = files_below(&whole).into_values();
    let store_bytes: u64 = files.map(|file| file.len()).sum();

    // What the check beforehand asks for is less than 32 MiB more.
    let disk = Tmpfs::mount(folder.path().join("disk"), store_bytes + (32 << 20));
    let store = disk.0.join("store");
    let ballast_path = disk.0.join("ballast");
    let ballast = File::create(&ballast_path).expect("a writable file system");
    let mut taken = 0;
    let mut conversion = Conversion::start(&source, &store);
    conversion.run_until(|_| {
        if taken > 0 || !recorded_experts(&store).is_empty() {
            Tmpfs::fill(&ballast, &mut taken);
        }
        false
    });
    let said = conversion.finish().expect_err("there was no room for it");
    println!("{said}");
    assert!(said.contains("the disk is full"), "{said}");
    assert!(said.contains("MiB more must be free"), "{said}");
    assert!(said.contains("goes on where it stopped"), "{said}");
    assert!(open_store(&store).is_err());

    // Still full: refused before anything is written.
    let refused = Conversion::start(&source, &store).finish();
    let said = refused.expect_err("there is still no room for it");
    assert!(said.contains("the store needs"), "{said}");

    drop(ballast);
    std::fs::remove_file(ballast_path).expect("a file of this test");
    let said = Conversion::start(&source, &store).finish();
    let said = said.expect("there is room for it now");
    assert!(
        said.contains("going on with a stopped conversion"),
        "{said}"
    );
    assert_same_files(&store, &whole, "after the disk was full");
}

#[test]
fn a_disk_that_fills_up_under_a_random_model_is_said_and_nothing_is_left() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    // The model has 217 MiB.
    let disk = Tmpfs::mount(folder.path().join("disk"), 256 << 20);
    let (model, ballast_path) = (disk.0.join("model.gguf"), disk.0.join("ballast"));
    let ballast = File::create(&ballast_path).expect("a writable file system");
    let mut command = Command::new(odmoe_binary());
    command.args(["synth", "toy", "--layers", "64", "--quant", "F16"]);
    command.arg("--output").arg(&model).stderr(Stdio::piped());
    let mut child = command.stdout(Stdio::null()).spawn().expect("it starts");
    let begun = disk.0.join("model.gguf.partial");
    let mut taken = 0;
    while child.try_wait().expect("a child").is_none() {
        if begun.exists() {
            Tmpfs::fill(&ballast, &mut taken);
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    let output = child.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    println!("{said}");
    assert!(!output.status.success() && taken > 0, "{said}");
    let missing = said.split("; ").any(|part| part.contains("are missing"));
    assert!(missing && said.contains("needs"), "{said}");
    assert!(!model.exists() && !begun.exists());
}

#[test]
fn a_conversion_needs_little_memory_with_its_page_cache_counted() {
    // The model has 203 MB, and every page that is read or written counts.
    const LIMIT_BYTES: u64 = 64 << 20;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (source, store) = (folder.path().join("model"), folder.path().join("store"));
    large_model().write(&source).expect("a writable folder");
    let cgroup = MemoryCgroup::create("convert", LIMIT_BYTES).unwrap_or_else(|e| panic!("{e}"));
    let said = Conversion::start_as(inside(&cgroup, odmoe_binary()), &source, &store).finish();
    said.unwrap_or_else(|said| panic!("{said}"));
    assert_eq!(cgroup.kills(), 0);
    assert!(open_store(&store).is_ok());
}

/// A command that runs a program in a cgroup.
fn inside(cgroup: &MemoryCgroup, program: &Path) -> Command {
    let mut command = Command::new("sh");
    let line = format!("{} && exec \"$0\" \"$@\"", cgroup.join_line());
    command.args(["-c", &line]).arg(program);
    command
}
