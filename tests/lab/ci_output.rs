//! Results as CI services read them: annotations of GitHub Actions, and JUnit XML.

use std::path::Path;
use std::process::{Command, Output};

fn run(dir: &Path, arguments: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_provision"));
    command.env("XDG_STATE_HOME", dir.join("state")).env("GITHUB_WORKSPACE", dir);
    command.env("GITHUB_STEP_SUMMARY", dir.join("summary.md")).env_remove("PROVISION_CONTEXT");
    command.current_dir(dir).args(arguments.split(' ')).output().expect("it runs")
}

fn site(change: impl Fn(String) -> String) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("inventories/lab/inventory.yaml");
    let text = std::fs::read_to_string(example).expect("the example");
    std::fs::write(dir.path().join("good.yaml"), &text).expect("written");
    std::fs::write(dir.path().join("site.yaml"), change(text)).expect("written");
    dir
}

/// Returns the lines that the runner obeys: those outside the stretches in which it is told not to.
fn obeyed(output: &Output) -> Vec<String> {
    let stdout = String::from_utf8(output.stdout.clone()).expect("text");
    let mut stopped: Option<String> = None;
    let mut obeyed = Vec::new();
    for line in stdout.lines() {
        match &stopped {
            Some(word) if line == format!("::{word}::") => stopped = None,
            Some(_) => {}
            None => match line.strip_prefix("::stop-commands::") {
                Some(word) => stopped = Some(word.to_owned()),
                None => obeyed.push(line.to_owned()),
            },
        }
    }
    assert_eq!(stopped, None, "the rest of the job's commands are obeyed again: {stdout}");
    obeyed
}

