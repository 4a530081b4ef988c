//! Data tests of accelerator hosts: rejected inventories, and the resources of roles for every class of product and system.

use provision::artifact::{Lock, Locked};
use provision::catalog::Catalog;
use provision::executor::{enact_program, observe_program};
use provision::inventory::{Severity, load};
use provision::plan::steps_of;
use provision::role::{RoleInput, desired};
use provision::state::{Facts, Observation, Observed, PackageManager, PciFunction, Resource, TargetId};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(name)
}

/// Each inventory is refused for one reason, with its own code and source; its valid counterpart differs in one line and passes.
#[test]
fn each_refusal_has_its_code_and_source_and_a_valid_counterpart_passes() {
    let catalog = Catalog::builtin().expect("the catalog");
    let cases = [
        ("b300-branch-570", "E-NV-BRANCH", "open-gpu-kernel-modules@595.45.04 README + first tag 580.82.07"),
        ("v100-branch-595", "E-NV-BRANCH-LAST", "last branch with Volta = R580"),
        ("gh200-closed-module", "E-NV-MODULE", "GPU Operator platform-support footnote 1"),
        ("inferentia1-sdk-2.32", "E-NEURON-CHIP", "last driver branch is 2.24.x"),
        (
            "trainium1-image-2.32",
            "E-ENGINE-CHIP",
            "vllm-neuron (images from 0.21.0.1.0.0 on) supports Trn2 and Trn3 only",
        ),
        ("branch-570-cuda-13", "E-ENGINE-CUDA", "NVIDIA CUDA compatibility guide"),
        ("rdma-closed-module", "E-RDMA-MODULE", "GPU Operator documents, GPUDirect RDMA"),
        ("rdma-volta", "E-RDMA-MODULE", "GPU Operator documents, GPUDirect RDMA"),
        ("neuron-some-devices", "E-NEURON-CONTIGUOUS", "deploy/faq.rst"),
        ("mig-driver-570", "E-MIG-DRIVER", "mig-user-guide"),
        ("efa-kernel-5.10", "E-RDMA-KERNEL", "GPU Operator documents, GPUDirect RDMA"),
        ("rdma-neuron", "E-RDMA-POOL", "AWS instances have EFA"),
        ("k0s-1.36-drop-in-v2", "E-CONTAINERD-DROPIN", "k0s docs/runtime.md"),
    ];
    for (name, code, source) in cases {
        let refused = data(&format!("inventories/refused/{name}.yaml"));
        let valid = data(&format!("inventories/refused/{name}.valid.yaml"));
        let found = load(&refused, &catalog).map(|l| l.inventory.name).expect_err(name);
        let errors: Vec<_> = found.all.iter().filter(|d| d.severity == Severity::Error).collect();
        assert_eq!(errors.iter().map(|d| d.code).collect::<Vec<_>>(), [code], "{name}: {found}");
        assert!(
            errors[0].source.as_deref().is_some_and(|s| s.contains(source)),
            "{name}: {:?}",
            errors[0].source
        );
        assert!(errors[0].span.is_some() && errors[0].hint.is_some(), "{name}: it has a location and a hint");
        load(&valid, &catalog).unwrap_or_else(|d| panic!("{name}: the valid passes\n{d}"));
        let read = |path: &Path| std::fs::read_to_string(path).expect("an inventory");
        let (a, b) = (read(&refused), read(&valid));
        let differing = a.lines().zip(b.lines()).filter(|(a, b)| a != b).count();
        assert_eq!(
            (differing, a.lines().count()),
            (1, b.lines().count()),
            "{name}: the counterpart differs in one field"
        );
    }
}

