//! The searches for the scale of a sub-block, as ggml's reference quantisers make them: each tries several scales and
//! keeps the one of least weighted error.
//!
//! Operations are in ggml's order, each rounded to binary32, so that the same values give the same bytes.

/// A sub-block whose largest magnitude is below this counts as zero.
pub(in super::super) const NOTHING: f32 = 1e-15;

/// A sub-block as scale * quant - minimum.
pub(super) struct AffineFit<const N: usize> {
    pub scale: f32,
    /// Not negative.
    pub minimum: f32,
    /// The quants for this scale and minimum before those are rounded.
    pub quants: [u8; N],
}

/// A sub-block as scale * quant.
pub(super) struct SymmetricFit<const N: usize> {
    pub scale: f32,
    /// The quants for this scale before it is rounded; all lowest where the sub-block counts as zero.
    pub quants: [i8; N],
}

/// What a search over scales tries, and how it judges.
pub(super) struct AffineSearch {
    /// The largest quant.
    pub largest: u8,
    /// The range of values is divided by `largest` + `first` + 0.1 * step, for steps from 0 to `steps`.
    pub first: f32,
    pub steps: u8,
    /// Whether an element's error counts by its magnitude, rather than squared.
    pub absolute: bool,
}

/// `x` to the nearest integer, ties to even, for |x| below 2^22. Beyond, and for NaN, some integer of 23 bits.
pub(in super::super) fn nearest(x: f32) -> i32 {
    // Adding 1.5 * 2^23 leaves the integer in the lower bits of the significand.
    const SHIFT: f32 = 12_582_912.0;
    ((x + SHIFT).to_bits() & 0x007f_ffff) as i32 - 0x0040_0000
}

impl AffineSearch {
    /// For each candidate, the scale and minimum of least weighted squares, where the minimum stays at or below zero.
    pub(super) fn fit<const N: usize>(&self, x: &[f32; N], weights: &[f32; N]) -> AffineFit<N> {
        let (mut low, mut high) = (x[0], x[0]);
        for &x in x {
            low = if x < low { x } else { low };
            high = if x > high { x } else { high };
        }
        low = if low > 0.0 { 0.0 } else { low };
        if high == low {
            return AffineFit {
                scale: 0.0,
                minimum: -low,
                quants: [0; N],
            };
        }
        let inverse = f32::from(self.largest) / (high - low);
        let mut best = AffineFit {
            scale: 1.0 / inverse,
            minimum: -low,
            quants: self.quants(x, inverse, low),
        };
        let mut least = self.error(x, weights, &best);
        for step in 0..=self.steps {
            let levels = self.first + 0.1 * f32::from(step) + f32::from(self.largest);
            // The range begins at the best minimum so far, no longer at the least value.
            let low = -best.minimum;
            let quants = self.quants(x, levels / (high - low), low);
            let Some(fit) = least_squares(x, weights, quants) else {
                continue;
            };
            let error = self.error(x, weights, &fit);
            if error < least {
                (best, least) = (fit, error);
            }
        }
        best
    }

    fn quants<const N: usize>(&self, x: &[f32; N], inverse: f32, low: f32) -> [u8; N] {
        x.map(|x| nearest(inverse * (x - low)).clamp(0, i32::from(self.largest)) as u8)
    }

    fn error<const N: usize>(&self, x: &[f32; N], weights: &[f32; N], fit: &AffineFit<N>) -> f32 {
        let mut sum = 0.0;
        for ((x, weight), quant) in x.iter().zip(weights).zip(fit.quants) {
            let error = fit.scale * f32::from(quant) - fit.minimum - x;
            sum += weight
                * if self.absolute {
                    error.abs()
                } else {
                    error * error
                };
        }
        sum
    }
}

/// The scale and minimum of least weighted squares for given quants. None where all quants are the same.
fn least_squares<const N: usize>(
    x: &[f32; N],
    weights: &[f32; N],
    quants: [u8; N],
) -> Option<AffineFit<N>> {
    let (mut w, mut wx, mut wl, mut wll, mut wlx) = (0.0f32, 0.0f32, 0.0f32, 0.0f32, 0.0f32);
    for ((x, weight), quant) in x.iter().zip(weights).zip(quants) {
        let weighted = weight * f32::from(quant);
        w += weight;
        wx += weight * x;
        wl += weighted;
        wll += weighted * f32::from(quant);
        wlx += weighted * x;
    }
    let determinant = w * wll - wl * wl;
    if determinant.is_nan() || determinant <= 0.0 {
        return None;
    }
    let low = (wll * wx - wl * wlx) / determinant;
    let (scale, low) = if low > 0.0 {
        (wlx / wll, 0.0)
    } else {
        ((w * wlx - wx * wl) / determinant, low)
    };
    Some(AffineFit {
        scale,
        minimum: -low,
        quants,
    })
}

