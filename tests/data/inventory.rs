//! Data tests of `inventory`: the examples load, and every error is reported with its location, next to a valid counterpart.

use provision::catalog::Catalog;
use provision::inventory::{Diagnostics, Disk, Inventory, Share, explain, load, select};
use std::path::{Path, PathBuf};

pub fn catalog() -> Catalog {
    Catalog::builtin().expect("the catalog")
}

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("inventories").join(name)
}

fn try_text(text: &str) -> Result<Inventory, Diagnostics> {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("site.yaml");
    std::fs::write(&path, text).expect("written");
    load(&path, &catalog()).map(|l| l.inventory)
}

pub const GOOD: &str = r#"apiVersion: provision/v1
kind: Inventory
metadata: {name: x}
secrets: {hf: {env: HF}}
ssh: {user: root}
cluster:
  k0s: {version: v1.35.7+k0s.0}
  network: {podCIDR: 10.240.0.0/20, serviceCIDR: 10.96.0.0/16}
pools:
  c: {role: controller, hosts: {cp-1: {address: 10.1.0.1}}}
  g: {role: worker, hosts: {w-1: {address: 10.1.0.2}}}
  n:
    role: worker
    accelerator: {nvidia: {product: h100-sxm5-80gb, count: 8, driver: "580.178.04"}}
    hosts: {"h-[01-02]": {address: "10.1.1.[1-2]"}}
router: {kthena: {version: v1.0.0}}
models:
  m:
    source: {huggingFace: {repo: a/b, revision: c, token: {secret: hf}}}
    engine: {vllm: {image: i}}
    placement: {pool: n, acceleratorsPerReplica: 8, replicas: 2}
tenants:
  t: {gateway: {port: 8081}, routes: {served: {to: {m: 100}}}}
"#;

/// Replaces one piece of the good inventory and returns the codes of what is found.
fn codes(from: &str, to: &str) -> Vec<&'static str> {
    assert!(GOOD.contains(from), "{from}");
    match try_text(&GOOD.replacen(from, to, 1)) {
        Ok(_) => Vec::new(),
        Err(found) => found.all.iter().map(|d| d.code).collect(),
    }
}

#[test]
fn a_tenant_keeps_its_node_port_when_others_are_added_or_removed() {
    let tenant = |name: &str, gateway: &str| {
        format!("  {name}: {{gateway: {{{gateway}}}, routes: {{served: {{to: {{m: 100}}}}}}}}\n")
    };
    let port = |more: &str| {
        try_text(&GOOD.replacen("tenants:\n", &format!("tenants:\n{more}"), 1)).expect("good").tenants["t"]
            .node_port
    };
    assert_eq!(port(""), 30081);
    assert_eq!(port(&tenant("a", "port: 8090")), 30081);
    assert_eq!(port(&(tenant("b", "port: 1024") + &tenant("z", "port: 65535"))), 30081);
    let of = |from: &str, to: &str| {
        let text = GOOD.replacen(from, to, 1);
        try_text(&text).unwrap_or_else(|d| panic!("{d}")).tenants["t"].node_port
    };
    assert_eq!(of("port: 8081}", "port: 8081, nodePort: 31000}"), 31000);
    assert_eq!(of("port: 8081}", "port: 65535}"), 32175);
    assert_eq!(of("port: 8081}", "port: 1024}"), 31328);
    let base = "{kthena: {version: v1.0.0}, expose: {nodePort: {base: 32767}}}";
    assert_eq!(of("{kthena: {version: v1.0.0}}", base), 30000, "past the end it begins again");
}

/// 1,500 tenants are checked as fast as they are read.
#[test]
fn many_tenants_each_have_a_port() {
    let all: String = (8600..10_101)
        .filter(|n| *n != 9090)
        .map(|n| format!("  n{n}: {{gateway: {{port: {n}}}, routes: {{served: {{to: {{m: 100}}}}}}}}\n"))
        .collect();
    let inventory = try_text(&GOOD.replacen("tenants:\n", &format!("tenants:\n{all}"), 1))
        .unwrap_or_else(|d| panic!("{d}"));
    let ports: std::collections::BTreeSet<u16> = inventory.tenants.values().map(|t| t.node_port).collect();
    assert_eq!(ports.len(), 1501);
    assert!(ports.iter().all(|p| (30000..=32767).contains(p)));
}

