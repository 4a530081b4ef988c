//! No package goes that the plan did not name: the shell of package steps, on package managers that would remove others.

use crate::executor::shell;
use provision::executor::enact_program;
use provision::plan::steps_of;
use provision::state::*;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// apt that removes `rival`, and what depends on it, for `widget` to come, and takes `gadget` along with it when it goes. What it
/// does for real is in `done`.
const APT: &str = r#"#!/bin/sh
case " $* " in
*' -s '*) case " $* " in
  *' install '*) echo 'Remv rival-tools [1] (1 Local)'; echo 'Purg rival:i386 [1]'; echo 'Inst widget (1.0-1 Local [all])';;
  *) echo 'Remv gadget [1] (1 Local)'; echo 'Remv widget [1.0-1]';; esac;;
*' --no-remove '*) printf 'The following packages will be REMOVED:\n  rival rival-tools\n'
  echo 'E: Packages need to be removed but remove is disabled.' >&2; exit 100;;
*) echo "$*" >>done;;
esac
"#;
/// dnf 4 that replaces one package, removes another and upgrades the same.
const DNF: &str = r#"#!/bin/sh
case " $* " in
*' --assumeno '*) cat <<'END'
Dependencies resolved.
================================================================================
 Package               Arch       Version            Repository            Size
================================================================================
Installing:
 widget                x86_64     1.0-1              local                 10 k
     replacing  rival.x86_64 1-1
Upgrading:
 python3.11            x86_64     2-1                local                 10 k
   replacing python3.11 x86_64 1-1 local 10 k
Removing dependent packages:
 rival-tools           noarch     1-1                @local                10 k

Transaction Summary
================================================================================
Install  1 Package
Operation aborted.
END
exit 1;;
*' versionlock '*) ;;
*) echo "$*" >>done;;
esac
"#;
const RPM: &str = r#"#!/bin/sh
case $1 in
-q) [ "$2" != away ];;
-e) case " $* " in *' gadget'*) ;; *) printf 'error: Failed dependencies:\n\twidget is needed by (installed) gadget-1-1.noarch\n' >&2; exit 1;; esac;;
esac
"#;

fn package(name: &str, ensure: Ensure) -> Resource {
    let package = Package { name: name.into(), version: Some("1.0-1".into()), ensure, hold: false };
    Resource::new("test", Spec::Package(package))
}

/// Runs the first step for these resources; returns its status, what it printed, and what the package manager did.
fn run(
    manager: PackageManager,
    steps: &[&Resource],
    desired: &[Resource],
    managed: &[&str],
) -> (i32, String, String) {
    let managed = managed.iter().map(|name| Managed {
        id: ResourceId::host(HostKind::Package, *name),
        hash: String::new(),
        undo: None,
        adopted: false,
        hazards: Vec::new(),
    });
    let managed: Vec<Managed> = managed.collect();
    let facts = Facts { package_manager: Some(manager), managed: managed.clone(), ..Facts::default() };
    let absent = |r: &Resource| matches!(&r.spec, Spec::Package(p) if p.ensure == Ensure::Absent);
    let seen =
        |r: &Resource| if absent(r) { Observation::Present(Seen::default()) } else { Observation::Absent };
    let observed = Observed {
        target: TargetId::Host("h-1".into()),
        facts: facts.clone(),
        desired: desired.to_vec(),
        seen: desired.iter().map(|r| (r.id.clone(), seen(r))).collect(),
        orphans: managed.into_iter().map(Orphan::from).collect(),
        warnings: Vec::new(),
    };
    // Of the whole plan only these steps are in the batch.
    let mut steps_of_plan = steps_of(&observed).0;
    steps_of_plan.retain(|step| steps.iter().any(|r| r.id == step.resource));
    let program = enact_program(&steps_of_plan, &facts);
    let folder = tempfile::tempdir().expect("a folder");
    for (name, text) in [
        ("apt-get", APT),
        ("dnf", DNF),
        ("rpm", RPM),
        ("dpkg-query", "#!/bin/sh\n"),
        ("apt-mark", "#!/bin/sh\n"),
    ] {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("written");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("executable");
    }
    // The functions of the program, and what it lets go, but neither its paths nor its folders.
    let functions = &program[..program.find("main() {").expect("its functions")];
    let functions = functions.lines().filter(|l| !l.starts_with("PATH=") && !l.starts_with("S="));
    let line = |start: &str| program.lines().find(|l| l.starts_with(start)).expect("what may go");
    let text = functions.chain([line("G="), line("turn "), shell(&program)]).collect::<Vec<_>>().join("\n");
    let path = |folder: &Path| format!("{}:/usr/bin:/bin", folder.display());
    let output = std::process::Command::new("/bin/sh")
        .args(["-e", "-c", &text])
        .env("PATH", path(folder.path()))
        .env("B", folder.path())
        .current_dir(folder.path())
        .output()
        .expect("a shell");
    let done = std::fs::read_to_string(folder.path().join("done")).unwrap_or_default();
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stdout).into_owned(), done)
}

#[test]
fn an_install_that_would_remove_others_fails_with_their_names() {
    let widget = package("widget", Ensure::Present);
    for (manager, named) in
        [(PackageManager::Apt, " rival-tools rival:i386,"), (PackageManager::Dnf, " rival rival-tools,")]
    {
        let (rc, text, done) = run(manager, &[&widget], std::slice::from_ref(&widget), &[]);
        let line = text.lines().find(|l| l.starts_with("E-PACKAGE-REMOVES: ")).expect("a reason");
        assert!(
            rc == 1 && line.contains("installing widget would also remove") && line.contains(named),
            "{text}"
        );
        assert_eq!(done, "", "nothing was done");
        // One of the two is not enough.
        let desired = [widget.clone(), package("rival", Ensure::Absent)];
        let (rc, text, done) = run(manager, &[&widget], &desired, &[]);
        assert!(rc == 1 && text.contains("remove rival-tools,") && done.is_empty(), "{text}");
        // The role declares one absent, and the other is no longer wanted.
        let (rc, text, done) = run(manager, &[&widget], &desired, &["rival-tools"]);
        assert!(rc == 0 && done.contains("install"), "{rc}: {text}{done}");
        assert!(!done.contains("allowerasing"), "{done}");
        // Or it comes back in a later step; in an earlier one it would stay away.
        let desired =
            [widget.clone(), package("rival", Ensure::Absent), package("rival-tools", Ensure::Present)];
        assert_eq!(run(manager, &[&widget, &desired[2]], &desired, &[]).0, 0);
        assert_eq!(run(manager, &[&widget], &desired, &[]).0, 1);
    }
}

#[test]
fn a_removal_that_would_take_others_along_fails_with_their_names() {
    let widget = package("widget", Ensure::Absent);
    for (manager, named) in [(PackageManager::Apt, " gadget,"), (PackageManager::Dnf, " gadget-1-1.noarch,")]
    {
        let (rc, text, done) = run(manager, &[&widget], std::slice::from_ref(&widget), &[]);
        assert!(rc == 1 && text.contains("E-PACKAGE-REMOVES: removing widget would also remove"), "{text}");
        assert!(text.contains(named) && done.is_empty(), "{text}{done}");
        let (rc, text, done) = run(manager, &[&widget], std::slice::from_ref(&widget), &["gadget", "away"]);
        assert!(rc == 0 && done.contains("remove"), "{rc}: {text}{done}");
        // What nothing needs any more stays: the plan does not name it.
        assert!(
            done.contains("AutomaticRemove=false") || done.contains("clean_requirements_on_remove=False"),
            "{done}"
        );
    }
}
