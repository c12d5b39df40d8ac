//! Writing to people.

use std::io::{IsTerminal, Write};

/// One line on standard error, marked as an error.
pub fn error(message: &str) {
    note(&format!("error: {message}"));
}

/// One line on standard error. A closed standard error is nobody's loss.
pub fn note(message: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{message}");
}

/// Whether progress bars make sense.
pub fn is_interactive() -> bool {
    std::io::stderr().is_terminal()
}
