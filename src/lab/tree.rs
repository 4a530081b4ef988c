//! A host's folders before anything was done to it: what an installed Debian with sshd has, and its hardware in /sys.

use super::hardware_fault::HardwareFault;
use super::limits::enter;
use super::machine::{self, COVERED, DEVICES};
use super::spec::{FaultKind, Hardware, Host, Spec};
use super::walls::TOOL;
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, fchmod, fstat, openat, renameat, unlinkat};
use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

/// Settings of a fresh kernel that programs read or raise.
const SYSCTLS: [(&str, &str); 22] = [
    ("net/ipv4/ip_forward", "0"),
    ("net/ipv6/conf/all/forwarding", "0"),
    ("net/bridge/bridge-nf-call-iptables", "0"),
    ("net/bridge/bridge-nf-call-ip6tables", "0"),
    ("net/core/somaxconn", "4096"),
    ("fs/inotify/max_user_instances", "128"),
    ("fs/inotify/max_user_watches", "65536"),
    ("fs/file-max", "9223372036854775807"),
    ("fs/aio-max-nr", "65536"),
    ("net/core/rmem_max", "212992"),
    ("net/core/wmem_max", "212992"),
    ("net/core/netdev_max_backlog", "1000"),
    ("net/ipv4/ip_local_port_range", "32768\t60999"),
    ("vm/swappiness", "60"),
    ("vm/nr_hugepages", "0"),
    ("vm/dirty_ratio", "20"),
    ("vm/max_map_count", "65530"),
    ("vm/overcommit_memory", "0"),
    ("vm/panic_on_oom", "0"),
    ("kernel/panic", "0"),
    ("kernel/panic_on_oops", "0"),
    ("kernel/pid_max", "32768"),
];

/// The tools that stand in for real ones; each is a link to the executable.
const TOOLS: &str = "apt-get apt-mark apt-cache dpkg dpkg-query systemctl systemd-run journalctl sudo reboot modprobe rmmod lsmod \
    sysctl hostnamectl swapoff update-initramfs dkms curl ip chronyc nvidia-smi nvidia-ctk neuron-ls cloud-init mokutil df wget \
    nvidia-persistenced dnf rpm timedatectl crictl dmesg dcgmi nvbandwidth all_reduce_perf nccom-test fio uname arch nproc \
    getconf ssh uptime free ps ss lsblk findmnt";

/// Folders of a fresh host.
const FOLDERS: &str = "usr proc sys dev/shm etc/apt/sources.list.d etc/apt/keyrings etc/apt/apt.conf.d etc/systemd/system \
    etc/modules-load.d etc/modprobe.d etc/sysctl.d etc/security/limits.d var/lib/lab var/log var/tmp var/lib/dpkg \
    run/systemd/system run/lab tmp root opt/lab home/ubuntu mnt";

fn write(path: &Path, text: &str) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(path, text)
}

/// How long folders are tried to be removed while programs that were killed may still write into them.
const REMOVE_DEADLINE: Duration = Duration::from_secs(5);

/// Removes what a lab that does not run has left in its folder, but keys and records.
pub fn clear(lab: &Path) -> io::Result<()> {
    let _ = fs::remove_file(lab.join(super::sockets::CONTROL));
    remove(&lab.join("hosts"))
}

/// Removes a folder and all that is in it. Links are removed, never followed.
fn remove(dir: &Path) -> io::Result<()> {
    let began = Instant::now();
    loop {
        match remove_all(dir) {
            Err(error) if began.elapsed() > REMOVE_DEADLINE => return Err(error),
            // A program that was killed may still have made something.
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
            Ok(()) => return Ok(()),
        }
    }
}

