//! A host's support archive: diagnostics for remote help, without secrets. Owns what is collected; what
//! is taken out of it is decided in `redact`.

use super::{Look, LookEnd, Looked};
use crate::redact::redacted;
use crate::state::{REDACTED, SecretText};
use std::collections::BTreeMap;
use std::io::Write;

/// What is collected: file name, command, seconds, KiB kept.
const COLLECTED: [(&str, &str, u32, u32); 25] = [
    ("system", "cat /etc/os-release; uname -a; uptime; date -u; cat /proc/cmdline; nproc; free -m", 5, 64),
    (
        "disks",
        "df -hT; echo; df -i; echo; lsblk -o NAME,SIZE,TYPE,FSTYPE,MOUNTPOINT,MODEL; echo; findmnt -l || cat /proc/mounts",
        10,
        256,
    ),
    (
        "network",
        "ip -br addr; echo; ip route; echo; ss -lntup; echo; cat /etc/resolv.conf /etc/hosts",
        10,
        256,
    ),
    ("time", "timedatectl; chronyc tracking; chronyc sources", 10, 32),
    ("processes", "ps -eo pid,ppid,stat,etime,rss,args --sort=-rss | head -n 300", 10, 256),
    ("dmesg", "dmesg -T || dmesg", 10, 2048),
    ("journal", "journalctl -b --no-pager -o short-iso -n 20000", 30, 8192),
    ("journal-before", "journalctl -b -1 --no-pager -o short-iso -n 4000", 20, 2048),
    (
        "failed-units",
        "systemctl --failed --no-pager; echo; systemctl list-jobs --no-pager; echo; cloud-init status --long",
        15,
        128,
    ),
    (
        "dpkg",
        "cat /var/log/dpkg.log; echo; cat /var/log/apt/history.log; echo; dpkg --audit; apt-mark showhold",
        10,
        2048,
    ),
    ("dnf", "cat /var/log/dnf.log; rpm -qa --last | head -n 300", 15, 1024),
    ("packages", "dpkg -l 2>/dev/null || rpm -qa | sort", 15, 1024),
    ("k0s", "k0s status; k0s version -a; k0s sysinfo; cat /etc/systemd/system/k0s*.service", 20, 256),
    (
        "k0s-config",
        "cat /etc/k0s/k0s.yaml; for f in /etc/k0s/containerd.d/*; do echo \"## $f\"; cat \"$f\"; done",
        5,
        256,
    ),
    ("k0s-journal", "journalctl -u k0scontroller -u k0sworker --no-pager -o short-iso -n 20000", 30, 8192),
    ("containerd", "k0s ctr containers list; k0s ctr tasks list; k0s ctr images list -q", 20, 512),
    ("kubelet", "ls -la /var/lib/kubelet /var/lib/k0s; ls -la /var/lib/kubelet/device-plugins", 5, 64),
    (
        "pods",
        "ls /var/log/pods; for f in $(ls -t /var/log/pods/*/*/*.log | head -n 10); do echo \"## $f\"; tail -n 200 \"$f\"; done",
        15,
        2048,
    ),
    (
        "nvidia",
        "nvidia-smi; nvidia-smi -q; nvidia-smi topo -m; cat /proc/driver/nvidia/version; dkms status",
        40,
        2048,
    ),
    (
        "nvidia-fabric",
        "systemctl status nvidia-fabricmanager --no-pager; tail -n 2000 /var/log/fabricmanager.log",
        15,
        1024,
    ),
    ("neuron", "neuron-ls; neuron-ls -j; modinfo neuron", 40, 512),
    ("modules", "lsmod; cat /etc/modprobe.d/*.conf", 5, 256),
    ("pci", "lspci -nn || cat /sys/bus/pci/devices/*/uevent", 10, 512),
    ("provision", "cd /var/lib/provision && ls -laR . && cat managed.json lock restarts", 10, 1024),
    ("batches", BATCHES, 10, 4096),
];

