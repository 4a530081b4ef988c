//! The user's own ssh configuration, as OpenSSH reads it: `ssh -G -l USER -p PORT HOST` handles Include, Match and tokens better
//! than any parser could. Settings of the inventory are given to it as options, so that they count as they do for ssh. Asked
//! once per host, a few at a time. What `ssh -G` leaves as written (`~`, tokens of file names) is expanded here.

use super::expand::Expander;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;
use tokio::sync::{OnceCell, Semaphore};

/// Which agent has the keys of a login.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum AgentChoice {
    /// That of `SSH_AUTH_SOCK`.
    #[default]
    Environment,
    /// The one that listens there.
    Socket(PathBuf),
    /// None.
    Off,
}

/// AddressFamily and BindAddress: how a TCP connection is made from here.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LocalEnd {
    /// Only addresses of IPv4 (false) or IPv6 (true).
    pub ipv6: Option<bool>,
    /// The address to connect from.
    pub address: Option<String>,
}

/// What OpenSSH would do for a host.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct UserConfig {
    /// HostName.
    pub hostname: Option<String>,
    /// User.
    pub user: Option<String>,
    /// Port.
    pub port: Option<u16>,
    /// IdentityFile: those that exist, and those that were asked for.
    pub identities: Vec<PathBuf>,
    /// CertificateFile.
    pub certificates: Vec<PathBuf>,
    /// IdentitiesOnly: of the agent's keys only those of `identities`.
    pub identities_only: bool,
    /// IdentityAgent.
    pub agent: AgentChoice,
    /// PubkeyAuthentication or PreferredAuthentications leave no keys.
    pub no_keys: bool,
    /// ProxyJump.
    pub jumps: Vec<String>,
    /// ProxyCommand, with its tokens expanded.
    pub proxy_command: Option<String>,
    /// UserKnownHostsFile and GlobalKnownHostsFile.
    pub known_hosts: Vec<PathBuf>,
    /// HostKeyAlias.
    pub host_key_alias: Option<String>,
    /// AddressFamily and BindAddress.
    pub local: LocalEnd,
    /// Options that are set and not supported, as `NAME VALUE`.
    pub unsupported: Vec<String>,
    /// StrictHostKeyChecking, if it is not what is done here: unknown keys are always refused.
    pub accepts_unknown_keys: Option<String>,
    /// Why ssh was not understood, if it was asked in vain.
    pub problem: Option<String>,
}

/// What the inventory says of a login; the configuration gives the rest.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Asked {
    /// The host, by its address in the inventory, or an alias.
    pub host: String,
    /// The login name.
    pub user: Option<String>,
    /// The port.
    pub port: Option<u16>,
    /// Key files.
    pub identities: Vec<PathBuf>,
}

/// `ssh -G` answers in milliseconds, unless a Match exec hangs.
const DEADLINE: Duration = Duration::from_secs(5);
/// Processes at once; each takes a few milliseconds of a core.
const MOST_AT_ONCE: usize = 8;

/// Options that change how a host is reached or logged in to, and that are not supported here, with the values that change
/// nothing (ssh_config(5), defaults).
const UNSUPPORTED: [(&str, &[&str]); 7] = [
    ("proxyusefdpass", &["no"]),
    ("knownhostscommand", &["none"]),
    ("pkcs11provider", &["none"]),
    // A build without its own support for security keys prints the variable that it would read (readconf.c).
    ("securitykeyprovider", &["internal", "none", "$SSH_SK_PROVIDER"]),
    ("bindinterface", &["none"]),
    ("verifyhostkeydns", &["no", "false"]),
    ("revokedhostkeys", &["none"]),
];

/// Answers so far: a configuration does not change during a command.
struct Answers {
    hosts: Mutex<HashMap<Asked, Arc<OnceCell<UserConfig>>>>,
    processes: Semaphore,
}

