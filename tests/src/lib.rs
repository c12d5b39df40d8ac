//! Whole-server tests: the harness that starts the real binary, and what it must promise.
