//! Data tests of `artifact`.

use provision::artifact::{Lock, Locked, Needs, wanted};
use provision::catalog::Catalog;

#[test]
fn a_lock_file_reads_back_as_it_was_written_and_a_missing_one_says_what_to_do() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("provision.lock");
    let missing = Lock::load(&path).expect_err("missing").to_string();
    assert!(missing.contains("provision lock"), "{missing}");
    let mut lock = Lock::default();
    let locked = Locked {
        version: "v1.35.7+k0s.0".into(),
        urls: vec!["https://a/b".into()],
        sha256: "0f".into(),
        size: 7,
    };
    lock.artifacts.insert("k0s-x86_64".into(), locked);
    lock.save(&path).expect("saved");
    assert_eq!(Lock::load(&path).expect("read"), lock);
}

#[test]
fn only_what_an_inventory_needs_is_fetched() {
    let catalog = Catalog::builtin().expect("the catalog");
    let needs = Needs {
        k0s_version: "v1.35.7+k0s.0".into(),
        nvidia: false,
        neuron: true,
        router: false,
        inference_extension: false,
    };
    let names: Vec<String> = wanted(&needs, &catalog).into_iter().map(|w| w.name).collect();
    assert_eq!(names, ["k0s-x86_64", "k0s-aarch64", "neuron-key"]);
    let k0s = &wanted(&needs, &catalog)[0];
    assert!(k0s.url.contains("v1.35.7%2Bk0s.0/k0s-v1.35.7%2Bk0s.0-amd64"), "{}", k0s.url);
}
