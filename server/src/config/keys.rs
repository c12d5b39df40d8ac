//! The file of API keys: TOML with a table for each key.
//!
//! ```toml
//! [alice]
//! key = "…"                    # or its SHA-256, so that the file holds no secret: sha256 = "…"
//! requests-per-minute = 60     # limits may be left out
//! tokens-per-minute = 100000
//! concurrent-requests = 4
//! ```

use super::small_file;
use crate::http::{ApiKey, KeyLimits, SecretDigest};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

/// A longer file is refused.
const LIMIT_BYTES: u64 = 1 << 20;
/// A longer name is refused: it stands in every log line.
const NAME_LENGTH: usize = 64;

/// A file of keys that cannot be used. Messages never show the file's text: it holds secrets.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {reason}")]
pub struct KeyFileError {
    path: PathBuf,
    reason: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Entry {
    key: Option<String>,
    sha256: Option<String>,
    requests_per_minute: Option<NonZeroU32>,
    tokens_per_minute: Option<NonZeroU32>,
    concurrent_requests: Option<NonZeroU32>,
}

/// Reads the keys, at least one.
pub fn read(path: &Path) -> Result<Vec<ApiKey>, KeyFileError> {
    let failed = |reason: String| KeyFileError {
        path: path.to_owned(),
        reason,
    };
    let text = small_file::read_text(path, LIMIT_BYTES).map_err(failed)?;
    let entries: BTreeMap<String, Entry> = toml::from_str(&text).map_err(|error| {
        let before = error.span().map_or(0, |span| span.start.min(text.len()));
        let line = text.as_bytes()[..before]
            .iter()
            .filter(|byte| **byte == b'\n')
            .count()
            + 1;
        failed(format!("line {line}: {}", error.message()))
    })?;
    if entries.is_empty() {
        return Err(failed(
            "no key in it; write a table for each, such as [alice] with key = \"…\"".to_owned(),
        ));
    }
    entries
        .into_iter()
        .map(|(name, entry)| {
            entry
                .into_key(&name)
                .map_err(|reason| failed(format!("[{name}]: {reason}")))
        })
        .collect()
}

impl Entry {
    fn into_key(self, name: &str) -> Result<ApiKey, String> {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if name.is_empty() || name.len() > NAME_LENGTH || !name.chars().all(is_plain) {
            return Err(format!(
                "a key's name has 1 to {NAME_LENGTH} letters, digits, dots, dashes and underscores"
            ));
        }
        let digest = match (&self.key, &self.sha256) {
            (Some(key), None) if !key.is_empty() => SecretDigest::of(key.as_bytes()),
            (None, Some(hex)) => SecretDigest::from_hex(hex).ok_or(
                "sha256 must have 64 hexadecimal digits; `printf %s KEY | sha256sum` makes them",
            )?,
            _ => return Err("give it either `key`, which is not empty, or `sha256`".to_owned()),
        };
        let limits = KeyLimits {
            requests_per_minute: self.requests_per_minute.map(NonZeroU32::get),
            tokens_per_minute: self.tokens_per_minute.map(NonZeroU32::get),
            concurrent_requests: self.concurrent_requests.map(NonZeroU32::get),
        };
        Ok(ApiKey {
            name: name.to_owned(),
            digest,
            limits,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn read_text(text: &str) -> Result<Vec<ApiKey>, String> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        read(file.path()).map_err(|error| error.to_string())
    }

    #[test]
    fn keys_have_names_secrets_and_limits() {
        let keys = read_text(
            "[bob]\nsha256 = \"2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b\"\n\
             [alice]\nkey = \"other\"\nrequests-per-minute = 60\nconcurrent-requests = 2\n",
        )
        .unwrap();
        let names: Vec<&str> = keys.iter().map(|key| key.name.as_str()).collect();
        assert_eq!(names, ["alice", "bob"]);
        assert!(keys[1].digest.equals(&SecretDigest::of(b"secret")));
        let limits = KeyLimits {
            requests_per_minute: Some(60),
            tokens_per_minute: None,
            concurrent_requests: Some(2),
        };
        assert_eq!(
            (keys[0].limits, keys[1].limits),
            (limits, KeyLimits::default())
        );
    }

    #[test]
    fn bad_files_are_refused_without_showing_a_secret() {
        for (text, part) in [
            ("", "no key"),
            ("[a]\n", "either"),
            ("[a]\nkey = \"\"\n", "either"),
            ("[a]\nkey = \"SECRET\"\nsha256 = \"00\"\n", "either"),
            ("[a]\nsha256 = \"SECRET\"\n", "64 hexadecimal"),
            ("[a]\nkey = \"SECRET\"\nrequests-per-minute = 0\n", "line 3"),
            (
                "[a]\nkey = \"SECRET\"\nrequest-per-minute = 1\n",
                "request-per-minute",
            ),
            ("[a]\nkey = SECRET\n", "line 2"),
            ("[\"a b\"]\nkey = \"SECRET\"\n", "letters"),
        ] {
            let Err(error) = read_text(text) else {
                panic!("{text:?} was taken");
            };
            assert!(error.contains(part) && !error.contains("SECRET"), "{error}");
        }
        let missing = read(Path::new("/nowhere/keys.toml"))
            .err()
            .unwrap()
            .to_string();
        assert!(missing.contains("/nowhere/keys.toml"), "{missing}");
    }
}
