//! What tools print from which facts and the state of resources are read.

use super::{Output, Row, lines, said};
use crate::role::sh;
use provision::executor::{facts_in, observations, observe_program};
use provision::state::*;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

pub(super) const PARSERS: &[Row] = &[
    ("uname", "`uname -snrm`", "src/executor/facts.rs", uname),
    ("os-release", "`/etc/os-release`", "src/executor/facts.rs", os_release),
    ("cpus", "`/sys/devices/system/cpu/online`", "src/executor/facts.rs", cpus),
    ("meminfo", "`/proc/meminfo`", "src/executor/facts.rs", meminfo),
    ("mounts", "`/proc/self/mounts`", "src/executor/facts.rs", mounts),
    ("addresses", "`ip -o addr`", "src/executor/facts.rs", addresses),
    ("df", "`df -P`", "src/executor/facts.rs", df),
    ("pci", "`/sys/bus/pci/devices`", "src/executor/facts.rs", pci),
    ("is-active", "`systemctl is-active`", "src/executor/facts.rs", is_active),
    ("secure-boot", "`SecureBoot-*` in efivarfs", "src/executor/facts.rs", secure_boot),
    ("cloud-init", "`cloud-init status`", "src/executor/facts.rs", cloud_init),
    ("apt-policy", "`apt-cache policy`", "src/executor/facts.rs", apt_policy),
    ("k0s-version", "`k0s version`", "src/executor/facts.rs", k0s_version),
    ("certificates", "certificates in PEM", "src/k0s/certificates.rs", certificates),
    ("stat", "`stat -c`", "src/executor/kind/query_result.rs", stat),
    ("sha256sum", "`sha256sum -c`", "src/executor/kind/query_result.rs", sha256sum),
    ("dpkg-query", "`dpkg-query -W`", "src/executor/kind/query_result.rs", dpkg),
    ("rpm", "`rpm -q`", "src/executor/kind/query_result.rs", rpm),
    ("versionlock", "`dnf versionlock list`", "src/executor/kind/query_result.rs", versionlock),
    ("systemctl-show", "`systemctl show`", "src/executor/kind/unit.rs", units),
    ("unit-restarts", "`systemctl show -p NRestarts`", "src/executor/kind/unit.rs", unit_restarts),
    (
        "modules-builtin",
        "`/lib/modules/*/modules.builtin`",
        "src/executor/kind/query_result.rs",
        modules_builtin,
    ),
    ("sysctls", "`/proc/sys`", "src/executor/kind/query_result.rs", sysctls),
    ("blkid", "`blkid -o export`", "src/executor/kind/query_result.rs", blkid),
    ("swaps", "`/proc/swaps`", "src/executor/kind/query.rs", swaps),
    ("fstab", "`/etc/fstab`", "src/executor/kind/query.rs", fstab),
    ("apt-sources", "`/etc/apt/sources.list.d/*`", "src/executor/kind/sources.rs", apt_sources),
];

/// Where the query begins in the text that a host is sent to be observed: facts come before it.
const QUERY: &str = "state() {";

/// Returns shell with other texts in it: paths, mostly.
fn elsewhere(program: &str, places: &[(&str, &Path)]) -> String {
    places.iter().fold(program.to_owned(), |text, (from, to)| text.replace(from, &to.display().to_string()))
}

/// Gathers the facts of a host with these tools, and with these files in other places.
fn gathered(tools: &[(&str, &str)], places: &[(&str, &Path)]) -> Facts {
    let program = observe_program(&[]);
    let program = elsewhere(&program[..program.find(QUERY).expect("the query")], places);
    let none =
        ["ip", "df", "systemctl", "cloud-init", "apt-cache", "dpkg-query"].map(|tool| (tool, "exit 1"));
    let (answer, _) = sh(&[&none, tools].concat(), &program);
    // grep names the files that it reads.
    let back = |text: String, (from, to): &(&str, &Path)| text.replace(&to.display().to_string(), from);
    let answer = places.iter().fold(answer, back);
    facts_in(&answer).expect("whole").expect("facts")
}

