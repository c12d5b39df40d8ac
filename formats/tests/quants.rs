//! The block formats against ggml: the vectors of `tests/quants/`, which `tests/oracle/quants/make_quants.py` made.

use odmoe_formats::BlockFormat;
use std::path::Path;

fn read(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/quants")
        .join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn read_f32(name: &str) -> Vec<f32> {
    let bytes = read(name);
    let (values, rest) = bytes.as_chunks::<4>();
    assert!(rest.is_empty(), "{name}: not whole numbers");
    values
        .iter()
        .map(|bytes| f32::from_le_bytes(*bytes))
        .collect()
}

fn quantised() -> impl Iterator<Item = BlockFormat> {
    let formats = BlockFormat::ALL.into_iter();
    formats.filter(|format| !format.is_float())
}

#[test]
fn decoders_equal_ggml_bit_for_bit() {
    for format in quantised() {
        let encoded = read(&format!("decode-{format}.blocks"));
        let expected = read_f32(&format!("decode-{format}.f32"));
        let blocks = encoded.len() / format.block_bytes();
        assert!(blocks >= 50, "{format}: only {blocks} blocks");
        assert_eq!(expected.len(), blocks * format.block_elements(), "{format}");

        let mut decoded = vec![0.0; expected.len()];
        format.decode_row(&encoded, &mut decoded);
        for (index, (ours, ggml)) in decoded.iter().zip(&expected).enumerate() {
            let (block, element) = (
                index / format.block_elements(),
                index % format.block_elements(),
            );
            assert!(
                ours.to_bits() == ggml.to_bits() || (ours.is_nan() && ggml.is_nan()),
                "{format}, block {block}, element {element}: {ours:e} ({:#010x}), ggml has {ggml:e} ({:#010x})",
                ours.to_bits(),
                ggml.to_bits()
            );
        }
    }
}

/// The vectors reach what they are there for: numbers that are not finite, subnormal, or negative zero.
#[test]
fn the_vectors_hold_edges() {
    for format in quantised() {
        let values = read_f32(&format!("decode-{format}.f32"));
        let has = |what: &dyn Fn(f32) -> bool| values.iter().any(|value| what(*value));
        assert!(has(&|x| x.is_infinite()), "{format}: nothing is infinite");
        if format == BlockFormat::MXFP4 {
            // Its scale is a power of two, and its only zero is positive.
            assert!(has(&|x| x.is_subnormal()), "{format}: nothing is subnormal");
        } else {
            assert!(
                has(&|x| x == 0.0 && x.is_sign_negative()),
                "{format}: no -0"
            );
            assert!(has(&|x| x.is_nan()), "{format}: nothing is NaN");
        }
    }
}

#[test]
fn encoders_equal_ggml_byte_for_byte() {
    let values = read_f32("encode.f32");
    for format in quantised() {
        let expected = read(&format!("encode-{format}.blocks"));
        let mut encoded = vec![0xAA; expected.len()];
        format.encode_row(&values, &mut encoded);
        let blocks = encoded.chunks(format.block_bytes());
        for (block, (ours, ggml)) in blocks
            .zip(expected.chunks(format.block_bytes()))
            .enumerate()
        {
            let row = block * format.block_elements() / 256;
            assert_eq!(ours, ggml, "{format}, block {block}, row {row}");
        }
    }
}
