//! Data tests of preflight and of what `network`, `registries`, `clusterInterface`, `endpoint` and `storage` come to.

use crate::role::{Case, file};
use provision::role::{Finding, TABLE, among, findings, tries};
use provision::state::{
    Content, Facts, Headers, HostKind, HostName, Managed, Mounted, PackageFilter, Resource, ResourceId, Spec,
};
use std::path::Path;

fn certificate(n: u32) -> String {
    format!("-----BEGIN CERTIFICATE-----\nMIIB{n}AAA\nBBBB\n-----END CERTIFICATE-----\n")
}

fn ids(resources: &[Resource]) -> Vec<String> {
    resources.iter().map(|r| r.id.text()).collect()
}

/// The file of that path, secret or not.
fn secret(resources: &[Resource], path: &str) -> Option<String> {
    resources.iter().find_map(|r| match &r.spec {
        Spec::File(file) if file.path == path => match &file.content {
            Content::Secret(secret) => Some(secret.expose().to_owned()),
            Content::Text(_) => None,
        },
        _ => None,
    })
}

fn with_network(case: &mut Case) {
    std::fs::write(case.dir.path().join("ca.pem"), format!("{}noise\n{}", certificate(1), certificate(2)))
        .expect("written");
    case.text = case.text.replacen(
        "registries:",
        "network: {proxy: \"http://proxy.example.net:3128\", noProxy: [10.20.0.0/16, .example.net, hub], caBundle: ca.pem}\nregistries:",
        1,
    );
}

#[test]
fn the_proxy_reaches_apt_downloads_and_k0s() {
    let mut case = Case::new("debian12");
    let before = file(&case.role("w-1", "k0s"), "/etc/k0s/containerd.d/registries.toml");
    assert!(!before.contains("auth"), "{before}");
    with_network(&mut case);
    let base = case.role("w-1", "base");
    let environment = file(&base, "/var/lib/provision/environment");
    assert!(environment.starts_with("http_proxy=http://proxy.example.net:3128 "), "{environment}");
    assert!(environment.contains("10.20.0.0/16") && environment.contains("10.240.0.0/13"), "{environment}");
    let apt = file(&base, "/etc/apt/apt.conf.d/90-provision-proxy");
    assert!(apt.contains("Acquire::https::Proxy \"http://proxy.example.net:3128\";"), "{apt}");
    assert!(apt.contains("Acquire::http::Proxy::hub \"DIRECT\";") && !apt.contains("10.20"), "{apt}");
    let unit =
        file(&case.role("w-1", "k0s"), "/etc/systemd/system/k0sworker.service.d/provision-network.conf");
    assert!(unit.contains("Environment=\"HTTPS_PROXY=http://proxy.example.net:3128\"\n"), "{unit}");
    assert!(unit.contains("NO_PROXY=10.20.0.0/16,.example.net,hub,localhost"), "{unit}");
    let places = ids(&base);
    let at = |id: &str| places.iter().position(|p| *p == id).unwrap_or_else(|| panic!("{id}: {places:?}"));
    assert!(
        at("file//var/lib/provision/environment") < at("package/ca-certificates"),
        "before the first package"
    );
}

#[test]
fn certificates_are_one_file_each_and_trusted_on_both_families() {
    for (system, path, update) in [
        ("debian12", "/usr/local/share/ca-certificates/provision-2.crt", "update-ca-certificates"),
        ("rhel9", "/etc/pki/ca-trust/source/anchors/provision-2.pem", "update-ca-trust"),
    ] {
        let mut case = Case::new(system);
        with_network(&mut case);
        let base = case.role("w-1", "base");
        assert_eq!(file(&base, path), certificate(2), "{system}");
        let trust = base.iter().find_map(|r| match &r.spec {
            Spec::Command(c) if c.name == "ca-trust" => Some(c.clone()),
            _ => None,
        });
        let trust = trust.expect("the store is brought up to date");
        assert!(trust.apply.contains(update) && trust.guard.contains("MIIB2AAABBBB"), "{trust:?}");
    }
}