/// What the newest batches printed, how they ended, and what they ran, the newest last: a long text keeps its end. Output in
/// memory is that of commands that were given secrets, and the contents of files are on the host anyway.
const BATCHES: &str = "cd /var/lib/provision/runs || exit; for b in $(ls -1tr | tail -n 8); do [ -d $b ] || continue; \
                       echo; echo \"## $b: rc $(cat $b/rc 2>/dev/null || echo none)\"; ls -la $b; \
                       echo '### program'; sed '/^base64 -d /,/_END$/s|^[A-Za-z0-9+/=]*$|(content)|' $b/program | head -c 131072; \
                       echo '### output'; if [ -L $b/output ]; then echo 'not collected: its commands received secrets'; \
                       else tail -c 262144 $b/output; fi; done";

/// Returns what is run on a host for its archive.
pub fn support_looks() -> Vec<Look> {
    let look = |(name, command, seconds, most_kib): &(&str, &str, u32, u32)| Look {
        name: (*name).to_owned(),
        command: (*command).to_owned(),
        seconds: *seconds,
        most_kib: *most_kib,
    };
    COLLECTED.iter().map(look).collect()
}

/// Returns what could not be read, a line each, and what was.
fn manifest(host: &str, looked: &BTreeMap<String, Looked>) -> String {
    let mut text = format!("support archive of {host}; secrets are replaced with {REDACTED}\n\n");
    for look in support_looks() {
        let said = match looked.get(&look.name) {
            None => "no output".to_owned(),
            Some(l) => {
                let kept = if is_cut(&look, l) {
                    format!(", only the last {} KiB", look.most_kib)
                } else {
                    String::new()
                };
                match l.end {
                    LookEnd::Exit(0) => format!("{} bytes{kept}", l.text.len()),
                    // The last of several tools decides the status, so it does not show which one failed.
                    LookEnd::Exit(rc) => format!("{} bytes{kept}, incomplete (exit {rc})", l.text.len()),
                    LookEnd::TimedOut => format!("NOT READ: timed out after {} s", look.seconds),
                }
            }
        };
        text += &format!("{:<16} {said}\n                 {}\n", look.name, look.command);
    }
    text
}

/// Returns whether only the end of a text was kept.
fn is_cut(look: &Look, looked: &Looked) -> bool {
    looked.text.len() + 64 >= look.most_kib as usize * 1024
}

/// Writes a host's archive, `tar.gz`, and returns the sections that could not be read.
pub fn support_archive(
    host: &str,
    facts: &str,
    looked: &BTreeMap<String, Looked>,
    secrets: &[SecretText],
    out: impl Write,
) -> std::io::Result<Vec<String>> {
    let mut archive = tar::Builder::new(flate2::write::GzEncoder::new(out, flate2::Compression::default()));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let mut add = |name: &str, text: &str| {
        let text = redacted(text, secrets);
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(now);
        archive.append_data(&mut header, format!("support-{host}/{name}"), text.as_bytes())
    };
    add("MANIFEST.txt", &manifest(host, looked))?;
    add("facts.json", facts)?;
    let looks = support_looks();
    for (name, looked) in looked {
        let cut = looks.iter().any(|look| look.name == *name && is_cut(look, looked));
        // Half a line may be half a secret, which nothing before it would tell.
        let rest = looked.text.split_once('\n').filter(|_| cut).map(|(_, rest)| rest);
        add(&format!("{name}.txt"), rest.unwrap_or(&looked.text))?;
    }
    archive.into_inner()?.finish()?.flush()?;
    let unread = |l: &Look| looked.get(&l.name).is_none_or(|l| l.end == LookEnd::TimedOut);
    Ok(support_looks().iter().filter(|l| unread(l)).map(|l| l.name.clone()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_their_own_and_fit_the_shell() {
        let names: std::collections::BTreeSet<_> = COLLECTED.iter().map(|c| c.0).collect();
        assert_eq!(names.len(), COLLECTED.len());
        assert!(
            names.iter().all(|n| n.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'))
        );
    }
}
