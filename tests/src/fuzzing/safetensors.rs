//! Safetensors headers.

use super::Outcome;
use odmoe_formats::safetensors::{
    BLOCKS_KEY_PREFIX, Encoding, SafetensorsHeader, SafetensorsLayout, TensorEntry, TensorSpec,
    header_length,
};
use std::collections::HashSet;

/// Only parses.
pub fn parse(bytes: &[u8]) {
    drop(SafetensorsHeader::parse(bytes, bytes.len() as u64));
}

/// Parses `bytes` as a whole file and checks what it gives.
pub fn check(bytes: &[u8]) -> Outcome {
    let file_bytes = bytes.len() as u64;
    // A file that is longer on disk than what was read of it, and one that is shorter.
    for claimed in [file_bytes.wrapping_mul(3), u64::MAX, file_bytes / 2, 0] {
        let _ = SafetensorsHeader::parse(bytes, claimed);
    }
    let header = match SafetensorsHeader::parse(bytes, file_bytes) {
        Ok(header) => header,
        Err(error) => return Outcome::refused(&error),
    };
    let needed = header_length(bytes, file_bytes).expect("it was parsed");
    assert_eq!(needed, header.data_start);
    let from_header = SafetensorsHeader::parse(&bytes[..needed as usize], file_bytes);
    assert_eq!(from_header.as_ref(), Ok(&header), "the data was looked at");
    check_ranges(&header, file_bytes);
    check_round_trip(&header);
    Outcome::Accepted
}

/// The tensors cover the data in order, each in the bytes of its shape, and no name comes twice.
fn check_ranges(header: &SafetensorsHeader, file_bytes: u64) {
    let mut end = header.data_start;
    let mut names = HashSet::new();
    for tensor in &header.tensors {
        assert_eq!(tensor.range.start, end, "{}", tensor.name);
        assert!(tensor.range.end >= end, "{}", tensor.name);
        end = tensor.range.end;
        assert!(names.insert(&tensor.name), "{} twice", tensor.name);
        if let Encoding::Blocks(format, layout) = tensor.encoding {
            // A scalar is written without dimensions.
            let shape = if tensor.shape.is_empty() {
                &[1][..]
            } else {
                &tensor.shape
            };
            let bytes = tensor.range.end - tensor.range.start;
            assert_eq!(format.tensor_bytes(shape), Some(bytes), "{}", tensor.name);
            assert_eq!(layout.of_tensor(format, shape), layout, "{}", tensor.name);
            let is_rows = tensor.block_format() == Ok(format);
            assert_eq!(is_rows, layout.is_row_major(), "{}", tensor.name);
        }
    }
    assert_eq!(end, file_bytes);
}

/// What a converter would write of the weights is read again as the same.
fn check_round_trip(header: &SafetensorsHeader) {
    let writable = |tensor: &&TensorEntry| {
        !tensor.name.starts_with("__") && !tensor.shape.is_empty() && !tensor.shape.contains(&0)
    };
    let weights: Vec<TensorSpec> = header
        .tensors
        .iter()
        .filter(writable)
        .filter_map(spec)
        .collect();
    if weights.is_empty() {
        return;
    }
    let plain = |(key, _): &(&String, &String)| !key.starts_with(BLOCKS_KEY_PREFIX);
    let pairs = header.metadata.iter().filter(plain);
    let pairs: Vec<(&str, &str)> = pairs
        .map(|(key, value)| (key.as_str(), value.as_str()))
        .collect();
    let layouts = [
        SafetensorsLayout::packed(&weights, &pairs),
        SafetensorsLayout::new(&weights),
    ];
    for layout in layouts {
        let layout = layout.unwrap_or_else(|error| panic!("cannot be written: {error}"));
        let again = SafetensorsHeader::parse(&layout.header, layout.file_bytes);
        let again = again.unwrap_or_else(|error| panic!("cannot be read again: {error}"));
        let fillers = |tensor: &&TensorEntry| !tensor.name.starts_with("__");
        let read: Vec<&TensorEntry> = again.tensors.iter().filter(fillers).collect();
        assert_eq!(read.len(), weights.len());
        for ((tensor, weight), place) in read.iter().zip(&weights).zip(&layout.tensors) {
            assert_eq!(spec(tensor).as_ref(), Some(weight));
            assert_eq!(tensor.range, place.offset..place.offset + place.bytes);
        }
    }
}

fn spec(tensor: &TensorEntry) -> Option<TensorSpec> {
    let Encoding::Blocks(format, layout) = tensor.encoding else {
        return None;
    };
    Some(TensorSpec {
        name: tensor.name.clone(),
        format,
        shape: tensor.shape.clone(),
        layout,
    })
}

/// Lets the length before the JSON reach to its last brace.
pub fn repair(bytes: &mut [u8]) {
    let last_brace = bytes.iter().rposition(|byte| *byte == b'}');
    if let Some(json_bytes) = last_brace.and_then(|at| (at + 1).checked_sub(8)) {
        bytes[..8].copy_from_slice(&(json_bytes as u64).to_le_bytes());
    }
}
