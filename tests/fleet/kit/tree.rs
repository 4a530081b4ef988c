//! The files of a host before it boots: Debian as mmdebstrap makes it, and on top of that what all hosts here share.

use super::fleet::{Fleet, HUB, cache};
use super::{must, packages};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The release that the hosts run.
const SUITE: &str = "bookworm";
/// What a host has before anybody looks at it: a server image without a cloud's additions.
const INCLUDED: &str = "systemd,systemd-sysv,dbus,openssh-server,sudo,iproute2,ca-certificates,kmod,procps,curl,tcsh,\
                        libfaketime";

/// Returns the unpacked base; made once, from Debian's archive, and kept below `target/`.
pub fn base() -> PathBuf {
    let key: String = INCLUDED.chars().filter(char::is_ascii_alphanumeric).collect();
    let key = format!("{SUITE}-{:08x}", key.bytes().fold(5381u32, |h, b| h.wrapping_mul(33) ^ u32::from(b)));
    let folder = cache();
    let (tar, tree) = (folder.join(format!("base-{key}.tar")), folder.join(format!("base-{key}")));
    std::fs::create_dir_all(&folder).expect("the cache");
    if !tar.exists() {
        let new = folder.join(format!("base-{key}.{}.tar", std::process::id()));
        must(
            Command::new("mmdebstrap")
                .args(["--quiet", "--variant=minbase", &format!("--include={INCLUDED}"), SUITE])
                .arg(&new),
        );
        std::fs::rename(&new, &tar).expect("renamed");
    }
    if !tree.exists() {
        let new = folder.join(format!("base-{key}.{}", std::process::id()));
        std::fs::create_dir_all(&new).expect("a folder");
        must(Command::new("tar").arg("-C").arg(&new).arg("-xpf").arg(&tar));
        std::fs::rename(&new, &tree).expect("renamed");
    }
    tree
}

/// Writes a file beside the hosts' trees, through the fleet's own view of them.
pub fn write(fleet: &Fleet, path: &Path, mode: &str, text: &[u8]) {
    let script = "mkdir -p \"$(dirname \"$1\")\" && cat >\"$1\" && chmod \"$2\" \"$1\"";
    let mut child = fleet
        .command("sh")
        .args(["-e", "-c", script, "write"])
        .arg(path)
        .arg(mode)
        .stdin(Stdio::piped())
        .spawn()
        .expect("sh");
    child.stdin.take().expect("piped").write_all(text).expect("written");
    assert!(child.wait().expect("ended").success(), "{} could not be written", path.display());
}

/// Logins: name, shell, what sudo asks, and whether the plain key opens it.
const USERS: [(&str, &str, &str, bool); 9] = [
    // An operator as cloud images have them.
    ("ops", "/bin/bash", "NOPASSWD: ALL", true),
    // One whom sudo asks for a password.
    ("ada", "/bin/bash", "ALL", true),
    // One whom sudo refuses.
    ("eve", "/bin/bash", "", true),
    // Login shells that are slow, not bash, not even POSIX, and one whose start-up files talk.
    ("slow", "/usr/local/bin/slow-shell", "NOPASSWD: ALL", true),
    ("dash", "/bin/dash", "NOPASSWD: ALL", true),
    ("csh", "/bin/tcsh", "ALL", true),
    ("noisy", "/bin/bash", "ALL", true),
    // Opened by a certificate only, and by a key together with a password.
    ("cert", "/bin/bash", "NOPASSWD: ALL", false),
    ("kim", "/bin/bash", "NOPASSWD: ALL", true),
];

/// The password of every login that has one.
pub const PASSWORD: &str = "right-horse-battery";

/// Kernel settings that a container may not write: their files are covered by plain ones, with the kernel's defaults.
const SYSCTLS: &str = "fs.inotify.max_user_instances 128\nfs.inotify.max_user_watches 8192\nvm.max_map_count 65530\n\
                       kernel.pid_max 32768\nvm.overcommit_memory 0\nvm.panic_on_oom 0\nkernel.panic 0\n\
                       kernel.panic_on_oops 0\nvm.swappiness 60\n";

/// Runs early at every boot, so that settings and modules are lost by a reboot and set again by systemd, as they are.
const KERNEL: &str = r#"#!/bin/sh
mkdir -p /run/fleet-kernel
while read -r key value; do
  echo "$value" >"/run/fleet-kernel/$key"
  mount --bind "/run/fleet-kernel/$key" "/proc/sys/$(echo "$key" | tr . /)"
