//! API keys of tenants: signed tokens (JWT, RFC 7519, with Ed25519, RFC 8037). The private key signs on this machine and goes nowhere;
//! the file beside the inventory lists what was made, and the cluster gets the public key and the ids of revoked keys.

use super::error::{Error, Result, cannot, coded, one_of};
use super::load::Source;
use crate::inventory::{self, ApiKeys, Files, Inventory, IssuedKey, MOST_KEYS, Secrets, keys_file};
use crate::serving::issuer;
use crate::state::{SecretText, put};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use ring::signature::{Ed25519KeyPair, KeyPair};
use rustix::fs::{FlockOperation, flock};
use serde::Serialize;
use serde_json::json;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a key lasts that this program makes for a question of its own.
const OWN_KEY: Duration = Duration::from_secs(600);
/// The id of such a key in records.
const OWN_ID: &str = "provision";
/// The longest that a key may last.
const LONGEST_KEY: Duration = Duration::from_secs(3650 * 24 * 3600);
/// A key that expired so long ago is taken off the list when it is next written.
const FORGOTTEN: Duration = Duration::from_secs(30 * 24 * 3600);
/// The longest name of a key, in bytes: lists have to fit on a screen.
const MOST_NAME: usize = 64;
/// The list of a tenant without one, until the first key is made. Its public key is a placeholder that is never applied.
const NO_KEYS: &str = "apiVersion: provision/v1\nkind: ApiKeys\npublicKey: AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\nkeys: {}\n";

/// Makes keys for one tenant.
pub(super) struct Signer {
    pair: Ed25519KeyPair,
    issuer: String,
    tenant: String,
}

impl Signer {
    /// Returns the signer of a tenant's keys. `secret` is an Ed25519 key as PEM (PKCS #8); of a lab, the stand-in that a seed is made of.
    fn new(inventory: &Inventory, tenant: &str, secret: &SecretText, lab: bool) -> Option<Self> {
        let pair = match lab {
            true => Ed25519KeyPair::from_seed_unchecked(&Sha256::digest(secret.expose())).ok()?,
            false => {
                let pem = pem::parse(secret.expose()).ok().filter(|pem| pem.tag() == "PRIVATE KEY")?;
                Ed25519KeyPair::from_pkcs8_maybe_unchecked(pem.contents()).ok()?
            }
        };
        Some(Self { pair, issuer: issuer(inventory), tenant: tenant.to_owned() })
    }

    /// Returns the public key, as base64url.
    fn public(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.pair.public_key().as_ref())
    }

    /// Returns a key that works until a time.
    fn sign(&self, id: &str, now: Timestamp, expires: Timestamp) -> SecretText {
        let header = json!({"alg": "EdDSA", "typ": "JWT"});
        let claims = json!({"iss": self.issuer, "aud": self.tenant, "jti": id, "iat": now.as_second(), "exp": expires.as_second()});
        let signed = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string())).join(".");
        let signature = URL_SAFE_NO_PAD.encode(self.pair.sign(signed.as_bytes()));
        SecretText::new(format!("{signed}.{signature}"))
    }
}

/// The signers of the tenants whose secret can be read here, by tenant.
#[derive(Default)]
pub(super) struct Signers(BTreeMap<String, Signer>);

impl Signers {
    /// Returns those of an inventory, and what was wrong with the others.
    pub(super) async fn of(inventory: &Inventory, secrets: &Secrets, lab: bool) -> (Self, Vec<String>) {
        let (mut signers, mut warnings) = (BTreeMap::new(), Vec::new());
        for tenant in inventory.tenants.values() {
            let Some(keys) = &tenant.keys else { continue };
            match signer(inventory, &tenant.name, keys, secrets, lab).await {
                Ok(signer) if lab || Some(signer.public()) == keys.public => {
                    signers.insert(tenant.name.clone(), signer);
                }
                Ok(_) => warnings.push(format!(
                    "secret {} does not fit the public key in {}, so tenant {} cannot be asked from this machine",
                    keys.signing,
                    keys.file.display(),
                    tenant.name
                )),
                Err(error) => {
                    warnings.push(format!("tenant {} cannot be asked from this machine: {error}", tenant.name));
                }
            }
        }
        (Self(signers), warnings)
    }

