//! The bytes of a tensor, in pieces, from its recipe.

use super::blocks::RowOfBlocks;
use super::random::Random;
use super::recipe::{Bands, Fill, Recipe, RowNames};
use odmoe_formats::BlockFormat;

const PIECE_ELEMENTS: usize = 1 << 16;
/// The deviation of a uniform distribution of half width 1.
const UNIT_DEVIATION: f32 = 0.577_350_26;

/// A tensor to be filled.
pub(super) struct Tensor<'a> {
    pub seed: u64,
    /// Decides the values, with the seed.
    pub name: &'a str,
    pub recipe: &'a Recipe,
    pub format: BlockFormat,
    /// Rows first; of as many dimensions as there are.
    pub shape: &'a [u64],
}

impl Tensor<'_> {
    /// Gives the bytes to `put`, piece after piece. Ends early with its error.
    pub fn write<E>(&self, put: &mut dyn FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        match &self.recipe.bands {
            Bands::Columns { bands, rows } => self.write_columns(bands, rows, put),
            Bands::None if self.format.is_float() => self.write_floats(put),
            Bands::None => self.write_blocks(&[(u64::MAX, 1.0)], put),
            Bands::Rows(bands) if self.format.is_float() => self.write_float_rows(bands, put),
            Bands::Rows(bands) => self.write_blocks(bands, put),
        }
    }

    fn columns(&self) -> u64 {
        self.shape.last().copied().unwrap_or(0)
    }

    fn rows(&self) -> u64 {
        self.shape.iter().rev().skip(1).product()
    }

    fn row_bytes(&self) -> usize {
        let bytes = self.format.row_bytes(self.columns());
        bytes.expect("rows are whole blocks") as usize
    }

    /// Elements one after another, whatever the rows.
    fn write_floats<E>(&self, put: &mut dyn FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        let Recipe {
            centre, half_width, ..
        } = *self.recipe;
        let mut random = Random::new(self.seed, self.name);
        let mut left = self.rows() * self.columns();
        let (mut piece, mut encoded) = (Vec::new(), Vec::new());
        while left > 0 {
            let count = left.min(PIECE_ELEMENTS as u64) as usize;
            piece.clear();
            piece.extend((0..count).map(|_| centre + half_width * random.signed_unit()));
            encoded.resize(count * self.format.block_bytes(), 0);
            self.format.encode_row(&piece, &mut encoded);
            put(&encoded)?;
            left -= count as u64;
        }
        Ok(())
    }

    fn write_float_rows<E>(
        &self,
        bands: &[(u64, f32)],
        put: &mut dyn FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut random = Random::new(self.seed, self.name);
        let mut piece = vec![0.0; self.columns() as usize];
        let mut encoded = vec![0; self.row_bytes()];
        for row in 0..self.rows() {
            let half_width = self.recipe.half_width * factor(bands, row);
            piece.fill_with(|| half_width * random.signed_unit());
            self.format.encode_row(&piece, &mut encoded);
            put(&encoded)?;
        }
        Ok(())
    }

    /// Whole rows of blocks at a time.
    fn write_blocks<E>(
        &self,
        bands: &[(u64, f32)],
        put: &mut dyn FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut random = Random::new(self.seed, self.name);
        let mut rows_left = self.rows();
        let row_bytes = self.row_bytes();
        let most = (PIECE_ELEMENTS as u64 / self.columns()).max(1);
        let mut piece = Vec::new();
        let deviation = self.recipe.half_width * UNIT_DEVIATION;
        for (rows, factor) in bands {
            let blocks = RowOfBlocks::new(self.format, deviation * factor);
            let mut band_left = rows_left.min(*rows);
            rows_left -= band_left;
            while band_left > 0 {
                let count = band_left.min(most);
                piece.resize(count as usize * row_bytes, 0);
                blocks.fill(&mut random, &mut piece);
                put(&piece)?;
                band_left -= count;
            }
        }
        Ok(())
    }

    fn write_columns<E>(
        &self,
        bands: &[(u64, Fill)],
        names: &RowNames,
        put: &mut dyn FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let name = names.tensor.as_deref().unwrap_or(self.name);
        let half_width = self.recipe.half_width;
        let mut values = vec![0.0; self.columns() as usize];
        let mut encoded = vec![0; self.row_bytes()];
        for row in 0..self.rows() {
            let mut own = Random::new(self.seed, &format!("{name} row {}", names.of(row)));
            let mut same = Random::new(self.seed, &format!("{name} every row"));
            let mut rest = values.as_mut_slice();
            for (width, fill) in bands {
                let width = (rest.len() as u64).min(*width) as usize;
                let (band, after) = rest.split_at_mut(width);
                match fill {
                    Fill::Zero => band.fill(0.0),
                    Fill::Same => band.fill_with(|| half_width * same.signed_unit()),
                    Fill::Own => band.fill_with(|| half_width * own.signed_unit()),
                }
                rest = after;
            }
            self.format.encode_row(&values, &mut encoded);
            put(&encoded)?;
        }
        Ok(())
    }
}

/// The factor of a row; the last band goes on to the end.
fn factor(bands: &[(u64, f32)], row: u64) -> f32 {
    let mut end = 0u64;
    for (rows, factor) in bands {
        end = end.saturating_add(*rows);
        if row < end {
            return *factor;
        }
    }
    bands.last().map_or(1.0, |(_, factor)| *factor)
}
