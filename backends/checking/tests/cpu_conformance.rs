//! The CPU's kernel sets against its scalar reference: the same bits, for every op, shape and number of threads.

use odmoe_backend_checking::conformance::{Tolerance, check, check_hostile, check_invariance};
use odmoe_backend_checking::{CheckingBackend, CheckingConfig};
use odmoe_backend_cpu::{CpuBackend, CpuConfig, KernelSet};
use std::sync::Arc;

fn cpu(kernels: KernelSet, threads: usize) -> CpuBackend {
    CpuBackend::new(CpuConfig {
        threads,
        kernels: Some(kernels),
    })
    .unwrap()
}

fn fast_sets() -> Vec<KernelSet> {
    KernelSet::available()
        .into_iter()
        .filter(|&set| set != KernelSet::Reference)
        .collect()
}

#[test]
fn every_kernel_set_has_the_bits_of_the_reference() {
    let reference = cpu(KernelSet::Reference, 1);
    for set in fast_sets() {
        for (threads, seed) in [(1, 11), (2, 12), (3, 13)] {
            let report = check(&cpu(set, threads), &reference, Tolerance::Exact, seed);
            assert!(
                report.failures.is_empty(),
                "{set}, {threads} threads: {report}"
            );
            assert!(report.cases > 100, "{report}");
        }
    }
}

#[test]
fn every_kernel_set_has_the_bits_of_the_reference_for_weights_of_any_bytes() {
    let reference = cpu(KernelSet::Reference, 1);
    for set in fast_sets() {
        for seed in 41..44 {
            let report = check_hostile(&cpu(set, 1), &reference, seed);
            assert!(report.failures.is_empty(), "{set}: {report}");
            assert!(report.cases > 90, "{report}");
        }
    }
}

#[test]
fn rows_together_have_the_bits_of_rows_alone() {
    for set in fast_sets() {
        let report = check_invariance(&cpu(set, 2), 21);
        assert!(report.failures.is_empty(), "{set}: {report}");
    }
}

#[test]
fn the_checking_backend_changes_nothing_and_finds_nothing() {
    let inner = Arc::new(cpu(KernelSet::best(), 2));
    let checking = CheckingBackend::new(
        inner,
        CheckingConfig {
            seed: 5,
            ..CheckingConfig::default()
        },
    );
    let report = check(&checking, &cpu(KernelSet::best(), 1), Tolerance::Exact, 31);
    assert!(report.failures.is_empty(), "{report}");
}
