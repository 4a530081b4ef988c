//! Data tests of `role::health`: output of tools and the resulting findings. Unreadable output is never healthy.

use provision::catalog::Catalog;
use provision::role::health::{
    Health, Level, Links, Purpose, QuickInput, Verdict, gate, isolate, judge, judge_kept, judging, kept,
    median_findings, needs_reboot, program, quick, restart_app,
};
use std::collections::BTreeMap;

const QUICK: &str = "@@ quick\nok: 8 GPUs on the PCI bus\nok: kernel log read\n@@rc quick 0\n";
const DCGMI: &str = "@@ dcgmi\n{\"DCGM GPU Diagnostic\": {\"test_categories\": [{\"category\": \"Deployment\", \"tests\": [\
                     {\"name\": \"NVML Library\", \"results\": [{\"status\": \"Pass\"}]}]}]}}\n@@rc dcgmi 205\n";
const NCCL: &str = "@@ all-reduce\n#       size         count      type   redop    root     time   algbw   busbw #wrong\n\
                    \x20 8589934592    2147483648     float     sum      -1  31500.0  272.70  477.00      0\n\
                    # Out of bounds values : 0 OK\n# Avg bus bandwidth    : 477.02\n#\n@@rc all-reduce 0\n";
const H2D: &str = "@@ host-to-device\nRunning host_to_device_memcpy_ce.\nmemcpy CE CPU(row) -> GPU(column) bandwidth (GB/s)\n\
                   \x20         0         1\n 0     55.10     54.90\n\nSUM host_to_device_memcpy_ce 110.00\n@@rc host-to-device 0\n";
const D2D: &str = "@@ device-to-device\nmemcpy CE GPU(row) <- GPU(column) bandwidth (GB/s)\n          0         1\n 0      0.00    \
                   390.10\n 1    388.00      0.00\n\n@@rc device-to-device 0\n";
const FIO: &str = "@@ fio\n{\"jobs\": [{\"read\": {\"iops\": 900000.5}}]}\n@@rc fio 0\n";