#[test]
fn registry_credentials_are_secret_content_by_the_host_that_is_asked() {
    let mut case = Case::new("debian12");
    case.text = case.text.replacen(
        "registries: {docker.io: {mirror: \"https://hub.example.net\"}}",
        "secrets: {hub: {env: HUB}}\nregistries:\n  docker.io: {mirror: \"https://hub.example.net:8443/proxy\", credentials: {secret: hub}}\n  quay.io: {credentials: {secret: hub}}",
        1,
    );
    for (version, table) in [
        (
            "v1.35.7+k0s.0",
            "[plugins.\"io.containerd.grpc.v1.cri\".registry.configs.\"hub.example.net:8443\".auth]",
        ),
        (
            "v1.36.3+k0s.2",
            "[plugins.\"io.containerd.cri.v1.images\".registry.configs.\"hub.example.net:8443\".auth]",
        ),
    ] {
        case.text = case.text.replace("v1.35.7+k0s.0", version);
        let k0s = case.role("w-1", "k0s");
        let drop_in = secret(&k0s, "/etc/k0s/containerd.d/registries.toml").expect("a secret file");
        assert!(drop_in.contains(table), "{drop_in}");
        assert!(drop_in.contains("registry.configs.\"quay.io\".auth]"), "{drop_in}");
        assert!(drop_in.contains("auth = \"bWU6Y2FuYXJ5LTc3\""), "user:password in base64: {drop_in}");
        let shown = format!("{k0s:?}")
            + &serde_json::to_string(&provision::executor::observe_program(&k0s)).expect("JSON");
        assert!(!shown.contains("bWU6Y2FuYXJ5LTc3") && !shown.contains("canary-77"), "it is shown nowhere");
        let mode = k0s.iter().find_map(|r| match &r.spec {
            Spec::File(f) if f.path.ends_with("registries.toml") => Some(f.mode),
            _ => None,
        });
        assert_eq!(mode, Some(0o600));
        let hosts = file(&k0s, "/etc/k0s/certs.d/docker.io/hosts.toml");
        assert!(hosts.contains("[host.\"https://hub.example.net:8443/proxy\"]"), "{hosts}");
        assert!(
            !ids(&k0s).iter().any(|id| id == "file//etc/k0s/certs.d/quay.io/hosts.toml"),
            "no mirror, no file"
        );
    }
}

#[test]
fn a_virtual_address_is_keepalived_in_the_configuration_and_a_name_of_the_api() {
    let mut case = Case::new("debian12");
    case.text = case.text.replacen(
        "endpoint: {external: {address: api.example.net}}",
        "endpoint: {vip: {address: 10.20.0.10/24, interface: bond0}}",
        1,
    );
    let config = file(&case.role("cp-2", "k0s"), "/etc/k0s/k0s.yaml");
    let config: serde_json::Value = serde_json::from_str(&config).expect("JSON");
    let balancing = &config["spec"]["network"]["controlPlaneLoadBalancing"];
    assert_eq!((&balancing["enabled"], &balancing["type"]), (&true.into(), &"Keepalived".into()));
    let vrrp = &balancing["keepalived"]["vrrpInstances"][0];
    assert_eq!((&vrrp["virtualIPs"][0], &vrrp["interface"]), (&"10.20.0.10/24".into(), &"bond0".into()));
    assert!(
        vrrp["authPass"].as_str().is_some_and(|p| p.len() == 8),
        "keepalived reads eight characters: {vrrp}"
    );
    assert!(config["spec"]["api"]["sans"].as_array().is_some_and(|s| s.contains(&"10.20.0.10".into())));
    assert_eq!(config["spec"]["network"]["nodeLocalLoadBalancing"]["enabled"], true);
    assert_eq!(config["spec"]["api"].get("externalAddress"), None, "it excludes the node-local one");
}

#[test]
fn the_clusters_interface_gives_the_nodes_address() {
    let mut case = Case::new("debian12");
    case.text =
        case.text.replacen("general: {role: worker,", "general: {role: worker, clusterInterface: bond0,", 1);
    assert!(case.failure("w-1").contains("[E-INTERFACE] no interface bond0"), "{}", case.failure("w-1"));
    case.facts.addresses = vec![
        ("eth0".into(), "10.20.0.21/24".into()),
        ("bond0".into(), "fd00::1/64".into()),
        ("bond0".into(), "192.168.7.21/24".into()),
    ];
    let all = case.wanted("w-1").expect("wanted");
    let install = all.iter().find_map(|r| match &r.spec {
        Spec::Command(c) if c.name == "k0s-install" => Some(c.apply.clone()),
        _ => None,
    });
    assert!(install.is_some_and(|i| i.contains("--kubelet-extra-args=--node-ip=192.168.7.21 ")));
    let line = all.iter().find_map(|r| match &r.spec {
        Spec::LineInFile(l) if l.name == "self" => Some(l.line.clone()),
        _ => None,
    });
    assert_eq!(line.as_deref(), Some("192.168.7.21 w-1"));
}

