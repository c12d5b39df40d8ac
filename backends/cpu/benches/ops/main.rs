//! Times every op that a forward pass spends its time in, for each kernel set, format and number of tokens.
//!
//! ```sh
//! cargo bench -p odmoe-backend-cpu --bench ops -- [part of a name, such as avx512/mat_mul/q4_k]
//! python bench/compare/ops_table.py target/criterion
//! ```
//!
//! Names are `KERNELS/OP/FORMAT/TOKENS`; threads are `ODMOE_BENCH_THREADS`, by default one a processor. Weights and caches
//! lie in a buffer beyond the CPU's caches and an op takes its next part each time, so that memory is measured as decode
//! sees it. Throughput is in bytes that must come from memory, and in operations (a multiply-add is two).

mod elementwise;
mod fixture;
mod paged;
mod products;

use criterion::{Criterion, criterion_group, criterion_main};
use fixture::Fixture;
use odmoe_backend_cpu::KernelSet;
use std::time::Duration;

fn ops(criterion: &mut Criterion) {
    for set in KernelSet::available() {
        // Definitions are not for speed.
        if set != KernelSet::Reference {
            let mut fixture = Fixture::new(set);
            products::mat_mul(criterion, &mut fixture);
            products::expert_ffn(criterion, &mut fixture);
            products::route(criterion, &mut fixture);
            products::quantise(criterion, &mut fixture);
            paged::attention(criterion, &mut fixture);
            elementwise::all(criterion, &mut fixture);
        }
    }
}

/// Ops take microseconds to milliseconds and there are hundreds of rows: short measurements.
fn short() -> Criterion {
    Criterion::default()
        .without_plots()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(50))
        .measurement_time(Duration::from_millis(200))
}

criterion_group! { name = benches; config = short(); targets = ops }
criterion_main!(benches);
