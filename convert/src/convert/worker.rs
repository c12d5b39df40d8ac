//! One unit after another: read from the source, encoded, digested, written. Or only read again, where an earlier
//! attempt recorded it.

use super::ConvertError;
use super::base_files::BaseFile;
use super::encode::TensorEncoder;
use super::keeper::WrittenPart;
use super::part_writer::PartWriter;
use super::pipeline::{Event, Pipeline};
use super::units::Unit;
use odmoe_formats::checksum::{Xxh3, Xxh3Hasher};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

const CHECKED_PIECE_BYTES: u64 = 2 << 20;

/// One thread's part in the work.
pub(super) struct Worker<'a> {
    pipeline: &'a Pipeline<'a>,
    encoder: TensorEncoder,
    piece: Vec<u8>,
}

/// Where a unit goes.
struct Target<'a> {
    /// The file's path in the store.
    relative: &'a str,
    /// The open file of a resident tensor.
    base: Option<&'a BaseFile>,
    /// The unit's first byte in the file, and the one behind its last.
    begin: u64,
    end: u64,
    /// What comes first and is not digested.
    header: Vec<u8>,
    /// Where each of its tensors begins in the file.
    offsets: Vec<u64>,
}

impl<'a> Worker<'a> {
    pub fn new(pipeline: &'a Pipeline<'a>) -> Self {
        Self {
            pipeline,
            encoder: TensorEncoder::default(),
            piece: Vec::new(),
        }
    }

    /// Takes units until there are no more.
    pub fn run(mut self) -> Result<(), ConvertError> {
        while let Some((index, unit)) = self.pipeline.next_unit() {
            self.pipeline.check_going()?;
            let (digest, reused) = self.obtain(unit)?;
            self.pipeline.tell(Event::Done {
                unit: index,
                digest,
                reused,
            });
            self.pipeline.frontier.done(index, unit);
        }
        Ok(())
    }

    /// The digest of a unit that is in the store now, and whether it was there already.
    fn obtain(&mut self, unit: &Unit) -> Result<(Xxh3, bool), ConvertError> {
        let target = self.target(unit)?;
        let mut meter = Meter {
            pipeline: self.pipeline,
            step: unit.step,
            told: 0,
        };
        if let Some(recorded) = self.pipeline.records.parts.get(&unit.name)
            && self.digest_there(&target, &mut meter)? == Some(*recorded)
        {
            return Ok((*recorded, true));
        }
        let digest = self.write(unit, &target, &mut meter)?;
        Ok((digest, false))
    }

    fn target(&self, unit: &Unit) -> Result<Target<'a>, ConvertError> {
        let pipeline = self.pipeline;
        let relative = &pipeline.plan.manifest.files[unit.file].path;
        if let Some(base) = pipeline.base.get(unit.file) {
            let tensor = &base.layout.tensors[unit.tensors.start];
            return Ok(Target {
                relative,
                base: Some(base),
                begin: tensor.offset,
                end: tensor.offset + tensor.bytes,
                header: Vec::new(),
                offsets: vec![tensor.offset],
            });
        }
        let layout = pipeline.plan.files[unit.file].layout(pipeline.source)?;
        Ok(Target {
            relative,
            base: None,
            begin: 0,
            end: layout.file_bytes,
            offsets: layout.tensors.iter().map(|tensor| tensor.offset).collect(),
            header: layout.header,
        })
    }

    /// The digest of what lies at the target; None where that is not even of its form, or cannot be read.
    fn digest_there(
        &mut self,
        target: &Target<'_>,
        meter: &mut Meter<'_>,
    ) -> Result<Option<Xxh3>, ConvertError> {
        let file = match target.base {
            Some(base) => base.file.clone(),
            None => match File::open(self.pipeline.writer.path_of(target.relative)) {
                Ok(file) => Arc::new(file),
                Err(_) => return Ok(None),
            },
        };
        let is_whole = |file: &File| file.metadata().is_ok_and(|found| found.len() == target.end);
        if target.base.is_none() && !is_whole(&file) {
            return Ok(None);
        }
        let mut hasher = Xxh3Hasher::new();
        let mut header = target.header.as_slice();
        let mut offset = target.begin;
        while offset < target.end {
            self.pipeline.check_going()?;
            let bytes = match header.len() as u64 {
                0 => CHECKED_PIECE_BYTES.min(target.end - offset),
                header => header,
            };
            self.piece.resize(bytes as usize, 0);
            let read = file.read_exact_at(&mut self.piece, offset);
            if read.is_err() || (!header.is_empty() && header != self.piece) {
                return Ok(None);
            }
            if header.is_empty() {
                hasher.update(&self.piece);
            }
            header = &[];
            offset += bytes;
            meter.reached(offset - target.begin);
        }
        let disk = self.pipeline.writer.disk;
        disk.let_go(&file, target.begin, target.end - target.begin);
        Ok(Some(hasher.finish()))
    }

    /// Writes a unit and hands it to the keeper. The digest is of what follows the header.
    fn write(
        &mut self,
        unit: &Unit,
        target: &Target<'_>,
        meter: &mut Meter<'_>,
    ) -> Result<Xxh3, ConvertError> {
        let pipeline = self.pipeline;
        let (path, file) = match target.base {
            Some(base) => (base.path.clone(), base.file.clone()),
            None => {
                let (path, file) = pipeline.writer.create(target.relative)?;
                (path, Arc::new(file))
            }
        };
        let mut out = PartWriter::new(pipeline.writer.disk, file.clone(), path, target.begin);
        out.write_header(&target.header)?;
        let tensors = &pipeline.plan.files[unit.file].tensors[unit.tensors.clone()];
        for (tensor, offset) in tensors.iter().zip(&target.offsets) {
            out.fill_to(*offset)?;
            let encoder = &mut self.encoder;
            encoder.encode(pipeline.source, tensor, |piece| {
                pipeline.check_going()?;
                out.write(piece)?;
                meter.reached(out.position() - target.begin);
                Ok(())
            })?;
        }
        out.fill_to(target.end)?;
        meter.reached(target.end - target.begin);
        let digest = out.finish();
        pipeline.written(WrittenPart {
            name: unit.name.clone(),
            digest,
            file,
            path: target.relative.to_owned(),
            offset: target.begin,
            bytes: target.end - target.begin,
        })?;
        Ok(digest)
    }
}

/// Tells how far a unit has come. What was told when it was read, in vain, is not told again when it is written.
struct Meter<'a> {
    pipeline: &'a Pipeline<'a>,
    step: usize,
    told: u64,
}

impl Meter<'_> {
    fn reached(&mut self, bytes: u64) {
        if let Some(more) = bytes.checked_sub(self.told).filter(|more| *more > 0) {
            self.told = bytes;
            let step = self.step;
            self.pipeline.tell(Event::Stored { step, bytes: more });
        }
    }
}
