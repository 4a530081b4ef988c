//! Becoming root. The password and a program never share one standard input: under NOPASSWD the password would become the
//! program's first line and appear in an error.

use super::bounded::{Bounded, MOST_STDERR};
use crate::ssh::{Chunk, SshError, Transport};
use crate::state::{Failure, FailureKind, SecretText};
use bytes::Bytes;
use std::time::Duration;

/// What startup files may print before the folder's name, in bytes.
const MOST_TOLD: usize = 64 << 10;
/// Writing a small file into memory takes no time.
const STAGE_DEADLINE: Duration = Duration::from_secs(30);
/// sudo answers within this time, or looks for its own host's name: a resolver gives up after 10 s.
const PROBE_DEADLINE: Duration = Duration::from_secs(30);

/// The code of a password that is missing or wrong.
const WRONG_PASSWORD: &str = "E-SUDO-PASSWORD";
/// The code of a host without sudo.
const MISSING: &str = "E-SUDO-MISSING";
/// The code of a sudo that wants a terminal.
const NO_TTY: &str = "E-SUDO-TTY";

/// How a login becomes root.
#[derive(Clone, Debug)]
pub enum Sudo {
    /// The login is root.
    None,
    /// `sudo -n` is tried; with a password, `sudo -S` after that.
    Required(Option<SecretText>),
}

/// Returns the command line that starts a root shell reading its program from standard input, without a password.
pub(super) fn shell(sudo: &Sudo) -> &'static str {
    match sudo {
        Sudo::None => "exec /bin/sh -s",
        Sudo::Required(_) => "exec sudo -n -- /bin/sh -s",
    }
}

/// Puts the password from standard input and a pipe for programs into a folder of their own, in memory where there is
/// some, and prints the folder. It goes by itself if nothing uses it. It is run by the login's own shell, so there is no
/// `!` in it: csh takes that for its history even between single quotes.
const STAGE: &str = "exec /bin/sh -c 'umask 077; d=$(mktemp -d /dev/shm/provision.XXXXXX 2>/dev/null || mktemp -d) || exit 1; \
                 mkfifo \"$d/in\" && cat >\"$d/word\" && { (sleep 60; rm -f \"$d/word\" \"$d/in\"; rmdir \"$d\") >/dev/null \
                 2>&1 </dev/null & } && printf \"\\036%s\\n\" \"$d\"'";

/// Starts a root shell with the password in folder `$1`. The password is unlinked first, read once, and at its end after
/// that. sudo gets it as its whole standard input; the shell behind it takes its programs from the pipe. If sudo ends before
/// that shell took the pipe away, standard error says how, and whether the password was read. No helper is executed (folders
/// are mounted noexec, and sudo-rs has `-A` only since 0.2.11), and cached credentials are ignored (`-k`), so that the
/// outcome is the password's.
const WITH_PASSWORD: &str = "LC_ALL=C; export LC_ALL; exec 3<&0 4<\"$1/word\"; rm -f \"$1/word\"; \
                 cat <&3 >\"$1/in\" 4<&- & eval \"p=\\$$(printf \"\\041\")\"; sudo -S -k -p \"\" -- /bin/sh -c \"exec <\\\"\\$1/in\\\"; rm -f \\\"\\$1/in\\\"; \
                 rmdir \\\"\\$1\\\"; exec /bin/sh -s\" sh \"$1\" <&4 3<&-; r=$?; kill $p 2>/dev/null; u=unread; \
                 read -r x <&4 || u=read; if [ -e \"$1/in\" ]; then printf \"\\036sudo %s %s\\n\" $r $u >&2; fi; \
                 rm -f \"$1/in\"; rmdir \"$1\" 2>/dev/null; exit $r";

/// Asks sudo, in English and without a password, for a shell that does nothing, and prints how it ended.
const PROBE: &str =
    "exec /bin/sh -c 'LC_ALL=C; export LC_ALL; sudo -n -- /bin/sh -c : ; printf \"\\036sudo %s\\n\" $? >&2'";

