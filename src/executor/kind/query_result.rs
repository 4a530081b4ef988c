//! Parses the output of a query. What is missing from the output is unknown, never absent.

use crate::executor::frame::Sections;
use base64::Engine;
use std::collections::{BTreeMap, BTreeSet};

/// `timeout` gave a tool up, or a signal ended it, from this exit status on.
const GIVEN_UP: i32 = 124;

/// The `stat` of a path.
#[derive(Clone, Debug)]
pub(crate) struct Stat {
    /// `regular file`, `directory`, `symbolic link` …
    pub file_type: String,
    /// Octal digits.
    pub mode: String,
    /// `user:group`.
    pub owner: String,
    /// The same in numbers.
    pub owner_ids: String,
    /// Where a link points.
    pub target: Option<String>,
}

impl Stat {
    /// Returns whether it is a plain file, empty or not.
    pub(crate) fn is_file(&self) -> bool {
        self.file_type.starts_with("regular")
    }

    /// Returns the owner in the form in which it is wanted: names, or numbers.
    pub(crate) fn owner_like(&self, wanted: &str) -> String {
        let numeric = wanted.chars().all(|c| c.is_ascii_digit() || c == ':');
        if numeric { self.owner_ids.clone() } else { self.owner.clone() }
    }
}

/// The result of a guard.
#[derive(Clone, Debug)]
pub(crate) struct Guard {
    /// Exit status; 124 or more means that it could not tell.
    pub rc: i32,
    /// The first line of its output.
    pub line: String,
}

/// What a block device carries.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) struct Signature {
    /// Type of filesystem or volume, or of the partition table; empty for nothing.
    pub kind: String,
    /// Its uuid.
    pub uuid: String,
    /// Its label.
    pub label: String,
}

/// The result of a query.
#[derive(Default, Debug)]
pub(crate) struct QueryResult {
    /// By path; `None` if stat printed nothing.
    stat: Option<BTreeMap<String, Stat>>,
    /// Whether the content is as wanted, by path; missing when the file could not be read.
    pub sums: BTreeMap<String, bool>,
    /// Differing text, by path.
    pub texts: BTreeMap<String, String>,
    /// Installed version by package; `None` for one that is not installed; missing if the database printed nothing.
    packages: BTreeMap<String, Option<String>>,
    /// dpkg named all that is installed: what it did not name is not.
    packages_complete: bool,
    /// dpkg was given up.
    packages_given_up: bool,
    /// rpm could not open its database, and takes each package for one that is not installed.
    packages_unreadable: bool,
    /// Held packages.
    pub holds: BTreeSet<String>,
    /// Properties by unit, under each of its names.
    pub units: BTreeMap<String, BTreeMap<String, String>>,
    /// Live values by path below /proc/sys; `None` when nothing was answered.
    sysctls: Option<BTreeMap<String, String>>,
    /// Loaded, and version, by module.
    pub modules: BTreeMap<String, (bool, String)>,
    /// Our lines: (path, name) -> line.
    pub lines: BTreeMap<(String, String), String>,
    /// The content of disks, by path; the error says why it is unknown.
    disks: BTreeMap<String, Result<Signature, String>>,
    /// Lines that show swap in use.
    pub swap: Vec<String>,
    /// Live and static hostname.
    pub hostname: (String, String),
    /// By resource id.
    pub guards: BTreeMap<String, Guard>,
}

/// Returns the package that a line of `dnf versionlock list` locks: dnf 4 prints `chrony-0:4.5-1.el9.*`, dnf 5
/// `Package name: chrony`, then its conditions. `None` for a line that locks nothing: `!` excludes a version. dpkg shows a hold in
/// the first letter of a status.
fn held(line: &str) -> Option<String> {
    let line = line.trim();
    if let Some(name) = line.strip_prefix("Package name:") {
        return Some(name.trim().to_owned());
    }
    if line.is_empty() || line.starts_with('!') || line.contains(char::is_whitespace) {
        return None;
    }
    let name = line.split_once(':').and_then(|(left, _)| left.rsplit_once('-'));
    let name = name.filter(|(_, epoch)| !epoch.is_empty() && epoch.bytes().all(|b| b.is_ascii_digit()));
    Some(name.map_or(line, |(name, _)| name).to_owned())
}

