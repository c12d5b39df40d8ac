//! Which format each tensor of a GGUF file has: one for all matrices, or a mix as llama.cpp's quantiser makes it.

use super::{RandomModel, Routing};
use crate::source::TensorId;
use odmoe_formats::BlockFormat;
use odmoe_formats::names::{EMBED_TOKENS, LM_HEAD};
use std::fmt;
use std::str::FromStr;

/// How the matrices of a GGUF file are stored. Norms and routers are F32 in all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantisation {
    /// All matrices in one format; `MXFP4`, as such files go, for the MLPs alone, beside Q8_0.
    All(BlockFormat),
    /// Mostly Q3_K; the output head Q6_K, values, output and down projections Q4_K or Q5_K.
    Q3KM,
    /// Mostly Q4_K; the output head and half of the value and down projections Q6_K.
    Q4KM,
    /// Mostly Q5_K; the output head and half of the value and down projections Q6_K.
    Q5KM,
}

/// The mixes, with their names and llama.cpp's number for such files.
const MIXES: [(Quantisation, &str, u32); 3] = [
    (Quantisation::Q3KM, "Q3_K_M", 12),
    (Quantisation::Q4KM, "Q4_K_M", 15),
    (Quantisation::Q5KM, "Q5_K_M", 17),
];

impl Quantisation {
    /// Every name.
    pub fn names() -> impl Iterator<Item = &'static str> {
        let formats = BlockFormat::ALL.into_iter().map(BlockFormat::name);
        formats.chain(MIXES.into_iter().map(|(_, name, _)| name))
    }

    /// llama.cpp's number for files that are mostly so: `general.file_type`.
    pub(super) fn file_type(self) -> u32 {
        match self {
            Self::All(format) => match format {
                BlockFormat::F32 => 0,
                BlockFormat::F16 => 1,
                BlockFormat::Q4_0 => 2,
                BlockFormat::Q4_1 => 3,
                BlockFormat::Q8_0 => 7,
                BlockFormat::Q5_0 => 8,
                BlockFormat::Q5_1 => 9,
                BlockFormat::Q2_K => 10,
                BlockFormat::Q3_K => 11,
                BlockFormat::Q4_K => 14,
                BlockFormat::Q5_K => 16,
                BlockFormat::Q6_K => 18,
                BlockFormat::IQ4_NL => 25,
                BlockFormat::IQ4_XS => 30,
                BlockFormat::BF16 => 32,
                BlockFormat::MXFP4 => 38,
                other => unreachable!("{other} has no number here"),
            },
            mix => MIXES
                .into_iter()
                .find(|(other, ..)| *other == mix)
                .map_or(0, |(.., number)| number),
        }
    }

    /// The format of a matrix of that many columns.
    pub(super) fn of(self, model: &RandomModel, id: &TensorId, columns: u64) -> BlockFormat {
        fitting(self.wanted(model, id), columns)
    }

    fn wanted(self, model: &RandomModel, id: &TensorId) -> BlockFormat {
        let (layer, kind) = place(id);
        let is_head = kind == LM_HEAD || (model.tie && kind == EMBED_TOKENS);
        if let Self::All(format) = self {
            let mlp = matches!(kind, "gate_proj" | "up_proj" | "down_proj");
            return match format {
                BlockFormat::MXFP4 if !mlp => BlockFormat::Q8_0,
                format => format,
            };
        }
        if is_head {
            return BlockFormat::Q6_K;
        }
        let (eight, more) = (model.experts == 8, more_bits(layer, model.layers));
        let base = match self {
            Self::Q3KM => BlockFormat::Q3_K,
            Self::Q4KM => BlockFormat::Q4_K,
            _ => BlockFormat::Q5_K,
        };
        match (kind, self) {
            ("v_proj" | "k_proj", _) if eight => BlockFormat::Q8_0,
            // There its rows are the keys', and must be the same after rounding.
            ("q_proj", _) if eight && model.routing == Routing::Reuse => BlockFormat::Q8_0,
            ("v_proj", Self::Q3KM) if layer < 2 => BlockFormat::Q5_K,
            ("v_proj" | "o_proj", Self::Q3KM) if kind == "v_proj" || !eight => BlockFormat::Q4_K,
            ("o_proj", Self::Q3KM | Self::Q4KM) if eight => BlockFormat::Q5_K,
            ("down_proj", Self::Q3KM) if layer < model.layers / 16 => BlockFormat::Q5_K,
            ("down_proj", Self::Q3KM) => BlockFormat::Q4_K,
            ("v_proj" | "down_proj", _) if more => BlockFormat::Q6_K,
            _ => base,
        }
    }
}

/// llama.cpp's choice of layers that keep more bits: the first and last eighth, and every third between.
fn more_bits(layer: u32, layers: u32) -> bool {
    let eighth = layers / 8;
    layer < eighth || layer >= 7 * layers / 8 || (layer - eighth) % 3 == 2
}

