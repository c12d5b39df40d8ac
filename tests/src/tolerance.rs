//! How far logprobs of a GGUF model may be from llama.cpp's on the same file, and from those of `transformers` in fp32
//! on the values that the file's bytes stand for.
//!
//! Where all weights are F32 only the order of sums differs from both. The bound is that of `tests/oracle.rs`.
//!
//! With F16 and BF16 the same holds for the fp32 reference, for the engine widens such weights and rounds no
//! activation. llama.cpp rounds activations to the weights' type instead, and so may differ from the reference, and
//! from the engine, by that: 2^-9 of a value at most in bfloat16, 2^-9 / sqrt(3) in the root mean square, once in each
//! of some four products that follow one another in a layer, and in the head: over two layers 3 * 0.11 % of logits
//! whose deviation is 3: 0.01, and for the largest of some thousand values six times that.
//!
//! In quantised products both round activations to 8 bits a block. Rounding to a step of max / 127 errs by
//! max / 440 in the root mean square, and the largest of 256 normal values is about three deviations: 0.68 % of a
//! product; over the same chain 2 % of the logits, 0.06, more where attention amplifies it. What it truly is for a file
//! is known: the difference between llama.cpp and the reference, 0.06 to 0.13 in these. The engine rounds the same way,
//! so its own difference from the reference is of that size, and the two differ by no more than two independent errors
//! would. How much of it is chance was seen on 26 more random models: the engine's error was 0.81 to 1.31 of
//! llama.cpp's, 0.98 in the mean; half as much again is allowed.
//! One turned rounding turns many more after it, so that nothing smaller can be asked of every file. Where none was
//! turned the engine and llama.cpp agreed to 1e-5, as if nothing were rounded; the largest found is 0.38. Two experts
//! or two parts of a tensor that change places are beyond it (`tests/oracle_gguf.rs`).
//!
//! Found, from llama.cpp: F32 2.1e-5; F16 and BF16 0.067, and 1.4e-5 from the fp32 reference.

use crate::golden::{Difference, Golden};

/// As in `tests/oracle.rs`.
const SUM_ORDER: f64 = 2e-4;
/// Root mean square of what rounding activations to bfloat16 costs; derived above.
const HALF_ROUNDING: f64 = 0.02;
/// How much larger than llama.cpp's our own error may be by chance.
const CHANCE: f64 = 1.5;
/// The largest of some ten thousand errors over their root mean square: normal ones would reach 4.
const LARGEST_OVER_RMS: f64 = 8.0;

/// The most that logprobs may differ by.
#[derive(Clone, Copy, Debug)]
pub struct Tolerance {
    /// The root of the mean square, over all that is compared.
    pub root_mean_square: f64,
    /// Of one token at one position.
    pub largest: f64,
}

impl Tolerance {
    fn of_largest(largest: f64) -> Self {
        Self {
            root_mean_square: largest,
            largest,
        }
    }

    fn of_root_mean_square(root_mean_square: f64) -> Self {
        Self {
            root_mean_square,
            largest: LARGEST_OVER_RMS * root_mean_square,
        }
    }

    /// Whether a difference is within it.
    pub fn allows(self, found: Difference) -> bool {
        found.largest <= self.largest && found.root_mean_square() <= self.root_mean_square
    }

    /// Panics where a difference is above it.
    #[track_caller]
    pub fn check(self, found: Difference, what: &str) {
        let within = self.allows(found);
        assert!(within, "{what}: {found} where {self:?} is allowed");
    }
}

impl Golden {
    /// From llama.cpp, for a GGUF model.
    pub fn tolerance_of_peer(&self) -> Tolerance {
        match self.json["kind"].as_str() {
            Some("float") => Tolerance::of_largest(SUM_ORDER),
            Some("half") => Tolerance::of_root_mean_square(HALF_ROUNDING),
            Some("quantised") => Tolerance::of_root_mean_square(self.own_error() * 2.0_f64.sqrt()),
            kind => panic!("{}: kind {kind:?}", self.name),
        }
    }

    /// From `transformers`, for a GGUF model.
    pub fn tolerance_of_reference(&self) -> Tolerance {
        match self.json["kind"].as_str() {
            Some("float" | "half") => Tolerance::of_largest(SUM_ORDER),
            Some("quantised") => Tolerance::of_root_mean_square(self.own_error()),
            kind => panic!("{}: kind {kind:?}", self.name),
        }
    }

    /// What rounding activations may cost us, in the root mean square.
    fn own_error(&self) -> f64 {
        let of_peer = &self.json["reference"]["difference"]["root_mean_square"];
        CHANCE * of_peer.as_f64().expect("a number")
    }
}
