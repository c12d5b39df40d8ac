//! Rows that lie by themselves.

use super::super::columns::ROWS;
use super::super::sixteen::{ApartRows, Rows};
use super::steps::{STEPS, Steps};
use super::{Kind, Wishes};

/// As [`super::products`], of so many rows.
///
/// # Safety
/// As there.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub unsafe fn products<'a, K: Kind, const T: usize>(
    rows: usize,
    weight: impl Fn(usize) -> &'a [K::Block],
    x: [K::X<'_>; T],
    mut emit: impl FnMut(usize, usize, &[f32]),
) where
    K::Block: 'a,
{
    // Rows of a lane. Where they do not go up, the last lanes repeat the last row.
    let each = rows.div_ceil(ROWS);
    let mut head = K::EMPTY;
    let wishes = Wishes::of_this_machine(T);
    let mut sums = [Steps::EMPTY; T];
    for first in (0..each).step_by(STEPS) {
        let steps = STEPS.min(each - first);
        for step in 0..steps {
            let row = first + step;
            let mut group = [weight(row); ROWS];
            let blocks = group[0].len();
            for (lane, to) in group.iter_mut().enumerate().skip(1) {
                *to = &weight((row + lane * each).min(rows - 1))[..blocks];
            }
            let group = ApartRows(group);
            if row == 0 {
                group.begin(wishes);
            }
            // SAFETY: as this function's.
            unsafe {
                let of_tokens = K::panel(group, &x, &mut head, wishes);
                for (sums, of_token) in sums.iter_mut().zip(of_tokens) {
                    sums.put(step, of_token);
                }
            }
        }
        for (token, sums) in sums.iter().enumerate() {
            // SAFETY: as this function's.
            let lanes = unsafe { sums.turn() };
            for (lane, sums) in lanes.0.iter().enumerate() {
                let row = first + lane * each;
                // Rows of the last lanes may be those of others once more.
                if row < rows {
                    emit(token, row, &sums[..steps.min(rows - row)]);
                }
            }
        }
    }
}
