//! Which kernels run.

use crate::kernels::Instructions;
use odmoe_formats::WeightLayout;
use std::fmt;

/// A set of kernels. All sets give the same bits; they differ in speed and in what the machine must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KernelSet {
    /// The scalar definition of every op, on one thread.
    Reference,
    /// Plain Rust that the compiler vectorises for whatever it targets. Fast where the target always has a fused
    /// multiply-add (aarch64); a plain x86-64 build asks the C library for each, which is exact and slow.
    Portable,
    /// x86-64 with AVX2, FMA and F16C.
    Avx2,
    /// x86-64 with AVX-512 F, BW, DQ, VL and VNNI.
    Avx512,
    /// The same, and AMX with 8-bit integers for products of many tokens. Where the system lets a process use it.
    Amx,
    /// aarch64 with NEON and `dotprod`, as Apple's processors and servers since 2019 have them; with `i8mm` where the
    /// machine has it.
    Neon,
}

/// A name that no kernel set has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown kernel set {0:?}; use one of {names}", names = KernelSet::names())]
pub struct UnknownKernelSet(pub String);

impl KernelSet {
    /// Every set, slowest first.
    pub const ALL: [Self; 6] = [
        Self::Reference,
        Self::Portable,
        Self::Avx2,
        Self::Avx512,
        Self::Amx,
        Self::Neon,
    ];

    /// The set of that name, in any case.
    pub fn parse(name: &str) -> Result<Self, UnknownKernelSet> {
        let found = Self::ALL
            .into_iter()
            .find(|set| set.name().eq_ignore_ascii_case(name.trim()));
        found.ok_or_else(|| UnknownKernelSet(name.to_owned()))
    }

    /// The names of all sets.
    fn names() -> String {
        Self::ALL.map(Self::name).join(", ")
    }

    /// The sets that this machine can run, slowest first.
    pub fn available() -> Vec<Self> {
        Self::ALL
            .into_iter()
            .filter(|set| set.is_available())
            .collect()
    }

    /// The fastest set that this machine can run.
    pub fn best() -> Self {
        Self::ALL
            .into_iter()
            .rfind(|set| set.is_available())
            .unwrap_or(Self::Portable)
    }

    /// Whether this machine can run it.
    pub fn is_available(self) -> bool {
        Instructions::detect(self).is_some()
    }

    /// The layout of weights that it multiplies fastest.
    pub fn weight_layout(self) -> WeightLayout {
        match self {
            Self::Avx512 | Self::Amx => WeightLayout::Lanes16,
            Self::Reference | Self::Portable | Self::Avx2 | Self::Neon => WeightLayout::RowMajor,
        }
    }

    /// The layouts that it multiplies, all to the same bits.
    pub fn weight_layouts(self) -> &'static [WeightLayout] {
        match self {
            Self::Reference | Self::Avx512 | Self::Amx => &WeightLayout::ALL,
            Self::Portable | Self::Avx2 | Self::Neon => &[WeightLayout::RowMajor],
        }
    }

    /// Its name for the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Reference => "reference",
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Amx => "amx",
            Self::Neon => "neon",
        }
    }
}

/// As people write it: `AVX-512`.
impl fmt::Display for KernelSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reference => "scalar reference",
            Self::Portable => "portable",
            Self::Avx2 => "AVX2",
            Self::Avx512 => "AVX-512",
            Self::Amx => "AVX-512 and AMX",
            Self::Neon => "NEON",
        })
    }
}
