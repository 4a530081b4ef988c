//! Data tests of all errors in inventories: a valid inventory with one part replaced, and the output. The golden text is
//! `snapshots/data__mistakes__*.snap`; each finding has a code, a location with a caret, and a hint.

use crate::inventory::{GOOD, catalog};
use provision::inventory::{Severity, load};
use std::fmt::Write;
use std::path::Path;

/// What is wrong, the piece of the good inventory, and what stands there instead.
type Case = (&'static str, &'static str, &'static str);

const SHAPE: &[Case] = &[
    ("an unknown key", "role: controller", "rol: controller"),
    ("a key of nowhere", "ssh: {user: root}", "ssh: {user: root}\nwhatever: 1"),
    ("a duplicate key", "role: controller,", "role: controller, role: worker,"),
    ("a duplicate host", "cp-1: {address: 10.1.0.1}", "cp-1: {address: 10.1.0.1}, cp-1: {address: 10.1.0.9}"),
    ("text for a number", "count: 8", "count: many"),
    ("a negative number", "count: 8", "count: -8"),
    ("a number too large", "port: 8081", "port: 80810"),
    ("negative replicas", "replicas: 2", "replicas: -2"),
    ("a text for a mapping", "{kthena: {version: v1.0.0}}", "kthena"),
    ("a list for text", "metadata: {name: x}", "metadata: {name: [x]}"),
    ("text for a list", "{role: worker, hosts", "{role: worker, taints: gpu, hosts"),
    ("true for text", "user: root", "user: true"),
    ("two of one", "{env: HF}", "{env: HF, file: x}"),
    ("none of one", "{env: HF}", "{}"),
    ("a missing part", "metadata: {name: x}\n", ""),
    ("a role that is none", "{role: worker,", "{role: wroker,"),
    ("another format", "apiVersion: provision/v1", "apiVersion: provision/v9"),
    ("no YAML", "metadata: {name: x}", "metadata: {name: x"),
    ("a tab", "metadata: {name: x}", "metadata:\n\tname: x"),
    ("a field not built yet", "{role: worker, hosts", "{role: worker, nodeName: keep, hosts"),
    ("a host without an address", "w-1: {address: 10.1.0.2}", "w-1: {rack: r1}"),
    ("a host's state that is none", "{address: 10.1.0.2}", "{address: 10.1.0.2, state: broken}"),
    (
        "a cluster address that is none",
        "{address: 10.1.0.2}",
        "{address: 10.1.0.2, clusterAddress: w-1.local}",
    ),
];

const RANGES: &[Case] = &[
    ("ranges that count differently", "\"10.1.1.[1-2]\"", "\"10.1.1.[1-3]\""),
    ("one address for a range", "\"10.1.1.[1-2]\"", "10.1.1.1"),
    ("a range that runs backwards", "\"h-[01-02]\"", "\"h-[02-01]\""),
    ("a range without an end", "\"h-[01-02]\"", "\"h-[01-02\""),
    ("a host in two ranges", "\"h-[01-02]\"", "\"h-[01,01]\""),
    ("a host in two pools", "w-1:", "cp-1:"),
    ("a name that is none", "w-1:", "W_1:"),
    ("no such CSV file", "hosts: {\"h-[01-02]\": {address: \"10.1.1.[1-2]\"}}", "hostsFrom: nowhere.csv"),
    ("an inventory to extend that is not there", "kind: Inventory", "kind: Inventory\nextends: nowhere.yaml"),
];

const MEANING: &[Case] = &[
    ("two hosts with one cluster address", "address: 10.1.0.2", "address: 10.1.0.1"),
    ("two hosts of a range with one address", "address: 10.1.0.2", "address: 10.1.1.2"),
    ("an unknown pool", "pool: n", "pool: nope"),
    ("an unknown secret", "secret: hf", "secret: hg"),
    ("an unknown model", "{m: 100}", "{mm: 100}"),
    ("a model that no host can hold", "acceleratorsPerReplica: 8", "acceleratorsPerReplica: 16"),
    ("a model that no pool can hold", "replicas: 2", "replicas: 3"),
    ("a model on controllers", "pool: n", "pool: c"),
    ("more hosts than the podCIDR has /24s", "podCIDR: 10.240.0.0/20", "podCIDR: 10.240.0.0/23"),
    ("networks that overlap", "serviceCIDR: 10.96.0.0/16", "serviceCIDR: 10.240.0.0/16"),
    ("a network that holds a host", "podCIDR: 10.240.0.0/20", "podCIDR: 10.1.0.0/16"),
    ("a network that is none", "podCIDR: 10.240.0.0/20", "podCIDR: 10.240.0.0"),
    ("a k0s outside the catalog", "v1.35.7+k0s.0", "v1.20.0+k0s.0"),
    ("a k0s that must not be used", "v1.35.7+k0s.0", "v1.35.1+k0s.0"),
    ("a router outside the catalog", "{version: v1.0.0}", "{version: v9.0.0}"),
    (
        "a driver too old",
        "h100-sxm5-80gb, count: 8, driver: \"580.178.04\"",
        "b300-sxm, count: 8, driver: \"570.158.01\"",
    ),
    (
        "a driver too new",
        "h100-sxm5-80gb, count: 8, driver: \"580.178.04\"",
        "v100-sxm2-32gb, count: 8, driver: \"595.91.07\"",
    ),
    ("a driver that is none", "driver: \"580.178.04\"", "driver: newest"),
    (
        "an SDK that does not fit",
        "{nvidia: {product: h100-sxm5-80gb, count: 8, driver: \"580.178.04\"}}",
        "{neuron: {product: inferentia1, count: 8, sdk: \"2.32.0\"}}",
    ),
    (
        "an SDK outside the catalog",
        "{nvidia: {product: h100-sxm5-80gb, count: 8, driver: \"580.178.04\"}}",
        "{neuron: {product: trainium2, count: 8, sdk: \"1.0.0\"}}",
    ),
    ("a product outside the catalog", "h100-sxm5-80gb", "h100-sxm5-80g"),
    (
        "MIG on what cannot be split",
        "h100-sxm5-80gb, count: 8, driver: \"580.178.04\"",
        "l40s, count: 8, driver: \"580.178.04\", mig: {1g.10gb: 7}",
    ),
    ("a MIG profile of another product", "\"580.178.04\"}", "\"580.178.04\", mig: {1g.5gb: 7}}"),
    ("more MIG instances than there can be", "\"580.178.04\"}", "\"580.178.04\", mig: {3g.40gb: 3}}"),
    ("a MIG layout of too many slices", "\"580.178.04\"}", "\"580.178.04\", mig: {4g.40gb: 1, 2g.20gb: 3}}"),
    ("a replica of several MIG instances", "\"580.178.04\"}", "\"580.178.04\", mig: {1g.10gb: 7}}"),
    (
        "a model where MIG instances differ",
        "\"580.178.04\"}",
        "\"580.178.04\", mig: {1g.10gb: 2, 3g.40gb: 1}}",
    ),
    ("MIG counts that are none", "\"580.178.04\"}", "\"580.178.04\", mig: {1g.10gb: all}}"),
    ("a port of the router's own", "port: 8081", "port: 8080"),
    (
        "a node port outside the range",
        "{kthena: {version: v1.0.0}}",
        "{kthena: {version: v1.0.0}, expose: {nodePort: {base: 20000}}}",
    ),
    ("a node port of its own outside the range", "port: 8081}", "port: 8081, nodePort: 443}"),
    (
        "two tenants on one node port",
        "tenants:\n",
        "tenants:\n  a: {gateway: {port: 9081, nodePort: 30081}, routes: {served: {to: {m: 100}}}}\n",
    ),
    (
        "two tenants on one node port past the end of the range",
        "tenants:\n",
        "tenants:\n  a: {gateway: {port: 10849}, routes: {served: {to: {m: 100}}}}\n",
    ),
    ("weights of nothing", "{m: 100}", "{m: 0}"),
    ("a weight too large", "{m: 100}", "{m: 101}"),
    ("no controller", "role: controller,", "role: worker,"),
    ("single with company", "role: controller,", "role: single,"),
    ("no home for the router", "{role: worker, hosts", "{role: worker, taints: [a=b:NoSchedule], hosts"),
    ("tenants without a router", "router: {kthena: {version: v1.0.0}}\n", ""),
    ("a taint that is none", "{role: worker, hosts", "{role: worker, taints: [gpu], hosts"),
    ("a label that is none", "{role: worker, hosts", "{role: worker, labels: {a b: c}, hosts"),
    ("a host's label that is none", "{address: 10.1.0.2}", "{address: 10.1.0.2, labels: {x: \"a b\"}}"),
    ("models at no path", "{role: worker, hosts", "{role: worker, storage: {models: {path: data}}, hosts"),
    (
        "a proxy that is none",
        "ssh: {user: root}",
        "ssh: {user: root}\nnetwork: {proxy: proxy, noProxy: [10.0.0.0/8]}",
    ),
    (
        "a proxy with a password",
        "ssh: {user: root}",
        "ssh: {user: root}\nnetwork: {proxy: \"http://u:p@proxy:3128\", noProxy: [10.0.0.0/8]}",
    ),
    (
        "hosts behind the proxy",
        "ssh: {user: root}",
        "ssh: {user: root}\nnetwork: {proxy: \"http://proxy:3128\", noProxy: [10.1.0.0/24]}",
    ),
    ("no such bundle", "ssh: {user: root}", "ssh: {user: root}\nnetwork: {caBundle: nowhere.pem}"),
    ("a bundle of nothing", "ssh: {user: root}", "ssh: {user: root}\nnetwork: {caBundle: site.yaml}"),
    (
        "a mirror that is none",
        "ssh: {user: root}",
        "ssh: {user: root}\nregistries: {docker.io: {mirror: hub}}",
    ),
    ("a registry of nothing", "ssh: {user: root}", "ssh: {user: root}\nregistries: {docker.io: {}}"),
    (
        "a mirror of packages that is none",
        "ssh: {user: root}",
        "ssh: {user: root}\nrepositories: {nvidia.github.io: {mirror: hub}}",
    ),
    (
        "a repository that is no host",
        "ssh: {user: root}",
        "ssh: {user: root}\nrepositories: {\"https://nvidia.github.io/x\": {mirror: \"http://hub\"}}",
    ),
    (
        "an unknown secret of a registry",
        "ssh: {user: root}",
        "ssh: {user: root}\nregistries: {quay.io: {credentials: {secret: hub}}}",
    ),
    (
        "a virtual address without a prefix",
        "  network: {podCIDR",
        "  endpoint: {vip: {address: 10.1.0.9}}\n  network: {podCIDR",
    ),
    (
        "a virtual address that is a host's",
        "  network: {podCIDR",
        "  endpoint: {vip: {address: 10.1.0.1/24}}\n  network: {podCIDR",
    ),
    ("a controller on an interface", "{role: controller,", "{role: controller, clusterInterface: bond0,"),
    (
        "a disk by the kernel's name",
        "{role: worker, hosts",
        "{role: worker, storage: {data: {disk: /dev/sdb}}, hosts",
    ),
    (
        "a filesystem that is none",
        "{role: worker, hosts",
        "{role: worker, storage: {data: {disk: /dev/disk/by-id/a, filesystem: ext5}}, hosts",
    ),
    (
        "a disk kept and erased",
        "{role: worker, hosts",
        "{role: worker, storage: {data: {disk: /dev/disk/by-id/a, keep: true, erase: ext4}}, hosts",
    ),
    (
        "one disk for two",
        "{role: worker, hosts",
        "{role: worker, storage: {data: {disk: /dev/disk/by-id/a}, models: {path: /m, disk: /dev/disk/by-id/a}}, hosts",
    ),
    (
        "a canary larger than what may be unavailable",
        "{role: worker, hosts",
        "{role: worker, disruption: {maxUnavailable: 2, canary: 3}, hosts",
    ),
    (
        "a label of Kubernetes",
        "{role: worker, hosts",
        "{role: worker, labels: {kubernetes.io/hostname: x}, hosts",
    ),
    (
        "a taint of provision",
        "{role: worker, hosts",
        "{role: worker, taints: [\"provision.dev/starting=true:NoSchedule\"], hosts",
    ),
    ("an address of all", "address: 10.1.0.2", "address: 0.0.0.0"),
    ("a multicast address", "address: 10.1.0.2", "address: 10.1.0.2, clusterAddress: 224.0.0.5"),
    ("a network with host bits", "podCIDR: 10.240.0.0/20", "podCIDR: 10.240.0.1/20"),
    ("no accelerators for a replica", "acceleratorsPerReplica: 8", "acceleratorsPerReplica: 0"),
    ("more accelerators than a host can have", "count: 8", "count: 1000000"),
    (
        "models in the root folder",
        "{role: worker, hosts",
        "{role: worker, storage: {models: {path: /}}, hosts",
    ),
    ("a date that is none", "address: 10.1.0.2", "address: 10.1.0.2, state: maintenance, until: 2026-02-30"),
    ("a tenant with a bad name", "  t: {", "  T_1: {"),
    ("a cluster with a bad name", "{name: x}", "{name: X_1}"),
];

/// The router, routes and extra objects.
const ROUTING: &[Case] = &[
    (
        "the inference extension without the Gateway API",
        "{version: v1.0.0}",
        "{version: v1.0.0, gatewayAPI: false, inferenceExtension: true}",
    ),
    ("tenants without the Gateway API", "{version: v1.0.0}", "{version: v1.0.0, gatewayAPI: false}"),
    ("no router pods", "{version: v1.0.0}", "{version: v1.0.0, replicas: 0}"),
    ("too many router pods", "{version: v1.0.0}", "{version: v1.0.0, replicas: 33}"),
    ("a queue of nothing", "{version: v1.0.0}", "{version: v1.0.0, maxWaitingRequests: 0}"),
    (
        "a scheduler without weights",
        "{version: v1.0.0}",
        "{version: v1.0.0, scheduling: {prefixCache: 0, leastRequest: 0, leastLatency: 0, gpuUsage: 0}}",
    ),
    ("a scheduler's weight too large", "{version: v1.0.0}", "{version: v1.0.0, scheduling: {gpuUsage: 101}}"),
    ("embeddings behind the router", "{image: i}", "{image: i, args: [--runner, pooling]}"),
    ("embeddings behind the router, in one word", "{image: i}", "{image: i, args: [--task=embed]}"),
    ("embeddings of SGLang", "{vllm: {image: i}}", "{sglang: {image: i, args: [--is-embedding]}}"),
    ("rules that are no list", "{to: {m: 100}}", "{rules: {x: y}, to: {m: 100}}"),
    ("a rule without targets", "{to: {m: 100}}", "{rules: [{headers: {x-a: {exact: b}}}], to: {m: 100}}"),
    ("a rule without headers", "{to: {m: 100}}", "{rules: [{headers: {}, to: {m: 1}}], to: {m: 100}}"),
    (
        "two ways to match a header",
        "{to: {m: 100}}",
        "{rules: [{headers: {x-a: {exact: b, prefix: c}}, to: {m: 1}}], to: {m: 100}}",
    ),
    (
        "a rule that leads nowhere",
        "{to: {m: 100}}",
        "{rules: [{headers: {x-a: {exact: b}}, to: {m: 0}}], to: {m: 100}}",
    ),
    (
        "a rule to an unknown model",
        "{to: {m: 100}}",
        "{rules: [{headers: {x-a: {exact: b}}, to: {mm: 1}}], to: {m: 100}}",
    ),
    (
        "a rule with a bad name",
        "{to: {m: 100}}",
        "{rules: [{name: A B, headers: {x-a: {exact: b}}, to: {m: 1}}], to: {m: 100}}",
    ),
    (
        "two rules of one name",
        "{to: {m: 100}}",
        "{rules: [{name: a, headers: {x-a: {exact: b}}, to: {m: 1}}, {name: a, headers: {x-b: {exact: b}}, to: {m: 1}}], to: {m: 100}}",
    ),
    (
        "a header that is none",
        "{to: {m: 100}}",
        "{rules: [{headers: {\"x a\": {exact: b}}, to: {m: 1}}], to: {m: 100}}",
    ),
    (
        "a header twice",
        "{to: {m: 100}}",
        "{rules: [{headers: {x-a: {exact: b}, X-A: {exact: b}}, to: {m: 1}}], to: {m: 100}}",
    ),
    (
        "a header without a value",
        "{to: {m: 100}}",
        "{rules: [{headers: {x-a: {prefix: \"\"}}, to: {m: 1}}], to: {m: 100}}",
    ),
    (
        "a regular expression that is none",
        "{to: {m: 100}}",
        "{rules: [{headers: {x-a: {regex: \"(\"}}, to: {m: 1}}], to: {m: 100}}",
    ),
    (
        "a regular expression for requests without the header",
        "{to: {m: 100}}",
        "{rules: [{headers: {x-a: {regex: \"b*\"}}, to: {m: 1}}], to: {m: 100}}",
    ),
    ("adapters", "    engine: {vllm", "    adapters: {a: {path: /a}}\n    engine: {vllm"),
    ("rate limits", "gateway: {port: 8081}", "rateLimit: {}, gateway: {port: 8081}"),
    ("extra objects that are no list", "tenants:", "extraObjects: {}\ntenants:"),
    ("an extra object that is none", "tenants:", "extraObjects: [x]\ntenants:"),
    (
        "an extra object of the whole cluster",
        "tenants:",
        "extraObjects: [{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: x}}]\ntenants:",
    ),
    (
        "an extra object without a name",
        "tenants:",
        "extraObjects: [{apiVersion: v1, kind: Service}]\ntenants:",
    ),
    (
        "an extra object of the router",
        "tenants:",
        "extraObjects: [{apiVersion: v1, kind: Service, metadata: {name: x, namespace: kthena-system}}]\ntenants:",
    ),
    (
        "an extra object that is a model's",
        "tenants:",
        "extraObjects: [{apiVersion: apps/v1, kind: Deployment, metadata: {name: m}}]\ntenants:",
    ),
    (
        "an extra object with what the router ignores",
        "tenants:",
        "extraObjects: [{apiVersion: networking.serving.volcano.sh/v1alpha1, kind: ModelServer, metadata: {name: x}, spec: {trafficPolicy: {timeout: 1s}}}]\ntenants:",
    ),
    (
        "an extra object with a reserved label",
        "tenants:",
        "extraObjects: [{apiVersion: v1, kind: Service, metadata: {name: x, labels: {provision.dev/model: m}}}]\ntenants:",
    ),
    (
        "an extra object twice",
        "tenants:",
        "extraObjects: [{apiVersion: v1, kind: Service, metadata: {name: x}}, {apiVersion: v1, kind: Service, metadata: {name: x, namespace: models}}]\ntenants:",
    ),
];

/// Renders all cases; every finding must have its code, place, caret and hint.
fn shown(cases: &[Case]) -> String {
    let mut all = String::new();
    for (what, from, to) in cases {
        assert!(GOOD.contains(from), "{what}: {from}");
        let mut text = GOOD.replacen(from, to, 1);
        if *what == "no home for the router" {
            text = text.replace("    accelerator:", "    taints: [a=b:NoSchedule]\n    accelerator:");
        }
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("site.yaml");
        std::fs::write(&path, text).expect("written");
        let found = load(&path, &catalog()).expect_err(what);
        assert!(found.errors() > 0, "{what}");
        for d in &found.all {
            assert!(d.span.is_some(), "{what}: {} has a location", d.code);
            assert!(d.hint.as_deref().is_some_and(|h| !h.is_empty()), "{what}: {} has a hint", d.code);
            assert!(
                !d.message.ends_with('.')
                    && d.code.starts_with(if d.severity == Severity::Error { "E-" } else { "W-" })
            );
        }
        let _ = write!(
            all,
            "## {what}\n{}",
            found.render(false).replace(&dir.path().display().to_string(), "DIR")
        );
        let carets = all.rsplit("## ").next().unwrap_or_default().matches('^').count();
        assert!(carets > 0, "{what} has a caret");
    }
    all
}

#[test]
fn shape() {
    insta::assert_snapshot!(shown(SHAPE));
}

#[test]
fn ranges() {
    insta::assert_snapshot!(shown(RANGES));
}

#[test]
fn meaning() {
    insta::assert_snapshot!(shown(MEANING));
}

#[test]
fn routing() {
    insta::assert_snapshot!(shown(ROUTING));
}

#[test]
fn a_good_inventory_has_none_of_them() {
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::write(dir.path().join("site.yaml"), GOOD).expect("written");
    let loaded = load(dir.path(), &catalog()).unwrap_or_else(|d| panic!("{d}"));
    assert_eq!(loaded.diagnostics.all, []);
}

#[test]
fn an_even_number_of_controllers_is_a_warning_with_a_place() {
    let two = GOOD.replace("cp-1: {address: 10.1.0.1}", "\"cp-[1-2]\": {address: \"10.1.0.[11-12]\"}");
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::write(dir.path().join("a.yaml"), two).expect("written");
    let loaded = load(dir.path(), &catalog()).expect("usable");
    let shown = loaded.diagnostics.render(false).replace(&dir.path().display().to_string(), "DIR");
    insta::assert_snapshot!(shown);
}

/// Reads YAML as inventories are read: `n` is a name.
fn value(text: &str) -> serde_json::Value {
    let mut options = serde_saphyr::Options::default();
    options.strict_booleans = true;
    serde_saphyr::from_str_with_options(text, options).expect("YAML")
}

/// The examples of the repository, and what `provision init` writes, against the schema as it is printed.
#[test]
fn the_schema_is_a_schema_and_every_example_is_valid_by_it() {
    let schema = provision::inventory::schema();
    let mut schemas = boon::Schemas::new();
    let mut compiler = boon::Compiler::new();
    // Compiling checks it against the meta-schema that it names.
    compiler.add_resource("inventory.json", schema).expect("JSON");
    let index = compiler.compile("inventory.json", &mut schemas).expect("a valid JSON Schema");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("inventories");
    let mut files = 0;
    for entry in std::fs::read_dir(root).expect("readable") {
        let path = entry.expect("an entry").path().join("inventory.yaml");
        let text = std::fs::read_to_string(&path).expect("readable");
        let value = value(&text);
        schemas.validate(&value, index).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        files += 1;
    }
    assert!(files >= 5, "{files}");
    schemas.validate(&value(GOOD), index).expect("the good one");
    for (from, to) in [("rol", "rool"), ("count: 8", "count: many"), ("{env: HF}", "{env: HF, file: x}")] {
        let wrong = value(&GOOD.replacen(from, to, 1));
        assert!(schemas.validate(&wrong, index).is_err(), "{to} is refused by the schema too");
    }
}

/// Adds a row for each key below a schema.
fn rows(path: &str, schema: &serde_json::Value, page: &mut String) {
    for (name, value) in schema["properties"].as_object().into_iter().flatten() {
        let here = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        let kind = match &value["type"] {
            serde_json::Value::String(kind) => kind.clone(),
            serde_json::Value::Array(_) => "text".to_owned(),
            _ if !value["anyOf"][0]["const"].is_null() => {
                format!("`{}` or object", value["anyOf"][0]["const"].as_str().unwrap_or_default())
            }
            _ if value.get("anyOf").is_some() => "number or percentage".to_owned(),
            _ => "anything".to_owned(),
        };
        let need = schema["required"].as_array().is_some_and(|r| r.iter().any(|n| n == name.as_str()));
        let need = if need { ", required" } else { "" };
        *page +=
            &format!("| `{here}` | {kind}{need} | {} |\n", value["description"].as_str().unwrap_or_default());
        rows(&here, value, page);
        rows(&here, &value["anyOf"][1], page);
        rows(&format!("{here}[]"), &value["items"], page);
        if value["additionalProperties"].is_object() {
            rows(&format!("{here}.NAME"), &value["additionalProperties"], page);
        }
    }
}

/// The reference page is made of the schema; with `PROVISION_UPDATE_DOCS=1` this writes it.
#[test]
fn the_reference_page_of_inventories_is_the_schema() {
    let mut page = String::from(
        "# Inventory\n\nAll keys, generated from `provision schema`. An inventory is a file, or a folder whose `*.yaml` files are merged\n\
         (files in folders within it are not): maps are merged deeply, lists are replaced, `null` deletes. Ranges such as `h-[001-064]` expand to many names, and in `address`,\n\
         `clusterAddress` and `bmc` to as many values. Keys marked \"not supported yet\" are rejected, never ignored.\n\n\
         Storage: name disks by their path below `/dev/disk/by-id`. Only empty disks are formatted: `keep: true` uses an existing\n\
         filesystem, `erase: ext4` allows wiping exactly that type. Mounts are systemd mount units; k0s does not start until those that it needs are mounted.\n\n\
         Network: apt, dnf, downloads, k0s and containerd use `proxy`; `noProxy` must cover every host. `caBundle` is added to the trust\n\
         store of each host. The `credentials` of a registry are a secret `user:password`, stored in a file that only root can read.\n\
         `clusterInterface` selects the address of workers; controllers also need `clusterAddress`.\n\n\
         | key | type | description |\n|---|---|---|\n",
    );
    rows("", &provision::inventory::schema(), &mut page);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reference/inventory.md");
    if std::env::var_os("PROVISION_UPDATE_DOCS").is_some() {
        std::fs::write(&path, &page).expect("written");
    }
    let there = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(there, page, "PROVISION_UPDATE_DOCS=1 cargo test --test data reference_page");
}
