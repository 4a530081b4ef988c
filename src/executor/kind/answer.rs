//! Asking for many resources at once: one process per tool, whatever the number of resources, and reading the answers.

use crate::executor::frame::Sections;
use crate::template::quote;
use base64::Engine;
use std::collections::{BTreeMap, BTreeSet};

/// Files larger than this are not brought back for a diff, in bytes.
const MOST_TEXT: usize = 64 << 10;
/// A guard that takes longer is given up, in seconds.
const GUARD_SECONDS: u32 = 10;
/// systemctl and the package database answer in milliseconds, or hang.
const TOOL_SECONDS: u32 = 20;

/// What is to be asked.
#[derive(Default)]
pub struct Ask {
    /// Paths whose type, mode, owner and link target are wanted.
    pub paths: BTreeSet<String>,
    /// Paths whose content must have a sha256; `true` if differing text may be shown.
    pub sums: BTreeMap<String, (String, bool)>,
    /// Package names.
    pub packages: BTreeSet<String>,
    /// Unit names.
    pub units: BTreeSet<String>,
    /// Sysctl keys.
    pub sysctls: BTreeSet<String>,
    /// Module names.
    pub modules: BTreeSet<String>,
    /// Files in which lines of ours are looked for.
    pub lines: BTreeSet<String>,
    /// Guards by resource id.
    pub guards: BTreeMap<String, String>,
    /// Swap is asked for.
    pub swap: bool,
    /// The hostname is asked for.
    pub hostname: bool,
}

fn words<'a>(items: impl Iterator<Item = &'a String>) -> String {
    items.map(|i| quote(i)).collect::<Vec<_>>().join(" ")
}

impl Ask {
    /// Returns the program that answers; it changes nothing.
    pub fn program(&self) -> String {
        let mut p = String::from("state() {\nf() { printf '\\036%s\\n' \"$1\"; }\n");
        if !self.paths.is_empty() {
            p += &format!(
                "f stat; QUOTING_STYLE=literal stat -c '%F|%a|%U:%G|%n|%N' -- {} 2>/dev/null\n",
                words(self.paths.iter())
            );
        }
        for (section, shown) in [("sums", true), ("secret-sums", false)] {
            let list: String = self
                .sums
                .iter()
                .filter(|(_, (_, show))| *show == shown)
                .map(|(path, (sum, _))| format!("{sum}  {path}\n"))
                .collect();
            if list.is_empty() {
                continue;
            }
            let show = if shown {
                format!(
                    "case $l in *': FAILED') q=${{l%: FAILED}}; s=$(wc -c <\"$q\"); [ \"$s\" -le {MOST_TEXT} ] && \
                     {{ printf '=%s=' \"$q\"; base64 -w0 \"$q\"; echo; }};; esac; "
                )
            } else {
                String::new()
            };
            p += &format!(
                "f {section}; sha256sum -c 2>/dev/null <<'SUMS_END' | while IFS= read -r l; do printf '%s\\n' \"$l\"; {show}done\n\
                 {list}SUMS_END\n"
            );
        }
        if !self.packages.is_empty() {
            let names = words(self.packages.iter());
            p += &format!(
                "f packages; if command -v dpkg-query >/dev/null 2>&1; then timeout {TOOL_SECONDS} dpkg-query -W -f \
                 '${{Package}}|${{db:Status-Abbrev}}|${{Version}}\\n' {names} 2>/dev/null\n\
                 f holds; timeout {TOOL_SECONDS} apt-mark showhold 2>/dev/null\n\
                 elif command -v rpm >/dev/null 2>&1; then timeout {TOOL_SECONDS} rpm -q --qf \
                 '%{{NAME}}|ii|%{{VERSION}}-%{{RELEASE}}\\n' {names} 2>/dev/null | grep -F '|ii|'\n\
                 f holds; timeout {TOOL_SECONDS} dnf -q versionlock list 2>/dev/null; fi\n"
            );
        }
        if !self.units.is_empty() {
            p += &format!(
                "f units; timeout {TOOL_SECONDS} systemctl show -p Id,LoadState,ActiveState,SubState,UnitFileState \
                 -- {} 2>/dev/null\n",
                words(self.units.iter())
            );
        }
        if !self.sysctls.is_empty() {
            p += "f sysctls; ";
            for key in &self.sysctls {
                let path = quote(&format!("/proc/sys/{}", key.replace('.', "/")));
                p += &format!(
                    "[ -r {path} ] && {{ IFS= read -r v <{path}; printf '%s|%s\\n' {} \"$v\"; }}\n",
                    quote(key)
                );
            }
        }
        if !self.modules.is_empty() {
            p += &format!(
                "f modules; for m in {}; do l=no; v=; [ -d /sys/module/$m ] && l=yes; \
                 [ -r /sys/module/$m/version ] && read -r v </sys/module/$m/version; \
                 printf '%s|%s|%s\\n' \"$m\" \"$l\" \"$v\"; done\n",
                words(self.modules.iter())
            );
        }
        if !self.lines.is_empty() {
            p += &format!("f lines; grep -HF '# provision: ' -- {} 2>/dev/null\n", words(self.lines.iter()));
        }
        if self.swap {
            p += "f swap; while read -r d _; do [ \"$d\" = Filename ] || echo \"on $d\"; done </proc/swaps\n\
                  grep -E '^[^#[:space:]]+[[:space:]]+[^[:space:]]+[[:space:]]+swap[[:space:]]' /etc/fstab 2>/dev/null\n";
        }
        if self.hostname {
            p += "f hostname; uname -n; cat /etc/hostname 2>/dev/null\n";
        }
        if !self.guards.is_empty() {
            p += "f guards\n";
            for (id, guard) in &self.guards {
                p += &format!(
                    "o=$(timeout -k 1 {GUARD_SECONDS} /bin/sh -c {} 2>&1 </dev/null); r=$?; printf '%s|%s|%s\\n' \"$r\" {} \
                     \"${{o%%\"$n\"*}}\"\n",
                    quote(guard),
                    quote(id)
                );
            }
        }
        p += "printf '\\036end 0\\n'\n}\nn='\n'\nstate </dev/null\n";
        p
    }
}

