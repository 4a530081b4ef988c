//! Data tests of `role`: inventory and facts in, desired resources of a host out.

use provision::artifact::{Lock, Locked};
use provision::catalog::Catalog;
use provision::inventory::{Inventory, load};
use provision::role::{RoleInput, check, desired};
use provision::state::{
    Content, Ensure, Facts, Failure, Hazard, HostKind, Managed, PciFunction, Resource, ResourceId, Spec,
};
use std::path::{Path, PathBuf};

const K0S: &str = "v1.35.7+k0s.0";
const SYSTEMS: [&str; 3] = ["debian12", "ubuntu2404", "rhel9"];

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/roles").join(name)
}

/// An inventory in a folder of its own, so that a test can put a `roles/` beside it.
pub struct Case {
    pub dir: tempfile::TempDir,
    catalog: Catalog,
    pub lock: Lock,
    pub facts: Facts,
    secrets: std::collections::BTreeMap<String, provision::state::SecretText>,
    pub text: String,
    joins: bool,
}

impl Case {
    pub fn new(system: &str) -> Self {
        let catalog = Catalog::builtin().expect("the catalog");
        let mut lock = Lock::default();
        for artifact in catalog.artifacts() {
            let locked = Locked {
                version: "x".into(),
                urls: vec![format!("http://mirror/{}", artifact.name)],
                sha256: "0".repeat(64),
                size: 1,
            };
            lock.artifacts.insert(artifact.name.clone(), locked);
        }
        let facts = std::fs::read_to_string(data(&format!("facts/{system}.json"))).expect("recorded facts");
        Self {
            dir: tempfile::tempdir().expect("a folder"),
            catalog,
            lock,
            secrets: std::collections::BTreeMap::from([(
                "hub".into(),
                provision::state::SecretText::new("me:canary-77"),
            )]),
            facts: serde_json::from_str(&facts).expect("facts"),
            joins: false,
            text: std::fs::read_to_string(data("inventory.yaml")).expect("the inventory"),
        }
    }

    /// Puts `count` functions of a device on the bus.
    pub fn with(mut self, vendor: &str, device: &str, class: &str, count: usize) -> Self {
        let function = PciFunction {
            vendor: vendor.into(),
            device: device.into(),
            class: class.into(),
            ..PciFunction::default()
        };
        self.facts.pci.extend(vec![function; count]);
        self
    }

    pub fn h100(system: &str) -> Self {
        Self::new(system).with("10de", "2330", "030200", 2).with("10de", "22a3", "068000", 4)
    }

    pub fn trn2(system: &str) -> Self {
        Self::new(system).with("1d0f", "7364", "088000", 2)
    }

    pub fn inventory(&self) -> Inventory {
        let path = self.dir.path().join("site.yaml");
        std::fs::write(&path, &self.text).expect("written");
        load(&path, &self.catalog).unwrap_or_else(|d| panic!("{d}")).inventory
    }

    pub fn wanted(&self, host: &str) -> Result<Vec<Resource>, Vec<Failure>> {
        let inventory = self.inventory();
        let host = &inventory.hosts[host];
        desired(&RoleInput {
            inventory: &inventory,
            catalog: &self.catalog,
            lock: &self.lock,
            host,
            facts: &self.facts,
            secrets: &self.secrets,
            joins: self.joins,
        })
    }

    /// What is found out about a host from its facts.
    pub fn checked(&self, host: &str) -> Vec<provision::role::Finding> {
        let inventory = self.inventory();
        let host = &inventory.hosts[host];
        check(&RoleInput {
            inventory: &inventory,
            catalog: &self.catalog,
            lock: &self.lock,
            host,
            facts: &self.facts,
            secrets: &self.secrets,
            joins: self.joins,
        })
    }

    /// What one role comes to.
    pub fn role(&self, host: &str, role: &str) -> Vec<Resource> {
        let all = self.wanted(host).unwrap_or_else(|f| panic!("{f:?}"));
        all.into_iter().filter(|r| r.role == role).collect()
    }

    /// Why the host cannot be had, on one line.
    pub fn failure(&self, host: &str) -> String {
        let failures = self.wanted(host).expect_err("refused");
        failures.iter().map(|f| format!("{f}\n")).collect::<String>().trim_end().to_owned()
    }

    /// Puts a file into the `roles/` folder beside the inventory.
    fn role_file(&self, path: &str, text: &str) {
        let path = self.dir.path().join("roles").join(path);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        std::fs::write(path, text).expect("written");
    }
}

fn golden(name: &str, resources: &[Resource]) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(data("golden"));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_yaml_snapshot!(name, resources));
}

pub fn file(resources: &[Resource], path: &str) -> String {
    resources
        .iter()
        .find_map(|r| match &r.spec {
            Spec::File(file) if file.path == path => match &file.content {
                Content::Text(text) => Some(text.clone()),
                Content::Secret(_) => None,
            },
            _ => None,
        })
        .unwrap_or_else(|| panic!("{path} is wanted"))
}

fn ids(resources: &[Resource]) -> Vec<String> {
    resources.iter().map(|r| r.id.text()).collect()
}

#[test]
fn base_on_each_system() {
    for system in SYSTEMS {
        golden(&format!("base-{system}"), &Case::new(system).role("w-1", "base"));
    }
}

/// GPUs that are split: a program that a unit runs at boot, and a step that runs it now.
#[test]
fn nvidia_with_a_mig_layout() {
    let mut case = Case::h100("debian12");
    case.text = case.text.replacen(
        "driver: \"580.178.04\"}",
        "driver: \"580.178.04\", mig: {1g.10gb: 4, 3g.40gb: 1}}",
        1,
    );
    let split = |r: &Resource| r.id.text().contains("mig") || r.id.text() == "reboot/nvidia";
    let resources: Vec<Resource> = case.role("h-1", "nvidia").into_iter().filter(split).collect();
    golden("nvidia-mig", &resources);
    let program = file(&resources, "/usr/local/bin/provision-mig");
    assert!(
        program.contains("-cgi 3g.40gb,1g.10gb,1g.10gb,1g.10gb,1g.10gb -C"),
        "the largest first: {program}"
    );
    let Spec::Command(gate) = &case.role("h-1", "health")[0].spec else { panic!("a command") };
    assert!(gate.apply.contains("dcgmi diag") && !gate.apply.contains("all_reduce"), "not over instances");
    case.text = case.text.replacen("mig: {1g.10gb: 4, 3g.40gb: 1}", "mig: {}", 1);
    let off = file(&case.role("h-1", "nvidia"), "/usr/local/bin/provision-mig");
    assert!(off.contains("smi -mig 0") && !off.contains("-cgi"), "{off}");
}