#[test]
fn the_examples_validate() {
    for name in ["lab", "three-nodes", "h100-rack", "trn2-ultraserver", "mixed"] {
        let loaded = load(&example(name), &catalog()).unwrap_or_else(|d| panic!("{name}:\n{d}"));
        assert_eq!(loaded.diagnostics.all, [], "{name}");
    }
    let rack = load(&example("h100-rack"), &catalog()).expect("loads").inventory;
    assert_eq!(rack.hosts.len(), 69);
    assert_eq!(rack.hosts["h-064"].address, "10.20.1.64");
    assert_eq!(rack.pools["h100"].disruption.max_unavailable, Share::Percent(10));
    assert_eq!(Share::Percent(10).of(64), 6);
    assert_eq!((rack.tenants["ads"].node_port, rack.tenants["search"].node_port), (30081, 30082));
    let names = |l: &str| {
        select(&rack, Some(l)).map(|s| s.iter().map(|h| h.to_string()).collect::<Vec<_>>().join(" "))
    };
    assert_eq!(names("h-[001-002],control,!cp-2").as_deref(), Ok("cp-1 cp-3 h-001 h-002"));
    assert!(names("h-99").is_err_and(|e| e.to_string().contains("h-99")));
}

#[test]
fn each_mistake_has_its_code_and_its_valid_counterpart_passes() {
    try_text(GOOD).unwrap_or_else(|d| panic!("{d}"));
    for (from, to, code) in [
        ("role: controller", "rol: controller", "E-UNKNOWN-KEY"),
        ("role: controller,", "role: controller, role: worker,", "E-DUPLICATE-KEY"),
        ("count: 8", "count: many", "E-TYPE"),
        ("address: 10.1.0.2", "address: 10.1.0.2, port: 0", "E-TYPE"),
        ("\"10.1.1.[1-2]\"", "\"10.1.1.[1-3]\"", "E-RANGE-COUNT"),
        ("address: 10.1.0.2", "address: 10.1.0.1", "E-DUPLICATE-ADDRESS"),
        ("pool: n", "pool: nope", "E-UNKNOWN-POOL"),
        ("secret: hf", "secret: hg", "E-UNKNOWN-SECRET"),
        ("{m: 100}", "{mm: 100}", "E-UNKNOWN-MODEL"),
        ("acceleratorsPerReplica: 8", "acceleratorsPerReplica: 16", "E-NO-FIT"),
        ("replicas: 2", "replicas: 3", "E-NO-FIT"),
        ("podCIDR: 10.240.0.0/20", "podCIDR: 10.240.0.0/23", "E-POD-CIDR"),
        ("serviceCIDR: 10.96.0.0/16", "serviceCIDR: 10.240.0.0/16", "E-CIDR-OVERLAP"),
        ("v1.35.7+k0s.0", "v1.20.0+k0s.0", "E-K0S-VERSION"),
        ("v1.35.7+k0s.0", "v1.35.1+k0s.0", "E-K0S-VERSION"),
        ("{version: v1.0.0}", "{version: v9.0.0}", "E-KTHENA-VERSION"),
        (
            "h100-sxm5-80gb, count: 8, driver: \"580.178.04\"",
            "b300-sxm, count: 8, driver: \"570.158.01\"",
            "E-NV-BRANCH",
        ),
        (
            "h100-sxm5-80gb, count: 8, driver: \"580.178.04\"",
            "v100-sxm2-32gb, count: 8, driver: \"595.91.07\"",
            "E-NV-BRANCH-LAST",
        ),
        (
            "{nvidia: {product: h100-sxm5-80gb, count: 8, driver: \"580.178.04\"}}",
            "{neuron: {product: inferentia1, count: 8, sdk: \"2.32.0\"}}",
            "E-NEURON-CHIP",
        ),
        ("h100-sxm5-80gb", "h100-sxm5-80g", "E-PRODUCT"),
        ("    hosts: {\"h-", "    nodeName: keep\n    hosts: {\"h-", "E-NOT-SUPPORTED"),
        ("port: 8081", "port: 8080", "E-PORT"),
        ("{m: 100}", "{m: 0}", "E-WEIGHT"),
        ("role: controller,", "role: worker,", "E-CONTROLLERS"),
        ("{env: HF}", "{env: HF, file: x}", "E-ONE-OF"),
        ("metadata: {name: x}\n", "", "E-MISSING"),
        (
            "{role: worker, hosts",
            "{role: worker, labels: {kubernetes.io/hostname: x}, hosts",
            "E-LABEL-RESERVED",
        ),
        ("{role: worker, hosts", "{role: worker, labels: {provision.dev/pool: x}, hosts", "E-LABEL-RESERVED"),
        (
            "{role: worker, hosts",
            "{role: worker, labels: {node.k0sproject.io/role: x}, hosts",
            "E-LABEL-RESERVED",
        ),
        ("{address: 10.1.0.2}", "{address: 10.1.0.2, labels: {kubernetes.io/os: x}}", "E-LABEL-RESERVED"),
        (
            "{role: worker, hosts",
            "{role: worker, taints: [\"provision.dev/starting=true:NoSchedule\"], hosts",
            "E-TAINT-RESERVED",
        ),
        (
            "{role: worker, hosts",
            "{role: worker, taints: [\"node.kubernetes.io/not-ready:NoExecute\"], hosts",
            "E-TAINT-RESERVED",
        ),
        ("address: 10.1.0.2", "address: 0.0.0.0", "E-ADDRESS"),
        ("address: 10.1.0.2", "address: 224.0.0.5", "E-ADDRESS"),
        ("address: 10.1.0.2", "address: \"ff02::1\"", "E-ADDRESS"),
        ("address: 10.1.0.2", "address: 10.1.0.2, clusterAddress: 255.255.255.255", "E-ADDRESS"),
        ("podCIDR: 10.240.0.0/20", "podCIDR: 10.240.0.1/20", "E-CIDR"),
        ("serviceCIDR: 10.96.0.0/16", "serviceCIDR: 10.96.1.0/16", "E-CIDR"),
        ("acceleratorsPerReplica: 8", "acceleratorsPerReplica: 0", "E-VALUE"),
        ("count: 8", "count: 1000000", "E-VALUE"),
        (
            "acceleratorsPerReplica: 8, replicas: 2",
            "acceleratorsPerReplica: 8, replicas: 4000000000",
            "E-VALUE",
        ),
        ("{role: worker, hosts", "{role: worker, disruption: {drainSeconds: 4000000000}, hosts", "E-VALUE"),
        ("{role: worker, hosts", "{role: worker, storage: {models: {path: /}}, hosts", "E-PATH"),
        ("{role: worker, hosts", "{role: worker, storage: {models: {path: /etc/models}}, hosts", "E-PATH"),
        ("{huggingFace: {repo: a/b, revision: c, token: {secret: hf}}}", "{path: /}", "E-PATH"),
        ("address: 10.1.0.2", "address: 10.1.0.2, state: maintenance, until: soon", "E-DATE"),
        ("address: 10.1.0.2", "address: 10.1.0.2, state: maintenance, until: 2026-02-30", "E-DATE"),
        ("{image: i}", "{image: i, env: {\"A B\": x}}", "E-FORM"),
        ("{image: i}", "{image: i, env: {HF_TOKEN: x}}", "E-FORM"),
        ("{image: i}", "{image: i, resources: {memory: 64GB}}", "E-FORM"),
    ] {
        let found = codes(from, to);
        assert!(found.contains(&code), "{from} -> {to}: {found:?}");
    }
    let tainted = GOOD.replace("g: {role: worker,", "g: {role: worker, taints: [a=b:NoSchedule],").replace(
        "    role: worker\n    accelerator",
        "    role: worker\n    taints: [a=b:NoSchedule]\n    accelerator",
    );
    let found = try_text(&tainted).expect_err("no home");
    assert!(found.all.iter().any(|d| d.code == "E-NO-HOME"), "{found}");
}

