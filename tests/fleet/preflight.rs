//! Every message of preflight with its hint, triggered on hosts that have the problem. Facts that a container shares with its
//! machine (kernel, clock, devices) come from stand-ins on the host: a `uname`, a
//! `date`, files mounted over `/sys`.

use crate::kit::{Host, K0S, K0S_NEXT, PASSWORD, Setup, Site, fleet};
use provision::role::TABLE;

/// Host in the inventory, code, and phrases of its message and of what to do next.
type Wanted = (&'static str, &'static str, &'static str, &'static str);

const SYSTEM: &[Wanted] = &[
    ("cp-1", "W-OS", "debian11", "--limit"),
    ("cp-1", "E-NOEXEC", "/opt is on /opt", "mount -o remount,exec /opt"),
    ("cp-1", "E-FOREIGN-KUBERNETES", "kubelet is running", "systemctl status kubelet"),
    ("cp-1", "W-FOREIGN-RUNTIME", "docker is running besides", "Remove it if nothing needs it"),
    ("cp-1", "W-FAPOLICYD", "fapolicyd is running", "fapolicyd-cli --file add /usr/local/bin/k0s"),
    ("cp-1", "W-FIREWALL", "firewalld is running; it is not changed", "Open the ports"),
    ("cp-1", "W-CLOUD-INIT", "cloud-init is still running", "cloud-init status --wait"),
    ("cp-1", "W-SELINUX", "SELinux is enforcing", "restorecon -v /usr/local/bin/k0s"),
    ("cp-1", "W-APPARMOR", "AppArmor is enabled", "aa-status"),
    ("cp-1", "W-CLOCK", "s ahead of this machine's", "chronyc makestep"),
    ("cp-1", "E-PORT-TAKEN", ":6443, which k0s needs for Kubernetes API", "ss -lntp 'sport = :6443'"),
    (
        "cp-1",
        "E-PROXY-UNREACHABLE",
        "cp-1 -> the proxy (10.77.0.1:9, network.proxy): ",
        "/dev/tcp/10.77.0.1/9",
    ),
    ("cp-1", "W-PRODUCT-UUID", "same product UUID as cp-2", "/sys/class/dmi/id/product_uuid"),
    ("cp-1", "E-MACHINE-ID", "same machine id as cp-2", "/proc/sys/kernel/random/uuid >/etc/machine-id"),
    ("cp-2", "E-MACHINE-ID", "same machine id as cp-1", "/proc/sys/kernel/random/uuid >/etc/machine-id"),
    ("cp-2", "E-HOSTNAME", "hostname cp-3 collides with host cp-3", "hostnamectl set-hostname"),
    ("cp-2", "E-KERNEL", "kernel 4.4.0-210-generic is older than 4.18", "uname -r"),
    ("cp-2", "E-CLOCK", "s ahead of this machine's", "timedatectl set-ntp true"),
    ("cp-2", "E-ADDRESS-TAKEN", "it has 10.77.210.1, the cluster address of cp-3", "ip -br addr"),
    ("cp-2", "E-PORT-BLOCKED", "cp-2 -> cp-1 (", "open the port in the firewall of cp-1"),
    ("cp-2", "E-K0S-SYSINFO", "Linux kernel: 3.1 too old", "k0s sysinfo"),
    ("cp-2", "W-K0S-SYSINFO", "AppArmor: unavailable", "k0s sysinfo"),
    ("cp-3", "W-KERNEL", "kernel 5.4.0-1-amd64", "uname -r"),
    ("cp-3", "E-NO-SPACE", "/var/lib/k0s has ", "df -h /var/lib/k0s"),
    ("cp-3", "W-PORTS-UNTRIED", "neither bash nor nc", "Install one of them"),
    ("n-1", "E-NOT-ROOT", "runs as uid 1000", "sudo -n id -u"),
    ("n-1", "E-NO-SYSTEMD", "not booted with systemd", "ls -d /run/systemd/system"),
    ("x-1", "E-NOT-LINUX", "the host runs FreeBSD, not Linux", "uname -s"),
    ("i-1", "E-INTERFACE", "no interface eth9", "ip -br addr"),
    ("i-1", "W-K0S-DOWNGRADE", "is a downgrade", "release notes"),
    ("i-1", "W-CERTIFICATE-AUTHORITY", "authority kubernetes-ca expires on 20", "k0s does not renew it"),
];

