//! The trace file: which experts were asked for and which were hinted at, layer by layer. `docs/trace.md` has the
//! format. No token and no text is in it.

use crate::steps::Steps;
use odmoe_expert_store::Phase;
use odmoe_formats::ExpertKey;

/// The first bytes of every trace.
const MAGIC: &[u8; 8] = b"odmoetrc";
/// Of the format.
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 16;
/// Kind, layer and count.
const RECORD_BYTES: usize = 5;
/// The most layers of a model.
const MOST_LAYERS: u32 = 4096;

/// What one record tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A lane asked for these experts.
    Demand(Phase),
    /// A lane said that it would likely ask for these, most likely first.
    Hint(Phase),
}

impl Kind {
    const ALL: [Self; 4] = [
        Self::Demand(Phase::Decode),
        Self::Demand(Phase::Prefill),
        Self::Hint(Phase::Decode),
        Self::Hint(Phase::Prefill),
    ];
}

/// Bytes that are no trace.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordingError {
    /// Another kind of file.
    #[error("this is no routing trace; record one with: odmoe trace record FILE")]
    NotATrace,
    /// From another odmoe.
    #[error("a trace of version {0}, and this odmoe reads version {VERSION}; record it anew")]
    Version(u32),
    /// The header or a record says what cannot be.
    #[error("byte {at}: {what}; the trace is damaged, record it anew")]
    Damaged {
        /// Where.
        at: usize,
        /// What is wrong there.
        what: &'static str,
    },
}

/// Everything in a trace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recording {
    /// Routed experts of each layer; 0 for a dense one.
    pub experts: Vec<u32>,
    /// What was asked for.
    pub steps: Steps,
    /// Hints, each with the number of steps before it.
    pub hints: Vec<Hint>,
}

/// One prediction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hint {
    /// Steps before it.
    pub at: usize,
    /// Whose.
    pub phase: Phase,
    /// Of one layer, most likely first.
    pub keys: Vec<ExpertKey>,
}

/// The header of a trace of a model with so many routed experts in each layer.
pub fn header(experts: &[u32]) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend((experts.len() as u32).to_le_bytes());
    experts
        .iter()
        .for_each(|count| bytes.extend(count.to_le_bytes()));
    bytes
}

/// Appends one record; keys are of one layer.
pub fn append(kind: Kind, keys: &[ExpertKey], into: &mut Vec<u8>) {
    let Some(first) = keys.first() else { return };
    let place = Kind::ALL.iter().position(|known| *known == kind);
    into.push(place.expect("all kinds are in the list") as u8);
    into.extend((first.layer.0 as u16).to_le_bytes());
    into.extend((keys.len() as u16).to_le_bytes());
    keys.iter()
        .for_each(|key| into.extend((key.index.0 as u16).to_le_bytes()));
}

impl Recording {
    /// From a file's bytes. A last record that is cut off is left out: a recording may be stopped anywhere.
    pub fn read(bytes: &[u8]) -> Result<Self, RecordingError> {
        if bytes.len() < HEADER_BYTES || !bytes.starts_with(MAGIC) {
            return Err(RecordingError::NotATrace);
        }
        let word = |at: usize| {
            let word = bytes[at..at + 4].try_into();
            u32::from_le_bytes(word.expect("four bytes"))
        };
        match word(8) {
            VERSION => {}
            other => return Err(RecordingError::Version(other)),
        }
        let layers = word(12);
        let body = HEADER_BYTES + layers.min(MOST_LAYERS) as usize * 4;
        if layers == 0 || layers > MOST_LAYERS || bytes.len() < body {
            let what = "no such number of layers";
            return Err(RecordingError::Damaged { at: 12, what });
        }
        let mut recording = Self {
            experts: (HEADER_BYTES..body).step_by(4).map(word).collect(),
            ..Self::default()
        };
        let mut at = body;
        while let Some(end) = recording.record(bytes, at)? {
            at = end;
        }
        Ok(recording)
    }

