//! Kernel, processors and memory of every simulated host. None of it is taken from the machine that the lab runs on, so
//! that answers, and with them plans, are the same everywhere.

use std::io;
use std::path::Path;

/// The kernel of a fresh host: of Debian 12's series, with an ABI number that Debian never reached, so that no machine has
/// headers or modules of it below the `/usr` that hosts share.
pub(super) const RELEASE: &str = "6.1.0-99-amd64";
/// What `uname -v` says of it.
pub(super) const VERSION: &str = "#1 SMP PREEMPT_DYNAMIC Debian 6.1.199-1 (2026-01-01)";
/// Every simulated host is one of these, also on a machine that is not: nothing on it is compiled.
pub(super) const ARCHITECTURE: &str = "x86_64";
/// Processors; as many as the host's node has in the simulated cluster.
pub(super) const CPUS: u32 = 192;
/// Memory in KiB; as much as the host's node has in the simulated cluster.
pub(super) const MEMORY_KIB: u64 = 2 << 30;
/// Seconds since the host booted: long enough for nothing to be waited for.
pub(super) const UPTIME_S: u64 = 86_400;
/// Device nodes that a host gets; never a disk.
pub(super) const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

/// Files of /proc that show the machine or could harm it; each is covered by a file of the host.
pub(super) const COVERED: &str = "modules swaps sysrq-trigger kcore version cmdline cpuinfo meminfo uptime loadavg stat config.gz \
    partitions diskstats mdstat interrupts iomem ioports kallsyms kmsg";

/// What covers all else in /proc that is of the machine, in the host's folder: an empty file and an empty folder.
pub(super) const NO_FILE: &str = "nothing/file";
pub(super) const NO_FOLDER: &str = "nothing/folder";
/// Where mounts are made ready, in the host's folder: a folder, and a file.
pub(super) const STAGE: &str = "stage/folder";
pub(super) const STAGE_FILE: &str = "stage/file";
/// The executable, from which the first process of a program runs.
pub(super) const STAGE_EXE: &str = "stage/exe";

/// Where a host keeps the release that it booted into, below its root.
const BOOTED: &str = "var/lib/lab/kernel";

/// Returns the release of the kernel that a host runs; `root` is its root as the caller sees it.
pub(super) fn release(root: &Path) -> String {
    std::fs::read_to_string(root.join(BOOTED)).map_or_else(|_| RELEASE.to_owned(), |r| r.trim().to_owned())
}

/// Boots the host with the folder `dir` into another kernel.
pub(super) fn boot(dir: &Path, release: &str) -> io::Result<()> {
    std::fs::write(dir.join("root").join(BOOTED), release)?;
    kernel(dir, release)
}

/// Writes the files of /proc that describe the kernel.
fn kernel(dir: &Path, release: &str) -> io::Result<()> {
    for (name, text) in [("osrelease", release), ("version", VERSION), ("ostype", "Linux")] {
        write(&dir.join("proc-sys/kernel").join(name), &format!("{text}\n"))?;
    }
    let compiler = "debian-kernel@lists.debian.org";
    write(&dir.join("proc/version"), &format!("Linux version {release} ({compiler}) {VERSION}\n"))?;
    let line = format!("BOOT_IMAGE=/boot/vmlinuz-{release} root=UUID=lab ro quiet\n");
    write(&dir.join("proc/cmdline"), &line)
}

/// Writes what /proc and /sys of a fresh host say of the machine that it plays.
pub(super) fn build(dir: &Path) -> io::Result<()> {
    std::fs::create_dir_all(dir.join(NO_FOLDER))?;
    write(&dir.join(NO_FILE), "")?;
    std::fs::create_dir_all(dir.join(STAGE))?;
    write(&dir.join(STAGE_FILE), "")?;
    write(&dir.join(STAGE_EXE), "")?;
    let proc = dir.join("proc");
    let cpu = |n: u32| format!("processor\t: {n}\nvendor_id\t: LAB\nmodel name\t: simulated\n\n");
    write(&proc.join("cpuinfo"), &(0..CPUS).map(cpu).collect::<String>())?;
    let free = MEMORY_KIB / 4 * 3;
    let memory = [("MemTotal", MEMORY_KIB), ("MemFree", free), ("MemAvailable", free), ("Buffers", 0)];
    let rest = [("Cached", 0), ("Shmem", 0), ("SReclaimable", 0), ("SwapTotal", 0), ("SwapFree", 0)];
    let memory = memory.iter().chain(&rest).map(|(name, kib)| format!("{name}: {kib} kB\n"));
    write(&proc.join("meminfo"), &memory.collect::<String>())?;
    write(&proc.join("uptime"), &format!("{UPTIME_S}.00 {UPTIME_S}.00\n"))?;
    write(&proc.join("loadavg"), "0.00 0.00 0.00 1/100 100\n")?;
    write(&dir.join("root/sys/devices/system/cpu/online"), &format!("0-{}\n", CPUS - 1))?;
    kernel(dir, RELEASE)
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::write(path, text)
}
