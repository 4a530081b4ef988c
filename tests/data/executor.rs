//! Data tests of `executor`: a resource and the output of a host in; observation, diff and the shell that changes it out
//! (`tests/resources/<kind>/<case>.yaml`, with the golden text next to it). In an output, `^` at the start of a line stands
//! for a frame mark.

use provision::executor::{diff, enact_program, launch_program, observations, observe_program};
use provision::plan::steps_of;
use provision::state::*;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

#[derive(Deserialize)]
struct Case {
    packages: PackageManager,
    resource: Spec,
    answer: String,
}

fn cases() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/resources");
    let list = |dir: &Path| -> Vec<PathBuf> {
        std::fs::read_dir(dir).expect("readable").map(|e| e.expect("entry").path()).collect()
    };
    let mut cases: Vec<PathBuf> = list(&root).iter().flat_map(|kind| list(kind)).collect();
    cases.retain(|path| path.extension().is_some_and(|e| e == "yaml"));
    cases.sort();
    cases
}

/// The step that makes a change to a resource of a host.
pub(crate) fn step(resource: &Resource, change: Change) -> Step {
    Step::make(&TargetId::Host("h-1".into()), resource, change)
}

/// The shell of the one step of a program.
pub(crate) fn shell(program: &str) -> &str {
    let from = program.find("( set -e\n").expect("a step") + "( set -e\n".len();
    &program[from..from + program[from..].find("); r=$?").expect("its end")]
}

/// The record that managed.json would get.
fn record(program: &str) -> Option<Managed> {
    let line = program.lines().find(|l| l.starts_with("remember "))?;
    let record = &line[line.find("'{").expect("a record") + 1..line.len() - 1];
    Some(serde_json::from_str(&record.replace("'\\''", "'")).expect("JSON"))
}

fn golden(case: &Case) -> String {
    let resource = Resource::new("test", case.resource.clone());
    let answer: String = case
        .answer
        .lines()
        .map(|line| match line.strip_prefix('^') {
            Some(frame) => format!("\u{1e}{frame}\n"),
            None => format!("{line}\n"),
        })
        .collect();
    let resources = [resource.clone()];
    let seen = observations(&resources, &answer).expect("a whole answer").remove(&resource.id).expect("seen");
    let mut text = String::new();
    let mut line = |l: String| text.push_str(&(l + "\n"));
    match &seen {
        Observation::Present(seen) => {
            line("present".into());
            seen.fields.iter().for_each(|(name, value)| line(format!("  {name}: {value}")));
        }
        other => line(format!("{other:?}").to_lowercase()),
    }
    let facts = Facts { package_manager: Some(case.packages), ..Facts::default() };
    let Some(change) = diff(&resource, &seen) else {
        line("nothing to do".into());
        return text;
    };
    line(format!("{:?}", change.verb).to_lowercase());
    for field in &change.fields {
        let show = |v: &Option<String>| v.clone().unwrap_or_else(|| "-".into());
        line(format!("  {}: {} -> {}", field.name, show(&field.from), show(&field.to)));
    }
    let observed = Observed {
        target: TargetId::Host("h-1".into()),
        facts: facts.clone(),
        desired: vec![resource.clone()],
        seen: BTreeMap::from([(resource.id.clone(), seen)]),
        orphans: Vec::new(),
        warnings: Vec::new(),
    };
    let program = enact_program(&steps_of(&observed).0, &facts);
    let _ = write!(text, "{}", change.text.map(|t| format!("diff\n{t}")).unwrap_or_default());
    let _ = write!(text, "enact\n{}", shell(&program));
    if let Some(managed) = record(&program) {
        let _ = writeln!(text, "record: {}", if managed.adopted { "adopted" } else { "ours" });
        let removal = Step::remove(&TargetId::Host("h-1".into()), &Orphan::from(managed));
        let program = enact_program(&[removal], &facts);
        let _ = write!(text, "remove\n{}", shell(&program));
    }
    text
}

