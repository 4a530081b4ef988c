//! What tools of accelerators and their networks print.

use super::{Output, Row, lines, said};
use crate::role::sh;
use provision::catalog::Catalog;
use provision::role::health::{
    Level, Links, Purpose, QuickInput, judge, judging, links_gate, program, quick, restart_app,
};

pub(super) const PARSERS: &[Row] = &[
    ("link-widths", "link widths below `/sys/bus/pci/devices`", "src/role/health/quick.rs", link_widths),
    ("nvidia-smi-gpus", "`nvidia-smi --query-gpu`", "src/role/health/quick.rs", nvidia_smi),
    (
        "nvidia-smi-processes",
        "`nvidia-smi --query-compute-apps`",
        "src/role/health/levels.rs",
        nvidia_processes,
    ),
    ("kernel-log-nvidia", "`dmesg`: Xids, SXids", "src/role/health/xid.rs", xids),
    ("process-stat", "`/proc/PID/stat`", "src/role/health/xid.rs", process_stat),
    ("kernel-log-neuron", "`dmesg`: Neuron", "src/role/health/quick.rs", neuron_errors),
    (
        "neuron-counters",
        "Neuron counters below `/sys/devices/virtual/neuron_device`",
        "src/role/health/quick.rs",
        neuron_counters,
    ),
    ("dcgmi", "`dcgmi diag -j`", "src/role/health/standard.rs", dcgmi),
    ("all-reduce", "`all_reduce_perf`", "src/role/health/standard.rs", all_reduce),
    ("nvbandwidth", "`nvbandwidth`", "src/role/health/judge.rs", nvbandwidth),
    ("neuron-ls", "`neuron-ls -j`", "src/role/health/levels.rs", neuron_processes),
    ("nccom-test", "`nccom-test`", "src/role/health/standard.rs", nccom_test),
    ("fio", "`fio --output-format=json`", "src/role/health/judge.rs", fio),
    ("infiniband-ports", "`/sys/class/infiniband/*/ports/*/state`", "src/role/health/links.rs", ports),
];

/// Runs something with two of a product, and the driver that the outputs are of.
fn with<T>(slug: &str, then: impl FnOnce(QuickInput<'_>) -> T) -> T {
    let catalog = Catalog::builtin().expect("the catalog");
    let product = catalog.product(slug).expect("known");
    let (driver, units): (_, &[&str]) = ("580.178.04", &[]);
    let (count, wait, mig, links) = (2, false, false, Links::default());
    then(QuickInput { catalog: &catalog, product: &product, count, driver, units, wait, mig, links })
}

/// Devices, read as GPUs. Each line has an address, the current and the maximum link width.
fn link_widths(output: &Output) -> String {
    let dir = tempfile::tempdir().expect("a folder");
    for line in output.text.lines() {
        let mut words = line.split(' ');
        let device = dir.path().join(words.next().expect("an address"));
        std::fs::create_dir(&device).expect("made");
        let widths = ["current_link_width", "max_link_width"].into_iter().zip(words);
        for (file, text) in [("vendor", "0x10de"), ("class", "0x030200")].into_iter().chain(widths) {
            std::fs::write(device.join(file), format!("{text}\n")).expect("written");
        }
    }
    let shell = with("h100-sxm5-80gb", quick);
    let shell = shell.replace("/sys/bus/pci/devices", &dir.path().display().to_string());
    let (found, _) = sh(&[("nvidia-smi", "exit 9"), ("dmesg", "")], &shell);
    lines(&found, |line| line.contains("PCI bus") || line.contains("E-NV-PCIE"))
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

/// Devices of the driver. Each line has a counter's path below its device's folder, and its count.
fn neuron_counters(output: &Output) -> String {
    let dir = tempfile::tempdir().expect("a folder");
    for line in output.text.lines() {
        let (path, count) = line.split_once(": ").expect("a counter");
        let file = dir.path().join(path);
        std::fs::create_dir_all(file.parent().expect("a folder")).expect("made");
        std::fs::write(&file, format!("{count}\n")).expect("written");
    }
    let shell = with("trainium2", quick);
    let shell = shell.replace("/sys/devices/virtual/neuron_device", &dir.path().display().to_string());
    let (found, _) = sh(&[("dmesg", "")], &shell);
    let about = ["E-NEURON-ECC", "E-NEURON-REPAIR", "E-NEURON-UNHEALTHY", "the driver has"];
    lines(&found, |line| about.iter().any(|about| line.contains(about)))
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

/// The process that the text is of started before an Xid named it: whether it is found among those that run.
fn process_stat(output: &Output) -> String {
    let (number, rest) = output.text.split_once(" (").expect("a number");
    let (name, _) = rest.rsplit_once(") ").expect("a name");
    let dir = tempfile::tempdir().expect("a folder");
    let process = dir.path().join(number);
    std::fs::create_dir(&process).expect("made");
    std::fs::write(process.join("stat"), &output.text).expect("written");
    std::fs::write(process.join("comm"), format!("{name}\n")).expect("written");
    let log = format!("[900000.0] NVRM: Xid (PCI:0000:01:00): 13, pid={number}, name={name}, Graphics");
    let (guard, _) = restart_app(&Catalog::builtin().expect("the catalog"));
    let guard = guard.replace("/proc/$p", &format!("{}/$p", dir.path().display()));
    sh(&[("dmesg", &format!("cat <<'END'\n{log}\nEND"))], &guard).0
}
