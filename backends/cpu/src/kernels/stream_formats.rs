//! Superblocks of each format as registers, for x86-64.
//!
//! Shifts are of 16-bit lanes and move bits across bytes, so each is followed by a mask.

use super::avx2_stream as narrow;
use super::stream::StreamFormat;
use super::superblock_formats::{Q2K, Q3K, Q4K, Q5K, Q6K};
use crate::blocks::{HalfBytes, Q2KBlock, Q3KBlock, Q4KBlock, Q5KBlock, Q6KBlock};
use std::arch::x86_64::*;

// SAFETY of every block below: the caller's machine has the instructions, by contract.
#[allow(clippy::undocumented_unsafe_blocks)]
impl StreamFormat for Q2K {
    const WIDE_SUB_BLOCKS: bool = false;

    #[inline(always)]
    fn units(block: &Q2KBlock) -> [HalfBytes; 2] {
        [block.scale, block.minimum]
    }
    #[inline(always)]
    unsafe fn quants_avx2(block: &Q2KBlock, part: usize) -> __m256i {
        unsafe { narrow::pairs(&block.quants, part) }
    }
    #[inline(always)]
    unsafe fn scales(block: &Q2KBlock) -> [__m256i; 2] {
        unsafe { narrow::nibble_scales(&block.scales) }
    }
}

#[allow(clippy::undocumented_unsafe_blocks)]
impl StreamFormat for Q3K {
    const WIDE_SUB_BLOCKS: bool = false;

    #[inline(always)]
    fn units(block: &Q3KBlock) -> [HalfBytes; 2] {
        [block.scale; 2]
    }
    #[inline(always)]
    unsafe fn quants_avx2(block: &Q3KBlock, part: usize) -> __m256i {
        unsafe {
            let third = narrow::shift(narrow::load(&block.third, 0), 2 - part as i32);
            narrow::with(narrow::pairs(&block.quants, part), third, 4)
        }
    }
    #[inline(always)]
    unsafe fn scales(block: &Q3KBlock) -> [__m256i; 2] {
        unsafe { narrow::split_scales(block) }
    }
}

#[allow(clippy::undocumented_unsafe_blocks)]
impl StreamFormat for Q4K {
    const WIDE_SUB_BLOCKS: bool = true;

    #[inline(always)]
    fn units(block: &Q4KBlock) -> [HalfBytes; 2] {
        [block.scale, block.minimum]
    }
    #[inline(always)]
    unsafe fn quants_avx2(block: &Q4KBlock, part: usize) -> __m256i {
        unsafe { narrow::halves(&block.quants, part) }
    }
    #[inline(always)]
    unsafe fn scales(block: &Q4KBlock) -> [__m256i; 2] {
        unsafe { [narrow::six_bit_scales(bytemuck::bytes_of(block)); 2] }
    }
}

#[allow(clippy::undocumented_unsafe_blocks)]
impl StreamFormat for Q5K {
    const WIDE_SUB_BLOCKS: bool = true;

    #[inline(always)]
    fn units(block: &Q5KBlock) -> [HalfBytes; 2] {
        [block.scale, block.minimum]
    }
    #[inline(always)]
    unsafe fn quants_avx2(block: &Q5KBlock, part: usize) -> __m256i {
        unsafe {
            let fifth = narrow::shift(narrow::load(&block.fifth, 0), 4 - part as i32);
            narrow::with(narrow::halves(&block.quants, part), fifth, 16)
        }
    }
    #[inline(always)]
    unsafe fn scales(block: &Q5KBlock) -> [__m256i; 2] {
        unsafe { [narrow::six_bit_scales(bytemuck::bytes_of(block)); 2] }
    }
}

#[allow(clippy::undocumented_unsafe_blocks)]
impl StreamFormat for Q6K {
    const WIDE_SUB_BLOCKS: bool = false;

    #[inline(always)]
    fn units(block: &Q6KBlock) -> [HalfBytes; 2] {
        [block.scale; 2]
    }
    #[inline(always)]
    unsafe fn quants_avx2(block: &Q6KBlock, part: usize) -> __m256i {
        unsafe {
            let (half, quarter) = (part / 4, part % 4);
            let low = narrow::load(&block.low, 2 * half + quarter % 2);
            let low = narrow::shift(low, -4 * (quarter as i32 / 2));
            let high = narrow::shift(narrow::load(&block.high, half), 4 - 2 * quarter as i32);
            narrow::with(narrow::keep(low, 15), high, 0x30)
        }
    }
    #[inline(always)]
    unsafe fn scales(block: &Q6KBlock) -> [__m256i; 2] {
        unsafe { narrow::signed_scales::<32>(&block.scales) }
    }
}
