//! One exec on a lab host: a fresh user, mount, pid and uts namespace in which the host's own folders are the root and
//! the machine's `/usr` is read-only: a program in here, even when the lab runs as root, can write to
//! nothing but the host's folders.

#[cfg(target_os = "linux")]
use super::walls;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};

/// The first argument by which the executable knows that it is to build the walls.
pub const INIT: &str = "lab-init";

/// Device nodes that a host gets; never a disk.
pub const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

/// Files of /proc that tell of the machine or could harm it; each is covered by a file of the host's.
pub const COVERED: [&str; 4] = ["modules", "swaps", "sysrq-trigger", "kcore"];

/// What a program's standard input is.
pub enum Stdin {
    /// A pipe, or nothing.
    Pipe,
    /// A terminal of this kind, which is to control it.
    Terminal(String),
}

/// Returns the command that runs `command` on the host whose folder is `dir`.
pub fn command(exe: &Path, dir: &Path, command: &str, stdin: Stdin) -> tokio::process::Command {
    let mut unshare = tokio::process::Command::new("unshare");
    unshare
        .args(["--user", "--map-root-user", "--mount", "--pid", "--uts", "--fork", "--kill-child", "--"])
        .arg(exe)
        .arg(INIT)
        .arg(dir)
        .arg(exe)
        .arg(command)
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    if let Stdin::Terminal(kind) = stdin {
        unshare.env("TERM", kind);
    }
    unshare
}

/// Nothing but Linux has these namespaces; [`check`] has said so before anybody comes here.
#[cfg(not(target_os = "linux"))]
mod walls {
    pub fn enter(_: &std::path::Path, _: &std::path::Path) -> Result<(), String> {
        Err("only Linux has the namespaces that it needs".to_owned())
    }
}

/// Builds the walls and becomes the shell. Runs first thing in `main`, before there are threads.
pub fn init(arguments: &[std::ffi::OsString]) -> ExitCode {
    let [dir, exe, command] = arguments else {
        eprintln!("lab-init is run by the lab only");
        return ExitCode::FAILURE;
    };
    if let Err(error) = walls::enter(Path::new(dir), Path::new(exe)) {
        eprintln!("lab: cannot build the walls of a simulated host: {error}");
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

/// Checks that this machine lets the lab build its walls; the error names the setting that forbids it.
pub async fn check() -> Result<(), String> {
    if !cfg!(target_os = "linux") {
        return Err("the lab needs Linux user namespaces; on this system run it in a Linux virtual machine"
            .to_owned());
    }
    let probe = tokio::process::Command::new("unshare")
        .args([
            "--user",
            "--map-root-user",
            "--mount",
            "--pid",
            "--uts",
            "--fork",
            "--kill-child",
            "--",
            "true",
        ])
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