static ANSWERS: LazyLock<Answers> =
    LazyLock::new(|| Answers { hosts: Mutex::default(), processes: Semaphore::new(MOST_AT_ONCE) });

fn home() -> PathBuf {
    std::env::home_dir().filter(|h| h.is_absolute()).unwrap_or_else(|| "/".into())
}

/// Returns the settings of a host from `ssh -G`, or OpenSSH's defaults without ssh or without configuration.
pub async fn user_config(asked: &Asked) -> UserConfig {
    let cell = match ANSWERS.hosts.lock() {
        Ok(mut hosts) => hosts.entry(asked.clone()).or_default().clone(),
        Err(_) => Arc::default(),
    };
    cell.get_or_init(|| async {
        let _permit = ANSWERS.processes.acquire().await;
        let home = home();
        let files = [home.join(".ssh/config"), "/etc/ssh/ssh_config".into(), "/etc/ssh/ssh_config.d".into()];
        if files.iter().any(|file| file.exists()) {
            ask(Path::new("ssh"), asked, &home).await
        } else {
            defaults(&home, asked)
        }
    })
    .await
    .clone()
}

/// Returns what counts for a host without any configuration.
pub fn without_config(asked: &Asked) -> UserConfig {
    defaults(&home(), asked)
}

async fn ask(ssh: &Path, asked: &Asked, home: &Path) -> UserConfig {
    let host = &asked.host;
    let mut command = tokio::process::Command::new(ssh);
    command.arg("-G");
    if let Some(user) = &asked.user {
        command.args(["-l", user]);
    }
    if let Some(port) = asked.port {
        command.args(["-p", &port.to_string()]);
    }
    for identity in &asked.identities {
        command.arg("-i").arg(identity);
    }
    let run = command.args(["--", host]).stdin(std::process::Stdio::null()).kill_on_drop(true).output();
    let problem = match tokio::time::timeout(DEADLINE, run).await {
        Ok(Ok(output)) if output.status.success() => {
            return parse(&String::from_utf8_lossy(&output.stdout), asked, home);
        }
        Ok(Ok(output)) => String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; "),
        // No ssh here, so its configuration is not in use.
        Ok(Err(_)) => return defaults(home, asked),
        Err(_) => format!("no response within {} s (is a Match exec hanging?)", DEADLINE.as_secs()),
    };
    UserConfig { problem: Some(format!("ssh -G {host}: {problem}")), ..defaults(home, asked) }
}

/// The keys that OpenSSH tries when none are configured, and its files of host keys.
fn defaults(home: &Path, asked: &Asked) -> UserConfig {
    let usual = ["id_rsa", "id_ecdsa", "id_ed25519"].map(|name| home.join(".ssh").join(name));
    let identities = match asked.identities.is_empty() {
        true => usual.into_iter().filter(|path| exists(path)).collect(),
        false => asked.identities.clone(),
    };
    let global =
        ["known_hosts", "known_hosts2"].map(|name| Path::new("/etc/ssh").join(format!("ssh_{name}")));
    // Without a home folder the user has no such files; those in the root folder are somebody else's.
    let own = ["known_hosts", "known_hosts2"].map(|name| home.join(".ssh").join(name));
    let own = own.into_iter().filter(|_| home != Path::new("/"));
    UserConfig { identities, known_hosts: own.chain(global).collect(), ..UserConfig::default() }
}

/// Returns whether a key is there: it, or at least its public half, whose private one an agent may have.
fn exists(path: &Path) -> bool {
    let mut public = path.as_os_str().to_owned();
    public.push(".pub");
    path.exists() || Path::new(&public).exists()
}

