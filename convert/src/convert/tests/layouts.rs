//! The same model in both layouts.

use super::*;
use crate::convert::encode::TensorEncoder;
use crate::convert::plan::PlannedTensor;
use crate::random_model::{ExpertNaming, GgufOptions, Quantisation, WriteOptions};
use crate::source::{ModelMetadata, SourceFileInfo, SourceTensor, open_source};
use odmoe_formats::block::row_of_lanes;
use odmoe_formats::manifest::FileIndex;
use std::collections::BTreeSet;

const ROWS: WeightLayout = WeightLayout::RowMajor;
const LANES: WeightLayout = WeightLayout::Lanes16;

pub(super) fn in_lanes(options: &ConvertOptions) -> ConvertOptions {
    ConvertOptions {
        layout: LANES,
        ..options.clone()
    }
}

/// A tensor as a store has it.
struct Stored {
    name: String,
    shape: Vec<u64>,
    format: BlockFormat,
    layout: WeightLayout,
    place: (FileIndex, u64, u64),
}

impl Stored {
    fn all(manifest: &Manifest) -> Vec<Self> {
        let resident = manifest.resident.iter().map(|(name, tensor)| Self {
            name: name.clone(),
            shape: tensor.shape.clone(),
            format: tensor.format,
            layout: tensor.layout,
            place: (tensor.file, tensor.offset, tensor.bytes),
        });
        let experts = manifest.objects.iter().flat_map(|object| {
            object.tensors.iter().map(|(role, tensor)| Self {
                name: format!("{} {role}", object.key),
                shape: tensor.shape.clone(),
                format: tensor.format,
                layout: object.layout_of(tensor),
                place: (object.file, object.offset + tensor.offset, tensor.bytes),
            })
        });
        resident.chain(experts).collect()
    }

    fn bytes(&self, store: &Path, manifest: &Manifest) -> Vec<u8> {
        let (file, offset, bytes) = self.place;
        let contents = fs::read(store.join(&manifest.file(file).path)).unwrap();
        contents[offset as usize..][..bytes as usize].to_vec()
    }
}

/// The rows of a tensor one after another.
fn rows(format: BlockFormat, shape: &[u64], layout: WeightLayout, bytes: &[u8]) -> Vec<u8> {
    if layout == ROWS {
        return bytes.to_vec();
    }
    let columns = *shape.last().unwrap();
    let mut rows = vec![0; bytes.len()];
    let row_bytes = format.row_bytes(columns).unwrap() as usize;
    for (number, row) in rows.chunks_exact_mut(row_bytes).enumerate() {
        row_of_lanes(format, columns, bytes, number, row);
    }
    rows
}

/// Converts in both layouts and compares. Gives the manifest of the store in lanes.
#[track_caller]
fn check_layouts(source: &dyn ModelSource, folder: &Path, options: &ConvertOptions) -> Manifest {
    let [in_rows, in_lanes] = [options.clone(), in_lanes(options)].map(|options| {
        let store = folder.join(options.layout.name());
        convert(source, &store, &options, &NoProgress).unwrap();
        let verified = verify_store(&store, &NoProgress).unwrap();
        assert_eq!(verified.problems, []);
        (open_store(&store).unwrap(), store)
    });
    let ((plain, plain_store), (manifest, store)) = (&in_rows, &in_lanes);
    assert_eq!(plain.files, manifest.files);
    let tied = manifest.config.tie_word_embeddings;
    let pairs = Stored::all(plain).into_iter().zip(Stored::all(manifest));
    for (plain_tensor, tensor) in pairs {
        let name = &tensor.name;
        assert_eq!(plain_tensor.name, *name);
        assert_eq!(plain_tensor.place, tensor.place, "{name}");
        assert_eq!(plain_tensor.layout, ROWS, "{name}");
        let (format, shape) = (tensor.format, &tensor.shape);
        let groups = shape.len() == 2 && shape[0] % 16 == 0;
        let looked_up = name == "embed_tokens" && !tied;
        let expected = match !format.is_float() && groups && !looked_up {
            true => LANES,
            false => ROWS,
        };
        assert_eq!(tensor.layout, expected, "{name}: {format} {shape:?}");
        let plain_bytes = plain_tensor.bytes(plain_store, plain);
        let bytes = tensor.bytes(store, manifest);
        assert_eq!(plain_bytes == bytes, expected == ROWS, "{name}");
        assert!(
            plain_bytes == rows(format, shape, expected, &bytes),
            "{name}"
        );
    }
    assert_eq!((plain.layout(), plain.format_version), (ROWS, 1));
    let version = if manifest.layout() == LANES { 2 } else { 1 };
    assert_eq!(manifest.format_version, version);
    in_lanes.0
}

