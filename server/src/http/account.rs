//! The callers that the server knows, and what each has taken.

use super::bucket::Bucket;
use super::config::HttpConfig;
use super::keys::{ANYBODY, ApiKey, KeyLimits, SecretDigest};
use odmoe_engine::ClientId;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// One caller: whoever holds a key, or everybody where there are none.
pub(crate) struct Account {
    /// What logs call it.
    pub(crate) name: String,
    /// What the engine calls it.
    pub(crate) client: ClientId,
    limits: KeyLimits,
    taken: Mutex<Taken>,
    places: Places,
}

struct Taken {
    requests: Option<Bucket>,
    tokens: Option<Bucket>,
    running: u32,
}

/// Answers that are made or wait, of one caller and of all.
struct Places {
    own: AtomicUsize,
    all: Arc<AtomicUsize>,
    /// Whether others may want some.
    are_shared: bool,
}

/// What is left of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Allowance {
    /// `requests` or `tokens`.
    pub(crate) of: &'static str,
    /// A minute.
    pub(crate) limit: u64,
    /// Now.
    pub(crate) left: u64,
    /// When all of it is there again.
    pub(crate) full_after: Duration,
}

/// A limit that a caller has reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reached {
    /// So many requests a minute.
    Requests(u32),
    /// So many tokens a minute.
    Tokens(u32),
    /// So many requests at once.
    Concurrent(u32),
}

impl Reached {
    /// For metrics.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Requests(_) => "requests",
            Self::Tokens(_) => "tokens",
            Self::Concurrent(_) => "concurrent",
        }
    }
}

impl Account {
    fn new(
        name: &str,
        client: ClientId,
        limits: KeyLimits,
        all: &Arc<AtomicUsize>,
        are_shared: bool,
        now: Instant,
    ) -> Self {
        let bucket = |limit: Option<u32>| limit.map(|limit| Bucket::new(limit, now));
        Self {
            name: name.to_owned(),
            client,
            limits,
            taken: Mutex::new(Taken {
                requests: bucket(limits.requests_per_minute),
                tokens: bucket(limits.tokens_per_minute),
                running: 0,
            }),
            places: Places {
                own: AtomicUsize::new(0),
                all: Arc::clone(all),
                are_shared,
            },
        }
    }

    /// Takes a request in, or says which limit stands against it and how long, where that is known.
    pub(crate) fn enter(
        self: &Arc<Self>,
        now: Instant,
    ) -> Result<Entry, (Reached, Option<Duration>)> {
        let mut taken = self.taken();
        if let Some(most) = self.limits.concurrent_requests
            && taken.running >= most
        {
            return Err((Reached::Concurrent(most), None));
        }
        let tokens = taken
            .tokens
            .as_mut()
            .and_then(|bucket| bucket.wait_for(1.0, now));
        if let (Some(wait), Some(limit)) = (tokens, self.limits.tokens_per_minute) {
            return Err((Reached::Tokens(limit), Some(wait)));
        }
        let requests = taken
            .requests
            .as_mut()
            .and_then(|bucket| bucket.wait_for(1.0, now));
        if let (Some(wait), Some(limit)) = (requests, self.limits.requests_per_minute) {
            return Err((Reached::Requests(limit), Some(wait)));
        }
        if let Some(bucket) = &mut taken.requests {
            bucket.take(1.0);
        }
        taken.running += 1;
        Ok(Entry(Arc::clone(self)))
    }

    /// Counts tokens of prompts and answers. They are known only once they are there: a request may take more than is
    /// left, and the next one waits.
    pub(crate) fn take_tokens(&self, count: u64) {
        if let Some(bucket) = &mut self.taken().tokens {
            bucket.take(count as f64);
        }
    }

    /// What is left of the limits on requests and tokens a minute, where there are any.
    pub(crate) fn allowances(&self, now: Instant) -> Vec<Allowance> {
        let mut taken = self.taken();
        let Taken {
            requests, tokens, ..
        } = &mut *taken;
        [("requests", requests), ("tokens", tokens)]
            .into_iter()
            .filter_map(|(of, bucket)| {
                let bucket = bucket.as_mut()?;
                Some(Allowance {
                    of,
                    limit: bucket.most() as u64,
                    left: bucket.left(now) as u64,
                    full_after: bucket.wait_for(f64::INFINITY, now).unwrap_or_default(),
                })
            })
            .collect()
    }