#[test]
fn disks_are_made_and_mounted_before_k0s_by_a_uuid_that_a_plan_can_name() {
    let mut case = Case::new("debian12");
    case.text = case.text.replacen(
        "general: {role: worker,",
        "general: {role: worker, storage: {data: {disk: /dev/disk/by-id/nvme-A, filesystem: xfs, erase: gpt}, models: {path: /data/models, disk: /dev/disk/by-id/nvme-B, keep: true}},",
        1,
    );
    let all = case.wanted("w-1").expect("wanted");
    let places = ids(&all);
    let at = |id: &str| places.iter().position(|p| *p == id).unwrap_or_else(|| panic!("{id}: {places:?}"));
    let order = [
        "package/xfsprogs",
        "filesystem//dev/disk/by-id/nvme-A",
        "mount//var/lib/k0s",
        "file//etc/systemd/system/k0sworker.service.d/provision-storage.conf",
        "unit/k0sworker.service",
    ];
    assert!(order.map(at).is_sorted(), "{places:?}");
    assert!(!places.iter().any(|id| id == "filesystem//dev/disk/by-id/nvme-B"), "it is kept as it is");
    let made = &all[at("filesystem//dev/disk/by-id/nvme-A")];
    assert_eq!(
        made.hazards.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["data-loss:gpt on /dev/disk/by-id/nvme-A"]
    );
    let (Spec::Filesystem(f), Spec::Mount(m)) = (&made.spec, &all[at("mount//var/lib/k0s")].spec) else {
        panic!()
    };
    assert_eq!(m.what, format!("/dev/disk/by-uuid/{}", f.uuid));
    assert_eq!(case.wanted("w-1").expect("wanted"), all, "the same uuid each time");
    let Spec::Mount(kept) = &all[at("mount//data/models")].spec else { panic!() };
    assert_eq!((kept.what.as_str(), kept.kind.as_str()), ("/dev/disk/by-id/nvme-B", "auto"));
}

fn codes(found: &[Finding]) -> Vec<&str> {
    found.iter().map(|f| f.code).collect()
}

#[test]
fn facts_alone_tell_all_their_reasons_at_once() {
    let mut case = Case::new("debian12");
    case.facts.cgroup = Some(1);
    case.facts.kernel = "4.4.0-210".into();
    case.facts.skew_s = -400;
    case.facts.services = vec!["k3s.service".into(), "docker.service".into()];
    case.facts.mounts = vec![
        Mounted { path: "/".into(), kind: "ext4".into(), options: "rw".into() },
        Mounted { path: "/usr".into(), kind: "ext4".into(), options: "ro,noexec,nodev".into() },
    ];
    case.facts.free_kib = [("/".to_owned(), 4u64 << 20), ("/var".to_owned(), 1 << 20)].into();
    for locked in case.lock.artifacts.values_mut() {
        locked.size = 300 << 20;
    }
    let failure = case.failure("w-1");
    for code in ["E-KERNEL", "E-CGROUP", "E-CLOCK", "E-FOREIGN-KUBERNETES", "E-NOEXEC", "E-NO-SPACE"] {
        assert!(failure.contains(&format!("[{code}]")), "{code}: {failure}");
    }
    assert!(
        failure.contains("400 s behind") && failure.contains("/var/lib/k0s has 1024 MiB free"),
        "{failure}"
    );
    assert!(!failure.contains("docker"), "a runtime beside k0s's is no reason to stop: {failure}");
    // The kubelet may be told to start on cgroup v1, and controllers have none.
    case.text = case.text.replacen(
        "{spec: {network:",
        "{spec: {workerProfiles: [{name: default, values: {failCgroupV1: false}}], network:",
        1,
    );
    assert!(!case.failure("w-1").contains("E-CGROUP"));
}

/// Only what hides packages is read of dnf's configuration, which may also have passwords.
#[test]
fn filters_of_dnf_are_read_from_its_configuration() {
    let dir = tempfile::tempdir().expect("a folder");
    let write = |path: &str, text: &str| {
        let path = dir.path().join(path);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        std::fs::write(path, text).expect("written");
    };
    write("pci/0000:01:00.0/vendor", "0x10de\n");
    let main = "[main]\ngpgcheck=1\n# exclude=bash\nproxy_password=canary\n  canary\nexclude = kernel*, nvidia*\n\tlibnv*\nbest=True\n  True\n";
    write("dnf/dnf.conf", main);
    write(
        "repos/epel.repo",
        "[epel]\nbaseurl=https://a\n    https://b\nexcludepkgs=dkms\n[epel-testing]\nenabled=0\n",
    );
    let rpm = "echo 'rpm kernel 5.14.0'; echo 'rpm dkms 3.1.0'";
    let facts = |rpm: &str| {
        let program = provision::executor::observe_program(&[]);
        let mut program = program[..program.find("state() {").expect("the query")].to_owned();
        for (from, to) in
            [("/etc/dnf", "dnf"), ("/etc/yum.repos.d", "repos"), ("/sys/bus/pci/devices", "pci")]
        {
            program = program.replace(from, &dir.path().join(to).display().to_string());
        }
        let tools =
            ["ip", "df", "systemctl", "cloud-init", "apt-cache", "dpkg-query"].map(|tool| (tool, "exit 1"));
        let (answer, _) = crate::role::sh(&[&tools[..], &[("rpm", rpm)]].concat(), &program);
        assert!(!answer.contains("canary"), "{answer}");
        provision::executor::facts_in(&answer).expect("whole").expect("facts")
    };
    let found = facts(rpm);
    let lines = found
        .package_filters
        .iter()
        .map(|f| format!("{} {} {}", f.repository, f.option, f.patterns.join("|")));
    assert_eq!(
        lines.collect::<Vec<_>>(),
        ["main exclude kernel*|nvidia*", "main exclude libnv*", "epel excludepkgs dkms"]
    );
    let installed = found.installed.expect("asked");
    assert_eq!(installed[1], ("dkms".to_owned(), "3.1.0".to_owned()));
    assert_eq!(facts(&format!("{rpm}; exit 1")).installed, None, "rpm failed half-way");
    write("dnf/dnf.conf", "[main]\ngpgcheck=1\n");
    write("repos/epel.repo", "[epel]\nenabled=1\n");
    let found = facts("echo asked >&2; exit 1");
    assert!(found.package_filters.is_empty() && found.installed.is_none());
}

