//! One host: its file tree, its network, its boot, its shutdown.

use super::fleet::Fleet;
use super::{link, must, tree, until};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A reboot ends systemd-nspawn with this status; any other end is the machine's.
const REBOOT: i32 = 133;

/// Starts a machine in a cgroup of its own (two systemds in one would end each other's services) and a pid namespace of
/// its own, whose end takes all of the machine with it. Its first word is the cgroup; the rest is for systemd-nspawn.
const START: &str = r#"
for hierarchy in /sys/fs/cgroup /sys/fs/cgroup/systemd /sys/fs/cgroup/unified; do
  [ -e "$hierarchy/cgroup.procs" ] || continue
  mkdir -p "$hierarchy/$1" && echo 0 >"$hierarchy/$1/cgroup.procs" || exit 1
done
shift
exec env SYSTEMD_NSPAWN_API_VFS_WRITABLE=network setpriv --pdeathsig KILL \
  unshare --pid --fork --kill-child --mount-proc systemd-nspawn --quiet --register=no --keep-unit --console=pipe --resolv-conf=off \
  --capability=CAP_NET_ADMIN --boot "$@"
"#;

/// What a host is like before it boots.
pub struct Setup {
    name: String,
    disk: String, // a tmpfs: takes memory only as it is filled
    var: Option<String>,
    sshd: String,
    files: Vec<(String, String, String)>,
    script: String,
    certified: bool,
    pub(super) accelerators: Option<u32>,
}

impl Setup {
    /// A host as its operator's image made it: its hostname is not yet `name`, nothing is installed.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            disk: "4g".to_owned(),
            var: None,
            sshd: String::new(),
            files: Vec::new(),
            script: String::new(),
            certified: false,
            accelerators: None,
        }
    }

    /// The size of `/`, as tmpfs takes it (`2g` unless said).
    pub fn disk(mut self, size: &str) -> Self {
        self.disk = size.to_owned();
        self
    }

    /// `/var/lib/provision` and all else below `/var` on a file system of its own, of this size.
    pub fn var(mut self, size: &str) -> Self {
        self.var = Some(size.to_owned());
        self
    }

    /// Further lines of sshd_config; what is said here holds against what all hosts have.
    pub fn sshd(mut self, lines: &str) -> Self {
        self.sshd += lines;
        self.sshd.push('\n');
        self
    }

    /// A file, with its mode in octal.
    pub fn file(mut self, path: &str, mode: &str, text: &str) -> Self {
        self.files.push((path.trim_start_matches('/').to_owned(), mode.to_owned(), text.to_owned()));
        self
    }

    /// Shell that runs in the host's tree before its first boot, as root.
    pub fn prepare(mut self, script: &str) -> Self {
        self.script += script;
        self.script.push('\n');
        self
    }

    /// Gives it a host certificate of the `host_ca` key beside its host key.
    pub fn certified(mut self) -> Self {
        self.certified = true;
        self
    }
}

/// A running host; ends with its value.
pub struct Host {
    /// Its name in inventories.
    pub name: String,
    /// Its address.
    pub address: Ipv4Addr,
    /// Its host key as known_hosts has it.
    pub host_key: String,
    pub(super) fleet: &'static Fleet,
    /// What its kubelet finds in it.
    pub(super) accelerators: Option<u32>,
    number: u16,
    folder: PathBuf,
    /// Where the simulated cluster's socket goes; `/opt/lab` on the host.
    pub(super) lab: tempfile::TempDir,
    machine: Arc<Machine>,
}

/// The machine itself, which a thread of its own keeps running over reboots.
#[derive(Default)]
struct Machine {
    /// Of what started it, while it runs.
    pid: AtomicU32,
    boots: AtomicU32,
    ended: AtomicBool,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
}

