//! Bringing a lab up and down.

use super::artifacts::{files, sha256};
use super::cluster::{
    Cluster, ClusterSpec, ControlPlane, HostSpec, PodPrograms, has_programs_of_pods, programs_in,
};
use super::host::{LabHost, MOST_EXECS};
use super::isolate::Isolation;
use super::program::Programs;
use super::sockets::{listen_unix, private, sockets};
use super::spec::{Fault, FaultKind, Host, Spec};
use super::status::{Counters, HostStatus, Status};
use super::{limits, net, session, tree};
use crate::event::Events;
use russh::keys::PrivateKey;
use russh::keys::ssh_key::LineEnding;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Why a lab could not be brought up.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// The machine does not allow it.
    #[error("{0}")]
    Forbidden(String),
    /// A host's address is not a loopback one.
    #[error("{host} has the address {address}, which is not on loopback; the lab listens nowhere else")]
    NotLoopback {
        /// The host.
        host: String,
        /// Its address.
        address: String,
    },
    /// An address is taken.
    #[error("cannot listen on {place}: {source}; is another lab up?")]
    Listen {
        /// Where.
        place: String,
        /// Why.
        source: std::io::Error,
    },
    /// A file of the lab could not be made.
    #[error("cannot make the lab's files in {dir}: {source}")]
    Files {
        /// Where.
        dir: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The control plane that was given does not come up.
    #[error("{0}")]
    ControlPlane(String),
    /// A key could not be made.
    #[error("cannot make a key: {0}")]
    Key(russh::keys::ssh_key::Error),
}

/// Something that the lab's mirror serves.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct Artifact {
    /// Its name in the lock file.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Where.
    pub url: String,
    /// Its sha256.
    pub sha256: String,
    /// Its size in bytes.
    pub size: u64,
}

/// A running lab. Dropping it ends everything that it started.
pub struct Lab {
    spec: Arc<Spec>,
    hosts: BTreeMap<String, Arc<LabHost>>,
    artifacts: Vec<Artifact>,
    cluster: Arc<Cluster>,
    tasks: JoinSet<()>,
    programs: Programs,
}

fn key() -> Result<PrivateKey, LabError> {
    // Key generation of ssh-key wants a random number generator of its own version; raw seeds need none.
    let seed: [u8; 32] = rand::random();
    let pair = russh::keys::ssh_key::private::Ed25519Keypair::from_seed(&seed);
    Ok(PrivateKey::from(pair))
}

impl Lab {
    /// Makes the hosts anew and listens for them.
    pub async fn up(spec: Spec, events: Events) -> Result<Self, LabError> {
        let dir = spec.dir.clone();
        let files_error = |source| LabError::Files { dir: dir.clone(), source };
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&spec.dir).map_err(files_error)?;
        for host in &spec.hosts {
            if !host.address.is_loopback() {
                return Err(LabError::NotLoopback {
                    host: host.name.clone(),
                    address: host.address.to_string(),
                });
            }
        }
        let spec = Arc::new(spec);
        let mut tasks = JoinSet::new();
        let bind = async |address: std::net::SocketAddr| {
            TcpListener::bind(address)
                .await
                .map_err(|source| LabError::Listen { place: address.to_string(), source })
        };

        let listener = bind((spec.mirror, 0).into()).await?;
        let base = listener.local_addr().map_err(files_error)?;
        let isolation = Arc::new(Isolation::new(&spec).await.map_err(LabError::Forbidden)?);
        let (served, names) = files(&spec.k0s_versions);
        let artifacts = names
            .into_iter()
            .map(|(name, version, path)| {
                let bytes = &served[&path];
                let url = format!("http://{base}/{path}");
                Artifact { name, version, url, sha256: sha256(bytes), size: bytes.len() as u64 }
            })
            .collect();
        let served = Arc::new(if spec.unserved { BTreeMap::new() } else { served });
        tasks.spawn(net::serve_files(net::Place::Machine(listener), served.clone()));

        let client = key()?;
        let text = client.to_openssh(LineEnding::LF).map_err(LabError::Key)?;
        let identity = spec.dir.join("id_ed25519");
        private(&identity, &text).map_err(files_error)?;

