//! The user's own ssh configuration, as OpenSSH reads it: `ssh -G -l USER -p PORT HOST` handles Include, Match and tokens better
//! than any parser could. Settings of the inventory are given to it as options, so that they count as they do for ssh. Asked
//! once per host, a few at a time; only once for all hosts if no file that ssh read distinguishes hosts. What `ssh -G` leaves as written (`~`, tokens of file names) is expanded here.

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

/// Larger files of the configuration are not looked through, in bytes.
const MOST_CONFIG: u64 = 1 << 20;

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
    /// The first answer for each way to ask, whatever the host.
    first: Mutex<HashMap<Asked, Arc<OnceCell<Answer>>>>,
    processes: Semaphore,
}

static ANSWERS: LazyLock<Answers> = LazyLock::new(|| Answers {
    hosts: Mutex::default(),
    first: Mutex::default(),
    processes: Semaphore::new(MOST_AT_ONCE),
});

/// What `ssh -G` answered.
#[derive(Clone, Debug)]
enum Answer {
    /// It printed this for that host; it would print the same for any other, or not.
    Printed { host: String, text: String, for_all: bool },
    /// There is no ssh here, so its configuration is not in use.
    NoSsh,
    /// It was asked in vain.
    Problem(String),
}

fn home() -> PathBuf {
    std::env::home_dir().filter(|h| h.is_absolute()).unwrap_or_else(|| "/".into())
}

/// Returns the cell of a key.
fn cell<T>(cells: &Mutex<HashMap<Asked, Arc<OnceCell<T>>>>, key: &Asked) -> Arc<OnceCell<T>> {
    match cells.lock() {
        Ok(mut cells) => cells.entry(key.clone()).or_default().clone(),
        Err(_) => Arc::default(),
    }
}

/// Returns the settings of a host from `ssh -G`, or OpenSSH's defaults without ssh or without configuration.
pub async fn user_config(asked: &Asked) -> UserConfig {
    let cell = cell(&ANSWERS.hosts, asked);
    let config = cell.get_or_init(|| async {
        let home = home();
        let files = [home.join(".ssh/config"), "/etc/ssh/ssh_config".into(), "/etc/ssh/ssh_config.d".into()];
        if files.iter().any(|file| file.exists()) {
            ask(&ANSWERS, Path::new("ssh"), asked, &home).await
        } else {
            defaults(&home, asked)
        }
    });
    config.await.clone()
}

/// Returns what counts for a host without any configuration.
pub fn without_config(asked: &Asked) -> UserConfig {
    defaults(&home(), asked)
}

async fn ask(answers: &Answers, ssh: &Path, asked: &Asked, home: &Path) -> UserConfig {
    let any = Asked { host: String::new(), ..asked.clone() };
    let first = cell(&answers.first, &any);
    let first = first.get_or_init(|| run(answers, ssh, asked)).await;
    let answer = match first {
        Answer::Printed { host, .. } if *host == asked.host => first.clone(),
        Answer::Printed { host, text, for_all: true } if is_plain(&asked.host) => Answer::Printed {
            host: asked.host.clone(),
            text: for_other(text, host, &asked.host),
            for_all: true,
        },
        Answer::NoSsh => Answer::NoSsh,
        Answer::Printed { .. } | Answer::Problem(_) => run(answers, ssh, asked).await,
    };
    match answer {
        Answer::Printed { text, .. } => parse(&text, asked, home),
        Answer::NoSsh => defaults(home, asked),
        Answer::Problem(problem) => {
            UserConfig { problem: Some(format!("ssh -G {}: {problem}", asked.host)), ..defaults(home, asked) }
        }
    }
}

/// Asks ssh, which with `-v` names each file that it reads.
async fn run(answers: &Answers, ssh: &Path, asked: &Asked) -> Answer {
    let _permit = answers.processes.acquire().await;
    let host = &asked.host;
    let mut command = tokio::process::Command::new(ssh);
    command.args(["-v", "-G"]);
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
    match tokio::time::timeout(DEADLINE, run).await {
        Ok(Ok(output)) if output.status.success() => {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let for_all = is_for_all(host, &text, &String::from_utf8_lossy(&output.stderr));
            Answer::Printed { host: host.clone(), text, for_all }
        }
        Ok(Ok(output)) => {
            let stderr = String::from_utf8_lossy(&output.stderr);
            let said = stderr
                .lines()
                .map(str::trim)
                .filter(|l| !l.is_empty() && !l.starts_with("debug1: ") && !l.starts_with("OpenSSH_"));
            Answer::Problem(said.collect::<Vec<_>>().join("; "))
        }
        Ok(Err(_)) => Answer::NoSsh,
        Err(_) => {
            Answer::Problem(format!("no response within {} s (is a Match exec hanging?)", DEADLINE.as_secs()))
        }
    }
}

/// Returns whether ssh takes a name as it is: it makes letters small, and names with other characters may need quotes.
fn is_plain(host: &str) -> bool {
    !host.is_empty()
        && host.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b".-:".contains(&b))
}