impl QueryResult {
    /// Parses the output of a query.
    pub(crate) fn parse(sections: &Sections) -> Self {
        let rc = |name: &str| sections.first(name).parse::<i32>().ok();
        let mut result = Self {
            packages_complete: matches!(rc("dpkg-rc"), Some(0 | 1)),
            // 124 is `timeout`'s own; 137 and 143 are what its signals leave.
            packages_given_up: matches!(rc("dpkg-rc"), Some(124 | 137 | 143)),
            stat: rc("stat-rc").filter(|rc| matches!(rc, 0 | 1)).map(|_| read_stat(sections)),
            ..Self::default()
        };
        let sums = ["sums", "secret-sums", "stamped"];
        for line in sums.iter().flat_map(|name| sections.lines(name)) {
            // `=path=base64`: base64 may end in `=`, so the path ends at the first `=` after it.
            if let Some((path, text)) = line.strip_prefix('=').and_then(|rest| rest.split_once('=')) {
                if let Ok(bytes) = base64::engine::general_purpose::STANDARD.decode(text)
                    && let Ok(text) = String::from_utf8(bytes)
                {
                    result.texts.insert(path.to_owned(), text);
                }
            } else if let Some(path) = line.strip_suffix(": OK") {
                result.sums.insert(plain(path), true);
            } else if let Some(path) = line.strip_suffix(": FAILED") {
                result.sums.insert(plain(path), false);
            }
        }
        let unreadable = |line: &String| line.starts_with("error: cannot open Packages");
        result.packages_unreadable = sections.lines("packages").iter().any(unreadable);
        for line in sections.lines("packages") {
            let columns: Vec<&str> = line.split('|').collect();
            if let [name, status, version] = columns[..] {
                let installed = status.trim_end().ends_with('i');
                if status.starts_with('h') {
                    result.holds.insert(name.to_owned());
                }
                // A package of several architectures has a line for each, and one of them may be gone.
                let known = result.packages.entry(name.to_owned()).or_default();
                if installed {
                    *known = Some(version.to_owned());
                }
            } else if let Some(name) =
                line.strip_prefix("package ").and_then(|l| l.strip_suffix(" is not installed"))
            {
                result.packages.insert(name.to_owned(), None);
            }
        }
        result.holds.extend(sections.lines("holds").iter().filter_map(|l| held(l)));
        for block in sections.lines("units").split(|line| line.is_empty()) {
            let properties: BTreeMap<String, String> = block
                .iter()
                .filter_map(|l| l.split_once('='))
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .collect();
            let names = ["Id", "Names"].iter().filter_map(|key| properties.get(*key));
            for name in names.flat_map(|names| names.split(' ')) {
                result.units.insert(name.to_owned(), properties.clone());
            }
        }
        // Status 2: one of them does not exist.
        result.sysctls = rc("sysctls-rc").filter(|rc| *rc < GIVEN_UP).map(|_| read_sysctls(sections));
        // `kernel/fs/overlayfs/overlay.ko`; file names may have dashes where modules have underscores.
        let builtin: BTreeSet<String> = sections
            .lines("builtin")
            .iter()
            .filter_map(|line| line.rsplit('/').next()?.strip_suffix(".ko"))
            .map(|name| name.replace('-', "_"))
            .collect();
        for line in sections.lines("modules") {
            let columns: Vec<&str> = line.split('|').collect();
            if let [name, loaded, version] = columns[..] {
                let loaded = loaded == "yes" || builtin.contains(name);
                result.modules.insert(name.to_owned(), (loaded, version.to_owned()));
            }
        }
        for line in sections.lines("lines") {
            if let Some((path, rest)) = line.split_once(':')
                && let Some((text, name)) = rest.rsplit_once(" # provision: ")
            {
                result.lines.insert((path.to_owned(), name.to_owned()), text.to_owned());
            }
        }
        result.disks = read_disks(sections.lines("disks"));
        result.swap = sections.lines("swap").iter().filter(|l| !l.is_empty()).cloned().collect();
        result.hostname = {
            let lines = sections.lines("hostname");
            let line = |n: usize| lines.get(n).map(|l| l.trim().to_owned()).unwrap_or_default();
            (line(0), line(1))
        };
        for line in sections.lines("guards") {
            let columns: Vec<&str> = line.splitn(3, '|').collect();
            if let [rc, id, text] = columns[..] {
                let rc = rc.parse().unwrap_or(GIVEN_UP);
                result.guards.insert(id.to_owned(), Guard { rc, line: text.trim().to_owned() });
            }
        }
        result
    }

