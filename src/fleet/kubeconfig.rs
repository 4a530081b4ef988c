//! Kubeconfigs for this machine's tools: the admin's or a named user's, printed, or merged into a file that others write too.

use super::error::{Error, Result, cannot, coded};
use super::open::Fleet;
use crate::inventory::Endpoint;
use crate::k0s::{self, API_PORT};
use crate::reconciler::{ClientUser, admin_kubeconfig, kubeconfig_for};
use crate::state::{SecretText, read_regular};
use base64::Engine as _;
use serde_json::{Value, json};
use std::io::{ErrorKind, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// A kubeconfig is smaller than this, in bytes: each entry is a few KiB.
const MOST_BYTES: u64 = 8 << 20;
/// The entries of a kubeconfig, and the field of each that names what it holds.
const LISTS: [(&str, &str); 3] = [("clusters", "cluster"), ("users", "user"), ("contexts", "context")];
/// Marks entries that are ours, among the extensions that kubectl keeps.
const MARK: &str = "provision.dev/inventory";

/// Where a kubeconfig leads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Via {
    /// A port on this machine's loopback, where a tunnel listens.
    Tunnel(u16),
    /// The address of `cluster.endpoint`.
    Endpoint,
}

/// A kubeconfig, and what it is.
pub struct IssuedKubeconfig {
    /// The name of its context, its cluster and its user entry.
    pub context: String,
    /// The API that it leads to.
    pub server: String,
    /// Who it is for: the name in the certificate.
    pub user: String,
    /// When its certificate ends, in seconds since 1970, if that could be read.
    pub expires_s: Option<i64>,
    config: Value,
}

/// What merging a kubeconfig did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MergedKubeconfig {
    /// The file.
    pub path: PathBuf,
    /// It had entries of ours under this name, which were replaced.
    pub replaced: bool,
    /// The context is the file's current one: it was, or there was none.
    pub is_current: bool,
}

/// Returns an address as in a URL.
fn url(address: &str) -> String {
    match address.parse::<IpAddr>() {
        Ok(ip) => format!("https://{}", SocketAddr::new(ip, API_PORT)),
        Err(_) => format!("https://{address}:{API_PORT}"),
    }
}

