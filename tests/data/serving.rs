//! Data tests of `serving`: the manifests of every example, with only fields that Kubernetes has.

use k8s_openapi::api::{
    apps::v1::{DaemonSet, Deployment},
    core::v1::{ConfigMap, Namespace, Secret, Service, ServiceAccount},
    networking::v1::NetworkPolicy,
    node::v1::RuntimeClass,
    policy::v1::PodDisruptionBudget,
    rbac::v1::{ClusterRole, ClusterRoleBinding},
};
use provision::catalog::Catalog;
use provision::inventory::{Inventory, load};
use provision::serving::{ServingInput, chats, desired};
use provision::state::{Object, Ready, Resource, SecretText, Spec, Stage};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

const CANARY: &str = "hf_canary_5d1e";

fn example(name: &str) -> Inventory {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("inventories").join(name);
    load(&path, &Catalog::builtin().expect("the catalog")).expect("an inventory").inventory
}

fn text(text: &str) -> Inventory {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("site.yaml");
    std::fs::write(&path, text).expect("written");
    let loaded = load(&path, &Catalog::builtin().expect("the catalog"));
    loaded.unwrap_or_else(|d| panic!("{}", d.render(false))).inventory
}

fn with(inventory: &Inventory, crds: Vec<Value>, tokens: &[(&str, &str)]) -> Vec<Resource> {
    let catalog = Catalog::builtin().expect("the catalog");
    let tokens = tokens.iter().map(|(k, v)| ((*k).to_owned(), SecretText::new(*v))).collect();
    desired(&ServingInput { inventory, catalog: &catalog, crds, tokens }).expect("objects")
}

fn object(resource: &Resource) -> &Object {
    let Spec::Object(object) = &resource.spec else { panic!("{} is no object", resource.id) };
    object
}

fn find<'a>(all: &'a [Resource], id: &str) -> &'a Resource {
    all.iter().find(|r| r.id.what() == id.replacen('/', " ", 1)).unwrap_or_else(|| panic!("no {id}"))
}

const EXAMPLES: [&str; 5] = ["lab", "three-nodes", "h100-rack", "trn2-ultraserver", "mixed"];

#[test]
fn the_manifests_of_the_examples() {
    for name in EXAMPLES {
        let all = with(&example(name), Vec::new(), &[("hf", "token-of-the-test")]);
        let shown: Vec<Value> = all.iter().map(|r| object(r).manifest.clone()).collect();
        insta::with_settings!({snapshot_path => "../serving", prepend_module_to_snapshot => false}, {
            insta::assert_yaml_snapshot!(name, shown);
        });
    }
}

/// Pods ask for instances by their profile, the device plugin reports them so, and whole GPUs stay whole elsewhere.
#[test]
fn models_on_split_gpus_ask_for_an_instance() {
    let inventory = text(
        r#"metadata: {name: split}
ssh: {user: root}
cluster: {k0s: {version: v1.35.7+k0s.0}}
pools:
  c: {role: controller, hosts: {cp-1: {address: 10.1.0.1}}}
  w: {role: worker, hosts: {w-1: {address: 10.1.0.2}}}
  split:
    role: worker
    accelerator: {nvidia: {product: h100-sxm5-80gb, count: 8, driver: "580.178.04", mig: {1g.10gb: 7}}}
    hosts: {h-1: {address: 10.1.1.1}}
router: {kthena: {version: v1.0.0}}
models:
  small:
    source: {path: /data/small}
    engine: {vllm: {image: i}}
    placement: {pool: split, acceleratorsPerReplica: 1, replicas: 56}
"#,
    );
    let all = with(&inventory, Vec::new(), &[]);
    let plugin = &object(find(&all, "DaemonSet/kube-system/nvidia-device-plugin")).manifest;
    let container = &plugin["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(
        container["env"],
        json!([{"name": "MIG_STRATEGY", "value": "mixed"}, {"name": "NVIDIA_MIG_MONITOR_DEVICES", "value": "all"}])
    );
    assert_eq!(container["securityContext"], json!({"capabilities": {"add": ["SYS_ADMIN"]}}));
    let engine = &object(find(&all, "Deployment/models/small")).manifest;
    let limits = &engine["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"];
    assert_eq!(limits["nvidia.com/mig-1g.10gb"], json!("1"), "{limits}");
    assert!(limits.get("nvidia.com/gpu").is_none(), "{limits}");
}