    /// Returns the stat of a path, `None` if the path does not exist; the error says why it is unknown.
    pub(crate) fn stat(&self, path: &str) -> Result<Option<&Stat>, String> {
        match &self.stat {
            Some(stat) => Ok(stat.get(path)),
            None => Err("timed out: stat".to_owned()),
        }
    }

    /// Returns a package's installed version, `None` if it is not installed; the error says why it is unknown.
    pub(crate) fn package(&self, name: &str) -> Result<Option<&str>, String> {
        match self.packages.get(name) {
            Some(None) if self.packages_unreadable => Err("rpm cannot read its database".to_owned()),
            Some(version) => Ok(version.as_deref()),
            None if self.packages_complete => Ok(None),
            None if self.packages_given_up => Err("timed out: the package database".to_owned()),
            None => Err("the package database printed nothing".to_owned()),
        }
    }

    /// Returns a kernel setting's value, `None` if there is no such setting; the error says why it is unknown.
    pub(crate) fn sysctl(&self, path: &str) -> Result<Option<&str>, String> {
        match &self.sysctls {
            Some(values) => Ok(values.get(path).map(String::as_str)),
            None => Err("timed out: /proc/sys".to_owned()),
        }
    }

    /// Returns the content of a disk; the error says why it is unknown.
    pub(crate) fn disk(&self, path: &str) -> Result<&Signature, String> {
        match self.disks.get(path) {
            Some(Ok(signature)) => Ok(signature),
            Some(Err(why)) => Err(why.clone()),
            None => Err(format!("blkid printed nothing for {path}")),
        }
    }

    /// Returns the result of a guard; the error says why it is unknown.
    pub(crate) fn guard(&self, id: &str) -> Result<&Guard, String> {
        match self.guards.get(id) {
            Some(guard) if guard.rc < GIVEN_UP => Ok(guard),
            // 124 is `timeout`'s own; 137 and 143 are what its signals leave.
            Some(Guard { rc: 124 | 137 | 143, .. }) => Err("timed out".to_owned()),
            Some(guard) => Err(format!("its guard exited with {}: {}", guard.rc, guard.line)),
            None => Err("its guard printed nothing".to_owned()),
        }
    }
}

/// `D|path`, blkid's lines, `R|exit status`; or `M|path` for one that is not there.
fn read_disks(lines: &[String]) -> BTreeMap<String, Result<Signature, String>> {
    let mut disks = BTreeMap::new();
    let mut at: Option<(String, Signature)> = None;
    for line in lines {
        if let Some(path) = line.strip_prefix("M|") {
            disks.insert(path.to_owned(), Err(format!("{path} does not exist")));
        } else if let Some(path) = line.strip_prefix("D|") {
            at = Some((path.to_owned(), Signature::default()));
        } else if let Some(rc) = line.strip_prefix("R|") {
            if let Some((path, signature)) = at.take() {
                let told = match rc {
                    "0" | "2" => Ok(signature), // 2: nothing was found
                    rc => Err(format!("blkid cannot identify the content of {path} (exit {rc})")),
                };
                disks.insert(path, told);
            }
        } else if let (Some((_, signature)), Some((key, value))) = (&mut at, line.split_once('=')) {
            match key {
                "TYPE" => signature.kind = value.to_owned(),
                "PTTYPE" if signature.kind.is_empty() => signature.kind = value.to_owned(),
                "UUID" => signature.uuid = value.to_owned(),
                // blkid puts a backslash before what a shell would not take as it is.
                "LABEL" => {
                    signature.label = value.replace("\\\\", "\0").replace('\\', "").replace('\0', "\\")
                }
                _ => {}
            }
        }
    }
    disks
}