/// What sudo said and how it ended when it did not start a shell.
pub(super) struct Ended {
    /// Its exit status; 127: there is no sudo.
    status: i32,
    /// Whether it read the password that it was given.
    read_password: bool,
    /// What it printed, under `LC_ALL=C`.
    text: String,
}

impl Ended {
    /// Reads the report of our own shell around sudo, the last line of its standard error; `None` if there is none: then
    /// it is not sudo that ended, but the login's shell, or what runs in its place.
    pub(super) fn parse(stderr: &str) -> Option<Self> {
        let (text, report) = stderr.rsplit_once("\u{1e}sudo ")?;
        let mut words = report.split_whitespace();
        let status = words.next()?.parse().ok()?;
        Some(Self { status, read_password: words.next() == Some("read"), text: text.trim().to_owned() })
    }

    /// Returns whether it would have started the shell.
    pub(super) fn succeeded(&self) -> bool {
        self.status == 0
    }

    /// Returns whether the password was used up: another attempt would count against the account.
    pub(super) fn read_password(&self) -> bool {
        self.read_password
    }

    /// Returns why sudo started no shell. What it read and its status decide; its words only choose among what remains, and
    /// are shown.
    pub(super) fn refusal(&self) -> Failure {
        let says = |phrases: &[&str]| phrases.iter().any(|phrase| self.text.contains(phrase));
        let failure = |code: &str, message: &str, hint: &str| {
            Failure::new(FailureKind::Preflight, code, message).cause(self.text.as_str()).hint(hint)
        };
        // sudo asks for the password before it says that the login may not use it. The last is sudo-rs's.
        let forbidden = says(&["not in the sudoers", "not allowed to", "may not run", "afraid I can't"]);
        // PAM's verdict on the account, which no password changes; sudo-rs begins it with a capital. sudo may add that a
        // password is required.
        let account = says(&[
            "ccount validation failure",
            "ccount or password is expired",
            "ccount expired",
            "assword expired",
            "account management error",
        ]);
        if self.status == 127 {
            failure(MISSING, "sudo is not installed", "Install sudo, or log in as root (ssh.user: root)")
        } else if account {
            failure(
                "E-SUDO-REFUSED",
                "sudo refuses the account of this login",
                "Check whether it is locked or expired (as root: passwd -S LOGIN; chage -l LOGIN)",
            )
        } else if self.read_password && !forbidden {
            failure(WRONG_PASSWORD, "sudo rejects the password", "Check the secret of ssh.sudoPassword")
        } else if says(&["must have a tty"]) {
            failure(NO_TTY, "sudo requires a terminal", "Remove `Defaults requiretty` for this login")
        } else if says(&[
            "password is required",
            "authentication is required",
            "terminal is required",
            "no askpass program",
        ]) {
            failure(
                WRONG_PASSWORD,
                "sudo requires a password and none is configured",
                "Set ssh.sudoPassword: {secret: NAME}, or NOPASSWD for this login (check with: sudo -n true)",
            )
        } else {
            failure("E-SUDO-REFUSED", "sudo is not allowed for this login", "Check with: sudo -l")
        }
    }

    /// Returns whether a password may help.
    pub(super) fn may_want_password(&self) -> bool {
        !self.succeeded() && ![MISSING, NO_TTY].contains(&self.refusal().code.as_str())
    }
}

/// Finds out how `sudo -n` ends, by an exec of its own; `None` if the login's shell does not get as far as sudo.
pub(super) async fn probe(transport: &dyn Transport) -> Result<Option<Ended>, SshError> {
    let mut session = transport.open(PROBE).await?;
    session.finish_input().await?;
    let mut stderr = Bounded::new(MOST_STDERR);
    let told = async {
        while let Some(chunk) = session.next().await {
            if let Chunk::Stderr(bytes) = chunk {
                stderr.push(&bytes);
            }
        }
    };
    // Without a report in time, the failure that led here is reported.
    let _ = tokio::time::timeout(PROBE_DEADLINE, told).await;
    Ok(Ended::parse(&stderr.text()))
}