/// The facts of a host of which one file has this text.
fn facts_from(path: &str, output: &Output) -> Facts {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("file");
    std::fs::write(&file, &output.text).expect("written");
    gathered(&[], &[(path, &file)])
}

fn uname(output: &Output) -> String {
    let facts = gathered(&[("uname", &said(output))], &[("/etc/hostname", Path::new("/nowhere"))]);
    format!("{} {} on {}: {}", facts.kernel_name, facts.kernel, facts.arch, facts.hostname)
}

fn os_release(output: &Output) -> String {
    let os = facts_from("/etc/os-release", output).os;
    let keys = ["ID", "ID_LIKE", "VERSION_ID", "VERSION_CODENAME", "PRETTY_NAME"];
    keys.iter().filter_map(|key| Some(format!("{key}={}\n", os.get(*key)?))).collect()
}

fn cpus(output: &Output) -> String {
    facts_from("/sys/devices/system/cpu/online", output).cpus.to_string()
}

fn meminfo(output: &Output) -> String {
    facts_from("/proc/meminfo", output).memory_kib.to_string()
}

fn mounts(output: &Output) -> String {
    let mounts = facts_from("/proc/self/mounts", output).mounts;
    mounts.iter().map(|m| format!("{} [{}]\n", m.path, m.kind)).collect()
}

fn addresses(output: &Output) -> String {
    let facts = gathered(&[("ip", &said(output))], &[]);
    facts.addresses.iter().map(|(i, a)| format!("{i} {a}\n")).collect()
}

/// `df` is asked twice: the second time for what lies where, in another form.
fn df(output: &Output) -> String {
    let df = format!("[ \"$1\" = -Pkl ] || exit 1\n{}", said(output));
    let facts = gathered(&[("df", &df)], &[]);
    facts.free_kib.iter().map(|(path, kib)| format!("{path}: {kib}\n")).collect()
}

/// Makes a folder of devices: address, vendor, device, class and, where it has one, its subsystem.
fn devices(text: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    for line in text.lines() {
        let mut words = line.split(' ');
        let device = dir.path().join(words.next().expect("an address"));
        std::fs::create_dir(&device).expect("made");
        let files = ["vendor", "device", "class", "subsystem_vendor", "subsystem_device"];
        for (file, id) in files.into_iter().zip(words) {
            std::fs::write(device.join(file), format!("{id}\n")).expect("written");
        }
    }
    dir
}

fn pci(output: &Output) -> String {
    let devices = devices(&output.text);
    let facts = gathered(&[], &[("/sys/bus/pci/devices", devices.path())]);
    let line = |f: &PciFunction| {
        let of = [&f.address, &f.vendor, &f.device, &f.class, &f.subsystem_vendor, &f.subsystem_device];
        of.map(String::as_str).join(" ") + "\n"
    };
    facts.pci.iter().map(line).collect()
}

/// The states of the first units that are asked for; the others are not there. Without any, systemd does not answer.
fn is_active(output: &Output) -> String {
    let states = output.text.lines().count();
    let systemctl = match states {
        0 => "exit 1".to_owned(),
        n => {
            let rest =
                format!("n={n}; while [ $n -lt $(($# - 1)) ]; do echo inactive; n=$((n + 1)); done; exit 3");
            format!("cat <<'END'\n{}\nEND\n{rest}", output.text.trim_end())
        }
    };
    format!("{:?}", gathered(&[("systemctl", &systemctl)], &[]).services)
}

/// The text has the bytes of the variable in hexadecimal.
fn secure_boot(output: &Output) -> String {
    let dir = tempfile::tempdir().expect("a folder");
    let bytes: Vec<u8> =
        output.text.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).expect("a byte")).collect();
    let variable = dir.path().join("SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c");
    std::fs::write(variable, bytes).expect("written");
    format!("{:?}", gathered(&[], &[("/sys/firmware/efi/efivars", dir.path())]).secure_boot)
}

