//! Files made byte by byte: what is read, and each refusal.

use super::*;
use crate::safetensors::TensorSpec;
use crate::test_random::Random;
use crate::{BlockFormat, WeightLayout};

/// A file in the making. Counts are written as they are, so that they may lie.
#[derive(Clone, Default)]
struct Bytes(Vec<u8>);

impl Bytes {
    fn header(version: u32, tensors: u64, entries: u64) -> Self {
        Self(MAGIC.to_vec()).u32(version).u64(tensors).u64(entries)
    }

    fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn u32(self, value: u32) -> Self {
        self.raw(&value.to_le_bytes())
    }

    fn u64(self, value: u64) -> Self {
        self.raw(&value.to_le_bytes())
    }

    fn string(self, bytes: &[u8]) -> Self {
        self.u64(bytes.len() as u64).raw(bytes)
    }

    fn key(self, key: &str, kind: u32) -> Self {
        self.string(key.as_bytes()).u32(kind)
    }

    /// Dimensions in the order of the file: the elements of a row first.
    fn tensor(self, name: &str, dimensions: &[u64], kind: u32, offset: u64) -> Self {
        let described = self.string(name.as_bytes()).u32(dimensions.len() as u32);
        let with_shape = dimensions
            .iter()
            .fold(described, |all, size| all.u64(*size));
        with_shape.u32(kind).u64(offset)
    }

    /// Filler up to a multiple of `alignment`, then `bytes` of data.
    fn data(mut self, alignment: usize, bytes: usize) -> Self {
        let start = self.0.len().next_multiple_of(alignment);
        self.0.resize(start + bytes, 0);
        self
    }

    fn read(&self) -> Result<Gguf, GgufError> {
        Gguf::read(&mut self.0.as_slice(), self.0.len() as u64)
    }
}

#[track_caller]
fn refused(bytes: &Bytes, part_of_message: &str) {
    let error = bytes.read().expect_err("must be refused");
    let text = error.to_string();
    assert!(text.contains(part_of_message), "{text}");
}

fn one_entry(entry: impl FnOnce(Bytes) -> Bytes) -> Bytes {
    entry(Bytes::header(3, 0, 1))
}

fn one_tensor(dimensions: &[u64], kind: u32, offset: u64, data: usize) -> Bytes {
    let header = Bytes::header(3, 1, 0).tensor("t", dimensions, kind, offset);
    header.data(32, data)
}

/// Every type of value, an alignment of 64, three tensors of which one follows a gap.
fn rich() -> Bytes {
    let entries = Bytes::header(3, 3, 14)
        .key("general.alignment", 4)
        .u32(64)
        .key("u8", 0)
        .raw(&[200])
        .key("i8", 1)
        .raw(&[200])
        .key("u16", 2)
        .raw(&[1, 2])
        .key("i16", 3)
        .raw(&[0xff, 0xff])
        .key("i32", 5)
        .raw(&(-5i32).to_le_bytes())
        .key("f32", 6)
        .raw(&1.5f32.to_le_bytes())
        .key("bool", 7)
        .raw(&[1])
        .key("text", 8)
        .string("Grüße".as_bytes())
        .key("u64", 10)
        .u64(1 << 40)
        .key("i64", 11)
        .raw(&i64::MIN.to_le_bytes())
        .key("f64", 12)
        .raw(&0.1f64.to_le_bytes())
        .key("tokens", 9)
        .u32(8)
        .u64(2)
        .string(b"a")
        .string(&[0xff, 0])
        .key("scores", 9)
        .u32(6)
        .u64(2)
        .raw(&[-1.0f32, 2.0].map(f32::to_le_bytes).concat());
    entries
        .tensor("last", &[256, 2], 12, 320)
        .tensor("first", &[3], 0, 0)
        .tensor("unknown here", &[256, 1, 1, 2], 17, 64)
        .data(64, 320 + 288)
}

