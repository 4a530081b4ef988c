//! The user's own `~/.ssh/config`, as OpenSSH reads it: `ssh -G HOST` handles Include, Match and tokens better than any
//! parser could. Used only for settings that the inventory leaves open, once per name, a few at a time.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;
use tokio::sync::{OnceCell, Semaphore};

/// What OpenSSH would do for a host.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct UserConfig {
    /// HostName.
    pub hostname: Option<String>,
    /// User.
    pub user: Option<String>,
    /// Port.
    pub port: Option<u16>,
    /// IdentityFile entries that exist.
    pub identities: Vec<PathBuf>,
    /// ProxyJump.
    pub jumps: Vec<String>,
    /// UserKnownHostsFile.
    pub known_hosts: Vec<PathBuf>,
    /// HostKeyAlias.
    pub host_key_alias: Option<String>,
    /// Why ssh was not understood, if it was asked in vain.
    pub problem: Option<String>,
}

/// `ssh -G` answers in milliseconds, unless a Match exec hangs.
const DEADLINE: Duration = Duration::from_secs(5);
/// Processes at once; each takes a few milliseconds of a core.
const MOST_AT_ONCE: usize = 8;

/// Answers so far: a configuration does not change during a command.
struct Asked {
    hosts: Mutex<HashMap<String, Arc<OnceCell<UserConfig>>>>,
    processes: Semaphore,
}

static ASKED: LazyLock<Asked> =
    LazyLock::new(|| Asked { hosts: Mutex::default(), processes: Semaphore::new(MOST_AT_ONCE) });

/// Returns the settings of a host from `ssh -G`, or OpenSSH's defaults without ssh or without configuration.
pub async fn user_config(host: &str) -> UserConfig {
    let cell = match ASKED.hosts.lock() {
        Ok(mut hosts) => hosts.entry(host.to_owned()).or_default().clone(),
        Err(_) => Arc::default(),
    };
    cell.get_or_init(|| async {
        let _permit = ASKED.processes.acquire().await;
        let home = std::env::home_dir().filter(|h| h.is_absolute()).unwrap_or_else(|| "/".into());
        let files = [home.join(".ssh/config"), "/etc/ssh/ssh_config".into(), "/etc/ssh/ssh_config.d".into()];
        if files.iter().any(|file| file.exists()) {
            ask(Path::new("ssh"), host, &home).await
        } else {
            defaults(&home)
        }
    })
    .await
    .clone()
}

async fn ask(ssh: &Path, host: &str, home: &Path) -> UserConfig {
    let run = tokio::process::Command::new(ssh)
        .args(["-G", "--", host])
        .stdin(std::process::Stdio::null())
        .kill_on_drop(true)
        .output();
    let problem = match tokio::time::timeout(DEADLINE, run).await {
        Ok(Ok(output)) if output.status.success() => {
            return parse(&String::from_utf8_lossy(&output.stdout), home);
        }
        Ok(Ok(output)) => String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; "),
        // No ssh here, so its configuration is not in use.
        Ok(Err(_)) => return defaults(home),
        Err(_) => format!("no response within {} s (is a Match exec hanging?)", DEADLINE.as_secs()),
    };
    UserConfig { problem: Some(format!("ssh -G {host}: {problem}")), ..defaults(home) }
}

/// The keys that OpenSSH tries when nothing is configured.
fn defaults(home: &Path) -> UserConfig {
    let identities = ["id_ed25519", "id_ecdsa", "id_rsa"]
        .iter()
        .map(|name| home.join(".ssh").join(name))
        .filter(|path| path.exists())
        .collect();
    UserConfig { identities, ..UserConfig::default() }
}

fn parse(text: &str, home: &Path) -> UserConfig {
    let mut config = UserConfig::default();
    let at_home = |value: &str| match value.strip_prefix("~/") {
        Some(rest) => home.join(rest),
        None => PathBuf::from(value),
    };
    for line in text.lines() {
        let Some((key, value)) = line.split_once(' ') else { continue };
        match key {
            "hostname" => config.hostname = Some(value.to_owned()),
            "user" => config.user = Some(value.to_owned()),
            "port" => config.port = value.parse().ok(),
            "identityfile" => config.identities.extend(Some(at_home(value)).filter(|path| path.exists())),
            "proxyjump" if value != "none" => config.jumps = value.split(',').map(str::to_owned).collect(),
            "userknownhostsfile" => {
                config.known_hosts = value.split_whitespace().filter(|v| *v != "none").map(at_home).collect();
            }
            "hostkeyalias" if value != "none" => config.host_key_alias = Some(value.to_owned()),
            _ => {}
        }
    }
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_of_ssh_is_read() {
        let home = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(home.path().join(".ssh")).expect("made");
        std::fs::write(home.path().join(".ssh/k"), "").expect("written");
        let text = "user alice\nhostname 10.0.0.5\nport 2200\nidentityfile ~/.ssh/k\nidentityfile ~/.ssh/none\n\
                    proxyjump a@b:1,c\nhostkeyalias h\nuserknownhostsfile ~/.ssh/known_hosts /x/kh\n";
        let config = parse(text, home.path());
        assert_eq!(config.user.as_deref(), Some("alice"));
        assert_eq!((config.hostname.as_deref(), config.port), (Some("10.0.0.5"), Some(2200)));
        assert_eq!(config.identities, [home.path().join(".ssh/k")]);
        assert_eq!(config.jumps, ["a@b:1", "c"]);
        assert_eq!(config.host_key_alias.as_deref(), Some("h"));
        assert_eq!(config.known_hosts, [home.path().join(".ssh/known_hosts"), "/x/kh".into()]);
    }

    #[tokio::test]
    async fn a_missing_or_failing_ssh_leaves_the_usual_keys() {
        let home = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(home.path().join(".ssh")).expect("made");
        std::fs::write(home.path().join(".ssh/id_rsa"), "").expect("written");
        for ssh in ["/nonexistent/ssh", "false"] {
            let config = ask(Path::new(ssh), "h", home.path()).await;
            assert_eq!(config.identities, [home.path().join(".ssh/id_rsa")], "{ssh}");
            assert_eq!(config.problem.is_some(), ssh == "false", "{:?}", config.problem);
        }
    }
}
