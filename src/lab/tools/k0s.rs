//! The k0s stand-in: its command line contract, from `reference` facts of k0s 1.34 to 1.36: unit files, status, tokens,
//! validation, errors.

use super::common::{Ended, Failed, ask, fail, here, request};
use super::{k0s_users, units};
use crate::lab::cluster::K0sVersion;
use crate::lab::on_host;
use crate::lab::request::Request;
use std::collections::BTreeMap;
use std::path::Path;

fn version() -> String {
    std::env::var("K0S_LAB_VERSION").ok().or_else(on_host::version).unwrap_or_else(|| K0sVersion::default().0)
}

fn unit_of(role: &str) -> String {
    format!("k0s{role}.service")
}

/// Returns flags as `--name=value`, sorted, without those that only concern `install`.
fn flags(arguments: &[&str]) -> Result<BTreeMap<String, String>, String> {
    const SWITCHES: &str = "force start enable-worker single no-taints debug enable-dynamic-config enable-metrics-scraper verbose";
    const VALUES: &str = "env data-dir token-file config profile labels taints kubelet-extra-args kubelet-root-dir cri-socket \
        iptables-mode disable-components feature-gates status-socket ignore-pre-flight-checks logging";
    let is_in = |list: &str, flag: &str| list.split(' ').any(|known| known == flag);
    let mut flags = BTreeMap::new();
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        let Some(flag) = word.strip_prefix("--") else {
            return Err(format!("Error: unknown command {word:?}"));
        };
        let (name, value) = match flag.split_once('=') {
            Some((name, value)) => (name, value.to_owned()),
            None if is_in(SWITCHES, flag) => (flag, "true".to_owned()),
            None => (flag, words.next().map(|w| (*w).to_owned()).unwrap_or_default()),
        };
        if !is_in(SWITCHES, name) && !is_in(VALUES, name) {
            return Err(format!("Error: unknown flag: --{name}"));
        }
        flags.insert(name.to_owned(), value);
    }
    Ok(flags)
}

fn install(role: &str, arguments: &[&str]) -> Ended {
    let mut flags = flags(arguments)?;
    let path = here().join("etc/systemd/system").join(unit_of(role));
    let force = flags.remove("force").is_some();
    let env = flags.remove("env");
    flags.remove("start");
    let failed = |why: String| format!("Error: failed to install {role} service: {why}");
    if path.exists() && !force {
        let there = format!("Init already exists: {}", path.display());
        return fail(1, failed(format!("failed to install service: {there}")));
    }
    if role == "controller" {
        let config = flags.get("config").cloned().unwrap_or_else(|| "/etc/k0s/k0s.yaml".to_owned());
        validate(&config)
            .map_err(|why| format!("Error: failed to load node config: invalid node config: {why}"))?;
    }
    // A map flag is written back sorted by key, whatever order it came in.
    if let Some(labels) = flags.get_mut("labels") {
        let mut sorted: Vec<&str> = labels.split(',').collect();
        sorted.sort_unstable();
        *labels = sorted.join(",");
    }
    let line: String = flags.iter().map(|(name, value)| format!(" --{name}={value}")).collect();
    let environment = env.map(|e| format!("Environment=\"{e}\"\n")).unwrap_or_default();
    let binary = "/usr/local/bin/k0s";
    let text = format!(
        "[Unit]\nDescription=k0s - Zero Friction Kubernetes\nDocumentation=https://docs.k0sproject.io\n\
         ConditionFileIsExecutable={binary}\n\nAfter=network-online.target \nWants=network-online.target \n\n[Service]\n\
         StartLimitInterval=5\nStartLimitBurst=10\nExecStart={binary} {role}{line}\n{environment}\nRestartSec=10\nDelegate=yes\n\
         KillMode=process\nLimitCORE=infinity\nTasksMax=infinity\nTimeoutStartSec=0\nLimitNOFILE=999999\nRestart=always\n\n\
         [Install]\nWantedBy=multi-user.target\n"
    );
    std::fs::write(&path, text).map_err(|why| failed(why.to_string()))?;
    if on_host::is_here() {
        return match std::process::Command::new("systemctl").args(["enable", &unit_of(role)]).status() {
            Ok(status) if status.success() => Ok(()),
            _ => fail(1, failed("failed to enable it".to_owned())),
        };
    }
    units::systemctl(&["enable", &unit_of(role)])
}

