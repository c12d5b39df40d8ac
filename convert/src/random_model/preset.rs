//! Shapes of models that people run, and a small one.

use super::{Family, RandomModel};
use odmoe_formats::BlockFormat;

/// The shape of a known model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    /// About 2 MB: Qwen3-MoE with two layers of eight experts.
    Toy,
    /// Qwen3-30B-A3B.
    Qwen3_30bA3b,
    /// Mixtral 8x7B.
    Mixtral8x7b,
    /// OLMoE 1B-7B.
    Olmoe7b,
    /// Llama 3.2 1B, which is dense.
    Llama1b,
}

impl Preset {
    /// Every preset, in the order of declaration.
    pub const ALL: [Self; 5] = [
        Self::Toy,
        Self::Qwen3_30bA3b,
        Self::Mixtral8x7b,
        Self::Olmoe7b,
        Self::Llama1b,
    ];

    /// As it is called on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Toy => "toy",
            Self::Qwen3_30bA3b => "qwen3-30b-a3b",
            Self::Mixtral8x7b => "mixtral-8x7b",
            Self::Olmoe7b => "olmoe-7b",
            Self::Llama1b => "llama-1b",
        }
    }

    /// Its shape.
    pub fn model(self) -> RandomModel {
        match self {
            Self::Toy => toy(),
            Self::Qwen3_30bA3b => qwen3_30b_a3b(),
            Self::Mixtral8x7b => mixtral_8x7b(),
            Self::Olmoe7b => olmoe_7b(),
            Self::Llama1b => llama_1b(),
        }
    }
}

fn toy() -> RandomModel {
    RandomModel {
        hidden: 256,
        head_dim: 64,
        expert_ffn: 256,
        vocab: 512,
        dense_ffn: 768,
        format: BlockFormat::BF16,
        ..RandomModel::default()
    }
}

fn qwen3_30b_a3b() -> RandomModel {
    RandomModel {
        layers: 48,
        hidden: 2048,
        heads: 32,
        kv_heads: 4,
        head_dim: 128,
        experts: 128,
        top_k: 8,
        expert_ffn: 768,
        vocab: 151_936,
        dense_ffn: 6144,
        rope_theta: 1e6,
        max_position: 40_960,
        ..RandomModel::default()
    }
}

fn mixtral_8x7b() -> RandomModel {
    RandomModel {
        family: Family::Llama,
        layers: 32,
        hidden: 4096,
        heads: 32,
        kv_heads: 8,
        head_dim: 128,
        experts: 8,
        top_k: 2,
        expert_ffn: 14_336,
        vocab: 32_000,
        dense_ffn: 0,
        rms_norm_eps: 1e-5,
        rope_theta: 1e6,
        max_position: 32_768,
        ..RandomModel::default()
    }
}

fn olmoe_7b() -> RandomModel {
    RandomModel {
        family: Family::Olmoe,
        layers: 16,
        hidden: 2048,
        heads: 16,
        kv_heads: 16,
        head_dim: 128,
        experts: 64,
        top_k: 8,
        expert_ffn: 1024,
        vocab: 50_304,
        dense_ffn: 0,
        norm_topk_prob: false,
        rms_norm_eps: 1e-5,
        max_position: 4096,
        ..RandomModel::default()
    }
}

fn llama_1b() -> RandomModel {
    RandomModel {
        family: Family::Llama,
        layers: 16,
        hidden: 2048,
        heads: 32,
        kv_heads: 8,
        head_dim: 64,
        experts: 0,
        top_k: 0,
        expert_ffn: 0,
        vocab: 128_256,
        dense_ffn: 8192,
        tie: true,
        rms_norm_eps: 1e-5,
        rope_theta: 5e5,
        max_position: 131_072,
        ..RandomModel::default()
    }
}

impl RandomModel {
    /// Another width of the residual stream. The heads together become wider or narrower with it, at the same number
    /// of query heads to a key/value head, and the same width of a head where that divides.
    pub fn with_hidden(mut self, hidden: u32) -> Self {
        let group = self.heads / self.kv_heads;
        let ratio = u64::from(self.heads * self.head_dim);
        let all_heads = (ratio * u64::from(hidden) / u64::from(self.hidden)) as u32;
        let divides = |width: &u32| all_heads.is_multiple_of(width * group);
        let widths = std::iter::successors(Some(self.head_dim), |width| Some(width / 2));
        let width = widths.take_while(|width| *width >= 2).find(divides);
        self.hidden = hidden;
        match width {
            Some(width) => (self.head_dim, self.heads) = (width, all_heads / width),
            // One group of the narrowest heads; only widths that no one asks for come here.
            None => (self.head_dim, self.heads) = (2, group),
        }
        self.kv_heads = self.heads / group;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_preset_is_a_model_and_so_are_narrower_ones() {
        for preset in Preset::ALL {
            let model = preset.model();
            assert_eq!(model.model_config().check(), Ok(()), "{}", preset.name());
            assert_eq!(model.clone().with_hidden(model.hidden), model);
            for hidden in [64, 128, 256, 768, 1024] {
                let narrow = model.clone().with_hidden(hidden);
                assert_eq!(narrow.model_config().check(), Ok(()), "{}", preset.name());
                assert_eq!(narrow.hidden, hidden);
                let ratio = |m: &RandomModel| m.heads * m.head_dim * 256 / m.hidden;
                assert_eq!(ratio(&narrow), ratio(&model), "{} {hidden}", preset.name());
            }
        }
    }
}