/// What stands next to the refused values is taken.
#[test]
fn labels_dates_paths_and_counts_that_are_in_use_are_taken() {
    for (from, to) in [
        (
            "{role: worker, hosts",
            "{role: worker, labels: {topology.kubernetes.io/zone: a, node-role.kubernetes.io/gpu: \"\"}, hosts",
        ),
        ("{role: worker, hosts", "{role: worker, labels: {node.kubernetes.io/instance-type: p5}, hosts"),
        ("address: 10.1.0.2", "address: 10.1.0.2, state: maintenance, until: 2026-12-24"),
        ("address: 10.1.0.2", "address: 10.1.0.2, state: maintenance, until: 2026-12-24 18:00"),
        ("{role: worker, hosts", "{role: worker, storage: {models: {path: /var/lib/models}}, hosts"),
        (
            "{image: i}",
            "{image: i, env: {VLLM_LOGGING_LEVEL: DEBUG}, resources: {cpu: 16, memory: 512Gi, shm: 64Gi}}",
        ),
    ] {
        let found = codes(from, to);
        assert_eq!(found, Vec::<&str>::new(), "{to}");
    }
}

/// A k0s line whose Kubernetes gets no fixes any more.
#[test]
fn the_end_of_life_of_kubernetes_is_a_warning() {
    let dir = tempfile::tempdir().expect("a folder");
    let text = GOOD.replace("v1.35.7+k0s.0", "v1.34.10+k0s.0");
    std::fs::write(dir.path().join("a.yaml"), text).expect("written");
    let loaded = load(dir.path(), &catalog()).unwrap_or_else(|d| panic!("{d}"));
    let [warning] = &loaded.diagnostics.all[..] else { panic!("{}", loaded.diagnostics) };
    assert_eq!(warning.code, "W-K0S-EOL");
    assert!(warning.hint.as_deref().is_some_and(|h| h.contains("v1.36.4+k0s.1")), "{warning:?}");
    assert!(warning.span.is_some() && warning.message.contains("2026-10-27"), "{warning:?}");
}

