//! How the memory limit is divided: the base, the KV cache, scratch and overhead first, experts from what is left.

use crate::config::{ExpertCacheSize, KvCacheSize};
use crate::model::memory_limit::MemoryLimit;
use odmoe_backend::{KvFormat, KvSpec};
use odmoe_engine::MemoryPlan;
use odmoe_formats::ByteCount;
use odmoe_formats::model_config::ModelConfig;

/// Tokens in a KV block.
pub const KV_BLOCK_TOKENS: usize = 16;

/// Bytes that experts take in memory, that is, in slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpertBytes {
    /// Two of the largest.
    pub least: ByteCount,
    /// All; what a percentage refers to.
    pub full: ByteCount,
}

/// A budget for experts and why it is that much.
#[derive(Clone, Debug, PartialEq)]
pub struct ExpertBudget {
    /// For slots.
    pub bytes: ByteCount,
    /// Of all experts' bytes in slots, 0 to 100.
    pub percent: f64,
    /// For the start-up lines.
    pub reason: String,
}

/// A sum that does not fit. The message holds every term of it.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum BudgetError {
    /// Not even two experts fit.
    #[error(
        "the model does not fit: base {base} + KV cache {kv} + scratch {scratch} + overhead {overhead} + two experts \
         {least} = {total}, and the limit is {limit} ({source_of_limit}); raise --memory-limit or run where more memory \
         is allowed, or lower --kv-cache, --max-running or --prefill-chunk"
    )]
    LeastDoesNotFit {
        /// Resident weights.
        base: ByteCount,
        /// KV cache.
        kv: ByteCount,
        /// Activations.
        scratch: ByteCount,
        /// Everything else.
        overhead: ByteCount,
        /// Two experts.
        least: ByteCount,
        /// Of the above.
        total: ByteCount,
        /// What there is.
        limit: ByteCount,
        /// Who says so.
        source_of_limit: String,
    },
    /// What was asked for does not.
    #[error(
        "--expert-cache {asked} does not fit: with base {base}, KV cache {kv}, scratch {scratch} and overhead {overhead} \
         at most {room} of the limit of {limit} ({source_of_limit}) are left; lower it, use auto, or lower --kv-cache"
    )]
    AskedDoesNotFit {
        /// What was asked for.
        asked: ByteCount,
        /// Resident weights.
        base: ByteCount,
        /// KV cache.
        kv: ByteCount,
        /// Activations.
        scratch: ByteCount,
        /// Everything else.
        overhead: ByteCount,
        /// What is left for experts.
        room: ByteCount,
        /// What there is.
        limit: ByteCount,
        /// Who says so.
        source_of_limit: String,
    },
    /// Less than two experts were asked for.
    #[error(
        "--expert-cache {asked} is too small: the least is {least}, two of the largest experts"
    )]
    TooSmall {
        /// What was asked for.
        asked: ByteCount,
        /// What it takes.
        least: ByteCount,
    },
}

