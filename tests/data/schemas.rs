//! The JSON Schemas that `provision schema` prints: published under `docs/reference/schemas`, true of what is written, and a saved
//! plan of each format that was ever released is still read.

use crate::screens::{past, rack, upgrade};
use provision::catalog::Catalog;
use provision::inventory::load;
use provision::plan::{Drift, Facts, InventoryFacts, Plan, PlanFacts, compare};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Returns a schema as it is printed, which is the published one.
fn published(name: &str) -> Value {
    let output =
        Command::new(env!("CARGO_BIN_EXE_provision")).args(["schema", name]).output().expect("it runs");
    let printed = String::from_utf8(output.stdout).expect("text");
    let file = root().join(format!("docs/reference/schemas/{name}.json"));
    if std::env::var_os("PROVISION_UPDATE_DOCS").is_some() {
        std::fs::write(&file, &printed).expect("written");
    }
    let kept = std::fs::read_to_string(&file).unwrap_or_default();
    assert_eq!(kept, printed, "{} is not what is printed: run with PROVISION_UPDATE_DOCS=1", file.display());
    serde_json::from_str(&printed).expect("JSON")
}

/// Asserts that a value is valid by a schema, and is not any more without one of its properties that the schema requires.
fn holds(name: &str, value: &Value) {
    let schema = published(name);
    let required = schema["required"][0].as_str().expect("something is required").to_owned();
    let mut schemas = boon::Schemas::new();
    let mut compiler = boon::Compiler::new();
    compiler.add_resource("schema.json", schema).expect("JSON");
    let index = compiler.compile("schema.json", &mut schemas).expect("a valid JSON Schema");
    schemas.validate(value, index).unwrap_or_else(|error| panic!("{name}: {error:#}"));
    let mut broken = value.clone();
    broken.as_object_mut().expect("an object").remove(&required).expect("it was there");
    assert!(schemas.validate(&broken, index).is_err(), "{name} without {required}");
}

/// A small plan with hazards, drift, diffs and something deferred.
fn plan() -> Plan {
    let mut plan = upgrade(&rack(), &past());
    plan.targets.retain(|t| t.target.host().is_none_or(|h| matches!(h.as_str(), "cp-1" | "h-017")));
    plan
}

#[test]
fn what_is_written_is_valid_by_the_published_schemas() {
    let plan = plan();
    holds("plan", &serde_json::to_value(&plan).expect("plain data"));
    holds("drift", &serde_json::to_value(Drift::of(&plan)).expect("plain data"));
    let catalog = Catalog::builtin().expect("the catalog");
    let site = |name: &str, from: &str, to: &str| {
        let dir = tempfile::tempdir().expect("a folder");
        let text =
            std::fs::read_to_string(root().join("inventories/h100-rack/inventory.yaml")).expect("read");
        let path: PathBuf = dir.path().join(name);
        assert!(text.contains(from), "{from}");
        std::fs::write(&path, text.replace(from, to)).expect("written");
        load(&path, &catalog).unwrap_or_else(|d| panic!("{d}")).inventory
    };
    let (before, after) =
        (site("a.yaml", "580.178.04", "580.178.04"), site("b.yaml", "580.178.04", "580.126.09"));
    let diff = compare(&before, &after, &catalog);
    assert!(!diff.is_empty());
    holds("diff", &serde_json::to_value(diff).expect("plain data"));
}

/// What policies are judged on is valid by the published schema, and has all of its properties.
#[test]
fn the_variables_of_policies_are_those_of_the_published_schema() {
    let inventory = rack();
    let facts = Facts {
        plan: PlanFacts::of(&upgrade(&inventory, &past()), &inventory),
        inventory: InventoryFacts::of(&inventory),
        ..Facts::default()
    };
    let facts = serde_json::to_value(facts).expect("plain data");
    let schema = published("policy");
    let names = |value: &Value| -> Vec<String> {
        let mut names: Vec<String> = value.as_object().expect("an object").keys().cloned().collect();
        names.sort();
        names
    };
    assert_eq!(names(&facts), names(&schema["properties"]));
    let mut schemas = boon::Schemas::new();
    let mut compiler = boon::Compiler::new();
    compiler.add_resource("schema.json", schema).expect("JSON");
    let index = compiler.compile("schema.json", &mut schemas).expect("a valid JSON Schema");
    schemas.validate(&facts, index).unwrap_or_else(|error| panic!("{error:#}"));
    let mut broken = facts.clone();
    broken["plan"]["pool"] = 1.into();
    assert!(schemas.validate(&broken, index).is_err(), "an unknown property");
}

/// Who has a saved plan may apply it with a later version: a format stays readable, or its number changes.
#[test]
fn a_saved_plan_of_each_format_is_read() {
    let file = root().join("tests/data/plans/format-2.json");
    let (kept, _) = provision::plan::load(&file).expect("it is read");
    assert_eq!(kept.format, 2);
    let steps: Vec<String> =
        kept.targets.iter().flat_map(|t| &t.steps).map(|s| s.resource.to_string()).collect();
    assert!(steps.contains(&"package/nvidia-open-580".to_owned()), "{steps:?}");
    holds("plan", &serde_json::from_str(&std::fs::read_to_string(&file).expect("read")).expect("JSON"));
}

/// Who approves a plan reads its names in lines of ours: a file with lines of its own in them was not written by this program.
#[test]
fn a_saved_plan_whose_names_have_lines_is_refused() {
    let file = root().join("tests/data/plans/format-2.json");
    let text = std::fs::read_to_string(file).expect("read");
    let good: Value = serde_json::from_str(&text).expect("JSON");
    let pool = good["targets"].as_array().expect("targets").iter().position(|t| t["pool"].is_string());
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("plan.json");
    for pointer in [
        "/inventory".to_owned(),
        "/lock_digest".to_owned(),
        format!("/targets/{}/pool", pool.expect("a pool")),
    ] {
        let mut plan = good.clone();
        *plan.pointer_mut(&pointer).expect(&pointer) = "lab\n\nin sync: 5 hosts".into();
        std::fs::write(&path, plan.to_string()).expect("written");
        let why = provision::plan::load(&path).expect_err(&pointer).to_string();
        assert!(why.contains("control characters"), "{pointer}: {why}");
    }
}
