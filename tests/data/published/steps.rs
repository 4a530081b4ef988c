//! What tools print that steps run, and what is made of it there.

use super::{Output, Row, lines, said};
use crate::executor::{shell, step};
use crate::role::sh;
use provision::executor::{enact_program, known_causes};
use provision::k0s;
use provision::state::*;

pub(super) const PARSERS: &[Row] = &[
    ("apt-simulation", "`apt-get -s`", "src/executor/kind/package.rs", apt_removes),
    ("apt-install", "`apt-get install` that fails", "src/executor/kind/package.rs", apt_install),
    ("apt-update", "`apt-get update`", "src/executor/kind/repository.rs", apt_update),
    ("dkms-failure", "`apt-get install` with DKMS", "src/executor/kind/package.rs", dkms_failure),
    ("dnf-transaction", "`dnf --assumeno`", "src/executor/kind/package.rs", dnf_removes),
    ("rpm-needs", "`rpm -e --test`", "src/executor/kind/package.rs", rpm_needs),
    ("steady", "`systemctl show -p MainPID -p NRestarts -p ActiveState`", "src/k0s/steady.rs", steady),
    ("journal", "`journalctl -o cat`", "src/executor/kind/unit.rs", journal),
    ("step-output", "output of failed steps", "src/executor/causes.rs", cause),
    ("mountinfo", "`/proc/self/mountinfo`", "src/k0s/reset.rs", mountinfo),
];

/// The functions that package steps have.
fn package_functions() -> String {
    let program = enact_program(&[], &Facts::default());
    let from = program.find("\nturn() {").expect("the functions");
    let to = program[from..].find("\n# Units that wait").expect("their end") + from;
    program[from..to].to_owned() + "\n"
}

/// Runs a line of shell with the functions that package steps have.
fn packages_shell(standins: &[(&str, &str)], call: &str) -> String {
    sh(standins, &(package_functions() + call)).0
}

/// The shell that brings about a resource on a host with apt.
fn made(spec: Spec) -> String {
    let resource = Resource::new("test", spec);
    let create = Change { verb: Verb::Create, fields: Vec::new(), text: None };
    let facts = Facts { package_manager: Some(PackageManager::Apt), ..Facts::default() };
    shell(&enact_program(&[step(&resource, create)], &facts)).to_owned()
}

fn apt_removes(output: &Output) -> String {
    packages_shell(&[("apt-get", &said(output))], "apt_removes apt-get install x")
}

fn dnf_removes(output: &Output) -> String {
    packages_shell(&[("dnf", &said(output))], "dnf_removes dnf install x")
}

/// What a failed step says of an installation that printed this.
fn dkms_failure(output: &Output) -> String {
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::write(dir.path().join("apt"), &output.text).expect("written");
    std::fs::write(dir.path().join("packages"), "").expect("written");
    let call = format!("B={}; r=100; left x '*'", dir.path().display());
    let found = packages_shell(&[("dpkg-query", ""), ("dpkg", ""), ("apt-get", "")], &call);
    lines(&found, |line| line.starts_with("E-"))
}

/// The code of a failed step that printed this.
fn cause(output: &Output) -> String {
    let known = known_causes().iter().find(|cause| output.text.contains(cause.phrase));
    known.map_or("unknown", |cause| cause.code).to_owned()
}

/// What a package step does after an installation that ended like this: whether it fetches lists, or ends what dpkg began.
fn apt_install(output: &Output) -> String {
    let dir = tempfile::tempdir().expect("a folder");
    let (name, version) = ("x".to_owned(), Some("1-1".to_owned()));
    let package = Spec::Package(Package { name, version, hold: false, ensure: Ensure::Present });
    let shell = format!("{}B={}; D=; LEAVES=\n{}", package_functions(), dir.path().display(), made(package));
    let apt = format!("case $1 in update) echo 'lists are fetched'; exit 0;; esac\n{}", said(output));
    let (found, done) = sh(&[("apt-get", &apt), ("dpkg", "echo \"dpkg $*\""), ("dpkg-query", "")], &shell);
    let own =
        |line: &str| line == "lists are fetched" || line.starts_with("dpkg --") || line.starts_with("E-PACK");
    format!("{}{}", lines(&found, own), if done { "done" } else { "failed" })
}

/// Whether a repository is kept whose lists were fetched like this.
fn apt_update(output: &Output) -> String {
    let dir = tempfile::tempdir().expect("a folder");
    let list = dir.path().join("sources.list.d/ours.sources");
    std::fs::create_dir(dir.path().join("sources.list.d")).expect("made");
    std::fs::write(&list, "").expect("written");
    let definition = "Types: deb\nURIs: https://mirror.example\nSuites: /\n".to_owned();
    let ours = PackageRepository { name: "ours".to_owned(), definition, key: None };
    let shell = made(Spec::PackageRepository(ours)).replace("/etc/apt", &dir.path().display().to_string());
    let fetch = shell.find("e=$((").expect("the lists are fetched");
    let (_, done) = sh(&[("apt-get", &said(output))], &format!("restore() {{ :; }}\n{}", &shell[fetch..]));
    match (done, list.exists()) {
        (true, true) => "kept".to_owned(),
        (false, false) => "removed again".to_owned(),
        other => format!("{other:?}"),
    }
}

fn rpm_needs(output: &Output) -> String {
    let rpm = format!("case $1 in -q) exit 0;; esac\nexec 2>&1\n{}", said(output));
    packages_shell(&[("rpm", &rpm)], "D=; rpm_needs x")
}

/// Whether k0s's unit stays up: systemd prints this of it every second.
fn steady(output: &Output) -> String {
    let systemctl = format!(
        "case $* in is-enabled*worker*) echo enabled;; is-enabled*) exit 1;; *) {};; esac",
        said(output)
    );
    sh(&[("systemctl", &systemctl), ("sleep", ""), ("journalctl", "")], &k0s::steady(2)).0
}

/// What is said of a unit that is not up, whose journal is this. The first line names the unit.
fn journal(output: &Output) -> String {
    let (unit, text) = output.text.split_once('\n').expect("a unit");
    let call = format!("{}fallen {}", super::unit_functions(), unit.trim_start_matches("# unit "));
    let journal = said(&Output { text: text.to_owned(), ..output.clone() });
    lines(&sh(&[("journalctl", &journal)], &call).0, |line| line.starts_with("E-UNIT"))
}

/// Where something is mounted, as the reset of k0s reads it.
fn mountinfo(output: &Output) -> String {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("mountinfo");
    std::fs::write(&file, &output.text).expect("written");
    let program = k0s::reset();
    let line = program.lines().find(|line| line.contains("/proc/self/mountinfo")).expect("reads it");
    sh(&[], &format!("{}; echo \"$m\"", line.replace("/proc/self/mountinfo", &file.display().to_string()))).0
}
