//! Safetensors files of a few tensors.

use super::Seed;
use odmoe_formats::safetensors::{SafetensorsLayout, TensorSpec};
use odmoe_formats::{BlockFormat, WeightLayout};

pub(super) fn seeds() -> Vec<Seed> {
    let mut seeds = sound();
    seeds.extend(hostile());
    seeds
}

fn spec(name: &str, format: BlockFormat, shape: &[u64]) -> TensorSpec {
    TensorSpec {
        name: name.into(),
        format,
        shape: shape.to_vec(),
        layout: WeightLayout::RowMajor,
    }
}

fn file(json: &str, data: usize) -> Vec<u8> {
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(json.as_bytes());
    bytes.resize(bytes.len() + data, 0);
    bytes
}

fn laid_out(layout: SafetensorsLayout) -> Vec<u8> {
    let mut bytes = layout.header;
    bytes.resize(layout.file_bytes as usize, 0);
    bytes
}

fn sound() -> Vec<Seed> {
    let floats = [
        spec("model.norm.weight", BlockFormat::F32, &[8]),
        spec("model.embed_tokens.weight", BlockFormat::BF16, &[4, 8]),
        spec("lm_head.weight", BlockFormat::F16, &[4, 8]),
    ];
    let blocks = [
        spec("gate_proj", BlockFormat::Q4_K, &[2, 256]),
        spec("up_proj", BlockFormat::MXFP4, &[3, 32]),
        spec("down_proj", BlockFormat::Q8_0, &[1, 64]),
    ];
    let lanes = TensorSpec {
        layout: WeightLayout::Lanes16,
        ..spec("gate_proj", BlockFormat::Q4_0, &[16, 32])
    };
    let packed = |specs: &[TensorSpec]| SafetensorsLayout::packed(specs, &[("format", "pt")]);
    let aligned = SafetensorsLayout::new(&blocks[1..]).expect("a layout");
    vec![
        ("empty", file("{}", 0)),
        ("floats", laid_out(packed(&floats).expect("a layout"))),
        ("blocks", laid_out(packed(&blocks).expect("a layout"))),
        ("aligned", laid_out(aligned)),
        ("lanes", laid_out(packed(&[lanes]).expect("a layout"))),
        (
            "other-dtypes",
            file(
                r#"{"b":{"dtype":"BOOL","shape":[3],"data_offsets":[8,11]},"a":{"dtype":"I64","shape":[],"data_offsets":[0,8]},
                    "z":{"dtype":"F32","shape":[0,5],"data_offsets":[11,11]},"__metadata__":null}  "#,
                11,
            ),
        ),
    ]
}

fn hostile() -> Vec<Seed> {
    let one = |dtype: &str, shape: &str, offsets: &str| {
        format!(r#"{{"a":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#)
    };
    let twice = r#""a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}"#;
    let mut longest = u64::MAX.to_le_bytes().to_vec();
    longest.extend_from_slice(b"{}");
    let deep = format!(r#"{{"a":{}{}}}"#, "[".repeat(500), "]".repeat(500));
    vec![
        ("no-length", b"\x02\0\0\0".to_vec()),
        ("longest-length", longest),
        ("gap", file(&one("F32", "[1]", "[4,8]"), 8)),
        (
            "overlap",
            file(
                &format!(r#"{{{twice},{}}}"#, twice.replace("\"a\"", "\"b\"")),
                4,
            ),
        ),
        ("duplicate", file(&format!("{{{twice},{twice}}}"), 4)),
        (
            "duplicate-metadata",
            file(r#"{"__metadata__":{"k":"1","k":"2"}}"#, 0),
        ),
        ("backward", file(&one("F32", "[1]", "[8,4]"), 8)),
        (
            "overflow",
            file(&one("F32", "[4294967296,4294967296]", "[0,4]"), 4),
        ),
        (
            "largest-offsets",
            file(
                &one("U8", "[1]", "[18446744073709551614,18446744073709551615]"),
                4,
            ),
        ),
        ("half-bytes", file(&one("F4", "[3]", "[0,2]"), 2)),
        (
            "flood-of-dimensions",
            file(&one("U8", &format!("[{}1]", "1,".repeat(200)), "[0,1]"), 1),
        ),
        ("deep", file(&deep, 0)),
        (
            "wrong-blocks",
            file(
                r#"{"__metadata__":{"odmoe.blocks.a":"Q4_K 18446744073709551615x256"},"a":{"dtype":"U8","shape":[144],"data_offsets":[0,144]}}"#,
                144,
            ),
        ),
        (
            "wrong-lanes",
            file(
                r#"{"__metadata__":{"odmoe.blocks.a":"Q4_K 1x256 lanes-16-1"},"a":{"dtype":"U8","shape":[144],"data_offsets":[0,144]}}"#,
                144,
            ),
        ),
    ]
}
