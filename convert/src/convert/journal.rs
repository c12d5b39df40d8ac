//! What a conversion has finished so far: the contents of the marker file, so that a stopped one goes on where it was.
//!
//! A line is the XXH3-128 of what follows it, a space, and one JSON object: first the [`Heading`], then a [`Record`]
//! for each part whose bytes are on disk. Reading ends at the first line that is not whole, and writing goes on there.
//! A record is no more than a claim: the bytes are read and compared before they count.

use super::{CONVERSION_REVISION, ConvertError, ConvertOptions, version_of};
use crate::source::ModelSource;
use odmoe_formats::WeightLayout;
use odmoe_formats::checksum::{Xxh3, xxh3_128_hex};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// More than the journal of any model; what a foreign file may cost.
const MAX_BYTES: u64 = 256 << 20;
const MAX_LINE_BYTES: u64 = 1 << 20;

/// What is converted, and how. Two conversions with equal headings write the same bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Heading {
    format_version: u32,
    revision: u32,
    converter: String,
    /// The source's fingerprint.
    source: String,
    weights: String,
    /// Earlier versions knew no other than row-major, and did not say so.
    #[serde(default, skip_serializing_if = "WeightLayout::is_row_major")]
    layout: WeightLayout,
    name: Option<String>,
    base_file_limit: u64,
}

impl Heading {
    pub fn new(source: &dyn ModelSource, options: &ConvertOptions) -> Self {
        let layout = options.layout_of(source);
        Self {
            format_version: version_of(layout),
            revision: CONVERSION_REVISION,
            converter: super::CONVERTER.into(),
            source: source.fingerprint().to_string(),
            weights: options.weights.label().into(),
            layout,
            name: options.name.clone(),
            base_file_limit: options.base_file_limit.0,
        }
    }

    /// Why work under an `earlier` heading cannot be taken up; None where it can.
    fn differs_from(&self, earlier: &Self) -> Option<&'static str> {
        let version = |heading: &Self| {
            let converter = heading.converter.clone();
            // The format's version follows from the layout, which is an option; any other is another's.
            let is_ours = heading.format_version == version_of(heading.layout);
            (is_ours, heading.revision, converter)
        };
        if self == earlier {
            None
        } else if version(self) != version(earlier) {
            Some("another version of odmoe made it")
        } else if self.source != earlier.source {
            Some("it is of another model, or the model's files have changed")
        } else {
            Some("it has other options")
        }
    }
}

/// Something that is finished and on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Record {
    /// A resident tensor, by its name, or an object, by the path of its file.
    Part { name: String, xxh3_128: String },
    /// The SHA-256 of a source file has come this far.
    Hashed {
        file: usize,
        bytes: u64,
        /// The hasher's state, in hex.
        state: String,
    },
}

/// How far the SHA-256 of a source file had come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hashed {
    pub bytes: u64,
    pub state: String,
}

/// Everything that a journal records.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Records {
    /// Digests by the part's name.
    pub parts: HashMap<String, Xxh3>,
    /// By the index of the source file.
    pub hashed: HashMap<usize, Hashed>,
}

impl Records {
    fn take(&mut self, record: Record) {
        match record {
            Record::Part { name, xxh3_128 } => {
                if let Some(digest) = Xxh3::from_hex(&xxh3_128) {
                    self.parts.insert(name, digest);
                }
            }
            Record::Hashed { file, bytes, state } => {
                self.hashed.insert(file, Hashed { bytes, state });
            }
        }
    }
}

/// What a journal says about earlier work.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// There is none.
    Nothing,
    /// It can be taken up. The lines that are whole take so many bytes.
    Same { records: Records, whole_bytes: u64 },
    /// It cannot, for this reason.
    Other(&'static str),
}

/// Reads a journal against the heading of what is to be done now. A file that is not there or empty says nothing.
pub(super) fn read(path: &Path, heading: &Heading) -> Result<Found, ConvertError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Found::Nothing),
        Err(error) => return Err(ConvertError::io(path)(error)),
    };
    let mut lines = Lines {
        input: BufReader::new(file.take(MAX_BYTES)),
        whole_bytes: 0,
    };
    let Some(first) = lines.next().map_err(ConvertError::io(path))? else {
        let is_empty = lines.input.get_ref().limit() == MAX_BYTES;
        let unreadable = Found::Other("its journal cannot be read");
        return Ok(if is_empty { Found::Nothing } else { unreadable });
    };
    match serde_json::from_str::<Heading>(&first) {
        Ok(earlier) => {
            if let Some(why) = heading.differs_from(&earlier) {
                return Ok(Found::Other(why));
            }
        }
        Err(_) => return Ok(Found::Other("another version of odmoe made it")),
    }
    let mut records = Records::default();
    while let Some(line) = lines.next().map_err(ConvertError::io(path))? {
        // A kind of record that this version does not know is of no use to it.
        if let Ok(record) = serde_json::from_str(&line) {
            records.take(record);
        }
    }
    let whole_bytes = lines.whole_bytes;
    Ok(Found::Same {
        records,
        whole_bytes,
    })
}

struct Lines {
    input: BufReader<std::io::Take<File>>,
    whole_bytes: u64,
}

impl Lines {
    /// The JSON of the next line; None from the first that is not whole.
    fn next(&mut self) -> std::io::Result<Option<String>> {
        let mut line = Vec::new();
        let mut limited = self.input.by_ref().take(MAX_LINE_BYTES);
        limited.read_until(b'\n', &mut line)?;
        let Some(json) = checked(&line) else {
            return Ok(None);
        };
        self.whole_bytes += line.len() as u64;
        Ok(Some(json.to_owned()))
    }
}

fn checked(line: &[u8]) -> Option<&str> {
    let (digest, json) = std::str::from_utf8(line)
        .ok()?
        .strip_suffix('\n')?
        .split_once(' ')?;
    (digest == xxh3_128_hex(json.as_bytes())).then_some(json)
}

fn line(of: &impl Serialize) -> String {
    let json = serde_json::to_string(of).expect("strings and numbers serialise");
    format!("{} {json}\n", xxh3_128_hex(json.as_bytes()))
}

/// The open, locked journal of the conversion that is under way.
pub(super) struct Journal {
    file: File,
    path: PathBuf,
    bytes: u64,
}

impl Journal {
    /// Begins it anew.
    pub fn begin(file: File, path: PathBuf, heading: &Heading) -> Result<Self, ConvertError> {
        let mut journal = Self::go_on(file, path, 0)?;
        journal.append_lines(&line(heading))?;
        Ok(journal)
    }

    /// Goes on behind the lines that are whole.
    pub fn go_on(file: File, path: PathBuf, whole_bytes: u64) -> Result<Self, ConvertError> {
        let cut = file.set_len(whole_bytes);
        cut.map_err(ConvertError::io(&path))?;
        Ok(Self {
            file,
            path,
            bytes: whole_bytes,
        })
    }

    /// Adds records and waits until they are on disk. What they claim must be there already.
    pub fn append(&mut self, records: &[Record]) -> Result<(), ConvertError> {
        let lines: String = records.iter().map(line).collect();
        self.append_lines(&lines)
    }

    fn append_lines(&mut self, lines: &str) -> Result<(), ConvertError> {
        let written = self.file.write_all_at(lines.as_bytes(), self.bytes);
        let synced = written.and_then(|()| self.file.sync_data());
        synced.map_err(ConvertError::io(&self.path))?;
        self.bytes += lines.len() as u64;
        Ok(())
    }
}
