//! Models in several files.

use super::made::{Made, write_set};
use super::{GgufModel, contents, file};
use crate::source::ModelSource;
use odmoe_formats::architecture::QWEN3_MOE;
use odmoe_formats::gguf::Value;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

fn set(count: u16) -> (TempDir, Vec<PathBuf>) {
    let folder = tempfile::tempdir().unwrap();
    let paths = write_set(folder.path(), &Made::new(QWEN3_MOE).split(count));
    (folder, paths)
}

#[track_caller]
fn refused(path: &Path, part_of_message: &str) {
    let error = GgufModel::open(path).err().expect("must be refused");
    let text = error.to_string();
    assert!(text.contains(part_of_message), "{text}");
}

#[test]
fn any_member_opens_the_whole_set() {
    let (_folder, whole) = file(&Made::new(QWEN3_MOE));
    let whole = GgufModel::open(&whole).unwrap();
    let (_set, paths) = set(3);
    let first = GgufModel::open(&paths[0]).unwrap();
    for path in &paths {
        let model = GgufModel::open(path).unwrap();
        assert_eq!(model.metadata(), whole.metadata());
        assert!(contents(&model) == contents(&whole));
        assert_eq!(model.fingerprint(), first.fingerprint());
        let names: Vec<&str> = model
            .files()
            .iter()
            .map(|file| file.name.as_str())
            .collect();
        let expected = [
            "m-00001-of-00003.gguf",
            "m-00002-of-00003.gguf",
            "m-00003-of-00003.gguf",
        ];
        assert_eq!(names, expected);
    }
    std::fs::write(&paths[2], "changed").unwrap();
    assert!(first.check_unchanged().is_err());
}

#[test]
fn a_set_without_a_name_inside_is_called_by_its_stem() {
    let folder = tempfile::tempdir().unwrap();
    let mut made = Made::new(QWEN3_MOE);
    made.unset("general.name");
    let paths = write_set(folder.path(), &made.split(2));
    let model = GgufModel::open(&paths[1]).unwrap();
    assert_eq!(model.metadata().suggested_name, "m");
}

#[test]
fn missing_parts_are_named() {
    let (_folder, paths) = set(4);
    std::fs::remove_file(&paths[1]).unwrap();
    std::fs::remove_file(&paths[3]).unwrap();
    let expected = "2 are missing: m-00002-of-00004.gguf, m-00004-of-00004.gguf; download them";
    refused(&paths[0], expected);
    refused(&paths[2], expected);
}

#[test]
fn parts_that_are_renamed_or_mixed_are_refused() {
    let (folder, paths) = set(2);
    let renamed = folder.path().join("renamed.gguf");
    std::fs::copy(&paths[0], &renamed).unwrap();
    refused(
        &renamed,
        "it is one of 2 files; give them their names back, NAME-00001-of-00002.gguf",
    );
    let miscounted = folder.path().join("m-00001-of-00003.gguf");
    std::fs::copy(&paths[0], &miscounted).unwrap();
    refused(&miscounted, "it is one of 2 files");

    std::fs::copy(&paths[0], &paths[1]).unwrap();
    refused(
        &paths[0],
        "part 1, counted from 0, of 2, but it says split.no 0 and split.count 2",
    );
}

#[test]
fn parts_of_another_conversion_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let parts = Made::new(QWEN3_MOE).split(2);
    let mut twice = parts.clone();
    let first = twice[0].tensors[0].clone();
    twice[1].tensors[0] = first;
    let paths = write_set(folder.path(), &twice);
    refused(
        &paths[0],
        "tensor \"token_embd.weight\" is in two of the set's files",
    );

    let mut fewer = parts.clone();
    fewer[1].tensors.pop();
    let paths = write_set(folder.path(), &fewer);
    refused(&paths[0], "tensors where");

    let mut huge = parts;
    huge[0].set("split.count", Value::U16(60_000));
    let paths = write_set(folder.path(), &huge);
    refused(&paths[0], "split.count is 60000");
}
