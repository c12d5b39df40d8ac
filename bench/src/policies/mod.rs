//! Policies by name: the store's own, and those that lost to them on recorded routing.

mod decayed;
mod lfru;
mod s3_fifo;

pub use decayed::DecayedFrequency;
pub use lfru::Lfru;
pub use s3_fifo::S3Fifo;

use odmoe_expert_store::residency::eviction::{Eviction, EvictionPolicy};

/// A policy that can be replayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// One that the store can run with.
    Store(Eviction),
    /// [`DecayedFrequency`].
    DecayedFrequency,
    /// [`Lfru`].
    Lfru,
    /// [`S3Fifo`].
    S3Fifo,
}

impl Policy {
    /// All of them, LRU first.
    pub const ALL: [Self; 5] = [
        Self::Store(Eviction::Lru),
        Self::S3Fifo,
        Self::Lfru,
        Self::DecayedFrequency,
        Self::Store(Eviction::NextTurn),
    ];

    /// A policy without objects, for so many slots.
    pub fn policy(self, capacity: usize) -> Box<dyn EvictionPolicy> {
        match self {
            Self::Store(eviction) => eviction.policy(),
            Self::DecayedFrequency => Box::<DecayedFrequency>::default(),
            Self::Lfru => Box::<Lfru>::default(),
            Self::S3Fifo => Box::new(S3Fifo::new(capacity)),
        }
    }

    /// What users call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Store(eviction) => eviction.name(),
            Self::DecayedFrequency => "decayed-frequency",
            Self::Lfru => "lfru",
            Self::S3Fifo => "s3-fifo",
        }
    }
}

impl std::str::FromStr for Policy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|policy| policy.name() == text);
        known.ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            format!("{text:?} is no policy; there are {names}")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay::replay;
    use crate::steps::Steps;
    use odmoe_expert_store::Phase;
    use odmoe_formats::ExpertKey;

    /// Every policy keeps the trait's promises on the same mixed demands, and no policy beats Belady's.
    #[test]
    fn policies_serve_every_demand_and_none_beats_the_optimum() {
        let (mut steps, mut state) = (Steps::default(), 7_u64);
        for at in 0..4000_u32 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let first = (state >> 60) as u32;
            let keys = [first, first + 1, first + 9].map(|index| ExpertKey::routed(at % 4, index));
            let phase = if at % 64 < 4 {
                Phase::Prefill
            } else {
                Phase::Decode
            };
            steps.push(phase, keys);
        }
        for capacity in [3, 16, 50, 200] {
            let best = crate::belady::belady(&steps, capacity);
            for policy in Policy::ALL {
                let found = replay(policy.policy(capacity), &steps, capacity);
                let name = policy.name();
                assert!(found.hits <= best.hits, "{name}: {found:?}, {best:?}");
                assert!(capacity < 200 || found == best, "{name}: {found:?}");
                assert_eq!(name.parse(), Ok(policy));
            }
        }
        assert!("fifo".parse::<Policy>().unwrap_err().contains("s3-fifo"));
    }
}
