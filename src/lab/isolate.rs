//! How programs of a simulated host are started behind walls, and which walls there are. The processes that put the walls
//! up are in `keeper`, the mounts in `sandbox`, the allowed system calls in `syscalls`.

#[cfg(target_os = "linux")]
use super::keeper;
use super::spec::Spec;
use super::walls::{INIT, PATH, Setup, TOOL, Wall};
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};

/// The first argument by which the executable knows that it is to become a program's outer process.
const KEEPER: &str = "lab-keeper";
/// The first argument by which the executable knows that it is to hold the lab's network.
const NETWORK: &str = "lab-network";
/// The first argument by which the executable knows that it is to run programs of pods.
const PODS: &str = "lab-pods";
/// No simulated root is one of these outside: 0 is root, and 65534 owns what has no owner in a namespace.
const FORBIDDEN_IDS: [u32; 2] = [0, 65534];
/// The lowest id that is taken where there is a choice: far above those of people, services and containers.
const LOWEST_ID: u32 = 0x4000_0000;

/// How often an executable is tried that somebody has open for writing, and the pause in between.
const BUSY_TRIES: u32 = 500;
const BUSY_PAUSE: std::time::Duration = std::time::Duration::from_millis(20);

/// What a program's standard input is.
pub(super) enum Stdin {
    /// A pipe, or nothing.
    Pipe,
    /// A terminal of this kind, which is to control it.
    Terminal(String),
}

/// How the programs of one lab are started.
pub(super) struct Isolation {
    exe: PathBuf,
    /// The user and group that owns hosts' files, if not the lab's own.
    pub(super) owner: Option<u32>,
    network: Option<tokio::process::Child>,
    without: Vec<Wall>,
}

impl Isolation {
    /// Puts up what all hosts of a lab share. The error names the wall that this machine forbids.
    pub(super) async fn new(spec: &Spec) -> Result<Self, String> {
        if !cfg!(target_os = "linux") {
            return Err(
                "the lab needs Linux user namespaces; on this system run it in a Linux virtual machine"
                    .to_owned(),
            );
        }
        let cannot = |e: io::Error| format!("cannot copy {} for the lab: {e}", spec.exe.display());
        let exe = spec.dir.join(TOOL);
        copy(&spec.exe, &exe).map_err(cannot)?;
        let owner = if !spec.has(Wall::Id) { None } else { unprivileged()? };
        let mut isolation = Self { exe, owner, network: None, without: spec.without.clone() };
        if spec.has(Wall::Network) {
            let holder = isolation.process(NETWORK, &spec.dir, None, isolation.owner);
            isolation.network = Some(isolation.ready(holder).await?);
        }
        Ok(isolation)
    }

    fn process(
        &self,
        name: &str,
        dir: &Path,
        terminal: Option<String>,
        outer: Option<u32>,
    ) -> tokio::process::Command {
        let setup = Setup {
            parent: std::process::id(),
            dir: dir.to_owned(),
            outer,
            network: self.network.as_ref().and_then(tokio::process::Child::id),
            without: self.without.clone(),
            terminal,
        };
        let mut process = tokio::process::Command::new(&self.exe);
        // Only a folder that is no text cannot be written; nothing is started in it then.
        process.arg(name).arg(serde_json::to_string(&setup).unwrap_or_default());
        process.env_clear().env("PATH", PATH);
        process
    }

    /// Returns the command that runs `command` on the host whose folder is `dir`.
    pub(super) fn command(&self, dir: &Path, command: &str, stdin: Stdin) -> tokio::process::Command {
        let terminal = match stdin {
            Stdin::Pipe => None,
            Stdin::Terminal(kind) => Some(kind),
        };
        let mut keeper = self.process(KEEPER, dir, terminal, self.owner);
        keeper.arg(command);
        keeper
    }

    /// Starts the process that runs programs of pods in a network of their own: programs of whoever runs the lab, as that user.
    pub(super) async fn pods(&self, dir: &Path) -> Result<tokio::process::Child, String> {
        self.ready(self.process(PODS, dir, None, None)).await
    }

