//! Hosts that pass delivered files to each other over SSH. The source lets a key of the run in for an hour, for nothing but reading
//! one file by its sha256; the receiver knows the source by the host key that it has proved to us, takes no more than the size of
//! the file, and compares it with its sum. A file that was cut off is gone on with.

use super::HostTarget;
use super::frame::Sections;
use super::kind::DELIVERED;
use super::target::prelude;
use crate::ssh::KeyPair;
use crate::state::{Failure, FailureKind};
use crate::template::quote;
use std::time::Duration;

/// A key is let in for so long, in seconds, whatever becomes of the run.
const ADMITTED_SECONDS: u32 = 3600;
/// Changing authorized_keys takes less.
const ADMIT_DEADLINE: Duration = Duration::from_secs(60);
/// Passing a file on takes less: an hour is 300 MiB at 1 Mbit/s.
const PASS_DEADLINE: Duration = Duration::from_secs(3600);

/// What the key may do: print a file, by its sum, from an offset on. It is between double quotes in authorized_keys.
fn forced() -> String {
    format!(
        "exec /bin/sh -c 'set -f; set -- $SSH_ORIGINAL_COMMAND; case x$1 in x|x*[!0-9a-f]*) exit 1;; esac; \
         case x$2 in x|x*[!0-9]*) exit 1;; esac; exec tail -c +$(($2+1)) -- {DELIVERED}/$1'"
    )
}

/// A host that has a file.
#[derive(Clone, Debug)]
pub struct PassSource {
    /// Its address for other hosts.
    pub address: String,
    /// The port of its SSH server.
    pub port: u16,
    /// The login.
    pub user: String,
    /// Its host key, as in known_hosts.
    pub host_key: String,
}

impl HostTarget {
    /// Returns the host key of the live connection, as in known_hosts.
    pub async fn host_key(&self) -> Option<String> {
        self.dialled_key().await
    }

    /// Lets a key in that may read delivered files, for an hour. `mark` is the comment by which it is found again.
    pub async fn admit(&self, key: &KeyPair, mark: &str) -> Result<(), Failure> {
        let line = format!("restrict,command=\"{}\",expiry-time=\"%s\" {} {mark}", forced(), key.public);
        let program = format!(
            "umask 077; cd && [ ! -L .ssh ] && [ ! -L .ssh/authorized_keys ] && mkdir -p .ssh || exit 1\n\
             f=.ssh/authorized_keys; exec 9<.ssh && flock -w 10 9 || exit 1\n\
             e=$(env -u TZ date -d \"@$(($(date +%s) + {ADMITTED_SECONDS}))\" +%Y%m%d%H%M%S) || exit 1\n\
             [ ! -s \"$f\" ] || [ -z \"$(tail -c 1 \"$f\")\" ] || echo >>\"$f\" || exit 1\n\
             l={line}; printf '%s\\n' \"${{l%%\\%s*}}$e${{l#*\\%s}}\" >>\"$f\"",
            line = quote(&line)
        );
        self.as_login(&program, "its authorized_keys cannot be changed").await
    }

    /// Takes the key away again.
    pub async fn dismiss(&self, mark: &str) -> Result<(), Failure> {
        let program = format!(
            "umask 077; cd || exit 1; f=.ssh/authorized_keys; exec 9<.ssh && flock -w 10 9 || exit 1\n\
             grep -q ' {mark}$' \"$f\" || exit 0\n\
             cp -p -- \"$f\" \"$f.provision\" || exit 1; grep -v ' {mark}$' \"$f\" >\"$f.provision\"; [ $? -le 1 ] || exit 1\n\
             {{ sync \"$f.provision\" 2>/dev/null || sync; }}; mv -f -- \"$f.provision\" \"$f\"; [ -s \"$f\" ] || rm -f -- \"$f\""
        );
        self.as_login(&program, "a key cannot be removed from its authorized_keys").await
    }

