//! The user's own `~/.ssh/config`, as OpenSSH reads it: `ssh -G HOST` answers Include, Match and tokens better than any
//! parser could. Asked only for what the inventory leaves open.

use std::path::{Path, PathBuf};
use std::time::Duration;

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
}

/// `ssh -G` answers in milliseconds, unless a Match exec hangs.
const DEADLINE: Duration = Duration::from_secs(5);

/// Returns what `ssh -G` says of a host, or nothing where there is no ssh or no configuration.
pub async fn user_config(host: &str) -> UserConfig {
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    if !home.join(".ssh/config").exists() && !Path::new("/etc/ssh/ssh_config").exists() {
        return defaults(&home);
    }
    let run = tokio::process::Command::new("ssh")
        .args(["-G", "--", host])
        .stdin(std::process::Stdio::null())
        .kill_on_drop(true)
        .output();
    match tokio::time::timeout(DEADLINE, run).await {
        Ok(Ok(output)) if output.status.success() => parse(&String::from_utf8_lossy(&output.stdout), &home),
        _ => defaults(&home),
    }
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
    for line in text.lines() {
        let Some((key, value)) = line.split_once(' ') else { continue };
        match key {
            "hostname" => config.hostname = Some(value.to_owned()),
            "user" => config.user = Some(value.to_owned()),
            "port" => config.port = value.parse().ok(),
            "identityfile" => {
                let path = match value.strip_prefix("~/") {
                    Some(rest) => home.join(rest),
                    None => PathBuf::from(value),
                };
                if path.exists() {
                    config.identities.push(path);
                }
            }
            "proxyjump" if value != "none" => config.jumps = value.split(',').map(str::to_owned).collect(),
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
        let text = "user alice\nhostname 10.0.0.5\nport 2200\nidentityfile ~/.ssh/k\nidentityfile ~/.ssh/none\nproxyjump a@b:1,c\n";
        let config = parse(text, home.path());
        assert_eq!(config.user.as_deref(), Some("alice"));
        assert_eq!((config.hostname.as_deref(), config.port), (Some("10.0.0.5"), Some(2200)));
        assert_eq!(config.identities, [home.path().join(".ssh/k")]);
        assert_eq!(config.jumps, ["a@b:1", "c"]);
    }
}