done </opt/fleet/sysctls
mount -o remount,rw /sys 2>/dev/null
mkdir -p /sys/module
if [ -d /opt/fake/pci ]; then
  [ -d /sys/bus/pci/devices ] || { mount -t tmpfs none /sys/bus; mkdir -p /sys/bus/pci/devices; }
  mount --bind /opt/fake/pci /sys/bus/pci/devices
fi
[ ! -d /opt/fake/virtual ] || mount -t tmpfs none /sys/devices/virtual
for file in /etc/modules-load.d/*.conf; do
  [ -e "$file" ] || continue
  while read -r module; do
    case $module in ''|'#'*) ;; *) modprobe "$module";; esac
  done <"$file"
done
exit 0
"#;

const KERNEL_UNIT: &str = "[Unit]\nDescription=Stand-ins for what a container's kernel does not let be changed\n\
                           DefaultDependencies=no\nBefore=sysinit.target systemd-sysctl.service systemd-modules-load.service\n\n\
                           [Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/sh /opt/fleet/kernel\n\n\
                           [Install]\nWantedBy=sysinit.target\n";

const MODPROBE: &str = include_str!("standins/modprobe");
const RMMOD: &str = include_str!("standins/rmmod");

/// Makes the layer that lies between the base and each host: users, keys, sshd, package sources, stand-ins.
pub fn common(fleet: &Fleet) {
    let at = fleet.run.join("common");
    fleet.sh(&format!(
        "mkdir -p {at}/up {at}/work {at}/root; mount -t overlay none -o lowerdir={base},upperdir={at}/up,workdir={at}/work {at}/root",
        at = at.display(),
        base = fleet.base.display()
    ));
    let root = at.join("root");
    let put = |path: &str, mode: &str, text: &str| write(fleet, &root.join(path), mode, text.as_bytes());
    put("opt/fleet/sysctls", "644", SYSCTLS);
    put("opt/fleet/modules", "644", "overlay\nbr_netfilter\n");
    put("opt/fleet/kernel", "755", KERNEL);
    put("etc/systemd/system/fleet-kernel.service", "644", KERNEL_UNIT);
    put("opt/fleet/modprobe", "755", MODPROBE);
    put("opt/fleet/rmmod", "755", RMMOD);
    put("usr/local/bin/slow-shell", "755", "#!/bin/bash\nsleep 2\nexec /bin/bash \"$@\"\n");
    put("etc/ssh/user_ca.pub", "644", &fleet.public("user_ca"));
    put(
        "etc/ssh/sshd_config.d/50-fleet.conf",
        "644",
        "MaxSessions 10\nMaxStartups 10:30:60\nUseDNS no\nKbdInteractiveAuthentication yes\n\
         TrustedUserCAKeys /etc/ssh/user_ca.pub\nMatch User kim\n  AuthenticationMethods publickey,keyboard-interactive\n",
    );
    let mut script = format!(
        "set -e\nrm -f /etc/ssh/ssh_host_* /etc/apt/sources.list.d/*\n\
         echo 'deb [trusted=yes] http://{HUB}:{}/debian ./' >/etc/apt/sources.list\n\
         rm -f /sbin/modprobe /sbin/rmmod; ln -s /opt/fleet/modprobe /opt/fleet/rmmod /sbin/\n\
         systemctl enable -q fleet-kernel.service\n\
         systemctl mask -q apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer fstrim.timer systemd-timesyncd.service\n\
         key() {{ mkdir -p \"$1/.ssh\"; cat /opt/fleet/keys >\"$1/.ssh/authorized_keys\"; chmod 700 \"$1/.ssh\"; }}\nkey /root\n",
        packages::PORT
    );
    put("opt/fleet/keys", "644", &(fleet.public("plain") + &fleet.public("encrypted")));
    let mut sudoers = String::new();
    for (name, shell, sudo, keyed) in USERS {
        script += &format!("useradd -m -s {shell} {name}; echo '{name}:{PASSWORD}' | chpasswd\n");
        if keyed {
            script += &format!("key /home/{name}; chown -R {name}: /home/{name}/.ssh\n");
        }
        if !sudo.is_empty() {
            sudoers += &format!("{name} ALL=(ALL:ALL) {sudo}\n");
        }
    }
    put("etc/sudoers.d/fleet", "440", &sudoers);
    script +=
        "sed -i '1i echo \"Welcome to $(hostname), unauthorised use is prohibited\"' /home/noisy/.bashrc\n";
    let mut chroot = fleet.command("chroot");
    must(chroot.arg(&root).args(["/bin/sh", "-c", &script]));
    fleet.sh(&format!("umount {}", root.display()));
}