#[test]
fn each_kind_observes_compares_and_repairs_as_in_its_cases() {
    let cases = cases();
    assert!(cases.len() > 50, "the cases were found");
    let mut settings = insta::Settings::clone_current();
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    for path in cases {
        let text = std::fs::read_to_string(&path).expect("readable");
        let case: Case = serde_saphyr::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        assert_eq!(
            path.parent().and_then(Path::file_name).and_then(|n| n.to_str()),
            Some(case.resource.id().kind().as_str()),
            "{} is in the folder of its kind",
            path.display()
        );
        settings.set_snapshot_path(path.parent().expect("a folder"));
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        settings.bind(|| insta::assert_snapshot!(name, golden(&case)));
    }
}

/// Swap is found and commented out as fstab(5) and swapon read it.
#[test]
fn swap_is_read_from_fstab_as_its_manual_says() {
    let swaps = [
        "/swap.img\tnone\tswap\tsw\t0\t0",
        "UUID=0a none swap",
        "  /swapfile none swap sw 0 0",
        "\t/dev/sdb1\t none  swap\tdefaults",
        "/dev/mapper/vg-swap swap swap defaults 0 0",
        "LABEL=my\\040swap none swap sw,pri=5 0 0",
        "/data/swap#1 none swap sw 0 0 # the second",
    ];
    let others = [
        "#/old none swap sw 0 0",
        "  # /old none swap sw 0 0",
        "/dev/sda1 / ext4 defaults 0 1",
        "/dev/sdc1 /swap swapfs defaults 0 0",
        "/dev/sdd1 /mnt\\040swap xfs defaults 0 0",
        "",
    ];
    let resource = Resource::new("test", Spec::Swap(Swap {}));
    let dir = tempfile::tempdir().expect("a folder");
    let fstab = dir.path().join("fstab");
    let here = fstab.display().to_string();
    std::fs::write(&fstab, swaps.join("\n") + "\n" + &others.join("\n") + "\n").expect("written");
    let run = |program: &str| {
        let program = program.replace("/etc/fstab", &here);
        let output = std::process::Command::new("sh").args(["-c", &program]).output().expect("sh runs");
        String::from_utf8(output.stdout).expect("text")
    };
    let query = observe_program(std::slice::from_ref(&resource));
    let query = query.lines().find(|l| l.contains("/etc/fstab")).expect("reads it").to_owned();
    assert_eq!(run(&query).lines().collect::<Vec<_>>(), swaps);
    let change = Change { verb: Verb::Update, ..Change::removal(&resource.id) };
    let program = enact_program(&[step(&resource, change)], &Facts::default());
    run(&shell(&program).replace("swapoff -a", ""));
    let text = std::fs::read_to_string(&fstab).expect("there");
    let off = swaps.map(|line| format!("# provision: swap off: {line}"));
    assert_eq!(text, off.join("\n") + "\n" + &others.join("\n") + "\n");
    assert_eq!(run(&query), "");
}

#[test]
fn every_kind_of_a_host_has_cases_and_each_reaches_sync() {
    let kinds = [
        "package",
        "package-repository",
        "file",
        "directory",
        "line-in-file",
        "symlink",
        "download",
        "unit",
        "kernel-module",
        "sysctl",
        "filesystem",
        "mount",
        "swap",
        "hostname",
        "command",
        "reboot",
    ];
    for kind in kinds {
        let of_kind: Vec<Case> = cases()
            .iter()
            .filter(|p| p.parent().is_some_and(|d| d.ends_with(kind)))
            .map(|p| serde_saphyr::from_str(&std::fs::read_to_string(p).expect("readable")).expect("a case"))
            .collect();
        let quiet = of_kind.iter().filter(|c| golden(c).ends_with("nothing to do\n")).count();
        assert!(quiet > 0 && of_kind.len() > quiet, "{kind}: {quiet} of {} cases are in sync", of_kind.len());
    }
}

fn secret(value: &str) -> Resource {
    let content = Content::Secret(SecretText::new(value));
    let file =
        File { path: "/etc/token".into(), content, mode: 0o600, owner: "root:root".into(), validate: None };
    Resource::new("test", Spec::File(file))
}

