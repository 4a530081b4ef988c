//! Facts: the first section of the observing exec. Owns the shell that gathers them and the parser; one process per
//! tool, builtins where there are any.

use super::frame::Sections;
use crate::state::{Facts, Headers, LockRecord, Managed, Mounted, OpenBatch, PackageManager, PciFunction};
use std::collections::BTreeMap;

/// What is asked where there are accelerators: headers of the running kernel (repositories drop old ones: gpu-operator#85,
/// #155), and drivers that were not installed from our repository (deepops#1257, gpu-operator#70).
const ACCELERATORS: &str = r#"accelerators() {
k=$(uname -r)
if [ -d "/lib/modules/$k/build" ] || [ -d "/usr/src/kernels/$k" ]; then echo 'headers present'
elif command -v apt-cache >/dev/null 2>&1; then
l=; for p in /var/lib/apt/lists/*_Packages*; do [ -e "$p" ] && l=yes; done
p=$(t 10 apt-cache policy "linux-headers-$k"); r=$?
case "$r $p" in '0 '|'0 '*'Candidate: ('*) [ -z "$l" ] && echo 'headers installable' || echo 'headers gone';; *) echo 'headers installable';; esac
else echo 'headers installable'; fi
[ -e /usr/bin/nvidia-uninstall ] && echo "foreign a driver of NVIDIA's .run installer (/usr/bin/nvidia-uninstall)"
[ -e /run/nvidia/driver/usr/bin/nvidia-smi ] && echo 'foreign a driver container (/run/nvidia/driver)'
grep -ls graphics-drivers /etc/apt/sources.list.d/* 2>/dev/null | while read -r p; do echo "foreign the graphics-drivers repository ($p)"; done
t 10 dpkg-query -W -f '${db:Status-Abbrev} ${Package}\n' 'nvidia-*-server*' 'linux-modules-nvidia-*' | while read -r s p; do
case $s in ?i*) echo "foreign package $p of the distribution";; esac; done
}
"#;

/// Units that preflight looks for; `systemctl is-active` answers with a line for each, in this order.
const SERVICES: [&str; 12] = [
    "docker.service",
    "containerd.service",
    "crio.service",
    "k3s.service",
    "k3s-agent.service",
    "rke2-server.service",
    "rke2-agent.service",
    "kubelet.service",
    "snap.microk8s.daemon-kubelite.service",
    "fapolicyd.service",
    "firewalld.service",
    "ufw.service",
];

/// Returns the program that prints the facts. `state` is our folder on the host.
pub fn program(state: &str) -> String {
    let state = crate::template::quote(state);
    let services = SERVICES.join(" ");
    format!(
        r#"{ACCELERATORS}facts() {{
S={state}
# What hangs in the kernel cannot be killed, but the shell around it can.
t() {{ s=$1; shift; timeout -k 1 "$s" /bin/sh -c '"$@"; exit $?' t "$@" 2>/dev/null; }}
f() {{ printf '\036%s\n' "$1"; }}
f uname; uname -s; uname -r; uname -m; uname -n
f os; cat /etc/os-release 2>/dev/null
f hostname; cat /etc/hostname 2>/dev/null
f machine; cat /etc/machine-id 2>/dev/null
f boot; cat /proc/sys/kernel/random/boot_id 2>/dev/null
f product; cat /sys/class/dmi/id/product_uuid 2>/dev/null
f systemd; [ -d /run/systemd/system ] && echo yes
f uid; id -u
f cpus; getconf _NPROCESSORS_ONLN 2>/dev/null
f memory; while read -r k v _; do case $k in MemTotal:) echo "$v"; break;; esac; done </proc/meminfo
f now; date +%s
f uptime; read -r u _ </proc/uptime && echo "${{u%%.*}}"
f df; t 5 df -Pk / /var /var/lib /tmp
f disks; t 5 df -Pkl -x tmpfs -x devtmpfs -x overlay -x squashfs
f mounts; grep -Ev ' (overlay|nsfs|proc|sysfs|cgroup2?|devpts|mqueue|debugfs|tracefs|securityfs|pstore|bpf|configfs|fusectl|hugetlbfs|binfmt_misc|autofs|squashfs|efivarfs) | /(var/lib/kubelet/pods|run/containerd|run/k0s|run/credentials)/' /proc/self/mounts
f selinux; cat /sys/fs/selinux/enforce 2>/dev/null; echo
f apparmor; cat /sys/module/apparmor/parameters/enabled 2>/dev/null
f services; t 5 systemctl is-active {services}
f tools; command -v apt-get dnf 2>/dev/null
f cgroup; [ -e /sys/fs/cgroup/cgroup.controllers ] && echo 2 || echo 1
f modules; for m in /sys/module/*/initstate; do [ -e "$m" ] && {{ m=${{m%/initstate}}; echo "${{m##*/}}"; }}; done
f versions; for m in nvidia neuron nouveau mlx5_core mlx5_ib; do [ -r /sys/module/$m/version ] && {{ read -r v </sys/module/$m/version; echo "$m $v"; }}; done
f pci; for d in /sys/bus/pci/devices/*; do [ -r "$d/vendor" ] || continue; read -r v <"$d/vendor"
case $v in 0x10de|0x1d0f|0x15b3) c=; s=; t=; read -r e <"$d/device"; read -r c <"$d/class"; read -r s <"$d/subsystem_vendor"; read -r t <"$d/subsystem_device"; echo "${{d##*/}} $v $e $c ${{s:--}} ${{t:--}}";; esac; done 2>/dev/null
f accelerators; case $(cat /sys/bus/pci/devices/*/vendor 2>/dev/null) in *0x10de*|*0x1d0f*) accelerators;; esac
f addresses; t 5 ip -o addr show scope global
f secureboot; for v in /sys/firmware/efi/efivars/SecureBoot-*; do [ -r "$v" ] && od -An -tu1 -j4 -N1 "$v"; done 2>/dev/null
f cloudinit; if command -v cloud-init >/dev/null 2>&1; then t 5 cloud-init status; [ $? -lt 124 ] || echo 'status: unknown (timed out)'; fi
f managed; cat "$S/managed.json" 2>/dev/null; echo
f lock; cat "$S/lock" 2>/dev/null; echo
f restarts; cat "$S/restarts" 2>/dev/null
f left; for d in /dev/shm/provision-*-*-* /run/provision-*-*-* "$S"/runs/*/program.new; do if [ -e "$d" ]; then echo "$d"; fi; done
f held; if [ -e "$S/lock" ] && command -v flock >/dev/null 2>&1; then flock -n "$S/lock" true || echo held; fi
f batches; for b in "$S"/runs/*; do [ -d "$b" ] && [ ! -e "$b/rc" ] || continue; if flock -n "$b/alive" true 2>/dev/null; then echo "${{b##*/}} dead"; else echo "${{b##*/}} alive"; fi; done
printf '\036end 0\n'
}}; facts </dev/null
"#
    )
}

