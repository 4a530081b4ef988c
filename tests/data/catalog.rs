//! Data tests of `catalog`.

use provision::catalog::{Catalog, CatalogError, Fabric, OpenModule, Vendor};

fn builtin() -> Catalog {
    Catalog::builtin().expect("the built-in catalog is sound")
}

#[test]
fn one_device_id_that_is_two_products_is_told_apart_by_its_subsystem() {
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
    let catalog = Catalog::load(Some(dir.path())).expect("loads");
    assert_eq!(catalog.product("h100-sxm5-80gb").and_then(|p| p.max_branch), Some(580));

    std::fs::write(&file, row("mine", "2330", 570)).expect("written");
    assert!(
        matches!(Catalog::load(Some(dir.path())), Err(CatalogError::Contradiction(m)) if m.contains("10de:2330"))
    );

    std::fs::write(&file, row("mine", "ffff", 595)).expect("written");
    assert!(
        matches!(Catalog::load(Some(dir.path())), Err(CatalogError::Contradiction(m)) if m.contains("mine"))
    );

    std::fs::write(&file, "produkts: []\n").expect("written");
    assert!(
        matches!(Catalog::load(Some(dir.path())), Err(CatalogError::Parse { message, .. }) if message.contains("produkts"))
    );
}
