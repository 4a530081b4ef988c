//! Data tests of accelerator hosts: what paper refuses, and what roles come to for every class of product on every system.

use provision::catalog::Catalog;
use provision::inventory::{Severity, load};
use std::path::{Path, PathBuf};

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(name)
}

/// Each inventory is refused for one reason, with its own code and source; its twin differs in one line and passes.
#[test]
fn each_refusal_has_its_code_and_source_and_a_twin_that_passes() {
    let catalog = Catalog::builtin().expect("the catalog");
    let cases = [
        ("b300-branch-570", "E-NV-BRANCH", "open-gpu-kernel-modules@595.45.04 README + first tag 580.82.07"),
        ("v100-branch-595", "E-NV-BRANCH-LAST", "last branch with Volta = R580"),
        ("gh200-closed-module", "E-NV-MODULE", "GPU Operator platform-support footnote 1"),
        ("inferentia1-sdk-2.32", "E-NEURON-CHIP", "last driver branch is 2.24.x"),
        ("trainium1-image-2.32", "E-ENGINE-CHIP", "vllm-neuron supports Trn2 and Trn3 only"),
        ("branch-570-cuda-13", "E-ENGINE-CUDA", "NVIDIA CUDA compatibility guide"),
        ("k0s-1.36-drop-in-v2", "E-CONTAINERD-DROPIN", "k0s docs/runtime.md"),
    ];
    for (name, code, source) in cases {
        let refused = data(&format!("inventories/refused/{name}.yaml"));
        let twin = data(&format!("inventories/refused/{name}.twin.yaml"));
        let found = load(&refused, &catalog).map(|l| l.inventory.name).expect_err(name);
        let errors: Vec<_> = found.all.iter().filter(|d| d.severity == Severity::Error).collect();
        assert_eq!(errors.iter().map(|d| d.code).collect::<Vec<_>>(), [code], "{name}: {found}");
        assert!(
            errors[0].source.as_deref().is_some_and(|s| s.contains(source)),
            "{name}: {:?}",
            errors[0].source
        );
        assert!(errors[0].place.is_some() && errors[0].hint.is_some(), "{name}: it has a place and a hint");
        load(&twin, &catalog).unwrap_or_else(|d| panic!("{name}: the twin passes\n{d}"));
        let read = |path: &Path| std::fs::read_to_string(path).expect("an inventory");
        let (a, b) = (read(&refused), read(&twin));
        let differing = a.lines().zip(b.lines()).filter(|(a, b)| a != b).count();
        assert_eq!(
            (differing, a.lines().count()),
            (1, b.lines().count()),
            "{name}: the twin differs in one field"
        );
    }
}