const ACCELERATORS: &[Wanted] = &[
    ("cp-1", "E-K0S-SKEW", "skips a minor", "k0s version"),
    ("g-1", "E-ACCEL-COUNT", "4 x t4 declared, 1 found on the PCI bus", "/sys/bus/pci/devices/*/vendor"),
    ("g-1", "E-HEADERS", "has headers for its running kernel", "os.kernel"),
    ("g-1", "E-NV-FOREIGN", "NVIDIA's .run installer", "Remove it, then apply again"),
    ("g-1", "E-SPACE", "GiB free, a driver build needs 10", "df -h /"),
    ("g-1", "E-SECURE-BOOT", "Secure Boot is on", "mokutil --sb-state"),
    ("g-1", "E-REPOSITORY-UNREACHABLE", "name resolution failed", "repositories.packages.example.com.mirror"),
    ("m-1", "E-ACCEL-MISMATCH", "8 x h100-sxm5-80gb declared, 1 x t4 found", "/sys/bus/pci/devices/*/vendor"),
    ("g-1", "E-RDMA-COUNT", "2 links declared, 0 mlx5 devices found", "rdma.count"),
    ("m-1", "E-EFA-COUNT", "2 EFA devices declared, 1 found on the PCI bus", "/sys/bus/pci/devices/*/device"),
    ("m-1", "E-RDMA-COUNT", "2 links declared, 0 mlx5 devices found", "/sys/bus/pci/devices/*/vendor"),
    ("m-1", "E-RDMA-KERNEL", "kernel 5.4.0-1-amd64 is older than 5.12", "uname -r"),
    ("m-1", "E-OS", "neither apt nor dnf", "command -v apt-get dnf"),
    ("m-1", "E-ARCH", "the processor is riscv64", "uname -m"),
];

const LOGINS: &[Wanted] = &[
    ("unreachable", "E-SSH-UNREACHABLE", "10.77.254.1", "10.77.254.1"),
    ("unknown", "E-SSH-HOSTKEY-UNKNOWN", "unknown host key of", "provision trust"),
    ("changed", "E-SSH-HOSTKEY-CHANGED", "recorded is SHA256:", "provision trust --replace"),
    ("ghost", "E-SSH-AUTH", "rejects the login of ghost", "ssh"),
    ("narrow", "E-SSH-REFUSED", "session", "MaxSessions"),
    ("drops", "E-SSH-LOST", "connection to drops ", "Run the same command again"),
    ("ends", "E-SHELL", "exited with 3", "sudo -n /bin/sh -c true"),
    ("hangs", "E-TIMEOUT", "timed out", "hung processes"),
    ("facts", "E-FACTS", "cannot read managed.json", ""),
    ("word", "E-SUDO-PASSWORD", "sudo rejects the password", "ssh.sudoPassword"),
    ("eve", "E-SUDO-REFUSED", "sudo is not allowed for this login", "sudo -l"),
    ("needtty", "E-SUDO-TTY", "requires a terminal", "requiretty"),
    ("bare", "E-SUDO-MISSING", "sudo is not installed", "ssh.user: root"),
];

/// Where a worker needs what only it has.
const WORKERS: &[&str] =
    &["E-CGROUP", "W-CGROUP", "E-DISK", "E-CONTAINERD-DROPIN", "E-EARLIER-CLUSTER", "E-NODE-NAME"];

/// No host says it: it is about the text of the inventory or of ssh_config; or about distributions other than Debian 12, on
/// which AWS tests its driver (`role::systems_that_aws_has_not_tested_are_named`), and on which dnf hides packages; or about a host
/// whose k0s would change its role, which the lab has (`retired::a_host_that_changes_its_role_is_refused_until_it_is_reset`).
const OF_NO_HOST: &[&str] =
    &["E-SSH-SETUP", "W-NEURON-SYSTEM", "W-API-REMOVED", "W-FEATURE-GATE", "E-DNF-EXCLUDED", "E-K0S-ROLE"];