/// Checks a configuration the little that a stand-in can: it must be a ClusterConfig, with networks that are networks.
fn validate(path: &str) -> Result<(), String> {
    let text =
        if path == "-" { std::io::read_to_string(std::io::stdin()) } else { std::fs::read_to_string(path) }
            .map_err(|e| format!("failed to read configuration file {path}: {e}"))?;
    let value: serde_json::Value =
        serde_saphyr::from_str(&text).map_err(|e| format!("failed to parse config: {e}"))?;
    if value.pointer("/kind").and_then(|k| k.as_str()) != Some("ClusterConfig") {
        return Err("kind: Invalid value: must be ClusterConfig".to_owned());
    }
    for name in ["podCIDR", "serviceCIDR"] {
        if let Some(cidr) = value["spec"]["network"][name].as_str()
            && cidr.parse::<ipnet::IpNet>().is_err()
        {
            return Err(format!("spec: network: {name}: Invalid value: {cidr:?}: invalid CIDR address"));
        }
    }
    Ok(())
}

fn running() -> Option<(&'static str, String)> {
    let on_host = on_host::status();
    for role in ["controller", "worker"] {
        let unit = unit_of(role);
        let active = match on_host::is_here() {
            true => on_host.as_ref().is_some_and(|s| s["Role"] == role),
            false => units::systemctl_is_active(&unit),
        };
        if active {
            let text =
                std::fs::read_to_string(here().join("etc/systemd/system").join(&unit)).unwrap_or_default();
            return Some((role, text));
        }
    }
    None
}

/// Returns the status of a running k0s.
fn state(role: &str, line: &[String], flags: &BTreeMap<String, String>, pid: u32) -> serde_json::Value {
    let single = flags.get("single").is_some_and(|v| v == "true");
    let workloads = role == "worker" || single || flags.get("enable-worker").is_some_and(|v| v == "true");
    serde_json::json!({"Version": version(), "Pid": pid, "PPid": 0, "Role": role, "SysInit": "",
        "StubFile": "", "Output": "", "Workloads": workloads, "SingleNode": single, "Args": line,
        "WorkerToAPIConnectionStatus": {"Message": "", "Success": true}, "ClusterConfig": null,
        "K0sVars": {"DataDir": "/var/lib/k0s", "RunDir": "/run/k0s"}})
}

/// `k0s controller` and `k0s worker`, as their unit starts them on a real host.
fn service(role: &str, arguments: &[&str]) -> Ended {
    let flags = flags(arguments)?;
    if let Some(problem) = bad_drop_in() {
        return fail(1, format!("Error: failed to configure containerd: {problem}"));
    }
    let line: Vec<String> = ["k0s", role].iter().chain(arguments).map(|word| (*word).to_owned()).collect();
    let state = state(role, &line, &flags, std::process::id());
    fail(1, on_host::run(role, &flags, state))
}

fn status(json: bool) -> Ended {
    let Some((role, unit)) = running() else {
        let why = "dial unix /run/k0s/status.sock: connect: no such file or directory";
        let what = "can't get \"status\" via \"/run/k0s/status.sock\": Get \"http://localhost/status\"";
        return fail(1, format!("Error: status: {what}: {why}"));
    };
    let line = unit.lines().find_map(|l| l.strip_prefix("ExecStart=")).unwrap_or_default();
    let value = state(role, &units::words(line), &units::exec_flags(&unit), 4242);
    let (workloads, single) = (&value["Workloads"], &value["SingleNode"]);
    if json {
        println!("{}", serde_json::to_string_pretty(&value).unwrap_or_default());
    } else {
        println!(
            "Version: {}\nProcess ID: 4242\nRole: {role}\nWorkloads: {workloads}\nSingleNode: {single}",
            version()
        );
        if *workloads == true {
            println!("Kube-api probing successful: true\nKube-api probing last error:  ");
        }
    }
    Ok(())
}

/// Returns what `k0s sysinfo -o json` prints: one entry per probe (k0s internal/pkg/sysinfo/probes).
fn sysinfo(problem: Option<&str>) -> serde_json::Value {
    let probe = |name: &str, prop: &str, message: &str, category: &str| {
        serde_json::json!({"path": [name], "displayName": name, "prop": prop, "message": message,
            "category": category, "error": null})
    };
    let memory = probe("Total memory", "64.0 GiB", "", "pass");
    let rejected = problem.map(|problem| probe("/etc/k0s/containerd.d/", "", problem, "rejected"));
    std::iter::once(memory).chain(rejected).collect()
}

