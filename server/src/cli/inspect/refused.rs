//! What can be told of a GGUF file that is not served: its header names every tensor, whatever its type.

use super::human;
use crate::cli::{Failure, terminal};
use crate::model::locate::ModelLocation;
use crate::model::report::human_count;
use odmoe_formats::ByteCount;
use odmoe_formats::gguf::Gguf;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

/// The file, where it is one.
pub(super) fn gguf_of(location: &ModelLocation) -> Option<&Path> {
    match location {
        ModelLocation::Gguf(path) => Some(path),
        _ => None,
    }
}

/// Prints what the header says. Nothing where it cannot be read: the reason, which the caller tells, is then all.
pub(super) fn tell(path: &Path, reason: &str, as_json: bool) -> Result<(), Failure> {
    let Some(header) = read(path) else {
        return Ok(());
    };
    let report = report(&header, reason);
    if as_json {
        return terminal::print(&format!("{report}\n"));
    }
    // A file may hold anything, a terminal's commands too.
    let architecture = report["architecture"].as_str().unwrap_or("not named");
    let architecture: String = architecture.chars().filter(|c| !c.is_control()).collect();
    let mut text = format!(
        "{}: GGUF file\n  architecture  {architecture:.64}\n  tensors       {}, {} parameters, {}\n",
        path.display(),
        report["tensors"],
        human_count(report["parameters"].as_u64().unwrap_or(0)),
        ByteCount(report["tensor_bytes"].as_u64().unwrap_or(0)),
    );
    if let Some(files) = report["files_in_set"].as_u64() {
        text += &format!(
            "  set           one of {files} files; what is in the others is not counted\n"
        );
    }
    human::write_formats(&mut text, &report)
        .and_then(|()| writeln!(text, "  cannot be served"))
        .expect("a string takes everything");
    terminal::print(&text)
}

fn read(path: &Path) -> Option<Gguf> {
    let file = File::open(path).ok()?;
    let bytes = file.metadata().ok()?.len();
    Gguf::read(&mut BufReader::new(file), bytes).ok()
}

/// None where the file is a whole model.
fn files_in_set(header: &Gguf) -> Option<u64> {
    let count = header.metadata.integer("split.count").ok().flatten();
    count.filter(|&count| count > 1)
}

fn report(header: &Gguf, reason: &str) -> Value {
    let mut by_format: BTreeMap<&str, (u64, u64, u64)> = BTreeMap::new();
    for tensor in &header.tensors {
        let tally = by_format.entry(tensor.kind.name()).or_default();
        let elements = tensor.shape.iter().product::<u64>();
        let bytes = tensor.range.end - tensor.range.start;
        *tally = (tally.0 + 1, tally.1 + elements, tally.2 + bytes);
    }
    let formats: Vec<Value> = by_format
        .iter()
        .map(|(format, (tensors, parameters, bytes))| {
            json!({"format": format, "tensors": tensors, "parameters": parameters, "bytes": bytes})
        })
        .collect();
    let sum = |of: fn(&(u64, u64, u64)) -> u64| by_format.values().map(of).sum::<u64>();
    json!({
        "kind": "GGUF file",
        "refused": reason,
        "files_in_set": files_in_set(header),
        "architecture": header.metadata.text("general.architecture").ok().flatten(),
        "name": header.metadata.text("general.name").ok().flatten(),
        "tensors": header.tensors.len(),
        "parameters": sum(|tally| tally.1),
        "tensor_bytes": sum(|tally| tally.2),
        "tensors_by_format": formats,
    })
}
