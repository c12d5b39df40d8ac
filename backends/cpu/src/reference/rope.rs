//! Angles of the rotary position embedding.

use odmoe_backend::Rope;

/// Writes the cosines and sines [D / 2] of one position.
///
/// The arithmetic is that of the reference implementation of the models: frequencies and their products with
/// the position are rounded to F32, and the cosine is of that rounded angle. At position 32,000 exact angles would
/// differ by a thousandth of a radian from what the models were trained with.
pub fn rope_row(rope: &Rope, position: u32, cos: &mut [f32], sin: &mut [f32]) {
    assert_eq!(cos.len(), sin.len());
    let head_dim = 2 * cos.len();
    for (i, (cos, sin)) in cos.iter_mut().zip(sin).enumerate() {
        let exponent = (2 * i) as f32 / head_dim as f32;
        let frequency = 1.0f32 / f64::from(rope.theta as f32).powf(f64::from(exponent)) as f32;
        let divisor = rope.divisors.as_ref().map_or(1.0, |divisors| divisors[i]);
        let frequency = frequency / divisor;
        let angle = f64::from(position as f32 * frequency);
        *cos = angle.cos() as f32;
        *sin = angle.sin() as f32;
    }
}
