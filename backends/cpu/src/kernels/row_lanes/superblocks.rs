//! Superblocks of 256 with many tokens.
//!
//! Rows of weights lie in lanes; four elements of sixteen rows are one register, which is multiplied with four elements
//! of a token, broadcast. A group of 8 or 16 elements, all of one sub-block, sums to an integer that fits 16 bits: one
//! multiply-add of 16-bit halves then applies the sub-block's scale and adds it to the superblock's sum.

use super::ahead::Ahead;
use super::columns::{ROWS, down};
use super::sixteen::{Rows, Sixteen};
use super::sums::{PANEL_ROWS, SLICES, Sums};
use crate::blocks::{InLanes, SUB_BLOCKS, SUPERBLOCK};
use crate::kernels::OutRows;
use crate::kernels::activations::{ActivationSuperblock, SuperblockRows};
use std::arch::x86_64::*;

/// Tokens of one tile: with two slices enough sums at a time to hide the latency of a dot product, and few enough that
/// these, the totals and the operands are all in registers.
const TOKENS: usize = 6;
/// Elements of a row in one lane.
pub const WORD: usize = 4;

/// A format of superblocks, sixteen rows at a time.
pub trait Format {
    /// One as it lies in memory.
    type Block: InLanes;
    /// Elements with one scale.
    const SUB_BLOCK: usize;
    /// Elements whose unsigned quants, less `OFFSET`, give sums of products within 16 bits: 8 or 16, or 0 where not even
    /// eight do. Such a format's sub-blocks are always multiplied with their scales as a whole.
    const GROUP: usize;
    /// What is taken from every quant: 0, or a power of 2 from 32 on.
    const OFFSET: i16;
    /// The scales of sub-blocks are 2^SHIFT times too large, or the quants.
    const SHIFT: u32;
    /// Sub-blocks that have a minimum each; 0 where none has.
    const MINIMA: usize;
    /// On AMD's cores, up to how many tokens weights that do not go by dozens are multiplied straight from registers.
    const FEW_ON_AMD: usize;
    /// Columns of sixteen bytes, or where quants are in two parts, what goes with one.
    const COLUMNS: usize;
    /// Runs of four words of quants in a column.
    const RUNS: usize;
    /// The quants of a column, run by run, four elements a lane, unsigned.
    type Column: Copy + AsRef<[Run]>;
    /// What several columns have in common.
    type Shared: Copy;
    /// By how many bits the quants of a run come out too high.
    #[inline(always)]
    fn shift(_run: usize) -> u32 {
        0
    }
    /// The first word of a run, counted in the superblock.
    fn word(column: usize, run: usize) -> usize;
    /// The column and run of a superblock's words 4 `run` to 4 `run` + 4: the inverse of [`Self::word`].
    fn place(run: usize) -> (usize, usize);
    /// Writes scales, minima and units; signed scales as `WHOLE` lanes or with 0 in the upper half.
    ///
    /// # Safety
    /// The machine has what [`super::Avx512`] proves; as everywhere in this trait.
    unsafe fn head<const WHOLE: bool, R: Sixteen<Block = Self::Block>>(rows: R, to: &mut Head);
    /// What [`Self::column`] wants to have.
    ///
    /// # Safety
    /// As above.
    unsafe fn shared<R: Sixteen<Block = Self::Block>>(rows: R) -> Self::Shared;
    /// The quants of a column.
    ///
    /// # Safety
    /// As above.
    unsafe fn column<R: Sixteen<Block = Self::Block>>(
        rows: R,
        shared: &Self::Shared,
        column: usize,
    ) -> Self::Column;

    /// Writes one superblock of sixteen rows.
    ///
    /// # Safety
    /// As above.
    #[inline(always)]
    unsafe fn unpack<const WHOLE: bool, R: Sixteen<Block = Self::Block>>(rows: R, to: &mut Slice) {
        // SAFETY: as this function's; words are of the size of a register.
        unsafe {
            Self::head::<WHOLE, R>(rows, &mut to.head);
            let shared = Self::shared(rows);
            for column in 0..Self::COLUMNS {
                let quants = Self::column(rows, &shared, column);
                for (run, quants) in quants.as_ref().iter().enumerate() {
                    let words = &mut to.quants[Self::word(column, run)..][..RUN];
                    for (to, quants) in words.iter_mut().zip(quants) {
                        let quants = down(*quants, Self::shift(run));
                        _mm512_store_si512(to.as_mut_ptr().cast(), quants);
                    }
                }
            }
        }
    }
}