const NEURON: &str = r#"metadata: {name: neuron}
ssh: {user: root}
cluster: {k0s: {version: v1.35.7+k0s.0}}
pools:
  c: {role: controller, hosts: {cp-1: {address: 10.1.0.1}}}
  w: {role: worker, hosts: {w-1: {address: 10.1.0.2}}}
  t:
    role: worker
    accelerator: {neuron: {product: trainium2, count: 16, sdk: "2.32.0"}}
    hosts: {t-1: {address: 10.1.1.1}}
router: {kthena: {version: v1.0.0}}
models:
  m:
    source: {path: /data/m}
    engine: {vllm: {image: i, args: ["--max-model-len", "8192"]}}
    placement: {pool: t, acceleratorsPerReplica: 16}
"#;

fn engine_of(inventory: &Inventory, model: &str) -> Value {
    let all = with(inventory, Vec::new(), &[]);
    object(find(&all, &format!("Deployment/models/{model}"))).manifest["spec"]["template"]["spec"].clone()
}

/// Returns the value after a flag of an engine's command.
fn flag<'a>(spec: &'a Value, name: &str) -> Vec<&'a str> {
    let words: Vec<&str> = spec["containers"][0]["command"]
        .as_array()
        .expect("a command")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    words.windows(2).filter(|pair| pair[0] == name).map(|pair| pair[1]).collect()
}

/// On Neuron weights are split over logical cores, and a first compilation takes longer than the plugin's 600 s.
#[test]
fn engines_on_neuron_get_the_time_and_the_cores_that_they_need() {
    let variable = |spec: &Value, name: &str| {
        let env = spec["containers"][0]["env"].as_array().expect("env").clone();
        env.iter().find(|v| v["name"] == name).map(|v| v["value"].as_str().unwrap_or_default().to_owned())
    };
    let spec = engine_of(&text(NEURON), "m");
    // 8 physical cores of a chip, two to a logical one: 16 x 4.
    assert_eq!(flag(&spec, "--tensor-parallel-size"), ["64"]);
    assert_eq!(flag(&spec, "--max-num-seqs"), ["8"]);
    for name in ["VLLM_NEURON_COMPILATION_TIMEOUT", "VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS"] {
        assert_eq!(variable(&spec, name).as_deref(), Some("3600"), "{name}");
    }
    assert_eq!(variable(&spec, "NEURON_SKIP_EFA_AFFINITY").as_deref(), Some("1"));

    let single = NEURON
        .replace("sdk: \"2.32.0\"", "sdk: \"2.32.0\", lnc: 1")
        .replace("PerReplica: 16", "PerReplica: 1");
    assert_eq!(flag(&engine_of(&text(&single), "m"), "--tensor-parallel-size"), ["8"]);
    let linked = NEURON.replace("    hosts: {t-1", "    efa: {count: 16}\n    hosts: {t-1");
    assert_eq!(variable(&engine_of(&text(&linked), "m"), "NEURON_SKIP_EFA_AFFINITY"), None);
    // What the inventory says counts, once.
    let own = NEURON.replace(
        "args: [\"--max-model-len\", \"8192\"]",
        "args: [\"--max-model-len\", \"8192\", \"--tensor-parallel-size=16\", \"--max-num-seqs\", \"4\"], env: {VLLM_NEURON_COMPILATION_TIMEOUT: 7200}",
    );
    let spec = engine_of(&text(&own), "m");
    assert_eq!(flag(&spec, "--tensor-parallel-size"), Vec::<&str>::new());
    assert_eq!(flag(&spec, "--max-num-seqs"), ["4"]);
    assert_eq!(variable(&spec, "VLLM_NEURON_COMPILATION_TIMEOUT").as_deref(), Some("7200"));
    let missing = NEURON.replace(", args: [\"--max-model-len\", \"8192\"]", "");
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::write(dir.path().join("a.yaml"), missing).expect("written");
    let found = load(dir.path(), &Catalog::builtin().expect("the catalog")).expect("usable").diagnostics;
    assert_eq!(found.all.iter().map(|d| d.code).collect::<Vec<_>>(), ["W-NEURON-LENGTH"]);
}

