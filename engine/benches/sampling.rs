//! Times sampling from the logits of a large vocabulary: `cargo bench -p odmoe-engine --bench sampling`.
//!
//! It runs on the engine's thread while the backend's others wait, so a token of every stream pays for it.

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use odmoe_engine::SamplingParams;
use odmoe_engine::sampler::SequenceSampler;
use std::time::Duration;

const VOCAB: usize = 151_936;

fn sampling(criterion: &mut Criterion) {
    let plain = SamplingParams::default();
    let cases = [
        (
            "greedy",
            SamplingParams {
                temperature: 0.0,
                ..plain.clone()
            },
        ),
        ("temperature 1", plain.clone()),
        (
            "top-k 40",
            SamplingParams {
                top_k: 40,
                ..plain.clone()
            },
        ),
        (
            "top-p 0.95",
            SamplingParams {
                top_p: 0.95,
                ..plain
            },
        ),
    ];
    // Spread as logits are: most of them far below the greatest.
    let logits: Vec<f32> = (0..VOCAB)
        .map(|i| (i * 7919 % 10_007) as f32 / 700.0 - 7.0)
        .collect();
    let mut group = criterion.benchmark_group("engine/sampling");
    group.throughput(Throughput::ElementsAndBytes {
        elements: VOCAB as u64,
        bytes: 4 * VOCAB as u64,
    });
    for (name, params) in cases {
        let mut sampler = SequenceSampler::new(params, &[1, 2, 3], VOCAB);
        let mut position = 0;
        group.bench_function(name, |bencher| {
            bencher.iter_batched(
                || logits.clone(),
                |mut logits| {
                    position += 1;
                    sampler.next(&mut logits, position, None).token
                },
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

fn short() -> Criterion {
    Criterion::default()
        .without_plots()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(50))
        .measurement_time(Duration::from_millis(200))
}

criterion_group! { name = benches; config = short(); targets = sampling }
criterion_main!(benches);