#[test]
fn values_and_tensors_are_read_as_written() {
    for version in [2, 3] {
        let mut bytes = rich();
        bytes.0[4] = version;
        let gguf = bytes.read().unwrap();
        let metadata = &gguf.metadata;
        assert_eq!((gguf.version, gguf.alignment_bytes), (version.into(), 64));
        assert_eq!(metadata.iter().len(), 14);
        let values = [
            ("u8", Value::U8(200)),
            ("i8", Value::I8(-56)),
            ("u16", Value::U16(0x201)),
            ("i16", Value::I16(-1)),
            ("i32", Value::I32(-5)),
            ("f32", Value::F32(1.5)),
            ("bool", Value::Bool(true)),
            ("text", Value::String("Grüße".into())),
            ("u64", Value::U64(1 << 40)),
            ("i64", Value::I64(i64::MIN)),
            ("f64", Value::F64(0.1)),
            (
                "tokens",
                Value::Array(Array::String(vec![b"a".to_vec(), vec![0xff, 0]])),
            ),
            ("scores", Value::Array(Array::F32(vec![-1.0, 2.0]))),
        ];
        for (key, value) in values {
            assert_eq!(metadata.get(key), Some(&value), "{key}");
        }

        let start = gguf.data_start;
        assert_eq!(start + 320 + 288, bytes.0.len() as u64);
        let [last, first, unknown] = gguf.tensors.as_slice() else {
            panic!("{:?}", gguf.tensors)
        };
        assert_eq!(last.name, "last");
        assert_eq!(last.shape, [2, 256]);
        assert_eq!(last.block_format(), Some(BlockFormat::Q4_K));
        assert_eq!(last.range, start + 320..start + 320 + 288);
        assert_eq!(
            (first.shape.as_slice(), first.range.end),
            (&[3][..], start + 12)
        );
        assert_eq!(
            (unknown.kind.name(), unknown.block_format()),
            ("IQ2_XS", None)
        );
        assert_eq!(unknown.shape, [2, 1, 1, 256]);
    }
}

#[test]
fn arrays_of_every_type_are_read() {
    let numbers: [u8; 16] = std::array::from_fn(|i| i as u8);
    let array = |kind, count, bytes: &[u8]| {
        let file = one_entry(|b| b.key("a", 9).u32(kind).u64(count).raw(bytes));
        file.read().unwrap().metadata.get("a").cloned().unwrap()
    };
    let expected = [
        (0, 2, Array::U8(vec![0, 1])),
        (1, 2, Array::I8(vec![0, 1])),
        (2, 2, Array::U16(vec![0x100, 0x302])),
        (3, 1, Array::I16(vec![0x100])),
        (4, 1, Array::U32(vec![0x0302_0100])),
        (5, 1, Array::I32(vec![0x0302_0100])),
        (7, 2, Array::Bool(vec![false, true])),
        (10, 1, Array::U64(vec![0x0706_0504_0302_0100])),
        (11, 1, Array::I64(vec![0x0706_0504_0302_0100])),
        (
            12,
            1,
            Array::F64(vec![f64::from_bits(0x0706_0504_0302_0100)]),
        ),
        (4, 0, Array::U32(Vec::new())),
    ];
    for (kind, count, expected) in expected {
        assert_eq!(array(kind, count, &numbers), Value::Array(expected));
    }
}

#[test]
fn a_file_without_tensors_need_not_reach_its_data() {
    let gguf = one_entry(|b| b.key("k", 7).raw(&[0])).read().unwrap();
    assert!(gguf.tensors.is_empty() && gguf.data_start == 64);
}

#[test]
fn foreign_files_are_named() {
    refused(&Bytes(b"PK\x03\x04".to_vec()), "not a GGUF file");
    refused(&Bytes(b"GG".to_vec()), "ends at byte 2");
    refused(&Bytes::header(1, 0, 0), "GGUF version 1;");
    refused(&Bytes::header(4, 0, 0), "GGUF version 4;");
    refused(&Bytes::header(0, 0, 0), "GGUF version 0;");
    refused(&Bytes::header(3u32.swap_bytes(), 0, 0), "big-endian");
}