/// What hides packages from dnf is named before anything is changed, by the line that does it; what is installed needs no dnf.
#[test]
fn packages_that_dnf_cannot_see_stop_an_accelerator_host() {
    let filter = |repository: &str, option: &str, patterns: &[&str]| PackageFilter {
        repository: repository.to_owned(),
        option: option.to_owned(),
        patterns: patterns.iter().map(|p| (*p).to_owned()).collect(),
    };
    let code = "E-DNF-EXCLUDED";
    let case = |filters: Vec<PackageFilter>| {
        let mut case = Case::h100("rhel9");
        (case.facts.package_filters, case.facts.installed) = (filters, Some(Vec::new()));
        case
    };
    let said = |case: &Case| match case.wanted("h-1") {
        Ok(_) => String::new(),
        Err(failures) => failures.iter().map(|f| format!("[{}] {f}\n", f.code)).collect(),
    };
    for (filters, named) in [
        (
            vec![filter("main", "exclude", &["kernel-core", "*nvidia*"])],
            "kmod-nvidia-open-dkms, nvidia-driver-cuda",
        ),
        (vec![filter("main", "excludepkgs", &["nvidia-driver-cuda-580.*"])], "hides nvidia-driver-cuda: "),
        (vec![filter("epel", "exclude", &["dkms"])], "hides dkms: exclude=dkms in [epel]"),
        (
            vec![filter("main", "includepkgs", &["*nvidia*", "libnv*", "datacenter*", "kernel*", "nvlsm*"])],
            "hides dkms, epel-release: includepkgs=",
        ),
    ] {
        let text = said(&case(filters));
        assert!(text.contains(code) && text.contains(named), "{named}: {text}");
    }
    // Those of other repositories, of other packages, switched off, or of what is installed.
    let off = [filter("main", "exclude", &["*nvidia*"]), filter("main", "disable_excludes", &["all"])];
    for filters in [
        vec![filter("epel", "exclude", &["*nvidia*"])],
        vec![filter("main", "exclude", &["postgresql*", "nvidia-driver-570*"])],
        off.to_vec(),
        vec![filter("main", "includepkgs", &["*"])],
    ] {
        assert_eq!(said(&case(filters.clone())), "", "{filters:?}");
    }
    let mut installed = case(vec![filter("main", "exclude", &["nvidia-driver-cuda"])]);
    installed.facts.installed = Some(vec![("nvidia-driver-cuda".into(), "580.178.04".into())]);
    assert_eq!(said(&installed), "");
    installed.facts.installed = Some(vec![("nvidia-driver-cuda".into(), "570.158.01".into())]);
    assert!(said(&installed).contains(code), "another version has to be fetched");
    installed.facts.installed = None;
    assert_eq!(said(&installed), "", "rpm did not list what is installed: the step of the role finds it");
    // Headers of the running kernel, by the name that this kernel's package has.
    for (system, kernel, pattern) in [
        ("rhel9", "5.14.0-427.el9.x86_64", "kernel*"),
        ("amzn2023", "6.12.5-1.amzn2023.x86_64", "kernel6.12-*"),
    ] {
        let mut case = Case::trn2("rhel9");
        if system == "amzn2023" {
            case.facts.os =
                [("ID", "amzn"), ("VERSION_ID", "2023")].map(|(k, v)| (k.into(), v.into())).into();
        }
        case.facts.kernel = kernel.to_owned();
        case.facts.headers = Some(Headers::Installable);
        (case.facts.package_filters, case.facts.installed) =
            (vec![filter("main", "exclude", &[pattern])], Some(Vec::new()));
        let text = match case.wanted("t-1") {
            Ok(_) => String::new(),
            Err(failures) => failures.iter().map(|f| f.to_string()).collect(),
        };
        assert!(text.contains("-devel: exclude=kernel"), "{system}: {text}");
    }
}

