//! The `odmoe` binary.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    odmoe_server::cli::run(std::env::args_os())
}
