//! `odmoe convert` from outside: its memory, and what a kill leaves.

use odmoe_tests::binary::odmoe_binary;
use odmoe_tests::models::large_model;
use odmoe_tests::process::peak_resident_bytes;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Well below the 201 MB of the model.
const PEAK_BYTES_MAX: u64 = 96 << 20;

fn spawn(source: &Path, store: &Path) -> Child {
    let mut command = Command::new(odmoe_binary());
    command.arg("convert").arg(source).arg(store);
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    command.spawn().expect("the binary starts")
}

fn inspects(store: &Path) -> bool {
    let mut command = Command::new(odmoe_binary());
    command.arg("inspect").arg(store);
    let output = command.output().expect("the binary starts");
    output.status.success()
}

#[test]
fn memory_stays_far_below_the_model() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (source, store) = (folder.path().join("source"), folder.path().join("store"));
    large_model().write(&source).expect("a writable folder");
    let mut child = spawn(&source, &store);
    let mut peak = 0;
    let status = loop {
        peak = peak.max(peak_resident_bytes(child.id()).unwrap_or(0));
        if let Some(status) = child.try_wait().expect("the process can be waited for") {
            break status;
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    assert!(status.success() && inspects(&store));
    println!("peak {} KiB", peak >> 10);
    assert!(peak > 0 && peak < PEAK_BYTES_MAX, "{peak} bytes");
}

#[test]
fn a_kill_leaves_nothing_that_opens() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let source = folder.path().join("source");
    large_model().write(&source).expect("a writable folder");
    // Lines of progress, a tenth of the whole apart, after which the kill comes.
    for lines in [1, 2, 4, 7] {
        let store = folder.path().join(format!("store-{lines}"));
        let mut child = spawn(&source, &store);
        let mut progress = BufReader::new(child.stderr.take().expect("piped")).lines();
        let seen = progress.by_ref().take(lines).filter(Result::is_ok).count();
        child.kill().expect("it runs");
        let status = child.wait().expect("it ends");
        assert!(
            seen == lines && !status.success(),
            "it ended before the kill"
        );
        assert!(
            !inspects(&store),
            "killed after {lines} lines, and it opens"
        );
        let again = spawn(&source, &store).wait_with_output().expect("it ends");
        let said = String::from_utf8_lossy(&again.stderr).into_owned();
        assert!(again.status.success(), "after {lines} lines: {said}");
        assert!(inspects(&store));
    }
}
