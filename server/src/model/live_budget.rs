//! What experts and the KV cache may take while the model is served: what an operator asks for, and what limits and
//! pressure leave of the experts' part.

use crate::config::{ExpertCacheSize, KvCacheSize};
use crate::model::budget::{BudgetError, ExpertBytes, expert_budget};
use crate::model::memory_limit::MemoryLimit;
use odmoe_engine::MemoryPlan;
use odmoe_formats::ByteCount;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What a [`LiveBudget`] is made of.
pub struct LiveBudgetParts {
    /// The memory sum at the start.
    pub plan: MemoryPlan,
    /// What experts can take.
    pub experts: ExpertBytes,
    /// The limit as it is now; looked up at every change.
    pub limit: Box<dyn Fn() -> Option<MemoryLimit> + Send + Sync>,
    /// What is really allocated of a budget.
    pub in_slots: Box<dyn Fn(ByteCount) -> ByteCount + Send + Sync>,
    /// The KV cache.
    pub kv: LiveKv,
    /// Tells the engine.
    pub apply: Box<dyn Fn(LiveChange) + Send + Sync>,
}

/// A KV cache at the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LiveKv {
    /// Blocks.
    pub blocks: usize,
    /// As many as there can be.
    pub blocks_max: usize,
    /// Bytes of each.
    pub block_bytes: u64,
    /// Tokens in each.
    pub block_tokens: usize,
}

/// What the engine is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LiveChange {
    /// What expert slots may take.
    Experts(ByteCount),
    /// How many KV blocks there are to be.
    KvBlocks(usize),
}

/// See the module.
pub struct LiveBudget {
    parts: LiveBudgetParts,
    state: Mutex<State>,
}

struct State {
    /// What was asked for, in slots.
    asked: ByteCount,
    /// What pressure leaves, while it does.
    ceiling: Option<ByteCount>,
    /// What the engine was told last.
    applied: ByteCount,
    kv_blocks: usize,
}

/// The memory sum as it is now.
#[derive(Clone, Debug, PartialEq)]
pub struct LiveSum {
    /// Its terms; `experts` is what the engine was told.
    pub plan: MemoryPlan,
    /// What was asked for; more than `plan.experts` while limits or pressure hold it down.
    pub asked: ByteCount,
    /// The least that experts can have.
    pub least: ByteCount,
    /// What there is.
    pub limit: Option<MemoryLimit>,
}

impl LiveBudget {
    /// As the engine was started.
    pub fn new(parts: LiveBudgetParts) -> Self {
        let (at_start, kv_blocks) = (parts.plan.experts, parts.kv.blocks);
        Self {
            parts,
            state: Mutex::new(State {
                asked: at_start,
                ceiling: None,
                applied: at_start,
                kv_blocks,
            }),
        }
    }

    /// Asks for other budgets; what is None stays. What does not fit the limit is refused, and then nothing changes;
    /// pressure may still hold experts down for a while.
    pub fn ask(
        &self,
        experts: Option<ExpertCacheSize>,
        kv: Option<KvCacheSize>,
    ) -> Result<LiveSum, BudgetError> {
        let parts = &self.parts;
        let limit = (parts.limit)();
        let mut state = self.lock();
        let kv_blocks = match kv {
            Some(size) => parts.kv.blocks_for(size)?,
            None => state.kv_blocks,
        };
        let size = experts.unwrap_or(ExpertCacheSize::Bytes(state.asked));
        let plan = self.plan(state.applied, kv_blocks);
        let chosen = expert_budget(size, &plan, parts.experts, limit.as_ref(), |budget| {
            (parts.in_slots)(budget)
        })?;
        state.asked = chosen.bytes;
        if kv_blocks != state.kv_blocks {
            state.kv_blocks = kv_blocks;
            (parts.apply)(LiveChange::KvBlocks(kv_blocks));
        }
        self.apply(&mut state, limit.as_ref());
        Ok(self.sum(&state, limit))
    }

    /// Sets what pressure leaves, None: all. The limit is looked at as well. Returns what experts have now.
    pub fn hold(&self, ceiling: Option<ByteCount>) -> ByteCount {
        let limit = (self.parts.limit)();
        let mut state = self.lock();
        state.ceiling = ceiling;
        self.apply(&mut state, limit.as_ref());
        state.applied
    }