/// Words of a run.
pub const RUN: usize = 4;
/// Four consecutive words.
pub type Run = [__m512i; RUN];

/// One superblock of sixteen rows, rows in lanes.
#[repr(C, align(64))]
pub struct Slice {
    /// Four elements a lane, unsigned.
    pub quants: [[[u8; WORD]; ROWS]; SUPERBLOCK / WORD],
    /// All but the elements.
    pub head: Head,
}

/// Scales and minima of one superblock of sixteen rows, rows in lanes.
#[repr(C, align(64))]
pub struct Head {
    /// Of sub-blocks, as many as the format has.
    pub scales: [[i32; ROWS]; SUB_BLOCKS],
    /// Of two sub-blocks each, in halves. As many as the format has.
    pub minima: [[i32; ROWS]; SUB_BLOCKS / 2],
    /// Of the superblock.
    pub scale: [f32; ROWS],
    /// Of the superblock, subtracted.
    pub minimum: [f32; ROWS],
}

impl Slice {
    /// Zeros.
    pub const EMPTY: Self = Self {
        quants: [[[0; WORD]; ROWS]; SUPERBLOCK / WORD],
        head: Head::EMPTY,
    };
}

impl Head {
    /// Zeros.
    pub const EMPTY: Self = Self {
        scales: [[0; ROWS]; SUB_BLOCKS],
        minima: [[0; ROWS]; SUB_BLOCKS / 2],
        scale: [0.0; ROWS],
        minimum: [0.0; ROWS],
    };
}

/// Every product of weight rows with rows `tokens` of x; `panel_of(row, height)` gives the rows from `row` on, in place of those that
/// are missing any others; row 0 comes out at column 0. `WHOLE`: each sub-block's sum is multiplied with its scale as a whole,
/// which AMD's cores do as fast as with halves; else in groups of 16 bits.
///
/// # Safety
/// The machine has AVX-512 F, BW, DQ, VL and VNNI.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub unsafe fn products<F: Format, R: Rows<Block = F::Block>, const WHOLE: bool>(
    rows: usize,
    panel_of: impl Fn(usize, usize) -> [R; SLICES],
    x: &SuperblockRows,
    tokens: &[u32],
    out: OutRows<'_>,
) {
    let mut panel = Box::new([Slice::EMPTY; SLICES]);
    let mut sums: Vec<Sums> = Vec::new();
    for row in (0..rows).step_by(PANEL_ROWS) {
        let height = PANEL_ROWS.min(rows - row);
        let group = panel_of(row, height);
        sums.clear();
        sums.resize(tokens.len(), Sums::EMPTY);
        let blocks = group[0].len();
        let mut ahead = Ahead::of(
            group[0].first_byte(),
            PANEL_ROWS * blocks * size_of::<F::Block>(),
            blocks * tiles::<WHOLE>(tokens.len()),
        );
        for block in 0..blocks {
            let wanted = tokens.len() * block / blocks..tokens.len() * (block + 1) / blocks;
            out.wish(wanted, row, height);
            for (slice, rows) in panel.iter_mut().zip(group) {
                // SAFETY: as this function's.
                unsafe { F::unpack::<WHOLE, _>(rows.at(block), slice) };
            }
            // SAFETY: as this function's.
            unsafe {
                panel_with_tokens::<F, WHOLE>(&panel, block, x, tokens, &mut sums, &mut ahead)
            };
        }
        for (token, sums) in sums.iter().enumerate() {
            out.put(token, row, &sums.rows()[..height]);
        }
    }
}

/// Tiles of so many tokens. With whole scales, which is AMD's way, at least two, since wishes for the next panel come tile by tile: all at once they
/// hold up the loads behind them, which costs more than loading weights a second time.
fn tiles<const WHOLE: bool>(tokens: usize) -> usize {
    let least = if WHOLE { 2 } else { 1 };
    tokens.div_ceil(TOKENS).max(least.min(tokens)).max(1)
}

