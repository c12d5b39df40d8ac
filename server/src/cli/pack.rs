//! `odmoe pack`: how the embedded model's archive is made.

use crate::cli::args::PackArgs;
use crate::cli::{Failure, terminal};
use crate::embedded::pack;

/// Writes the archive, and its hash beside it.
pub fn run(args: &PackArgs) -> Result<(), Failure> {
    let sha256 = pack(&args.store, &args.output).map_err(Failure::failed)?;
    let mut beside = args.output.clone().into_os_string();
    beside.push(".sha256");
    std::fs::write(&beside, format!("{sha256}\n"))
        .map_err(|error| Failure::Failed(format!("{}: {error}", beside.to_string_lossy())))?;
    terminal::print(&format!("{sha256}  {}\n", args.output.display()))
}