/// A kubelet of another cluster that was only stopped is back after the reboot that a driver needs.
#[test]
fn what_starts_at_the_next_boot_is_found_before_it() {
    let found = |enabled: &[&str], running: &[&str], ours: bool| {
        let mut case = Case::new("debian12");
        case.facts.enabled = enabled.iter().map(|name| (*name).to_owned()).collect();
        case.facts.services = running.iter().map(|name| (*name).to_owned()).collect();
        case.facts.k0s_was_up = ours;
        let id = ResourceId::host(HostKind::Command, "k0s-ready");
        let ready = Managed { id, hash: String::new(), undo: None, adopted: false, hazards: Vec::new() };
        case.facts.managed = ours.then_some(ready).into_iter().collect();
        let about = ["E-FOREIGN-KUBERNETES", "W-FIREWALL", "W-FAPOLICYD"];
        case.checked("w-1").into_iter().filter(|f| about.contains(&f.code)).collect::<Vec<_>>()
    };
    for unit in
        ["k3s.service", "kubelet.service", "rke2-server.service", "snap.microk8s.daemon-kubelite.service"]
    {
        let all = found(&[unit], &[], false);
        assert_eq!(codes(&all), ["E-FOREIGN-KUBERNETES"], "{unit}: {all:?}");
        assert!(all[0].hint.contains(&format!("systemctl disable {unit}")), "{all:?}");
        assert_eq!(codes(&found(&[unit], &[unit], false)), ["E-FOREIGN-KUBERNETES"], "said once");
        assert!(found(&[unit], &[], true).is_empty(), "our node has been booted with it before");
    }
    assert_eq!(codes(&found(&["firewalld.service"], &[], false)), ["W-FIREWALL"]);
    assert!(found(&["ufw.service", "docker.service"], &[], false).is_empty());
}

/// Files of a cluster that managed.json does not know stop a host, before a k0s that finds them joins nothing.
#[test]
fn what_another_cluster_left_stops_a_host() {
    let refused = |files: &[&str], host: &str, provider: &str, ours: Option<ResourceId>| {
        let mut case = Case::new("debian12");
        case.text = case.text.replace("provider: calico", &format!("provider: {provider}"));
        case.facts.cluster_files = files.iter().map(|f| (*f).to_owned()).collect();
        case.facts.managed = ours
            .map(|id| Managed { id, hash: String::new(), undo: None, adopted: true, hazards: Vec::new() })
            .into_iter()
            .collect();
        let failures = case.wanted(host).err().unwrap_or_default();
        let one = failures.iter().find(|f| f.code == "E-EARLIER-CLUSTER").map(|f| format!("{f:?}"));
        assert_eq!(one.is_some(), !failures.is_empty(), "{failures:?}");
        one
    };
    let (kubelet, cni) = ("/var/lib/k0s/kubelet.conf", "/etc/cni/net.d/05-cilium.conflist");
    for files in [&[kubelet][..], &["/var/lib/k0s/pki"], &["/var/lib/k0s/etcd"], &["/var/lib/k0s/db"], &[cni]]
    {
        for host in ["w-1", "m-1"] {
            let said = refused(files, host, "calico", None).unwrap_or_else(|| panic!("{host}: {files:?}"));
            assert!(said.contains(files[0]), "{said}");
        }
    }
    let both = refused(&[kubelet, cni], "w-1", "calico", None).expect("stopped");
    assert!(both.contains(kubelet) && both.contains(cni) && both.contains("k0s reset"), "{both}");
    // What comes after the cluster's own by name, what is no configuration, and what other tools look for is no reason.
    let harmless = [
        "/etc/cni/net.d/87-podman-bridge.conflist",
        "/etc/cni/net.d/05-cilium.conf.bak",
        "/etc/cni/net.d/calico-kubeconfig",
    ];
    assert_eq!(refused(&harmless, "w-1", "calico", None), None);
    assert_eq!(refused(&[cni], "cp-1", "calico", None), None, "pods do not run there");
    assert_eq!(refused(&[cni], "w-1", "custom", None), None, "whose network it is, is not known");
    // What we installed is ours: joined, or interrupted before it was seen up.
    let command = |name: &str| ResourceId::host(HostKind::Command, name);
    let unit = ResourceId::host(HostKind::Unit, "k0sworker.service");
    for ours in [command("k0s-ready"), command("k0s-started"), command("k0s-install"), unit] {
        assert_eq!(refused(&[kubelet, cni], "w-1", "calico", Some(ours)), None);
    }
    let binary = ResourceId::host(HostKind::Download, "/usr/local/bin/k0s");
    assert!(refused(&[kubelet], "w-1", "calico", Some(binary)).is_some(), "a binary is no cluster");
}