/// The last gate: the standard level on the host, once for a driver, a kernel and a number of devices.
#[test]
fn health_before_a_node_takes_work() {
    golden("health-nvidia", &Case::h100("debian12").role("h-1", "health"));
    golden("health-neuron", &Case::trn2("debian12").role("t-1", "health"));
    assert!(Case::new("debian12").role("w-1", "health").is_empty());
    let all = Case::h100("debian12").wanted("h-1").unwrap_or_else(|f| panic!("{f:?}"));
    assert_eq!(
        all.last().map(|r| r.id.text()).as_deref(),
        Some("command/accelerator-standard"),
        "after the join"
    );
}

#[test]
fn nvidia_on_each_system() {
    for system in SYSTEMS {
        golden(&format!("nvidia-{system}"), &Case::h100(system).role("h-1", "nvidia"));
    }
}

#[test]
fn neuron_on_each_system() {
    for system in SYSTEMS {
        golden(&format!("neuron-{system}"), &Case::trn2(system).role("t-1", "neuron"));
    }
}

/// A module counts as built by its exact name and version: `nvidia-fs` is another one.
#[test]
fn dkms_is_asked_for_the_module_itself() {
    let guard = |resources: &[Resource], id: &str| {
        let of = resources.iter().find(|r| r.id.text() == id).unwrap_or_else(|| panic!("{id}"));
        let Spec::Command(command) = &of.spec else { panic!("a command") };
        command.guard.clone()
    };
    let nvidia = guard(&Case::h100("debian12").role("h-1", "nvidia"), "command/nvidia-dkms");
    let neuron = guard(&Case::trn2("debian12").role("t-1", "neuron"), "command/neuron-dkms");
    let driver = "2.30.2.0";
    assert!(neuron.contains(&driver.replace('.', "[.]")), "{neuron}");
    let built = |name: &str| format!("{name}, 6.8.0-60-generic, x86_64: installed\n");
    let cases = [
        (&nvidia, "nvidia/580.178.04: added\n".to_owned() + &built("nvidia-fs/2.26.6"), false),
        (&nvidia, built("nvidia-fs/580.178.04"), false),
        (&nvidia, built("nvidia/580.126.09"), false),
        (&nvidia, built("nvidia/580.178.041"), false),
        (&nvidia, built("nvidia/580x178.04"), false),
        (&nvidia, "nvidia/580.178.04, 6.8.0-60-generic, x86_64: built\n".into(), false),
        (&nvidia, String::new(), false),
        (&nvidia, built("nvidia-fs/2.26.6") + &built("nvidia/580.178.04"), true),
        (&nvidia, built("nvidia, 580.178.04"), true),
        (&nvidia, built("nvidia-open/580.178.04"), true),
        (
            &nvidia,
            built("nvidia-srv/580.178.04").replace("installed", "installed (original_module exists)"),
            true,
        ),
        (&neuron, built("aws-neuronx/2.30.2.0"), true),
        (&neuron, built("aws-neuronx/2.29.2.0"), false),
        (&neuron, built("aws-neuronx-gdr/2.30.2.0"), false),
    ];
    for (guard, status, yes) in cases {
        let tool = format!("dkms() {{ printf '%s' '{status}'; }}\n{guard}");
        let output = std::process::Command::new("sh").args(["-ec", &tool]).output().expect("sh runs");
        assert_eq!(output.status.success(), yes, "{status}");
    }
}

pub(crate) fn command<'a>(resources: &'a [Resource], id: &str) -> &'a provision::state::Command {
    let of =
        resources.iter().find(|r| r.id.text() == id).unwrap_or_else(|| panic!("{id}: {:?}", ids(resources)));
    let Spec::Command(command) = &of.spec else { panic!("a command") };
    command
}

fn version<'a>(resources: &'a [Resource], name: &str) -> &'a str {
    let of = resources.iter().find(|r| r.id.text() == format!("package/{name}")).expect("a package");
    let Spec::Package(package) = &of.spec else { panic!("a package") };
    package.version.as_deref().unwrap_or_default()
}

/// Runs shell with stand-ins for programs, `NAME: BODY` on a line each; returns its output and whether it succeeded.
pub(crate) fn sh(standins: &[(&str, &str)], program: &str) -> (String, bool) {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().expect("a folder");
    for (name, body) in standins {
        let path = dir.path().join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("set");
    }
    let path = format!("{}:{}", dir.path().display(), std::env::var("PATH").unwrap_or_default());
    let output =
        std::process::Command::new("sh").args(["-c", program]).env("PATH", path).output().expect("sh runs");
    (String::from_utf8_lossy(&output.stdout).trim().to_owned(), output.status.success())
}

/// Since SDK 2.28 the versions of Neuron's tools end in a commit, which no list of releases names.
#[test]
fn neuron_packages_are_found_with_whatever_follows_the_release() {
    for system in SYSTEMS {
        let resources = Case::trn2(system).role("t-1", "neuron");
        assert_eq!(version(&resources, "aws-neuronx-tools"), "2.32.28.0*", "{system}");
        assert_eq!(version(&resources, "aws-neuronx-dkms"), "2.30.2.0*", "{system}");
    }
}

