//! Rotary angles of recent positions.

use crate::reference::rope_row;
use odmoe_backend::Rope;

/// Positions kept for one kind of head. All layers of a step ask for the same few; 1024 of 128 wide are 512 KiB.
const ROWS: usize = 1024;

/// Cosines and sines by position. Bounded: a position takes the place of the one 1024 before or after it.
#[derive(Default)]
pub struct AngleCache {
    /// One for each kind of rotation that a model has; few.
    tables: Vec<(Rope, usize, Table)>,
    gathered: Vec<f32>,
}

struct Table {
    /// Which position each row holds.
    positions: Vec<Option<u32>>,
    /// [ROWS][cosines, sines][D / 2].
    angles: Vec<f32>,
}

impl AngleCache {
    /// Cosines and sines of each position, [positions][cosines, sines][D / 2].
    pub fn gather(&mut self, rope: &Rope, head_dim: usize, positions: &[u32]) -> &[f32] {
        let mut gathered = std::mem::take(&mut self.gathered);
        gathered.clear();
        for &position in positions {
            let (cos, sin) = self.at(rope, head_dim, position);
            gathered.extend_from_slice(cos);
            gathered.extend_from_slice(sin);
        }
        self.gathered = gathered;
        &self.gathered
    }

    /// Cosines and sines, [D / 2] each.
    fn at(&mut self, rope: &Rope, head_dim: usize, position: u32) -> (&[f32], &[f32]) {
        let known = |(other, width, _): &(Rope, usize, Table)| *width == head_dim && other == rope;
        let place = self.tables.iter().position(known).unwrap_or_else(|| {
            let table = Table {
                positions: vec![None; ROWS],
                angles: vec![0.0; ROWS * head_dim],
            };
            self.tables.push((rope.clone(), head_dim, table));
            self.tables.len() - 1
        });
        let table = &mut self.tables[place].2;
        let row = position as usize % ROWS;
        let (cos, sin) = table.angles[row * head_dim..][..head_dim].split_at_mut(head_dim / 2);
        if table.positions[row] != Some(position) {
            rope_row(rope, position, cos, sin);
            table.positions[row] = Some(position);
        }
        (cos, sin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rope(theta: f64) -> Rope {
        Rope {
            theta,
            divisors: None,
        }
    }

    #[test]
    fn a_displaced_position_is_computed_again() {
        let mut cache = AngleCache::default();
        let rope = &rope(10_000.0);
        let first = cache.at(rope, 8, 3).0.to_vec();
        let other = cache.at(rope, 8, 3 + ROWS as u32).0.to_vec();
        assert_ne!(first, other);
        assert_eq!(first, cache.at(rope, 8, 3).0);
    }

    #[test]
    fn kinds_of_heads_do_not_mix() {
        let mut cache = AngleCache::default();
        let near = cache.at(&rope(10_000.0), 8, 5).1.to_vec();
        let far = cache.at(&rope(1_000_000.0), 8, 5).1.to_vec();
        assert_ne!(near, far);
        assert_eq!(cache.at(&rope(10_000.0), 16, 5).1.len(), 8);
    }

    #[test]
    fn divisors_slow_a_pair_down() {
        let mut cache = AngleCache::default();
        let divided = Rope {
            theta: 10_000.0,
            divisors: Some([1.0, 4.0].into()),
        };
        let plain = [3, 12].map(|position| cache.at(&rope(10_000.0), 4, position).1.to_vec());
        assert_eq!(cache.at(&divided, 4, 12).1, [plain[1][0], plain[0][1]]);
    }
}
