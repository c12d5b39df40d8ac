//! Sixteen rows of weights, wherever they lie: apart, each row by itself, or together in lanes (`WeightLayout::Lanes16`).

// SAFETY of every block below: by the contracts of the functions, and offsets lie within blocks.
#![allow(clippy::undocumented_unsafe_blocks)]

use super::columns::{ROWS, widen_low_halves, words_of_16_bytes};
use super::few::{Part, Wishes};
use crate::blocks::InLanes;
use std::arch::x86_64::*;
use std::marker::PhantomData;

/// Bytes that a lane holds.
const WORD: usize = 4;
/// Bytes of a register.
const REGISTER: usize = ROWS * WORD;
/// Bytes of a column.
const COLUMN: usize = 16;
/// Words of the longest block, a superblock of Q6_K.
const WORDS_MAX: usize = 52;

/// Sixteen rows of blocks.
pub trait Rows: Copy {
    /// Sixteen of these blocks, one a row.
    type At: Sixteen<Block = Self::Block>;
    /// One as the format defines it.
    type Block: InLanes;
    /// Blocks of a row.
    fn len(self) -> usize;
    /// Block `index` of each row.
    fn at(self, index: usize) -> Self::At;
    /// Where the first begins.
    fn first_byte(self) -> *const u8;
    /// Asks for what the first block's wishes take for granted.
    fn begin(self, wishes: Wishes);
    /// Asks for a part of as much as block `index` of each row is, ahead of it; called for each of so many parts.
    fn go_on(self, wishes: Wishes, index: usize, part: Part);
}

/// Sixteen blocks, one a row.
pub trait Sixteen: Copy {
    /// One as the format defines it.
    type Block: InLanes;

    /// Lane r of word w = bytes 4 w to 4 w + 4 after `offset` of row r. `WORDS` is a multiple of four.
    ///
    /// # Safety
    /// The bytes are within the block, and the machine has what [`super::Avx512`] proves; as everywhere in this trait.
    unsafe fn words<const WORDS: usize>(self, offset: usize) -> [__m512i; WORDS];
    /// One such word.
    ///
    /// # Safety
    /// As above.
    unsafe fn word(self, offset: usize) -> __m512i;
    /// The two bytes at `offset`, in the lower half of each lane.
    ///
    /// # Safety
    /// As above.
    unsafe fn halves(self, offset: usize) -> __m512i;
    /// The same as binary16, widened.
    ///
    /// # Safety
    /// As above.
    unsafe fn half_floats(self, offset: usize) -> __m512;
    /// The first byte, in each lane.
    ///
    /// # Safety
    /// As above.
    unsafe fn first_byte(self) -> __m512i;
    /// The twelve bytes before the last two as words, and the last two in the lower half of each lane.
    ///
    /// # Safety
    /// As above; blocks have 16 bytes.
    unsafe fn last_14_bytes(self) -> ([__m512i; 3], __m512i);
}

/// Rows that lie by themselves.
#[derive(Clone, Copy)]
pub struct ApartRows<'a, B>(pub [&'a [B]; ROWS]);

/// Blocks of such rows.
#[derive(Clone, Copy)]
pub struct Apart<'a, B>(pub [&'a B; ROWS]);

impl<'a, B: InLanes> Rows for ApartRows<'a, B> {
    type At = Apart<'a, B>;
    type Block = B;

    #[inline(always)]
    fn len(self) -> usize {
        self.0[0].len()
    }
    #[inline(always)]
    fn at(self, index: usize) -> Apart<'a, B> {
        Apart(crate::kernels::rows::blocks_at(&self.0, index))
    }
    #[inline(always)]
    fn first_byte(self) -> *const u8 {
        self.0[0].as_ptr().cast()
    }
    #[inline(always)]
    fn begin(self, wishes: Wishes) {
        wishes.begin_streams(&self.0);
    }
    #[inline(always)]
    fn go_on(self, wishes: Wishes, index: usize, part: Part) {
        wishes.go_on_streams(&self.0, index, part);
    }
}

