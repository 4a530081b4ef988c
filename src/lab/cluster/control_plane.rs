//! A real control plane in place of the API stand-in: etcd and kube-apiserver, and kube-controller-manager and
//! kube-scheduler where the folder has both. They listen on loopback and end with the lab.

use super::client::Client;
use crate::lab::api::{Authority, Identity, kubeconfig};
use std::fs::{self, File};
use std::net::TcpListener;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::process::{Child, Command};

/// The programs, in the order in which they start.
const PROGRAMS: [&str; 4] = ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"];
/// The programs of pods that run on a whole control plane, if both are there.
const OF_PODS: [&str; 2] = ["kthena-router", "envoy"];
/// Until the API answers, on a machine that does something else at the same time.
const START_DEADLINE: Duration = Duration::from_secs(100);

/// A running control plane.
pub struct ControlPlane {
    /// Who signs its certificates, and those of its clients.
    pub authority: Arc<Authority>,
    /// Where the API listens on 127.0.0.1.
    pub port: u16,
    /// Whether controllers and the scheduler are real too.
    pub has_controllers: bool,
    programs: Mutex<Vec<(&'static str, Child)>>,
}

/// Returns the names of the programs that a folder has and a lab would run.
pub fn programs_in(folder: &Path) -> Vec<&'static str> {
    let has = |names: &[&str]| names.iter().all(|name| folder.join(name).is_file());
    match () {
        () if has(&PROGRAMS) && has(&OF_PODS) => PROGRAMS.into_iter().chain(OF_PODS).collect(),
        () if has(&PROGRAMS) => PROGRAMS.to_vec(),
        () => PROGRAMS[..2].iter().copied().filter(|name| has(&[name])).collect(),
    }
}

/// Says whether the router and the proxy of a folder run too.
pub fn has_programs_of_pods(folder: &Path) -> bool {
    programs_in(folder).len() > PROGRAMS.len()
}

/// Returns ports of loopback that are free now.
fn free_ports() -> std::io::Result<[u16; 3]> {
    // All are held until all are known, so that no two are the same.
    let held = [(); 3].map(|()| TcpListener::bind(("127.0.0.1", 0)));
    let mut ports = [0; 3];
    for (port, listener) in ports.iter_mut().zip(held) {
        *port = listener?.local_addr()?.port();
    }
    Ok(ports)
}

impl ControlPlane {
    /// Starts the programs of a folder, with their files in `dir`, and waits until the API is ready.
    pub async fn start(folder: &Path, dir: &Path, names: &[String]) -> Result<Self, String> {
        let failed =
            |e: &dyn std::fmt::Display| format!("cannot start a control plane in {}: {e}", dir.display());
        let authority = Arc::new(Authority::new().map_err(|e| failed(&e))?);
        let _ = fs::remove_dir_all(dir);
        fs::create_dir_all(dir).map_err(|e| failed(&e))?;
        let [api, client, peer] = free_ports().map_err(|e| failed(&e))?;
        let pair = authority.server_pair(names).map_err(|e| failed(&e))?;
        // Whoever can write to etcd owns the cluster, and loopback is everybody's: only the API has a certificate for it.
        let store = Authority::new().map_err(|e| failed(&e))?;
        let etcd = store.server_pair(&["127.0.0.1".to_owned()]).map_err(|e| failed(&e))?;
        let etcd_client = store.client(&Identity::admin()).map_err(|e| failed(&e))?;
        let accounts = rcgen::KeyPair::generate().map_err(|e| failed(&e))?;
        let admin = authority.client(&Identity::admin()).map_err(|e| failed(&e))?;
        let server = format!("https://127.0.0.1:{api}");
        for (name, text) in [
            ("ca.crt", authority.certificate()),
            ("ca.key", authority.key()),
            ("server.crt", &pair.certificate),
            ("server.key", &pair.key),
            ("etcd-ca.crt", store.certificate()),
            ("etcd.crt", &etcd.certificate),
            ("etcd.key", &etcd.key),
            ("etcd-client.crt", &etcd_client.certificate),
            ("etcd-client.key", &etcd_client.key),
            ("sa.key", &accounts.serialize_pem()),
            ("sa.pub", &accounts.public_key_pem()),
            ("admin.conf", &kubeconfig(authority.certificate(), &server, "local", "Default", "user", &admin)),
        ] {
            crate::lab::sockets::private(&dir.join(name), text).map_err(|e| failed(&e))?;
        }
        let this = Self {
            authority,
            port: api,
            has_controllers: programs_in(folder).len() >= PROGRAMS.len(),
            programs: Mutex::default(),
        };
        for program in programs_in(folder).into_iter().filter(|name| PROGRAMS.contains(name)) {
            let flags = flags(program, [api, client, peer], this.has_controllers);
            let child = spawn(&folder.join(program), dir, &flags).map_err(|e| failed(&e))?;
            this.programs.lock().unwrap_or_else(PoisonError::into_inner).push((program, child));
            if program == "kube-apiserver" {
                this.ready(dir).await?;
            }
        }
        Ok(this)
    }

