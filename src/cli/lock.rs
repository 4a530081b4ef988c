//! `lock`: versions and artifacts, resolved and pinned.

use super::args::{At, Global};
use super::exit;
use super::session::{load, watch_events};
use crate::report::count;
use clap::Args;

/// Pin versions, URLs and sha256 sums in provision.lock
#[derive(Args)]
#[command(after_help = "Example:
  provision lock -i site.yaml      downloads each artifact once and records its sha256; commit the file

Fetches only what the inventory can need. Mirrors in the inventory (`repositories`) are tried
before upstream, so this also works on air-gapped sites. More mirrors can be added under `urls`
of each artifact; content is always checked against its sha256, and added mirrors are kept when
the file is updated. If anything cannot be fetched, nothing is written.")]
pub(super) struct Lock {
    #[command(flatten)]
    at: At,
}

impl Lock {
    /// Resolves and writes.
    pub(super) async fn run(self, global: &Global) -> anyhow::Result<u8> {
        let loaded = load(&self.at.path(), global)?;
        let (events, showing) = watch_events(global, true, None);
        let result = loaded.lock(&events).await;
        drop(events);
        showing.end().await;
        let pinned = count(result?.artifacts.len(), "artifact");
        eprintln!("{pinned} pinned in {}; commit the file", loaded.lock_path().display());
        Ok(exit::DONE)
    }
}