/// The value of largest magnitude, with its sign; the first of equals.
pub(in super::super) fn peak<const N: usize>(x: &[f32; N]) -> f32 {
    let larger = |peak: f32, x: &f32| if x.abs() > peak.abs() { *x } else { peak };
    x.iter().fold(0.0, larger)
}

/// Quants times values and quants times quants, summed with the squares of the values as weights.
fn weighted_sums<const N: usize>(x: &[f32; N], quants: &[i8; N]) -> (f32, f32) {
    let (mut lx, mut ll) = (0.0, 0.0);
    for (x, quant) in x.iter().zip(quants) {
        let (weight, quant) = (x * x, f32::from(*quant));
        lx += weight * x * quant;
        ll += weight * quant * quant;
    }
    (lx, ll)
}

/// For quants in -`limit` .. `limit`: the value of largest magnitude becomes about -`limit`, and of 19 scales nearby
/// the one is kept that explains most of the weighted squares.
pub(super) fn fit_by_scale<const N: usize>(x: &[f32; N], limit: i8) -> SymmetricFit<N> {
    let peak = peak(x);
    if peak.abs() < NOTHING {
        return nothing(limit);
    }
    let quants_at = |step: i8| {
        let inverse = -(f32::from(limit) + 0.1 * f32::from(step)) / peak;
        x.map(|x| clamp(nearest(inverse * x), limit))
    };
    let mut quants = quants_at(0);
    let (lx, ll) = weighted_sums(x, &quants);
    let mut scale = if ll == 0.0 { 0.0 } else { lx / ll };
    let mut explained = scale * lx;
    for step in (-9..=9).filter(|step| *step != 0) {
        let candidate = quants_at(step);
        let (lx, ll) = weighted_sums(x, &candidate);
        if ll > 0.0 && lx * lx > explained * ll {
            (quants, scale) = (candidate, lx / ll);
            explained = scale * lx;
        }
    }
    SymmetricFit { scale, quants }
}

/// For quants in -`limit` .. `limit`: the value of largest magnitude becomes -`limit`, and then, at most five times
/// over, each quant moves to where the others would have it if that explains more of the weighted squares.
pub(super) fn fit_by_element<const N: usize>(x: &[f32; N], limit: i8) -> SymmetricFit<N> {
    const PASSES_MAX: usize = 5;
    let peak = peak(x);
    if peak.abs() < NOTHING {
        return nothing(limit);
    }
    let inverse = -f32::from(limit) / peak;
    let mut quants = x.map(|x| clamp(nearest(inverse * x), limit));
    let (mut lx, mut ll) = weighted_sums(x, &quants);
    for _ in 0..PASSES_MAX {
        let mut moved = false;
        for (x, quant) in x.iter().zip(&mut quants) {
            let (weight, old) = (x * x, f32::from(*quant));
            let others_lx = lx - weight * x * old;
            if others_lx.is_nan() || others_lx <= 0.0 {
                continue;
            }
            let others_ll = ll - weight * old * old;
            let moved_to = clamp(nearest(x * others_ll / others_lx), limit);
            if moved_to == *quant {
                continue;
            }
            let new = f32::from(moved_to);
            let new_lx = others_lx + weight * x * new;
            let new_ll = others_ll + weight * new * new;
            if new_ll > 0.0 && new_lx * new_lx * ll > lx * lx * new_ll {
                (*quant, lx, ll, moved) = (moved_to, new_lx, new_ll, true);
            }
        }
        if !moved {
            break;
        }
    }
    let scale = if ll > 0.0 { lx / ll } else { 0.0 };
    SymmetricFit { scale, quants }
}

fn nothing<const N: usize>(limit: i8) -> SymmetricFit<N> {
    SymmetricFit {
        scale: 0.0,
        quants: [-limit; N],
    }
}

fn clamp(quant: i32, limit: i8) -> i8 {
    quant.clamp(-i32::from(limit), i32::from(limit) - 1) as i8
}