#[test]
fn no_program_that_is_shown_or_stored_holds_a_secret() {
    let canary = "canary-77aa";
    let resource = secret(canary);
    let create = Change { verb: Verb::Create, fields: Vec::new(), text: None };
    let program = enact_program(&[step(&resource, create)], &Facts::default());
    let shown = observe_program(std::slice::from_ref(&resource)) + &program;
    // What must not be there: the text, its base64, and a digest that could be guessed from.
    let base64 = {
        use base64::Engine;
        base64::engine::general_purpose::STANDARD.encode(canary)
    };
    use sha2::Digest;
    let digest: String = sha2::Sha256::digest(canary).iter().map(|b| format!("{b:02x}")).collect();
    for trace in [canary, &base64, &digest] {
        assert!(!shown.contains(trace), "{trace} is in a program");
    }
    // The same search finds plain content: it would have found the secret.
    let plain = Spec::File(File {
        path: "/etc/plain".into(),
        content: Content::Text(canary.into()),
        mode: 0o600,
        owner: "root:root".into(),
        validate: None,
    });
    let plain = Resource::new("test", plain);
    let create = Change { verb: Verb::Create, fields: Vec::new(), text: None };
    let found = enact_program(&[step(&plain, create)], &Facts::default()).contains(&base64);
    assert!(found);
}

#[test]
fn a_step_that_was_read_from_a_file_fails_with_a_message() {
    let create = Change { verb: Verb::Create, fields: Vec::new(), text: None };
    let step = step(&Resource::new("test", Spec::Swap(Swap {})), create);
    let text = serde_json::to_string(&step).expect("JSON");
    let read: Step = serde_json::from_str(&text).expect("the same");
    let program = enact_program(&[read], &Facts::default());
    assert!(shell(&program).contains("swap/all: its plan was read from a file"), "{program}");
    assert!(shell(&program).contains("exit 1"));
}

#[test]
fn a_run_of_steps_that_change_a_unit_restarts_it_once_before_what_relies_on_it() {
    let file = |path: &str| {
        let content = Content::Text("x".into());
        let file =
            File { path: path.into(), content, mode: 0o644, owner: "root:root".into(), validate: None };
        let mut resource = Resource::new("test", Spec::File(file));
        resource.restarts = vec!["a.service".into()];
        resource
    };
    let ready = Resource::new(
        "test",
        Spec::Command(Command {
            name: "ready".into(),
            guard: "true".into(),
            apply: "true".into(),
            undo: None,
            wanted: "ready".into(),
            when_changed: Vec::new(),
        }),
    );
    let resources = [file("/etc/1"), file("/etc/2"), ready];
    let steps: Vec<Step> = resources
        .iter()
        .map(|r| step(r, Change { verb: Verb::Create, fields: Vec::new(), text: None }))
        .collect();
    let program = enact_program(&steps, &Facts::default());
    let order: Vec<&str> = program
        .lines()
        .skip_while(|l| !l.starts_with("main()"))
        .filter(|l| l.starts_with("again") || l.starts_with("pend") || l.contains("036step"))
        .collect();
    assert_eq!(
        order,
        [
            r"printf '\036step %s\n' file//etc/1",
            "pend a.service",
            r"printf '\036step %s\n' file//etc/2",
            "pend a.service",
            "again",
            r"printf '\036step %s\n' command/ready",
            "again",
        ]
    );
}

/// The shells of this machine that `/bin/sh` is on one host or another.
fn shells() -> Vec<&'static str> {
    let all = ["/bin/sh", "/bin/dash", "/bin/bash", "/bin/ksh", "/bin/mksh"];
    all.into_iter().filter(|shell| Path::new(shell).exists()).collect()
}

/// Runs a program as a host would, and returns what it printed.
fn run(shell: &str, program: &str) -> String {
    use std::io::Write;
    use std::process::{Command, Stdio};
    let mut command = Command::new(shell);
    if shell.ends_with("bash") {
        command.arg("--posix");
    }
    let mut child = command
        .arg("-s")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("a shell");
    child.stdin.take().expect("its input").write_all(program.as_bytes()).expect("written");
    String::from_utf8_lossy(&child.wait_with_output().expect("its end").stdout).into_owned()
}

