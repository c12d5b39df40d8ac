//! Tensors in pieces: read from the source, encoded for the store. Memory is bounded by the size of a piece.

use super::ConvertError;
use super::plan::PlannedTensor;
use crate::source::{Advice, ModelSource, SourceTensor, shown};
use odmoe_formats::block::{LANES, to_lanes};
use odmoe_formats::{BlockFormat, WeightLayout};

/// Elements of a piece that is encoded: a multiple of every block, 4 MiB as F32.
const PIECE_ELEMENTS: u64 = 1 << 20;
/// Bytes of a piece that stays as it is.
const PIECE_BYTES: u64 = 4 << 20;
/// How far the system is told to read ahead.
const AHEAD_BYTES: u64 = 8 << 20;
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
    /// Hands the whole tensor to `take`, piece after piece, as it is to be stored.
    pub fn encode(
        &mut self,
        source: &dyn ModelSource,
        planned: &PlannedTensor,
        mut take: impl FnMut(&[u8]) -> Result<(), ConvertError>,
    ) -> Result<(), ConvertError> {
        let index = planned.source;
        let tensor = &source.tensors()[index];
        let piece_bytes = piece_bytes(tensor, planned);
        let all = bytes_of(tensor.format, tensor.elements());
        let (mut offset, mut ahead) = (0, Ahead::new(source, index, all));
        while offset < all {
            let bytes = piece_bytes.min(all - offset);
            ahead.reading_to(offset + bytes);
            self.read.resize(bytes as usize, 0);
            source.read_tensor(index, offset, &mut self.read)?;
            self.recode_piece(tensor, planned.format)?;
            take(self.ordered_piece(tensor, planned))?;
            offset += bytes;
        }
        Ok(())
    }

    /// Brings the piece that was read into `format`.
    fn recode_piece(
        &mut self,
        tensor: &SourceTensor,
        format: BlockFormat,
    ) -> Result<(), ConvertError> {
        if tensor.format == format {
            return Ok(());
        }
        let blocks = self.read.len() / tensor.format.block_bytes();
        let elements = blocks * tensor.format.block_elements();
        self.decoded.resize(elements, 0.0);
        tensor.format.decode_row(&self.read, &mut self.decoded);
        if format == BlockFormat::Q8_0 {
            check_quantisable(tensor, &self.decoded)?;
        }
        let encoded_bytes = bytes_of(format, elements as u64);
        self.encoded.resize(encoded_bytes as usize, 0);
        format.encode_row(&self.decoded, &mut self.encoded);
        std::mem::swap(&mut self.read, &mut self.encoded);
        Ok(())
    }

    /// The piece in the order in which it is stored.
    fn ordered_piece(&mut self, tensor: &SourceTensor, planned: &PlannedTensor) -> &[u8] {
        if planned.layout != WeightLayout::Lanes16 {
            return &self.read;
        }
        self.encoded.resize(self.read.len(), 0);
        let (rows, lanes) = (&self.read, &mut self.encoded);
        to_lanes(planned.format, columns(tensor), rows, lanes);
        &self.encoded
    }
}

/// Bytes of the source that are taken at once.
fn piece_bytes(tensor: &SourceTensor, planned: &PlannedTensor) -> u64 {
    let piece_bytes = match tensor.format == planned.format {
        true => PIECE_BYTES,
        false => bytes_of(tensor.format, PIECE_ELEMENTS),
    };
    if planned.layout != WeightLayout::Lanes16 {
        return piece_bytes;
    }
    // Whole groups of rows, and one at least, however wide.
    let group_bytes = bytes_of(tensor.format, columns(tensor)) * LANES as u64;
    piece_bytes.max(group_bytes) / group_bytes * group_bytes
}

fn columns(tensor: &SourceTensor) -> u64 {
    *tensor.shape.last().expect("a matrix has columns")
}

fn bytes_of(format: BlockFormat, elements: u64) -> u64 {
    let bytes = format.row_bytes(elements);
    bytes.expect("a tensor and a piece are whole blocks")
}

/// Tells the system what will be read next, so that the disk is busy while a piece is encoded and written.
struct Ahead<'a> {
    source: &'a dyn ModelSource,
    start: Option<(usize, u64)>,
    told: u64,
    all: u64,
}

impl<'a> Ahead<'a> {
    fn new(source: &'a dyn ModelSource, index: usize, all: u64) -> Self {
        Self {
            source,
            start: source.tensor_start(index),
            told: 0,
            all,
        }
    }

    fn reading_to(&mut self, end: u64) {
        let until = (end + AHEAD_BYTES).min(self.all);
        if let Some((file, start)) = self.start
            && until > self.told
        {
            let bytes = until - self.told;
            self.source
                .advise(file, start + self.told, bytes, Advice::NeededSoon);
            self.told = until;
        }
    }
}

fn check_quantisable(tensor: &SourceTensor, weights: &[f32]) -> Result<(), ConvertError> {
    // Written so that NaN is refused too.
    let fits = |weight: &f32| weight.abs() <= Q8_0_LARGEST;
    match weights.iter().find(|weight| !fits(weight)) {
        None => Ok(()),
        Some(&value) => Err(ConvertError::NotQuantisable {
            tensor: shown(&tensor.source_name),
            value,
        }),
    }
}
