//! What experts get of the memory limit, after the base, the KV cache, scratch and overhead.

use crate::config::{ExpertCacheSize, PinError};
use crate::model::memory_limit::MemoryLimit;
use odmoe_engine::MemoryPlan;
use odmoe_formats::ByteCount;

/// Bytes that experts take in memory, that is, in slots; 0 in a dense model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpertBytes {
    /// Two of the largest, and what is pinned.
    pub least: ByteCount,
    /// Two of the largest: a percentage never means less.
    pub two: ByteCount,
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
    /// What is to stay in memory is not there.
    #[error(transparent)]
    Pins(#[from] PinError),
    /// The KV cache cannot be stored so.
    #[error(
        "--kv-format {format} stores keys and values in blocks of {block}, but this model's heads are {head_dim} wide; use \
         f16"
    )]
    KvFormat {
        /// What was asked for.
        format: &'static str,
        /// Elements of a block.
        block: usize,
        /// Width of the model's heads.
        head_dim: usize,
    },
    /// Not even two experts fit, or in a dense model what is always in memory.
    #[error(
        "the model does not fit: base {base} + KV cache {kv} + scratch {scratch} + overhead {overhead}{} = {total}, and \
         the limit is {limit} ({source_of_limit}); raise --memory-limit or run where more memory is allowed, or lower \
         --kv-cache, --max-running or --prefill-chunk",
        match (least.0, two.0) {
            (0, _) => String::new(),
            (least_bytes, two) if least_bytes > two => format!(" + two experts and the pinned ones {least}"),
            _ => format!(" + two experts {least}"),
        }
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
        /// Two experts, and what is pinned.
        least: ByteCount,
        /// Two experts.
        two: ByteCount,
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
    /// Another KV cache was asked for than there can be.
    #[error("a KV cache of {asked} tokens cannot be had now; it can hold {least} to {most} tokens")]
    KvCache {
        /// Tokens that were asked for.
        asked: u64,
        /// One block.
        least: u64,
        /// What was set aside at the start.
        most: u64,
    },
    /// Less than two experts were asked for.
    #[error(
        "--expert-cache {asked} is too small: the least is {least}, two of the largest experts{}",
        if least > two { " beside those of --pin-experts; ask for that much or pin fewer" } else { "" }
    )]
    TooSmall {
        /// What was asked for.
        asked: ByteCount,
        /// What it takes.
        least: ByteCount,
        /// What it takes without pins.
        two: ByteCount,
    },
}

impl ExpertBytes {
    /// Whether there are any.
    pub fn is_none(&self) -> bool {
        self.full.0 == 0
    }

    /// What a size asks for, at most all; None for `auto`, where it has to be decided.
    pub fn asked(&self, size: ExpertCacheSize) -> Option<ByteCount> {
        let bytes = match size {
            ExpertCacheSize::Auto if self.is_none() => 0,
            ExpertCacheSize::Auto => return None,
            ExpertCacheSize::Bytes(bytes) => bytes.0,
            ExpertCacheSize::Percent(percent) => {
                let share = (self.full.0 as f64 * percent / 100.0).ceil() as u64;
                share.max(self.two.0)
            }
        };
        Some(ByteCount(bytes.min(self.full.0)))
    }
}

/// Chooses the experts' budget. `plan` is the memory sum; its `experts` are not looked at. `in_slots` says what is
/// really allocated of a budget. Without a limit everything fits.
pub fn expert_budget(
    size: ExpertCacheSize,
    plan: &MemoryPlan,
    experts: ExpertBytes,
    limit: Option<&MemoryLimit>,
    in_slots: impl Fn(ByteCount) -> ByteCount,
) -> Result<ExpertBudget, BudgetError> {
    let others = plan.total().0 - plan.experts.0;
    let room = limit.map_or(u64::MAX, |limit| limit.bytes.0.saturating_sub(others));
    if let Some(limit) = limit
        && limit.bytes.0 < others + experts.least.0
    {
        return Err(least_does_not_fit(plan, experts, limit));
    }
    let budget = match experts.asked(size) {
        None => ByteCount(room.min(experts.full.0)),
        Some(asked) if asked < experts.least => {
            return Err(BudgetError::TooSmall {
                asked,
                least: experts.least,
                two: experts.two,
            });
        }
        Some(asked) => asked,
    };
    let bytes = in_slots(budget);
    if let Some(limit) = limit
        && bytes.0 > room
    {
        return Err(asked_does_not_fit(bytes, plan, ByteCount(room), limit));
    }
    let reason = match size {
        ExpertCacheSize::Auto if experts.is_none() => "the model has none".to_owned(),
        _ if experts.is_none() => "the model has none, so --expert-cache does nothing".to_owned(),
        ExpertCacheSize::Auto if room >= experts.full.0 => "all experts fit".to_owned(),
        ExpertCacheSize::Auto => "what the memory limit leaves".to_owned(),
        ExpertCacheSize::Bytes(asked) => format!("--expert-cache {asked}"),
        ExpertCacheSize::Percent(percent) => format!("--expert-cache {percent}%"),
    };
    let percent = bytes.0 as f64 * 100.0 / experts.full.0.max(1) as f64;
    Ok(ExpertBudget {
        bytes,
        percent,
        reason,
    })
}