/// What `stat` says of a path.
#[derive(Clone, Debug)]
pub struct Stat {
    /// `regular file`, `directory`, `symbolic link` …
    pub file_type: String,
    /// Octal digits.
    pub mode: String,
    /// `user:group`.
    pub owner: String,
    /// Where a link points.
    pub target: Option<String>,
}

/// What a guard said.
#[derive(Clone, Debug)]
pub struct Guard {
    /// Exit status; 124 or more means that it could not tell.
    pub rc: i32,
    /// The first line of its output.
    pub line: String,
}

/// The answers.
#[derive(Default, Debug)]
pub struct Answer {
    /// By path; a path that does not exist is missing.
    pub stat: BTreeMap<String, Stat>,
    /// Whether the content is as wanted, by path; missing when the file could not be read.
    pub sums: BTreeMap<String, bool>,
    /// Differing text, by path.
    pub texts: BTreeMap<String, String>,
    /// Installed version, by package.
    pub packages: BTreeMap<String, String>,
    /// Held packages.
    pub holds: BTreeSet<String>,
    /// The package section was answered.
    pub packages_known: bool,
    /// Properties by unit.
    pub units: BTreeMap<String, BTreeMap<String, String>>,
    /// Live values by key.
    pub sysctls: BTreeMap<String, String>,
    /// Loaded, and version, by module.
    pub modules: BTreeMap<String, (bool, String)>,
    /// Our lines: (path, name) -> line.
    pub lines: BTreeMap<(String, String), String>,
    /// Lines that say swap is on.
    pub swap: Vec<String>,
    /// Live and static hostname.
    pub hostname: (String, String),
    /// By resource id.
    pub guards: BTreeMap<String, Guard>,
}

impl Answer {
    /// Reads a whole answer.
    pub fn parse(sections: &Sections) -> Self {
        let mut answer = Self { packages_known: sections.has("packages"), ..Self::default() };
        for line in sections.lines("stat") {
            let columns: Vec<&str> = line.splitn(5, '|').collect();
            let [file_type, mode, owner, path, long] = columns[..] else { continue };
            let target = long.strip_prefix(path).and_then(|rest| rest.strip_prefix(" -> "));
            answer.stat.insert(
                path.to_owned(),
                Stat {
                    file_type: file_type.to_owned(),
                    mode: mode.to_owned(),
                    owner: owner.to_owned(),
                    target: target.map(str::to_owned),
                },
            );
        }
        for line in sections.lines("sums").iter().chain(sections.lines("secret-sums")) {
            // `=path=base64`: base64 may end in `=`, so the path ends at the first `=` after it.
            if let Some((path, text)) = line.strip_prefix('=').and_then(|rest| rest.split_once('=')) {
                if let Ok(bytes) = base64::engine::general_purpose::STANDARD.decode(text)
                    && let Ok(text) = String::from_utf8(bytes)
                {
                    answer.texts.insert(path.to_owned(), text);
                }
            } else if let Some(path) = line.strip_suffix(": OK") {
                answer.sums.insert(path.to_owned(), true);
            } else if let Some(path) = line.strip_suffix(": FAILED") {
                answer.sums.insert(path.to_owned(), false);
            }
        }
        for line in sections.lines("packages") {
            let columns: Vec<&str> = line.split('|').collect();
            if let [name, status, version] = columns[..]
                && status.trim_end().ends_with('i')
            {
                answer.packages.insert(name.to_owned(), version.to_owned());
            }
        }
        answer.holds = sections.lines("holds").iter().map(|l| l.trim().to_owned()).collect();
        for block in sections.lines("units").split(|line| line.is_empty()) {
            let properties: BTreeMap<String, String> = block
                .iter()
                .filter_map(|l| l.split_once('='))
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .collect();
            if let Some(id) = properties.get("Id") {
                answer.units.insert(id.clone(), properties.clone());
            }
        }
        for line in sections.lines("sysctls") {
            if let Some((key, value)) = line.split_once('|') {
                answer.sysctls.insert(key.to_owned(), value.split_whitespace().collect::<Vec<_>>().join(" "));
            }
        }
        for line in sections.lines("modules") {
            let columns: Vec<&str> = line.split('|').collect();
            if let [name, loaded, version] = columns[..] {
                answer.modules.insert(name.to_owned(), (loaded == "yes", version.to_owned()));
            }
        }
        for line in sections.lines("lines") {
            if let Some((path, rest)) = line.split_once(':')
                && let Some((text, name)) = rest.rsplit_once(" # provision: ")
            {
                answer.lines.insert((path.to_owned(), name.to_owned()), text.to_owned());
            }
        }
        answer.swap = sections.lines("swap").iter().filter(|l| !l.is_empty()).cloned().collect();
        answer.hostname = {
            let lines = sections.lines("hostname");
            let line = |n: usize| lines.get(n).map(|l| l.trim().to_owned()).unwrap_or_default();
            (line(0), line(1))
        };
        for line in sections.lines("guards") {
            let columns: Vec<&str> = line.splitn(3, '|').collect();
            if let [rc, id, text] = columns[..] {
                let rc = rc.parse().unwrap_or(i32::MAX);
                answer.guards.insert(id.to_owned(), Guard { rc, line: text.trim().to_owned() });
            }
        }
        answer
    }
}
