//! Sites that reach nothing: a lab whose mirror serves nothing comes up from a bundle, and from nothing less than all of it.

use crate::story::{Story, text};
use std::path::{Path, PathBuf};
use std::process::Output;

/// Collects what the lab of a story downloads; the lab that served it is gone afterwards.
fn bundle(story: &Story) -> PathBuf {
    let to = story.dir.path().join("bundle");
    let output = story.run(&["bundle", "--lab", "-i", &story.at(), "--to", &to.display().to_string()]);
    assert!(output.status.success(), "{}", text(&output));
    to
}

/// Returns the paths of all files, from the bundle's folder.
fn files(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(at) = folders.pop() {
        for entry in std::fs::read_dir(&at).expect("a folder").flatten() {
            match entry.file_type().expect("a type").is_dir() {
                true => folders.push(entry.path()),
                false => found.push(entry.path().strip_prefix(folder).expect("inside").display().to_string()),
            }
        }
    }
    found.sort();
    found
}

#[test]
fn a_lab_that_reaches_nothing_else_comes_up_from_a_bundle_and_answers() {
    let story = Story::new();
    let bundle = bundle(&story);
    // What was downloaded on the way is not what it comes up from.
    std::fs::remove_dir_all(story.dir.path().join("state")).expect("removed");
    let output = story.run(&["lab", "run", &story.at(), "--mirror", &bundle.display().to_string()]);
    let text = text(&output);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("ads asks qwen: Who are you?\n  LAB echo from qwen-trn-"), "{text}");
    assert!(text.contains("delivering k0s-"), "{text}");
}

#[test]
fn without_any_one_file_of_the_bundle_nothing_is_changed_and_the_artifact_is_named() {
    let story = Story::new();
    let bundle = bundle(&story);
    let mirror = bundle.display().to_string();
    let output = story.run(&["lab", "up", &story.at(), "--mirror", &mirror]);
    assert!(output.status.success(), "{}", text(&output));
    // The walls are there: hosts can download nothing.
    let walled = story.apply(&[]);
    assert!(!walled.status.success(), "{}", text(&walled));
    let all = files(&bundle);
    let version = all
        .iter()
        .find_map(|path| path.strip_prefix("binaries/k0s-x86_64/")?.split('/').next())
        .expect("k0s");
    let url = format!("http://mirror/k0s-x86_64/{version}");
    let curl = story.run(&["exec", "-i", &story.at(), "--limit", "w-1", "--", "curl", "-o", "/tmp/x", &url]);
    assert!(text(&curl).contains("returned error: 404"), "{}", text(&curl));

    let is_json = |path: &String| path == "bundle.json";
    assert!(all.len() > 8 && all.iter().any(is_json), "{all:?}");
    for path in &all {
        let (at, aside) = (bundle.join(path), story.dir.path().join("aside"));
        std::fs::rename(&at, &aside).expect("moved");
        let output: Output = story.apply(&["--mirror", &mirror]);
        let said = text(&output);
        assert_eq!(output.status.code(), Some(1), "{path}: {said}");
        let named = match path.as_str() {
            "bundle.json" => "has no bundle.json".to_owned(),
            "SHA256SUMS" => "SHA256SUMS does not exist".to_owned(),
            // KIND/NAME/VERSION/FILE
            _ => path.split('/').skip(1).take(2).collect::<Vec<_>>().join(" "),
        };
        assert!(said.contains(&named) && said.contains("error[E-MIRROR"), "{path}: {said}");
        assert!(said.contains(&at.display().to_string()) || is_json(path), "{path}: {said}");
        assert!(!said.contains("Plan"), "{path}: no host was contacted: {said}");
        std::fs::rename(&aside, &at).expect("moved back");
    }
    // The plan says what reaches hosts, and by what; without the mirror they fetch it.
    let told = |words: &[&str]| {
        let said = text(&story.run(&[&["plan", "-i", &story.at()], words].concat()));
        (said.contains("are delivered to ") && said.contains("allowed in authorized_keys"), said)
    };
    let (is_told, said) = told(&["--mirror", &mirror]);
    assert!(is_told, "{said}");
    let (is_told, said) = told(&[]);
    assert!(!is_told, "{said}");
    let output = story.apply(&["--mirror", &mirror]);
    assert!(output.status.success(), "{}", text(&output));
    let output = story.run(&["plan", "-i", &story.at(), "--mirror", &mirror]);
    assert_eq!(output.status.code(), Some(0), "in sync: {}", text(&output));
    let left = files(&story.file("w-1", "/var/cache/provision"));
    assert_eq!(left, Vec::<String>::new(), "what was delivered is in its place");
}
