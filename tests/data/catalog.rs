//! Data tests of `catalog`.

use provision::catalog::{Catalog, CatalogError, Fabric, OpenModule, Vendor};

fn builtin() -> Catalog {
    Catalog::builtin().expect("the built-in catalog is sound")
}

/// Returns the built-in catalog with the rows of the files in a folder.
fn with_rows(folder: &std::path::Path) -> Result<Catalog, CatalogError> {
    let mut paths: Vec<_> =
        std::fs::read_dir(folder).expect("a folder").flatten().map(|e| e.path()).collect();
    paths.sort();
    Catalog::extended(paths.into_iter().map(|path| {
        let text = std::fs::read_to_string(&path).expect("a file");
        (path, text)
    }))
}

#[test]
fn a_device_id_of_two_products_is_resolved_by_its_subsystem() {
    let catalog = builtin();
    assert_eq!(catalog.by_pci("10de", "25b6", "10de", "14a9").map(|p| p.slug.as_str()), Some("a16"));
    assert_eq!(catalog.by_pci("10de", "25b6", "10de", "157e").map(|p| p.slug.as_str()), Some("a2"));
    assert_eq!(catalog.by_pci("10de", "25b6", "10de", "ffff"), None);
}

#[test]
fn the_rows_of_the_lab_are_as_the_vendors_say() {
    let catalog = builtin();
    let h100 = catalog.by_pci("10de", "2330", "10de", "16c1").expect("H100 SXM");
    assert_eq!((h100.slug.as_str(), h100.fabric), ("h100-sxm5-80gb", Fabric::FabricManager));
    let b300 = catalog.product("b300-sxm").expect("B300");
    assert_eq!((b300.min_branch, b300.open_module), (Some(580), OpenModule::Required));
    let v100 = catalog.product("v100-sxm2-32gb").expect("V100");
    assert_eq!((v100.max_branch, v100.open_module), (Some(580), OpenModule::Unsupported));
    assert_eq!(catalog.product("trainium2").map(|p| p.vendor), Some(Vendor::Neuron));
}

#[test]
fn a_k0s_version_finds_its_line() {
    let catalog = builtin();
    assert_eq!(catalog.k0s_line("v1.35.7+k0s.0").map(|l| l.containerd), Some(1));
    assert_eq!(catalog.k0s_line("v1.36.3+k0s.2").map(|l| l.containerd), Some(2));
    assert!(catalog.k0s_line("v1.12.0+k0s.0").is_none());
    assert!(catalog.k0s_line("latest").is_none());
}

#[test]
fn every_row_says_where_it_comes_from_and_every_slug_is_kebab_case() {
    for product in builtin().products() {
        assert!(!product.source.is_empty(), "{}", product.slug);
        assert!(
            product.slug.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'),
            "{}",
            product.slug
        );
    }
}

#[test]
fn a_users_file_adds_and_replaces_rows_and_contradictions_are_found() {
    let dir = tempfile::tempdir().expect("a folder");
    let row = |slug: &str, device: &str, min: u32| {
        format!(
            "products:\n  - {{slug: {slug}, name: X, vendor: nvidia, arch: x, pci: [{{vendor: \"10de\", device: \
             \"{device}\"}}], minBranch: {min}, maxBranch: 580, rebootDeadlineS: 60, source: test}}\n"
        )
    };
    let file = dir.path().join("mine.yaml");
    std::fs::write(&file, row("h100-sxm5-80gb", "2330", 570)).expect("written");
    let catalog = with_rows(dir.path()).expect("loads");
    assert_eq!(catalog.product("h100-sxm5-80gb").and_then(|p| p.max_branch), Some(580));

    std::fs::write(&file, row("mine", "2330", 570)).expect("written");
    assert!(matches!(with_rows(dir.path()), Err(CatalogError::Contradiction(m)) if m.contains("10de:2330")));

    std::fs::write(&file, row("mine", "ffff", 595)).expect("written");
    assert!(
        matches!(with_rows(dir.path()), Err(CatalogError::Contradiction(m)) if m.contains("mine needs branch 595"))
    );

    std::fs::write(&file, "produkts: []\n").expect("written");
    assert!(
        matches!(with_rows(dir.path()), Err(CatalogError::Parse { message, .. }) if message.contains("produkts"))
    );
}

#[test]
fn an_unknown_gpu_gets_the_newest_branch_and_open_modules() {
    let catalog = builtin();
    let unknown = catalog.product("10de:3021").expect("assumed");
    assert_eq!((unknown.min_branch, unknown.open_module), (Some(615), OpenModule::Required));
    for known_or_wrong in ["10de:2330", "10de:xyz1", "1d0f:9999", "h1000"] {
        assert!(catalog.product(known_or_wrong).is_none(), "{known_or_wrong}");
    }
}

