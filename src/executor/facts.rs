//! Facts: the first section of the observing exec. Owns the shell that gathers them and the parser. A process on a host costs
//! more than all that the shell reads by itself, so files are read by builtins.

use super::frame::Sections;
use super::watchdog::Watchdog;
use crate::k0s::{self, BINARY as K0S_BINARY, CERTIFICATES, CLUSTER_FILES, PKI_DIR};
use crate::state::{
    Facts, Hazard, Headers, LockRecord, Managed, Mounted, OpenBatch, PackageFilter, PackageManager,
    PciFunction, RestoreLeft,
};
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
[ -d /etc/dnf ] || return 0
# Only what hides packages: these files may also have passwords. Without such lines, rpm is not asked.
d=$(awk '/^[ \t]*([#;]|$)/ { next } /^\[/ { s = $0; k = 0; next } /^[^ \t]/ { n = $0; sub(/[ \t]*=.*/, "", n); sub(/^[^=]*=/, ""); k = n ~ /^(exclude|excludepkgs|includepkgs|disable_excludes)$/ } k { print "dnf", s, n, $0 }' /etc/dnf/dnf.conf $(ls /etc/dnf/libdnf5.conf.d/*.conf /etc/yum.repos.d/epel*.repo 2>/dev/null) 2>/dev/null)
[ -n "$d" ] || return 0
printf '%s\n' "$d"
t 10 rpm -qa --qf 'rpm %{NAME} %{VERSION}\n' 2>/dev/null && echo 'rpm - -'
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

/// Network addresses, one a line.
const ADDRESSES: &str = "ip -o addr show scope global";
/// Free space of local file systems.
const DISKS: &str = "df -Pkl -x tmpfs -x devtmpfs -x overlay -x squashfs";
/// Free space where it matters; `df` answers in this order, but with the names of mount points.
const FREE: &str = "df -Pk / /var /var/lib /tmp";

/// What begins a line of these files.
const MOUNTS: &str = "/proc/self/mounts:";
const MANAGED: &str = "/managed.json:";

/// A version is no longer than this, in bytes; anything else is the complaint of a damaged binary.
const MOST_VERSION_BYTES: usize = 64;

/// Returns the program that prints the facts. `state` is our folder on the host.
pub(super) fn program(state: &str, watchdog: Watchdog) -> String {
    let state = crate::template::quote(state);
    let cluster_files = CLUSTER_FILES.join(" ");
    let certificates = CERTIFICATES.join(" ");
    let services = SERVICES.join(" ");
    let t = watchdog.function();
    format!(
        r#"{ACCELERATORS}facts() {{
S={state}
{t}f() {{ printf '\036%s\n' "$1"; }}
# Small files, by the shell itself. A number in /proc/sys would end after its first byte, a text there does not.
p() {{ [ -f "$1" ] && [ -r "$1" ] && while IFS= read -r l || [ -n "$l" ]; do printf '%s\n' "$l"; done <"$1" 2>/dev/null; }}
f uname; uname -snrm
f os; p /etc/os-release
f hostname; p /etc/hostname
f machine; p /etc/machine-id
f boot; p /proc/sys/kernel/random/boot_id
f product; p /sys/class/dmi/id/product_uuid
f systemd; [ -d /run/systemd/system ] && echo yes
f uid; while read -r k _ v _; do case $k in Uid:) echo "$v"; break;; esac; done </proc/self/status
f cpus; if [ -r /sys/devices/system/cpu/online ]; then n=0; IFS=, read -r a b </sys/devices/system/cpu/online
while [ -n "$a" ]; do n=$((n + ${{a#*-}} - ${{a%-*}} + 1)); case $b in *,*) a=${{b%%,*}}; b=${{b#*,}};; *) a=$b; b=;; esac; done; echo "$n"
else getconf _NPROCESSORS_ONLN 2>/dev/null; fi
f memory; while read -r k v _; do case $k in MemTotal:) echo "$v"; break;; esac; done </proc/meminfo
f now; date +%s
f uptime; read -r u _ </proc/uptime && echo "${{u%%.*}}"
# systemd links the invocation of each unit that is not at rest (since 236): where it has such links, and none of these, all are.
f services; a=; for u in /run/systemd/units/invocation:*; do [ -L "$u" ] && a=no; break; done
[ -z "$a" ] || for u in {services}; do [ -L "/run/systemd/units/invocation:$u" ] && a= && break; done
[ -n "$a" ] || t 5 systemctl is-active {services}
f enabled; for u in {services}; do for w in /etc/systemd/system/*.wants/"$u"; do [ -L "$w" ] && echo "$u"; done; done
f addresses; t 5 {ADDRESSES}
f disks; t 5 {DISKS}
f df; t 5 {FREE}
f files; grep -sHEv '^[^ {{]+ ([^ ]+ (overlay|nsfs|proc|sysfs|cgroup2?|devpts|mqueue|debugfs|tracefs|securityfs|pstore|bpf|configfs|fusectl|hugetlbfs|binfmt_misc|autofs|squashfs|efivarfs) |/(var/lib/kubelet/pods|run/containerd|run/k0s|run/credentials)/)' /proc/self/mounts "$S/managed.json"
f selinux; p /sys/fs/selinux/enforce; echo
f apparmor; p /sys/module/apparmor/parameters/enabled
f tools; command -v apt-get dnf 2>/dev/null
f cgroup; [ -e /sys/fs/cgroup/cgroup.controllers ] && echo 2 || echo 1
f modules; for m in /sys/module/*/initstate; do [ -e "$m" ] && {{ m=${{m%/initstate}}; echo "${{m##*/}}"; }}; done
f versions; for m in nvidia neuron nouveau mlx5_core mlx5_ib; do [ -r /sys/module/$m/version ] && {{ read -r v </sys/module/$m/version; echo "$m $v"; }}; done
f pci; a=; for d in /sys/bus/pci/devices/*; do [ -r "$d/vendor" ] || continue; read -r v <"$d/vendor"
case $v in 0x10de|0x1d0f) a=yes;; esac
case $v in 0x10de|0x1d0f|0x15b3) c=; s=; t=; read -r e <"$d/device"; read -r c <"$d/class"; read -r s <"$d/subsystem_vendor"; read -r t <"$d/subsystem_device"; echo "${{d##*/}} $v $e $c ${{s:--}} ${{t:--}}";; esac; done 2>/dev/null
f accelerators; [ -z "$a" ] || accelerators
f secureboot; for v in /sys/firmware/efi/efivars/SecureBoot-*; do [ -r "$v" ] && od -An -tu1 -j4 -N1 "$v"; done 2>/dev/null
f cloudinit; if command -v cloud-init >/dev/null 2>&1; then t 5 cloud-init status; [ $? -lt 124 ] || echo 'status: unknown (timed out)'; fi
f k0s; [ -x {K0S_BINARY} ] && t 5 {K0S_BINARY} version
f certificates; [ ! -d {PKI_DIR} ] || cat {certificates} 2>/dev/null
f up; [ -e "$S/k0s.ready" ] && echo yes
f restore; if [ -e "$S/k0s.restored" ]; then echo restored; elif [ ! -e "$S/k0s.started" ] && {{ [ -e "$S/k0s.restoring" ] || [ -e "$S/restore.tar.gz" ]; }}; then echo pending; fi
f cluster; for p in {cluster_files}; do [ ! -e "$p" ] || echo "$p"; done
f lock; p "$S/lock"; echo
f restarts; p "$S/restarts"
f left; for d in /dev/shm/provision-*-*-* /run/provision-*-*-* "$S"/runs/*/program.new; do if [ -e "$d" ]; then echo "$d"; fi; done
f held; if [ -e "$S/lock" ] && command -v flock >/dev/null 2>&1; then flock -n 9 9<"$S/lock" || echo held; fi
f batches; for b in "$S"/runs/*; do [ -d "$b" ] && [ ! -e "$b/rc" ] || continue; if flock -n "$b/alive" true 2>/dev/null; then echo "${{b##*/}} dead"; else echo "${{b##*/}} alive"; fi; done
printf '\036end 0\n'
}}; facts </dev/null
"#
    )
}

