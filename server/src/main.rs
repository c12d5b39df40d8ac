//! The `odmoe` binary.
fn main() {}