/// Reads what `ssh -G` printed for a host; `home` is where `~` leads.
pub fn parse(text: &str, asked: &Asked, home: &Path) -> UserConfig {
    let pairs: Vec<(&str, &str)> = text.lines().filter_map(|line| line.split_once(' ')).collect();
    let last = |key: &str| pairs.iter().rfind(|(k, _)| *k == key).map(|(_, value)| *value);
    let set = |key: &str| last(key).filter(|value| *value != "none").map(str::to_owned);
    let on = |key: &str| last(key).is_some_and(|value| matches!(value, "yes" | "true"));
    let off = |key: &str| last(key).is_some_and(|value| matches!(value, "no" | "false"));
    let user = set("user");
    let expander = Expander {
        home,
        original: &asked.host,
        hostname: last("hostname").unwrap_or(&asked.host),
        alias: set("hostkeyalias"),
        port: last("port").unwrap_or("22"),
        user: user.as_deref().unwrap_or_default(),
        jump: last("proxyjump").filter(|jump| *jump != "none").unwrap_or_default(),
    };
    let mut unsupported: Vec<String> = Vec::new();
    for (key, harmless) in UNSUPPORTED {
        if let Some(value) = last(key).filter(|value| !harmless.contains(value)) {
            unsupported.push(format!("{key} {value}"));
        }
    }
    let mut file = |key: &str, value: &str| {
        expander.path(value).or_else(|| {
            unsupported.push(format!("{key} {value}"));
            None
        })
    };
    let all = |key: &'static str| pairs.iter().filter(move |(k, _)| *k == key).map(|(_, value)| *value);
    let none = |value: &&str| *value != "none";
    let identities: Vec<PathBuf> =
        all("identityfile").filter(none).filter_map(|value| file("identityfile", value)).collect();
    let identities = identities.into_iter().filter(|path| exists(path) || asked.identities.contains(path));
    let identities = identities.collect();
    let certificates =
        all("certificatefile").filter(none).filter_map(|v| file("certificatefile", v)).collect();
    let known_hosts = ["userknownhostsfile", "globalknownhostsfile"]
        .into_iter()
        .filter_map(last)
        .flat_map(split_quoted)
        .filter(|value| value != "none")
        .filter_map(|value| file("userknownhostsfile", &value))
        .collect();
    let agent = match last("identityagent") {
        None | Some("SSH_AUTH_SOCK" | "") => AgentChoice::Environment,
        Some("none") => AgentChoice::Off,
        // `$NAME`: the variable's value.
        Some(value) if value.starts_with('$') && !value.starts_with("${") => {
            match std::env::var_os(&value[1..]).filter(|v| !v.is_empty()) {
                Some(socket) => AgentChoice::Socket(socket.into()),
                None => AgentChoice::Off,
            }
        }
        Some(value) => file("identityagent", value).map_or(AgentChoice::Off, AgentChoice::Socket),
    };
    let proxy_command = set("proxycommand").filter(|_| set("proxyjump").is_none());
    let proxy_command = proxy_command.map(|command| expander.command(&command));
    let preferred = set("preferredauthentications");
    let keys_preferred = preferred.is_none_or(|list| list.split(',').any(|method| method == "publickey"));
    UserConfig {
        hostname: set("hostname"),
        port: last("port").and_then(|port| port.parse().ok()),
        identities,
        certificates,
        identities_only: on("identitiesonly"),
        agent,
        no_keys: off("pubkeyauthentication") || !keys_preferred,
        jumps: set("proxyjump")
            .map(|jumps| jumps.split(',').map(|j| j.trim().to_owned()).collect())
            .unwrap_or_default(),
        proxy_command,
        known_hosts,
        host_key_alias: set("hostkeyalias"),
        accepts_unknown_keys: last("stricthostkeychecking")
            .filter(|value| matches!(*value, "no" | "off" | "false" | "accept-new"))
            .map(str::to_owned),
        local: LocalEnd {
            ipv6: match last("addressfamily") {
                Some("inet") => Some(false),
                Some("inet6") => Some(true),
                _ => None,
            },
            address: set("bindaddress"),
        },
        unsupported,
        user,
        problem: None,
    }
}

