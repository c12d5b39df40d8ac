//! The exponential function of what is not above 0, for whole vocabularies.
//!
//! Written out so that the compiler can compute several at once, and so that a draw does not depend on the system's
//! libm. x = k ln 2 + r with |r| <= ln 2 / 2, and a Taylor polynomial of r, whose first term left out is below 2^-54.

use std::f64::consts::LOG2_E;

/// Added and taken away, it rounds to an integer, which stands in its lowest bits meanwhile.
const ROUND: f64 = 1.5 * (1_u64 << 52) as f64;
/// ln 2, of which k times the first part is exact.
const LN_2_HIGH: f64 = 6.931_471_803_691_238e-1;
const LN_2_LOW: f64 = 1.908_214_929_270_587_7e-10;
/// Below it results are subnormal; they count as 0.
const LEAST: f64 = -708.0;
/// 1 / n! from n = 13 down.
const TERMS: [f64; 14] = {
    let mut terms = [1.0; 14];
    let (mut n, mut factorial) = (1, 1.0);
    while n < 14 {
        factorial *= n as f64;
        terms[13 - n] = 1.0 / factorial;
        n += 1;
    }
    terms
};

/// e^x for x <= 0, within two units in the last place; 0 below -708.
#[inline(always)]
pub(super) fn exp(x: f64) -> f64 {
    let bounded = x.max(LEAST);
    let shifted = bounded * LOG2_E + ROUND;
    let k = shifted - ROUND;
    let r = (bounded - k * LN_2_HIGH) - k * LN_2_LOW;
    let polynomial = TERMS.iter().fold(0.0, |sum, term| sum * r + term);
    let power = f64::from_bits(shifted.to_bits().wrapping_add(1023) << 52);
    if x < LEAST { 0.0 } else { polynomial * power }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_libm() {
        for i in 0..2_000_000 {
            let x = f64::from(i) * -3.54e-4;
            let (got, wanted) = (exp(x), x.exp());
            assert!(
                (got - wanted).abs() <= 4.5e-16 * wanted,
                "{x}: {got} {wanted}"
            );
        }
    }

    #[test]
    fn ends_are_exact() {
        assert_eq!([0.0, -0.0].map(exp), [1.0, 1.0]);
        assert_eq!([-708.1, -1e300, f64::NEG_INFINITY].map(exp), [0.0; 3]);
        assert!(exp(-708.0) > 0.0);
    }
}