#[test]
fn an_even_number_of_controllers_is_a_warning() {
    let two = GOOD.replace("cp-1: {address: 10.1.0.1}", "\"cp-[1-2]\": {address: \"10.1.0.[11-12]\"}");
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::write(dir.path().join("a.yaml"), two).expect("written");
    let loaded = load(dir.path(), &catalog()).expect("usable");
    assert_eq!(loaded.diagnostics.all.iter().map(|d| d.code).collect::<Vec<_>>(), ["W-EVEN-CONTROLLERS"]);
}

#[test]
fn all_mistakes_are_shown_at_once_with_carets_and_hints() {
    let text = GOOD
        .replacen("role: controller", "rol: controller", 1)
        .replace("secret: hf", "secret: hff")
        .replace("count: 8", "count: 8, cuont: 9");
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("site.yaml");
    std::fs::write(&path, text).expect("written");
    let found = load(&path, &catalog()).expect_err("mistakes");
    let shown = found.render(false).replace(&dir.path().display().to_string(), "DIR");
    insta::assert_snapshot!(shown);
}

#[test]
fn layers_merge_and_explain_says_where_from() {
    let dir = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).expect("written");
    write("base.yaml", GOOD);
    write(
        "site.yaml",
        "extends: base.yaml\nssh: {user: alice}\npools:\n  g: null\n  n: {labels: {a: b}}\nsecrets: {extra: {env: E}}\n",
    );
    let inventory =
        load(&dir.path().join("site.yaml"), &catalog()).unwrap_or_else(|d| panic!("{d}")).inventory;
    assert_eq!(inventory.ssh.user.as_deref(), Some("alice"));
    assert!(!inventory.pools.contains_key("g"));
    assert_eq!(inventory.pools["n"].labels["a"], "b");
    assert_eq!(inventory.secrets.len(), 2);
    let shown = explain(
        &Disk::of(&dir.path().join("site.yaml"), &[]).expect("there"),
        &dir.path().join("site.yaml"),
        "ssh",
    )
    .expect("explained");
    assert!(shown.contains("ssh.user = \"alice\"") && shown.contains("site.yaml:2"), "{shown}");
    write("loop.yaml", "extends: loop.yaml\n");
    assert!(
        load(&dir.path().join("loop.yaml"), &catalog())
            .is_err_and(|d| d.to_string().contains("extends itself"))
    );
}

