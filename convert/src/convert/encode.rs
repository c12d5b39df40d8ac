//! Tensors in pieces: read from the source, encoded for the store. Memory is bounded by the size of a piece.

use super::ConvertError;
use crate::source::{ModelSource, SourceTensor};
use odmoe_formats::BlockFormat;

/// Elements of a piece: a multiple of every block, 4 MiB as F32.
const PIECE_ELEMENTS: u64 = 1 << 20;
/// The largest magnitude that a `Q8_0` scale can represent: 127 times the largest binary16.
const Q8_0_LARGEST: f32 = 127.0 * 65504.0;

/// Buffers that are used again for every piece.
#[derive(Default)]
pub(super) struct TensorEncoder {
    read: Vec<u8>,
    decoded: Vec<f32>,
    encoded: Vec<u8>,
}

impl TensorEncoder {
    /// Hands the whole tensor to `take`, piece after piece, stored as `format`.
    pub fn encode(
        &mut self,
        source: &dyn ModelSource,
        index: usize,
        format: BlockFormat,
        mut take: impl FnMut(&[u8]) -> Result<(), ConvertError>,
    ) -> Result<(), ConvertError> {
        let tensor = &source.tensors()[index];
        let (mut done, all) = (0, tensor.elements());
        let mut offset = 0;
        while done < all {
            let elements = PIECE_ELEMENTS.min(all - done);
            let bytes = piece_bytes(tensor.format, elements);
            self.read.resize(bytes, 0);
            source.read_tensor(index, offset, &mut self.read)?;
            take(self.encode_piece(tensor, elements as usize, format)?)?;
            offset += bytes as u64;
            done += elements;
        }
        Ok(())
    }

    fn encode_piece(
        &mut self,
        tensor: &SourceTensor,
        elements: usize,
        format: BlockFormat,
    ) -> Result<&[u8], ConvertError> {
        if tensor.format == format {
            return Ok(&self.read);
        }
        self.decoded.resize(elements, 0.0);
        tensor.format.decode_row(&self.read, &mut self.decoded);
        if format == BlockFormat::Q8_0 {
            check_quantisable(tensor, &self.decoded)?;
        }
        self.encoded.resize(piece_bytes(format, elements as u64), 0);
        format.encode_row(&self.decoded, &mut self.encoded);
        Ok(&self.encoded)
    }
}

fn piece_bytes(format: BlockFormat, elements: u64) -> usize {
    let bytes = format
        .row_bytes(elements)
        .expect("a tensor and a piece are whole blocks");
    bytes as usize
}

fn check_quantisable(tensor: &SourceTensor, weights: &[f32]) -> Result<(), ConvertError> {
    // Written so that NaN is refused too.
    let fits = |weight: &f32| weight.abs() <= Q8_0_LARGEST;
    match weights.iter().find(|weight| !fits(weight)) {
        None => Ok(()),
        Some(&value) => Err(ConvertError::NotQuantisable {
            tensor: tensor.source_name.clone(),
            value,
        }),
    }
}