#[test]
fn every_device_of_the_vendors_lists_has_a_row() {
    // accelerator ids as of 2026-08-22: pciids, open-gpu-kernel-modules README, aws-neuron-driver neuron_device.h.
    let gpus = "1db1 1db4 1db5 1db6 1df6 1db8 1eb8 20b0 20b1 20b2 20b3 20b5 20f1 20bd 20f3 20f5 20f6 20b7 2235 2236 2237 25b6 \
                27b8 26b5 26b9 26ba 2330 2331 2321 2339 2324 2322 233a 2329 232c 230e 2335 233b 2342 2348 2901 2909 29bc 2941 \
                3182 31c2 31c3 2bb5 2bb4 2bb1";
    let neuron = "7064 7065 7066 7067 7264 7164 7364 7564 7565";
    let catalog = builtin();
    for (vendor, ids) in [("10de", gpus), ("1d0f", neuron)] {
        for id in ids.split_whitespace() {
            assert!(catalog.products().iter().any(|p| p.has(vendor, id)), "{vendor}:{id}");
        }
    }
    assert!(catalog.is_switch("10de", "1af1") && catalog.is_switch("10de", "22a3"));
}

/// What is not confirmed says so in its row, and `catalog` shows all of it.
#[test]
fn what_is_not_confirmed_is_shown() {
    let catalog = builtin();
    let unconfirmed = catalog.unconfirmed();
    for row in ["Neuron SDK 2.33.0", "nvidia-cuda-rpm-key", "nvidia-toolkit-key", "Kthena v1.0.0", "gb300"] {
        assert!(
            unconfirmed.iter().any(|(what, why)| what == row && !why.is_empty()),
            "{row}: {unconfirmed:?}"
        );
    }
    let text = provision::report::catalog_text(&catalog, None);
    for (what, why) in &unconfirmed {
        assert!(text.contains(&format!("{what}: {why}")), "{what}");
    }
    let trn2 = catalog.product("trainium2").expect("known");
    assert!(provision::report::product_text(&catalog, &trn2, None).contains("SDK 2.33.0: "));
    // A file of one's own can say so too, or confirm.
    let dir = tempfile::tempdir().expect("a folder");
    let row =
        "components: [{name: dcgm-exporter, version: x, image: y, source: z, unconfirmed: all of it}]\n";
    std::fs::write(dir.path().join("x.yaml"), row).expect("written");
    let mine = with_rows(dir.path()).expect("loads");
    assert!(mine.unconfirmed().iter().any(|(what, _)| what == "dcgm-exporter x"));
}

#[test]
fn newer_products_can_be_split() {
    let catalog = builtin();
    let names = |slug: &str| -> Vec<String> {
        catalog.mig(slug).expect("a row").profiles.iter().map(|p| p.name.clone()).collect()
    };
    for slug in ["rtx-pro-6000-server", "rtx-pro-6000-max-q", "rtx-pro-6000-workstation"] {
        assert_eq!(names(slug), ["1g.24gb", "2g.48gb", "4g.96gb"]);
        assert_eq!(catalog.product(slug).and_then(|p| p.mig_instances), Some(4));
    }
    assert!(names("gb300").contains(&"7g.278gb".to_owned()));
    let gb200 = names("gb200");
    assert!(["7g.186gb", "7g.189gb"].iter().all(|name| gb200.contains(&(*name).to_owned())), "{gb200:?}");
}

#[test]
fn an_engine_image_says_what_it_needs() {
    let catalog = builtin();
    let cuda = |image: &str| catalog.engine_needs(image).and_then(|n| n.row.cuda);
    assert_eq!(cuda("lmsysorg/sglang:v0.5.19-cu129"), Some(12));
    assert_eq!(cuda("lmsysorg/sglang:v0.5.20"), Some(13));
    assert_eq!(cuda("registry.example.net/own@sha256:00"), None);
    let neuron = "public.ecr.aws/neuron/pytorch-inference-vllm-neuronx";
    let new = format!("{neuron}:0.24.0.1.1.0-neuronx-py313-sdk2.32.0-ubuntu24.04");
    let needs = catalog.engine_needs(&new).expect("known");
    assert_eq!(needs.sdk.as_deref(), Some("2.32.0"));
    assert_eq!(needs.row.products, ["trainium2", "trainium3"]);
    let old = format!("{neuron}:0.16.0-neuronx-py312-sdk2.31.1-ubuntu24.04");
    let all = ["inferentia2", "trainium1", "trainium2", "trainium3"];
    assert_eq!(catalog.engine_needs(&old).expect("known").row.products, all);
    let oldest = format!("{neuron}:0.9.1-neuronx-py311-sdk2.26.1-ubuntu22.04");
    assert_eq!(catalog.engine_needs(&oldest).expect("known").row.products, all[..3]);
    assert_eq!(cuda("vllm/vllm-openai:v0.11.2"), Some(12));
    assert_eq!(cuda("vllm/vllm-openai:v0.28.0"), Some(13));
    assert_eq!(cuda("vllm/vllm-openai:v0.28.0-cu129"), Some(12));
}

