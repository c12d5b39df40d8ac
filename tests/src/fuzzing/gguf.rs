//! Descriptions of GGUF files.

use super::Outcome;
use odmoe_formats::WeightLayout;
use odmoe_formats::gguf::{Gguf, GgufLayout, TensorInfo};
use odmoe_formats::safetensors::TensorSpec;
use std::collections::HashSet;

/// Only parses.
pub fn parse(bytes: &[u8]) {
    drop(read(bytes, bytes.len() as u64));
}

fn read(mut bytes: &[u8], file_bytes: u64) -> Result<Gguf, odmoe_formats::gguf::GgufError> {
    Gguf::read(&mut bytes, file_bytes)
}

/// Parses `bytes` as a whole file and checks what it gives.
pub fn check(bytes: &[u8]) -> Outcome {
    let file_bytes = bytes.len() as u64;
    // A file that is longer than what can be read of it, and one that is shorter.
    for (end, claimed) in [
        (bytes.len() / 2, file_bytes),
        (bytes.len(), u64::MAX),
        (bytes.len(), file_bytes / 2),
    ] {
        let _ = read(&bytes[..end], claimed);
    }
    let gguf = match read(bytes, file_bytes) {
        Ok(gguf) => gguf,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return Outcome::refused(&error);
        }
    };
    check_ranges(&gguf, file_bytes);
    check_round_trip(&gguf);
    Outcome::Accepted
}

/// Tensors lie inside the file and apart, on multiples of the alignment, in the bytes of their shapes.
fn check_ranges(gguf: &Gguf, file_bytes: u64) {
    assert!(gguf.alignment_bytes.is_power_of_two());
    assert!(gguf.data_start.is_multiple_of(gguf.alignment_bytes));
    let mut names = HashSet::new();
    for TensorInfo {
        name,
        kind,
        shape,
        range,
    } in &gguf.tensors
    {
        assert!(names.insert(name), "{name} twice");
        assert!(
            gguf.data_start <= range.start && range.end <= file_bytes,
            "{name}"
        );
        assert!(
            (range.start - gguf.data_start).is_multiple_of(gguf.alignment_bytes),
            "{name}"
        );
        assert_eq!(
            kind.tensor_bytes(shape),
            Some(range.end - range.start),
            "{name}"
        );
    }
    let mut ranges: Vec<_> = gguf.tensors.iter().map(|tensor| &tensor.range).collect();
    ranges.sort_by_key(|range| range.start);
    assert!(
        ranges.windows(2).all(|pair| pair[0].end <= pair[1].start),
        "they overlap"
    );
    let keys: HashSet<&str> = gguf.metadata.iter().map(|(key, _)| key).collect();
    assert_eq!(keys.len(), gguf.metadata.iter().len());
    assert!(keys.iter().all(|key| gguf.metadata.get(key).is_some()));
}

/// What the writer accepts of it is read again as the same. The writer is stricter: on names, and on the alignment.
fn check_round_trip(gguf: &Gguf) {
    let specs = gguf.tensors.iter().filter_map(|tensor| {
        Some(TensorSpec {
            name: tensor.name.clone(),
            format: tensor.block_format()?,
            shape: tensor.shape.clone(),
            layout: WeightLayout::RowMajor,
        })
    });
    let specs: Vec<TensorSpec> = specs.collect();
    let Ok(layout) = GgufLayout::new(&gguf.metadata, &specs) else {
        return;
    };
    // The description alone: nothing behind it may be looked at.
    let again = read(&layout.header, layout.file_bytes);
    let again = again.unwrap_or_else(|error| panic!("cannot be read again: {error}"));
    assert_eq!(again.data_start, layout.data_start());
    assert_eq!(again.tensors.len(), specs.len());
    for ((tensor, spec), place) in again.tensors.iter().zip(&specs).zip(&layout.tensors) {
        assert_eq!(
            (&tensor.name, tensor.block_format()),
            (&spec.name, Some(spec.format))
        );
        assert_eq!(tensor.shape, spec.shape);
        assert_eq!(tensor.range, place.offset..place.offset + place.bytes);
    }
    // Values may be NaN, which is not equal to itself; bytes are.
    let rewritten = GgufLayout::new(&again.metadata, &specs);
    assert_eq!(rewritten.as_ref(), Ok(&layout));
}
