//! Random numbers that are a function of where they are used, not of when.
//!
//! Philox4x32-10, a counter-based generator: J. K. Salmon, M. A. Moraes, R. O. Dror, D. E. Shaw, "Parallel random
//! numbers: as easy as 1, 2, 3", SC 2011, section 4.3 and table 2 (multipliers and Weyl constants).

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
/// The golden ratio and sqrt(3) - 1, as 32-bit fractions.
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
const ROUNDS: usize = 10;

fn philox4x32(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..ROUNDS {
        let [low0, high0] = halves(u64::from(MULTIPLIERS[0]) * u64::from(counter[0]));
        let [low1, high1] = halves(u64::from(MULTIPLIERS[1]) * u64::from(counter[2]));
        counter = [
            high1 ^ counter[1] ^ key[0],
            low1,
            high0 ^ counter[3] ^ key[1],
            low0,
        ];
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    counter
}

fn halves(x: u64) -> [u32; 2] {
    [x as u32, (x >> 32) as u32]
}

/// A number in [0, 1), a multiple of 2^-53, for one token of one choice of a request.
pub(super) fn uniform(seed: u64, choice: u32, position: usize) -> f64 {
    let [low, high] = halves(position as u64);
    let word = philox4x32([low, high, choice, 0], halves(seed));
    let bits = u64::from(word[0]) << 32 | u64::from(word[1]);
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers of the authors' library Random123 (`kat_vectors`, philox4x32 with 10 rounds).
    #[test]
    fn agrees_with_published_vectors() {
        assert_eq!(
            philox4x32([0; 4], [0; 2]),
            [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]
        );
        assert_eq!(
            philox4x32([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            philox4x32(
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0]
            ),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn seed_choice_and_position_all_matter() {
        let base = uniform(1, 2, 3);
        let others = [
            uniform(2, 2, 3),
            uniform(1 << 32 | 1, 2, 3),
            uniform(1, 3, 3),
            uniform(1, 2, 4),
        ];
        assert!(others.iter().all(|&other| other != base));
        assert_eq!(base, uniform(1, 2, 3));
        assert!((0..10_000).all(|position| (0.0..1.0).contains(&uniform(7, 0, position))));
    }
}
