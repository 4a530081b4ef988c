//! The real Envoy on the files of a ConfigMap, mounted as a kubelet does it: files are links into `..data`, which is a link to a
//! folder and is swapped by one rename.

use super::super::servers::{Program, tail};
use super::sandbox::Sandbox;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Until its listeners listen.
const START: Duration = Duration::from_secs(60);

/// A running Envoy.
pub struct Edge {
    dir: tempfile::TempDir,
    replacements: Vec<(String, String)>,
    program: Program,
    updates: u32,
}

impl Edge {
    /// Starts it with arguments on a ConfigMap's data, of both of which some texts are replaced, and waits until it listens on ports. In the texts that
    /// replace, `{dir}` is the folder of the mount. It runs in a pod's network, or in that of the tests.
    pub async fn start(
        sandbox: Option<&Sandbox>,
        envoy: &Path,
        args: &[String],
        data: &BTreeMap<String, String>,
        replacements: &[(&str, &str)],
        ports: &[u16],
    ) -> Self {
        let mut command = sandbox.map_or_else(|| Command::new(envoy), |pod| pod.command_with_names(envoy));
        let address = sandbox.map_or(Ipv4Addr::LOCALHOST, |pod| pod.address);
        let dir = tempfile::tempdir().expect("a folder");
        let mount = dir.path().join("mount");
        std::fs::create_dir(&mount).expect("made");
        let at = mount.to_string_lossy().into_owned();
        let replacements: Vec<(String, String)> =
            replacements.iter().map(|(from, to)| ((*from).to_owned(), to.replace("{dir}", &at))).collect();
        let data = replaced(data, &replacements);
        write(&mount, 0, &data);
        let args = args.iter().map(|arg| replace(arg, &replacements));
        command.args(args).current_dir(dir.path());
        let program = Program::spawn(dir.path(), "envoy", &mut command).expect("started");
        let mut this = Self { dir, replacements, program, updates: 0 };
        let began = Instant::now();
        for port in ports {
            while tokio::net::TcpStream::connect((address, *port)).await.is_err() {
                this.runs();
                assert!(began.elapsed() < START, "nothing listens on {port}:\n{}", this.log());
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        this
    }

    /// Changes the files at once, as a kubelet does when the ConfigMap changed.
    pub fn update(&mut self, data: &BTreeMap<String, String>) {
        self.updates += 1;
        write(&self.mount(), self.updates, &replaced(data, &self.replacements));
    }

    /// Asserts that it runs.
    pub fn runs(&mut self) {
        if let Some(status) = self.program.ended() {
            panic!("Envoy ended: {status}\n{}", self.log());
        }
    }

    /// Ends it as a kubelet does after the pod's hook.
    pub async fn terminate(&mut self, grace: Duration) {
        self.program.terminate(grace).await;
    }

    /// Kills it.
    pub fn kill(&mut self) {
        self.program.kill();
    }

    /// Returns the last lines of what it logged.
    pub fn log(&self) -> String {
        tail(self.dir.path(), "envoy")
    }

    /// Returns all that it printed, access records included.
    pub fn output(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("envoy.log")).unwrap_or_default()
    }

    fn mount(&self) -> PathBuf {
        self.dir.path().join("mount")
    }
}

fn replace(text: &str, replacements: &[(String, String)]) -> String {
    replacements.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

fn replaced(data: &BTreeMap<String, String>, replacements: &[(String, String)]) -> BTreeMap<String, String> {
    data.iter().map(|(name, text)| (name.clone(), replace(text, replacements))).collect()
}

fn write(mount: &Path, number: u32, data: &BTreeMap<String, String>) {
    let folder = format!("..{number:04}");
    std::fs::create_dir(mount.join(&folder)).expect("made");
    for (name, text) in data {
        std::fs::write(mount.join(&folder).join(name), text).expect("written");
    }
    let before = std::fs::read_link(mount.join("..data")).ok();
    symlink(&folder, mount.join("..data_tmp")).expect("linked");
    std::fs::rename(mount.join("..data_tmp"), mount.join("..data")).expect("renamed");
    for name in data.keys().filter(|name| !mount.join(name).is_symlink()) {
        symlink(Path::new("..data").join(name), mount.join(name)).expect("linked");
    }
    let Some(before) = before else { return };
    for entry in std::fs::read_dir(mount.join(&before)).expect("a folder").filter_map(Result::ok) {
        let name = entry.file_name();
        if !data.contains_key(name.to_string_lossy().as_ref()) {
            std::fs::remove_file(mount.join(name)).expect("removed");
        }
    }
    std::fs::remove_dir_all(mount.join(before)).expect("removed");
}
