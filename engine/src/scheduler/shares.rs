//! Whose request is admitted next: one of the client that was served least.
//!
//! Service is counted in tokens, as in "Fairness in Serving Large Language Models" (Sheng and others, OSDI 2024): a
//! client whose queue was empty starts from where the others are, so nobody saves up a right to keep them waiting. With
//! one client it is first come, first served.

use super::sequence::Age;
use crate::api::ClientId;
use std::collections::{BTreeMap, BTreeSet};

/// What a generated token counts where one of a prompt counts 1. A prompt's tokens share the experts that they read; a
/// generated one has its own. Measured on the fixture, decode takes 7 times as long a token with all experts in memory,
/// and 20 times with a quarter of them.
const GENERATED_WEIGHT: u64 = 8;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Shares {
    clients: BTreeMap<ClientId, Share>,
    /// What the client had that was admitted last: never falls.
    level: u64,
}

#[derive(Debug, Default)]
struct Share {
    served: u64,
    /// Requests that were never admitted.
    queued: BTreeSet<Age>,
    /// Requests that have not ended.
    live: usize,
}

impl Shares {
    /// A request enters the queue.
    pub fn enter(&mut self, client: ClientId, age: Age) {
        let share = self.clients.entry(client).or_default();
        if share.live == 0 {
            share.served = share.served.max(self.level);
        }
        share.live += 1;
        share.queued.insert(age);
    }

    /// The request that is admitted next; the older of two whose clients are even.
    pub fn next(&self) -> Option<Age> {
        let heads = self.clients.values().filter_map(|share| {
            let head = share.queued.first()?;
            Some((share.served, *head))
        });
        heads.min().map(|(_, age)| age)
    }

    /// A request leaves the queue with so many tokens of its prompt to be computed.
    pub fn admit(&mut self, client: ClientId, age: Age, prompt_tokens: usize) {
        let share = self.share(client);
        assert!(share.queued.remove(&age), "{age:?} was admitted twice");
        let before = share.served;
        share.served += prompt_tokens as u64;
        self.level = self.level.max(before);
    }

    /// A token was generated for the client.
    pub fn generated(&mut self, client: ClientId) {
        self.share(client).served += GENERATED_WEIGHT;
    }

    /// A request ended, wherever it was.
    pub fn leave(&mut self, client: ClientId, age: Age) {
        let level = self.level;
        let share = self.share(client);
        share.queued.remove(&age);
        share.live -= 1;
        // Whoever is behind starts from the level anyway.
        if share.live == 0 && share.served <= level {
            self.clients.remove(&client);
        }
    }

    /// Requests that were never admitted, of all clients.
    pub fn queued(&self) -> usize {
        self.clients.values().map(|share| share.queued.len()).sum()
    }

    fn share(&mut self, client: ClientId) -> &mut Share {
        let share = self.clients.get_mut(&client);
        share.expect("a client with a request has a share")
    }
}