impl Host {
    /// Boots a host and returns when its sshd answers.
    pub(super) fn boot(fleet: &'static Fleet, setup: Setup) -> Self {
        let number = fleet.number();
        let address = Ipv4Addr::new(10, 77, (number / 250) as u8, (number % 250) as u8);
        let folder = fleet.run.join(format!("h{number}"));
        let lab = tempfile::tempdir().expect("a folder");
        let at = folder.display();
        fleet.sh(&format!(
            "mkdir -p {at}; mount -t tmpfs -o mode=755,size={disk} fleet {at}; mkdir {at}/up {at}/work {at}/root
             mount -t overlay none -o lowerdir={common}/up:{base},upperdir={at}/up,workdir={at}/work {at}/root",
            disk = setup.disk,
            common = fleet.run.join("common").display(),
            base = fleet.base.display(),
        ));
        let root = folder.join("root");
        let host_key = files(fleet, &root, &setup, lab.path());
        link::connect(fleet, number, address);
        let machine = Arc::new(Machine::default());
        let accelerators = setup.accelerators;
        let host =
            Self { name: setup.name, accelerators, address, host_key, fleet, number, folder, lab, machine };
        host.power_on(setup.var.as_deref());
        host.wait_for_ssh();
        host
    }

    /// Starts the machine; it starts again by itself after each reboot.
    fn power_on(&self, var: Option<&str>) {
        let at = self.folder.display();
        let mut bind = vec![format!("--bind={}:/opt/lab", self.lab.path().display())];
        if let Some(size) = var {
            self.fleet.sh(&format!(
                "mkdir -p {at}/var; mount -t tmpfs -o mode=755,size={size} fleet {at}/var; cp -a {at}/root/var/. {at}/var/"
            ));
            bind.push(format!("--bind={at}/var:/var"));
        }
        let options = [
            format!("--directory={at}/root"),
            format!("--network-namespace-path=/run/netns/h{}", self.number),
            format!("--machine=h{}", self.number),
        ];
        let cgroup = self.cgroup();
        let (fleet, machine, folder) = (self.fleet, self.machine.clone(), self.lab.path().to_owned());
        // The thread lives as long as the machine: the kernel ends the machine when its parent thread ends.
        let thread = std::thread::spawn(move || {
            loop {
                let console = std::fs::File::create(folder.join("console")).expect("a console");
                let mut command = fleet.command("sh");
                command
                    .args(["-c", START, "start", &cgroup])
                    .args(&options)
                    .args(&bind)
                    .stdin(Stdio::null())
                    .stdout(console.try_clone().expect("a copy"))
                    .stderr(console);
                let mut child = command.spawn().expect("systemd-nspawn");
                machine.pid.store(child.id(), Ordering::SeqCst);
                machine.boots.fetch_add(1, Ordering::SeqCst);
                let status = child.wait().expect("systemd-nspawn ends");
                machine.pid.store(0, Ordering::SeqCst);
                if machine.ended.load(Ordering::SeqCst) || status.code() != Some(REBOOT) {
                    machine.ended.store(true, Ordering::SeqCst);
                    return;
                }
            }
        });
        *self.machine.thread.lock().expect("a lock") = Some(thread);
    }

    /// The cgroup of its machine, below each hierarchy.
    fn cgroup(&self) -> String {
        format!("{}/h{}", Fleet::cgroup(), self.number)
    }

    /// Waits until sshd answers.
    pub fn wait_for_ssh(&self) {
        let address = SocketAddr::from((self.address, 22));
        let answers = move || {
            use std::io::Read;
            let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()?;
            stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
            let mut banner = [0; 4];
            stream.read_exact(&mut banner).ok()?;
            (&banner == b"SSH-").then_some(())
        };
        let console = self.lab.path().join("console");
        until(&format!("sshd of {}", self.name), || {
            let said = || std::fs::read_to_string(&console).unwrap_or_default();
            assert!(!self.machine.ended.load(Ordering::SeqCst), "{} has stopped: {}", self.name, said());
            self.fleet.inside(answers)
        });
    }

    /// Returns how often it was booted.
    pub fn boots(&self) -> u32 {
        self.machine.boots.load(Ordering::SeqCst)
    }

    /// Returns a command that runs as root inside the host, without SSH.
    pub fn command(&self, program: &str) -> Command {
        let child = |pid: String| {
            let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
            children.split_whitespace().next().map(str::to_owned)
        };
        // What started it, then systemd-nspawn, then the host's init.
        let init = until(&format!("the init of {}", self.name), || {
            child(child(self.machine.pid.load(Ordering::SeqCst).to_string())?)
        });
        let mut command = Command::new("nsenter");
        command
            .args(["--target", &init, "--mount", "--uts", "--ipc", "--net", "--pid", "--"])
            .args([
                "env",
                "-i",
                "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "HOME=/root",
            ])
            .args(["LC_ALL=C", program])
            .stdin(Stdio::null());
        command
    }