fn gguf(model: &RandomModel, quantisation: Quantisation, folder: &Path) -> Box<dyn ModelSource> {
    let path = folder.join("model.gguf");
    let options = GgufOptions {
        quantisation,
        naming: ExpertNaming::default(),
    };
    let written = model.write_gguf(&path, options, WriteOptions::default());
    written.unwrap();
    open_source(&path).unwrap()
}

#[test]
fn rows_are_the_same_in_every_format_and_shape() {
    let base = RandomModel {
        layers: 1,
        hidden: 256,
        experts: 3,
        vocab: 304,
        ..RandomModel::default()
    };
    let models = [
        base.clone(),
        // Experts of which only two matrices are in blocks, and an embedding that is the head.
        RandomModel {
            expert_ffn: 48,
            tie: true,
            seed: 1,
            ..base.clone()
        },
        // Rows that are not whole groups, in experts and in the head.
        RandomModel {
            expert_ffn: 40,
            vocab: 301,
            seed: 2,
            ..base.clone()
        },
        RandomModel {
            vocab: 301,
            tie: true,
            seed: 3,
            ..base
        },
    ];
    let blocks = BlockFormat::ALL.into_iter().filter(|f| !f.is_float());
    let mut seen = BTreeSet::new();
    for quantisation in blocks.map(Quantisation::All).chain([Quantisation::Q4KM]) {
        for model in &models {
            let folder = tempfile::tempdir().unwrap();
            let source = gguf(model, quantisation, folder.path());
            let manifest = check_layouts(&*source, folder.path(), &ConvertOptions::default());
            let tensors = Stored::all(&manifest).into_iter();
            seen.extend(tensors.map(|tensor| (tensor.format, tensor.layout == LANES)));
            let objects = manifest.objects.iter().map(|object| object.layout);
            let whole_groups = if model.expert_ffn == 40 { ROWS } else { LANES };
            assert!(objects.into_iter().all(|layout| layout == whole_groups));
        }
    }
    for format in BlockFormat::ALL {
        let is_in_lanes = seen.contains(&(format, true));
        assert_eq!(is_in_lanes, !format.is_float(), "{format}");
        if !matches!(format, BlockFormat::BF16) {
            assert!(seen.contains(&(format, false)), "{format} as rows");
        }
    }
}

#[test]
fn rows_are_the_same_where_floats_become_blocks() {
    for tie in [false, true] {
        let fixture = fixture(&RandomModel {
            tie,
            vocab: 304,
            layers: 3,
            dense_layers: vec![1],
            ..RandomModel::default()
        });
        let folder = fixture.folder.path();
        let manifest = check_layouts(&fixture.open(), folder, &quantised());
        assert_eq!(manifest.format_version, 2);
        let layout = |name: &str| manifest.resident[name].layout;
        assert_eq!(layout("layers.1.down_proj"), LANES);
        assert_eq!(layout("embed_tokens") == LANES, tie);
        assert_eq!(manifest.resident.contains_key("lm_head"), !tie);
    }
}

