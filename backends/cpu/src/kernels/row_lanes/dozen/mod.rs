//! Products of some tokens with rows that lie in lanes, up to a dozen in a pass.
//!
//! Weights are multiplied straight from registers, as with few tokens. The activations of a pass are copied together first, so
//! that one address leads to all of them; and a sub-block is done with before the next one is unpacked, so that the sums
//! and totals of twelve tokens stay in registers.

mod blocks;
mod superblocks;

use super::columns::ROWS;
use super::few::Wishes;
use super::sixteen::{Rows, TogetherRows};
use crate::blocks::InLanes;
use crate::kernels::Product;
use std::arch::x86_64::*;
use std::cell::Cell;

pub use blocks::Blocks;
pub use superblocks::Superblocks;

/// The most tokens of a pass.
const TOKENS_MAX: usize = 12;
/// The least of several passes.
const LEAST_OF_SEVERAL: usize = TOKENS_MAX / 2;

/// A kind of format: what sixteen rows with T tokens are.
pub trait Kind {
    /// The least tokens of a pass. As few's [`super::few::Kind::MOST`].
    const LEAST: usize;
    /// One as it lies in memory.
    type Block: InLanes;
    /// A row of activations.
    type X<'x>: Copy;
    /// Where a block's scales and minima are laid out, if that is in memory.
    type Head;
    /// To begin with.
    const EMPTY: Self::Head;

    /// Words of an operand: one block of so many rows of activations.
    fn operand_words(tokens: usize) -> usize;

    /// Copies block `index` of each row together.
    fn fill<const T: usize>(x: &[Self::X<'_>; T], index: usize, to: &mut [i32]);

    /// The sums of sixteen rows with every token, block by block in ascending order. `operands` one after another; what
    /// `head` holds does not matter.
    ///
    /// # Safety
    /// The machine has AVX-512 F, BW, DQ, VL and VNNI.
    unsafe fn panel<const T: usize>(
        rows: TogetherRows<'_, Self::Block>,
        operands: &[i32],
        head: &mut Self::Head,
        wishes: Wishes,
    ) -> [__m512; T];
}

thread_local! {
    /// Operands; kept between products.
    static OPERANDS: Cell<Vec<i32>> = const { Cell::new(Vec::new()) };
}

/// The product, of rows that lie in lanes; `x` gives a row of activations.
///
/// # Safety
/// The machine has AVX-512 F, BW, DQ, VL and VNNI.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub unsafe fn product<'a, K: Kind>(product: &Product<'a>, x: impl Fn(u32) -> K::X<'a>) {
    let mut operands = OPERANDS.take();
    let most = most_of_a_pass(product.tokens.len());
    for (index, tokens) in product.tokens.chunks(most).enumerate() {
        let first = index * most;
        macro_rules! pass_of {
            ($($count:literal)*) => {
                match tokens.len() {
                    $($count if const { $count >= K::LEAST } => {
                        let mut rows = [x(tokens[0]); $count];
                        for (row, &token) in rows.iter_mut().zip(tokens) {
                            *row = x(token);
                        }
                        // SAFETY: as this function's.
                        unsafe { pass::<K, $count>(product, first, rows, &mut operands) }
                    })*
                    count => unreachable!("{count} tokens in a pass"),
                }
            };
        }
        pass_of!(1 2 3 4 5 6 7 8 9 10 11 12);
    }
    OPERANDS.set(operands);
}

/// How many tokens a pass of so many has, but for the last.
fn most_of_a_pass(tokens: usize) -> usize {
    let passes = tokens.div_ceil(TOKENS_MAX).max(1);
    tokens.div_ceil(passes).max(1)
}

/// T of the product's tokens, from `first` on.
#[inline(never)]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn pass<K: Kind, const T: usize>(
    product: &Product<'_>,
    first: usize,
    x: [K::X<'_>; T],
    operands: &mut Vec<i32>,
) {
    let (weight, rows, out) = (&product.weight, &product.rows, &product.out);
    let blocks = weight.row_bytes() / size_of::<K::Block>();
    let words = K::operand_words(T);
    operands.resize(operands.len().max(blocks * words), 0);
    let operands = &mut operands[..blocks * words];
    for (index, operand) in operands.chunks_exact_mut(words).enumerate() {
        K::fill(&x, index, operand);
    }
    let mut head = K::EMPTY;
    // Passes of a dozen are AMD's; what is known here costs neither branches nor the compiler's time.
    let wishes = Wishes::OF_SEVERAL_ON_AMD;
    for row in rows.clone().step_by(ROWS) {
        let group = TogetherRows(weight.groups(row..row + ROWS));
        if row == rows.start {
            group.begin(wishes);
        }
        out.wish(first..first + T, row, ROWS);
        // SAFETY: as this function's; sixteen floats are a register.
        unsafe {
            let of_tokens: [__m512; T] = K::panel(group, operands, &mut head, wishes);
            for (token, of_token) in of_tokens.into_iter().enumerate() {
                let mut sums = [0.0f32; ROWS];
                _mm512_storeu_ps(sums.as_mut_ptr(), of_token);
                out.put(first + token, row, &sums);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{BLOCKS_BY_DOZENS, BY_DOZENS_MAX, SUPERBLOCKS_BY_DOZENS};
    use super::*;

    #[test]
    fn each_pass_has_as_many_tokens_as_are_compiled() {
        for (from, least) in [
            (SUPERBLOCKS_BY_DOZENS, SUPERBLOCKS_BY_DOZENS),
            (BLOCKS_BY_DOZENS, LEAST_OF_SEVERAL),
        ] {
            for tokens in from..=BY_DOZENS_MAX {
                let all = vec![(); tokens];
                for pass in all.chunks(most_of_a_pass(tokens)) {
                    assert!((least..=TOKENS_MAX).contains(&pass.len()), "of {tokens}");
                }
            }
        }
    }
}