#[test]
fn every_code_is_provoked_here() {
    let told = [SYSTEM, ACCELERATORS, LOGINS].into_iter().flatten().map(|(_, code, ..)| *code);
    let told: Vec<&str> = told.chain(WORKERS.iter().chain(OF_NO_HOST).copied()).collect();
    let missing: Vec<&str> =
        TABLE.iter().map(|(code, ..)| *code).filter(|code| !told.contains(code)).collect();
    assert_eq!(missing, [] as [&str; 0]);
}

/// Runs preflight and returns what it found: host, code, message, what to do next.
fn preflight(site: &Site) -> Vec<[String; 4]> {
    let output = site.command(&["preflight", "--output", "json"]).output().expect("the binary runs");
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    let all: serde_json::Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&output.stderr)));
    let mut found = Vec::new();
    for (host, lists) in all.as_object().expect("hosts") {
        for finding in
            ["failures", "warnings"].iter().flat_map(|list| lists[*list].as_array().expect("a list"))
        {
            let text = |key: &str| finding[key].as_str().unwrap_or_default().to_owned();
            found.push([host.clone(), text("code"), text("message"), text("next")]);
        }
    }
    found
}

fn check(found: &[[String; 4]], wanted: &[Wanted]) {
    let missing: Vec<&Wanted> = wanted
        .iter()
        .filter(|(on, code, says, next)| {
            !found.iter().any(|[h, c, m, n]| h == on && c == code && m.contains(says) && n.contains(next))
        })
        .collect();
    assert!(missing.is_empty(), "{missing:#?}\nof {found:#?}");
    let silent: Vec<_> =
        found.iter().filter(|[_, code, _, next]| next.is_empty() && code != "E-FACTS").collect();
    assert!(silent.is_empty(), "each says what to do next: {silent:#?}");
}

/// A program before the real one of that name, which gets what it does not answer itself.
fn stand_in(setup: Setup, name: &str, cases: &str) -> Setup {
    let text = format!("#!/bin/sh\ncase $1 in {cases} esac\nexec /usr/bin/{name} \"$@\"\n");
    setup.file(&format!("/usr/local/bin/{name}"), "755", &text)
}

/// A `date` that is so many seconds ahead.
fn ahead(setup: Setup, seconds: u32) -> Setup {
    stand_in(setup, "date", &format!("+%s) echo $(($(/usr/bin/date +%s)+{seconds})); exit;;"))
}

/// A host that joined with this k0s at some time.
fn joined(setup: Setup, version: &str) -> Setup {
    let managed =
        "[\n{\"kind\":\"command\",\"id\":\"command/k0s-ready\",\"hash\":\"\",\"adopted\":false},\n{}]\n";
    setup
        .file("/usr/local/bin/k0s", "755", &format!("#!/bin/sh\necho {version}\n"))
        .file("/var/lib/provision/managed.json", "600", managed)
        .file("/var/lib/provision/k0s.ready", "644", "started\n")
}

/// A certificate authority that ends in so many days, in PEM.
fn authority(days: u64) -> String {
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, "kubernetes-ca");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.not_after = (std::time::SystemTime::now() + std::time::Duration::from_secs(days * 86_400)).into();
    params.self_signed(&rcgen::KeyPair::generate().expect("a key")).expect("signed").pem()
}

/// An inventory whose roles want nothing, of these pools.
fn site(hosts: &[Host], pools: &str) -> Site {
    let mut site = Site::only(hosts, "[]\n");
    site.role("nvidia", "[]\n");
    site.hosts.clear();
    site.more = pools.to_owned();
    site.write();
    site
}

fn at(host: &Host) -> String {
    format!("{}: {{address: {}", host.name, host.address)
}