    async fn as_login(&self, program: &str, what: &str) -> Result<(), Failure> {
        let ran = self.run(program, false, ADMIT_DEADLINE).await?;
        if ran.exit == Some(0) {
            return Ok(());
        }
        let mut failure = Failure::new(FailureKind::Step, "E-DELIVERY", format!("{}: {what}", self.host()));
        failure.tail = self.shown(&ran.stderr).into();
        Err(failure)
    }

    /// Has the host take a file of this sum and size from another host.
    pub async fn take_from(
        &self,
        source: &PassSource,
        key: &KeyPair,
        sha256: &str,
        size: u64,
    ) -> Result<(), Failure> {
        let PassSource { address, port, user, host_key } = source;
        // `main` is read as a whole, and ends the shell. The key is in memory on the host, for as long as it is used.
        let program = format!(
            "{prelude}main() {{\n\
             say() {{ printf '\\036rc\\n%s\\n\\036said\\n%s\\n\\036end 0\\n' \"$1\" \"$2\"; }}\n\
             umask 022; p={p}; mkdir -p -- \"${{p%/*}}\" && exec 9>>\"$p.part\" || {{ say disk; exit 0; }}\n\
             flock -n 9 || {{ say busy; exit 0; }}\n\
             command -v ssh >/dev/null 2>&1 || {{ say failed 'ssh is not installed'; exit 0; }}\n\
             umask 077; k=$(mktemp -d /dev/shm/provision.XXXXXX 2>/dev/null || mktemp -d) || {{ say disk; exit 0; }}\n\
             trap 'rm -rf -- \"$k\"' EXIT\n\
             printf '%s' {private} >\"$k/key\"; printf 'source %s\\n' {host_key} >\"$k/known\"\n\
             o=$(stat -c %s -- \"$p.part\"); [ \"$o\" -le {size} ] || {{ : >\"$p.part\"; o=0; }}\n\
             ssh -F none -T -i \"$k/key\" -o IdentitiesOnly=yes -o BatchMode=yes -o UserKnownHostsFile=\"$k/known\" \
             -o GlobalKnownHostsFile=/dev/null -o StrictHostKeyChecking=yes -o HostKeyAlias=source -o ConnectTimeout=15 \
             -o ServerAliveInterval=15 -o ServerAliveCountMax=4 -p {port} -l {user} -- {address} \"{sha256} $o\" </dev/null 2>\"$k/said\" \
             | head -c $(({size} - o)) >&9\n\
             s=$(sha256sum <\"$p.part\"); n=$(stat -c %s -- \"$p.part\")\n\
             if [ \"${{s%% *}}\" = {sha256} ]; then {{ sync \"$p.part\" 2>/dev/null || sync; }}; mv -f -- \"$p.part\" \"$p\" && say 0 || say disk\n\
             elif [ \"$n\" -lt {size} ]; then say cut \"$(tail -n 1 \"$k/said\")\"; else rm -f -- \"$p.part\"; say content; fi\n\
             exit 0; }}; main\n",
            prelude = prelude(),
            p = quote(&format!("{DELIVERED}/{sha256}")),
            private = quote(key.private.expose()),
            host_key = quote(host_key),
            user = quote(user),
            address = quote(address),
        );
        let (shell, answer) = self.first(&program, PASS_DEADLINE, "receipt").await?;
        shell.end().await;
        let sections = Sections::parse(&answer).unwrap_or_default();
        let why = match sections.first("rc") {
            "0" => return Ok(()),
            "busy" => "another run is delivering the same file".to_owned(),
            "content" => "the file arrived with another sha256".to_owned(),
            "cut" | "failed" => sections.first("said").to_owned(),
            _ => "the file cannot be written; is the disk full?".to_owned(),
        };
        let why = self.shown(&why).pop_front().unwrap_or_else(|| "the connection ended early".to_owned());
        let message = format!("{} cannot take the file from {address}: {why}", self.host());
        Err(Failure::new(FailureKind::Step, "E-DELIVERY", message))
    }
}
