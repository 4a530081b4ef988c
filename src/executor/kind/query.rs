//! One query for all resources of a host: one process per tool, however many resources there are. Owns the shell program;
//! `query_result` parses its output.

use crate::template::quote;
use std::collections::{BTreeMap, BTreeSet};

/// A pattern of `grep -E` and `sed -E` for the beginning of a line of fstab(5) that has swap: blanks may come first, and a
/// blank inside a field is written `\040`. The fields after the type may be missing.
pub(super) const SWAP_LINE: &str =
    r"[[:blank:]]*[^#[:space:]][^[:space:]]*[[:blank:]]+[^[:space:]]+[[:blank:]]+swap";

/// Files larger than this are not brought back for a diff, in bytes.
const MOST_TEXT: usize = 64 << 10;
/// Files larger than this are not hashed again when the stamp of our own write still fits, in bytes.
const MOST_HASHED: usize = 64 << 20;
/// A guard that takes longer is given up, in seconds.
const GUARD_SECONDS: u32 = 15;
/// Guards that run side by side: one that hangs must not use up the others' time.
const GUARDS_AT_ONCE: usize = 4;
/// stat, systemctl and the package database answer in milliseconds, or hang.
const TOOL_SECONDS: u32 = 20;
/// Hashing what all resources of a host name takes a while on slow disks, in seconds.
const HASH_SECONDS: u32 = 120;

/// A file whose content must have a sha256.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Sum {
    /// Lower-case hex.
    pub sha256: String,
    /// What is returned besides whether it matches.
    pub how: How,
}

/// What may come back of a file that differs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum How {
    /// Its text, if that is small.
    Shown,
    /// Nothing: it is a secret.
    Secret,
    /// Nothing: it is no text; and a large one is not hashed again while its stamp fits.
    Stamped,
}

/// What to read from a host.
#[derive(Default)]
pub(crate) struct HostQuery {
    /// Paths whose type, mode, owner and link target are wanted.
    pub paths: BTreeSet<String>,
    /// Paths whose content must have a sha256.
    pub sums: BTreeMap<String, Sum>,
    /// Package names.
    pub packages: BTreeSet<String>,
    /// Whether a package is to be held. dpkg reports that with the rest; dnf needs a command of its own, which takes a second.
    pub holds: bool,
    /// Unit names.
    pub units: BTreeSet<String>,
    /// Sysctl keys.
    pub sysctls: BTreeSet<String>,
    /// Module names.
    pub modules: BTreeSet<String>,
    /// Files to search for managed lines.
    pub lines: BTreeSet<String>,
    /// Guards by resource id.
    pub guards: BTreeMap<String, String>,
    /// Block devices whose signature is wanted.
    pub disks: BTreeSet<String>,
    /// Whether to read swap.
    pub swap: bool,
    /// Whether to read the hostname.
    pub hostname: bool,
}

/// Returns where a kernel setting is.
pub(super) fn sysctl_path(key: &str) -> String {
    format!("/proc/sys/{}", key.replace('.', "/"))
}

fn words<'a>(items: impl Iterator<Item = &'a String>) -> String {
    items.map(|i| quote(i)).collect::<Vec<_>>().join(" ")
}

