//! Secrets by reference: read when first needed, kept in memory only, never part of an error.

use super::model::{Inventory, SecretSource};
use crate::state::SecretText;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};
use tokio::process::Command;
use tokio::sync::Mutex;

/// Why a secret could not be read. Names where it should have come from, never what was read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read secret `{name}`: {why}")]
pub struct SecretError {
    /// Its name.
    pub name: String,
    /// Why.
    pub why: String,
}

/// The secrets of one inventory: of real hosts, or of simulated ones, which get stand-ins.
pub struct Secrets(Kind);

enum Kind {
    Site {
        root: PathBuf,
        sources: BTreeMap<String, SecretSource>,
        read: Mutex<BTreeMap<String, SecretText>>,
    },
    /// Has no source, so none can be read: the author of the inventory may not be trusted with them.
    Lab(BTreeMap<String, SecretText>),
}

impl Secrets {
    /// Returns the secrets of real hosts. Reads nothing yet.
    pub fn of_site(inventory: &Inventory) -> Self {
        Self(Kind::Site {
            root: inventory.root.clone(),
            sources: inventory.secrets.clone(),
            read: Mutex::default(),
        })
    }

    /// Returns stand-ins, `lab-stand-in-NAME`, and never looks at a source: no file, no environment, no command.
    pub fn of_lab(inventory: &Inventory) -> Self {
        let of_registries: BTreeSet<_> =
            inventory.registries.values().filter_map(|r| r.credentials.as_ref()).collect();
        let stand_in = |name: &String| {
            // A registry's credentials are `user:password`, and are taken apart.
            let user = if of_registries.contains(name) { "lab:" } else { "" };
            (name.clone(), SecretText::new(format!("{user}lab-stand-in-{name}")))
        };
        Self(Kind::Lab(inventory.secrets.keys().map(stand_in).collect()))
    }

    /// Returns a secret.
    pub async fn resolve(&self, name: &str) -> Result<SecretText, SecretError> {
        let fail = |why: String| SecretError { name: name.to_owned(), why };
        let unknown = || fail("it is not defined under `secrets`".to_owned());
        let (root, sources, read) = match &self.0 {
            Kind::Lab(stand_ins) => return stand_ins.get(name).cloned().ok_or_else(unknown),
            Kind::Site { root, sources, read } => (root, sources, read),
        };
        let mut read = read.lock().await;
        if let Some(secret) = read.get(name) {
            return Ok(secret.clone());
        }
        let text = fetch(root, sources.get(name).ok_or_else(unknown)?).await.map_err(fail)?;
        let secret = SecretText::new(text.trim_end_matches(['\n', '\r']));
        if secret.expose().is_empty() {
            return Err(fail("it is empty".to_owned()));
        }
        read.insert(name.to_owned(), secret.clone());
        Ok(secret)
    }
}

impl SecretSource {
    /// Returns where it is read from, in words.
    fn place(&self, root: &Path) -> String {
        let at = |path: &Path| shown(&root.join(path));
        match self {
            SecretSource::Env(name) => format!("environment variable {name}"),
            SecretSource::File(path) => at(path),
            SecretSource::Age { file, identity } => {
                let identity = identity.as_deref().map_or(AGE_IDENTITY.to_owned(), at);
                format!("{}, with the age identity of {identity}", at(file))
            }
            SecretSource::Sops { file, key } => format!("{key} in {}, with sops", at(file)),
            SecretSource::Exec(words) => {
                format!("the output of {}", words.first().map_or("a command", String::as_str))
            }
        }
    }
}

/// Returns a path that means the same in any working folder.
fn shown(path: &Path) -> String {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).display().to_string()
}

/// Returns what real hosts of an inventory cannot be changed without, and no inventory has in it: where secrets, SSH keys and
/// host keys come from.
pub fn needs(inventory: &Inventory) -> Vec<String> {
    let ssh = &inventory.ssh;
    let secrets = inventory.secrets.iter();
    let secrets = secrets.map(|(name, source)| format!("secret {name}: {}", source.place(&inventory.root)));
    let keys = ssh.identities.iter().map(|path| format!("SSH key: {}", shown(path)));
    std::iter::once(format!("host keys: {}", shown(&ssh.known_hosts))).chain(keys).chain(secrets).collect()
}

async fn fetch(root: &Path, source: &SecretSource) -> Result<String, String> {
    let at = |path: &Path| root.join(path);
    match source {
        SecretSource::Env(name) => {
            std::env::var(name).map_err(|_| format!("environment variable {name} is not set"))
        }
        SecretSource::File(path) => {
            std::fs::read_to_string(at(path)).map_err(|e| format!("{}: {e}", at(path).display()))
        }
        SecretSource::Age { file, identity } => {
            let identity = match identity {
                Some(path) => at(path),
                None => std::env::var_os(AGE_IDENTITY)
                    .map(PathBuf::from)
                    .ok_or(format!("no `identity` and {AGE_IDENTITY} is not set"))?,
            };
            age_decrypt(&at(file), &identity)
        }
        SecretSource::Sops { file, key } => {
            let extract: String = key.split('.').map(|part| format!("[{part:?}]")).collect();
            let file = at(file);
            run(Command::new("sops").args(["--decrypt", "--extract", &extract]).arg(&file), "sops").await
        }
        SecretSource::Exec(words) => {
            let (program, rest) = words.split_first().ok_or("the command is empty")?;
            run(Command::new(program).args(rest).current_dir(root), program).await
        }
    }
}

async fn run(command: &mut Command, name: &str) -> Result<String, String> {
    let output = command
        .stdin(std::process::Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|e| format!("cannot run {name}: {e}"))?;
    // Its output may be part of a secret: show only its status.
    if !output.status.success() {
        return Err(format!("{name} failed ({})", output.status));
    }
    String::from_utf8(output.stdout).map_err(|_| format!("{name} printed no text"))
}

/// The environment variable that names the age identity file, where nothing else does.
pub const AGE_IDENTITY: &str = "PROVISION_AGE_IDENTITY";

fn age_decrypt(file: &Path, identity: &Path) -> Result<String, String> {
    let mut text = String::new();
    let read = open_age(file, identity)?.read_to_string(&mut text);
    read.map_err(|e| format!("{}: {e}", file.display()))?;
    Ok(text)
}

/// Opens a file that is encrypted with age to be read as it was before, with the identity in another file. What is read is only
/// then whole when its end was reached without an error.
pub fn open_age(file: &Path, identity: &Path) -> Result<impl Read + Send + use<>, String> {
    let identities = age::IdentityFile::from_file(identity.display().to_string())
        .map_err(|e| format!("{}: {e}", identity.display()))?
        .into_identities()
        .map_err(|e| format!("{}: {e}", identity.display()))?;
    let input = std::fs::File::open(file).map_err(|e| format!("{}: {e}", file.display()))?;
    let failed = |e: &dyn std::fmt::Display| format!("{}: {e}", file.display());
    let armored = age::armor::ArmoredReader::new(std::io::BufReader::new(input));
    let decryptor = age::Decryptor::new_buffered(armored).map_err(|e| failed(&e))?;
    decryptor.decrypt(identities.iter().map(|i| &**i)).map_err(|e| failed(&e))
}