#[test]
fn claims_beyond_the_file_are_refused() {
    refused(
        &Bytes::header(3, 0, u64::MAX),
        "number of metadata entries is",
    );
    refused(&Bytes::header(3, u64::MAX, 0), "number of tensors is");
    refused(&Bytes::header(3, 1, 0), "inside tensor");
    refused(&one_entry(|b| b.u64(u64::MAX)), "inside key");
    let long_key = one_entry(|b| b.string(&[b'k'; 1 << 16]));
    refused(&long_key, "the length of a string is 65536");
    refused(
        &one_entry(|b| b.key("s", 8).u64(1 << 62)),
        "inside a metadata value",
    );
    let array = |count| one_entry(|b| b.key("a", 9).u32(12).u64(count));
    refused(&array(u64::MAX), "the length of an array is");
    refused(&array(1 << 24), "inside a metadata value");
}

#[test]
fn a_reader_that_ends_before_its_size_is_told() {
    let bytes = rich().0;
    let error = Gguf::read(&mut &bytes[..100], bytes.len() as u64).unwrap_err();
    assert!(matches!(error, GgufError::Truncated { .. }), "{error}");
}

#[test]
fn broken_metadata_is_refused() {
    refused(&one_entry(|b| b.key("", 7).raw(&[1])), "key 0 has no name");
    refused(&one_entry(|b| b.string(&[0xff])), "key 0 has no name");
    refused(&one_entry(|b| b.key("k", 13)), "\"k\" has type 13");
    refused(&one_entry(|b| b.key("k", 7).raw(&[2])), "\"k\" holds 2");
    refused(
        &one_entry(|b| b.key("k", 9).u32(9).u64(1)),
        "\"k\" is an array of arrays",
    );
    refused(
        &one_entry(|b| b.key("k", 9).u32(13).u64(1)),
        "\"k\" has type 13",
    );
    let flags = one_entry(|b| b.key("k", 9).u32(7).u64(1).raw(&[3]));
    refused(&flags, "\"k\" holds 3");
    let twice = Bytes::header(3, 0, 2)
        .key("k", 7)
        .raw(&[1])
        .key("k", 0)
        .raw(&[1]);
    refused(&twice, "\"k\" twice");
    for alignment in [0, 24, 1 << 21] {
        let file = one_entry(|b| b.key("general.alignment", 4).u32(alignment));
        refused(&file, "general.alignment must be a power of two");
    }
    let text = one_entry(|b| b.key("general.alignment", 8).string(b"32"));
    refused(&text, "general.alignment must be a power of two");
}

#[test]
fn broken_tensors_are_refused() {
    assert!(one_tensor(&[8], 0, 0, 32).read().is_ok());
    refused(&one_tensor(&[], 0, 0, 32), "\"t\" has 0 dimensions");
    refused(&one_tensor(&[1; 5], 0, 0, 32), "\"t\" has 5 dimensions");
    refused(&one_tensor(&[8], 4, 0, 32), "\"t\" is of type 4");
    refused(
        &one_tensor(&[8, 0], 0, 0, 32),
        "cannot have shape [0, 8] as F32",
    );
    refused(
        &one_tensor(&[100], 8, 0, 32),
        "cannot have shape [100] as Q8_0",
    );
    refused(&one_tensor(&[u64::MAX, 8], 0, 0, 32), "cannot have shape");
    refused(
        &one_tensor(&[1 << 32, 1 << 32], 0, 0, 32),
        "cannot have shape",
    );
    refused(
        &one_tensor(&[8], 0, 16, 64),
        "offset 16, not a multiple of the alignment 32",
    );
    refused(&one_tensor(&[8], 0, 32, 32), "beyond the end of the file");
    refused(
        &one_tensor(&[8], 0, u64::MAX - 31, 32),
        "beyond the end of the file",
    );
    let two = |name, offset| {
        let header = Bytes::header(3, 2, 0).tensor("a", &[9], 0, 0);
        header.tensor(name, &[8], 0, offset).data(32, 96)
    };
    assert!(two("b", 64).read().is_ok());
    refused(&two("a", 64), "\"a\" is there twice");
    refused(&two("b", 32), "\"a\" and \"b\" overlap");
    refused(&two("b", 0), "overlap");
    let unnamed = Bytes::header(3, 1, 0).tensor("", &[1], 0, 0);
    refused(&unnamed, "tensor 0 has no name");
}

