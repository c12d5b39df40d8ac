//! Random blocks of quantised formats, made directly: quants are any bits, and scales are chosen so that the values
//! have a given standard deviation. Hundreds of times faster than quantising floats, which matters at 8 GB.
//!
//! Every format's values have a mean of zero, or one that is small beside their deviation: formats with a minimum get
//! the middle of their quants as minimum, and where quants lie unevenly around zero the scale's sign is drawn.

use super::random::Random;
use odmoe_formats::BlockFormat;

/// Scales vary from block to block between 0.75 and 1.25 of what is right on average.
const SPREAD: f32 = 0.5;

/// How the blocks of one row get values of a given deviation.
pub(super) struct RowOfBlocks {
    format: BlockFormat,
    /// The deviation that is asked for.
    deviation: f32,
    /// The scale that gives it: over the deviation of the values at a scale of 1.
    scale: f32,
}

impl RowOfBlocks {
    /// Panics on formats without blocks.
    pub fn new(format: BlockFormat, deviation: f32) -> Self {
        // The mean square of a uniform number between 1 - s/2 and 1 + s/2.
        let spread = (1.0 + SPREAD * SPREAD / 12.0).sqrt();
        Self {
            format,
            deviation,
            scale: deviation / (unit_deviation(format) * spread),
        }
    }

    /// Fills whole blocks.
    pub fn fill(&self, random: &mut Random, row: &mut [u8]) {
        random.fill(row);
        for block in row.chunks_exact_mut(self.format.block_bytes()) {
            let draw = random.next();
            let spread = 1.0 + SPREAD * ((draw >> 40) as f32 / (1u64 << 24) as f32 - 0.5);
            let sign = if draw & 1 == 0 { 1.0 } else { -1.0 };
            self.finish(block, self.scale * spread, sign, draw);
        }
    }

    /// Puts scales into a block of random bits.
    fn finish(&self, block: &mut [u8], scale: f32, sign: f32, draw: u64) {
        let put = |block: &mut [u8], at: usize, value: f32| {
            BlockFormat::F16.encode_row(&[value], &mut block[at..at + 2]);
        };
        match self.format {
            BlockFormat::Q4_0 | BlockFormat::Q5_0 | BlockFormat::IQ4_NL => {
                put(block, 0, sign * scale);
            }
            BlockFormat::Q4_1 => {
                put(block, 0, scale);
                put(block, 2, -7.5 * scale);
            }
            BlockFormat::Q5_1 => {
                put(block, 0, scale);
                put(block, 2, -15.5 * scale);
            }
            BlockFormat::Q8_0 => {
                put(block, 0, scale);
                // No quantiser makes a -128.
                for quant in block[2..].iter_mut().filter(|quant| **quant == 0x80) {
                    *quant = 0x81;
                }
            }
            BlockFormat::Q2_K => {
                for scale_and_minimum in &mut block[..16] {
                    let scale = (*scale_and_minimum & 7) | 8;
                    *scale_and_minimum = scale | scale << 4;
                }
                put(block, 80, scale);
                put(block, 82, 1.5 * scale);
            }
            // The scales of their sub-blocks have signs.
            BlockFormat::Q3_K => put(block, 108, scale),
            BlockFormat::IQ4_XS => put(block, 0, scale),
            BlockFormat::Q4_K | BlockFormat::Q5_K => {
                let middle = match self.format {
                    BlockFormat::Q4_K => 7.5,
                    _ => 15.5,
                };
                put(block, 0, scale);
                put(block, 2, middle * scale);
                same_scales_and_minima(&mut block[4..16]);
            }
            BlockFormat::Q6_K => {
                for scale in &mut block[192..208] {
                    let size = (*scale & 15) | 16;
                    *scale = if *scale & 0x80 == 0 {
                        size
                    } else {
                        size.wrapping_neg()
                    };
                }
                put(block, 208, scale);
            }
            BlockFormat::MXFP4 => block[0] = self.exponent(draw),
            BlockFormat::F32 | BlockFormat::F16 | BlockFormat::BF16 => {
                unreachable!("floats have no blocks")
            }
            other => unreachable!("{other} is not made here"),
        }
    }

    /// Powers of two alone: two neighbours are mixed so that the mean square is right.
    fn exponent(&self, draw: u64) -> u8 {
        let wanted = self.deviation / unit_deviation(BlockFormat::MXFP4);
        if wanted == 0.0 {
            return 0;
        }
        let lower = wanted.log2().floor();
        // (1 - p) * lower^2 + p * (2 * lower)^2 = wanted^2
        let p = ((wanted / lower.exp2()).powi(2) - 1.0) / 3.0;
        let upper = ((draw >> 40) as f32 / (1u64 << 24) as f32) < p;
        (lower as i32 + i32::from(upper) + 127).clamp(0, 254) as u8
    }
}