    /// Lets the tenants of a lab trust its stand-ins in place of the keys of real hosts.
    pub(super) fn trusted_in(&self, inventory: &mut Inventory) {
        for (name, signer) in &self.0 {
            if let Some(keys) = inventory.tenants.get_mut(name).and_then(|tenant| tenant.keys.as_mut()) {
                keys.public = Some(signer.public());
            }
        }
    }

    /// Returns a key for a question of this program's own.
    pub(super) fn own_key(&self, tenant: &str) -> Option<SecretText> {
        let now = Timestamp::now();
        self.0.get(tenant).map(|signer| signer.sign(OWN_ID, now, now + OWN_KEY))
    }
}

async fn signer(
    inventory: &Inventory,
    tenant: &str,
    keys: &ApiKeys,
    secrets: &Secrets,
    lab: bool,
) -> Result<Signer> {
    let secret = secrets.resolve(&keys.signing).await?;
    Signer::new(inventory, tenant, &secret, lab).ok_or_else(|| {
        let kind = kind_of(&secret);
        let message = format!("secret {} is {kind}, not an Ed25519 private key in PEM", keys.signing);
        coded("E-KEYS", message, "Make one with `openssl genpkey -algorithm ed25519 -out FILE`")
    })
}

/// Returns a time to the second, as keys have it.
fn to_the_second(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

/// Returns the id in a key, whoever signed it.
fn id_in(key: &str) -> Option<String> {
    let claims = URL_SAFE_NO_PAD.decode(key.trim().split('.').nth(1)?).ok()?;
    serde_json::from_slice::<serde_json::Value>(&claims).ok()?["jti"].as_str().map(str::to_owned)
}

/// Says what a secret is that is no private key of Ed25519 in PEM.
fn kind_of(secret: &SecretText) -> &'static str {
    match pem::parse(secret.expose()).as_ref().map(pem::Pem::tag) {
        Ok("PRIVATE KEY") => "a private key of another kind",
        Ok("RSA PRIVATE KEY" | "EC PRIVATE KEY") => "an RSA or EC private key",
        Ok("ENCRYPTED PRIVATE KEY") => "encrypted",
        Ok("OPENSSH PRIVATE KEY") => "a key in OpenSSH's format",
        Ok("PUBLIC KEY") => "a public key",
        Ok(_) => "something else in PEM",
        Err(_) => "not PEM",
    }
}

/// The files of an inventory, with an empty list of keys where a tenant has none yet.
struct WithKeys(Box<dyn Files>);

impl Files for WithKeys {
    fn read(&self, path: &Path) -> io::Result<String> {
        let keys = path.parent().and_then(Path::file_name).is_some_and(|folder| folder == "keys");
        match self.0.read(path) {
            Err(error) if keys && error.kind() == io::ErrorKind::NotFound => Ok(NO_KEYS.to_owned()),
            read => read,
        }
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<PathBuf>> {
        self.0.list(folder)
    }

    fn is_folder(&self, path: &Path) -> bool {
        self.0.is_folder(path)
    }
}

/// The keys of one tenant, to be listed, made and revoked. Contacts no host.
pub struct TenantKeys {
    source: Source,
    inventory: Inventory,
    tenant: String,
    /// What the file says: a change is written over nothing else.
    listed: ApiKeys,
    keys: ApiKeys,
    path: PathBuf,
}

/// A key that was made. It is shown once: nothing keeps it.
pub struct MadeKey {
    /// Its id, as records name it.
    pub id: String,
    /// What is known of it from now on.
    pub issued: IssuedKey,
    /// The key.
    pub key: SecretText,
    /// The file that lists it.
    pub path: PathBuf,
    /// The file was made for it: the gateway knows no public key yet.
    pub is_first: bool,
}

/// A key and its state, as shown.
#[derive(Clone, PartialEq, Eq, Serialize, Debug)]
pub struct KeyState {
    /// Its id.
    pub id: String,
    /// What is known of it.
    #[serde(flatten)]
    pub issued: IssuedKey,
    /// active, expired or revoked.
    pub state: &'static str,
}

/// What a file of keys holds.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct File<'a> {
    api_version: &'static str,
    kind: &'static str,
    public_key: &'a str,
    keys: &'a BTreeMap<String, IssuedKey>,
}