fn cloud_init(output: &Output) -> String {
    gathered(&[("cloud-init", &said(output))], &[]).cloud_init.unwrap_or_else(|| "nothing".to_owned())
}

/// What is told of the headers on a host with a GPU, whose package lists are there.
fn apt_policy(output: &Output) -> String {
    let devices = devices("0000:0a:00.0 0x10de 0x2330 0x030200");
    let lists = tempfile::tempdir().expect("a folder");
    std::fs::write(lists.path().join("mirror_Packages"), "").expect("written");
    let tools = [("apt-cache", said(output)), ("uname", "echo 0.0.0-none".to_owned())];
    let tools = tools.each_ref().map(|(name, body)| (*name, body.as_str()));
    let places = [("/sys/bus/pci/devices", devices.path()), ("/var/lib/apt/lists", lists.path())];
    format!("{:?}", gathered(&tools, &places).headers)
}

fn k0s_version(output: &Output) -> String {
    let dir = tempfile::tempdir().expect("a folder");
    let binary = dir.path().join("k0s");
    std::fs::write(&binary, format!("#!/bin/sh\n{}\n", said(output))).expect("written");
    std::fs::set_permissions(&binary, PermissionsExt::from_mode(0o755)).expect("set");
    let version = gathered(&[], &[("/usr/local/bin/k0s", &binary)]).k0s_version;
    version.unwrap_or_else(|| "no version".to_owned())
}

fn certificates(output: &Output) -> String {
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::write(dir.path().join("server.crt"), &output.text).expect("written");
    let facts = gathered(&[], &[("/var/lib/k0s/pki", dir.path())]);
    let line = |c: &Certificate| {
        let kind = if c.authority { "authority" } else { "certificate" };
        format!("{kind} {} of {} until {}\n", c.name, c.issuer, c.until_s)
    };
    facts.certificates.iter().map(line).collect()
}

/// Queries a host with these tools, and with these files in other places, for resources.
fn queried(resources: &[Resource], tools: &[(&str, &str)], places: &[(&str, &Path)]) -> Vec<String> {
    let program = observe_program(resources);
    let program = elsewhere(&program[program.find(QUERY).expect("the query")..], places);
    read(resources, &sh(tools, &program).0)
}

/// What is observed of each resource where the answer of the query is this.
fn read(resources: &[Resource], answer: &str) -> Vec<String> {
    let mut seen = observations(resources, answer).expect("whole");
    let shown = |resource: &Resource| match seen.remove(&resource.id).expect("seen") {
        Observation::Present(seen) => {
            seen.fields.iter().map(|(name, value)| format!("{name}: {value}\n")).collect()
        }
        other => format!("{other:?}\n"),
    };
    resources.iter().map(shown).collect()
}

/// The words after a mark at the start of a line, such as `# package`: what is asked for, each once.
fn asked<'a>(output: &'a Output, mark: &str) -> Vec<&'a str> {
    let mut names: Vec<&str> = Vec::new();
    for name in output.text.lines().filter_map(|line| line.strip_prefix(mark)?.strip_prefix(' ')) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// What the tool prints: the text without what is asked for.
fn printed(output: &Output) -> String {
    said(&Output { text: lines(&output.text, |line| !line.starts_with("# ")), ..output.clone() })
}

/// On one line each, behind its name.
fn named(names: &[&str], read: &[String]) -> String {
    names.iter().zip(read).map(|(name, of)| format!("{name}: {}\n", of.trim().replace('\n', " "))).collect()
}

/// Prints for every path what `stat` does of a plain file.
const PLAIN_FILES: &str = "while [ \"$1\" != -- ]; do shift; done; shift; \
    for p; do echo \"regular file|644|root:root|0:0|$p|$p\"; done";

fn stat(output: &Output) -> String {
    let paths = asked(output, "# path");
    let link = |path: &&str| Spec::Symlink(Symlink { path: (*path).to_owned(), target: "/x".to_owned() });
    let resources: Vec<_> = paths.iter().map(|path| Resource::new("test", link(path))).collect();
    named(&paths, &queried(&resources, &[("stat", &printed(output))], &[]))
}

