use super::*;
use crate::test_random::Random;

fn encode(format: BlockFormat, row: &[f32]) -> Vec<u8> {
    let mut encoded = vec![0xAA; format.row_bytes(row.len() as u64).unwrap() as usize];
    format.encode_row(row, &mut encoded);
    encoded
}

fn decode(format: BlockFormat, encoded: &[u8]) -> Vec<f32> {
    let elements = encoded.len() / format.block_bytes() * format.block_elements();
    let mut row = vec![f32::NAN; elements];
    format.decode_row(encoded, &mut row);
    row
}

/// Values at the edges of each format's range and between its neighbours.
const EDGES: [f32; 20] = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    f32::MIN_POSITIVE,
    -f32::MIN_POSITIVE,
    1.0e-45,
    5.960_464_5e-8,
    6.097_555e-5,
    6.103_515_6e-5,
    65504.0,
    65519.996,
    65520.0,
    -65520.0,
    3.402_823_5e38,
    f32::MAX,
    f32::MIN,
    f32::INFINITY,
    f32::NEG_INFINITY,
    1.003_906_2,
];

#[test]
fn f32_keeps_every_bit() {
    for bits in EDGES
        .map(f32::to_bits)
        .into_iter()
        .chain([0x7fc0_0001, 0xffff_ffff, 0x7f80_0001])
    {
        let encoded = encode(BlockFormat::F32, &[f32::from_bits(bits)]);
        assert_eq!(encoded, bits.to_le_bytes());
        assert_eq!(decode(BlockFormat::F32, &encoded)[0].to_bits(), bits);
    }
}

#[test]
fn every_16_bit_pattern_survives_decode_and_encode() {
    for format in [BlockFormat::F16, BlockFormat::BF16] {
        for bits in 0..=u16::MAX {
            let value = decode(format, &bits.to_le_bytes())[0];
            let again = encode(format, &[value]);
            if value.is_nan() {
                assert!(
                    decode(format, &again)[0].is_nan(),
                    "{format} {bits:#06x} is no longer NaN"
                );
            } else {
                assert_eq!(again, bits.to_le_bytes(), "{format} {bits:#06x}");
            }
        }
    }
}

#[test]
fn a_nan_of_any_payload_stays_nan() {
    // The payload of the first two lies wholly in the bits that a 16-bit format drops.
    for bits in [
        0x7f80_0001u32,
        0xff80_0001,
        0x7fc0_0000,
        0x7fff_ffff,
        0xffff_ffff,
    ] {
        for format in [BlockFormat::F16, BlockFormat::BF16] {
            let encoded = encode(format, &[f32::from_bits(bits)]);
            assert!(
                decode(format, &encoded)[0].is_nan(),
                "{format} {bits:#010x}"
            );
        }
    }
}

#[test]
fn bf16_rounds_to_nearest_even() {
    let cases = [
        (0x3f80_7fff_u32, 0x3f80_u16),
        (0x3f80_8000, 0x3f80),
        (0x3f80_8001, 0x3f81),
        (0x3f81_8000, 0x3f82),
        (0x7f7f_8000, 0x7f80),
        (0x0000_8000, 0x0000),
        (0x0001_8000, 0x0002),
    ];
    for (bits, expected) in cases {
        let encoded = encode(BlockFormat::BF16, &[f32::from_bits(bits)]);
        assert_eq!(encoded, expected.to_le_bytes(), "{bits:#010x}");
    }
}

#[test]
fn f16_rounds_to_nearest_even_over_its_whole_range() {
    let cases = [
        (1.0 + 1.0 / 2048.0, 0x3c00_u16),
        (1.0 + 3.0 / 2048.0, 0x3c02),
        (65519.996, 0x7bff),
        (65520.0, 0x7c00),
        (2.0f32.powi(-25), 0x0000),
        (1.5 * 2.0f32.powi(-24), 0x0002),
        (2.0f32.powi(-24), 0x0001),
    ];
    for (value, expected) in cases {
        let encoded = encode(BlockFormat::F16, &[value]);
        assert_eq!(encoded, expected.to_le_bytes(), "{value:e}");
    }
}

#[test]
fn q8_0_of_a_zero_block_is_zero_bytes() {
    assert_eq!(encode(BlockFormat::Q8_0, &[0.0; 32]), [0; 34]);
    assert_eq!(encode(BlockFormat::Q8_0, &[-0.0; 32]), [0; 34]);
}

#[test]
fn q8_0_rounds_halves_away_from_zero_by_the_unrounded_scale() {
    let mut row = [0.0f32; 32];
    (row[0], row[1], row[2], row[3]) = (127.0, 0.5, -0.5, -126.5);
    let encoded = encode(BlockFormat::Q8_0, &row);
    assert_eq!(encoded[..2], f16::from_f32(1.0).to_le_bytes());
    assert_eq!(encoded[2..6], [127, 1, 0xff, (-127i8) as u8]);

    // 0.3 / 127 is not a binary16: the quants must come from the binary32 scale, the stored scale be rounded.
    let mut row = [0.1f32; 32];
    row[7] = -0.3;
    let encoded = encode(BlockFormat::Q8_0, &row);
    assert_eq!(encoded[..2], f16::from_f32(0.3 / 127.0).to_le_bytes());
    assert_eq!(encoded[2] as i8, 42);
    assert_eq!(encoded[9] as i8, -127);
}