impl TenantKeys {
    /// Opens the keys of a tenant.
    pub fn open(source: &Source, name: &str) -> Result<Self> {
        let (inventory, keys) = Self::load(source, name)?;
        let path = inventory.root.join(keys_file(name));
        Ok(Self {
            source: source.clone(),
            inventory,
            tenant: name.to_owned(),
            listed: keys.clone(),
            keys,
            path,
        })
    }

    fn load(source: &Source, name: &str) -> Result<(Inventory, ApiKeys)> {
        let files = WithKeys(source.files()?);
        let catalog = inventory::catalog_beside(&files, &source.path)?;
        let loaded = inventory::load_from(&files, &source.path, &catalog).map_err(Error::Inventory)?;
        let inventory = loaded.inventory;
        let of = |tenant: &inventory::Tenant| tenant.keys.clone();
        let Some(keys) = inventory.tenants.get(name).and_then(of) else {
            let with: Vec<String> =
                inventory.tenants.values().filter(|t| t.keys.is_some()).map(|t| t.name.clone()).collect();
            let hint = match with.is_empty() {
                true => {
                    "Add keys: {signing: {secret: NAME}} to the tenant, and where the secret is to `secrets`"
                        .to_owned()
                }
                false => one_of(&with),
            };
            return Err(coded("E-USAGE", format!("the inventory has no tenant `{name}` with `keys`"), hint));
        };
        Ok((inventory, keys))
    }

    /// Returns the file that lists the keys.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the keys, by the time at which they were made.
    pub fn list(&self, now: Timestamp) -> Vec<KeyState> {
        let state = |key: &IssuedKey| match key.expires.parse::<Timestamp>() {
            _ if key.revoked.is_some() => "revoked",
            Ok(expires) if expires > now => "active",
            _ => "expired",
        };
        let mut all: Vec<KeyState> = self
            .keys
            .issued
            .iter()
            .map(|(id, key)| KeyState { id: id.clone(), issued: key.clone(), state: state(key) })
            .collect();
        all.sort_by(|a, b| (&a.issued.created, &a.id).cmp(&(&b.issued.created, &b.id)));
        all
    }

    /// Makes a key and lists it.
    pub async fn create(&mut self, name: &str, lasts: Duration) -> Result<MadeKey> {
        if name.trim().is_empty() || name.len() > MOST_NAME || name.chars().any(char::is_control) {
            let message = format!("a key's name is 1 to {MOST_NAME} bytes on one line");
            return Err(coded("E-USAGE", message, "Name who uses it: --name ci"));
        }
        if lasts.is_zero() || lasts > LONGEST_KEY {
            return Err(coded(
                "E-USAGE",
                "a key lasts from 1 second to 3650 days",
                "For example: --expires 90d",
            ));
        }
        if self.keys.issued.len() >= MOST_KEYS {
            let message = format!("{} lists {MOST_KEYS} keys, and no more are possible", self.path.display());
            return Err(coded("E-KEYS", message, "Remove expired ones from the file"));
        }
        let secrets = Secrets::of_site(&self.inventory);
        let signer = signer(&self.inventory, &self.tenant, &self.keys, &secrets, false).await?;
        let public = signer.public();
        if !self.keys.issued.is_empty() && self.keys.public.as_ref() != Some(&public) {
            let message = format!(
                "secret {} does not fit the public key in {}",
                self.keys.signing,
                self.path.display()
            );
            let hint = "Use the private key that signed the existing keys; docs/how-to/tenants.md says how to replace a lost one";
            return Err(coded("E-KEYS", message, hint));
        }
        let now = to_the_second(Timestamp::now());
        let expires = now + lasts;
        let is_first = self.keys.public.as_ref() != Some(&public);
        let bytes: [u8; 8] = rand::random();
        let id: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        let issued = IssuedKey {
            name: name.to_owned(),
            created: now.to_string(),
            expires: expires.to_string(),
            revoked: None,
        };
        self.keys.issued.insert(id.clone(), issued.clone());
        self.keys.public = Some(public);
        self.write()?;
        let key = signer.sign(&id, now, expires);
        Ok(MadeKey { id, issued, key, path: self.path.clone(), is_first })
    }

