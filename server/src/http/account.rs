//! The callers that the server knows.

use super::config::HttpConfig;
use super::keys::{ANYBODY, SecretDigest};
use std::sync::Arc;

/// One caller: whoever holds a key, or everybody where there are none.
pub(crate) struct Account {
    /// What logs call it.
    pub(crate) name: String,
}

/// All callers.
pub(crate) struct Accounts {
    by_key: Vec<(SecretDigest, Arc<Account>)>,
    anybody: Arc<Account>,
}

impl Accounts {
    pub(crate) fn new(config: &HttpConfig) -> Self {
        let account = |name: &str| {
            Arc::new(Account {
                name: name.to_owned(),
            })
        };
        let keys = config.api_keys.iter();
        Self {
            by_key: keys
                .map(|key| (key.digest.clone(), account(&key.name)))
                .collect(),
            anybody: account(ANYBODY),
        }
    }

    /// Whether nobody may call without a key.
    pub(crate) fn needs_key(&self) -> bool {
        !self.by_key.is_empty()
    }

    /// Whose key it is. Takes the same time whichever it is, and if it is nobody's.
    pub(crate) fn find(&self, given: &SecretDigest) -> Option<Arc<Account>> {
        let mut found = None;
        for (digest, account) in &self.by_key {
            if digest.equals(given) {
                found = Some(account);
            }
        }
        found.cloned()
    }

    /// The caller where there are no keys.
    pub(crate) fn anybody(&self) -> Arc<Account> {
        Arc::clone(&self.anybody)
    }
}
