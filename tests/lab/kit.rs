//! What lab tests share: a lab on addresses of its own, and targets on its hosts.

use provision::event::Events;
use provision::executor::{DesiredFn, HostSetup, HostTarget, STATE_DIR, Sudo};
use provision::lab::{Fault, Hardware, Host, Lab, Spec};
use provision::ssh::{Credentials, Endpoint, Pool, PoolOptions};
use provision::state::{Resource, SecretText};
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

/// A lab of its own for one test.
pub struct Kit {
    pub lab: Lab,
    pub spec: Spec,
    _dir: tempfile::TempDir,
}

static NEXT: AtomicU8 = AtomicU8::new(1);

/// Returns H100s as the lab simulates them.
pub fn h100(count: u32) -> Hardware {
    Hardware {
        vendor: "nvidia".into(),
        name: "NVIDIA H100 80GB HBM3".into(),
        pci_vendor: "10de".into(),
        pci_device: "2330".into(),
        count,
        switches: Some(("22a3".into(), 4)),
        nics: None,
        memory_mib: 81559,
        resource: "nvidia.com/gpu".into(),
    }
}

impl Kit {
    /// Brings up hosts of these names.
    pub async fn up(names: &[&str], change: impl FnOnce(&mut Spec)) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let net = NEXT.fetch_add(1, Ordering::Relaxed);
        let pid = (std::process::id() % 120) as u8 + 100;
        let address = |n: usize| IpAddr::V4(Ipv4Addr::new(127, pid, net, n as u8 + 1));
        let host = |(n, name): (usize, &&str)| Host {
            name: (*name).to_owned(),
            address: address(n + 1),
            port: 2222,
            hardware: None,
            sudo_sha256: None,
        };
        let mut spec = Spec {
            name: "test".into(),
            dir: dir.path().join("lab"),
            exe: env!("CARGO_BIN_EXE_provision").into(),
            mirror: address(0),
            k0s_versions: vec!["v1.35.7+k0s.0".into()],
            hosts: names.iter().enumerate().map(host).collect(),
            faults: Vec::new(),
            control_plane: None,
            without: Vec::new(),
            unserved: false,
        };
        change(&mut spec);
        let lab = Lab::up(spec.clone(), Events::none()).await.expect("the lab comes up");
        Self { lab, spec, _dir: dir }
    }

    /// Returns a target on a host that wants these resources.
    pub fn target(&self, host: &str, desired: Vec<Resource>) -> HostTarget {
        self.target_with(host, desired, Sudo::Required(None), Events::none())
    }

    pub fn target_with(&self, host: &str, desired: Vec<Resource>, sudo: Sudo, events: Events) -> HostTarget {
        let pool = Pool::new(PoolOptions {
            sockets: Some(provision::lab::sockets(&self.spec.dir)),
            known_hosts: vec![self.lab.known_hosts()],
            credentials: Credentials { identities: vec![self.lab.identity()], ..Credentials::default() },
            connect_deadline: Duration::from_secs(3),
            login_deadline: Duration::from_secs(20),
            ..PoolOptions::default()
        });
        let at = self.spec.hosts.iter().find(|h| h.name == host).expect("the host");
        let dial = pool.host(Endpoint {
            name: host.into(),
            address: at.address.to_string(),
            port: at.port,
            user: "ubuntu".into(),
            ..Endpoint::default()
        });
        let desired: DesiredFn = Arc::new(move |_| Ok(desired.clone()));
        HostTarget::new(HostSetup {
            host: host.into(),
            dial,
            sudo,
            desired,
            run: "TEST1".into(),
            owner: "test@here".into(),
            state_dir: STATE_DIR.into(),
            steady_s: 1,
            reboot_deadline: Duration::from_secs(30),
            bmc: None,
            redact: vec![SecretText::new("canary-in-redact-list")],
            events,
        })
    }

    /// Returns a file of a host, seen from outside.
    pub fn file(&self, host: &str, path: &str) -> std::path::PathBuf {
        self.spec.host_dir(host).join("root").join(path.trim_start_matches('/'))
    }

    pub fn read(&self, host: &str, path: &str) -> String {
        std::fs::read_to_string(self.file(host, path)).unwrap_or_default()
    }
}

/// Writes a file of a host from outside, with the folders it needs, as if the host had: it belongs to whom their folder
/// belongs to.
pub fn write(path: impl AsRef<Path>, content: impl AsRef<[u8]>) {
    let (path, mut made) = (path.as_ref(), vec![path.as_ref()]);
    made.extend(path.ancestors().skip(1).take_while(|folder| !folder.exists()));
    let owner = std::fs::metadata(made[made.len() - 1].parent().expect("a folder")).expect("there");
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
    std::fs::write(path, content).expect("written");
    for path in made {
        std::os::unix::fs::lchown(path, Some(owner.uid()), Some(owner.gid())).expect("given");
    }
}

pub fn fault(text: &str) -> Fault {
    Fault::parse(text).expect("a fault")
}

pub fn exists(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}
