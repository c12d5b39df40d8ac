//! The one exponential of this backend.
//!
//! The C library's differs from system to system and has no vector form with the same bits. This one is a fixed
//! sequence of IEEE operations without branches, so a compiler may run it in lanes of any width and the bits stay.

/// 1.5 * 2^23: adding it to a small float leaves the nearest integer in the low bits of the mantissa.
const ROUNDER: f32 = 12_582_912.0;
/// ln 2 in two parts; the first has so few bits that its product with an exponent is exact.
const LN2_HIGH: f32 = 0.693_359_4;
const LN2_LOW: f32 = -2.121_944_4e-4;
/// Below, the result is zero, above infinity; clamping keeps the exponent arithmetic in range.
const LOWEST: f32 = -104.0;
const HIGHEST: f32 = 89.0;

/// e^x, within 1.0 unit in the last place for normal results (a test measures it); denormals, 0 and infinity as
/// IEEE rounding gives them; NaN stays NaN.
///
/// x = n ln 2 + r with |r| <= ln 2 / 2; e^r by its Taylor series to r^7 (next term below 2^-31); times 2^n in two
/// factors, so that neither leaves the range of normal floats.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // Comparisons are written so that NaN passes through both.
    let x = if x < LOWEST { LOWEST } else { x };
    let x = if x > HIGHEST { HIGHEST } else { x };
    let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUNDER);
    let n = shifted - ROUNDER;
    let r = n.mul_add(-LN2_HIGH, x);
    let r = n.mul_add(-LN2_LOW, r);
    let series = 1.0f32 / 5040.0;
    let series = series.mul_add(r, 1.0 / 720.0);
    let series = series.mul_add(r, 1.0 / 120.0);
    let series = series.mul_add(r, 1.0 / 24.0);
    let series = series.mul_add(r, 1.0 / 6.0);
    let series = series.mul_add(r, 0.5);
    let tail = (r * r).mul_add(series, r);
    let exponent = (shifted.to_bits() as i32).wrapping_sub(ROUNDER.to_bits() as i32);
    let half = exponent >> 1;
    (tail + 1.0) * power_of_two(half) * power_of_two(exponent.wrapping_sub(half))
}

/// 2^n for n in -126..=127.
#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) as u32) << 23)
}

/// 1 / (1 + e^-x).
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// x / (1 + e^-x).
#[inline(always)]
pub fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_is_within_one_unit_in_the_last_place() {
        let mut worst = 0.0f64;
        let mut bits = (-87.0f32).to_bits();
        // Every 997th float between -87 and -1e-8, and the same positive.
        while f32::from_bits(bits) < -1e-8 {
            for x in [f32::from_bits(bits), -f32::from_bits(bits)] {
                let exact = f64::from(x).exp();
                let unit = f64::from(f32::from_bits((exact as f32).to_bits() + 1))
                    - f64::from(exact as f32);
                worst = worst.max((f64::from(exp(x)) - exact).abs() / unit);
            }
            bits -= 997;
        }
        assert!(
            worst <= 1.0,
            "the worst error is {worst} units in the last place"
        );
    }

    #[test]
    fn extremes_are_those_of_ieee() {
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(-0.0), 1.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(f32::INFINITY), f32::INFINITY);
        assert_eq!(exp(f32::MIN), 0.0);
        assert_eq!(exp(f32::MAX), f32::INFINITY);
        assert_eq!(exp(-104.0), 0.0);
        assert_eq!(exp(88.8), f32::INFINITY);
        assert!(exp(88.7).is_finite() && exp(88.7) > 3.0e38);
        assert!(exp(-100.0) > 0.0 && exp(-100.0).is_subnormal());
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn sigmoid_is_safe_at_extremes() {
        assert_eq!(sigmoid(f32::NEG_INFINITY), 0.0);
        assert_eq!(sigmoid(f32::INFINITY), 1.0);
        assert_eq!(sigmoid(0.0), 0.5);
        assert!((sigmoid(-1.0) - 0.268_941_43).abs() < 1e-6);
        assert!(sigmoid(f32::NAN).is_nan());
    }

    #[test]
    fn silu_is_safe_at_extremes() {
        assert_eq!(silu(-1.0e30), 0.0);
        assert_eq!(silu(1.0e30), 1.0e30);
        assert_eq!(silu(0.0), 0.0);
        assert!((silu(1.0) - 0.731_058_6).abs() < 1e-6);
    }
}
