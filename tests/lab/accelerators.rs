//! Accelerator hosts on the lab: hardware that is broken stops its own host with a code of its own, a driver changes in
//! order, and health is told at every level.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// An inventory with a twin of its own, which ends with it.
pub struct Twin {
    dir: tempfile::TempDir,
    inventory: PathBuf,
}

impl Twin {
    pub fn new(text: &str) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let inventory = dir.path().join("site");
        std::fs::create_dir(&inventory).expect("made");
        std::fs::write(inventory.join("inventory.yaml"), text).expect("written");
        Self { dir, inventory }
    }

    /// Brings the twin up with faults.
    pub fn up(&self, faults: &[&str]) {
        let mut words = vec!["lab".to_owned(), "up".to_owned(), self.at()];
        words.extend(faults.iter().flat_map(|f| ["--fault".to_owned(), (*f).to_owned()]));
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let (code, text) = self.run(&words);
        assert_eq!(code, 0, "{text}");
    }

    pub fn at(&self) -> String {
        self.inventory.display().to_string()
    }

    pub fn run(&self, words: &[&str]) -> (i32, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_provision"));
        command.args(words).env("XDG_STATE_HOME", self.dir.path().join("state")).env("HOME", self.dir.path());
        let output: Output = command.stdin(std::process::Stdio::null()).output().expect("the binary runs");
        let text =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output.status.code().unwrap_or(-1), text)
    }

    pub fn on(&self, words: &[&str], more: &[&str]) -> (i32, String) {
        let at = self.at();
        self.run(&[words, &["-i", &at, "--lab"], more].concat())
    }

    fn write(&self, text: &str) {
        std::fs::write(self.inventory.join("inventory.yaml"), text).expect("written");
    }
}

impl Drop for Twin {
    fn drop(&mut self) {
        let _ = self.run(&["lab", "down", &self.at()]);
    }
}

pub fn site(hosts: &str) -> String {
    format!(
        r#"apiVersion: provision/v1
kind: Inventory
metadata: {{name: accelerated}}
ssh: {{user: ubuntu}}
cluster: {{k0s: {{version: v1.35.7+k0s.0}}, network: {{podCIDR: 10.240.0.0/16, serviceCIDR: 10.96.0.0/16}}}}
pools:
  control: {{role: controller, hosts: {{cp-1: {{address: 10.1.0.1}}}}}}
{hosts}"#
    )
}

pub const H100: &str = r#"  h100:
    role: worker
    accelerator: {nvidia: {product: h100-sxm5-80gb, count: 8, driver: "580.178.04"}}
    disruption: {maxFailed: 20, maxUnavailable: 20}
"#;

/// What is wrong before anything is done: each host says its own reason, and the others are planned for.
#[test]
fn a_broken_host_is_stopped_before_anything_is_done_to_it() {
    let twin =
        Twin::new(&site(&format!("{H100}    hosts: {{\"h-[1-5]\": {{address: \"10.1.1.[1-5]\"}}}}\n")));
    twin.up(&["h-2=headers-gone", "h-3=device-missing", "h-4=secure-boot", "h-5=disk-full"]);
    let (code, text) = twin.on(&["plan"], &["--limit", "h100"]);
    assert_eq!(code, 1, "{text}");
    for expected in [
        "h-2 failed preflight [E-HEADERS]: no repository of the host has headers for its running kernel",
        "h-3 failed preflight [E-ACCEL-COUNT]: 8 x h100-sxm5-80gb declared, 7 found on the PCI bus",
        "h-4 failed preflight [E-SECURE-BOOT]",
        "h-5 failed preflight [E-NO-SPACE]",
        "+ package nvidia-open-580",
    ] {
        assert!(text.contains(expected), "{expected}\n{text}");
    }
    assert!(!text.contains("h-1 could not"), "{text}");
}

/// What only shows once the driver is there: the gate stops that host before it joins, and only that one.
#[test]
fn hardware_that_is_not_well_does_not_join() {
    let trn2 = r#"  trn2:
    role: worker
    accelerator: {neuron: {product: trainium2, count: 16, sdk: "2.32.0"}}
    disruption: {maxFailed: 20, maxUnavailable: 20}
    hosts: {"t-[1-3]": {address: "10.1.2.[1-3]"}}
"#;
    let twin = Twin::new(&site(&format!(
        "{H100}    hosts: {{\"h-[1-10]\": {{address: \"10.1.1.[1-10]\"}}}}\n{trn2}"
    )));
    twin.up(&[
        "h-2=fabric-stuck",
        "h-3=xid:79",
        "h-4=ecc",
        "h-5=nouveau",
        "h-6=driver-mismatch",
        "h-7=no-version:nvidia-fabricmanager",
        "h-8=dkms-skipped",
        "h-9=remap-pending",
        "h-10=hung-tool:nvidia-smi",
        "t-2=neuron-driver:2.26.5.0",
        "t-3=ecc",
    ]);
    let (code, text) = twin.on(&["apply", "--yes"], &[]);
    assert_eq!(code, 1, "{text}");
    for (host, step, cause) in [
        ("h-2", "accelerator-health", "[E-NV-FABRIC]"),
        ("h-3", "accelerator-health", "[E-NV-XID]"),
        ("h-4", "accelerator-health", "[E-NV-ECC]"),
        ("h-5", "nvidia-nouveau", "[E-NOUVEAU]"),
        ("h-6", "accelerator-health", "[E-NV-MISMATCH]"),
        ("h-7", "nvidia-versions", "[E-NV-LOCKSTEP]"),
        ("h-8", "nvidia-dkms", "[E-NV-DKMS]"),
        ("h-9", "accelerator-health", "[E-NV-REMAP]"),
        ("h-10", "accelerator-health", "[E-NV-HUNG]"),
        ("t-2", "neuron-window", "[E-NEURON-WINDOW]"),
        ("t-3", "accelerator-health", "[E-NEURON-ECC]"),
    ] {
        let stopped = format!("{host} command/{step} FAILED {cause}");
        assert!(text.contains(&stopped), "{stopped}\n{text}");
        assert!(!text.contains(&format!("{host} converged")), "{host}\n{text}");
    }
    assert!(text.contains("h-1 converged") && text.contains("t-1 converged"), "the others go on\n{text}");
    // An Xid that asks for a reboot is a step of the next plan, with its reason.
    let (_, plan) = twin.on(&["plan"], &["--limit", "h-3"]);
    assert!(plan.contains("> reboot nvidia") && plan.contains("Xid 79 on 0000:0c:00"), "{plan}");
}

