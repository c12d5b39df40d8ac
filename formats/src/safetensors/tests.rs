use super::*;
use crate::block::to_lanes;
use crate::test_random::Random;
use crate::{BlockFormat, WeightLayout};
use ::safetensors::SafeTensors;

/// A file of `data` zeros behind the given JSON.
fn file(json: &str, data: usize) -> Vec<u8> {
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(json.as_bytes());
    bytes.resize(bytes.len() + data, 0);
    bytes
}

fn parse(bytes: &[u8]) -> Result<SafetensorsHeader, SafetensorsError> {
    SafetensorsHeader::parse(bytes, bytes.len() as u64)
}

#[track_caller]
fn refused(json: &str, data: usize, expected: SafetensorsError) {
    assert_eq!(parse(&file(json, data)), Err(expected));
}

#[test]
fn tensors_come_in_the_order_of_their_bytes() {
    let json = r#"{"b":{"dtype":"BF16","shape":[2,3],"data_offsets":[8,20]},"__metadata__":{"a":"b"},
        "a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"i":{"dtype":"I64","shape":[],"data_offsets":[20,28]}}  "#;
    let header = parse(&file(json, 28)).unwrap();
    let start = header.data_start;
    assert_eq!(start, 8 + json.len() as u64);
    assert_eq!(header.metadata["a"], "b");
    let names: Vec<&str> = header
        .tensors
        .iter()
        .map(|tensor| tensor.name.as_str())
        .collect();
    assert_eq!(names, ["a", "b", "i"]);
    assert_eq!(header.tensors[1].range, start + 8..start + 20);
    assert_eq!(header.tensors[1].block_format(), Ok(BlockFormat::BF16));
    assert_eq!(
        header.tensors[2].block_format(),
        Err(SafetensorsError::UnsupportedDtype {
            tensor: "i".into(),
            dtype: Dtype::I64
        })
    );
}

#[test]
fn lengths_are_checked_against_the_file() {
    use SafetensorsError as E;
    assert_eq!(
        header_length(&[0; 7], 7),
        Err(E::NoLength { file_bytes: 7 })
    );
    assert_eq!(
        header_length(&[0; 8], 4),
        Err(E::NoLength { file_bytes: 4 })
    );
    let beyond = E::HeaderBeyondFile {
        header_bytes: u64::MAX,
        file_bytes: 100,
    };
    assert_eq!(header_length(&[0xff; 8], 100), Err(beyond));
    let long = E::HeaderTooLong {
        header_bytes: 100_000_001,
    };
    assert_eq!(
        header_length(&100_000_001u64.to_le_bytes(), 1 << 40),
        Err(long)
    );
    assert_eq!(header_length(&20u64.to_le_bytes(), 1 << 40), Ok(28));

    let whole = file("{}", 0);
    assert!(parse(&whole).unwrap().tensors.is_empty());
    let cut = SafetensorsHeader::parse(&whole[..9], 10);
    assert_eq!(
        cut,
        Err(E::Incomplete {
            given: 9,
            needed: 10
        })
    );
}