#[test]
fn hosts_come_from_csv_too_and_its_mistakes_have_lines() {
    let dir = tempfile::tempdir().expect("a folder");
    let text = GOOD.replace(
        "hosts: {\"h-[01-02]\": {address: \"10.1.1.[1-2]\"}}",
        "hostsFrom: h.csv\n    hosts: {h-2: {state: maintenance, reason: RMA}}",
    );
    std::fs::write(dir.path().join("site.yaml"), text.replace("replicas: 2", "replicas: 1"))
        .expect("written");
    let csv = dir.path().join("h.csv");
    std::fs::write(&csv, "name,address,rack,bmc,serial\nh-1,10.1.1.1,r1,10.9.0.1,S1\nh-2,10.1.1.2,r1,,\n")
        .expect("written");
    let inventory =
        load(&dir.path().join("site.yaml"), &catalog()).unwrap_or_else(|d| panic!("{d}")).inventory;
    assert_eq!(inventory.hosts["h-1"].bmc.as_deref(), Some("10.9.0.1"));
    assert_eq!(inventory.active().count(), 3);
    std::fs::write(&csv, "name,address,colour\nh-1,10.1.1.1,red\nh-2\n").expect("written");
    let found = load(&dir.path().join("site.yaml"), &catalog()).expect_err("bad csv").to_string();
    assert!(found.contains("unknown column `colour`") && found.contains("h.csv:3"), "{found}");
    for (text, said) in [
        ("name,address,rack\nh-1,10.1.1.1,\u{1b}[31mr1\n", "the character U+001B is not allowed"),
        ("name,address,rack\nh-1,10.1.1.1,r1\u{202e}\n", "the character U+202E is not allowed"),
        ("name,address,address\nh-1,10.1.1.1,10.1.1.2\n", "duplicate column `address`"),
        (&format!("name,address{}\n", ",a".repeat(250_000)), "has 250002 columns"),
    ] {
        std::fs::write(&csv, text).expect("written");
        let found = load(&dir.path().join("site.yaml"), &catalog()).expect_err(said).to_string();
        assert!(found.contains(said), "{said}: {}", found.chars().take(300).collect::<String>());
    }
}

/// What lies in a folder inside is a part only where it is named: a base would override what is laid on it.
#[test]
fn a_folder_is_merged_from_its_own_files_alone() {
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::create_dir_all(dir.path().join("zbase")).expect("made");
    std::fs::write(dir.path().join("zbase/c.yaml"), GOOD).expect("written");
    std::fs::write(dir.path().join("a.yaml"), "extends: zbase/c.yaml\nssh: {user: alice}\n")
        .expect("written");
    let inventory = load(dir.path(), &catalog()).unwrap_or_else(|d| panic!("{d}")).inventory;
    assert_eq!(inventory.ssh.user.as_deref(), Some("alice"));
}