/// Resources that a plain user may bring about below a folder.
fn harmless(dir: &Path) -> Vec<Resource> {
    let whoami = |flag: &str| {
        let output = std::process::Command::new("id").arg(flag).output().expect("id runs");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    let owner = format!("{}:{}", whoami("-u"), whoami("-g"));
    let at = |name: &str| dir.join(name).display().to_string();
    let file = |name: &str, content: Content, validate: Option<&str>| {
        let owner = owner.clone();
        Spec::File(File { path: at(name), content, mode: 0o640, owner, validate: validate.map(Into::into) })
    };
    let hard = "it's \"hard\" $HOME `x` \\n %s * \t\n\nno newline at the end".to_owned();
    let guard = format!("[ -e '{}' ] || {{ printf 'not yet'; exit 1; }}", at("made by a command"));
    let specs = vec![
        Spec::Directory(Directory { path: at("a folder"), mode: 0o750, owner: owner.clone() }),
        file("a folder/it's a file", Content::Text(hard), Some("grep -q hard {}")),
        file("empty", Content::Text(String::new()), None),
        file("shared", Content::Text("theirs, and no newline".into()), None),
        Spec::LineInFile(LineInFile {
            path: at("lines"),
            name: "one".into(),
            line: "$1 is 'one' \\t".into(),
        }),
        Spec::LineInFile(LineInFile { path: at("lines"), name: "one-more".into(), line: "two".into() }),
        Spec::Symlink(Symlink { path: at("a link"), target: at("a folder") }),
        Spec::Command(Command {
            name: "it's".into(),
            guard,
            apply: format!("printf 'no newline'; : >'{}'", at("made by a command")),
            undo: None,
            wanted: "made".into(),
            when_changed: Vec::new(),
        }),
    ];
    specs.into_iter().map(|spec| Resource::new("test", spec)).collect()
}

fn observe(shell: &str, resources: &[Resource]) -> Vec<Step> {
    let answer = run(shell, &observe_program(resources));
    // Facts come first, with an end of their own.
    let state = answer.split_once("\u{1e}end 0\n").expect("facts").1;
    let seen = observations(resources, state).expect("a whole answer");
    resources.iter().filter_map(|r| Some(step(r, diff(r, &seen[&r.id])?))).collect()
}

#[test]
fn every_shell_brings_about_what_it_then_sees() {
    for shell in shells() {
        let dir = tempfile::tempdir().expect("a folder");
        let state = dir.path().join("state");
        std::fs::create_dir_all(state.join("runs/BATCH")).expect("made");
        std::fs::write(dir.path().join("lines"), "0 # provision: on\nno newline").expect("written");
        let resources = harmless(dir.path());
        let plan = observe(shell, &resources);
        assert_eq!(plan.len(), resources.len(), "{shell}: all is to be done: {plan:#?}");
        let program = enact_program(&plan, &Facts::default())
            .replace("/var/lib/provision", &state.display().to_string())
            .replace("/dev/shm/provision-BATCH", &dir.path().join("memory").display().to_string());
        // On a host it is a file that the launcher wrote, checked and started.
        let file = state.join("runs/BATCH/program");
        std::fs::write(&file, &program).expect("written");
        run(shell, &format!("{shell} '{}'\n", file.display()));
        let output = std::fs::read_to_string(state.join("runs/BATCH/output")).expect("output");
        assert_eq!(
            std::fs::read_to_string(state.join("runs/BATCH/rc")).expect("an end"),
            "0",
            "{shell}: {output}"
        );
        assert_eq!(observe(shell, &resources), [], "{shell}: the second plan is empty");
        let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).expect(name);
        assert_eq!(
            read("lines"),
            "0 # provision: on\nno newline\n$1 is 'one' \\t # provision: one\ntwo # provision: one-more\n",
            "{shell}"
        );
        assert!(read("a folder/it's a file").ends_with("no newline at the end"), "{shell}");
        assert_eq!(read("state/managed.json").lines().count(), resources.len() + 2, "{shell}");
        let left: Vec<_> = std::fs::read_dir(dir.path())
            .expect("readable")
            .map(|e| e.expect("entry").file_name().to_string_lossy().into_owned())
            .filter(|name| name.contains("provision-new"))
            .collect();
        assert!(left.is_empty(), "{shell}: {left:?}");

        // What travels over the connection does nothing at all, wherever it is cut.
        let elsewhere = dir.path().join("elsewhere");
        let launcher =
            launch_program(&program).replace("/var/lib/provision", &elsewhere.display().to_string());
        for cut in (1..16).map(|n| launcher.len() * n / 16).chain([launcher.len() - "main\n".len()]) {
            run(shell, &launcher[..cut]);
            assert!(!elsewhere.exists(), "{shell}: cut at {cut} of {}", launcher.len());
        }
    }
}

