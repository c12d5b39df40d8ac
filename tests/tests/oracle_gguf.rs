//! The engine against llama.cpp on the same GGUF files, and against `transformers` in fp32 on the values that the
//! files' bytes stand for: every logprob of every position, by decode and by prefill. How far they may differ is derived
//! in `src/tolerance.rs`.

use odmoe_formats::gguf::Gguf;
use odmoe_tests::engine::{EngineOptions, TestEngine};
use odmoe_tests::golden::Golden;

#[track_caller]
fn check(name: &str) {
    let golden = Golden::gguf(name);
    let engine = TestEngine::start(&golden.model, EngineOptions::default());
    let peer = golden.compare(&engine, &golden.logprobs("logits.f32"));
    let reference = golden.compare(&engine, &golden.logprobs("reference.f32"));
    println!("{name}: from llama.cpp {peer}, from fp32 {reference}");
    let tolerance = golden.tolerance_of_peer();
    tolerance.check(peer, &format!("{name}, llama.cpp"));
    let what = format!("{name}, fp32");
    golden.tolerance_of_reference().check(reference, &what);
    golden.compare_greedy(&engine, tolerance.largest);
}

#[test]
fn every_architecture_in_binary32() {
    check("llama-f32");
    check("llama-moe-f32");
    check("qwen2moe-f32");
    check("qwen3-f32");
    check("qwen3moe-f32");
    check("olmoe-f32");
}

#[test]
fn binary16_and_bfloat16() {
    check("llama-moe-f16-bf16");
    check("qwen2moe-bf16-f16");
}

#[test]
fn blocks_of_32_in_a_set_of_three_parts() {
    check("qwen3moe-blocks");
}

#[test]
fn k_quants_of_two_three_and_five_bits() {
    check("llama-moe-k");
}

#[test]
fn four_bits_of_a_table() {
    check("olmoe-iq4");
}

#[test]
fn every_architecture_in_a_mixture_of_q4_k_and_q6_k() {
    check("llama-q4_k_m");
    check("llama-moe-q4_k_m");
    check("qwen2moe-q4_k_m");
    check("qwen3-q4_k_m");
    check("qwen3moe-q4_k_m");
    check("olmoe-q4_k_m");
}

/// How far the engine is from llama.cpp when two of the equal `parts` of a tensor have changed places.
#[track_caller]
fn misread(name: &str, tensor: &str, parts: usize) {
    let golden = Golden::gguf(name);
    let mut bytes = std::fs::read(&golden.model).expect("a model");
    let header = Gguf::read(&mut bytes.as_slice(), bytes.len() as u64).expect("a header");
    let mut tensors = header.tensors.iter();
    let found = tensors
        .find(|found| found.name == tensor)
        .expect("a tensor");
    let range = found.range.start as usize..found.range.end as usize;
    let part = range.len() / parts;
    let (first, rest) = bytes[range].split_at_mut(part);
    first.swap_with_slice(&mut rest[..part]);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("misread.gguf");
    std::fs::write(&path, bytes).expect("a file");
    let engine = TestEngine::start(&path, EngineOptions::default());
    let peer = golden.compare(&engine, &golden.logprobs("logits.f32"));
    let tolerance = golden.tolerance_of_peer();
    println!("{name}, {tensor}: from llama.cpp {peer}, {tolerance:?}");
    assert!(!tolerance.allows(peer), "{name}, {tensor}: {peer}");
}

/// The tolerance would show a tensor that is read wrongly, where it is widest and where it is narrowest.
#[test]
fn a_tensor_that_is_read_wrongly_is_not_within_the_tolerance() {
    misread("qwen3-q4_k_m", "blk.1.ffn_down.weight", 2);
    misread("qwen3-q4_k_m", "blk.0.attn_v.weight", 2);
    misread("qwen3moe-q4_k_m", "blk.1.ffn_down_exps.weight", 4);
    misread("qwen3moe-q4_k_m", "blk.0.ffn_gate_exps.weight", 4);
    misread("llama-moe-q4_k_m", "blk.1.ffn_up_exps.weight", 4);
}