    /// Returns a client as an administrator.
    pub fn client(&self) -> Result<Client, String> {
        let admin = self.authority.client(&Identity::admin()).map_err(|e| e.to_string())?;
        Client::new(self.port, self.authority.certificate(), &admin).map_err(|e| e.to_string())
    }

    async fn ready(&self, dir: &Path) -> Result<(), String> {
        let client = self.client()?;
        let began = Instant::now();
        while !client.is_ready().await {
            let ended = self.ended();
            let late = began.elapsed() > START_DEADLINE;
            if let Some(name) = ended.or(late.then_some("kube-apiserver")) {
                let log = fs::read_to_string(dir.join(format!("{name}.log"))).unwrap_or_default();
                let last = log.lines().last().unwrap_or_default();
                return Err(format!("{name} did not come up: {last}"));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    /// Returns a program that has ended.
    fn ended(&self) -> Option<&'static str> {
        let mut programs = self.programs.lock().unwrap_or_else(PoisonError::into_inner);
        programs.iter_mut().find_map(|(name, child)| (!matches!(child.try_wait(), Ok(None))).then_some(*name))
    }

    /// Ends the programs, the last one first, and waits until they are gone.
    pub async fn end(&self) {
        let mut programs = std::mem::take(&mut *self.programs.lock().unwrap_or_else(PoisonError::into_inner));
        while let Some((_, mut child)) = programs.pop() {
            let _ = child.kill().await;
        }
    }
}

/// Starts a program that does not outlive the lab's process, however that ends.
fn spawn(program: &Path, dir: &Path, flags: &[String]) -> std::io::Result<Child> {
    let name = program.file_name().unwrap_or_default().to_string_lossy();
    let log = File::create(dir.join(format!("{name}.log")))?;
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program).args(flags).current_dir(dir);
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).kill_on_drop(true).spawn()
}

/// Returns the flags of a program: as k0s gives them where it matters to clients. Paths are relative to its folder.
fn flags(program: &str, [api, client, peer]: [u16; 3], has_controllers: bool) -> Vec<String> {
    let text = match program {
        "etcd" => format!(
            "name=one data-dir=etcd listen-client-urls=https://127.0.0.1:{client} \
             advertise-client-urls=https://127.0.0.1:{client} listen-peer-urls=https://127.0.0.1:{peer} \
             initial-advertise-peer-urls=https://127.0.0.1:{peer} initial-cluster=one=https://127.0.0.1:{peer} \
             cert-file=etcd.crt key-file=etcd.key trusted-ca-file=etcd-ca.crt client-cert-auth=true \
             peer-cert-file=etcd.crt peer-key-file=etcd.key peer-trusted-ca-file=etcd-ca.crt \
             peer-client-cert-auth=true enable-grpc-gateway=false unsafe-no-fsync=true log-level=warn"
        ),
        "kube-apiserver" => format!(
            "etcd-servers=https://127.0.0.1:{client} etcd-cafile=etcd-ca.crt etcd-certfile=etcd-client.crt \
             etcd-keyfile=etcd-client.key bind-address=127.0.0.1 secure-port={api} \
             service-cluster-ip-range=10.96.0.0/16 client-ca-file=ca.crt tls-cert-file=server.crt \
             tls-private-key-file=server.key service-account-issuer=https://kubernetes.default.svc \
             service-account-key-file=sa.pub service-account-signing-key-file=sa.key allow-privileged=true \
             anonymous-auth=false authorization-mode=Node,RBAC enable-bootstrap-token-auth=true \
             endpoint-reconciler-type=none advertise-address=10.96.255.254"
        ),
        "kube-controller-manager" => {
            "kubeconfig=admin.conf bind-address=127.0.0.1 secure-port=0 leader-elect=false \
             service-account-private-key-file=sa.key root-ca-file=ca.crt cluster-signing-cert-file=ca.crt \
             cluster-signing-key-file=ca.key cluster-cidr=10.240.0.0/13 node-monitor-grace-period=24h"
                .to_owned()
        }
        _ => "kubeconfig=admin.conf bind-address=127.0.0.1 secure-port=0 leader-elect=false".to_owned(),
    };
    let mut flags: Vec<_> = text.split_whitespace().map(|flag| format!("--{flag}")).collect();
    // Without controllers there are no service accounts, and no pod would be let in.
    if program == "kube-apiserver" && !has_controllers {
        flags.push("--disable-admission-plugins=ServiceAccount".to_owned());
    }
    flags
}