#[inline(always)]
unsafe fn panel_with_tokens<F: Format, const WHOLE: bool>(
    panel: &[Slice; SLICES],
    block: usize,
    x: &SuperblockRows,
    tokens: &[u32],
    sums: &mut [Sums],
    ahead: &mut Ahead,
) {
    // Tiles of nearly the same height: a last one of few tokens would load as much for fewer products.
    let height = tokens.len().div_ceil(tiles::<WHOLE>(tokens.len())).max(1);
    let groups = tokens.chunks(height).zip(sums.chunks_mut(height));
    for (tokens, sums) in groups {
        ahead.part();
        // SAFETY: as this function's.
        unsafe {
            match *tokens {
                [a, b, c, d, e, f] => {
                    tile_of::<F, WHOLE, 6>(panel, block, x, [a, b, c, d, e, f], sums)
                }
                [a, b, c, d, e] => tile_of::<F, WHOLE, 5>(panel, block, x, [a, b, c, d, e], sums),
                [a, b, c, d] => tile_of::<F, WHOLE, 4>(panel, block, x, [a, b, c, d], sums),
                [a, b, c] => tile_of::<F, WHOLE, 3>(panel, block, x, [a, b, c], sums),
                [a, b] => tile_of::<F, WHOLE, 2>(panel, block, x, [a, b], sums),
                [a] => tile_of::<F, WHOLE, 1>(panel, block, x, [a], sums),
                _ => unreachable!("a tile of {} tokens", tokens.len()),
            }
        }
    }
}

/// Adds one superblock of the panel's rows to the sums of T tokens.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn tile_of<F: Format, const WHOLE: bool, const T: usize>(
    panel: &[Slice; SLICES],
    block: usize,
    x: &SuperblockRows,
    tokens: [u32; T],
    sums: &mut [Sums],
) {
    let mut operands = [&x.row(tokens[0] as usize)[block]; T];
    for token in 1..T {
        operands[token] = &x.row(tokens[token] as usize)[block];
    }
    // SAFETY: as this function's.
    unsafe {
        let dots = dots::<F, WHOLE, T>(panel, operands);
        finish::<F, T>(panel, operands, dots, sums);
    }
}

/// Adds the dots of one superblock of the panel's rows, with their units, to the sums of one token.
///
/// # Safety
/// The machine has AVX-512 F, BW, DQ, VL and VNNI.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub unsafe fn add<F: Format>(
    panel: &[Slice; SLICES],
    x: &ActivationSuperblock,
    dots: [__m512i; SLICES],
    sums: &mut Sums,
) {
    // SAFETY: as this function's.
    unsafe { finish::<F, 1>(panel, [x], [dots], std::slice::from_mut(sums)) }
}

/// The same for T tokens, and where the format has minima, what these add.
#[inline(always)]
unsafe fn finish<F: Format, const T: usize>(
    panel: &[Slice; SLICES],
    x: [&ActivationSuperblock; T],
    dots: [[__m512i; SLICES]; T],
    sums: &mut [Sums],
) {
    let sums = &mut sums[..T];
    // SAFETY: slices and sums are aligned to registers; the instructions are there by the contract of the callers.
    unsafe {
        let mut corrections = [[_mm512_setzero_si512(); SLICES]; T];
        if F::MINIMA > 0 {
            corrections = self::corrections::<F, T>(panel, x);
        }
        for slice in 0..SLICES {
            let scale = _mm512_load_ps(panel[slice].head.scale.as_ptr());
            let minimum = _mm512_load_ps(panel[slice].head.minimum.as_ptr());
            for token in 0..T {
                let x_scale = _mm512_set1_ps(x[token].scale);
                let to = sums[token].slices[slice].as_mut_ptr();
                let dots = _mm512_cvtepi32_ps(dots[token][slice]);
                let mut sum = _mm512_load_ps(to);
                sum = _mm512_fmadd_ps(_mm512_mul_ps(scale, x_scale), dots, sum);
                if F::MINIMA > 0 {
                    let corrections = _mm512_cvtepi32_ps(corrections[token][slice]);
                    sum = _mm512_fnmadd_ps(_mm512_mul_ps(minimum, x_scale), corrections, sum);
                }
                _mm512_store_ps(to, sum);
            }
        }
    }
}