#[test]
fn what_a_system_is_lacks_and_shares() {
    let id = "echo 0123456789abcdef0123456789abcdef >/etc/machine-id";
    let first = Setup::new("cp-1")
        .prepare(id)
        .prepare("sed -i 's/^VERSION_ID=.*/VERSION_ID=\"11\"/' /usr/lib/os-release");
    let first = first.file("/usr/bin/cloud-init", "755", "#!/bin/sh\necho 'status: running'\n");
    let sysinfo = r#"[{"displayName":"Linux kernel","prop":"3.1","message":"too old","category":"rejected"},{"displayName":"AppArmor","prop":"unavailable","message":"","category":"warning"}]"#;
    let k0s = format!("#!/bin/sh\ncase $1 in version) echo {K0S};; sysinfo) echo '{sysinfo}';; esac\n");
    let second = stand_in(
        Setup::new("cp-2").prepare(id),
        "uname",
        "-snrm) echo Linux cp-2 4.4.0-210-generic x86_64; exit;;",
    );
    let second = second.file("/usr/local/bin/k0s", "755", &k0s);
    let third = stand_in(
        Setup::new("cp-3").disk("1g"),
        "uname",
        "-snrm) echo Linux cp-3 5.4.0-1-amd64 x86_64; exit;;",
    );
    let no_root = stand_in(Setup::new("n-1"), "sudo", "-n) shift 2; exec \"$@\";;");
    let hosts = fleet().boot([
        ahead(first, 60),
        ahead(second, 400),
        third.prepare("mv /usr/bin/bash /usr/bin/away"),
        no_root,
        stand_in(Setup::new("x-1"), "uname", "-snrm) echo FreeBSD x-1 14.1 amd64; exit;;"),
        joined(Setup::new("i-1"), "v1.35.99+k0s.0").file("/var/lib/k0s/pki/ca.crt", "644", &authority(100)),
    ]);
    let [one, two, three, no_root, _, narrow] = &hosts[..] else { panic!("six hosts") };
    let uuid = "mount -t tmpfs none /sys/class; mkdir -p /sys/class/dmi/id; echo 4c4c4544 >/sys/class/dmi/id/product_uuid";
    one.sh(&format!(
        "{uuid}; mount -t tmpfs -o noexec none /opt
         for unit in kubelet docker fapolicyd firewalld; do systemd-run --quiet --unit=$unit sleep infinity; done
         systemd-run --quiet --unit=taken systemd-socket-activate --accept -l 6443 /usr/bin/cat
         mkdir -p /sys/fs/selinux /sys/module/apparmor/parameters; echo 1 >/sys/fs/selinux/enforce
         echo Y >/sys/module/apparmor/parameters/enabled; ip route add blackhole {}/32",
        two.address
    ));
    two.sh(&format!("{uuid}; hostnamectl set-hostname cp-3; ip addr add 10.77.210.1/32 dev host0"));
    three.sh("c=/sys/fs/cgroup; [ -e $c/cgroup.controllers ] || { mount -o remount,rw $c; touch $c/cgroup.controllers; }");
    no_root.sh("mv /run/systemd/system /run/systemd/away");
    let control = [
        at(one) + "}",
        at(two) + "}",
        at(three) + ", clusterAddress: 10.77.210.1, user: dash}",
        at(no_root) + "}",
        at(&hosts[4]) + "}",
    ];
    let site = site(
        &hosts,
        &format!(
            "  control:\n    role: controller\n    hosts: {{{}}}\n  narrow:\n    role: worker\n    clusterInterface: eth9\n    hosts: {{{}}}}}\n\
             network: {{proxy: \"http://10.77.0.1:9\", noProxy: [10.77.0.0/16]}}\n",
            control.join(", "),
            at(narrow)
        ),
    );
    check(&preflight(&site), SYSTEM);
}