/// A drop-in that the embedded containerd of 1.36 and later refuses.
fn bad_drop_in() -> Option<String> {
    let minor: u32 = version().split('.').nth(1).and_then(|m| m.parse().ok()).unwrap_or(0);
    if minor < 36 {
        return None;
    }
    for entry in std::fs::read_dir("/etc/k0s/containerd.d").ok()?.flatten() {
        let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
        if text.contains("version = 2") {
            return Some(format!("{}: expected 3, got 2", entry.path().display()));
        }
        if text.contains("io.containerd.grpc.v1.cri") {
            return Some(format!("{}: containerd v1 CRI plugin format", entry.path().display()));
        }
    }
    None
}

/// `k0s reset`: refuses while k0s runs, removes what is in the folders that it is told, and the units (k0s cmd/reset/reset.go,
/// pkg/cleanup). The binary, `/etc/k0s`, and folders that it was not told of stay.
fn reset(arguments: &[&str]) -> Ended {
    let flags = flags(arguments).map_err(|why| format!("Error: {why}"))?;
    if running().is_some() {
        return fail(1, "Error: another k0s process is still running, please stop k0s before reset");
    }
    request(&Request::Reset)?;
    let data = flags.get("data-dir").cloned().unwrap_or_else(|| "/var/lib/k0s".to_owned());
    let kubelet = flags.get("kubelet-root-dir").cloned().unwrap_or_else(|| format!("{data}/kubelet"));
    for path in [kubelet.as_str(), &data, "/run/k0s"] {
        let _ = std::fs::remove_dir_all(path);
    }
    for role in ["controller", "worker"] {
        let _ = std::fs::remove_file(here().join("etc/systemd/system").join(unit_of(role)));
        units::uninstall(&unit_of(role));
    }
    eprintln!(
        "time=\"2026-01-01 00:00:00\" level=info msg=\"k0s cleanup operations done.\"\n\
         time=\"2026-01-01 00:00:00\" level=warning msg=\"To ensure a full reset, a node reboot is recommended.\""
    );
    Ok(())
}

/// The archive's own name of the store (k0s pkg/backup/etcd_unix.go).
const STORE: &str = "etcd-snapshot.db";

/// `k0s backup --save-path=-` (k0s cmd/backup, pkg/backup): the archive on standard output, the log on standard error.
fn backup() -> Ended {
    if running().is_none_or(|(role, _)| role != "controller") {
        return fail(
            1,
            "Error: unable to detect cluster status status: can't get \"status\" via \"/run/k0s/status.sock\"",
        );
    }
    eprintln!("time=\"2026-01-01 00:00:00\" level=info msg=\"Starting backup\"");
    let snapshot = ask(&Request::Snapshot);
    let snapshot = snapshot.map_err(|why| format!("Error: failed to create backup on step `etcd`: {why}"))?;
    let gzip = flate2::write::GzEncoder::new(std::io::stdout().lock(), flate2::Compression::default());
    let mut archive = tar::Builder::new(gzip);
    let mut add = |name: &str, text: &str| {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        archive.append_data(&mut header, name, text.as_bytes())
    };
    let config = std::fs::read_to_string("/etc/k0s/k0s.yaml").unwrap_or_default();
    let ca = std::fs::read_to_string("/var/lib/k0s/pki/ca.crt").unwrap_or_default();
    let files = [
        (STORE, snapshot),
        ("pki/ca.crt", ca),
        ("pki/ca.key", "LAB: in the snapshot\n".to_owned()),
        ("k0s.yaml", config),
    ];
    let written = files.iter().try_for_each(|(name, text)| add(name, text));
    let ended = written.and_then(|()| archive.into_inner()?.finish().map(drop));
    ended.map_err(|why| Failed(1, format!("Error: failed to add file to backup archive: {why}")))
}