#[test]
fn q8_0_error_is_at_most_half_a_step_plus_the_rounding_of_the_scale() {
    let seed = 7;
    let mut random = Random::new(seed);
    for _ in 0..500 {
        let magnitude = 10.0f32.powi(random.below(6) as i32 - 3);
        let row: Vec<f32> = (0..64).map(|_| random.signed_unit() * magnitude).collect();
        let back = decode(BlockFormat::Q8_0, &encode(BlockFormat::Q8_0, &row));
        for (block, decoded) in row.chunks(32).zip(back.chunks(32)) {
            let largest = block.iter().fold(0.0f32, |a, x| a.max(x.abs()));
            let step = largest / 127.0;
            // Half a step, and 127 times the error of the scale: 2^-11 of it, or 2^-25 where it is subnormal.
            let bound = step * 0.5001 + largest * 2.0f32.powi(-11) + 127.0 * 2.0f32.powi(-25);
            for (x, y) in block.iter().zip(decoded) {
                assert!(
                    (x - y).abs() <= bound,
                    "seed {seed}: {x} became {y}, bound {bound}"
                );
            }
        }
    }
}

#[test]
fn values_that_are_tiny_huge_or_not_finite_do_not_panic() {
    for format in BlockFormat::ALL {
        for value in EDGES
            .into_iter()
            .chain([f32::NAN, -f32::NAN, 1.0e-40, 8.0e6])
        {
            for others in [0.0, 1.0e-42, 1.0, -3.0e38, f32::NAN, f32::INFINITY] {
                let mut row = [others; 512];
                (row[31], row[300], row[511]) = (value, -value, value);
                let encoded = encode(format, &row);
                assert_eq!(decode(format, &encoded).len(), 512);
            }
        }
    }
}

#[test]
fn zeros_stay_zeros() {
    for format in BlockFormat::ALL {
        let decoded = decode(format, &encode(format, &[0.0; 256]));
        assert!(decoded.iter().all(|x| *x == 0.0), "{format}");
    }
}

/// Root mean square errors on normally distributed values, as shares of their own: what the bits of a format buy.
#[test]
fn more_bits_lose_less() {
    use BlockFormat::{
        IQ4_NL, IQ4_XS, MXFP4, Q2_K, Q3_K, Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0,
    };
    let seed = 11;
    let mut random = Random::new(seed);
    // The sum of twelve uniform values is close to normal.
    let row: Vec<f32> = (0..256 * 64)
        .map(|_| (0..12).map(|_| random.signed_unit()).sum::<f32>() * 0.01)
        .collect();
    let share_lost = |format| {
        let squares = |values: &mut dyn Iterator<Item = f32>| values.map(|x| x * x).sum::<f32>();
        let back = decode(format, &encode(format, &row));
        let mut errors = row.iter().zip(back).map(|(x, y)| x - y);
        (squares(&mut errors) / squares(&mut row.iter().copied())).sqrt()
    };
    let bounds = [
        (Q2_K, 0.30),
        (Q3_K, 0.15),
        (MXFP4, 0.13),
        (Q4_0, 0.10),
        (IQ4_NL, 0.09),
        (IQ4_XS, 0.09),
        (Q4_1, 0.08),
        (Q4_K, 0.08),
        (Q5_0, 0.05),
        (Q5_1, 0.04),
        (Q5_K, 0.04),
        (Q6_K, 0.02),
        (Q8_0, 0.007),
    ];
    for (format, bound) in bounds {
        let lost = share_lost(format);
        assert!(lost < bound, "seed {seed}, {format}: {lost}");
        assert!(
            lost > bound / 2.0,
            "seed {seed}, {format}: {lost} is too good"
        );
    }
}

#[test]
#[should_panic(expected = "do not take")]
fn a_row_of_the_wrong_length_is_a_bug() {
    BlockFormat::Q8_0.encode_row(&[0.0; 31], &mut [0; 34]);
}

#[test]
fn sizes_are_checked() {
    use BlockFormat::{BF16, F32, Q8_0};
    assert_eq!(F32.tensor_bytes(&[3, 5]), Some(60));
    assert_eq!(BF16.tensor_bytes(&[2, 3, 4]), Some(48));
    assert_eq!(Q8_0.tensor_bytes(&[3, 64]), Some(204));
    assert_eq!(Q8_0.tensor_bytes(&[64, 3]), None);
    assert_eq!(F32.tensor_bytes(&[]), None);
    assert_eq!(F32.tensor_bytes(&[u64::MAX]), None);
    assert_eq!(F32.tensor_bytes(&[1 << 32, 1 << 32]), None);
    assert_eq!(Q8_0.row_bytes(u64::MAX - 31), None);
    for format in BlockFormat::ALL {
        assert_eq!(BlockFormat::from_name(format.name()), Some(format));
        assert_eq!(
            serde_json::to_string(&format).unwrap(),
            format!("\"{format}\"")
        );
    }
    assert_eq!(BlockFormat::from_name("Q9_K"), None);
}

#[test]
fn rounding_to_bytes_is_that_of_the_standard_library() {
    use super::one_scale::round_to_i8;
    let agree = |x: f32| assert_eq!(round_to_i8(x), x.round() as i8, "{x:?}");
    // Every half and whole number with its neighbours, and floats of all sizes, infinite and NaN too.
    for halves in -270i16..270 {
        let x = f32::from(halves) / 2.0;
        [x, x.next_up(), x.next_down()].into_iter().for_each(agree);
    }
    (0..=u32::MAX)
        .step_by(9973)
        .map(f32::from_bits)
        .for_each(agree);
}