/// A saved plan names what it reads besides, and nothing of what that is.
#[test]
fn what_a_saved_plan_needs_is_named_from_anywhere() {
    let text = GOOD.replace("secrets: {", "secrets: {pw: {file: pw.txt}, ");
    let mut inventory = try_text(&text).unwrap_or_else(|d| panic!("{d}"));
    // As named on a command line.
    (inventory.root, inventory.ssh.known_hosts) = ("site".into(), "site/known_hosts".into());
    let needs = provision::inventory::needs(&inventory);
    assert!(needs.iter().any(|n| n.starts_with("host keys: /") && n.ends_with("/known_hosts")), "{needs:?}");
    assert!(needs.iter().any(|n| n.starts_with("secret pw: /") && n.ends_with("/pw.txt")), "{needs:?}");
    assert!(needs.iter().any(|n| n.starts_with("secret hf: environment variable ")), "{needs:?}");
}

/// Saved plans are compared by it: hosts count wherever they come from.
#[test]
fn the_digest_knows_hosts_of_a_list() {
    let dir = tempfile::tempdir().expect("a folder");
    let text = GOOD.replace("hosts: {\"h-[01-02]\": {address: \"10.1.1.[1-2]\"}}", "hostsFrom: h.csv");
    std::fs::write(dir.path().join("site.yaml"), text.replace("replicas: 2", "replicas: 1"))
        .expect("written");
    let digest = |rack: &str| {
        let list = format!("name,address,rack\nh-1,10.1.1.1,{rack}\n");
        std::fs::write(dir.path().join("h.csv"), list).expect("written");
        load(&dir.path().join("site.yaml"), &catalog()).unwrap_or_else(|d| panic!("{d}")).inventory.digest
    };
    assert_eq!(digest("r1"), digest("r1"));
    assert_ne!(digest("r1"), digest("r2"));
}

#[test]
fn an_address_that_overrides_a_ranges_is_the_cluster_address_too() {
    let one = "cp-1: {address: 10.1.0.1}";
    let host = |more: &str, range: &str| {
        let hosts = format!("\"cp-[1-3]\": {{address: \"10.1.0.[11-13]\"{range}}}, cp-2: {{{more}}}");
        let inventory = try_text(&GOOD.replacen(one, &hosts, 1)).unwrap_or_else(|d| panic!("{d}"));
        let host = &inventory.hosts["cp-2"];
        (host.address.clone(), host.cluster_address.map(|a| a.to_string()).unwrap_or_default(), host.node_ip)
    };
    let of = |address: &str, cluster: &str, given| (address.to_owned(), cluster.to_owned(), given);
    assert_eq!(host("address: 10.1.0.99", ""), of("10.1.0.99", "10.1.0.99", false));
    assert_eq!(host("rack: r1", ""), of("10.1.0.12", "10.1.0.12", false));
    let named = ", clusterAddress: 10.2.0.12";
    assert_eq!(host(&format!("address: cp-2.example{named}"), ""), of("cp-2.example", "10.2.0.12", true));
    let given = ", clusterAddress: \"10.2.0.[11-13]\"";
    assert_eq!(host("address: 10.1.0.99", given), of("10.1.0.99", "10.2.0.12", true));
    let both = "address: 10.1.0.99, clusterAddress: 10.2.0.99";
    assert_eq!(host(both, given), of("10.1.0.99", "10.2.0.99", true));
    let only = "\"cp-[1-3]\": {address: \"10.1.0.[11-13]\"}, cp-2: {address: cp-2.example}";
    assert_eq!(codes(one, only), ["E-CLUSTER-ADDRESS"], "a name has no address yet");
    let taken = "\"cp-[1-3]\": {address: \"10.1.0.[11-13]\"}, cp-2: {address: 10.1.0.11}";
    assert!(codes(one, taken).contains(&"E-DUPLICATE-ADDRESS"));
}