fn with<T>(slug: &str, then: impl FnOnce(&QuickInput<'_>) -> T) -> T {
    let catalog = Catalog::builtin().expect("the catalog");
    let product = catalog.product(slug).expect("known");
    let driver = "580.178.04";
    let (units, wait, mig): (&[&str], _, _) = (&[], false, false);
    then(&QuickInput {
        catalog: &catalog,
        product: &product,
        count: 8,
        driver,
        units,
        wait,
        mig,
        links: Links::default(),
    })
}

/// Judges a text as a host does: its exit status, and what it says.
fn on_host(slug: &str, text: &str, purpose: Purpose) -> (Option<i32>, String) {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("standard");
    std::fs::write(&file, text).expect("written");
    let shell = with(slug, |input| judging(input, purpose));
    let output = std::process::Command::new("sh")
        .args(["-e", "-c", &shell])
        .env("K", &file)
        .output()
        .expect("sh runs");
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
}

fn gated(slug: &str, text: &str) -> (Option<i32>, String) {
    on_host(slug, text, Purpose::Gate)
}

/// Frames what a host judged, as its program does.
fn framed(slug: &str, text: &str, purpose: Purpose) -> String {
    let (code, said) = on_host(slug, text, purpose);
    format!("@@ judged\n{said}@@rc judged {}\n", code.expect("an exit status"))
}

fn h100(text: &str, level: Level) -> Health {
    let slug = "h100-sxm5-80gb";
    let text = match level {
        Level::Quick => text.to_owned(),
        Level::Standard | Level::Burnin => framed(slug, text, Purpose::Verify) + text,
    };
    with(slug, |input| judge(&text, level, input))
}

fn worst(text: &str, level: Level) -> (Verdict, String) {
    let health = h100(text, level);
    let first = health.findings.first().expect("a finding");
    (health.verdict, format!("{}: {}", first.code, first.detail))
}

#[test]
fn a_host_whose_tools_all_say_so_is_healthy() {
    assert_eq!(h100(QUICK, Level::Quick).verdict, Verdict::Healthy);
    let health = h100(&[QUICK, DCGMI, NCCL, H2D, D2D, FIO].concat(), Level::Burnin);
    assert_eq!(health.verdict, Verdict::Healthy, "{health:?}");
    let numbers: Vec<(&str, f64, Option<f64>)> =
        health.measures.iter().map(|m| (m.test.as_str(), m.value, m.floor)).collect();
    assert_eq!(
        numbers,
        [
            ("all-reduce", 477.02, Some(440.0)),
            ("host-to-device", 54.9, Some(48.0)),
            ("device-to-device", 388.0, Some(335.0)),
            ("fio", 900000.5, None),
        ]
    );
}

#[test]
fn what_cannot_be_read_is_unknown_and_what_is_wrong_is_named() {
    let standard = |more: &str| [QUICK, more].concat();
    let cases = [
        (String::new(), Level::Quick, Verdict::Unknown, "E-HEALTH: the quick test was interrupted"),
        (
            "@@ quick\nok: x\n".to_owned(),
            Level::Quick,
            Verdict::Unknown,
            "E-HEALTH: the quick test was interrupted",
        ),
        (
            "@@ quick\n@@rc quick 0\n".to_owned(),
            Level::Quick,
            Verdict::Unknown,
            "E-HEALTH: the quick test printed nothing",
        ),
        (
            "@@ quick\nE-NV-HUNG: unknown: nvidia-smi did not answer\nok: x\n@@rc quick 125\n".to_owned(),
            Level::Quick,
            Verdict::Unknown,
            "E-NV-HUNG: nvidia-smi did not answer",
        ),
        (
            "@@ quick\nE-NV-ECC: GPU 0 has 3\nE-NV-HUNG: unknown: x\n@@rc quick 1\n".to_owned(),
            Level::Quick,
            Verdict::Unhealthy,
            "E-NV-ECC: GPU 0 has 3",
        ),
        (standard(NCCL), Level::Standard, Verdict::Unknown, "E-HEALTH-DCGMI: dcgmi was interrupted"),
        (
            standard(&format!("@@ dcgmi\n@@rc dcgmi missing\n{NCCL}")),
            Level::Standard,
            Verdict::Unknown,
            "E-HEALTH-DCGMI: dcgmi is not installed",
        ),
        (
            standard(&format!("@@ dcgmi\n@@rc dcgmi 124\n{NCCL}")),
            Level::Standard,
            Verdict::Unknown,
            "E-HEALTH-DCGMI: dcgmi timed out",
        ),
        (
            standard(&format!("@@ dcgmi\n{{\"a\": 1}}\n@@rc dcgmi 0\n{NCCL}")),
            Level::Standard,
            Verdict::Unknown,
            "E-HEALTH-DCGMI: the JSON of dcgmi is not in the format of DCGM 3 or 4 (exit 0)",
        ),
        (
            standard(&DCGMI.replace("]}]}}", "]}")) + NCCL,
            Level::Standard,
            Verdict::Unknown,
            "E-HEALTH-DCGMI: the JSON of dcgmi is cut off (exit 205)",
        ),
        (
            standard(&DCGMI.replace("Pass", "Fail")) + NCCL,
            Level::Standard,
            Verdict::Unhealthy,
            "E-HEALTH-DCGMI: dcgmi: NVML Library failed",
        ),
        (
            standard(DCGMI) + &NCCL.replace(": 477.02", ": 212.5"),
            Level::Standard,
            Verdict::Unhealthy,
            "E-HEALTH-FLOOR: all-reduce 212.5 GB/s is below the floor of 440",
        ),
        (
            standard(DCGMI) + &NCCL.replace("0 OK", "7 FAILED"),
            Level::Standard,
            Verdict::Unhealthy,
            "E-HEALTH-ALL-REDUCE: wrong results: Out of bounds values : 7 FAILED",
        ),
        (
            standard(DCGMI) + &NCCL.replace("@@rc all-reduce 0", "@@rc all-reduce 3"),
            Level::Standard,
            Verdict::Unhealthy,
            "E-HEALTH-ALL-REDUCE: all-reduce failed (exit 3): #",
        ),
        (
            standard("@@busy 2\n"),
            Level::Standard,
            Verdict::Unknown,
            "E-HEALTH-DCGMI: skipped: 2 processes use the accelerators; drain the host first",
        ),
    ];
    for (text, level, verdict, first) in cases {
        assert_eq!(worst(&text, level), (verdict, first.to_owned()), "{text}");
        if level != Level::Standard {
            continue;
        }
        // The gate comes to the same, but for a tool that is not there.
        let (code, said) = gated("h100-sxm5-80gb", &text);
        let first = first.split_once(": ").expect("a code");
        let (expected, line) = match verdict {
            _ if first.1.ends_with("is not installed") => (0, format!("ok: {}, so it was not run", first.1)),
            Verdict::Unhealthy => (1, format!("{}: {}", first.0, first.1)),
            _ => (125, format!("{}: unknown: {}", first.0, first.1)),
        };
        assert_eq!((code, said.contains(&line)), (Some(expected), true), "{line}\nin {said}\nof {text}");
        assert_eq!(code == Some(0), !said.contains("E-"), "{said}");
    }
}

/// DCGM 4 has another first key than DCGM 3, and a summary per test.
#[test]
fn both_shapes_of_dcgmi_are_read() {
    let four = DCGMI.replace("DCGM GPU Diagnostic", "DCGM Diagnostic").replace(
        "\"results\": [{\"status\": \"Pass\"}]",
        "\"results\": [{\"entity_id\": 0, \"status\": \"Pass\"}], \
                  \"test_summary\": {\"status\": \"Pass\"}",
    );
    let text = [QUICK, &four, NCCL].concat();
    assert_eq!(h100(&text, Level::Standard).verdict, Verdict::Healthy);
    assert_eq!(gated("h100-sxm5-80gb", &text).0, Some(0));
    let text = text.replace("{\"status\": \"Pass\"}", "{\"status\": \"Fail\"}");
    assert_eq!(
        worst(&text, Level::Standard),
        (Verdict::Unhealthy, "E-HEALTH-DCGMI: dcgmi: NVML Library failed".into())
    );
    let (code, said) = gated("h100-sxm5-80gb", &text);
    assert_eq!(
        (code, said.contains("E-HEALTH-DCGMI: dcgmi: NVML Library failed\n")),
        (Some(1), true),
        "{said}"
    );
}

#[test]
fn neuron_is_gated_by_its_collective() {
    let nccom =
        "@@ nccom-test\n  size(B)\n  33554432\nAvg bus bandwidth:      40.7000GB/s\n@@rc nccom-test 0\n";
    let cases = [
        (nccom.to_owned(), 0, "ok: nccom-test 40.7000 GB/s"),
        (
            nccom.replace("0\n", "1\n"),
            1,
            "E-HEALTH-NCCOM-TEST: nccom-test failed (exit 1): Avg bus bandwidth",
        ),
        (
            nccom.replace("  33554432", "  33554432  Failure running neuron-bench"),
            1,
            "E-HEALTH-NCCOM-TEST: 33554432  Failure",
        ),
        (nccom.replace("Avg", "no"), 125, "E-HEALTH-NCCOM-TEST: unknown: nccom-test printed no bandwidth"),
        ("@@rc nccom-test missing\n".to_owned(), 0, "ok: nccom-test is not installed"),
        (String::new(), 125, "E-HEALTH-NCCOM-TEST: unknown: nccom-test was interrupted"),
    ];
    for (text, code, line) in cases {
        let (rc, said) = gated("trainium2", &[QUICK, &text].concat());
        assert_eq!((rc, said.contains(line)), (Some(code), true), "{line}\nin {said}\nof {text}");
    }
}

/// What a driver recommends for a GPU is taken from it; one that does not know the field is asked without it.
#[test]
fn the_recovery_action_of_a_gpu_is_what_its_driver_says() {
    let said = |action: &str| {
        let row = |n: u32| {
            format!("echo '{n}, 00000000:3B:00.0, 580.178.04, 0, Completed, Success, No, No{action}'\n")
        };
        let refusal = "case $1 in *gpu_recovery_action*) echo 'Field \"gpu_recovery_action\" is not a valid field to query.'; exit 2;; esac\n";
        let tool = if action.is_empty() { refusal.to_owned() } else { String::new() };
        let count = with("h100-sxm5-80gb", |input| input.count);
        let tool = tool + &(0..count).map(row).collect::<String>();
        let shell = with("h100-sxm5-80gb", |input| quick(*input));
        crate::role::sh(&[("nvidia-smi", &tool), ("dmesg", "")], &shell).0
    };
    for (action, wanted) in [
        (
            ", Drain and Reset",
            "(00000000:3B:00.0) reports the recovery action Drain and Reset: drain and reboot the host",
        ),
        (", Reset", "recovery action Reset: drain and reboot"),
        (", Reboot", "recovery action Reboot: drain and reboot"),
        (", Drain P2P", "recovery action Drain P2P: drain the host"),
        (
            ", [Unknown Error]",
            "unknown: GPU 0 (00000000:3B:00.0) reports \"[Unknown Error]\" as its recovery action",
        ),
        (", Sleep", "unknown: GPU 0"),
    ] {
        let text = said(action);
        assert!(text.contains("E-NV-RECOVERY: ") && text.contains(wanted), "{action}: {text}");
    }
    for action in ["", ", None", ", [N/A]", ", N/A", ", [Not Supported]"] {
        let text = said(action);
        assert!(!text.contains("E-NV-RECOVERY") && !text.contains("E-NV-FIELDS"), "{action}: {text}");
        assert!(text.contains("ok: nvidia-smi sees"), "{action}: {text}");
    }
}

/// Counters of devices where drivers before 2.31 have them, and wherever else below the device they may be.
#[test]
fn neuron_counters_are_found_where_they_are() {
    let hardware = "stats/hardware";
    let ecc = [("mem_ecc_uncorrected", "0"), ("sram_ecc_uncorrected", "0")];
    let at = |folder: &str, counters: &[(&str, &str)]| -> Vec<(String, String)> {
        counters.iter().map(|(name, count)| (format!("{folder}/{name}"), format!("{count}\n"))).collect()
    };
    let bad = "E-NEURON-ECC: neuron0 has mem_ecc_uncorrected 3: take the instance out of service";
    let sick = [("mem_ecc_uncorrected", "3"), ("sram_ecc_uncorrected", "0")];
    let repair = "E-NEURON-REPAIR: neuron0 has 2 memory errors";
    let cases: [(Vec<(String, String)>, &str); 12] = [
        (at(hardware, &ecc), ""),
        (at(hardware, &sick), bad),
        (at("health/ecc", &ecc), ""),
        (at("health/ecc", &sick), bad),
        // A folder with a total, parts of the name as folders, another name of the memory.
        (
            at(
                "health",
                &[
                    ("mem_ecc_uncorrected/total", "3"),
                    ("mem_ecc_uncorrected/present", "0"),
                    ("sram_ecc_uncorrected/total", "0"),
                ],
            ),
            bad,
        ),
        (at("health", &[("hbm/ecc/uncorrected", "3"), ("sram/ecc/uncorrected", "0")]), bad),
        // Only one moved; several of a kind.
        ([at(hardware, &ecc[..1]), at("health", &ecc[1..])].concat(), ""),
        ([at("neuron_core0", &ecc), at("neuron_core1", &sick)].concat(), bad),
        ([at("health", &ecc), at("health", &[("mem_ecc_repairable_uncorrected", "2")])].concat(), repair),
        (
            [at("health", &ecc), at("health/state", &[("unhealthy_components", "hbm")])].concat(),
            "reports unhealthy components: hbm",
        ),
        (
            at("health", &[("mem_ecc_corrected", "0"), ("sram_ecc_uncorrected", "0")]),
            "unknown: neuron0 does not report mem_ecc_uncorrected",
        ),
        (
            at("health", &[("mem_ecc_uncorrected", "n/a"), ("sram_ecc_uncorrected", "0")]),
            "unknown: neuron0 does not report mem_ecc_uncorrected",
        ),
    ];
    for (files, wanted) in cases {
        let dir = tempfile::tempdir().expect("a folder");
        for (path, text) in &files {
            let path = dir.path().join("neuron0").join(path);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            std::fs::write(path, text).expect("written");
        }
        let shell = with("trainium2", |input| quick(*input));
        let shell = shell.replace("/sys/devices/virtual/neuron_device", &dir.path().display().to_string());
        let (said, _) = crate::role::sh(&[("dmesg", "")], &shell);
        let about = ["E-NEURON-ECC", "E-NEURON-REPAIR", "E-NEURON-UNHEALTHY"];
        let found: Vec<&str> = said.lines().filter(|l| about.iter().any(|a| l.contains(a))).collect();
        let as_meant =
            if wanted.is_empty() { found.is_empty() } else { found.len() == 1 && found[0].contains(wanted) };
        assert!(as_meant, "{wanted}\nin {found:?}\nof {files:?}");
    }
}

/// Whether devices are in use decides whether tests may run on them: what neuron-ls does not say is unknown.
#[test]
fn a_neuron_ls_that_does_not_list_processes_is_unknown() {
    let said = |neuron_ls: &str| {
        let shell = with("trainium2", |input| program(Level::Standard, *input, "/nowhere"));
        crate::role::sh(
            &[("neuron-ls", neuron_ls), ("dmesg", ""), ("nccom-test", "echo ran; exit 3")],
            &shell,
        )
        .0
    };
    let unknown = "unknown: skipped: cannot tell whether processes use the accelerators";
    for neuron_ls in [
        "exit 1",
        "echo '{}'",
        "echo '{\"instance\": {}, \"devices\": [{\"id\": 0}]}'",
        "echo 'neuron-ls: no driver'",
    ] {
        assert!(said(neuron_ls).contains(unknown), "{neuron_ls}: {}", said(neuron_ls));
    }
    let idle = "echo '{\"instance\": {}, \"devices\": [{\"neuron_processes\": []}]}'";
    assert!(said(idle).contains("(exit 3)"), "{}", said(idle));
    let busy = "echo '{\"devices\": [{\"neuron_processes\": [{\"pid\": 7}]}]}'";
    assert!(said(busy).contains("skipped: 1 processes use"), "{}", said(busy));
}

/// What the gate left on a host is read again with the quick test of now; a tool that it passed without is no reason to
/// doubt the host.
#[test]
fn what_the_gate_left_is_read_again() {
    let slug = "h100-sxm5-80gb";
    let left = ["@@standard 1700000000\n", "@@ quick\nE-NV-ECC: of then\n@@rc quick 1\n", DCGMI].concat();
    let left = left + "@@rc all-reduce missing\n";
    let text = [QUICK, "@@standard 1700000000\n", &framed(slug, &left, Purpose::Kept)].concat();
    let health = with(slug, |input| judge_kept(&text, input));
    assert_eq!((health.verdict, health.level), (Verdict::Healthy, Level::Standard), "{health:?}");
    assert_eq!(health.tested_s, Some(1_700_000_000));
    assert!(health.findings.iter().any(|f| f.detail == "all-reduce is not installed, so it was not run"));
    // Nothing was left: the quick test of now is all there is.
    let health = with(slug, |input| judge_kept(QUICK, input));
    assert_eq!((health.verdict, health.level, health.tested_s), (Verdict::Healthy, Level::Quick, None));
    // The connection was lost while the host judged.
    let health =
        with(slug, |input| judge_kept(&[QUICK, "@@standard 17\n@@ judged\nok: x\n"].concat(), input));
    assert_eq!(health.verdict, Verdict::Unknown, "{health:?}");
}

/// The shell of the gate compares whole numbers.
#[test]
fn floors_are_whole_numbers() {
    let catalog = Catalog::builtin().expect("the catalog");
    for product in catalog.products() {
        for test in ["all-reduce", "nccom-test"] {
            let floor = catalog.floor(test, &product.slug, 8).map_or(0.0, |f| f.floor);
            assert_eq!(floor.fract(), 0.0, "{test} of {}", product.slug);
        }
    }
}

#[test]
fn a_host_below_its_pools_median_is_named_although_it_is_above_the_floor() {
    let text = |busbw: f64| [QUICK, DCGMI, &NCCL.replace(": 477.02", &format!(": {busbw}"))].concat();
    let mut pool: BTreeMap<String, Health> = [("h-1", 477.0), ("h-2", 478.0), ("h-3", 476.0), ("h-4", 445.0)]
        .into_iter()
        .map(|(host, busbw)| (host.to_owned(), h100(&text(busbw), Level::Standard)))
        .collect();
    assert!(pool.values().all(|h| h.verdict == Verdict::Healthy));
    median_findings(&mut pool);
    assert_eq!(pool["h-4"].verdict, Verdict::Unhealthy);
    assert_eq!(pool["h-4"].findings[0].code, "E-HEALTH-MEDIAN");
    assert!(pool.iter().filter(|(host, _)| *host != "h-4").all(|(_, h)| h.verdict == Verdict::Healthy));
    // Two hosts have no median worth the name.
    let mut two: BTreeMap<String, Health> = [("a", 477.0), ("b", 441.0)]
        .into_iter()
        .map(|(host, busbw)| (host.to_owned(), h100(&text(busbw), Level::Standard)))
        .collect();
    median_findings(&mut two);
    assert!(two.values().all(|h| h.verdict == Verdict::Healthy));
}

/// A host whose `dmesg` says this.
struct Log(tempfile::TempDir);

impl Log {
    fn of(text: &str) -> Self {
        Self(tempfile::tempdir().expect("a folder")).with("dmesg", text)
    }

    /// Adds a tool that prints a text.
    fn with(self, tool: &str, text: &str) -> Self {
        use std::os::unix::fs::PermissionsExt;
        let (said, program) = (self.0.path().join(format!("{tool}.out")), self.0.path().join(tool));
        std::fs::write(&said, text).expect("written");
        std::fs::write(&program, format!("#!/bin/sh\ncat {}\n", said.display())).expect("written");
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("made runnable");
        self
    }

    /// The lines of the quick test that contain a text; there are no GPUs.
    fn quick(&self, about: &str) -> Vec<String> {
        let (_, said) = self.run(&with("h100-sxm5-80gb", |input| quick(*input)));
        said.lines().filter(|l| l.contains(about)).map(str::to_owned).collect()
    }

    fn run(&self, shell: &str) -> (Option<i32>, String) {
        let path = format!("{}:{}", self.0.path().display(), std::env::var("PATH").unwrap_or_default());
        let output = std::process::Command::new("sh")
            .args(["-e", "-c", shell])
            .env("PATH", path)
            .output()
            .expect("sh runs");
        (output.status.code(), String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
    }
}

/// Every Xid of the catalog comes to the step that its action is, and to no other.
#[test]
fn an_xid_comes_to_the_step_that_its_action_is() {
    use provision::catalog::Action;
    let catalog = Catalog::builtin().expect("the catalog");
    let (reboot, isolated) = (needs_reboot(&catalog), isolate(&catalog));
    let one_each = catalog.xids().iter().flat_map(|row| row.xids.first().map(|xid| (*xid, row.action)));
    for (xid, action) in one_each {
        let log = Log::of(&format!(
            "[   12.5] NVRM: Xid (PCI:0000:0c:00): {xid}, pid='<unknown>', name=<unknown>, x\n"
        ));
        let said = |yes: bool| {
            if yes { (Some(1), format!("Xid {xid} on 0000:0c:00")) } else { (Some(0), String::new()) }
        };
        assert_eq!(log.run(&reboot), said(matches!(action, Action::Reset | Action::Reboot)), "{xid}");
        assert_eq!(log.run(&isolated.0), said(action == Action::Isolate), "{xid}");
        if action == Action::Isolate {
            let (code, said) = log.run(&isolated.1);
            assert_eq!(code, Some(1));
            assert!(
                said.starts_with("E-NV-XID: ") && said.ends_with(&format!("Xid {xid} on 0000:0c:00")),
                "{said}"
            );
        }
    }
}

/// A field that should have a value and has none is unknown; one of a feature that a GPU lacks is fine.
#[test]
fn a_field_without_its_value_is_unknown() {
    let found = |fields: &str| {
        let line = format!("0, 00000000:3B:00.0, {fields}\n");
        Log::of("").with("nvidia-smi", &line).quick("GPU 0 (")
    };
    let fine =
        ["0, Completed, Success, No, No", "[N/A], [N/A], [N/A], [N/A], [N/A]", "N/A, N/A, N/A, N/A, N/A"];
    for fields in fine {
        assert_eq!(found(&format!("580.178.04, {fields}")), [""; 0], "{fields}");
    }
    let hidden = ["[Unknown Error]", "[GPU requires reset]", "[Insufficient Permissions]", "ERR!", ""];
    let codes = ["E-NV-MISMATCH", "E-NV-ECC", "E-NV-FABRIC", "E-NV-FABRIC", "E-NV-REMAP", "E-NV-REMAP"];
    for value in hidden {
        for (field, code) in codes.iter().enumerate() {
            let mut fields = ["580.178.04", "0", "Completed", "Success", "No", "No"];
            fields[field] = value;
            let found = found(&fields.join(", "));
            assert!(
                matches!(&found[..], [one] if one.starts_with(&format!("{code}: unknown: GPU 0 (00000000:3B:00.0) reports"))),
                "{fields:?}: {found:?}"
            );
        }
    }
    let wrong = found("580.178.04, 3, In Progress, Success, Yes, Yes");
    assert!(wrong.len() == 4 && !wrong.iter().any(|l| l.contains("unknown")), "{wrong:?}");
}

/// What a kernel log says of Xids: what the quick test makes of it, and the reason of the reboot.
#[test]
fn what_an_xid_asks_for_is_read_from_its_whole_line() {
    let catalog = Catalog::builtin().expect("the catalog");
    let guard = needs_reboot(&catalog);
    let line = |text: &str| format!("[ 991.25] NVRM: Xid (PCI:0000:3b:00): {text}\n");
    let from = |to: &str| line(&format!("154, GPU recovery action changed from 0x0 (None) to {to}"));
    let nvlink = |xid: u32, how: &str| {
        line(&format!(
            "{xid}, RLW_RXPIPE {how} XC0 i0 Link 13 (0x0409a0c2 0x00000008 0x00000001 0x0 0x0 0x4)"
        ))
    };
    let sxid = |text: &str| format!("[ 12.1] nvidia-nvswitch3: SXid (PCI:0000:06:00.0): 20034, {text}\n");
    let (bad, unknown) = ("E-NV-XID: ", "E-NV-XID: unknown: ");
    let reset = "Xid 95 on 0000:3b:00";
    let mut cases: Vec<(String, Option<&str>, String)> = Vec::new();
    // A GPU that is split, and other prefixes of lines.
    for field in
        ["0000:3b:00", "0000:3b:00 GPU-I:05", "0000:3b:00 GPU-I:05 GPU-CI:00", "0000:3b:00.0, GPU-I:1"]
    {
        for prefix in [
            "[ 991.2] ",
            "kern  :err   : [  991.2] ",
            "[ 991.2][ T1234] ",
            "Oct 01 13:00:00 h-1 kernel: ",
            "",
        ] {
            let text = format!(
                "{prefix}NVRM: Xid (PCI:{field}): 95, pid=42, name=python3, Uncontained: FBHUB. RST: Yes\n"
            );
            cases.push((text, Some(reset), format!("{bad}{reset} requires a GPU reset: reboot the host")));
        }
    }
    cases.extend([
        (nvlink(145, "Nonfatal"), None, "ok: Xid 145 on 0000:3b:00 is nonfatal and needs no action".into()),
        (nvlink(149, "Non-fatal"), None, "ok: Xid 149 on 0000:3b:00 is nonfatal and needs no action".into()),
        (
            nvlink(145, "Fatal   "),
            Some("Xid 145 on 0000:3b:00"),
            format!("{bad}Xid 145 on 0000:3b:00 requires a reboot"),
        ),
        (
            nvlink(145, "Nonfatal") + &nvlink(145, "Fatal"),
            Some("Xid 145 on 0000:3b:00"),
            format!("{bad}Xid 145 on 0000:3b:00 requires a reboot"),
        ),
        (
            nvlink(145, "Nonfatal") + &from("0x1 (GPU Reset Required)"),
            Some("Xid 154 on 0000:3b:00 (GPU Reset Required)"),
            format!("{bad}Xid 154 on 0000:3b:00 (GPU Reset Required) requires a GPU reset"),
        ),
        (
            from("0x2 (Node Reboot Required)"),
            Some("Xid 154 on 0000:3b:00 (Node Reboot Required)"),
            format!("{bad}Xid 154 on 0000:3b:00 (Node Reboot Required) requires a reboot"),
        ),
        (
            from("0x4 (Drain and Reset)"),
            Some("Xid 154 on 0000:3b:00 (Drain and Reset)"),
            format!("{bad}Xid 154 on 0000:3b:00 (Drain and Reset) requires a GPU reset"),
        ),
        (
            nvlink(145, "Fatal") + &from("0x3 (Drain P2P)"),
            None,
            format!("{bad}Xid 154 on 0000:3b:00 (Drain P2P) requires a drain"),
        ),
        (
            nvlink(145, "Fatal") + &from("0x0 (None)"),
            None,
            "ok: Xid 145 on 0000:3b:00: a later Xid 154 overrides it".into(),
        ),
        // What comes after the last Xid 154, or is of another GPU, is not decided by it.
        (
            from("0x0 (None)") + &nvlink(145, "Fatal"),
            Some("Xid 145 on 0000:3b:00"),
            format!("{bad}Xid 145 on 0000:3b:00 requires a reboot"),
        ),
        (
            nvlink(145, "Fatal") + &from("0x0 (None)").replace("3b:00", "5e:00"),
            Some("Xid 145 on 0000:3b:00"),
            format!("{bad}Xid 145 on 0000:3b:00 requires a reboot"),
        ),
        (
            from("0x9 (Something New)"),
            None,
            format!(
                "{unknown}cannot read what the kernel log says about Xid 154 on 0000:3b:00 (Something New)"
            ),
        ),
        // A memory error alone, and one that was contained.
        (
            line("48, pid=42, name=python3, channel 0x00000008"),
            Some("Xid 48 on 0000:3b:00"),
            format!("{bad}Xid 48 on 0000:3b:00 requires a reboot"),
        ),
        (
            line("48, pid=42, name=python3, channel 0x00000008")
                + &line("94, pid=42, name=python3, Contained: SM (0x1). RST: No"),
            None,
            "ok: Xid 48 on 0000:3b:00 is contained and needs no action".into(),
        ),
        (
            line("171, GDDR Uncorrectable DRAM error at FBPA 0")
                + &line("48, x")
                + &line("63, Row Remapper: New row")
                + &from("0x4 (Drain and Reset)"),
            Some("Xid 154 on 0000:3b:00 (Drain and Reset)"),
            "ok: Xid 171 on 0000:3b:00 needs no action".into(),
        ),
        // NVSwitches: three lines for each event.
        (
            sxid("Non-fatal, Link 31 egress non-posted PRIV error (First)")
                + &sxid("Severity 0 Engine instance 31")
                + &sxid("Data {0x1}"),
            None,
            "ok: SXid 20034 on 0000:06:00 is nonfatal and needs no action".into(),
        ),
        (
            sxid("Fatal, Link 31 LTSSM Fault Up")
                + &sxid("Severity 1 Engine instance 31")
                + &sxid("Data {0x1}"),
            Some("SXid 20034 on 0000:06:00"),
            format!("{bad}SXid 20034 on 0000:06:00 requires a reboot"),
        ),
        (sxid("Link 31"), None, format!("{unknown}cannot read what the kernel log says about SXid 20034")),
        (
            "[ 1.0] NVRM: Xid (somewhere) broke\n".into(),
            None,
            format!("{unknown}cannot read what the kernel log says about the line \"[ 1.0] NVRM"),
        ),
    ]);
    for (text, reboot, expected) in cases {
        let log = Log::of(&text);
        let said = reboot.map_or((Some(0), String::new()), |why| (Some(1), why.to_owned()));
        assert_eq!(log.run(&guard), said, "{text}");
        let found = log.quick("id ");
        assert!(found.iter().any(|l| l.starts_with(&expected)), "{expected}\nin {found:?}\nof {text}");
        assert_eq!(
            reboot.is_none(),
            !found.iter().any(|l| l.contains("reset: reboot the host") || l.ends_with("a reboot")),
            "{found:?}"
        );
    }
}

/// Only the program that hit the Xid is ended: not one that began later, nor one that has got its number.
#[test]
fn a_program_that_hit_an_xid_is_ended_and_no_other() {
    let catalog = Catalog::builtin().expect("the catalog");
    let (guard, apply) = restart_app(&catalog);
    let mut child = std::process::Command::new("sleep").arg("300").spawn().expect("sleep runs");
    let pid = child.id();
    let uptime = std::fs::read_to_string("/proc/uptime").expect("linux");
    let now: u64 = uptime.split('.').next().and_then(|s| s.parse().ok()).expect("seconds");
    let line = |at: u64, xid: u32, name: &str| {
        format!("[{at:5}.123456] NVRM: Xid (PCI:0000:0c:00): {xid}, pid={pid}, name={name}, Ch 00000008\n")
    };
    for harmless in
        [line(now + 1, 31, "python3"), line(now + 1, 79, "sleep"), line(now.saturating_sub(60), 31, "sleep")]
    {
        let log = Log::of(&harmless);
        assert_eq!(log.run(&guard), (Some(0), String::new()), "{harmless}");
        assert_eq!(log.run(&apply).0, Some(0));
        assert!(child.try_wait().expect("asked").is_none(), "{harmless}");
    }
    let log = Log::of(&line(now + 1, 31, "sleep"));
    let found = format!("process {pid} sleep is still running after Xid 31");
    assert_eq!(log.run(&guard), (Some(1), found.clone()));
    let text = line(now + 1, 31, "sleep").replace("0c:00)", "0c:00 GPU-I:05 GPU-CI:00)");
    for text in [format!("kern  :err   : {text}"), text.replace("] ", "][ T42] ")] {
        assert_eq!(Log::of(&text).run(&guard), (Some(1), found.clone()), "{text}");
    }
    // Reaped as its parent would, so that it is gone when it ended.
    let reaper = std::thread::spawn(move || child.wait().expect("waited for"));
    let (code, said) = log.run(&apply);
    assert_eq!((code, said), (Some(0), format!("killing process {pid} (TERM)")));
    assert!(!reaper.join().expect("no panic").success());
    assert_eq!(log.run(&guard).0, Some(0));
}

/// The programs are shell, for every product of the catalog and every level.
#[test]
fn every_program_is_shell() {
    let catalog = Catalog::builtin().expect("the catalog");
    for product in catalog.products() {
        for level in [Level::Quick, Level::Standard, Level::Burnin] {
            let input = QuickInput {
                catalog: &catalog,
                product,
                count: 8,
                driver: "1.2.*",
                units: &["x.service"],
                wait: true,
                mig: false,
                links: Links { efa: Some(8), rdma: Some(8) },
            };
            let text = program(level, input, "/data/it's")
                + &quick(input)
                + &needs_reboot(&catalog)
                + &isolate(&catalog).1
                + &restart_app(&catalog).0
                + &restart_app(&catalog).1
                + &gate(input, "a driver's key")
                + &kept(input);
            let mut child = std::process::Command::new("sh")
                .arg("-n")
                .stdin(std::process::Stdio::piped())
                .spawn()
                .expect("sh runs");
            std::io::Write::write_all(&mut child.stdin.take().expect("its input"), text.as_bytes())
                .expect("written");
            assert!(child.wait().expect("it ends").success(), "{} at {level:?}", product.slug);
        }
    }
}