impl HostQuery {
    /// Returns the program of the query; it changes nothing. `state` is our folder on the host; `deep` hashes large files
    /// although their stamps fit.
    pub(crate) fn program(&self, state: &str, deep: bool) -> String {
        // A tool that hangs in the kernel cannot even be killed. So it is a child of the shell that `timeout` kills: that
        // one dies, and the program goes on without its result.
        let mut p = String::from(
            "state() {\nf() { printf '\\036%s\\n' \"$1\"; }\n\
             t() { s=$1; shift; timeout -k 1 \"$s\" /bin/sh -c '\"$@\"; exit $?' t \"$@\" 2>/dev/null; }\n",
        );
        if !self.paths.is_empty() {
            p += &format!(
                "f stat; t {TOOL_SECONDS} env QUOTING_STYLE=literal stat -c '%F|%a|%U:%G|%u:%g|%n|%N' -- {}; r=$?; f stat-rc; echo $r\n",
                words(self.paths.iter())
            );
        }
        p += &self.sums_program(state, deep);
        if !self.packages.is_empty() {
            let names = words(self.packages.iter());
            let locks = match self.holds {
                true => format!("f holds; t {TOOL_SECONDS} dnf -q versionlock list; "),
                false => String::new(),
            };
            // `apt-mark showhold` would read all package lists to tell what the first letter of dpkg's status tells
            // (h: hold): 0.7 s of processor time on Debian 12.
            p += &format!(
                "f packages; if command -v dpkg-query >/dev/null 2>&1; then t {TOOL_SECONDS} dpkg-query -W -f \
                 '${{Package}}|${{db:Status-Abbrev}}|${{Version}}\\n' {names}; r=$?; f dpkg-rc; echo $r\n\
                 elif command -v rpm >/dev/null 2>&1; then t {TOOL_SECONDS} rpm -q --qf \
                 '%{{NAME}}|ii|%{{VERSION}}-%{{RELEASE}}\\n' {names}\n\
                 {locks}fi\n"
            );
        }
        if !self.units.is_empty() {
            p += &format!(
                "f units; t {TOOL_SECONDS} systemctl show -p Id,Names,LoadState,ActiveState,SubState,UnitFileState -- {}\n",
                words(self.units.iter())
            );
        }
        if !self.sysctls.is_empty() {
            // Not the shell's own `read`: dash reads byte by byte, and a number in /proc/sys ends after its first byte.
            let paths: Vec<String> = self.sysctls.iter().map(|key| sysctl_path(key)).collect();
            p += &format!(
                "f sysctls; t {TOOL_SECONDS} grep -sH '' -- {}; r=$?; f sysctls-rc; echo $r\n",
                words(paths.iter())
            );
        }
        if !self.modules.is_empty() {
            // A module that is built in has no folder below /sys/module if it has no parameters.
            p += &format!(
                "f modules; b=; for m in {}; do l=no; v=; if [ -d /sys/module/$m ]; then l=yes; else b=yes; fi\n\
                 [ -r /sys/module/$m/version ] && read -r v </sys/module/$m/version; printf '%s|%s|%s\\n' \"$m\" \"$l\" \"$v\"; done\n\
                 f builtin; [ -z \"$b\" ] || {{ read -r v </proc/sys/kernel/osrelease; cat \"/lib/modules/$v/modules.builtin\" 2>/dev/null; }}\n",
                words(self.modules.iter())
            );
        }
        if !self.lines.is_empty() {
            p += &format!("f lines; grep -HF '# provision: ' -- {} 2>/dev/null\n", words(self.lines.iter()));
        }
        if !self.disks.is_empty() {
            // blkid's exit status distinguishes "empty" from "unknown", so it runs once per disk.
            p += &format!(
                "f disks; for d in {}; do if [ -e \"$d\" ]; then printf 'D|%s\\n' \"$d\"; t {TOOL_SECONDS} blkid -p -o export -- \"$d\"; echo \"R|$?\"; \
                 else printf 'M|%s\\n' \"$d\"; fi; done\n",
                words(self.disks.iter())
            );
        }
        if self.swap {
            p += &format!(
                "f swap; while read -r d _; do [ \"$d\" = Filename ] || printf 'on %s\\n' \"$d\"; done </proc/swaps\n\
                 grep -E '^{}([[:space:]]|$)' /etc/fstab 2>/dev/null\n",
                SWAP_LINE
            );
        }
        if self.hostname {
            p += "f hostname; uname -n; cat /etc/hostname 2>/dev/null\n";
        }
        p += &self.guards_program();
        p += "printf '\\036end 0\\n'\n}\nstate </dev/null\n";
        p
    }