    /// Starts a process that holds a network, and waits until it does.
    async fn ready(&self, mut process: tokio::process::Command) -> Result<tokio::process::Child, String> {
        use tokio::io::AsyncReadExt;
        process.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        // A process that another thread has started just now may hold the copy open for writing until it runs its own program.
        let mut tries = 0;
        let holder = loop {
            match process.spawn() {
                Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy && tries < BUSY_TRIES => {
                    tries += 1
                }
                spawned => break spawned,
            }
            tokio::time::sleep(BUSY_PAUSE).await;
        };
        let mut holder = holder.map_err(|e| format!("cannot run {}: {e}", self.exe.display()))?;
        let mut ready = [0];
        let said = match &mut holder.stdout {
            Some(output) => output.read_exact(&mut ready).await,
            None => Err(io::ErrorKind::BrokenPipe.into()),
        };
        if said.is_ok() {
            return Ok(holder);
        }
        let output = holder.wait_with_output().await.map_err(|e| e.to_string())?;
        Err(forbidden(&String::from_utf8_lossy(&output.stderr)))
    }

    /// Checks that this machine allows all walls, on a host whose folder is `dir`.
    pub(super) async fn check(&self, dir: &Path) -> Result<(), String> {
        let mut probe = self.command(dir, ":", Stdin::Pipe);
        let output = probe.stdin(Stdio::null()).output().await.map_err(|e| e.to_string())?;
        if output.status.success() {
            return Ok(());
        }
        Err(forbidden(&String::from_utf8_lossy(&output.stderr)))
    }
}

/// Copies the executable to where its user and nobody else can change it. Not a link: a wall less would then be a hole in the
/// program of whoever runs the lab.
fn copy(exe: &Path, to: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let exe = std::fs::canonicalize(exe)?;
    match std::fs::remove_file(to) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    std::fs::copy(&exe, to)?;
    std::fs::set_permissions(to, std::fs::Permissions::from_mode(0o755))
}

/// Returns the user that simulated root is outside, if that cannot be the one who runs the lab.
fn unprivileged() -> Result<Option<u32>, String> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let map = std::fs::read_to_string("/proc/self/uid_map").map_err(|e| e.to_string())?;
    let groups = std::fs::read_to_string("/proc/self/gid_map").map_err(|e| e.to_string())?;
    let alone = map.lines().count() == 1 && map.split_whitespace().nth(1).is_some_and(|id| id != "0");
    match chosen(&ranges(&map), &ranges(&groups), rand::random()) {
        Some(id) => Ok(Some(id)),
        // Who is root of this namespace, and nobody else in it, is somebody else outside already.
        None if alone => Ok(None),
        None => {
            Err("wall id: this user namespace has no user but root; run the lab as a plain user".to_owned())
        }
    }
}

/// Reads ranges of ids, each with its first and its last one, from a map of a user namespace.
fn ranges(map: &str) -> Vec<(u32, u32)> {
    let numbers = |line: &str| line.split_whitespace().map(str::parse).collect::<Result<Vec<u32>, _>>().ok();
    let range = |n: Vec<u32>| Some((*n.first()?, n.first()?.checked_add(n.get(2)?.checked_sub(1)?)?));
    map.lines().filter_map(numbers).filter_map(range).collect()
}

/// Chooses an id that is a user and a group: by chance, so that labs do not share one, and a high one where there are any.
fn chosen(users: &[(u32, u32)], groups: &[(u32, u32)], chance: u32) -> Option<u32> {
    let both = users.iter().flat_map(|u| groups.iter().map(move |g| (u.0.max(g.0), u.1.min(g.1))));
    let (first, last) = both.filter(|(first, last)| first <= last).max_by_key(|(_, last)| *last)?;
    let last = last.min(i32::MAX as u32);
    let first = if last > LOWEST_ID { first.max(LOWEST_ID) } else { first.max(last.saturating_sub(999)) };
    let id = first + chance % (last - first + 1);
    let near = [id, id.saturating_sub(1), id.saturating_add(1)];
    near.into_iter().find(|id| (first..=last).contains(id) && !FORBIDDEN_IDS.contains(id))
}

