//! Data tests of `role::health`: what tools print, and what is made of it. What cannot be read is never healthy.

use provision::catalog::Catalog;
use provision::role::health::{
    Health, Level, Links, QuickInput, Verdict, gate, isolate, judge, judging, kept, median_findings,
    needs_reboot, program, quick, restart_app,
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

/// Judges a text as the gate on a host does: its exit status, and what it says.
fn gated(slug: &str, text: &str) -> (Option<i32>, String) {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("standard");
    std::fs::write(&file, text).expect("written");
    let shell = with(slug, judging);
    let output = std::process::Command::new("sh")
        .args(["-e", "-c", &shell])
        .env("K", &file)
        .output()
        .expect("sh runs");
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
}

fn h100(text: &str, level: Level) -> Health {
    with("h100-sxm5-80gb", |input| judge(text, level, input))
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
        (String::new(), Level::Quick, Verdict::Unknown, "E-HEALTH: the quick look was cut off"),
        (
            "@@ quick\nok: x\n".to_owned(),
            Level::Quick,
            Verdict::Unknown,
            "E-HEALTH: the quick look was cut off",
        ),
        (
            "@@ quick\n@@rc quick 0\n".to_owned(),
            Level::Quick,
            Verdict::Unknown,
            "E-HEALTH: the quick look said nothing",
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
        (standard(NCCL), Level::Standard, Verdict::Unknown, "E-HEALTH-DCGMI: dcgmi was cut off"),
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
            "E-HEALTH-DCGMI: dcgmi did not end in time",
        ),
        (
            standard(&format!("@@ dcgmi\n{{\"a\": 1}}\n@@rc dcgmi 0\n{NCCL}")),
            Level::Standard,
            Verdict::Unknown,
            "E-HEALTH-DCGMI: dcgmi's JSON has another shape than those of DCGM 3 and 4 (exit 0)",
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
            "E-HEALTH-DCGMI: left out: 2 processes use the accelerators; drain the host first",
        ),
    ];
    for (text, level, verdict, first) in cases {
        assert_eq!(worst(&text, level), (verdict, first.to_owned()), "{text}");
        if level != Level::Standard {
            continue;
        }
        // The gate on the host comes to the same, but for a tool that is not there.
        let (code, said) = gated("h100-sxm5-80gb", &text);
        let first = first.split_once(": ").expect("a code");
        let (expected, line) = match verdict {
            _ if first.1.ends_with("is not installed") => (0, format!("ok: {}, so it was not run", first.1)),
            Verdict::Unhealthy => (1, format!("{}: {}", first.0, first.1.replace("212.5", "212"))),
            _ => (125, format!("{}: unknown: {}", first.0, first.1)),
        };
        assert_eq!((code, said.contains(&line)), (Some(expected), true), "{line}\nin {said}\nof {text}");
        assert_eq!(code == Some(0), !said.contains("E-"), "{said}");
    }
}

/// DCGM 4 has another first key than DCGM 3, and a summary per test.
#[test]
fn both_shapes_of_dcgmi_are_read_on_both_sides() {
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
        (nccom.to_owned(), 0, "ok: nccom-test 40 GB/s"),
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
        (nccom.replace("Avg", "no"), 125, "E-HEALTH-NCCOM-TEST: unknown: nccom-test gives no bandwidth"),
        ("@@rc nccom-test missing\n".to_owned(), 0, "ok: nccom-test is not installed"),
        (String::new(), 125, "E-HEALTH-NCCOM-TEST: unknown: nccom-test was cut off"),
    ];
    for (text, code, line) in cases {
        let (rc, said) = gated("trainium2", &[QUICK, &text].concat());
        assert_eq!((rc, said.contains(line)), (Some(code), true), "{line}\nin {said}\nof {text}");
    }
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
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::write(dir.path().join("log"), text).expect("written");
        let tool = dir.path().join("dmesg");
        std::fs::write(&tool, format!("#!/bin/sh\ncat {}/log\n", dir.path().display())).expect("written");
        std::fs::set_permissions(&tool, std::fs::Permissions::from_mode(0o755)).expect("made runnable");
        Self(dir)
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
    let found = format!("process {pid} sleep runs on after Xid 31");
    assert_eq!(log.run(&guard), (Some(1), found));
    // Reaped as its parent would, so that it is gone when it ended.
    let reaper = std::thread::spawn(move || child.wait().expect("waited for"));
    let (code, said) = log.run(&apply);
    assert_eq!((code, said), (Some(0), format!("ends process {pid} (TERM)")));
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