    /// The memory sum as it is now.
    pub fn now(&self) -> LiveSum {
        let limit = (self.parts.limit)();
        self.sum(&self.lock(), limit)
    }

    /// What was asked for, and what the engine was told.
    pub fn asked_and_applied(&self) -> (ByteCount, ByteCount) {
        let state = self.lock();
        (state.asked, state.applied)
    }

    /// The least that experts can have.
    pub fn least(&self) -> ByteCount {
        self.parts.experts.least
    }

    fn apply(&self, state: &mut State, limit: Option<&MemoryLimit>) {
        let parts = &self.parts;
        let others = self.plan(ByteCount(0), state.kv_blocks).total().0;
        let room = limit.map_or(u64::MAX, |limit| limit.bytes.0.saturating_sub(others));
        let ceiling = state.ceiling.map_or(u64::MAX, |ceiling| ceiling.0);
        // Below the least the model cannot be served at all: then the limit is broken, not the requests.
        let wanted = state.asked.0.min(room).min(ceiling);
        let wanted = wanted.max(parts.experts.least.0);
        let budget = (parts.in_slots)(ByteCount(wanted));
        if budget != state.applied {
            state.applied = budget;
            (parts.apply)(LiveChange::Experts(budget));
        }
    }

    fn plan(&self, experts: ByteCount, kv_blocks: usize) -> MemoryPlan {
        MemoryPlan {
            experts,
            kv: ByteCount(kv_blocks as u64 * self.parts.kv.block_bytes),
            ..self.parts.plan
        }
    }

    fn sum(&self, state: &State, limit: Option<MemoryLimit>) -> LiveSum {
        LiveSum {
            plan: self.plan(state.applied, state.kv_blocks),
            asked: state.asked,
            least: self.parts.experts.least,
            limit,
        }
    }