/// What the standard level runs is installed with the driver, and its engine runs before the gate.
#[test]
fn the_tools_of_the_standard_level_are_installed() {
    let dcgm = |case: &Case, host: &str| -> Vec<String> {
        let resources = case.role(host, "nvidia");
        let old = |r: &&Resource| matches!(&r.spec, Spec::Package(p) if p.ensure == Ensure::Absent);
        let gone: Vec<String> = resources.iter().filter(old).map(|r| r.id.text()).collect();
        assert!(gone.iter().any(|name| name == "package/datacenter-gpu-manager"), "{gone:?}");
        let at = |id: &str| ids(&resources).iter().position(|i| i == id).unwrap_or_else(|| panic!("{id}"));
        assert!(at("reboot/nvidia") < at("unit/nvidia-dcgm.service"), "its engine needs the driver");
        let names = resources.iter().map(|r| r.id.text().replacen("package/", "", 1));
        names.filter(|name| name.starts_with("datacenter-gpu-manager-4")).collect()
    };
    let of = |cuda: &[u32]| -> Vec<String> {
        let part = |cuda: &u32| [format!("cuda{cuda}"), format!("proprietary-cuda{cuda}")];
        let parts =
            ["core".to_owned(), "proprietary".to_owned()].into_iter().chain(cuda.iter().flat_map(part));
        parts.map(|part| format!("datacenter-gpu-manager-4-{part}")).collect()
    };
    for system in SYSTEMS {
        let mut case = Case::h100(system);
        assert_eq!(dcgm(&case, "h-1"), of(&[13]), "{system}");
        case.text = case.text.replacen("driver: \"580.178.04\"", "driver: \"570.211.01\"", 1);
        assert_eq!(dcgm(&case, "h-1"), of(&[12]), "the CUDA that driver 570 runs");
    }
    // CUDA 13 has dropped it, the driver has not.
    let volta = Case::new("debian12").with("10de", "1db5", "030200", 2);
    assert_eq!(dcgm(&volta, "v-1"), of(&[13, 12]));
    for system in SYSTEMS {
        let resources = Case::trn2(system).role("t-1", "neuron");
        for library in ["aws-neuronx-runtime-lib", "aws-neuronx-collectives"] {
            assert_eq!(version(&resources, library), "2.34.*", "{system}");
        }
    }
    // Who has none in a mirror, or runs another DCGM, switches them off.
    let off = |case: &mut Case, key: &str| {
        case.text = case.text.replacen(key, &format!("diagnostics: false, {key}"), 1);
    };
    let (mut gpus, mut neuron) = (Case::h100("debian12"), Case::trn2("debian12"));
    off(&mut gpus, "driver: \"580.178.04\"");
    off(&mut neuron, "sdk:");
    let all = [ids(&gpus.role("h-1", "nvidia")), ids(&neuron.role("t-1", "neuron"))].concat();
    let tools = ["datacenter-gpu-manager", "dcgm", "runtime-lib", "collectives"];
    assert!(!all.iter().any(|id| tools.iter().any(|tool| id.contains(tool))), "{all:?}");
}

/// Amazon Linux calls its newer kernels kernel6.12 and kernel6.18.
#[test]
fn headers_are_asked_for_by_what_they_provide() {
    for (case, host, role) in [(Case::h100("rhel9"), "h-1", "nvidia"), (Case::trn2("rhel9"), "t-1", "neuron")]
    {
        let mut case = case;
        case.facts.kernel = "6.12.46-66.121.amzn2023.x86_64".to_owned();
        let resources = case.role(host, role);
        let (said, _) = sh(&[("dnf", "echo \"$@\"")], &command(&resources, "command/kernel-devel").apply);
        assert_eq!(said, "-y install kernel-devel-uname-r = 6.12.46-66.121.amzn2023.x86_64", "{role}");
        // Without any source of dkms the role ends before it changes the driver.
        let dkms = resources.iter().find(|r| r.id.text() == "command/dkms-available");
        assert!(dkms.is_none(), "Rocky has EPEL's package");
        case.facts.os.insert("ID".into(), "rhel".into());
        let resources = case.role(host, role);
        let (said, done) =
            sh(&[("rpm", "false"), ("dnf", "false")], &command(&resources, "command/dkms-available").apply);
        assert!(!done && said.starts_with("E-EPEL: "), "{said}");
        assert!(sh(&[("rpm", "true")], &command(&resources, "command/dkms-available").guard).1);
    }
}

/// What would bring another kernel is asked of dpkg: names of flavours have no end.
#[test]
fn whatever_brings_another_kernel_is_held() {
    let resources = Case::h100("ubuntu2404").role("h-1", "nvidia");
    let release = Case::h100("ubuntu2404").facts.kernel;
    let hold = command(&resources, "command/kernel-hold");
    let installed: String = [
        ("ii ", format!("linux-image-{release}"), "kmod, linux-base"),
        ("ii ", format!("linux-headers-{release}"), "linux-headers-6.8.0-60"),
        ("ii ", "linux-image-5.15.0-25-generic".to_owned(), "kmod"),
        (
            "ii ",
            "linux-generic-hwe-22.04".to_owned(),
            "linux-image-generic-hwe-22.04 (= 6.8.0.60.60), linux-headers-generic-hwe-22.04",
        ),
        ("ii ", "linux-image-generic-hwe-22.04".to_owned(), "linux-image-RELEASE, linux-firmware"),
        (
            "ii ",
            "linux-image-nvidia".to_owned(),
            "linux-image-6.8.0-1030-nvidia | linux-image-unsigned-6.8.0-1030-nvidia",
        ),
        ("ii ", "linux-firmware".to_owned(), ""),
        ("ii ", "linux-libc-dev".to_owned(), "linux-headers"),
        ("rc ", "linux-image-lowlatency".to_owned(), "linux-image-6.8.0-60-lowlatency"),
        ("ii ", "dkms".to_owned(), "linux-headers-generic | linux-headers"),
    ]
    .map(|(state, name, needs)| format!("{state}\\t{name}\\t{}, \\n", needs.replace("RELEASE", &release)))
    .concat();
    let query = format!("printf '{installed}'");
    let run = |held: &str, program: &str| {
        let mark = format!("[ \"$1\" != showhold ] || printf '%s\\n' {held}");
        sh(&[("dpkg-query", &query), ("apt-mark", &mark), ("xargs", "cat")], program)
    };
    let wanted = [
        "linux-generic-hwe-22.04".to_owned(),
        format!("linux-headers-{release}"),
        format!("linux-image-{release}"),
        "linux-image-generic-hwe-22.04".to_owned(),
        "linux-image-nvidia".to_owned(),
    ];
    let (said, _) = run("", &hold.apply);
    assert_eq!(said.lines().collect::<Vec<_>>(), wanted);
    assert!(run(&wanted.join(" "), &hold.guard).1);
    let (said, held) = run(&wanted[..4].join(" "), &hold.guard);
    assert!(!held && said == "linux-image-nvidia is not held", "{said}");
}

/// A list of packages that is somebody else's and cannot be fetched does not matter while the versions are there.
#[test]
fn a_foreign_list_that_fails_does_not_end_the_driver() {
    let resources = Case::h100("debian12").role("h-1", "nvidia");
    let apply = format!("set -e\n{}", command(&resources, "command/nvidia-versions").apply);
    let run = |version: &str| {
        let update = "echo 'E: The repository http://other.example ./ is not signed.'; exit 100";
        let cache = format!("echo \"$2 | {version}-1 | http://mirror Packages\"");
        sh(&[("apt-get", update), ("apt-cache", &cache)], &apply)
    };
    let (said, done) = run("580.178.04");
    assert!(done, "{said}");
    let (said, done) = run("580.65.06");
    assert!(!done && said.contains("E-NV-LOCKSTEP: "), "{said}");
}

