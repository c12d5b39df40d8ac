//! What the KV cache gets of the memory limit.

use crate::config::KvCacheSize;
use crate::model::budget::ExpertBytes;
use odmoe_backend::{KvFormat, KvSpec};
use odmoe_formats::ByteCount;
use odmoe_formats::model_config::ModelConfig;

/// Tokens in a KV block.
pub const KV_BLOCK_TOKENS: usize = 16;

/// Bytes that one token takes in the KV cache.
pub fn kv_token_bytes(model: &ModelConfig, format: KvFormat) -> u64 {
    let spec = KvSpec {
        layers: model.num_hidden_layers as usize,
        kv_heads: model.num_key_value_heads as usize,
        head_dim: model.head_dim as usize,
        block_tokens: KV_BLOCK_TOKENS,
        blocks: 1,
        format,
    };
    spec.token_bytes() as u64
}

/// What `auto` may take for the KV cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvRoom {
    /// What the limit leaves beside base, scratch and overhead.
    pub bytes: u64,
    /// What experts are to have of it, if that was said.
    pub experts: Option<ByteCount>,
}

/// Blocks of the KV cache, at least one.
///
/// `auto` wants the model's context for every sequence. It takes what experts leave; where they are `auto` themselves, a
/// quarter of the room, or up to a half for one whole context.
pub fn kv_blocks(
    size: KvCacheSize,
    model: &ModelConfig,
    format: KvFormat,
    max_running: usize,
    room: KvRoom,
) -> usize {
    let block_bytes = kv_token_bytes(model, format).max(1) * KV_BLOCK_TOKENS as u64;
    let blocks_of_tokens = |tokens: u64| tokens.div_ceil(KV_BLOCK_TOKENS as u64);
    let blocks = match size {
        KvCacheSize::Tokens(tokens) => blocks_of_tokens(tokens as u64),
        KvCacheSize::Bytes(bytes) => bytes.0 / block_bytes,
        KvCacheSize::Auto => {
            let context = blocks_of_tokens(u64::from(model.max_position_embeddings));
            let wanted = context.saturating_mul(max_running as u64);
            let share = |part: u64| room.bytes / part / block_bytes;
            let left = match room.experts {
                Some(experts) => room.bytes.saturating_sub(experts.0) / block_bytes,
                None => share(4).max(context.min(share(2))),
            };
            wanted.min(left)
        }
    };
    // Block numbers are 32 bits wide.
    usize::try_from(blocks.clamp(1, u64::from(u32::MAX))).unwrap_or(usize::MAX)
}

/// As many blocks as there can be later: the model's context for every sequence, or what the limit leaves beside the
/// least that experts take.
pub fn kv_blocks_max(
    model: &ModelConfig,
    format: KvFormat,
    max_running: usize,
    room: KvRoom,
    experts: ExpertBytes,
) -> usize {
    let room = KvRoom {
        experts: Some(experts.least),
        ..room
    };
    kv_blocks(KvCacheSize::Auto, model, format, max_running, room)
}

#[cfg(test)]
mod tests {
    use super::*;
    use odmoe_formats::model_config::MoeConfig;

    fn model() -> ModelConfig {
        ModelConfig {
            architecture: "qwen3moe".into(),
            num_hidden_layers: 4,
            hidden_size: 64,
            num_attention_heads: 4,
            num_key_value_heads: 2,
            head_dim: 16,
            vocab_size: 100,
            rms_norm_eps: 1e-6,
            rope_theta: 1e4,
            max_position_embeddings: 1000,
            tie_word_embeddings: false,
            intermediate_size: 0,
            attention_bias: false,
            rope_frequency_divisors: Vec::new(),
            moe: Some(MoeConfig {
                num_experts: 4,
                num_experts_per_tok: 2,
                moe_intermediate_size: 32,
                norm_topk_prob: true,
                dense_layers: vec![],
                shared_expert_intermediate_size: 0,
            }),
        }
    }

    fn blocks(size: KvCacheSize, bytes: u64, experts: Option<u64>) -> usize {
        let room = KvRoom {
            bytes,
            experts: experts.map(ByteCount),
        };
        kv_blocks(size, &model(), KvFormat::F16, 8, room)
    }

    #[test]
    fn beside_automatic_experts_it_takes_a_quarter_or_a_half_for_one_context() {
        let block = kv_token_bytes(&model(), KvFormat::F16) * KV_BLOCK_TOKENS as u64;
        assert_eq!(block, 4 * 2 * 2 * 16 * 2 * 16);
        let auto = |room: u64| blocks(KvCacheSize::Auto, room * block, None);
        assert_eq!(auto(1 << 32), 63 * 8);
        assert_eq!(auto(400), 100);
        assert_eq!(auto(200), 63);
        assert_eq!(auto(100), 50);
        assert_eq!(auto(0), 1);
    }

    #[test]
    fn beside_a_given_budget_it_takes_what_is_left() {
        let block = kv_token_bytes(&model(), KvFormat::F16) * KV_BLOCK_TOKENS as u64;
        let auto = |room: u64| blocks(KvCacheSize::Auto, room * block, Some(100 * block));
        assert_eq!(auto(1 << 32), 63 * 8);
        assert_eq!(auto(100 + 63 * 8), 63 * 8);
        assert_eq!(auto(110), 10);
        assert_eq!(auto(50), 1);
    }

    #[test]
    fn what_is_said_is_taken() {
        let block = kv_token_bytes(&model(), KvFormat::F16) * KV_BLOCK_TOKENS as u64;
        assert_eq!(blocks(KvCacheSize::Tokens(17), 0, None), 2);
        assert_eq!(
            blocks(KvCacheSize::Bytes(ByteCount(5 * block + 1)), 0, None),
            5
        );
    }
}
