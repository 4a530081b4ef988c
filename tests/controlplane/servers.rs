//! A control plane of real programs on loopback: etcd, kube-apiserver, kube-controller-manager and kube-scheduler, with
//! the arguments that k0s gives them where they matter. Ended by pid, also when a case panics.

use super::contract::Site;
use super::pki::Pki;
use async_trait::async_trait;
use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Until a program answers, on a machine that builds something else at the same time.
const START: Duration = Duration::from_secs(120);

/// A running program.
pub struct Program {
    name: String,
    child: Child,
}

impl Program {
    /// Starts a program; what it says goes to a file in the folder.
    fn start(dir: &Path, program: &Path, args: &[String]) -> std::io::Result<Self> {
        let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Self::spawn(dir, &name, Command::new(program).args(args).current_dir(dir))
    }

    /// Starts a command; what it says goes to a file in the folder.
    pub fn spawn(dir: &Path, name: &str, command: &mut Command) -> std::io::Result<Self> {
        let log = File::options().create(true).append(true).open(dir.join(format!("{name}.log")))?;
        let child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
        Ok(Self { name: name.to_owned(), child })
    }

    /// Returns how it ended, unless it runs.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Returns the id of its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it as a kubelet does after the pod's hook: SIGTERM, and SIGKILL if it still runs after its grace period.
    pub async fn terminate(&mut self, grace: Duration) {
        self.ask_to_end();
        let began = Instant::now();
        while self.ended().is_none() {
            if began.elapsed() > grace {
                return self.kill();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Kills it.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    fn ask_to_end(&self) {
        let pid = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
    }

    /// Ends it: asks first, and kills what does not listen.
    fn end(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        self.ask_to_end();
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(5) {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.kill();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.end();
    }
}

/// Returns the last lines that a program in a folder said.
pub fn tail(dir: &Path, program: &str) -> String {
    let text = std::fs::read_to_string(dir.join(format!("{program}.log"))).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}

/// A control plane.
pub struct ControlPlane {
    programs: PathBuf,
    dir: tempfile::TempDir,
    pki: Pki,
    /// Where the API is.
    pub port: u16,
    etcd: String,
    running: Mutex<Vec<Program>>,
    apiserver: Mutex<Option<Program>>,
}

/// Returns ports of loopback that are free now.
fn free_ports<const N: usize>() -> std::io::Result<[u16; N]> {
    // All are held until all are known, so that no two are the same.
    let held: Vec<TcpListener> =
        (0..N).map(|_| TcpListener::bind(("127.0.0.1", 0))).collect::<Result<_, _>>()?;
    let mut ports = [0; N];
    for (port, listener) in ports.iter_mut().zip(&held) {
        *port = listener.local_addr()?.port();
    }
    Ok(ports)
}

impl ControlPlane {
    /// Starts everything and waits until the API is ready.
    pub async fn start(programs: &Path) -> Result<Self, Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let pki = Pki::make(&dir.path().join("pki"))?;
        let [port, client, peer] = free_ports()?;
        let etcd = format!("http://127.0.0.1:{client}");
        let peer = format!("http://127.0.0.1:{peer}");
        let this = Self {
            programs: programs.to_owned(),
            dir,
            pki,
            port,
            etcd,
            running: Mutex::default(),
            apiserver: Mutex::default(),
        };
        let data = this.dir.path().join("etcd");
        this.launch(
            "etcd",
            &[
                ("name", "one"),
                ("data-dir", &data.to_string_lossy()),
                ("listen-client-urls", &this.etcd),
                ("advertise-client-urls", &this.etcd),
                ("listen-peer-urls", &peer),
                ("initial-advertise-peer-urls", &peer),
                ("initial-cluster", &format!("one={peer}")),
                // Nothing here outlives the test.
                ("unsafe-no-fsync", "true"),
                ("log-level", "warn"),
            ],
        )?;
        this.start_apiserver()?;
        this.ready().await?;
        let kubeconfig = this.dir.path().join("admin.conf");
        std::fs::write(&kubeconfig, this.kubeconfig())?;
        let kubeconfig = kubeconfig.to_string_lossy().into_owned();
        let pki = |name: &str| this.pki.file(name).to_string_lossy().into_owned();
        this.launch(
            "kube-controller-manager",
            &[
                ("kubeconfig", &kubeconfig),
                ("bind-address", "127.0.0.1"),
                ("secure-port", "0"),
                ("leader-elect", "false"),
                ("service-account-private-key-file", &pki("sa.key")),
                ("root-ca-file", &pki("ca.crt")),
                ("cluster-signing-cert-file", &pki("ca.crt")),
                ("cluster-signing-key-file", &pki("ca.key")),
                ("cluster-cidr", "10.240.0.0/13"),
                ("allocate-node-cidrs", "true"),
                // The last two are off by default: they belong to bootstrap tokens.
                ("controllers", "*,bootstrap-signer-controller,token-cleaner-controller"),
            ],
        )?;
        this.launch(
            "kube-scheduler",
            &[
                ("kubeconfig", &kubeconfig),
                ("bind-address", "127.0.0.1"),
                ("secure-port", "0"),
                ("leader-elect", "false"),
            ],
        )?;
        Ok(this)
    }

    fn launch(&self, program: &str, args: &[(&str, &str)]) -> std::io::Result<()> {
        let args: Vec<String> = args.iter().map(|(k, v)| format!("--{k}={v}")).collect();
        let started = Program::start(self.dir.path(), &self.programs.join(program), &args)?;
        self.running.lock().expect("no panic").push(started);
        Ok(())
    }

    fn start_apiserver(&self) -> std::io::Result<()> {
        let pki = |name: &str| self.pki.file(name).to_string_lossy().into_owned();
        let args = [
            ("etcd-servers", self.etcd.clone()),
            ("bind-address", "127.0.0.1".to_owned()),
            ("secure-port", self.port.to_string()),
            ("service-cluster-ip-range", "10.96.0.0/16".to_owned()),
            ("client-ca-file", pki("ca.crt")),
            ("tls-cert-file", pki("server.crt")),
            ("tls-private-key-file", pki("server.key")),
            ("service-account-issuer", "https://kubernetes.default.svc".to_owned()),
            ("service-account-key-file", pki("sa.pub")),
            ("service-account-signing-key-file", pki("sa.key")),
            // As k0s has it (pkg/component/controller/apiserver.go).
            ("allow-privileged", "true".to_owned()),
            ("anonymous-auth", "false".to_owned()),
            ("authorization-mode", "Node,RBAC".to_owned()),
            ("enable-admission-plugins", "NodeRestriction".to_owned()),
            ("enable-bootstrap-token-auth", "true".to_owned()),
            // There is no second one, and 127.0.0.1 is no address of an endpoint.
            ("endpoint-reconciler-type", "none".to_owned()),
            ("advertise-address", "10.96.255.254".to_owned()),
        ];
        let args: Vec<String> = args.iter().map(|(k, v)| format!("--{k}={v}")).collect();
        let started = Program::start(self.dir.path(), &self.programs.join("kube-apiserver"), &args)?;
        *self.apiserver.lock().expect("no panic") = Some(started);
        Ok(())
    }

    /// Returns the certificate of its authority.
    pub fn authority(&self) -> String {
        std::fs::read_to_string(self.pki.file("ca.crt")).expect("a certificate")
    }

    /// Ends the API and leaves etcd and the rest running.
    pub fn stop_apiserver(&self) {
        let stopped = self.apiserver.lock().expect("no panic").take();
        drop(stopped);
    }

    /// Starts the API again and waits until it is ready.
    pub async fn resume_apiserver(&self) {
        self.start_apiserver().expect("started");
        self.ready().await.expect("ready");
    }

    /// Waits until the API is ready; a program that ended before says why in its log.
    async fn ready(&self) -> Result<(), String> {
        let rest = super::contract::rest::Rest::new(&self.kubeconfig(), "");
        let began = Instant::now();
        while began.elapsed() < START {
            if rest.try_get("/readyz").await == Some(200) {
                return Ok(());
            }
            self.all_run()?;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Err(format!("the API is not ready after {} s:\n{}", START.as_secs(), self.tail("kube-apiserver")))
    }

    /// Returns an error with the end of its log if a program is no more.
    pub fn all_run(&self) -> Result<(), String> {
        let mut running = self.running.lock().expect("no panic");
        let mut apiserver = self.apiserver.lock().expect("no panic");
        for program in running.iter_mut().chain(apiserver.as_mut()) {
            if let Some(status) = program.ended() {
                return Err(format!("{} ended: {status}\n{}", program.name, self.tail(&program.name)));
            }
        }
        Ok(())
    }

    /// Returns the last lines that a program said.
    fn tail(&self, program: &str) -> String {
        tail(self.dir.path(), program)
    }

    /// Ends everything, the API before what it stores in.
    pub fn end(&self) {
        self.stop_apiserver();
        let mut running = std::mem::take(&mut *self.running.lock().expect("no panic"));
        while let Some(last) = running.pop() {
            drop(last);
        }
    }
}

#[async_trait]
impl Site for ControlPlane {
    fn kubeconfig(&self) -> String {
        self.pki.kubeconfig(&format!("https://127.0.0.1:{}", self.port))
    }

    async fn restart(&self) {
        self.stop_apiserver();
        self.resume_apiserver().await;
    }
}