/// `k0s restore` (k0s cmd/restore, pkg/backup): refuses while k0s runs, and where etcd's folder has something in it.
fn restore(path: &str, config: &str) -> Ended {
    if running().is_some() {
        return fail(1, "k0s seems to be running! k0s must be down during the restore operation.");
    }
    let etcd = Path::new("/var/lib/k0s/etcd");
    if std::fs::read_dir(etcd).is_ok_and(|mut entries| entries.next().is_some()) {
        return fail(
            1,
            "Error: failed to restore on step `etcd`: data-dir \"/var/lib/k0s/etcd\" not empty or could not be read",
        );
    }
    let unpack = |why: std::io::Error| format!("Error: failed to unpack backup archive `{path}`: {why}");
    let file = std::fs::File::open(path).map_err(|_| format!("Error: given file {path} does not exist"))?;
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(file));
    let mut snapshot = None;
    let _ = std::fs::create_dir_all("/var/lib/k0s/pki");
    for entry in archive.entries().map_err(unpack)? {
        let mut entry = entry.map_err(unpack)?;
        let name = entry.path().map_err(unpack)?.display().to_string();
        let to = match name.as_str() {
            "pki/ca.crt" | "pki/ca.key" => format!("/var/lib/k0s/{name}"),
            "k0s.yaml" => config.to_owned(),
            STORE => {
                snapshot = Some(std::io::read_to_string(&mut entry).map_err(unpack)?);
                continue;
            }
            _ => continue,
        };
        let mut file = std::fs::File::create(to).map_err(unpack)?;
        std::io::copy(&mut entry, &mut file).map_err(unpack)?;
    }
    let Some(snapshot) = snapshot else {
        return fail(1, "Error: failed to restore on step `etcd`: etcd snapshot not found");
    };
    let failed = |why: String| format!("Error: failed to restore on step `etcd`: {why}");
    request(&Request::Restore { snapshot }).map_err(failed)?;
    let _ = std::fs::create_dir_all(etcd.join("member"));
    Ok(())
}

/// `k0s`.
pub(super) fn k0s(arguments: &[&str]) -> Ended {
    match arguments {
        ["version"] => println!("{}", version()),
        ["version", "-a"] => println!("k0s : {}\ncontainerd : 1.7.34\nkubernetes : 1.35.7", version()),
        ["install", role @ ("controller" | "worker"), rest @ ..] => return install(role, rest),
        [role @ ("controller" | "worker"), rest @ ..] if on_host::is_here() => return service(role, rest),
        ["status", rest @ ..] => return status(rest.contains(&"json")),
        ["config", "validate", "-c" | "--config", path] => {
            validate(path).map_err(|why| format!("Error: {why}"))?;
        }
        ["sysinfo", rest @ ..] => {
            let problem = bad_drop_in();
            if rest.contains(&"json") {
                println!("{:#}", sysinfo(problem.as_deref()));
            } else {
                match &problem {
                    Some(problem) => println!("/etc/k0s/containerd.d/: (pass)\n  {problem} (rejected)"),
                    None => println!("Total memory: 64.0 GiB (pass)"),
                }
            }
            if problem.is_some() {
                return fail(1, "Error: sysinfo failed");
            }
        }
        ["kubeconfig", "admin"] => {
            let text = std::fs::read_to_string("/var/lib/k0s/pki/admin.conf");
            let why = "Error: failed to read admin PKI file /var/lib/k0s/pki/ca.crt: no such file";
            print!("{}", text.map_err(|_| why.to_owned())?);
        }
        ["kubeconfig", "create", user, rest @ ..] => return k0s_users::create(user, rest),
        ["kubectl", "get", "--raw=/readyz" | "--raw=/readyz/etcd"] => {
            let controls = running().is_some_and(|(role, _)| role == "controller");
            if controls && ask(&Request::Members).is_err() {
                let checks = "[+]ping ok\n[-]etcd failed: reason withheld\nreadyz check failed";
                return fail(1, format!("Error from server (InternalError): {checks}"));
            }
            if !controls || !Path::new("/var/lib/k0s/pki/admin.conf").exists() {
                let advice = "did you specify the right host or port?";
                return fail(
                    1,
                    format!("The connection to the server localhost:6443 was refused - {advice}"),
                );
            }
            println!("ok");
        }
        ["etcd", "member-list"] => {
            let members = ask(&Request::Members);
            println!("{}", members.map_err(|why| format!("Error: can't list etcd cluster members: {why}"))?);
        }
        ["etcd", "leave", "--peer-address", address] => {
            request(&Request::Leave { address: (*address).to_owned() })
                .map_err(|why| format!("Error: {why}"))?;
        }
        ["reset", rest @ ..] => return reset(rest),
        ["backup", "--save-path=-"] => return backup(),
        ["restore", "--config-out", config, path] => return restore(path, config),
        other => return fail(1, format!("Error: LAB: k0s {} is not simulated", other.join(" "))),
    }
    Ok(())
}
