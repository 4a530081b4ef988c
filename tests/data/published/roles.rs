//! What tools print that programs of roles read.

use super::{Output, Row, said};
use crate::role::{Case as Site, command, sh};
use provision::k0s;
use provision::state::{Resource, Spec};

pub(super) const PARSERS: &[Row] = &[
    ("nvidia-smi-list", "`nvidia-smi -L`", "src/role/mig.rs", nvidia_list),
    ("mig-mode", "`nvidia-smi --query-gpu=mig.mode.current,mig.mode.pending`", "src/role/mig.rs", mig_mode),
    ("kernel-packages", "`Depends` of kernels' packages", "src/role/os_kernel.rs", kernel_packages),
    ("rpm-owner", "`rpm -qf`", "src/role/os_kernel.rs", rpm_owner),
    ("apt-madison", "`apt-cache madison`", "roles/nvidia/role.yaml", apt_madison),
    ("dkms-status", "`dkms status`", "roles/nvidia/role.yaml", dkms_status),
    ("dnf-list", "`dnf list --showduplicates`", "roles/nvidia/role.yaml", dnf_list),
    ("grubby", "`grubby --default-kernel`", "roles/nvidia/role.yaml, roles/neuron/role.yaml", grubby),
    ("efa-packages", "`/opt/amazon/efa_installed_packages`", "roles/rdma/role.yaml", efa_packages),
    ("k0s-sysinfo", "`k0s sysinfo`", "src/k0s/sysinfo.rs, roles/base/role.yaml", sysinfo),
];

/// The nvidia role of a host with MIG.
fn with_mig() -> Vec<Resource> {
    let mut site = Site::h100("debian12");
    site.text =
        site.text.replacen("driver: \"580.178.04\"}", "driver: \"580.178.04\", mig: {7g.80gb: 1}}", 1);
    site.role("h-1", "nvidia")
}

/// Which MIG mode is pending.
fn mig_mode(output: &Output) -> String {
    let resources = with_mig();
    let reboot = resources.iter().find(|r| r.id.text() == "reboot/nvidia").expect("a reboot");
    let Spec::Reboot(reboot) = &reboot.spec else { panic!("a reboot") };
    let from = reboot.guard.find("p=$(timeout").expect("the question");
    let to = reboot.guard[from..].find("exit 1; }").expect("its end") + from + "exit 1; }".len();
    match sh(&[("nvidia-smi", &said(output))], &reboot.guard[from..to]) {
        (found, true) if found.is_empty() => "no mode is pending".to_owned(),
        (found, _) => found,
    }
}

/// Which packages are held, if those in the text are installed. The text has their dependencies as apt prints them.
fn kernel_packages(output: &Output) -> String {
    let mut packages: Vec<(&str, String)> = Vec::new();
    for (name, needs) in output.text.lines().filter_map(|line| line.split_once("Depends: ")) {
        let needs = needs.split(" but ").next().expect("the first part");
        match name.trim_end_matches([' ', ':']) {
            "" => packages.last_mut().expect("a package").1 += &format!(", {needs}"),
            name => packages.push((name, needs.to_owned())),
        }
    }
    let text = packages.iter().map(|(name, needs)| format!("ii \t{name}\t{needs}, \n")).collect();
    let resources = Site::h100("ubuntu2404").role("h-1", "nvidia");
    let hold = &command(&resources, "command/kernel-hold").apply;
    let query = said(&Output { text, ..output.clone() });
    match sh(&[("dpkg-query", &query), ("xargs", "cat")], hold).0 {
        held if held.is_empty() => "nothing".to_owned(),
        held => held,
    }
}

/// The package that is installed if rpm prints this about the kernel's file.
fn rpm_owner(output: &Output) -> String {
    let site = Site::new("rhel9").with("10de", "2901", "030200", 2);
    let resources = site.role("b-1", "nvidia");
    let apply = &command(&resources, "command/kernel-modules-extra").apply;
    let (asked, _) = sh(&[("rpm", &said(output)), ("dnf", "echo \"$@\""), ("find", "echo there")], apply);
    asked.replace(&site.facts.kernel, "RELEASE").trim_start_matches("-y install ").to_owned()
}

/// Whether the version in the first line of the text is found.
fn apt_madison(output: &Output) -> String {
    let (wanted, text) = output.text.split_once('\n').expect("a version");
    let wanted = wanted.trim_start_matches("# wanted ").replace('.', "[.]");
    let resources = Site::h100("debian12").role("h-1", "nvidia");
    let apply = &command(&resources, "command/nvidia-versions").apply;
    assert!(apply.contains("580[.]178[.]04"), "{apply}");
    let list = said(&Output { text: text.to_owned(), ..output.clone() });
    let tools = [("apt-get", ""), ("apt-cache", list.as_str())];
    let found = sh(&tools, &apply.replace("580[.]178[.]04", &wanted));
    if found.1 { "has it".to_owned() } else { found.0.split(" of").next().unwrap_or_default().to_owned() }
}

fn nvidia_list(output: &Output) -> String {
    let resources = with_mig();
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

/// Whether a repository is said to have the driver. `VERSION` in the text is the wanted one.
fn dnf_list(output: &Output) -> String {
    let resources = Site::h100("rhel9").role("h-1", "nvidia");
    let apply = &command(&resources, "command/nvidia-versions").apply;
    let text = output.text.replace("VERSION", "580.178.04");
    let found = sh(&[("dnf", &said(&Output { text, ..output.clone() }))], apply);
    if found.1 { "has it".to_owned() } else { found.0.split(" of").next().unwrap_or_default().to_owned() }
}

/// What would boot, where the release in the first line of the text is wanted.
fn grubby(output: &Output) -> String {
    let (release, text) = output.text.split_once('\n').expect("a release");
    let mut site = Site::h100("rhel9");
    let pool = "  h100:\n    role: worker\n";
    let kernel = release.trim_start_matches("# wanted ");
    site.text = site.text.replacen(pool, &format!("{pool}    kernel: \"{kernel}\"\n"), 1);
    let resources = site.role("h-1", "nvidia");
    let guard = &command(&resources, "command/kernel-default").guard;
    let (found, wanted) =
        sh(&[("grubby", &said(&Output { text: text.to_owned(), ..output.clone() }))], guard);
    if wanted { "the wanted one boots".to_owned() } else { found }
}

/// The version of EFA's installer that its list names, where another is wanted.
fn efa_packages(output: &Output) -> String {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("list");
    std::fs::write(&file, &output.text).expect("written");
    let mut site = Site::h100("ubuntu2404").with("1d0f", "efa2", "020000", 2);
    let pool = "  h100:\n    role: worker\n";
    site.text = site.text.replacen(pool, &format!("{pool}    efa: {{count: 2}}\n"), 1);
    let resources = site.role("h-1", "rdma");
    let guard = command(&resources, "command/efa-installer").guard.clone();
    sh(&[], &guard.replace("/opt/amazon/efa_installed_packages", &file.display().to_string())).0
}
