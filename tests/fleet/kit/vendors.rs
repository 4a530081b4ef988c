//! Stand-ins for what the vendors' repositories have: packages of the real names and versions, signed lists at the real
//! paths, over TLS under the real host names. None of their content is the vendors'.

use super::must;
use super::packages::{Package, build};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

/// NVIDIA's hosts, which accelerator hosts find at the mirror's address.
pub const NAMES: [&str; 2] = ["developer.download.nvidia.com", "nvidia.github.io"];
/// AWS's host, which no host can resolve: inventories name a mirror of it.
pub const MIRRORED: &str = "apt.repos.neuron.amazonaws.com";
/// Where the mirror has the key.
pub const KEY: &str = "keys/vendors.asc";

/// Releases of NVIDIA's driver. Of 610 one part is missing.
const DRIVERS: [&str; 4] = ["580.126.09", "580.178.04", "595.91.07", "610.57.04"];
/// Releases of the Neuron driver: those of SDK 2.31 and of 2.32.
const NEURON: [&str; 2] = ["2.29.9.0", "2.30.2.0"];

const SMI: &str = include_str!("standins/nvidia-smi");
const CTK: &str = include_str!("standins/nvidia-ctk");
const FABRIC_MANAGER: &str = include_str!("standins/nv-fabricmanager");
const NEURON_LS: &str = include_str!("standins/neuron-ls");

fn unit(description: &str, start: &str, rest: &str) -> String {
    format!(
        "[Unit]\nDescription=Stand-in for {description}\n\n[Service]\nExecStart={start}\n{rest}\n[Install]\nWantedBy=multi-user.target\n"
    )
}

fn part(name: &str, version: &str, depends: &str) -> Package {
    Package {
        name: name.to_owned(),
        version: version.to_owned(),
        depends: depends.to_owned(),
        files: Vec::new(),
        postinst: String::new(),
        ends: (String::new(), String::new()),
    }
}

/// A package whose module dkms builds while it is configured, slowly, and without a word when it cannot.
fn module(mut package: Package, name: &str, release: &str, modules: &str) -> Package {
    let folder = format!("/var/lib/dkms/{name}/{release}");
    package.postinst = format!(
        "sleep 2; mkdir -p {folder}; echo '{modules}' >{folder}/modules\n\
         dkms autoinstall -k \"$(uname -r)\" || echo 'Module build was skipped'"
    );
    package.ends.0 =
        format!("rm -rf {folder}; for m in {modules}; do rm -f /lib/modules/*/updates/dkms/$m; done");
    package
}

fn driver(release: &str) -> Vec<Package> {
    let version = format!("{release}-1");
    // Parts only name each other's lowest version.
    let needs =
        |names: &[&str]| names.iter().map(|n| format!("{n} (>= {version})")).collect::<Vec<_>>().join(", ");
    let open = if release.starts_with("580") { "nvidia-open-580" } else { "nvidia-open" };
    let modules = "nvidia nvidia_uvm nvidia_modeset nvidia_drm";
    let mut smi = part("nvidia-driver-cuda", &version, &needs(&["libnvidia-ml1", "libcuda1"]));
    smi.files.push(("usr/bin/nvidia-smi", SMI.to_owned()));
    let mut library = part("libnvidia-ml1", &version, "");
    library.files.push(("usr/lib/nvidia-stand-in/library", format!("{release}\n")));
    let daemon = "#!/bin/sh\n# Stand-in: it would keep the driver awake.\n[ -e /sys/module/nvidia ] || exit 1\nexec sleep infinity\n";
    let mut persistenced = part("nvidia-persistenced", &version, &needs(&["libnvidia-ml1"]));
    persistenced.files = vec![
        ("usr/bin/nvidia-persistenced", daemon.to_owned()),
        (
            "lib/systemd/system/nvidia-persistenced.service",
            unit("nvidia-persistenced", "/usr/bin/nvidia-persistenced --user nvidia-persistenced", ""),
        ),
    ];
    persistenced.postinst = "systemctl daemon-reload; systemctl enable -q nvidia-persistenced.service; systemctl restart nvidia-persistenced.service || true".to_owned();
    persistenced.ends.0 = "systemctl stop nvidia-persistenced.service || true".to_owned();
    let mut fabric = part("nvidia-fabricmanager", &version, "");
    fabric.files = vec![
        ("usr/bin/nv-fabricmanager", FABRIC_MANAGER.to_owned()),
        ("usr/lib/nvidia-stand-in/fabricmanager", format!("{release}\n")),
        (
            "lib/systemd/system/nvidia-fabricmanager.service",
            unit("nvidia-fabricmanager", "/usr/bin/nv-fabricmanager", ""),
        ),
    ];
    fabric.postinst = "systemctl daemon-reload".to_owned();
    fabric.ends.0 = "systemctl stop nvidia-fabricmanager.service || true".to_owned();
    let kernel = part("nvidia-kernel-open-dkms", &version, "dkms");
    let mut all = vec![
        part(open, &version, &needs(&["nvidia-kernel-open-dkms", "nvidia-driver-cuda"])),
        module(kernel, "nvidia", release, modules),
        part("libcuda1", &version, ""),
        smi,
        library,
        persistenced,
        fabric,
    ];
    if !release.starts_with("610") {
        all.push(part("libnvidia-nscq", &version, ""));
    }
    all
}