/// Splits a list of file names, of which those with blanks are in quotes.
fn split_quoted(text: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted) = (Vec::new(), String::new(), false);
    for c in text.chars() {
        match c {
            '"' => quoted = !quoted,
            ' ' | '\t' if !quoted => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
            }
            c => word.push(c),
        }
    }
    words.extend(Some(word).filter(|word| !word.is_empty()));
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(host: &str) -> Asked {
        Asked { host: host.to_owned(), ..Asked::default() }
    }

    #[test]
    fn the_answer_of_ssh_is_read() {
        let home = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(home.path().join(".ssh")).expect("made");
        std::fs::write(home.path().join(".ssh/k"), "").expect("written");
        std::fs::write(home.path().join(".ssh/agent-only.pub"), "").expect("written");
        let text = "user alice\nhostname 10.0.0.5\nport 2200\nidentityfile ~/.ssh/k\nidentityfile ~/.ssh/none\n\
                    identityfile %d/.ssh/agent-only\nproxyjump a@b:1,c\nhostkeyalias h\n\
                    userknownhostsfile ~/.ssh/known_hosts \"/x y/kh\" %d/%n\nglobalknownhostsfile none\n\
                    identityagent ~/agent.sock\nidentitiesonly yes\ncertificatefile ~/.ssh/c-%r\n\
                    proxyusefdpass yes\naddressfamily inet6\nbindaddress ::1\nstricthostkeychecking accept-new\n";
        let config = parse(text, &of("gpu-a"), home.path());
        assert_eq!(config.user.as_deref(), Some("alice"));
        assert_eq!((config.hostname.as_deref(), config.port), (Some("10.0.0.5"), Some(2200)));
        assert_eq!(config.identities, [home.path().join(".ssh/k"), home.path().join(".ssh/agent-only")]);
        assert_eq!(config.jumps, ["a@b:1", "c"]);
        assert_eq!(config.host_key_alias.as_deref(), Some("h"));
        let known = [home.path().join(".ssh/known_hosts"), "/x y/kh".into(), home.path().join("gpu-a")];
        assert_eq!(config.known_hosts, known);
        assert_eq!(config.agent, AgentChoice::Socket(home.path().join("agent.sock")));
        assert!(config.identities_only && !config.no_keys);
        assert_eq!(config.certificates, [home.path().join(".ssh/c-alice")]);
        assert_eq!(config.local, LocalEnd { ipv6: Some(true), address: Some("::1".to_owned()) });
        assert_eq!(config.unsupported, ["proxyusefdpass yes"]);
        assert_eq!(config.accepts_unknown_keys.as_deref(), Some("accept-new"));
    }

    #[test]
    fn what_is_set_to_nothing_is_nothing() {
        let text = "user a\nproxyjump none\nproxycommand none\nidentityagent none\npubkeyauthentication false\n\
                    bindaddress none\nhostkeyalias none\n";
        let config = parse(text, &of("h"), Path::new("/home/a"));
        assert!(config.jumps.is_empty() && config.proxy_command.is_none() && config.host_key_alias.is_none());
        assert_eq!((config.agent, config.no_keys), (AgentChoice::Off, true));
        assert!(config.unsupported.is_empty());
        let password =
            parse("preferredauthentications password,keyboard-interactive\n", &of("h"), Path::new("/"));
        assert!(password.no_keys);
    }

    #[tokio::test]
    async fn a_missing_or_failing_ssh_leaves_the_usual_keys() {
        let home = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(home.path().join(".ssh")).expect("made");
        std::fs::write(home.path().join(".ssh/id_rsa"), "").expect("written");
        for ssh in ["/nonexistent/ssh", "false"] {
            let config = ask(Path::new(ssh), &of("h"), home.path()).await;
            assert_eq!(config.identities, [home.path().join(".ssh/id_rsa")], "{ssh}");
            assert_eq!(config.problem.is_some(), ssh == "false", "{:?}", config.problem);
        }
    }
}