#[test]
fn accelerators_and_what_their_drivers_need() {
    let hosts = fleet().boot([
        joined(Setup::new("cp-1"), "v1.30.1+k0s.0"),
        Setup::new("g-1").file("/usr/bin/nvidia-uninstall", "755", "#!/bin/sh\n"),
        stand_in(
            Setup::new("m-1"),
            "uname",
            "-snrm) echo Linux m-1 5.4.0-1-amd64 riscv64; exit;; -r) echo 5.4.0-1-amd64; exit;;",
        ),
    ]);
    let card = "mount -t tmpfs none /sys/bus; d=/sys/bus/pci/devices/0000:01:00.0; mkdir -p $d; echo 0x10de >$d/vendor
                echo 0x1eb8 >$d/device; echo 0x030200 >$d/class; echo 0x10de >$d/subsystem_vendor; echo 0x12a2 >$d/subsystem_device";
    let adapter = "d=/sys/bus/pci/devices/0000:02:00.0; mkdir -p $d; echo 0x1d0f >$d/vendor
                echo 0xefa2 >$d/device; echo 0x020000 >$d/class; echo 0x1d0f >$d/subsystem_vendor; echo 0xefa2 >$d/subsystem_device";
    hosts[1].sh(&format!(
        "{card}; apt-get -qq update; mkdir -p /sys/firmware/efi/efivars
         printf '\\006\\000\\000\\000\\001' >/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
    ));
    hosts[2].sh(&format!("{card}; {adapter}; mv /usr/bin/apt-get /usr/bin/away"));
    let pool = |product: &str, count: u8, links: &str, host: &Host| {
        format!(
            "    role: worker\n    accelerator: {{nvidia: {{product: {product}, count: {count}, driver: \"580.178.04\"}}}}\n    rdma: {{count: 2}}\n{links}    hosts: {{{}}}}}\n",
            at(host)
        )
    };
    let site = site(
        &hosts,
        &format!(
            "  control:\n    role: controller\n    hosts: {{{}}}}}\n  t4:\n{}  h100:\n{}",
            at(&hosts[0]),
            pool("t4", 4, "", &hosts[1]),
            pool("h100-sxm5-80gb", 8, "    efa: {count: 2}\n", &hosts[2])
        ),
    );
    let there = "Types: deb\\nURIs: https://packages.example.com/debian\\nSuites: /\\n";
    site.role("nvidia", &format!("- package-repository: {{name: there, definition: \"{there}\"}}\n"));
    check(&preflight(&site), ACCELERATORS);
}

#[test]
fn logins_that_do_not_get_as_far_as_root() {
    let users = "for u in ghost narrow drops ends hangs facts word needtty bare; do [ $u = ghost ] || useradd -m -s /bin/bash $u; \
                 [ $u = ghost ] || { cp -r /home/ops/.ssh /home/$u/; chown -R $u: /home/$u/.ssh; }; \
                 [ $u = word ] || [ $u = ghost ] || echo \"$u ALL=(ALL:ALL) NOPASSWD: ALL\" >>/etc/sudoers.d/fleet; done\n\
                 echo 'word ALL=(ALL:ALL) ALL' >>/etc/sudoers.d/fleet; echo 'word:another' | chpasswd\n\
                 echo 'Defaults:needtty requiretty' >>/etc/sudoers.d/fleet";
    // All of them knock at once, and sshd would turn some away at random.
    let sshd = "MaxStartups 100\nMatch User narrow\n  MaxSessions 0\nMatch User drops\n  ForceCommand kill -9 $PPID\n\
                Match User ends\n  ForceCommand exit 3\nMatch User hangs\n  ForceCommand sleep 600\n\
                Match User bare\n  SetEnv PATH=/nowhere\nMatch all";
    let hosts = fleet().boot([Setup::new("door").prepare(users).sshd(sshd)]);
    let door = &hosts[0];
    door.sh("mkdir -p /var/lib/provision; echo '{cut' >/var/lib/provision/managed.json");
    // One sshd with an address for each.
    let (mut listed, mut known) = (Vec::new(), String::new());
    for (n, (name, ..)) in LOGINS.iter().enumerate() {
        let address = format!("10.77.220.{}", n + 1);
        door.sh(&format!("ip addr add {address}/32 dev host0"));
        fleet().sh(&format!("ip route replace {address}/32 via {}", door.address));
        let address = if *name == "unreachable" { "10.77.254.1".to_owned() } else { address };
        let user = if ["unreachable", "unknown", "changed"].contains(name) { "ops" } else { name };
        listed.push(format!("{name}: {{address: {address}, user: {user}}}"));
        known += &match *name {
            "unknown" => String::new(),
            "changed" => {
                let other = fleet().public("stranger");
                format!("{address} {}\n", other.split_whitespace().take(2).collect::<Vec<_>>().join(" "))
            }
            _ => format!("{address} {}\n", door.host_key),
        };
    }
    let mut site = site(
        &hosts,
        &format!(
            "  control:\n    role: controller\n    hosts: {{{}}}\nsecrets: {{sudo: {{env: SUDO_PASSWORD}}}}\n",
            listed.join(", ")
        ),
    );
    std::fs::write(site.path("known_hosts"), known).expect("written");
    site.ssh = site.ssh.replace("agent: false", "agent: false, sudoPassword: {secret: sudo}");
    site.env = vec![("SUDO_PASSWORD".to_owned(), PASSWORD.to_owned())];
    site.write();
    check(&preflight(&site), LOGINS);
}

