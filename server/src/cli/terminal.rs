//! Writing to people.

use crate::cli::Failure;
use std::io::{self, ErrorKind, IsTerminal, Write};

/// Writes results to standard output, at once. A reader that has gone, as in `| head`, wants no more:
/// [`Failure::NobodyReads`], which ends the command without a word.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    written.map_err(|error| match error.kind() {
        ErrorKind::BrokenPipe => Failure::NobodyReads,
        _ => Failure::Failed(format!("standard output: {error}")),
    })
}

/// One line on standard error, marked as an error.
pub fn error(message: &str) {
    note(&format!("error: {message}"));
}

/// One line on standard error. A closed standard error is nobody's loss.
pub fn note(message: &str) {
    let _ = writeln!(io::stderr().lock(), "{message}");
}

/// Whether progress bars make sense.
pub fn is_interactive() -> bool {
    io::stderr().is_terminal()
}