    /// Takes in one record; returns where it ends, or None where the file does.
    fn record(&mut self, bytes: &[u8], at: usize) -> Result<Option<usize>, RecordingError> {
        let half = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        if bytes.len() < at + RECORD_BYTES {
            return Ok(None);
        }
        let damaged = |what| RecordingError::Damaged { at, what };
        let kind = Kind::ALL.get(usize::from(bytes[at]));
        let kind = *kind.ok_or_else(|| damaged("an unknown kind of record"))?;
        let (layer, count) = (half(at + 1), usize::from(half(at + 3)));
        let experts = self.experts.get(usize::from(layer)).copied();
        let experts = experts.ok_or_else(|| damaged("a layer that the model has not"))?;
        let end = at + RECORD_BYTES + 2 * count;
        if bytes.len() < end {
            return Ok(None);
        }
        let indices: Vec<u16> = (at + RECORD_BYTES..end).step_by(2).map(half).collect();
        if indices.iter().any(|index| u32::from(*index) >= experts) {
            return Err(damaged("an expert that the layer has not"));
        }
        let ascending = indices.is_sorted_by(|a, b| a < b);
        let keys = indices.into_iter();
        let keys = keys.map(|index| ExpertKey::routed(u32::from(layer), u32::from(index)));
        match kind {
            Kind::Demand(_) if !ascending => return Err(damaged("a demand out of order")),
            Kind::Demand(phase) => self.steps.push(phase, keys),
            Kind::Hint(phase) => self.hints.push(Hint {
                at: self.steps.iter().len(),
                phase,
                keys: keys.collect(),
            }),
        }
        Ok(Some(end))
    }

    /// Routed experts of all layers.
    pub fn all_experts(&self) -> usize {
        self.experts.iter().map(|count| *count as usize).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(layer: u32, indices: &[u32]) -> Vec<ExpertKey> {
        let key = |index: &u32| ExpertKey::routed(layer, *index);
        indices.iter().map(key).collect()
    }

    fn trace() -> Vec<u8> {
        let mut bytes = header(&[0, 8, 8]);
        append(
            Kind::Demand(Phase::Prefill),
            &keys(1, &[0, 1, 7]),
            &mut bytes,
        );
        append(Kind::Hint(Phase::Prefill), &keys(2, &[5, 2]), &mut bytes);
        append(Kind::Hint(Phase::Decode), &[], &mut bytes);
        append(Kind::Demand(Phase::Decode), &keys(2, &[2]), &mut bytes);
        bytes
    }

    #[test]
    fn comes_back_as_it_was_written() {
        let recording = Recording::read(&trace()).unwrap();
        assert_eq!(
            (recording.all_experts(), recording.steps.iter().len()),
            (16, 2)
        );
        let steps: Vec<_> = recording
            .steps
            .iter()
            .map(|step| (step.phase, step.keys.to_vec()))
            .collect();
        assert_eq!(steps[0], (Phase::Prefill, keys(1, &[0, 1, 7])));
        assert_eq!(steps[1], (Phase::Decode, keys(2, &[2])));
        let hint = Hint {
            at: 1,
            phase: Phase::Prefill,
            keys: keys(2, &[5, 2]),
        };
        assert_eq!(recording.hints, [hint]);
    }

    #[test]
    fn every_prefix_is_read_up_to_its_last_whole_record() {
        let bytes = trace();
        for length in 0..bytes.len() {
            match Recording::read(&bytes[..length]) {
                Ok(recording) => assert!(length >= 28 && recording.steps.iter().len() < 2),
                Err(error) => assert!(length < 28, "{length}: {error}"),
            }
        }
    }

    #[test]
    fn what_cannot_be_is_named() {
        let with = |at: usize, byte: u8| {
            let mut bytes = trace();
            bytes[at] = byte;
            Recording::read(&bytes).map(|_| ())
        };
        assert_eq!(with(0, 0), Err(RecordingError::NotATrace));
        assert_eq!(with(8, 9), Err(RecordingError::Version(9)));
        assert!(with(12, 0).unwrap_err().to_string().contains("layers"));
        assert!(with(15, 0xff).unwrap_err().to_string().contains("layers"));
        assert!(with(28, 9).unwrap_err().to_string().contains("kind"));
        assert!(with(29, 3).unwrap_err().to_string().contains("layer"));
        assert!(with(33, 9).unwrap_err().to_string().contains("expert"));
        assert!(with(33, 3).unwrap_err().to_string().contains("order"));
    }
}