    fn sums_program(&self, state: &str, deep: bool) -> String {
        let mut p = String::new();
        for (section, wanted) in [("sums", How::Shown), ("secret-sums", How::Secret)] {
            let list: String = self
                .sums
                .iter()
                .filter(|(_, sum)| sum.how == wanted)
                .map(|(path, sum)| match path.contains('\\') {
                    // sha256sum's own form for names with a backslash, as the units of mounts have.
                    true => format!("\\{}  {}\n", sum.sha256, path.replace('\\', "\\\\")),
                    false => format!("{}  {path}\n", sum.sha256),
                })
                .collect();
            if list.is_empty() {
                continue;
            }
            let show = if wanted == How::Shown {
                format!(
                    "case $l in *': FAILED') q=${{l%: FAILED}}; s=$(wc -c <\"$q\"); [ \"$s\" -le {MOST_TEXT} ] && \
                     {{ printf '=%s=' \"$q\"; base64 -w0 \"$q\"; echo; }};; esac; "
                )
            } else {
                String::new()
            };
            p += &format!(
                "f {section}; t {HASH_SECONDS} sha256sum -c <<'SUMS_END' | while IFS= read -r l; do printf '%s\\n' \"$l\"; {show}done\n\
                 {list}SUMS_END\n"
            );
        }
        let stamped: Vec<(&String, &Sum)> =
            self.sums.iter().filter(|(_, sum)| sum.how == How::Stamped).collect();
        if !stamped.is_empty() {
            let cases: String =
                stamped.iter().map(|(path, sum)| format!("{}) h={};;\n", quote(path), sum.sha256)).collect();
            let stamps = match deep {
                true => "k=".to_owned(),
                false => format!("k=$n$(cat {} 2>/dev/null)$n", quote(&format!("{state}/stamps"))),
            };
            // What is large and still as we wrote it counts as hashed; all the rest goes through one sha256sum.
            p += &format!(
                "f stamped; n='\n'; {stamps}\n\
                 {{ t {TOOL_SECONDS} stat -c '%s|%i|%.9Z|%n' -- {} | while IFS='|' read -r s i z q; do case $q in\n{cases}esac\n\
                 case $k in *\"$n$h|$s|$i|$z|$q$n\"*) [ \"$s\" -gt {MOST_HASHED} ] && {{ printf '%s: OK\\n' \"$q\" >&3; continue; }};; esac\n\
                 printf '%s  %s\\n' \"$h\" \"$q\"; done | t {HASH_SECONDS} sha256sum -c; }} 3>&1\n",
                words(stamped.iter().map(|(path, _)| *path))
            );
        }
        p
    }

    fn guards_program(&self) -> String {
        if self.guards.is_empty() {
            return String::new();
        }
        // Each guard writes into files: what it leaves running, or what hangs in the kernel, holds none of our pipes.
        let mut p = format!(
            "f guards; T=$(mktemp -d /dev/shm/provision.XXXXXX 2>/dev/null || mktemp -d) || T=/nonexistent\n\
             trap 'rm -rf -- \"$T\"' EXIT; trap 'exit 1' HUP INT PIPE TERM\n\
             g() {{ timeout -k 1 {GUARD_SECONDS} /bin/sh -c \"$2\n\
             exit \\$?\" >\"$T/$1\" 2>&1 </dev/null; echo $? >\"$T/$1.rc\"; }}\n\
             a() {{ r=; o=; [ -e \"$T/$1.rc\" ] && read -r r <\"$T/$1.rc\"; [ -e \"$T/$1\" ] && IFS= read -r o <\"$T/$1\"; \
             printf '%s|%s|%s\\n' \"$r\" \"$2\" \"$o\"; }}\n"
        );
        for (number, (_, guard)) in self.guards.iter().enumerate() {
            p += &format!("g {number} {} &\n", quote(guard));
            if (number + 1) % GUARDS_AT_ONCE == 0 {
                p += "wait\n";
            }
        }
        p += "wait\n";
        for (number, (id, _)) in self.guards.iter().enumerate() {
            p += &format!("a {number} {}\n", quote(id));
        }
        p
    }
}