/// k0s does not change its role in place: a host that is moved is reset first.
#[test]
fn a_host_that_was_moved_between_workers_and_controllers_is_stopped() {
    let refused = |host: &str, units: &[&str]| {
        let mut case = Case::new("debian12");
        let unit = |name: &&str| ResourceId::host(HostKind::Unit, *name);
        let owned = |id| Managed { id, hash: String::new(), undo: None, adopted: false, hazards: Vec::new() };
        case.facts.managed = units.iter().map(unit).map(owned).collect();
        let failures = case.wanted(host).err().unwrap_or_default();
        failures
            .iter()
            .find(|f| f.code == "E-K0S-ROLE")
            .map(|f| (f.message.clone(), f.hint.clone().unwrap_or_default()))
    };
    let (worker, controller) = ("k0sworker.service", "k0scontroller.service");
    let (message, hint) = refused("cp-1", &[worker]).expect("stopped");
    assert!(message.contains("installed as a worker, and the inventory makes it a controller"), "{message}");
    assert!(hint.contains("`provision reset cp-1`"), "{hint}");
    assert!(refused("w-1", &[controller]).expect("stopped").0.contains("makes it a worker"));
    for (host, units) in [
        ("cp-1", &[controller][..]),
        ("w-1", &[worker][..]),
        ("w-1", &[][..]),
        ("w-1", &[worker, controller][..]),
    ] {
        assert_eq!(refused(host, units), None, "{host} {units:?}");
    }
}

/// A kept hostname is the node's name, so it is compared with the inventory's.
#[test]
fn a_kept_hostname_must_be_the_nodes_name() {
    let failure = |host: &str, hostname: &str, keep: bool| {
        let mut case = Case::new("debian12");
        if keep {
            case.text = case.text.replacen("os:\n", "os:\n  hostname: keep\n", 1);
        }
        case.facts.hostname = hostname.to_owned();
        case.wanted(host).err().map(|all| all.iter().map(|f| format!("{f:?}")).collect::<String>())
    };
    for hostname in ["w-1.dc1.example.com", "ip-10-0-0-5"] {
        let said = failure("w-1", hostname, true).expect("stopped");
        let names = format!("register node {hostname}, but the inventory has w-1");
        assert!(said.contains("E-NODE-NAME") && said.contains(&names), "{said}");
        assert!(said.contains("hostnamectl set-hostname w-1"), "{said}");
        assert_eq!(failure("w-1", hostname, false), None, "it gets its name");
        assert_eq!(failure("cp-1", hostname, true), None, "it has no kubelet");
    }
    assert_eq!(failure("w-1", "W-1", true), None, "the kubelet takes lower case");
}

#[test]
fn ports_are_tried_in_the_direction_in_which_they_are_needed() {
    let case = Case::new("debian12");
    let inventory = case.inventory();
    let from = |host: &str| {
        let all = tries(&inventory, &inventory.hosts[host], &[]);
        let mut seen: Vec<String> =
            all.iter().filter(|t| !t.free).map(|t| format!("{}:{}", t.peer, t.port)).collect();
        seen.sort();
        seen
    };
    let worker = from("w-1");
    assert!(worker.contains(&"cp-1:6443".into()) && worker.contains(&"cp-3:8132".into()), "{worker:?}");
    assert!(worker.contains(&"the load balancer:6443".into()), "{worker:?}");
    assert!(
        !worker.iter().any(|t| t.ends_with(":2380") || t.ends_with(":9443") || t.ends_with(":10250")),
        "{worker:?}"
    );
    assert!(!worker.iter().any(|t| t.ends_with(":179")), "calico: {worker:?}");
    let controller = from("cp-1");
    for wanted in ["cp-2:2380", "cp-2:9443", "w-1:10250", "m-1:6443"] {
        assert!(controller.contains(&wanted.into()), "{wanted}: {controller:?}");
    }
    assert!(!controller.iter().any(|t| t.starts_with("cp-1:") || t.ends_with(":8132")), "{controller:?}");
    let number = |host: &str, peer: &str, port: u16| {
        let all = tries(&inventory, &inventory.hosts[host], &[]);
        all.iter().position(|t| t.peer == peer && t.port == port).expect("tried")
    };
    let (api, own) = (number("w-1", "cp-1", 6443), number("w-1", "w-1", 10250));
    let read = |text: &str| findings(&inventory, &inventory.hosts["w-1"], &[], text);
    let answer = |rest: &str| {
        format!("#section tool\nbash\n#section running\n#section tries\n{rest}#section version\n")
    };
    assert_eq!(
        codes(&read(&answer(&format!("{api}|1|bash: connect: Connection refused \n")))),
        [] as [&str; 0]
    );
    let blocked = read(&answer(&format!("{api}|1|bash: connect: No route to host \n")));
    assert_eq!(codes(&blocked), ["E-PORT-BLOCKED"]);
    assert_eq!(blocked[0].message, "w-1 -> cp-1 (10.20.0.11:6443, Kubernetes API): No route to host");
    assert!(read(&answer(&format!("{api}|124|\n")))[0].message.ends_with("no response within 9 s"));
    assert_eq!(codes(&read(&answer(&format!("{own}|0|\n")))), ["E-PORT-TAKEN"]);
    let running = answer(&format!("{own}|0|\n")).replace("#section running\n", "#section running\nactive\n");
    assert_eq!(codes(&read(&running)), [] as [&str; 0], "k0s holds it itself");
    assert_eq!(codes(&read(&answer("").replace("bash\n", "\n"))), ["W-PORTS-UNTRIED"]);
    let sysinfo = "#section tool\nbash\n#section version\nv1.35.7+k0s.0\n#section sysinfo\n[{\"path\":[\"os\"],\"displayName\":\"Linux kernel\",\"prop\":\"3.1\",\"message\":\"too old\",\"category\":\"rejected\",\"error\":null},\n{\"displayName\":\"x\",\"prop\":\"y\",\"message\":\"\",\"category\":\"warning\"},{\"displayName\":\"z\",\"category\":\"pass\"}]\n";
    assert_eq!(codes(&read(sysinfo)), ["E-K0S-SYSINFO", "W-K0S-SYSINFO"]);
    assert_eq!(
        codes(&read(&sysinfo.replace("v1.35.7", "v1.34.1"))),
        [] as [&str; 0],
        "an older binary's word counts for nothing"
    );
}

