//! The run that works on a cluster, as its lease names it.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

/// Digits of an identity's random part.
pub(super) const DIGITS: usize = 32;

/// Who works on the cluster.
#[derive(Clone, Debug)]
pub struct Holder {
    /// `user@machine_` and a random number, of this run alone; it is what the lease is held by.
    pub identity: String,
    /// `user@machine`, for people.
    pub owner: String,
    /// The run, for people.
    pub run: String,
    /// Identities of runs that are known to be over.
    ended: Arc<Mutex<BTreeSet<String>>>,
}

impl Holder {
    /// Returns a new one, unlike any other.
    pub fn new(owner: String, run: &str) -> Self {
        let identity = format!("{owner}_{:0DIGITS$x}", rand::random::<u128>());
        Self { identity, owner, run: run.to_owned(), ended: Arc::default() }
    }

    /// Notes that runs are over, by their identities: what they left need not be waited for.
    pub fn have_ended<'a>(&self, identities: impl IntoIterator<Item = &'a String>) {
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        ended.extend(identities.into_iter().cloned());
    }

    pub(super) fn is_over(&self, identity: &str) -> bool {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner).contains(identity)
    }
}