/// Chooses the experts' budget. `plan` is the memory sum; its `experts` are not looked at. Without a limit everything
/// fits.
pub fn expert_budget(
    size: ExpertCacheSize,
    plan: &MemoryPlan,
    experts: ExpertBytes,
    limit: Option<&MemoryLimit>,
) -> Result<ExpertBudget, BudgetError> {
    let others = plan.total().0 - plan.experts.0;
    let room = limit.map_or(u64::MAX, |limit| limit.bytes.0.saturating_sub(others));
    if let Some(limit) = limit
        && room < experts.least.0
    {
        return Err(least_does_not_fit(plan, experts.least, limit));
    }
    let (asked, reason) = match size {
        ExpertCacheSize::Auto if room >= experts.full.0 => {
            (experts.full.0, "all experts fit".to_owned())
        }
        ExpertCacheSize::Auto => (room, "what the memory limit leaves".to_owned()),
        ExpertCacheSize::Bytes(bytes) => (bytes.0, format!("--expert-cache {bytes}")),
        ExpertCacheSize::Percent(percent) => {
            let share = (experts.full.0 as f64 * percent / 100.0).ceil() as u64;
            (
                share.max(experts.least.0),
                format!("--expert-cache {percent}%"),
            )
        }
    };
    if asked < experts.least.0 {
        return Err(BudgetError::TooSmall {
            asked: ByteCount(asked),
            least: experts.least,
        });
    }
    let bytes = asked.min(experts.full.0);
    if let Some(limit) = limit
        && bytes > room
    {
        return Err(asked_does_not_fit(
            ByteCount(bytes),
            plan,
            ByteCount(room),
            limit,
        ));
    }
    let percent = if experts.full.0 == 0 {
        100.0
    } else {
        bytes as f64 * 100.0 / experts.full.0 as f64
    };
    Ok(ExpertBudget {
        bytes: ByteCount(bytes),
        percent,
        reason,
    })
}

fn least_does_not_fit(plan: &MemoryPlan, least: ByteCount, limit: &MemoryLimit) -> BudgetError {
    BudgetError::LeastDoesNotFit {
        base: plan.base,
        kv: plan.kv,
        scratch: plan.scratch,
        overhead: plan.overhead,
        least,
        total: ByteCount(plan.total().0 - plan.experts.0 + least.0),
        limit: limit.bytes,
        source_of_limit: limit.source.to_string(),
    }
}

fn asked_does_not_fit(
    asked: ByteCount,
    plan: &MemoryPlan,
    room: ByteCount,
    limit: &MemoryLimit,
) -> BudgetError {
    BudgetError::AskedDoesNotFit {
        asked,
        base: plan.base,
        kv: plan.kv,
        scratch: plan.scratch,
        overhead: plan.overhead,
        room,
        limit: limit.bytes,
        source_of_limit: limit.source.to_string(),
    }
}

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