/// llama.cpp's next best where rows are not whole blocks: 32 elements for 256, and halves for the rest.
fn fitting(wanted: BlockFormat, columns: u64) -> BlockFormat {
    use BlockFormat as F;
    let fits = |format: BlockFormat| columns.is_multiple_of(format.block_elements() as u64);
    if fits(wanted) {
        return wanted;
    }
    let next = match wanted {
        F::Q2_K | F::Q3_K => F::Q4_0,
        F::Q4_K => F::Q5_0,
        F::Q5_K => F::Q5_1,
        F::Q6_K => F::Q8_0,
        F::IQ4_XS => F::IQ4_NL,
        _ => F::F16,
    };
    if fits(next) { next } else { F::F16 }
}

/// Layer and kind; the layer of what is in none is 0.
fn place(id: &TensorId) -> (u32, &str) {
    match id {
        TensorId::Resident(name) => match name.strip_prefix("layers.") {
            Some(rest) => {
                let (layer, kind) = rest.split_once('.').unwrap_or(("0", rest));
                (layer.parse().unwrap_or(0), kind)
            }
            None => (0, name),
        },
        TensorId::Expert(key, role) => (key.layer.0, role.name()),
    }
}

impl fmt::Display for Quantisation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All(format) => format.fmt(f),
            mix => {
                let name = MIXES.iter().find(|(other, ..)| other == mix);
                f.write_str(name.map_or("", |(_, name, _)| name))
            }
        }
    }
}

impl FromStr for Quantisation {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let upper = text.to_uppercase();
        let mix = MIXES.into_iter().find(|(_, name, _)| *name == upper);
        let found = mix.map(|(mix, ..)| mix);
        found
            .or_else(|| BlockFormat::from_name(&upper).map(Self::All))
            .ok_or_else(|| {
                let names: Vec<&str> = Self::names().collect();
                format!("not one of {}", names.join(", "))
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random_model::Preset;
    use odmoe_formats::ExpertKey;
    use odmoe_formats::names::ExpertRole;

    #[test]
    fn names_are_read_back() {
        for name in Quantisation::names() {
            let found: Quantisation = name.to_lowercase().parse().unwrap();
            assert_eq!(found.to_string(), name);
        }
        assert!(
            "Q4_K_L"
                .parse::<Quantisation>()
                .unwrap_err()
                .contains("Q4_K_M")
        );
    }

    /// What llama.cpp's quantiser makes of Qwen3-30B-A3B and of Mixtral 8x7B.
    #[test]
    fn mixes_give_more_bits_where_llama_cpp_does() {
        let qwen = Preset::Qwen3_30bA3b.model();
        let resident = |name: &str| TensorId::Resident(name.into());
        let down = |layer| TensorId::Expert(ExpertKey::routed(layer, 5), ExpertRole::DownProj);
        let of = |model: &RandomModel, id: &TensorId| Quantisation::Q4KM.of(model, id, 2048);
        for layer in 0..48 {
            let more = !(6..42).contains(&layer) || (layer - 6) % 3 == 2;
            let expected = if more {
                BlockFormat::Q6_K
            } else {
                BlockFormat::Q4_K
            };
            assert_eq!(of(&qwen, &down(layer)), expected, "{layer}");
            let values = resident(&format!("layers.{layer}.v_proj"));
            assert_eq!(of(&qwen, &values), expected, "{layer}");
        }
        assert_eq!(of(&qwen, &resident(LM_HEAD)), BlockFormat::Q6_K);
        assert_eq!(of(&qwen, &resident(EMBED_TOKENS)), BlockFormat::Q4_K);
        let mixtral = Preset::Mixtral8x7b.model();
        assert_eq!(
            of(&mixtral, &resident("layers.9.k_proj")),
            BlockFormat::Q8_0
        );
        assert_eq!(
            of(&mixtral, &resident("layers.9.q_proj")),
            BlockFormat::Q4_K
        );
        assert_eq!(
            of(&mixtral, &resident("layers.9.o_proj")),
            BlockFormat::Q5_K
        );
    }

    #[test]
    fn rows_that_are_not_whole_blocks_get_the_next_best() {
        let model = Preset::Toy.model();
        let id = TensorId::Resident("layers.0.q_proj".into());
        let of = |format, columns| Quantisation::All(format).of(&model, &id, columns);
        assert_eq!(of(BlockFormat::Q4_K, 96), BlockFormat::Q5_0);
        assert_eq!(of(BlockFormat::Q6_K, 96), BlockFormat::Q8_0);
        assert_eq!(of(BlockFormat::Q6_K, 100), BlockFormat::F16);
        assert_eq!(of(BlockFormat::Q4_0, 100), BlockFormat::F16);
        assert_eq!(of(BlockFormat::BF16, 100), BlockFormat::BF16);
    }
}
