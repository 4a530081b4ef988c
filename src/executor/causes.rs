//! Known causes of failed steps: phrases that tools print, each with a hint.

use crate::state::Failure;

/// A known cause: the phrase that gives it away, its code, what it is, and what to do.
pub struct Cause {
    /// A substring of the output.
    pub phrase: &'static str,
    /// Stable code.
    pub code: &'static str,
    /// What it is.
    pub what: &'static str,
    /// What to do.
    pub hint: &'static str,
}

/// The table; the first phrase found decides. Phrases: apt 2.6, dpkg 1.21, dkms 3, coreutils 9.
pub const CAUSES: &[Cause] = &[
    Cause {
        phrase: "a restore is not finished on this host",
        code: "E-RESTORE",
        what: "a restore is not finished on this host",
        hint: "Run `provision restore FILE` again; to give it up, run `provision destroy`",
    },
    Cause {
        phrase: "cgroup v1 is not supported",
        code: "E-K0S-SYSINFO",
        what: "this k0s does not start on cgroup v1",
        hint: "Boot the host with cgroup v2 (kernel argument systemd.unified_cgroup_hierarchy=1), or choose k0s 1.34",
    },
    Cause {
        phrase: "does not accept this host",
        code: "E-K0S-SYSINFO",
        what: "k0s does not accept the host, by its own checks",
        hint: "Fix what it names; `/usr/local/bin/k0s.next sysinfo` on the host shows all checks",
    },
    Cause {
        phrase: "No space left on device",
        code: "E-NO-SPACE",
        what: "a filesystem is full",
        hint: "Free up space (`df -h` on the host), then apply again",
    },
    Cause {
        phrase: "kernel headers for kernel",
        code: "E-HEADERS",
        what: "the headers of the running kernel are not installed",
        hint: "Install linux-headers-$(uname -r) (or kernel-devel), or reboot into a kernel whose headers are installed",
    },
    Cause {
        phrase: "was skipped since the",
        code: "E-HEADERS",
        what: "the module was not built: the headers of the running kernel are not installed",
        hint: "Install linux-headers-$(uname -r) (or kernel-devel), or reboot into a kernel whose headers are installed",
    },
    Cause {
        phrase: "Could not get lock",
        code: "E-APT-LOCK",
        what: "another package manager process holds the lock",
        hint: "Wait for the process named in the message to end, then apply again",
    },
    Cause {
        phrase: "dpkg was interrupted",
        code: "E-DPKG-INTERRUPTED",
        what: "an earlier package operation was interrupted",
        hint: "Run `dpkg --configure -a` on the host, then apply again",
    },
    Cause {
        phrase: "held broken packages",
        code: "E-APT-CONFLICT",
        what: "the requested version conflicts with installed packages",
        hint: "Run `apt-get -s install PACKAGE` on the host to see which",
    },
    Cause {
        phrase: "EXPKEYSIG",
        code: "E-REPO-KEY",
        what: "the repository's signing key has expired",
        hint: "Run `provision lock` to pin the current key, then apply again",
    },
    Cause {
        phrase: "Unable to locate package",
        code: "E-NO-PACKAGE",
        what: "no repository configured on the host has the package",
        hint: "Run `apt-cache policy PACKAGE` on the host; check repositories and proxies",
    },
    Cause {
        phrase: "filtered out by modular filtering",
        code: "E-DNF-MODULE",
        what: "an enabled module stream hides the package",
        hint: "Run `dnf module list --enabled` on the host, then `dnf module reset NAME` for the stream that hides it",
    },
    // dnf 4 prints "missing groups or modules: NAME:STREAM", or "broken …" if a dependency of the stream is missing.
    Cause {
        phrase: "groups or modules: ",
        code: "E-DNF-STREAM",
        what: "no repository on the host provides the module stream, or its dependencies are missing",
        hint: "Run `dnf module list NAME` on the host; a mirror must include the repository's module metadata (modules.yaml)",
    },
    Cause {
        phrase: "filtered out by exclude filtering",
        code: "E-DNF-EXCLUDED",
        what: "a version lock or an exclude of the host's dnf hides the package",
        hint: "Run `dnf versionlock list` on the host, and look for exclude in /etc/dnf/dnf.conf and /etc/yum.repos.d",
    },
    Cause {
        phrase: "There are no enabled repo",
        code: "E-DNF-NO-REPOSITORY",
        what: "the host has no enabled package repository",
        hint: "Register it (`subscription-manager register`), or set `repositories` in the inventory to mirrors",
    },
    Cause {
        phrase: "No match for argument",
        code: "E-NO-PACKAGE",
        what: "no repository configured on the host has the package",
        hint: "Run `dnf list --showduplicates PACKAGE` on the host; check repositories and proxies",
    },
    Cause {
        phrase: "NO_PUBKEY",
        code: "E-REPO-KEY",
        what: "the repository is signed with a key that the host does not have",
        hint: "Run `provision lock` to pin the current key, then apply again",
    },
    // apt 3 verifies with sqv, which has words of its own.
    Cause {
        phrase: "which is needed to verify signature",
        code: "E-REPO-KEY",
        what: "the repository is signed with a key that the host does not have",
        hint: "Run `provision lock` to pin the current key, then apply again",
    },
    Cause {
        phrase: "The primary key is not live",
        code: "E-REPO-KEY",
        what: "the repository's signing key has expired",
        hint: "Run `provision lock` to pin the current key, then apply again",
    },
    Cause {
        phrase: "is not considered secure since",
        code: "E-REPO-KEY",
        what: "the repository's key or signature uses an algorithm that this system no longer accepts",
        hint: "Run `provision lock` to pin the current key; if the vendor has no newer one, set a mirror in `repositories`",
    },
    Cause {
        phrase: "is not valid yet",
        code: "E-CLOCK",
        what: "the host's clock is behind",
        hint: "Set the clock on the host (`chronyc makestep`), then apply again",
    },
    Cause {
        phrase: "Temporary failure resolving",
        code: "E-DNS",
        what: "the host cannot resolve names",
        hint: "Check `resolvectl status` on the host, or set a proxy or mirrors in the inventory",
    },
    Cause {
        phrase: "Could not resolve host",
        code: "E-DNS",
        what: "the host cannot resolve names",
        hint: "Check `resolvectl status` on the host, or set a proxy or mirrors in the inventory",
    },
    Cause {
        phrase: "Key was rejected by service",
        code: "E-SECURE-BOOT",
        what: "Secure Boot is on and the module's signature is not enrolled",
        hint: "Enroll the key (`mokutil --import`), use a signed driver package, or turn off Secure Boot",
    },
    Cause {
        phrase: "Required key not available",
        code: "E-SECURE-BOOT",
        what: "Secure Boot is on and the module's signature is not enrolled",
        hint: "Enroll the key (`mokutil --import`), use a signed driver package, or turn off Secure Boot",
    },
    Cause {
        phrase: "is still mounted",
        code: "E-MOUNTED",
        what: "a filesystem of k0s is in use",
        hint: "Reboot the host, then run the same reset again",
    },
    Cause {
        phrase: "Read-only file system",
        code: "E-READ-ONLY",
        what: "a filesystem is mounted read-only, often after a disk error",
        hint: "Check `dmesg` and `mount` on the host, repair the disk, then apply again",
    },
    Cause {
        phrase: "provision.lock says",
        code: "E-SHA256",
        what: "downloaded content does not match provision.lock",
        hint: "If the source is correct, run `provision lock`; otherwise find out who changed the file",
    },
    Cause {
        phrase: "was not delivered to this host",
        code: "E-NOT-DELIVERED",
        what: "with --mirror a host fetches nothing itself, and the file did not arrive",
        hint: "See the warning of its delivery, then apply again with the same --mirror",
    },
    Cause {
        phrase: "no source gave",
        code: "E-DOWNLOAD",
        what: "no source was reachable with the right content",
        hint: "Run `curl -I URL` on the host; set mirrors or a proxy in the inventory",
    },
    Cause {
        phrase: "modprobe: FATAL: Module",
        code: "E-MODULE-MISSING",
        what: "the running kernel has no such module",
        hint: "Run `dkms status` on the host: was it built for the running kernel?",
    },
    Cause {
        phrase: "is loaded as version",
        code: "E-MODULE-VERSION",
        what: "the loaded kernel module is not the installed version",
        hint: "Reboot the host (a process holds the old module), then apply again",
    },
];

/// Returns the table of known causes, for documents.
pub fn known_causes() -> &'static [Cause] {
    CAUSES
}

/// Parses a line of our own programs with a code and a hint: `E-NV-FABRIC: GPU 0 is not …`.
fn own(line: &str) -> Option<(&str, &str)> {
    let (code, what) = line.split_once(": ")?;
    let code_like = code.starts_with("E-")
        && code.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '-');
    code_like.then_some((code, what))
}

/// Adds cause, code and hint to a failure whose output names a known cause.
pub(super) fn explain(mut failure: Failure) -> Failure {
    if let Some((code, what)) = failure.tail.iter().find_map(|line| own(line)) {
        if let Some(known) = CAUSES.iter().find(|c| what.contains(c.phrase)) {
            failure.hint = Some(known.hint.to_owned());
        }
        (failure.cause, failure.code) = (Some(what.to_owned()), code.to_owned());
        return failure;
    }
    let text = failure.tail.join("\n");
    if let Some(cause) = CAUSES.iter().find(|c| text.contains(c.phrase)) {
        failure.cause = Some(format!("{} (known: {})", cause.what, cause.code));
        failure.hint = Some(cause.hint.to_owned());
        failure.code = cause.code.to_owned();
    }
    failure
}