/// Blocks of the KV cache, at least one. `room` is what the limit leaves beside base, scratch and overhead; `auto`
/// takes at most a quarter of it, unless one whole context needs more.
pub fn kv_blocks(
    size: KvCacheSize,
    model: &ModelConfig,
    format: KvFormat,
    max_running: usize,
    room: u64,
) -> usize {
    let block_bytes = kv_token_bytes(model, format).max(1) * KV_BLOCK_TOKENS as u64;
    let blocks_of_tokens = |tokens: u64| tokens.div_ceil(KV_BLOCK_TOKENS as u64);
    let blocks = match size {
        KvCacheSize::Tokens(tokens) => blocks_of_tokens(tokens as u64),
        KvCacheSize::Bytes(bytes) => bytes.0 / block_bytes,
        KvCacheSize::Auto => {
            let context = blocks_of_tokens(u64::from(model.max_position_embeddings));
            let wanted = context.saturating_mul(max_running as u64);
            let quarter = room / 4 / block_bytes;
            let half = room / 2 / block_bytes;
            wanted.min(quarter.max(context.min(half)))
        }
    };
    // Block numbers are 32 bits wide.
    usize::try_from(blocks.clamp(1, u64::from(u32::MAX))).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::memory_limit::LimitSource;
    use odmoe_formats::model_config::MoeConfig;

    const MIB: u64 = 1 << 20;

    fn plan() -> MemoryPlan {
        let mib = |n: u64| ByteCount(n * MIB);
        MemoryPlan {
            base: mib(100),
            kv: mib(50),
            experts: mib(7),
            scratch: mib(20),
            overhead: mib(30),
        }
    }

    fn experts() -> ExpertBytes {
        ExpertBytes {
            least: ByteCount(20 * MIB),
            full: ByteCount(1000 * MIB),
        }
    }

    fn limit(mib: u64) -> MemoryLimit {
        MemoryLimit {
            bytes: ByteCount(mib * MIB),
            source: LimitSource::Flag,
        }
    }

    fn choose(size: ExpertCacheSize, limit_mib: u64) -> Result<(u64, String), BudgetError> {
        expert_budget(size, &plan(), experts(), Some(&limit(limit_mib)))
            .map(|b| (b.bytes.0 / MIB, b.reason))
    }

    #[test]
    fn auto_is_all_or_what_is_left() {
        assert_eq!(
            choose(ExpertCacheSize::Auto, 5000).unwrap(),
            (1000, "all experts fit".into())
        );
        assert_eq!(
            choose(ExpertCacheSize::Auto, 1200).unwrap(),
            (1000, "all experts fit".into())
        );
        assert_eq!(
            choose(ExpertCacheSize::Auto, 1199).unwrap(),
            (999, "what the memory limit leaves".into())
        );
        assert_eq!(choose(ExpertCacheSize::Auto, 220).unwrap().0, 20);
        let unlimited = expert_budget(ExpertCacheSize::Auto, &plan(), experts(), None).unwrap();
        assert_eq!((unlimited.bytes.0 / MIB, unlimited.percent), (1000, 100.0));
    }

    #[test]
    fn what_does_not_fit_is_refused_with_the_sum() {
        let error = choose(ExpertCacheSize::Auto, 219).unwrap_err().to_string();
        for part in [
            "base 100.0 MiB",
            "KV cache 50.0 MiB",
            "20.0 MiB",
            "= 220.0 MiB",
            "219.0 MiB (--memory-limit)",
        ] {
            assert!(error.contains(part), "{error} lacks {part}");
        }
        let asked = choose(ExpertCacheSize::Bytes(ByteCount(500 * MIB)), 600).unwrap_err();
        assert!(
            matches!(asked, BudgetError::AskedDoesNotFit { room: ByteCount(r), .. } if r == 400 * MIB)
        );
        let small = choose(ExpertCacheSize::Bytes(ByteCount(19 * MIB)), 600).unwrap_err();
        assert!(matches!(small, BudgetError::TooSmall { .. }));
    }

    #[test]
    fn shares_are_of_all_experts_and_never_below_the_least() {
        assert_eq!(choose(ExpertCacheSize::Percent(10.0), 5000).unwrap().0, 100);
        assert_eq!(choose(ExpertCacheSize::Percent(0.001), 5000).unwrap().0, 20);
        assert_eq!(
            choose(ExpertCacheSize::Bytes(ByteCount(u64::MAX)), 5000)
                .unwrap()
                .0,
            1000
        );
    }

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
            moe: MoeConfig {
                num_experts: 4,
                num_experts_per_tok: 2,
                moe_intermediate_size: 32,
                norm_topk_prob: true,
                dense_layers: vec![],
            },
        }
    }

    #[test]
    fn kv_holds_every_sequence_within_a_quarter_or_one_within_a_half() {
        let block = kv_token_bytes(&model(), KvFormat::F16) * KV_BLOCK_TOKENS as u64;
        assert_eq!(block, 4 * 2 * 2 * 16 * 2 * 16);
        let auto = |blocks_of_room: u64| {
            kv_blocks(
                KvCacheSize::Auto,
                &model(),
                KvFormat::F16,
                8,
                blocks_of_room * block,
            )
        };
        assert_eq!(auto(u64::from(u32::MAX)), 63 * 8);
        assert_eq!(auto(400), 100);
        assert_eq!(auto(200), 63);
        assert_eq!(auto(100), 50);
        assert_eq!(auto(0), 1);
        assert_eq!(
            kv_blocks(KvCacheSize::Tokens(17), &model(), KvFormat::F16, 8, 0),
            2
        );
        assert_eq!(
            kv_blocks(
                KvCacheSize::Bytes(ByteCount(5 * block + 1)),
                &model(),
                KvFormat::F16,
                8,
                0
            ),
            5
        );
    }
}