#[test]
fn errors_are_annotations_at_their_lines_and_nothing_else_is_obeyed() {
    // A text of the inventory's author that would be a command of the runner, and break out of a property.
    let dir = site(|text| text.replace("pool: h100,", "pool: \"x::error title=a,b::%0A\","));
    let output = run(
        dir.path(),
        &format!("validate -i {}/site.yaml --output github --junit out.xml", dir.path().display()),
    );
    assert_eq!(output.status.code(), Some(1));
    let lines = obeyed(&output);
    assert!(!lines.is_empty(), "{output:?}");
    for line in &lines {
        assert!(line.starts_with("::error file=site.yaml,line="), "{line}");
        assert!(line.contains(",title=E-") && line.matches("::").count() >= 2, "{line}");
        let properties = line.trim_start_matches("::error ").split("::").next().expect("properties");
        assert_eq!(properties.split(',').count(), 4, "file, line, column, title: {line}");
    }
    // The runner obeys commands on standard error too, and reads it before or after standard output.
    assert!(output.stderr.is_empty(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("error[E-"), "{output:?}");
    let xml = std::fs::read_to_string(dir.path().join("out.xml")).expect("JUnit");
    assert!(
        xml.contains("name=\"validate\"") && xml.contains(&format!("failures=\"{}\"", lines.len())),
        "{xml}"
    );
    assert!(xml.contains("site.yaml:"), "{xml}");

    let output = run(dir.path(), "validate -i good.yaml --output github --junit out.xml");
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(obeyed(&output), Vec::<String>::new());
    let xml = std::fs::read_to_string(dir.path().join("out.xml")).expect("JUnit");
    assert!(xml.contains("tests=\"1\"") && xml.contains("failures=\"0\""), "{xml}");
    // What is no error of an inventory has no place.
    let output = run(dir.path(), "plan -i good.yaml --limit nobody --output github");
    assert_eq!(output.status.code(), Some(1));
    let lines = obeyed(&output);
    assert!(lines.len() == 1 && lines[0].starts_with("::error title=E-"), "{lines:?}");
}

/// A device or a pipe stays what it is, a link leads nowhere, and a file of an earlier run is not taken for this one's.
#[test]
fn results_go_to_the_file_that_is_named_or_the_command_fails() {
    let dir = site(|text| text.replace("pool: h100,", "pool: nowhere,"));
    let fifo = dir.path().join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().expect("mkfifo").success());
    let reader = std::thread::spawn({
        let fifo = fifo.clone();
        move || std::fs::read_to_string(fifo)
    });
    assert_eq!(run(dir.path(), "validate -i good.yaml --junit fifo").status.code(), Some(0));
    // Had the pipe been replaced by a file, nobody would write into it.
    assert!(!std::fs::metadata(&fifo).expect("there").is_file(), "the pipe was replaced");
    assert!(reader.join().expect("ended").expect("read").contains("failures=\"0\""));

    std::fs::write(dir.path().join("kept.xml"), "kept").expect("written");
    std::os::unix::fs::symlink("kept.xml", dir.path().join("link.xml")).expect("a link");
    assert_eq!(run(dir.path(), "validate -i good.yaml --junit link.xml").status.code(), Some(0));
    assert_eq!(std::fs::read_to_string(dir.path().join("kept.xml")).expect("read"), "kept");

    for (inventory, arguments) in [("good", "nowhere/out.xml"), ("good", "."), ("site", "nowhere/out.xml")] {
        let output = run(dir.path(), &format!("validate -i {inventory}.yaml --junit {arguments}"));
        assert_eq!(output.status.code(), Some(1), "{arguments}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("cannot write "), "{output:?}");
    }
    for (command, wanted) in [
        ("preflight -i site.yaml", "site.yaml:"),
        ("drift -i site.yaml", "site.yaml:"),
        ("verify -i site.yaml", "site.yaml:"),
        ("policy test site.yaml", "site.yaml:"),
        ("drift -i good.yaml --limit nobody", "drift E-LAB-DOWN"),
        ("policy test nowhere", "policy test E-"),
    ] {
        std::fs::write(dir.path().join("out.xml"), "an earlier run").expect("written");
        let output = run(dir.path(), &format!("{command} --junit out.xml"));
        assert_eq!(output.status.code(), Some(1), "{command}: {output:?}");
        let xml = std::fs::read_to_string(dir.path().join("out.xml")).expect("JUnit");
        assert!(xml.contains("<failure") && xml.contains(wanted), "{command}: {xml}");
    }
}

#[test]
fn a_plan_drift_and_a_comparison_are_told() {
    let dir = site(|text| text.replacen("name: lab", "name: ci", 1));
    let ends = |arguments: &str, code: i32| {
        let output = run(dir.path(), arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments}: {output:?}");
        output
    };
    ends("lab up site.yaml", 0);
    let planned = obeyed(&ends("plan -i site.yaml --lab --output github", 2));
    assert!(planned.len() == 1 && planned[0].starts_with("::notice title=Plan::"), "{planned:?}");
    let drift = obeyed(&ends("drift -i site.yaml --lab --output github --junit drift.xml", 2));
    assert!(drift.iter().any(|line| line.starts_with("::warning title=h-1 differs::")), "{drift:?}");
    let xml = std::fs::read_to_string(dir.path().join("drift.xml")).expect("JUnit");
    assert!(xml.contains("name=\"h-1\"") && xml.contains("type=\"differs\""), "{xml}");
    let passed = ends("preflight -i site.yaml --lab --output github --junit preflight.xml", 0);
    assert_eq!(obeyed(&passed), Vec::<String>::new());
    let xml = std::fs::read_to_string(dir.path().join("preflight.xml")).expect("JUnit");
    assert!(xml.contains("tests=\"5\"") && xml.contains("failures=\"0\""), "{xml}");
    ends("diff good.yaml site.yaml --output github", 2);
    let summary = std::fs::read_to_string(dir.path().join("summary.md")).expect("a summary");
    assert!(summary.starts_with("### "), "{summary}");
    ends("lab down site.yaml", 0);
}
