//! What is behind a failed step: phrases that tools print, and what to do about each.

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
        phrase: "No space left on device",
        code: "E-NO-SPACE",
        what: "a file system is full",
        hint: "df -h on the host, make room, then apply again",
    },
    Cause {
        phrase: "kernel headers for kernel",
        code: "E-HEADERS",
        what: "no headers for the running kernel",
        hint: "install linux-headers-$(uname -r) (or kernel-devel), or reboot into a kernel that has them",
    },
    Cause {
        phrase: "was skipped since the",
        code: "E-HEADERS",
        what: "the module was not built: no headers for the running kernel",
        hint: "install linux-headers-$(uname -r) (or kernel-devel), or reboot into a kernel that has them",
    },
    Cause {
        phrase: "Could not get lock",
        code: "E-APT-LOCK",
        what: "another package manager holds the lock",
        hint: "wait for it to end (the message names its process), then apply again",
    },
    Cause {
        phrase: "dpkg was interrupted",
        code: "E-DPKG-INTERRUPTED",
        what: "an earlier package operation was cut off",
        hint: "dpkg --configure -a on the host, then apply again",
    },
    Cause {
        phrase: "held broken packages",
        code: "E-APT-CONFLICT",
        what: "the wanted version conflicts with what is installed",
        hint: "apt-get -s install on the host shows which",
    },
    Cause {
        phrase: "EXPKEYSIG",
        code: "E-REPO-KEY",
        what: "the repository's signing key has expired",
        hint: "provision lock --update the key, then apply again",
    },
    Cause {
        phrase: "Unable to locate package",
        code: "E-NO-PACKAGE",
        what: "no repository of the host has the package",
        hint: "apt-cache policy PACKAGE on the host; check registries and proxies",
    },
    Cause {
        phrase: "No match for argument",
        code: "E-NO-PACKAGE",
        what: "no repository of the host has the package",
        hint: "dnf list --showduplicates PACKAGE on the host; check repositories, registries and proxies",
    },
    Cause {
        phrase: "NO_PUBKEY",
        code: "E-REPO-KEY",
        what: "the repository is signed by a key that the host does not have",
        hint: "provision lock --update the key, then apply again",
    },
    Cause {
        phrase: "is not valid yet",
        code: "E-CLOCK",
        what: "the host's clock is behind",
        hint: "date on the host; set the clock (chronyc makestep), then apply again",
    },
    Cause {
        phrase: "Temporary failure resolving",
        code: "E-DNS",
        what: "the host cannot resolve names",
        hint: "resolvectl status on the host; set a proxy or mirrors in the inventory",
    },
    Cause {
        phrase: "Could not resolve host",
        code: "E-DNS",
        what: "the host cannot resolve names",
        hint: "resolvectl status on the host; set a proxy or mirrors in the inventory",
    },
    Cause {
        phrase: "Key was rejected by service",
        code: "E-SECURE-BOOT",
        what: "Secure Boot is on and the module's signature is not enrolled",
        hint: "enrol the key (mokutil --import), use a signed driver package, or turn Secure Boot off",
    },
    Cause {
        phrase: "Required key not available",
        code: "E-SECURE-BOOT",
        what: "Secure Boot is on and the module's signature is not enrolled",
        hint: "enrol the key (mokutil --import), use a signed driver package, or turn Secure Boot off",
    },
    Cause {
        phrase: "Read-only file system",
        code: "E-READ-ONLY",
        what: "a file system is mounted read-only, often after a disk error",
        hint: "dmesg and mount on the host; repair the disk, then apply again",
    },
    Cause {
        phrase: "provision.lock says",
        code: "E-SHA256",
        what: "a source gave other bytes than the lock file names",
        hint: "if the source is right: provision lock; if not, someone changed the file",
    },
    Cause {
        phrase: "no source gave",
        code: "E-DOWNLOAD",
        what: "no source could be reached or gave the right bytes",
        hint: "curl -I the URL on the host; set mirrors or a proxy in the inventory",
    },
    Cause {
        phrase: "modprobe: FATAL: Module",
        code: "E-MODULE-MISSING",
        what: "the running kernel has no such module",
        hint: "dkms status on the host: was it built for the kernel that runs now?",
    },
    Cause {
        phrase: "is loaded as version",
        code: "E-MODULE-VERSION",
        what: "the loaded kernel module is not the installed one",
        hint: "a process holds the old one: reboot the host, then apply again",
    },
];

/// Returns the table of known causes, for documents.
pub fn known_causes() -> &'static [Cause] {
    CAUSES
}

/// Reads a line in which a program of ours says itself what is wrong and what to do: `E-NV-FABRIC: GPU 0 is not …`.
fn own(line: &str) -> Option<(&str, &str)> {
    let (code, what) = line.split_once(": ")?;
    let code_like = code.starts_with("E-")
        && code.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '-');
    code_like.then_some((code, what))
}

/// Adds cause, code and hint to a failure whose output names a known cause.
pub fn explain(mut failure: Failure) -> Failure {
    if let Some((code, what)) = failure.tail.iter().find_map(|line| own(line)) {
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
