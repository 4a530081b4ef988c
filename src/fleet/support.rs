//! An archive of a host's diagnostics, with secrets redacted.

use super::error::{Error, Result, cannot};
use super::open::Fleet;
use crate::executor::{support_archive, support_looks};
use crate::state::{SecretText, put};
use std::path::{Path, PathBuf};

/// What was collected.
pub struct Support {
    /// The number of requested parts.
    pub parts: usize,
    /// Parts that were not read in time.
    pub unread: Vec<String>,
}

impl Fleet {
    /// Returns the number of parts, and the longest timeout of one, in seconds.
    pub fn support_parts() -> (usize, u32) {
        let looks = support_looks();
        (looks.len(), looks.iter().map(|l| l.seconds).max().unwrap_or(0))
    }

    /// Collects diagnostics of a host, redacts secrets, and writes the archive, `tar.gz`, to `path`. Changes nothing on the
    /// host.
    pub async fn support(&self, host: &str, path: &Path) -> Result<Support> {
        let target = self.host(host)?;
        let looks = support_looks();
        let facts = target.facts().await?;
        let looked = target.look(&looks).await?;
        let secrets = self.resolvable_secrets().await;
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let file = tempfile::NamedTempFile::new_in(folder).map_err(cannot("write to", folder))?;
        let facts = serde_json::to_string_pretty(&facts)
            .map_err(|e| Error::Malformed { what: "cannot write the facts".to_owned(), source: e.into() })?;
        let unread = support_archive(host, &facts, &looked, &secrets, file.as_file())
            .map_err(cannot("write", path))?;
        put(file, path).map_err(cannot("write", path))?;
        Ok(Support { parts: looks.len(), unread })
    }

    /// Returns the secrets that can be resolved here: they are taken out wherever they stand. What cannot be was never
    /// sent to the host either.
    async fn resolvable_secrets(&self) -> Vec<SecretText> {
        let mut secrets = Vec::new();
        for name in self.inventory.secrets.keys() {
            if let Ok(secret) = self.resolver.resolve(name).await {
                secrets.push(secret);
            }
        }
        secrets
    }
}

/// Returns where a host's archive goes unless somewhere else is named.
pub fn support_file(host: &str) -> PathBuf {
    PathBuf::from(format!("support-{host}.tar.gz"))
}
