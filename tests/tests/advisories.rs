//! What was published against other servers' readers of model files, tried on ours. Those about requests are with the
//! routes (`server/src/http/tests/advisories.rs`).

use odmoe_formats::gguf::Gguf;
use odmoe_formats::safetensors::SafetensorsHeader;

const F32: u32 = 0;
const FILE_BYTES: u64 = 4096;

/// A GGUF file of tensors alone: dimensions and offset of each.
fn gguf(tensors: &[(&[u64], u64)]) -> Vec<u8> {
    let mut file = b"GGUF".to_vec();
    file.extend(3_u32.to_le_bytes());
    file.extend((tensors.len() as u64).to_le_bytes());
    file.extend(0_u64.to_le_bytes());
    for (index, (dimensions, offset)) in tensors.iter().enumerate() {
        let name = format!("t{index}");
        file.extend((name.len() as u64).to_le_bytes());
        file.extend(name.as_bytes());
        file.extend((dimensions.len() as u32).to_le_bytes());
        file.extend(
            dimensions
                .iter()
                .flat_map(|dimension| dimension.to_le_bytes()),
        );
        file.extend(F32.to_le_bytes());
        file.extend(offset.to_le_bytes());
    }
    file.resize(FILE_BYTES as usize, 0);
    file
}

#[track_caller]
fn assert_refused(tensors: &[(&[u64], u64)]) {
    let file = gguf(tensors);
    let refused = Gguf::read(&mut file.as_slice(), FILE_BYTES);
    let Err(error) = refused else {
        panic!("a lie was believed");
    };
    assert!(!error.to_string().is_empty());
}

#[test]
fn an_honest_file_is_read() {
    let file = gguf(&[(&[8, 4], 0), (&[16], 128)]);
    let read = Gguf::read(&mut file.as_slice(), FILE_BYTES).expect("nothing is wrong with it");
    assert_eq!(read.tensors.len(), 2);
}

/// llama.cpp CVE-2025-53630: sizes of tensors were added up past 2^64. CVE-2026-27940: the first fix was gone round.
#[test]
fn sizes_that_wrap_around_are_refused() {
    assert_refused(&[(&[1 << 32, 1 << 32], 0)]);
    assert_refused(&[(&[u64::MAX], 0)]);
    assert_refused(&[(&[1 << 62], 0)]);
    assert_refused(&[(&[8], u64::MAX - 31)]);
    assert_refused(&[(&[8], 0), (&[(1 << 61) - 8, 2], 32)]);
    assert_refused(&[(&[1 << 61], 0), (&[1 << 61], 1 << 63), (&[8], 0)]);
    assert_refused(&[(&[0, u64::MAX, u64::MAX], 0)]);
}

/// Ollama CVE-2026-7482: a tensor larger than its file, and what lay behind it in memory went to whoever asked.
#[test]
fn tensors_beyond_the_end_of_their_file_are_refused() {
    assert_refused(&[(&[FILE_BYTES / 4], 0)]);
    assert_refused(&[(&[8], FILE_BYTES)]);
    assert_refused(&[(&[1 << 40], 0)]);
}

#[test]
fn safetensors_that_lie_about_their_size_are_refused() {
    for (shape, offsets) in [
        ("[1073741824]", "[0,4294967296]"),
        ("[8]", "[0,18446744073709551615]"),
        ("[8]", "[18446744073709551584,18446744073709551615]"),
        ("[4294967296,4294967296]", "[0,0]"),
        ("[8]", "[32,0]"),
    ] {
        let json =
            format!("{{\"t\":{{\"dtype\":\"F32\",\"shape\":{shape},\"data_offsets\":{offsets}}}}}");
        let mut file = (json.len() as u64).to_le_bytes().to_vec();
        file.extend(json.as_bytes());
        file.extend([0; 64]);
        assert!(read_safetensors(&file).is_err(), "{json}");
    }
    let mut endless = u64::MAX.to_le_bytes().to_vec();
    endless.extend([b'{'; 64]);
    assert!(read_safetensors(&endless).is_err());
}

fn read_safetensors(file: &[u8]) -> Result<(), String> {
    SafetensorsHeader::parse(file, file.len() as u64)
        .map(drop)
        .map_err(|error| error.to_string())
}
