//! From flags to who may call.

use crate::cli::Failure;
use crate::cli::args::AccessArgs;
use crate::config::keys;
use crate::http::{ApiKey, HttpConfig, KeyLimits, SecretDigest};

/// Fills in keys, limits, origins and hosts.
pub fn apply(args: &AccessArgs, config: &mut HttpConfig) -> Result<(), Failure> {
    config.api_keys = api_keys(args)?;
    config.admin_key = admin_key(args, &config.api_keys)?;
    config.key_limits = KeyLimits {
        requests_per_minute: args.requests_per_minute,
        tokens_per_minute: args.tokens_per_minute,
        concurrent_requests: args.concurrent_requests,
    };
    config.allowed_origins = origins(&args.cors_origin)?;
    config.allowed_hosts = args.allowed_hosts.clone();
    Ok(())
}

fn api_keys(args: &AccessArgs) -> Result<Vec<ApiKey>, Failure> {
    // A variable that is set to nothing is no key.
    let given = args.api_key.iter().filter(|key| !key.is_empty());
    let mut all: Vec<ApiKey> = given
        .enumerate()
        .map(|(index, key)| ApiKey::new(format!("key-{}", index + 1), key))
        .collect();
    if let Some(path) = &args.api_keys_file {
        all.extend(keys::read(path).map_err(|error| Failure::Usage(error.to_string()))?);
    }
    for (index, key) in all.iter().enumerate() {
        let before = &all[..index];
        if let Some(same) = before.iter().find(|other| other.digest.equals(&key.digest)) {
            let (one, other) = (&same.name, &key.name);
            return Err(Failure::Usage(format!(
                "the API keys {one:?} and {other:?} are the same; give each caller a key of its own"
            )));
        }
        if before.iter().any(|other| other.name == key.name) {
            let name = &key.name;
            return Err(Failure::Usage(format!(
                "two API keys are called {name:?}; keys of --api-key are called key-1, key-2 and so on"
            )));
        }
    }
    Ok(all)
}

fn admin_key(args: &AccessArgs, api_keys: &[ApiKey]) -> Result<Option<SecretDigest>, Failure> {
    let given = args.admin_key.as_ref().filter(|key| !key.is_empty());
    let Some(digest) = given.map(|key| SecretDigest::of(key.as_bytes())) else {
        return Ok(None);
    };
    if api_keys.iter().any(|key| key.digest.equals(&digest)) {
        return Err(Failure::Usage(
            "the admin key is an API key too; whoever calls the model could administer the server: take another"
                .to_owned(),
        ));
    }
    Ok(Some(digest))
}

/// Origins as browsers send them. `*` would open the server to every page that its user visits.
fn origins(given: &[String]) -> Result<Vec<String>, Failure> {
    let origin = |text: &String| {
        let text = text.trim().trim_end_matches('/').to_ascii_lowercase();
        let is_origin = text.split_once("://").is_some_and(|(scheme, rest)| {
            !scheme.is_empty() && !rest.is_empty() && !rest.contains(['/', '*', '@', ' '])
        });
        if is_origin {
            Ok(text)
        } else {
            Err(Failure::Usage(format!(
                "--cors-origin {text:?} is no origin; name each by scheme, host and port, such as https://chat.example.org"
            )))
        }
    };
    let given = given.iter().filter(|text| !text.trim().is_empty());
    given.map(origin).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args() -> AccessArgs {
        AccessArgs {
            api_key: Vec::new(),
            api_keys_file: None,
            admin_key: None,
            allow_unauthenticated: false,
            cors_origin: Vec::new(),
            allowed_hosts: Vec::new(),
            requests_per_minute: None,
            tokens_per_minute: None,
            concurrent_requests: None,
        }
    }

    fn refused(args: &AccessArgs) -> String {
        match apply(args, &mut HttpConfig::default()) {
            Err(Failure::Usage(message)) => message,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn keys_are_told_apart() {
        let keys = |list: &[&str]| list.iter().map(|key| (*key).to_owned()).collect();
        let two = AccessArgs {
            api_key: keys(&["a", "", "b"]),
            admin_key: Some(String::new()),
            ..args()
        };
        let mut config = HttpConfig::default();
        apply(&two, &mut config).unwrap();
        let names: Vec<&str> = config
            .api_keys
            .iter()
            .map(|key| key.name.as_str())
            .collect();
        assert_eq!(names, ["key-1", "key-2"]);
        assert!(config.admin_key.is_none());
        let same = AccessArgs {
            api_key: keys(&["a", "a"]),
            ..args()
        };
        assert!(refused(&same).contains("the same"));
        let shared = AccessArgs {
            api_key: keys(&["a"]),
            admin_key: Some("a".into()),
            ..args()
        };
        assert!(refused(&shared).contains("admin key"));
    }

    #[test]
    fn origins_are_spelled_as_browsers_do() {
        let read = |text: &str| origins(&[text.to_owned()]).ok();
        assert_eq!(
            read("https://Chat.Example/"),
            Some(vec!["https://chat.example".to_owned()])
        );
        assert_eq!(
            read("vscode-webview://abc"),
            Some(vec!["vscode-webview://abc".to_owned()])
        );
        for wrong in [
            "*",
            "https://*.example",
            "chat.example",
            "https://a/b",
            "https://",
            "null",
        ] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
        assert_eq!(read(" "), Some(vec![]));
    }
}
