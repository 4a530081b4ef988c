//! The local mirror: packages built here, k0s's stand-in, and the HTTP server that hosts fetch them from.

use super::fleet::HUB;
use super::{must, vendors};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

/// The mirror's port.
pub const PORT: u16 = 8000;
/// The k0s that inventories ask for.
pub const K0S: &str = "v1.35.7+k0s.0";
/// Another one, for upgrades.
pub const K0S_NEXT: &str = "v1.36.3+k0s.2";
/// Where hosts find it.
pub const MIRROR: &str = "http://10.77.0.1:8000";

/// What a mirror serves.
pub struct Mirror {
    /// The folder that is served.
    pub root: tempfile::TempDir,
    /// sha256 and size of each k0s, by version.
    sums: BTreeMap<&'static str, (String, u64)>,
    /// Of the vendors' names.
    pub certificate: vendors::Certificate,
}

/// A package built here: name, version, what it depends on, its files, its maintainer scripts.
pub(super) struct Package {
    pub(super) name: String,
    pub(super) version: String,
    pub(super) depends: String,
    pub(super) files: Vec<(&'static str, String)>,
    pub(super) postinst: String,
    /// When it is taken away, as debhelper has it for units: before, and when it is purged.
    pub(super) ends: (String, String),
}

const CHRONY_UNIT: &str = "[Unit]\nDescription=Stand-in for chrony: a container has no clock of its own to set\n\n[Service]\n\
                           ExecStart=/usr/sbin/chronyd\nRestart=always\n\n[Install]\nWantedBy=multi-user.target\n";

const DKMS: &str = include_str!("standins/dkms");

fn packages() -> Vec<Package> {
    let kernel = must(Command::new("uname").arg("-r"));
    let plain = |name: &str, version: &str| Package {
        name: name.to_owned(),
        version: version.to_owned(),
        depends: String::new(),
        files: Vec::new(),
        postinst: String::new(),
        ends: (String::new(), String::new()),
    };
    let mut all = vec![
        Package {
            name: "chrony".to_owned(),
            version: "4.3-2+deb12u1".to_owned(),
            depends: String::new(),
            files: vec![
                ("lib/systemd/system/chrony.service", CHRONY_UNIT.to_owned()),
                ("usr/sbin/chronyd", "#!/bin/sh\nexec sleep infinity\n".to_owned()),
                (
                    "etc/chrony/chrony.conf",
                    "confdir /etc/chrony/conf.d\nsourcedir /etc/chrony/sources.d\n".to_owned(),
                ),
            ],
            postinst:
                "systemctl daemon-reload; systemctl enable -q chrony.service; systemctl start chrony.service"
                    .to_owned(),
            ends: (
                "systemctl stop chrony.service".to_owned(),
                "rm -f /etc/systemd/system/*/chrony.service; systemctl daemon-reload".to_owned(),
            ),
        },
        Package {
            postinst: format!("mkdir -p /boot; : >/boot/vmlinuz-{}", kernel.trim()),
            ..plain(&format!("linux-image-{}", kernel.trim()), "6.1-1")
        },
        Package { files: vec![("usr/sbin/dkms", DKMS.to_owned())], ..plain("dkms", "3.0.10-8+deb12u1") },
        // Takes its time, and must not be cut off half-way.
        Package {
            name: "slow".to_owned(),
            version: "1.0-1".to_owned(),
            depends: String::new(),
            files: Vec::new(),
            postinst: "echo configuring slowly; sleep 4; echo whole >/etc/slow.done".to_owned(),
            ends: (String::new(), String::new()),
        },
        Package {
            name: "broken".to_owned(),
            version: "1.0-1".to_owned(),
            depends: String::new(),
            files: Vec::new(),
            postinst: "echo 'broken: this machine is not to my liking' >&2; exit 3".to_owned(),
            ends: (String::new(), String::new()),
        },
    ];
    for version in ["1.0-1", "1.1-1", "2.0-1"] {
        all.push(Package {
            name: "widget".to_owned(),
            version: version.to_owned(),
            depends: String::new(),
            files: vec![("usr/share/widget/config", "of the package\n".to_owned())],
            postinst: String::new(),
            ends: (String::new(), String::new()),
        });
    }
    all
}

fn kernel_headers() -> Package {
    let kernel = must(Command::new("uname").arg("-r"));
    let name = format!("linux-headers-{}", kernel.trim());
    let mark = format!("/usr/src/{name}");
    Package {
        name,
        version: "6.1-1".to_owned(),
        depends: String::new(),
        files: Vec::new(),
        postinst: format!("mkdir -p {mark}"),
        ends: (format!("rm -rf {mark}"), String::new()),
    }
}

impl Mirror {
    /// Builds packages and stand-ins.
    pub fn build() -> Self {
        let root = tempfile::tempdir().expect("a folder");
        let debian = root.path().join("debian");
        std::fs::create_dir(&debian).expect("made");
        for package in packages() {
            build(&package, &debian);
        }
        index(&debian);
        // Of the running kernel: found only by hosts that were told of it.
        let headers = root.path().join("headers");
        std::fs::create_dir(&headers).expect("made");
        build(&kernel_headers(), &headers);
        index(&headers);
        vendors::make(root.path());
        let sums = std::thread::scope(|scope| {
            let root = root.path();
            let made = [K0S, K0S_NEXT].map(|version| (version, scope.spawn(move || k0s(root, version))));
            made.map(|(version, sum)| (version, sum.join().expect("a stand-in"))).into()
        });
        Self { root, sums, certificate: vendors::Certificate::make() }
    }

