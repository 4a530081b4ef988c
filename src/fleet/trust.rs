//! Host keys: scan, compare, record.

use super::error::{Result, cannot};
use super::open::Fleet;
use crate::ssh::known_hosts::{Verdict, write};
use crate::ssh::trust::{Scanned, scan};
use crate::ssh::{Pool, PoolOptions};
use std::path::PathBuf;

/// The keys of the selected hosts, before any is recorded.
pub struct HostKeys {
    /// The file that they are recorded in.
    pub file: PathBuf,
    /// Each host's key, and its verdict from the file.
    pub found: Vec<Scanned>,
}

impl Fleet {
    /// Reads the keys of all selected hosts, without logging in.
    pub async fn host_keys(&self) -> HostKeys {
        let file = self.inventory.ssh.known_hosts.clone();
        let pool = Pool::new(PoolOptions {
            // Keys known from the user's own files are recorded next to the inventory too.
            known_hosts: vec![file.clone()],
            only_these_known_hosts: true,
            ..self.ssh.clone()
        });
        HostKeys { file, found: scan(&pool, self.endpoints.clone()).await }
    }
}

impl HostKeys {
    /// Returns the keys that are to be recorded: new ones, and with `replace` those that have changed.
    fn wanted(&self, replace: bool) -> impl Iterator<Item = &Scanned> {
        self.found.iter().filter(move |host| {
            host.key.is_ok()
                && match host.verdict {
                    Verdict::Trusted | Verdict::Revoked(_) => false,
                    Verdict::Changed { .. } => replace,
                    _ => true,
                }
        })
    }

    /// Returns how many keys `record` writes.
    pub fn pending(&self, replace: bool) -> usize {
        self.wanted(replace).count()
    }

    /// Records the keys.
    pub fn record(&self, replace: bool) -> Result<()> {
        let keys: Vec<_> = self
            .wanted(replace)
            .filter_map(|host| Some((host.known_as.clone(), host.key.as_ref().ok()?.clone())))
            .collect();
        write(&self.file, &keys, replace).map_err(cannot("write", &self.file))
    }
}