/// Etcd and the API of a controller have IP addresses; a worker may be known by its name alone.
#[test]
fn a_controller_known_by_name_needs_its_cluster_address() {
    let one = "cp-1: {address: 10.1.0.1}";
    for role in ["controller", "controller+worker", "single"] {
        let text = GOOD.replacen("role: controller,", &format!("role: {role},"), 1);
        let with = |host: &str| {
            let text = text.replacen(one, &format!("cp-1: {{{host}}}"), 1);
            let found = try_text(&text).err().map(|d| d.render(false)).unwrap_or_default();
            found.contains("E-CLUSTER-ADDRESS").then_some(found)
        };
        for address in ["gpu-cp1", "cp-1.dc1.example.com"] {
            let said = with(&format!("address: {address}")).expect("refused");
            assert!(
                said.contains(address) && said.contains("Set `clusterAddress` to its IP address"),
                "{said}"
            );
            assert_eq!(with(&format!("address: {address}, clusterAddress: 10.1.0.1")), None);
            assert_eq!(with(&format!("address: {address}, state: retired")), None);
        }
        assert_eq!(with("address: \"fd00::11\""), None);
    }
    try_text(&GOOD.replacen("address: 10.1.0.2", "address: w-1.example", 1))
        .unwrap_or_else(|d| panic!("{d}"));
}

#[test]
fn a_text_without_quotes_stays_as_it_is_written() {
    for written in [
        "1.10",
        "00123",
        "-010",
        "1e3",
        "1.0",
        "0x1F",
        "0o17",
        "1_000",
        "+5",
        ".5",
        "1E999",
        "123e4567",
        "99999999999999999999999",
        "580.10",
        "12",
    ] {
        let host = format!("10.1.0.2, rack: {written}, serial: &a {written}, reason: *a }}");
        let sysctls = format!("os: {{sysctls: {{vm.x: {written} }}}}\nsecrets:");
        let text = GOOD.replacen("10.1.0.2}", &host, 1).replacen("secrets:", &sysctls, 1);
        let inventory = try_text(&text).unwrap_or_else(|d| panic!("{written}: {d}"));
        assert_eq!(inventory.os.sysctls["vm.x"], written);
        let host = &inventory.hosts["w-1"];
        assert_eq!([&host.rack, &host.serial, &host.reason].map(Option::as_deref), [Some(written); 3]);
    }
    for written in ["1.10", "00123", "1e3", "True"] {
        let labels = format!("    role: worker\n    labels: {{l: {written}, {written}: k}}\n");
        let text = GOOD.replacen("    role: worker\n", &labels, 1);
        let labels = &try_text(&text).unwrap_or_else(|d| panic!("{written}: {d}")).pools["n"].labels;
        assert_eq!((labels["l"].as_str(), labels[written].as_str()), (written, "k"));
    }
    let serial = |written: &str| {
        let text = GOOD.replacen("10.1.0.2}", &format!("10.1.0.2, serial: {written}, rack: {written}}}"), 1);
        let inventory = try_text(&text).unwrap_or_else(|d| panic!("{written}: {d}"));
        let host = &inventory.hosts["w-1"];
        assert_eq!(host.serial, host.rack);
        (host.serial.clone().unwrap_or_default(), inventory.digest)
    };
    let (first, second) = (serial("1.10"), serial("1.1"));
    assert_eq!((first.0.as_str(), second.0.as_str()), ("1.10", "1.1"));
    assert_ne!(first.1, second.1, "two texts are two inventories");
}

#[test]
fn numbers_and_what_is_passed_on_are_still_numbers() {
    let text = GOOD.replacen("port: 8081", "port: 0x1F91", 1).replacen(
        "{version: v1.35.7+k0s.0}",
        "{version: v1.35.7+k0s.0, config: {spec: {a: 1e3, b: 0x10, c: 1.10, d: true, e: \"1.10\"}}}",
        1,
    );
    let inventory = try_text(&text).unwrap_or_else(|d| panic!("{d}"));
    assert_eq!(inventory.tenants["t"].port, 8081);
    let wanted = serde_json::json!({"spec": {"a": 1000, "b": 16, "c": 1.1, "d": true, "e": "1.10"}});
    assert_eq!(inventory.cluster.k0s_config, wanted);
}