/// A loaded engine keeps its route, is not the first to be evicted, and ends what it began.
#[test]
fn engines_are_left_alone_under_load_and_end_what_they_began() {
    for name in EXAMPLES {
        let inventory = example(name);
        for model in inventory.models.values() {
            let spec = engine_of(&inventory, &model.name);
            let container = &spec["containers"][0];
            for probe in ["readinessProbe", "livenessProbe"] {
                assert_eq!(container[probe]["timeoutSeconds"], 15, "{name} {probe}");
                assert_eq!(container[probe]["failureThreshold"], 10, "{name} {probe}");
            }
            let requests = &container["resources"]["requests"];
            assert!(requests["cpu"].is_string() && requests["memory"].is_string(), "{name}: {requests}");
            assert_eq!(spec["volumes"][0]["emptyDir"], json!({"medium": "Memory", "sizeLimit": "32Gi"}));
            assert_eq!(spec["terminationGracePeriodSeconds"], 330);
            let wait = container["lifecycle"]["preStop"]["exec"]["command"][2].as_str().expect("a program");
            assert!(
                wait.contains("vllm:num_requests_running") || wait.contains("sglang:num_running_reqs"),
                "{wait}"
            );
        }
    }
    let own = SITE.replace("v0.11.0\"}", "v0.11.0\", resources: {cpu: 32, memory: 512Gi, shm: 64Gi}}");
    let spec = engine_of(&text(&own), "m");
    assert_eq!(spec["containers"][0]["resources"]["requests"], json!({"cpu": "32", "memory": "512Gi"}));
    assert_eq!(spec["volumes"][0]["emptyDir"]["sizeLimit"], "64Gi");
    let spec = engine_of(&text(SITE), "m");
    assert_eq!(spec["containers"][0]["resources"]["requests"], json!({"cpu": "5", "memory": "36Gi"}));
}

