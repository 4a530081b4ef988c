//! One exec on a lab host: a fresh user, mount, pid and uts namespace in which the host's own folders are the root and
//! the machine's `/usr` is read-only: a program in here, even when the lab runs as root, can write to
//! nothing but the host's folders.

#[cfg(target_os = "linux")]
use super::sandbox;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};

/// The first argument by which the executable knows that it is to set up the sandbox.
pub(super) const INIT: &str = "lab-init";
/// The first argument by which the executable knows that it is to become a program's outer process.
pub(super) const KEEPER: &str = "lab-keeper";
/// Arguments of unshare for one exec.
const NAMESPACES: [&str; 8] =
    ["--user", "--map-root-user", "--mount", "--pid", "--uts", "--fork", "--kill-child", "--"];

/// What a program's standard input is.
pub(super) enum Stdin {
    /// A pipe, or nothing.
    Pipe,
    /// A terminal of this kind, which is to control it.
    Terminal(String),
}

/// Returns the command that runs `command` on the host whose folder is `dir`.
pub(super) fn command(exe: &Path, dir: &Path, command: &str, stdin: Stdin) -> tokio::process::Command {
    let mut keeper = tokio::process::Command::new(exe);
    keeper
        .arg(KEEPER)
        .arg(std::process::id().to_string())
        .arg(dir)
        .arg(exe)
        .arg(command)
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    if let Stdin::Terminal(kind) = stdin {
        keeper.env("TERM", kind);
    }
    keeper
}

/// Returns the parent of a process.
pub(super) fn parent(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name of the program, in parentheses, may hold anything.
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}

/// Asks the kernel to end this process when its parent ends, however that comes about.
fn end_with_parent() -> std::io::Result<()> {
    #[cfg(target_os = "linux")]
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    Ok(())
}

/// Becomes unshare, as a process that does not outlive the lab's. Runs first thing in `main`.
pub(super) fn keep(arguments: &[std::ffi::OsString]) -> ExitCode {
    let [lab, dir, exe, command] = arguments else {
        eprintln!("{KEEPER} is run by the lab only");
        return ExitCode::FAILURE;
    };
    let kept = end_with_parent();
    // A lab that ended before the request above will never end this process.
    let parent = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().to_string());
    if kept.is_err() || parent.as_deref() != lab.to_str() {
        return ExitCode::FAILURE;
    }
    let own = std::process::id().to_string();
    let error =
        Command::new("unshare").args(NAMESPACES).arg(exe).arg(INIT).arg(own).args([dir, exe, command]).exec();
    eprintln!("lab: cannot run unshare (package util-linux): {error}");
    ExitCode::from(126)
}

/// Nothing but Linux has these namespaces; [`check`] has said so before anybody comes here.
#[cfg(not(target_os = "linux"))]
mod sandbox {
    pub(super) fn enter(_: &std::path::Path, _: &std::path::Path) -> Result<(), String> {
        Err("only Linux has the namespaces that it needs".to_owned())
    }
}

/// Sets up the sandbox and becomes the shell. Runs first in `main`, before there are threads.
pub(super) fn init(arguments: &[std::ffi::OsString]) -> ExitCode {
    let [keeper, dir, exe, command] = arguments else {
        eprintln!("{INIT} is run by the lab only");
        return ExitCode::FAILURE;
    };
    // unshare asks for its child's end with its own only after it has made the child; one that ended before has not.
    let own = std::fs::read_link("/proc/self").ok().and_then(|pid| pid.to_str()?.parse().ok());
    let outer = own.and_then(parent).map(|pid| pid.to_string());
    if outer.as_deref() != keeper.to_str() {
        return ExitCode::FAILURE;
    }
    if let Err(error) = sandbox::enter(Path::new(dir), Path::new(exe)) {
        eprintln!("lab: cannot set up the sandbox of a simulated host: {error}");
        return ExitCode::from(125);
    }
    let terminal = std::env::var_os("TERM");
    if terminal.is_some() {
        // A terminal that does not control the shell takes no Ctrl-C; the shell says so and works all the same.
        let _ = rustix::process::setsid();
        let _ = rustix::process::ioctl_tiocsctty(rustix::stdio::stdin());
    }
    let host = std::fs::read_to_string("/etc/hostname").unwrap_or_default();
    let prompt = format!("LAB {} # ", host.trim());
    let error = Command::new("/bin/sh")
        .arg("-c")
        .arg(command)
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .env("HOME", "/root")
        .env("SHELL", "/bin/sh")
        .env("PROVISION_LAB", "1")
        .envs(terminal.map(|kind| [("TERM", kind), ("PS1", prompt.into())]).into_iter().flatten())
        .exec();
    eprintln!("lab: cannot start /bin/sh: {error}");
    ExitCode::from(126)
}

/// Checks that this machine allows the lab's sandboxes; the error names the setting that forbids them.
pub(super) async fn check() -> Result<(), String> {
    if !cfg!(target_os = "linux") {
        return Err("the lab needs Linux user namespaces; on this system run it in a Linux virtual machine"
            .to_owned());
    }
    let probe = tokio::process::Command::new("unshare")
        .args(NAMESPACES)
        .arg("true")
        .stdin(std::process::Stdio::null())
        .output()
        .await;
    let why = match probe {
        Ok(output) if output.status.success() => return Ok(()),
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        Err(error) => return Err(format!("cannot run unshare (package util-linux): {error}")),
    };
    let setting = |name: &str| std::fs::read_to_string(format!("/proc/sys/{}", name.replace('.', "/")));
    let is = |name: &str, value: &str| setting(name).is_ok_and(|v| v.trim() == value);
    let name = if is("kernel.apparmor_restrict_unprivileged_userns", "1") {
        "kernel.apparmor_restrict_unprivileged_userns=0"
    } else if is("kernel.unprivileged_userns_clone", "0") {
        "kernel.unprivileged_userns_clone=1"
    } else {
        "user.max_user_namespaces (above 0)"
    };
    Err(format!("this machine forbids user namespaces ({why}); allow them: sysctl -w {name}"))
}