#[test]
fn every_shell_reads_a_kernel_setting_whole() {
    // dash's `read` takes a byte at a time, and a number in /proc/sys ends after the first: 65530 would read as 6.
    let path = "/proc/sys/vm/max_map_count";
    let Ok(live) = std::fs::read_to_string(path) else { return }; // not Linux
    let live = live.trim().to_owned();
    assert!(live.len() > 1, "{live} would not show it");
    let resource = Resource::new(
        "test",
        Spec::Sysctl(Sysctl { key: "vm.max_map_count".into(), value: "1".into(), raise_only: false }),
    );
    for shell in shells() {
        let steps = observe(shell, std::slice::from_ref(&resource));
        let seen = steps[0].change.fields.iter().find(|f| f.name == "live").and_then(|f| f.from.clone());
        assert_eq!(seen.as_ref(), Some(&live), "{shell}");
    }
}

/// What was recorded when a resource was made says what removing it disturbs: the same as changing it.
#[test]
fn a_removal_disturbs_what_a_change_would() {
    let spec = Spec::File(File {
        path: "/etc/k0s/containerd.d/nvidia.toml".into(),
        content: Content::Text("x".into()),
        mode: 0o644,
        owner: "root:root".into(),
        validate: None,
    });
    let mut resource = Resource::new("nvidia", spec);
    resource.restarts = vec!["k0sworker.service".into()];
    resource.hazards = vec![Hazard::Drain];
    let create = diff(&resource, &Observation::Absent).expect("to be made");
    let program = enact_program(&[step(&resource, create)], &Facts::default());
    let managed = record(&program).expect("a record");
    assert_eq!(managed.hazards, [Hazard::Drain, Hazard::Restart("k0sworker.service".into())]);
    // Nothing wants it any more.
    let observed = Observed {
        target: TargetId::Host("w-1".into()),
        facts: Facts { managed: vec![managed.clone()], ..Facts::default() },
        desired: Vec::new(),
        seen: BTreeMap::new(),
        orphans: vec![Orphan::from(managed.clone())],
        warnings: Vec::new(),
    };
    let (steps, _) = steps_of(&observed);
    assert_eq!(steps[0].hazards, managed.hazards);
    let program = enact_program(&steps, &observed.facts);
    let restart = program.find("pend 'k0sworker.service'").or_else(|| program.find("pend k0sworker.service"));
    assert!(restart.is_some_and(|at| at < program.rfind("again\n").expect("the end")), "{program}");
    // A record of an earlier version says nothing of it.
    let old = r#"{"kind":"file","id":"file//etc/x","hash":"","adopted":false}"#;
    let old: Managed = serde_json::from_str(old).expect("understood");
    assert_eq!((old.id.what(), old.hazards), ("file /etc/x".to_owned(), Vec::new()));
}

/// A process costs a host more than all that a shell reads by itself: `cat`, `uname`, `id` and a watchdog for each tool were
/// 31. Counted in a pid namespace of its own, where pids are given out in order.
#[test]
fn facts_of_a_plain_host_take_few_processes() {
    const MOST: u32 = 10;
    let program = observe_program(&[]);
    let facts = &program[..program.find("\nstate() {").expect("facts come first")];
    for shell in shells() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = |name: &str| dir.path().join(name).display().to_string();
        std::fs::write(path("facts"), facts).expect("written");
        // The namespace's first process starts the shell, then one that says which it is.
        let count = format!("{shell} -s <{} >{}; sh -c 'echo $$'", path("facts"), path("answer"));
        let output = std::process::Command::new("unshare")
            .args(["--map-root-user", "--pid", "--fork", "sh", "-c", &count])
            .output()
            .expect("unshare runs");
        let text = String::from_utf8_lossy(&output.stdout);
        let last: u32 = text.trim().parse().unwrap_or_else(|_| panic!("{output:?}"));
        let answer = std::fs::read_to_string(path("answer")).expect("an answer");
        assert!(answer.ends_with("\u{1e}end 0\n"), "{shell}: {answer}");
        let taken = last - 3;
        // cloud-init and k0s are not on a plain host, and have a watchdog each.
        assert!((1..=MOST).contains(&taken), "{shell}: {taken} processes");
    }
}
