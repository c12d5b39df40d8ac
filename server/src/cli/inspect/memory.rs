//! What a model would take to run: the memory sums that `odmoe serve` would print.

use crate::config::{ExpertCacheSize, KvCacheSize};
use crate::model::locate::ModelLocation;
use crate::model::memory_limit::MemoryLimit;
use crate::model::open::divide;
use crate::model::read_plan::ReadSettings;
use crate::model::settings::Settings;
use odmoe_backend::KvFormat;
use odmoe_engine::PrefixCache;
use odmoe_expert_store::residency::eviction::Eviction;
use odmoe_formats::manifest::Manifest;
use serde_json::{Value, json};
use std::time::Duration;

/// Shares of experts for which the memory sum is shown, in percent.
const SHARES: [f64; 3] = [25.0, 50.0, 100.0];
/// Less than any cache can be, which is raised to the least that one can.
const LEAST_SHARE: f64 = 1e-6;
/// Tokens of keys and values in a sum that does not fit, where the context is not less.
const SHOWN_TOKENS: u32 = 8192;

/// The memory sums of `odmoe serve` with its default settings under a limit, for some shares of experts.
/// What does not fit is shown with one sequence of keys and values.
pub(super) fn to_run(
    location: &ModelLocation,
    manifest: &Manifest,
    limit: Option<MemoryLimit>,
) -> Value {
    let context = manifest.config.max_position_embeddings;
    let sum = |percent: f64| {
        let served = default_settings(location.clone(), percent, limit.clone());
        let divided = divide(&served, manifest);
        let fits = divided.is_ok();
        let too_much = || {
            let settings = Settings {
                memory_limit: None,
                kv_cache: KvCacheSize::Tokens(context.min(SHOWN_TOKENS) as usize),
                ..served.clone()
            };
            divide(&settings, manifest)
        };
        let (engine, _, plan, budget) = divided.or_else(|_| too_much()).ok()?;
        Some(json!({
            "expert_cache_percent": if percent == LEAST_SHARE { budget.percent } else { percent },
            "total_bytes": plan.total().0,
            "base_bytes": plan.base.0,
            "kv_bytes": plan.kv.0,
            "kv_tokens": engine.kv_blocks * engine.kv_block_tokens,
            "expert_bytes": plan.experts.0,
            "scratch_bytes": plan.scratch.0,
            "overhead_bytes": plan.overhead.0,
            "fits_here": fits,
        }))
    };
    // In a dense model all shares are one.
    let shares = match manifest.objects.is_empty() {
        true => &SHARES[2..],
        false => &SHARES[..],
    };
    let sums: Vec<Value> = shares.iter().copied().filter_map(sum).collect();
    json!({
        "limit_bytes": limit.as_ref().map(|limit| limit.bytes.0),
        "limit_source": limit.as_ref().map(|limit| limit.source.to_string()),
        "least": sum(LEAST_SHARE),
        "sums": sums,
    })
}

/// Those of `odmoe serve`, as far as they have a part in the division of memory.
fn default_settings(location: ModelLocation, percent: f64, limit: Option<MemoryLimit>) -> Settings {
    Settings {
        location,
        cache_folder: None,
        expert_cache: Some(ExpertCacheSize::Percent(percent)),
        memory_limit: limit,
        kv_cache: KvCacheSize::Auto,
        kv_format: KvFormat::F16,
        max_running: 8,
        max_queue: 64,
        prefill_chunk_tokens: None,
        threads: 1,
        kernels: None,
        reading: ReadSettings::default(),
        read_timeout: Duration::from_secs(30),
        prefetch: true,
        warm_start: false,
        eviction: Eviction::default(),
        pins: None,
        record_trace: None,
        prefix_cache: PrefixCache::default(),
        served_name: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::facts::sketch_manifest;
    use crate::model::memory_limit::LimitSource;
    use odmoe_convert::open_source;
    use odmoe_convert::random_model::RandomModel;
    use odmoe_formats::ByteCount;

    /// Keys and values get what the limit leaves, and what does not fit is shown with one context.
    #[test]
    fn a_limit_is_kept_and_what_is_beyond_it_is_shown() {
        let folder = tempfile::tempdir().unwrap();
        let model = RandomModel {
            hidden: 256,
            expert_ffn: 1024,
            experts: 16,
            ..RandomModel::default()
        };
        model.write(folder.path()).unwrap();
        let location = ModelLocation::HuggingFace(folder.path().into());
        let manifest = sketch_manifest(&*open_source(folder.path()).unwrap());
        let sums = |limit: Option<u64>| {
            let limit = limit.map(|bytes| MemoryLimit {
                bytes: ByteCount(bytes),
                source: LimitSource::Flag,
            });
            to_run(&location, &manifest, limit)
        };
        let of = |sum: &Value, field: &str| sum[field].as_u64().unwrap();
        let free = sums(None);
        let context = u64::from(model.max_position);
        for sum in free["sums"].as_array().unwrap() {
            assert_eq!(of(sum, "kv_tokens"), 8 * context, "every sequence's");
            assert_eq!(sum["fits_here"], true);
        }
        let half = &free["sums"][1];
        let token_bytes = of(half, "kv_bytes") / of(half, "kv_tokens");
        let limit = of(half, "total_bytes") - of(half, "kv_bytes") + 100 * token_bytes;
        let limited = sums(Some(limit));
        let [_, half, all] = &limited["sums"].as_array().unwrap()[..] else {
            panic!("{limited}")
        };
        // A prompt chunk may be shorter under a limit, which leaves more to keys and values.
        assert!(of(half, "kv_tokens") >= 96, "{half}");
        assert_eq!(half["fits_here"], true);
        assert!(of(half, "total_bytes") <= limit);
        assert_eq!(
            (of(all, "kv_tokens"), &all["fits_here"]),
            (context, &false.into())
        );
        assert!(of(all, "total_bytes") > limit);
    }
}
