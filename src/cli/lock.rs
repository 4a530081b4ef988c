//! `lock`: versions and artifacts, resolved and pinned.

use super::site::{load, state_dir};
use super::{Global, exit, watch};
use crate::artifact::{LOCK_FILE, Lock as LockFile, LockError, Needs, resolve, wanted};
use clap::Args;
use std::path::PathBuf;

/// Resolve versions into provision.lock: exact version, URL, sha256
#[derive(Args)]
#[command(after_help = "Example:
  provision lock -i site.yaml      downloads each artifact once and records its sha256; commit the file

For air-gapped sites add mirrors under `urls` of each artifact: the sha256 stays what counts. They are kept when the
file is made anew.")]
pub struct Lock {
    /// The inventory
    #[arg(long, short, env = "PROVISION_INVENTORY", hide_env_values = true, default_value = ".")]
    inventory: PathBuf,
}

impl Lock {
    /// Resolves and writes.
    pub async fn run(self, global: &Global) -> anyhow::Result<u8> {
        let (inventory, catalog) = load(&self.inventory)?;
        let path = inventory.root.join(LOCK_FILE);
        let previous = match LockFile::load(&path) {
            Ok(lock) => lock,
            Err(LockError::Missing(_)) => LockFile::default(),
            Err(error) => return Err(error.into()),
        };
        let (events, shown) = watch(global, true);
        let uses = |vendor: &str| {
            let mut all = inventory.pools.values().filter_map(|p| p.accelerator.as_ref());
            all.any(|a| a.extended_resource().starts_with(vendor))
        };
        let needs = Needs {
            k0s_version: inventory.cluster.k0s_version.clone(),
            nvidia: uses("nvidia"),
            neuron: uses("aws"),
            efa: inventory.pools.values().any(|p| p.efa.is_some()),
            router: inventory.router.is_some(),
            inference_extension: inventory.router.as_ref().is_some_and(|r| r.inference_extension),
        };
        let cache = state_dir().join("artifacts");
        let result = resolve(&wanted(&needs, &catalog), &previous, &cache, &events).await;
        drop(events);
        shown.end().await;
        let lock = result?;
        lock.save(&path)?;
        eprintln!("{} artifacts are pinned in {}; commit it", lock.artifacts.len(), path.display());
        Ok(exit::DONE)
    }
}