fn sha256sum(output: &Output) -> String {
    let paths = asked(output, "# path");
    let file = |path: &&str| {
        let (content, owner) = (Content::Text("x".to_owned()), "root:root".to_owned());
        Spec::File(File { path: (*path).to_owned(), content, mode: 0o644, owner, validate: None })
    };
    let resources: Vec<_> = paths.iter().map(|path| Resource::new("test", file(path))).collect();
    named(&paths, &queried(&resources, &[("sha256sum", &printed(output)), ("stat", PLAIN_FILES)], &[]))
}

/// Each package that the text asks for, on a host with these tools.
fn packages(output: &Output, tools: &[(&str, &str)], hold: bool, places: &[(&str, &Path)]) -> String {
    let names = asked(output, "# package");
    let package = |name: &&str| {
        let (name, version) = ((*name).to_owned(), Some("*".to_owned()));
        Spec::Package(Package { name, version, hold, ensure: Ensure::Present })
    };
    let resources: Vec<_> = names.iter().map(|name| Resource::new("test", package(name))).collect();
    named(&names, &queried(&resources, tools, places))
}

/// A host without dpkg.
fn without_dpkg() -> [(&'static str, &'static Path); 1] {
    [("command -v dpkg-query", Path::new("false"))]
}

fn dpkg(output: &Output) -> String {
    packages(output, &[("dpkg-query", &printed(output))], false, &[])
}

/// The versions of packages that the text asks for.
fn rpm(output: &Output) -> String {
    let names = asked(output, "# package");
    let package = |name: &&str| {
        let (name, version) = ((*name).to_owned(), Some("none".to_owned()));
        Spec::Package(Package { name, version, hold: false, ensure: Ensure::Present })
    };
    let resources: Vec<_> = names.iter().map(|name| Resource::new("test", package(name))).collect();
    named(&names, &queried(&resources, &[("rpm", &printed(output))], &without_dpkg()))
}

fn versionlock(output: &Output) -> String {
    let installed: String =
        asked(output, "# package").iter().map(|p| format!("echo '{p}|ii|1-1'\n")).collect();
    packages(output, &[("rpm", &installed), ("dnf", &printed(output))], true, &without_dpkg())
}

fn units(output: &Output) -> String {
    let names = asked(output, "# unit");
    let unit = |name: &&str| {
        let name = (*name).to_owned();
        Spec::Unit(Unit { name, enabled: Some(true), active: Some(true), masked: false })
    };
    let resources: Vec<_> = names.iter().map(|name| Resource::new("test", unit(name))).collect();
    named(&names, &queried(&resources, &[("systemctl", &printed(output))], &[]))
}

/// The number of restarts of a unit with these properties.
fn unit_restarts(output: &Output) -> String {
    let count = lines(&output.text, |line| line.starts_with("NRestarts="));
    let systemctl = said(&Output { text: count.replace("NRestarts=", ""), ..output.clone() });
    sh(&[("systemctl", &systemctl)], &(super::unit_functions() + "restarts x")).0
}

/// Whether modules count as loaded that have no folder in `/sys/module`.
fn modules_builtin(output: &Output) -> String {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("modules.builtin");
    std::fs::write(&file, lines(&output.text, |line| !line.starts_with("# "))).expect("written");
    let names = asked(output, "# module");
    let module =
        |name: &&str| KernelModule { name: (*name).to_owned(), version: None, ensure: Ensure::Present };
    let resources: Vec<_> =
        names.iter().map(|name| Resource::new("test", Spec::KernelModule(module(name)))).collect();
    let places =
        [("/lib/modules/$v/modules.builtin", file.as_path()), ("/sys/module", Path::new("/nowhere"))];
    let read = queried(&resources, &[], &places);
    let loaded: Vec<String> = read
        .iter()
        .map(|of| if of.contains("loaded: yes") { "there" } else { "not there" }.to_owned())
        .collect();
    named(&names, &loaded)
}

