//! What cannot be served is refused in a sentence, before a byte is written.

use odmoe_tests::binary::odmoe_binary;
use odmoe_tests::golden::Golden;
use odmoe_tests::{Server, ServerOptions};
use std::path::{Path, PathBuf};
use std::process::Command;

/// ggml's number of a type that is not supported.
const IQ2_XS: u32 = 17;
/// Another.
const I32: u32 = 26;

struct Model {
    folder: tempfile::TempDir,
    bytes: Vec<u8>,
}

impl Model {
    fn new() -> Self {
        let model = Golden::gguf("qwen3moe-q4_k_m").model;
        Self {
            folder: tempfile::tempdir().expect("a temporary folder"),
            bytes: std::fs::read(model).expect("an oracle model"),
        }
    }

    /// Where a text comes first.
    fn find(&self, text: &str) -> usize {
        let mut windows = self.bytes.windows(text.len());
        let found = windows.position(|window| window == text.as_bytes());
        found.unwrap_or_else(|| panic!("no {text:?}"))
    }

    fn write(&self) -> PathBuf {
        let path = self.folder.path().join("model.gguf");
        std::fs::write(&path, &self.bytes).expect("a file");
        path
    }
}

/// Every command that would open the model says so; serving and converting write nothing.
#[track_caller]
fn check_refused(path: &Path, sentence: &str) {
    let scratch = tempfile::tempdir().expect("a temporary folder");
    let (home, store) = (scratch.path().join("home"), scratch.path().join("store"));
    std::fs::create_dir(&home).expect("a folder");
    let mut server = Server::spawn(&ServerOptions {
        arguments: vec!["--model".into(), path.display().to_string()],
        home: Some(home.clone()),
        ..ServerOptions::default()
    });
    assert_eq!(server.wait().code(), Some(1), "{}", server.log());
    for command in ["inspect", "convert"] {
        let mut odmoe = Command::new(odmoe_binary());
        odmoe.arg(command).arg(path).env("HOME", &home);
        odmoe.env("XDG_CACHE_HOME", home.join("cache"));
        if command == "convert" {
            odmoe.arg(&store);
        }
        let output = odmoe.output().expect("the binary starts");
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{command}: {told}");
        assert!(told.contains(sentence), "{command}: {told}");
        assert_eq!(told.trim_end().lines().count(), 1, "{command}: {told}");
    }
    // By now the pipes are read.
    assert!(server.log().contains(sentence), "{}", server.log());
    let left = std::fs::read_dir(scratch.path()).expect("a folder");
    assert_eq!(left.count(), 1, "a store was begun");
    let left = std::fs::read_dir(&home).expect("a folder");
    assert_eq!(left.count(), 0, "something was written");
}

#[test]
fn an_architecture_is_named_with_those_that_are_supported() {
    let mut model = Model::new();
    let at = model.find("qwen3moe");
    model.bytes[at..at + 8].copy_from_slice(b"glm4_moe");
    let sentence = "architecture \"glm4_moe\" is not supported; supported: llama, olmoe, qwen2moe, qwen3, qwen3moe";
    check_refused(&model.write(), sentence);
}

#[test]
fn a_tensor_type_is_named_with_those_that_are_supported() {
    let mut model = Model::new();
    let name = "blk.1.ffn_up_exps.weight";
    // After the name: how many dimensions, three of them, the type.
    let at = model.find(name) + name.len() + 4 + 3 * 8;
    model.bytes[at..at + 4].copy_from_slice(&IQ2_XS.to_le_bytes());
    let sentence = "tensor blk.1.ffn_up_exps.weight is IQ2_XS; supported: F32, F16, BF16, Q8_0";
    check_refused(&model.write(), sentence);
}

#[test]
fn a_download_that_stopped_is_told_from_a_whole_file() {
    let mut model = Model::new();
    model.bytes.truncate(model.bytes.len() * 2 / 3);
    check_refused(&model.write(), "download it again");
}

#[test]
fn missing_parts_are_named() {
    let set = Golden::gguf("qwen3moe-blocks").model;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let part = |number: u32| format!("qwen3moe-blocks-{number:05}-of-00003.gguf");
    for number in [1, 3] {
        let name = part(number);
        let copied = std::fs::copy(set.with_file_name(&name), folder.path().join(&name));
        copied.expect("a copy");
    }
    let missing = format!("1 are missing: {}", part(2));
    check_refused(&folder.path().join(part(3)), &missing);
    check_refused(folder.path(), &missing);
}

#[test]
fn a_folder_of_several_models_is_listed() {
    let mut model = Model::new();
    model.write();
    model.bytes.clear();
    let folder = model.folder.path();
    std::fs::write(folder.join("other.gguf"), "").expect("a file");
    check_refused(folder, "give one of them: model.gguf, other.gguf");
}

#[test]
fn of_a_set_the_file_at_fault_is_named() {
    let set = Golden::gguf("qwen3moe-blocks").model;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let part = |number: u32| format!("qwen3moe-blocks-{number:05}-of-00003.gguf");
    let mut named = String::new();
    for number in 1..=3 {
        let mut bytes = std::fs::read(set.with_file_name(part(number))).expect("a part");
        let name = b"blk.1.ffn_gate_inp.weight";
        let at = bytes.windows(name.len()).position(|window| window == name);
        if let Some(at) = at {
            // As many bytes as F32, so that nothing else is amiss.
            let kind = at + name.len() + 4 + 2 * 8;
            bytes[kind..kind + 4].copy_from_slice(&I32.to_le_bytes());
            let tensor = "tensor blk.1.ffn_gate_inp.weight is I32";
            named = format!("{}: {tensor}", part(number));
        }
        std::fs::write(folder.path().join(part(number)), bytes).expect("a file");
    }
    check_refused(&folder.path().join(part(1)), &named);
    let mut odmoe = Command::new(odmoe_binary());
    odmoe.arg("inspect").arg(folder.path().join(part(3)));
    let told = odmoe.output().expect("the binary starts").stdout;
    let told = String::from_utf8_lossy(&told);
    assert!(
        told.contains("one of 3 files; what is in the others is not counted"),
        "{told}"
    );
}