const SYSTEMS: [(&str, &str); 6] = [
    ("debian12", r#"{"ID": "debian", "VERSION_ID": "12", "VERSION_CODENAME": "bookworm"}"#),
    (
        "ubuntu2204",
        r#"{"ID": "ubuntu", "VERSION_ID": "22.04", "VERSION_CODENAME": "jammy", "ID_LIKE": "debian"}"#,
    ),
    (
        "ubuntu2404",
        r#"{"ID": "ubuntu", "VERSION_ID": "24.04", "VERSION_CODENAME": "noble", "ID_LIKE": "debian"}"#,
    ),
    ("rhel9", r#"{"ID": "rocky", "VERSION_ID": "9.4", "ID_LIKE": "rhel centos fedora"}"#),
    ("amzn2023", r#"{"ID": "amzn", "VERSION_ID": "2023", "ID_LIKE": "fedora"}"#),
    (
        "ubuntu2604",
        r#"{"ID": "ubuntu", "VERSION_ID": "26.04", "VERSION_CODENAME": "resolute", "ID_LIKE": "debian"}"#,
    ),
];

/// A class of products: what stands for it, how it is asked for, and what is on its bus.
struct Class {
    name: &'static str,
    accelerator: &'static str,
    arch: &'static str,
    bus: &'static [(&'static str, &'static str, &'static str, usize)],
}

const CLASSES: [Class; 13] = [
    Class {
        name: "volta-closed",
        accelerator: "{nvidia: {product: v100-sxm2-32gb, count: 8, driver: \"580.178.04\"}}",
        arch: "x86_64",
        bus: &[("10de", "1db5", "030200", 8)],
    },
    Class {
        name: "pcie",
        accelerator: "{nvidia: {product: l40s, count: 8, driver: \"580.178.04\"}}",
        arch: "x86_64",
        bus: &[("10de", "26b9", "030200", 8)],
    },
    Class {
        name: "nvswitch",
        accelerator: "{nvidia: {product: h100-sxm5-80gb, count: 8, driver: \"580.178.04\"}}",
        arch: "x86_64",
        bus: &[("10de", "2330", "030200", 8), ("10de", "22a3", "068000", 4)],
    },
    Class {
        name: "nvlink5",
        accelerator: "{nvidia: {product: b200-sxm, count: 8, driver: \"595.91.07\"}}",
        arch: "x86_64",
        bus: &[("10de", "2901", "030200", 8)],
    },
    Class {
        name: "grace-hopper",
        accelerator: "{nvidia: {product: gh200-120gb, count: 1, driver: \"580.178.04\"}}",
        arch: "aarch64",
        bus: &[("10de", "2342", "030200", 1)],
    },
    Class {
        name: "grace-blackwell",
        accelerator: "{nvidia: {product: gb200, count: 4, driver: \"580.178.04\"}}",
        arch: "aarch64",
        bus: &[("10de", "2941", "030200", 4)],
    },
    Class {
        name: "inferentia1",
        accelerator: "{neuron: {product: inferentia1, count: 4, sdk: \"2.24.0\"}}",
        arch: "x86_64",
        bus: &[("1d0f", "7064", "088000", 4)],
    },
    Class {
        name: "trainium1",
        accelerator: "{neuron: {product: trainium1, count: 16, sdk: \"2.31.1\"}}",
        arch: "x86_64",
        bus: &[("1d0f", "7164", "088000", 16)],
    },
    Class {
        name: "trainium2",
        accelerator: "{neuron: {product: trainium2, count: 16, sdk: \"2.32.0\"}}",
        arch: "x86_64",
        bus: &[("1d0f", "7364", "088000", 16)],
    },
    Class {
        name: "trainium3",
        accelerator: "{neuron: {product: trainium3, count: 16, sdk: \"2.32.0\", lnc: 1}}",
        arch: "x86_64",
        bus: &[("1d0f", "7564", "088000", 16)],
    },
    Class {
        name: "nvswitch-efa",
        accelerator: "{nvidia: {product: h100-sxm5-80gb, count: 8, driver: \"580.178.04\"}}, efa: {count: 32}",
        arch: "x86_64",
        bus: &[
            ("10de", "2330", "030200", 8),
            ("10de", "22a3", "068000", 4),
            ("1d0f", "efa2", "020000", 32),
            ("1d0f", "ec20", "020000", 2),
        ],
    },
    Class {
        name: "nvlink5-rdma",
        accelerator: "{nvidia: {product: b200-sxm, count: 8, driver: \"595.91.07\"}}, rdma: {count: 8}",
        arch: "x86_64",
        bus: &[("10de", "2901", "030200", 8), ("15b3", "1021", "020700", 12)],
    },
    Class {
        name: "trainium2-efa",
        accelerator: "{neuron: {product: trainium2, count: 16, sdk: \"2.32.0\"}}, efa: {count: 16}",
        arch: "x86_64",
        bus: &[("1d0f", "7364", "088000", 16), ("1d0f", "efa2", "020000", 16)],
    },
];

/// Returns what the accelerator role comes to for a class on a system, and the facts that it was made from.
fn pair(class: &Class, system: &str, os: &str) -> (Vec<Resource>, Facts) {
    let catalog = Catalog::builtin().expect("the catalog");
    let mut lock = Lock::default();
    for artifact in catalog.artifacts() {
        let locked = Locked {
            version: "x".into(),
            urls: vec![format!("http://mirror/{}", artifact.name)],
            sha256: "0".repeat(64),
            size: 1,
        };
        lock.artifacts.insert(artifact.name.clone(), locked);
    }
    let text = format!(
        "metadata: {{name: pairs}}\nssh: {{user: root}}\ncluster: {{k0s: {{version: v1.35.7+k0s.0}}}}\npools:\n  \
         c: {{role: controller, hosts: {{cp-1: {{address: 192.168.0.1}}}}}}\n  \
         a: {{role: worker, accelerator: {}, hosts: {{a-1: {{address: 192.168.0.2}}}}}}\n",
        class.accelerator
    );
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("site.yaml");
    std::fs::write(&path, text).expect("written");
    let inventory = load(&path, &catalog).unwrap_or_else(|d| panic!("{d}")).inventory;
    let dnf = matches!(system, "rhel9" | "amzn2023");
    let mut facts = Facts {
        kernel_name: "Linux".into(),
        kernel: "6.1.0-31-generic".into(),
        arch: class.arch.into(),
        os: serde_json::from_str(os).expect("os-release"),
        package_manager: Some(if dnf { PackageManager::Dnf } else { PackageManager::Apt }),
        ..Facts::default()
    };
    for (vendor, device, kind, count) in class.bus {
        let function = PciFunction {
            vendor: (*vendor).into(),
            device: (*device).into(),
            class: (*kind).into(),
            ..PciFunction::default()
        };
        facts.pci.extend(vec![function; *count]);
    }
    let input = RoleInput {
        inventory: &inventory,
        catalog: &catalog,
        lock: &lock,
        host: &inventory.hosts["a-1"],
        facts: &facts,
        secrets: &std::collections::BTreeMap::new(),
        joins: false,
    };
    let all = desired(&input).unwrap_or_else(|f| panic!("{} on {system}: {f:?}", class.name));
    (all.into_iter().filter(|r| matches!(r.role.as_str(), "nvidia" | "neuron" | "rdma")).collect(), facts)
}

fn short(text: &str) -> String {
    use sha2::Digest;
    sha2::Sha256::digest(text).iter().take(4).map(|b| format!("{b:02x}")).collect()
}

fn golden(name: &str, text: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(data("roles/pairs"));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(name, text));
}