/// The program that a pod runs before it ends, against servers that answer as engines do.
#[test]
fn a_pod_ends_when_its_engine_has_no_request_left() {
    use std::io::{Read, Write};
    let spec = engine_of(&text(SITE), "m");
    let program =
        spec["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][2].as_str().expect("a program");
    if std::process::Command::new("python3").arg("--version").output().is_err() {
        eprintln!("NOT RUN: there is no python3 here");
        return;
    }
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let program =
        program.replace("time.sleep(10)", "time.sleep(0)").replace("time.sleep(2)", "time.sleep(0)");
    let program = program.replace(":8000/", &format!(":{port}/"));
    let server = std::thread::spawn(move || {
        let mut asked = 0;
        for running in ["2.0", "1.0", "0.0"] {
            let (mut stream, _) = listener.accept().expect("a question");
            let mut buffer = [0; 1024];
            let _ = stream.read(&mut buffer).expect("read");
            let body = format!(
                "# HELP vllm:num_requests_running Number of requests\nvllm:num_requests_running{{engine=\"0\"}} {running}\nvllm:num_requests_waiting 5\n"
            );
            let head =
                format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            stream.write_all((head + &body).as_bytes()).expect("written");
            asked += 1;
        }
        asked
    });
    let run =
        |program: &str| std::process::Command::new("python3").args(["-c", program]).status().expect("runs");
    assert!(run(&program).success());
    assert_eq!(server.join().expect("no panic"), 3, "it asks until none is running");
    assert!(run(&program).success(), "an engine that is gone is not waited for");
}

/// Reads a manifest as its type and writes it again.
fn round_trip<T: serde::Serialize + serde::de::DeserializeOwned>(manifest: &Value) -> Value {
    let typed: T = serde_json::from_value(manifest.clone()).unwrap_or_else(|e| panic!("{e}: {manifest}"));
    serde_json::to_value(typed).expect("json")
}

/// Returns the paths that `before` has and `after` does not.
fn lost(path: &str, before: &Value, after: &Value, found: &mut Vec<String>) {
    match before {
        Value::Object(map) => {
            for (key, value) in map {
                match after.get(key) {
                    Some(other) => lost(&format!("{path}.{key}"), value, other, found),
                    None => found.push(format!("{path}.{key}")),
                }
            }
        }
        Value::Array(items) => {
            for (n, item) in items.iter().enumerate() {
                lost(&format!("{path}[{n}]"), item, &after[n], found);
            }
        }
        _ => {}
    }
}

#[test]
fn kubernetes_knows_every_field() {
    let mut checked = BTreeSet::new();
    for name in EXAMPLES {
        for resource in with(&example(name), Vec::new(), &[]) {
            let manifest = &object(&resource).manifest;
            let kind = manifest["kind"].as_str().unwrap_or_default();
            let again = match kind {
                "Deployment" => round_trip::<Deployment>(manifest),
                "DaemonSet" => round_trip::<DaemonSet>(manifest),
                "Service" => round_trip::<Service>(manifest),
                "ServiceAccount" => round_trip::<ServiceAccount>(manifest),
                "ConfigMap" => round_trip::<ConfigMap>(manifest),
                "Namespace" => round_trip::<Namespace>(manifest),
                "Secret" => round_trip::<Secret>(manifest),
                "NetworkPolicy" => round_trip::<NetworkPolicy>(manifest),
                "PodDisruptionBudget" => round_trip::<PodDisruptionBudget>(manifest),
                "RuntimeClass" => round_trip::<RuntimeClass>(manifest),
                "ClusterRole" => round_trip::<ClusterRole>(manifest),
                "ClusterRoleBinding" => round_trip::<ClusterRoleBinding>(manifest),
                // Custom: the golden files hold them, the API stand-in and the real CRDs check them.
                "Gateway" | "ModelServer" | "ModelRoute" => continue,
                other => panic!("{other} is not checked"),
            };
            checked.insert(kind.to_owned());
            let mut gone = Vec::new();
            lost(kind, manifest, &again, &mut gone);
            assert_eq!(gone, Vec::<String>::new(), "{name}: {}", resource.id);
        }
    }
    assert_eq!(checked.len(), 12, "{checked:?}");
}

#[test]
fn ids_are_unique_and_what_is_needed_comes_first() {
    for name in EXAMPLES {
        let all = with(&example(name), Vec::new(), &[]);
        let ids: BTreeSet<_> = all.iter().map(|r| r.id.clone()).collect();
        assert_eq!(ids.len(), all.len(), "{name}");
        let at = |id: &str| {
            all.iter()
                .position(|r| r.id.what() == id.replacen('/', " ", 1))
                .unwrap_or_else(|| panic!("no {id}"))
        };
        for (n, resource) in all.iter().enumerate() {
            if let Some(namespace) = object(resource).manifest["metadata"]["namespace"].as_str()
                && namespace != "kube-system"
            {
                assert!(at(&format!("Namespace/{namespace}")) < n, "{name}: {}", resource.id);
            }
        }
        let stages: Vec<Stage> =
            all.iter().map(|r| object(r).stage).filter(|s| *s >= Stage::Component).collect();
        assert!(stages.is_sorted(), "{name}: {stages:?}");
    }
}

#[test]
fn two_tenants_share_a_name_through_gateways_of_their_own() {
    let inventory = example("lab");
    let all = with(&inventory, Vec::new(), &[]);
    let route = |id: &str| &object(find(&all, id)).manifest["spec"];
    let (ads, search) = (route("ModelRoute/models/ads-qwen"), route("ModelRoute/models/search-qwen"));
    assert_eq!(ads["modelName"], search["modelName"]);
    assert_eq!(ads["parentRefs"][0]["name"], "tenant-ads");
    assert_eq!(search["parentRefs"][0]["name"], "tenant-search");
    assert_eq!(ads["rules"][0]["targetModels"][0]["modelServerName"], "qwen-trn");
    let service = &object(find(&all, "Service/kthena-system/kthena-gateways")).manifest["spec"];
    let proxy = &object(find(&all, "DaemonSet/kthena-system/edge")).manifest;
    for (key, value) in service["selector"].as_object().expect("a selector") {
        assert_eq!(
            &proxy["spec"]["template"]["metadata"]["labels"][key], value,
            "the Service finds the proxy"
        );
    }
    for chat in chats(&inventory) {
        let Spec::Chat(chat) = &chat.spec else { panic!("a chat") };
        let tenant = &inventory.tenants[&chat.tenant];
        let ports = service["ports"].as_array().expect("ports");
        let port = ports.iter().find(|p| p["nodePort"] == chat.node_port).expect("its node port");
        assert_eq!(port["targetPort"], tenant.node_port, "which leads to the tenant's own listener");
    }
}

#[test]
fn an_engine_answers_to_the_name_that_its_model_server_rewrites_to() {
    for name in EXAMPLES {
        let inventory = example(name);
        let all = with(&inventory, Vec::new(), &[]);
        for model in inventory.models.keys() {
            let engine =
                &object(find(&all, &format!("Deployment/models/{model}"))).manifest["spec"]["template"];
            let server = &object(find(&all, &format!("ModelServer/models/{model}"))).manifest["spec"];
            let container = &engine["spec"]["containers"][0];
            let command: Vec<&str> = container["command"]
                .as_array()
                .expect("a command")
                .iter()
                .filter_map(Value::as_str)
                .collect();
            let after = |flag: &str| {
                command.iter().position(|w| *w == flag).and_then(|n| command.get(n + 1)).copied()
            };
            assert_eq!(after("--served-model-name"), server["model"].as_str(), "{name}/{model}");
            let port = server["workloadPort"]["port"].as_u64().expect("a port");
            assert_eq!(after("--port"), Some(port.to_string().as_str()), "{name}/{model}");
            assert_eq!(container["readinessProbe"]["httpGet"]["port"], port);
            for (key, value) in server["workloadSelector"]["matchLabels"].as_object().expect("labels") {
                assert_eq!(&engine["metadata"]["labels"][key], value, "{name}/{model}");
            }
        }
    }
}

const SITE: &str = r#"apiVersion: provision/v1
kind: Inventory
metadata: {name: x}
secrets: {hf: {env: HF}}
ssh: {user: root}
cluster:
  k0s: {version: v1.35.7+k0s.0}
  network: {podCIDR: 10.240.0.0/16, serviceCIDR: 10.96.0.0/16}
pools:
  control: {role: controller, hosts: {cp-1: {address: 10.0.0.1}}}
  general: {role: worker, hosts: {w-1: {address: 10.0.0.2}}}
  gpu:
    role: worker
    accelerator: {nvidia: {product: h100-sxm5-80gb, count: 8, driver: "580.178.04"}}
    taints: ["example.com/paid=yes:NoSchedule"]
    hosts: {h-1: {address: 10.0.0.3}}
router: {kthena: {version: v1.0.0}}
models:
  m:
    source: {huggingFace: {repo: a/b, revision: c0ffee, token: {secret: hf}}}
    engine: {vllm: {image: "vllm/vllm-openai:v0.11.0"}}
    placement: {pool: gpu, acceleratorsPerReplica: 4, replicas: 2}
tenants:
  t: {gateway: {port: 8081}, routes: {m: {to: {m: 100}}}}
"#;

#[test]
fn a_pools_own_taints_are_tolerated_by_its_engines_and_its_device_plugin() {
    let all = with(&text(SITE), Vec::new(), &[]);
    let wanted = json!({"key": "example.com/paid", "operator": "Exists", "effect": "NoSchedule"});
    for id in ["Deployment/models/m", "DaemonSet/kube-system/nvidia-device-plugin"] {
        let tolerations = &object(find(&all, id)).manifest["spec"]["template"]["spec"]["tolerations"];
        assert!(tolerations.as_array().is_some_and(|t| t.contains(&wanted)), "{id}: {tolerations}");
    }
}

#[test]
fn a_token_is_in_its_secret_alone_and_without_a_value_the_secret_is_left_as_it_is() {
    let inventory = text(SITE);
    let all = with(&inventory, Vec::new(), &[("hf", CANARY)]);
    let encoded = {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.encode(CANARY)
    };
    for resource in &all {
        let shown = serde_json::to_string(resource).expect("json");
        assert!(!shown.contains(CANARY), "{}", resource.id);
        assert_eq!(shown.contains(&encoded), resource.id.text() == "Secret/models/m-hf", "{}", resource.id);
    }
    let without = with(&inventory, Vec::new(), &[]);
    let secret = find(&without, "Secret/models/m-hf");
    assert!(object(secret).manifest["data"].is_null());
    assert_eq!(secret.why.as_deref(), Some("secret hf has no value on this machine"));
    let engine = |all: &[Resource]| object(find(all, "Deployment/models/m")).manifest.clone();
    assert_eq!(
        engine(&all),
        engine(&without),
        "the engine does not change because the laptop lacks a variable"
    );
}

#[test]
fn only_definitions_of_use_are_applied_and_without_their_status() {
    let crd = |group: &str| {
        json!({"kind": "CustomResourceDefinition", "metadata": {"name": format!("x.{group}"), "creationTimestamp": null},
        "spec": {"group": group}, "status": {"conditions": []}})
    };
    let crds = vec![crd("gateway.networking.k8s.io"), crd("workload.serving.volcano.sh")];
    let all = with(&example("lab"), crds, &[]);
    let found: Vec<&Object> = all.iter().map(object).filter(|o| o.stage == Stage::Crd).collect();
    assert_eq!(found.len(), 1);
    let expected = json!({"kind": "CustomResourceDefinition", "metadata": {"name": "x.gateway.networking.k8s.io"},
        "spec": {"group": "gateway.networking.k8s.io"}});
    assert_eq!((&found[0].manifest, found[0].ready), (&expected, Ready::Established));
}

#[test]
fn weights_on_the_host_are_mounted_and_nothing_is_fetched() {
    let all = with(&example("lab"), Vec::new(), &[]);
    let spec = &object(find(&all, "Deployment/models/qwen-gpu")).manifest["spec"]["template"]["spec"];
    let volumes: BTreeMap<&str, &str> = spec["volumes"]
        .as_array()
        .expect("volumes")
        .iter()
        .filter_map(|v| Some((v["name"].as_str()?, v["hostPath"]["path"].as_str()?)))
        .collect();
    assert_eq!(volumes["weights"], "/data/models/qwen");
    let env = spec["containers"][0]["env"].as_array().expect("env");
    assert!(env.contains(&json!({"name": "HF_HUB_OFFLINE", "value": "1"})), "{env:?}");
    assert_eq!(spec["containers"][0]["command"][2], "/weights");
}

const ROUTER: &str = "Deployment/kthena-system/kthena-router";

/// No request is lost when a router pod goes: it leaves its Services first, and ends what it began.
#[test]
fn a_router_pod_may_go_at_any_time() {
    let all = with(&text(SITE), Vec::new(), &[]);
    let router = &object(find(&all, ROUTER)).manifest["spec"];
    assert_eq!(router["replicas"], 2);
    assert_eq!(router["strategy"]["rollingUpdate"]["maxUnavailable"], 0);
    let pod = &router["template"]["spec"];
    let container = &pod["containers"][0];
    assert_eq!(container["lifecycle"]["preStop"]["sleep"]["seconds"], 300);
    assert_eq!(pod["terminationGracePeriodSeconds"], 330, "longer than the sleep, or the API refuses it");
    assert_eq!(pod["topologySpreadConstraints"][0]["whenUnsatisfiable"], "ScheduleAnyway");
    assert_eq!(container["readinessProbe"]["httpGet"]["path"], "/readyz");
    assert_eq!(container["livenessProbe"]["httpGet"]["path"], "/healthz");
    let startup = &container["startupProbe"];
    let budget = startup["periodSeconds"].as_u64().zip(startup["failureThreshold"].as_u64());
    assert!(budget.is_some_and(|(period, failures)| period * failures >= 600), "{startup}");
    assert!(container["resources"]["limits"].get("cpu").is_none(), "throttling delays every stream");
    for name in ["kthena-router-pods", "kthena-router-metrics"] {
        let service = &object(find(&all, &format!("Service/kthena-system/{name}"))).manifest["spec"];
        assert_eq!(service["clusterIP"], "None", "{name}");
        assert_eq!(service["selector"], router["selector"]["matchLabels"], "{name}");
    }
    let pods = &object(find(&all, "Service/kthena-system/kthena-router-pods")).manifest["spec"];
    assert_eq!(pods["ports"][0]["port"], 8081);
    // With a short drain, the pod is gone in half of it.
    let short =
        SITE.replace("general: {role: worker,", "general: {role: worker, disruption: {drainSeconds: 120},");
    let all = with(&text(&short), Vec::new(), &[]);
    let pod = &object(find(&all, ROUTER)).manifest["spec"]["template"]["spec"];
    assert_eq!(pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"], 60);
}

/// A budget on the only host that the router may run on would keep that host from being drained for good.
#[test]
fn the_router_has_a_disruption_budget_where_it_has_two_hosts() {
    let budget = |site: &str| {
        let all = with(&text(site), Vec::new(), &[]);
        all.iter()
            .map(object)
            .find(|o| o.manifest["kind"] == "PodDisruptionBudget")
            .map(|o| o.manifest["spec"].clone())
    };
    assert_eq!(budget(SITE), None, "the GPU host is tainted");
    let two =
        SITE.replace("{w-1: {address: 10.0.0.2}}", "{w-1: {address: 10.0.0.2}, w-2: {address: 10.0.0.4}}");
    let spec = budget(&two).expect("a budget");
    assert_eq!(
        (&spec["maxUnavailable"], &spec["unhealthyPodEvictionPolicy"]),
        (&json!(1), &json!("AlwaysAllow"))
    );
    assert_eq!(budget(&two.replace("{version: v1.0.0}", "{version: v1.0.0, replicas: 1}")), None);
    assert_eq!(budget(&two.replace("w-2: {", "w-2: {state: maintenance, ")), None);
}

/// Another scheduler file is another pod: it is mounted by subPath.
#[test]
fn the_scheduler_is_what_the_inventory_says() {
    let file = |site: &str| {
        let all = with(&text(site), Vec::new(), &[]);
        let map = &object(find(&all, "ConfigMap/kthena-system/kthena-router-config")).manifest;
        let file = map["data"]["routerConfiguration"].as_str().expect("a file").to_owned();
        let pod = &object(find(&all, ROUTER)).manifest["spec"]["template"]["metadata"]["annotations"];
        (serde_saphyr::from_str::<Value>(&file).expect("YAML"), pod.clone())
    };
    let (plain, before) = file(SITE);
    assert_eq!(plain["scheduler"]["pluginConfig"][0]["args"]["maxWaitingRequests"], 1000);
    assert_eq!(plain["scheduler"]["plugins"]["Score"]["enabled"].as_array().map(Vec::len), Some(4));
    let own = "{version: v1.0.0, maxWaitingRequests: 50, scheduling: {prefixCache: 3, gpuUsage: 0}}";
    let (own, after) = file(&SITE.replace("{version: v1.0.0}", own));
    assert_eq!(own["scheduler"]["pluginConfig"][0]["args"]["maxWaitingRequests"], 50);
    assert_eq!(
        own["scheduler"]["plugins"]["Score"]["enabled"],
        json!([{"name": "least-request", "weight": 1}, {"name": "least-latency", "weight": 1},
            {"name": "prefix-cache", "weight": 3}])
    );
    assert_ne!(before, after);
}

#[test]
fn rules_for_headers_come_before_the_rule_for_all() {
    let rules = "rules: [{name: beta, headers: {x-beta: {exact: \"1\"}, user-agent: {regex: \"^curl/\"}}, to: {m: 100}}, \
                 {headers: {x-team: {prefix: ads-}}, to: {m: 100}}], to";
    let inventory = text(&SITE.replace("{m: {to", &format!("{{m: {{{rules}")));
    let all = with(&inventory, Vec::new(), &[]);
    let targets = json!([{"modelServerName": "m", "weight": 100}]);
    assert_eq!(
        object(find(&all, "ModelRoute/models/t-m")).manifest["spec"]["rules"],
        json!([
            {"name": "beta", "modelMatch": {"headers": {"x-beta": {"exact": "1"}, "user-agent": {"regex": "^curl/"}}},
                "targetModels": targets},
            {"name": "rule-2", "modelMatch": {"headers": {"x-team": {"prefix": "ads-"}}}, "targetModels": targets},
            {"name": "default", "targetModels": targets},
        ])
    );
}

#[test]
fn extra_objects_come_last_as_they_are_written() {
    let manifest = "{apiVersion: v1, kind: ConfigMap, metadata: {name: x, namespace: own, labels: {a: b}}, data: {n: \"1\"}}";
    let pool = "{apiVersion: inference.networking.k8s.io/v1, kind: InferencePool, metadata: {name: p}, spec: {targetPorts: [{number: 8000}]}}";
    let inventory = text(&format!("{SITE}extraObjects: [{manifest}, {pool}]\n"));
    let all = with(&inventory, Vec::new(), &[]);
    let last: Vec<String> = all[all.len() - 2..].iter().map(|r| r.id.what()).collect();
    assert_eq!(last, ["ConfigMap own/x", "InferencePool models/p"]);
    assert_eq!(all[all.len() - 2].role, "extra");
    assert_eq!(object(&all[all.len() - 2]).manifest["data"], json!({"n": "1"}));
    assert_eq!(object(&all[all.len() - 1]).manifest["spec"]["targetPorts"][0]["number"], 8000);
    assert_eq!(object(find(&all, "Namespace/own")).stage, Stage::Base);
    // A route's name is only known here.
    let taken =
        "{apiVersion: networking.serving.volcano.sh/v1alpha1, kind: ModelRoute, metadata: {name: t-m}}";
    let inventory = text(&format!("{SITE}extraObjects: [{taken}]\n"));
    let catalog = Catalog::builtin().expect("the catalog");
    let input =
        ServingInput { inventory: &inventory, catalog: &catalog, crds: Vec::new(), tokens: BTreeMap::new() };
    let error = desired(&input).expect_err("taken").to_string();
    assert_eq!(error, "extraObjects: ModelRoute models/t-m is made from the inventory; use another name");
}