    /// Marks a key as revoked; it works until the next apply. `what` is its id, or the key itself. Returns its id, and whether it
    /// was active until now; `None` if it was revoked already.
    pub fn revoke(&mut self, what: &str) -> Result<(String, Option<bool>)> {
        // A key may be pasted where its id belongs: it must not come back in a message.
        let pasted = what.contains('.');
        let id = if pasted { id_in(what).unwrap_or_default() } else { what.to_owned() };
        let now = Timestamp::now();
        let known: Vec<String> =
            self.list(now).into_iter().map(|k| format!("{} ({})", k.id, k.issued.name)).collect();
        let Some(key) = self.keys.issued.get_mut(&id) else {
            let hint = match known.is_empty() {
                true => "The tenant has no keys yet".to_owned(),
                false => one_of(&known),
            };
            let which = if pasted { "that key".to_owned() } else { format!("`{id}`") };
            let message = format!("the list of tenant {} does not have {which}", self.tenant);
            return Err(coded("E-USAGE", message, hint));
        };
        if key.revoked.is_some() {
            return Ok((id, None));
        }
        let active = key.expires.parse::<Timestamp>().is_ok_and(|expires| expires > now);
        key.revoked = Some(to_the_second(now).to_string());
        self.write()?;
        Ok((id, Some(active)))
    }

    fn write(&mut self) -> Result<()> {
        // Nothing accepts them any more, and the list would grow for ever; the repository remembers.
        let past = Timestamp::now() - FORGOTTEN;
        let recent =
            |key: &IssuedKey| key.expires.parse::<Timestamp>().map_or(true, |expires| expires > past);
        self.keys.issued.retain(|_, key| recent(key));
        let file = File {
            api_version: "provision/v1",
            kind: "ApiKeys",
            public_key: self.keys.public.as_deref().unwrap_or_default(),
            keys: &self.keys.issued,
        };
        let yaml = serde_saphyr::to_string(&file).map_err(|e| Error::Malformed {
            what: "the list of keys cannot be written".to_owned(),
            source: Box::new(e),
        })?;
        let text = format!("# Written by provision. Commit it; it contains no secrets.\n{yaml}");
        let folder = self.path.parent().unwrap_or(&self.inventory.root);
        std::fs::create_dir_all(folder).map_err(cannot("create", folder))?;
        // Two changes at once would lose one of them, and with it a key that nobody could revoke.
        let lock = std::fs::File::open(folder).map_err(cannot("open", folder))?;
        flock(&lock, FlockOperation::LockExclusive).map_err(|e| cannot("lock", folder)(e.into()))?;
        if Self::load(&self.source, &self.tenant)?.1 != self.listed {
            let message = format!("{} was changed by another command meanwhile", self.path.display());
            return Err(coded("E-KEYS", message, "Run the command again; nothing was written"));
        }
        // As others read it; what is asked for here, the umask narrows.
        let readable = std::fs::Permissions::from_mode(0o644);
        let file = tempfile::Builder::new().permissions(readable).tempfile_in(folder);
        let mut file = file.map_err(cannot("write", &self.path))?;
        file.write_all(text.as_bytes()).map_err(cannot("write", &self.path))?;
        put(file, &self.path).map_err(cannot("write", &self.path))?;
        self.listed = self.keys.clone();
        Ok(())
    }
}
