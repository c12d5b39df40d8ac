//! Blocks of weights, made directly from random bits.

use super::scene::Numbers;
use odmoe_formats::BlockFormat;

/// Where binary16 scales and minima lie in a block.
fn halves(format: BlockFormat) -> &'static [usize] {
    match format {
        BlockFormat::Q8_0 | BlockFormat::Q4_0 | BlockFormat::Q5_0 => &[0],
        BlockFormat::IQ4_NL | BlockFormat::IQ4_XS => &[0],
        BlockFormat::Q4_1 | BlockFormat::Q5_1 | BlockFormat::Q4_K | BlockFormat::Q5_K => &[0, 2],
        BlockFormat::Q2_K => &[80, 82],
        BlockFormat::Q3_K => &[108],
        BlockFormat::Q6_K => &[208],
        _ => &[],
    }
}

fn put(half: u64, block: &mut [u8], at: usize) {
    block[at..at + 2].copy_from_slice(&(half as u16).to_le_bytes());
}

/// Magnitudes that sums stay finite with, but every mantissa and every integer.
pub fn moderate(format: BlockFormat, numbers: &mut Numbers, block: &mut [u8]) {
    let bits = numbers.bits();
    let float = |mantissa: u64, exponent: u64, low: u64, range: u64| {
        bits & mantissa | (low + (bits >> 32) % range) << exponent
    };
    match format {
        BlockFormat::F32 => block.copy_from_slice(&numbers.float().to_le_bytes()),
        // Sign, exponent 2^-7 to 2^0, mantissa.
        BlockFormat::F16 => put(float(0x83ff, 10, 8, 8), block, 0),
        BlockFormat::BF16 => put(float(0x807f, 7, 120, 8), block, 0),
        BlockFormat::MXFP4 => {
            fill(numbers, block);
            block[0] = 118 + (bits % 8) as u8;
        }
        _ => {
            fill(numbers, block);
            for &at in halves(format) {
                let bits = numbers.bits();
                let exponent = 4 + (bits >> 32) % 4;
                put(bits & 0x83ff | exponent << 10, block, at);
            }
        }
    }
}

/// Any bytes, or one byte throughout; scales of any bits, or the least, the largest and infinity.
pub fn hostile(format: BlockFormat, numbers: &mut Numbers, block: &mut [u8]) {
    let bits = numbers.bits();
    match bits % 8 {
        0..4 => fill(numbers, block),
        4 => block.fill(0xff),
        5 => block.fill(0),
        6 => block.fill(0x80),
        _ => block.fill(0x7f),
    }
    const EXTREMES: [u64; 8] = [
        0x0001, 0x03ff, 0x7bff, 0xfbff, 0x8000, 0x3c00, 0x7c00, 0x7e00,
    ];
    for &at in halves(format) {
        let bits = numbers.bits();
        // Infinity and NaN would drown all else if they were often there.
        let extremes = if bits >> 16 & 31 == 0 { 8 } else { 6 };
        put(EXTREMES[(bits % extremes) as usize], block, at);
    }
    if format == BlockFormat::MXFP4 {
        block[0] = [0, 1, 2, 127, 254, 255][(bits >> 8) as usize % 6];
    }
}

fn fill(numbers: &mut Numbers, bytes: &mut [u8]) {
    for bytes in bytes.chunks_mut(8) {
        bytes.copy_from_slice(&numbers.bits().to_le_bytes()[..bytes.len()]);
    }
}