/// Removes a folder and all that is in it, however deep it is. Links are removed, never followed.
fn remove_all(dir: &Path) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let top = match openat(CWD, dir, flags, Mode::empty()) {
        Err(rustix::io::Errno::NOENT) => return Ok(()),
        top => top?,
    };
    fchmod(&top, Mode::from_raw_mode(fstat(&top)?.st_mode) | Mode::RWXU)?;
    loop {
        let mut folders = Vec::new();
        for entry in Dir::read_from(&top)? {
            let entry = entry?;
            let name = entry.file_name();
            match entry.file_type() {
                _ if matches!(name.to_bytes(), b"." | b"..") => {}
                FileType::Directory => folders.push(name.to_owned()),
                _ => unlinkat(&top, name, AtFlags::empty())?,
            }
        }
        if folders.is_empty() {
            return fs::remove_dir(dir);
        }
        for name in folders {
            let folder = enter(&top, &name)?;
            fchmod(&folder, Mode::RWXU)?;
            let mut inside = Vec::new();
            // Files first: on a full disk they make room for what moves.
            for entry in Dir::read_from(&folder)? {
                let entry = entry?;
                match entry.file_type() {
                    _ if matches!(entry.file_name().to_bytes(), b"." | b"..") => {}
                    FileType::Directory => inside.push(entry.file_name().to_owned()),
                    _ => unlinkat(&folder, entry.file_name(), AtFlags::empty())?,
                }
            }
            for inner in &inside {
                // Up, so that no depth has to be gone into; it must be writable to change its parent. Under a name that no other
                // folder has, such as one that an interrupted removal left.
                fchmod(&enter(&folder, inner)?, Mode::RWXU)?;
                renameat(&folder, inner, &top, format!(".lab-{:016x}", rand::random::<u64>()))?;
            }
            unlinkat(&top, &name, AtFlags::REMOVEDIR)?;
        }
    }
}

/// Makes a host's folders anew.
pub(super) fn build(spec: &Spec, host: &Host) -> io::Result<()> {
    let dir = spec.host_dir(&host.name);
    remove(&dir)?;
    let root = dir.join("root");
    for folder in FOLDERS.split(' ') {
        fs::create_dir_all(root.join(folder))?;
    }
    for name in DEVICES {
        fs::write(root.join("dev").join(name), "")?;
    }
    fs::write(root.join("opt/lab/tool"), "")?;
    fs::hard_link(spec.dir.join(TOOL), dir.join(TOOL))?;
    for (link, target) in
        [("bin", "usr/bin"), ("sbin", "usr/sbin"), ("lib", "usr/lib"), ("lib64", "usr/lib64")]
    {
        if Path::new("/").join(target).exists() {
            std::os::unix::fs::symlink(target, root.join(link))?;
        }
    }
    // What dynamic linking and alternatives need of the machine's /etc.
    for name in ["ld.so.cache", "ld.so.conf"] {
        let _ = fs::copy(Path::new("/etc").join(name), root.join("etc").join(name));
    }
    if let Ok(entries) = fs::read_dir("/etc/alternatives") {
        fs::create_dir_all(root.join("etc/alternatives"))?;
        for entry in entries.flatten() {
            if let Ok(target) = fs::read_link(entry.path()) {
                let _ =
                    std::os::unix::fs::symlink(target, root.join("etc/alternatives").join(entry.file_name()));
            }
        }
    }
    let machine_id = format!("{:032x}", rand::random::<u128>());
    let etc = |name: &str, text: &str| write(&root.join("etc").join(name), text);
    etc("hostname", "localhost\n")?;
    etc("machine-id", &format!("{machine_id}\n"))?;
    etc("hosts", "127.0.0.1 localhost\n")?;
    etc("fstab", "UUID=lab / ext4 defaults 0 1\n/swap.img none swap sw 0 0\n")?;
    etc("passwd", "root:x:0:0:root:/root:/bin/sh\nubuntu:x:1000:1000::/home/ubuntu:/bin/sh\n")?;
    etc("group", "root:x:0:\nubuntu:x:1000:\n")?;
    etc(
        "os-release",
        "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm), simulated\"\nNAME=\"Debian GNU/Linux\"\nVERSION_ID=\"12\"\n\
         VERSION_CODENAME=bookworm\nID=debian\n",
    )?;

    let proc = dir.join("proc");
    for name in COVERED.split(' ') {
        write(&proc.join(name), "")?;
    }
    write(&proc.join("swaps"), "Filename\tType\tSize\tUsed\tPriority\n/swap.img file 4194304 0 -2\n")?;
    let sys = dir.join("proc-sys");
    for (key, value) in SYSCTLS {
        write(&sys.join(key), &format!("{value}\n"))?;
    }
    machine::build(&dir)?;
    new_boot(&dir)?;
    let local = dir.join("usr-local");
    for folder in ["bin", "sbin", "lib", "share", "etc"] {
        fs::create_dir_all(local.join(folder))?;
    }
    for tool in TOOLS.split(' ') {
        std::os::unix::fs::symlink("/opt/lab/tool", local.join("bin").join(tool))?;
    }
    let faults: Vec<_> = spec.faults_of(&host.name).cloned().collect();
    write(&root.join(SETTINGS), &settings(host, &faults))?;
    fs::create_dir_all(root.join("sys/module"))?;
    let broken =
        |fault: HardwareFault| spec.faults_of(&host.name).any(|f| *f == FaultKind::Hardware(fault.clone()));
    if let Some(hardware) = &host.hardware {
        let mut there = hardware.clone();
        there.count -= u32::from(broken(HardwareFault::Missing)).min(there.count);
        if let Some((_, _, count)) = &mut there.nics {
            *count -= u32::from(broken(HardwareFault::NicMissing)).min(*count);
        }
        pci(&root.join("sys"), &there, broken(HardwareFault::Pcie))?;
    }
    if broken(HardwareFault::SecureBoot) {
        // Four bytes of attributes, then the value.
        let variable = "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";
        fs::create_dir_all(root.join("sys/firmware/efi/efivars"))?;
        fs::write(root.join(variable), [6, 0, 0, 0, 1])?;
    }
    if broken(HardwareFault::Nouveau) {
        write(&root.join("sys/module/nouveau/initstate"), "live\n")?;
        write(&root.join("var/lib/lab/modules.json"), "{\"nouveau\":\"\"}")?;
    }
    // The repositories' lists have been fetched: what they do not name is not to be had.
    write(&root.join("var/lib/apt/lists/lab_Packages"), "LAB\n")?;
    // A machine of today: cgroup v2, whatever the one is that the lab runs on.
    write(&root.join("sys/fs/cgroup/cgroup.controllers"), "cpuset cpu io memory hugetlb pids\n")?;
    Ok(())
}