/// Puts the password into a folder in memory, through an exec of its own, and returns the command line of a root shell that
/// uses it. It is read once; if the connection is lost in between, it goes by itself.
pub(super) async fn shell_with_password(
    transport: &dyn Transport,
    password: &SecretText,
) -> Result<String, SshError> {
    let mut session = transport.open(STAGE).await?;
    session.send(Bytes::from(format!("{}\n", password.expose()))).await?;
    session.finish_input().await?;
    let mut folder = Bounded::new(MOST_TOLD);
    let told = async {
        while let Some(chunk) = session.next().await {
            if let Chunk::Stdout(bytes) = chunk {
                folder.push(&bytes);
            }
        }
    };
    // Without a folder in time, the shell reports that it cannot open the password.
    let _ = tokio::time::timeout(STAGE_DEADLINE, told).await;
    Ok(with_password(&folder.text()))
}

/// Returns the command line that reads the password from the printed folder. Startup files of the login's shell
/// may have printed before it.
fn with_password(told: &str) -> String {
    let folder = told.rsplit_once('\u{1e}').map_or("", |(_, folder)| folder).trim();
    format!("exec /bin/sh -c '{WITH_PASSWORD}' sh {}", crate::template::quote(folder))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;
    use std::process::{Command, Output, Stdio};

    /// Runs a command line as a login's shell does, with `sudo` being this script.
    fn run(shell: &str, command: &str, sudo: &str, input: &str) -> Output {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("sudo");
        std::fs::write(&path, format!("#!/bin/sh\n{sudo}\n")).expect("written");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("executable");
        let mut child = Command::new(shell)
            .args(["-c", command])
            .env("PATH", format!("{}:/usr/bin:/bin", folder.path().display()))
            .env("LC_ALL", "de_DE.UTF-8")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("a shell");
        // A shell that has already ended refuses input.
        let _ = child.stdin.take().expect("its input").write_all(input.as_bytes());
        child.wait_with_output().expect("its end")
    }

    /// Reads one line, as sudo does, and starts what follows `--` if it is the password.
    const ACCEPTS: &str = r#"while [ "$1" != -- ]; do shift; done; shift; IFS= read -r w; [ "$w" = canary ] || exit 1; exec "$@""#;

    /// Returns the folder and the command line that uses it.
    fn staged(shell: &str) -> (String, String) {
        let told = String::from_utf8_lossy(&run(shell, STAGE, ":", "canary\n").stdout).into_owned();
        let command = with_password(&told);
        (command.rsplit_once(' ').expect("a folder").1.to_owned(), command)
    }

    fn shells() -> impl Iterator<Item = &'static str> {
        let shells = ["/bin/sh", "/bin/bash", "/bin/csh", "/bin/tcsh", "/usr/bin/fish", "/bin/zsh"];
        shells.into_iter().filter(|shell| Path::new(shell).exists())
    }

    #[test]
    fn a_root_shell_gets_the_password_and_its_program_apart_whatever_the_logins_shell() {
        for text in [STAGE, WITH_PASSWORD, PROBE] {
            assert!(!text.contains('!'), "csh would look for an event: {text}");
        }
        assert!(!WITH_PASSWORD.contains('\''), "it is quoted: {WITH_PASSWORD}");
        for shell in shells() {
            let (folder, command) = staged(shell);
            let output = run(shell, &command, ACCEPTS, "echo got-$((40 + 2))\n");
            let text = String::from_utf8_lossy(&output.stdout);
            assert_eq!(text, "got-42\n", "{shell}: {}", String::from_utf8_lossy(&output.stderr));
            // A program that fails is no sudo that does, and what it prints is its own.
            let output = run(shell, &staged(shell).1, ACCEPTS, "echo mine >&2; exit 5\n");
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(5), "{shell}");
            assert!(stderr.ends_with("mine\n") && Ended::parse(&stderr).is_none(), "{shell}: {stderr}");
            assert!(!Path::new(&folder).exists(), "{shell}: nothing stays");
            // NOPASSWD: the password is not the program's first line.
            let (folder, command) = staged(shell);
            let output = run(
                shell,
                &command,
                "while [ \"$1\" != -- ]; do shift; done; shift; exec \"$@\"",
                "echo x\n",
            );
            assert_eq!(String::from_utf8_lossy(&output.stdout), "x\n", "{shell}");
            assert!(!String::from_utf8_lossy(&output.stderr).contains("canary"), "{shell}");
            assert!(!Path::new(&folder).exists(), "{shell}: nothing stays");
        }
    }

    /// What sudo did with the password, told by no word of it.
    fn ended(sudo: &str) -> Ended {
        let (folder, command) = staged("/bin/sh");
        let output = run("/bin/sh", &command, sudo, "echo x\n");
        assert!(output.stdout.is_empty() && !Path::new(&folder).exists());
        Ended::parse(&String::from_utf8_lossy(&output.stderr)).expect("a report")
    }

    #[test]
    fn whether_sudo_used_the_password_is_told_without_its_words() {
        for says in [
            "sudo: 1 Fehlversuch bei der Passwort-Eingabe",
            "sudo-rs: Authentication failed",
            "sudo: 1 incorrect password attempt",
        ] {
            // It asks until there is no more input: only the first answer is one.
            let sudo =
                format!("while IFS= read -r w; do :; done; [ \"$LC_ALL\" = C ] && echo '{says}' >&2; exit 1");
            let ended = ended(&sudo);
            assert!(ended.read_password());
            let failure = ended.refusal();
            assert_eq!(
                (failure.code.as_str(), failure.message.as_str()),
                (WRONG_PASSWORD, "sudo rejects the password")
            );
            assert_eq!(failure.cause.as_deref(), Some(says));
        }
        let unread = ended("echo 'sudo: sorry, you must have a tty to run sudo' >&2; exit 1");
        assert!(!unread.read_password());
        assert_eq!(unread.refusal().code, NO_TTY);
        let unread = ended("echo 'sudo: Verzeihung' >&2; exit 1");
        assert_eq!((unread.read_password(), unread.refusal().code.as_str()), (false, "E-SUDO-REFUSED"));
        let forbidden =
            ended("read -r w; echo \"sudo: I'm sorry eve, you may not run sudo on h-1\" >&2; exit 1");
        assert_eq!((forbidden.read_password(), forbidden.refusal().code.as_str()), (true, "E-SUDO-REFUSED"));
    }

    #[test]
    fn a_probe_tells_sudo_from_what_runs_in_its_place() {
        let probed = |shell: &str, sudo: &str| {
            Ended::parse(&String::from_utf8_lossy(&run(shell, PROBE, sudo, "").stderr))
        };
        for shell in shells() {
            let wanted = probed(
                shell,
                "[ $1 = -n ] && echo 'sudo: interactive authentication is required' >&2; exit 1",
            );
            let wanted = wanted.expect("a report");
            assert!(wanted.may_want_password() && wanted.refusal().code == WRONG_PASSWORD, "{shell}");
            let free = probed(shell, "shift 2; exec \"$@\"").expect("a report");
            assert!(free.succeeded() && !free.may_want_password(), "{shell}");
            let missing = probed(shell, "exit 127").expect("a report");
            assert!(missing.refusal().code == MISSING && !missing.may_want_password(), "{shell}");
        }
        // A forced command prints what it likes.
        assert!(Ended::parse("Please log in as ubuntu\nsudo: a password is required\n").is_none());
    }

    #[test]
    fn what_start_up_files_print_is_no_part_of_the_folder() {
        let command = with_password("Welcome to h-1\nno unauthorised use\u{1e}/dev/shm/provision.a1\n");
        assert!(command.ends_with("' sh /dev/shm/provision.a1"), "{command}");
    }
}
