//! Becoming root. The password and a program never share one standard input: measured, under NOPASSWD the password would
//! become the program's first line and be echoed in an error.

use crate::ssh::{Chunk, SshError, Transport};
use crate::state::{Failure, FailureKind, SecretText};
use bytes::Bytes;

/// The code of a password that is missing or wrong.
pub(super) const WRONG_PASSWORD: &str = "E-SUDO-PASSWORD";

/// How a login becomes root.
#[derive(Clone, Debug)]
pub enum Sudo {
    /// The login is root.
    None,
    /// `sudo -n` is tried; with a password, `sudo -A` after that.
    Ask(Option<SecretText>),
}

/// Returns the command line that starts a root shell reading its program from standard input, without a password.
pub(super) fn shell(sudo: &Sudo) -> &'static str {
    match sudo {
        Sudo::None => "exec /bin/sh -s",
        Sudo::Ask(_) => "exec sudo -n -- /bin/sh -s",
    }
}

/// Reads the password from standard input and puts it and its helper into a folder, which it tells. What starts it is the
/// login's own shell, so there is no `!` in it: csh takes that for its history even between single quotes.
const STAGE: &str = "exec /bin/sh -c 'umask 077; d=$(mktemp -d /dev/shm/provision.XXXXXX 2>/dev/null || mktemp -d) || exit 1; \
                 cat >\"$d/word\" && printf \"#\\041/bin/sh\\ncat $d/word 2>/dev/null; rm -rf $d\\n\" >\"$d/ask\" && chmod 700 \
                 \"$d/ask\" && { (sleep 60; rm -rf \"$d\") >/dev/null 2>&1 </dev/null & } && printf \"\\036%s\\n\" \"$d\"'";

/// Puts the password into a one-shot folder in memory, through an exec of its own, and returns the command line of a
/// root shell that uses it. The helper gives the password once: a second try gets an empty answer and ends. Cached
/// credentials are ignored (`-k`), or the password would stay there unread; if the connection is lost in between, it goes
/// by itself.
pub(super) async fn shell_with_password(
    transport: &dyn Transport,
    password: &SecretText,
) -> Result<String, SshError> {
    let mut session = transport.open(STAGE).await?;
    session.send(Bytes::from(format!("{}\n", password.expose()))).await?;
    session.finish_input().await?;
    let mut folder = Vec::new();
    while let Some(chunk) = session.next().await {
        if let Chunk::Stdout(bytes) = chunk {
            folder.extend_from_slice(&bytes);
        }
    }
    Ok(with_helper(&String::from_utf8_lossy(&folder)))
}

/// Returns the command line that takes the password from the folder that was told. Start-up files of the login's shell
/// may have printed before it, and that shell need not know `NAME=value command`: csh and fish do not.
fn with_helper(told: &str) -> String {
    let folder = told.rsplit_once('\u{1e}').map_or("", |(_, folder)| folder).trim();
    let helper = crate::template::quote(&format!("{folder}/ask"));
    format!("exec env SUDO_ASKPASS={helper} sudo -A -k -p '' -- /bin/sh -s")
}

/// Returns whether sudo asked for a password.
pub(super) fn wants_password(stderr: &str) -> bool {
    stderr.contains("a password is required") || stderr.contains("a terminal is required")
}

/// Turns sudo's refusal into a failure; `None` if it is not sudo that refused.
pub(super) fn refusal(stderr: &str) -> Option<Failure> {
    let preflight = |code: &str, message: &str, hint: &str| {
        Some(Failure::new(FailureKind::Preflight, code, message).cause(stderr.trim()).hint(hint))
    };
    if wants_password(stderr) {
        return preflight(
            WRONG_PASSWORD,
            "sudo wants a password and none is given",
            "ssh.sudoPassword: {secret: NAME}, or NOPASSWD for this login; by hand: sudo -n true",
        );
    }
    if stderr.contains("incorrect password") || stderr.contains("no password was provided") {
        return preflight(
            WRONG_PASSWORD,
            "sudo refuses the password",
            "check the secret behind ssh.sudoPassword",
        );
    }
    if stderr.contains("must have a tty") {
        return preflight(
            "E-SUDO-TTY",
            "sudo insists on a terminal",
            "remove `Defaults requiretty` for this login",
        );
    }
    if stderr.contains("not in the sudoers")
        || stderr.contains("not allowed to")
        || stderr.contains("may not run sudo")
    {
        return preflight("E-SUDO-REFUSED", "sudo refuses this login", "by hand: sudo -l");
    }
    if stderr.contains("sudo: not found") || stderr.contains("sudo: command not found") {
        return preflight(
            "E-SUDO-MISSING",
            "sudo is not installed",
            "install sudo, or log in as root (ssh.user: root)",
        );
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_is_staged_whatever_the_logins_shell() {
        assert!(!STAGE.contains('!'), "csh would look for an event: {STAGE}");
        let shells = ["/bin/sh", "/bin/bash", "/bin/csh", "/bin/tcsh", "/usr/bin/fish", "/bin/zsh"];
        for shell in shells.into_iter().filter(|shell| std::path::Path::new(shell).exists()) {
            use std::io::Write;
            use std::process::{Command, Stdio};
            let mut stage = Command::new(shell);
            stage.args(["-c", STAGE]).stdin(Stdio::piped()).stdout(Stdio::piped());
            let mut child = stage.spawn().expect("a shell");
            child.stdin.take().expect("its input").write_all(b"canary\n").expect("written");
            let told = child.wait_with_output().expect("its end").stdout;
            let command = with_helper(&String::from_utf8_lossy(&told));
            let helper =
                command.split(&['=', ' '][..]).find(|word| word.ends_with("/ask")).expect("a helper");
            let given = Command::new(helper).output().expect("the helper runs").stdout;
            assert_eq!(String::from_utf8_lossy(&given), "canary\n", "{shell}");
            assert!(!std::path::Path::new(helper).exists(), "{shell}: it gives it once");
        }
    }

    #[test]
    fn what_start_up_files_print_is_no_part_of_the_folder() {
        let command = with_helper("Welcome to h-1\nno unauthorised use\u{1e}/dev/shm/provision.a1\n");
        assert_eq!(command, "exec env SUDO_ASKPASS=/dev/shm/provision.a1/ask sudo -A -k -p '' -- /bin/sh -s");
    }
}
