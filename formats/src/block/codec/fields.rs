//! Bit fields inside a block: the one rule by which every format spreads small integers over bytes.

/// Element `index` of a plane of `BITS`-bit fields.
///
/// A plane fills `RUN` bytes before it goes on with their next higher bits: elements 0 .. `RUN` are the lowest fields
/// of the first `RUN` bytes, the next `RUN` elements the fields above them, and so on; when those bytes are full, the
/// following `RUN` bytes begin. `RUN` 1 packs neighbours into one byte.
pub(super) fn field<const BITS: usize, const RUN: usize>(plane: &[u8], index: usize) -> u8 {
    let (byte, shift) = place::<BITS, RUN>(index);
    (plane[byte] >> shift) & mask::<BITS>()
}

/// Adds the low bits of `value` to a field that is 0.
pub(super) fn put_field<const BITS: usize, const RUN: usize>(
    plane: &mut [u8],
    index: usize,
    value: u8,
) {
    let (byte, shift) = place::<BITS, RUN>(index);
    plane[byte] |= (value & mask::<BITS>()) << shift;
}

/// The byte and the shift of a field.
fn place<const BITS: usize, const RUN: usize>(index: usize) -> (usize, usize) {
    let elements_in_run = RUN * 8 / BITS;
    let in_run = index % elements_in_run;
    (
        index / elements_in_run * RUN + in_run % RUN,
        in_run / RUN * BITS,
    )
}

const fn mask<const BITS: usize>() -> u8 {
    (1 << BITS) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all_fields<const BITS: usize, const RUN: usize>(bytes: usize) {
        let elements = bytes * 8 / BITS;
        let values: Vec<u8> = (0..elements)
            .map(|index| (index * 7 + index / 5) as u8 & mask::<BITS>())
            .collect();
        let mut plane = vec![0; bytes];
        for (index, value) in values.iter().enumerate() {
            // Bits above the field are the caller's and must not reach the neighbours.
            put_field::<BITS, RUN>(&mut plane, index, value | !mask::<BITS>());
        }
        let back: Vec<u8> = (0..elements)
            .map(|index| field::<BITS, RUN>(&plane, index))
            .collect();
        assert_eq!(back, values, "{BITS} bits, runs of {RUN}");
    }

    #[test]
    fn fields_come_back_and_share_no_bit() {
        all_fields::<4, 16>(16);
        all_fields::<4, 32>(128);
        all_fields::<4, 64>(128);
        all_fields::<2, 32>(64);
        all_fields::<2, 4>(4);
        all_fields::<1, 32>(32);
        all_fields::<1, 1>(4);
    }

    #[test]
    fn a_run_is_filled_before_the_next_begins() {
        let plane: Vec<u8> = (0..64).collect();
        assert_eq!(field::<4, 32>(&plane, 31), 31 & 15);
        assert_eq!(field::<4, 32>(&plane, 63), 31 >> 4);
        assert_eq!(field::<4, 32>(&plane, 64), 32 & 15);
        assert_eq!(field::<2, 32>(&plane, 128 + 96 + 5), 37 >> 6);
        assert_eq!(field::<1, 1>(&[0, 0b1000], 11), 1);
    }
}