#[test]
fn an_xid_has_one_action_and_a_file_of_ones_own_can_change_it() {
    use provision::catalog::Action;
    let catalog = builtin();
    assert_eq!(catalog.xid(79), Some(Action::Reboot));
    assert_eq!(catalog.xid(13), Some(Action::RestartApp));
    assert_eq!(catalog.xid(54), Some(Action::Isolate));
    assert_eq!(catalog.xid(9999), None);
    // Notes, what asks for a person, and NVLink5's that are always to be ignored or reset.
    for (numbers, action) in [
        (&[162, 163, 164, 165, 171, 172, 147, 148][..], Action::Ignore),
        (&[142, 166, 167, 168, 169, 170], Action::Isolate),
        (&[149], Action::Reset),
    ] {
        for number in numbers {
            assert_eq!(catalog.xid(*number), Some(action), "{number}");
        }
    }
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::write(dir.path().join("x.yaml"), "xids: [{action: isolate, xids: [79], source: ours}]\n")
        .expect("written");
    let mine = with_rows(dir.path()).expect("loads");
    assert_eq!((mine.xid(79), mine.xid(151)), (Some(Action::Isolate), Some(Action::Reboot)));
}

#[test]
fn catalog_check_names_every_contradiction() {
    let cases = [
        (
            "branches: [{branch: 640, kind: production, latest: \"639.1.1\", source: x}]",
            "branch 640: its latest release is 639.1.1",
        ),
        (
            "branches: [{branch: 640, kind: best, latest: \"640.1.1\", source: x}]",
            "`best` is not a kind of branch",
        ),
        (
            "floors: [{test: all-reduce, products: [h101], floor: 1, unit: GB/s, source: x}]",
            "unknown product h101",
        ),
        ("engineImages: [{image: x, cuda: 99, source: x}]", "needs CUDA 99, which is not in the catalog"),
        (
            "neuronSdks: [{sdk: \"3.0.0\", driver: \"3.1.0.0\", products: [inferentia1], source: x}]",
            "Neuron SDK 3.0.0 has driver 3.1.0.0, outside the bound 2.24 of inferentia1",
        ),
        (
            "xids: [{action: reset, xids: [79], source: x}, {action: reboot, xids: [79], source: x}]",
            "Xid 79 has two actions",
        ),
    ];
    for (text, expected) in cases {
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::write(dir.path().join("x.yaml"), format!("{text}\n")).expect("written");
        match with_rows(dir.path()) {
            Err(CatalogError::Contradiction(found)) => assert!(found.contains(expected), "{text}: {found}"),
            other => panic!("{text}: {:?}", other.map(|_| ())),
        }
    }
}

#[test]
fn a_step_of_k0s_is_one_minor_up_at_most() {
    use provision::catalog::K0sStep::{self, *};
    for (from, to, step) in [
        ("v1.35.7+k0s.0", "v1.35.7+k0s.0", Some(Fine)),
        ("v1.35.7+k0s.0", "v1.36.3+k0s.2", Some(Fine)),
        ("v1.35.7+k0s.0", "v1.35.10+k0s.0", Some(Fine)),
        ("v1.35.10+k0s.0", "v1.35.7+k0s.0", Some(PatchDown)),
        ("v1.35.7+k0s.1", "v1.35.7+k0s.0", Some(PatchDown)),
        ("v1.34.10+k0s.0", "v1.36.3+k0s.2", Some(SkipsMinor)),
        ("v1.9.0+k0s.0", "v1.10.0+k0s.0", Some(Fine)),
        ("v1.36.0+k0s.0", "v1.35.9+k0s.0", Some(MinorDown)),
        ("v2.0.0+k0s.0", "v1.36.0+k0s.0", Some(MinorDown)),
        ("v1.36.0-rc.1+k0s.0", "v1.36.0+k0s.0", Some(Fine)),
        ("unknown", "v1.36.0+k0s.0", None),
        ("v1.36", "v1.36.0+k0s.0", None),
    ] {
        assert_eq!(K0sStep::between(from, to), step, "{from} -> {to}");
    }
}