/// The text has settings as `sysctl -a` prints them; here they are files, as the kernel has them.
fn sysctls(output: &Output) -> String {
    let dir = tempfile::tempdir().expect("a folder");
    let (mut keys, mut resources) = (Vec::new(), Vec::new());
    for (key, value) in output.text.lines().filter_map(|line| line.split_once(" = ")) {
        let path: PathBuf = dir.path().join(key.replace('.', "/"));
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        std::fs::write(&path, format!("{text}{value}\n")).expect("written");
        if !keys.contains(&key) {
            let sysctl = Sysctl { key: key.to_owned(), value: "none".to_owned(), raise_only: false };
            resources.push(Resource::new("test", Spec::Sysctl(sysctl)));
            keys.push(key);
        }
    }
    let program = observe_program(&resources);
    let program = &program[program.find(QUERY).expect("the query")..];
    let at = format!("{}/", dir.path().display());
    let (answer, _) = sh(&[], &program.replace("/proc/sys/", &at));
    let read = read(&resources, &answer.replace(&at, "/proc/sys/"));
    let live: Vec<String> = read.iter().map(|of| lines(of, |line| line.starts_with("live: "))).collect();
    named(&keys, &live)
}

fn blkid(output: &Output) -> String {
    let (device, uuid) = ("/dev/null".to_owned(), "00000000-0000-0000-0000-000000000000".to_owned());
    let filesystem = Filesystem { device, kind: "xfs".to_owned(), uuid, erase: None };
    let resource = Resource::new("test", Spec::Filesystem(filesystem));
    queried(std::slice::from_ref(&resource), &[("blkid", &said(output))], &[]).concat()
}

/// Runs the query of swap with these two files.
fn swap(swaps: &str, fstab: &str) -> String {
    let dir = tempfile::tempdir().expect("a folder");
    let file = |name: &str, text: &str| {
        std::fs::write(dir.path().join(name), text).expect("written");
        dir.path().join(name)
    };
    let (swaps, fstab) = (file("swaps", swaps), file("fstab", fstab));
    let resource = Resource::new("test", Spec::Swap(Swap {}));
    queried(std::slice::from_ref(&resource), &[], &[("/proc/swaps", &swaps), ("/etc/fstab", &fstab)]).concat()
}

fn swaps(output: &Output) -> String {
    swap(&output.text, "")
}

fn fstab(output: &Output) -> String {
    swap("", &output.text)
}

/// Runs the query of a repository beside this list: what is found of other entries for it. The first line says what ours is.
fn apt_sources(output: &Output) -> String {
    let dir = tempfile::tempdir().expect("a folder");
    let (ours, list) = output.text.split_once('\n').expect("two lines");
    let (uri, suite) = ours.trim_start_matches("# ours: ").split_once(' ').expect("two words");
    std::fs::create_dir(dir.path().join("sources.list.d")).expect("made");
    let name = if list.contains("URIs:") { "vendor.sources" } else { "vendor.list" };
    std::fs::write(dir.path().join("sources.list.d").join(name), list).expect("written");
    let definition =
        format!("Types: deb\nURIs: {uri}\nSuites: {suite}\nSigned-By: /etc/apt/keyrings/ours.asc\n");
    let spec = Spec::PackageRepository(PackageRepository { name: "ours".to_owned(), definition, key: None });
    let resource = Resource::new("test", spec);
    let query = observe_program(std::slice::from_ref(&resource));
    let query = query[query.find("state() {").expect("the query")..]
        .replace("/etc/apt", &dir.path().display().to_string());
    let (answer, _) = sh(&[("dpkg", "echo amd64")], &query);
    let guard = answer.lines().find(|l| l.contains("in other lists|")).expect("its guard").to_owned();
    let found = guard.rsplit('|').next().unwrap_or_default();
    if found.is_empty() { "no conflict" } else { "another key for ours" }.to_owned()
}
