//! Writing to people.

use crate::cli::Failure;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::path::Path;

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

/// A path as a shell takes it.
pub fn shell_word(path: &Path) -> String {
    let path = path.display().to_string();
    let is_plain = |c: char| c.is_alphanumeric() || "/._-+=:,@%".contains(c);
    match path.chars().all(is_plain) {
        true => path,
        false => format!("'{}'", path.replace('\'', "'\\''")),
    }
}

/// Whether progress bars make sense.
pub fn is_interactive() -> bool {
    io::stderr().is_terminal()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_survive_a_shell() {
        let word = |path: &str| shell_word(Path::new(path));
        assert_eq!(
            word("/models/é-00001-of-00002.gguf"),
            "/models/é-00001-of-00002.gguf"
        );
        assert_eq!(word("my model.gguf"), "'my model.gguf'");
        assert_eq!(word("it's $HOME"), r"'it'\''s $HOME'");
    }
}
