//! What everything that runs over a connection shares: the connection itself, its limits, and the sessions that the server
//! counts.

use super::handshake::Checker;
use super::{Limits, SshError, SshErrorKind};
use russh::client::Handle;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

/// The connection itself; lives as long as anything that runs over it.
pub(super) struct Link {
    pub name: String,
    /// The server's public key, as known_hosts files have it.
    pub host_key: Option<String>,
    pub limits: Limits,
    pub handle: Handle<Checker>,
    pub sessions: Arc<Semaphore>,
    /// Sessions that we believe the server to count.
    pub live: Arc<AtomicUsize>,
    pub readers: Mutex<JoinSet<()>>,
    /// The bastion's connection that this one runs through.
    pub _through: Option<Arc<Link>>,
}

impl Link {
    /// Starts a task that ends with the connection.
    pub(super) fn spawn(&self, reader: impl Future<Output = ()> + Send + 'static) {
        if let Ok(mut readers) = self.readers.lock() {
            while readers.try_join_next().is_some() {}
            readers.spawn(reader);
        }
    }

    pub(super) fn lost(&self, why: impl std::fmt::Display) -> SshError {
        SshError {
            kind: SshErrorKind::Lost,
            message: format!("connection to {} closed: {why}", self.name),
            hint: "Run the same command again; completed steps are skipped".to_owned(),
        }
    }

    pub(super) fn refused(&self, message: String, hint: String) -> SshError {
        SshError { kind: SshErrorKind::Refused, message, hint }
    }

    pub(super) fn no_answer(&self, to: &str) -> SshError {
        self.lost(format!("no response to {to} within {} s", self.limits.answer.as_secs()))
    }
}

/// The right to a session, and its place in the count.
pub(super) struct SessionPermit {
    live: Arc<AtomicUsize>,
    _permit: OwnedSemaphorePermit,
}

impl SessionPermit {
    pub(super) fn take(permit: OwnedSemaphorePermit, live: &Arc<AtomicUsize>) -> Self {
        live.fetch_add(1, Ordering::AcqRel);
        Self { live: live.clone(), _permit: permit }
    }
}

impl Drop for SessionPermit {
    fn drop(&mut self) {
        self.live.fetch_sub(1, Ordering::AcqRel);
    }
}