#[test]
fn what_a_worker_must_have_before_its_k0s_starts() {
    let hosts = fleet().boot([Setup::new("cp-1"), Setup::new("w-1"), Setup::new("w-2")]);
    let (disk, used) = ("/dev/disk/by-id/nvme-gone", "/dev/disk/by-id/nvme-used");
    hosts[2].sh(&format!("truncate -s 8M /opt/disk; mkfs.ext4 -q -L theirs /opt/disk; mkdir -p /dev/disk/by-id; ln -s /opt/disk {used}"));
    let pool = |name: &str, disk: &str, host: &Host| {
        format!(
            "  {name}:\n    role: worker\n    storage: {{data: {{disk: {disk}}}}}\n    hosts: {{{}}}}}\n",
            at(host)
        )
    };
    let pools = format!(
        "  control:\n    role: controller\n    hosts: {{{}}}}}\n{}{}",
        at(&hosts[0]),
        pool("gone", disk, &hosts[1]),
        pool("used", used, &hosts[2])
    );
    let mut site = site(&hosts, &pools);
    // The built-in role prepares disks.
    std::fs::remove_dir_all(site.path("roles/base")).expect("removed");
    let found = preflight(&site);
    check(
        &found,
        &[
            ("w-1", "E-DISK", "/dev/disk/by-id/nvme-gone does not exist", "ls -l /dev/disk/by-id/nvme-gone"),
            (
                "w-2",
                "E-DISK",
                "contains ext4 labelled theirs; it is not overwritten",
                "erase: ext4 to wipe it",
            ),
        ],
    );
    let v1 = hosts[1].try_sh("[ -e /sys/fs/cgroup/cgroup.controllers ]").status.code() == Some(1);
    let path = site.path("inventory.yaml");
    let text = std::fs::read_to_string(&path).expect("read");
    if v1 {
        check(&found, &[("w-1", "W-CGROUP", "cgroup v1", "systemd.unified_cgroup_hierarchy=1")]);
        std::fs::write(&path, text.replace("failCgroupV1: false", "failCgroupV1: true")).expect("written");
        let wanted = ("w-1", "E-CGROUP", "on which the kubelet of k0s", "systemd.unified_cgroup_hierarchy=1");
        check(&preflight(&site), &[wanted]);
        std::fs::write(&path, text).expect("written");
    }
    // What another cluster left, and a hostname that is kept.
    hosts[1].sh("mkdir -p /var/lib/k0s /etc/cni/net.d; echo x >/var/lib/k0s/kubelet.conf; echo {} >/etc/cni/net.d/05-cilium.conflist");
    hosts[2].sh("hostnamectl set-hostname w-2.dc1.example.com");
    let os = std::mem::replace(&mut site.os, "{ntp: [], hostname: keep}".to_owned());
    site.write();
    let left = "/var/lib/k0s/kubelet.conf, /etc/cni/net.d/05-cilium.conflist";
    check(
        &preflight(&site),
        &[
            ("w-1", "E-EARLIER-CLUSTER", left, "k0s reset"),
            (
                "w-2",
                "E-NODE-NAME",
                "register node w-2.dc1.example.com, but the inventory has w-2",
                "set-hostname w-2",
            ),
        ],
    );
    hosts[1].sh("rm -r /var/lib/k0s /etc/cni/net.d");
    site.os = os;
    // What would keep this k0s from starting comes from a role of the inventory's own: 1.36 refuses the older form.
    site.k0s = K0S_NEXT.to_owned();
    site.write();
    site.role("base", "- file: {path: /etc/k0s/containerd.d/own.toml, content: \"version = 2\\n\"}\n");
    let next = "k0s would not start with it";
    check(&preflight(&site), &[("w-1", "E-CONTAINERD-DROPIN", "/etc/k0s/containerd.d/own.toml", next)]);
}
