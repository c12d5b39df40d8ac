//! The engine against llama.cpp on the same GGUF files, and against `transformers` in fp32 on the values that the
//! files' bytes stand for: every logprob of every position, by decode and by prefill.
//!
//! Tolerances. Where all weights are F32 only the order of sums differs from both, and the bound is that of
//! `oracle.rs`.
//!
//! With F16 and BF16 the same holds for the fp32 reference, for the engine widens such weights and rounds no
//! activation. llama.cpp rounds activations to the weights' type instead, and so may differ from the reference, and
//! from the engine, by that: 2^-9 of a value at most in bfloat16, 2^-9 / sqrt(3) in the root mean square, once in each
//! of some four products that follow one another in a layer, and in the head: over two layers 3 * 0.11 % of logits
//! whose deviation is 3: 0.01, and for the largest of some thousand values six times that.
//!
//! In quantised products both round activations to 8 bits a block. Rounding to a step of max / 127 errs by
//! max / 440 in the root mean square, and the largest of 256 normal values is about three deviations: 0.68 % of a
//! product; over the same chain 2 % of the logits, 0.06, more where attention amplifies it. What it truly is for a file is
//! known: the difference between llama.cpp and the reference, 0.06 to 0.13 in these. The engine rounds the same way, so
//! its own difference from the reference is of that size, and the two differ by no more than two independent errors
//! would. How much of it is chance was seen on 26 more random models: the engine's error was 0.81 to 1.31 of
//! llama.cpp's, 0.98 in the mean; half as much again is allowed.
//! One turned rounding turns many more after it, so that nothing smaller can be asked of every file. Where none was
//! turned the engine and llama.cpp agreed to 1e-5, as if nothing were rounded; the largest found is 0.38. A tensor that
//! is read wrongly differs by more than 1.
//!
//! Found, from llama.cpp: F32 2.1e-5; F16 and BF16 0.067, and 1.4e-5 from the fp32 reference.

use odmoe_tests::engine::{EngineOptions, TestEngine};
use odmoe_tests::golden::{Difference, Golden};

/// As in `oracle.rs`.
const SUM_ORDER: f64 = 2e-4;
/// Root mean square of what rounding activations to bfloat16 costs; derived above.
const HALF_ROUNDING: f64 = 0.02;
/// How much larger than llama.cpp's our own error may be by chance.
const CHANCE: f64 = 1.5;
/// The largest of some ten thousand errors over their root mean square: normal ones would reach 4.
const LARGEST_OVER_RMS: f64 = 8.0;

struct Compared {
    golden: Golden,
    engine: TestEngine,
    /// From llama.cpp.
    peer: Difference,
    /// From `transformers` on the stored values.
    reference: Difference,
    /// Root mean square of llama.cpp's difference from `transformers`.
    peer_error: f64,
}

fn compare(name: &str) -> Compared {
    let golden = Golden::gguf(name);
    let engine = TestEngine::start(&golden.model, EngineOptions::default());
    let peer = golden.compare(&engine, &golden.logprobs("logits.f32"));
    let reference = golden.compare(&engine, &golden.logprobs("reference.f32"));
    let recorded = &golden.json["reference"]["difference"]["root_mean_square"];
    let peer_error = recorded.as_f64().expect("a number");
    println!(
        "{name}: from llama.cpp {:.1e} (rms {:.1e}), from fp32 {:.1e} (rms {:.1e}), llama.cpp from fp32 rms {peer_error:.1e}",
        peer.largest,
        peer.root_mean_square(),
        reference.largest,
        reference.root_mean_square(),
    );
    Compared {
        golden,
        engine,
        peer,
        reference,
        peer_error,
    }
}

fn check_floats(name: &str) {
    let found = compare(name);
    assert!(found.peer.largest <= SUM_ORDER, "{name}");
    assert!(found.reference.largest <= SUM_ORDER, "{name}");
    found.golden.compare_greedy(&found.engine, SUM_ORDER);
}

fn check_halves(name: &str) {
    let found = compare(name);
    assert!(found.reference.largest <= SUM_ORDER, "{name}");
    assert!(found.peer.root_mean_square() <= HALF_ROUNDING, "{name}");
    let largest = LARGEST_OVER_RMS * HALF_ROUNDING;
    assert!(found.peer.largest <= largest, "{name}");
    found.golden.compare_greedy(&found.engine, largest);
}

fn check_quantised(name: &str) {
    let found = compare(name);
    let own = CHANCE * found.peer_error;
    let both = own * 2.0_f64.sqrt();
    assert!(found.reference.root_mean_square() <= own, "{name}");
    assert!(found.reference.largest <= LARGEST_OVER_RMS * own, "{name}");
    assert!(found.peer.root_mean_square() <= both, "{name}");
    assert!(found.peer.largest <= LARGEST_OVER_RMS * both, "{name}");
    found
        .golden
        .compare_greedy(&found.engine, LARGEST_OVER_RMS * both);
}

#[test]
fn every_architecture_in_binary32() {
    check_floats("llama-f32");
    check_floats("llama-moe-f32");
    check_floats("qwen2moe-f32");
    check_floats("qwen3-f32");
    check_floats("qwen3moe-f32");
    check_floats("olmoe-f32");
}

#[test]
fn binary16_and_bfloat16() {
    check_halves("llama-moe-f16-bf16");
    check_halves("qwen2moe-bf16-f16");
}

#[test]
fn blocks_of_32_in_a_set_of_three_parts() {
    check_quantised("qwen3moe-blocks");
}

#[test]
fn k_quants_of_two_three_and_five_bits() {
    check_quantised("llama-moe-k");
}

#[test]
fn every_architecture_in_a_mixture_of_q4_k_and_q6_k() {
    check_quantised("llama-q4_k_m");
    check_quantised("llama-moe-q4_k_m");
    check_quantised("qwen2moe-q4_k_m");
    check_quantised("qwen3-q4_k_m");
    check_quantised("qwen3moe-q4_k_m");
    check_quantised("olmoe-q4_k_m");
}