fn toolkit() -> Vec<Package> {
    let version = "1.20.0-1";
    let mut base = part("nvidia-container-toolkit-base", version, "");
    base.files = vec![
        ("usr/bin/nvidia-ctk", CTK.to_owned()),
        (
            // From 1.18 on the description is made anew at boot.
            "lib/systemd/system/nvidia-cdi-refresh.service",
            unit(
                "nvidia-cdi-refresh",
                "/usr/bin/nvidia-ctk cdi generate --output=/var/run/cdi/nvidia.yaml",
                "Type=oneshot\n",
            ),
        ),
    ];
    base.postinst = "systemctl daemon-reload; systemctl enable -q nvidia-cdi-refresh.service".to_owned();
    vec![
        part("libnvidia-container1", version, ""),
        part("libnvidia-container-tools", version, "libnvidia-container1 (>= 1.20.0-1)"),
        base,
        part(
            "nvidia-container-toolkit",
            version,
            "libnvidia-container-tools (>= 1.20.0-1), nvidia-container-toolkit-base (= 1.20.0-1)",
        ),
    ]
}

/// DCGM for the CUDA of all these drivers.
fn dcgm() -> Vec<Package> {
    let version = "4.4.2-1";
    let engine = "#!/bin/sh\n# Stand-in: it would ask the driver.\n[ -e /sys/module/nvidia ] || exit 1\nexec sleep infinity\n";
    let mut core = part("datacenter-gpu-manager-4-core", version, "");
    core.files = vec![
        ("usr/bin/nv-hostengine", engine.to_owned()),
        ("lib/systemd/system/nvidia-dcgm.service", unit("nvidia-dcgm", "/usr/bin/nv-hostengine -n", "")),
    ];
    core.postinst = "systemctl daemon-reload".to_owned();
    core.ends.0 = "systemctl stop nvidia-dcgm.service || true".to_owned();
    let others = ["proprietary", "cuda13", "proprietary-cuda13"].map(|name| {
        let needs = format!("datacenter-gpu-manager-4-core (= {version})");
        part(&format!("datacenter-gpu-manager-4-{name}"), version, &needs)
    });
    others.into_iter().chain([core]).collect()
}

fn neuron() -> Vec<Package> {
    // Since SDK 2.28 their versions end in a commit.
    let tools = ["2.31.15.0-5c7949a6a", "2.32.28.0-526c2b7f6"].map(|version| {
        let mut tools = part("aws-neuronx-tools", version, "");
        tools.files.push(("opt/aws/neuron/bin/neuron-ls", NEURON_LS.to_owned()));
        tools
    });
    let drivers = NEURON
        .map(|release| module(part("aws-neuronx-dkms", release, "dkms"), "aws-neuronx", release, "neuron"));
    // Of the lines of SDK 2.31 and of 2.32.
    let libraries = ["2.33.19.0-6a1b2c3d4", "2.34.10.0-7b2c3d4e5"].into_iter().flat_map(|version| {
        ["aws-neuronx-runtime-lib", "aws-neuronx-collectives"].map(|name| part(name, version, ""))
    });
    drivers.into_iter().chain(tools).chain(libraries).collect()
}

