//! Outputs that people published: `published/<parser>.yaml` has, for each parser of tool output, texts of the shape of outputs in
//! issues, documents and other projects' test data, with the source of each and what must be read from it. They are shortened
//! and rewritten: serial numbers, addresses and identifiers are made up. Each runs through the program that hosts run, with the
//! tool replaced, or through the parser that reads its output.

use crate::role::{Case as Site, command, sh};
use provision::catalog::Catalog;
use provision::executor::{enact_program, facts_in, known_causes, observations, observe_program};
use provision::k0s::{self, ControllerOutput, QuestionAnswer, control_plane};
use provision::role::health::{
    Level, Links, Purpose, QuickInput, judge, judging, links_gate, program, quick,
};
use provision::ssh::{Asked, parse_user_config};
use provision::state::*;
use serde::Deserialize;
use std::path::Path;

/// One output.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Output {
    /// Where one of this shape was published.
    source: String,
    text: String,
    /// Exit status of the tool.
    #[serde(default)]
    exit: i32,
    /// What must be read from it.
    read: String,
}

/// What was read, for people.
type Parser = fn(&Output) -> String;

/// Parsers of tool output: file below `published`, the tool, where it is read, and the parser.
const PARSERS: [(&str, &str, &str, Parser); 30] = [
    ("nvidia-smi-gpus", "`nvidia-smi --query-gpu`", "src/role/health/quick.rs", nvidia_smi),
    (
        "nvidia-smi-processes",
        "`nvidia-smi --query-compute-apps`",
        "src/role/health/levels.rs",
        nvidia_processes,
    ),
    ("nvidia-smi-list", "`nvidia-smi -L`", "src/role/mig.rs", nvidia_list),
    ("kernel-log-nvidia", "`dmesg`: Xids, SXids", "src/role/health/xid.rs", xids),
    ("kernel-log-neuron", "`dmesg`: Neuron", "src/role/health/quick.rs", neuron_errors),
    ("dcgmi", "`dcgmi diag -j`", "src/role/health/standard.rs", dcgmi),
    ("all-reduce", "`all_reduce_perf`", "src/role/health/standard.rs", all_reduce),
    ("nvbandwidth", "`nvbandwidth`", "src/role/health/judge.rs", nvbandwidth),
    ("neuron-ls", "`neuron-ls -j`", "src/role/health/levels.rs", neuron_processes),
    ("nccom-test", "`nccom-test`", "src/role/health/standard.rs", nccom_test),
    ("fio", "`fio --output-format=json`", "src/role/health/judge.rs", fio),
    ("infiniband-ports", "`/sys/class/infiniband/*/ports/*/state`", "src/role/health/links.rs", ports),
    ("os-release", "`/etc/os-release`", "src/executor/facts.rs", os_release),
    ("mounts", "`/proc/self/mounts`", "src/executor/facts.rs", mounts),
    ("addresses", "`ip -o addr`", "src/executor/facts.rs", addresses),
    ("df", "`df -P`", "src/executor/facts.rs", df),
    ("dpkg-query", "`dpkg-query -W`", "src/executor/kind/query_result.rs", dpkg),
    ("versionlock", "`dnf versionlock list`", "src/executor/kind/query_result.rs", versionlock),
    ("blkid", "`blkid -o export`", "src/executor/kind/query_result.rs", blkid),
    ("swaps", "`/proc/swaps`", "src/executor/kind/query.rs", swaps),
    ("fstab", "`/etc/fstab`", "src/executor/kind/query.rs", fstab),
    ("apt-sources", "`/etc/apt/sources.list.d/*`", "src/executor/kind/sources.rs", apt_sources),
    ("apt-simulation", "`apt-get -s`", "src/executor/kind/package.rs", apt_removes),
    ("dnf-transaction", "`dnf --assumeno`", "src/executor/kind/package.rs", dnf_removes),
    ("dkms-failure", "`apt-get install` with DKMS", "src/executor/kind/package.rs", dkms_failure),
    ("step-output", "output of failed steps", "src/executor/causes.rs", cause),
    ("dkms-status", "`dkms status`", "roles/nvidia/role.yaml", dkms_status),
    ("ssh-config", "`ssh -G`", "src/ssh/config.rs", ssh_config),
    (
        "k0s-controller",
        "`k0s status`, `k0s etcd member-list`",
        "src/k0s/control_plane.rs, src/k0s/etcd.rs",
        controller,
    ),
    ("k0s-sysinfo", "`k0s sysinfo`", "src/k0s/sysinfo.rs, roles/base/role.yaml", sysinfo),
];

