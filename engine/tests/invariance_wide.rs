//! The master oracle (promise P1) on a model of 2 layers with hidden 2048, whose longest request has a context of more
//! than three attention splits and is served beside seven short ones.

mod support;

use odmoe_backend::Backend;
use odmoe_engine::Request;
use odmoe_formats::BlockFormat;
use std::sync::Arc;
use support::engine::{checking, cpu, greedy};
use support::model::{Random, random_model, wide_config};
use support::oracle::Oracle;

const SEED: u64 = 20_261_121;

/// Requests in a KV cache of 120 blocks of 8 tokens: the longest needs 99 of them for its prompt alone, and its
/// neighbours grow into what is left.
const TINY_KV_BLOCKS: usize = 120;

/// Of the experts' bytes.
#[derive(Clone, Copy, Debug)]
enum Budget {
    Percent(u64),
    Least,
}

/// One way to serve.
#[derive(Clone, Copy, Debug)]
struct Variant {
    chunk: usize,
    budget: Budget,
    threads: usize,
    prefetch: bool,
    tiny_kv: bool,
}

const fn variant(chunk: usize, budget: Budget, threads: usize) -> Variant {
    Variant {
        chunk,
        budget,
        threads,
        prefetch: true,
        tiny_kv: false,
    }
}

impl Variant {
    const fn without_prefetch(self) -> Self {
        Self {
            prefetch: false,
            ..self
        }
    }

    const fn preempting(self) -> Self {
        Self {
            tiny_kv: true,
            ..self
        }
    }
}

/// Every chunk size with two budgets and two numbers of threads at least; every budget with and without prefetch. In
/// chunks of 1 the short ones end before the long one enters, so that nothing can preempt it.
const VARIANTS: [Variant; 9] = [
    variant(512, Budget::Percent(100), 3).preempting(),
    variant(512, Budget::Least, 2),
    variant(64, Budget::Percent(25), 3),
    variant(64, Budget::Least, 1)
        .without_prefetch()
        .preempting(),
    variant(64, Budget::Percent(50), 2).preempting(),
    variant(7, Budget::Percent(50), 1).without_prefetch(),
    variant(7, Budget::Percent(25), 3).preempting(),
    variant(1, Budget::Percent(25), 2).without_prefetch(),
    variant(1, Budget::Percent(100), 1).without_prefetch(),
];

/// Six short prompts that decode beside a long one of more than three attention splits of 256 positions; last, one
/// that crosses a split's end while it decodes.
fn requests() -> Vec<Request> {
    let mut random = Random(SEED);
    let lengths = [1, 3, 8, 15, 24, 30].map(|prompt| (prompt, 40));
    let long = [(790, 24), (253, 8)];
    let request = |(prompt, new)| greedy(random.tokens(prompt, 67), new);
    lengths.into_iter().chain(long).map(request).collect()
}

fn check(
    format: BlockFormat,
    variants: &[Variant],
    backend: impl Fn(&Variant) -> Arc<dyn Backend>,
) {
    let oracle = Oracle::new(random_model(wide_config(), format, SEED), requests());
    for variant in variants {
        let what = format!("wide, {format}, {variant:?}, seed {SEED}");
        let round = || {
            let counts = oracle.check(&what, |setup| {
                setup.backend = backend(variant);
                setup.config.prefill_chunk_tokens = variant.chunk;
                setup.store.prefetch = variant.prefetch;
                setup.store.budget = match variant.budget {
                    Budget::Percent(percent) => oracle.percent(percent),
                    Budget::Least => oracle.least(),
                };
                if variant.tiny_kv {
                    setup.config.kv_block_tokens = 8;
                    setup.config.kv_blocks = TINY_KV_BLOCKS;
                }
            });
            counts.preemptions > 0
        };
        // Who is preempted depends on who comes when: a few rounds where somebody must be.
        let preempts = match variant.tiny_kv {
            true => (0..20).any(|_| round()),
            false => round(),
        };
        assert_eq!(preempts, variant.tiny_kv, "{what}");
    }
}

#[test]
fn a_wide_bf16_model_with_a_long_context_keeps_its_bits() {
    check(BlockFormat::BF16, &VARIANTS, |variant| cpu(variant.threads));
}

#[test]
fn a_wide_q8_0_model_with_a_long_context_keeps_its_bits() {
    check(BlockFormat::Q8_0, &VARIANTS, |variant| cpu(variant.threads));
}

#[test]
fn late_completion_changes_no_answer_of_a_wide_model() {
    let variants = [
        variant(64, Budget::Percent(50), 1).preempting(),
        variant(512, Budget::Least, 1).without_prefetch(),
    ];
    for (format, unified) in [(BlockFormat::Q8_0, false), (BlockFormat::BF16, true)] {
        check(format, &variants, |_| checking(unified, SEED));
    }
}