/// Returns a name as sha256sum was given it: one with a backslash comes back with another before each, and one in front.
fn plain(path: &str) -> String {
    path.strip_prefix('\\').map_or_else(|| path.to_owned(), |escaped| escaped.replace("\\\\", "\\"))
}

fn read_stat(sections: &Sections) -> BTreeMap<String, Stat> {
    let read = |line: &String| {
        let columns: Vec<&str> = line.splitn(6, '|').collect();
        let [file_type, mode, owner, owner_ids, path, long] = columns[..] else { return None };
        let target = link_target(path, long);
        let stat = Stat {
            file_type: file_type.to_owned(),
            mode: mode.to_owned(),
            owner: owner.to_owned(),
            owner_ids: owner_ids.to_owned(),
            target,
        };
        Some((path.to_owned(), stat))
    };
    sections.lines("stat").iter().filter_map(read).collect()
}

/// Returns where a link points, from stat's `PATH -> TARGET`. GNU's stat quotes neither, as we ask it to; those of uutils
/// (Ubuntu since 25.10) and busybox quote both, whatever is asked.
fn link_target(path: &str, long: &str) -> Option<String> {
    if let Some(target) = long.strip_prefix(path).and_then(|rest| rest.strip_prefix(" -> ")) {
        return Some(target.to_owned());
    }
    let unquoted = |text: &str| {
        let within = |quote: char| text.strip_prefix(quote)?.strip_suffix(quote);
        within('\'').map(|t| t.replace("'\\''", "'")).or_else(|| within('"').map(str::to_owned))
    };
    let arrows = long.match_indices(" -> ");
    let mut pairs = arrows.map(|(at, arrow)| (&long[..at], &long[at + arrow.len()..]));
    pairs.find_map(|(from, to)| unquoted(to).filter(|_| unquoted(from).as_deref() == Some(path)))
}

/// The first line of each; the kernel separates several numbers by tabs.
fn read_sysctls(sections: &Sections) -> BTreeMap<String, String> {
    let mut values = BTreeMap::new();
    for (path, value) in sections.lines("sysctls").iter().filter_map(|line| line.split_once(':')) {
        let words = || value.split_whitespace().collect::<Vec<_>>().join(" ");
        values.entry(path.to_owned()).or_insert_with(words);
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(text: &str) -> QueryResult {
        QueryResult::parse(&Sections::parse(text).expect("whole"))
    }

    #[test]
    fn what_was_given_up_is_unknown_and_not_absent() {
        let silent = result("\x1estat\n\x1estat-rc\n124\n\x1epackages\n\x1edpkg-rc\n124\n\x1eend 0\n");
        assert!(silent.stat("/etc/a").is_err());
        assert!(silent.package("chrony").is_err());
        let spoken = result("\x1estat\n\x1estat-rc\n1\n\x1epackages\n\x1edpkg-rc\n1\n\x1eend 0\n");
        assert!(matches!(spoken.stat("/etc/a"), Ok(None)));
        assert_eq!(spoken.package("chrony"), Ok(None));
    }

    #[test]
    fn rpm_says_of_each_package_whether_it_is_there() {
        let rpm = result("\x1epackages\nchrony|ii|4.5-1.el9\npackage htop is not installed\n\x1eend 0\n");
        assert_eq!(rpm.package("chrony"), Ok(Some("4.5-1.el9")));
        assert_eq!(rpm.package("htop"), Ok(None));
        assert!(rpm.package("curl").is_err(), "a database that says nothing of it knows nothing");
    }

    #[test]
    fn held_packages_are_found_in_each_managers_words() {
        let dpkg = result("\x1epackages\na|hi |1\nb|ii |1\n\x1edpkg-rc\n0\n\x1eend 0\n");
        assert_eq!(dpkg.holds, BTreeSet::from(["a".to_owned()]));
        assert_eq!(held("nvidia-driver-3:580.95.05-1.el9.*").as_deref(), Some("nvidia-driver"));
        assert_eq!(held("Package name: chrony").as_deref(), Some("chrony"));
    }
}
