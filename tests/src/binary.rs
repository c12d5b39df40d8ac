//! The `odmoe` binary under test.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The path of the binary: `ODMOE_BINARY`, else one built now in the profile and target folder of the running test.
/// Built once a process; cargo makes the calls of other processes cheap.
pub fn odmoe_binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| match std::env::var_os("ODMOE_BINARY") {
        Some(path) => PathBuf::from(path),
        None => build(),
    })
}

fn build() -> PathBuf {
    // A test runs from TARGET/PROFILE/deps.
    let this = std::env::current_exe().expect("the running test has a path");
    let profile_folder = this
        .ancestors()
        .nth(2)
        .expect("a test lies in TARGET/PROFILE/deps")
        .to_path_buf();
    let target_folder = profile_folder
        .parent()
        .expect("a profile lies in the target folder");
    let profile = match profile_folder.file_name().and_then(|name| name.to_str()) {
        Some("debug") => "dev",
        Some(name) => name,
        None => panic!("{}: no profile's folder", profile_folder.display()),
    };
    // With `--tests`, for features are those of all that is built at once: so what `cargo test --workspace` compiled is
    // used again.
    let status = Command::new(env!("CARGO"))
        .args([
            "build",
            "--quiet",
            "--workspace",
            "--tests",
            "--bin",
            "odmoe",
            "--profile",
            profile,
        ])
        .arg("--target-dir")
        .arg(target_folder)
        .current_dir(crate::workspace::root())
        .status()
        .expect("cargo runs");
    assert!(status.success(), "cargo build --bin odmoe failed");
    profile_folder.join(format!("odmoe{}", std::env::consts::EXE_SUFFIX))
}