/// An exclude in dnf's configuration hides versions that repositories have.
#[test]
fn an_excluded_driver_is_not_reported_as_missing() {
    let resources = Case::h100("rhel9").role("h-1", "nvidia");
    let apply = format!("set -e\n{}", command(&resources, "command/nvidia-versions").apply);
    let run = |when: &str| {
        let dnf = format!(
            "case \" $* \" in *'{when}'*) echo 'x.x86_64 3:580.178.04-1.el9 cuda';; *) exit 1;; esac"
        );
        sh(&[("dnf", &dnf)], &apply)
    };
    let (said, done) = run(" list ");
    assert!(done && said.is_empty(), "{said}");
    let (said, done) = run(" --disableexcludes=all ");
    assert!(!done && said.starts_with("E-DNF-EXCLUDED: "), "{said}");
    let (said, done) = run("another question");
    assert!(!done && said.starts_with("E-NV-LOCKSTEP: "), "{said}");
}

/// What RHEL and Amazon Linux keep out of the kernel's own package, by the name of that package.
#[test]
fn rdma_modules_come_from_the_package_of_the_running_kernel() {
    let mut case = Case::new("rhel9").with("10de", "2901", "030200", 2);
    case.facts.kernel = "6.12.46-66.121.amzn2023.x86_64".to_owned();
    let resources = case.role("b-1", "nvidia");
    let apply = &command(&resources, "command/kernel-modules-extra").apply;
    // What rpm says of a file that nothing owns is no package (future-architect/vuls, scanner/redhatbase.go).
    let nothing = "file /lib/modules/x/vmlinuz is not owned by any package";
    let owners =
        [("kernel6.12", "kernel6.12"), ("kernel-core", "kernel"), ("", "kernel"), (nothing, "kernel")];
    for (kernel, package) in owners {
        let rpm = format!("echo '{kernel}'");
        let (said, done) = sh(&[("rpm", &rpm), ("dnf", "echo \"$@\""), ("find", "echo there")], apply);
        assert_eq!(said, format!("-y install {package}-modules-extra-6.12.46-66.121.amzn2023.x86_64"));
        assert!(done);
    }
    assert!(!sh(&[("find", ":")], &command(&resources, "command/kernel-modules-extra").guard).1);
    let cuda = case.role("b-1", "nvidia");
    let repository =
        cuda.iter().find(|r| r.id.text() == "package-repository/nvidia-cuda").expect("a repository");
    let Spec::PackageRepository(repository) = &repository.spec else { panic!("a repository") };
    assert!(repository.definition.contains("module_hotfixes=1"), "{}", repository.definition);
}

/// The driver's own table of tested systems, by product.
#[test]
fn systems_that_aws_has_not_tested_are_named() {
    let warned = |case: &Case, host: &str| {
        let inventory = case.inventory();
        let found = check(&RoleInput {
            inventory: &inventory,
            catalog: &Catalog::builtin().expect("the catalog"),
            lock: &case.lock,
            host: &inventory.hosts[host],
            facts: &case.facts,
            secrets: &std::collections::BTreeMap::new(),
            joins: false,
        });
        found.into_iter().find(|f| f.code == "W-NEURON-SYSTEM").map(|f| f.message)
    };
    assert_eq!(warned(&Case::trn2("debian12"), "t-1"), None);
    let rocky = warned(&Case::trn2("rhel9"), "t-1").expect("Rocky 9 was tested with inf2 and trn1 only");
    assert!(rocky.contains("trainium2 on rhel9"), "{rocky}");
    assert_eq!(warned(&Case::h100("rhel9"), "h-1"), None);
}

#[test]
fn nvidia_by_product() {
    // Fourth generation of NVSwitch, and a branch whose packages have lost it from their names.
    let b200 = Case::new("ubuntu2404").with("10de", "2901", "030200", 2);
    golden("nvidia-b200", &b200.role("b-1", "nvidia"));
    // Volta: the closed flavour, and no NVSwitch on the bus.
    let v100 = Case::new("debian12").with("10de", "1db5", "030200", 2).role("v-1", "nvidia");
    assert!(ids(&v100).iter().any(|id| id == "package/cuda-drivers-580"), "{:?}", ids(&v100));
    // A board without switches wants no Fabric Manager: its unit would fail.
    let pair = Case::new("debian12").with("10de", "2330", "030200", 2).role("h-1", "nvidia");
    assert!(!ids(&pair).iter().any(|id| id.contains("fabric")), "{:?}", ids(&pair));
}

#[test]
fn k0s_by_role() {
    let case = Case::new("debian12");
    golden("k0s-first-controller", &case.role("cp-1", "k0s"));
    golden("k0s-second-controller", &case.role("cp-2", "k0s"));
    golden("k0s-controller-and-worker", &case.role("m-1", "k0s"));
    golden("k0s-worker", &case.role("w-1", "k0s"));
    golden("k0s-nvidia-worker", &Case::h100("debian12").role("h-1", "k0s"));
    let mut single = Case::h100("debian12");
    single.text = std::fs::read_to_string(data("single.yaml")).expect("an inventory");
    golden("k0s-single", &single.role("s-1", "k0s"));
}

/// What `k0s sysinfo -o json` prints and exits with (k0s cmd/sysinfo/sysinfo.go: indented, an error is an empty object), and what
/// becomes of it. Whatever fails and names nothing has accepted nothing.
#[test]
fn a_host_is_accepted_only_by_a_sysinfo_that_says_so() {
    let resources = Case::new("debian12").role("w-1", "base");
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path().display().to_string();
    let apply = command(&resources, "command/k0s-preflight").apply.clone();
    let apply = apply.replace("/usr/local/bin/k0s.next", "k0s.next").replace("/var/lib/provision", &folder);
    let probe = |name: &str, message: &str, category: &str, error: &str| {
        format!(
            "  {{\n    \"path\": [\n      \"os\"\n    ],\n    \"displayName\": \"{name}\",\n    \"prop\": \"v1\",\n    \
             \"message\": \"{message}\",\n    \"category\": \"{category}\",\n    \"error\": {error}\n  }}"
        )
    };
    let fine = probe("Linux kernel", "", "pass", "null");
    let warned = probe("AppArmor", "unavailable", "warning", "null");
    let v1 = probe("Linux kernel cgroup", "cgroup v1 is not supported", "rejected", "null");
    let broken = probe("Disk space", "", "error", "{}");
    let own = probe(
        "/etc/k0s/containerd.d/",
        "/etc/k0s/containerd.d/nvidia.toml: expected 3, got 2",
        "rejected",
        "null",
    );
    let theirs = probe(
        "/etc/k0s/containerd.d/",
        "/etc/k0s/containerd.d/theirs.toml: expected 3, got 2",
        "rejected",
        "null",
    );
    let rejects = "does not accept this host: ";
    for (probes, exit, said) in [
        (vec![&fine, &warned], 0, None),
        (
            vec![&fine, &v1, &broken],
            1,
            Some("Linux kernel cgroup: v1 cgroup v1 is not supported; Disk space: v1"),
        ),
        (vec![&own, &fine], 1, None),
        (
            vec![&own, &theirs],
            1,
            Some("/etc/k0s/containerd.d/: v1 /etc/k0s/containerd.d/theirs.toml: expected 3, got 2"),
        ),
        (vec![&fine], 124, Some("sysinfo failed (exit 124): ")),
        (vec![], 1, Some("sysinfo failed (exit 1): [")),
        (vec![], 139, Some("sysinfo failed (exit 139): [")),
    ] {
        let json: Vec<&str> = probes.iter().map(|probe| probe.as_str()).collect();
        let body = format!(
            "cat <<'END'\n[\n{}\n]\nEND\n[ {exit} = 0 ] || echo 'Error: sysinfo failed' >&2\nexit {exit}",
            json.join(",\n")
        );
        let (output, accepted) = sh(&[("k0s.next", &body)], &format!("set -e\n{apply}"));
        assert_eq!(accepted, said.is_none(), "{probes:?}, exit {exit}: {output}");
        let message = said.map_or(String::new(), |said| format!("{rejects}{said}"));
        assert!(output.contains(&message), "{message} in {output}");
        let accepts = std::path::Path::new(&folder).join("k0s.accepts");
        assert_eq!(std::fs::remove_file(accepts).is_ok(), accepted);
    }
}