    /// Every change under the lock is complete in itself.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LiveKv {
    /// Blocks of a size; `auto` is what the start chose.
    fn blocks_for(&self, size: KvCacheSize) -> Result<usize, BudgetError> {
        let block_tokens = self.block_tokens as u64;
        let blocks = match size {
            KvCacheSize::Auto => self.blocks as u64,
            KvCacheSize::Tokens(tokens) => (tokens as u64).div_ceil(block_tokens),
            KvCacheSize::Bytes(bytes) => bytes.0 / self.block_bytes.max(1),
        };
        let most = self.blocks_max.max(self.blocks) as u64;
        if !(1..=most).contains(&blocks) {
            return Err(BudgetError::KvCache {
                asked: blocks.saturating_mul(block_tokens),
                least: block_tokens,
                most: most.saturating_mul(block_tokens),
            });
        }
        Ok(blocks as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::memory_limit::LimitSource;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    const MIB: u64 = 1 << 20;

    struct Bench {
        budget: LiveBudget,
        limit_mib: Arc<AtomicU64>,
        told: Arc<Mutex<Vec<LiveChange>>>,
    }

    impl Bench {
        /// MiB of experts, and KV blocks as negative numbers.
        fn told(&self) -> Vec<i64> {
            let told = self.told.lock().unwrap();
            let number = |change: &LiveChange| match change {
                LiveChange::Experts(bytes) => (bytes.0 / MIB) as i64,
                LiveChange::KvBlocks(blocks) => -(*blocks as i64),
            };
            told.iter().map(number).collect()
        }

        fn ask(&self, experts: &str) -> Result<LiveSum, BudgetError> {
            self.budget.ask(Some(experts.parse().unwrap()), None)
        }
    }

    /// 200 MiB beside experts, who can take 20 to 1000 and start with 500.
    fn bench(limit_mib: u64) -> Bench {
        let mib = |n: u64| ByteCount(n * MIB);
        let (limit_mib, told) = (Arc::new(AtomicU64::new(limit_mib)), Arc::default());
        let (limit, list): (_, Arc<Mutex<Vec<LiveChange>>>) =
            (limit_mib.clone(), Arc::clone(&told));
        let budget = LiveBudget::new(LiveBudgetParts {
            plan: MemoryPlan {
                base: mib(100),
                kv: mib(50),
                experts: mib(500),
                scratch: mib(20),
                overhead: mib(30),
            },
            experts: ExpertBytes {
                least: mib(20),
                two: mib(20),
                full: mib(1000),
            },
            limit: Box::new(move || {
                Some(MemoryLimit {
                    bytes: ByteCount(limit.load(Ordering::SeqCst) * MIB),
                    source: LimitSource::Flag,
                })
            }),
            in_slots: Box::new(|budget| ByteCount(budget.0 / MIB * MIB)),
            kv: LiveKv {
                blocks: 50,
                blocks_max: 80,
                block_bytes: MIB,
                block_tokens: 16,
            },
            apply: Box::new(move |change| list.lock().unwrap().push(change)),
        });
        Bench {
            budget,
            limit_mib,
            told,
        }
    }

    #[test]
    fn what_is_asked_for_is_told_and_summed() {
        let bench = bench(2000);
        let sum = bench.ask("25%").unwrap();
        assert_eq!(sum.plan.experts, ByteCount(250 * MIB));
        assert_eq!(sum.plan.total(), ByteCount(450 * MIB));
        bench.ask("auto").unwrap();
        bench.ask("100%").unwrap();
        assert_eq!(bench.told(), [250, 1000], "once a change");
    }

    #[test]
    fn what_does_not_fit_is_refused_and_changes_nothing() {
        let bench = bench(700);
        let refused = bench.ask("501MiB").unwrap_err();
        assert!(
            refused.to_string().contains("at most 500.0 MiB"),
            "{refused}"
        );
        let refused = bench.ask("1MiB").unwrap_err();
        assert!(
            refused.to_string().contains("the least is 20.0 MiB"),
            "{refused}"
        );
        assert!(bench.told().is_empty());
        assert_eq!(bench.budget.now().asked, ByteCount(500 * MIB));
    }

    #[test]
    fn a_limit_that_falls_is_followed_and_what_was_asked_for_comes_back() {
        let bench = bench(2000);
        bench.limit_mib.store(300, Ordering::SeqCst);
        bench.budget.hold(None);
        bench.limit_mib.store(100, Ordering::SeqCst);
        bench.budget.hold(None);
        assert_eq!(bench.budget.now().asked, ByteCount(500 * MIB));
        bench.limit_mib.store(2000, Ordering::SeqCst);
        assert_eq!(
            bench.budget.hold(Some(ByteCount(60 * MIB))),
            ByteCount(60 * MIB)
        );
        bench.budget.hold(None);
        assert_eq!(bench.told(), [100, 20, 60, 500]);
    }

    #[test]
    fn experts_and_kv_share_the_limit() {
        let bench = bench(700);
        let kv = |tokens| Some(KvCacheSize::Tokens(tokens));
        let refused = bench.budget.ask(None, kv(51 * 16)).unwrap_err();
        assert!(
            refused.to_string().contains("at most 499.0 MiB"),
            "{refused}"
        );
        let fewer = Some("490MiB".parse().unwrap());
        let sum = bench.budget.ask(fewer, kv(60 * 16)).unwrap();
        assert_eq!(
            (sum.plan.kv, sum.plan.total()),
            (ByteCount(60 * MIB), ByteCount(700 * MIB))
        );
        bench
            .budget
            .ask(Some(ExpertCacheSize::Auto), kv(20 * 16))
            .unwrap();
        assert_eq!(bench.told(), [-60, 490, -20, 530]);
        for (tokens, says) in [(81 * 16, "16 to 1280 tokens"), (usize::MAX, "16 to 1280")] {
            let refused = bench.budget.ask(None, kv(tokens)).unwrap_err();
            assert!(refused.to_string().contains(says), "{refused}");
        }
        let nothing = Some(KvCacheSize::Bytes(ByteCount(MIB - 1)));
        assert!(bench.budget.ask(None, nothing).is_err());
        let start = bench.budget.ask(None, Some(KvCacheSize::Auto));
        assert!(start.is_err(), "experts took what it left");
    }
}
