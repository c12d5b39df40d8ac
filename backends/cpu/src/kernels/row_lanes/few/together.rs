//! Rows that lie in lanes. Its own module, so that the compiler has them beside those that lie by themselves.

use super::super::columns::ROWS;
use super::super::sixteen::{Rows, TogetherRows};
use super::{Kind, Wishes};
use std::arch::x86_64::*;

/// As [`super::products`], of groups of sixteen rows of so many blocks.
///
/// # Safety
/// As there.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub unsafe fn products<K: Kind, const T: usize>(
    groups: &[[K::Block; ROWS]],
    blocks: usize,
    x: [K::X<'_>; T],
    mut emit: impl FnMut(usize, usize, &[f32]),
) {
    let mut head = K::EMPTY;
    let wishes = Wishes::of_this_machine(T);
    for (group, rows) in groups.chunks_exact(blocks).enumerate() {
        let rows = TogetherRows(rows);
        if group == 0 {
            rows.begin(wishes);
        }
        // SAFETY: as this function's; sixteen floats are a register.
        unsafe {
            let of_tokens = K::panel(rows, &x, &mut head, wishes);
            for (token, of_token) in of_tokens.into_iter().enumerate() {
                let mut sums = [0.0f32; ROWS];
                _mm512_storeu_ps(sums.as_mut_ptr(), of_token);
                emit(token, group * ROWS, &sums);
            }
        }
    }
}
