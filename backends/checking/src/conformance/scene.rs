//! A backend with seeded data on it.

use super::blocks;
use odmoe_backend::{Backend, Buffer, Op, StreamId, Weight};
use odmoe_formats::block::to_lanes;
use odmoe_formats::{BlockFormat, WeightLayout};

/// A stream of pseudo-random numbers (splitmix64).
pub struct Numbers(u64);

impl Numbers {
    pub fn new(seed: u64, stream: u64) -> Self {
        Self(seed.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ stream.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// In -2..2.
    pub fn float(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u64 << 22) as f32 - 2.0
    }

    pub fn floats(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.float()).collect()
    }
}

/// Where a case runs.
pub struct Scene<'a> {
    pub backend: &'a dyn Backend,
    seed: u64,
}

impl<'a> Scene<'a> {
    pub fn new(backend: &'a dyn Backend, seed: u64) -> Self {
        Self { backend, seed }
    }

    /// Numbers of a token. Each use within a case has its own `purpose`.
    pub fn numbers(&self, purpose: u64, token: usize) -> Numbers {
        Numbers::new(self.seed, purpose << 32 | token as u64)
    }

    /// [tokens, width] floats, each token's its own.
    pub fn token_rows(&self, purpose: u64, tokens: &[usize], width: usize) -> Vec<f32> {
        tokens
            .iter()
            .flat_map(|&token| self.numbers(purpose, token).floats(width))
            .collect()
    }

    pub fn put_bytes(&self, bytes: &[u8]) -> Buffer {
        let buffer = self.backend.allocate(bytes.len()).expect("a small buffer");
        self.backend
            .upload(StreamId::COMPUTE, bytes, &buffer, 0)
            .expect("an upload");
        buffer
    }

    pub fn put(&self, values: &[f32]) -> Buffer {
        self.put_bytes(
            &values
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect::<Vec<u8>>(),
        )
    }

    pub fn empty(&self, bytes: usize) -> Buffer {
        self.backend.allocate(bytes).expect("a small buffer")
    }

    /// A row-major weight with random elements, some bytes into its buffer.
    pub fn weight(&self, purpose: u64, format: BlockFormat, rows: usize, columns: usize) -> Weight {
        self.weight_in(WeightLayout::RowMajor, purpose, format, rows, columns)
    }

    /// The same in a layout, as far as it can have it.
    pub fn weight_in(
        &self,
        layout: WeightLayout,
        purpose: u64,
        format: BlockFormat,
        rows: usize,
        columns: usize,
    ) -> Weight {
        self.weight_of(layout, purpose, format, rows, columns, blocks::moderate)
    }

    /// A weight of bytes as a file may hold them: any at all, and the extremes of every field.
    pub fn hostile_weight(
        &self,
        layout: WeightLayout,
        purpose: u64,
        format: BlockFormat,
        rows: usize,
        columns: usize,
    ) -> Weight {
        self.weight_of(layout, purpose, format, rows, columns, blocks::hostile)
    }

    fn weight_of(
        &self,
        layout: WeightLayout,
        purpose: u64,
        format: BlockFormat,
        rows: usize,
        columns: usize,
        block: fn(BlockFormat, &mut Numbers, &mut [u8]),
    ) -> Weight {
        const OFFSET_BYTES: usize = 8;
        let mut numbers = self.numbers(purpose, usize::MAX >> 32);
        let blocks = rows * columns / format.block_elements();
        let mut bytes = vec![0xab; OFFSET_BYTES + blocks * format.block_bytes()];
        for bytes in bytes[OFFSET_BYTES..].chunks_exact_mut(format.block_bytes()) {
            block(format, &mut numbers, bytes);
        }
        let layout = layout.of_matrix(format, rows as u64);
        if layout == WeightLayout::Lanes16 {
            let row_major = bytes[OFFSET_BYTES..].to_vec();
            let lanes = &mut bytes[OFFSET_BYTES..];
            to_lanes(format, columns as u64, &row_major, lanes);
        }
        Weight {
            buffer: self.put_bytes(&bytes),
            offset_bytes: OFFSET_BYTES,
            format,
            layout,
            rows,
            columns,
        }
    }

    pub fn run(&self, op: Op) {
        self.backend.enqueue(StreamId::COMPUTE, op).expect("an op");
    }

    /// Reads rows of `width` bytes.
    pub fn rows(&self, buffer: &Buffer, rows: usize, width: usize) -> Vec<Vec<u8>> {
        let mut ticket = self
            .backend
            .read_back(StreamId::COMPUTE, buffer, 0..rows * width)
            .expect("a read-back");
        let bytes = loop {
            match self.backend.take(&mut ticket).expect("a read-back") {
                Some(bytes) => break bytes,
                None => std::thread::yield_now(),
            }
        };
        bytes
            .chunks_exact(width.max(1))
            .map(<[u8]>::to_vec)
            .collect()
    }
}