impl Fleet {
    /// Returns a kubeconfig for the admin, or for a user whose certificate a controller signs. The context has the
    /// inventory's name, or `NAME@` before it, unless another is given.
    pub async fn kubeconfig(
        &self,
        user: Option<&ClientUser>,
        via: Via,
        context: Option<&str>,
    ) -> Result<IssuedKubeconfig> {
        let server = match (via, &self.inventory.cluster.endpoint) {
            (Via::Tunnel(port), _) => format!("https://{}", SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
            (Via::Endpoint, Endpoint::External { address }) => url(address),
            (Via::Endpoint, Endpoint::Vip { address, .. }) => url(&address.addr().to_string()),
            (Via::Endpoint, Endpoint::NodeLocal) => {
                let message = "this inventory has no address for the API: cluster.endpoint is nodeLocal";
                let hint =
                    "Omit --via to go through `provision tunnel`, or set cluster.endpoint.external or .vip";
                return Err(coded("E-USAGE", message, hint));
            }
        };
        let name = &self.inventory.name;
        let usual = user.map_or_else(|| name.clone(), |user| format!("{}@{name}", user.name()));
        let entry = context.map_or(usual, str::to_owned);
        let text = match user {
            Some(user) => user.sign(self.access.as_ref()).await?,
            None => {
                let admin = admin_kubeconfig(self.access.as_ref()).await?;
                SecretText::new(String::from_utf8_lossy(&admin).into_owned())
            }
        };
        let loopback = matches!(via, Via::Tunnel(_));
        let config = kubeconfig_for(text.expose().as_bytes(), &entry, &server, loopback)?;
        let certificate = config.auth_infos.first().and_then(|a| a.auth_info.as_ref());
        let certificate = certificate.and_then(|a| a.client_certificate_data.clone()).unwrap_or_default();
        let pem = base64::engine::general_purpose::STANDARD.decode(certificate).unwrap_or_default();
        let (user, expires_s) = k0s::subject_and_end(&pem).unzip();
        let mut config = serde_json::to_value(&config).map_err(|e| malformed("the kubeconfig", e))?;
        for (list, field) in LISTS {
            config[list][0][field]["extensions"] = json!([{"name": MARK, "extension": {"inventory": name}}]);
        }
        let user = user.flatten().unwrap_or_else(|| "kubernetes-admin".to_owned());
        Ok(IssuedKubeconfig { context: entry, server, user, expires_s, config })
    }
}

fn malformed(what: &str, source: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Malformed { what: format!("{what} is malformed"), source: Box::new(source) }
}

/// Returns a configuration as YAML. What a reader would make of it is compared with what was meant.
fn yaml(config: &Value) -> Result<SecretText> {
    let options = serde_saphyr::ser_options! { prefer_block_scalars: false };
    let text =
        serde_saphyr::to_string_with_options(config, options).map_err(|e| malformed("the kubeconfig", e))?;
    let text = SecretText::new(text);
    match serde_saphyr::from_str::<Value>(text.expose()) {
        Ok(read) if read == *config => Ok(text),
        // JSON is YAML too.
        _ => Ok(SecretText::new(
            serde_json::to_string_pretty(config).map_err(|e| malformed("the kubeconfig", e))? + "\n",
        )),
    }
}

/// Returns the kubeconfig that kubectl uses: the first file of `KUBECONFIG`, or `~/.kube/config`.
pub fn usual_kubeconfig() -> Result<PathBuf> {
    let listed = std::env::var_os("KUBECONFIG").unwrap_or_default();
    let first = std::env::split_paths(&listed).find(|path| !path.as_os_str().is_empty());
    let home =
        || std::env::home_dir().filter(|home| home.is_absolute()).map(|home| home.join(".kube/config"));
    first
        .or_else(home)
        .ok_or_else(|| coded("E-USAGE", "no home folder is set", "Name the file: --merge FILE"))
}

/// Held while a kubeconfig is rewritten, as kubectl holds it (client-go tools/clientcmd/config.go, lockFile).
struct Lock(PathBuf);

impl Lock {
    fn take(file: &Path) -> Result<Self> {
        let mut name = file.as_os_str().to_owned();
        name.push(".lock");
        let path = PathBuf::from(name);
        match std::fs::OpenOptions::new().write(true).create_new(true).open(&path) {
            Ok(_) => Ok(Self(path)),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                let message =
                    format!("{} exists: another program is writing this kubeconfig", path.display());
                Err(coded("E-KUBECONFIG", message, "Try again; if no kubectl is running, remove that file"))
            }
            Err(error) => Err(cannot("write", &path)(error)),
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

impl IssuedKubeconfig {
    /// Returns it as YAML. It holds a private key.
    pub fn text(&self) -> Result<SecretText> {
        yaml(&self.config)
    }

    /// Returns it as JSON. It holds a private key.
    pub fn json(&self) -> &Value {
        &self.config
    }

    /// Puts it into a file under its context's name. Everything else in the file stays; entries of that name that are not of
    /// this inventory are refused. The file is replaced as a whole, and readable by this user alone. A symbolic link stays one.
    pub fn merge(&self, path: &Path) -> Result<MergedKubeconfig> {
        let path = match std::fs::canonicalize(path) {
            Ok(real) => real,
            Err(error) if error.kind() == ErrorKind::NotFound => path.to_owned(),
            Err(error) => return Err(cannot("read", path)(error)),
        };
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
        // kubectl's own folder may not be there yet; another one that is not there is more likely a typing error.
        if folder.file_name().is_some_and(|name| name == ".kube") {
            match std::fs::create_dir(folder) {
                Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                    return Err(cannot("create", folder)(error));
                }
                _ => {}
            }
        }
        let _lock = Lock::take(&path)?;
        let text = match read_regular(&path, MOST_BYTES) {
            Ok(bytes) => SecretText::new(String::from_utf8_lossy(&bytes).into_owned()),
            Err(error) if error.kind() == ErrorKind::NotFound => SecretText::new(""),
            Err(error) => return Err(cannot("read", &path)(error)),
        };
        let (merged, replaced) = self.merged(text.expose(), &path)?;
        let is_current = merged["current-context"] == self.context.as_str();
        let mut file = tempfile::NamedTempFile::new_in(folder).map_err(cannot("write", folder))?;
        file.write_all(yaml(&merged)?.expose().as_bytes()).map_err(cannot("write", &path))?;
        let private = std::fs::Permissions::from_mode(0o600);
        file.as_file().set_permissions(private).map_err(cannot("write", &path))?;
        file.as_file().sync_all().map_err(cannot("write", &path))?;
        file.persist(&path).map_err(|e| cannot("write", &path)(e.error))?;
        Ok(MergedKubeconfig { path, replaced, is_current })
    }

    /// Returns a file's configuration with this one in it, and whether there was one of ours under its name.
    fn merged(&self, text: &str, path: &Path) -> Result<(Value, bool)> {
        let unusable = |why: &str| {
            let message = format!("{} is not a kubeconfig: {why}", path.display());
            coded("E-KUBECONFIG", message, "Name another file: --merge FILE")
        };
        let mut whole: Value = match text.trim() {
            "" => json!({"apiVersion": "v1", "kind": "Config"}),
            // Not the parser's words: they quote the line, which may hold a key.
            text => serde_saphyr::from_str(text).map_err(|_| unusable("it is not valid YAML"))?,
        };
        let object = whole.as_object_mut().ok_or_else(|| unusable("it is not a mapping"))?;
        // As client-go reads it: `kind` may be left out, and is otherwise `Config` of `v1`.
        let is_config = match (object.get("kind"), object.get("apiVersion")) {
            (None, None) => object.is_empty() || LISTS.iter().any(|(list, _)| object.contains_key(*list)),
            (kind, version) => kind.is_none_or(|k| k == "Config") && version.is_none_or(|v| v == "v1"),
        };
        if !is_config {
            return Err(unusable("it is not of kind Config, version v1"));
        }
        let mut replaced = false;
        for (list, field) in LISTS {
            let entries = object.entry(list).or_insert_with(|| json!([]));
            if entries.is_null() {
                *entries = json!([]);
            }
            let Some(entries) = entries.as_array_mut() else {
                return Err(unusable(&format!("`{list}` is not a list")));
            };
            let own = &self.config[list][0];
            match entries.iter_mut().find(|entry| entry["name"] == self.context.as_str()) {
                Some(entry) if is_ours(&entry[field], &own[field]) => {
                    replaced = true;
                    *entry = own.clone();
                }
                Some(_) => {
                    let message = format!("{} has another {field} named {}", path.display(), self.context);
                    return Err(coded("E-KUBECONFIG", message, "Choose another name: --context NAME"));
                }
                None => entries.push(own.clone()),
            }
        }
        let current = object.entry("current-context").or_insert(Value::Null);
        if current.as_str().is_none_or(str::is_empty) {
            *current = json!(self.context);
        }
        Ok((whole, replaced))
    }
}

/// Returns whether an entry was written for the same inventory as ours.
fn is_ours(entry: &Value, ours: &Value) -> bool {
    let mark = |entry: &Value| {
        let all = entry["extensions"].as_array()?;
        Some(all.iter().find(|e| e["name"] == MARK)?["extension"].clone())
    };
    mark(entry).is_some() && mark(entry) == mark(ours)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn issued(key: &str, inventory: &str) -> IssuedKubeconfig {
        let mark = json!([{"name": MARK, "extension": {"inventory": inventory}}]);
        let config = json!({"apiVersion": "v1", "kind": "Config", "current-context": "ams",
            "clusters": [{"name": "ams", "cluster": {"server": "https://127.0.0.1:6443", "extensions": mark}}],
            "users": [{"name": "ams", "user": {"client-key-data": key, "extensions": mark}}],
            "contexts": [{"name": "ams", "context": {"cluster": "ams", "user": "ams", "extensions": mark}}]});
        let (context, server, user) = ("ams".to_owned(), String::new(), String::new());
        IssuedKubeconfig { context, server, user, expires_s: None, config }
    }

    const THEIRS: &str = "apiVersion: v1\nkind: Config\npreferences: {colors: true}\ncurrent-context: work\n\
        clusters: [{name: work, cluster: {server: 'https://work.example', proxy-url: 'http://p'}}]\n\
        users: [{name: work, user: {exec: {command: aws, args: ['on', '007', \"a: b\"], env: null}}}]\n\
        contexts: [{name: work, context: {cluster: work, user: work, namespace: 'yes'}}]\n";

    #[test]
    fn merging_keeps_what_others_wrote_and_replaces_only_its_own() {
        let dir = tempfile::tempdir().expect("a folder");
        let real = dir.path().join("real");
        std::fs::write(&real, THEIRS).expect("written");
        std::fs::set_permissions(&real, std::fs::Permissions::from_mode(0o644)).expect("set");
        let path = dir.path().join("config");
        std::os::unix::fs::symlink(&real, &path).expect("linked");
        let read = || -> Value {
            serde_saphyr::from_str(&std::fs::read_to_string(&path).expect("read")).expect("YAML")
        };
        let before = read();

        let merged = issued("one", "ams").merge(&path).expect("merged");
        assert!(!merged.replaced && !merged.is_current, "the current context stays");
        let again = issued("two", "ams").merge(&path).expect("merged");
        assert!(again.replaced);
        let mut after = read();
        assert_eq!(after["users"][1]["user"]["client-key-data"], "two");
        for list in ["clusters", "users", "contexts"] {
            let entries = after[list].as_array_mut().expect("a list");
            assert_eq!(entries.len(), 2);
            entries.pop();
        }
        assert_eq!(after, before, "without ours it is what it was");
        assert!(std::fs::symlink_metadata(&path).expect("there").file_type().is_symlink());
        assert_eq!(std::fs::metadata(&real).expect("there").permissions().mode() & 0o777, 0o600);
        assert!(!dir.path().join("real.lock").exists());

        let other = issued("three", "other").merge(&path).expect_err("not ours").failure();
        assert_eq!(other.code, "E-KUBECONFIG");
        assert_eq!(read()["users"][1]["user"]["client-key-data"], "two", "nothing was written");
    }

    #[test]
    fn a_file_that_is_locked_or_is_none_of_kubectls_is_left_alone() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join(".kube/config");
        let first = issued("one", "ams").merge(&path).expect("the folder is made");
        assert!(first.is_current && !first.replaced);
        std::fs::write(dir.path().join(".kube/config.lock"), "").expect("written");
        let locked = issued("two", "ams").merge(&path).expect_err("locked").failure();
        assert!(locked.message.contains("config.lock"), "{locked}");
        assert!(dir.path().join(".kube/config.lock").exists(), "another's lock stays");

        for text in [
            "users: {a: b}",
            "- a",
            "key: 'canary-in-a-broken-file",
            "a: [1",
            "replicas: 3",
            "apiVersion: v1\nkind: Pod\n",
            "kind: Deployment\nclusters: []\n",
        ] {
            let path = dir.path().join("other");
            std::fs::write(&path, text).expect("written");
            let refused = issued("one", "ams").merge(&path).expect_err("no kubeconfig").failure();
            assert!(!refused.to_string().contains("canary"), "{refused}");
            assert_eq!(std::fs::read_to_string(&path).expect("read"), text);
        }
        issued("one", "ams").merge(&dir.path().join("typing/error")).expect_err("no such folder");
        assert!(!dir.path().join("typing").exists());
    }
}
