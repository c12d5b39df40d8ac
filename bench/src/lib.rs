//! Shared workloads, trace replay against Belady's optimum, peer comparisons.
