//! What tools print that programs of roles read.

use super::{Output, Row, said};
use crate::role::{Case as Site, command, sh};
use provision::k0s;

pub(super) const PARSERS: &[Row] = &[
    ("nvidia-smi-list", "`nvidia-smi -L`", "src/role/mig.rs", nvidia_list),
    ("dkms-status", "`dkms status`", "roles/nvidia/role.yaml", dkms_status),
    ("dnf-list", "`dnf list --showduplicates`", "roles/nvidia/role.yaml", dnf_list),
    ("grubby", "`grubby --default-kernel`", "roles/nvidia/role.yaml, roles/neuron/role.yaml", grubby),
    ("efa-packages", "`/opt/amazon/efa_installed_packages`", "roles/rdma/role.yaml", efa_packages),
    ("k0s-sysinfo", "`k0s sysinfo`", "src/k0s/sysinfo.rs, roles/base/role.yaml", sysinfo),
];

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