#[test]
fn a_model_in_floats_is_the_same_store_whatever_is_asked_for() {
    let fixture = fixture(&RandomModel::default());
    let folder = fixture.folder.path();
    let manifest = check_layouts(&fixture.open(), folder, &ConvertOptions::default());
    assert_eq!(manifest.format_version, 1);
    for file in [
        "manifest.json",
        "fingerprint.json",
        "base-00001.safetensors",
    ] {
        let [rows, lanes] = [ROWS, LANES].map(|layout| folder.join(layout.name()).join(file));
        assert!(
            fs::read(rows).unwrap() == fs::read(lanes).unwrap(),
            "{file}"
        );
    }
}

/// What builds that know only version 1 read: no word of a layout but that of every object.
#[test]
fn a_row_major_store_says_what_it_always_said() {
    let fixture = fixture(&RandomModel::default());
    let summary = run(&fixture, &quantised()).unwrap();
    let manifest = fs::read_to_string(fixture.store.join("manifest.json")).unwrap();
    assert!(manifest.contains("\"format_version\": 1,"));
    let said = |text: &str| manifest.matches(text).count();
    assert_eq!(said("\"layout\""), summary.experts);
    assert_eq!(said("\"layout\": \"row-major-1\""), summary.experts);
    for file in &open_store(&fixture.store).unwrap().files {
        let bytes = fs::read(fixture.store.join(&file.path)).unwrap();
        let name = b"lanes-16-1";
        assert!(!bytes.windows(name.len()).any(|window| window == name));
    }
}

/// Tensors larger than a piece, whose bytes follow from where they lie.
struct Wide(Vec<SourceTensor>);

impl ModelSource for Wide {
    fn tensors(&self) -> &[SourceTensor] {
        &self.0
    }

    fn read_tensor(&self, _index: usize, offset: u64, into: &mut [u8]) -> Result<(), SourceError> {
        for (at, byte) in (offset..).zip(into) {
            let mixed = (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 37) as u8;
            // The upper half of a BF16 number of about one.
            *byte = if at % 2 == 1 { 0x3f } else { mixed };
        }
        Ok(())
    }

    fn metadata(&self) -> &ModelMetadata {
        unreachable!("only weights are read")
    }

    fn files(&self) -> &[SourceFileInfo] {
        &[]
    }

    fn read_file(&self, _index: usize, _offset: u64, _into: &mut [u8]) -> Result<(), SourceError> {
        unreachable!("there are no files")
    }

    fn fingerprint(&self) -> crate::fingerprint::Fingerprint {
        unreachable!("nothing is kept")
    }

    fn check_unchanged(&self) -> Result<(), SourceError> {
        Ok(())
    }
}

#[test]
fn pieces_are_whole_groups_however_wide_the_rows() {
    // From, to, shape, and how many pieces: groups that do not divide a piece, and one that is longer than it.
    let (q4_0, q8_0, bf16) = (BlockFormat::Q4_0, BlockFormat::Q8_0, BlockFormat::BF16);
    let cases: [(BlockFormat, BlockFormat, [u64; 2], usize); 4] = [
        (q4_0, q4_0, [1008, 8192 + 32], 2),
        (q8_0, q8_0, [32, 262_144], 2),
        (bf16, q8_0, [208, 8192 + 32], 2),
        (bf16, q8_0, [32, 131_072], 2),
    ];
    for (from, to, shape, pieces) in cases {
        let tensor = SourceTensor {
            id: TensorId::Resident("wide".into()),
            source_name: "wide".into(),
            format: from,
            shape: shape.to_vec(),
        };
        let source = Wide(vec![tensor]);
        let encode = |layout| {
            let planned = PlannedTensor {
                source: 0,
                name: "wide".into(),
                format: to,
                layout,
            };
            let (mut bytes, mut count) = (Vec::new(), 0);
            let take = |piece: &[u8]| {
                bytes.extend_from_slice(piece);
                count += 1;
                Ok(())
            };
            let mut encoder = TensorEncoder::default();
            encoder.encode(&source, &planned, take).unwrap();
            (bytes, count)
        };
        let ((plain, _), (lanes, count)) = (encode(ROWS), encode(LANES));
        assert_eq!(count, pieces, "{from} {shape:?}");
        assert!(plain != lanes && plain == rows(to, &shape, LANES, &lanes));
    }
}