/// For every class of product on every system: the list of resources, each with the digest of its text, and every text
/// once: what it is, and the program that brings it about.
#[test]
fn every_class_of_product_on_every_system() {
    let mut texts: BTreeMap<String, String> = BTreeMap::new();
    for class in &CLASSES {
        for (system, os) in SYSTEMS {
            let (resources, facts) = pair(class, system, os);
            let mut list = String::new();
            let observed = Observed {
                target: TargetId::Host("a-1".into()),
                facts: facts.clone(),
                seen: resources.iter().map(|r| (r.id.clone(), Observation::Absent)).collect(),
                desired: resources.clone(),
                orphans: Vec::new(),
                warnings: Vec::new(),
            };
            let (steps, _) = steps_of(&observed);
            assert_eq!(steps.len(), resources.len(), "{} on {system}: all is to be done", class.name);
            let program = enact_program(&steps, &facts);
            // The program's own frame comes before the first step and after the last one's end.
            let parts: Vec<&str> = program.split("printf '\\036step %s\\n' ").skip(1).collect();
            assert_eq!(parts.len(), resources.len());
            for (resource, part) in resources.iter().zip(parts) {
                let shell = part.split("\nagain\nfinish 0").next().unwrap_or(part).trim_end();
                let spec = serde_saphyr::to_string(&resource).expect("YAML");
                let text = format!("{spec}--- shell\n{shell}\n");
                let digest = short(&text);
                list += &format!("{digest}  {}\n", resource.id);
                texts.insert(format!("{} {digest}", resource.id), text);
            }
            golden(&format!("{}-{system}", class.name), &list);
            let mut whole = program;
            whole += &observe_program(&resources);
            let mut sh = std::process::Command::new("sh");
            let mut child = sh.arg("-n").stdin(std::process::Stdio::piped()).spawn().expect("sh runs");
            std::io::Write::write_all(&mut child.stdin.take().expect("its input"), whole.as_bytes())
                .expect("written");
            assert!(child.wait().expect("it ends").success(), "{} on {system} is no shell", class.name);
        }
    }
    let all: String = texts.iter().map(|(id, text)| format!("=== {id}\n{text}\n")).collect();
    golden("texts", &all);
}