/// Reads the facts; the error names what no host can lack.
pub fn parse(sections: &Sections) -> Result<Facts, String> {
    let uname = sections.lines("uname");
    let part = |n: usize| uname.get(n).map(|l| l.trim().to_owned()).unwrap_or_default();
    let hex = |text: &str| text.trim_start_matches("0x").to_owned();
    let mut modules: BTreeMap<String, String> = sections
        .lines("modules")
        .iter()
        .filter(|l| !l.is_empty())
        .map(|m| (m.clone(), String::new()))
        .collect();
    for line in sections.lines("versions") {
        if let Some((module, version)) = line.split_once(' ') {
            modules.insert(module.to_owned(), version.to_owned());
        }
    }
    let managed = sections.lines("managed").join("\n");
    let managed = match managed.trim() {
        "" => Vec::new(),
        text => parse_managed(text).map_err(|e| format!("managed.json cannot be read: {e}"))?,
    };
    // df answers in the order of the question, but with the names of mount points.
    const ASKED: [&str; 4] = ["/", "/var", "/var/lib", "/tmp"];
    let disks = sections.lines("disks").iter().skip(1).filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        Some(((*words.get(5)?).to_owned(), words.get(3)?.parse().ok()?))
    });
    let free =
        sections.lines("df").iter().skip(1).zip(ASKED).filter_map(|(line, path)| {
            Some((path.to_owned(), line.split_whitespace().nth(3)?.parse().ok()?))
        });
    let facts = Facts {
        kernel_name: part(0),
        kernel: part(1),
        arch: part(2),
        hostname: match sections.first("hostname") {
            "" => part(3),
            name => name.to_owned(),
        },
        machine_id: sections.first("machine").to_owned(),
        boot_id: sections.first("boot").to_owned(),
        product_uuid: sections.first("product").to_owned(),
        os: sections
            .lines("os")
            .iter()
            .filter_map(|line| line.split_once('='))
            .map(|(k, v)| (k.to_owned(), v.trim_matches('"').to_owned()))
            .collect(),
        package_manager: sections.lines("tools").iter().find_map(|line| match line.rsplit('/').next() {
            Some("apt-get") => Some(PackageManager::Apt),
            Some("dnf") => Some(PackageManager::Dnf),
            _ => None,
        }),
        systemd: sections.first("systemd") == "yes",
        uid: sections.first("uid").parse().unwrap_or(u32::MAX),
        cpus: sections.first("cpus").parse().unwrap_or(0),
        memory_kib: sections.first("memory").parse().unwrap_or(0),
        now_s: sections.first("now").parse().unwrap_or(0),
        uptime_s: sections.first("uptime").parse().unwrap_or(0),
        free_kib: disks.chain(free).collect(),
        mounts: sections
            .lines("mounts")
            .iter()
            .filter_map(|line| {
                let words: Vec<&str> = line.split(' ').collect();
                let [_, path, kind, options, ..] = words[..] else { return None };
                let (path, kind, options) = (path.to_owned(), kind.to_owned(), options.to_owned());
                Some(Mounted { path, kind, options })
            })
            .collect(),
        skew_s: 0,
        selinux: match sections.first("selinux").trim() {
            "1" => Some("enforcing".to_owned()),
            "0" => Some("permissive".to_owned()),
            _ => None,
        },
        apparmor: sections.first("apparmor").trim() == "Y",
        services: match sections.lines("services").len() == SERVICES.len() {
            true => SERVICES
                .iter()
                .zip(sections.lines("services"))
                .filter(|(_, state)| state.as_str() == "active")
                .map(|(name, _)| (*name).to_owned())
                .collect(),
            false => Vec::new(),
        },
        addresses: sections
            .lines("addresses")
            .iter()
            .filter_map(|line| {
                let words: Vec<&str> = line.split_whitespace().collect();
                Some(((*words.get(1)?).to_owned(), (*words.get(3)?).to_owned()))
            })
            .collect(),
        pci: sections
            .lines("pci")
            .iter()
            .filter_map(|line| {
                let words: Vec<&str> = line.split(' ').collect();
                let [address, vendor, device, class, subvendor, subdevice] = words[..] else { return None };
                Some(PciFunction {
                    address: address.to_owned(),
                    vendor: hex(vendor),
                    device: hex(device),
                    class: hex(class),
                    subsystem_vendor: hex(subvendor),
                    subsystem_device: hex(subdevice),
                })
            })
            .collect(),
        modules,
        secure_boot: match sections.first("secureboot") {
            "" => None,
            state => Some(state == "1"),
        },
        headers: sections.lines("accelerators").iter().find_map(|line| {
            Some(match line.strip_prefix("headers ")? {
                "present" => Headers::Present,
                "gone" => Headers::Gone,
                _ => Headers::Installable,
            })
        }),
        foreign_drivers: sections
            .lines("accelerators")
            .iter()
            .filter_map(|line| line.strip_prefix("foreign ").map(str::to_owned))
            .collect(),
        cgroup: sections.first("cgroup").parse().ok(),
        cloud_init: sections.first("cloudinit").strip_prefix("status: ").map(str::to_owned),
        managed,
        lock: parse_lock(&sections.lines("lock").join("\n"), sections.first("held") == "held"),
        open_batches: sections
            .lines("batches")
            .iter()
            .filter_map(|line| line.split_once(' '))
            .map(|(id, state)| OpenBatch { id: id.to_owned(), alive: state == "alive" })
            .collect(),
    };
    if facts.kernel_name.is_empty() {
        return Err("uname gave no answer".to_owned());
    }
    Ok(facts)
}

/// Reads managed.json: a list whose last element is an empty object, so that every entry can end in a comma.
fn parse_managed(text: &str) -> Result<Vec<Managed>, serde_json::Error> {
    let entries: Vec<serde_json::Value> = serde_json::from_str(text)?;
    entries
        .into_iter()
        .filter(|entry| entry.as_object().is_some_and(|o| !o.is_empty()))
        .map(serde_json::from_value)
        .collect()
}

fn parse_lock(text: &str, held: bool) -> Option<LockRecord> {
    let mut record: LockRecord = serde_json::from_str(text.trim()).ok()?;
    record.held = held;
    Some(record)
}