/// A live driver change: drained, unloaded in order, installed in lockstep, gated; afterwards there is nothing to do.
#[test]
fn a_driver_changes_on_a_live_node_and_health_is_told_at_every_level() {
    let before = site(&format!("{H100}    hosts: {{\"h-[1-3]\": {{address: \"10.1.1.[1-3]\"}}}}\n"));
    let after = before.replace("580.178.04", "595.91.07");
    let twin = Twin::new(&before);
    twin.up(&["h-3=pcie-width"]);
    // Half a PCIe link is found by the gate; the two others are enough for the rest.
    let (code, text) = twin.on(&["apply", "--yes"], &[]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("h-3 command/accelerator-health FAILED [E-NV-PCIE]"), "{text}");
    assert_eq!(twin.on(&["plan"], &["--limit", "h-1,h-2"]).0, 0);

    twin.write(&after);
    let (code, plan) = twin.on(&["plan"], &["--limit", "h-1,h-2"]);
    assert_eq!(code, 2, "{plan}");
    for expected in ["drain 2", "reboot 2", "nvidia-open", "command nvidia-unload"] {
        assert!(plan.contains(expected), "{expected}\n{plan}");
    }
    // The other branch's package goes once, and before the new one comes.
    let at = |text: &str| plan.find(text).unwrap_or_else(|| panic!("{text}\n{plan}"));
    assert!(at("~ package nvidia-open-580") < at("+ package nvidia-open "), "{plan}");
    assert!(plan.contains("installed yes -> no") && !plan.contains("- package"), "{plan}");
    let (code, text) = twin.on(&["apply", "--yes"], &["--limit", "h-1,h-2"]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("h-1 converged") && text.contains("h-2 converged"), "{text}");
    let (code, plan) = twin.on(&["plan"], &["--limit", "h-1,h-2"]);
    assert_eq!(code, 0, "nothing is left to do\n{plan}");
    let (_, packages) =
        twin.on(&["exec"], &["--limit", "h-1", "-v", "--", "dpkg-query -W nvidia-open nvidia-open-580"]);
    assert!(packages.contains("595.91.07-1"), "{packages}");
    assert!(packages.contains("no packages found matching nvidia-open-580"), "{packages}");

    let (code, text) = twin.on(&["verify"], &["--limit", "h-1,h-2", "-v"]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("ok: module nvidia 595.91.07 is loaded"), "{text}");
    let (code, text) = twin.on(&["verify", "--level", "burnin"], &["--limit", "h-1,h-2"]);
    assert_eq!(code, 0, "{text}");
    for expected in
        ["all-reduce 477 GB/s", "host-to-device 55 GB/s", "device-to-device 390 GB/s", "fio 900000 IOPS"]
    {
        assert!(text.contains(expected), "{expected}\n{text}");
    }
    let kept = twin.run(&["verify", "-i", &twin.at(), "--last", "--output", "json"]);
    let kept: serde_json::Value = serde_json::from_str(&kept.1).expect("JSON");
    assert_eq!(kept["hosts"]["h-1"]["verdict"], "healthy");
    assert_eq!(kept["level"], "burnin");
}

/// Every example is brought up, and a second look finds nothing to do.
fn second_apply_is_empty(name: &str, shrink: &[(&str, &str)]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("inventories").join(name).join("inventory.yaml");
    let mut text = std::fs::read_to_string(path).expect("the example");
    for (from, to) in shrink {
        assert!(text.contains(from), "{from}");
        text = text.replace(from, to);
    }
    let twin = Twin::new(&text);
    twin.up(&[]);
    let (code, shown) = twin.on(&["apply", "--yes"], &[]);
    assert_eq!(code, 0, "{name}: {shown}");
    let (code, shown) = twin.on(&["plan"], &[]);
    assert_eq!(code, 0, "{name}: {shown}");
    assert!(shown.contains("in sync"), "{shown}");
}

#[test]
fn a_second_apply_is_empty_on_three_nodes() {
    second_apply_is_empty("three-nodes", &[]);
}

#[test]
fn a_second_apply_is_empty_on_trn2_ultraserver() {
    second_apply_is_empty("trn2-ultraserver", &[]);
}

#[test]
fn a_second_apply_is_empty_on_mixed() {
    second_apply_is_empty("mixed", &[]);
}

/// The rack with 4 of its 64 hosts: the whole of it is run by `tests/run` (`scale.rs`).
#[test]
fn a_second_apply_is_empty_on_h100_rack() {
    second_apply_is_empty("h100-rack", &[("h-[001-064]", "h-[001-004]"), ("[1-64]", "[1-4]")]);
}
