//! The configuration file: TOML whose keys are the names of the flags.

use super::small_file;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// A longer file is refused.
const LIMIT_BYTES: u64 = 1 << 20;
/// Options that make no sense in the file.
const NOT_IN_FILE: [&str; 3] = ["config", "help", "version"];

/// A file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigFileError {
    /// It cannot be read.
    #[error("{path}: {reason}; name another file with --config")]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// It is no TOML.
    #[error("{path}: {reason}")]
    Syntax {
        /// Which file.
        path: PathBuf,
        /// Where and why.
        reason: String,
    },
    /// No command has such a flag.
    #[error(
        "{path}: unknown key {key:?}; keys are flags of `odmoe serve` without the dashes, see `odmoe serve --help`"
    )]
    UnknownKey {
        /// Which file.
        path: PathBuf,
        /// The key.
        key: String,
    },
    /// A table or an array.
    #[error("{path}: {key:?} must be a string, a number or true/false")]
    NotAScalar {
        /// Which file.
        path: PathBuf,
        /// The key.
        key: String,
    },
}

/// Where the file is looked for when `--config` names none.
pub fn default_path(variable: &dyn Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let absolute = |name: &str| {
        variable(name)
            .map(PathBuf::from)
            .filter(|p| p.is_absolute())
    };
    let folder = absolute("XDG_CONFIG_HOME").or_else(|| {
        let below_home = if cfg!(target_os = "macos") {
            "Library/Application Support"
        } else {
            ".config"
        };
        absolute("HOME").map(|home| home.join(below_home))
    })?;
    Some(folder.join("odmoe/config.toml"))
}

/// Reads key and value pairs, values as a flag would spell them.
pub fn read(path: &Path) -> Result<Vec<(String, String)>, ConfigFileError> {
    let failed = |reason: String| ConfigFileError::Read {
        path: path.to_owned(),
        reason,
    };
    let text = small_file::read_text(path, LIMIT_BYTES).map_err(failed)?;
    let syntax = |e: toml::de::Error| ConfigFileError::Syntax {
        path: path.to_owned(),
        reason: e.to_string(),
    };
    let table: toml::Table = toml::from_str(&text).map_err(syntax)?;
    let mut pairs = Vec::new();
    for (key, value) in table {
        let text = match value {
            toml::Value::String(text) => text,
            toml::Value::Integer(number) => number.to_string(),
            toml::Value::Float(number) => number.to_string(),
            toml::Value::Boolean(flag) => flag.to_string(),
            _ => {
                return Err(ConfigFileError::NotAScalar {
                    path: path.to_owned(),
                    key,
                });
            }
        };
        pairs.push((key, text));
    }
    Ok(pairs)
}

/// Makes the file's values the defaults of the flags of the same name, in every subcommand that reads the file: flags
/// and environment still win, and values are parsed and checked by the one definition of the flag.
pub fn apply(
    mut command: clap::Command,
    path: &Path,
    pairs: &[(String, String)],
) -> Result<clap::Command, ConfigFileError> {
    let is_reader =
        |subcommand: &&clap::Command| subcommand.get_arguments().any(|a| a.get_id() == "config");
    let readers: Vec<String> = command
        .get_subcommands()
        .filter(is_reader)
        .map(|s| s.get_name().to_owned())
        .collect();
    for (key, value) in pairs {
        let serve = command
            .find_subcommand("serve")
            .expect("the server's own command");
        if NOT_IN_FILE.contains(&key.as_str()) || argument_of(serve, key).is_none() {
            return Err(ConfigFileError::UnknownKey {
                path: path.to_owned(),
                key: key.clone(),
            });
        }
        // Defaults live as long as the command, that is, the process.
        let value: &'static str = value.clone().leak();
        for reader in &readers {
            command =
                command.mut_subcommand(reader, |subcommand| match argument_of(&subcommand, key) {
                    Some(id) => subcommand.mut_arg(id, |argument| argument.default_value(value)),
                    None => subcommand,
                });
        }
    }
    Ok(command)
}

fn argument_of(command: &clap::Command, flag: &str) -> Option<clap::Id> {
    command
        .get_arguments()
        .find(|a| a.get_long() == Some(flag))
        .map(|a| a.get_id().clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn file(text: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    }

    #[test]
    fn values_are_spelled_as_flags() {
        let file = file("port = 9000\nhost = \"::1\"\nno-prefetch = true\nread-timeout = 0.5\n");
        let mut pairs = read(file.path()).unwrap();
        pairs.sort();
        let expected = [
            ("host", "::1"),
            ("no-prefetch", "true"),
            ("port", "9000"),
            ("read-timeout", "0.5"),
        ];
        assert_eq!(pairs, expected.map(|(k, v)| (k.to_owned(), v.to_owned())));
    }

    #[test]
    fn bad_files_are_named_with_the_reason() {
        let check = |text: &str, part: &str| {
            let file = file(text);
            let error = read(file.path()).unwrap_err().to_string();
            assert!(
                error.contains(part) && error.contains(file.path().to_str().unwrap()),
                "{error}"
            );
        };
        check("port = ", "port");
        check("[serve]\nport = 1\n", "serve");
        check("host = [1]\n", "host");
        let missing = read(Path::new("/nowhere/config.toml"))
            .unwrap_err()
            .to_string();
        assert!(
            missing.contains("/nowhere/config.toml") && missing.contains("--config"),
            "{missing}"
        );
        let long = file(&"#".repeat(2 << 20));
        assert!(read(long.path()).is_err());
    }

    #[test]
    fn the_default_place_follows_xdg_and_ignores_relative_folders() {
        let with = |pairs: &'static [(&'static str, &'static str)]| {
            default_path(&|name| {
                pairs
                    .iter()
                    .find(|(n, _)| *n == name)
                    .map(|(_, v)| v.into())
            })
        };
        assert_eq!(
            with(&[("XDG_CONFIG_HOME", "/c"), ("HOME", "/h")]),
            Some("/c/odmoe/config.toml".into())
        );
        let home = with(&[("XDG_CONFIG_HOME", "c"), ("HOME", "/h")]).unwrap();
        assert!(home.starts_with("/h") && home.ends_with("odmoe/config.toml"));
        assert_eq!(with(&[]), None);
    }
}
