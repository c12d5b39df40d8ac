//! The policies by name.

use super::{EvictionPolicy, NextTurn, SegmentedLru};
use std::fmt;
use std::str::FromStr;

/// A policy to be made for each size class of each tier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Eviction {
    /// [`SegmentedLru`].
    Lru,
    /// [`NextTurn`], the one that wins on recorded routing.
    #[default]
    NextTurn,
}

/// No policy has this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no eviction policy: there are lru and next-turn")]
pub struct UnknownEviction(String);

impl Eviction {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Lru, Self::NextTurn];

    /// A policy without objects.
    pub fn policy(self) -> Box<dyn EvictionPolicy> {
        match self {
            Self::Lru => Box::<SegmentedLru>::default(),
            Self::NextTurn => Box::<NextTurn>::default(),
        }
    }

    /// What users call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Lru => "lru",
            Self::NextTurn => "next-turn",
        }
    }
}

impl fmt::Display for Eviction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Eviction {
    type Err = UnknownEviction;

    fn from_str(text: &str) -> Result<Self, UnknownEviction> {
        let known = Self::ALL.into_iter().find(|policy| policy.name() == text);
        known.ok_or_else(|| UnknownEviction(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for policy in Eviction::ALL {
            assert_eq!(policy.to_string().parse(), Ok(policy));
        }
        let error = "fifo".parse::<Eviction>().unwrap_err();
        assert!(error.to_string().contains("next-turn"), "{error}");
    }
}
