//! GGUF files of a few entries and tensors.

use super::Seed;
use odmoe_formats::gguf::{Array, GgufLayout, MAGIC, Metadata, Value};
use odmoe_formats::safetensors::TensorSpec;
use odmoe_formats::{BlockFormat, WeightLayout};

const U32: u32 = 4;
const STRING: u32 = 8;
const ARRAY: u32 = 9;

pub(super) fn seeds() -> Vec<Seed> {
    let mut seeds = sound();
    seeds.extend(hostile());
    seeds
}

fn text(text: &str) -> Value {
    Value::String(text.as_bytes().to_vec())
}

fn laid_out(entries: Vec<(&str, Value)>, tensors: &[(&str, BlockFormat, &[u64])]) -> Vec<u8> {
    let mut metadata = Metadata::default();
    for (key, value) in entries {
        metadata.insert(key, value);
    }
    let specs = tensors.iter().map(|(name, format, shape)| TensorSpec {
        name: name.to_string(),
        format: *format,
        shape: shape.to_vec(),
        layout: WeightLayout::RowMajor,
    });
    let specs: Vec<TensorSpec> = specs.collect();
    let layout = GgufLayout::new(&metadata, &specs).expect("a layout");
    let mut bytes = layout.header;
    bytes.resize(layout.file_bytes as usize, 0);
    bytes
}

fn sound() -> Vec<Seed> {
    let tokens = ["a", "b", "\u{120}a"].map(|token| token.as_bytes().to_vec());
    let vocabulary = vec![
        ("general.architecture", text("llama")),
        ("tokenizer.ggml.model", text("gpt2")),
        (
            "tokenizer.ggml.tokens",
            Value::Array(Array::String(tokens.to_vec())),
        ),
        (
            "tokenizer.ggml.token_type",
            Value::Array(Array::I32(vec![1, 1, 3])),
        ),
        (
            "tokenizer.ggml.scores",
            Value::Array(Array::F32(vec![0.0, -1.0, f32::NAN])),
        ),
    ];
    let every_type = vec![
        ("u8", Value::U8(200)),
        ("i8", Value::I8(-2)),
        ("u16", Value::U16(60_000)),
        ("i16", Value::I16(-3)),
        ("u32", Value::U32(4_000_000_000)),
        ("i32", Value::I32(-4)),
        ("f32", Value::F32(1e-5)),
        ("bool", Value::Bool(true)),
        ("string", Value::String(vec![0xff, 0xfe])),
        ("u64", Value::U64(u64::MAX)),
        ("i64", Value::I64(i64::MIN)),
        ("f64", Value::F64(f64::INFINITY)),
        ("bools", Value::Array(Array::Bool(vec![true, false]))),
        ("bytes", Value::Array(Array::U8(vec![1, 2, 3]))),
        ("none", Value::Array(Array::F64(vec![]))),
        ("general.alignment", Value::U32(64)),
    ];
    let tensors: [(&str, BlockFormat, &[u64]); 4] = [
        ("token_embd.weight", BlockFormat::Q4_0, &[4, 32]),
        ("blk.0.attn_norm.weight", BlockFormat::F32, &[8]),
        (
            "blk.0.ffn_gate_exps.weight",
            BlockFormat::MXFP4,
            &[2, 3, 32],
        ),
        (
            "blk.0.ffn_down_exps.weight",
            BlockFormat::Q2_K,
            &[1, 1, 256],
        ),
    ];
    vec![
        ("empty", laid_out(vec![], &[])),
        ("vocabulary", laid_out(vocabulary, &[])),
        ("tensors", laid_out(every_type, &tensors)),
    ]
}

/// A file in the making, byte by byte.
struct Bytes(Vec<u8>);

impl Bytes {
    fn header(version: u32, tensors: u64, entries: u64) -> Self {
        Self(MAGIC.to_vec()).u32(version).u64(tensors).u64(entries)
    }

    fn u32(mut self, value: u32) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    fn u64(mut self, value: u64) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    fn string(self, text: &str) -> Self {
        let mut with_length = self.u64(text.len() as u64);
        with_length.0.extend_from_slice(text.as_bytes());
        with_length
    }

    fn tensor(self, name: &str, dimensions: &[u64], kind: u32, offset: u64) -> Self {
        let described = self.string(name).u32(dimensions.len() as u32);
        let shaped = dimensions
            .iter()
            .fold(described, |all, size| all.u64(*size));
        shaped.u32(kind).u64(offset)
    }

    fn data(mut self, bytes: usize) -> Vec<u8> {
        let start = self.0.len().next_multiple_of(32);
        self.0.resize(start + bytes, 0);
        self.0
    }
}

fn hostile() -> Vec<Seed> {
    let header = Bytes::header;
    let nested = header(3, 0, 1)
        .string("k")
        .u32(ARRAY)
        .u32(ARRAY)
        .u64(1)
        .u32(ARRAY);
    let flood = header(3, 0, 1)
        .string("k")
        .u32(ARRAY)
        .u32(STRING)
        .u64(1 << 24);
    let alignment = |bytes| {
        header(3, 0, 1)
            .string("general.alignment")
            .u32(U32)
            .u32(bytes)
    };
    let twice = header(3, 0, 2)
        .string("k")
        .u32(U32)
        .u32(1)
        .string("k")
        .u32(U32)
        .u32(1);
    let pair = |second: u64| {
        header(2, 2, 0)
            .tensor("a", &[16], 0, 0)
            .tensor("b", &[16], 0, second)
    };
    let same_name = header(3, 2, 0)
        .tensor("a", &[8], 0, 0)
        .tensor("a", &[8], 0, 32);
    vec![
        ("version-1", header(1, 0, 0).0),
        ("big-endian", header(3u32.swap_bytes(), 0, 0).0),
        ("most-tensors", header(3, u64::MAX, 0).0),
        ("most-entries", header(3, 0, u64::MAX).0),
        ("tensors-that-are-not-there", header(3, 1 << 21, 0).0),
        ("longest-key", header(3, 0, 1).u64(u64::MAX).0),
        (
            "longest-string",
            header(3, 0, 1).string("k").u32(STRING).u64(u64::MAX).0,
        ),
        ("nested-arrays", nested.0),
        ("flood-of-strings", flood.0),
        ("unknown-value-type", header(3, 0, 1).string("k").u32(13).0),
        ("alignment-0", alignment(0).0),
        ("alignment-3", alignment(3).0),
        ("alignment-largest", alignment(1 << 31).0),
        ("duplicate-key", twice.0),
        ("duplicate-tensor", same_name.data(64)),
        ("overlap", pair(32).data(128)),
        ("misaligned", pair(65).data(256)),
        ("beyond-the-file", pair(1 << 20).data(128)),
        ("largest-offset", pair(u64::MAX - 31).data(128)),
        (
            "overflow",
            header(3, 1, 0)
                .tensor("t", &[1 << 32, 1 << 32], 0, 0)
                .data(32),
        ),
        ("nothing", header(3, 1, 0).tensor("t", &[0], 0, 0).data(32)),
        (
            "broken-block",
            header(3, 1, 0).tensor("t", &[33], 8, 0).data(64),
        ),
        (
            "five-dimensions",
            header(3, 1, 0).tensor("t", &[1; 5], 0, 0).data(32),
        ),
        (
            "unknown-type",
            header(3, 1, 0).tensor("t", &[32], 4, 0).data(64),
        ),
        (
            "type-without-decoder",
            header(3, 1, 0).tensor("t", &[256], 17, 0).data(96),
        ),
    ]
}