/// Fewer published outputs than that are too few to call a parser tried.
const FEWEST: usize = 3;

fn outputs(name: &str) -> Vec<Output> {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/published").join(format!("{name}.yaml"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_saphyr::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[test]
fn published_outputs_are_read_as_they_are_meant() {
    let mut wrong = String::new();
    for (name, _, _, parser) in PARSERS {
        for output in outputs(name) {
            let read = parser(&output);
            if read.trim() != output.read.trim() {
                wrong += &format!("{name}: {}\nwanted:\n{}\nread:\n{}\n\n", output.source, output.read, read);
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// The page says how many outputs each parser was tried on; with `PROVISION_UPDATE_DOCS=1` this writes it.
#[test]
fn every_parser_of_tool_output_was_tried_on_published_ones() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut table = "| output | read by | published outputs tried |\n|---|---|---|\n".to_owned();
    let mut names = std::collections::BTreeSet::new();
    for (name, tool, file, _) in PARSERS {
        let of = outputs(name);
        let sources: std::collections::BTreeSet<_> = of.iter().map(|o| o.source.as_str()).collect();
        assert!(sources.len() >= FEWEST, "{name}: {} sources", sources.len());
        assert!(file.split(", ").all(|file| root.join(file).exists()), "{name}: {file}");
        names.insert(format!("{name}.yaml"));
        table += &format!("| {tool} | {file} | {} |\n", of.len());
    }
    let files = std::fs::read_dir(root.join("tests/data/published")).expect("a folder");
    let files = files.map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned());
    assert_eq!(files.collect::<std::collections::BTreeSet<_>>(), names, "each file is a parser's");
    let path = root.join("docs/reference/parsers.md");
    let page = std::fs::read_to_string(&path).expect("the page");
    let (before, rest) = page.split_once("| output | read by").expect("the table");
    let after = rest.split_once("\n\n").map_or("", |(_, after)| after);
    let made = format!("{before}{table}\n{after}");
    if std::env::var_os("PROVISION_UPDATE_DOCS").is_some() {
        std::fs::write(&path, &made).expect("written");
        return;
    }
    assert_eq!(page, made, "PROVISION_UPDATE_DOCS=1 cargo test --test data every_parser");
}

// What tools on a host say, through the programs that run there.

/// A stand-in for a tool: prints the text and exits as it did.
fn said(output: &Output) -> String {
    format!(
        "cat <<'PUBLISHED_END'\n{}\nPUBLISHED_END\nexit {}",
        output.text.trim_end_matches('\n'),
        output.exit
    )
}

fn lines(text: &str, keep: impl Fn(&str) -> bool) -> String {
    text.lines().filter(|line| keep(line)).map(|line| format!("{line}\n")).collect()
}

/// Runs something with two of a product, and the driver that the outputs are of.
fn with<T>(slug: &str, then: impl FnOnce(QuickInput<'_>) -> T) -> T {
    let catalog = Catalog::builtin().expect("the catalog");
    let product = catalog.product(slug).expect("known");
    let (driver, units): (_, &[&str]) = ("580.178.04", &[]);
    let (count, wait, mig, links) = (2, false, false, Links::default());
    then(QuickInput { catalog: &catalog, product: &product, count, driver, units, wait, mig, links })
}

fn nvidia_smi(output: &Output) -> String {
    let shell = with("h100-sxm5-80gb", quick);
    let (found, _) = sh(&[("nvidia-smi", &said(output)), ("dmesg", "")], &shell);
    let others = ["PCI bus", "module nvidia", "nouveau", "kernel log"];
    lines(&found, |line| !others.iter().any(|other| line.contains(other)))
}

fn xids(output: &Output) -> String {
    let shell = with("h100-sxm5-80gb", quick);
    let (found, _) = sh(&[("nvidia-smi", "exit 9"), ("dmesg", &said(output))], &shell);
    lines(&found, |line| line.contains("Xid"))
}

fn neuron_errors(output: &Output) -> String {
    let shell = with("trainium2", quick);
    let (found, _) = sh(&[("dmesg", &said(output))], &shell);
    lines(&found, |line| line.contains("kernel log"))
}

/// What the standard level says of its first test, when this tool is asked who uses the devices.
fn busy(slug: &str, tool: &str, body: &str, test: &str) -> String {
    let shell = with(slug, |input| program(Level::Standard, input, "/nowhere"));
    let (found, _) =
        sh(&[(tool, body), ("dmesg", ""), ("dcgmi", "exit 3"), ("nccom-test", "exit 3")], &shell);
    match lines(&found, |line| line.contains(test)) {
        found if found.contains("processes use") => found,
        found if found.contains("(exit 3)") => "nothing uses the devices".to_owned(),
        found => found,
    }
}

fn nvidia_processes(output: &Output) -> String {
    busy("h100-sxm5-80gb", "nvidia-smi", &said(output), "E-HEALTH-DCGMI")
}

/// From SDK 2.34 on, `-j` is refused.
fn neuron_processes(output: &Output) -> String {
    let new = output.source.contains("2.34");
    let refused = if new { "case $1 in -j) echo 'unknown flag' >&2; exit 1;; esac\n" } else { "" };
    busy("trainium2", "neuron-ls", &format!("{refused}{}", said(output)), "E-HEALTH-NCCOM-TEST")
}

/// Judges the output of one tool of the standard level.
fn standard(slug: &str, test: &str, output: &Output) -> String {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("standard");
    let text =
        format!("@@ quick\nok: x\n@@rc quick 0\n@@ {test}\n{}\n@@rc {test} {}\n", output.text, output.exit);
    std::fs::write(&file, text).expect("written");
    let shell = with(slug, |input| judging(&input, Purpose::Verify));
    let (found, _) = sh(&[], &format!("K={}\n{shell}", file.display()));
    let others = ["ok: x", "was interrupted"];
    lines(&found, |line| !others.iter().any(|other| line.contains(other)))
}

fn dcgmi(output: &Output) -> String {
    standard("h100-sxm5-80gb", "dcgmi", output)
}

fn all_reduce(output: &Output) -> String {
    standard("h100-sxm5-80gb", "all-reduce", output)
}

fn nccom_test(output: &Output) -> String {
    standard("trainium2", "nccom-test", output)
}

/// Judges the output of one tool of the burn-in.
fn burnin(test: &str, output: &Output) -> String {
    let text = format!("@@ {test}\n{}\n@@rc {test} {}\n", output.text, output.exit);
    let health = with("h100-sxm5-80gb", |input| judge(&text, Level::Burnin, &input));
    let of = health.findings.iter().filter(|f| !f.detail.contains("interrupted"));
    of.map(|f| format!("{:?} {}", f.verdict, f.detail)).collect()
}

fn nvbandwidth(output: &Output) -> String {
    burnin("device-to-device", output)
}

fn fio(output: &Output) -> String {
    burnin("fio", output)
}

/// The states of ports of one adapter, a line each, read as sysfs has them.
fn ports(output: &Output) -> String {
    let dir = tempfile::tempdir().expect("a folder");
    for (n, state) in output.text.lines().enumerate() {
        let port = dir.path().join(format!("mlx5_{n}/ports/1"));
        std::fs::create_dir_all(&port).expect("made");
        std::fs::create_dir_all(dir.path().join(format!("mlx5_{n}/device"))).expect("made");
        std::os::unix::fs::symlink("/drivers/mlx5_core", dir.path().join(format!("mlx5_{n}/device/driver")))
            .expect("made");
        std::fs::write(port.join("state"), state).expect("written");
    }
    let links = Links { efa: None, rdma: Some(2) };
    let shell = links_gate(links, false).replace("/sys/class/infiniband", &dir.path().display().to_string());
    sh(&[], &shell).0
}

// A role's own programs.

fn nvidia_list(output: &Output) -> String {
    let mut site = Site::h100("debian12");
    site.text =
        site.text.replacen("driver: \"580.178.04\"}", "driver: \"580.178.04\", mig: {7g.80gb: 1}}", 1);
    let resources = site.role("h-1", "nvidia");
    let guard = &command(&resources, "command/nvidia-mig").guard;
    let smi =
        format!("case $* in *index*) printf '0, Enabled\\n1, Enabled\\n'; exit 0;; esac\n{}", said(output));
    sh(&[("nvidia-smi", &smi)], guard).0
}

fn dkms_status(output: &Output) -> String {
    let resources = Site::h100("debian12").role("h-1", "nvidia");
    let guard = &command(&resources, "command/nvidia-dkms").guard;
    let built = sh(&[("dkms", &said(output))], guard).1;
    if built { "built" } else { "not built" }.to_owned()
}

fn sysinfo(output: &Output) -> String {
    let dir = tempfile::tempdir().expect("a folder");
    let resources = Site::new("debian12").role("w-1", "base");
    let apply = &command(&resources, "command/k0s-preflight").apply;
    let apply = apply
        .replace("/usr/local/bin/k0s.next", "k0s.next")
        .replace("/var/lib/provision", &dir.path().display().to_string());
    let role = sh(&[("k0s.next", &said(output))], &apply).0;
    let items = k0s::sysinfo(&output.text).map(|items| {
        items
            .iter()
            .map(|i| format!("{} {}\n", if i.stops { "stops:" } else { "warns:" }, i.text))
            .collect::<String>()
    });
    format!("{}role: {role}", items.unwrap_or_else(|| "no answer\n".to_owned()))
}

// Facts.

/// The facts of a host, one section of which is this output.
fn facts(section: &str, output: &Output) -> Facts {
    let text =
        format!("\x1euname\nLinux h-1 6.8.0-60-generic x86_64\n\x1e{section}\n{}\n\x1eend 0\n", output.text);
    facts_in(&text).expect("whole").expect("facts")
}

fn os_release(output: &Output) -> String {
    let os = facts("os", output).os;
    let keys = ["ID", "ID_LIKE", "VERSION_ID", "VERSION_CODENAME", "PRETTY_NAME"];
    keys.iter().filter_map(|key| Some(format!("{key}={}\n", os.get(*key)?))).collect()
}

fn mounts(output: &Output) -> String {
    let lines = output.text.lines().map(|line| format!("/proc/self/mounts:{line}\n")).collect();
    let output = Output { source: String::new(), text: lines, exit: 0, read: String::new() };
    facts("files", &output).mounts.iter().map(|m| format!("{} [{}]\n", m.path, m.kind)).collect()
}

fn addresses(output: &Output) -> String {
    facts("addresses", output).addresses.iter().map(|(i, a)| format!("{i} {a}\n")).collect()
}

fn df(output: &Output) -> String {
    facts("disks", output).free_kib.iter().map(|(path, kib)| format!("{path}: {kib}\n")).collect()
}

// Observations.

/// What is observed of a resource where the answer of the query is this.
fn observed(spec: Spec, answer: &str) -> String {
    let resource = Resource::new("test", spec);
    let seen = observations(std::slice::from_ref(&resource), answer).expect("whole").remove(&resource.id);
    match seen.expect("seen") {
        Observation::Present(seen) => {
            seen.fields.iter().map(|(name, value)| format!("{name}: {value}\n")).collect()
        }
        other => format!("{other:?}"),
    }
}

/// Each name that the text has of a package is asked for.
fn packages(output: &Output, answer: &str, hold: bool) -> String {
    let mut names: Vec<&str> = output.text.lines().filter_map(|l| l.strip_prefix("# package ")).collect();
    names.dedup();
    let of = |name: &&str| {
        let package = Package {
            name: (*name).to_owned(),
            version: Some("*".to_owned()),
            hold,
            ensure: Ensure::Present,
        };
        format!("{name}: {}", observed(Spec::Package(package), answer).replace('\n', " "))
    };
    names.iter().map(of).collect::<Vec<_>>().join("\n")
}

fn dpkg(output: &Output) -> String {
    let body = lines(&output.text, |line| !line.starts_with('#'));
    packages(output, &format!("\x1epackages\n{body}\x1edpkg-rc\n{}\n\x1eend 0\n", output.exit), false)
}

fn versionlock(output: &Output) -> String {
    let body = lines(&output.text, |line| !line.starts_with('#'));
    let installed = lines(&output.text, |line| line.starts_with("# package ")).replace("# package ", "");
    let installed = installed.lines().map(|name| format!("{name}|ii|1-1\n")).collect::<String>();
    packages(output, &format!("\x1epackages\n{installed}\x1eholds\n{body}\x1eend 0\n"), true)
}

fn blkid(output: &Output) -> String {
    let (device, uuid) = ("/dev/disk/by-id/x".to_owned(), "00000000-0000-0000-0000-000000000000".to_owned());
    let filesystem = Filesystem { device, kind: "xfs".to_owned(), uuid, erase: None };
    let answer = format!("\x1edisks\nD|/dev/disk/by-id/x\n{}\nR|{}\n\x1eend 0\n", output.text, output.exit);
    observed(Spec::Filesystem(filesystem), &answer)
}

/// Runs the query of swap with these two files.
fn swap(swaps: &str, fstab: &str) -> String {
    let dir = tempfile::tempdir().expect("a folder");
    let file = |name: &str, text: &str| {
        std::fs::write(dir.path().join(name), text).expect("written");
        dir.path().join(name).display().to_string()
    };
    let resource = Resource::new("test", Spec::Swap(Swap {}));
    let query = observe_program(std::slice::from_ref(&resource));
    let query = &query[query.find("state() {").expect("the query")..];
    let query =
        query.replace("/proc/swaps", &file("swaps", swaps)).replace("/etc/fstab", &file("fstab", fstab));
    observed(Spec::Swap(Swap {}), &sh(&[], &query).0)
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

// Programs of steps.

/// Runs a line of shell with the functions that package steps have.
fn packages_shell(standins: &[(&str, &str)], call: &str) -> String {
    let program = enact_program(&[], &Facts::default());
    let from = program.find("\nturn() {").expect("the functions");
    let to = program[from..].find("\n# Units that wait").expect("their end") + from;
    sh(standins, &format!("{}\n{call}", &program[from..to])).0
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

// This machine's ssh, and controllers.

fn ssh_config(output: &Output) -> String {
    let asked = Asked { host: "h-1".to_owned(), ..Asked::default() };
    let config = parse_user_config(&output.text, &asked, Path::new("/home/me"));
    let known: Vec<String> = config.known_hosts.iter().map(|p| p.display().to_string()).collect();
    format!(
        "{}@{}:{} jumps {:?} command {:?}\nagent {:?} only {} known {}\nunsupported {:?} accepts {:?}",
        config.user.unwrap_or_default(),
        config.hostname.unwrap_or_default(),
        config.port.unwrap_or_default(),
        config.jumps,
        config.proxy_command,
        config.agent,
        config.identities_only,
        known.join(" "),
        config.unsupported,
        config.accepts_unknown_keys
    )
}

fn controller(output: &Output) -> String {
    let answer = |text: &str| QuestionAnswer { text: text.to_owned(), exit: Some(output.exit) };
    let plane = control_plane(|name| Some(answer(if name == "status" { &output.text } else { "ok" })));
    let said = format!("members {}\nready", output.text);
    let from =
        ControllerOutput { host: HostName::new("cp-1"), address: "10.0.0.1".to_owned(), output: Ok(said) };
    match (k0s::etcd::members(&[from]), plane) {
        (Some(members), _) => members.iter().map(|(name, address)| format!("{name} {address}\n")).collect(),
        (None, plane) => {
            format!("{} {}", plane.version.unwrap_or_default(), plane.problem.unwrap_or_default())
        }
    }
}