/// Reads the facts; the error names what no host can lack.
pub(super) fn parse(sections: &Sections) -> Result<Facts, String> {
    // System, node, release, machine: the node's name is what is left between the others.
    let uname: Vec<&str> = sections.first("uname").split_whitespace().collect();
    let part = |n: usize| (*uname.get(n).unwrap_or(&"")).to_owned();
    let last = |n: usize| uname.len().checked_sub(n).filter(|at| *at > 0).map(part).unwrap_or_default();
    let [disks, free, services] = ["disks", "df", "services"].map(|name| sections.lines(name));
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
    // `FILE:line`, from one process.
    let (mounts, managed): (Vec<&str>, Vec<&str>) =
        sections.lines("files").iter().map(String::as_str).partition(|line| line.starts_with(MOUNTS));
    let managed: Vec<&str> = managed.iter().filter_map(|l| Some(l.split_once(MANAGED)?.1)).collect();
    let managed = managed.join("\n");
    let managed = match managed.trim() {
        "" => Vec::new(),
        text => parse_managed(text).map_err(|e| format!("cannot read managed.json: {e}"))?,
    };
    const ASKED: [&str; 4] = ["/", "/var", "/var/lib", "/tmp"];
    let disks = disks.iter().skip(1).filter_map(|line| disk(line));
    let free =
        free.iter().skip(1).zip(ASKED).filter_map(|(line, path)| {
            Some((path.to_owned(), line.split_whitespace().nth(3)?.parse().ok()?))
        });
    let facts = Facts {
        kernel_name: part(0),
        kernel: last(2),
        arch: last(1),
        hostname: match sections.first("hostname") {
            "" => part(1),
            name => name.to_owned(),
        },
        machine_id: sections.first("machine").to_owned(),
        boot_id: sections.first("boot").to_owned(),
        product_uuid: sections.first("product").to_owned(),
        os: sections
            .lines("os")
            .iter()
            .filter_map(|line| line.trim().split_once('='))
            .map(|(k, v)| (k.to_owned(), assigned(v)))
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
        mounts: mounts
            .iter()
            .filter_map(|line| line.strip_prefix(MOUNTS))
            .filter_map(|line| {
                let words: Vec<&str> = line.split(' ').collect();
                let [_, path, kind, options, ..] = words[..] else { return None };
                let (path, kind, options) = (without_octal(path), kind.to_owned(), options.to_owned());
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
        services: match services.len() == SERVICES.len() {
            true => SERVICES
                .iter()
                .zip(services)
                .filter(|(_, state)| state.as_str() == "active")
                .map(|(name, _)| (*name).to_owned())
                .collect(),
            false => Vec::new(),
        },
        enabled: sections.lines("enabled").iter().filter(|l| !l.is_empty()).cloned().collect(),
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
        package_filters: sections
            .lines("accelerators")
            .iter()
            .filter_map(|line| package_filter(line.strip_prefix("dnf ")?))
            .collect(),
        installed: installed(sections.lines("accelerators")),
        cgroup: sections.first("cgroup").parse().ok(),
        k0s_version: Some(sections.first("k0s").trim())
            .filter(|v| v.starts_with('v') && v.len() <= MOST_VERSION_BYTES)
            .map(str::to_owned),
        k0s_was_up: sections.first("up") == "yes",
        cluster_files: sections.lines("cluster").iter().filter(|l| !l.is_empty()).cloned().collect(),
        certificates: k0s::certificates_of(&sections.lines("certificates").join("\n")),
        restore: match sections.first("restore") {
            "pending" => Some(RestoreLeft::Pending),
            "restored" => Some(RestoreLeft::Restored),
            _ => None,
        },
        // Its own warnings may come first.
        cloud_init: sections
            .lines("cloudinit")
            .iter()
            .find_map(|l| Some(l.strip_prefix("status: ")?.trim().to_owned())),
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
        return Err("uname printed nothing".to_owned());
    }
    Ok(facts)
}

/// Reads `[REPOSITORY] OPTION PATTERN, …`.
fn package_filter(line: &str) -> Option<PackageFilter> {
    let (repository, rest) = line.strip_prefix('[')?.split_once("] ")?;
    let (option, patterns) = rest.split_once(' ').unwrap_or((rest, ""));
    let patterns = patterns.split([' ', '\t', ',']).filter(|pattern| !pattern.is_empty());
    Some(PackageFilter {
        repository: repository.to_owned(),
        option: option.to_owned(),
        patterns: patterns.map(str::to_owned).collect(),
    })
}

/// Returns names and versions of installed packages; nothing unless rpm listed them to the end.
fn installed(lines: &[String]) -> Option<Vec<(String, String)>> {
    let packages = lines.iter().filter_map(|line| line.strip_prefix("rpm ")?.split_once(' '));
    let packages: Vec<_> = packages.map(|(name, version)| (name.to_owned(), version.to_owned())).collect();
    packages.iter().any(|(name, _)| name == "-").then_some(packages)
}

/// Returns the value of an assignment of os-release(5): plain, or in quotes of either kind, with the shell's escapes.
fn assigned(value: &str) -> String {
    if let Some(plain) = value.strip_prefix('\'').and_then(|v| v.strip_suffix('\'')) {
        return plain.to_owned();
    }
    let quoted = value.strip_prefix('"').and_then(|v| v.strip_suffix('"')).unwrap_or(value);
    let (mut text, mut escaped) = (String::new(), false);
    for c in quoted.chars() {
        escaped = c == '\\' && !escaped;
        if !escaped {
            text.push(c);
        }
    }
    text
}

/// Returns a field of /proc/self/mounts as it is: blanks and backslashes are written as `\040`, three octal digits (proc(5)).
fn without_octal(field: &str) -> String {
    let mut parts = field.split('\\');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let digits = part.get(..3).filter(|d| d.bytes().all(|b| (b'0'..b'8').contains(&b)));
        match digits.and_then(|d| u8::from_str_radix(d, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                bytes.extend(part.bytes().skip(3));
            }
            None => bytes.extend([b"\\", part.as_bytes()].concat()),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Reads a line of `df -Pk`: mount point, and free KiB. Names of file systems and mount points may have blanks; the column
/// between, `5%`, or `-` where there is no capacity, has none.
fn disk(line: &str) -> Option<(String, u64)> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let is_percent =
        |word: &&str| *word == "-" || word.strip_suffix('%').is_some_and(|n| n.parse::<u32>().is_ok());
    let at = words.iter().skip(4).position(is_percent)? + 4;
    Some((words.get(at + 1..).filter(|path| !path.is_empty())?.join(" "), words.get(at - 1)?.parse().ok()?))
}

/// Reads managed.json: a list whose last element is an empty object, so that every entry can end in a comma.
fn parse_managed(text: &str) -> Result<Vec<Managed>, serde_json::Error> {
    let entries: Vec<serde_json::Value> = serde_json::from_str(text)?;
    let records = entries.into_iter().filter(|entry| entry.as_object().is_some_and(|o| !o.is_empty()));
    let mut managed: Vec<Managed> = records.map(serde_json::from_value).collect::<Result<_, _>>()?;
    for record in &mut managed {
        // Which pods may be lost is for the cluster to say; a host that was taken over could name any.
        record.hazards.retain(|h| h.pod().is_none() && !matches!(h, Hazard::ForceDelete(_)));
    }
    Ok(managed)
}

fn parse_lock(text: &str, held: bool) -> Option<LockRecord> {
    let mut record: LockRecord = serde_json::from_str(text.trim()).ok()?;
    record.held = held;
    Some(record)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;
    use std::process::{Command, Stdio};

    /// Gathers facts of this machine, with these scripts before its own tools.
    fn gathered(shell: &str, watchdog: Watchdog, tools: &[(&str, &str)]) -> Facts {
        use std::io::Write;
        let folder = tempfile::tempdir().expect("a folder");
        for (name, script) in tools {
            let path = folder.path().join(name);
            std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("written");
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("executable");
        }
        let mut child = Command::new(shell)
            .arg("-s")
            .env("PATH", format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", folder.path().display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("a shell");
        let state = folder.path().join("state").display().to_string();
        child
            .stdin
            .take()
            .expect("its input")
            .write_all(program(&state, watchdog).as_bytes())
            .expect("written");
        let output = child.wait_with_output().expect("its end");
        parse(&Sections::parse(&String::from_utf8_lossy(&output.stdout)).expect("whole")).expect("facts")
    }

    /// A host that was taken over writes what it likes into its own records.
    #[test]
    fn a_host_does_not_approve_the_loss_of_pods() {
        let text = r#"[
{"id":"file//etc/x","hash":"","adopted":false,"hazards":["drain",{"data-loss":"pod a/b"},{"force-delete":"w-2"},{"restart":"x"}]},
{}]"#;
        let managed = parse_managed(text).expect("read");
        assert_eq!(managed[0].hazards, [Hazard::Drain, Hazard::Restart("x".into())]);
    }

    #[test]
    fn a_tool_that_hangs_costs_its_own_answer_only() {
        // Watchdogs of a second, so that the test is short.
        let quick = ("timeout", "shift 3; exec /usr/bin/timeout -k 1 1 \"$@\"");
        let ip = ("ip", "echo '2: eth0    inet 10.0.0.7/24 brd 10.0.0.255 scope global eth0'");
        let df = (
            "df",
            "[ \"$1\" = -Pk ] || exec sleep 60; echo Filesystem; for p in / /var /var/lib /tmp; do echo /dev/x 9 1 8 2% /; done",
        );
        let active = format!("for u in {}; do echo active; done; exit 3", SERVICES.join(" "));
        for hung in ["none", "systemctl", "df"] {
            let systemctl = if hung == "systemctl" { "exec sleep 60" } else { active.as_str() };
            let df = if hung == "df" {
                df
            } else {
                ("df", "echo Filesystem; for p in / /var /var/lib /tmp; do echo /dev/x 9 1 8 2% /; done")
            };
            let facts = gathered("/bin/sh", Watchdog::PerTool, &[quick, ip, df, ("systemctl", systemctl)]);
            assert_eq!(facts.addresses, [("eth0".to_owned(), "10.0.0.7/24".to_owned())], "{hung}");
            let free: Vec<&str> = facts.free_kib.keys().map(String::as_str).collect();
            assert_eq!(free, ["/", "/tmp", "/var", "/var/lib"], "{hung}");
            assert_eq!(facts.services.len(), if hung == "systemctl" { 0 } else { SERVICES.len() }, "{hung}");
        }
    }

    #[test]
    fn what_the_shell_reads_by_itself_is_what_the_tools_say() {
        let tool = |command: &str| {
            let output = Command::new("/bin/sh").args(["-c", command]).output().expect("a shell");
            String::from_utf8_lossy(&output.stdout).trim().to_owned()
        };
        for shell in
            ["/bin/sh", "/bin/dash", "/bin/bash"].into_iter().filter(|shell| Path::new(shell).exists())
        {
            let facts = gathered(shell, Watchdog::Whole, &[]);
            let mut watched = gathered(shell, Watchdog::PerTool, &[]);
            (watched.now_s, watched.uptime_s) = (facts.now_s, facts.uptime_s);
            watched.free_kib.clone_from(&facts.free_kib);
            assert_eq!(watched, facts, "{shell}");
            assert_eq!(
                (
                    &facts.kernel_name,
                    &facts.kernel,
                    &facts.arch,
                    facts.uid.to_string(),
                    facts.cpus.to_string()
                ),
                (
                    &tool("uname -s"),
                    &tool("uname -r"),
                    &tool("uname -m"),
                    tool("id -u"),
                    tool("getconf _NPROCESSORS_ONLN")
                ),
                "{shell}"
            );
            assert_eq!(facts.boot_id, tool("cat /proc/sys/kernel/random/boot_id"), "{shell}");
            assert_eq!(facts.machine_id, tool("cat /etc/machine-id"), "{shell}");
            assert_eq!(facts.os["ID"], tool(". /etc/os-release; echo $ID"), "{shell}");
            assert!(!facts.hostname.is_empty() && facts.free_kib["/"] > 0 && facts.memory_kib > 0, "{shell}");
        }
        // A node's name with a space in it.
        let facts = |text: &str| {
            let text = format!("\x1euname\n{text}\n\x1eend 0\n");
            parse(&Sections::parse(&text).expect("whole")).expect("facts")
        };
        let facts = facts("Linux my host 6.1.0 x86_64");
        assert_eq!((facts.kernel.as_str(), facts.arch.as_str()), ("6.1.0", "x86_64"));
    }
}