/// Where the host's tools read what they are to play, below its root.
pub(super) const SETTINGS: &str = "var/lib/lab/settings.json";

/// Returns what the host's tools are to play. They read it at each start, so it is replaced as a whole.
pub(super) fn settings(host: &Host, faults: &[FaultKind]) -> String {
    let settings = serde_json::json!({
        "host": host.name,
        "hardware": host.hardware,
        "sudo_sha256": host.sudo_sha256,
        "faults": faults,
    });
    settings.to_string()
}

/// Gives a host's folders to the user that its root is outside. Nothing runs on it yet.
pub(super) fn give(dir: &Path, owner: u32) -> io::Result<()> {
    // All hosts of the lab have the same one.
    if dir.file_name().is_some_and(|name| name == TOOL) {
        return Ok(());
    }
    std::os::unix::fs::lchown(dir, Some(owner), Some(owner))?;
    if fs::symlink_metadata(dir)?.is_dir() {
        for entry in fs::read_dir(dir)? {
            give(&entry?.path(), owner)?;
        }
    }
    Ok(())
}

/// Gives the host a new boot id.
pub(super) fn new_boot(dir: &Path) -> io::Result<()> {
    let r = rand::random::<u128>();
    let hex = format!("{r:032x}");
    let id = format!("{}-{}-4{}-a{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..]);
    write(&dir.join("proc-sys/kernel/random/boot_id"), &format!("{id}\n"))
}

fn pci(sys: &Path, hardware: &Hardware, narrow: bool) -> io::Result<()> {
    let mut bus = 0x0c;
    let mut function = |vendor: &str, device: &str, class: &str| -> io::Result<()> {
        let folder = sys.join(format!("bus/pci/devices/0000:{bus:02x}:00.0"));
        bus += 1;
        for (name, value) in [
            ("vendor", vendor),
            ("device", device),
            ("class", class),
            ("subsystem_vendor", vendor),
            ("subsystem_device", "0000"),
        ] {
            write(&folder.join(name), &format!("0x{value}\n"))?;
        }
        if class != "068000" {
            let width = if narrow && bus == 0x0d { "8\n" } else { "16\n" };
            write(&folder.join("current_link_width"), width)?;
            write(&folder.join("max_link_width"), "16\n")?;
        }
        write(&folder.join("numa_node"), "0\n")
    };
    // 3D controller; what AWS gives its own devices is class 0x088000 (other system peripheral).
    let class = if hardware.vendor == "nvidia" { "030200" } else { "088000" };
    for _ in 0..hardware.count {
        function(&hardware.pci_vendor, &hardware.pci_device, class)?;
    }
    if let Some((device, count)) = &hardware.switches {
        for _ in 0..*count {
            function("10de", device, "068000")?;
        }
    }
    if let Some((vendor, device, count)) = &hardware.nics {
        for _ in 0..*count {
            function(vendor, device, "020000")?;
        }
    }
    Ok(())
}