#[test]
fn the_containerd_drop_in_follows_the_k0s_line() {
    let path = "/etc/k0s/containerd.d/nvidia.toml";
    for (version, form) in [("v1.34.10+k0s.0", 2), (K0S, 2), ("v1.36.3+k0s.2", 3)] {
        let mut case = Case::h100("debian12");
        case.text = case.text.replace(K0S, version);
        let resources = case.role("h-1", "k0s");
        // containerd 2.3 of k0s 1.36 refuses the other form, and k0s does not start.
        for path in [path, "/etc/k0s/containerd.d/registries.toml"] {
            let text = file(&resources, path);
            assert!(text.starts_with(&format!("version = {form}\n")), "{version}: {text}");
            assert_eq!(text.contains("io.containerd.grpc.v1.cri"), form == 2, "{version}: {text}");
        }
        assert!(file(&resources, path).contains("BinaryName = \"/usr/bin/nvidia-container-runtime\""));
    }
}

/// containerd appends `/v2` to a path that does not end in it, unless it is told not to.
#[test]
fn a_mirror_below_a_path_is_asked_below_it() {
    let plain = "  capabilities = [\"pull\", \"resolve\"]\n";
    let below = format!("{plain}  override_path = true\n");
    let cases = [
        ("https://hub.example.net", plain),
        ("https://hub.example.net:5000/", plain),
        ("https://hub.example.net/v2", plain),
        ("https://hub.example.net/v2/", plain),
        ("https://nexus.example.net/repository/docker-proxy", plain),
        ("https://nexus.example.net/repository/docker-proxy/v2", plain),
        ("https://harbor.example.com/v2/dockerhub-proxy", &below),
        ("https://harbor.example.com/v2/dockerhub-proxy/", &below),
        ("http://harbor.example.com:8080/registry/v2/a/b", &below),
        ("https://v2.example.com/dockerhub", plain),
    ];
    for (mirror, rest) in cases {
        let mut case = Case::new("debian12");
        let before = case.text.lines().find(|l| l.contains("mirror:")).expect("a mirror").to_owned();
        let old = before.split('"').nth(1).expect("its URL");
        case.text = case.text.replace(old, mirror);
        let text = file(&case.role("w-1", "k0s"), "/etc/k0s/certs.d/docker.io/hosts.toml");
        assert_eq!(text, format!("[host.\"{mirror}\"]\n{rest}"), "{mirror}");
    }
}

#[test]
fn the_drop_in_comes_before_the_unit_and_the_driver_before_k0s() {
    let resources = Case::h100("debian12").wanted("h-1").expect("wanted");
    let ids = ids(&resources);
    let at = |id: &str| ids.iter().position(|i| *i == id).unwrap_or_else(|| panic!("{id}"));
    let order = [
        "hostname/self",
        "package/linux-headers-6.1.0-28-amd64",
        "package/nvidia-open-580",
        "reboot/nvidia",
        "kernel-module/nvidia",
        "download//usr/local/bin/k0s",
        "file//etc/k0s/containerd.d/nvidia.toml",
        "command/k0s-token",
        "command/k0s-install",
        "command/k0s-started",
        "unit/k0sworker.service",
        "command/k0s-ready",
    ];
    let places: Vec<usize> = order.iter().map(|id| at(id)).collect();
    assert!(places.is_sorted(), "{places:?}");
    assert_eq!(resources[at("command/k0s-token")].inputs[0].text(), "token/worker");
}

/// Whether a controller joins is its own history; the first one that is new makes a cluster only if there is none.
#[test]
fn a_controller_joins_by_its_history_and_not_by_its_place_in_the_inventory() {
    let joins = |case: &Case, host: &str| {
        let role = case.role(host, "k0s");
        let token = role.iter().any(|r| r.id.text() == "command/k0s-token");
        let flag =
            role.iter().any(|r| matches!(&r.spec, Spec::Command(c) if c.apply.contains("--token-file=")));
        assert_eq!(token, flag, "{host}");
        token
    };
    let mut case = Case::new("debian12");
    assert_eq!([joins(&case, "cp-1"), joins(&case, "cp-2"), joins(&case, "w-1")], [false, true, true]);
    case.joins = true;
    assert!(joins(&case, "cp-1"), "it was reset, and the others have a cluster");
    case.joins = false;
    let mut own = |names: &[&str]| {
        let managed = |name: &&str| Managed {
            id: ResourceId::host(HostKind::Command, *name),
            hash: String::new(),
            undo: None,
            adopted: false,
            hazards: Vec::new(),
        };
        case.facts.managed = names.iter().map(managed).collect();
        [joins(&case, "cp-1"), joins(&case, "cp-2")]
    };
    assert_eq!(own(&["k0s-install"]), [false; 2], "it made the cluster, wherever the inventory lists it now");
    assert_eq!(own(&["k0s-token", "k0s-install"]), [true; 2], "it joined");
}