impl<B: InLanes> Apart<'_, B> {
    /// `offset` after the beginning of each block. `map` would become a call here, around which no register keeps what
    /// it holds.
    #[inline(always)]
    unsafe fn pointers(self, offset: usize) -> [*const u8; ROWS] {
        let mut pointers = [std::ptr::null(); ROWS];
        for (pointer, row) in pointers.iter_mut().zip(self.0) {
            *pointer = unsafe { std::ptr::from_ref(row).cast::<u8>().add(offset) };
        }
        pointers
    }

    #[inline(always)]
    unsafe fn sixteen_halves(self, offset: usize) -> __m256i {
        let mut halves = [0u16; ROWS];
        for (half, at) in halves.iter_mut().zip(unsafe { self.pointers(offset) }) {
            *half = unsafe { at.cast::<u16>().read_unaligned() };
        }
        unsafe { _mm256_loadu_si256(halves.as_ptr().cast()) }
    }
}

impl<B: InLanes> Sixteen for Apart<'_, B> {
    type Block = B;

    #[inline(always)]
    unsafe fn words<const WORDS: usize>(self, offset: usize) -> [__m512i; WORDS] {
        const { assert!(WORDS.is_multiple_of(COLUMN / WORD)) };
        unsafe {
            let mut all = [_mm512_setzero_si512(); WORDS];
            for (column, all) in all.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                *all = words_of_16_bytes(self.pointers(offset + column * COLUMN));
            }
            all
        }
    }
    #[inline(always)]
    unsafe fn word(self, offset: usize) -> __m512i {
        let mut words = [0u32; ROWS];
        for (word, at) in words.iter_mut().zip(unsafe { self.pointers(offset) }) {
            *word = unsafe { at.cast::<u32>().read_unaligned() };
        }
        unsafe { _mm512_loadu_si512(words.as_ptr().cast()) }
    }
    #[inline(always)]
    unsafe fn halves(self, offset: usize) -> __m512i {
        unsafe { _mm512_cvtepu16_epi32(self.sixteen_halves(offset)) }
    }
    #[inline(always)]
    unsafe fn half_floats(self, offset: usize) -> __m512 {
        unsafe { _mm512_cvtph_ps(self.sixteen_halves(offset)) }
    }
    #[inline(always)]
    unsafe fn first_byte(self) -> __m512i {
        let mut bytes = [0u8; ROWS];
        for (byte, at) in bytes.iter_mut().zip(unsafe { self.pointers(0) }) {
            *byte = unsafe { *at };
        }
        unsafe { _mm512_cvtepu8_epi32(_mm_loadu_si128(bytes.as_ptr().cast())) }
    }
    #[inline(always)]
    unsafe fn last_14_bytes(self) -> ([__m512i; 3], __m512i) {
        unsafe {
            // Sixteen bytes, of which the first two are not asked for.
            let last = self.words::<4>(size_of::<B>() - COLUMN);
            let word = |index: usize| {
                _mm512_or_si512(
                    _mm512_srli_epi32::<16>(last[index]),
                    _mm512_slli_epi32::<16>(last[index + 1]),
                )
            };
            let half = _mm512_srli_epi32::<16>(last[3]);
            ([word(0), word(1), word(2)], half)
        }
    }
}

/// Rows that lie in lanes: the bytes of one group.
#[derive(Clone, Copy)]
pub struct TogetherRows<'a, B>(pub &'a [[B; ROWS]]);

/// Blocks of such rows.
#[derive(Clone, Copy)]
pub struct Together<'a, B> {
    /// Their words: the first of each row, then the next of each, in the format's order.
    words: *const u8,
    /// What is left over, row by row.
    left_over: *const u8,
    group: PhantomData<&'a B>,
}

impl<'a, B: InLanes> Rows for TogetherRows<'a, B> {
    type At = Together<'a, B>;
    type Block = B;