/// Returns whether another host would get the same answer: in no file that ssh read does a line depend on the host, and the answer
/// has its name only where it repeats it.
fn is_for_all(host: &str, text: &str, verbose: &str) -> bool {
    let mut files = verbose
        .lines()
        .filter_map(|line| line.trim().strip_prefix("debug1: Reading configuration data "))
        .peekable();
    let named = |line: &str| {
        let repeats = line.split_once(' ').is_some_and(|(key, value)| is_name(key) && value == host);
        !repeats
            && (line.contains(host)
                || line == "canonicalizehostname yes"
                || line == "canonicalizehostname always")
    };
    is_plain(host)
        && files.peek().is_some()
        && !text.lines().any(named)
        && files.all(|file| file_is_for_all(Path::new(file)))
}

/// The lines in which `ssh -G` repeats the host.
fn is_name(key: &str) -> bool {
    matches!(key, "host" | "hostname")
}

/// Returns the answer for one host as that for another.
fn for_other(text: &str, host: &str, other: &str) -> String {
    let line = |line: &str| match line.split_once(' ') {
        Some((key, value)) if is_name(key) && value == host => format!("{key} {other}\n"),
        _ => format!("{line}\n"),
    };
    text.lines().map(line).collect()
}

/// Returns whether a file treats all hosts alike: no `Match`, no `Host` but `Host *`, no `Include` with tokens.
fn file_is_for_all(file: &Path) -> bool {
    let Ok(meta) = std::fs::metadata(file) else { return false };
    let text = match meta.is_file() && meta.len() <= MOST_CONFIG {
        true => std::fs::read_to_string(file),
        false => return false,
    };
    text.is_ok_and(|text| {
        text.lines().all(|line| {
            let line = line.trim();
            let (key, value) = line.split_once(|c: char| c.is_whitespace() || c == '=').unwrap_or((line, ""));
            let value = value.trim_matches(|c: char| c.is_whitespace() || c == '=');
            match key.trim_matches('"').to_ascii_lowercase().as_str() {
                "match" => false,
                "host" => value == "*",
                "include" => !value.contains(['%', '$']),
                _ => true,
            }
        })
    })
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

    fn none_yet() -> Answers {
        Answers { hosts: Mutex::default(), first: Mutex::default(), processes: Semaphore::new(2) }
    }

    /// Asks a program in the place of ssh for three hosts, and returns what each got, and how often it was run.
    async fn asked_of(config: &str, hosts: [&str; 3], more: &str) -> (Vec<Option<String>>, usize) {
        use std::os::unix::fs::PermissionsExt;
        let home = tempfile::tempdir().expect("a folder");
        let (file, ssh, runs) =
            (home.path().join("config"), home.path().join("ssh"), home.path().join("runs"));
        std::fs::write(&file, config).expect("written");
        let program = format!(
            "#!/bin/sh\necho run >>{}\necho 'OpenSSH_9.2p1' >&2\necho 'debug1: Reading configuration data {}' >&2\n\
             for host; do :; done\necho user alice\necho hostname $host\n{more}\n",
            runs.display(),
            file.display()
        );
        std::fs::write(&ssh, program).expect("written");
        std::fs::set_permissions(&ssh, PermissionsExt::from_mode(0o755)).expect("executable");
        let answers = none_yet();
        let mut got = Vec::new();
        for host in hosts {
            got.push(ask(&answers, &ssh, &of(host), home.path()).await.hostname);
        }
        (got, std::fs::read_to_string(runs).expect("read").lines().count())
    }

    #[tokio::test]
    async fn ssh_is_asked_once_where_its_configuration_does_not_distinguish_hosts() {
        let hosts = ["10.0.0.1", "10.0.0.2", "gpu-3"];
        let own: Vec<_> = hosts.iter().map(|h| Some((*h).to_owned())).collect();
        let same =
            ["", "# Match all\nUser alice\n", "Host *\n  SendEnv LANG\nInclude conf.d/*\n", "host = *\n"];
        for config in same {
            assert_eq!(asked_of(config, hosts, "").await, (own.clone(), 1), "{config}");
        }
        let differ = [
            "Host gpu-3\n",
            "host gpu-* *\n",
            "  MATCH host gpu-3\n",
            "\"Host\" !gpu-3\n",
            "Match=all\n",
            "Include %n\n",
            "Host=10.0.0.*\n",
        ];
        for config in differ {
            assert_eq!(asked_of(config, hosts, "").await, (own.clone(), 3), "{config}");
        }
        // The answer itself depends on the host, or a name is not one that ssh repeats as it is.
        for more in ["echo proxycommand nc $host 22", "echo canonicalizehostname yes"] {
            assert_eq!(asked_of("", hosts, more).await.1, 3, "{more}");
        }
        assert_eq!(asked_of("", ["10.0.0.1", "GPU-3", "10.0.0.2"], "").await.1, 2);
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
            let config = ask(&none_yet(), Path::new(ssh), &of("h"), home.path()).await;
            assert_eq!(config.identities, [home.path().join(".ssh/id_rsa")], "{ssh}");
            assert_eq!(config.problem.is_some(), ssh == "false", "{:?}", config.problem);
        }
    }
}