#[test]
fn only_what_k0s_runs_from_changes_what_it_was_started_with() {
    let started = |case: &Case| {
        let apply = case.role("cp-1", "k0s").into_iter().find_map(|r| match r.spec {
            Spec::Command(command) if command.name == "k0s-started" => Some(command.apply),
            _ => None,
        });
        apply.expect("the record")
    };
    let case = Case::new("debian12");
    let before = started(&case);
    assert_eq!(started(&case), before);
    let mut more = Case::new("debian12");
    more.text = more.text.replace("cp-[1-3]", "cp-[1-4]").replace("10.20.0.[11-13]", "10.20.1.[11-14]");
    more.text = more.text.replace("labels: {example.com/team: search}", "labels: {example.com/team: ads}");
    assert_ne!(started(&more), before, "its own address is another");
    let mut labels = Case::new("debian12");
    labels.text = labels.text.replace("example.com/team: search", "example.com/team: ads");
    labels.text = labels
        .text
        .replace("m-2: {address: 10.20.0.15}", "m-2: {address: 10.20.0.15}, m-3: {address: 10.20.0.16}");
    assert_eq!(
        started(&labels),
        before,
        "another controller, or a pool's label, restarts no other host's k0s"
    );
    let mut binary = Case::new("debian12");
    binary.lock.artifacts.get_mut("k0s-x86_64").expect("locked").sha256 = "1".repeat(64);
    assert_ne!(started(&binary), before);
}

#[test]
fn what_is_declared_must_be_on_the_bus() {
    let case = Case::new("debian12").with("10de", "2330", "030200", 1).with("10de", "3021", "030200", 1);
    assert_eq!(
        case.failure("h-1"),
        "[E-ACCEL-MISMATCH] 2 x h100-sxm5-80gb declared, 1 x h100-sxm5-80gb, 1 x 10de:3021 found on the PCI bus"
    );
    assert_eq!(
        Case::new("debian12").failure("t-1"),
        "[E-ACCEL-MISMATCH] 2 x trainium2 declared, none found on the PCI bus"
    );
}

#[test]
fn every_reason_against_a_host_is_given_at_once() {
    let mut case = Case::new("debian12");
    case.facts.arch = "riscv64".into();
    case.facts.os.insert("VERSION_ID".into(), "13".into());
    case.facts.secure_boot = Some(true);
    let failure = case.failure("h-1");
    for code in ["E-ARCH", "E-OS", "E-ACCEL-MISMATCH", "E-SECURE-BOOT"] {
        assert!(failure.contains(code), "{code}: {failure}");
    }
    assert!(
        failure
            .contains("debian12, ubuntu2204, ubuntu2404, ubuntu2604, rhel9, amzn2023, but this is debian13"),
        "{failure}"
    );
    let mut case = Case::new("debian12");
    case.facts.package_manager = None;
    assert!(case.failure("w-1").contains("[E-OS] neither apt nor dnf"), "{}", case.failure("w-1"));
    let mut case = Case::new("debian12");
    case.lock.artifacts.remove("k0s-x86_64");
    assert_eq!(case.failure("w-1"), "[E-LOCK] k0s-x86_64 is missing from provision.lock");
}