    /// Runs shell as root inside the host and returns what it printed, trimmed; panics if it fails.
    pub fn sh(&self, script: &str) -> String {
        must(self.command("/bin/sh").args(["-e", "-c", script])).trim().to_owned()
    }

    /// Runs shell as root inside the host, however it ends.
    pub fn try_sh(&self, script: &str) -> Output {
        self.command("/bin/sh").args(["-c", script]).output().expect("nsenter")
    }

    /// Reboots it by its own systemd and waits until sshd answers again.
    pub fn restart(&self) {
        let before = self.boots();
        self.sh("systemctl reboot");
        until(&format!("another boot of {}", self.name), || (self.boots() > before).then_some(()));
        self.wait_for_ssh();
    }

    /// Returns what the journal of the host says of a program or unit, by a `journalctl` filter.
    pub fn journal(&self, filter: &str) -> String {
        self.sh(&format!("journalctl --no-pager -o cat {filter} || true"))
    }

    /// Returns the link to the rest of the fleet.
    pub fn link(&self) -> link::Link {
        link::Link { fleet: self.fleet, number: self.number, address: self.address }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.machine.ended.store(true, Ordering::SeqCst);
        let pid = self.machine.pid.load(Ordering::SeqCst);
        if let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) {
            // The whole machine goes with it.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        if let Some(thread) = self.machine.thread.lock().ok().and_then(|mut t| t.take()) {
            let _ = thread.join();
        }
        if std::thread::panicking() {
            let console = std::fs::read_to_string(self.lab.path().join("console")).unwrap_or_default();
            let last: Vec<&str> = console.lines().rev().take(5).collect();
            eprintln!("{} at its end: {}", self.name, last.into_iter().rev().collect::<Vec<_>>().join(" | "));
        }
        let script = format!(
            "ip link del v{0} 2>/dev/null; ip netns del h{0}; umount -l {1}/root; umount -l {1}/var 2>/dev/null; umount -l {1}; rmdir {1}
             find /sys/fs/cgroup/{2} /sys/fs/cgroup/*/{2} -depth -type d -exec rmdir {{}} +",
            self.number,
            self.folder.display(),
            self.cgroup(),
        );
        let _ = self.fleet.command("sh").args(["-c", &script]).output();
    }
}

/// Writes what this host has of its own. Returns its host key.
fn files(fleet: &Fleet, root: &Path, setup: &Setup, scratch: &Path) -> String {
    let key = scratch.join("ssh_host_ed25519_key");
    must(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-C", "", "-N", "", "-f"]).arg(&key));
    let public = key.with_extension("pub");
    let mut sshd = setup.sshd.clone();
    if setup.certified {
        must(
            Command::new("ssh-keygen")
                .args(["-q", "-h", "-I", &setup.name, "-V", "-1h:+1d", "-s"])
                .args([fleet.key("host_ca"), public.clone()]),
        );
        let certificate = std::fs::read(scratch.join("ssh_host_ed25519_key-cert.pub")).expect("made");
        tree::write(fleet, &root.join("etc/ssh/ssh_host_ed25519_key-cert.pub"), "644", &certificate);
        sshd += "HostCertificate /etc/ssh/ssh_host_ed25519_key-cert.pub\n";
    }
    let text = std::fs::read_to_string(&public).expect("a public key");
    let put = |path: &str, mode: &str, text: &[u8]| tree::write(fleet, &root.join(path), mode, text);
    put("etc/ssh/ssh_host_ed25519_key", "600", &std::fs::read(&key).expect("a key"));
    put("etc/ssh/ssh_host_ed25519_key.pub", "644", text.as_bytes());
    put("etc/ssh/sshd_config.d/10-host.conf", "644", sshd.as_bytes());
    put("etc/hostname", "644", b"image\n");
    put("etc/hosts", "644", b"127.0.0.1 localhost\n127.0.1.1 image\n");
    put("etc/machine-id", "444", b"");
    // No name is to be had, and that is told at once: sudo asks for its host's.
    put("etc/resolv.conf", "644", b"");
    for (path, mode, text) in &setup.files {
        put(path, mode, text.as_bytes());
    }
    if !setup.script.is_empty() {
        must(fleet.command("chroot").arg(root).args(["/bin/sh", "-e", "-c", &setup.script]));
    }
    text.split_whitespace().take(2).collect::<Vec<_>>().join(" ")
}