/// Twelve bytes hold eight scales and eight minima of six bits each: makes every minimum the scale beside it, and every
/// scale one from 16 to 31.
fn same_scales_and_minima(packed: &mut [u8]) {
    for j in 0..4 {
        // The upper two bits of each are bits 4 and 5 of scale and minimum j + 4.
        packed[j] = (packed[j] & 0x1f) | 0x10 | 0x40;
        packed[j + 4] = packed[j];
        let low = packed[j + 8] & 0x0f;
        packed[j + 8] = low | low << 4;
    }
}

/// The standard deviation of a block's values at a scale of 1, for quants and scales as they are drawn here.
fn unit_deviation(format: BlockFormat) -> f32 {
    // Of n whole numbers in a row: sqrt((n^2 - 1) / 12) around their mean.
    let around_mean = |n: f32| ((n * n - 1.0) / 12.0).sqrt();
    // Of n whole numbers from -n/2 on, around zero: their mean is -1/2.
    let around_zero = |n: f32| ((n * n - 1.0) / 12.0 + 0.25).sqrt();
    // The root mean square of the whole numbers from `first` on.
    let size = |first: u32, count: u32| {
        let squares: u32 = (first..first + count).map(|n| n * n).sum();
        (squares as f32 / count as f32).sqrt()
    };
    let table = (72768f32 / 16.0).sqrt();
    match format {
        BlockFormat::Q4_0 => around_zero(16.0),
        BlockFormat::Q4_1 => around_mean(16.0),
        BlockFormat::Q5_0 => around_zero(32.0),
        BlockFormat::Q5_1 => around_mean(32.0),
        BlockFormat::Q8_0 => around_zero(256.0),
        BlockFormat::Q2_K => size(8, 8) * around_mean(4.0),
        BlockFormat::Q3_K => around_zero(64.0) * around_zero(8.0),
        BlockFormat::Q4_K => size(16, 16) * around_mean(16.0),
        BlockFormat::Q5_K => size(16, 16) * around_mean(32.0),
        BlockFormat::Q6_K => size(16, 16) * around_zero(64.0),
        // 0, 0.5, 1, 1.5, 2, 3, 4 and 6, with signs.
        BlockFormat::MXFP4 => (68.5f32 / 8.0).sqrt(),
        // The table's sixteen values.
        BlockFormat::IQ4_NL => table,
        BlockFormat::IQ4_XS => around_zero(64.0) * table,
        other => panic!("{other} has no blocks to make"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_the_deviation_that_was_asked_for() {
        const ELEMENTS: usize = 1 << 16;
        let formats = BlockFormat::ALL.into_iter();
        for format in formats.filter(|format| !format.is_float()) {
            for deviation in [1.0, 0.02, 0.004] {
                let bytes = format.row_bytes(ELEMENTS as u64).unwrap() as usize;
                let (mut row, mut values) = (vec![0; bytes], vec![0.0; ELEMENTS]);
                let mut random = Random::new(7, format.name());
                RowOfBlocks::new(format, deviation).fill(&mut random, &mut row);
                format.decode_row(&row, &mut values);
                let mean = values.iter().sum::<f32>() / ELEMENTS as f32;
                let square = values.iter().map(|x| x * x).sum::<f32>() / ELEMENTS as f32;
                let found = square.sqrt() / deviation;
                assert!(
                    (0.95..1.05).contains(&found),
                    "{format} {deviation}: {found}"
                );
                assert!(
                    mean.abs() < 0.05 * deviation,
                    "{format} {deviation}: mean {mean}"
                );
            }
        }
    }

    #[test]
    fn a_deviation_of_nothing_gives_zeros() {
        for format in BlockFormat::ALL.into_iter().filter(|f| !f.is_float()) {
            let mut row = vec![0; format.row_bytes(512).unwrap() as usize];
            let mut values = vec![1.0; 512];
            RowOfBlocks::new(format, 0.0).fill(&mut Random::new(0, "zero"), &mut row);
            format.decode_row(&row, &mut values);
            let largest = values.iter().fold(0.0f32, |most, x| most.max(x.abs()));
            assert!(largest < 1e-30, "{format}: {largest}");
        }
    }
}