/// Returns what went wrong, with the setting that forbids it.
fn forbidden(said: &str) -> String {
    let said = said.trim().trim_start_matches("lab: ");
    let setting = |name: &str| std::fs::read_to_string(format!("/proc/sys/{}", name.replace('.', "/")));
    let is = |name: &str, value: &str| setting(name).is_ok_and(|v| v.trim() == value);
    let hint = if is("kernel.apparmor_restrict_unprivileged_userns", "1") {
        "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
    } else if is("kernel.unprivileged_userns_clone", "0") {
        "sysctl -w kernel.unprivileged_userns_clone=1"
    } else if is("user.max_user_namespaces", "0") {
        "sysctl -w user.max_user_namespaces=10000"
    } else if said.starts_with("wall proc:") {
        "a container needs an unmasked /proc (Docker: --security-opt systempaths=unconfined)"
    } else if said.contains("user namespace") {
        "a container must allow user namespaces (Docker: --security-opt seccomp=unconfined)"
    } else {
        "see docs/security.md"
    };
    format!("this machine does not allow a wall of the lab: {said}; allow it: {hint}")
}

/// Becomes one of the processes around programs, if this one was started as one. Runs first in `main`, before there are
/// threads.
pub(super) fn entry(arguments: &[OsString]) -> Option<ExitCode> {
    let name = arguments.first()?.to_str()?;
    if !matches!(name, KEEPER | INIT | NETWORK | PODS) {
        return None;
    }
    let setup = arguments.get(1).and_then(|text| serde_json::from_str::<Setup>(text.to_str()?).ok());
    let Some(setup) = setup else {
        eprintln!("{name} is run by the lab only");
        return Some(ExitCode::FAILURE);
    };
    let command = arguments.get(2).cloned().unwrap_or_default();
    let code = match name {
        KEEPER => keeper::keep(setup, &command),
        INIT => keeper::init(&setup, &command),
        PODS => keeper::pods(&setup),
        _ => keeper::hold(&setup),
    };
    Some(code.unwrap_or_else(|error| {
        eprintln!("lab: {error}");
        ExitCode::from(125)
    }))
}

/// Nothing but Linux has these namespaces; [`Isolation::new`] has said so before anybody comes here.
#[cfg(not(target_os = "linux"))]
mod keeper {
    use crate::lab::walls::{INIT, Setup};
    use std::ffi::OsStr;
    use std::process::ExitCode;

    pub(super) fn keep(setup: Setup, _: &OsStr) -> Result<ExitCode, String> {
        hold(&setup)
    }

    pub(super) fn init(setup: &Setup, _: &OsStr) -> Result<ExitCode, String> {
        hold(setup)
    }

    pub(super) fn pods(setup: &Setup) -> Result<ExitCode, String> {
        hold(setup)?;
        crate::lab::pods::serve(|| Ok(())).map(|()| ExitCode::SUCCESS).map_err(|e| e.to_string())
    }

    pub(super) fn hold(setup: &Setup) -> Result<ExitCode, String> {
        let wall = setup.without.first().map_or(String::new(), ToString::to_string);
        Err(format!("only Linux has the namespaces that it needs {wall}{}", INIT))
    }
}

#[cfg(test)]
mod tests {
    use super::{FORBIDDEN_IDS, LOWEST_ID, chosen, ranges};

    #[test]
    fn simulated_root_is_never_root_and_never_the_overflow_id() {
        for map in ["0 0 4294967295", "0 0 1\n1 100000 65536", "0 1000 1\n1 100000 65534", "0 100000 65536"] {
            for chance in (0..2000).chain([u32::MAX]) {
                let id = chosen(&ranges(map), &ranges(map), chance).expect("an id");
                assert!(!FORBIDDEN_IDS.contains(&id), "{map}: {id}");
                assert!(ranges(map).iter().any(|(a, b)| (*a..=*b).contains(&id)), "{map}: {id}");
                assert!(id >= LOWEST_ID || !map.contains("4294967295"), "{map}: {id}");
            }
        }
        assert_eq!(chosen(&ranges("0 0 1"), &ranges("0 0 1"), 7), None, "root is all there is");
        assert_eq!(chosen(&ranges("0 0 100"), &ranges("200 0 100"), 7), None, "no user has a group");
        assert_eq!(chosen(&[], &[], 7), None);
    }
}
