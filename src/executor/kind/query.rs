//! One query for all resources of a host: one process per tool, however many resources there are. Owns the shell program;
//! `query_result` parses its output.

use crate::executor::watchdog::Watchdog;
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
    pub(crate) fn program(&self, state: &str, deep: bool, watchdog: Watchdog) -> String {
        let mut p = format!("state() {{\nf() {{ printf '\\036%s\\n' \"$1\"; }}\n{}", watchdog.function());
        if !self.paths.is_empty() {
            p += &format!(
                "f stat; QUOTING_STYLE=literal; export QUOTING_STYLE; t {TOOL_SECONDS} stat -c '%F|%a|%U:%G|%u:%g|%n|%N' -- {}; r=$?; unset QUOTING_STYLE; f stat-rc; echo $r\n",
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
            // (h: hold): 0.7 s of processor time on Debian 12. rpm that cannot open its database says on standard error that
            // it cannot, and of each package that it is not installed.
            p += &format!(
                "f packages; if command -v dpkg-query >/dev/null 2>&1; then t {TOOL_SECONDS} dpkg-query -W -f \
                 '${{Package}}|${{db:Status-Abbrev}}|${{Version}}\\n' {names}; r=$?; f dpkg-rc; echo $r\n\
                 elif command -v rpm >/dev/null 2>&1; then t {TOOL_SECONDS} /bin/sh -c 'exec \"$@\" 2>&1' rpm rpm -q --qf \
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
        if !self.guards.is_empty() {
            p += &match watchdog {
                Watchdog::Whole => self.guards_at_once(),
                Watchdog::PerTool => self.guards_watched(),
            };
        }
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

    /// Guards in forks of one shell of their own, whose variables and functions they do not see. Each prints one line, which is
    /// short enough to arrive in one piece.
    fn guards_at_once(&self) -> String {
        let mut p = String::from(
            "guards() {\nnl='\n'\n\
             guard() { text=$2; { out=$(set --; eval \"$text\" 2>&1); rc=$?; printf '%s|%s|%.2000s\\n' \"$rc\" \"$1\" \"${out%%\"$nl\"*}\"; } & }\n",
        );
        for (number, (id, guard)) in self.guards.iter().enumerate() {
            p += &format!("guard {} {}\n", quote(id), quote(guard));
            if (number + 1) % GUARDS_AT_ONCE == 0 {
                p += "wait\n";
            }
        }
        p += "wait\n}\nguards </dev/null\n";
        // A here-document would be a file of /tmp in older shells, which may be full.
        format!("f guards; printf '%s' {} | /bin/sh -s\n", quote(&p))
    }

    /// Guards with a watchdog each.
    fn guards_watched(&self) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::executor::frame::Sections;
    use crate::executor::kind::QueryResult;
    use std::process::{Command, Stdio};

    fn run(shell: &str, query: &HostQuery, watchdog: Watchdog) -> QueryResult {
        use std::io::Write;
        let mut child = Command::new(shell)
            .arg("-s")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("a shell");
        let program = query.program("/nonexistent", false, watchdog);
        child.stdin.take().expect("its input").write_all(program.as_bytes()).expect("written");
        let output = child.wait_with_output().expect("its end");
        QueryResult::parse(&Sections::parse(&String::from_utf8_lossy(&output.stdout)).expect("whole"))
    }

    #[test]
    fn guards_answer_alike_with_and_without_a_watchdog_each() {
        let guards = [
            ("true", "true", 0, ""),
            ("status", "echo so; exit 3", 3, "so"),
            ("comment", "echo so # or not", 0, "so"),
            ("two-lines", "echo one >&2; echo two", 0, "one"),
            ("arguments", "echo $#,$1,$out,$rc,$QUOTING_STYLE", 0, "0,,,,"),
            ("functions", "command -v t f guard guards g a || echo none", 0, "none"),
            ("here", "cat <<'GUARDS_END'\nin it\nGUARDS_END", 0, "in it"),
            ("quotes", "printf '%s' \"it's\"", 0, "it's"),
            ("input", "cat; read -r x || echo none", 0, "none"),
            ("trap", "trap 'echo bye' EXIT; exit 4", 4, "bye"),
            ("missing", "no-such-tool-anywhere 2>/dev/null", 127, ""),
            ("syntax", "if true; then", 2, ""),
        ];
        let mut query = HostQuery::default();
        for (id, text, ..) in guards {
            query.guards.insert(id.to_owned(), text.to_owned());
        }
        let shells = ["/bin/sh", "/bin/dash", "/bin/bash"].into_iter();
        for shell in shells.filter(|shell| std::path::Path::new(shell).exists()) {
            for watchdog in [Watchdog::Whole, Watchdog::PerTool] {
                let result = run(shell, &query, watchdog);
                for (id, _, rc, line) in guards {
                    let guard = &result.guards[id];
                    let line = if id == "syntax" { &guard.line } else { line };
                    assert_eq!((guard.rc, guard.line.as_str()), (rc, line), "{id}, {shell}, {watchdog:?}");
                }
            }
        }
    }
}
