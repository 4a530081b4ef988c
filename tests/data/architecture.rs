//! The architecture holds: no module imports from its own layer or from one above, and files of a module in no circle.

use super::imports::{Crate, files};
use std::collections::BTreeSet;
use std::path::Path;

fn layer(module: &str) -> Option<u8> {
    Some(match module {
        "cli" => 7,
        "fleet" => 6,
        "run" | "report" => 5,
        "plan" => 4,
        "import" | "role" | "serving" | "executor" | "reconciler" => 3,
        "k0s" | "inventory" | "ssh" | "artifact" | "template" | "redact" => 2,
        "state" | "event" | "catalog" => 1,
        _ => return None,
    })
}

#[test]
fn modules_import_only_from_layers_below() {
    let read = Crate::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    assert!(read.0.len() > 20, "the walk found the sources");
    let mut wrong = Vec::new();
    for (module, source) in &read.0 {
        let from = module.first().map_or("lib", String::as_str);
        for import in &source.imports {
            let named = import.path.first().map_or("lib", String::as_str);
            let allowed = match (from, named) {
                ("cli" | "lib" | "fuzz", _) | ("fleet", "lab") => true,
                (a, b) if a == b => true,
                // It speaks the Kubernetes API over a stream that it is given.
                ("reconciler", "ssh") => false,
                ("lab", b) => b == "event",
                (_, "lab") => false,
                (a, b) => layer(a) > layer(b),
            };
            if !allowed {
                wrong.push(format!("{}: crate::{}", module.join("::"), import.path.join("::")));
            }
        }
    }
    assert!(wrong.is_empty(), "imports that go up or sideways:\n{}", wrong.join("\n"));
}

#[test]
fn files_of_a_module_import_each_other_in_no_circle() {
    let read = Crate::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    let modules: BTreeSet<&String> = read.0.keys().filter_map(|module| module.first()).collect();
    for name in modules {
        let found = read.circles(name);
        assert!(found.is_empty(), "files of {name} that import each other in a circle: {found:?}");
    }
}

#[test]
fn files_say_what_they_own_and_stay_short() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let found = files(&src);
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
    for module in ["executor", "reconciler", "run", "ssh", "role", "fleet", "cli"] {
        sources.extend(files(&root.join("src").join(module)));
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

/// The page names what covers a condition: each test, inventory and resource that it names is there.
#[test]
fn the_tests_that_the_verification_page_names_are_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join("docs/verification.md")).expect("the page");
    let (mut there, function) =
        (std::collections::BTreeSet::new(), regex::Regex::new("fn ([a-z0-9_]+)").expect("a pattern"));
    for file in files(&root.join("src")).into_iter().chain(files(&root.join("tests"))) {
        let text = std::fs::read_to_string(&file).expect("a source file");
        there.extend(function.captures_iter(&text).map(|found| found[1].to_owned()));
        there.extend(file.with_extension("").iter().map(|part| part.to_string_lossy().into_owned()));
    }
    let quoted = regex::Regex::new("`((?:[a-z0-9_]+::)*)([a-z0-9_]+)([…*]?)`").expect("a pattern");
    let mut missing = Vec::new();
    for found in quoted.captures_iter(&page) {
        let name = &found[2];
        // Words of the product, not of tests: they have neither a module before them nor several parts.
        if found[1].is_empty() && name.matches('_').count() < 2 {
            continue;
        }
        let is = |t: &String| if found[3].is_empty() { t == name } else { t.starts_with(name) };
        if !there.iter().any(is) {
            missing.push(found[0].to_owned());
        }
    }
    let refused = regex::Regex::new("`refused/([a-z0-9-]+)`").expect("a pattern");
    for found in refused.captures_iter(&page) {
        if !root.join(format!("tests/inventories/refused/{}.yaml", &found[1])).exists() {
            missing.push(found[0].to_owned());
        }
    }
    assert_eq!(missing, Vec::<String>::new());
}

/// The picture in CONTRIBUTING.md has every module, in its layer.
#[test]
fn the_picture_of_the_layers_is_the_code() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join("CONTRIBUTING.md")).expect("the page");
    let picture = text.split("```mermaid").nth(1).and_then(|t| t.split("```").next()).expect("a picture");
    let (mut shown, mut at) = (std::collections::BTreeMap::new(), None);
    for line in picture.lines().map(str::trim) {
        if let Some(rest) = line.strip_prefix("subgraph L") {
            at = rest.chars().next().and_then(|c| c.to_digit(10)).map(|n| n as u8);
        } else if let Some((module, _)) = line.split_once("[\"<b>") {
            shown.insert(module.to_owned(), at);
        }
    }
    let modules = std::fs::read_dir(root.join("src")).expect("src").map(|e| e.expect("entry"));
    let modules = modules.filter(|e| e.path().is_dir()).map(|e| e.file_name().to_string_lossy().into_owned());
    let code = modules.map(|m| (m.clone(), if m == "lab" { Some(0) } else { layer(&m) })).collect();
    assert_eq!(shown, code);
}

/// No module grows into a second program: only the lab, which simulates the world, may have more than 12 % of the code.
#[test]
fn no_module_but_the_lab_has_over_a_part_of_the_code() {
    const MOST_PERCENT: usize = 12;
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut lines = std::collections::BTreeMap::new();
    for file in files(&src) {
        let inside = file.strip_prefix(&src).expect("below src");
        let module = inside.components().next().expect("a module").as_os_str().to_string_lossy().into_owned();
        *lines.entry(module).or_insert(0) +=
            std::fs::read_to_string(&file).expect("a source").lines().count();
    }
    let all: usize = lines.values().sum();
    let large: Vec<_> =
        lines.iter().filter(|(module, n)| *module != "lab" && **n * 100 > all * MOST_PERCENT).collect();
    assert!(large.is_empty(), "of {all} lines: {large:?}");
}

/// The site is made of `docs/SUMMARY.md`: a page that it does not name is not there.
#[test]
fn every_page_is_in_the_site_and_every_page_of_the_site_is_there() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let summary = std::fs::read_to_string(docs.join("SUMMARY.md")).expect("the summary");
    let link = regex::Regex::new(r"\]\(([^)]+)\)").expect("a pattern");
    let named: BTreeSet<String> = link.captures_iter(&summary).map(|found| found[1].to_owned()).collect();
    let mut pages = BTreeSet::new();
    for folder in ["", "how-to", "reference", "decisions"] {
        for entry in std::fs::read_dir(docs.join(folder)).expect("a folder").filter_map(Result::ok) {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.ends_with(".md") && name != "SUMMARY.md" {
                pages.insert(if folder.is_empty() { name } else { format!("{folder}/{name}") });
            }
        }
    }
    assert_eq!(named, pages);
}