/// The integer dots of the panel's rows with T tokens.
#[inline(always)]
unsafe fn dots<F: Format, const WHOLE: bool, const T: usize>(
    panel: &[Slice; SLICES],
    x: [&ActivationSuperblock; T],
) -> [[__m512i; SLICES]; T] {
    let together = if WHOLE { F::SUB_BLOCK } else { F::GROUP };
    // SAFETY: slices are aligned to registers; words and sums of x lie within their arrays.
    unsafe {
        let mut totals = [[_mm512_setzero_si512(); SLICES]; T];
        for group in 0..SUPERBLOCK / together {
            let mut sums = [[_mm512_setzero_si512(); SLICES]; T];
            if F::OFFSET > 0 {
                for token in 0..T {
                    let offset = offset::<F>(x[token], group * together / 8, together / 8);
                    sums[token] = [offset; SLICES];
                }
            }
            for word in 0..together / WORD {
                let word = group * (together / WORD) + word;
                let mut weights = [_mm512_setzero_si512(); SLICES];
                for slice in 0..SLICES {
                    weights[slice] = _mm512_load_si512(panel[slice].quants[word].as_ptr().cast());
                }
                for token in 0..T {
                    let x = x[token].quants.as_ptr().add(word * WORD).cast::<i32>();
                    let x = _mm512_set1_epi32(x.read_unaligned());
                    for slice in 0..SLICES {
                        sums[token][slice] =
                            _mm512_dpbusd_epi32(sums[token][slice], weights[slice], x);
                    }
                }
            }
            for slice in 0..SLICES {
                let scales = &panel[slice].head.scales[group * together / F::SUB_BLOCK];
                let scales = _mm512_load_si512(scales.as_ptr().cast());
                for token in 0..T {
                    let (total, sum) = (&mut totals[token][slice], sums[token][slice]);
                    *total = if WHOLE {
                        _mm512_add_epi32(*total, _mm512_mullo_epi32(sum, scales))
                    } else {
                        _mm512_dpwssd_epi32(*total, sum, scales)
                    };
                }
            }
        }
        if F::SHIFT > 0 {
            for total in totals.as_flattened_mut() {
                *total = _mm512_sra_epi32(*total, _mm_cvtsi32_si128(F::SHIFT as i32));
            }
        }
        totals
    }
}

/// What the offset of the weights adds over so many times eight elements, in every lane.
///
/// # Safety
/// The machine has AVX-512 F.
#[inline(always)]
pub unsafe fn offset<F: Format>(x: &ActivationSuperblock, first: usize, eights: usize) -> __m512i {
    // SAFETY: the instructions are there by the contract of the callers.
    unsafe {
        let mut sum = _mm512_set1_epi32(x.offsets[first]);
        for index in first + 1..first + eights {
            sum = _mm512_add_epi32(sum, _mm512_set1_epi32(x.offsets[index]));
        }
        if F::OFFSET > 32 {
            // Offsets of activations are of 32.
            let more = (F::OFFSET / 32).ilog2();
            sum = _mm512_sll_epi32(sum, _mm_cvtsi32_si128(more as i32));
        }
        sum
    }
}

/// The integer sums of minima times activations.
#[inline(always)]
unsafe fn corrections<F: Format, const T: usize>(
    panel: &[Slice; SLICES],
    x: [&ActivationSuperblock; T],
) -> [[__m512i; SLICES]; T] {
    // SAFETY: as above.
    unsafe {
        let mut totals = [[_mm512_setzero_si512(); SLICES]; T];
        for pair in 0..F::MINIMA / 2 {
            let mut minima = [_mm512_setzero_si512(); SLICES];
            for slice in 0..SLICES {
                minima[slice] = _mm512_load_si512(panel[slice].head.minima[pair].as_ptr().cast());
            }
            for token in 0..T {
                let sums = sums_of_two::<F>(x[token], pair);
                for slice in 0..SLICES {
                    totals[token][slice] =
                        _mm512_dpwssd_epi32(totals[token][slice], minima[slice], sums);
                }
            }
        }
        totals
    }
}

/// The integer sums of minima times activations of sixteen rows.
///
/// # Safety
/// The machine has AVX-512 F, BW, DQ, VL and VNNI.
#[inline(always)]
pub unsafe fn correction<F: Format>(head: &Head, x: &ActivationSuperblock) -> __m512i {
    // SAFETY: heads are aligned to registers; pairs of sums lie within their arrays.
    unsafe {
        let mut total = _mm512_setzero_si512();
        for pair in 0..F::MINIMA / 2 {
            let minima = _mm512_load_si512(head.minima[pair].as_ptr().cast());
            total = _mm512_dpwssd_epi32(total, minima, sums_of_two::<F>(x, pair));
        }
        total
    }
}

/// The sums of x over two sub-blocks, in halves.
#[inline(always)]
unsafe fn sums_of_two<F: Format>(x: &ActivationSuperblock, pair: usize) -> __m512i {
    // SAFETY: as above.
    unsafe {
        let sums = if F::MINIMA == SUB_BLOCKS {
            x.sums.as_ptr()
        } else {
            x.sums_of_32.as_ptr()
        };
        _mm512_set1_epi32(sums.add(2 * pair).cast::<i32>().read_unaligned())
    }
}