#[test]
fn repositories_are_tried_where_a_host_has_to_reach_them_itself() {
    let case = Case::new("debian12");
    let inventory = case.inventory();
    let urls = [
        "https://packages.example.net/stable",
        "http://10.0.0.9:8080/",
        "https://packages.example.net/extra",
    ]
    .map(str::to_owned);
    let outside = |inventory: &provision::inventory::Inventory| -> Vec<(usize, String)> {
        let all = tries(inventory, &inventory.hosts["w-1"], &urls);
        let named = all.iter().enumerate().filter(|(_, t)| t.what == "packages");
        named.map(|(n, t)| (n, format!("{}:{}", t.address, t.port))).collect()
    };
    let tried = outside(&inventory);
    let places: Vec<&str> = tried.iter().map(|(_, place)| place.as_str()).collect();
    assert_eq!(places, ["10.0.0.9:8080", "packages.example.net:443"], "each server once");
    let (first, second) = (tried[1].0, tried[0].0);
    let answer = format!(
        "#section tool\nbash\n#section running\n#section tries\n\
         {first}|1|bash: packages.example.net: Temporary failure in name resolution bash: line 1: /dev/tcp/packages.example.net/443: Invalid argument \n\
         {second}|1|bash: connect: Connection refused \n#section version\n"
    );
    let found = findings(&inventory, &inventory.hosts["w-1"], &urls, &answer);
    assert_eq!(codes(&found), ["E-REPOSITORY-UNREACHABLE"; 2]);
    let said: Vec<&str> = found.iter().map(|f| f.message.as_str()).collect();
    assert_eq!(
        said,
        [
            "w-1 -> a package repository (packages.example.net:443, packages): name resolution failed",
            "w-1 -> a package repository (10.0.0.9:8080, packages): refused"
        ]
    );
    assert!(found[0].hint.contains("repositories.packages.example.net.mirror"), "{}", found[0].hint);
    // Behind a proxy its names mean nothing to the host; a host of the lab has no way out.
    let mut proxied = inventory.clone();
    proxied.network.proxy = Some("http://10.0.0.1:3128".to_owned());
    assert!(outside(&proxied).is_empty());
    let mut lab = inventory.clone();
    lab.hosts.get_mut("w-1").expect("a host").address = "127.0.0.9".to_owned();
    assert!(outside(&lab).is_empty());
}

#[test]
fn what_hosts_tell_together() {
    let case = Case::new("debian12");
    let inventory = case.inventory();
    let host = |hostname: &str, id: &str, uuid: &str, address: &str| Facts {
        hostname: hostname.into(),
        machine_id: id.into(),
        product_uuid: uuid.into(),
        addresses: vec![("eth0".into(), address.into())],
        ..Facts::default()
    };
    let all = [
        ("cp-1", host("debian", "a", "u", "10.20.0.11/24")),
        ("cp-2", host("debian", "a", "u", "10.20.0.12/24")),
        ("w-1", host("cp-3", "c", "", "10.20.0.13/24")),
    ];
    let pairs: Vec<(HostName, &Facts)> = all.iter().map(|(n, f)| ((*n).into(), f)).collect();
    let found: Vec<String> =
        among(&inventory, &pairs).iter().map(|(n, f)| format!("{n} {}", f.code)).collect();
    assert_eq!(
        found,
        [
            "cp-1 E-MACHINE-ID",
            "cp-1 W-PRODUCT-UUID",
            "cp-2 E-MACHINE-ID",
            "cp-2 W-PRODUCT-UUID",
            "w-1 E-HOSTNAME",
            "w-1 E-ADDRESS-TAKEN"
        ],
        "two that are both called debian are renamed by apply"
    );
}

