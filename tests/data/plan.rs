//! Data tests of `plan`: inventories compared, with no host touched.

use provision::catalog::Catalog;
use provision::inventory::{Inventory, load};
use provision::plan::compare;
use provision::report::{comparison_markdown, comparison_text};
use std::path::Path;

fn rack(change: impl Fn(String) -> String) -> Inventory {
    let dir = tempfile::tempdir().expect("a folder");
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("inventories/h100-rack/inventory.yaml");
    let text = change(std::fs::read_to_string(example).expect("the example"));
    std::fs::write(dir.path().join("site.yaml"), text).expect("written");
    let catalog = Catalog::builtin().expect("the catalog");
    load(&dir.path().join("site.yaml"), &catalog).unwrap_or_else(|d| panic!("{d}")).inventory
}

#[test]
fn a_driver_upgrade_shows_its_blast_radius() {
    let diff = compare(&rack(|t| t), &rack(|t| t.replace("580.178.04", "595.91.07")));
    assert_eq!((diff.drains, diff.reboots, diff.restarts), (64, 64, 0));
    let pool = &diff.pools[0];
    assert_eq!((pool.pool.as_str(), pool.capacity), ("h100", Some((512, 464))));
    assert_eq!(pool.models, ["r1-qwen32b"]);
    let text = comparison_text(&diff);
    assert!(text.contains("580.178.04 -> 595.91.07") && text.contains("64 drained, 64 rebooted"), "{text}");
    let markdown = comparison_markdown(&diff);
    assert!(markdown.contains("| drains / reboots / restarts | 64 / 64 / 0 |"), "{markdown}");
    assert!(markdown.contains("at least 464 of 512 accelerators"), "{markdown}");
}

#[test]
fn hosts_that_come_go_and_change_are_named() {
    let before = rack(|t| t);
    assert!(compare(&before, &rack(|t| t)).is_empty());
    let fewer = rack(|t| {
        t.replace("h-[001-064]", "h-[001-063]")
            .replace("10.20.1.[1-64]", "10.20.1.[1-63]")
            .replace("10.21.1.[1-64]", "10.21.1.[1-63]")
    });
    let diff = compare(&before, &fewer);
    assert_eq!(diff.removed.keys().collect::<Vec<_>>(), ["h-064"]);
    assert_eq!(compare(&fewer, &before).added.keys().collect::<Vec<_>>(), ["h-064"]);
}
