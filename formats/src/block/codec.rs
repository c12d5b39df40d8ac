//! The reference decoder and encoder of each format: the plainest code that is right, one element after another.
//! Kernels are checked against it.

mod fields;
mod iq4;
mod k_quants;
mod mxfp4;
mod one_scale;

use super::BlockFormat;
use half::{bf16, f16};

impl BlockFormat {
    /// Decodes whole blocks to F32. Floats are exact; of the others every operation rounds to binary32 in the order
    /// that the format's module gives, which is ggml's.
    ///
    /// Panics where `encoded` is not the bytes of exactly `decoded.len()` elements.
    pub fn decode_row(self, encoded: &[u8], decoded: &mut [f32]) {
        self.assert_row(encoded.len(), decoded.len());
        match self {
            Self::F32 => decode_each(encoded, decoded, f32::from_le_bytes),
            Self::F16 => decode_each(encoded, decoded, |b| f16::from_le_bytes(b).to_f32()),
            Self::BF16 => decode_each(encoded, decoded, |b| bf16::from_le_bytes(b).to_f32()),
            Self::Q8_0 => decode_blocks(encoded, decoded, one_scale::decode_q8_0),
            Self::Q4_0 => decode_blocks(encoded, decoded, one_scale::decode_q4_0),
            Self::Q4_1 => decode_blocks(encoded, decoded, one_scale::decode_q4_1),
            Self::Q5_0 => decode_blocks(encoded, decoded, one_scale::decode_q5_0),
            Self::Q5_1 => decode_blocks(encoded, decoded, one_scale::decode_q5_1),
            Self::Q2_K => decode_blocks(encoded, decoded, k_quants::decode_q2_k),
            Self::Q3_K => decode_blocks(encoded, decoded, k_quants::decode_q3_k),
            Self::Q4_K => decode_blocks(encoded, decoded, k_quants::decode_q4_k),
            Self::Q5_K => decode_blocks(encoded, decoded, k_quants::decode_q5_k),
            Self::Q6_K => decode_blocks(encoded, decoded, k_quants::decode_q6_k),
            Self::MXFP4 => decode_blocks(encoded, decoded, mxfp4::decode),
            Self::IQ4_NL => decode_blocks(encoded, decoded, iq4::decode_iq4_nl),
            Self::IQ4_XS => decode_blocks(encoded, decoded, iq4::decode_iq4_xs),
        }
    }

    /// Encodes F32 as whole blocks. Floats round to nearest even and keep NaN as NaN. The others follow ggml's reference
    /// quantisers (without an importance matrix), byte for byte; what they make of a block with a value that is not
    /// finite, or beyond what the format can hold, is unspecified, but never a panic.
    ///
    /// Panics where `encoded` is not the bytes of exactly `decoded.len()` elements.
    pub fn encode_row(self, decoded: &[f32], encoded: &mut [u8]) {
        self.assert_row(encoded.len(), decoded.len());
        match self {
            Self::F32 => encode_each(decoded, encoded, f32::to_le_bytes),
            Self::F16 => encode_each(decoded, encoded, |x| f16::from_f32(x).to_le_bytes()),
            Self::BF16 => encode_each(decoded, encoded, |x| bf16::from_f32(x).to_le_bytes()),
            Self::Q8_0 => encode_blocks(decoded, encoded, one_scale::encode_q8_0),
            Self::Q4_0 => encode_blocks(decoded, encoded, one_scale::encode_q4_0),
            Self::Q4_1 => encode_blocks(decoded, encoded, one_scale::encode_q4_1),
            Self::Q5_0 => encode_blocks(decoded, encoded, one_scale::encode_q5_0),
            Self::Q5_1 => encode_blocks(decoded, encoded, one_scale::encode_q5_1),
            Self::Q2_K => encode_blocks(decoded, encoded, k_quants::encode_q2_k),
            Self::Q3_K => encode_blocks(decoded, encoded, k_quants::encode_q3_k),
            Self::Q4_K => encode_blocks(decoded, encoded, k_quants::encode_q4_k),
            Self::Q5_K => encode_blocks(decoded, encoded, k_quants::encode_q5_k),
            Self::Q6_K => encode_blocks(decoded, encoded, k_quants::encode_q6_k),
            Self::MXFP4 => encode_blocks(decoded, encoded, mxfp4::encode),
            Self::IQ4_NL => encode_blocks(decoded, encoded, iq4::encode_iq4_nl),
            Self::IQ4_XS => encode_blocks(decoded, encoded, iq4::encode_iq4_xs),
        }
    }

    fn assert_row(self, bytes: usize, elements: usize) {
        assert_eq!(
            self.row_bytes(elements as u64),
            Some(bytes as u64),
            "{elements} elements of {self} do not take {bytes} bytes"
        );
    }
}

fn decode_each<const BYTES: usize>(
    encoded: &[u8],
    decoded: &mut [f32],
    decode: impl Fn([u8; BYTES]) -> f32,
) {
    let (elements, rest) = encoded.as_chunks::<BYTES>();
    debug_assert!(rest.is_empty());
    for (out, bytes) in decoded.iter_mut().zip(elements) {
        *out = decode(*bytes);
    }
}

fn encode_each<const BYTES: usize>(
    decoded: &[f32],
    encoded: &mut [u8],
    encode: impl Fn(f32) -> [u8; BYTES],
) {
    let (elements, rest) = encoded.as_chunks_mut::<BYTES>();
    debug_assert!(rest.is_empty());
    for (bytes, x) in elements.iter_mut().zip(decoded) {
        *bytes = encode(*x);
    }
}

fn decode_blocks<const BYTES: usize, const ELEMENTS: usize>(
    encoded: &[u8],
    decoded: &mut [f32],
    decode: impl Fn(&[u8; BYTES], &mut [f32; ELEMENTS]),
) {
    let (blocks, _) = encoded.as_chunks::<BYTES>();
    let (elements, _) = decoded.as_chunks_mut::<ELEMENTS>();
    assert_eq!(blocks.len(), elements.len());
    for (block, elements) in blocks.iter().zip(elements) {
        decode(block, elements);
    }
}

fn encode_blocks<const BYTES: usize, const ELEMENTS: usize>(
    decoded: &[f32],
    encoded: &mut [u8],
    encode: impl Fn(&[f32; ELEMENTS], &mut [u8; BYTES]),
) {
    let (elements, _) = decoded.as_chunks::<ELEMENTS>();
    let (blocks, _) = encoded.as_chunks_mut::<BYTES>();
    assert_eq!(blocks.len(), elements.len());
    for (elements, block) in elements.iter().zip(blocks) {
        encode(elements, block);
    }
}

/// The binary16 at byte `at`.
fn read_f16(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

fn put_f16(block: &mut [u8], at: usize, value: f32) {
    block[at..at + 2].copy_from_slice(&f16::from_f32(value).to_le_bytes());
}

#[cfg(test)]
mod tests;
