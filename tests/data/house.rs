//! The house stands: no room imports from its own floor or above.

use std::path::{Path, PathBuf};

fn floor(room: &str) -> Option<u8> {
    Some(match room {
        "cli" => 6,
        "run" | "report" => 5,
        "plan" => 4,
        "role" | "serving" | "executor" | "reconciler" => 3,
        "inventory" | "ssh" | "artifact" | "template" => 2,
        "state" | "event" | "catalog" => 1,
        _ => return None,
    })
}

fn files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("src is readable") {
        let path = entry.expect("entry").path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// Returns the rooms that a source text names as `crate::<room>`.
fn imports(text: &str) -> Vec<String> {
    text.lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .flat_map(|line| line.split("crate::").skip(1).map(str::to_owned).collect::<Vec<_>>())
        .map(|rest| rest.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect())
        .filter(|room: &String| floor(room).is_some() || room == "lab")
        .collect()
}

#[test]
fn rooms_import_only_downwards() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    files(&src, &mut found);
    assert!(found.len() > 20, "the walk found the sources");
    let mut wrong = Vec::new();
    for file in found {
        let inside = file.strip_prefix(&src).expect("below src");
        let room = inside.components().next().expect("a room").as_os_str().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&file).expect("a source file");
        for import in imports(&text) {
            let allowed = match (room.as_str(), import.as_str()) {
                ("cli" | "main.rs" | "lib.rs", _) => true,
                (a, b) if a == b => true,
                ("lab", b) => b == "event",
                (_, "lab") => false,
                (a, b) => floor(a) > floor(b),
            };
            if !allowed {
                wrong.push(format!("{}: crate::{import}", inside.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "imports that go up or sideways:\n{}", wrong.join("\n"));
}

#[test]
fn files_say_what_they_own_and_stay_short() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    files(&src, &mut found);
    let mut wrong = Vec::new();
    for file in found {
        let text = std::fs::read_to_string(&file).expect("a source file");
        if !text.starts_with("//!") {
            wrong.push(format!("{}: does not open with //!", file.display()));
        }
        if text.lines().count() > 800 {
            wrong.push(format!("{}: longer than 800 lines", file.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Whoever meets a code at night finds it in the reference.
#[test]
fn every_code_that_a_run_can_end_with_is_in_the_reference() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut sources = Vec::new();
    for room in ["executor", "reconciler", "run", "ssh", "role"] {
        files(&root.join("src").join(room), &mut sources);
    }
    let quoted = regex::Regex::new("\"(E-[A-Z0-9]+(?:-[A-Z0-9]+)*)\"").expect("a pattern");
    let mut pages = String::new();
    for page in ["run-errors.md", "errors.md", "health.md"] {
        pages += &std::fs::read_to_string(root.join("docs/reference").join(page)).expect("the page");
    }
    let mut missing = std::collections::BTreeSet::new();
    for source in sources {
        let text = std::fs::read_to_string(source).expect("a source");
        // What tests make up stands behind the code.
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        for found in quoted.captures_iter(code) {
            if !pages.contains(&format!("`{}`", &found[1])) {
                missing.insert(found[1].to_owned());
            }
        }
    }
    assert_eq!(missing, std::collections::BTreeSet::new());
}
