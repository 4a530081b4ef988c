//! `-c NAME`, PROVISION_CONTEXT and log files, as a user has them.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

/// Runs `provision` with a file of contexts in `dir`, and without what this machine has configured.
fn run(dir: &Path, environment: &[(&str, &str)], arguments: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_provision"));
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.env("HOME", dir).env("XDG_STATE_HOME", dir.join("state")).current_dir(dir);
    command.envs(environment.iter().copied()).args(arguments.split(' ')).output().expect("it runs")
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn a_saved_plan_is_applied_to_its_own_inventory_or_not_at_all() {
    let home = home("contexts:\n  one: {inventory: ~/fleet/one}\n  two: {inventory: ~/fleet/two}\n");
    let ends = |arguments: &str, code: i32| {
        let output = run(home.path(), &[], arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments}: {}", text(&output));
        text(&output)
    };
    // The example's addresses are those of any other lab on this machine, but each lab has a network of its own.
    let state = home.path().join("state");
    ends("lab up fleet/one", 0);
    ends("-c one plan --lab -o plan.json", 2);
    let refused = ends("apply plan.json -c two --yes", 1);
    assert!(refused.contains("plan.json is a plan of inventory one, not of two"), "{refused}");
    let shown = ends("-c one plan --lab", 2);
    assert!(shown.contains("provision apply -c one --lab"), "{shown}");
    ends("lab down fleet/one", 0);
    assert!(state.is_dir());
}

/// Makes a home with inventories `one` and `two`, and contexts of these names.
fn home(contexts: &str) -> tempfile::TempDir {
    let home = tempfile::tempdir().expect("a folder");
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("inventories/lab/inventory.yaml");
    let example = std::fs::read_to_string(example).expect("the example");
    for name in ["one", "two"] {
        std::fs::create_dir_all(home.path().join("fleet").join(name)).expect("made");
        let text = example.replacen("name: lab", &format!("name: {name}"), 1);
        std::fs::write(home.path().join("fleet").join(name).join("inventory.yaml"), text).expect("written");
    }
    std::fs::create_dir_all(home.path().join(".config/provision")).expect("made");
    std::fs::write(home.path().join(".config/provision/config.yaml"), contexts).expect("written");
    home
}

const BOTH: &str = "contexts:\n  one:\n    inventory: ~/fleet/one\n  two:\n    inventory: ../../fleet/two\n    mirror: bundle\n";

#[test]
fn a_context_stands_for_an_inventory_wherever_it_is_named() {
    let home = home(BOTH);
    let at = |environment: &[(&str, &str)], arguments: &str| run(home.path(), environment, arguments);
    for (environment, arguments, wanted) in [
        (&[][..], "-c one validate", "one is valid"),
        (&[], "validate -c two", "two is valid"),
        (&[("PROVISION_CONTEXT", "one")], "validate", "one is valid"),
        (&[("PROVISION_CONTEXT", "one")], "-c two validate", "two is valid"),
        (&[("PROVISION_CONTEXT", "one")], "validate -i fleet/two", "two is valid"),
        (&[("PROVISION_INVENTORY", "fleet/two")], "-c one validate", "one is valid"),
        (&[("PROVISION_INVENTORY", "fleet/two")], "validate", "two is valid"),
        (&[("PROVISION_CONTEXT", "")], "validate -i fleet/one", "one is valid"),
        (&[], "-c two endpoint search", "search"),
        (&[], "-c one catalog", "h100"),
        // Commands without an inventory do not need the environment's context.
        (&[("PROVISION_CONTEXT", "none")], "schema", "schema"),
        (&[("PROVISION_CONTEXT", "one"), ("PROVISION_INVENTORY", "fleet/two")], "contexts", "one"),
        (&[("PROVISION_CONTEXT", "none")], "diff fleet/one fleet/one", ""),
    ] {
        let output = at(environment, arguments);
        assert_eq!(output.status.code(), Some(0), "{environment:?} {arguments}: {}", text(&output));
        assert!(text(&output).contains(wanted), "{environment:?} {arguments}: {}", text(&output));
    }
    for (environment, arguments, wanted) in [
        (&[][..], "-c one validate -i fleet/two", "-c and an inventory are both given"),
        (&[("PROVISION_CONTEXT", "one"), ("PROVISION_INVENTORY", "fleet/two")], "plan", "are both set"),
        (&[], "-c three plan", "Specify one of: one, two"),
        (&[("PROVISION_CONFIG", "/nowhere")], "-c one plan", "/nowhere: No such file"),
        (&[("PROVISION_CONFIG", ".")], "-c one plan", "not a regular file"),
        (&[("PROVISION_CONTEXT", "one")], "-c  validate", "-c has an empty name"),
        // The mirror of the context is used: there is no bundle.
        (&[], "-c two lock", "bundle"),
    ] {
        let output = at(environment, arguments);
        assert_eq!(output.status.code(), Some(1), "{environment:?} {arguments}: {}", text(&output));
        assert!(text(&output).contains(wanted), "{environment:?} {arguments}: {}", text(&output));
    }
    let listed = at(&[], "contexts --output json");
    let listed: serde_json::Value = serde_json::from_slice(&listed.stdout).expect("JSON");
    assert_eq!(listed["contexts"][0]["inventory"], home.path().join("fleet/one").to_str().expect("text"));
}

#[test]
fn a_mistake_in_the_file_has_its_place() {
    for (contexts, wanted) in [
        ("contexts:\n  one: {inventry: x}\n", "inventry"),
        ("contexts:\n  one: {}\n", "config.yaml:2:8"),
        ("contexts:\n  one:\n", "context `one` is not a mapping"),
        ("contexts:\n  one: {inventory: ''}\n", "`inventory` is empty"),
        ("contexts:\n  one: {inventory: [a]}\n", "`inventory` is not a text"),
        ("contexts:\n  one: {inventory:}\n", "`inventory` is not a text"),
        ("contexts:\n  \"-x\": {inventory: x}\n", "`-x` is not a name"),
        ("contexts:\n  one: {inventory: x, mirror: 'ftp://x'}\n", "config.yaml:2:31"),
        ("contexts:\n  one: {inventory: x, allowOutside: y}\n", "`allowOutside` is not a list"),
        ("current: one\n", "config.yaml:1:1"),
        ("- one\n", "the file is not a mapping"),
        ("contexts: 3\n", "`contexts` is not a mapping"),
        // Every mistake at once.
        ("contexts:\n  one: {inventory: x, polices: y}\n  two: {}\n", "2 errors in "),
        (&format!("contexts: {{}}\n{}", "#".repeat(300 << 10)), "larger than"),
    ] {
        let home = home(contexts);
        let output = run(home.path(), &[], "-c one plan");
        assert_eq!(output.status.code(), Some(1), "{contexts:.60}: {}", text(&output));
        let said = text(&output);
        assert!(
            said.contains("error[E-CONTEXT]") && said.contains("config.yaml") && said.contains(wanted),
            "{said}"
        );
        // Words of the parser are for programmers.
        for word in ["scalar", "sequence", "deserialize", "Option", "field", "snippet"] {
            assert!(!said.contains(word), "{said}");
        }
        // Commands without a context do not depend on it.
        assert_eq!(run(home.path(), &[], "validate -i fleet/one").status.code(), Some(0));
    }
}

#[test]
fn a_log_file_has_every_message_with_its_time_and_only_its_owner_reads_it() {
    let home = home(BOTH);
    let log = home.path().join("log");
    for arguments in ["--log-file log -c three plan", "-c one plan --log-file log"] {
        let output = run(home.path(), &[], arguments);
        assert_ne!(output.status.code(), Some(0), "{}", text(&output));
    }
    let lines = std::fs::read_to_string(&log).expect("a log");
    assert!(
        lines.contains(": plan (process ")
            && lines.contains("ended with exit code 1")
            && lines.contains("E-CONTEXT")
            && lines.contains("E-LAB-DOWN"),
        "{lines}"
    );
    for line in lines.lines() {
        let time = line.split(' ').next().expect("a word");
        assert!(time.parse::<jiff::Timestamp>().is_ok(), "{line}");
        assert!(!line.contains('\u{1b}'), "{line}");
    }
    assert_eq!(std::fs::metadata(&log).expect("a log").permissions().mode() & 0o777, 0o600);
    // A link may lead to another file than meant, and to a pipe nobody may listen.
    std::os::unix::fs::symlink("fleet/one/inventory.yaml", home.path().join("link")).expect("a link");
    assert!(Command::new("mkfifo").arg(home.path().join("fifo")).status().expect("mkfifo").success());
    for file in ["nowhere/log", "link", "fifo", "fleet"] {
        let refused = run(home.path(), &[], &format!("--log-file {file} validate -i fleet/one"));
        assert_eq!(refused.status.code(), Some(1), "{}", text(&refused));
        assert!(text(&refused).contains("cannot write the log file"), "{}", text(&refused));
    }
    let example = std::fs::read_to_string(home.path().join("fleet/one/inventory.yaml")).expect("read");
    assert!(!example.contains("(process "), "{example}");
    // Who else reads an existing file was its owner's choice, but is told.
    let said = |mode| {
        std::fs::set_permissions(&log, std::fs::Permissions::from_mode(mode)).expect("set");
        let output = run(home.path(), &[], "validate -i fleet/one --log-file log");
        assert_eq!(output.status.code(), Some(0), "{}", text(&output));
        assert_eq!(std::fs::metadata(&log).expect("a log").permissions().mode() & 0o777, mode);
        text(&output)
    };
    assert!(!said(0o600).contains("warning"));
    for mode in [0o640, 0o604] {
        let said = said(mode);
        assert!(
            said.contains("warning: other users can read log") && said.contains("chmod 600 log"),
            "{said}"
        );
    }
}

/// The lab of a context is had like anything else of it, where the command has no arguments before which it would stand.
#[test]
fn the_lab_simulates_the_inventory_of_a_context() {
    let home = home(BOTH);
    let ends = |environment: &[(&str, &str)], arguments: &str, code: i32| {
        let output = run(home.path(), environment, arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments}: {}", text(&output));
        text(&output)
    };
    let up = ends(&[], "-c one lab up", 0);
    assert!(up.contains("provision plan -c one\n") && up.contains("provision lab down -c one"), "{up}");
    assert!(ends(&[("PROVISION_CONTEXT", "one")], "lab status", 0).contains("LAB one"));
    assert!(ends(&[], "lab status fleet/one", 0).contains("LAB one"));
    assert!(ends(&[], "-c two lab status", 1).contains("not running"));
    assert!(ends(&[], "lab status fleet/two -c one", 1).contains("-c and an inventory are both given"));
    assert!(ends(&[], "-c one lab ssh w-1 true", 1).contains("`lab ssh` does not accept -c"));
    assert!(ends(&[], "-c one lab fault fleet/one w-1=lost", 1).contains("`lab fault` does not accept -c"));
    assert!(ends(&[], "lab down -c one", 0).contains("stopped"));
}