    /// Returns the URL, sha256 and size of the key of the vendors' repositories.
    pub fn key(&self) -> (String, String, u64) {
        let path = self.root.path().join(vendors::KEY);
        let size = std::fs::metadata(&path).expect("a key").len();
        let sum = must(Command::new("sha256sum").arg(&path));
        (format!("{MIRROR}/{}", vendors::KEY), sum.split_whitespace().next().expect("a sum").to_owned(), size)
    }

    /// Returns the URL, sha256 and size of a version of k0s.
    pub fn locate(&self, version: &str) -> (String, String, u64) {
        let (sum, size) = self.sums.get(version).expect("the mirror has it");
        (format!("{MIRROR}/k0s-{version}"), sum.clone(), *size)
    }
}

/// Puts a k0s there: this program itself, which knows by its name what it is to be, and by its end which version. Returns
/// its sha256 and size.
fn k0s(root: &Path, version: &str) -> (String, u64) {
    let path = root.join(format!("k0s-{version}"));
    let binary = env!("CARGO_BIN_EXE_provision");
    // Debug information is most of it; without it a host fetches a fifth.
    let stripped = Command::new("strip").arg("-o").arg(&path).arg(binary).status();
    if !stripped.is_ok_and(|s| s.success()) {
        std::fs::copy(binary, &path).expect("copied");
    }
    let mut file = std::fs::OpenOptions::new().append(true).open(&path).expect("opened");
    writeln!(file, "{}{version}", provision::lab::on_host::VERSION_MARK).expect("marked");
    let size = file.metadata().expect("there").len();
    let sum = must(Command::new("sha256sum").arg(&path));
    (sum.split_whitespace().next().expect("a sum").to_owned(), size)
}

pub(super) fn build(package: &Package, into: &Path) {
    let tree = tempfile::tempdir().expect("a folder");
    let put = |path: &str, text: &str, mode: u32| {
        let path = tree.path().join(path);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        std::fs::write(&path, text).expect("written");
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(mode)).expect("set");
    };
    let Package { name, version, depends, .. } = package;
    let depends = if depends.is_empty() { String::new() } else { format!("Depends: {depends}\n") };
    put(
        "DEBIAN/control",
        &format!(
            "Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: tests <tests@example.com>\n\
             {depends}Description: built by a test\n"
        ),
        0o644,
    );
    for (path, text) in &package.files {
        put(path, text, if path.contains("bin/") { 0o755 } else { 0o644 });
    }
    let conffiles: String =
        package.files.iter().filter(|(p, _)| p.starts_with("etc/")).map(|(p, _)| format!("/{p}\n")).collect();
    if !conffiles.is_empty() {
        put("DEBIAN/conffiles", &conffiles, 0o644);
    }
    let (prerm, postrm) = &package.ends;
    for (name, text) in [("postinst", &package.postinst), ("prerm", prerm), ("postrm", postrm)] {
        if !text.is_empty() {
            put(&format!("DEBIAN/{name}"), &format!("#!/bin/sh\nset -e\n{text}\n"), 0o755);
        }
    }
    must(
        Command::new("dpkg-deb")
            .args(["--root-owner-group", "-Zgzip", "--build"])
            .arg(tree.path())
            .arg(into.join(format!("{name}_{version}_all.deb"))),
    );
}

pub(super) fn index(debian: &Path) {
    let listed = must(Command::new("apt-ftparchive").args(["packages", "."]).current_dir(debian));
    std::fs::write(debian.join("Packages"), listed).expect("written");
    let release = must(Command::new("apt-ftparchive").args(["release", "."]).current_dir(debian));
    std::fs::write(debian.join("Release"), release).expect("written");
}

/// Serves a folder, a thread a connection, until the process ends.
pub fn serve(listener: &TcpListener, root: &Path) {
    for stream in listener.incoming().flatten() {
        let root = root.to_owned();
        std::thread::spawn(move || {
            // Who hangs up half-way needs no answer.
            let _ = answer(stream, &root);
        });
    }
}

pub(super) fn answer(stream: impl Read + Write, root: &Path) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let mut first = String::new();
        if reader.read_line(&mut first)? == 0 {
            return Ok(());
        }
        let mut from = 0;
        loop {
            let mut header = String::new();
            reader.read_line(&mut header)?;
            let header = header.trim().to_ascii_lowercase();
            if let Some(range) = header.strip_prefix("range: bytes=") {
                from = range.split('-').next().and_then(|n| n.parse().ok()).unwrap_or(0);
            }
            if header.is_empty() {
                break;
            }
        }
        let path = first.split(' ').nth(1).unwrap_or("/").replace("%2b", "+").replace("%2B", "+");
        let inside = path.trim_start_matches('/').trim_start_matches("./").replace("/./", "/");
        let body = std::fs::read(root.join(inside));
        let (status, body) = match &body {
            Ok(body) if from > 0 && from < body.len() => ("206 Partial Content", &body[from..]),
            Ok(body) if from > 0 => ("416 Range Not Satisfiable", &body[..0]),
            Ok(body) => ("200 OK", body.as_slice()),
            Err(_) => ("404 Not Found", b"".as_slice()),
        };
        let range = match status.starts_with("206") {
            true => {
                format!("Content-Range: bytes {from}-{}/{}\r\n", from + body.len() - 1, from + body.len())
            }
            false => String::new(),
        };
        let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n{range}\r\n", body.len());
        let stream = reader.get_mut();
        stream.write_all(head.as_bytes())?;
        if !first.starts_with("HEAD ") {
            stream.write_all(body)?;
        }
        stream.flush()?;
    }
}

/// The mirror listens where inventories say.
#[test]
fn the_mirrors_url_is_the_hubs() {
    assert_eq!(MIRROR, format!("http://{HUB}:{PORT}"));
}