#[test]
fn clocks_are_compared_with_the_majority_of_hosts() {
    let case = Case::new("debian12");
    let inventory = case.inventory();
    let told = |skews: &[i64]| -> Vec<String> {
        let facts: Vec<Facts> = skews.iter().map(|s| Facts { skew_s: *s, ..Facts::default() }).collect();
        let names = ["cp-1", "cp-2", "cp-3", "w-1"];
        let pairs: Vec<(HostName, &Facts)> = names.iter().map(|n| (*n).into()).zip(&facts).collect();
        among(&inventory, &pairs).iter().map(|(n, f)| format!("{n} {}: {}", f.code, f.message)).collect()
    };
    assert_eq!(told(&[0, 1, 5]), [] as [&str; 0]);
    // This machine's clock is the wrong one: nothing is said against hosts that agree.
    assert_eq!(told(&[4000, 4001, 4000]), [] as [&str; 0]);
    assert_eq!(told(&[4000, 4001, 0]), ["cp-3 E-CLOCK: its clock is 4000 s behind most other hosts'"]);
    assert_eq!(told(&[0, 0, 7, 1]), ["cp-3 W-CLOCK: its clock is 6 s ahead of most other hosts'"]);
    // Each within five minutes of this machine, and still too far apart.
    assert_eq!(
        told(&[-200, 200]),
        [
            "cp-1 E-CLOCK: its clock is 400 s behind cp-2's; it is unknown which one is right",
            "cp-2 E-CLOCK: its clock is 400 s ahead of cp-1's; it is unknown which one is right"
        ]
    );
    assert_eq!(told(&[0, 0, 900, 900]).len(), 4, "two against two");
    assert_eq!(told(&[900]), [] as [&str; 0]);
    assert_eq!(told(&[]), [] as [&str; 0]);
}

/// The reference page is made of the table; with `PROVISION_UPDATE_DOCS=1` this writes it.
#[test]
fn every_code_is_in_the_table_and_the_page_is_the_table() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for source in [
        "role/host.rs",
        "role/ports.rs",
        "role/preflight.rs",
        "executor/kind/filesystem.rs",
        "executor/sudo.rs",
        "ssh/transport.rs",
    ] {
        let text = std::fs::read_to_string(root.join("src").join(source)).expect("readable");
        for word in text.split('"').filter(|w| w.starts_with("E-") || w.starts_with("W-")) {
            assert!(
                TABLE.iter().any(|(code, ..)| *code == word),
                "{source}: {word} is not in findings::TABLE"
            );
        }
    }
    let mut page = String::from(
        "# Preflight checks\n\n`provision preflight` reports all of these at once; `apply` stops a host at codes that start with `E-`. Most messages\ninclude a command to check the cause. This page is generated from the table in `src/role/findings.rs`.\n\n\
         | code | meaning | what to do |\n|---|---|---|\n",
    );
    for (code, what, next) in TABLE {
        page += &format!("| `{code}` | {what} | {next} |\n");
    }
    page += "\n## Ports\n\nPorts are tested from the hosts that need them; messages show the direction. Before k0s runs, nothing listens: a refused\nconnection counts as open, a timeout or \"no route\" as blocked. A firewall that sends a reset cannot be told from a closed port\nand is not detected. Each host tests at most 16 others of a kind. UDP (Calico's 4789) and VRRP cannot be tested.\n\n| port | from | to | for |\n|---|---|---|---|\n";
    let side = |(controllers, workers): (bool, bool)| match (controllers, workers) {
        (true, true) => "controllers, workers",
        (true, false) => "controllers",
        _ => "workers",
    };
    for port in &provision::k0s::PORTS {
        page += &format!("| {}/tcp | {} | {} | {} |\n", port.port, side(port.from), side(port.to), port.what);
    }
    let path = root.join("docs/reference/errors.md");
    if std::env::var_os("PROVISION_UPDATE_DOCS").is_some() {
        std::fs::write(&path, &page).expect("written");
    }
    assert_eq!(
        std::fs::read_to_string(&path).unwrap_or_default(),
        page,
        "PROVISION_UPDATE_DOCS=1 cargo test --test data every_code"
    );
}