/// The rules that tell one pair from another, in words.
#[test]
fn each_class_gets_what_its_fabric_and_system_want() {
    let ids = |class: usize, system: usize| -> Vec<String> {
        let (resources, _) = pair(&CLASSES[class], SYSTEMS[system].0, SYSTEMS[system].1);
        resources.iter().map(|r| r.id.to_string()).collect()
    };
    let has = |ids: &[String], id: &str| ids.iter().any(|i| i == id);
    for system in 0..SYSTEMS.len() {
        let (volta, pcie, switched, nvlink5) =
            (ids(0, system), ids(1, system), ids(2, system), ids(3, system));
        let (hopper, blackwell) = (ids(4, system), ids(5, system));
        for (list, manager) in
            [(&volta, false), (&pcie, false), (&switched, true), (&nvlink5, true), (&hopper, false)]
        {
            assert_eq!(has(list, "unit/nvidia-fabricmanager.service"), manager);
        }
        assert!(has(&nvlink5, "package/nvlsm") && has(&nvlink5, "kernel-module/ib_umad"));
        assert!(!has(&switched, "package/nvlsm"));
        assert!(
            has(&blackwell, "unit/nvidia-imex.service")
                && !has(&blackwell, "unit/nvidia-fabricmanager.service")
        );
        for list in [&volta, &pcie, &switched, &nvlink5, &hopper, &blackwell] {
            let reboots = list.iter().filter(|id| id.starts_with("reboot/")).count();
            assert_eq!(reboots, 1, "one planned reboot at most");
            let at =
                |id: &str| list.iter().position(|i| i == id).unwrap_or_else(|| panic!("{id} in {list:?}"));
            assert!(at("command/nvidia-dkms") < at("reboot/nvidia"), "what wants a reboot comes before it");
            assert!(at("reboot/nvidia") < at("kernel-module/nvidia"));
            assert_eq!(at("command/accelerator-health"), list.len() - 1, "the gate is last");
        }
    }
    for system in 0..SYSTEMS.len() {
        for (list, efa) in [(ids(10, system), true), (ids(11, system), false), (ids(12, system), true)] {
            let at =
                |id: &str| list.iter().position(|i| i == id).unwrap_or_else(|| panic!("{id} in {list:?}"));
            assert_eq!(has(&list, "command/efa-installer"), efa);
            let reboot = list.iter().position(|id| id.starts_with("reboot/")).expect("a reboot");
            assert!(reboot < at("command/rdma-peermem"), "modules are built for the kernel that stays");
            assert_eq!(has(&list, "kernel-module/mlx5_ib"), !efa, "once, whoever wants it");
            assert_eq!(at("command/rdma-health"), list.len() - 1, "the gate is last");
        }
    }
    assert!(has(&ids(0, 0), "package/cuda-drivers-580"), "Volta takes closed modules");
    assert!(has(&ids(4, 2), "package/nvidia-open-580"), "Grace takes open ones");
    assert!(has(&ids(3, 2), "package/nvidia-open"), "from 590 on names have no branch");
}
