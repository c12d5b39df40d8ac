#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    odmoe_tests::fuzzing::gguf_model::check(bytes);
});