/// No prefix of a file and no small change of one panics or is read as more than it is.
#[test]
fn cut_and_changed_files_are_read_or_refused() {
    let bytes = rich();
    let described = bytes.read().unwrap().data_start as usize;
    for length in 0..described {
        assert!(
            Bytes(bytes.0[..length].to_vec()).read().is_err(),
            "{length}"
        );
    }
    let seed = 0x6775_6766;
    let mut random = Random::new(seed);
    let mut read = 0;
    for round in 0..20_000 {
        let mut changed = bytes.clone();
        random.mutate(&mut changed.0);
        let Ok(gguf) = changed.read() else { continue };
        read += 1;
        for tensor in &gguf.tensors {
            let inside = tensor.range.end <= changed.0.len() as u64;
            assert!(inside, "seed {seed:#x} round {round}: {tensor:?}");
        }
    }
    assert!(read > 0, "no change was harmless: seed {seed:#x}");
}

fn random_value(random: &mut Random, kind: usize) -> Value {
    let bits = random.next();
    let count = random.below(5);
    let string = |random: &mut Random| {
        let length = random.below(9);
        (0..length)
            .map(|_| random.next() as u8)
            .collect::<Vec<u8>>()
    };
    match kind {
        0 => Value::U8(bits as u8),
        1 => Value::I8(bits as i8),
        2 => Value::U16(bits as u16),
        3 => Value::I16(bits as i16),
        4 => Value::U32(bits as u32),
        5 => Value::I32(bits as i32),
        6 => Value::F32(random.signed_unit()),
        7 => Value::Bool(bits & 1 == 1),
        8 => Value::String(string(random)),
        9 => Value::U64(bits),
        10 => Value::I64(bits as i64),
        11 => Value::F64(random.signed_unit().into()),
        12 => Value::Array(Array::String((0..count).map(|_| string(random)).collect())),
        13 => Value::Array(Array::Bool((0..count).map(|n| n % 2 == 0).collect())),
        14 => Value::Array(Array::U8((0..count).map(|_| random.next() as u8).collect())),
        15 => Value::Array(Array::I32(
            (0..count).map(|_| random.next() as i32).collect(),
        )),
        16 => Value::Array(Array::F32(
            (0..count).map(|_| random.signed_unit()).collect(),
        )),
        _ => Value::Array(Array::F64((0..count).map(|n| n as f64).collect())),
    }
}

#[test]
fn what_is_laid_out_is_read_back() {
    let seed = 0x0067_6775;
    let mut random = Random::new(seed);
    for round in 0..200 {
        let mut metadata = Metadata::default();
        for kind in 0..=17 {
            metadata.insert(format!("key.{kind}"), random_value(&mut random, kind));
        }
        let alignment = 8u32 << random.below(6);
        metadata.insert("general.alignment", Value::U32(alignment));
        let specs: Vec<TensorSpec> = (0..random.below(6))
            .map(|index| {
                let format = BlockFormat::ALL[random.below(BlockFormat::ALL.len())];
                let mut shape: Vec<u64> = (0..random.below(4))
                    .map(|_| 1 + random.below(3) as u64)
                    .collect();
                shape.push(256 * (1 + random.below(2) as u64));
                TensorSpec {
                    name: format!("tensor {index}"),
                    format,
                    shape,
                    layout: WeightLayout::RowMajor,
                }
            })
            .collect();
        let layout = GgufLayout::new(&metadata, &specs).unwrap();
        let mut header = layout.header.as_slice();
        let gguf = Gguf::read(&mut header, layout.file_bytes)
            .unwrap_or_else(|error| panic!("seed {seed:#x} round {round}: {error}"));
        assert_eq!(gguf.metadata, metadata, "seed {seed:#x} round {round}");
        assert_eq!(gguf.alignment_bytes, u64::from(alignment));
        assert_eq!(gguf.data_start, layout.data_start());
        assert_eq!(gguf.tensors.len(), specs.len());
        for ((found, spec), placed) in gguf.tensors.iter().zip(&specs).zip(&layout.tensors) {
            assert_eq!((&found.name, &found.shape), (&spec.name, &spec.shape));
            assert_eq!(found.block_format(), Some(spec.format));
            assert_eq!(found.range, placed.offset..placed.offset + placed.bytes);
        }
    }
}