/// Makes the repositories below the mirror's folder.
pub fn make(root: &Path) {
    let home = tempfile::tempdir().expect("a folder");
    let gpg = |arguments: &[&str]| {
        let mut command = Command::new("gpg");
        command.args(["--batch", "--quiet", "--yes", "--pinentry-mode", "loopback", "--passphrase", ""]);
        command.env("GNUPGHOME", home.path()).args(arguments).current_dir(root);
        must(&mut command)
    };
    std::fs::create_dir(root.join("keys")).expect("made");
    gpg(&["--quick-generate-key", "stand-in <tests@example.com>", "rsa2048", "sign", "never"]);
    gpg(&["--armor", "--output", KEY, "--export"]);
    let machine = must(Command::new("uname").arg("-m"));
    let (cuda, debian) = if machine.trim() == "aarch64" { ("sbsa", "arm64") } else { ("x86_64", "amd64") };
    let flat = |folder: &str, packages: Vec<Package>| {
        let at = root.join(folder);
        std::fs::create_dir_all(&at).expect("made");
        for package in packages {
            build(&package, &at);
        }
        super::packages::index(&at);
        gpg(&["--output", &format!("{folder}/InRelease"), "--clearsign", &format!("{folder}/Release")]);
    };
    flat(
        &format!("compute/cuda/repos/debian12/{cuda}"),
        DRIVERS.into_iter().flat_map(driver).chain(dcgm()).collect(),
    );
    flat(&format!("libnvidia-container/stable/deb/{debian}"), toolkit());
    // AWS's is laid out by suites.
    let pool = root.join("pool");
    std::fs::create_dir(&pool).expect("made");
    for package in neuron() {
        build(&package, &pool);
    }
    let lists = format!("dists/bookworm/main/binary-{debian}");
    std::fs::create_dir_all(root.join(&lists)).expect("made");
    let listed = must(Command::new("apt-ftparchive").args(["packages", "pool"]).current_dir(root));
    std::fs::write(root.join(lists).join("Packages"), listed).expect("written");
    let release = must(
        Command::new("apt-ftparchive")
            .args(["-o", "APT::FTPArchive::Release::Codename=bookworm"])
            .args(["-o", "APT::FTPArchive::Release::Suite=bookworm"])
            .args(["-o", "APT::FTPArchive::Release::Components=main"])
            .args(["-o", &format!("APT::FTPArchive::Release::Architectures={debian}")])
            .args(["release", "dists/bookworm"])
            .current_dir(root),
    );
    std::fs::write(root.join("dists/bookworm/Release"), release).expect("written");
    gpg(&["--output", "dists/bookworm/InRelease", "--clearsign", "dists/bookworm/Release"]);
    must(Command::new("gpgconf").args(["--kill", "gpg-agent"]).env("GNUPGHOME", home.path()));
}

/// A certificate for the vendors' names, that nobody trusts unless told to.
pub struct Certificate {
    /// In PEM.
    pub pem: String,
    config: Arc<rustls::ServerConfig>,
}

impl Certificate {
    /// Makes it.
    pub fn make() -> Self {
        let key = rcgen::KeyPair::generate().expect("a key");
        let names: Vec<String> = NAMES.iter().map(|n| (*n).to_owned()).collect();
        let mut params = rcgen::CertificateParams::new(names).expect("names");
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).expect("signed");
        let private = rustls::pki_types::PrivatePkcs8KeyDer::from(key.serialize_der());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], private.into())
            .expect("a certificate and its key");
        Self { pem: certificate.pem(), config: Arc::new(config) }
    }

    /// Serves a folder over TLS, a thread a connection, until the process ends.
    pub fn serve(&self, listener: TcpListener, root: &Path) {
        let (config, root) = (self.config.clone(), root.to_owned());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (config, root) = (config.clone(), root.clone());
                std::thread::spawn(move || {
                    // Who hangs up half-way needs no answer.
                    let _ = secure(config, stream, &root);
                });
            }
        });
    }
}

fn secure(config: Arc<rustls::ServerConfig>, stream: TcpStream, root: &Path) -> std::io::Result<()> {
    let connection = rustls::ServerConnection::new(config).map_err(std::io::Error::other)?;
    super::packages::answer(rustls::StreamOwned::new(connection, stream), root)
}