#[test]
fn each_lie_has_its_error() {
    use SafetensorsError as E;
    let one = |dtype: &str, shape: &str, begin: u64, end: u64| {
        format!(r#"{{"a":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{begin},{end}]}}}}"#)
    };
    let tensor = || "a".to_string();
    refused(
        &one("F32", "[2]", 0, 4),
        8,
        E::SizeMismatch {
            tensor: tensor(),
            expected: 8,
            found: 4,
        },
    );
    refused(
        &one("F32", "[2]", 8, 0),
        8,
        E::BackwardOffsets {
            tensor: tensor(),
            begin: 8,
            end: 0,
        },
    );
    refused(
        &one("F32", "[2]", 0, 8),
        4,
        E::OutOfBounds {
            tensor: tensor(),
            end: 8,
            data_bytes: 4,
        },
    );
    refused(&one("F32", "[1]", 4, 8), 8, E::Gap { begin: 0, end: 4 });
    refused(&one("F32", "[1]", 0, 4), 8, E::Gap { begin: 4, end: 8 });
    refused("{}", 1, E::Gap { begin: 0, end: 1 });
    refused(
        &one("F31", "[1]", 0, 4),
        4,
        E::UnknownDtype {
            tensor: tensor(),
            dtype: "F31".into(),
        },
    );
    for shape in [vec![1 << 32, 1 << 32], vec![u64::MAX]] {
        let json = one("F32", &format!("{shape:?}"), 0, 0);
        refused(
            &json,
            0,
            E::NoSize {
                tensor: tensor(),
                shape,
                dtype: Dtype::F32,
            },
        );
    }
    let half_byte = E::NoSize {
        tensor: tensor(),
        shape: vec![3],
        dtype: Dtype::F4,
    };
    refused(&one("F4", "[3]", 0, 2), 2, half_byte);
    let deep = E::TooManyDimensions {
        tensor: tensor(),
        dimensions: 9,
    };
    refused(&one("F32", "[1,1,1,1,1,1,1,1,1]", 0, 4), 4, deep.clone());
    refused(&one("F32", &format!("{:?}", [1; 5000]), 0, 4), 4, deep);
}

#[test]
fn overlaps_and_duplicates_are_refused() {
    use SafetensorsError as E;
    let entry = |name: &str, begin: u64, end: u64| {
        let elements = (end - begin) / 4;
        format!(r#""{name}":{{"dtype":"F32","shape":[{elements}],"data_offsets":[{begin},{end}]}}"#)
    };
    let pair = |a: String, b: String| format!("{{{a},{b}}}");
    let overlap = E::Overlap {
        tensor: "b".into(),
        begin: 4,
        previous_end: 8,
    };
    refused(&pair(entry("a", 0, 8), entry("b", 4, 12)), 12, overlap);
    refused(
        &pair(entry("a", 0, 4), entry("a", 4, 8)),
        8,
        E::DuplicateTensor("a".into()),
    );
    let metadata = r#"{"__metadata__":{"k":"1","k":"2"}}"#;
    refused(metadata, 0, E::DuplicateMetadata("k".into()));
    let long = "n".repeat(MAX_NAME_BYTES + 1);
    refused(
        &format!("{{{}}}", entry(&long, 0, 4)),
        4,
        E::NameLength(MAX_NAME_BYTES + 1),
    );
    refused(&format!("{{{}}}", entry("", 0, 4)), 4, E::NameLength(0));
}

#[test]
fn json_of_another_form_is_refused() {
    let deep = "[".repeat(200_000);
    for json in [
        "",
        "null",
        "[]",
        "{",
        "{\"a\":1}",
        "{} x",
        r#"{"a":{"dtype":"F32"}}"#,
        &deep,
    ] {
        let error = parse(&file(json, 0)).unwrap_err();
        assert!(
            matches!(error, SafetensorsError::Json(_)),
            "{json:.20}: {error}"
        );
    }
}

fn specs() -> Vec<TensorSpec> {
    let spec = |name: &str, format, shape: &[u64]| TensorSpec {
        name: name.into(),
        format,
        shape: shape.to_vec(),
        layout: WeightLayout::RowMajor,
    };
    vec![
        spec("gate_proj", BlockFormat::Q8_0, &[5, 64]),
        in_lanes(&[2, 16, 32]),
        spec("odd \"name\"", BlockFormat::BF16, &[3, 7]),
        spec("norm", BlockFormat::F32, &[64]),
        spec("half", BlockFormat::F16, &[1, 1, 9]),
    ]
}

fn in_lanes(shape: &[u64]) -> TensorSpec {
    TensorSpec {
        name: "in lanes".into(),
        format: BlockFormat::Q8_0,
        shape: shape.to_vec(),
        layout: WeightLayout::Lanes16,
    }
}

fn written(layout: &SafetensorsLayout) -> Vec<u8> {
    let mut bytes = layout.header.clone();
    bytes.resize(layout.file_bytes as usize, 0);
    for (number, tensor) in layout.tensors.iter().enumerate() {
        bytes[tensor.offset as usize..(tensor.offset + tensor.bytes) as usize]
            .fill(number as u8 + 1);
    }
    bytes
}

#[test]
fn a_layout_is_aligned_and_read_by_both_readers() {
    let specs = specs();
    let layout = SafetensorsLayout::new(&specs).unwrap();
    assert_eq!(SafetensorsLayout::new(&specs).unwrap(), layout);
    assert_eq!(
        (layout.data_start() % 4096, layout.file_bytes % 4096),
        (0, 0)
    );
    let bytes = written(&layout);
    let header = parse(&bytes).unwrap();
    let other = SafeTensors::deserialize(&bytes).unwrap();
    for (number, (spec, placed)) in specs.iter().zip(&layout.tensors).enumerate() {
        assert_eq!(placed.offset % 256, 0);
        assert_eq!(Some(placed.bytes), spec.format.tensor_bytes(&spec.shape));
        let entry = header
            .tensors
            .iter()
            .find(|tensor| tensor.name == spec.name)
            .unwrap();
        assert_eq!(entry.encoding, Encoding::Blocks(spec.format, spec.layout));
        assert_eq!(entry.block_format().is_ok(), spec.layout.is_row_major());
        assert_eq!(entry.shape, spec.shape);
        assert_eq!(entry.range, placed.offset..placed.offset + placed.bytes);
        let view = other.tensor(&spec.name).unwrap();
        assert_eq!(view.data(), vec![number as u8 + 1; placed.bytes as usize]);
    }
    let fillers = header
        .tensors
        .iter()
        .filter(|tensor| tensor.name.starts_with(FILLER_PREFIX));
    assert!(fillers.clone().count() > 0);
    for filler in fillers {
        assert_eq!(filler.encoding, Encoding::Other(Dtype::U8));
    }
}

#[test]
fn a_layout_that_needs_no_filler_has_none() {
    let spec = TensorSpec {
        name: "a".into(),
        format: BlockFormat::F32,
        shape: vec![32, 32],
        layout: WeightLayout::RowMajor,
    };
    let layout = SafetensorsLayout::new(&[spec]).unwrap();
    assert_eq!((layout.data_start(), layout.data_bytes()), (4096, 4096));
    assert_eq!(parse(&written(&layout)).unwrap().tensors.len(), 1);
}

#[test]
fn a_packed_layout_has_no_fillers_and_keeps_its_metadata() {
    let layout = SafetensorsLayout::packed(&specs(), &[("format", "pt")]).unwrap();
    let bytes = written(&layout);
    let header = parse(&bytes).unwrap();
    assert_eq!(header.tensors.len(), specs().len());
    assert_eq!(header.metadata["format"], "pt");
    assert_eq!(
        SafeTensors::deserialize(&bytes).unwrap().len(),
        specs().len()
    );
}

#[test]
fn what_cannot_be_laid_out_is_refused() {
    let refused = |name: &str, format, shape: &[u64]| {
        let spec = TensorSpec {
            name: name.into(),
            format,
            shape: shape.to_vec(),
            layout: WeightLayout::RowMajor,
        };
        SafetensorsLayout::new(&[spec.clone(), spec]).unwrap_err()
    };
    assert_eq!(SafetensorsLayout::new(&[]), Err(LayoutError::Empty));
    let names = ["", "__metadata__", "__odmoe_filler__.0", "twice"];
    for name in names {
        assert_eq!(
            refused(name, BlockFormat::F32, &[1]),
            LayoutError::Name(name.into())
        );
    }
    let shapes: [&[u64]; 5] = [&[], &[0], &[33], &[1 << 40, 1 << 40], &[1; 9]];
    for shape in shapes {
        let spec = TensorSpec {
            name: "a".into(),
            format: BlockFormat::Q8_0,
            shape: shape.to_vec(),
            layout: WeightLayout::RowMajor,
        };
        assert!(matches!(
            SafetensorsLayout::new(&[spec]),
            Err(LayoutError::Size { .. })
        ));
    }
    let float = TensorSpec {
        format: BlockFormat::BF16,
        ..in_lanes(&[16, 32])
    };
    for spec in [float, in_lanes(&[8, 32]), in_lanes(&[16])] {
        let error = SafetensorsLayout::new(std::slice::from_ref(&spec)).unwrap_err();
        assert!(matches!(error, LayoutError::Order { .. }), "{spec:?}");
    }
}

#[test]
fn a_tensor_in_lanes_says_so_and_is_no_rows() {
    let layout = SafetensorsLayout::new(&[in_lanes(&[32, 64])]).unwrap();
    let header = parse(&written(&layout)).unwrap();
    let description = "Q8_0 32x64 lanes-16-1";
    assert_eq!(header.metadata["odmoe.blocks.in lanes"], description);
    let error = header.tensors[0].block_format().unwrap_err().to_string();
    assert!(error.contains("has layout lanes-16-1"), "{error}");
    let documented = format!("`\"odmoe.blocks.gate_proj\":\"{description}\"`");
    let document = include_str!("../../../docs/store.md");
    assert!(document.contains(&documented), "{documented}");
}

#[test]
fn a_wrong_block_description_is_refused() {
    let layout = SafetensorsLayout::new(&specs()).unwrap();
    let bytes = written(&layout);
    let right = b"Q8_0 5x64";
    let at = bytes
        .windows(right.len())
        .position(|window| window == right)
        .unwrap();
    for wrong in [
        b"Q8_0 5x65",
        b"Q8_1 5x64",
        b"Q8_0 +5x6",
        b"Q8_0 5x x",
        b"BF16 5x64",
        b"         ",
    ] {
        let mut changed = bytes.clone();
        changed[at..at + right.len()].copy_from_slice(wrong);
        assert_bad_description(&changed);
    }
}

#[test]
fn a_description_names_only_layouts_that_are_known_and_fit() {
    // Zeros of 16 rows of one block, of 8 rows of two, and of floats.
    let described = |description: &str| {
        let json = format!(
            r#"{{"__metadata__":{{"odmoe.blocks.a":"{description}"}},"a":{{"dtype":"U8","shape":[544],"data_offsets":[0,544]}}}}"#
        );
        file(&json, 544)
    };
    for right in ["Q8_0 16x32", "Q8_0 16x32 lanes-16-1", "Q8_0 8x64"] {
        assert!(parse(&described(right)).is_ok(), "{right}");
    }
    for wrong in [
        "Q8_0 16x32 ",
        "Q8_0 16x32  lanes-16-1",
        "Q8_0 16x32 lanes-16-1 ",
        "Q8_0 16x32 lanes-16-2",
        "Q8_0 16x32 row-major-1",
        "Q8_0 8x64 lanes-16-1",
        "Q8_0 512 lanes-16-1",
        "Q8_0 18446744073709551615x18446744073709551615x0 lanes-16-1",
        "F32 16x136 lanes-16-1",
        "BF16 16x17 lanes-16-1",
    ] {
        assert_bad_description(&described(wrong));
    }
}

#[track_caller]
fn assert_bad_description(bytes: &[u8]) {
    let error = parse(bytes).unwrap_err();
    let bad = matches!(error, SafetensorsError::BadBlockDescription { .. });
    assert!(bad, "{error}");
}

/// A whole matrix by the words of `docs/store.md` alone, and its table by the code.
#[test]
fn the_documented_lanes_are_what_is_written() {
    let document = include_str!("../../../docs/store.md");
    for format in BlockFormat::ALL.into_iter().filter(|f| !f.is_float()) {
        let (bytes, before) = (format.block_bytes(), format.bytes_before_words());
        let (words, left) = (format.block_words(), format.bytes_left_over());
        let together = format.blocks_together();
        let runs = format.word_order().iter().map(|run| match *run {
            (first, 1) => first.to_string(),
            (first, count) => format!("{first} to {}", first + count - 1),
        });
        let order = runs.collect::<Vec<_>>().join(", ");
        let line = format!(
            "| `{format}` | {bytes} | {before} | {words} | {left} | {together} | {order} |\n"
        );
        assert!(document.contains(&line), "{line}");

        let (blocks, groups) = (5, 2);
        let (row_bytes, group_bytes) = (blocks * bytes, 16 * blocks * bytes);
        let mut random = Random::new(9);
        let rows: Vec<u8> = (0..groups * group_bytes)
            .map(|_| random.next() as u8)
            .collect();
        let mut expected = vec![0; rows.len()];
        for (at, byte) in rows.iter().enumerate() {
            let (row, in_row) = (at / row_bytes, at % row_bytes);
            let (block, in_block) = (in_row / bytes, in_row % bytes);
            let (set, i) = (block / together, block % together);
            let n = together.min(blocks - set * together);
            let (group, r) = (row / 16, row % 16);
            let start = group * group_bytes + set * together * 16 * bytes;
            let (first, last) = (before, before + 4 * words);
            let within = match in_block {
                b if b < first => left * (16 * i + r) + b,
                b if b >= last => left * (16 * i + r) + b - 4 * words,
                b => {
                    let place = format.place_of_word((b - before) / 4);
                    16 * n * left + 64 * (words * i + place) + 4 * r + (b - before) % 4
                }
            };
            expected[start + within] = *byte;
        }
        let mut lanes = vec![0; rows.len()];
        let columns = (blocks * format.block_elements()) as u64;
        to_lanes(format, columns, &rows, &mut lanes);
        assert!(lanes == expected, "{format}");
    }
}

/// Whatever is done to a header, it never panics, and what we accept the reference reader accepts too.
#[test]
fn mutated_headers_never_panic_and_never_pass_what_the_reference_refuses() {
    let layout = SafetensorsLayout::new(&specs()).unwrap();
    let json_end = layout.header.iter().rposition(|b| *b == b'}').unwrap() + 1;
    let (json, data) = (&layout.header[8..json_end], layout.data_bytes() as usize);
    let mut accepted = 0;
    for seed in 0..4000 {
        let mut random = Random::new(seed);
        let mut mutated = json.to_vec();
        random.mutate(&mut mutated);
        let mut bytes = (mutated.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(&mutated);
        bytes.resize(bytes.len() + data, 0);
        if random.below(20) == 0 {
            bytes[random.below(8)] = random.next() as u8;
        }
        if parse(&bytes).is_ok() {
            accepted += 1;
            assert!(SafeTensors::deserialize(&bytes).is_ok(), "seed {seed}");
        }
    }
    assert!(
        accepted > 0,
        "every mutation was refused: the mutations are too wild to test anything"
    );
}

/// The examples of `docs/store.md` are what is written, up to white space.
#[test]
fn the_documented_examples_are_the_bytes_that_are_written() {
    let plain = |text: &str| text.replace(char::is_whitespace, "");
    let document = plain(include_str!("../../../docs/store.md"));
    for format in [BlockFormat::BF16, BlockFormat::Q8_0] {
        let specs = crate::names::ExpertRole::ALL.map(|role| TensorSpec {
            name: role.name().into(),
            format,
            shape: role.shape(64, 32).to_vec(),
            layout: WeightLayout::RowMajor,
        });
        let layout = SafetensorsLayout::new(&specs).unwrap();
        let json = std::str::from_utf8(&layout.header[8..]).unwrap();
        assert!(document.contains(&plain(json)), "{json}");
        assert_eq!(layout.header[..8], 0x0ff8u64.to_le_bytes());
    }
}
