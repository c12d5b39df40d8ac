//! The k-quants: super-blocks of 256 elements in sub-blocks, whose scales are themselves quantised.
//!
//! There are two kinds. With the super-block's scale d and minimum m, a sub-block's scale s and minimum t, and quants
//! q, each operation rounded to binary32, an element is
//!
//! - affine (`Q2_K`, `Q4_K`, `Q5_K`): (d * s) * q - (m * t), all of s, t and q unsigned;
//! - symmetric (`Q3_K`, `Q6_K`): (d * s) * q, with s and q signed.

mod encode;
mod packing;
pub(super) mod search;

use half::f16;

/// Elements of a super-block.
const ELEMENTS: usize = 256;

type SuperBlock = [f32; ELEMENTS];

/// A super-block of `Q2_K` (16 sub-blocks), `Q4_K` or `Q5_K` (8), out of its packing.
#[derive(Debug, PartialEq)]
struct Affine<const SUB_BLOCKS: usize> {
    scale: f16,
    minimum: f16,
    scales: [u8; SUB_BLOCKS],
    minima: [u8; SUB_BLOCKS],
    quants: [u8; ELEMENTS],
}

/// A super-block of `Q3_K` or `Q6_K`, out of its packing.
#[derive(Debug, PartialEq)]
struct Symmetric {
    scale: f16,
    scales: [i8; 16],
    quants: [i8; ELEMENTS],
}

impl<const SUB_BLOCKS: usize> Affine<SUB_BLOCKS> {
    fn decode(&self, elements: &mut SuperBlock) {
        let (scale, minimum) = (self.scale.to_f32(), self.minimum.to_f32());
        let size = ELEMENTS / SUB_BLOCKS;
        let sub_blocks = elements.chunks_exact_mut(size);
        for (index, (out, quants)) in sub_blocks.zip(self.quants.chunks_exact(size)).enumerate() {
            let scale = scale * f32::from(self.scales[index]);
            let minimum = minimum * f32::from(self.minima[index]);
            for (out, quant) in out.iter_mut().zip(quants) {
                *out = scale * f32::from(*quant) - minimum;
            }
        }
    }
}

impl Symmetric {
    fn decode(&self, elements: &mut SuperBlock) {
        let scale = self.scale.to_f32();
        let sub_blocks = elements.chunks_exact_mut(16);
        for (index, (out, quants)) in sub_blocks.zip(self.quants.chunks_exact(16)).enumerate() {
            let scale = scale * f32::from(self.scales[index]);
            for (out, quant) in out.iter_mut().zip(quants) {
                *out = scale * f32::from(*quant);
            }
        }
    }
}

pub(super) fn decode_q2_k(block: &[u8; 84], elements: &mut SuperBlock) {
    packing::unpack_q2_k(block).decode(elements);
}

pub(super) fn decode_q3_k(block: &[u8; 110], elements: &mut SuperBlock) {
    packing::unpack_q3_k(block).decode(elements);
}

pub(super) fn decode_q4_k(block: &[u8; 144], elements: &mut SuperBlock) {
    packing::unpack_q4_k(block).decode(elements);
}

pub(super) fn decode_q5_k(block: &[u8; 176], elements: &mut SuperBlock) {
    packing::unpack_q5_k(block).decode(elements);
}

pub(super) fn decode_q6_k(block: &[u8; 210], elements: &mut SuperBlock) {
    packing::unpack_q6_k(block).decode(elements);
}

pub(super) fn encode_q2_k(elements: &SuperBlock, block: &mut [u8; 84]) {
    packing::pack_q2_k(&encode::q2_k(elements), block);
}

pub(super) fn encode_q3_k(elements: &SuperBlock, block: &mut [u8; 110]) {
    packing::pack_q3_k(&encode::q3_k(elements), block);
}

pub(super) fn encode_q4_k(elements: &SuperBlock, block: &mut [u8; 144]) {
    packing::pack_q4_k(&encode::q4_k(elements), block);
}

pub(super) fn encode_q5_k(elements: &SuperBlock, block: &mut [u8; 176]) {
    packing::pack_q5_k(&encode::q5_k(elements), block);
}

pub(super) fn encode_q6_k(elements: &SuperBlock, block: &mut [u8; 210]) {
    packing::pack_q6_k(&encode::q6_k(elements), block);
}
