//! Kernel log and test tools of accelerators: dmesg, dcgmi, nvbandwidth, nccl-tests, nccom-test, fio. Shapes and phrases
//! as the real ones have them; the numbers are those of a healthy host.

use super::common::{Ended, Settings, fail, has};
use super::hardware::loaded;
use crate::lab::hardware_fault::HardwareFault;

/// `dmesg`.
pub(super) fn dmesg(settings: &Settings) -> Ended {
    println!("[    0.000000] Linux version LAB");
    let modules = loaded();
    if let Some(version) = modules.get("nvidia") {
        println!(
            "[   12.000000] NVRM: loading NVIDIA UNIX Open Kernel Module for x86_64  {version}  Release Build"
        );
        for fault in settings.hardware_faults() {
            if let HardwareFault::Xid(number) = fault {
                println!(
                    "[   42.000000] NVRM: Xid (PCI:0000:0c:00): {number}, pid='<unknown>', name=<unknown>, LAB fault"
                );
            }
        }
    }
    if let Some(version) = modules.get("neuron") {
        println!("[   12.000000] Neuron Driver Started with Version:{version}-LAB");
    }
    Ok(())
}

/// `dcgmi diag -r N -j`, in the shape of DCGM 3.
pub(super) fn dcgmi(settings: &Settings) -> Ended {
    if !loaded().contains_key("nvidia") {
        return fail(226, "Error: unable to establish a connection to the specified host: localhost");
    }
    let fails = has(settings, &HardwareFault::Ecc) || has(settings, &HardwareFault::Diagnostics);
    let memory = if fails { "Fail" } else { "Pass" };
    let test = |name: &str, status: &str| serde_json::json!({"name": name, "results": [{"status": status, "gpu_ids": "0"}]});
    let tree = serde_json::json!({"DCGM GPU Diagnostic": {"test_categories": [
        {"category": "Deployment", "tests": [test("NVML Library", "Pass"), test("Page Retirement/Row Remap", memory)]},
        {"category": "Hardware", "tests": [test("GPU Memory", memory), test("Diagnostic", "Skip")]},
    ]}});
    println!("{}", serde_json::to_string_pretty(&tree).unwrap_or_default());
    Ok(())
}

/// `nvbandwidth -t TEST`.
pub(super) fn nvbandwidth(settings: &Settings, arguments: &[&str]) -> Ended {
    let count = settings.hardware.as_ref().map_or(0, |h| h.count);
    let test = arguments.iter().find(|a| a.contains("memcpy")).copied().unwrap_or("host_to_device_memcpy_ce");
    let slow = has(settings, &HardwareFault::Pcie);
    println!("Running {test}.");
    println!("memcpy CE (row) -> (column) bandwidth (GB/s)");
    let header: Vec<String> = (0..count).map(|n| format!("{n:>9}")).collect();
    println!("  {}", header.join(" "));
    let (rows, value) = if test.starts_with("host") { (1, 55.0) } else { (count, 390.0) };
    for row in 0..rows {
        let value = |column: u32| match () {
            () if rows > 1 && row == column => 0.0,
            () if slow && column == 0 => value / 2.0,
            () => value,
        };
        let values: Vec<String> = (0..count).map(|column| format!("{:>9.2}", value(column))).collect();
        println!("{row} {}", values.join(" "));
    }
    println!("\nSUM {test} 1.00");
    Ok(())
}

/// `all_reduce_perf`.
pub(super) fn all_reduce(settings: &Settings) -> Ended {
    if has(settings, &HardwareFault::FabricStuck) {
        return fail(3, "LAB: Test CUDA failure common.cu:892 'system not yet initialized'");
    }
    let bandwidth = match () {
        () if has(settings, &HardwareFault::Pcie) => 212.5,
        () if has(settings, &HardwareFault::SlowCollective) => 445.0,
        () => 477.0,
    };
    println!("#       size         count      type   redop    root     time   algbw   busbw #wrong");
    println!("  8589934592    2147483648     float     sum      -1  31500.0  272.70  {bandwidth:.2}      0");
    println!("# Out of bounds values : 0 OK\n# Avg bus bandwidth    : {bandwidth}\n#");
    Ok(())
}

/// `nccom-test`.
pub(super) fn nccom_test(settings: &Settings) -> Ended {
    if !loaded().contains_key("neuron") {
        return fail(1, "Neuron DKMS Driver is not running! Read the troubleshooting guide at: LAB");
    }
    if has(settings, &HardwareFault::Diagnostics) {
        println!("  33554432   Failure running neuron-bench - log file /tmp/nccom_test_log_LAB.log");
        return fail(1, "1 errors found");
    }
    println!("   size(B)    count(elems)     type    time(us)    algbw(GB/s)    busbw(GB/s)");
    println!("  33554432        33554432    uint8     768.0         40.70          40.70");
    println!("Avg bus bandwidth:      40.7000GB/s");
    Ok(())
}

/// `fio --output-format=json`.
pub(super) fn fio() -> Ended {
    println!(
        "{}",
        serde_json::json!({"fio version": "fio-3.33", "jobs": [{"jobname": "provision", "read": {"iops": 900000.0}}]})
    );
    Ok(())
}