#[test]
fn a_k0s_that_skips_a_minor_or_goes_back_one_is_refused_on_hosts_that_are_nodes() {
    let at = |version: &str, joined: bool| {
        let mut case = Case::new("debian12");
        case.facts.k0s_version = Some(version.into());
        let id = if joined { "command/k0s-ready" } else { "command/other" };
        let managed = format!(r#"{{"kind": "command", "id": "{id}", "hash": ""}}"#);
        case.facts.managed.push(serde_json::from_str(&managed).expect("a record"));
        case.facts.k0s_was_up = joined;
        case
    };
    let failure = at("v1.33.4+k0s.0", true).failure("w-1");
    assert_eq!(
        failure,
        format!(
            "[E-K0S-SKEW] k0s v1.33.4+k0s.0 -> {K0S} skips a minor version; upgrade Kubernetes one minor version at a time"
        )
    );
    assert!(at("v1.36.3+k0s.2", true).failure("w-1").contains("goes back a minor"));
    for version in ["v1.34.10+k0s.0", K0S, "v1.35.9+k0s.0", "not a version"] {
        assert!(at(version, true).wanted("w-1").is_ok(), "{version}");
    }
    // What a host that is no node yet has lying about is replaced.
    assert!(at("v1.30.0+k0s.0", false).wanted("w-1").is_ok());
    let case = at("v1.35.9+k0s.0", true);
    let inventory = case.inventory();
    let found = check(&RoleInput {
        inventory: &inventory,
        catalog: &case.catalog,
        lock: &case.lock,
        host: &inventory.hosts["w-1"],
        facts: &case.facts,
        secrets: &case.secrets,
        joins: false,
    });
    let codes: Vec<&str> = found.iter().map(|f| f.code).collect();
    assert!(codes.contains(&"W-K0S-DOWNGRADE"), "{codes:?}");
}

#[test]
fn a_role_next_to_the_inventory_overrides_a_built_in_one() {
    let case = Case::new("debian12");
    let text = "# of our own\n- file: {path: /etc/motd, template: motd.j2}\n- file: {path: \"/etc/{{ item }}\", content: \"{{ item }}\"}\n  each: \"['a', 'b']\"\n  when: item == 'b'\n";
    case.role_file("base/role.yaml", text);
    case.role_file("base/templates/motd.j2", "{{ host.name }} of {{ inventory.name }}, {{ pool.name }}\n");
    let resources = case.role("w-1", "base");
    assert_eq!(ids(&resources), ["file//etc/motd", "file//etc/b"]);
    assert_eq!(file(&resources, "/etc/motd"), "w-1 of roles, general\n");
    assert!(!case.role("w-1", "k0s").is_empty(), "the others are as built in");
    // One template alone can be replaced too.
    let case = Case::new("debian12");
    case.role_file("base/templates/limits.conf.j2", "# none\n");
    let resources = case.role("w-1", "base");
    assert_eq!(file(&resources, "/etc/security/limits.d/90-provision.conf"), "# none\n");
}

#[test]
fn a_reboot_is_a_hazard_whatever_its_role_says() {
    let case = Case::new("debian12");
    case.role_file("base/role.yaml", "- reboot: {name: kernel, guard: 'true'}\n");
    let wanted = case.role("w-1", "base");
    assert_eq!(wanted[0].hazards, [Hazard::Reboot], "it ends a batch, and a plan shows it");
}

#[test]
fn a_role_that_no_host_would_get_is_refused() {
    let case = Case::new("debian12");
    case.role_file("monitoring/role.yaml", "[]\n");
    let failure = case.failure("w-1");
    assert!(
        failure.starts_with("[E-ROLE] ") && failure.contains("roles/monitoring: custom roles"),
        "{failure}"
    );
    assert!(failure.ends_with("one of base, health, k0s, neuron, nvidia, rdma"), "{failure}");
}

#[test]
fn mistakes_in_a_role_are_shown_with_file_and_line() {
    let mistakes = [
        ("- swap: {}\n- file: {path: /a, content: \"{{ host.nope }}\"}\n", ":2: undefined value"),
        ("- swap: {}\n  when: host.nope\n", ":1: undefined value: `host.nope` is undefined"),
        ("- swap: {}\n\n- pakage: {name: x}\n", ":3: unknown key `pakage`, expected one of package,"),
        ("- package: {name: x, verion: \"1\"}\n", ":1: package: unknown field `verion`"),
        ("- package: {version: \"1\"}\n", ":1: package: missing field `name`"),
        ("- package: {name: x}\n  unit: {name: y}\n", ":1: an entry is both package and unit"),
        ("- why: because\n", ":1: an entry without a kind"),
        ("- file: {path: /a}\n", ":1: file /a needs either content or template"),
        ("- file: {path: /a, template: nope.j2}\n", ":1: roles/base/templates/nope.j2 does not exist"),
        ("- package: {name: x}\n- package: {name: x}\n", ":2: package/x is already defined in"),
        ("- package: {name: x}\n  each: host.name\n", ":1: `each` does not evaluate to a list"),
        ("- package: {name: x}\n- package: {name: x, name: y}\n", ":2: "),
        ("- node: {name: x}\n", ":1: unknown key `node`"),
    ];
    for (text, expected) in mistakes {
        let case = Case::new("debian12");
        case.role_file("base/role.yaml", text);
        let failure = case.failure("w-1");
        assert!(failure.contains(&format!("roles/base/role.yaml{expected}")), "{text}: {failure}");
    }
    let case = Case::new("debian12");
    case.role_file("base/templates/limits.conf.j2", "# one\n{{ nope }}\n");
    let failure = case.failure("w-1");
    assert!(failure.contains("roles/base/templates/limits.conf.j2:2: undefined value"), "{failure}");
}

/// Sites without a way out have packages from mirrors; who signed them is the same.
#[test]
fn repositories_have_mirrors() {
    for (system, line) in [("debian12", "URIs: "), ("rhel9", "baseurl=")] {
        let mut case = Case::h100(system);
        let urls = |case: &Case| provision::role::repositories(&case.role("h-1", "nvidia"));
        let (before, keys) = (urls(&case), case.role("h-1", "nvidia"));
        assert!(
            before[0].starts_with("https://developer.download.nvidia.com/compute/cuda/repos/"),
            "{before:?}"
        );
        case.text += "repositories:\n  developer.download.nvidia.com: {mirror: \"http://packages.example.net/nvidia/\"}\n";
        let after = urls(&case);
        assert_eq!(
            after[0],
            before[0]
                .replace("https://developer.download.nvidia.com/", "http://packages.example.net/nvidia/")
        );
        assert_eq!(after[1..], before[1..], "others are had from where they were");
        let text = |all: &[Resource]| {
            let of = |r: &Resource| match &r.spec {
                Spec::PackageRepository(r) => Some(r.definition.clone()),
                _ => None,
            };
            all.iter().filter_map(of).collect::<String>()
        };
        let but = |text: String| text.lines().filter(|l| !l.starts_with(line)).collect::<Vec<_>>().join("\n");
        assert_eq!(but(text(&case.role("h-1", "nvidia"))), but(text(&keys)), "nothing else changes");
    }
    // The repository at the top of its host.
    let mut case = Case::trn2("debian12");
    case.text += "repositories: {apt.repos.neuron.amazonaws.com: {mirror: \"http://10.0.0.9/neuron\"}}\n";
    assert_eq!(provision::role::repositories(&case.role("t-1", "neuron")), ["http://10.0.0.9/neuron/"]);
}

/// The lines and messages of what is found without any host.
fn mistakes(case: &Case) -> Vec<String> {
    let found = provision::role::mistakes(&case.inventory());
    let line = |d: &provision::inventory::Diagnostic| {
        let span = d.span.as_ref().expect("a place");
        let name = span.source.name.rsplit_once("/roles/").expect("a role's file").1;
        format!("{name}:{}: {}", span.line, d.message)
    };
    found.iter().map(line).collect()
}

#[test]
fn mistakes_in_a_role_are_found_once_and_without_a_host() {
    let base = |line: usize, message: &str| format!("base/role.yaml:{line}: {message}");
    for (text, line, message) in [
        (
            "- swap: {}\n- file: {path: /a, content: \"{{ host.nope }}\"}\n",
            2,
            "undefined value: `host.nope` is",
        ),
        ("- file: {path: /a, content: \"{{ item }}\"}\n", 1, "undefined value: `item` is undefined"),
        ("- swap: {}\n  when: hots.name == 'a'\n", 1, "undefined value: `hots.name` is undefined"),
        ("- swap: {}\n  when: host.name ==\n", 1, "syntax error"),
        ("- swap: {}\n  when: 7\n", 1, "`when` must be an expression"),
        ("- package: {name: x}\n  each: [a]\n", 1, "`each` must be an expression"),
        ("- swap: {}\n\n- pakage: {name: x}\n", 3, "unknown key `pakage`, expected one of package,"),
        ("- package: {name: x, verion: \"1\"}\n", 1, "package: unknown field `verion`"),
        ("- package: {name: \"{{ host.name }}\", verion: \"1\"}\n", 1, "package: unknown field `verion`"),
        ("- file: {path: \"/{{ host.name }}\", contents: x}\n", 1, "file: unknown field `contents`"),
        ("- package: {version: \"1\"}\n", 1, "package: missing field `name`"),
        ("- package: {name: x, version: 1.10}\n", 1, "package: invalid type: floating point"),
        ("- package: {name: x}\n  unit: {name: y}\n", 1, "an entry is both package and unit"),
        ("- package: {name: x}\n  hazards: [rebot]\n", 1, "unknown variant `rebot`"),
        ("- why: because\n", 1, "an entry without a kind"),
        ("- file: {path: /a}\n", 1, "file /a needs either content or template"),
        ("- file: {path: /a, template: nope.j2}\n", 1, "roles/base/templates/nope.j2 does not exist"),
        ("- package: {name: x}\n- package: {name: x, name: y}\n", 2, ""),
        ("- package: {name: x}\n- package: {name: x}\n", 2, "package x is already defined in line 1"),
        ("- swap: {}\n- swap: {}\n", 2, "swap is already defined in line 1"),
        ("- file: {path: etc/a, content: x}\n", 1, "file: path `etc/a` must be absolute"),
        ("- file: {path: /a//b, content: x}\n", 1, "file: path `/a//b` must not contain"),
        ("- symlink: {path: /a/../b, target: c}\n", 1, "symlink: path `/a/../b` must not contain"),
        ("- directory: {path: /, mode: 0o755, owner: root}\n", 1, "directory: path `/` must not contain"),
        (
            "- file: {path: /a, content: x}\n- symlink: {path: /a, target: b}\n",
            2,
            "path /a is already defined",
        ),
        (
            "- file: {path: /a, content: x, owner: \"--reference=/b\"}\n",
            1,
            "file: invalid owner `--reference=/b`",
        ),
        ("- package: {name: \"-oAPT::x=y\"}\n", 1, "invalid package name `-oAPT::x=y`"),
        ("- unit: {name: a b.service}\n", 1, "invalid unit name `a b.service`"),
        ("- sysctl: {key: ../../x, value: \"1\"}\n", 1, "invalid sysctl name `../../x`"),
        ("- swap: {}\n  deadline_s: 0\n", 1, "deadline_s must be at least 1"),
        (
            "- directory: {path: \"a/{{ host.name }}\", mode: 0o755, owner: \"root:root\"}\n",
            1,
            "directory: path `a/",
        ),
        ("- file: {path: /a, content: x, mode: 644}\n", 1, "file: mode 644 is decimal (0o1204); write 0o644"),
        ("- file: {path: /a, content: \"{{ host.name }}\", mode: 99999}\n", 1, "file: invalid mode 99999"),
        ("- file: {path: /a, content: \"{{ host.name | uper }}\"}\n", 1, "unknown filter: filter uper"),
        ("- swap: {}\n  when: host.name is numbr\n", 1, "unknown test: test numbr"),
        ("- node: {name: x}\n", 1, "unknown key `node`"),
        ("package: {name: x}\n", 1, ""),
    ] {
        let case = Case::new("debian12");
        case.role_file("base/role.yaml", text);
        let found = mistakes(&case);
        assert!(found.iter().any(|f| f.starts_with(&base(line, message))), "{text}: {found:?}");
        assert!(found.iter().all(|f| f.starts_with(&base(line, ""))), "{text}: {found:?}");
    }
    for file in ["base/role.yml", "base/roles.yaml", "stray.yaml"] {
        let case = Case::new("debian12");
        case.role_file(file, "- swap: {}\n");
        let found = mistakes(&case);
        assert!(found.len() == 1 && found[0].contains("this file is ignored"), "{file}: {found:?}");
    }
    // Alike, but not on one host.
    for text in [
        "- package: {name: x}\n  when: apt\n- package: {name: x}\n  when: not apt\n",
        "- line-in-file: {path: /a, name: x, line: y}\n- line-in-file: {path: /a, name: z, line: y}\n",
        "- file: {path: \"{{ '/a' }}\", content: x, mode: 420}\n- directory: {path: /a, mode: 0o2755, owner: \"a:b\"}\n",
    ] {
        let case = Case::new("debian12");
        case.role_file("base/role.yaml", text);
        assert_eq!(mistakes(&case), Vec::<String>::new(), "{text}");
    }
    // All at once, in templates too, and none that only a host's facts can show.
    let case = Case::new("debian12");
    let text = "- swap: {}\n  when: facts.nothing.known[3]\n- pakage: {}\n- unit: {name: a, enabeld: true}\n";
    case.role_file("base/role.yaml", text);
    case.role_file(
        "base/templates/limits.conf.j2",
        "# one\n{% for x in names %}{{ x }}{{ loop.index }}{% endfor %}\n{{ nope }}\n",
    );
    case.role_file("k0s/templates/more.j2", "{{ item }}\n{% if apt %}\n");
    let found = mistakes(&case);
    let starts = [
        "base/role.yaml:3: unknown key `pakage`",
        "base/role.yaml:4: unit: unknown field `enabeld`",
        "base/templates/limits.conf.j2:3: undefined value: `nope`",
        "k0s/templates/more.j2:",
    ];
    assert_eq!(found.len(), starts.len(), "{found:?}");
    assert!(found.iter().zip(starts).all(|(f, start)| f.starts_with(start)), "{found:?}");
}

/// The page for authors of roles has every kind and every field, and its example is one.
#[test]
fn the_page_about_roles_is_the_code() {
    let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reference/roles.md");
    let page = std::fs::read_to_string(page).expect("the page");
    for kind in provision::state::HostKind::ALL.into_iter().map(|kind| kind.as_str()) {
        let row = page
            .lines()
            .find(|l| l.starts_with(&format!("| `{kind}` |")))
            .unwrap_or_else(|| panic!("{kind}"));
        for field in provision::role::fields_of(kind) {
            assert!(row.contains(&format!("`{field}")), "{kind}: {field}");
        }
    }
    let example = page.split("```yaml\n").nth(1).and_then(|t| t.split("```").next()).expect("an example");
    let case = Case::new("debian12");
    case.role_file("base/role.yaml", example);
    assert_eq!(mistakes(&case), Vec::<String>::new());
    assert!(case.role("w-1", "base").len() > 2);
}

#[test]
fn the_built_in_roles_have_no_mistakes() {
    fn copy(from: &Path, to: &Path) {
        std::fs::create_dir_all(to).expect("made");
        for entry in std::fs::read_dir(from).expect("read").flatten() {
            match entry.path().is_dir() {
                true => copy(&entry.path(), &to.join(entry.file_name())),
                false => drop(std::fs::copy(entry.path(), to.join(entry.file_name())).expect("copied")),
            }
        }
    }
    let case = Case::new("debian12");
    copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("roles"), &case.dir.path().join("roles"));
    assert_eq!(mistakes(&case), Vec::<String>::new());
}

/// Whatever loads an inventory refuses it: no host is asked, and no mistake is told once for each of them.
#[test]
fn a_role_with_mistakes_is_refused_like_an_inventory_with_mistakes() {
    let case = Case::new("debian12");
    case.role_file("base/role.yaml", "- swap: {}\n- pakage: {name: x}\n");
    case.role_file("monitoring/role.yaml", "[]\n");
    case.inventory();
    let path = case.dir.path().join("site.yaml");
    let command = std::process::Command::new(env!("CARGO_BIN_EXE_provision"))
        .args(["validate", "-i"])
        .arg(&path)
        .env("XDG_STATE_HOME", case.dir.path())
        .output()
        .expect("runs");
    assert_eq!(command.status.code(), Some(1));
    let said =
        String::from_utf8_lossy(&command.stderr).replace(&case.dir.path().display().to_string(), "DIR");
    insta::assert_snapshot!(said);
}