        let cluster_spec = cluster_spec(&spec);
        let control_plane = match &spec.control_plane {
            Some(folder) => {
                let dir = spec.dir.join("control-plane");
                let started = ControlPlane::start(folder, &dir, &cluster_spec.api_names()).await;
                Some(started.map_err(LabError::ControlPlane)?)
            }
            None => None,
        };
        let programs = match (&spec.control_plane, &control_plane) {
            (Some(folder), Some(real)) if has_programs_of_pods(folder) => {
                let client = real.client().map_err(LabError::ControlPlane)?;
                let network = isolation.pods(&spec.dir).await.map_err(LabError::Forbidden)?;
                let started = PodPrograms::start(folder, &spec.dir, client, real.port, network).await;
                let failed = |e| LabError::ControlPlane(format!("cannot start the network of pods: {e}"));
                Some(started.map_err(failed)?)
            }
            _ => None,
        };
        let cluster = Arc::new(Cluster::new(cluster_spec, events).on(control_plane, programs));
        let execs = Arc::new(Semaphore::new(MOST_EXECS));
        let programs = Programs::new().map_err(files_error)?;
        let mut known = String::from("# Host keys of the lab; made by `lab up`.\n");
        let mut hosts = BTreeMap::new();
        let sockets = sockets(&spec.dir);
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&sockets).map_err(files_error)?;
        for host in &spec.hosts {
            if let Some(why) = limits::is_full(&spec.dir).map_err(files_error)? {
                return Err(LabError::Forbidden(format!("cannot build the hosts of the lab: {why}")));
            }
            tree::build(&spec, host).map_err(files_error)?;
            let dir = spec.host_dir(&host.name);
            let init = listen_unix(&dir.join("root/run/lab/init.sock")).map_err(files_error)?;
            let mirror = listen_unix(&dir.join("root").join(net::MIRROR.trim_start_matches('/')));
            let mirror = net::Place::Host(mirror.map_err(files_error)?);
            tasks.spawn(net::serve_files(mirror, served.clone()));
            let peers = listen_unix(&dir.join("root").join(net::SSH.trim_start_matches('/')));
            tasks.spawn(net::serve_peers(peers.map_err(files_error)?, spec.clone()));
            if let Some(owner) = isolation.owner {
                tree::give(&dir, owner).map_err(files_error)?;
            }
            if hosts.is_empty() {
                isolation.check(&dir).await.map_err(LabError::Forbidden)?;
            }
            let host_key = key()?;
            let shown = if spec.faults_of(&host.name).any(|f| *f == FaultKind::WrongHostKey) {
                key()?
            } else {
                host_key.clone()
            };
            let public = shown.public_key().to_openssh().map_err(LabError::Key)?;
            let place = if host.port == 22 {
                host.address.to_string()
            } else {
                format!("[{}]:{}", host.address, host.port)
            };
            known.push_str(&format!("{place} {}\n", public.trim()));
            let running = LabHost::new(
                spec.clone(),
                &host.name,
                cluster.clone(),
                client.public_key().clone(),
                execs.clone(),
                isolation.clone(),
                programs.clone(),
            );
            tasks.spawn(running.clone().serve_init(init));
            let listener = listen_unix(&sockets.join(&host.name)).map_err(files_error)?;
            // A socket that nobody listens on refuses connections, as a port does.
            if !spec.faults_of(&host.name).any(|f| *f == FaultKind::Unreachable) {
                tasks.spawn(session::serve_ssh(running.clone(), listener, host_key));
            }
            hosts.insert(host.name.clone(), running);
        }
        private(&spec.dir.join("known_hosts"), &known).map_err(files_error)?;
        Ok(Self { spec, hosts, artifacts, cluster, tasks, programs })
    }

    /// Returns its folder.
    pub(super) fn dir(&self) -> &Path {
        &self.spec.dir
    }

    /// Returns its status.
    pub(super) fn status(&self) -> Status {
        let host = |host: &Host| {
            let counters = self.hosts.get(&host.name).map(|h| h.counters()).unwrap_or_default();
            (host.name.clone(), HostStatus { address: host.address, port: host.port, counters })
        };
        let real = self.spec.control_plane.as_deref().map(programs_in).unwrap_or_default();
        Status {
            name: self.spec.name.clone(),
            hosts: self.spec.hosts.iter().map(host).collect(),
            real: real.into_iter().map(str::to_owned).collect(),
            without: self.spec.without.clone(),
        }
    }

    /// Returns the client key's file.
    pub fn identity(&self) -> PathBuf {
        self.spec.dir.join("id_ed25519")
    }

    /// Returns the known_hosts file.
    pub fn known_hosts(&self) -> PathBuf {
        self.spec.dir.join("known_hosts")
    }

    /// Returns what the mirror serves.
    pub fn artifacts(&self) -> &[Artifact] {
        &self.artifacts
    }

    /// Returns what each host's SSH server has counted.
    pub fn counters(&self) -> BTreeMap<String, Counters> {
        self.hosts.iter().map(|(name, host)| (name.clone(), host.counters())).collect()
    }

    /// Makes something go wrong from now on; the error says why it cannot.
    pub fn inject(&self, fault: &Fault) -> Result<(), String> {
        if matches!(fault.kind, FaultKind::WrongHostKey | FaultKind::Unreachable) || fault.step.is_some() {
            return Err("this can only be there from the start: lab up --fault".to_owned());
        }
        let host = self.hosts.get(&fault.host).ok_or_else(|| format!("there is no host {}", fault.host))?;
        host.inject(&fault.kind);
        Ok(())
    }

    /// Returns the simulated cluster.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Ends everything that the lab started and removes the hosts' folders; keys and records stay. Afterwards nothing of
    /// it runs and its addresses are free.
    pub async fn down(mut self) {
        self.tasks.shutdown().await;
        for host in self.hosts.values() {
            host.stop().await;
        }
        self.programs.all_ended().await;
        self.cluster.end().await;
        if let Err(error) = tree::clear(&self.spec.dir) {
            eprintln!("lab: cannot remove the hosts' folders in {}: {error}", self.spec.dir.display());
        }
    }
}

/// Returns what the simulated cluster is made from.
fn cluster_spec(spec: &Spec) -> ClusterSpec {
    let hosts = spec.hosts.iter().map(|host| {
        let accelerators = host.hardware.as_ref().map(|hardware| hardware.count);
        let host_spec = HostSpec { addresses: vec![host.address.to_string()], accelerators };
        (host.name.clone(), host_spec)
    });
    ClusterSpec { hosts: hosts.collect() }
}