fn least_does_not_fit(plan: &MemoryPlan, experts: ExpertBytes, limit: &MemoryLimit) -> BudgetError {
    let ExpertBytes { least, two, .. } = experts;
    BudgetError::LeastDoesNotFit {
        base: plan.base,
        kv: plan.kv,
        scratch: plan.scratch,
        overhead: plan.overhead,
        least,
        two,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::memory_limit::LimitSource;

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
            two: ByteCount(20 * MIB),
            full: ByteCount(1000 * MIB),
        }
    }

    fn limit(mib: u64) -> MemoryLimit {
        MemoryLimit {
            bytes: ByteCount(mib * MIB),
            source: LimitSource::Flag,
        }
    }

    /// As if slots held ten bytes.
    fn whole_tens(budget: ByteCount) -> ByteCount {
        ByteCount(budget.0 / 10 * 10)
    }

    fn choose(size: ExpertCacheSize, limit_mib: u64) -> Result<(u64, String), BudgetError> {
        let chosen = expert_budget(size, &plan(), experts(), Some(&limit(limit_mib)), |b| b);
        chosen.map(|budget| (budget.bytes.0 / MIB, budget.reason))
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
        let unlimited =
            expert_budget(ExpertCacheSize::Auto, &plan(), experts(), None, |b| b).unwrap();
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
    fn what_is_pinned_is_part_of_the_least() {
        let pinned = ExpertBytes {
            least: ByteCount(120 * MIB),
            ..experts()
        };
        let choose = |size, mib| expert_budget(size, &plan(), pinned, Some(&limit(mib)), |b| b);
        for size in [
            ExpertCacheSize::Percent(11.9),
            ExpertCacheSize::Bytes(ByteCount(119 * MIB)),
        ] {
            let error = choose(size, 2000).unwrap_err().to_string();
            for part in [
                "119.0 MiB is too small",
                "the least is 120.0 MiB",
                "pin fewer",
            ] {
                assert!(error.contains(part), "{error} lacks {part}");
            }
        }
        let twelfth = choose(ExpertCacheSize::Percent(12.0), 2000).unwrap();
        assert_eq!(twelfth.bytes, pinned.least);
        let auto = choose(ExpertCacheSize::Auto, 319).unwrap_err().to_string();
        let sum = "the pinned ones 120.0 MiB = 320.0 MiB";
        assert!(auto.contains(sum), "{auto}");
        assert!(choose(ExpertCacheSize::Auto, 320).is_ok());
    }

    #[test]
    fn a_model_without_experts_needs_no_budget_and_takes_any() {
        let none = ExpertBytes {
            least: ByteCount(0),
            two: ByteCount(0),
            full: ByteCount(0),
        };
        let choose = |size, mib| expert_budget(size, &plan(), none, Some(&limit(mib)), |b| b);
        let auto = choose(ExpertCacheSize::Auto, 200).unwrap();
        assert_eq!((auto.bytes, auto.percent), (ByteCount(0), 0.0));
        assert_eq!(auto.reason, "the model has none");
        for size in [
            ExpertCacheSize::Percent(25.0),
            ExpertCacheSize::Bytes(ByteCount(MIB)),
        ] {
            let budget = choose(size, 200).unwrap();
            assert_eq!(budget.bytes, ByteCount(0));
            assert!(budget.reason.contains("--expert-cache does nothing"));
        }
        // What the KV cache may take is decided without experts.
        assert_eq!(none.asked(ExpertCacheSize::Auto), Some(ByteCount(0)));
        assert_eq!(experts().asked(ExpertCacheSize::Auto), None);

        let error = choose(ExpertCacheSize::Auto, 199).unwrap_err().to_string();
        assert!(error.contains("overhead 30.0 MiB = 200.0 MiB"), "{error}");
    }

    #[test]
    fn what_slots_do_not_use_is_not_counted() {
        let least = experts().least.0;
        let odd = ExpertCacheSize::Bytes(ByteCount(least + 17));
        let exactly = MemoryLimit {
            bytes: ByteCount(200 * MIB + least + 10),
            source: LimitSource::Flag,
        };
        let budget = expert_budget(odd, &plan(), experts(), Some(&exactly), whole_tens).unwrap();
        assert_eq!(budget.bytes.0, (least + 17) / 10 * 10);
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
}