    #[inline(always)]
    fn len(self) -> usize {
        self.0.len()
    }
    #[inline(always)]
    fn at(self, index: usize) -> Together<'a, B> {
        let (words, left) = const { (B::FORMAT.block_words(), B::FORMAT.bytes_left_over()) };
        let together = const { B::FORMAT.blocks_together() };
        let (first, within) = (index / together * together, index % together);
        let count = together.min(self.0.len() - first);
        assert!(within < count);
        // SAFETY: the group has the block, and before it those of the blocks together.
        unsafe {
            let start = self.0.as_ptr().add(first).cast::<u8>();
            Together {
                words: start.add(count * ROWS * left + within * words * REGISTER),
                left_over: start.add(within * ROWS * left),
                group: PhantomData,
            }
        }
    }
    #[inline(always)]
    fn first_byte(self) -> *const u8 {
        self.0.as_ptr().cast()
    }
    #[inline(always)]
    fn begin(self, wishes: Wishes) {
        wishes.begin_stream(self.first_byte());
    }
    #[inline(always)]
    fn go_on(self, wishes: Wishes, index: usize, part: Part) {
        wishes.go_on_stream(self.first_byte(), size_of::<[B; ROWS]>(), index, part);
    }
}

impl<B: InLanes> Together<'_, B> {
    /// Where each word lies.
    const PLACES: [usize; WORDS_MAX] = {
        let mut places = [0; WORDS_MAX];
        let mut word = 0;
        while word < B::FORMAT.block_words() {
            places[word] = B::FORMAT.place_of_word(word);
            word += 1;
        }
        places
    };

    #[inline(always)]
    unsafe fn register(self, word: usize) -> __m512i {
        unsafe { _mm512_loadu_si512(self.words.add(Self::PLACES[word] * REGISTER).cast()) }
    }

    /// Which word of a block has the byte at `offset`, and where; None where that is left over.
    #[inline(always)]
    fn place(offset: usize) -> Option<(usize, usize)> {
        let (words, before) = const { (B::FORMAT.block_words(), B::FORMAT.bytes_before_words()) };
        let after = offset.checked_sub(before)?;
        (after < words * WORD).then_some((after / WORD, after % WORD))
    }

    /// The halves that are left over. No block has more than two such bytes.
    #[inline(always)]
    unsafe fn left_halves(self) -> __m256i {
        debug_assert_eq!(B::FORMAT.bytes_left_over(), 2);
        unsafe { _mm256_loadu_si256(self.left_over.cast()) }
    }
}

impl<B: InLanes> Sixteen for Together<'_, B> {
    type Block = B;

    #[inline(always)]
    unsafe fn words<const WORDS: usize>(self, offset: usize) -> [__m512i; WORDS] {
        unsafe {
            let mut all = [_mm512_setzero_si512(); WORDS];
            for (index, word) in all.iter_mut().enumerate() {
                *word = self.word(offset + index * WORD);
            }
            all
        }
    }
    #[inline(always)]
    unsafe fn word(self, offset: usize) -> __m512i {
        let (word, within) = Self::place(offset).expect("a whole word");
        debug_assert_eq!(within, 0, "words are read as they were moved");
        unsafe { self.register(word) }
    }
    #[inline(always)]
    unsafe fn halves(self, offset: usize) -> __m512i {
        unsafe {
            match Self::place(offset) {
                None => _mm512_cvtepu16_epi32(self.left_halves()),
                Some((word, 0)) => self.register(word),
                Some((word, _)) => _mm512_srli_epi32::<16>(self.register(word)),
            }
        }
    }
    #[inline(always)]
    unsafe fn half_floats(self, offset: usize) -> __m512 {
        unsafe {
            match Self::place(offset) {
                None => _mm512_cvtph_ps(self.left_halves()),
                Some(_) => widen_low_halves(self.halves(offset)),
            }
        }
    }
    #[inline(always)]
    unsafe fn first_byte(self) -> __m512i {
        debug_assert_eq!(B::FORMAT.bytes_left_over(), 1);
        unsafe { _mm512_cvtepu8_epi32(_mm_loadu_si128(self.left_over.cast())) }
    }
    #[inline(always)]
    unsafe fn last_14_bytes(self) -> ([__m512i; 3], __m512i) {
        unsafe {
            let first = size_of::<B>() - 14;
            let words = [
                self.word(first),
                self.word(first + WORD),
                self.word(first + 2 * WORD),
            ];
            (words, self.halves(first + 3 * WORD))
        }
    }
}
