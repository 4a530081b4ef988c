//! The fleet: the namespaces of hosts, their keys, and their package mirror.

use super::boot::{Host, Setup};
use super::{must, packages, tree};
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};

/// The address of the client and of the mirror.
pub const HUB: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

/// One for all tests.
pub struct Fleet {
    /// Holds the namespaces for as long as its standard input is open.
    holder: Child,
    /// Keys, made anew each time.
    keys: tempfile::TempDir,
    /// The unpacked base of all hosts.
    pub(super) base: PathBuf,
    /// Where host trees are, seen from inside.
    pub(super) run: PathBuf,
    /// What the mirror has.
    pub(super) mirror: packages::Mirror,
    /// Runs the simulated clusters.
    pub(super) runtime: tokio::runtime::Runtime,
    next: AtomicU16,
}

/// Returns the fleet, made at the first call.
pub fn fleet() -> &'static Fleet {
    static FLEET: OnceLock<Fleet> = OnceLock::new();
    FLEET.get_or_init(Fleet::make)
}

/// Returns the folder of what is kept between runs.
pub(super) fn cache() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/fleet")
}

impl Fleet {
    fn make() -> Self {
        let uid = must(Command::new("id").arg("-u"));
        assert_eq!(uid.trim(), "0", "real hosts need root: namespaces, overlays, systemd-nspawn");
        sweep();
        let base = tree::base();
        let keys = keys();
        let run = cache().join("run");
        std::fs::create_dir_all(&run).expect("a folder for host trees");
        let script = format!(
            "set -e; mount -t tmpfs -o mode=755 fleet /run; mkdir /run/netns
             mount -t tmpfs -o mode=755,size=80% fleet {run}
             ip link set lo up; ip link add br0 type bridge; ip addr add {HUB}/16 dev br0; ip link set br0 up
             echo ready; exec cat",
            run = run.display()
        );
        // It must outlive the test that happens to be the first, and end with the process: by the end of its input.
        let mut holder = Command::new("unshare")
            .args(["--mount", "--net", "--propagation", "private", "--", "sh", "-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare");
        let mut line = String::new();
        let mut out = std::io::BufReader::new(holder.stdout.take().expect("piped"));
        std::io::BufRead::read_line(&mut out, &mut line).expect("an answer");
        assert_eq!(line, "ready\n", "the fleet's namespaces could not be made");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let mirror = packages::Mirror::build();
        let fleet = Self { holder, keys, base, run, mirror, runtime, next: AtomicU16::new(2) };
        tree::common(&fleet);
        fleet.serve();
        fleet
    }

    fn serve(&self) {
        let root = self.mirror.root.path().to_owned();
        self.inside(move || {
            let listener = std::net::TcpListener::bind((HUB, packages::PORT)).expect("the mirror's port");
            std::thread::spawn(move || packages::serve(&listener, &root));
        });
        let listener =
            self.inside(|| std::net::TcpListener::bind((HUB, 443)).expect("the port of the vendors' names"));
        self.mirror.certificate.serve(listener, self.mirror.root.path());
    }

    /// Returns a command that runs inside the fleet's network, beside the hosts.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.holder.id().to_string(), "--mount", "--net", "--"]).arg(program);
        command
    }

    /// Runs shell beside the hosts; panics if it fails.
    pub fn sh(&self, script: &str) -> String {
        must(self.command("sh").args(["-e", "-c", script]))
    }

    /// Runs a closure in a thread that is inside the fleet's network: sockets made there stay there.
    pub fn inside<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let namespace = format!("/proc/{}/ns/net", self.holder.id());
        let thread = std::thread::spawn(move || {
            let file = std::fs::File::open(namespace).expect("the fleet's network");
            let network = Some(rustix::thread::LinkNameSpaceType::Network);
            rustix::thread::move_into_link_name_space(file.as_fd(), network).expect("entered");
            work()
        });
        thread.join().expect("what ran inside ended well")
    }

    /// Boots hosts, all at once, and returns them when their sshd answers.
    pub fn boot<const N: usize>(&'static self, setups: [Setup; N]) -> Vec<Host> {
        let booting: Vec<_> =
            setups.into_iter().map(|setup| std::thread::spawn(move || Host::boot(self, setup))).collect();
        booting.into_iter().map(|host| host.join().expect("a host boots")).collect()
    }

    /// Returns the path of a key: `plain`, `encrypted` (by [`Fleet::PASSPHRASE`]), `certified` (has a certificate of the
    /// users' authority beside it), `stranger` (opens nothing), `user_ca`, `host_ca`.
    pub fn key(&self, name: &str) -> PathBuf {
        self.keys.path().join(name)
    }

    /// Returns the public half of a key.
    pub fn public(&self, name: &str) -> String {
        std::fs::read_to_string(self.keys.path().join(format!("{name}.pub"))).expect("a public key")
    }

    /// Opens the encrypted key.
    pub const PASSPHRASE: &'static str = "passphrase-of-a-key";

    /// The cgroup of all machines of this process, below each hierarchy.
    pub(super) fn cgroup() -> String {
        format!("provision-fleet-{}", std::process::id())
    }

    /// Returns a number that no other host has.
    pub(super) fn number(&self) -> u16 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }
}

/// Takes away the cgroups of fleets whose process is gone: the one thing that does not go by itself.
fn sweep() {
    let script = "for d in /sys/fs/cgroup/provision-fleet-* /sys/fs/cgroup/*/provision-fleet-*; do
                  [ -d \"$d\" ] && [ ! -d \"/proc/${d##*-}\" ] && find \"$d\" -depth -type d -exec rmdir {} + ; done; true";
    must(Command::new("sh").args(["-c", script]).stderr(Stdio::null()));
}

fn keys() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder for keys");
    let make = |name: &str, passphrase: &str| {
        let path = folder.path().join(name);
        must(
            Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-C", name, "-N", passphrase, "-f"])
                .arg(path),
        );
    };
    for name in ["plain", "certified", "stranger", "user_ca", "host_ca"] {
        make(name, "");
    }
    make("encrypted", Fleet::PASSPHRASE);
    let at = |name: &str| folder.path().join(name);
    must(
        Command::new("ssh-keygen")
            .args(["-q", "-I", "fleet-user", "-n", "cert", "-V", "-1h:+1d", "-s"])
            .args([at("user_ca"), at("certified.pub")]),
    );
    folder
}