    /// Takes places for `count` answers of the `capacity` that the engine has. Where there are several callers, one takes
    /// at most as many as it leaves free, so that a single one fills half of the queue and others still find room.
    pub(crate) fn take_places(
        self: &Arc<Self>,
        count: usize,
        capacity: usize,
    ) -> Result<PlacesTaken, usize> {
        let own = self.places.own.fetch_add(count, Ordering::AcqRel);
        let all = self.places.all.fetch_add(count, Ordering::AcqRel);
        let taken = PlacesTaken(Arc::clone(self), count);
        if self.places.are_shared && own + count > capacity.saturating_sub(all) {
            return Err(own);
        }
        Ok(taken)
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request that counts against its caller's limit of requests at once until this is dropped.
pub(crate) struct Entry(Arc<Account>);

impl Drop for Entry {
    fn drop(&mut self) {
        self.0.taken().running -= 1;
    }
}

/// Places for answers, given back when this is dropped.
pub(crate) struct PlacesTaken(Arc<Account>, usize);

impl Drop for PlacesTaken {
    fn drop(&mut self) {
        let Self(account, count) = self;
        account.places.own.fetch_sub(*count, Ordering::AcqRel);
        account.places.all.fetch_sub(*count, Ordering::AcqRel);
    }
}

/// All callers.
pub(crate) struct Accounts {
    by_key: Vec<(SecretDigest, Arc<Account>)>,
    anybody: Arc<Account>,
}

impl Accounts {
    pub(crate) fn new(config: &HttpConfig) -> Self {
        let (all, now) = (Arc::default(), Instant::now());
        let are_shared = config.api_keys.len() > 1;
        let account = |(key, client): (&ApiKey, u32)| {
            let limits = key.limits.or(config.key_limits);
            let account = Account::new(&key.name, ClientId(client), limits, &all, are_shared, now);
            (key.digest, Arc::new(account))
        };
        let anybody = Account::new(ANYBODY, ClientId(0), config.key_limits, &all, false, now);
        Self {
            by_key: config.api_keys.iter().zip(1..).map(account).collect(),
            anybody: Arc::new(anybody),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn accounts(limits: KeyLimits) -> (Arc<Account>, Arc<Account>) {
        let accounts = Accounts::new(&HttpConfig {
            api_keys: vec![ApiKey::new("a", "a"), ApiKey::new("b", "b")],
            key_limits: limits,
            ..HttpConfig::default()
        });
        let find = |key: &str| accounts.find(&SecretDigest::of(key.as_bytes())).unwrap();
        (find("a"), find("b"))
    }

    #[test]
    fn each_limit_holds_for_each_caller() {
        let limits = KeyLimits {
            requests_per_minute: Some(3),
            tokens_per_minute: Some(60),
            concurrent_requests: Some(2),
        };
        let (a, b) = accounts(limits);
        let now = Instant::now();
        let (first, _second) = (a.enter(now).ok().unwrap(), a.enter(now).ok().unwrap());
        assert_eq!(a.enter(now).err(), Some((Reached::Concurrent(2), None)));
        drop(first);
        let third = a.enter(now).ok().unwrap();
        drop(third);
        let reached = (Reached::Requests(3), Some(Duration::from_secs(20)));
        assert_eq!(a.enter(now).err(), Some(reached));
        a.take_tokens(61);
        let reached = (Reached::Tokens(60), Some(Duration::from_secs(2)));
        assert_eq!(a.enter(now).err(), Some(reached));
        assert!(b.enter(now).is_ok());
    }

    #[test]
    fn one_caller_leaves_room_for_others() {
        let (a, b) = accounts(KeyLimits::default());
        let mut held = Vec::new();
        while let Ok(place) = a.take_places(1, 8) {
            held.push(place);
        }
        assert_eq!(held.len(), 4);
        held.extend((0..2).map(|_| b.take_places(1, 8).ok().unwrap()));
        assert_eq!(b.take_places(1, 8).err(), Some(2));
        held.clear();
        assert!(b.take_places(8, 8).is_ok(), "all, where nobody has any");
        let alone = Accounts::new(&HttpConfig::default()).anybody();
        assert!(
            alone.take_places(9, 8).is_ok(),
            "a single caller has the engine's own limit"
        );
    }
}
